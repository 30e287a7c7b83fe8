//! Bytes of a packet that lies in a chain of frames: sum, copy, trim, and make new ones.

use base::FrameIdx;
use base::limits::{CHAIN_FRAMES, FRAME_BYTES, FRAME_HEADROOM};
use region::Frames;
use wire::Sum;

/// Payload bytes that fit in a fresh frame behind the headroom.
pub(crate) const FRESH_BYTES: usize = FRAME_BYTES - FRAME_HEADROOM;

/// A fresh frame of `len` bytes behind the headroom, contents undefined. `None`: no free frame, or `len` too large.
pub(crate) fn fresh(frames: &mut Frames<'_>, len: usize) -> Option<FrameIdx> {
    let len = u16::try_from(len).ok().filter(|&n| usize::from(n) <= FRESH_BYTES)?;
    let frame = frames.alloc()?;
    frames.meta_mut(frame)?.len = len;
    Some(frame)
}

/// A fresh frame of `len` bytes without headroom, to follow another in a chain; contents undefined. `None`: no free
/// frame, or `len` above [`FRAME_BYTES`].
pub(crate) fn fresh_rest(frames: &mut Frames<'_>, len: usize) -> Option<FrameIdx> {
    let len = u16::try_from(len).ok().filter(|&n| usize::from(n) <= FRAME_BYTES)?;
    let frame = frames.alloc()?;
    let meta = frames.meta_mut(frame)?;
    meta.offset = 0;
    meta.len = len;
    Some(frame)
}

/// Cuts the chain `head` to `want` bytes and releases what is behind them. False: it is shorter, or broken; nothing
/// was cut then.
pub(crate) fn trim(frames: &mut Frames<'_>, head: FrameIdx, want: usize) -> bool {
    let mut at = head;
    let mut left = want;
    for _ in 0..CHAIN_FRAMES {
        let Some(meta) = frames.meta_mut(at) else { return false };
        let len = usize::from(meta.len);
        if len >= left {
            meta.len = left as u16;
            let rest = core::mem::take(&mut meta.next);
            frames.release_chain(rest);
            return true;
        }
        left -= len;
        at = meta.next;
    }
    false
}

/// The sum of the `len` bytes of the chain `head` that follow its first `skip` bytes. `None`: there are fewer.
pub(crate) fn sum(frames: &Frames<'_>, head: FrameIdx, skip: usize, len: usize) -> Option<Sum> {
    let mut total = Sum::ZERO;
    let done = each_piece(frames, head, skip, len, |bytes| total = total.plus_bytes(bytes));
    (done == len).then_some(total)
}

/// Copies the bytes of the chain `head` that follow its first `skip` bytes to `out`; gives how many.
pub(crate) fn copy_out(frames: &Frames<'_>, head: FrameIdx, skip: usize, out: &mut [u8]) -> usize {
    let mut rest = &mut *out;
    let len = rest.len();
    each_piece(frames, head, skip, len, |bytes| {
        let (to, behind) = core::mem::take(&mut rest).split_at_mut(bytes.len());
        to.copy_from_slice(bytes);
        rest = behind;
    })
}

/// Calls `f` with the `len` bytes behind the first `skip` ones, piece by piece; gives how many there were.
pub(crate) fn each_piece(
    frames: &Frames<'_>,
    head: FrameIdx,
    mut skip: usize,
    len: usize,
    mut f: impl FnMut(&[u8]),
) -> usize {
    let mut at = head;
    let mut done = 0;
    for _ in 0..CHAIN_FRAMES {
        let Some(meta) = frames.meta(at) else { break };
        let data = frames.data(at);
        let piece = data.get(skip..).unwrap_or(&[]);
        skip = skip.saturating_sub(data.len());
        let piece = piece.get(..len - done).unwrap_or(piece);
        if !piece.is_empty() {
            f(piece);
            done += piece.len();
        }
        if done >= len {
            break;
        }
        at = meta.next;
    }
    done
}

/// Frames of the chain `head`.
pub(crate) fn chain_frames(frames: &Frames<'_>, head: FrameIdx) -> u32 {
    let mut at = head;
    let mut count = 0;
    while let Some(meta) = frames.meta(at) {
        count += 1;
        if count >= CHAIN_FRAMES as u32 {
            break;
        }
        at = meta.next;
    }
    count
}

/// The last frame of the chain `head`.
pub(crate) fn last_of(frames: &Frames<'_>, head: FrameIdx) -> FrameIdx {
    let mut at = head;
    for _ in 1..CHAIN_FRAMES {
        let Some(next) = frames.meta(at).map(|meta| meta.next).filter(|next| !next.is_none()) else { break };
        at = next;
    }
    at
}

/// Copies `len` bytes, those behind the first `skip` ones of the chain `head`, to byte `at` and on of the cell of `to`.
/// False: there are fewer, or they do not fit.
pub(crate) fn copy_chain(
    frames: &mut Frames<'_>,
    (head, skip): (FrameIdx, usize),
    (to, at): (FrameIdx, usize),
    len: usize,
) -> bool {
    // Both cells are reached through one view, hence the detour over a small buffer; only what is cut into
    // fragments or put together takes this way.
    let mut buffer = [0u8; 512];
    let mut done = 0;
    while done < len {
        let Some(part) = buffer.get_mut(..(len - done).min(512)) else { return false };
        if copy_out(frames, head, skip + done, part) != part.len() {
            return false;
        }
        let Some(room) = frames.cell_mut(to).get_mut(at + done..at + done + part.len()) else { return false };
        room.copy_from_slice(part);
        done += part.len();
    }
    true
}
