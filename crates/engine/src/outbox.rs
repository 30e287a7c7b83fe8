//! Packets that belong to no connection on their way to a port: UDP, ICMP, ARP, fragments.
//!
//! Invariant: a packet in the outbox owns its chain of frames; its first frame holds all headers, and a [`Note`] at
//! the start of the cell, in the headroom. What was given out stays retained until the next [`poll`], because the
//! port reads the payload frames in between.

use base::limits::{BATCH_FRAMES, FRAME_HEADROOM, OUTBOX_PACKETS};
use base::{FrameIdx, Idx};
use region::Frames;
use state::{DropReason, LaneMem, Piece, TxBatch, TxFrame, UdpSock};

use crate::udp;

/// `FrameMeta::flags` of the first frame of a packet that went through the outbox.
const OUTBOX_FRAME: u16 = 0x8000;

/// What must be known of a packet besides its bytes. The first bytes of the first frame's cell while it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Note {
    /// The lane's port it leaves by.
    pub(crate) port: u8,
    /// As in [`TxFrame::csum_start`].
    pub(crate) csum_start: u16,
    /// As in [`TxFrame::csum_offset`].
    pub(crate) csum_offset: u16,
    /// As in [`TxFrame::gso_size`].
    pub(crate) gso_size: u16,
    /// The UDP socket whose send buffer it counts against.
    pub(crate) sock: Idx<UdpSock>,
    /// Generation of that socket.
    pub(crate) generation: u32,
    /// Bytes counted against it.
    pub(crate) held: u32,
}

const NOTE_BYTES: usize = 20;
const _: () = assert!(NOTE_BYTES <= FRAME_HEADROOM);

impl Note {
    /// A packet of no socket, complete as it is.
    pub(crate) const fn plain(port: u8) -> Self {
        Self { port, csum_start: 0, csum_offset: 0, gso_size: 0, sock: Idx::NONE, generation: 0, held: 0 }
    }

    fn write(&self, frames: &mut Frames<'_>, head: FrameIdx) {
        let Some(cell) = frames.cell_mut(head).first_chunk_mut::<NOTE_BYTES>() else { return };
        let [s0, s1] = self.csum_start.to_le_bytes();
        let [o0, o1] = self.csum_offset.to_le_bytes();
        let [g0, g1] = self.gso_size.to_le_bytes();
        let [k0, k1, k2, k3] = self.sock.raw().to_le_bytes();
        let [n0, n1, n2, n3] = self.generation.to_le_bytes();
        let [h0, h1, h2, h3] = self.held.to_le_bytes();
        *cell = [self.port, 0, s0, s1, o0, o1, g0, g1, k0, k1, k2, k3, n0, n1, n2, n3, h0, h1, h2, h3];
    }

    fn read(frames: &Frames<'_>, head: FrameIdx) -> Self {
        let Some(cell) = frames.cell(head).first_chunk::<NOTE_BYTES>() else { return Self::plain(0) };
        let [port, _, s0, s1, o0, o1, g0, g1, k0, k1, k2, k3, n0, n1, n2, n3, h0, h1, h2, h3] = *cell;
        Self {
            port,
            csum_start: u16::from_le_bytes([s0, s1]),
            csum_offset: u16::from_le_bytes([o0, o1]),
            gso_size: u16::from_le_bytes([g0, g1]),
            sock: Idx::new(u32::from_le_bytes([k0, k1, k2, k3])),
            generation: u32::from_le_bytes([n0, n1, n2, n3]),
            held: u32::from_le_bytes([h0, h1, h2, h3]),
        }
    }
}

/// Writes `note` beside the packet `head`, whose data must begin behind the first [`NOTE_BYTES`] of its cell.
pub(crate) fn annotate(mem: &mut LaneMem<'_>, head: FrameIdx, note: &Note) {
    note.write(&mut mem.frames, head);
    if let Some(meta) = mem.frames.meta_mut(head) {
        meta.flags = OUTBOX_FRAME;
        meta.seq = FrameIdx::NONE.0;
    }
}

/// Has the outbox room for `packets` more?
pub(crate) fn has_room(mem: &LaneMem<'_>, packets: u32) -> bool {
    mem.ip.outbox.packets.saturating_add(packets) <= OUTBOX_PACKETS
}

/// Is there anything to send?
#[inline]
pub(crate) fn is_empty(mem: &LaneMem<'_>) -> bool {
    mem.ip.outbox.packets == 0
}

/// Queues the packet `head` and takes its chain over. False: the outbox is full, or a received packet leaves no room for
/// the note in front of it; the chain was released.
pub(crate) fn push(mem: &mut LaneMem<'_>, head: FrameIdx, note: &Note) -> bool {
    if mem.frames.meta(head).is_none_or(|m| usize::from(m.offset) < NOTE_BYTES) {
        mem.frames.release_chain(head);
        mem.counters.drop_packet(DropReason::FrameBad);
        return false;
    }
    annotate(mem, head, note);
    push_annotated(mem, head)
}

/// [`push`] for a packet that goes before all but others of its kind: part of a handshake, which a queue of datagrams must not hold up.
/// There is room for a batch of these where there is none for others.
pub(crate) fn push_early(mem: &mut LaneMem<'_>, head: FrameIdx, note: &Note) -> bool {
    let queued = push_few(mem, mem.ip.outbox.early_tail, head, note);
    if queued {
        mem.ip.outbox.early_tail = head;
    }
    queued
}

/// Queues the packet `head` in front of all others: for a few bytes that others wait for, such as a question for a MAC.
/// There is room for a batch of these where there is none for others.
pub(crate) fn push_first(mem: &mut LaneMem<'_>, head: FrameIdx, note: &Note) {
    push_few(mem, FrameIdx::NONE, head, note);
}

