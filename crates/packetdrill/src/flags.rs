//! The text of `--so_flags`: words parted by commas.

use core::net::Ipv4Addr;

use base::Duration;

/// Receive buffer of sockets that set none, bytes: as Linux's with the `tcp_rmem` that packetdrill's scripts set, so that the
/// window scale is 8.
const RCV_BUF: u32 = 15_728_640;

/// What the flags say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flags {
    /// `tso`: neighbours of one flow leave as one packet, as on a device with TCP segmentation offload.
    pub(crate) tso: bool,
    /// `mtu=BYTES` of the device.
    pub(crate) mtu: u16,
    /// `rcvbuf=BYTES` of sockets that set none.
    pub(crate) rcv_buf: u32,
    /// `sndbuf=BYTES` of sockets that set none; 0: the engine's default.
    pub(crate) snd_buf: u32,
    /// `local=ADDRESS` of sockets that connect unbound.
    pub(crate) local: Ipv4Addr,
    /// `fastopen=WAYS`, as net.ipv4.tcp_fastopen has them.
    pub(crate) fast_open: u16,
    /// `deadline=SECONDS` that `netdev_receive` waits for a packet in virtual time.
    pub(crate) deadline: Duration,
}

impl Flags {
    pub(crate) const DEFAULT: Self = Self {
        tso: false,
        mtu: 1500,
        rcv_buf: RCV_BUF,
        snd_buf: 0,
        local: Ipv4Addr::new(192, 168, 0, 1),
        fast_open: 3,
        deadline: Duration::from_secs(300),
    };

    /// What `text` says; the words that say nothing come back too.
    pub(crate) fn parse(text: &str) -> (Self, Vec<String>) {
        let (mut flags, mut unknown) = (Self::DEFAULT, Vec::new());
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            if flags.set(word).is_none() {
                unknown.push(word.to_owned());
            }
        }
        (flags, unknown)
    }

    fn set(&mut self, word: &str) -> Option<()> {
        match word.split_once('=') {
            None if word == "tso" => self.tso = true,
            Some(("mtu", n)) => self.mtu = n.parse().ok().filter(|n| *n >= 68)?,
            Some(("rcvbuf", n)) => self.rcv_buf = n.parse().ok()?,
            Some(("sndbuf", n)) => self.snd_buf = n.parse().ok()?,
            Some(("local", at)) => self.local = at.parse().ok()?,
            Some(("fastopen", n)) => self.fast_open = n.parse().ok()?,
            Some(("deadline", s)) => self.deadline = Duration::from_secs(s.parse().ok()?),
            None | Some(_) => return None,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_word_is_taken_and_others_are_told() {
        let (flags, unknown) =
            Flags::parse("tso, mtu=9000,rcvbuf=1,sndbuf=2,local=10.0.0.9,fastopen=515,deadline=7,x,mtu=1");
        let expected = Flags {
            tso: true,
            mtu: 9000,
            rcv_buf: 1,
            snd_buf: 2,
            local: Ipv4Addr::new(10, 0, 0, 9),
            fast_open: 515,
            deadline: Duration::from_secs(7),
        };
        assert_eq!(flags, expected);
        assert_eq!(unknown, ["x", "mtu=1"]);
        assert_eq!(Flags::parse(""), (Flags::DEFAULT, Vec::new()));
    }
}
