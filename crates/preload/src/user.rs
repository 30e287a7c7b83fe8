//! The program's memory as C hands it in: made into slices here and nowhere else.
//!
//! A bad pointer faults in the program as it would in any C library function; the kernel's EFAULT is not imitated.

use core::ffi::c_void;

use libc::iovec;
pub(crate) use sys::caller::{load, slice, store};

/// Buffers of one call, in order.
pub(crate) struct Parts<'a> {
    list: &'a [iovec],
}

impl<'a> Parts<'a> {
    /// Over `list`.
    ///
    /// # Safety
    /// Each entry names memory that the call may use for as long as this lives.
    pub(crate) const unsafe fn new(list: &'a [iovec]) -> Self {
        Self { list }
    }

    /// Bytes of all buffers.
    pub(crate) fn bytes(&self) -> usize {
        self.list.iter().fold(0_usize, |sum, part| sum.saturating_add(part.iov_len))
    }

    /// The buffers to read from, from `skip` bytes on.
    pub(crate) fn sources(&self, skip: usize) -> impl Iterator<Item = &'a [u8]> {
        self.pieces(skip).map(|(at, len)| {
            // SAFETY: `new`'s caller vouches for the memory; `pieces` stays inside each buffer.
            unsafe { core::slice::from_raw_parts(at, len) }
        })
    }

    /// The buffers to write to, from `skip` bytes on.
    pub(crate) fn targets(&self, skip: usize) -> impl Iterator<Item = &'a mut [u8]> {
        self.pieces(skip).map(|(at, len)| {
            // SAFETY: as in `sources`; C lets the call write to them, and each is handed out once at a time.
            unsafe { core::slice::from_raw_parts_mut(at, len) }
        })
    }

    fn pieces(&self, mut skip: usize) -> impl Iterator<Item = (*mut u8, usize)> {
        self.list.iter().filter_map(move |part| {
            let over = skip.min(part.iov_len);
            skip -= over;
            let left = part.iov_len - over;
            (left > 0).then(|| (part.iov_base.cast::<u8>().wrapping_add(over), left))
        })
    }
}

/// One buffer as a part.
pub(crate) const fn part(at: *const c_void, len: usize) -> [iovec; 1] {
    [iovec { iov_base: at.cast_mut(), iov_len: len }]
}

/// `len` elements at `at` to change; none if `at` is null.
///
/// # Safety
/// `at` is null or names `len` initialised elements that nobody else uses meanwhile.
pub(crate) const unsafe fn slice_mut<'a, T>(at: *mut T, len: usize) -> &'a mut [T] {
    if at.is_null() || len == 0 {
        return &mut [];
    }
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts_mut(at, len) }
}

/// Copies as much of `bytes` as `room` bytes at `at` take.
///
/// # Safety
/// `at` names `room` bytes to write.
pub(crate) const unsafe fn fill(at: *mut u8, room: usize, bytes: &[u8]) {
    let n = if bytes.len() < room { bytes.len() } else { room };
    // SAFETY: the caller's promise; `bytes` is ours and does not overlap.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), at, n) };
}
