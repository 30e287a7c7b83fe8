//! The state of one TCP connection (RFC 9293 3.3.1's TCB), split in what each segment touches (hot) and the rest
//! (cold), and the SACK scoreboard that only a connection with losses holds.

use core::mem::offset_of;

use base::{FrameIdx, Idx, Instant, IpAddress, Port, SeqNum};
use region::plain;

use crate::{Hop, Listener, TcpOptions};

plain! {
    /// The four numbers that name a connection.
    #[derive(PartialEq, Eq, Debug, Default)]
    pub struct FlowKey {
        /// Our address.
        pub local: IpAddress,
        /// The peer's address.
        pub remote: IpAddress,
        /// Our port.
        pub local_port: Port,
        /// The peer's port.
        pub remote_port: Port,
    }
}

impl FlowKey {
    /// No connection.
    pub const NONE: Self =
        Self { local: IpAddress::ANY, remote: IpAddress::ANY, local_port: Port(0), remote_port: Port(0) };
}

plain! {
    /// Receive sequence variables (RFC 9293 3.3.1, figure 4).
    #[derive(Debug, Default)]
    pub struct RcvSeq {
        /// RCV.NXT.
        pub nxt: SeqNum,
        /// Right edge of the window as last announced: RCV.NXT + RCV.WND.
        pub edge: SeqNum,
        /// TS.Recent (RFC 7323 4.3).
        pub ts_recent: u32,
        /// Last.ACK.sent (RFC 7323 4.3).
        pub ack_sent: SeqNum,
    }
}

plain! {
    /// Send sequence variables (RFC 9293 3.3.1, figure 3) and congestion control (RFC 5681).
    #[derive(Debug, Default)]
    pub struct SndSeq {
        /// SND.UNA.
        pub una: SeqNum,
        /// SND.NXT: one past the highest sequence number sent; a retransmission does not move it back.
        pub nxt: SeqNum,
        /// One past the last byte the program has queued (a queued FIN not counted).
        pub end: SeqNum,
        /// SND.WND, bytes, scaled.
        pub wnd: u32,
        /// SND.WL1.
        pub wl1: SeqNum,
        /// Largest window the peer ever announced, bytes.
        pub wnd_max: u32,
        /// Congestion window, bytes.
        pub cwnd: u32,
        /// Slow start threshold, bytes.
        pub ssthresh: u32,
    }
}

plain! {
    /// A queue of frames, linked by `FrameMeta::next`.
    #[derive(Debug, Default)]
    pub struct FrameQueue {
        /// First frame.
        pub head: FrameIdx,
        /// Last frame.
        pub tail: FrameIdx,
    }
}

plain! {
    /// Round-trip time and the retransmission timer (RFC 6298).
    #[derive(Debug, Default)]
    pub struct RttState {
        /// SRTT times 8, us; 0: nothing measured yet.
        pub srtt_us8: u32,
        /// RTTVAR times 4, us.
        pub var_us4: u32,
        /// RTO without backoff, us.
        pub rto_us: u32,
        /// The segment being timed ends here.
        pub timed_seq: SeqNum,
        /// When it was sent, us, wrapping; valid while the flag TIMING is set.
        pub timed_at_us: u32,
    }
}

plain! {
    /// What every segment of a connection touches.
    #[derive(Debug, Default)]
    pub struct TcbHot {
        /// Addresses and ports.
        pub key: FlowKey,
        /// The state, as the engine numbers them; 0: the row is free.
        pub state: u8,
        /// Device it leaves by.
        pub port: u8,
        /// Scale of the windows the peer announces (RFC 7323 2).
        pub snd_shift: u8,
        /// Scale of the windows we announce.
        pub rcv_shift: u8,
        /// Flags, as the engine numbers them.
        pub flags: u32,
        /// Receive sequence variables.
        pub rcv: RcvSeq,
        /// Largest payload of a segment we send, options already taken off, bytes.
        pub mss: u16,
        /// Duplicate ACKs in a row.
        pub dup_acks: u8,
        /// Segments still acknowledged at once (Linux's quick-ack mode).
        pub quick_acks: u8,

        /// Send sequence variables.
        pub snd: SndSeq,
        /// Received in order, not read yet.
        pub rcv_queue: FrameQueue,
        /// Bytes in `rcv_queue`.
        pub rcv_bytes: u32,
        /// First frame received out of order.
        pub ooo_head: FrameIdx,
        /// From SND.UNA on: sent and not acknowledged, then queued.
        pub snd_queue: FrameQueue,
        /// The frame that holds SND.NXT, if any byte is still unsent.
        pub snd_cursor: FrameIdx,
        /// Bytes the receive buffer may hold.
        pub rcv_buf: u32,

        /// Round-trip time.
        pub rtt: RttState,
        /// Bytes the send buffer may hold.
        pub snd_buf: u32,
        /// When the retransmission, persist or TIME-WAIT timer (one at a time) is due.
        pub rexmit_at: Instant,
        /// When the delayed ACK is due.
        pub ack_at: Instant,
        /// What the wheel is armed for: the earliest deadline or before it.
        pub armed_at: Instant,
        /// Next hop.
        pub hop: Idx<Hop>,
        /// Generation of the row.
        pub generation: u32,
        /// When data was last sent (RFC 5681 4.1).
        pub sent_at: Instant,
    }
}
const _: () = assert!(size_of::<TcbHot>() == 3 * base::CACHE_LINE);

