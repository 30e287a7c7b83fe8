//! TCP listeners.

use base::{Idx, Instant};
use region::plain;

use crate::{Dormant, Endpoint, TcbHot, TcpOptions};

/// Buckets of the listener table; a listener's bucket is its port modulo this.
pub const LISTEN_BUCKETS: usize = 256;

plain! {
    /// A queue of connections, linked by `TcbCold::passive`.
    #[derive(Debug, Default)]
    pub struct TcbQueue {
        /// First.
        pub head: Idx<TcbHot>,
        /// Last.
        pub tail: Idx<TcbHot>,
        /// Connections in it.
        pub len: u32,
    }
}

plain! {
    /// A queue of connections in small rows, linked by `Dormant::token`.
    #[derive(Debug, Default)]
    pub struct SmallQueue {
        /// First.
        pub head: Idx<Dormant>,
        /// Last.
        pub tail: Idx<Dormant>,
        /// Connections in it.
        pub len: u32,
    }
}

plain! {
    /// One listening socket of one lane.
    #[derive(Debug, Default)]
    pub struct Listener {
        /// Address (ANY allowed) and port.
        pub local: Endpoint,
        /// 1: in use.
        pub used: u32,
        /// Generation of the row.
        pub generation: u32,
        /// Longest accept queue; the SYN queue may be as long.
        pub backlog: u32,
        /// Connections in SYN-RECEIVED that have whole rows.
        pub syn_queue: TcbQueue,
        /// Connections established and not accepted.
        pub accept_queue: TcbQueue,
        /// Next in the bucket; next free row.
        pub next: Idx<Listener>,
        /// Connections that did not fit (as Linux's ListenOverflows and ListenDrops).
        pub overflows: u32,
        /// When it last sent a SYN cookie; 0: never.
        pub cookie_at: Instant,
        /// Keys of fast open cookies, the current one first (TCP_FASTOPEN_KEY).
        pub fast_keys: [[u64; 2]; 2],
        /// Until when the resets of `fast_held` count.
        pub fast_until: Instant,
        /// How many of `fast_keys` there are; 0: the lane's own.
        pub fast_key_count: u32,
        /// Connections whose program has them before their handshake is complete, at most (TCP_FASTOPEN); 0: none.
        pub fast_max: u32,
        /// How many there are.
        pub fast_open: u32,
        /// How many of those ended with a RST lately (RFC 7413 5.1).
        pub fast_held: u32,
        /// Options of the connections it makes.
        pub options: TcpOptions,
        /// Connections in SYN-RECEIVED that have small rows.
        pub half_open: SmallQueue,
        /// 1: its program is about to close it, and no other lane hands connections to it.
        pub closing: u32,
    }
}

impl Listener {
    /// Connections in SYN-RECEIVED.
    #[must_use]
    pub const fn half_open_count(&self) -> u32 {
        self.syn_queue.len.saturating_add(self.half_open.len)
    }
}
