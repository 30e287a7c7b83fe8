//! Mapped memory that somebody else, who need not be trusted, stores to at any moment: bytes are copied in and out,
//! words are atomics, and no reference to its bytes is ever made.

use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64};
use std::os::fd::AsFd;

use crate::Result;
use crate::memory::{Access, Mapping};

/// A mapped memory object, read and written by several processes.
#[derive(Debug)]
pub struct Window {
    mapping: Mapping,
}

impl Window {
    /// Maps `bytes` of a memory object that is sealed against shrinking, from its byte `offset` (a multiple of the page size) on.
    ///
    /// # Errors
    /// As [`Mapping::shared`].
    pub fn map(fd: &impl AsFd, offset: u64, bytes: u64) -> Result<Self> {
        Ok(Self { mapping: Mapping::shared_from(fd, offset, bytes, Access::Write)? })
    }

    /// Its size.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.mapping.words().len() * 8
    }

    /// Do `len` bytes from `at` lie inside?
    #[inline]
    #[must_use]
    pub fn holds(&self, at: usize, len: usize) -> bool {
        at.checked_add(len).is_some_and(|end| end <= self.bytes())
    }

    /// Copies the bytes at `at` into `to`. False, and nothing copied, when they do not lie inside. Whoever stores to them
    /// meanwhile mixes old and new bytes.
    #[inline]
    pub fn read(&self, at: usize, to: &mut [u8]) -> bool {
        if !self.holds(at, to.len()) {
            return false;
        }
        let from = self.mapping.words().as_ptr().cast::<u8>().wrapping_add(at);
        // SAFETY: inside the mapping, as just checked, and `to` is the caller's own memory. The mapping is nowhere seen as
        // anything but atomics and through these two copies; what another process stores meanwhile is bytes, of which each
        // value is valid.
        unsafe { core::ptr::copy_nonoverlapping(from, to.as_mut_ptr(), to.len()) };
        true
    }

    /// Copies `from` to the bytes at `at`. False, and nothing copied, when they do not lie inside.
    #[inline]
    pub fn write(&self, at: usize, from: &[u8]) -> bool {
        if !self.holds(at, from.len()) {
            return false;
        }
        let to = self.mapping.words().as_ptr().cast::<u8>().cast_mut().wrapping_add(at);
        // SAFETY: as in `read`; the mapping is writable.
        unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
        true
    }

    /// The 2-byte word at `at`; `None` when it is not inside or not aligned.
    #[inline]
    #[must_use]
    pub fn word16(&self, at: usize) -> Option<&AtomicU16> {
        let word = self.place(at, 2)?.cast::<AtomicU16>();
        // SAFETY: aligned and inside the mapping, which lives as long as `self`; shared memory may be seen as atomics.
        Some(unsafe { &*word })
    }

    /// The 4-byte word at `at`, as [`Window::word16`].
    #[inline]
    #[must_use]
    pub fn word32(&self, at: usize) -> Option<&AtomicU32> {
        let word = self.place(at, 4)?.cast::<AtomicU32>();
        // SAFETY: as in `word16`.
        Some(unsafe { &*word })
    }

    /// `count` 8-byte words from `at` on, as [`Window::word16`].
    #[inline]
    #[must_use]
    pub fn words(&self, at: usize, count: usize) -> Option<&[AtomicU64]> {
        if !at.is_multiple_of(8) {
            return None;
        }
        self.mapping.words().get(at / 8..)?.get(..count)
    }

    #[inline]
    fn place(&self, at: usize, bytes: usize) -> Option<*const u8> {
        let fits = at.is_multiple_of(bytes) && self.holds(at, bytes);
        fits.then(|| self.mapping.words().as_ptr().cast::<u8>().wrapping_add(at))
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering;

    use super::*;
    use crate::Errno;

    #[test]
    fn nothing_outside_is_reached() {
        let made = crate::memory::memfd("window-test", 8192, false).unwrap();
        let (all, half) =
            (Window::map(&made.fd, 0, 8192).unwrap(), Window::map(&made.fd, 4096, 4096).unwrap());
        assert!(all.write(4096 + 10, b"hello"));
        let mut got = [0; 5];
        assert!(half.read(10, &mut got));
        assert_eq!(&got, b"hello");
        assert!(!half.read(4092, &mut got) && !half.read(usize::MAX, &mut got));
        assert!(!half.write(4092, b"hello") && half.write(4091, b"hello"));
        half.word16(4094).unwrap().store(7, Ordering::Relaxed);
        assert_eq!(all.word16(8190).unwrap().load(Ordering::Relaxed), 7);
        assert!(half.word16(4095).is_none() && half.word16(4096).is_none() && half.word32(4094).is_none());
        assert!(half.words(4088, 1).is_some() && half.words(4088, 2).is_none() && half.words(4, 1).is_none());
        assert_eq!(Window::map(&made.fd, 4096, 8192).err(), Some(Errno::INVAL));
    }
}
