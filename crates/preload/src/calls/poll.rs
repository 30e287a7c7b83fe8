//! `poll` and `ppoll`.

use core::ffi::c_int;

use libc::{nfds_t, pollfd, sigset_t, size_t, timespec};

use super::epoll::{after, after_ms};
use crate::errno::{self, Errno};
use crate::interpose::plain;
use crate::{user, waiting};

pub(crate) unsafe fn poll(fds: *mut pollfd, n: nfds_t, timeout_ms: c_int) -> c_int {
    // SAFETY: the C caller's promise.
    let list = unsafe { user::slice_mut(fds, n as usize) };
    match waiting::set_of(list) {
        Some(mut set) => {
            let waited = waiting::wait(&mut set, list, after_ms(timeout_ms), core::ptr::null());
            errno::small(waited.map(|n| n as c_int))
        }
        // SAFETY: the C caller's promise.
        None => unsafe { plain::poll(fds, n, timeout_ms) },
    }
}

pub(crate) unsafe fn ppoll(
    fds: *mut pollfd,
    n: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: the C caller's promise.
    let list = unsafe { user::slice_mut(fds, n as usize) };
    let Some(mut set) = waiting::set_of(list) else {
        // SAFETY: the C caller's promise.
        return unsafe { plain::ppoll(fds, n, timeout, mask) };
    };
    // SAFETY: the C caller's promise.
    let Some(deadline) = after(unsafe { user::load(timeout) }) else {
        return errno::small(Err(Errno(libc::EINVAL)));
    };
    errno::small(waiting::wait(&mut set, list, deadline, mask).map(|n| n as c_int))
}

/// glibc ends the program when there are more entries than the compiler knows room for.
fn check(n: nfds_t, room: size_t) {
    if (n as usize) > room / size_of::<pollfd>() {
        let _ = rustix::io::write(rustix::stdio::stderr(), b"*** buffer overflow detected ***: terminated\n");
        // SAFETY: ends the program.
        unsafe { libc::abort() };
    }
}

pub(crate) unsafe fn __poll_chk(fds: *mut pollfd, n: nfds_t, timeout_ms: c_int, room: size_t) -> c_int {
    check(n, room);
    // SAFETY: the C caller's promise.
    unsafe { poll(fds, n, timeout_ms) }
}

pub(crate) unsafe fn __ppoll_chk(
    fds: *mut pollfd,
    n: nfds_t,
    timeout: *const timespec,
    mask: *const sigset_t,
    room: size_t,
) -> c_int {
    check(n, room);
    // SAFETY: the C caller's promise.
    unsafe { ppoll(fds, n, timeout, mask) }
}
