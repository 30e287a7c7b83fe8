//! IPv6 (RFC 8200): received packets checked, their extension headers walked over, fragments put together; headers of sent
//! ones, and fragmentation of those that are too long for the path.
//!
//! Left out: forwarding, routing headers with segments left (RFC 5095), multicast but for neighbour discovery and echo, jumbograms.

use core::net::Ipv6Addr;

use base::hash::flow_hash;
use base::{FrameIdx, Instant, IpAddress, MacAddr};
use state::ports::PORT_LOOPBACK;
use state::{DropReason, LaneMem, PortInfo, RxFrame};
use wire::icmp6::parameter_problem;
use wire::ipv6_ext::{self, Start};
use wire::{
    EthFrame, ExtensionError, Icmp6Header, IpProtocol, Ipv6Error, Ipv6Header, Ipv6Packet, UpperLayer,
};

use crate::ipv4::{Packet, is_local, is_own, port_info};
use crate::{fragments6, icmp6, packet};

/// Bytes of Ethernet and IPv6 header without extension headers.
pub(crate) const HEADERS: usize = wire::eth::HEADER_LEN + wire::ipv6::HEADER_LEN;
/// All nodes of a link (RFC 4291 2.7.1).
pub(crate) const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// What of a received header decides the packet's way.
struct Parsed {
    head: Ipv6Header,
    src_mac: MacAddr,
    dst_mac: MacAddr,
}

/// The address of `port` that packets to `dst` come from: of the same scope if there is one (RFC 6724 5, rule 2).
pub(crate) fn source_for(info: &PortInfo, dst: Ipv6Addr) -> Option<IpAddress> {
    let near = dst.is_unicast_link_local() || dst.octets().starts_with(&[0xff, 2]);
    let all =
        || info.addrs.iter().take(info.addr_count as usize).copied().filter(|a| !a.is_v4() && !a.is_any());
    all().find(|a| a.as_v6().is_unicast_link_local() == near).or_else(|| all().next())
}

/// The Ethernet address of the group `dst` (RFC 2464 7).
pub(crate) const fn group_mac(dst: Ipv6Addr) -> MacAddr {
    let [.., a, b, c, d] = dst.octets();
    MacAddr([0x33, 0x33, a, b, c, d])
}

/// The label of a flow (RFC 6437 3): the same for all its packets, and nothing that can be guessed from outside.
pub(crate) fn flow_label(mem: &LaneMem<'_>, local: IpAddress, remote: IpAddress, ports: u32) -> u32 {
    flow_hash(mem.globals.key, local.0, remote.0, ports ^ 0x6437) & 0x000f_ffff
}

/// Takes the chain of `rx`: an Ethernet frame with an IPv6 packet. `None`: it was dropped (and counted) or is kept until its
/// other fragments come.
pub(crate) fn input(mem: &mut LaneMem<'_>, now: Instant, rx: &RxFrame) -> Option<Packet> {
    let parsed = match parse(mem, rx) {
        Ok(parsed) => parsed,
        Err(reason) => return discard(mem, rx.head, reason),
    };
    let total = HEADERS + usize::from(parsed.head.payload_len);
    if !packet::trim(&mut mem.frames, rx.head, total) {
        return discard(mem, rx.head, DropReason::FrameBad);
    }
    let mut packet = Packet {
        head: rx.head,
        port: rx.port,
        src: IpAddress::from_v6(parsed.head.src),
        dst: IpAddress::from_v6(parsed.head.dst),
        src_mac: parsed.src_mac,
        protocol: parsed.head.next_header,
        l4_offset: HEADERS as u16,
        l4_bytes: u32::from(parsed.head.payload_len),
        tos: parsed.head.traffic_class,
        csum: rx.csum,
        gso_size: rx.gso_size,
        local_peer: rx.local_peer,
    };
    let upper = walk(mem, now, &mut packet, Start::FixedHeader)?;
    let Some(fragment) = upper.fragment else { return Some(packet) };
    let part = fragments6::Part { header: &parsed.head, fragment, dst_mac: parsed.dst_mac };
    let mut whole = fragments6::input(mem, now, &packet, &part)?;
    let upper = walk(mem, now, &mut whole, Start::Reassembled)?;
    if upper.fragment.is_some() {
        // A fragment inside of fragments: nobody sends that, but to get past a filter.
        return discard(mem, whole.head, DropReason::IpFragmentBad);
    }
    Some(whole)
}

fn discard(mem: &mut LaneMem<'_>, head: FrameIdx, reason: DropReason) -> Option<Packet> {
    mem.frames.release_chain(head);
    mem.counters.drop_packet(reason);
    None
}

/// Walks over the extension headers of `packet`, from the place where its transport header is taken to be, and corrects that place.
/// `None`: dropped, and its sender told where it is to be (RFC 8200 4).
fn walk(mem: &mut LaneMem<'_>, now: Instant, packet: &mut Packet, start: Start) -> Option<UpperLayer> {
    let at = usize::from(packet.l4_offset);
    let bytes = mem.frames.data(packet.head).get(at..).unwrap_or(&[]);
    let result = ipv6_ext::walk(packet.protocol, bytes, start);
    let error = match result {
        Ok(upper) => {
            packet.protocol = upper.protocol;
            packet.l4_offset = (at + upper.offset) as u16;
            packet.l4_bytes = packet.l4_bytes.saturating_sub(upper.offset as u32);
            return Some(upper);
        }
        Err(error) => error,
    };
    if let Some((code, pointer)) = problem(error, packet.dst) {
        icmp6::send_error(mem, now, packet, Icmp6Header::ParameterProblem { code, pointer });
    }
    mem.frames.release_chain(packet.head);
    mem.counters.drop_packet(DropReason::IpMalformed);
    None
}

