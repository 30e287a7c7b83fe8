//! ARP (RFC 826, RFC 5227) on ports whose address belongs to Corelane alone. On any other port the kernel speaks ARP.
//!
//! A packet nobody asked for never makes a hop and changes a known one once a second at most, so a flood of them costs
//! little and churns nothing (RFC 1122 2.3.2.1).

use core::net::Ipv4Addr;

use base::{Duration, Instant, IpAddress, MacAddr};
use state::hop::HOP_KNOWN;
use state::{DropReason, LaneMem, RxFrame};
use wire::arp::PACKET_LEN;
use wire::{ArpHeader, ArpOperation, ArpPacket, EthFrame, EthHeader, EtherType};

use crate::outbox::{self, Note};
use crate::{hop, ipv4, packet};

/// A MAC that was confirmed less than this ago is not replaced by an unasked-for packet.
const LOCK_TIME: Duration = Duration::from_secs(1);
/// Least time between two defences of an own address (RFC 5227 2.4(b): DEFEND_INTERVAL).
const DEFEND_EVERY: Duration = Duration::from_secs(10);

/// Takes the chain of `rx`: an Ethernet frame with an ARP packet.
pub(crate) fn input(mem: &mut LaneMem<'_>, now: Instant, rx: &RxFrame) {
    let parsed = EthFrame::parse(mem.frames.data(rx.head))
        .ok()
        .and_then(|eth| ArpPacket::parse(eth.payload()).ok().map(|arp| (eth.dst(), arp.header())));
    mem.frames.release_chain(rx.head);
    let Some((eth_dst, arp)) = parsed else {
        mem.counters.drop_packet(DropReason::ArpMalformed);
        return;
    };
    let Some(info) = ipv4::port_info(mem, rx.port).filter(|_| ipv4::is_own(mem, rx.port)) else {
        mem.counters.drop_packet(DropReason::ArpNotForUs);
        return;
    };
    let (mac, sender) = (info.mac, IpAddress::from_v4(arp.sender_ip));
    let for_us = ipv4::is_local(info, IpAddress::from_v4(arp.target_ip));
    let conflict = ipv4::is_local(info, sender) && arp.sender_mac != mac;
    if arp.sender_mac == mac || arp.sender_mac.is_multicast() || !(eth_dst == mac || eth_dst.is_multicast()) {
        mem.counters.drop_packet(DropReason::ArpNotForUs);
        return;
    }
    if conflict {
        defend(mem, now, rx.port, arp.sender_ip);
        return;
    }
    learn(mem, now, rx.port, &arp);
    if !for_us {
        mem.counters.drop_packet(DropReason::ArpNotForUs);
    } else if arp.operation == ArpOperation::REQUEST {
        send(mem, rx.port, arp.sender_mac, &arp.reply_from(mac));
    }
}

/// RFC 826, "Packet Reception": merge what the sender says of itself, if its address is in the table already.
fn learn(mem: &mut LaneMem<'_>, now: Instant, port: u8, arp: &ArpHeader) {
    let sender = arp.sender_ip;
    if sender.is_unspecified() || sender.is_multicast() || sender.is_broadcast() {
        return; // a probe (RFC 5227 1.1), or nonsense
    }
    let Some(at) = hop::find(mem, port, IpAddress::from_v4(sender)) else { return };
    let Some(row) = mem.hops.get(at) else { return };
    let settled = row.state == HOP_KNOWN && row.tries == 0;
    if settled && row.mac != arp.sender_mac && now.since(row.confirmed_at) < LOCK_TIME {
        return;
    }
    hop::know(mem, now, at, arp.sender_mac);
}

/// Somebody else uses our address `claimed`: say once that it is ours (RFC 5227 2.4(b)).
fn defend(mem: &mut LaneMem<'_>, now: Instant, port: u8, claimed: Ipv4Addr) {
    if may_defend(mem, now) {
        announce(mem, port, claimed);
    }
}

/// An address of ours is claimed: is it time to say again that it is ours? Counts the claim, of either family.
pub(crate) fn may_defend(mem: &mut LaneMem<'_>, now: Instant) -> bool {
    mem.ip.arp_conflicts = mem.ip.arp_conflicts.saturating_add(1);
    let first = mem.ip.arp_conflicts == 1;
    let due = first || now.since(mem.ip.arp_defended_at) >= DEFEND_EVERY;
    if due {
        mem.ip.arp_defended_at = now;
    }
    due
}

/// Tells everybody on the link of `port` that `addr` is ours (RFC 5227 2.3: an ARP announcement).
pub(crate) fn announce(mem: &mut LaneMem<'_>, port: u8, addr: Ipv4Addr) {
    let Some(mac) = ipv4::port_info(mem, port).map(|info| info.mac) else { return };
    let announcement = ArpHeader {
        operation: ArpOperation::REQUEST,
        sender_mac: mac,
        sender_ip: addr,
        target_mac: MacAddr::default(),
        target_ip: addr,
    };
    send(mem, port, MacAddr::BROADCAST, &announcement);
}

/// Asks for the MAC of `addr`: everybody on the link, or only the one `known` who had it last.
pub(crate) fn ask(mem: &mut LaneMem<'_>, port: u8, addr: IpAddress, known: Option<MacAddr>) {
    let Some(info) = ipv4::port_info(mem, port) else { return };
    let own = info.addrs.iter().take(info.addr_count as usize).find_map(|a| a.as_v4());
    let (Some(own), Some(target)) = (own, addr.as_v4()) else { return };
    let request = ArpHeader {
        operation: ArpOperation::REQUEST,
        sender_mac: info.mac,
        sender_ip: own,
        target_mac: MacAddr::default(),
        target_ip: target,
    };
    send(mem, port, known.unwrap_or(MacAddr::BROADCAST), &request);
}

fn send(mem: &mut LaneMem<'_>, port: u8, to: MacAddr, arp: &ArpHeader) {
    let Some(frame) = packet::fresh(&mut mem.frames, wire::eth::HEADER_LEN + PACKET_LEN) else { return };
    let eth = EthHeader { dst: to, src: arp.sender_mac, ethertype: EtherType::ARP };
    let written = mem
        .frames
        .data_mut(frame)
        .split_at_mut_checked(wire::eth::HEADER_LEN)
        .is_some_and(|(front, rest)| eth.emit(front).is_ok() && arp.emit(rest).is_ok());
    if !written {
        mem.frames.release(frame);
        return;
    }
    outbox::push_first(mem, frame, &Note::plain(port));
}
