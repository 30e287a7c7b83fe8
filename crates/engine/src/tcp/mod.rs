//! TCP (RFC 9293): one file a concern.
//!
//! | file | concern |
//! |---|---|
//! | `state` | the states and the one function that makes them |
//! | `conn` | a connection in the hands of the code that works on it |
//! | `segment` | a received segment, checked |
//! | `verify`, `usual` | the same for usual segments, a batch at a time |
//! | `usual_syn` | usual SYNs, received and sent |
//! | `usual_open`, `usual_end` | what opens a listener's connection, and what comes after the program has closed |
//! | `input`, `handshake`, `ack`, `receive`, `queue` | what a received segment does |
//! | `urgent` | urgent data, both ways |
//! | `congestion`, `cubic`, `dctcp`, `bbr`, `rate`, `pace`, `slow_start`, `prr`, `ecn` | how much may be in flight |
//! | `recovery`, `rack`, `undo`, `board`, `resent`, `rtt` | what is lost |
//! | `output`, `usual_out`, `header`, `reset`, `window` | what is sent |
//! | `tune` | buffers that grow |
//! | `timers`, `report`, `path_mtu` | what time, ICMP errors and routers that send none do |
//! | `travel` | connections that move to another lane |
//! | `unwire` | connections that leave a wire for the device beside it |
//! | `entrust` | connections that leave for the kernel |
//! | `bequest` | connections not yet accepted, from a listener that closes to its twin on another lane |
//! | `keys`, `ao_keys`, `auth`, `md5`, `ao` | signed segments |
//! | `table`, `listen`, `cookie`, `connect`, `fast_open`, `verbs`, `last_words`, `stream`, `usual_io`, `borrow` | what programs do |
//! | `hibernate`, `time_wait`, `half_open`, `frozen`, `handle` | idle connections, TIME-WAIT and SYN-RECEIVED in small rows, and names |
//! | `audit` | what must hold of every connection, for oracles |

mod ack;
mod ao;
pub(crate) mod ao_keys;
pub(crate) mod ao_socket;
pub(crate) mod audit;
mod auth;
mod bbr;
pub(crate) mod bequest;
mod board;
pub(crate) mod borrow;
mod congestion;
mod conn;
pub(crate) mod connect;
mod cookie;
mod cubic;
mod dctcp;
mod ecn;
pub(crate) mod entrust;
pub(crate) mod fast_open;
mod frozen;
mod group;
mod half_open;
mod handle;
mod handshake;
mod header;
mod hibernate;
mod input;
pub(crate) mod keys;
pub(crate) mod last_words;
pub(crate) mod listen;
mod md5;
mod output;
mod pace;
mod path_mtu;
mod prr;
mod queue;
mod rack;
mod rate;
mod receive;
mod recovery;
mod report;
mod resent;
mod reset;
mod rtt;
mod segment;
mod slow_start;
mod state;
pub(crate) mod stream;
mod table;
mod time_wait;
mod timers;
pub(crate) mod travel;
mod tune;
mod undo;
pub(crate) mod unwire;
pub(crate) mod urgent;
pub(crate) mod usual;
mod usual_end;
mod usual_io;
mod usual_open;
pub(crate) mod usual_out;
pub(crate) mod usual_syn;
pub(crate) mod vanished;
pub(crate) mod verbs;
pub(crate) mod verify;
mod window;

use ::state::{LaneMem, SockKind, SockRef, TcbHot};
use base::{Duration, Idx};

pub use congestion::Algorithm;
pub use cookie::{cookies, half_open_max};
pub use ecn::Ecn;
pub(crate) use hibernate::hibernate_idle;
pub(crate) use input::input;
pub use keys::AoAlgorithm;
pub(crate) use output::{pending, poll};
pub(crate) use report::{handle_report, knows};
pub use state::{Cause, State};
pub(crate) use table::{drop_port, hop_changed};
pub use timers::syn_ack_timeouts;
pub(crate) use timers::{deadline, handle_timers};
pub(crate) use unwire::{go_by_small, is_open, syns_go_over, way_of_small};

