//! A client that lends its frames: they themselves are the wire's buffers, so that a packet is copied once, by the server.
//!
//! Which frames are lent stands in a ledger that the server cannot write; the lane's processes share it, under the lane lock.
//! The server's descriptors only say how much it put into a frame.
//!
//! Invariant: a frame in the ledger is owned by the wire. It leaves the ledger before it gets another owner: a death in between loses
//! the frame, where the other order would give it two.

use core::sync::atomic::{AtomicU32, Ordering, compiler_fence};

use base::FrameIdx;
use base::limits::{CHAIN_FRAMES, FRAME_BYTES, FRAME_HEADROOM, SUPER_SEGMENT_BYTES};
use region::{FrameArea, Frames};
use state::{Piece, RxBatch, TxFrame};
use sys::fds::Fd;
use sys::memif::{Descriptor, NEXT, WireShape};
use sys::window::Window;

use super::ring::metadata_of;
use super::rx::PACKET_BYTES_MAX;
use super::{MemifError, MemifPort};
use crate::chain::{append, close_up, join};
use crate::{PortError, PortStats};

/// Room for packet bytes in a posted frame.
const POSTED_BYTES: usize = FRAME_BYTES - FRAME_HEADROOM;
const _: () = assert!(CHAIN_FRAMES * POSTED_BYTES > SUPER_SEGMENT_BYTES + 256);
/// Posted frames that one packet takes at most. Only a packet above [`crate::chain::HEADROOM_MTU`] takes so many.
const PARTS_MAX: usize = CHAIN_FRAMES + 1;
const _: () = assert!(PARTS_MAX * POSTED_BYTES >= PACKET_BYTES_MAX);
/// Frames posted at most: more would only make the caches forget them before they are used.
const POSTED_MAX: u16 = 256;
/// Shorter payloads are copied behind their headers: cheaper than a descriptor and an owner more.
const JOIN_BYTES: u32 = 2048;
/// Bytes that the first frame of a longer packet holds at least, as [`state::RxFrame`] promises.
const FIRST_BYTES: usize = 128;
/// Number of the lent memory among the wire's regions.
const LENT_REGION: u16 = 1;

// Where the ledger's numbers lie.
const REAPED_AT: usize = 0;
const SENT_AT: usize = 4;
const TAKEN_AT: usize = 8;
const POSTED_AT: usize = 12;
const SLOTS_AT: usize = 64;

/// The frames that are lent: for each place of both rings, which one.
pub(super) struct Ledger {
    window: Window,
    size: u16,
    /// Frames kept posted.
    level: u16,
}

/// A ring, as the ledger numbers them.
#[derive(Clone, Copy)]
enum Side {
    Sent,
    Posted,
}

impl Ledger {
    pub(super) fn over(fd: &Fd, shape: &WireShape, area: FrameArea) -> Result<Self, MemifError> {
        let window = Window::map(fd, 0, shape.ledger_bytes())?;
        let size = u16::try_from(shape.ring_size()).map_err(|_| MemifError::Shape)?;
        let share = u16::try_from(area.count() / 4).unwrap_or(u16::MAX);
        Ok(Self { window, size, level: size.min(POSTED_MAX).min(share) })
    }

    fn word(&self, at: usize) -> &AtomicU32 {
        static NOWHERE: AtomicU32 = AtomicU32::new(u32::MAX);
        // The window is as long as the places need.
        self.window.word32(at).unwrap_or(&NOWHERE)
    }

    #[inline]
    fn index(&self, at: usize) -> u16 {
        self.word(at).load(Ordering::Relaxed) as u16
    }

    #[inline]
    fn set_index(&self, at: usize, value: u16) {
        self.word(at).store(u32::from(value), Ordering::Relaxed);
        // The order of the instructions is what a survivor needs: see the invariant above.
        compiler_fence(Ordering::SeqCst);
    }

    #[inline]
    fn place(&self, side: Side, slot: u16) -> &AtomicU32 {
        let row = match side {
            Side::Sent => 0,
            Side::Posted => usize::from(self.size),
        };
        self.word(SLOTS_AT + 4 * (row + usize::from(slot & (self.size - 1))))
    }

    #[inline]
    fn frame(&self, side: Side, slot: u16) -> FrameIdx {
        FrameIdx(self.place(side, slot).load(Ordering::Relaxed))
    }

    #[inline]
    fn note(&self, side: Side, slot: u16, frame: FrameIdx) {
        self.place(side, slot).store(frame.0, Ordering::Relaxed);
    }

    /// The place of the oldest frame that was posted and not taken back.
    pub(super) fn taken(&self) -> u16 {
        self.index(TAKEN_AT)
    }

