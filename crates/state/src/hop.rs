//! Next hops: to which Ethernet address packets of a connection go, shared by all that go there.
//!
//! A hop is found by (port, next-hop address), or, for those who answer what came in, by (port, source MAC), until routes have given it
//! a name. Rows that
//! nobody references stay as a cache, on a list from the longest unused on, and are reused from there.

use base::{FrameIdx, Idx, Instant, IpAddress, MacAddr};
use region::plain;

/// The row was never used.
pub const HOP_FREE: u8 = 0;
/// Nobody knows the MAC yet; it is being asked for.
pub const HOP_ASKING: u8 = 1;
/// The MAC is known.
pub const HOP_KNOWN: u8 = 2;
/// Asking had no answer; packets for it fail until the next attempt.
pub const HOP_FAILED: u8 = 3;

/// Flag: the hop waits in the queue of those whom the lane shall resolve.
pub const HOP_IN_ASK_QUEUE: u8 = 1;
/// Flag: the row is on the list of unreferenced hops.
pub const HOP_IDLE: u8 = 2;

/// Flag: the hop is on the list of changed hops.
pub const HOP_CHANGED: u8 = 4;
/// Flag: what a hop known by its MAC is named is true of that neighbour's own address alone; otherwise it is the gateway of everybody behind that MAC.
pub const HOP_ONE_PEER: u8 = 8;
/// Hash buckets of the hops.
pub const HOP_BUCKETS: usize = 256;

plain! {
    /// One next hop.
    #[derive(Debug, Default)]
    pub struct Hop {
        /// When the MAC was last confirmed, or the failure noted.
        pub confirmed_at: Instant,
        /// When it was last asked for.
        pub asked_at: Instant,
        /// Address of the next hop; ANY for a hop known by its MAC only.
        pub addr: IpAddress,
        /// Its Ethernet address, when `state` is [`HOP_KNOWN`].
        pub mac: MacAddr,
        /// The lane's port it is reached through.
        pub port: u8,
        /// One of the `HOP_*` states.
        pub state: u8,
        /// How many hold this row: connections, sockets. A row with references keeps its meaning.
        pub refs: u32,
        /// One up at each reuse of the row, so that a late answer is not taken for the new one's.
        pub generation: u32,
        /// Next hop in the same hash bucket.
        pub chain: Idx<Hop>,
        /// Neighbour on the list of unreferenced hops, used later than this one.
        pub newer: Idx<Hop>,
        /// Neighbour on the list of unreferenced hops, used earlier than this one.
        pub older: Idx<Hop>,
        /// Next in the queue of hops to be resolved.
        pub ask_next: Idx<Hop>,
        /// Next in the list of changed hops.
        pub changed_next: Idx<Hop>,
        /// First packet waiting for the MAC (a list as in [`Outbox`](crate::Outbox)).
        pub waiting_head: FrameIdx,
        /// Last packet waiting for the MAC.
        pub waiting_tail: FrameIdx,
        /// Packets waiting for the MAC.
        pub waiting: u16,
        /// How often it was asked for since it was last known.
        pub tries: u8,
        /// `HOP_IN_ASK_QUEUE`, `HOP_IDLE`.
        pub flags: u8,
        /// For TCP: the first connection that waits for this hop, raw; `u32::MAX`: none.
        pub tcp_waiting: u32,
        /// Of a hop known by its MAC: the one with an address that routes give for `peer`, if `named_generation` is that row's.
        pub named: Idx<Hop>,
        /// Of a hop known by its MAC: whose name was asked for last.
        pub peer: IpAddress,
        /// The generation that `named` had.
        pub named_generation: u32,
        /// Of a hop known by its MAC: what it is found by, whatever `mac` is by now.
        pub key_mac: MacAddr,
        /// Explicit padding.
        pub spare: [u8; 6],
    }
}
const _: () = assert!(size_of::<Hop>() == 120);

impl Hop {
    /// A row that names nothing.
    pub const EMPTY: Self = Self {
        confirmed_at: Instant(0),
        asked_at: Instant(0),
        addr: IpAddress::ANY,
        mac: MacAddr([0; 6]),
        port: 0,
        state: HOP_FREE,
        refs: 0,
        generation: 0,
        chain: Idx::NONE,
        newer: Idx::NONE,
        older: Idx::NONE,
        ask_next: Idx::NONE,
        changed_next: Idx::NONE,
        waiting_head: FrameIdx::NONE,
        waiting_tail: FrameIdx::NONE,
        waiting: 0,
        tries: 0,
        flags: 0,
        tcp_waiting: u32::MAX,
        named: Idx::NONE,
        peer: IpAddress::ANY,
        named_generation: 0,
        key_mac: MacAddr([0; 6]),
        spare: [0; 6],
    };

    /// Is it known by its MAC only?
    #[must_use]
    pub const fn is_by_mac(&self) -> bool {
        self.addr.is_any()
    }
}

plain! {
    /// What belongs to all hops of a lane.
    #[derive(Debug)]
    pub struct HopGlobals {
        /// When [`Hop`] rows must be looked at again: retries and ageing.
        pub deadline: Instant,
        /// The routes that connections go by: a number that others have others of; 0: not known yet.
        pub routes: u64,
        /// Rows never used: those from here on. The table may begin zeroed.
        pub fresh: u32,
        /// First row of each hash bucket.
        pub buckets: [Idx<Hop>; HOP_BUCKETS],
        /// Unreferenced and longest unused.
        pub idle_oldest: Idx<Hop>,
        /// Unreferenced and used last.
        pub idle_newest: Idx<Hop>,
        /// Next hop the lane shall resolve.
        pub ask_head: Idx<Hop>,
        /// The last one in that queue.
        pub ask_tail: Idx<Hop>,
        /// First hop that became known or failed since TCP looked.
        pub changed: Idx<Hop>,
        /// Explicit padding.
        pub spare: u32,
    }
}

impl HopGlobals {
    /// No hop.
    pub const EMPTY: Self = Self {
        deadline: Instant::NEVER,
        routes: 0,
        fresh: 0,
        buckets: [Idx::NONE; HOP_BUCKETS],
        idle_oldest: Idx::NONE,
        idle_newest: Idx::NONE,
        ask_head: Idx::NONE,
        ask_tail: Idx::NONE,
        changed: Idx::NONE,
        spare: 0,
    };
}
