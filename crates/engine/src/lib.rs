//! The transport of one lane: TCP, UDP, IPv4 and IPv6 with ICMP, ARP and neighbour discovery over `&mut` views of the lane's tables. It does no I/O and
//! reads no clock: `handle_*` takes what came from network and clock, `poll_*` gives what must go out, and the verbs
//! are those of POSIX sockets without blocking.
#![no_std]
#![forbid(unsafe_code)]

mod arp;
mod away;
mod engine;
mod engine_keys;
mod engine_last;
mod engine_moves;
mod engine_udp;
mod engine_urgent;
mod errors;
mod events;
mod fragments6;
mod hop;
mod hop_names;
mod icmp;
mod icmp6;
mod ip;
mod ip_timers;
mod ipv4;
mod ipv6;
mod load;
mod nd;
mod outbox;
mod packet;
mod pipeline;
mod reassembly;
mod reroute;
mod signals;
mod tcp;
mod transmit;
mod types;
mod udp;
mod udp_recv;
mod udp_send;
mod udp_types;

pub use engine::Engine;
pub use errors::{
    AcceptError, ConnectError, KeyError, ListenError, MoveError, RecvError, SendError, ShutdownError,
    SockError, UrgentError,
};
pub use load::Load;
pub use signals::Raised;
pub use tcp::audit::Finding;
pub use tcp::{Algorithm, AoAlgorithm, Cause, Ecn, State, cookies, half_open_max, syn_ack_timeouts};
pub use types::{
    Accepted, AoCounters, AoKey, AoKeyState, AoSocket, Buffers, CongestionInfo, HopKey, How, KeyPeer, Leaver,
    Phase, RouteTo, Stopped, TcpInfo, Unwired,
};
pub use udp_types::{Datagram, UdpBindError, UdpConnectError, UdpOptions, UdpRecvError, UdpSendError, UdpTo};
