//! What lies in a region, and the records that ports and engine exchange. Layout only: no logic.
#![no_std]
#![forbid(unsafe_code)]

pub mod hop;
mod io;
mod ip;
pub mod outbox;
pub mod ports;
pub mod reassembly;
pub mod udp;

pub use hop::{Hop, HopGlobals};
pub use io::{CsumState, Piece, RxBatch, RxFrame, TxBatch, TxFrame};
pub use ip::IpGlobals;
pub use outbox::Outbox;
pub use ports::PortInfo;
pub use reassembly::{Reassembly, ReassemblyGlobals};
pub use udp::{UdpEnd, UdpGlobals, UdpSock};
