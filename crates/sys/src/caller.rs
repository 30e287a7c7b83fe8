//! Memory as a C caller hands it in: made into slices and values here.

/// `len` elements at `at`; none if `at` is null.
///
/// # Safety
/// `at` is null or names `len` initialised elements that nobody writes meanwhile.
#[must_use]
pub const unsafe fn slice<'a, T>(at: *const T, len: usize) -> &'a [T] {
    if at.is_null() || len == 0 {
        return &[];
    }
    // SAFETY: the caller's promise.
    unsafe { core::slice::from_raw_parts(at, len) }
}

/// Reads a value, at any alignment; `None` if `at` is null.
///
/// # Safety
/// `at` is null or names a `T`.
#[must_use]
pub const unsafe fn load<T: Copy>(at: *const T) -> Option<T> {
    if at.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    Some(unsafe { at.read_unaligned() })
}

/// Writes a value, at any alignment; nothing if `at` is null.
///
/// # Safety
/// `at` is null or names room for a `T`.
pub const unsafe fn store<T: Copy>(at: *mut T, value: T) {
    if at.is_null() {
        return;
    }
    // SAFETY: the caller's promise.
    unsafe { at.write_unaligned(value) };
}