/// Queues the packet `head` behind `before`, or in front of all others if that is none; up to a batch more than there is room for. False: it was released.
fn push_few(mem: &mut LaneMem<'_>, before: FrameIdx, head: FrameIdx, note: &Note) -> bool {
    annotate(mem, head, note);
    let room = mem.ip.outbox.packets < OUTBOX_PACKETS + BATCH_FRAMES as u32;
    if room {
        link_behind(mem, before, head);
    } else {
        mem.counters.drop_packet(DropReason::OutboxFull);
        discard(mem, head);
    }
    room
}

/// [`push`] for a packet that [`annotate`] was called for before.
pub(crate) fn push_annotated(mem: &mut LaneMem<'_>, head: FrameIdx) -> bool {
    if !has_room(mem, 1) {
        mem.counters.drop_packet(DropReason::OutboxFull);
        discard(mem, head);
        return false;
    }
    link_behind(mem, mem.ip.outbox.tail, head);
    true
}

/// Links the packet `head` in behind `before`, or in front of all others if that is none.
fn link_behind(mem: &mut LaneMem<'_>, before: FrameIdx, head: FrameIdx) {
    let next = match mem.frames.meta_mut(before) {
        Some(meta) => FrameIdx(core::mem::replace(&mut meta.seq, head.0)),
        None => core::mem::replace(&mut mem.ip.outbox.head, head),
    };
    if let Some(meta) = mem.frames.meta_mut(head) {
        meta.seq = next.0;
    }
    if next.is_none() {
        mem.ip.outbox.tail = head;
    }
    mem.ip.outbox.packets += 1;
}

/// Releases an annotated packet that will not be sent, and what it counted against its socket.
pub(crate) fn discard(mem: &mut LaneMem<'_>, head: FrameIdx) {
    let note = Note::read(&mem.frames, head);
    mem.frames.release_chain(head);
    udp::sent(mem, note.sock, note.generation, note.held);
}

/// Releases an annotated packet whose next hop does not answer.
///
/// As on Linux no UDP socket is told: the next datagram may arrive.
pub(crate) fn undeliverable(mem: &mut LaneMem<'_>, head: FrameIdx) {
    mem.counters.drop_packet(DropReason::Unreachable);
    discard(mem, head);
}

/// Moves at most `most` packets to `out` while it has room, oldest first; gives how many.
pub(crate) fn poll(mem: &mut LaneMem<'_>, out: &mut TxBatch, most: usize) -> usize {
    let mut count = 0;
    while out.room() > 0 && count < most {
        let head = mem.ip.outbox.head;
        let Some(meta) = mem.frames.meta(head) else { break };
        let (next_packet, rest, len) = (FrameIdx(meta.seq), meta.next, meta.len);
        mem.ip.outbox.head = next_packet;
        if head == mem.ip.outbox.early_tail {
            mem.ip.outbox.early_tail = FrameIdx::NONE;
        }
        if next_packet.is_none() {
            mem.ip.outbox.tail = FrameIdx::NONE;
        }
        mem.ip.outbox.packets = mem.ip.outbox.packets.saturating_sub(1);
        let note = Note::read(&mem.frames, head);
        let packet = build(mem, head, rest, len, &note);
        if !out.push(packet) {
            break; // cannot be: there was room
        }
        udp::sent(mem, note.sock, note.generation, note.held);
        count += 1;
    }
    count
}

/// The packet as the port sees it; its payload frames move to the list of those given out.
fn build(mem: &mut LaneMem<'_>, head: FrameIdx, rest: FrameIdx, len: u16, note: &Note) -> TxFrame {
    let mut packet = TxFrame::new(head);
    packet.port = note.port;
    packet.csum_start = note.csum_start;
    packet.csum_offset = note.csum_offset;
    packet.gso_size = note.gso_size;
    packet.header_bytes = len;
    let mut at = rest;
    while let Some(meta) = mem.frames.meta(at) {
        if !packet.push_piece(Piece { frame: at, offset: meta.offset, len: meta.len }) {
            break; // the chain is longer than any that is made here
        }
        at = meta.next;
    }
    if let Some(meta) = mem.frames.meta_mut(rest) {
        meta.seq = mem.ip.outbox.given_out.0;
        mem.ip.outbox.given_out = rest;
    }
    packet
}

/// Gives up what [`poll`] gave out for the last batch: the port has read it by now.
#[inline(never)]
pub(crate) fn release_given_out(mem: &mut LaneMem<'_>) {
    let mut at = core::mem::take(&mut mem.ip.outbox.given_out);
    let mut left = mem.frames.count();
    while let Some(meta) = mem.frames.meta(at) {
        let next = FrameIdx(meta.seq);
        mem.frames.release_chain(at);
        at = next;
        left = left.saturating_sub(1);
        if left == 0 {
            return; // a corrupted list with a loop
        }
    }
}

/// Did `packet` go through the outbox?
pub(crate) fn owns(mem: &LaneMem<'_>, packet: &TxFrame) -> bool {
    mem.frames.meta(packet.head).is_some_and(|m| m.flags & OUTBOX_FRAME != 0)
}

/// Takes back a packet that the port did not take, to the front of the queue. False: the packet never was in the
/// outbox, its owner is another. Several packets come back in reverse order.
pub(crate) fn requeue(mem: &mut LaneMem<'_>, packet: &TxFrame) -> bool {
    let head = packet.head;
    if !owns(mem, packet) {
        return false;
    }
    for piece in packet.pieces() {
        mem.frames.retain(piece.frame);
    }
    let note = Note { sock: Idx::NONE, held: 0, ..Note::read(&mem.frames, head) };
    note.write(&mut mem.frames, head);
    link_behind(mem, FrameIdx::NONE, head);
    true
}
