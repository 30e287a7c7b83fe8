//! `sigaction` and its relatives.

use core::ffi::c_int;

use libc::{sigaction as Action, sighandler_t};

use crate::handlers;
use crate::interpose::real;

pub(crate) unsafe fn sigaction(signal: c_int, new: *const Action, old: *mut Action) -> c_int {
    // SAFETY: the C caller's promise.
    unsafe { handlers::sigaction(signal, new, old) }
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
