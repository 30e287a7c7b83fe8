//! What a lane notes for the region's other lanes: whom to wake, and how its load is made up.

use base::hash::FLOW_SLOTS;
use region::plain;

use crate::FlowKey;

plain! {
    /// Load of one lane, from one received packet of each batch, while flows of the region are shared among lanes.
    #[derive(Debug)]
    pub struct LaneLoad {
        /// Lanes that were handed frames and must be woken, as bits.
        pub rung: u64,
        /// Batches received.
        pub batches: u64,
        /// Packets received in those, by the slot of the first one's remote end.
        pub slots: [u64; FLOW_SLOTS],
        /// The flow that more than half of the packets belong to, if there is one (Boyer and Moore's vote).
        pub elephant: FlowKey,
        /// By how much it leads the vote.
        pub lead: u64,
        /// Packets counted for it since it leads.
        pub elephant_packets: u64,
        /// Packets counted at all since it leads.
        pub since: u64,
    }
}

impl LaneLoad {
    /// Nothing noted.
    pub const EMPTY: Self = Self {
        rung: 0,
        batches: 0,
        slots: [0; FLOW_SLOTS],
        elephant: FlowKey::NONE,
        lead: 0,
        elephant_packets: 0,
        since: 0,
    };
}
