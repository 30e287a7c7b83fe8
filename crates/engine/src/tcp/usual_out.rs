//! The usual way out of new data, ACKs and FINs: segments with timestamps and no other option, within the windows, of a
//! connection with no losses; in one go what `Conn::emit_data` and `Conn::emit_ack` do step by step.

use ::state::hop::HOP_KNOWN;
use ::state::{Counters, Hop, KEPT, Kept, LaneMem, Piece, PortInfo, TcbCold, TcbHot, TxBatch, TxFrame};
use base::limits::FRAME_HEADROOM;
use base::{FrameIdx, Idx, Instant, IpAddress, SeqNum};
use region::{Frames, Table};
use wire::{TcpFlags, Timestamps, tcp, usual};

use super::ack::start_timer;
use super::congestion::starts_again;
use super::conn::{Ring, arm, cold_of, leave_front};
use super::header::{TCP_AT, TTL_DEFAULT};
use super::{State, ecn, flag, rtt, window};

/// Sends the next segment of new data of connection `at`, or its FIN; and the segments behind it if no other connection has
/// data. True: there is more. `None`: it is not the usual case, and nothing was done.
#[inline]
pub(super) fn emit(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>, out: &mut TxBatch) -> Option<bool> {
    let (hot, cold) = (mem.hot.get_mut(at)?, mem.cold.get_mut(cold_of(at))?);
    if !hot.snd.end.after(hot.snd.nxt) {
        return if has_nothing(hot) { Some(false) } else { emit_fin(mem, now, at, out) };
    }
    let len = next_len(hot, cold, now)?;
    if hot.snd.end.since(hot.snd.nxt) > len && super_segments(&mem.ports, hot) >= 2 * len {
        return None;
    }
    let cut = Cut::of(&mem.frames, hot, len)?;
    let flags = flags_of(hot, len);
    let by = (&mem.hops, &mem.ports);
    let kept = (&mut mem.kept, mem.globals.ways);
    let front = front_of(kept, at, (hot, cold), by, (cold.options.tos, len))?;
    let head = emit_one((hot, cold), front, &mut mem.frames, now, out, &Segment { cut, flags })?;
    let [_, _, others] = &mem.globals.tcp.rings;
    let alone = others.head == others.tail;
    advance(hot, len, cut.behind);
    let (timed, mut segments) = (hot.snd.nxt, 1);
    if alone && hot.snd.nxt != hot.snd.end {
        segments += emit_behind(&mut mem.frames, (hot, cold), now, out, (head, len));
    }
    count(mem.counters, segments, len);
    note_sent(hot);
    if cold.bytes_in > 0 {
        // The two ends talk in turns, so the next data will carry the ACK (Linux's ping-pong mode).
        hot.quick_acks = 0;
    }
    let bytes = segments * len;
    if bytes < u32::from(hot.mss) {
        cold.snd_small = hot.snd.nxt;
    }
    cold.bytes_out = cold.bytes_out.wrapping_add(u64::from(bytes));
    note_timed(hot, now, timed);
    arm(hot, cold, &mut mem.wheel, at);
    Some(hot.snd.nxt != hot.snd.end)
}

/// Sends the ACK that connection `at` owes, with data if it has some. False: it is not the usual case, and nothing was done.
#[inline]
pub(super) fn emit_ack(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>, out: &mut TxBatch) -> bool {
    const NEEDED: u32 = flag::TIMESTAMPS;
    let (Some(hot), Some(cold)) = (mem.hot.get(at), mem.cold.get(cold_of(at))) else { return false };
    if hot.flags & flag::ACK_NOW == 0 {
        return true; // data that went out meanwhile carried it
    }
    if hot.flags & flag::RING_DATA != 0 && !has_nothing(hot) && cold.acks_owed == 0 {
        let sent = emit(mem, now, at, out);
        if sent == Some(false) {
            leave_front(mem, Ring::Data, at);
        }
        return sent.is_some() && !owes_ack(mem, at);
    }
    let usual = State::from_raw(hot.state).is_synchronized()
        && hot.flags & (NEEDED | flag::SPECIAL) == NEEDED
        && hot.ooo_head.is_none()
        && cold.acks_owed == 0;
    let ack = Segment { cut: Cut::NONE, flags: TcpFlags::ACK };
    if !usual || emit_row(mem, now, at, out, &ack).is_none() {
        return false;
    }
    mem.hot.get_mut(at).map(note_sent);
    true
}