/// What the sender is told of an extension header that is not taken: code and pointer. `None`: nothing.
fn problem(error: ExtensionError, dst: IpAddress) -> Option<(u8, u32)> {
    match error {
        ExtensionError::Truncated | ExtensionError::TooMany | ExtensionError::Discard => None,
        ExtensionError::HopByHopMisplaced { pointer } => Some((parameter_problem::NEXT_HEADER, pointer)),
        ExtensionError::RoutingType { pointer } => Some((parameter_problem::HEADER_FIELD, pointer)),
        // RFC 8200 4.2: of a packet to a group only where the option's high bits are 10.
        ExtensionError::UnknownOption { pointer, even_multicast } => {
            (even_multicast || dst.is_unicast()).then_some((parameter_problem::OPTION, pointer))
        }
    }
}

/// Answers a packet that carries what nobody here understands (RFC 8200 4, RFC 4443 3.4), and drops it.
pub(crate) fn unknown_protocol(mem: &mut LaneMem<'_>, now: Instant, packet: &Packet) {
    // The field that says so is in the fixed header, or at the front of the last extension header, whose length its second byte gives; a
    // walk along them is cheaper than a word in every packet.
    let bytes = mem.frames.data(packet.head).get(HEADERS..).unwrap_or(&[]);
    let first =
        Ipv6Packet::parse_quoted(mem.frames.data(packet.head).get(wire::eth::HEADER_LEN..).unwrap_or(&[]));
    let pointer = first
        .ok()
        .and_then(|ip| ipv6_ext::walk(ip.next_header(), bytes, Start::FixedHeader).ok())
        .map_or(6, |upper| upper.next_header_at);
    // RFC 8200 4.7: behind "no next header" nothing is expected, and nobody told.
    if packet.protocol != IpProtocol::NO_NEXT_HEADER {
        let code = parameter_problem::NEXT_HEADER;
        icmp6::send_error(mem, now, packet, Icmp6Header::ParameterProblem { code, pointer });
    }
    mem.frames.release_chain(packet.head);
    mem.counters.drop_packet(DropReason::IpUnknownProtocol);
}

/// May packets between `src` and `dst` come by a wire inside one network namespace? Both are addresses of it then.
fn is_inside(info: &PortInfo, src: Ipv6Addr, dst: Ipv6Addr) -> bool {
    let own = |addr: Ipv6Addr| addr.is_loopback() || is_local(info, IpAddress::from_v6(addr));
    own(src) && own(dst)
}

/// Is `dst` a group that a station with the addresses of `info` is in: all nodes, and the solicited-node groups (RFC 4291 2.8)?
fn is_own_group(info: &PortInfo, dst: Ipv6Addr) -> bool {
    let mut own = info.addrs.iter().take(info.addr_count as usize).filter(|a| !a.is_v4());
    dst == ALL_NODES || own.any(|a| wire::ndp::solicited_node(a.as_v6()) == dst)
}

fn parse(mem: &LaneMem<'_>, rx: &RxFrame) -> Result<Parsed, DropReason> {
    let info = port_info(mem, rx.port).ok_or(DropReason::EthNotForUs)?;
    let eth = EthFrame::parse(mem.frames.data(rx.head)).map_err(|_| DropReason::EthMalformed)?;
    let available = (rx.len as usize).saturating_sub(wire::eth::HEADER_LEN);
    let ip = Ipv6Packet::parse_head(eth.payload(), available).map_err(|e| match e {
        Ipv6Error::Truncated | Ipv6Error::NotVersion6 | Ipv6Error::PayloadLength => DropReason::IpMalformed,
    })?;
    let (src, dst) = (ip.src(), ip.dst());
    let group = dst.is_multicast();
    // What came as a link-layer group must be for a group: it must not be taken for a unicast packet (RFC 1122 3.3.6).
    let to_group = group && eth.dst() == group_mac(dst);
    if eth.dst() != info.mac && !to_group {
        return Err(DropReason::EthNotForUs);
    }
    let inside = info.flags & PORT_LOOPBACK != 0;
    if inside && !is_inside(info, src, dst) {
        return Err(DropReason::IpSourceBad);
    }
    // RFC 4291 2.5.5.2: mapped addresses do not appear on a link; in the tables they would be those of IPv4.
    if is_mapped(src) || is_mapped(dst) {
        return Err(DropReason::IpSourceBad);
    }
    let for_us = if group {
        is_own(mem, rx.port) && is_own_group(info, dst)
    } else {
        is_local(info, IpAddress::from_v6(dst))
    };
    if !inside && !for_us {
        return Err(DropReason::IpNotForUs);
    }
    // RFC 4291 2.5.3, 2.7: groups and loopback are no source addresses; and no packet of ours comes back. Nobody's address is one of
    // questions about addresses only (RFC 4861 4.3), which come to a group.
    let odd = src.is_loopback() || src.is_multicast() || (src.is_unspecified() && !group);
    if !inside && (odd || is_local(info, IpAddress::from_v6(src))) {
        return Err(DropReason::IpSourceBad);
    }
    Ok(Parsed { head: ip.header(), src_mac: eth.src(), dst_mac: eth.dst() })
}

fn is_mapped(addr: Ipv6Addr) -> bool {
    IpAddress::from_v6(addr).is_v4()
}

/// The identification of the next packet that is cut: counted, and spread by a secret (RFC 7739 5.3).
pub(crate) fn next_ident(mem: &mut LaneMem<'_>) -> u32 {
    mem.ip.next_id = mem.ip.next_id.wrapping_add(1);
    flow_hash(mem.globals.key, [0x6d; 16], [0; 16], mem.ip.next_id)
}
