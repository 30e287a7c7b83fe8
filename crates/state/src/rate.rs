//! Sending at a pace, and BBR's model of the path, in rows beside the TCB rows. Only connections that are paced touch theirs.

use base::{Instant, SeqNum};
use region::plain;

/// Places in the stream of which it is remembered when they were sent.
pub const RATE_MARKS: usize = 16;

plain! {
    /// What was known when the byte `start` was sent (draft-ietf-ccwg-bbr 4.1.1.2.2). Times are us, bytes wrap.
    #[derive(Debug, Default)]
    pub struct RateMark {
        /// The byte.
        pub start: SeqNum,
        /// P.send_time.
        pub sent_us: u32,
        /// P.first_send_time.
        pub first_sent_us: u32,
        /// P.delivered.
        pub delivered: u32,
        /// P.delivered_time.
        pub delivered_us: u32,
        /// P.tx_in_flight.
        pub in_flight: u32,
        /// P.lost.
        pub lost: u32,
        /// P.is_app_limited.
        pub app_limited: u32,
    }
}

plain! {
    /// A paced connection.
    #[derive(Debug, Default)]
    pub struct Rate {
        /// Bytes a second that the algorithm wants; 0: it does not know yet.
        pub pace: u64,
        /// C.delivered, bytes, wrapping.
        pub delivered: u32,
        /// C.delivered_time, us.
        pub delivered_us: u32,
        /// C.first_send_time, us.
        pub first_sent_us: u32,
        /// C.lost: bytes that were sent again, wrapping.
        pub lost: u32,
        /// C.app_limited: until so much is delivered the program held back; 0: it does not.
        pub app_limited: u32,
        /// The highest byte known to be delivered.
        pub top: SeqNum,
        /// Places marked: the first so many.
        pub count: u32,
        /// Delivered since the last sample, bytes.
        pub waiting: u32,
        /// `lost` at the last sample.
        pub lost_before: u32,
        /// Room.
        pub spare: u32,
        /// Marks, in order.
        pub marks: [RateMark; RATE_MARKS],
        /// BBR.
        pub bbr: Bbr,
    }
}

plain! {
    /// BBR's model of the path, and where its state machine is (draft-ietf-ccwg-bbr 2).
    #[derive(Debug, Default)]
    pub struct Bbr {
        /// MaxBwFilter: the highest of the current cycle of probing and of the one before, bytes a second.
        pub max_bw: [u64; 2],
        /// bw_shortterm; `u64::MAX`: none.
        pub bw_short: u64,
        /// bw_latest.
        pub bw_latest: u64,
        /// full_bw.
        pub full_bw: u64,
        /// cycle_stamp.
        pub cycle_at: Instant,
        /// min_rtt_stamp.
        pub min_rtt_at: Instant,
        /// probe_rtt_min_stamp.
        pub probe_min_at: Instant,
        /// probe_rtt_done_stamp; 0: none.
        pub probe_done_at: Instant,
        /// bw_probe_wait, us.
        pub wait_us: u32,
        /// min_rtt, us; `u32::MAX`: none.
        pub min_rtt_us: u32,
        /// probe_rtt_min_delay, us.
        pub probe_min_us: u32,
        /// inflight_longterm; `u32::MAX`: none.
        pub in_flight_long: u32,
        /// inflight_shortterm; `u32::MAX`: none.
        pub in_flight_short: u32,
        /// inflight_latest.
        pub in_flight_latest: u32,
        /// prior_cwnd.
        pub prior_cwnd: u32,
        /// next_round_delivered.
        pub round_end: u32,
        /// loss_round_delivered.
        pub loss_round_end: u32,
        /// rounds_since_bw_probe.
        pub rounds: u32,
        /// bw_probe_up_acks, bytes.
        pub up_acked: u32,
        /// probe_up_cnt, bytes.
        pub up_count: u32,
        /// extra_acked, of this and the window before, bytes.
        pub extra_acked: [u32; 2],
        /// extra_acked_delivered, bytes.
        pub extra_delivered: u32,
        /// extra_acked_interval_start, us.
        pub extra_us: u32,
        /// State, as the engine numbers them.
        pub state: u8,
        /// full_bw_count.
        pub full_count: u8,
        /// bw_probe_up_rounds.
        pub up_rounds: u8,
        /// Flags, as the engine numbers them.
        pub flags: u8,
        /// Shortest round-trip time seen in this round, us; 0: none.
        pub round_rtt_us: u32,
    }
}
