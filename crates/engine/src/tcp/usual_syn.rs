//! Usual SYNs and SYN,ACKs (see `wire::usual_syn`), both ways: taken and sent in one go. What is unusual about one takes the way of all segments.

use ::state::ports::PORT_LOOPBACK;
use ::state::{CsumState, FlowKey, LaneMem, RxFrame, TcbCold, TcbHot, TcpGlobals, TxBatch};
use base::limits::FRAME_HEADROOM;
use base::{FrameIdx, Idx, Instant, IpAddress, SeqNum};
use wire::{TcpFlags, Timestamps, UsualSyn, tcp, usual, usual_syn};

use super::conn::{arm, arm_early, cold_of};
use super::header::{TCP_AT, timestamp_clock};
use super::input::take;
use super::segment::Seg;
use super::table::{self, Whose};
use super::usual_out::{count, front_of, note_sent};
use super::verify::is_intact;
use super::{State, cc_flag, ecn, flag, rtt, window};
use crate::{away, ipv4};

/// So much longer than those of a usual segment the headers are. What they have in common, up to the ports, is that of a usual segment with
/// a payload of this length.
const LONGER: u32 = (usual_syn::LEN - usual::HEADER_LEN) as u32;

/// Takes the packet in `rx` if it is a usual SYN or SYN,ACK for this lane. False: it was not touched.
#[inline(never)]
pub(crate) fn input(mem: &mut LaneMem<'_>, now: Instant, rx: &RxFrame) -> bool {
    let Some(syn) = UsualSyn::parse(mem.frames.data(rx.head)) else { return false };
    let whole =
        rx.len as usize == usual_syn::LEN && mem.frames.meta(rx.head).is_some_and(|meta| meta.next.is_none());
    if !whole
        || mem.globals.keys.used != 0
        || !comes_to_us(mem, rx, &syn)
        || (rx.csum == CsumState::Unknown && !is_intact(rx, syn.tcp_sum(), syn.pseudo(), syn.checksum()))
    {
        return false;
    }
    let mut seg = segment_of(rx, &syn);
    let found = table::find_awake(mem, now, &seg.key);
    if found == Whose::Nobody && away::is_elsewhere(mem, &seg.key) {
        return false;
    }
    mem.counters.tcp.segments_in = mem.counters.tcp.segments_in.wrapping_add(1);
    mem.frames.release(rx.head);
    take(mem, now, found, &mut seg);
    true
}

/// Is the SYN in `rx` addressed to this lane's end of the port that it came by, from an address that others may have?
#[inline(always)]
fn comes_to_us(mem: &LaneMem<'_>, rx: &RxFrame, syn: &UsualSyn<'_>) -> bool {
    let Some(info) = ipv4::port_info(mem, rx.port).filter(|info| syn.dst_mac() == info.mac) else {
        return false;
    };
    let (src, dst) = (syn.ends().src(), syn.ends().dst());
    info.flags & PORT_LOOPBACK == 0
        && ipv4::is_local(info, IpAddress::from_v4(dst))
        && ipv4::may_send(info, src)
}

/// The segment in `rx`.
#[inline(always)]
fn segment_of(rx: &RxFrame, syn: &UsualSyn<'_>) -> Seg {
    let ends = syn.ends();
    let (remote_port, local_port) = ends.ports();
    let (local, remote) = (IpAddress::mapped(ends.dst()), IpAddress::mapped(ends.src()));
    Seg {
        key: FlowKey { local, remote, local_port, remote_port },
        seq: syn.seq(),
        ack: syn.ack(),
        flags: syn.flags(),
        window: syn.window(),
        urgent: 0,
        ecn: syn.ecn(),
        port: rx.port,
        gso_size: rx.gso_size,
        len: 0,
        head: FrameIdx::NONE,
        src_mac: syn.src_mac(),
        options: syn.options(),
    }
}

/// Sends the SYN or SYN,ACK that connection `at` has to send for the first time, if it goes over IPv4, without data, with all usual options and
/// no other. False: it is none or cannot be sent now, and nothing was done.
pub(super) fn emit(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>, out: &mut TxBatch) -> bool {
    emit_usual(mem, now, at, out).is_some()
}

#[inline(always)]
fn emit_usual(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>, out: &mut TxBatch) -> Option<()> {
    let (hot, cold) = (mem.hot.get_mut(at)?, mem.cold.get_mut(cold_of(at))?);
    let lane = &mem.globals.tcp;
    let first = hot.state == State::SynSent as u8;
    if !is_usual(hot, cold, lane) {
        return None;
    }
    let packet = out.slot()?;
    let kept = (&mut mem.kept, mem.globals.ways);
    let tos = ecn::without(cold.options.tos);
    let front = front_of(kept, at, (hot, cold), (&mem.hops, &mem.ports), (tos, LONGER))?;
    let head = mem.frames.alloc_at(FRAME_HEADROOM as u16, usual_syn::LEN as u16, 0)?;
    let (flags, ack, echo) = if first {
        (TcpFlags::SYN, SeqNum(0), 0)
    } else {
        (TcpFlags::SYN | TcpFlags::ACK, hot.rcv.nxt, hot.rcv.ts_recent)
    };
    let flags = flags | ecn::of_syn(cold, lane, first);
    let window = window::announce_syn_window(hot);
    let to: &mut [u8; usual_syn::LEN] = mem.frames.room_mut(head, FRAME_HEADROOM).first_chunk_mut()?;
    usual::begin(to, &front.front, front.pseudo);
    usual::put_transport(to, cold.iss, ack, flags, window);
    let timestamps = Timestamps { value: timestamp_clock(now, cold), echo };
    usual_syn::put_options(to, cold.mss_local, timestamps, hot.rcv_shift);
    packet.start(head);
    packet.port = hot.port;
    packet.csum_start = TCP_AT as u16;
    packet.csum_offset = tcp::CHECKSUM_OFFSET as u16;
    packet.header_bytes = usual_syn::LEN as u16;
    out.accept();
    count(mem.counters, 1, LONGER);
    note_sent(hot);
    hot.flags = hot.flags & !flag::SEND_SYN | flag::TIMING;
    hot.rtt.timed_seq = cold.iss.plus(1);
    hot.rtt.timed_at_us = rtt::clock_us(now);
    hot.rexmit_at = now.plus(rtt::rto(&hot.rtt, 0));
    arm_early(hot, &mut mem.wheel, at, now);
    arm(hot, cold, &mut mem.wheel, at);
    Some(())
}

/// Is there a SYN or SYN,ACK to be sent, for the first time, with the usual options, and nothing else?
#[inline(always)]
fn is_usual(hot: &TcbHot, cold: &TcbCold, lane: &TcpGlobals) -> bool {
    const WANTED: u32 = flag::SEND_SYN;
    const UNUSUAL: u32 = flag::SEND_PROBE | flag::TIMING;
    const AGREED: u32 = flag::TIMESTAMPS | flag::SACK;
    let answers = hot.state == State::SynRcvd as u8
        && hot.flags & AGREED == AGREED
        && cold.cc_flags & cc_flag::WINDOW_SCALE != 0;
    (hot.state == State::SynSent as u8 || answers)
        && hot.flags & (WANTED | UNUSUAL) == WANTED
        && hot.ooo_head.is_none()
        && cold.loss.backoff == 0
        && cold.ooo.sign == 0
        && cold.fast == 0
        && (lane.usual.no_timestamps, lane.usual.no_sack, lane.usual.no_window_scaling) == (0, 0, 0)
}
