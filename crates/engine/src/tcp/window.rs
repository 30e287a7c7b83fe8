//! The windows we announce, and the room in our buffers (RFC 9293 3.8.6.2, RFC 7323 2).

use ::state::{TcbCold, TcbHot};
use base::SeqNum;
use base::limits::FRAME_BYTES;
use region::Frames;

use super::conn::Conn;
use super::{RESERVE_FRAMES, State};

/// Window of a segment with SYN, bytes: never scaled.
const SYN_WINDOW_MAX: u32 = 65_535;

/// The shift with which a buffer of `bytes` can be announced in 16 bits (RFC 7323 2.2, 2.3).
pub(super) fn shift_for(bytes: u32) -> u8 {
    // Bits beyond the sixteen.
    (u32::BITS - (bytes >> 16).leading_zeros()).min(14) as u8
}

/// Bytes of the window as last announced that are still open.
#[inline]
pub(super) fn rcv_wnd(hot: &TcbHot) -> u32 {
    let (nxt, edge) = (hot.rcv.nxt, hot.rcv.edge);
    if edge.before(nxt) { 0 } else { edge.since(nxt) }
}

/// The shift of the windows we announce from now on.
#[inline]
fn rcv_window_shift(hot: &TcbHot) -> u32 {
    if hot.state == State::SynSent as u8 { 0 } else { u32::from(hot.rcv_shift.min(14)) }
}

/// Room in the receive buffer, as far as 16 bits shifted by `shift` can tell of it, bytes.
#[inline]
fn room_to_offer(hot: &TcbHot, shift: u32) -> u32 {
    hot.rcv_buf.saturating_sub(hot.rcv_bytes).min(SYN_WINDOW_MAX << shift)
}

/// The window field of the next segment, RCV.EDGE moved accordingly.
#[inline]
pub(super) fn announce_window(hot: &mut TcbHot, frames: &Frames<'_>) -> u16 {
    announce_scaled(hot, frames, rcv_window_shift(hot))
}

/// [`announce_window`] once the handshake is complete.
#[inline(always)]
pub(super) fn announce_open_window(hot: &mut TcbHot, frames: &Frames<'_>) -> u16 {
    // A shift is at most 14.
    announce_scaled(hot, frames, u32::from(hot.rcv_shift % 16))
}

#[inline(always)]
fn announce_scaled(hot: &mut TcbHot, frames: &Frames<'_>, shift: u32) -> u16 {
    let now = rcv_wnd(hot);
    let free = room_to_offer(hot, shift);
    let mut window = now;
    // RFC 9293 3.8.6.2.2: the edge moves only by a segment or half the buffer, so that the peer sends no small
    // segments; and never back (3.8.6.2.1).
    let step = u32::from(hot.mss.max(1)).min(hot.rcv_buf / 2);
    if free >= now.saturating_add(step) && !frames.is_short(RESERVE_FRAMES) {
        window = free;
    }
    // Rounded up, or the edge would move back by what the shift cuts off.
    let field = (window.saturating_add((1 << shift) - 1) >> shift).min(SYN_WINDOW_MAX);
    hot.rcv.edge = hot.rcv.nxt.plus(field << shift).later(hot.rcv.edge);
    field as u16
}

/// The window field of a SYN or SYN,ACK (RFC 7323 2.2: not scaled), RCV.EDGE moved accordingly.
#[inline]
pub(super) fn announce_syn_window(hot: &mut TcbHot) -> u16 {
    let window = hot.rcv_buf.min(SYN_WINDOW_MAX);
    hot.rcv.edge = hot.rcv.nxt.plus(window);
    window as u16
}

/// The program has read: is it worth an ACK to tell the peer of the room (RFC 9293 3.8.6.2.2)?
#[inline]
pub(super) fn room_is_news(hot: &TcbHot) -> bool {
    let now = rcv_wnd(hot);
    let free = room_to_offer(hot, rcv_window_shift(hot));
    // As Linux: when the window at least doubles by it.
    free >= now.saturating_mul(2)
        && free.saturating_sub(now) >= u32::from(hot.mss.max(1)).min(hot.rcv_buf / 2)
}

