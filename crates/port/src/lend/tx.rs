//! Sending: frames are lent, and taken back when the peer has done with them.

use base::FrameIdx;
use base::limits::FRAME_BYTES;
use region::{Frames, LENT_MAX};
use state::{Piece, TxFrame};

use super::{COPY_MAX, Header, LendPort, Span};
use crate::PortError;

/// Times in a row that the peer had no room before we look whether it lives.
const PATIENCE: u32 = 1 << 14;
/// Where TCP's checksum field lies in its header (RFC 9293 3.1): payload of TCP may be kept by the receiver, anything else is copied,
/// because it may be changed in place.
const TCP_CHECKSUM_AT: u16 = 16;

impl LendPort {
    pub(super) fn transmit(
        &mut self,
        frames: &mut Frames<'_>,
        packets: &[TxFrame],
    ) -> Result<usize, PortError> {
        if self.outgoing.is_closed() {
            self.take_all_back(frames);
            return Err(Self::gone());
        }
        let first = self.sent;
        let mut taken = 0;
        for packet in packets {
            if !self.has_room(1 + packet.pieces().len()) {
                break;
            }
            if self.put(frames, packet) {
                self.stats.tx_packets += 1;
                self.stats.tx_bytes += u64::from(packet.bytes());
            } else {
                self.stats.tx_dropped += 1;
            }
            taken += 1;
        }
        if self.sent != first {
            self.outgoing.show(self.sent);
        }
        if taken == 0 && !packets.is_empty() {
            self.look_after_peer(frames)?;
        } else {
            self.refused = 0;
        }
        Ok(taken)
    }

    /// Is there room for a packet of so many pieces?
    fn has_room(&mut self, pieces: usize) -> bool {
        let words = 1 + pieces as u64;
        let used = |port: &Self| port.sent.wrapping_sub(port.sent_taken);
        if used(self) + words > LENT_MAX as u64 {
            self.sent_taken = self.outgoing.consumed();
        }
        self.free.len() >= pieces && used(self).saturating_add(words) <= LENT_MAX as u64
    }

    /// Lends one packet, whose head is ours to give up. False: there is no frame for a copy that it needs; it is lost.
    fn put(&mut self, frames: &mut Frames<'_>, packet: &TxFrame) -> bool {
        let Some(mut header_bytes) = frames.meta(packet.head).map(|m| (m.offset, m.len)) else {
            return false;
        };
        let small = copy_behind(frames, packet, &mut header_bytes);
        let pieces = if small { &[] } else { packet.pieces() };
        let start = self.sent;
        let mut at = start.wrapping_add(1);
        let (offset, len) = header_bytes;
        let mut whole = self.lend(frames, &mut at, Piece { frame: packet.head, offset, len });
        frames.release(packet.head);
        for piece in pieces {
            whole = whole && self.lend(frames, &mut at, *piece);
        }
        if !whole {
            self.undo(frames, start.wrapping_add(1), at);
            return false;
        }
        let header = Header {
            pieces: at.wrapping_sub(start) as u8 - 1,
            unfinished: packet.csum_start != 0,
            keep: packet.csum_start != 0 && packet.csum_offset == TCP_CHECKSUM_AT,
            gso_size: if packet.payload_bytes > u32::from(packet.gso_size) { packet.gso_size } else { 0 },
        };
        self.outgoing.put(start, header.word());
        self.sent = at;
        true
    }

    /// Lends the bytes of `piece`, or a copy of them if they are lent already, in the word at `at`.
    fn lend(&mut self, frames: &mut Frames<'_>, at: &mut u64, piece: Piece) -> bool {
        let Piece { mut frame, mut offset, len } = piece;
        if len == 0 || usize::from(offset) + usize::from(len) > FRAME_BYTES {
            return len == 0;
        }
        if !frames.lend(frame) {
            let Some(fresh) = frames.alloc() else { return false };
            let lent =
                frames.copy((frame, usize::from(offset)), (fresh, 0), usize::from(len)) && frames.lend(fresh);
            frames.release(fresh);
            if !lent {
                return false;
            }
            (frame, offset) = (fresh, 0);
        }
        let Some(place) = self.free.pop() else {
            frames.take_back(frame); // not so: room was asked for
            return false;
        };
        if let Some(slot) = self.lent.get_mut(usize::from(place)) {
            *slot = frame;
        }
        self.outgoing.put(*at, Span { frame, offset, len, place }.word());
        *at = at.wrapping_add(1);
        true
    }

    /// Takes back what the words `from..to` lend, which were never shown.
    fn undo(&mut self, frames: &mut Frames<'_>, from: u64, to: u64) {
        for at in 0..to.wrapping_sub(from) {
            self.place_back(frames, Span::of(self.outgoing.get(from.wrapping_add(at))).place);
        }
    }

    /// Takes back what the peer has done with.
    pub(super) fn take_returned(&mut self, frames: &mut Frames<'_>) {
        let shown = self.returned.shown();
        let waiting = shown.wrapping_sub(self.returned_taken).min(LENT_MAX as u64);
        for _ in 0..waiting {
            let place = self.returned.get(self.returned_taken) as u8;
            self.returned_taken = self.returned_taken.wrapping_add(1);
            self.place_back(frames, place);
        }
    }

    /// The frame lent at `place`, if any, is ours alone again.
    fn place_back(&mut self, frames: &mut Frames<'_>, place: u8) {
        let Some(slot) = self.lent.get_mut(usize::from(place)) else { return };
        let frame = core::mem::replace(slot, FrameIdx::NONE);
        if !frame.is_none() {
            frames.take_back(frame);
            self.free.push(place);
        }
    }

    /// The peer is gone, and reads nothing any more.
    fn take_all_back(&mut self, frames: &mut Frames<'_>) {
        (0..=u8::MAX).for_each(|place| self.place_back(frames, place));
    }

    /// The peer took nothing for once. Ends the wire if its lane's holder died.
    fn look_after_peer(&mut self, frames: &mut Frames<'_>) -> Result<(), PortError> {
        self.refused = self.refused.wrapping_add(1);
        if !self.refused.is_multiple_of(PATIENCE) {
            return Ok(());
        }
        match self.peer.holder() {
            Some(holder) if sys::process::is_gone(holder.pid, holder.tid) => {
                self.outgoing.close();
                self.incoming.close();
                self.take_all_back(frames);
                Err(Self::gone())
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Copies a small payload behind the headers in the head's frame, whose bytes `header` says. True: it is there.
fn copy_behind(frames: &mut Frames<'_>, packet: &TxFrame, header: &mut (u16, u16)) -> bool {
    let end = usize::from(header.0) + usize::from(header.1);
    if packet.payload_bytes > u32::from(COPY_MAX) || end + packet.payload_bytes as usize > FRAME_BYTES {
        return false;
    }
    let mut at = end;
    for piece in packet.pieces() {
        if !frames.copy((piece.frame, usize::from(piece.offset)), (packet.head, at), usize::from(piece.len)) {
            return false;
        }
        at += usize::from(piece.len);
    }
    header.1 += (at - end) as u16;
    true
}
