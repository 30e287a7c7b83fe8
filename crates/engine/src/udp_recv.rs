//! Received UDP datagrams: verified, queued at their socket in the frames they came in, read by copy.
//!
//! A queue is a list of chains of frames. The first frame of a chain holds records, one behind the other, from its
//! `offset` on: a [`Stamp`] and the datagram's payload. A datagram of several frames is the only record of its chain.
//! Small ones are copied behind the last record, so that they do not pin a frame each. Where datagrams may be read in one go (UDP_GRO), each record has
//! a chain of its own instead, and what follows it is merged into it.

use base::limits::{CHAIN_FRAMES, FRAME_BYTES};
use base::{FrameIdx, Idx, Instant, IpAddress, Port};
use region::Frames;
use state::udp::{UDP_MERGES, UDP_SHUT_RECV};
use state::{CsumState, DropReason, Endpoint, LaneMem, Ready, SockRef, UdpSock};
use wire::{IpProtocol, UdpDatagram, UdpError};

use crate::errors::SockError;
use crate::ipv4::Packet;
use crate::udp_types::{Datagram, UdpRecvError};
use crate::{events, ip, packet, udp};

/// Payloads up to this many bytes are copied behind the record before, if there is room.
const COMPACT_BYTES: usize = 512;
/// Longest record of several datagrams, bytes, and their number: as in Linux (UDP_GRO_CNT_MAX), what one packet could hold.
const MERGED_MAX: u32 = 65_507;
const SEGMENTS_MAX: u32 = 64;
/// Bytes of a [`Stamp`]: no more than the headers that were in front of the payload.
const STAMP_BYTES: usize = 40;
const _: () = assert!(STAMP_BYTES <= wire::eth::HEADER_LEN + wire::ipv4::HEADER_LEN + wire::udp::HEADER_LEN);

/// What is kept of a record besides its payload.
#[derive(Clone, Copy)]
struct Stamp {
    from: Endpoint,
    to: IpAddress,
    port: u8,
    tos: u8,
    /// Of all its datagrams; no more than one packet could have.
    len: u32,
    /// Of each of several but the last; 0: it is one datagram.
    segment: u16,
}

impl Stamp {
    fn write(&self, out: &mut [u8]) -> Option<()> {
        let out = out.first_chunk_mut::<STAMP_BYTES>()?;
        let (addrs, rest) = out.split_at_mut(32);
        let (from, to) = addrs.split_at_mut(16);
        from.copy_from_slice(&self.from.addr.0);
        to.copy_from_slice(&self.to.0);
        let [p0, p1] = self.from.port.0.to_le_bytes();
        let [l0, l1] = u16::try_from(self.len).ok()?.to_le_bytes();
        let [s0, s1] = self.segment.to_le_bytes();
        rest.copy_from_slice(&[p0, p1, self.port, self.tos, l0, l1, s0, s1]);
        Some(())
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (from, rest) = bytes.split_first_chunk::<16>()?;
        let (to, rest) = rest.split_first_chunk::<16>()?;
        let [p0, p1, port, tos, l0, l1, s0, s1] = *rest.first_chunk::<8>()?;
        Some(Self {
            from: Endpoint { addr: IpAddress(*from), port: Port(u16::from_le_bytes([p0, p1])) },
            to: IpAddress(*to),
            port,
            tos,
            len: u32::from(u16::from_le_bytes([l0, l1])),
            segment: u16::from_le_bytes([s0, s1]),
        })
    }

    /// This record with the datagrams of `next` behind its own; `None`: they are not of the same flow, or of other lengths.
    fn with(self, next: &Self) -> Option<Self> {
        let same = (self.from, self.to, self.port, self.tos) == (next.from, next.to, next.port, next.tos);
        let segment = if self.segment == 0 { self.len } else { u32::from(self.segment) };
        // All but the last are of one length.
        let full = segment > 0 && self.len.is_multiple_of(segment);
        let fits = match next.segment {
            0 => next.len > 0 && next.len <= segment,
            further => u32::from(further) == segment,
        };
        let len = self.len + next.len;
        let whole = len <= MERGED_MAX && len.div_ceil(segment.max(1)) <= SEGMENTS_MAX;
        (same && full && fits && whole).then_some(Self { len, segment: segment as u16, ..self })
    }
}

/// Takes the UDP datagram `whole`.
pub(crate) fn input(mem: &mut LaneMem<'_>, now: Instant, whole: Packet) {
    if let Err(reason) = take(mem, now, &whole) {
        mem.frames.release_chain(whole.head);
        mem.counters.drop_packet(reason);
    }
}

