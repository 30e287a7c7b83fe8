//! Urgent data (RFC 9293 3.8.5, RFC 6093), as Linux has it: the pointer names the byte behind the urgent one, one byte is urgent at a
//! time, and it keeps its place in the receive queue, where it is the *mark*: reads stop in front of it and then step over it. With
//! SO_OOBINLINE they read it. A newer pointer takes the place of the one before, whose byte is then data like any other.
//!
//! Left out: pointers as RFC 793 defined them first, to the urgent byte itself (Linux's tcp_stdurg).
//!
//! Invariant: while `OutOfOrder::urgent` is not 0 the connection has the flag SPECIAL, so neither its segments nor its reads go the
//! short way.

use ::state::{LaneMem, Ready, SockRef, Urgent};
use base::{FrameIdx, Idx, Instant, SeqNum};
use region::Frames;
use wire::TcpFlags;

use super::conn::{Conn, conn};
use super::segment::Seg;
use super::{State, flag, handle, lookup, stream};
use crate::errors::{SendError, UrgentError};

/// Bits of [`OutOfOrder::urgent`](::state::OutOfOrder).
pub(crate) mod bit {
    /// Bytes before `Urgent::snd_up` are not acknowledged.
    pub(crate) const OUT: u8 = 1;
    /// The byte at the mark was announced and has not come.
    pub(crate) const AWAITED: u8 = 2;
    /// It has come.
    pub(crate) const HERE: u8 = 4;
    /// It was read as urgent, and the stream not beyond it yet.
    pub(crate) const TAKEN: u8 = 8;
    /// There is a mark.
    pub(crate) const MARK: u8 = AWAITED | HERE | TAKEN;
}

/// What a read may take: it steps over `hole` bytes (the urgent one, or none), then gives `bytes`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Reach {
    pub(super) hole: usize,
    pub(super) bytes: usize,
}

/// [`Engine::tcp_send_urgent`](crate::Engine::tcp_send_urgent).
pub(crate) fn send(
    mem: &mut LaneMem<'_>,
    now: Instant,
    s: SockRef,
    data: &[u8],
    more: bool,
) -> Result<usize, SendError> {
    let n = stream::send(mem, now, s, data, more)?;
    if n > 0
        && let Some(at) = lookup(mem, s)
        && let Some(mut c) = conn(mem, now, at)
    {
        c.urge();
    }
    Ok(n)
}

/// [`Engine::tcp_recv_urgent`](crate::Engine::tcp_recv_urgent).
pub(crate) fn recv(mem: &mut LaneMem<'_>, s: SockRef, peek: bool) -> Result<Option<u8>, UrgentError> {
    let Some(at) = lookup(mem, s) else {
        let asleep = handle::place_of(mem, s).is_some();
        return Err(if asleep { UrgentError::Nothing } else { UrgentError::Gone });
    };
    let c = conn(mem, Instant(0), at).ok_or(UrgentError::Gone)?;
    if c.cold.options.is_urgent_inline() || c.cold.ooo.urgent & (bit::AWAITED | bit::HERE) == 0 {
        return Err(UrgentError::Nothing);
    }
    let ended = c.any(flag::FIN_RCVD | flag::SHUT_READ);
    if c.state() == State::Closed && !c.any(flag::FIN_RCVD) {
        return Err(UrgentError::NotConnected);
    }
    if c.cold.ooo.urgent & bit::AWAITED != 0 {
        return if ended { Ok(None) } else { Err(UrgentError::NotYet) };
    }
    if !peek {
        c.cold.ooo.urgent = c.cold.ooo.urgent & bit::OUT | bit::TAKEN;
    }
    Ok(Some(c.row().byte))
}

/// [`Engine::tcp_at_mark`](crate::Engine::tcp_at_mark).
pub(crate) fn at_mark(mem: &mut LaneMem<'_>, s: SockRef) -> bool {
    lookup(mem, s).and_then(|at| conn(mem, Instant(0), at)).is_some_and(|c| c.to_mark() == Some(0))
}

/// Bytes that can be read, as SIOCINQ tells them, of a connection with `unread` bytes: those before the mark.
pub(crate) fn readable(mem: &LaneMem<'_>, s: SockRef, unread: u32) -> u32 {
    match mark_of(mem, s) {
        Some(ahead) if ahead < unread => ahead,
        Some(_) | None => unread,
    }
}

/// Bytes before the mark of a connection whose urgent byte is not read in line.
pub(super) fn mark_of(mem: &LaneMem<'_>, s: SockRef) -> Option<u32> {
    let at = lookup(mem, s)?;
    let (hot, cold) = (mem.hot.get(at)?, mem.cold.get(super::conn::cold_of(at))?);
    if cold.options.is_urgent_inline() || cold.ooo.urgent & bit::MARK == 0 {
        return None;
    }
    Some(mem.urgent.get(Idx::new(at.raw()))?.mark.since(first_unread(hot)))
}

/// The number of the next byte to be read.
fn first_unread(hot: &::state::TcbHot) -> SeqNum {
    let fin = u32::from(hot.flags & flag::FIN_RCVD != 0);
    hot.rcv.nxt.minus(fin).minus(hot.rcv_bytes)
}

impl Conn<'_, '_> {
    fn row(&self) -> Urgent {
        self.urgent.get(Idx::new(self.at.raw())).copied().unwrap_or_default()
    }

    /// Changes what is remembered, and which `bits` of it count.
    fn remember(&mut self, bits: u8, change: impl FnOnce(&mut Urgent)) {
        if let Some(row) = self.urgent.get_mut(Idx::new(self.at.raw())) {
            change(row);
            self.cold.ooo.urgent = bits;
            self.choose_way();
        }
    }

