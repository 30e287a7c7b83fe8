//! Writing and reading (RFC 9293 3.10.2, 3.10.3).

use ::state::{LaneMem, SockRef, TcbHot};
use base::limits::FRAME_BYTES;
use base::{FrameIdx, Idx, Instant};

use super::conn::{Conn, conn};
use super::fast_open::bit;
use super::urgent::Reach;
use super::{State, flag, handle, lookup, report, tune, usual_io, window};
use crate::errors::{RecvError, SendError};

/// Why nothing can be written to the connection in its state.
pub(super) fn send_refusal(c: &mut Conn<'_, '_>) -> Option<SendError> {
    if let Some(error) = report::take_error(c.cold) {
        return Some(SendError::Failed(error));
    }
    match c.state() {
        State::SynRcvd if c.is_early() => c.any(flag::FIN_QUEUED).then_some(SendError::Pipe),
        State::SynSent | State::SynRcvd => {
            if c.cold.fast & bit::DEFERRED != 0 {
                c.first_write(&[]);
            }
            Some(SendError::WouldBlock)
        }
        State::Established | State::CloseWait => c.any(flag::FIN_QUEUED).then_some(SendError::Pipe),
        _ => Some(SendError::Pipe),
    }
}

/// The connection that `s` names, woken if it slept.
#[inline]
pub(super) fn to_write(mem: &mut LaneMem<'_>, now: Instant, s: SockRef) -> Result<Idx<TcbHot>, SendError> {
    match handle::awake(mem, now, s) {
        Ok(at) => Ok(at),
        Err(Some(_)) => Err(SendError::WouldBlock),
        Err(None) => Err(SendError::Gone),
    }
}

/// [`Engine::tcp_send`](crate::Engine::tcp_send).
#[inline]
pub(crate) fn send(
    mem: &mut LaneMem<'_>,
    now: Instant,
    s: SockRef,
    data: &[u8],
    more: bool,
) -> Result<usize, SendError> {
    if !more && usual_io::send(mem, s, data) {
        return Ok(data.len());
    }
    send_any(mem, now, s, data, more)
}

#[inline(never)]
fn send_any(
    mem: &mut LaneMem<'_>,
    now: Instant,
    s: SockRef,
    data: &[u8],
    more: bool,
) -> Result<usize, SendError> {
    let at = to_write(mem, now, s)?;
    let mut c = conn(mem, now, at).ok_or(SendError::Gone)?;
    if c.cold.fast & bit::DEFERRED != 0 && c.state() == State::SynSent {
        let n = c.first_write(data);
        return if n == 0 && !data.is_empty() { Err(SendError::WouldBlock) } else { Ok(n) };
    }
    if let Some(refusal) = send_refusal(&mut c) {
        if refusal == SendError::WouldBlock {
            c.set(flag::WANTS_ROOM);
        }
        return Err(refusal);
    }
    if more || c.cold.options.cork != 0 {
        c.set(flag::CORK);
    } else {
        c.clear(flag::CORK);
    }
    if data.len() > c.hot.snd_buf as usize {
        tune::expand_send(c.hot, c.cold, c.tcp, c.frames);
    }
    let room = window::room_to_queue(c.hot, c.cold, c.frames) as usize;
    let part = data.get(..data.len().min(room)).unwrap_or(data);
    let n = c.append(part, part.len() / FRAME_BYTES + 2);
    if n < data.len() || !c.has_room() {
        c.set(flag::WANTS_ROOM);
        if c.queued() == 0 {
            // Nothing is out whose acknowledgment could tell of room: there are no frames.
            c.wait_for_frames();
        }
    }
    c.kick();
    c.arm();
    if n == 0 && !data.is_empty() { Err(SendError::WouldBlock) } else { Ok(n) }
}

/// Why nothing can be read from the connection, whose receive queue is empty. `Ok`: the stream is at its end.
pub(super) fn recv_refusal(c: &mut Conn<'_, '_>) -> Result<usize, RecvError> {
    if let Some(error) = report::take_error(c.cold) {
        return Err(RecvError::Failed(error));
    }
    if c.any(flag::FIN_RCVD | flag::SHUT_READ) {
        return Ok(0);
    }
    match c.state() {
        State::Closed | State::Listen => Ok(0),
        State::SynSent | State::SynRcvd => Err(RecvError::WouldBlock),
        _ => Err(RecvError::WouldBlock),
    }
}

/// Why nothing can be read from what `s` names, which has no TCB row: a hibernating connection has nothing to read.
#[cold]
pub(super) fn no_row(mem: &LaneMem<'_>, s: SockRef) -> RecvError {
    if handle::place_of(mem, s).is_some() { RecvError::WouldBlock } else { RecvError::Gone }
}

/// [`Engine::tcp_recv`](crate::Engine::tcp_recv).
#[inline]
pub(crate) fn recv(
    mem: &mut LaneMem<'_>,
    now: Instant,
    s: SockRef,
    buf: &mut [u8],
    peek: bool,
) -> Result<usize, RecvError> {
    if !peek && let Some(n) = usual_io::recv(mem, s, buf) {
        return Ok(n);
    }
    recv_any(mem, now, s, buf, peek)
}