    /// How many are posted.
    pub(super) fn posted(&self) -> u16 {
        self.index(POSTED_AT).wrapping_sub(self.taken())
    }

    /// Releases the frames of the places from the index at `from_at` to `to`.
    fn release(&self, frames: &mut Frames<'_>, side: Side, from_at: usize, to: u16) {
        let mut slot = self.index(from_at);
        for _ in 0..self.size {
            if slot == to {
                return;
            }
            let frame = self.frame(side, slot);
            slot = slot.wrapping_add(1);
            self.set_index(from_at, slot);
            frames.release(frame);
        }
    }
}

/// A packet's place among those of the ring.
struct Lender<'a> {
    ledger: &'a Ledger,
    next: u16,
    left: u16,
}

/// Is the payload of `packet` to be copied behind its headers, and is there room?
fn is_joined(frames: &Frames<'_>, packet: &TxFrame) -> bool {
    let end = frames.meta(packet.head).map_or(FRAME_BYTES, |m| usize::from(m.offset) + usize::from(m.len));
    packet.payload_bytes <= JOIN_BYTES && end + packet.payload_bytes as usize <= FRAME_BYTES
}

impl MemifPort {
    pub(super) fn transmit_lent(
        &mut self,
        frames: &mut Frames<'_>,
        packets: &[TxFrame],
    ) -> Result<usize, PortError> {
        if let Err(error) = self.still_open(&self.outgoing.ring) {
            self.take_all_back(frames);
            return Err(error);
        }
        self.reap(frames);
        let Some(ledger) = &self.lent else { return Ok(0) };
        let first = ledger.index(SENT_AT);
        let on_ring = first.wrapping_sub(ledger.index(REAPED_AT));
        let mut lender = Lender { ledger, next: first, left: ledger.size.saturating_sub(on_ring) };
        let mut stats = PortStats::default();
        let mut taken = 0;
        for packet in packets {
            let joined = is_joined(frames, packet);
            let parts = if joined { 1 } else { u16::from(packet.payload_pieces) + 1 };
            if parts > lender.left && parts <= ledger.size {
                break;
            }
            taken += 1;
            if self.lend(frames, packet, joined, &mut lender) {
                stats.tx_packets += 1;
                stats.tx_bytes += u64::from(packet.bytes());
            } else {
                stats.tx_dropped += 1;
                frames.release(packet.head);
            }
        }
        let next = lender.next;
        if next != first {
            ledger.set_index(SENT_AT, next);
            self.show(next);
        }
        self.stats.tx_packets += stats.tx_packets;
        self.stats.tx_bytes += stats.tx_bytes;
        self.stats.tx_dropped += stats.tx_dropped;
        Ok(taken)
    }

    /// Puts the frames of one packet into the ledger and on the ring; false, and nothing is lent, when it names bytes that are no
    /// frame's.
    fn lend(&self, frames: &mut Frames<'_>, packet: &TxFrame, joined: bool, lender: &mut Lender<'_>) -> bool {
        let mut packet = *packet;
        let is_super = packet.gso_size > 0 && packet.payload_bytes > u32::from(packet.gso_size);
        let metadata = metadata_of(if is_super { packet.gso_size } else { 0 }, packet.csum_start != 0);
        if joined && !join(frames, &mut packet) {
            return false;
        }
        let Some(meta) = frames.meta(packet.head) else { return false };
        let head = Piece { frame: packet.head, offset: meta.offset, len: meta.len };
        let parts = || core::iter::once(&head).chain(packet.pieces().iter().filter(|piece| piece.len > 0));
        let count = frames.count();
        let inside =
            |p: &Piece| p.frame.0 < count && usize::from(p.offset) + usize::from(p.len) <= FRAME_BYTES;
        if head.len == 0 || parts().count() > usize::from(lender.left) || !parts().all(inside) {
            return false;
        }
        let last = parts().count() - 1;
        for (at, piece) in parts().enumerate() {
            if at > 0 {
                frames.retain(piece.frame);
            }
            let address = frames.address(piece.frame) + u64::from(piece.offset);
            lender.ledger.note(Side::Sent, lender.next, piece.frame);
            let descriptor = Descriptor {
                flags: if at < last { NEXT } else { 0 },
                region: LENT_REGION,
                length: u32::from(piece.len),
                // What lies beyond 4 GiB is not lent: the server finds it outside.
                offset: u32::try_from(address).unwrap_or(u32::MAX),
                metadata: if at == 0 { metadata } else { 0 },
            };
            self.outgoing.ring.put(lender.next, descriptor);
            lender.next = lender.next.wrapping_add(1);
            lender.left -= 1;
        }
        true
    }

