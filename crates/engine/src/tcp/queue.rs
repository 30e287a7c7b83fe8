//! The send queue: frames from SND.UNA to SND.END, from which segments are cut and cut again without copying.
//!
//! Invariant: the frames' `seq` and `len` cover SND.UNA .. SND.END without a gap, in order; `snd_cursor` is the frame that
//! holds SND.NXT, or none when every byte was sent.

use ::state::{FrameQueue, Piece, TcbHot, TxFrame};
use base::{FrameIdx, SeqNum};
use region::Frames;

use super::conn::Conn;

/// Releases the bytes before `una`.
#[inline(always)]
pub(super) fn trim_acked(hot: &mut TcbHot, frames: &mut Frames<'_>, una: SeqNum) {
    let FrameQueue { head, tail } = hot.snd_queue;
    if una == hot.snd.end && head == tail {
        hot.snd_queue = FrameQueue { head: FrameIdx::NONE, tail: FrameIdx::NONE };
        hot.snd_cursor = FrameIdx::NONE;
        frames.release(head);
    } else {
        trim_some(hot, frames, una);
    }
}

/// [`trim_acked`] of whatever is there.
#[inline(never)]
fn trim_some(hot: &mut TcbHot, frames: &mut Frames<'_>, una: SeqNum) {
    for _ in 0..frames.count() {
        let head = hot.snd_queue.head;
        let Some(meta) = frames.meta_mut(head) else { return };
        let acked = una.since(SeqNum(meta.seq));
        if acked as i32 <= 0 {
            return;
        }
        if acked < u32::from(meta.len) {
            meta.offset = meta.offset.saturating_add(acked as u16);
            meta.len -= acked as u16;
            meta.seq = una.0;
            return;
        }
        hot.snd_queue.head = meta.next;
        if hot.snd_cursor == head {
            hot.snd_cursor = meta.next;
        }
        if meta.next.is_none() {
            hot.snd_queue.tail = FrameIdx::NONE;
        }
        frames.release(head);
    }
}

impl Conn<'_, '_> {
    /// Copies as much of `data` as fits into the last frame and up to `frames_max` new ones; gives the number of bytes.
    pub(super) fn append(&mut self, data: &[u8], frames_max: usize) -> usize {
        let mut rest = data;
        let mut fresh = 0;
        while !rest.is_empty() {
            let taken = self.fill_tail(rest);
            rest = rest.get(taken..).unwrap_or(&[]);
            if rest.is_empty() || fresh == frames_max || !self.extend_queue() {
                break;
            }
            fresh += 1;
        }
        data.len() - rest.len()
    }

    /// Copies the front of `data` behind the bytes of the last frame; gives the number of bytes.
    fn fill_tail(&mut self, data: &[u8]) -> usize {
        let tail = self.hot.snd_queue.tail;
        let Some(meta) = self.frames.meta(tail) else { return 0 };
        let used = usize::from(meta.offset) + usize::from(meta.len);
        let room = self.frames.room_mut(tail, used);
        let n = room.len().min(data.len());
        let (Some(to), Some(from)) = (room.get_mut(..n), data.get(..n)) else { return 0 };
        to.copy_from_slice(from);
        self.grow_tail(n as u16);
        n
    }

    /// Adds an empty frame at the end; false when there is none.
    fn extend_queue(&mut self) -> bool {
        let Some(frame) = self.new_frame() else { return false };
        self.link_frame(frame);
        true
    }

    /// An empty frame for the bytes from SND.END on; `None` when frames are short.
    pub(super) fn new_frame(&mut self) -> Option<FrameIdx> {
        if self.frames.is_short(super::RESERVE_FRAMES) {
            return None;
        }
        let frame = self.frames.alloc()?;
        let seq = self.hot.snd.end.0;
        if let Some(meta) = self.frames.meta_mut(frame) {
            meta.offset = 0;
            meta.seq = seq;
        }
        Some(frame)
    }

    /// Makes `frame` the last one.
    pub(super) fn link_frame(&mut self, frame: FrameIdx) {
        let queue = &mut self.hot.snd_queue;
        let before = core::mem::replace(&mut queue.tail, frame);
        match self.frames.meta_mut(before) {
            Some(last) if !queue.head.is_none() => last.next = frame,
            _ => queue.head = frame,
        }
    }

    /// `n` bytes were written behind those of the last frame.
    pub(super) fn grow_tail(&mut self, n: u16) {
        let tail = self.hot.snd_queue.tail;
        if let Some(meta) = self.frames.meta_mut(tail) {
            meta.len = meta.len.saturating_add(n);
        }
        if self.hot.snd_cursor.is_none() && n > 0 {
            self.hot.snd_cursor = tail;
        }
        self.hot.snd.end = self.hot.snd.end.plus(u32::from(n));
    }

    /// Releases the bytes before `una`.
    pub(super) fn trim_acked(&mut self, una: SeqNum) {
        trim_acked(self.hot, self.frames, una);
    }

    /// The frame that holds byte `seq` of the send queue.
    pub(super) fn frame_at(&self, seq: SeqNum) -> FrameIdx {
        let mut at = self.hot.snd_queue.head;
        for _ in 0..self.frames.count() {
            let Some(meta) = self.frames.meta(at) else { break };
            let into = seq.since(SeqNum(meta.seq));
            if (into as i32) < 0 {
                break;
            }
            if into < u32::from(meta.len) {
                return at;
            }
            at = meta.next;
        }
        FrameIdx::NONE
    }

    /// Adds up to `len` bytes from `seq` on, which lies in frame `from`, to `packet`. Gives the number of bytes added and the
    /// frame in which the next byte lies.
    pub(super) fn collect(
        &self,
        packet: &mut TxFrame,
        from: FrameIdx,
        seq: SeqNum,
        len: u32,
    ) -> (u32, FrameIdx) {
        let (mut at, mut taken) = (from, 0_u32);
        for _ in 0..self.frames.count() {
            if taken == len {
                break;
            }
            let Some(meta) = self.frames.meta(at) else { break };
            let into = seq.plus(taken).since(SeqNum(meta.seq));
            let Some(left) = u32::from(meta.len).checked_sub(into) else { break };
            let n = left.min(len - taken);
            let offset = u32::from(meta.offset).saturating_add(into);
            if n > 0 && !packet.push_piece(Piece { frame: at, offset: offset as u16, len: n as u16 }) {
                break;
            }
            taken += n;
            if n < left {
                break;
            }
            at = meta.next;
        }
        (taken, at)
    }
}
