//! SIGIO and SIGURG (socket(7), fcntl(2)): F_SETOWN and its like, F_SETSIG, and O_ASYNC, of lanes' connections and listeners.
//!
//! Who is told is in the lane (`engine::signals`), so that whoever lets packets in tells it, the steward too. Until a socket has a seat on a lane
//! its kernel socket keeps all that, and is asked for it then. Left out: settings of a listener that another process changes later on.

use core::ffi::{c_int, c_ulong};

use state::Signals;
use sys::owner::Owner;

use crate::errno::{self, Errno, Outcome};
use crate::interpose::real;
use crate::object::Handle;
use crate::sock::{Seat, Sock, flag};
use crate::stream;
use crate::user;

/// Commands of `fcntl` that libc does not name (fcntl(2)).
pub(crate) const F_SETSIG: c_int = 10;
pub(crate) const F_GETSIG: c_int = 11;
pub(crate) const F_SETOWN_EX: c_int = 15;
pub(crate) const F_GETOWN_EX: c_int = 16;
/// Requests of `ioctl` that do the same.
const FIOSETOWN: c_ulong = 0x8901;
const SIOCSPGRP: c_ulong = 0x8902;
const FIOGETOWN: c_ulong = 0x8903;
const SIOCGPGRP: c_ulong = 0x8904;
/// Highest number of a signal.
const SIGNALS: u32 = 64;

/// `struct f_owner_ex`.
#[derive(Clone, Copy)]
#[repr(C)]
struct OwnerEx {
    kind: c_int,
    pid: c_int,
}

/// As F_SETOWN takes it: a group is negative, 0 is nobody.
fn of_number(number: c_int) -> Outcome<Owner> {
    match number {
        0 => Ok(Owner::Nobody),
        c_int::MIN => Err(Errno(libc::EINVAL)),
        1.. => existing(Owner::Process(number)),
        _ => existing(Owner::Group(-number)),
    }
}

/// As F_GETOWN gives it.
const fn number(owner: Owner) -> c_int {
    match owner {
        Owner::Nobody => 0,
        Owner::Thread(id) | Owner::Process(id) => id,
        Owner::Group(id) => -id,
    }
}

/// As F_SETOWN_EX takes it.
fn of_kind(kind: c_int, id: c_int) -> Outcome<Owner> {
    let owner = match kind {
        0 => Owner::Thread(id),
        1 => Owner::Process(id),
        2 => Owner::Group(id),
        _ => return Err(Errno(libc::EINVAL)),
    };
    if id == 0 { Ok(Owner::Nobody) } else { existing(owner) }
}

/// As F_GETOWN_EX gives it.
const fn kind(owner: Owner) -> (c_int, c_int) {
    match owner {
        Owner::Nobody => (0, 0),
        Owner::Thread(id) => (0, id),
        Owner::Process(id) => (1, id),
        Owner::Group(id) => (2, id),
    }
}

fn existing(owner: Owner) -> Outcome<Owner> {
    // SAFETY: signal 0 only asks.
    let asked = match owner {
        Owner::Nobody => 0,
        // SAFETY: as above.
        Owner::Thread(id) => (unsafe { libc::syscall(libc::SYS_tkill, id, 0) }) as c_int,
        // SAFETY: as above.
        Owner::Process(id) => unsafe { libc::kill(id, 0) },
        // SAFETY: as above.
        Owner::Group(id) => unsafe { libc::kill(-id, 0) },
    };
    match errno::check(asked) {
        Err(Errno(libc::EPERM)) | Ok(_) => Ok(owner),
        Err(_) => Err(Errno(libc::ESRCH)),
    }
}

fn seats(sock: &Sock) -> impl Iterator<Item = Seat> {
    [sock.seat.get(), sock.older.get()].into_iter().flatten()
}

/// What the lane has of `sock`.
fn signals(sock: &Handle<Sock>, seat: Seat) -> Signals {
    stream::with(sock, seat, |engine| engine.signals(seat.name)).unwrap_or_default()
}