/// Bits of [`TcbHot::flags`].
pub(crate) mod flag {
    /// Timestamps are in use (RFC 7323 3).
    pub(crate) const TIMESTAMPS: u32 = 1;
    /// SACK is in use (RFC 2018).
    pub(crate) const SACK: u32 = 1 << 1;
    /// The program is done sending: a FIN follows SND.END.
    pub(crate) const FIN_QUEUED: u32 = 1 << 2;
    /// SND.NXT includes our FIN.
    pub(crate) const FIN_SENT: u32 = 1 << 3;
    /// RCV.NXT includes the peer's FIN.
    pub(crate) const FIN_RCVD: u32 = 1 << 4;
    /// A FIN came out of order, at `TcbCold::fin_seq`.
    pub(crate) const FIN_AHEAD: u32 = 1 << 5;
    /// The program has closed the socket: its name is dead.
    pub(crate) const ORPHAN: u32 = 1 << 6;
    /// The program reads no more.
    pub(crate) const SHUT_READ: u32 = 1 << 7;
    /// In the SYN queue of a listener.
    pub(crate) const IN_SYN_QUEUE: u32 = 1 << 8;
    /// In the accept queue of a listener.
    pub(crate) const IN_ACCEPT_QUEUE: u32 = 1 << 9;
    /// In the queue of those in TIME-WAIT that nobody holds.
    pub(crate) const IN_TIME_WAIT: u32 = 1 << 10;
    /// An ACK is to be sent at the next chance.
    pub(crate) const ACK_NOW: u32 = 1 << 11;
    /// A SYN or SYN,ACK is to be sent.
    pub(crate) const SEND_SYN: u32 = 1 << 12;
    /// A probe (zero window, keepalive) is to be sent.
    pub(crate) const SEND_PROBE: u32 = 1 << 13;
    /// A round-trip time is being measured.
    pub(crate) const TIMING: u32 = 1 << 14;
    /// In loss recovery: SND.UNA has not reached `LossState::recover`.
    pub(crate) const RECOVERY: u32 = 1 << 15;
    /// The recovery began with a timeout.
    pub(crate) const LOSS: u32 = 1 << 16;
    /// `LossState::backoff`, `probes` or `keep_probes` is not 0, or a router has said that the way is shut.
    pub(crate) const STALLED: u32 = 1 << 17;
    /// `rexmit_at` is the persist timer's.
    pub(crate) const PERSIST: u32 = 1 << 18;
    /// `rexmit_at` is the tail loss probe's.
    pub(crate) const TAIL_PROBE: u32 = 1 << 19;
    /// A tail loss probe was sent in this flight.
    pub(crate) const TAIL_PROBED: u32 = 1 << 20;
    /// TCP_NODELAY.
    pub(crate) const NODELAY: u32 = 1 << 21;
    /// TCP_CORK, or the last send said that more follows.
    pub(crate) const CORK: u32 = 1 << 22;
    /// Neither what it sends nor what it receives goes the short way: `usual`, `usual_out`.
    pub(crate) const SPECIAL: u32 = 1 << 23;
    /// SO_KEEPALIVE.
    pub(crate) const KEEPALIVE: u32 = 1 << 24;
    /// The program found no room to send, and is told when there is some.
    pub(crate) const WANTS_ROOM: u32 = 1 << 25;
    /// `TcbCold::idle_at` counts.
    pub(crate) const IDLE_TIMER: u32 = 1 << 26;
    /// In the list of those who wait for their next hop.
    pub(crate) const WAITS_FOR_HOP: u32 = 1 << 27;
    /// A program has this row: not free.
    pub(crate) const HELD: u32 = 1 << 28;
    /// In the ring of control segments.
    pub(crate) const RING_CONTROL: u32 = 1 << 29;
    /// In the ring of ACKs.
    pub(crate) const RING_ACK: u32 = 1 << 30;
    /// In the ring of data.
    pub(crate) const RING_DATA: u32 = 1 << 31;
    /// What survives the row's reuse.
    pub(crate) const RINGS: u32 = RING_CONTROL | RING_ACK | RING_DATA;
}

