//! Neighbour discovery (RFC 4861) on ports whose address belongs to Corelane alone. On any other port the kernel does it.
//!
//! What RFC 4861 7.3.2 calls INCOMPLETE is a hop being asked for, REACHABLE a known one, STALE one whose time is over and that is asked
//! for again, by itself at first (PROBE). A packet nobody asked for never makes a hop, so a flood of them costs little.
//!
//! Left out: routers' advertisements and redirects (routes are configured), detection of duplicates of our own addresses.

use core::net::Ipv6Addr;

use base::{Idx, Instant, IpAddress, MacAddr};
use state::hop::HOP_KNOWN;
use state::{DropReason, Hop, LaneMem, PortInfo};
use wire::ipv6::HEADER_LEN;
use wire::{Icmp6Message, IpProtocol, NdpBody, NdpMessage, NdpOptions, checksum, ndp};

use crate::ipv4::{self, Packet};
use crate::ipv6::{self, HEADERS};
use crate::outbox::{self, Note};
use crate::{arp, hop, icmp6, ip, packet};

/// Bytes of the longest message that is sent: header, target, one option.
const MESSAGE_MAX: usize = 32;

/// Takes the message `whole`, whose checksum is right; it stays the caller's.
pub(crate) fn input(mem: &mut LaneMem<'_>, now: Instant, whole: &Packet) {
    let bytes = mem.frames.data(whole.head).get(usize::from(whole.l4_offset)..).unwrap_or(&[]);
    let header = icmp6::header_of(mem, whole);
    let parsed = header
        .zip(Icmp6Message::parse(bytes).ok())
        .and_then(|(header, message)| NdpMessage::parse(&message, &header).ok());
    let (Some(message), Some(info)) = (parsed, ipv4::port_info(mem, whole.port)) else {
        mem.counters.drop_packet(DropReason::IcmpMalformed);
        return;
    };
    let info = *info;
    match message.body {
        NdpBody::NeighbourSolicitation { target } => {
            solicited(mem, now, whole, (&info, target, message.options.source_mac));
        }
        NdpBody::NeighbourAdvertisement { target, solicited, overriding, .. } => {
            let mac = message.options.target_mac;
            if ipv4::is_local(&info, IpAddress::from_v6(target)) {
                if mac.is_some_and(|mac| mac != info.mac) {
                    defend(mem, now, whole.port, target);
                }
                return;
            }
            advertised(mem, now, (whole.port, target), mac, (solicited, overriding));
        }
        NdpBody::RouterSolicitation | NdpBody::RouterAdvertisement(_) | NdpBody::Redirect { .. } => {
            mem.counters.drop_packet(DropReason::IcmpIgnored);
        }
    }
}

/// Somebody asks who has `target` (RFC 4861 7.2.3, 7.2.4).
fn solicited(
    mem: &mut LaneMem<'_>,
    now: Instant,
    whole: &Packet,
    (info, target, mac): (&PortInfo, Ipv6Addr, Option<MacAddr>),
) {
    let sender = mac.unwrap_or(whole.src_mac);
    if whole.src.is_unicast() && !sender.is_multicast() && sender != info.mac {
        learn(mem, now, (whole.port, whole.src), sender);
    }
    if !ipv4::is_local(info, IpAddress::from_v6(target)) {
        mem.counters.drop_packet(DropReason::ArpNotForUs);
        return;
    }
    let probe = !whole.src.is_unicast();
    // RFC 4861 7.2.4: who has no address yet hears it by the group of all nodes, and so that the address is taken (RFC 4862 5.4.3).
    let dst = if probe { ipv6::ALL_NODES } else { whole.src.as_v6() };
    let to = if probe { ipv6::group_mac(dst) } else { sender };
    advertise(mem, whole.port, (target, !probe), (dst, to));
}

/// What the sender of a solicitation says of itself: it makes a known hop stale if it differs (RFC 4861 7.2.3).
fn learn(mem: &mut LaneMem<'_>, now: Instant, (port, addr): (u8, IpAddress), mac: MacAddr) {
    let Some(at) = hop::find(mem, port, addr) else { return };
    if !is_known_as(mem, at, mac) {
        hop::know(mem, now, at, mac);
        hop::suspect(mem, now, at);
    }
}

fn is_known_as(mem: &LaneMem<'_>, at: Idx<Hop>, mac: MacAddr) -> bool {
    mem.hops.get(at).is_some_and(|row| row.state == HOP_KNOWN && row.mac == mac)
}