/// `Ok`: the chain is in a queue or released.
fn take(mem: &mut LaneMem<'_>, now: Instant, whole: &Packet) -> Result<(), DropReason> {
    let at = usize::from(whole.l4_offset);
    let bytes = mem.frames.data(whole.head).get(at..).unwrap_or(&[]);
    let datagram = UdpDatagram::parse_head(bytes, whole.l4_bytes as usize).map_err(|e| match e {
        UdpError::Truncated | UdpError::Length => DropReason::UdpMalformed,
    })?;
    let ends = udp::Ends {
        local: Endpoint { addr: whole.dst, port: datagram.dst_port() },
        remote: Endpoint { addr: whole.src, port: datagram.src_port() },
        port: whole.port,
    };
    let (len, check) = (datagram.len_bytes(), datagram.checksum());
    verify(&mem.frames, whole, len, check)?;
    let Some(sock) = udp::find(mem, &ends) else {
        ip::port_unreachable(mem, now, whole);
        return Err(DropReason::UdpNoSocket);
    };
    let payload_at = at + wire::udp::HEADER_LEN;
    if !packet::trim(&mut mem.frames, whole.head, at + len) {
        return Err(DropReason::FrameBad);
    }
    let stamp = Stamp {
        from: ends.remote,
        to: ends.local.addr,
        port: whole.port,
        tos: whole.tos,
        len: (len - wire::udp::HEADER_LEN) as u32,
        segment: 0,
    };
    let merges = mem.udp_socks.get(sock).is_some_and(|row| row.flags & UDP_MERGES != 0);
    let segment = u32::from(whole.gso_size);
    if merges {
        let several = segment > 0 && stamp.len > segment;
        let stamp = Stamp { segment: if several { whole.gso_size } else { 0 }, ..stamp };
        merge(mem, sock, whole.head, (payload_at, &stamp))?;
        let count = if several { stamp.len.div_ceil(segment) } else { 1 };
        mem.counters.udp_in = mem.counters.udp_in.wrapping_add(u64::from(count));
    } else if segment > 0 && stamp.len > segment {
        queue_segments(mem, sock, whole.head, (payload_at, &stamp), segment);
        mem.frames.release_chain(whole.head);
    } else {
        queue(mem, sock, whole.head, (payload_at, &stamp))?;
        mem.counters.udp_in = mem.counters.udp_in.wrapping_add(1);
    }
    let s = udp::name(mem, sock);
    events::notify(mem, s, Ready::IN);
    Ok(())
}

/// RFC 1122 4.1.3.4: a datagram with a wrong checksum is dropped in silence; one without checksum is taken. RFC 8200 8.1: not so over
/// IPv6, whose header has none of its own.
fn verify(frames: &Frames<'_>, whole: &Packet, len: usize, check: u16) -> Result<(), DropReason> {
    if check == 0 && !whole.dst.is_v4() {
        return Err(DropReason::UdpChecksumBad);
    }
    // Of datagrams that were merged (or not cut yet) the field says nothing; who merged them looked at it.
    if check == 0 || whole.csum != CsumState::Unknown || whole.gso_size > 0 {
        return Ok(());
    }
    let pseudo = wire::checksum::pseudo(whole.src, whole.dst, IpProtocol::UDP, len as u32);
    let sum =
        packet::sum(frames, whole.head, usize::from(whole.l4_offset), len).ok_or(DropReason::FrameBad)?;
    // A peer on this machine leaves the checksum to a device that is not there: the field then holds the sum of the
    // pseudo-header only, and the data never crossed a wire.
    let unfinished = whole.local_peer && check == pseudo.fold();
    if pseudo.plus(sum).is_valid() || unfinished { Ok(()) } else { Err(DropReason::UdpChecksumBad) }
}

/// Queues each of the datagrams of `segment` bytes that were merged into the payload of the chain `head`, which stays the
/// caller's. What finds no room is dropped and counted.
fn queue_segments(
    mem: &mut LaneMem<'_>,
    at: Idx<UdpSock>,
    head: FrameIdx,
    (payload_at, stamp): (usize, &Stamp),
    segment: u32,
) {
    let mut from = 0;
    while from < stamp.len {
        let part = Stamp { len: segment.min(stamp.len - from), ..*stamp };
        match queue_segment(mem, at, head, (payload_at + from as usize, &part)) {
            Ok(()) => mem.counters.udp_in = mem.counters.udp_in.wrapping_add(1),
            Err(reason) => mem.counters.drop_packet(reason),
        }
        from += part.len;
    }
}

