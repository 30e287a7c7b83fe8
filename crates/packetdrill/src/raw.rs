//! Memory as C hands it in: made into slices here and nowhere else.

use libc::iovec;
pub(crate) use sys::caller::{load, slice, store};

/// Copies as much of `bytes` as `room` bytes at `at` take; nothing if `at` is null.
///
/// # Safety
/// `at` is null or names `room` bytes to write.
pub(crate) const unsafe fn fill(at: *mut u8, room: usize, bytes: &[u8]) {
    if at.is_null() {
        return;
    }
    let n = if bytes.len() < room { bytes.len() } else { room };
    // SAFETY: the caller's promise; `bytes` is ours and does not overlap.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), at, n) };
}

/// The bytes of all buffers of `list`, one behind the other.
///
/// # Safety
/// Each entry names initialised memory.
pub(crate) unsafe fn gather(list: &[iovec]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for part in list {
        // SAFETY: the caller's promise.
        bytes.extend_from_slice(unsafe { slice(part.iov_base.cast::<u8>(), part.iov_len) });
    }
    bytes
}

/// Bytes of all buffers of `list`.
pub(crate) fn room(list: &[iovec]) -> usize {
    list.iter().fold(0_usize, |sum, part| sum.saturating_add(part.iov_len))
}

/// Spreads `bytes` over the buffers of `list`.
///
/// # Safety
/// Each entry names memory to write.
pub(crate) unsafe fn scatter(list: &[iovec], mut bytes: &[u8]) {
    for part in list {
        let (now, rest) = bytes.split_at(part.iov_len.min(bytes.len()));
        // SAFETY: the caller's promise.
        unsafe { fill(part.iov_base.cast(), part.iov_len, now) };
        bytes = rest;
    }
}

/// Sets the calling thread's `errno`.
pub(crate) fn set_errno(errno: i32) {
    // SAFETY: glibc gives the address of the calling thread's own errno, valid as long as the thread runs.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as above; nobody else writes it.
    unsafe { *place = errno };
}

/// As [`store`], for a value that is not `Copy`; what was there is not dropped.
///
/// # Safety
/// `at` is null or names room for a `T`.
pub(crate) const unsafe fn store_value<T>(at: *mut T, value: T) {
    if at.is_null() {
        core::mem::forget(value);
        return;
    }
    // SAFETY: the caller's promise.
    unsafe { at.write_unaligned(value) };
}