#[inline(never)]
fn recv_any(
    mem: &mut LaneMem<'_>,
    now: Instant,
    s: SockRef,
    buf: &mut [u8],
    peek: bool,
) -> Result<usize, RecvError> {
    let at = lookup(mem, s).ok_or_else(|| no_row(mem, s))?;
    let mut c = conn(mem, now, at).ok_or(RecvError::Gone)?;
    if c.hot.rcv_bytes == 0 {
        return recv_refusal(&mut c);
    }
    if peek {
        return c.peek(0, buf);
    }
    c.read(buf.len(), |bytes, at| {
        if let Some(to) = buf.get_mut(at..at + bytes.len()) {
            to.copy_from_slice(bytes);
        }
    })
}

/// [`Engine::tcp_peek_at`](crate::Engine::tcp_peek_at).
pub(crate) fn peek_at(
    mem: &mut LaneMem<'_>,
    s: SockRef,
    skip: usize,
    buf: &mut [u8],
) -> Result<usize, RecvError> {
    let at = lookup(mem, s).ok_or_else(|| no_row(mem, s))?;
    let mut c = conn(mem, Instant(0), at).ok_or(RecvError::Gone)?;
    if c.hot.rcv_bytes == 0 {
        return recv_refusal(&mut c);
    }
    c.peek(skip, buf)
}

/// [`Engine::tcp_recv_skip`](crate::Engine::tcp_recv_skip).
pub(crate) fn skip(mem: &mut LaneMem<'_>, now: Instant, s: SockRef, len: usize) -> Result<usize, RecvError> {
    let at = lookup(mem, s).ok_or_else(|| no_row(mem, s))?;
    let mut c = conn(mem, now, at).ok_or(RecvError::Gone)?;
    if c.hot.rcv_bytes == 0 {
        return recv_refusal(&mut c);
    }
    c.read(len, |_, _| {})
}

impl Conn<'_, '_> {
    /// Copies unread bytes from `skip` bytes behind the first on to `buf`; gives their number. None of them lies behind the mark.
    fn peek(&mut self, skip: usize, buf: &mut [u8]) -> Result<usize, RecvError> {
        let reach = self.reach(skip.saturating_add(buf.len()));
        let room = reach.bytes.saturating_sub(skip).min(buf.len());
        if reach.hole > 0 && reach.bytes == 0 {
            return recv_refusal(self);
        }
        Ok(self.copy_out(skip + reach.hole, buf.get_mut(..room).unwrap_or(&mut [])))
    }

    /// Takes up to `len` unread bytes, as far as the mark, handing each piece and its place to `take`; gives their number.
    #[inline]
    fn read(&mut self, len: usize, take: impl FnMut(&[u8], usize)) -> Result<usize, RecvError> {
        let reach = self.step_over(len);
        let n = self.consume(reach.bytes, take);
        self.after_read();
        if n == 0 && reach.hole > 0 { recv_refusal(self) } else { Ok(n) }
    }

    /// What a read of `len` bytes may take, the urgent byte in front of it already gone.
    #[inline]
    pub(super) fn step_over(&mut self, len: usize) -> Reach {
        let reach = self.reach(len);
        if reach.hole > 0 {
            self.consume(reach.hole, |_, _| {});
        }
        reach
    }

    /// Copies unread bytes from `skip` bytes behind the first on to `buf`; gives their number.
    fn copy_out(&self, skip: usize, buf: &mut [u8]) -> usize {
        let mut at = self.hot.rcv_queue.head;
        let (mut skip, mut done) = (skip, 0);
        for _ in 0..self.frames.count() {
            let Some(meta) = self.frames.meta(at) else { break };
            let bytes = self.frames.data(at);
            let from = bytes.get(skip.min(bytes.len())..).unwrap_or(&[]);
            skip = skip.saturating_sub(bytes.len());
            let n = from.len().min(buf.len() - done);
            if let (Some(to), Some(from)) = (buf.get_mut(done..done + n), from.get(..n)) {
                to.copy_from_slice(from);
            }
            done += n;
            if done == buf.len() {
                break;
            }
            at = meta.next;
        }
        done
    }

    /// Takes up to `len` unread bytes out of the queue, handing each piece and its place to `take`; gives their number.
    #[inline]
    pub(super) fn consume(&mut self, len: usize, mut take: impl FnMut(&[u8], usize)) -> usize {
        let mut done = 0;
        for _ in 0..=self.frames.count() {
            if done == len {
                break;
            }
            let head = self.hot.rcv_queue.head;
            let Some(meta) = self.frames.meta(head) else { break };
            let n = usize::from(meta.len).min(len - done);
            take(self.frames.data(head).get(..n).unwrap_or(&[]), done);
            done += n;
            let Some(meta) = self.frames.meta_mut(head) else { break };
            if n < usize::from(meta.len) {
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

    /// The program has read: tells the peer of the room if that is news. The mark may be behind it.
    #[inline]
    pub(super) fn after_read(&mut self) {
        self.pass_mark();
        if self.state().may_receive() && self.room_is_news() {
            self.ack_now();
        }
    }
}