/// Queues a copy of one datagram.
fn queue_segment(
    mem: &mut LaneMem<'_>,
    at: Idx<UdpSock>,
    head: FrameIdx,
    (payload_at, stamp): (usize, &Stamp),
) -> Result<(), DropReason> {
    let row = mem.udp_socks.get_mut(at).ok_or(DropReason::UdpNoSocket)?;
    let shut = row.flags & UDP_SHUT_RECV != 0;
    if !shut && compact(&mut mem.frames, row.recv_tail, head, (payload_at, stamp), FRAME_BYTES) {
        row.recv_count = row.recv_count.saturating_add(1);
        return Ok(());
    }
    let len = stamp.len as usize;
    let copy = packet::fresh_rest(&mut mem.frames, STAMP_BYTES + len).ok_or(DropReason::OutOfFrames)?;
    let done = packet::copy_chain(&mut mem.frames, (head, payload_at), (copy, STAMP_BYTES), len);
    let result = if done { queue(mem, at, copy, (STAMP_BYTES, stamp)) } else { Err(DropReason::FrameBad) };
    if result.is_err() {
        mem.frames.release(copy);
    }
    result
}

/// Merges the datagrams whose payload begins `payload_at` bytes into the chain `head` into the last record of `at`, or puts them behind it.
fn merge(
    mem: &mut LaneMem<'_>,
    at: Idx<UdpSock>,
    head: FrameIdx,
    (payload_at, stamp): (usize, &Stamp),
) -> Result<(), DropReason> {
    let row = mem.udp_socks.get_mut(at).ok_or(DropReason::UdpNoSocket)?;
    let tail = row.recv_tail;
    let open = row.recv_count > 0 && row.flags & UDP_SHUT_RECV == 0;
    let last_record = Stamp::read(mem.frames.data(tail)).filter(|s| {
        // Before the option was set others may have come behind it.
        open && packet::each_piece(&mem.frames, tail, 0, usize::MAX, |_| {}) == STAMP_BYTES + s.len as usize
    });
    let Some(grown) = last_record.and_then(|s| s.with(stamp)) else {
        return queue(mem, at, head, (payload_at, stamp));
    };
    let before = packet::chain_frames(&mem.frames, tail);
    let more = packet::chain_frames(&mem.frames, head);
    let held = more * FRAME_BYTES as u32;
    if before + more > CHAIN_FRAMES as u32 || row.recv_held.saturating_add(held) > row.recv_max {
        return queue(mem, at, head, (payload_at, stamp));
    }
    let last = packet::last_of(&mem.frames, tail);
    let end = mem.frames.meta(last).map_or(FRAME_BYTES, |m| usize::from(m.offset) + usize::from(m.len));
    let len = stamp.len as usize;
    if end + len <= FRAME_BYTES {
        if !packet::copy_chain(&mut mem.frames, (head, payload_at), (last, end), len) {
            return Err(DropReason::FrameBad);
        }
        if let Some(meta) = mem.frames.meta_mut(last) {
            meta.len += len as u16;
        }
        mem.frames.release_chain(head);
    } else {
        let meta = mem.frames.meta_mut(head).ok_or(DropReason::FrameBad)?;
        meta.offset += payload_at as u16;
        meta.len = meta.len.saturating_sub(payload_at as u16);
        mem.frames.meta_mut(last).ok_or(DropReason::FrameBad)?.next = head;
        row.recv_held = row.recv_held.saturating_add(held);
    }
    grown.write(mem.frames.data_mut(tail)).ok_or(DropReason::FrameBad)
}

/// Puts the datagram whose payload begins `payload_at` bytes into the chain `head` behind the others of `at`.
fn queue(
    mem: &mut LaneMem<'_>,
    at: Idx<UdpSock>,
    head: FrameIdx,
    (payload_at, stamp): (usize, &Stamp),
) -> Result<(), DropReason> {
    let row = mem.udp_socks.get_mut(at).ok_or(DropReason::UdpNoSocket)?;
    if row.flags & UDP_SHUT_RECV != 0 {
        return Err(DropReason::UdpNoSocket);
    }
    let alone = row.flags & UDP_MERGES != 0;
    if !alone && compact(&mut mem.frames, row.recv_tail, head, (payload_at, stamp), COMPACT_BYTES) {
        row.recv_count = row.recv_count.saturating_add(1);
        mem.frames.release_chain(head);
        return Ok(());
    }
    let held = packet::chain_frames(&mem.frames, head) * FRAME_BYTES as u32;
    if row.recv_held.saturating_add(held) > row.recv_max && row.recv_held > 0 {
        row.recv_dropped = row.recv_dropped.saturating_add(1);
        return Err(DropReason::UdpQueueFull);
    }
    let begin = payload_at.checked_sub(STAMP_BYTES).ok_or(DropReason::FrameBad)?;
    let data = mem.frames.data_mut(head).get_mut(begin..).ok_or(DropReason::FrameBad)?;
    stamp.write(data).ok_or(DropReason::FrameBad)?;
    let meta = mem.frames.meta_mut(head).ok_or(DropReason::FrameBad)?;
    meta.offset += begin as u16;
    meta.len -= begin as u16;
    meta.seq = FrameIdx::NONE.0;
    row.recv_held = row.recv_held.saturating_add(held);
    row.recv_count = row.recv_count.saturating_add(1);
    let tail = core::mem::replace(&mut row.recv_tail, head);
    match mem.frames.meta_mut(tail) {
        Some(meta) => meta.seq = head.0,
        None => row.recv_head = head,
    }
    Ok(())
}

