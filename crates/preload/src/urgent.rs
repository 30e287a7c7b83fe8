//! Urgent data (tcp(7), socket(7)): MSG_OOB, SIOCATMARK, and SIGURG to who was named by F_SETOWN.
//!
//! Left out: SIGURG is sent when this process next lets packets in, in a call on one of its sockets or while it waits for one: not while it
//! computes or sleeps for something else. O_ASYNC, which would send SIGIO too.

use core::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::errno::{Errno, Outcome, of_urgent};
use crate::object::Handle;
use crate::sock::{Seat, Sock, flag};
use crate::stream::after_arrivals;
use crate::user::Parts;

/// Who gets SIGURG.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owner {
    Nobody,
    /// One thread.
    Thread(i32),
    Process(i32),
    Group(i32),
}

/// Is there something in [`ALARMS`]?
static ALARMED: AtomicBool = AtomicBool::new(false);
/// To whom SIGURG is to be sent as soon as no lock is held.
static ALARMS: Mutex<Vec<Owner>> = Mutex::new(Vec::new());

impl Owner {
    /// As one word.
    pub(crate) fn word(self) -> u64 {
        let (kind, id) = match self {
            Self::Nobody => return 0,
            Self::Thread(id) => (1_u64, id),
            Self::Process(id) => (2, id),
            Self::Group(id) => (3, id),
        };
        kind << 32 | u64::from(id as u32)
    }

    pub(crate) const fn of_word(word: u64) -> Self {
        let id = word as u32 as i32;
        match word >> 32 {
            1 => Self::Thread(id),
            2 => Self::Process(id),
            3 => Self::Group(id),
            _ => Self::Nobody,
        }
    }

    /// As F_SETOWN takes it: a group is negative, 0 is nobody.
    ///
    /// # Errors
    /// EINVAL; ESRCH when there is none.
    pub(crate) fn of_number(number: i32) -> Outcome<Self> {
        match number {
            0 => Ok(Self::Nobody),
            i32::MIN => Err(Errno(libc::EINVAL)),
            1.. => Self::Process(number).existing(),
            _ => Self::Group(-number).existing(),
        }
    }

    /// As F_GETOWN gives it.
    pub(crate) const fn number(self) -> i32 {
        match self {
            Self::Nobody => 0,
            Self::Thread(id) | Self::Process(id) => id,
            Self::Group(id) => -id,
        }
    }

    /// As F_SETOWN_EX takes it.
    ///
    /// # Errors
    /// EINVAL; ESRCH when there is none.
    pub(crate) fn of_kind(kind: i32, id: i32) -> Outcome<Self> {
        let owner = match kind {
            0 => Self::Thread(id),
            1 => Self::Process(id),
            2 => Self::Group(id),
            _ => return Err(Errno(libc::EINVAL)),
        };
        if id == 0 { Ok(Self::Nobody) } else { owner.existing() }
    }

    /// As F_GETOWN_EX gives it.
    pub(crate) const fn kind(self) -> (i32, i32) {
        match self {
            Self::Nobody => (0, 0),
            Self::Thread(id) => (0, id),
            Self::Process(id) => (1, id),
            Self::Group(id) => (2, id),
        }
    }

    fn existing(self) -> Outcome<Self> {
        match self.signal(0) {
            Err(Errno(libc::EPERM)) | Ok(()) => Ok(self),
            Err(_) => Err(Errno(libc::ESRCH)),
        }
    }

    fn signal(self, signal: i32) -> Outcome<()> {
        let id = self.number();
        // SAFETY: no memory involved.
        let done = match self {
            Self::Nobody => 0,
            // SAFETY: as above.
            Self::Thread(_) => (unsafe { libc::syscall(libc::SYS_tkill, id, signal) }) as i32,
            // SAFETY: as above.
            Self::Process(_) | Self::Group(_) => unsafe { libc::kill(id, signal) },
        };
        crate::errno::check(done).map(|_| ())
    }
}

/// The peer of `sock` has announced urgent data. The caller is inside the lane: [`ring`] follows.
#[cold]
pub(crate) fn alarm(sock: &Sock) {
    let owner = sock.owner();
    if owner == Owner::Nobody {
        return;
    }
    ALARMS.lock().unwrap_or_else(PoisonError::into_inner).push(owner);
    ALARMED.store(true, Ordering::Release);
}

/// Sends what [`alarm`] noted. The caller holds no lock: handlers run.
#[inline]
pub(crate) fn ring() {
    if ALARMED.load(Ordering::Relaxed) {
        ring_all();
    }
}

#[cold]
fn ring_all() {
    ALARMED.store(false, Ordering::Release);
    let alarms = core::mem::take(&mut *ALARMS.lock().unwrap_or_else(PoisonError::into_inner));
    for owner in alarms {
        // Who is gone needs no signal.
        let _ = owner.signal(libc::SIGURG);
    }
}

/// F_SETOWN and its like on a lane's connection.
pub(crate) fn own(sock: &Handle<Sock>, seat: Seat, owner: Owner) {
    sock.set_owner(owner);
    if owner != Owner::Nobody && !sock.has(flag::SUBSCRIBED) {
        seat.view.subscribe(seat, sock.object());
    }
}

/// `recv` with MSG_OOB: the number of bytes, and what of the flags `recvmsg` gives back. Never waits.
pub(crate) fn recv(sock: &Handle<Sock>, seat: Seat, parts: &Parts<'_>, flags: i32) -> Outcome<(usize, i32)> {
    let peek = flags & libc::MSG_PEEK != 0;
    let byte =
        after_arrivals(sock, seat, |engine| engine.tcp_recv_urgent(seat.name, peek).map_err(of_urgent))?;
    let Some(byte) = byte else { return Ok((0, 0)) };
    let Some(room) = parts.targets(0).next() else { return Ok((0, libc::MSG_OOB | libc::MSG_TRUNC)) };
    if let Some(to) = room.first_mut().filter(|_| flags & libc::MSG_TRUNC == 0) {
        *to = byte;
    }
    Ok((1, libc::MSG_OOB))
}

/// SIOCATMARK.
pub(crate) fn at_mark(sock: &Handle<Sock>, seat: Seat) -> Outcome<u32> {
    after_arrivals(sock, seat, |engine| Ok(engine.tcp_at_mark(seat.name).into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_the_same_in_every_form() {
        for owner in [Owner::Nobody, Owner::Thread(7), Owner::Process(1), Owner::Group(i32::MAX)] {
            assert_eq!(Owner::of_word(owner.word()), owner);
        }
        let me = sys::process::pid() as i32;
        assert_eq!(Owner::of_number(me), Ok(Owner::Process(me)));
        assert_eq!(Owner::of_number(me).map(Owner::number), Ok(me));
        assert_eq!(Owner::of_kind(1, me).map(Owner::kind), Ok((1, me)));
        assert_eq!(Owner::of_kind(2, 0), Ok(Owner::Nobody));
        assert_eq!(Owner::of_kind(3, me), Err(Errno(libc::EINVAL)));
        assert_eq!(Owner::of_number(i32::MIN), Err(Errno(libc::EINVAL)));
        assert_eq!(Owner::of_number(i32::MAX), Err(Errno(libc::ESRCH)));
        assert_eq!(Owner::of_number(-i32::MAX), Err(Errno(libc::ESRCH)));
    }
}
