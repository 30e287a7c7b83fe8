//! Chains of frames made and read byte by byte.

use base::FrameIdx;
use base::limits::{CHAIN_FRAMES, FRAME_BYTES, FRAME_HEADROOM};
use region::Frames;
use state::{Piece, TxFrame};

/// Makes `frame`, with `len` bytes at `offset`, the end of the chain that ends in `last` so far.
pub(crate) fn append(frames: &mut Frames<'_>, last: FrameIdx, frame: FrameIdx, offset: usize, len: usize) {
    if let Some(meta) = frames.meta_mut(frame) {
        (meta.offset, meta.len, meta.next) = (offset as u16, len as u16, FrameIdx::NONE);
    }
    if let Some(meta) = frames.meta_mut(last) {
        meta.next = frame;
    }
}

/// Copies `bytes` into new frames behind `last`. False when the frames run out; the chain then ends early.
pub(crate) fn spill(frames: &mut Frames<'_>, mut last: FrameIdx, bytes: &[u8]) -> bool {
    for piece in bytes.chunks(FRAME_BYTES) {
        let Some(frame) = frames.alloc() else { return false };
        if let Some(room) = frames.cell_mut(frame).get_mut(..piece.len()) {
            room.copy_from_slice(piece);
        }
        append(frames, last, frame, 0, piece.len());
        last = frame;
    }
    true
}

/// MTU of a port whose received frames all have headroom: so long a packet, with Ethernet header and VLAN tag, fits into a
/// chain of them. Longer ones may come, and then have to be copied once more: see [`close_up`].
pub(crate) const HEADROOM_MTU: u16 = (CHAIN_FRAMES * (FRAME_BYTES - FRAME_HEADROOM) - 18) as u16;

/// Copies what lies behind the first frame of the chain `head` into new frames without headroom, for a packet whose frames all
/// have one and are therefore more than [`CHAIN_FRAMES`]. False when the frames run out or it is still too long; the chain
/// then ends early.
#[inline(never)]
pub(crate) fn close_up(frames: &mut Frames<'_>, head: FrameIdx) -> bool {
    let Some(meta) = frames.meta_mut(head) else { return false };
    let rest = core::mem::take(&mut meta.next);
    let done = copy_behind(frames, head, rest);
    frames.release_chain(rest);
    done
}

/// Appends new frames to `last` with a copy of the bytes of the chain `from`.
fn copy_behind(frames: &mut Frames<'_>, mut last: FrameIdx, mut from: FrameIdx) -> bool {
    let (mut count, mut end) = (1, FRAME_BYTES);
    for _ in 0..frames.count() {
        let Some(meta) = frames.meta(from) else { return true };
        let (mut at, mut left, next) = (usize::from(meta.offset), usize::from(meta.len), meta.next);
        while left > 0 {
            if end == FRAME_BYTES {
                if count == CHAIN_FRAMES {
                    return false;
                }
                let Some(frame) = frames.alloc() else { return false };
                append(frames, last, frame, 0, 0);
                (last, count, end) = (frame, count + 1, 0);
            }
            let part = left.min(FRAME_BYTES - end);
            if !frames.copy((from, at), (last, end), part) {
                return false;
            }
            if let Some(meta) = frames.meta_mut(last) {
                meta.len += part as u16;
            }
            (at, left, end) = (at + part, left - part, end + part);
        }
        from = next;
    }
    from.is_none()
}

/// `bytes` as a received packet in new frames. `None` when they run out.
#[must_use]
pub fn of_bytes(frames: &mut Frames<'_>, bytes: &[u8]) -> Option<FrameIdx> {
    let (first, rest) = bytes.split_at(bytes.len().min(FRAME_BYTES - FRAME_HEADROOM));
    let head = frames.alloc()?;
    if let Some(room) = frames.cell_mut(head).get_mut(FRAME_HEADROOM..FRAME_HEADROOM + first.len()) {
        room.copy_from_slice(first);
    }
    append(frames, FrameIdx::NONE, head, FRAME_HEADROOM, first.len());
    if !spill(frames, head, rest) {
        frames.release_chain(head);
        return None;
    }
    Some(head)
}

/// Appends the bytes of the chain that begins at `head` to `bytes`.
pub(crate) fn read(frames: &Frames<'_>, head: FrameIdx, bytes: &mut Vec<u8>) {
    let mut at = head;
    for _ in 0..CHAIN_FRAMES {
        let Some(meta) = frames.meta(at) else { return };
        bytes.extend_from_slice(frames.data(at));
        at = meta.next;
    }
}

/// Appends the bytes of a packet to send to `bytes`.
pub fn read_tx(frames: &Frames<'_>, packet: &TxFrame, bytes: &mut Vec<u8>) {
    bytes.extend_from_slice(frames.data(packet.head));
    for piece in packet.pieces() {
        let from = usize::from(piece.offset);
        let cell = frames.cell(piece.frame);
        bytes.extend_from_slice(cell.get(from..from + usize::from(piece.len)).unwrap_or(&[]));
    }
}

/// Copies the payload behind the headers, when it fits into their frame. False when it does not.
pub(crate) fn join(frames: &mut Frames<'_>, packet: &mut TxFrame) -> bool {
    let Some(meta) = frames.meta(packet.head) else { return false };
    let mut end = usize::from(meta.offset) + usize::from(meta.len);
    let bytes = packet.payload_bytes as usize;
    if end + bytes > FRAME_BYTES {
        return false;
    }
    for piece in packet.pieces() {
        let len = usize::from(piece.len);
        if !frames.copy((piece.frame, usize::from(piece.offset)), (packet.head, end), len) {
            return false;
        }
        end += len;
    }
    if let Some(meta) = frames.meta_mut(packet.head) {
        meta.len += bytes as u16;
    }
    packet.header_bytes += bytes as u16;
    packet.payload = [Piece::default(); CHAIN_FRAMES];
    (packet.payload_pieces, packet.payload_bytes) = (0, 0);
    true
}
