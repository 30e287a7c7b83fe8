//! Connections that hibernate: open, idle, nothing queued, nothing owed. One row of 92 bytes stands for everything that an idle
//! IPv4 connection needs to go on, or that one in TIME-WAIT or half open needs; rows of [`TcbHot`](crate::TcbHot) are for those that work.
//!
//! A connection's name outlives its rows: handle `n` below the number of TCB rows is the one with which row `n` begins,
//! further handles are for connections that begin in a row whose handle is still with a connection that moved.

use base::{Idx, Port, SeqNum};
use region::plain;

use crate::TcpOptions;

/// In a flow table's value and in [`Handle::place`]: the rest is a row of the dormant table.
pub const DORMANT: u32 = 1 << 31;
/// In [`Handle::place`]: nobody has this handle; the rest is the next free one, or [`LAST`].
pub const FREE_HANDLE: u32 = 1 << 30;
/// End of the list of free handles.
pub const LAST: u32 = FREE_HANDLE - 1;
/// [`TcbHot::generation`](crate::TcbHot::generation) of a row whose connection has another row's handle. Generations of handles are even.
pub const FOREIGN: u32 = 1;
/// [`Dormant::handle`] of a connection in TIME-WAIT that no program holds, so that it has no name.
pub const NAMELESS: u32 = u32::MAX - 1;
/// [`Dormant::handle`] of a connection in SYN-RECEIVED that a listener's SYN has made, so that no program has heard of it.
pub const HALF_OPEN: u32 = u32::MAX - 2;
/// Sets of options that dormant connections share.
pub const OPTION_SETS: u32 = 64;

plain! {
    /// One open connection that has nothing to do, one in TIME-WAIT that no program holds, or one in SYN-RECEIVED of a listener. What the last has
    /// no use for holds the upper parts of IPv6 addresses: both round-trip times, both counts of bytes, `wnd_max` and `cwnd`.
    #[derive(Debug, Default)]
    pub struct Dormant {
        /// Its handle; `u32::MAX`: the row is free.
        pub handle: u32,
        /// Our IPv4 address.
        pub local: u32,
        /// The peer's.
        pub remote: u32,
        /// Our port.
        pub local_port: Port,
        /// The peer's port.
        pub remote_port: Port,
        /// The token of its events, low half first. In a free row: the next free row; in TIME-WAIT and SYN-RECEIVED: the next and the previous row.
        pub token: [u32; 2],
        /// Since when, in units of 2^24 ns; in SYN-RECEIVED: when the SYN,ACK was sent, us.
        pub since: u32,
        /// RCV.NXT, and Last.ACK.sent.
        pub rcv_nxt: SeqNum,
        /// TS.Recent.
        pub ts_recent: u32,
        /// SND.UNA and SND.NXT.
        pub snd_nxt: SeqNum,
        /// Added to our clock for TSval.
        pub ts_offset: u32,
        /// SRTT times 8, us.
        pub srtt_us8: u32,
        /// RTTVAR times 4, us.
        pub var_us4: u32,
        /// Payload bytes received, 48 bits, lowest first.
        pub bytes_in: [u16; 3],
        /// Payload bytes sent, 48 bits, lowest first.
        pub bytes_out: [u16; 3],
        /// Window we announced, as the header has it.
        pub rcv_wnd: u16,
        /// SND.WND, as the header had it.
        pub snd_wnd: u16,
        /// Largest window the peer ever announced, as a header would have it.
        pub wnd_max: u16,
        /// Congestion window, segments.
        pub cwnd: u16,
        /// Slow start threshold, segments; `u16::MAX`: none.
        pub ssthresh: u16,
        /// Largest payload of a segment we send, bytes.
        pub mss: u16,
        /// MSS the peer announced.
        pub mss_peer: u16,
        /// MSS we announced.
        pub mss_local: u16,
        /// Next hop.
        pub hop: u16,
        /// Row of its options; in SYN-RECEIVED: its listener.
        pub options: u16,
        /// Segments retransmitted; stays at `u16::MAX`. In SYN-RECEIVED: timeouts in a row.
        pub retransmits: u16,
        /// Shift of the peer's windows, and of ours times 16.
        pub shifts: u8,
        /// Device it leaves by.
        pub port: u8,
        /// As the engine numbers them.
        pub flags: u8,
        /// Segments still acknowledged at once.
        pub quick_acks: u8,
        /// Event queue.
        pub queue: u8,
        /// Room.
        pub spare: u8,
    }
}
const _: () = assert!(size_of::<Dormant>() == 92);

plain! {
    /// What a [`SockRef`](crate::SockRef) of a connection leads to.
    #[derive(Debug, Default)]
    pub struct Handle {
        /// Generation of the name.
        pub generation: u32,
        /// A row of [`TcbHot`](crate::TcbHot), or a row of the dormant table with [`DORMANT`], or [`FREE_HANDLE`].
        pub place: u32,
    }
}

plain! {
    /// Options that dormant connections have in common.
    #[derive(Debug, Default)]
    pub struct OptionSet {
        /// As the program set them.
        pub options: TcpOptions,
        /// Bytes the receive buffer may hold.
        pub rcv_buf: u32,
        /// Bytes the send buffer may hold.
        pub snd_buf: u32,
        /// Connections with these; 0: the row is free.
        pub refs: u32,
    }
}

plain! {
    /// What the dormant table has one of.
    #[derive(Debug)]
    pub struct DormantGlobals {
        /// When the sweep for idle connections goes on.
        pub sweep_at: base::Instant,
        /// Rows in use.
        pub used: u32,
        /// First free row that was used before; `u32::MAX`: none.
        pub free: Idx<Dormant>,
        /// Rows from here on were never used.
        pub fresh: u32,
        /// First free handle behind those of TCB rows; [`LAST`]: none.
        pub free_handle: u32,
        /// Handles from here on were never used.
        pub fresh_handle: u32,
        /// TCB row at which the search for idle connections goes on.
        pub hand: u32,
        /// Without traffic for so long, a connection hibernates; 0: only when rows run short. ms.
        pub idle_ms: u32,
        /// The oldest of those in TIME-WAIT.
        pub waiting_head: Idx<Dormant>,
        /// The youngest.
        pub waiting_tail: Idx<Dormant>,
        /// Their number.
        pub waiting: u32,
        /// Those in SYN-RECEIVED.
        pub half_open: u32,
        /// Room.
        pub spare: u32,
    }
}

impl DormantGlobals {
    /// No dormant connection, for a lane of `socks` TCB rows.
    #[must_use]
    pub const fn empty(socks: u32) -> Self {
        Self {
            sweep_at: base::Instant(0),
            used: 0,
            free: Idx::NONE,
            fresh: 0,
            free_handle: LAST,
            fresh_handle: socks,
            hand: 0,
            idle_ms: IDLE_MS,
            waiting_head: Idx::NONE,
            waiting_tail: Idx::NONE,
            waiting: 0,
            half_open: 0,
            spare: 0,
        }
    }
}

/// Without traffic for so long, a connection hibernates. ms.
const IDLE_MS: u32 = 10_000;