plain! {
    /// A run of sequence space, `left` included, `right` not.
    #[derive(PartialEq, Eq, Debug, Default)]
    pub struct SeqRange {
        /// First number.
        pub left: SeqNum,
        /// One past the last.
        pub right: SeqNum,
    }
}

/// Runs received out of order that are remembered: two ACKs' worth (RFC 2018 3).
pub const RCV_SACKS: usize = 6;

plain! {
    /// Out-of-order reception.
    #[derive(Debug, Default)]
    pub struct OutOfOrder {
        /// Runs in the out-of-order queue, the most recently changed first.
        pub runs: [SeqRange; RCV_SACKS],
        /// Runs in use.
        pub run_count: u8,
        /// Not of this, but there was room: what the row of [`crate::Urgent`] holds, as the engine numbers it; 0: nothing.
        pub urgent: u8,
        /// How the connection's segments are signed, as the engine numbers it; 0: not at all. Here because there is room.
        pub sign: u8,
        /// Runs that changed since the last ACK: the first ones.
        pub fresh: u8,
        /// Bytes held.
        pub bytes: u32,
        /// Frames held.
        pub frames: u32,
        /// Last frame of the queue.
        pub tail: FrameIdx,
    }
}

plain! {
    /// Loss recovery (RFC 6675, RFC 6582, RFC 6298 5).
    #[derive(Debug, Default)]
    pub struct LossState {
        /// Least round-trip time of the path, us; 0: nothing measured yet (RFC 8985 6.2, RACK.min_RTT).
        pub min_rtt_us: u32,
        /// Round trips measured since `min_rtt_us` was last seen.
        pub min_rtt_age: u8,
        /// Timeouts in a row.
        pub backoff: u8,
        /// Zero-window probes in a row.
        pub probes: u8,
        /// Keepalive probes in a row.
        pub keep_probes: u8,
        /// RecoveryPoint: recovery ends when SND.UNA reaches it.
        pub recover: SeqNum,
        /// HighRxt: one past the highest number retransmitted in this recovery.
        pub high_rxt: SeqNum,
        /// Everything before this that is not SACKed is taken as lost (after a retransmission timeout).
        pub lost_edge: SeqNum,
        /// Segments retransmitted.
        pub retransmits: u32,
        /// Since when the peer has acknowledged nothing.
        pub stalled_at: Instant,
    }
}

plain! {
    /// Links and owner of a connection that was not accepted yet.
    #[derive(Debug, Default)]
    pub struct PassiveLinks {
        /// The listener that made it, until accepted.
        pub listener: Idx<Listener>,
        /// Next in the listener's SYN or accept queue; next free row.
        pub next: Idx<TcbHot>,
        /// Previous in the queue.
        pub prev: Idx<TcbHot>,
        /// Generation of the listener.
        pub generation: u32,
    }
}

plain! {
    /// What only set-up, tear-down, losses and options touch; the first two cache lines, ordinary segments too.
    #[derive(Debug, Default)]
    pub struct TcbCold {
        /// Payload bytes received in order.
        pub bytes_in: u64,
        /// Payload bytes sent, retransmissions not counted.
        pub bytes_out: u64,
        /// When TS.Recent was set (RFC 7323 5.5).
        pub ts_recent_at: Instant,
        /// When the last segment arrived; kept for keepalive only.
        pub heard_at: Instant,
        /// Added to our clock for TSval.
        pub ts_offset: u32,
        /// One past the last segment sent that was not full (Nagle's algorithm in Minshall's form).
        pub snd_small: SeqNum,
        /// MSS the peer announced.
        pub mss_peer: u16,
        /// MSS we announced.
        pub mss_local: u16,
        /// Error for SO_ERROR, as the engine numbers them; 0: none.
        pub error: u8,
        /// ACKs still to be sent besides the next one, for a peer that counts duplicates; and a bit for what came twice.
        pub acks_owed: u8,
        /// Congestion control in use, as the engine numbers it; 0: not decided yet.
        pub cc: u8,
        /// Flags of congestion control, as the engine numbers them.
        pub cc_flags: u8,
        /// Scoreboard row; NONE while nothing is SACKed, sent again or probed.
        pub board: Idx<Scoreboard>,
        /// ISS.
        pub iss: SeqNum,
        /// The options set by the program.
        pub options: TcpOptions,
        /// Quarters of `min_rtt_us`, less one, that a segment may come late before it is lost (RFC 8985 6.2.4, RACK.reo_wnd_mult).
        pub reo_extra: u8,
        /// Recoveries until that is forgotten, and with bit 7, whether the path was seen to reorder.
        pub reo_memory: u8,
        /// Fast open (RFC 7413), as the engine numbers its flags.
        pub fast: u8,
        /// What is known of the path's MTU, as the engine numbers its flags; 0: nothing.
        pub path: u8,
        /// When RCV.NXT reaches this, it is looked at whether the receive buffer is to grow.
        pub tune_at: SeqNum,
        /// Loss recovery; the first words, every measured round trip.
        pub loss: LossState,
        /// When a state that may not last ends: keepalive, FIN-WAIT-2 of an orphan, want of frames.
        pub idle_at: Instant,
        /// Sequence number of a FIN that came out of order.
        pub fin_seq: SeqNum,
        /// IRS.
        pub irs: SeqNum,
        /// Queue links while passive.
        pub passive: PassiveLinks,
        /// Out-of-order reception.
        pub ooo: OutOfOrder,
        /// Handle of the connection, when the lane has handles.
        pub handle: u32,
        /// Its sequence numbers when the sweep for idle connections last came by.
        pub sweep_mark: u32,
        /// When a segment without data that is old or outside the window was answered last, milliseconds of the lane's clock, and never 0; 0: not yet.
        pub answered_ms: u32,
        /// Zeros, up to whole cache lines.
        pub spare: u32,
    }
}
const _: () = assert!(size_of::<TcbCold>() == 4 * base::CACHE_LINE);
// What ordinary segments touch is in the two lines that are fetched for them.
const _: () = assert!(offset_of!(TcbCold, loss) + offset_of!(LossState, min_rtt_age) < 2 * base::CACHE_LINE);

