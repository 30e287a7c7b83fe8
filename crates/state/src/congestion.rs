//! Congestion control of a connection, in rows beside its TCB rows. A row means nothing until the congestion window first holds data
//! back or data is lost (a bit of [`TcbCold::cc_flags`](crate::TcbCold) says so): connections that it never limits touch none.

use base::{Instant, SeqNum};
use region::{TableAt, plain};

use crate::Rate;

plain! {
    /// What algorithms that reckon with a window remember: slow start, recovery, CUBIC, DCTCP.
    #[derive(Debug, Default)]
    pub struct Congestion {
        /// SND.NXT when the congestion window last held data back: what it limits may grow.
        pub limited: SeqNum,
        /// What growth left over: bytes times window.
        pub rest: u32,
        /// HyStart++ (RFC 9406).
        pub slow: SlowStart,
        /// Proportional rate reduction (RFC 6937).
        pub prr: Prr,
        /// SND.NXT when the window was last reduced for an ECN echo (RFC 3168 6.1.2).
        pub reduced: SeqNum,
        /// CUBIC (RFC 9438).
        pub cubic: Cubic,
        /// DCTCP (RFC 8257).
        pub dctcp: Dctcp,
        /// How much arrives.
        pub arrival: Arrival,
        /// How fast the program reads; in use by a bit of its own in [`TcbCold::cc_flags`](crate::TcbCold).
        pub reading: Reading,
        /// When the next segment may go, if there is a pace.
        pub next_at: Instant,
        /// The MTU of the path.
        pub path: PathProbe,
        /// Room.
        pub spare: u64,
    }
}
const _: () = assert!(size_of::<Congestion>() == 192);

plain! {
    /// What is known of the path's MTU, and the probe on its way, as payload of a segment, bytes.
    #[derive(Debug, Default)]
    pub struct PathProbe {
        /// When it is too old to count.
        pub at: Instant,
        /// First byte of the latest probe.
        pub start: SeqNum,
        /// The probe on its way; 0: none.
        pub size: u16,
        /// The last one that was lost.
        pub lost: u16,
        /// The path takes so much.
        pub low: u16,
        /// It takes no more than this.
        pub high: u16,
        /// Room.
        pub spare: u32,
    }
}

plain! {
    /// How much the program reads in a round trip. Times are us and wrap.
    #[derive(Debug, Default)]
    pub struct Reading {
        /// When the measurement began.
        pub since_us: u32,
        /// The first byte that was unread then.
        pub from: SeqNum,
        /// The round-trip time, us; `u32::MAX`: not known.
        pub rtt_us: u32,
        /// A right edge of the window, as announced ...
        pub edge: SeqNum,
        /// ... at this time.
        pub edge_us: u32,
        /// The most so far, bytes.
        pub most: u32,
    }
}

plain! {
    /// Slow start of a connection that has lost nothing yet (RFC 9406 4.2).
    #[derive(Debug, Default)]
    pub struct SlowStart {
        /// windowEnd: SND.NXT when the round began.
        pub round_end: SeqNum,
        /// lastRoundMinRTT, us; `u32::MAX`: none.
        pub last_min_us: u32,
        /// currentRoundMinRTT, us; `u32::MAX`: none.
        pub min_us: u32,
        /// cssBaselineMinRtt, us; `u32::MAX`: none.
        pub base_us: u32,
        /// rttSampleCount.
        pub samples: u16,
        /// 1: conservative slow start.
        pub careful: u8,
        /// Rounds of conservative slow start.
        pub careful_rounds: u8,
    }
}

plain! {
    /// Proportional rate reduction (RFC 6937).
    #[derive(Debug, Default)]
    pub struct Prr {
        /// RecoverFS: what was out when recovery began, bytes.
        pub flight: u32,
        /// prr_delivered.
        pub delivered: u32,
        /// prr_out.
        pub out: u32,
    }
}

plain! {
    /// CUBIC (RFC 9438 4.1.2). Windows in bytes, times in 1/1024 s.
    #[derive(Debug, Default)]
    pub struct Cubic {
        /// When congestion avoidance began; 0: it has not since the last reduction.
        pub epoch: Instant,
        /// W_max.
        pub w_max: u32,
        /// K.
        pub k: u32,
        /// W_est.
        pub w_est: u32,
        /// cwnd_prior.
        pub w_prior: u32,
        /// W_max before the last reduction.
        pub prior_w_max: u32,
        /// What growth of W_est left over: bytes times window.
        pub rest: u32,
    }
}

plain! {
    /// DCTCP (RFC 8257 3.3).
    #[derive(Debug, Default)]
    pub struct Dctcp {
        /// DCTCP.Alpha, of 2^20.
        pub alpha: u32,
        /// DCTCP.BytesAcked.
        pub acked: u32,
        /// DCTCP.BytesMarked.
        pub marked: u32,
        /// DCTCP.WindowEnd.
        pub window_end: SeqNum,
        /// Acknowledgment number of an ACK that the receiver still owes for data with another mark than the latest.
        pub prior_ack: SeqNum,
        /// Bit 0: it owes one; bit 1: with ECE.
        pub prior: u32,
    }
}

plain! {
    /// How much arrives at the peer, measured once a round trip.
    #[derive(Debug, Default)]
    pub struct Arrival {
        /// When the measurement began.
        pub since: Instant,
        /// Bytes a second.
        pub rate: u64,
        /// SND.UNA when it began.
        pub from: SeqNum,
        /// SND.NXT when it began: it ends when that is acknowledged.
        pub to: SeqNum,
    }
}

plain! {
    /// Where the tables of congestion control are.
    pub struct CongestionTables {
        /// A row for each connection.
        pub windows: TableAt<Congestion>,
        /// The same, for those that are paced.
        pub rates: TableAt<Rate>,
    }
}
