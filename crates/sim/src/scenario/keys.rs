//! Keys that sign segments (RFC 2385, RFC 5925): which hosts have which.

use base::{IpAddress, Rng};
use engine::{AoAlgorithm, AoKey, Engine, KeyError, KeyPeer};
use state::SockRef;

use super::StreamPlan;

/// Keys of a world's hosts; every socket has them for every other host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Keys {
    /// There are none.
    None,
    /// By MD5; `wrong`: a host that has another one.
    Md5 {
        /// The host.
        wrong: Option<usize>,
    },
    /// By TCP-AO; likewise.
    Ao {
        /// The host.
        wrong: Option<usize>,
        /// With AES-CMAC, not HMAC-SHA-1.
        aes: bool,
        /// The other options are signed, too.
        covers_options: bool,
    },
}

impl Keys {
    /// One world in five has keys, and in one of four such one of `hosts` hosts has a wrong one.
    pub(super) fn draw(rng: &mut Rng, hosts: usize) -> Self {
        let wrong = (rng.below(4) == 0).then(|| rng.below(hosts as u64) as usize);
        match rng.below(10) {
            0 => Self::Md5 { wrong },
            1 => Self::Ao { wrong, aes: rng.below(2) == 0, covers_options: rng.below(2) == 0 },
            _ => Self::None,
        }
    }

    fn wrong(self) -> Option<usize> {
        match self {
            Self::None => None,
            Self::Md5 { wrong } | Self::Ao { wrong, .. } => wrong,
        }
    }

    /// May hosts `a` and `b` not connect?
    pub(crate) fn part(self, a: usize, b: usize) -> bool {
        self.wrong().is_some_and(|wrong| wrong == a || wrong == b)
    }

    /// May the ends of `plan` not connect?
    pub(crate) fn forbid(self, plan: &StreamPlan) -> bool {
        self.part(plan.client, plan.server)
    }

    /// Gives `sock` of `host` its key for `peer`.
    pub(crate) fn give(
        self,
        e: &mut Engine<'_>,
        sock: SockRef,
        (host, peer): (usize, IpAddress),
    ) -> Result<(), KeyError> {
        let peer = KeyPeer { addr: peer, prefix: 128 };
        let key: &[u8] = if self.wrong() == Some(host) { b"a secret of none" } else { b"a secret of all" };
        match self {
            Self::None => Ok(()),
            Self::Md5 { .. } => e.tcp_set_md5_key(sock, peer, key),
            Self::Ao { aes, covers_options, .. } => {
                let algorithm = if aes { AoAlgorithm::AesCmac } else { AoAlgorithm::HmacSha1 };
                e.tcp_add_ao_key(
                    sock,
                    &AoKey { peer, send_id: 7, recv_id: 7, algorithm, mac_len: 12, covers_options, key },
                )
            }
        }
    }
}
