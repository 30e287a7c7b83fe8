//! `sigaction` and its relatives.

use core::ffi::c_int;

use libc::{sigaction as Action, sighandler_t, siginfo_t, sigset_t, timespec};

use crate::handlers;
use crate::interpose::{plain, real};

pub(crate) unsafe fn sigaction(signal: c_int, new: *const Action, old: *mut Action) -> c_int {
    // SAFETY: the C caller's promise.
    unsafe { handlers::sigaction(signal, new, old) }
}

pub(crate) unsafe fn sigtimedwait(
    set: *const sigset_t,
    info: *mut siginfo_t,
    limit: *const timespec,
) -> c_int {
    // SAFETY: the C caller's promise.
    let signal = unsafe { plain::sigtimedwait(set, info, limit) };
    // SAFETY: as above.
    unsafe { received(signal, info) };
    signal
}

/// The kernel gave the program `signal`.
///
/// # Safety
/// As `sigwaitinfo`'s.
pub(crate) unsafe fn received(signal: c_int, info: *mut siginfo_t) {
    if signal > 0 {
        handlers::tell_as_the_kernel(signal, info);
    }
}

pub(crate) unsafe fn sigwaitinfo(set: *const sigset_t, info: *mut siginfo_t) -> c_int {
    // SAFETY: the C caller's promise.
    unsafe { sigtimedwait(set, info, core::ptr::null()) }
}

/// As BSD had it: calls are restarted, the signal is blocked while its handler runs.
pub(crate) unsafe fn signal(signal: c_int, handler: sighandler_t) -> sighandler_t {
    handlers::install(signal, handler, handlers::usual_flags(signal), true)
}

/// As System V had it: calls are interrupted, and the handler runs once.
pub(crate) unsafe fn sysv_signal(signal: c_int, handler: sighandler_t) -> sighandler_t {
    handlers::install(signal, handler, libc::SA_RESETHAND | libc::SA_NODEFER, false)
}

pub(crate) unsafe fn siginterrupt(signal: c_int, on: c_int) -> c_int {
    // SAFETY: no memory involved.
    let result = unsafe { real::siginterrupt(signal, on) };
    if result == 0 {
        handlers::note_interrupting(signal, on != 0);
    }
    result
}