/// Is there neither new data to send nor a FIN, nor anything again?
#[inline(always)]
fn has_nothing(hot: &TcbHot) -> bool {
    !hot.snd.end.after(hot.snd.nxt)
        && hot.flags & (flag::FIN_QUEUED | flag::FIN_SENT) != flag::FIN_QUEUED
        && hot.flags & flag::RECOVERY == 0
}

/// Is an ACK of connection `at` still to be sent?
#[inline]
fn owes_ack(mem: &LaneMem<'_>, at: Idx<TcbHot>) -> bool {
    mem.hot.get(at).is_some_and(|hot| hot.flags & flag::ACK_NOW != 0)
}

/// Sends the queued FIN of connection `at`, which has no data to send. False: there is nothing more.
#[inline(never)]
fn emit_fin(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>, out: &mut TxBatch) -> Option<bool> {
    const NEEDED: u32 = flag::TIMESTAMPS | flag::FIN_QUEUED;
    const UNUSUAL: u32 = flag::RECOVERY | flag::STALLED | flag::PERSIST | flag::FIN_SENT | flag::SPECIAL;
    let (hot, cold) = (mem.hot.get(at)?, mem.cold.get(cold_of(at))?);
    let state = State::from_raw(hot.state);
    let usual = state.is_synchronized()
        && state != State::TimeWait
        && hot.flags & (NEEDED | UNUSUAL) == NEEDED
        && hot.ooo_head.is_none()
        && hot.dup_acks == 0
        && cold.board.is_none()
        && hot.snd.end == hot.snd.nxt
        && hot.snd.nxt.since(hot.snd.una) < hot.snd.wnd
        && !starts_again(hot, now);
    if !usual {
        return None;
    }
    let fin = Segment { cut: Cut::NONE, flags: TcpFlags::ACK | TcpFlags::FIN };
    emit_row(mem, now, at, out, &fin)?;
    let (hot, cold) = (mem.hot.get_mut(at)?, mem.cold.get_mut(cold_of(at))?);
    note_sent(hot);
    if cold.bytes_in > 0 {
        hot.quick_acks = 0;
    }
    cold.snd_small = hot.snd.end;
    hot.snd_cursor = FrameIdx::NONE;
    hot.flags |= flag::FIN_SENT;
    hot.snd.nxt = hot.snd.end.plus(1);
    note_timed(hot, now, hot.snd.nxt);
    arm(hot, cold, &mut mem.wheel, at);
    Some(false)
}

/// A segment to be sent.
struct Segment {
    cut: Cut,
    flags: TcpFlags,
}

/// [`emit_one`] of a segment without payload of connection `at`; it is counted.
fn emit_row(
    mem: &mut LaneMem<'_>,
    now: Instant,
    at: Idx<TcbHot>,
    out: &mut TxBatch,
    segment: &Segment,
) -> Option<FrameIdx> {
    let (hot, cold) = (mem.hot.get_mut(at)?, mem.cold.get(cold_of(at))?);
    let (kept, by) = ((&mut mem.kept, mem.globals.ways), (&mem.hops, &mem.ports));
    // RFC 3168 6.1.4: no ECT without data.
    let front = front_of(kept, at, (hot, cold), by, (ecn::without(cold.options.tos), 0))?;
    let head = emit_one((hot, cold), front, &mut mem.frames, now, out, segment)?;
    count(mem.counters, 1, 0);
    Some(head)
}

