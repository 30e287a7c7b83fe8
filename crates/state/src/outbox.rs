//! Packets that are ready to go and belong to no connection: UDP, ICMP, ARP, resets.

use base::FrameIdx;
use region::plain;

plain! {
    /// A queue of packets. Each is a chain of frames through `FrameMeta::next`, the first with the Ethernet header in
    /// front; the first frames are linked through `FrameMeta::seq`.
    #[derive(Debug)]
    pub struct Outbox {
        /// First frame of the oldest packet.
        pub head: FrameIdx,
        /// First frame of the newest packet.
        pub tail: FrameIdx,
        /// First frame of the newest of the packets that go before others, which are at the front; none if there are none.
        pub early_tail: FrameIdx,
        /// Packets in the queue.
        pub packets: u32,
        /// Payload frames of packets given out by the last `poll_transmit`, chains linked through `FrameMeta::seq`: they
        /// are kept until the next one, because the port reads them in between.
        pub given_out: FrameIdx,
    }
}

impl Outbox {
    /// No packet.
    pub const EMPTY: Self = Self {
        head: FrameIdx::NONE,
        tail: FrameIdx::NONE,
        early_tail: FrameIdx::NONE,
        packets: 0,
        given_out: FrameIdx::NONE,
    };
}
