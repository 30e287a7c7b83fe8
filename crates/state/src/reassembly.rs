//! IP packets of which only some fragments have come (RFC 791 3.2, RFC 815, RFC 8200 4.5).
//!
//! Fragments are copied to their place in the packet on arrival and their own frame is released, so a packet never
//! holds more frames than its size needs, however small the fragments are.

use base::limits::CHAIN_FRAMES;
use base::{FrameIdx, Idx, Instant, IpAddress, MacAddr};
use region::plain;

/// The row is free.
pub const REASSEMBLY_FREE: u8 = 0;
/// Fragments are being gathered.
pub const REASSEMBLY_OPEN: u8 = 1;
/// Fragments overlapped: what still comes for this packet is dropped until the time is over.
pub const REASSEMBLY_POISONED: u8 = 2;

/// Hash buckets of open reassemblies.
pub const REASSEMBLY_BUCKETS: usize = 64;
/// Words of the map of 8-byte blocks received.
pub const REASSEMBLY_MAP_WORDS: usize = 65_536 / 8 / 64;

plain! {
    /// One packet being reassembled.
    #[derive(Debug)]
    pub struct Reassembly {
        /// When its first fragment came.
        pub started_at: Instant,
        /// Source address.
        pub src: IpAddress,
        /// Destination address.
        pub dst: IpAddress,
        /// Identification.
        pub id: u32,
        /// Payload bytes of the whole packet; `u32::MAX` until the last fragment has come.
        pub total: u32,
        /// Different payload bytes received.
        pub have: u32,
        /// One past the last payload byte received.
        pub end: u32,
        /// Protocol number; of IPv6 packets that of the Fragment header.
        pub protocol: u8,
        /// The port the fragments came from.
        pub port: u8,
        /// One of the `REASSEMBLY_*` states.
        pub state: u8,
        /// Bit n: a fragment with ECN code point n has come (RFC 3168 5.3).
        pub ecn_seen: u8,
        /// Source MAC of the first fragment.
        pub src_mac: MacAddr,
        /// Destination MAC of the first fragment.
        pub dst_mac: MacAddr,
        /// TTL of the first fragment.
        pub ttl: u8,
        /// TOS of the first fragment.
        pub tos: u8,
        /// Frames in use.
        pub frames_used: u16,
        /// IPv6: type of the first header of the fragmentable part, by the first fragment.
        pub next_header: u8,
        /// Explicit padding.
        pub spare: [u8; 3],
        /// The frames of the packet, by position.
        pub frames: [FrameIdx; CHAIN_FRAMES],
        /// Next row in the same hash bucket; next free row on the free list.
        pub chain: Idx<Reassembly>,
        /// The row begun after this one.
        pub newer: Idx<Reassembly>,
        /// The row begun before this one.
        pub older: Idx<Reassembly>,
        /// Which 8-byte blocks have come.
        pub map: [u64; REASSEMBLY_MAP_WORDS],
    }
}

plain! {
    /// What belongs to all reassemblies of a lane.
    #[derive(Debug)]
    pub struct ReassemblyGlobals {
        /// First free row.
        pub free: Idx<Reassembly>,
        /// Rows never used: those from here on. The table may begin zeroed.
        pub fresh: u32,
        /// The open row begun first.
        pub oldest: Idx<Reassembly>,
        /// The open row begun last.
        pub newest: Idx<Reassembly>,
        /// Frames held by all rows.
        pub frames_held: u32,
        /// First row of each hash bucket.
        pub buckets: [Idx<Reassembly>; REASSEMBLY_BUCKETS],
    }
}

impl ReassemblyGlobals {
    /// Nothing to reassemble.
    pub const EMPTY: Self = Self {
        free: Idx::NONE,
        fresh: 0,
        oldest: Idx::NONE,
        newest: Idx::NONE,
        frames_held: 0,
        buckets: [Idx::NONE; REASSEMBLY_BUCKETS],
    };
}

impl Reassembly {
    /// A row in which nothing has come yet.
    pub const EMPTY: Self = Self {
        started_at: Instant(0),
        src: IpAddress::ANY,
        dst: IpAddress::ANY,
        id: 0,
        total: u32::MAX,
        have: 0,
        end: 0,
        protocol: 0,
        port: 0,
        state: REASSEMBLY_FREE,
        ecn_seen: 0,
        src_mac: MacAddr([0; 6]),
        dst_mac: MacAddr([0; 6]),
        ttl: 0,
        tos: 0,
        frames_used: 0,
        next_header: 0,
        spare: [0; 3],
        frames: [FrameIdx::NONE; CHAIN_FRAMES],
        chain: Idx::NONE,
        newer: Idx::NONE,
        older: Idx::NONE,
        map: [0; REASSEMBLY_MAP_WORDS],
    };
}
