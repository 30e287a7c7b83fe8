//! Usual segments that [`super::verify`] found good, processed by header prediction. What is unusual takes the way of all others.

use ::state::{FlowKey, LaneMem, Ready, RxFrame, TcbCold, TcbHot, TcpCounters, TcpGlobals};
use base::{FrameIdx, Idx, Instant, SeqNum};
use region::Frames;
use wire::{TcpOptions, Timestamps, Usual, usual};

use super::ack::{start_timer, update_window};
use super::congestion;
use super::conn::{Ring, arm, cold_of, conn, push_ring};
use super::input::for_connection;
use super::queue::trim_acked;
use super::rack::note_rtt;
use super::receive::{COMPACT_MAX, ack_is_due, must_refuse};
use super::segment::Seg;
use super::verify::key_of;
use super::{RESERVE_FRAMES, State, auth, flag, rtt, tune, usual_end, usual_open, window};
use crate::events::notifier;

/// A usual segment in its connection's terms.
pub(super) struct Facts {
    key: FlowKey,
    /// The port it came by.
    port: u8,
    pub(super) seq: SeqNum,
    pub(super) ack: SeqNum,
    /// As sent, not scaled.
    pub(super) window: u16,
    pub(super) stamps: Timestamps,
    /// Is FIN set?
    pub(super) fin: bool,
    /// Payload bytes.
    pub(super) len: u32,
}

impl Facts {
    /// Those of the segment in `rx`, which [`super::verify`] found usual.
    #[inline(always)]
    fn of(frames: &Frames<'_>, rx: &RxFrame) -> Option<Self> {
        let segment = Usual::again(frames.data(rx.head))?;
        Some(Self {
            key: key_of(&segment),
            port: rx.port,
            seq: segment.seq(),
            ack: segment.ack(),
            window: segment.window(),
            stamps: segment.timestamps(),
            fin: segment.flags().is_fin(),
            len: rx.len - usual::HEADER_LEN as u32,
        })
    }
}

/// Takes the segment in `rx`, which [`super::verify`] found usual, if it is one of the connection `row`. False: it was not touched.
#[inline(always)]
pub(crate) fn input(mem: &mut LaneMem<'_>, now: Instant, rx: &RxFrame, row: u32) -> bool {
    let is_open = mem.hot.get(Idx::new(row)).is_some_and(|hot| hot.state == State::Established as u8);
    if is_open { input_open(mem, now, rx, row) } else { input_any(mem, now, rx, Idx::new(row)) }
}

/// [`input`] of a connection in ESTABLISHED. An ordinary segment, what header prediction takes (`Conn::is_predicted`), is taken in one go.
#[inline(never)] // on its own the compiler keeps more of it in registers
fn input_open(mem: &mut LaneMem<'_>, now: Instant, rx: &RxFrame, row: u32) -> bool {
    let Some(facts) = Facts::of(&mem.frames, rx) else { return false };
    let at = Idx::new(row);
    let (Some(hot), Some(cold)) = (mem.hot.get_mut(at), mem.cold.get_mut(cold_of(at))) else { return false };
    if !is_ordinary(hot, cold, &facts) || (hot.rcv_bytes > 0 && must_refuse(hot, &mem.frames)) {
        return input_any(mem, now, rx, at);
    }
    count(&mut mem.counters.tcp, 1, u64::from(!facts.fin));
    if hot.flags & flag::KEEPALIVE != 0 {
        cold.heard_at = now;
        cold.loss.keep_probes = 0;
    }
    // RFC 7323 4.3: TS.Recent follows the segment that holds Last.ACK.sent.
    if facts.seq.at_or_before(hot.rcv.ack_sent) {
        hot.rcv.ts_recent = facts.stamps.value;
        cold.ts_recent_at = now;
    }
    let (acked, flight) = (facts.ack.since(hot.snd.una), hot.snd.nxt.since(hot.snd.una));
    let grows = acked != 0 && congestion::limits(hot, flight);
    let shared = (&mem.globals.tcp, &mut mem.frames);
    let (mut ready, mut wants) = take_ack(hot, cold, shared, now, &facts);
    let mut tunes = false;
    if facts.len == 0 {
        mem.frames.release(rx.head);
        arm(hot, cold, &mut mem.wheel, at);
    } else {
        strip(&mut mem.frames, rx.head);
        let large = || facts.len > u32::from(COMPACT_MAX) && !mem.frames.is_short(RESERVE_FRAMES);
        if hot.rcv_queue.head.is_none() || large() {
            link(hot, cold, &mut mem.frames, rx.head, facts.len);
            if hot.rcv_bytes >= cold.options.rcv_low_bytes.min(hot.rcv_buf / 2) {
                ready |= Ready::IN;
            }
            wants |= acknowledge_later(hot, now, rx.gso_size != 0);
            arm(hot, cold, &mut mem.wheel, at);
            tunes = tune::is_due(hot, cold);
        } else {
            wants |= deliver(mem, now, rx, at);
        }
    }
    if grows {
        grow(mem, now, at, acked, facts.stamps.echo);
    }
    if tunes {
        tune::look(mem, now, at, Some(facts.stamps.echo));
    }
    if !ready.is_none() {
        notifier(mem).notify(row, ready);
    }
    if wants != 0 {
        enlist(mem, at, wants);
    }
    if facts.fin {
        take_fin(mem, now, at, facts.stamps.echo);
    }
    true
}

