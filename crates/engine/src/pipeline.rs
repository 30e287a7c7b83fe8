//! From a batch of frames, the clock and the control plane into the protocols.

use base::limits::BATCH_FRAMES;
use base::{Idx, Instant, MacAddr};
use state::{DropReason, Hop, LaneMem, RxBatch, RxFrame};
use wire::{EthFrame, EtherType, IpProtocol};

use crate::types::HopKey;
use crate::{arp, hop, hop_names, icmp, icmp6, ip_timers, ipv4, ipv6, load, tcp, transmit, udp_recv};

/// The note of a packet that is no usual segment.
const UNUSUAL: u32 = u32::MAX;

/// So many packets in front of the one being processed, what its connection has queued is fetched.
const AHEAD: usize = 6;

/// Takes every packet of `batch`.
#[inline]
pub(crate) fn handle_frames(mem: &mut LaneMem<'_>, now: Instant, batch: &mut RxBatch) {
    transmit::settle(mem);
    load::note(mem, batch.items());
    if let [rx] = batch.items() {
        count(mem, 1, u64::from(rx.len));
        handle_one(mem, now, rx);
    } else {
        handle_many(mem, now, batch);
    }
    batch.clear();
    hops_changed(mem, now);
}

#[inline(always)]
fn count(mem: &mut LaneMem<'_>, packets: usize, bytes: u64) {
    mem.counters.rx_packets = mem.counters.rx_packets.wrapping_add(packets as u64);
    mem.counters.rx_bytes = mem.counters.rx_bytes.wrapping_add(bytes);
}

/// A packet that came alone.
#[inline]
fn handle_one(mem: &mut LaneMem<'_>, now: Instant, rx: &RxFrame) {
    match tcp::verify::verify_alone(mem, rx) {
        Some(row) => handle_usual(mem, now, rx, row),
        None => handle_frame(mem, now, rx),
    }
}

/// The usual segment in `rx`, most likely of connection `row`.
#[inline(always)]
fn handle_usual(mem: &mut LaneMem<'_>, now: Instant, rx: &RxFrame, row: u32) {
    if !tcp::usual::input(mem, now, rx, row) {
        tcp::verify::forget(mem, rx);
        handle_frame(mem, now, rx);
    }
}

/// In stages, each over the whole batch, so that the memory of one packet's connection is loaded while others are looked at.
#[inline(never)]
fn handle_many(mem: &mut LaneMem<'_>, now: Instant, batch: &mut RxBatch) {
    let (packets, notes) = batch.items_and_notes();
    let bytes = packets.iter().fold(0, |bytes, rx| bytes + u64::from(rx.len));
    count(mem, packets.len(), bytes);
    verify(mem, packets, notes);
    let (packets, notes) = batch.items_and_notes();
    let mut at = 0;
    while let (Some(rx), Some(row)) = (packets.get(at), notes.get(at)) {
        if let Some(row) = notes.get(at + AHEAD) {
            tcp::verify::fetch_queued(mem, *row);
        }
        at += 1;
        if *row == UNUSUAL {
            handle_frame(mem, now, rx);
            continue;
        }
        handle_usual(mem, now, rx, *row);
        if notes.get(at) == Some(row) {
            at +=
                tcp::usual::go_on(mem, now, packets.get(at..).unwrap_or(&[]), notes.get(at..).unwrap_or(&[]));
        }
    }
}

/// The first stages: `notes` are the rows of usual segments.
#[inline(always)]
fn verify(mem: &mut LaneMem<'_>, packets: &[RxFrame], notes: &mut [u32]) {
    const _: () = assert!(BATCH_FRAMES <= u64::BITS as usize);
    // Notes that are hashes yet, by bits.
    let (mut new, mut bit) = (0_u64, 1_u64);
    for (rx, note) in packets.iter().zip(notes.iter_mut()) {
        let data = mem.frames.data(rx.head);
        *note = if let Some(row) = tcp::verify::verify_again(mem, rx, data) {
            tcp::verify::fetch(mem, row);
            row
        } else if let Some(hash) = tcp::verify::verify(mem, rx, data) {
            new |= bit;
            hash
        } else {
            tcp::verify::expect(mem, rx);
            UNUSUAL
        };
        bit <<= 1;
    }
    while let (Some(rx), Some(note)) =
        (packets.get(new.trailing_zeros() as usize), notes.get_mut(new.trailing_zeros() as usize))
    {
        *note = tcp::verify::find(mem, rx, *note).unwrap_or(UNUSUAL);
        new &= new - 1;
    }
}