/// An advertisement of `target` came (RFC 4861 7.2.5).
fn advertised(
    mem: &mut LaneMem<'_>,
    now: Instant,
    (port, target): (u8, Ipv6Addr),
    mac: Option<MacAddr>,
    (solicited, overriding): (bool, bool),
) {
    let Some(at) = hop::find(mem, port, IpAddress::from_v6(target)) else { return };
    let Some(row) = mem.hops.get(at) else { return };
    let (known, before) = (row.state == HOP_KNOWN, row.mac);
    let mac = match mac.filter(|mac| !mac.is_multicast()) {
        Some(mac) => mac,
        None if known => before,
        None => return, // of what is not known yet the address must be said
    };
    if known && mac != before && !overriding {
        // Two answer: the first stays, and is asked again soon.
        hop::suspect(mem, now, at);
        return;
    }
    let same = known && mac == before;
    if solicited || !same {
        hop::know(mem, now, at, mac);
    }
    if !solicited && !same {
        hop::suspect(mem, now, at);
    }
}

/// Somebody else uses our address `claimed`: say once that it is ours.
fn defend(mem: &mut LaneMem<'_>, now: Instant, port: u8, claimed: Ipv6Addr) {
    if arp::may_defend(mem, now) {
        announce(mem, port, claimed);
    }
}

/// Tells everybody on the link of `port` that `addr` is ours (RFC 4861 7.2.6: an unsolicited advertisement).
pub(crate) fn announce(mem: &mut LaneMem<'_>, port: u8, addr: Ipv6Addr) {
    advertise(mem, port, (addr, false), (ipv6::ALL_NODES, ipv6::group_mac(ipv6::ALL_NODES)));
}

fn advertise(
    mem: &mut LaneMem<'_>,
    port: u8,
    (target, solicited): (Ipv6Addr, bool),
    to: (Ipv6Addr, MacAddr),
) {
    let Some(mac) = ipv4::port_info(mem, port).map(|info| info.mac) else { return };
    let body = NdpBody::NeighbourAdvertisement { target, router: false, solicited, overriding: true };
    let options = NdpOptions { target_mac: Some(mac), ..NdpOptions::default() };
    send(mem, port, (IpAddress::from_v6(target), to), &NdpMessage { body, options });
}

/// Asks for the MAC of `addr`: everybody in its group, or only the one `known` who had it last (RFC 4861 7.2.2, 7.3.3).
pub(crate) fn ask(mem: &mut LaneMem<'_>, port: u8, addr: IpAddress, known: Option<MacAddr>) {
    let target = addr.as_v6();
    let Some(info) = ipv4::port_info(mem, port) else { return };
    let (mac, Some(own)) = (info.mac, ipv6::source_for(info, target)) else { return };
    let to = match known {
        Some(known) => (target, known),
        None => {
            let group = ndp::solicited_node(target);
            (group, ipv6::group_mac(group))
        }
    };
    let body = NdpBody::NeighbourSolicitation { target };
    let options = NdpOptions { source_mac: Some(mac), ..NdpOptions::default() };
    send(mem, port, (own, to), &NdpMessage { body, options });
}

fn send(
    mem: &mut LaneMem<'_>,
    port: u8,
    (src, (dst, to)): (IpAddress, (Ipv6Addr, MacAddr)),
    message: &NdpMessage,
) {
    let Some(mac) = ipv4::port_info(mem, port).map(|info| info.mac) else { return };
    let Some(frame) = packet::fresh(&mut mem.frames, HEADERS + MESSAGE_MAX) else { return };
    let dst = IpAddress::from_v6(dst);
    let (protocol, ttl) = (IpProtocol::ICMP6, ndp::HOP_LIMIT);
    let out = ip::Out { src, dst, protocol, tos: 0, ttl, dont_fragment: true, label: 0 };
    let len = mem.frames.data_mut(frame).get_mut(HEADERS..).and_then(|to| message.emit(to).ok());
    let written = len.is_some_and(|len| {
        let pseudo = checksum::pseudo(src, dst, IpProtocol::ICMP6, len as u32);
        let body = mem.frames.data_mut(frame).get_mut(HEADERS..HEADERS + len);
        body.is_some_and(|body| wire::icmp6::fill_checksum(body, pseudo).is_ok())
            && out.header(mem, len as u16).emit(mem, frame, (mac, to))
    });
    let Some(meta) = mem.frames.meta_mut(frame).filter(|_| written) else {
        mem.frames.release(frame);
        return;
    };
    meta.len = (HEADERS + len.unwrap_or(MESSAGE_MAX)) as u16;
    outbox::push_first(mem, frame, &Note::plain(port));
}

const _: () = assert!(HEADERS == wire::eth::HEADER_LEN + HEADER_LEN);
