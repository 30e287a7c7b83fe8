//! Writing and reading without a copy: the program fills the frames that are sent, and looks at the frames that arrived.

use ::state::{LaneMem, SockRef};
use base::limits::FRAME_BYTES;
use base::{FrameIdx, Instant};

use super::conn::{Conn, conn};
use super::stream::{no_row, recv_refusal, send_refusal, to_write};
use super::{flag, lookup, window};
use crate::errors::{RecvError, SendError};

/// [`Engine::tcp_send_with`](crate::Engine::tcp_send_with).
pub(crate) fn send_with(
    mem: &mut LaneMem<'_>,
    now: Instant,
    s: SockRef,
    len: usize,
    mut fill: impl FnMut(&mut [u8]) -> usize,
) -> Result<usize, SendError> {
    let at = to_write(mem, now, s)?;
    let mut c = conn(mem, now, at).ok_or(SendError::Gone)?;
    if let Some(refusal) = send_refusal(&mut c) {
        if refusal == SendError::WouldBlock {
            c.set(flag::WANTS_ROOM);
        }
        return Err(refusal);
    }
    if c.cold.options.cork != 0 {
        c.set(flag::CORK);
    } else {
        c.clear(flag::CORK);
    }
    let room = window::room_to_queue(c.hot, c.cold, c.frames) as usize;
    let want = len.min(room);
    let mut done = 0;
    let mut willing = true;
    while done < want {
        let part = (want - done).min(FRAME_BYTES);
        let Some(n) = c.fill_part(part, &mut fill) else { break };
        done += n;
        if n < part {
            willing = false;
            break;
        }
    }
    if (willing && done < len) || !c.has_room() {
        c.set(flag::WANTS_ROOM);
        if c.queued() == 0 {
            // Nothing is out whose acknowledgment could tell of room: there are no frames.
            c.wait_for_frames();
        }
    }
    c.kick();
    c.arm();
    if done == 0 && willing && len > 0 { Err(SendError::WouldBlock) } else { Ok(done) }
}

/// [`Engine::tcp_recv_with`](crate::Engine::tcp_recv_with).
pub(crate) fn recv_with(
    mem: &mut LaneMem<'_>,
    now: Instant,
    s: SockRef,
    take: impl FnMut(&[u8]) -> usize,
) -> Result<usize, RecvError> {
    let at = lookup(mem, s).ok_or_else(|| no_row(mem, s))?;
    let mut c = conn(mem, now, at).ok_or(RecvError::Gone)?;
    if c.hot.rcv_bytes == 0 {
        return recv_refusal(&mut c);
    }
    let reach = c.step_over(usize::MAX);
    let n = c.take_pieces(reach.bytes, take);
    c.after_read();
    if reach.bytes == 0 { recv_refusal(&mut c) } else { Ok(n) }
}

impl Conn<'_, '_> {
    /// Hands `fill` room for `len` bytes in one frame (at most [`FRAME_BYTES`]) at the end of the send queue: behind the last
    /// byte if that many fit there, else in a fresh frame. Gives what it filled; `None`: there is no frame.
    fn fill_part(&mut self, len: usize, fill: &mut impl FnMut(&mut [u8]) -> usize) -> Option<usize> {
        let tail = self.hot.snd_queue.tail;
        let used = self.frames.meta(tail).map_or(FRAME_BYTES, |m| usize::from(m.offset) + usize::from(m.len));
        let (frame, from) = if used + len <= FRAME_BYTES { (tail, used) } else { (self.new_frame()?, 0) };
        let n = self.frames.room_mut(frame, from).get_mut(..len).map_or(0, |room| fill(room).min(len));
        if frame == tail {
            self.grow_tail(n as u16);
        } else if n > 0 {
            self.link_frame(frame);
            self.grow_tail(n as u16);
        } else {
            self.frames.release(frame);
        }
        Some(n)
    }

    /// Hands `take` up to `most` unread bytes, piece by piece, until it takes less than a piece; gives how many it took in all.
    fn take_pieces(&mut self, most: usize, mut take: impl FnMut(&[u8]) -> usize) -> usize {
        let mut done = 0;
        for _ in 0..=self.frames.count() {
            let head = self.hot.rcv_queue.head;
            let Some(meta) = self.frames.meta(head) else { break };
            let len = usize::from(meta.len);
            let piece = self.frames.data(head);
            let piece = piece.get(..most - done).unwrap_or(piece);
            if piece.is_empty() {
                break;
            }
            let n = take(piece).min(piece.len());
            done += n;
            let Some(meta) = self.frames.meta_mut(head) else { break };
            if n < len {
                meta.offset = meta.offset.saturating_add(n as u16);
                meta.len -= n as u16;
                break;
            }
            self.hot.rcv_queue.head = meta.next;
            if meta.next.is_none() {
                self.hot.rcv_queue.tail = FrameIdx::NONE;
            }
            self.frames.release(head);
        }
        self.hot.rcv_bytes = self.hot.rcv_bytes.saturating_sub(done as u32);
        done
    }
}