/// Copies a datagram of up to `most` bytes behind the last record of the frame `tail`. False: it is longer, or there is no
/// room.
fn compact(
    frames: &mut Frames<'_>,
    tail: FrameIdx,
    head: FrameIdx,
    (payload_at, stamp): (usize, &Stamp),
    most: usize,
) -> bool {
    let len = stamp.len as usize;
    let Some(meta) = frames.meta(tail) else { return false };
    let end = usize::from(meta.offset) + usize::from(meta.len);
    if len > most || !meta.next.is_none() || end + STAMP_BYTES + len > FRAME_BYTES {
        return false;
    }
    let written = frames.cell_mut(tail).get_mut(end..).and_then(|out| stamp.write(out)).is_some()
        && packet::copy_chain(frames, (head, payload_at), (tail, end + STAMP_BYTES), len);
    if written && let Some(meta) = frames.meta_mut(tail) {
        meta.len += (STAMP_BYTES + len) as u16;
    }
    written
}

/// Copies the oldest datagram to `buf`, as much as fits; the rest is thrown away. `peek` leaves the datagram where it is.
pub(crate) fn recv(
    mem: &mut LaneMem<'_>,
    s: SockRef,
    buf: &mut [u8],
    peek: bool,
) -> Result<Datagram, UdpRecvError> {
    let at = udp::lookup(mem, s).ok_or(UdpRecvError::Gone)?;
    let row = mem.udp_socks.get_mut(at).ok_or(UdpRecvError::Gone)?;
    if let Some(error) = SockError::from_raw(core::mem::take(&mut row.error) as u8) {
        return Err(UdpRecvError::Failed(error));
    }
    let head = row.recv_head;
    let Some(stamp) = Stamp::read(mem.frames.data(head)).filter(|_| row.recv_count > 0) else {
        return Err(if row.flags & UDP_SHUT_RECV != 0 {
            UdpRecvError::Shut
        } else {
            UdpRecvError::WouldBlock
        });
    };
    let want = buf.len().min(stamp.len as usize);
    let copied = packet::copy_out(&mem.frames, head, STAMP_BYTES, buf.get_mut(..want).unwrap_or_default());
    let Stamp { from, to, port, tos, len, segment } = stamp;
    let datagram = Datagram { copied, len, from, to, port, tos, segment };
    if !peek {
        pop(&mut mem.frames, row, &stamp);
    }
    Ok(datagram)
}

/// Bytes of the oldest datagram (FIONREAD); `None`: there is none.
pub(crate) fn next_len(mem: &LaneMem<'_>, s: SockRef) -> Option<u32> {
    let row = mem.udp_socks.get(udp::lookup(mem, s)?)?;
    Stamp::read(mem.frames.data(row.recv_head)).filter(|_| row.recv_count > 0).map(|stamp| stamp.len)
}

/// Takes the first record off the queue of `row`.
fn pop(frames: &mut Frames<'_>, row: &mut UdpSock, stamp: &Stamp) {
    let head = row.recv_head;
    row.recv_count = row.recv_count.saturating_sub(1);
    let Some(meta) = frames.meta_mut(head) else { return };
    let record = STAMP_BYTES + stamp.len as usize;
    if meta.next.is_none() && usize::from(meta.len) > record {
        meta.offset = meta.offset.saturating_add(record as u16);
        meta.len -= record as u16;
        return;
    }
    row.recv_head = FrameIdx(meta.seq);
    if row.recv_head.is_none() {
        row.recv_tail = FrameIdx::NONE;
    }
    let held = packet::chain_frames(frames, head) * FRAME_BYTES as u32;
    row.recv_held = row.recv_held.saturating_sub(held);
    frames.release_chain(head);
}

/// Throws everything unread of `at` away.
pub(crate) fn drop_queue(mem: &mut LaneMem<'_>, at: Idx<UdpSock>) {
    let Some(row) = mem.udp_socks.get_mut(at) else { return };
    let mut head = core::mem::take(&mut row.recv_head);
    row.recv_tail = FrameIdx::NONE;
    row.recv_held = 0;
    row.recv_count = 0;
    for _ in 0..mem.frames.count() {
        let Some(meta) = mem.frames.meta(head) else { return };
        let next = FrameIdx(meta.seq);
        mem.frames.release_chain(head);
        head = next;
    }
}
