//! What is remembered of a connection's last usual segments, in and out, so that the next ones are work for their differences alone.

use base::Idx;
use region::plain;

use crate::Hop;

/// Rows of [`crate::LaneMem::seen`].
pub const SEEN: u32 = 1024;
/// Rows of [`crate::LaneMem::kept`].
pub const KEPT: u32 = 1024;

plain! {
    /// The headers of a connection's last usual segment, as far as those of the next one are the same.
    #[derive(Debug)]
    pub struct Kept {
        /// As in `wire::usual::Front`.
        pub front: [u8; 38],
        /// The same.
        pub pseudo: u16,
        /// Payload bytes of that segment.
        pub payload: u16,
        /// The options they were made with: time to live ...
        pub ttl: u8,
        /// ... and type of service.
        pub tos: u8,
        /// The connection's row.
        pub row: u32,
        /// The next hop they go to.
        pub hop: Idx<Hop>,
        /// [`crate::LaneGlobals::ways`] when they were made; 0: the row is free.
        pub ways: u32,
        /// Room, up to a cache line.
        pub spare: [u32; 2],
    }
}
const _: () = assert!(size_of::<Kept>() == base::CACHE_LINE);

impl Kept {
    /// A free row.
    pub const NONE: Self = Self {
        front: [0; 38],
        pseudo: 0,
        payload: 0,
        ttl: 0,
        tos: 0,
        row: 0,
        hop: Idx::NONE,
        ways: 0,
        spare: [0; 2],
    };
}

plain! {
    /// By what the next usual segment of a connection is known: what the last one's headers have in common with it, which were
    /// found to be valid and addressed to this lane.
    #[derive(Debug, Default)]
    pub struct Seen {
        /// As `wire::Usual::common` gives it.
        pub common: [u8; 32],
        /// As `wire::Usual::common_sums` gives it.
        pub ip_sum: u16,
        /// The same of the pseudo-header.
        pub pseudo_sum: u16,
        /// The port it came by, and 1; 0: the row is free.
        pub port: u32,
        /// The row of its connection, most likely. A guess: to be checked.
        pub row: u32,
        /// Segments in a row of the connection `row` that were not known by this.
        pub missed: u32,
    }
}
