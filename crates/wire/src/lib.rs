//! The network formats: one file a format, each with a view over bytes made by a checked parse, and a header
//! that emits itself.
//!
//! A view borrows the bytes and reads fields by big-endian loads; parsing arbitrary bytes gives an error of the
//! format's own enum, never a panic. A header is the same content as plain values; `emit` writes it and returns
//! its length. Upper-layer checksums are apart from parse and emit, because a port may leave them unfinished: see
//! [`checksum`]. A packet longer than its first frame is parsed by the `parse_head` functions.
#![no_std]
#![forbid(unsafe_code)]

pub mod arp;
mod bytes;
pub mod checksum;
pub mod eth;
pub mod icmp4;
pub mod icmp6;
pub mod ip;
pub mod ipv4;
pub mod ipv6;
pub mod ipv6_ext;
pub mod ndp;
pub mod rss;
mod sign;
pub mod tcp;
pub mod tcp_options;
pub mod udp;
pub mod unwire;
pub mod usual;
pub mod usual_syn;
pub mod vlan;

pub use arp::{ArpError, ArpHeader, ArpOperation, ArpPacket};
pub use bytes::TooShort;
pub use checksum::Sum;
pub use eth::{EthError, EthFrame, EthHeader, EtherType};
pub use icmp4::{Icmp4Error, Icmp4Header, Icmp4Message};
pub use icmp6::{Icmp6Error, Icmp6Header, Icmp6Message};
pub use ip::{Ecn, IpProtocol};
pub use ipv4::{Ipv4Error, Ipv4Header, Ipv4Packet};
pub use ipv6::{Ipv6Error, Ipv6Header, Ipv6Packet};
pub use ipv6_ext::{ExtensionError, Fragment, UpperLayer};
pub use ndp::{NdpBody, NdpError, NdpMessage, NdpOptions};
pub use tcp::{TcpError, TcpFlags, TcpHeader, TcpSegment};
pub use tcp_options::{FastOpen, SackBlock, SackBlocks, Sign, TcpOptions, Timestamps};
pub use udp::{UdpDatagram, UdpError, UdpHeader};
pub use unwire::{UnwireError, UnwireHeader};
pub use usual::{Usual, UsualHeader};
pub use usual_syn::UsualSyn;
pub use vlan::{Untagged, VlanError, VlanTag};