/// Bits of [`TcbCold::cc_flags`](::state::TcbCold).
pub(crate) mod cc_flag {
    /// Its row of congestion control has begun.
    pub(crate) const ROW: u8 = 1;
    /// The peer scales its windows, and so do we (RFC 7323 2).
    pub(crate) const WINDOW_SCALE: u8 = 2;
    /// Our SYN asked for ECN (RFC 3168 6.1.1).
    pub(crate) const ECN_ASKED: u8 = 4;
    /// ACKs echo a mark.
    pub(crate) const ECE: u8 = 8;
    /// The next new data tells that the window was reduced.
    pub(crate) const CWR: u8 = 16;
    /// The window was reduced for an echo: no further one counts until what was out then is acknowledged.
    pub(crate) const REDUCED: u8 = 32;
    /// It is paced.
    pub(crate) const PACED: u8 = 64;
    /// It is measured how fast the program reads.
    pub(crate) const READING: u8 = 128;
}

/// Twice the maximum segment lifetime, as Linux has it.
const TIME_WAIT: Duration = Duration::from_secs(60);
/// How long FIN-WAIT-2 lasts without a program (Linux's tcp_fin_timeout).
const FIN_WAIT_2: Duration = Duration::from_secs(60);
/// Delay of an ACK (RFC 9293 3.8.6.3 allows 500 ms; Linux takes 40).
const DELAYED_ACK: Duration = Duration::from_millis(40);
/// Pause until what failed for want of frames is tried again.
const RETRY: Duration = Duration::from_millis(10);
/// Frames that data to send leaves to control segments and reception.
const RESERVE_FRAMES: u32 = 128;
/// Bit of `TcbCold::acks_owed`: the last place of `OutOfOrder::runs` holds what came twice and was not reported yet (RFC 2883).
const OWES_TWICE: u8 = 0x80;
/// Smallest MSS we use, whatever the peer says (Linux's tcp_min_snd_mss).
const MSS_MIN: u16 = 48;
/// MSS of a peer that announces none (RFC 9293 3.7.1).
const MSS_DEFAULT: u16 = 536;
/// Bytes of the timestamps option in every segment.
const TIMESTAMPS_BYTES: u16 = 12;
/// The same over IPv6 (RFC 9293 3.7.1).
const MSS_DEFAULT_V6: u16 = 1220;
/// Bytes of IPv4 and TCP headers without options.
const HEADERS_V4: u16 = 40;
/// Bytes of IPv6 and TCP headers without options.
const HEADERS_V6: u16 = 60;

/// Bytes of IP and TCP header without options of packets to `remote`.
const fn headers_to(remote: base::IpAddress) -> u16 {
    if remote.is_v4() { HEADERS_V4 } else { HEADERS_V6 }
}

/// Does `s` name a connection, awake or hibernating?
pub(crate) fn exists(mem: &LaneMem<'_>, s: SockRef) -> bool {
    lookup(mem, s).is_some() || handle::place_of(mem, s).is_some()
}

/// The connection that `s` names, unless it hibernates.
#[inline]
pub(crate) fn lookup(mem: &LaneMem<'_>, s: SockRef) -> Option<Idx<TcbHot>> {
    if s.kind() != Some(SockKind::Tcp) {
        return None;
    }
    let at = Idx::new(s.row());
    let Some(hot) = mem.hot.get(at) else { return handle::awake_elsewhere(mem, s) };
    let held = hot.flags & (flag::HELD | flag::ORPHAN) == flag::HELD;
    if held && hot.generation == s.generation { Some(at) } else { handle::awake_elsewhere(mem, s) }
}
