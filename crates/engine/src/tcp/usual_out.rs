//! The usual way of new data out: one segment with timestamps and no other option, within the windows, of a connection with
//! no losses; in one go what `Conn::emit_data` does step by step.

use ::state::hop::HOP_KNOWN;
use ::state::{Counters, LaneMem, Piece, TcbCold, TcbHot, TxBatch};
use base::limits::FRAME_HEADROOM;
use base::{FrameIdx, Idx, Instant};
use region::Frames;
use wire::{TcpFlags, Timestamps, UsualHeader, tcp, usual};

use super::ack::start_timer;
use super::conn::cold_of;
use super::header::{Stop, TCP_AT, TTL_DEFAULT};
use super::{State, flag, rtt, window};

/// Sends the next segment of new data of connection `at`. `Ok(true)`: there is more. `None`: it is not the usual case, and
/// nothing was done.
#[inline]
pub(super) fn emit(
    mem: &mut LaneMem<'_>,
    now: Instant,
    at: Idx<TcbHot>,
    out: &mut TxBatch,
) -> Option<Result<bool, Stop>> {
    let (hot, cold) = (mem.hot.get_mut(at)?, mem.cold.get_mut(cold_of(at))?);
    let len = next_len(hot, cold, now)?;
    let port = mem.ports.get(Idx::new(u32::from(hot.port)))?;
    if hot.snd.end.since(hot.snd.nxt) > len && port.super_segment_max >= 2 * len {
        return None;
    }
    let hop = mem.hops.get(hot.hop).filter(|h| h.state == HOP_KNOWN)?;
    let (src, dst) = (hot.key.local.as_v4()?, hot.key.remote.as_v4()?);
    // The bytes lie in one frame, or in two.
    let (first, next) = cut(&mem.frames, hot.snd_cursor, hot.snd.nxt.0, len)?;
    let packet = out.slot()?;
    let Some(head) = mem.frames.alloc() else { return Some(Err(Stop::Frames)) };
    packet.start(head);
    packet.push_piece(first);
    let mut behind = next;
    if u32::from(first.len) < len {
        let left = len as u16 - first.len;
        let meta = mem.frames.meta(next).filter(|m| m.len >= left);
        let Some(meta) = meta else {
            mem.frames.release(head);
            return None;
        };
        packet.push_piece(Piece { frame: next, offset: meta.offset, len: left });
        behind = if meta.len == left { meta.next } else { next };
    }
    let last = hot.snd.end.since(hot.snd.nxt) == len;
    let header = UsualHeader {
        dst_mac: hop.mac,
        src_mac: port.mac,
        tos: cold.options.tos,
        ttl: if cold.options.ttl == 0 { TTL_DEFAULT } else { cold.options.ttl },
        src,
        dst,
        src_port: hot.key.local_port,
        dst_port: hot.key.remote_port,
        seq: hot.snd.nxt,
        ack: hot.rcv.nxt,
        flags: if last { TcpFlags::ACK | TcpFlags::PSH } else { TcpFlags::ACK },
        window: window::announce_window(hot, &mem.frames),
        timestamps: Timestamps {
            value: now.as_millis_u32().wrapping_add(cold.ts_offset),
            echo: hot.rcv.ts_recent,
        },
    };
    packet.port = hot.port;
    packet.csum_start = TCP_AT as u16;
    packet.csum_offset = tcp::CHECKSUM_OFFSET as u16;
    packet.header_bytes = usual::HEADER_LEN as u16;
    write(&mut mem.frames, head, &header, len as u16);
    out.accept();
    count(mem.counters, usual::HEADER_LEN as u32 + len);
    advance(hot, cold, now, len, behind);
    Some(Ok(!last))
}

/// Payload bytes of the next segment, if nothing is unusual about it.
#[inline(always)]
fn next_len(hot: &TcbHot, cold: &TcbCold, now: Instant) -> Option<u32> {
    const NEEDED: u32 = flag::TIMESTAMPS;
    const UNUSUAL: u32 = flag::RECOVERY | flag::STALLED | flag::FIN_QUEUED | flag::CORK | flag::PERSIST;
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
        // RFC 5681 4.1: after an idle time the congestion window starts again.
        && (flight != 0 || now.since(hot.sent_at) <= rtt::rto(&hot.rtt, 0));
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

/// The first piece of the `len` bytes from `seq` on, which lies in `frame`, and the frame in which the byte behind it lies.
#[inline(always)]
fn cut(frames: &Frames<'_>, frame: FrameIdx, seq: u32, len: u32) -> Option<(Piece, FrameIdx)> {
    let meta = frames.meta(frame)?;
    let into = seq.wrapping_sub(meta.seq);
    let left = u32::from(meta.len).checked_sub(into).filter(|left| *left > 0)?;
    let piece = Piece { frame, offset: meta.offset.checked_add(into as u16)?, len: left.min(len) as u16 };
    Some((piece, if left > len { frame } else { meta.next }))
}

/// Writes the headers into the fresh frame `head`.
#[inline(always)]
fn write(frames: &mut Frames<'_>, head: FrameIdx, header: &UsualHeader, payload: u16) {
    if let Some(meta) = frames.meta_mut(head) {
        meta.len = usual::HEADER_LEN as u16;
    }
    let room = frames.cell_mut(head).get_mut(FRAME_HEADROOM..);
    if let Some(to) = room.and_then(|r| r.first_chunk_mut()) {
        header.emit(payload, to);
    }
}

#[inline(always)]
fn count(counters: &mut Counters, bytes: u32) {
    counters.tx_packets = counters.tx_packets.wrapping_add(1);
    counters.tx_bytes = counters.tx_bytes.wrapping_add(u64::from(bytes));
    counters.tcp.segments_out = counters.tcp.segments_out.wrapping_add(1);
}

/// `len` new bytes were sent, and with them whatever ACK was due; the next byte lies in `behind`.
#[inline(always)]
fn advance(hot: &mut TcbHot, cold: &mut TcbCold, now: Instant, len: u32, behind: FrameIdx) {
    hot.flags &= !(flag::ACK_NOW | flag::TAIL_PROBE);
    hot.ack_at = Instant::NEVER;
    hot.rcv.ack_sent = hot.rcv.nxt;
    if cold.bytes_in > 0 {
        // The two ends talk in turns, so the next data will carry the ACK (Linux's ping-pong mode).
        hot.quick_acks = 0;
    }
    let end = hot.snd.nxt.plus(len);
    if len < u32::from(hot.mss) {
        cold.snd_small = end;
    }
    hot.snd_cursor = if end == hot.snd.end { FrameIdx::NONE } else { behind };
    cold.bytes_out = cold.bytes_out.wrapping_add(u64::from(len));
    hot.snd.nxt = end;
    if hot.flags & flag::TIMING == 0 {
        hot.flags |= flag::TIMING;
        hot.rtt.timed_seq = end;
        hot.rtt.timed_at_us = rtt::clock_us(now);
    }
    hot.sent_at = now;
    start_timer(hot, now, 0);
}