    /// Takes back the frames of packets that the server has copied.
    pub(super) fn reap(&mut self, frames: &mut Frames<'_>) {
        let Some(ledger) = &self.lent else { return };
        let (reaped, tail) = (ledger.index(REAPED_AT), self.outgoing.ring.tail());
        if tail.wrapping_sub(reaped) <= ledger.index(SENT_AT).wrapping_sub(reaped) {
            ledger.release(frames, Side::Sent, REAPED_AT, tail);
        } else {
            self.nonsense();
        }
    }

    pub(super) fn receive_lent(
        &mut self,
        frames: &mut Frames<'_>,
        batch: &mut RxBatch,
    ) -> Result<usize, PortError> {
        let mut left = match self.arrived() {
            Ok(run) => run.left,
            Err(error) => {
                self.take_all_back(frames);
                return Err(error);
            }
        };
        let mut got = 0;
        while left > 0 && batch.room() > 0 {
            let (parts, packet) = self.take_back(frames, left);
            left -= parts;
            match packet {
                Some((head, bytes, metadata)) => {
                    self.stats.rx_packets += 1;
                    self.stats.rx_bytes += bytes as u64;
                    batch.push(self.packet(head, bytes, metadata));
                    got += 1;
                }
                None => self.stats.rx_dropped += 1,
            }
        }
        self.post(frames);
        Ok(got)
    }

    /// Takes the frames of the next packet out of the ledger: how many they are, and, if it makes sense, the chain of them, its bytes and
    /// its metadata word.
    fn take_back(&self, frames: &mut Frames<'_>, left: u16) -> (u16, Option<(FrameIdx, usize, u32)>) {
        let Some(ledger) = &self.lent else { return (left, None) };
        let first = ledger.taken();
        let (mut head, mut last, mut bytes) = (FrameIdx::NONE, FrameIdx::NONE, 0);
        let (mut sane, mut parts, mut metadata) = (true, 0, 0);
        while parts < left {
            let slot = first.wrapping_add(parts);
            let descriptor = self.incoming.ring.get(slot);
            let frame = ledger.frame(Side::Posted, slot);
            ledger.set_index(TAKEN_AT, slot.wrapping_add(1));
            parts += 1;
            let len = descriptor.length as usize;
            let more = descriptor.flags & NEXT != 0;
            // A frame with another owner is there only after somebody scribbled over the ledger or reset the lane.
            let ours = frames.meta(frame).is_some_and(|meta| meta.refs == 1);
            sane &= ours && (1..=POSTED_BYTES).contains(&len) && usize::from(parts) <= PARTS_MAX;
            sane &= !more || (parts < left && len >= FIRST_BYTES);
            if ours {
                append(frames, last, frame, FRAME_HEADROOM, len.min(POSTED_BYTES));
                last = frame;
                if head.is_none() {
                    (head, metadata) = (frame, descriptor.metadata);
                }
            }
            bytes += len;
            if !more {
                break;
            }
        }
        sane &= bytes <= PACKET_BYTES_MAX;
        if !sane || (usize::from(parts) > CHAIN_FRAMES && !close_up(frames, head)) {
            frames.release_chain(head);
            return (parts, None);
        }
        (parts, Some((head, bytes, metadata)))
    }

    /// Lends empty frames for the server to put packets into.
    fn post(&mut self, frames: &mut Frames<'_>) {
        let Some(ledger) = &self.lent else { return };
        let ring = &self.incoming.ring;
        let first = ledger.index(POSTED_AT);
        let mut next = first;
        for _ in ledger.posted()..ledger.level {
            let Some(frame) = frames.alloc() else { break };
            let address = frames.address(frame) + FRAME_HEADROOM as u64;
            let descriptor = Descriptor {
                flags: 0,
                region: LENT_REGION,
                length: POSTED_BYTES as u32,
                offset: u32::try_from(address).unwrap_or(u32::MAX),
                metadata: 0,
            };
            ledger.note(Side::Posted, next, frame);
            ring.put(next, descriptor);
            next = next.wrapping_add(1);
        }
        if next != first {
            ledger.set_index(POSTED_AT, next);
            ring.set_head(next);
        }
    }

    /// The wire has ended, so the server touches no frame any more.
    fn take_all_back(&mut self, frames: &mut Frames<'_>) {
        let Some(ledger) = &self.lent else { return };
        ledger.release(frames, Side::Sent, REAPED_AT, ledger.index(SENT_AT));
        ledger.release(frames, Side::Posted, TAKEN_AT, ledger.index(POSTED_AT));
    }
}
