//! What this end remembers of fast open (RFC 7413) at its peers.

use base::{Instant, IpAddress};
use region::plain;

/// Peers that are remembered.
pub const FAST_PEERS: usize = 128;

plain! {
    /// One peer (RFC 7413 4.1.3).
    #[derive(Debug, Default)]
    pub struct FastPeer {
        /// Its address; [`IpAddress::ANY`]: a free row.
        pub remote: IpAddress,
        /// Ours, which its cookie is for.
        pub local: IpAddress,
        /// The cookie.
        pub cookie: [u8; 16],
        /// When it was last used or changed.
        pub used_at: Instant,
        /// When a SYN with data to it was last lost.
        pub lost_at: Instant,
        /// Bytes of `cookie`; 0: it gave none.
        pub cookie_len: u8,
        /// 1: in the form of the option that was used before it had a number.
        pub on_trial: u8,
        /// The MSS it announced.
        pub mss: u16,
        /// SYNs with data that were lost in a row.
        pub lost: u32,
    }
}
