//! The `epoll_*` functions.

use core::ffi::c_int;

use base::{Duration, Instant};
use libc::{epoll_event, sigset_t, timespec};

use crate::epoll::{self, Epoll, EpollWait};
use crate::errno::{self, Errno};
use crate::home;
use crate::hub::Move;
use crate::interpose::plain;
use crate::object::Handle;
use crate::table::{self, Entry};
use crate::user;

/// Most events of one call, as in the kernel.
const EVENTS_MAX: usize = i32::MAX as usize / size_of::<epoll_event>();

fn instance(fd: c_int) -> Option<Handle<Epoll>> {
    if table::is_foreign(fd) {
        return None;
    }
    match table::get(fd) {
        Entry::Epoll(epoll) => Some(epoll),
        Entry::Foreign | Entry::Kernel(_) | Entry::Internal | Entry::Parked | Entry::Sock(_) => None,
    }
}

fn note(fd: c_int) -> c_int {
    if fd >= 0 && table::fits(fd) && home::active() {
        drop(table::replace(fd, Entry::Epoll(Epoll::new())));
    }
    fd
}

pub(crate) unsafe fn epoll_create(size: c_int) -> c_int {
    // SAFETY: no memory involved.
    note(unsafe { plain::epoll_create(size) })
}

pub(crate) unsafe fn epoll_create1(flags: c_int) -> c_int {
    // SAFETY: no memory involved.
    note(unsafe { plain::epoll_create1(flags) })
}

pub(crate) unsafe fn epoll_ctl(epfd: c_int, op: c_int, fd: c_int, event: *mut epoll_event) -> c_int {
    let Some(epoll) = instance(epfd) else {
        // SAFETY: the C caller's promise.
        return unsafe { plain::epoll_ctl(epfd, op, fd, event) };
    };
    // SAFETY: the C caller's promise.
    let event = unsafe { user::load(event) };
    errno::small(epoll::ctl(&epoll, Move { epfd, fd }, op, event).map(|()| 0))
}

/// # Safety
/// As `epoll_pwait`'s.
unsafe fn wait(
    epoll: &Handle<Epoll>,
    epfd: c_int,
    events: *mut epoll_event,
    max: c_int,
    deadline: Instant,
    mask: *const sigset_t,
) -> c_int {
    let max = usize::try_from(max).unwrap_or(0);
    if max == 0 || max > EVENTS_MAX {
        return errno::small(Err(Errno(libc::EINVAL)));
    }
    if events.is_null() {
        return errno::small(Err(Errno(libc::EFAULT)));
    }
    // SAFETY: the C caller's promise; only written to.
    let out = unsafe { user::slice_mut(events, max) };
    let wait = EpollWait { epoll, epfd, deadline, mask };
    errno::small(epoll::wait(&wait, out).map(|n| n as c_int))
}

/// When a wait of `timeout_ms` that begins now is over.
pub(super) fn after_ms(timeout_ms: c_int) -> Instant {
    match u64::try_from(timeout_ms) {
        Ok(ms) => sys::clock::now().plus(Duration::from_millis(ms)),
        Err(_) => Instant::NEVER,
    }
}

/// When a wait of `timeout` that begins now is over; `None`: the time makes no sense.
pub(super) fn after(timeout: Option<timespec>) -> Option<Instant> {
    let Some(t) = timeout else { return Some(Instant::NEVER) };
    let (s, ns) = (u64::try_from(t.tv_sec).ok()?, u64::try_from(t.tv_nsec).ok()?);
    if ns >= 1_000_000_000 {
        return None;
    }
    Some(sys::clock::now().plus(Duration(s.saturating_mul(1_000_000_000).saturating_add(ns))))
}

pub(crate) unsafe fn epoll_wait(
    epfd: c_int,
    events: *mut epoll_event,
    max: c_int,
    timeout_ms: c_int,
) -> c_int {
    match instance(epfd) {
        // SAFETY: the C caller's promise.
        Some(epoll) => unsafe { wait(&epoll, epfd, events, max, after_ms(timeout_ms), core::ptr::null()) },
        // SAFETY: as above.
        None => unsafe { plain::epoll_wait(epfd, events, max, timeout_ms) },
    }
}

pub(crate) unsafe fn epoll_pwait(
    epfd: c_int,
    events: *mut epoll_event,
    max: c_int,
    timeout_ms: c_int,
    mask: *const sigset_t,
) -> c_int {
    match instance(epfd) {
        // SAFETY: the C caller's promise.
        Some(epoll) => unsafe { wait(&epoll, epfd, events, max, after_ms(timeout_ms), mask) },
        // SAFETY: as above.
        None => unsafe { plain::epoll_pwait(epfd, events, max, timeout_ms, mask) },
    }
}

pub(crate) unsafe fn epoll_pwait2(
    epfd: c_int,
    events: *mut epoll_event,
    max: c_int,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    let Some(epoll) = instance(epfd) else {
        // SAFETY: the C caller's promise.
        return unsafe { plain::epoll_pwait2(epfd, events, max, timeout, mask) };
    };
    // SAFETY: the C caller's promise.
    let Some(deadline) = after(unsafe { user::load(timeout) }) else {
        return errno::small(Err(Errno(libc::EINVAL)));
    };
    // SAFETY: as above.
    unsafe { wait(&epoll, epfd, events, max, deadline, mask) }
}