/// The headers of connection `at` for a segment with `len` bytes and the type of service `tos`, as far as they are those of the one before. `None`: they cannot
/// be told now, or are IPv6's.
#[inline(always)]
pub(super) fn front_of<'g>(
    (kept, ways): (&'g mut Table<'_, Kept>, u32),
    at: Idx<TcbHot>,
    (hot, cold): (&TcbHot, &TcbCold),
    (hops, ports): (&Table<'_, Hop>, &Table<'_, PortInfo>),
    (tos, len): (u8, u32),
) -> Option<&'g Kept> {
    const _: () = assert!(KEPT.is_power_of_two());
    let kept = kept.get_mut(Idx::new(at.raw() % KEPT))?;
    let ttl = cold.options.ttl;
    let same = kept.row == at.raw()
        && kept.ways == ways
        && kept.hop == hot.hop
        && kept.ttl == ttl
        && kept.tos == tos;
    if !same {
        kept.ways = 0;
        make_front(kept, hot, (hops, ports), (tos, ttl), len as u16)?;
        (kept.row, kept.ways) = (at.raw(), ways);
    } else if u32::from(kept.payload) != len {
        resize_front(kept, len as u16);
    }
    Some(kept)
}

/// [`front_of`] of a connection that was not the last one to use its row.
#[inline(never)]
fn make_front(
    kept: &mut Kept,
    hot: &TcbHot,
    (hops, ports): (&Table<'_, Hop>, &Table<'_, PortInfo>),
    (tos, ttl): (u8, u8),
    payload: u16,
) -> Option<()> {
    let hop = hops.get(hot.hop).filter(|h| h.state == HOP_KNOWN)?;
    let port = ports.get(Idx::new(u32::from(hot.port)))?;
    let key = &hot.key;
    key.local.as_v4().and(key.remote.as_v4())?;
    (kept.ttl, kept.tos, kept.hop, kept.payload) = (ttl, tos, hot.hop, payload);
    let ttl = if ttl == 0 { TTL_DEFAULT } else { ttl };
    let (src, dst) = ((last_four(key.local), key.local_port), (last_four(key.remote), key.remote_port));
    kept.pseudo = usual::put_front(&mut kept.front, (hop.mac, port.mac), (src, dst), (tos, ttl), payload);
    Some(())
}

/// [`front_of`] of a connection whose last segment had another length.
#[inline(never)]
fn resize_front(kept: &mut Kept, payload: u16) {
    kept.payload = payload;
    kept.pseudo = usual::resize_front(&mut kept.front, kept.pseudo, payload);
}

/// The row of connection `at` is another one's from now on.
pub(super) fn forget_front(mem: &mut LaneMem<'_>, at: Idx<TcbHot>) {
    if let Some(kept) = mem.kept.get_mut(Idx::new(at.raw() % KEPT)) {
        kept.ways = 0;
    }
}

/// The Ethernet address of a port or a next hop is another one.
pub(crate) fn ways_changed(mem: &mut LaneMem<'_>) {
    mem.globals.ways = mem.globals.ways.wrapping_add(1).max(1);
}

/// Bytes of the largest super-segment that the port of `hot` takes; 0: none.
#[inline(always)]
fn super_segments(ports: &Table<'_, PortInfo>, hot: &TcbHot) -> u32 {
    ports.get(Idx::new(u32::from(hot.port))).map_or(0, |port| port.super_segment_max)
}

