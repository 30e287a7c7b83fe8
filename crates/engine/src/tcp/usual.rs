//! Usual segments of a batch (see `wire::usual`) in stages: verified and hashed, their rows fetched, then processed by header
//! prediction. A segment that any stage finds unusual takes the way of all others.

use ::state::dormant::DORMANT;
use ::state::{CsumState, FlowKey, LaneMem, Ready, RxFrame, TcbCold, TcbHot, TcpCounters, TcpGlobals};
use base::{FrameIdx, Idx, Instant, IpAddress, MacAddr, SeqNum};
use region::Frames;
use wire::{Sum, TcpOptions, Timestamps, Usual, eth, usual};

use super::ack::{start_timer, update_window};
use super::congestion;
use super::conn::{Ring, arm, cold_of, conn, push_ring};
use super::input::for_connection;
use super::queue::trim_acked;
use super::rack::note_rtt;
use super::receive::{COMPACT_MAX, ack_is_due, must_refuse};
use super::segment::Seg;
use super::{RESERVE_FRAMES, State, auth, flag, rtt, table, tune, window};
use crate::events::notifier;
use crate::ipv4;

/// The last usual segment of a batch that was for us: the next one is often of the same connection.
#[derive(Default)]
pub(crate) struct Before {
    ends: usual::Ends,
    to: MacAddr,
    /// The port it came by, and 1; 0: there was none.
    port: u16,
    hash: u32,
}

/// Does `rx` hold a usual segment for us, whole in one frame and with good checksums? Gives the hash of its connection, and
/// has the hash's bucket loaded.
#[inline(always)]
pub(crate) fn verify(mem: &LaneMem<'_>, rx: &RxFrame, before: &mut Before) -> Option<u32> {
    let segment = whole(mem, rx)?;
    let (ends, port) = (segment.ends(), u16::from(rx.port) + 1);
    if before.ends != ends || before.port != port || before.to != segment.dst_mac() {
        if !is_for_us(mem, rx, &segment) {
            return None;
        }
        let hash = table::hash_of(mem, &key_of(&segment));
        *before = Before { ends, to: segment.dst_mac(), port, hash };
        mem.flows.prefetch(hash);
    }
    has_good_sum(mem, rx, &segment).then_some(before.hash)
}

/// [`verify`] of a segment that came alone; gives the row that most likely belongs to it: that of the last one, if it is of the
/// same connection, which is found without a hash.
#[inline(always)]
pub(crate) fn verify_alone(mem: &LaneMem<'_>, rx: &RxFrame) -> Option<u32> {
    let segment = whole(mem, rx).filter(|segment| is_for_us(mem, rx, segment))?;
    let key = key_of(&segment);
    let again = |hot: &TcbHot| hot.state == State::Established as u8 && hot.key == key;
    if mem.hot.get(mem.guess).is_some_and(again) {
        return has_good_sum(mem, rx, &segment).then_some(mem.guess.raw());
    }
    let hash = table::hash_of(mem, &key);
    mem.flows.prefetch(hash);
    has_good_sum(mem, rx, &segment).then_some(())?;
    mem.flows.candidate(hash).filter(|row| row & DORMANT == 0)
}

/// The segment in `rx`, if it is a usual one, whole in one frame.
#[inline(always)]
fn whole<'m>(mem: &'m LaneMem<'_>, rx: &RxFrame) -> Option<Usual<'m>> {
    let data = mem.frames.data(rx.head);
    let segment = Usual::parse(data)?;
    mem.frames.meta(rx.head).filter(|meta| meta.next.is_none())?;
    let total = eth::HEADER_LEN + usize::from(segment.total_len());
    (rx.len as usize == total && data.len() == total).then_some(segment)
}

/// Is the checksum of the `segment` in `rx` right, or known to be?
#[inline(always)]
fn has_good_sum(mem: &LaneMem<'_>, rx: &RxFrame, segment: &Usual<'_>) -> bool {
    if rx.csum != CsumState::Unknown {
        return true;
    }
    let tcp = mem.frames.data(rx.head).get(usual::TCP_AT..).unwrap_or(&[]);
    is_intact(rx, Sum::of(tcp), segment.pseudo(), segment.checksum())
}

/// Does the checksum of the segment in `rx`, whose bytes have the sum `tcp`, say that it is as it was sent? A peer on this machine may leave
/// its `field` unfinished, which holds just the sum of the `pseudo`-header then.
#[inline(always)]
pub(super) fn is_intact(rx: &RxFrame, tcp: Sum, pseudo: Sum, field: u16) -> bool {
    pseudo.plus(tcp).is_valid() || (rx.local_peer && field == pseudo.fold())
}

