//! What is around the segments of scripts: Ethernet, IPv4 or IPv6 with extension headers, and ICMP errors about segments that came.

use base::{IpAddress, MacAddr};
use core::net::{Ipv4Addr, Ipv6Addr};
use wire::{
    EthFrame, EthHeader, EtherType, Icmp4Header, Icmp6Header, IpProtocol, Ipv4Header, Ipv4Packet, Ipv6Header,
    Ipv6Packet,
};

/// Ethernet address of the stack.
pub const STACK_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
/// Ethernet address of the script's side.
pub const SCRIPT_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
/// Bytes of a segment, its header first, that an ICMP error quotes; more than any router needs to.
const QUOTED: usize = 512;

/// The IP that a script is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Address of the stack.
    #[must_use]
    pub const fn stack(self) -> IpAddress {
        match self {
            Self::V4 => IpAddress::from_v4(Ipv4Addr::new(192, 0, 2, 1)),
            Self::V6 => IpAddress::from_v6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
        }
    }

    /// Address of the script's side.
    #[must_use]
    pub const fn script(self) -> IpAddress {
        match self {
            Self::V4 => IpAddress::from_v4(Ipv4Addr::new(192, 0, 2, 2)),
            Self::V6 => IpAddress::from_v6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2)),
        }
    }
}

/// An IPv6 extension header between a packet's header and its segment (RFC 8200 4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Extension {
    /// Hop-by-hop options: padding.
    Hop,
    /// Destination options: padding.
    Dst,
    /// A fragment header, of a packet that is not in fragments (RFC 6946).
    Frag,
}

/// An ICMP error about a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It is too big for a link with this MTU.
    TooBig(u16),
    /// The destination is unreachable, with this code of the family.
    Unreachable(u8),
    /// It was on the way for too long: the code.
    TimeExceeded(u8),
    /// A router does not understand it: the code.
    ParameterProblem(u8),
}

/// The packet of a segment: its source, its ECN field, its bytes. `None`: it is no TCP segment from `from`.
#[must_use]
pub fn segment_from(frame: &[u8], from: Family) -> Option<(u8, &[u8])> {
    let eth = EthFrame::parse(frame).ok()?;
    match (from, eth.ethertype()) {
        (Family::V4, EtherType::IPV4) => {
            let ip = Ipv4Packet::parse(eth.payload()).ok()?;
            let ours = ip.protocol() == IpProtocol::TCP && IpAddress::from_v4(ip.src()) == from.stack();
            ours.then(|| (ip.traffic_class() & 3, ip.payload()))
        }
        (Family::V6, EtherType::IPV6) => {
            let ip = Ipv6Packet::parse(eth.payload()).ok()?;
            let ours = ip.next_header() == IpProtocol::TCP && IpAddress::from_v6(ip.src()) == from.stack();
            ours.then(|| (ip.traffic_class() & 3, ip.payload()))
        }
        _ => None,
    }
}

/// The frame of `segment`, whose checksum is filled in, from the script's side.
#[must_use]
pub fn frame(family: Family, ecn: u8, extension: Option<Extension>, mut segment: Vec<u8>) -> Vec<u8> {
    let pseudo =
        wire::checksum::pseudo(family.script(), family.stack(), IpProtocol::TCP, segment.len() as u32);
    let _ = wire::tcp::fill_checksum(&mut segment, pseudo);
    let mut payload = Vec::new();
    let protocol = match extension.filter(|_| family == Family::V6) {
        Some(extension) => {
            let (number, body) = match extension {
                Extension::Hop => (0, [1, 4, 0, 0, 0, 0]),
                Extension::Dst => (60, [1, 4, 0, 0, 0, 0]),
                Extension::Frag => (44, [0, 0, 0, 0, 0, 9]),
            };
            payload.extend([IpProtocol::TCP.0, 0]);
            payload.extend(body);
            IpProtocol(number)
        }
        None => IpProtocol::TCP,
    };
    payload.extend(segment);
    link(&packet(family, ecn, protocol, (family.script(), family.stack()), &payload), family)
}

/// The frame of an ICMP error to the stack about `segment`, which it sent.
#[must_use]
pub fn error(family: Family, fault: Fault, segment: &[u8]) -> Vec<u8> {
    let whole = packet(family, 0, IpProtocol::TCP, (family.stack(), family.script()), segment);
    let mut message = vec![0; 8];
    let ends = (family.script(), family.stack());
    let protocol = match family {
        Family::V4 => {
            let header = match fault {
                Fault::TooBig(mtu) => Icmp4Header::Unreachable { code: 4, next_hop_mtu: mtu },
                Fault::Unreachable(code) => Icmp4Header::Unreachable { code, next_hop_mtu: 0 },
                Fault::TimeExceeded(code) => Icmp4Header::TimeExceeded { code },
                Fault::ParameterProblem(code) => Icmp4Header::ParameterProblem { code, pointer: 0 },
            };
            let _ = header.emit(&mut message);
            message.extend(whole.iter().take(QUOTED));
            let _ = wire::icmp4::fill_checksum(&mut message);
            IpProtocol::ICMP4
        }
        Family::V6 => {
            let header = match fault {
                Fault::TooBig(mtu) => Icmp6Header::PacketTooBig { mtu: mtu.into() },
                Fault::Unreachable(code) => Icmp6Header::Unreachable { code },
                Fault::TimeExceeded(code) => Icmp6Header::TimeExceeded { code },
                Fault::ParameterProblem(code) => Icmp6Header::ParameterProblem { code, pointer: 0 },
            };
            let _ = header.emit(&mut message);
            message.extend(whole.iter().take(QUOTED));
            let pseudo = wire::checksum::pseudo(ends.0, ends.1, IpProtocol::ICMP6, message.len() as u32);
            let _ = wire::icmp6::fill_checksum(&mut message, pseudo);
            IpProtocol::ICMP6
        }
    };
    link(&packet(family, 0, protocol, ends, &message), family)
}

fn packet(
    family: Family,
    ecn: u8,
    protocol: IpProtocol,
    (src, dst): (IpAddress, IpAddress),
    payload: &[u8],
) -> Vec<u8> {
    let payload_len = payload.len() as u16;
    let mut bytes = match family {
        Family::V4 => {
            let [src, dst] = [src, dst].map(|end| end.as_v4().unwrap_or(Ipv4Addr::UNSPECIFIED));
            let plain = Ipv4Header::plain((src, dst), protocol, payload_len);
            let mut bytes = vec![0; 20];
            let _ = Ipv4Header { traffic_class: ecn & 3, ..plain }.emit(&mut bytes);
            bytes
        }
        Family::V6 => {
            let plain = Ipv6Header::plain((src.as_v6(), dst.as_v6()), protocol, payload_len);
            let mut bytes = vec![0; 40];
            let _ = Ipv6Header { traffic_class: ecn & 3, ..plain }.emit(&mut bytes);
            bytes
        }
    };
    bytes.extend_from_slice(payload);
    bytes
}

fn link(packet: &[u8], family: Family) -> Vec<u8> {
    let ethertype = match family {
        Family::V4 => EtherType::IPV4,
        Family::V6 => EtherType::IPV6,
    };
    let mut bytes = vec![0; 14];
    let _ = EthHeader { dst: STACK_MAC, src: SCRIPT_MAC, ethertype }.emit(&mut bytes);
    bytes.extend_from_slice(packet);
    bytes
}