/// Adds `segment`, which begins at SND.NXT, to `out`; gives the frame of its headers. `None`: it cannot be sent now.
#[inline(always)]
fn emit_one(
    (hot, cold): (&mut TcbHot, &TcbCold),
    kept: &Kept,
    frames: &mut Frames<'_>,
    now: Instant,
    out: &mut TxBatch,
    segment: &Segment,
) -> Option<FrameIdx> {
    let packet = out.slot()?;
    let head = frames.alloc_at(FRAME_HEADROOM as u16, usual::HEADER_LEN as u16, 0)?;
    let window = window::announce_open_window(hot, frames);
    let to: &mut [u8; usual::HEADER_LEN] = frames.room_mut(head, FRAME_HEADROOM).first_chunk_mut()?;
    usual::begin(to, &kept.front, kept.pseudo);
    usual::put_transport(to, hot.snd.nxt, hot.rcv.nxt, segment.flags, window);
    let value = now.as_millis_u32().wrapping_add(cold.ts_offset);
    usual::put_timestamps(to, Timestamps { value, echo: hot.rcv.ts_recent });
    segment.cut.fill(packet, head, hot.port);
    out.accept();
    Some(head)
}

/// The IPv4 address in a mapped one.
#[inline(always)]
fn last_four(addr: IpAddress) -> [u8; 4] {
    let [.., a, b, c, d] = addr.0;
    [a, b, c, d]
}

/// Sends segments as long as the one just sent, whose headers are in `head`, as far as they may go now. Gives their number.
#[inline(never)]
fn emit_behind(
    frames: &mut Frames<'_>,
    (hot, cold): (&mut TcbHot, &TcbCold),
    now: Instant,
    out: &mut TxBatch,
    (head, len): (FrameIdx, u32),
) -> u32 {
    let before = frames.cell(head).get(FRAME_HEADROOM..).and_then(|cell| cell.first_chunk());
    let Some(mut headers) = before.copied() else { return 0 };
    let mut segments = 0;
    while next_len(hot, cold, now) == Some(len) {
        let (Some(cut), Some(packet)) = (Cut::of(frames, hot, len), out.slot()) else { break };
        let fresh = frames.alloc_at(FRAME_HEADROOM as u16, usual::HEADER_LEN as u16, 0);
        let Some(fresh) = fresh else { break };
        usual::follow(&mut headers, hot.snd.nxt, flags_of(hot, len));
        if let Some(to) = frames.room_mut(fresh, FRAME_HEADROOM).first_chunk_mut() {
            *to = headers;
        }
        cut.fill(packet, fresh, hot.port);
        out.accept();
        advance(hot, len, cut.behind);
        segments += 1;
    }
    segments
}

/// Where the bytes of a segment lie: in no frame, in one, or in two.
#[derive(Clone, Copy)]
struct Cut {
    /// Of length 0: none.
    first: Piece,
    /// Of length 0: none.
    second: Piece,
    /// The frame in which the byte behind them lies.
    behind: FrameIdx,
}

impl Cut {
    /// No bytes.
    const NONE: Self = Self { first: NO_PIECE, second: NO_PIECE, behind: FrameIdx::NONE };

    /// The `len` bytes from SND.NXT on.
    #[inline(always)]
    fn of(frames: &Frames<'_>, hot: &TcbHot, len: u32) -> Option<Self> {
        let frame = hot.snd_cursor;
        let meta = frames.meta(frame)?;
        let into = hot.snd.nxt.0.wrapping_sub(meta.seq);
        let left = u32::from(meta.len).checked_sub(into).filter(|left| *left > 0)?;
        let offset = meta.offset.checked_add(into as u16)?;
        let second = NO_PIECE;
        if left >= len {
            let behind = if left > len { frame } else { meta.next };
            return Some(Self { first: Piece { frame, offset, len: len as u16 }, second, behind });
        }
        let first = Piece { frame, offset, len: left as u16 };
        let next = meta.next;
        let rest = (len - left) as u16;
        let meta = frames.meta(next).filter(|m| m.len >= rest)?;
        let second = Piece { frame: next, offset: meta.offset, len: rest };
        Some(Self { first, second, behind: if meta.len == rest { meta.next } else { next } })
    }

    /// Makes `packet` the segment with these bytes behind the headers in `head`.
    #[inline(always)]
    fn fill(&self, packet: &mut TxFrame, head: FrameIdx, port: u8) {
        packet.start(head);
        packet.put_first(self.first);
        if self.second.len > 0 {
            packet.push_piece(self.second);
        }
        packet.port = port;
        packet.csum_start = TCP_AT as u16;
        packet.csum_offset = tcp::CHECKSUM_OFFSET as u16;
        packet.header_bytes = usual::HEADER_LEN as u16;
    }
}