/// Is the segment in `rx` addressed to this lane's end of the port it came by?
#[inline(always)]
fn is_for_us(mem: &LaneMem<'_>, rx: &RxFrame, segment: &Usual<'_>) -> bool {
    let Some(info) = ipv4::port_info(mem, rx.port).filter(|info| segment.dst_mac() == info.mac) else {
        return false;
    };
    let local = IpAddress::mapped(segment.dst());
    let first = info.addr_count > 0 && info.addrs.first() == Some(&local);
    first || ipv4::is_for_us(info, segment.src(), segment.dst())
}

/// Has the bucket loaded in which the connection of the segment in `rx` is looked up, if it is no usual one but one of TCP.
pub(crate) fn expect(mem: &LaneMem<'_>, rx: &RxFrame) {
    let Some(ends) = usual::Ends::of(mem.frames.data(rx.head)) else { return };
    let (remote_port, local_port) = ends.ports();
    let (local, remote) = (IpAddress::mapped(ends.dst()), IpAddress::mapped(ends.src()));
    mem.flows.prefetch(table::hash_of(mem, &FlowKey { local, remote, local_port, remote_port }));
}

/// The row that most likely belongs to `hash`, on its way into the cache.
#[inline]
pub(crate) fn fetch(mem: &LaneMem<'_>, hash: u32) -> Option<u32> {
    let row = mem.flows.candidate(hash)?;
    if row & DORMANT != 0 {
        mem.dormant.prefetch_lines(Idx::new(row & !DORMANT), 0, 2);
        return None;
    }
    mem.hot.prefetch_lines(Idx::new(row), 0, 3);
    mem.cold.prefetch_lines(Idx::new(row), 0, 2);
    mem.events.prefetch(Idx::new(row));
    Some(row)
}

/// What the connection of `row`, which was fetched, has queued is on its way into the cache: its segment will likely free
/// the first frame, and the answer to it will be written there.
#[inline(always)]
pub(crate) fn fetch_queued(mem: &LaneMem<'_>, row: u32) {
    if let Some(hot) = mem.hot.get(Idx::new(row)) {
        mem.frames.prefetch(hot.snd_queue.head);
    }
}

/// A usual segment in its connection's terms.
struct Facts {
    key: FlowKey,
    /// The port it came by.
    port: u8,
    seq: SeqNum,
    ack: SeqNum,
    /// As sent, not scaled.
    window: u16,
    stamps: Timestamps,
    /// Is FIN set?
    fin: bool,
    /// Payload bytes.
    len: u32,
}

impl Facts {
    /// Those of the segment in `rx`, which [`verify`] found usual.
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

/// Takes the segment in `rx`, which [`verify`] found usual, if it is an ordinary one of the open connection `row`: what
/// header prediction takes (`Conn::is_predicted`), in one go. False: it was not touched.
#[inline(never)] // on its own the compiler keeps more of it in registers
pub(crate) fn input(mem: &mut LaneMem<'_>, now: Instant, rx: &RxFrame, row: u32) -> bool {
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
    let (Some(hot), Some(segment)) = (mem.hot.get(at), Usual::again(mem.frames.data(rx.head))) else {
        return false;
    };
    let key = key_of(&segment);
    if hot.key != key
        || hot.port != rx.port
        || hot.flags & flag::HELD == 0
        || hot.state == State::Closed as u8
    {
        return false;
    }
    let signed =
        mem.globals.keys.used != 0 && mem.cold.get(cold_of(at)).is_some_and(|cold| cold.ooo.sign != 0);
    if signed {
        auth::refuse_unsigned(mem, at);
        mem.frames.release_chain(rx.head);
        return true;
    }
    let mut seg = Seg {
        key,
        seq: segment.seq(),
        ack: segment.ack(),
        flags: segment.flags(),
        window: segment.window(),
        urgent: 0,
        ecn: segment.ecn(),
        port: rx.port,
        gso_size: rx.gso_size,
        len: rx.len - usual::HEADER_LEN as u32,
        head: rx.head,
        src_mac: segment.src_mac(),
        options: TcpOptions { timestamps: Some(segment.timestamps()), ..TcpOptions::NONE },
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
fn strip(frames: &mut Frames<'_>, head: FrameIdx) {
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

/// The connection's four numbers, seen from our side.
#[inline]
fn key_of(segment: &Usual<'_>) -> FlowKey {
    FlowKey {
        local: IpAddress::mapped(segment.dst()),
        remote: IpAddress::mapped(segment.src()),
        local_port: segment.dst_port(),
        remote_port: segment.src_port(),
    }
}