/// Goes on with connections that waited for a next hop.
#[inline(always)]
fn hops_changed(mem: &mut LaneMem<'_>, now: Instant) {
    if !mem.ip.hops.changed.is_none() {
        resume(mem, now);
    }
}

#[inline(never)]
fn resume(mem: &mut LaneMem<'_>, now: Instant) {
    while let Some(at) = hop::poll_changed(mem) {
        tcp::hop_changed(mem, now, at);
    }
}

#[inline(never)]
fn handle_frame(mem: &mut LaneMem<'_>, now: Instant, rx: &RxFrame) {
    if tcp::usual_syn::input(mem, now, rx) {
        return;
    }
    let reason = match EthFrame::parse(mem.frames.data(rx.head)).map(|eth| eth.ethertype()) {
        Ok(EtherType::IPV4) => return handle_ipv4(mem, now, rx),
        Ok(EtherType::IPV6) => return handle_ipv6(mem, now, rx),
        Ok(EtherType::ARP) => return arp::input(mem, now, rx),
        Ok(EtherType::LOCAL) => return tcp::unwire::told(mem, now, rx),
        Ok(_) => DropReason::EthUnknownType,
        Err(_) => DropReason::EthMalformed,
    };
    mem.frames.release_chain(rx.head);
    mem.counters.drop_packet(reason);
}

fn handle_ipv4(mem: &mut LaneMem<'_>, now: Instant, rx: &RxFrame) {
    let Some(packet) = ipv4::input(mem, now, rx) else { return };
    match packet.protocol {
        IpProtocol::TCP => tcp::input(mem, now, &packet),
        IpProtocol::UDP => udp_recv::input(mem, now, packet),
        IpProtocol::ICMP4 => {
            if let Some(report) = icmp::input(mem, packet) {
                tcp::handle_report(mem, now, &report);
            }
        }
        _ => {
            mem.frames.release_chain(packet.head);
            mem.counters.drop_packet(DropReason::IpUnknownProtocol);
        }
    }
}

fn handle_ipv6(mem: &mut LaneMem<'_>, now: Instant, rx: &RxFrame) {
    let Some(packet) = ipv6::input(mem, now, rx) else { return };
    match packet.protocol {
        // Neither is for groups (RFC 9293 3.9.2.3; UDP to groups is the kernel's).
        IpProtocol::TCP | IpProtocol::UDP if !packet.dst.is_unicast() || !packet.src.is_unicast() => {
            mem.frames.release_chain(packet.head);
            mem.counters.drop_packet(DropReason::IpSourceBad);
        }
        IpProtocol::TCP => tcp::input(mem, now, &packet),
        IpProtocol::UDP => udp_recv::input(mem, now, packet),
        IpProtocol::ICMP6 => {
            if let Some(report) = icmp6::input(mem, now, packet) {
                tcp::handle_report(mem, now, &report);
            }
        }
        _ => ipv6::unknown_protocol(mem, now, &packet),
    }
}

pub(crate) fn handle_timers(mem: &mut LaneMem<'_>, now: Instant) {
    ip_timers::handle(mem, now);
    tcp::handle_timers(mem, now);
    hops_changed(mem, now);
}

pub(crate) fn handle_hop(
    mem: &mut LaneMem<'_>,
    now: Instant,
    at: Idx<Hop>,
    key: &HopKey,
    mac: Option<MacAddr>,
) {
    hop::resolved(mem, now, at, key, mac);
    hops_changed(mem, now);
}

pub(crate) fn name_hop(
    mem: &mut LaneMem<'_>,
    now: Instant,
    (at, key): (Idx<Hop>, &HopKey),
    next_hop: base::IpAddress,
    mac: MacAddr,
) {
    hop_names::name(mem, now, (at, key), next_hop, mac);
    hops_changed(mem, now);
}

pub(crate) fn next_deadline(mem: &LaneMem<'_>) -> Instant {
    ip_timers::deadline(mem).min(tcp::deadline(mem))
}

pub(crate) fn poll_unresolved(mem: &mut LaneMem<'_>, _now: Instant) -> Option<(Idx<Hop>, HopKey)> {
    hop::poll_unresolved(mem)
}