/// Changes it at every seat.
fn change(sock: &Handle<Sock>, f: impl Fn(&mut Signals)) -> Outcome<c_int> {
    sock.put(flag::SIGNALS, true);
    for seat in seats(sock) {
        let done = stream::with(sock, seat, |engine| {
            let mut now = engine.signals(seat.name);
            f(&mut now);
            engine.set_signals(seat.name, &now)
        })?;
        if !done {
            return Err(Errno(libc::ENOMEM));
        }
    }
    Ok(0)
}

fn name(to: &mut Signals, owner: Owner, identity: u64) {
    let named_by = if owner == Owner::Nobody { 0 } else { sys::process::pid() };
    (to.owner, to.identity, to.named_by) = (owner.word(), identity, named_by);
}

fn own(sock: &Handle<Sock>, owner: Owner) -> Outcome<c_int> {
    let identity = owner.identity();
    change(sock, |to| name(to, owner, identity))
}

/// Is `command` one of these?
pub(crate) const fn is_command(command: c_int) -> bool {
    matches!(command, libc::F_SETOWN | libc::F_GETOWN | F_SETOWN_EX | F_GETOWN_EX | F_SETSIG | F_GETSIG)
}

/// `fcntl` with a command that [`is_command`], for `sock`: on a lane, or by its kernel socket with `by_kernel`.
///
/// # Safety
/// As for `fcntl`.
pub(crate) unsafe fn fcntl(
    sock: &Handle<Sock>,
    (fd, command, arg): (c_int, c_int, c_ulong),
    by_kernel: impl FnOnce() -> c_int,
) -> c_int {
    match sock.stream() {
        // SAFETY: the caller's promise.
        Some(seat) => errno::small(unsafe { at_lane(sock, seat, command, arg) }),
        None => followed(sock, fd, by_kernel()),
    }
}

/// # Safety
/// `arg` is a number, or for the two that end in _EX null or the address of a `struct f_owner_ex`.
unsafe fn at_lane(sock: &Handle<Sock>, seat: Seat, command: c_int, arg: c_ulong) -> Outcome<c_int> {
    let given = core::ptr::with_exposed_provenance_mut::<OwnerEx>(arg as usize);
    match command {
        libc::F_GETOWN => Ok(named(sock, seat)),
        libc::F_SETOWN => own(sock, of_number(arg as c_int)?),
        F_GETSIG => Ok(signals(sock, seat).signal as c_int),
        F_SETSIG => match u32::try_from(arg) {
            Ok(signal @ 0..=SIGNALS) => change(sock, |to| to.signal = signal),
            Ok(_) | Err(_) => Err(Errno(libc::EINVAL)),
        },
        _ if given.is_null() => Err(Errno(libc::EFAULT)),
        F_GETOWN_EX => {
            let (kind, pid) = kind(Owner::of_word(signals(sock, seat).owner));
            // SAFETY: the caller's promise.
            unsafe { user::store(given, OwnerEx { kind, pid }) };
            Ok(0)
        }
        _ => {
            // SAFETY: as above.
            let OwnerEx { kind, pid } = unsafe { user::load(given) }.ok_or(Errno(libc::EFAULT))?;
            own(sock, of_kind(kind, pid)?)
        }
    }
}

/// Does `request` ask for the owner?
pub(crate) const fn names(request: c_ulong) -> bool {
    matches!(request, FIOGETOWN | SIOCGPGRP)
}

/// The owner of a lane's connection, as F_GETOWN gives it.
pub(crate) fn named(sock: &Handle<Sock>, seat: Seat) -> c_int {
    number(Owner::of_word(signals(sock, seat).owner))
}

/// FIOSETOWN on a lane's connection.
pub(crate) fn set_named(sock: &Handle<Sock>, given: c_int) -> Outcome<c_int> {
    own(sock, of_number(given)?)
}

/// Does `request` change what the kernel has of a socket's owner?
pub(crate) const fn is_request(request: c_ulong) -> bool {
    matches!(request, FIOSETOWN | SIOCSPGRP)
}