/// Runs one scoreboard can hold.
pub const BOARD_RANGES: usize = 62;
/// Runs sent again that one scoreboard can tell apart.
pub const BOARD_RESENT: usize = 40;

plain! {
    /// A run of bytes that was sent again and is on its way.
    #[derive(PartialEq, Eq, Debug, Default)]
    pub struct Resent {
        /// First number.
        pub left: SeqNum,
        /// One past the last.
        pub right: SeqNum,
        /// SND.NXT at that time: what begins there or above was sent later.
        pub mark: SeqNum,
        /// When, us, wrapping.
        pub at_us: u32,
        /// When the delivery of something sent later was first reported, us; 0: not yet.
        pub passed_us: u32,
    }
}

plain! {
    /// What time-based loss detection (RFC 8985) and the undoing of false alarms (RFC 4015) remember while something is amiss.
    #[derive(Debug, Default)]
    pub struct RackState {
        /// When a missing segment becomes a lost one.
        pub reorder_at: Instant,
        /// One past the highest number known to be delivered (RACK.fack).
        pub fack: SeqNum,
        /// One past the highest number sent again since the board was made.
        pub resent_top: SeqNum,
        /// Round-trip time of the last delivered retransmission, us; 0: none yet.
        pub rtt_us: u32,
        /// What was first sent before this was overtaken by a retransmission ...
        pub mark: SeqNum,
        /// ... at this time, us; 0: nothing was.
        pub mark_us: u32,
        /// The same for a later one.
        pub next_mark: SeqNum,
        /// Its time.
        pub next_mark_us: u32,
        /// SND.UNA when the recovery to be undone began.
        pub undo_una: SeqNum,
        /// Bytes sent again, in it or shortly before, that were not reported to have come twice.
        pub undo_bytes: u32,
        /// TSval of its first retransmission.
        pub undo_stamp: u32,
        /// The congestion window before it.
        pub undo_cwnd: u32,
        /// The threshold before it.
        pub undo_ssthresh: u32,
        /// When SND.UNA reaches this, the recovery is not undone any more.
        pub undo_until: SeqNum,
        /// The tail loss probe under way ends here (TLP.end_seq).
        pub probe_end: SeqNum,
        /// Its TSval.
        pub probe_stamp: u32,
        /// Reports of what came twice count again when SND.UNA reaches this (RACK.dsack_round).
        pub twice_round: SeqNum,
        /// Flags, as the engine numbers them.
        pub flags: u32,
        /// Until SND.UNA reaches this, `undo_bytes` counts what an undone recovery had sent again.
        pub forgotten_until: SeqNum,
    }
}

plain! {
    /// What is known of one connection's data in flight beyond SND.UNA: what the peer has SACKed (RFC 6675 3) and what was sent again, both in
    /// sequence order, and when.
    #[derive(Debug)]
    pub struct Scoreboard {
        /// The SACKed runs, ascending, apart from each other.
        pub ranges: [SeqRange; BOARD_RANGES],
        /// When the first byte of each was reported, us, wrapping.
        pub since_us: [u32; BOARD_RANGES],
        /// What was sent again, ascending, apart from each other.
        pub resent: [Resent; BOARD_RESENT],
        /// Time-based loss detection.
        pub rack: RackState,
        /// Runs in use.
        pub count: u32,
        /// Bytes in the runs.
        pub bytes: u32,
        /// Next free row.
        pub next: Idx<Scoreboard>,
        /// Runs of `resent` in use.
        pub resent_count: u32,
    }
}
const _: () = assert!(size_of::<Scoreboard>() == 1640);
