//! Which calls go to glibc before anything of ours is on the stack: those on descriptors that are the kernel's alone. No lock, no allocation, no panic.

use core::ffi::c_int;

use libc::{nfds_t, pollfd, sigset_t};

use crate::{table, user};

/// A call on `fd`.
///
/// # Safety
/// None is needed: as the others, for who calls any of them.
pub(crate) unsafe fn one(fd: c_int) -> bool {
    table::is_kernels(fd)
}

/// A call on the `n` descriptors of `fds`.
///
/// # Safety
/// As `poll`'s.
pub(crate) unsafe fn all(fds: *mut pollfd, n: nfds_t) -> bool {
    // SAFETY: the caller's promise.
    let list: &[pollfd] = unsafe { user::slice(fds, n as usize) };
    list.iter().all(|asked| table::is_kernels(asked.fd))
}

/// A call on some of the descriptors below `n`.
///
/// # Safety
/// As [`one`]'s.
pub(crate) unsafe fn below(n: c_int) -> bool {
    (0..n).all(table::is_kernels)
}

/// A call on no descriptor.
///
/// # Safety
/// As [`one`]'s.
pub(crate) const unsafe fn always(_: *const sigset_t) -> bool {
    true
}
