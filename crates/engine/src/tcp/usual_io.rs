//! The usual write and read: a message that fits into one frame, on an open connection about which nothing is unusual.

use ::state::{LaneMem, SockRef, TcbCold, TcbHot};
use base::limits::{FRAME_BYTES, FRAME_HEADROOM};
use base::{FrameIdx, Idx};
use region::Frames;

use super::conn::{Ring, cold_of, push_ring};
use super::{RESERVE_FRAMES, State, flag, lookup, window};

/// A message of at most so many bytes lies where headers and received segments begin, which is in the cache when the frame held one
/// before, as most have.
const SMALL_MAX: usize = 1024;

/// Queues all of `data`. False: it is not the usual case, and nothing was done.
#[inline]
pub(super) fn send(mem: &mut LaneMem<'_>, s: SockRef, data: &[u8]) -> bool {
    let Some(at) = lookup(mem, s) else { return false };
    let (Some(hot), Some(cold)) = (mem.hot.get_mut(at), mem.cold.get(cold_of(at))) else { return false };
    if !may_send(hot, cold, data.len()) || !append(hot, &mut mem.frames, data) {
        return false;
    }
    if hot.flags & flag::RING_DATA == 0 {
        hot.flags |= flag::RING_DATA;
        push_ring(&mut mem.globals.tcp, &mut mem.rings, Ring::Data, at);
    }
    true
}

/// Is there nothing to say but yes, and room for half as much again?
#[inline]
fn may_send(hot: &TcbHot, cold: &TcbCold, len: usize) -> bool {
    (hot.state == State::Established as u8 || hot.state == State::CloseWait as u8)
        && hot.flags & (flag::FIN_QUEUED | flag::CORK) == 0
        && cold.options.cork == 0
        && cold.options.notsent_low_bytes == 0
        && cold.error == 0
        && len.wrapping_sub(1) < FRAME_BYTES
        && window::queued(hot) as usize + len <= hot.snd_buf as usize / 2
}

/// Copies `data` behind the last byte that is queued, or into a fresh frame when none is queued. False: it does not fit.
#[inline]
fn append(hot: &mut TcbHot, frames: &mut Frames<'_>, data: &[u8]) -> bool {
    let queue = &mut hot.snd_queue;
    let used;
    if queue.head.is_none() {
        if frames.is_short(RESERVE_FRAMES) {
            return false;
        }
        used = if data.len() <= SMALL_MAX { FRAME_HEADROOM } else { 0 };
        let Some(frame) = frames.alloc_at(used as u16, data.len() as u16, hot.snd.end.0) else {
            return false;
        };
        queue.head = frame;
        queue.tail = frame;
    } else {
        let Some(meta) = frames.meta_mut(queue.tail) else { return false };
        used = usize::from(meta.offset) + usize::from(meta.len);
        if used + data.len() > FRAME_BYTES {
            return false;
        }
        meta.len += data.len() as u16;
    }
    if let Some(to) = frames.room_mut(queue.tail, used).get_mut(..data.len()) {
        to.copy_from_slice(data);
    }
    if hot.snd_cursor.is_none() {
        hot.snd_cursor = queue.tail;
    }
    hot.snd.end = hot.snd.end.plus(data.len() as u32);
    true
}

/// Reads what is unread, if it lies in one frame, to the front of `buf`; gives the number of bytes. `None`: it is not the usual
/// case, and nothing was done.
#[inline]
pub(super) fn recv(mem: &mut LaneMem<'_>, s: SockRef, buf: &mut [u8]) -> Option<usize> {
    let at: Idx<TcbHot> = lookup(mem, s)?;
    let hot = mem.hot.get_mut(at)?;
    if hot.flags & flag::SPECIAL != 0 {
        return None; // there may be a mark in it
    }
    let head = hot.rcv_queue.head;
    let len = hot.rcv_bytes as usize;
    let to = buf.get_mut(..len).filter(|_| head == hot.rcv_queue.tail)?;
    let from = mem.frames.data(head);
    if from.len() != len || len == 0 {
        return None;
    }
    to.copy_from_slice(from);
    hot.rcv_queue.head = FrameIdx::NONE;
    hot.rcv_queue.tail = FrameIdx::NONE;
    hot.rcv_bytes = 0;
    mem.frames.release(head);
    if State::from_raw(hot.state).may_receive() && window::room_is_news(hot) {
        hot.flags |= flag::ACK_NOW;
        if hot.flags & flag::RING_ACK == 0 {
            hot.flags |= flag::RING_ACK;
            push_ring(&mut mem.globals.tcp, &mut mem.rings, Ring::Ack, at);
        }
    }
    Some(len)
}