/// Takes segments from the front of `packets` that go on where the one before them ended, of the same connection: the first of
/// `rows`, as long as they tell nothing new but bytes that stay in their frames. Gives their number.
#[inline(never)]
pub(crate) fn go_on(mem: &mut LaneMem<'_>, now: Instant, packets: &[RxFrame], rows: &[u32]) -> usize {
    let Some(row) = rows.first() else { return 0 };
    let at = Idx::new(*row);
    let (Some(hot), Some(cold)) = (mem.hot.get_mut(at), mem.cold.get_mut(cold_of(at))) else { return 0 };
    let (mut taken, mut wants, mut echo) = (0, 0, 0);
    for (rx, of) in packets.iter().zip(rows) {
        let Some(facts) = Facts::of(&mem.frames, rx).filter(|_| of == row) else { break };
        let goes_on = is_ordinary(hot, cold, &facts)
            && facts.ack == hot.snd.una
            && u32::from(facts.window) << hot.snd_shift.min(14) == hot.snd.wnd
            && facts.seq.after(hot.rcv.ack_sent)
            && facts.len > u32::from(COMPACT_MAX)
            && !mem.frames.is_short(RESERVE_FRAMES);
        if !goes_on {
            break;
        }
        strip(&mut mem.frames, rx.head);
        link(hot, cold, &mut mem.frames, rx.head, facts.len);
        hot.snd.wl1 = facts.seq;
        echo = facts.stamps.echo;
        wants |= acknowledge_later(hot, now, rx.gso_size != 0);
        taken += 1;
    }
    if taken == 0 {
        return 0;
    }
    count(&mut mem.counters.tcp, taken as u64, taken as u64);
    arm(hot, cold, &mut mem.wheel, at);
    let grows = tune::is_due(hot, cold);
    if hot.rcv_bytes >= cold.options.rcv_low_bytes.min(hot.rcv_buf / 2) {
        notifier(mem).notify(*row, Ready::IN);
    }
    if grows {
        tune::look(mem, now, at, Some(echo));
    }
    if wants != 0 {
        enlist(mem, at, wants);
    }
    taken
}

#[inline(always)]
fn count(tcp: &mut TcpCounters, taken: u64, predicted: u64) {
    tcp.segments_in = tcp.segments_in.wrapping_add(taken);
    tcp.predicted = tcp.predicted.wrapping_add(predicted);
}