    /// Bytes from the next one to be read to the mark; a very large number when it was passed. `None`: there is no mark.
    fn to_mark(&self) -> Option<u32> {
        (self.cold.ooo.urgent & bit::MARK != 0).then(|| self.row().mark.since(first_unread(self.hot)))
    }

    /// What was queued last is urgent: SND.UP is behind it.
    fn urge(&mut self) {
        if matches!(self.state(), State::SynSent | State::Closed) {
            return; // data of a SYN; as Linux
        }
        let end = self.hot.snd.end;
        self.remember(self.cold.ooo.urgent | bit::OUT, |row| row.snd_up = end);
    }

    /// Are urgent bytes not acknowledged? Then nothing waits for a full segment, and each segment has a pointer of its own.
    #[inline]
    pub(super) fn is_urging(&self) -> bool {
        self.any(flag::SPECIAL) && self.cold.ooo.urgent & bit::OUT != 0
    }

    /// The urgent pointer of a segment that begins at `seq` (RFC 9293 3.8.5, MUST-62: to the byte behind the urgent ones). One that is
    /// too far away is told as far as it goes, by the last segments before it.
    pub(super) fn pointer_at(&self, seq: SeqNum) -> Option<u16> {
        if !self.is_urging() {
            return None;
        }
        let up = self.row().snd_up;
        if !seq.before(up) {
            return None;
        }
        match u16::try_from(up.since(seq)) {
            Ok(pointer) => Some(pointer),
            Err(_) => seq.plus(0xffff).after(self.hot.snd.nxt).then_some(0xffff),
        }
    }

    /// Is the end of the urgent bytes near enough that a probe of a closed window can tell of it?
    pub(super) fn probe_tells_of_urgent(&self) -> bool {
        self.is_urging() && self.row().snd_up.since(self.hot.snd.una) <= 0xffff
    }

    /// SND.UNA has moved.
    pub(super) fn urgent_acked(&mut self) {
        if self.is_urging() && self.hot.snd.una.at_or_after(self.row().snd_up) {
            self.remember(self.cold.ooo.urgent & !bit::OUT, |_| {});
        }
    }

    /// The urgent step of a segment, in front of its data (RFC 9293 3.10.7.4, sixth step; MUST-66: whatever the window).
    #[inline]
    pub(super) fn process_urgent(&mut self, seg: &Seg) {
        if seg.flags.intersects(TcpFlags::URG) {
            self.take_pointer(seg);
        }
        if self.cold.ooo.urgent & bit::AWAITED != 0 {
            self.take_byte(seg);
        }
    }

    fn take_pointer(&mut self, seg: &Seg) {
        // The pointer names the byte behind the urgent one.
        let mark = seg.seq.plus(u32::from(seg.urgent.saturating_sub(1)));
        if mark.before(self.hot.rcv.nxt) || !self.state().may_receive() {
            return;
        }
        let ahead = self.to_mark();
        if ahead.is_some() && !mark.after(self.row().mark) {
            return;
        }
        // RFC 9293 3.8.5, MUST-32: the program is told at once.
        self.notify(Ready::ALARM);
        // The urgent byte before was never read as data, and is not to be now that it is the mark no longer.
        if ahead == Some(0) && !self.cold.options.is_urgent_inline() && self.hot.rcv_bytes > 0 {
            self.consume(1, |_, _| {});
        }
        self.remember(self.cold.ooo.urgent & bit::OUT | bit::AWAITED, |row| row.mark = mark);
    }

    /// Takes a copy of the urgent byte if it is in the payload, in order or not.
    fn take_byte(&mut self, seg: &Seg) {
        let into = self.row().mark.since(seg.seq);
        if into >= seg.len {
            return;
        }
        let Some(byte) = byte_at(self.frames, seg.head, into) else { return };
        self.remember(self.cold.ooo.urgent & bit::OUT | bit::HERE, |row| row.byte = byte);
        self.notify(Ready::IN | Ready::PRI);
    }

    /// What a read for `len` bytes may take.
    pub(super) fn reach(&self, len: usize) -> Reach {
        let unread = self.hot.rcv_bytes as usize;
        let most = len.min(unread);
        let ahead = if self.any(flag::SPECIAL) { self.to_mark() } else { None };
        match ahead {
            Some(ahead) if (ahead as usize) < most => {
                if ahead > 0 {
                    Reach { hole: 0, bytes: ahead as usize }
                } else if self.cold.options.is_urgent_inline() {
                    Reach { hole: 0, bytes: most }
                } else {
                    Reach { hole: 1, bytes: len.min(unread - 1) }
                }
            }
            Some(_) | None => Reach { hole: 0, bytes: most },
        }
    }

    /// The program has read: the mark is forgotten when that was beyond it.
    #[inline]
    pub(super) fn pass_mark(&mut self) {
        if self.any(flag::SPECIAL) && self.to_mark().is_some_and(|ahead| (ahead as i32) < 0) {
            self.remember(self.cold.ooo.urgent & bit::OUT, |_| {});
        }
    }
}

/// Byte `into` of the chain `head`.
fn byte_at(frames: &Frames<'_>, head: FrameIdx, into: u32) -> Option<u8> {
    let (mut at, mut left) = (head, into as usize);
    for _ in 0..frames.count() {
        let meta = frames.meta(at)?;
        let bytes = frames.data(at);
        if let Some(byte) = bytes.get(left) {
            return Some(*byte);
        }
        left -= bytes.len();
        at = meta.next;
    }
    None
}
