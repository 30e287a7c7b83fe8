//! Calls that end, copy or replace the process.

use core::ffi::{c_char, c_int};
use core::ptr;

use libc::pid_t;

use crate::interpose::real;
use crate::{adopt, fork};

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

/// A program that hands its listeners on to its next image, in an environment it made itself, means no less by that than one that leaves the
/// environment as it was: the image finds us there.
pub(crate) unsafe fn execve(
    path: *const c_char,
    args: *const *const c_char,
    env: *const *const c_char,
) -> c_int {
    let missing =
        if env.is_null() || !adopt::hands_listeners_on() { Vec::new() } else { adopt::surroundings() };
    // SAFETY: the C caller's promise: strings up to a null pointer.
    let mut list = unsafe { strings(env) };
    // SAFETY: as above.
    let absent =
        missing.iter().filter(|own| !list.iter().any(|given| unsafe { same_key(*given, own.as_ptr()) }));
    let added: Vec<*const c_char> = absent.map(|own| own.as_ptr()).collect();
    if added.is_empty() {
        // SAFETY: the C caller's promise.
        return unsafe { real::execve(path, args, env) };
    }
    list.extend(added);
    list.push(ptr::null());
    // SAFETY: as above, and a list of live strings that ends with a null pointer.
    unsafe { real::execve(path, args, list.as_ptr()) }
}

/// The strings of a list that ends with a null pointer; none if `at` is null.
///
/// # Safety
/// `at` is null or such a list.
unsafe fn strings(at: *const *const c_char) -> Vec<*const c_char> {
    let mut list = Vec::new();
    if at.is_null() {
        return list;
    }
    loop {
        // SAFETY: the caller's promise; no further than the null pointer.
        let next = unsafe { at.wrapping_add(list.len()).read_unaligned() };
        if next.is_null() {
            return list;
        }
        list.push(next);
    }
}

/// Do two strings `KEY=VALUE` have one key?
///
/// # Safety
/// Both are C strings.
unsafe fn same_key(a: *const c_char, b: *const c_char) -> bool {
    // SAFETY: the caller's promise.
    let a = unsafe { core::ffi::CStr::from_ptr(a) };
    // SAFETY: as above.
    let b = unsafe { core::ffi::CStr::from_ptr(b) };
    let key = |s: &core::ffi::CStr| s.to_bytes().split(|c| *c == b'=').next().map(<[u8]>::to_vec);
    key(a) == key(b)
}