/// O_ASYNC of a lane's connection; `fd` is the descriptor that signals name.
pub(crate) fn set_async(sock: &Handle<Sock>, fd: c_int, on: bool) -> Outcome<c_int> {
    if !on && !sock.has(flag::SIGNALS) {
        return Ok(0);
    }
    let named = if on { fd as u32 + 1 } else { 0 };
    // Who has it set already stays named, as by the kernel.
    change(sock, |to| to.async_fd = if on && to.async_fd != 0 { to.async_fd } else { named })
}

/// Is O_ASYNC set on a lane's connection?
pub(crate) fn is_async(sock: &Handle<Sock>) -> bool {
    sock.has(flag::SIGNALS) && sock.stream().is_some_and(|seat| signals(sock, seat).async_fd != 0)
}

/// The kernel's socket behind `sock` may have changed: what it says now holds for the lane beside it too.
pub(crate) fn followed(sock: &Handle<Sock>, fd: c_int, result: c_int) -> c_int {
    if result >= 0 {
        sock.put(flag::SIGNALS, true);
        seats(sock).for_each(|seat| take_over(sock, seat, fd));
    }
    result
}

/// The socket has a new seat: what was set on its kernel socket `fd` holds there, too.
pub(crate) fn take_over(sock: &Handle<Sock>, seat: Seat, fd: c_int) {
    let mut owner = OwnerEx { kind: 0, pid: 0 };
    let at = (&raw mut owner).expose_provenance() as c_ulong;
    // SAFETY: a live structure.
    let asked = unsafe { real::fcntl(fd, F_GETOWN_EX, at) };
    // SAFETY: no memory involved.
    let signal = unsafe { real::fcntl(fd, F_GETSIG, 0) };
    // SAFETY: as above.
    let flags = unsafe { real::fcntl(fd, libc::F_GETFL, 0) };
    let owner =
        if asked == 0 { of_kind(owner.kind, owner.pid).unwrap_or(Owner::Nobody) } else { Owner::Nobody };
    let is_async = flags >= 0 && flags & libc::O_ASYNC != 0;
    let identity = if owner == Owner::Nobody { 0 } else { owner.identity() };
    let _ = stream::with(sock, seat, |engine| {
        let mut now = engine.signals(seat.name);
        name(&mut now, owner, identity);
        now.signal = signal.max(0) as u32;
        now.async_fd = match (is_async, now.async_fd) {
            (false, _) => 0,
            (true, 0) => fd as u32 + 1,
            (true, named) => named,
        };
        engine.set_signals(seat.name, &now)
    });
}

/// The connection goes over to the kernel's socket `fd`, which gets what was set.
pub(crate) fn hand_over(sock: &Handle<Sock>, seat: Seat, fd: c_int) {
    let now = signals(sock, seat);
    if now == Signals::default() {
        return;
    }
    let (kind, pid) = kind(Owner::of_word(now.owner));
    let mut owner = OwnerEx { kind, pid };
    let at = (&raw mut owner).expose_provenance() as c_ulong;
    // SAFETY: a live structure.
    unsafe { real::fcntl(fd, F_SETOWN_EX, at) };
    // SAFETY: no memory involved.
    unsafe { real::fcntl(fd, F_SETSIG, c_ulong::from(now.signal)) };
    if now.async_fd != 0 {
        // SAFETY: as above.
        let flags = unsafe { real::fcntl(fd, libc::F_GETFL, 0) };
        // SAFETY: as above.
        unsafe { real::fcntl(fd, libc::F_SETFL, (flags | libc::O_ASYNC) as c_ulong) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_the_same_in_every_form() {
        let me = sys::process::pid() as c_int;
        assert_eq!(of_number(me), Ok(Owner::Process(me)));
        assert_eq!(of_number(me).map(number), Ok(me));
        assert_eq!(of_kind(1, me).map(kind), Ok((1, me)));
        assert_eq!(of_kind(2, 0), Ok(Owner::Nobody));
        assert_eq!(of_kind(3, me), Err(Errno(libc::EINVAL)));
        assert_eq!(of_number(c_int::MIN), Err(Errno(libc::EINVAL)));
        assert_eq!(of_number(c_int::MAX), Err(Errno(libc::ESRCH)));
        assert_eq!(of_number(-c_int::MAX), Err(Errno(libc::ESRCH)));
    }
}
