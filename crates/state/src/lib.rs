//! What lies in a region, and the records that ports and engine exchange. Layout only: no logic.
#![no_std]
#![forbid(unsafe_code)]

mod auth;
mod congestion;
mod counters;
pub mod dormant;
mod event;
mod fast;
pub mod hop;
mod io;
mod ip;
mod lane;
mod listener;
mod load;
mod mem;
pub mod outbox;
pub mod ports;
mod rate;
pub mod reassembly;
mod sock;
mod tcb;
pub mod udp;
pub mod unwire;
mod urgent;
mod usual;

pub use auth::{KEY_BUCKETS, KEY_BYTES, KeyGlobals, KeyRow, OF_LISTENER};
pub use congestion::{
    Arrival, Congestion, CongestionTables, Cubic, Dctcp, PathProbe, Prr, Reading, SlowStart,
};
pub use counters::{Counters, DROP_REASONS, DropReason, TcpCounters};
pub use dormant::{Dormant, DormantGlobals, Handle, OptionSet};
pub use event::{EventGlobals, EventQueue, EventRow, SignalRow, Signals};
pub use fast::{FAST_PEERS, FastPeer};
pub use hop::{Hop, HopGlobals};
pub use io::{CsumState, Piece, RxBatch, RxFrame, TxBatch, TxFrame};
pub use ip::IpGlobals;
pub use lane::{LaneGlobals, LaneShape, LaneTables, PathSettings, RateLimit, TcpGlobals, TxRing, Usual};
pub use listener::{LISTEN_BUCKETS, Listener, SmallQueue, TcbQueue};
pub use load::LaneLoad;
pub use mem::{LaneMem, buffer_max};
pub use outbox::Outbox;
pub use ports::{PortInfo, port_beside};
pub use rate::{Bbr, RATE_MARKS, Rate, RateMark};
pub use reassembly::{Reassembly, ReassemblyGlobals};
pub use sock::{Endpoint, Event, Ready, SockKind, SockRef, TcpOptions};
pub use tcb::{
    BOARD_RANGES, BOARD_RESENT, FlowKey, FrameQueue, LossState, OutOfOrder, PassiveLinks, RCV_SACKS,
    RackState, RcvSeq, Resent, RttState, Scoreboard, SeqRange, SndSeq, TcbCold, TcbHot,
};
pub use udp::{UdpGlobals, UdpSock};
pub use unwire::{Unwire, Unwires};
pub use urgent::Urgent;
pub use usual::{KEPT, Kept, SEEN, Seen};

/// Version of the layout: libraries and processes share a region only when theirs is the same. One up at each change.
pub const LAYOUT_VERSION: u32 = 30;