/// Bytes in the send buffer.
#[inline]
pub(super) fn queued(hot: &TcbHot) -> u32 {
    if hot.snd.end.before(hot.snd.una) { 0 } else { hot.snd.end.since(hot.snd.una) }
}

/// A connection queues at most left * left / (PART * all) frames. So something is left for the next one after any number of connections whose
/// peers take nothing: n of them leave about 1 / (1 + n / PART) of all.
const PART: u64 = 4;

/// Bytes that one connection may hold in a queue now: who does not read, or whose peer does not, must not stop the others.
fn fair_share(frames: &Frames<'_>) -> u32 {
    let left = u64::from(frames.left());
    let bytes = left * left / (PART * u64::from(frames.count().max(1))) * FRAME_BYTES as u64;
    u32::try_from(bytes).unwrap_or(u32::MAX).max(FRAME_BYTES as u32)
}

/// Is there enough room in the send buffer to tell the program (Linux: a third of the buffer), and little enough unsent (TCP_NOTSENT_LOWAT)?
#[inline]
pub(super) fn has_room(hot: &TcbHot, cold: &TcbCold, frames: &Frames<'_>) -> bool {
    let queued = queued(hot);
    let low = cold.options.notsent_low_bytes;
    hot.snd_buf.saturating_sub(queued) >= queued / 2
        && queued < hot.snd_buf
        && (queued <= FRAME_BYTES as u32 / 2 || u64::from(queued) * 3 < u64::from(fair_share(frames)) * 2)
        && (low == 0 || u64::from(unsent(hot)) * 2 < u64::from(low))
}

/// Bytes queued and not yet sent.
#[inline]
fn unsent(hot: &TcbHot) -> u32 {
    if hot.snd.end.after(hot.snd.nxt) { hot.snd.end.since(hot.snd.nxt) } else { 0 }
}

/// Bytes the program may add to the send queue.
pub(super) fn room_to_queue(hot: &TcbHot, cold: &TcbCold, frames: &Frames<'_>) -> u32 {
    let room = hot.snd_buf.min(fair_share(frames)).saturating_sub(queued(hot));
    let (low, unsent) = (cold.options.notsent_low_bytes, unsent(hot));
    if low == 0 {
        room
    } else if unsent >= low {
        0
    } else {
        // As Linux, which looks once for each piece it takes: a whole one whatever is left.
        room.min((low - unsent).max(FRAME_BYTES as u32))
    }
}

impl Conn<'_, '_> {
    /// The window field of the next segment, RCV.EDGE moved accordingly.
    #[inline]
    pub(super) fn announce_window(&mut self) -> u16 {
        announce_window(self.hot, self.frames)
    }

    /// [`announce_syn_window`].
    pub(super) fn announce_syn_window(&mut self) -> u16 {
        announce_syn_window(self.hot)
    }

    /// The program has read: is it worth an ACK to tell the peer of the room (RFC 9293 3.8.6.2.2)?
    pub(super) fn room_is_news(&self) -> bool {
        room_is_news(self.hot)
    }

    /// Is there enough room in the send buffer to tell the program (Linux: a third of the buffer)?
    #[inline]
    pub(super) fn has_room(&self) -> bool {
        has_room(self.hot, self.cold, self.frames)
    }

    /// The right edge of what may be sent now by the peer's window.
    #[inline]
    pub(super) fn snd_edge(&self) -> SeqNum {
        self.hot.snd.una.plus(self.hot.snd.wnd)
    }
}

#[cfg(test)]
mod tests {
    use super::shift_for;

    #[test]
    fn the_shift_makes_the_buffer_fit_into_16_bits() {
        assert_eq!((shift_for(0), shift_for(65_535), shift_for(65_536)), (0, 0, 1));
        assert_eq!((shift_for(4 << 20), shift_for(6 << 20)), (7, 7));
        assert_eq!((shift_for((65_536 << 13) - 1), shift_for(65_536 << 13)), (13, 14));
        assert_eq!(shift_for(u32::MAX), 14);
    }
}