/// What the ACK and the window of an ordinary segment do. Gives what the program is told and the rings to be in.
#[inline(always)]
fn take_ack(
    hot: &mut TcbHot,
    cold: &mut TcbCold,
    (tcp, frames): (&TcpGlobals, &mut Frames<'_>),
    now: Instant,
    facts: &Facts,
) -> (Ready, u32) {
    let mut ready = Ready::NONE;
    let opened = update_window(hot, facts.seq, facts.ack, facts.window);
    if facts.ack != hot.snd.una {
        acknowledge(hot, cold, frames, now, facts.ack);
        if hot.flags & flag::WANTS_ROOM != 0 {
            tune::expand_send(hot, cold, tcp, frames);
            if window::has_room(hot, cold, frames) {
                hot.flags &= !flag::WANTS_ROOM;
                ready = Ready::OUT;
            }
        }
    } else if opened {
        if hot.flags & flag::PERSIST != 0 && hot.snd.wnd > 0 {
            hot.flags &= !flag::PERSIST;
            hot.rexmit_at = Instant::NEVER;
        }
    } else {
        return (ready, 0);
    }
    (ready, has_unsent(hot))
}

/// Takes the segment in `rx` if it is one of the connection `at`, whatever the connection's state. False: it was not touched.
#[inline(never)]
fn input_any(mem: &mut LaneMem<'_>, now: Instant, rx: &RxFrame, at: Idx<TcbHot>) -> bool {
    let (Some(hot), Some(facts)) = (mem.hot.get(at), Facts::of(&mem.frames, rx)) else { return false };
    if hot.key != facts.key
        || hot.port != rx.port
        || hot.flags & flag::HELD == 0
        // Also a note of where it went: whoever has it now takes what comes here late.
        || State::from_raw(hot.state) == State::Closed
    {
        return false;
    }
    let (opens, is_orphan) = (hot.state == State::SynRcvd as u8, hot.flags & flag::ORPHAN != 0);
    let signed =
        mem.globals.keys.used != 0 && mem.cold.get(cold_of(at)).is_some_and(|cold| cold.ooo.sign != 0);
    if signed {
        auth::refuse_unsigned(mem, at);
        mem.frames.release_chain(rx.head);
        return true;
    }
    if is_orphan && usual_end::take(mem, now, at, &facts) {
        mem.frames.release(rx.head);
        return true;
    }
    if opens && usual_open::take(mem, now, at, (&facts, rx)) {
        return true;
    }
    let Some(segment) = Usual::again(mem.frames.data(rx.head)) else { return false };
    let mut seg = Seg {
        key: facts.key,
        seq: facts.seq,
        ack: facts.ack,
        flags: segment.flags(),
        window: facts.window,
        urgent: 0,
        ecn: segment.ecn(),
        port: rx.port,
        gso_size: rx.gso_size,
        len: facts.len,
        head: rx.head,
        src_mac: segment.src_mac(),
        options: TcpOptions { timestamps: Some(facts.stamps), ..TcpOptions::NONE },
    };
    mem.counters.tcp.segments_in = mem.counters.tcp.segments_in.wrapping_add(1);
    if seg.len == 0 {
        mem.frames.release(seg.take_payload());
    } else {
        strip(&mut mem.frames, rx.head);
    }
    for_connection(mem, now, at, &mut seg);
    mem.frames.release_chain(seg.head);
    true
}

/// Is the segment what header prediction takes, or the FIN alone that follows what came?
#[inline(always)]
fn is_ordinary(hot: &TcbHot, cold: &TcbCold, facts: &Facts) -> bool {
    const NEEDED: u32 = flag::TIMESTAMPS;
    const UNUSUAL: u32 = flag::RECOVERY | flag::STALLED | flag::FIN_AHEAD | flag::SPECIAL;
    let acked = facts.ack.since(hot.snd.una);
    hot.state == State::Established as u8
        && hot.flags & (NEEDED | UNUSUAL) == NEEDED
        && (!facts.fin || facts.len == 0)
        && facts.seq == hot.rcv.nxt
        && hot.ooo_head.is_none()
        && facts.len <= window::rcv_wnd(hot)
        && acked <= hot.snd.nxt.since(hot.snd.una)
        && (acked | facts.len != 0 || facts.fin)
        && (facts.stamps.value.wrapping_sub(hot.rcv.ts_recent) as i32) >= 0
        && cold.board.is_none()
        && hot.key == facts.key
        // Over a wire between lanes comes what is its connections' only: see `strays`.
        && hot.port == facts.port
}

/// SEG.ACK acknowledges something new (as `Conn::acknowledge`, without losses). For the window see [`grow`].
#[inline(always)]
fn acknowledge(hot: &mut TcbHot, cold: &mut TcbCold, frames: &mut Frames<'_>, now: Instant, ack: SeqNum) {
    if hot.flags & flag::TIMING != 0 && ack.at_or_after(hot.rtt.timed_seq) {
        hot.flags &= !flag::TIMING;
        let us = rtt::clock_us(now).wrapping_sub(hot.rtt.timed_at_us);
        rtt::sample(&mut hot.rtt, us);
        note_rtt(cold, us);
    }
    trim_acked(hot, frames, ack);
    hot.snd.una = ack;
    hot.dup_acks = 0;
    hot.flags &= !(flag::TAIL_PROBED | flag::PERSIST | flag::TAIL_PROBE);
    // RFC 6298 5.2, 5.3.
    if ack == hot.snd.nxt {
        hot.rexmit_at = Instant::NEVER;
    } else {
        start_timer(hot, now, 0);
    }
}

// What follows is not inlined, so that the compiler keeps the row's address in a register on the way that most segments take.

/// The window of connection `at` grows, as the `acked` bytes filled it; their segment echoed our timestamp `echo`.
#[inline(never)]
fn grow(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>, acked: u32, echo: u32) {
    let (Some(hot), Some(cold)) = (mem.hot.get_mut(at), mem.cold.get_mut(cold_of(at))) else { return };
    let rtt_us = rtt::echoed_us(now, cold.ts_offset, echo);
    if let Some(mut w) = congestion::window((hot, cold), &mut mem.cc, &mem.globals.tcp, at, now) {
        w.grow(acked, rtt_us);
    }
}

/// The FIN of an ordinary segment, which echoed our timestamp `echo`, of connection `at`, which is in ESTABLISHED.
#[inline(never)]
fn take_fin(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>, echo: u32) {
    let Some(mut c) = conn(mem, now, at) else { return };
    c.cold.fin_seq = c.hot.rcv.nxt;
    // From ESTABLISHED it leads to CLOSE-WAIT, where the connection stays.
    let _ = c.on_fin();
    c.arm();
    if tune::is_due(c.hot, c.cold) {
        tune::look(mem, now, at, Some(echo));
    }
}

/// The payload in `rx` is copied behind what is unread, or linked. Gives the ring to be in for it.
#[inline(never)]
fn deliver(mem: &mut LaneMem<'_>, now: Instant, rx: &RxFrame, at: Idx<TcbHot>) -> u32 {
    let Some(mut c) = conn(mem, now, at) else { return 0 };
    c.deliver(rx.head);
    let wants = acknowledge_later(c.hot, now, rx.gso_size != 0);
    c.arm();
    wants
}

/// The ring to be in while data waits to be sent.
#[inline]
fn has_unsent(hot: &TcbHot) -> u32 {
    if hot.snd.end.after(hot.snd.nxt) { flag::RING_DATA } else { 0 }
}

/// Takes the headers off.
#[inline]
pub(super) fn strip(frames: &mut Frames<'_>, head: FrameIdx) {
    if let Some(meta) = frames.meta_mut(head) {
        meta.offset = meta.offset.saturating_add(usual::HEADER_LEN as u16);
        meta.len = meta.len.saturating_sub(usual::HEADER_LEN as u16);
    }
}

/// Appends `frame`, which holds the next `len` bytes, to the receive queue.
#[inline]
fn link(hot: &mut TcbHot, cold: &mut TcbCold, frames: &mut Frames<'_>, frame: FrameIdx, len: u32) {
    let before = core::mem::replace(&mut hot.rcv_queue.tail, frame);
    if hot.rcv_queue.head.is_none() {
        hot.rcv_queue.head = frame;
    } else if let Some(last) = frames.meta_mut(before) {
        last.next = frame;
    }
    hot.rcv.nxt = hot.rcv.nxt.plus(len);
    hot.rcv_bytes = hot.rcv_bytes.saturating_add(len);
    cold.bytes_in = cold.bytes_in.wrapping_add(u64::from(len));
}

/// When to acknowledge the data that came. Gives the ring to be in for it.
#[inline(always)]
fn acknowledge_later(hot: &mut TcbHot, now: Instant, merged: bool) -> u32 {
    if ack_is_due(hot, now, merged) {
        hot.flags |= flag::ACK_NOW;
        flag::RING_ACK
    } else {
        0
    }
}

/// Puts connection `at` into the rings whose flags are in `wants`.
#[inline(never)]
fn enlist(mem: &mut LaneMem<'_>, at: Idx<TcbHot>, wants: u32) {
    let Some(hot) = mem.hot.get_mut(at) else { return };
    let new = wants & !hot.flags;
    hot.flags |= new;
    for ring in [Ring::Ack, Ring::Data] {
        if new & ring.flag() != 0 {
            push_ring(&mut mem.globals.tcp, &mut mem.rings, ring, at);
        }
    }
}
