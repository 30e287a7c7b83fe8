//! Calls that end or copy the process.

use core::ffi::c_int;

use libc::pid_t;

use crate::fork;
use crate::interpose::real;

/// A child of `vfork` runs in the parent's memory, where its `close` and `dup2` before exec would change the parent's
/// descriptor table. It gets a copy of its own instead.
pub(crate) unsafe fn vfork() -> pid_t {
    // SAFETY: no memory involved.
    unsafe { libc::fork() }
}

pub(crate) unsafe fn _exit(status: c_int) {
    fork::at_exit();
    // SAFETY: ends the process.
    unsafe { real::_exit(status) };
}
