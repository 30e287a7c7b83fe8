//! Socket options by number, for the ones rustix does not name. Not public: some options are addresses that the kernel
//! then writes to, and a number does not say which.

use std::os::fd::{AsFd, AsRawFd};

use crate::{Result, raw};

/// A kernel structure that may cross the edge of the kernel byte for byte.
///
/// # Safety
/// `repr(C)`, without padding and pointers, valid for every bit pattern.
pub(crate) unsafe trait KernelPlain: Copy {}

// SAFETY: integers and arrays of them.
unsafe impl KernelPlain for u8 {}
// SAFETY: as above.
unsafe impl KernelPlain for i32 {}
// SAFETY: as above.
unsafe impl KernelPlain for u32 {}
// SAFETY: as above.
unsafe impl KernelPlain for u64 {}
// SAFETY: as above; an array has no padding of its own.
unsafe impl<T: KernelPlain, const N: usize> KernelPlain for [T; N] {}

/// Sets option `name` of `level` to `value`.
///
/// # Errors
/// What setsockopt gives.
pub(crate) fn set<T: KernelPlain>(fd: &impl AsFd, level: i32, name: i32, value: &T) -> Result<()> {
    let args = [
        fd.as_fd().as_raw_fd() as usize,
        level as usize,
        name as usize,
        core::ptr::from_ref(value) as usize,
        size_of::<T>(),
        0,
    ];
    // SAFETY: the kernel reads `size_of::<T>()` bytes of a live value without pointers.
    unsafe { raw::syscall(libc::SYS_setsockopt, args) }.map(|_| ())
}

/// Reads option `name` of `level` into `value`; gives how many bytes of it the kernel filled.
///
/// # Errors
/// What getsockopt gives.
pub(crate) fn get<T: KernelPlain>(fd: &impl AsFd, level: i32, name: i32, value: &mut T) -> Result<usize> {
    let mut len = size_of::<T>() as u32;
    let args = [
        fd.as_fd().as_raw_fd() as usize,
        level as usize,
        name as usize,
        core::ptr::from_mut(value) as usize,
        core::ptr::from_mut(&mut len) as usize,
        0,
    ];
    // SAFETY: the kernel writes at most `len` bytes to a live value that is valid for every bit pattern.
    unsafe { raw::syscall(libc::SYS_getsockopt, args) }?;
    Ok(len as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_was_set_is_read_back() {
        let (a, _b) = crate::fds::pair().unwrap();
        set(&a, libc::SOL_SOCKET, libc::SO_PASSCRED, &1_i32).unwrap();
        let mut value = 0_i32;
        assert_eq!(get(&a, libc::SOL_SOCKET, libc::SO_PASSCRED, &mut value), Ok(4));
        assert_eq!(value, 1);
    }
}