const NO_PIECE: Piece = Piece { frame: FrameIdx::NONE, offset: 0, len: 0 };

/// Control bits of the segment with the next `len` bytes.
#[inline(always)]
fn flags_of(hot: &TcbHot, len: u32) -> TcpFlags {
    let last = hot.snd.end.since(hot.snd.nxt) == len;
    if last { TcpFlags::ACK | TcpFlags::PSH } else { TcpFlags::ACK }
}

/// Payload bytes of the next segment, if nothing is unusual about it.
#[inline(always)]
fn next_len(hot: &TcbHot, cold: &TcbCold, now: Instant) -> Option<u32> {
    const NEEDED: u32 = flag::TIMESTAMPS;
    const UNUSUAL: u32 =
        flag::RECOVERY | flag::STALLED | flag::FIN_QUEUED | flag::CORK | flag::PERSIST | flag::SPECIAL;
    let mss = u32::from(hot.mss);
    let unsent = hot.snd.end.since(hot.snd.nxt);
    let flight = hot.snd.nxt.since(hot.snd.una);
    let len = unsent.min(mss);
    let usual = (hot.state == State::Established as u8 || hot.state == State::CloseWait as u8)
        && hot.flags & (NEEDED | UNUSUAL) == NEEDED
        && hot.ooo_head.is_none()
        && hot.dup_acks == 0
        && cold.board.is_none()
        && len > 0
        && hot.snd.end.after(hot.snd.nxt)
        && u64::from(flight) + u64::from(len) <= u64::from(hot.snd.wnd.min(hot.snd.cwnd))
        && !starts_again(hot, now);
    if !usual {
        return None;
    }
    // RFC 9293 3.7.4 (Nagle), in Minshall's form.
    let small_out = || cold.snd_small.after(hot.snd.una) && cold.snd_small.at_or_before(hot.snd.nxt);
    if len < mss && hot.flags & flag::NODELAY == 0 && small_out() {
        return None;
    }
    Some(len)
}

/// `segments` of `len` bytes each go out.
#[inline(always)]
pub(super) fn count(counters: &mut Counters, segments: u32, len: u32) {
    let bytes = u64::from(segments) * u64::from(usual::HEADER_LEN as u32 + len);
    counters.tx_packets = counters.tx_packets.wrapping_add(u64::from(segments));
    counters.tx_bytes = counters.tx_bytes.wrapping_add(bytes);
    counters.tcp.segments_out = counters.tcp.segments_out.wrapping_add(u64::from(segments));
}

/// `len` new bytes were sent; the next one lies in `behind`.
#[inline(always)]
fn advance(hot: &mut TcbHot, len: u32, behind: FrameIdx) {
    hot.snd.nxt = hot.snd.nxt.plus(len);
    hot.snd_cursor = if hot.snd.nxt == hot.snd.end { FrameIdx::NONE } else { behind };
}

/// A segment was sent, and with it whatever ACK was due.
#[inline(always)]
pub(super) fn note_sent(hot: &mut TcbHot) {
    hot.flags &= !flag::ACK_NOW;
    hot.ack_at = Instant::NEVER;
    hot.rcv.ack_sent = hot.rcv.nxt;
}

/// Something that the peer acknowledges was sent, the first segment of it up to `end`.
#[inline(always)]
fn note_timed(hot: &mut TcbHot, now: Instant, end: SeqNum) {
    hot.flags &= !flag::TAIL_PROBE;
    if hot.flags & flag::TIMING == 0 {
        hot.flags |= flag::TIMING;
        hot.rtt.timed_seq = end;
        hot.rtt.timed_at_us = rtt::clock_us(now);
    }
    hot.sent_at = now;
    start_timer(hot, now, 0);
}
