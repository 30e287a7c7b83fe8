//! Memory that processes share: sealed memfds, on huge pages when there are any, and their mappings.

use core::ptr::{NonNull, null_mut};
use core::sync::atomic::AtomicU64;
use std::os::fd::AsFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

use crate::Result;
use crate::fds::Fd;

/// Sizes of huge-page memory are multiples of this.
pub const HUGE_PAGE_BYTES: u64 = 2 << 20;

/// A new shared memory object.
#[derive(Debug)]
pub struct Memfd {
    /// Its descriptor, sealed against growing and shrinking. CLOEXEC.
    pub fd: Fd,
    /// Its size: what was asked for, rounded up to whole huge pages when it lies on them.
    pub bytes: u64,
    /// Does it lie on huge pages?
    pub huge: bool,
}

/// Makes `bytes` of zeroed shared memory. With `huge` on 2 MiB pages if the system has enough of them reserved,
/// else on ordinary ones. `name` shows up in /proc.
///
/// # Errors
/// ENOMEM, EMFILE and the like.
pub fn memfd(name: &str, bytes: u64, huge: bool) -> Result<Memfd> {
    if huge
        && let Ok(made) =
            sealed(name, bytes.next_multiple_of(HUGE_PAGE_BYTES), MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB)
        // The first shared mapping reserves the pages for the object's whole life, or says that there are too few.
        && Mapping::shared(&made, bytes.next_multiple_of(HUGE_PAGE_BYTES), Access::Write).is_ok()
    {
        return Ok(Memfd { fd: made, bytes: bytes.next_multiple_of(HUGE_PAGE_BYTES), huge: true });
    }
    Ok(Memfd { fd: sealed(name, bytes, MemfdFlags::empty())?, bytes, huge: false })
}

/// Huge pages that are neither used nor promised to somebody. `None`: the system does not say.
#[must_use]
pub fn free_huge_pages() -> Option<u64> {
    let value = |name: &str| -> Option<u64> {
        let file = format!("/sys/kernel/mm/hugepages/hugepages-2048kB/{name}");
        std::fs::read_to_string(file).ok()?.trim().parse().ok()
    };
    Some(value("free_hugepages")?.saturating_sub(value("resv_hugepages")?))
}

fn sealed(name: &str, bytes: u64, flags: MemfdFlags) -> Result<Fd> {
    let fd = Fd::from(memfd_create(name, flags | MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?);
    ftruncate(&fd, bytes)?;
    fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW)?;
    Ok(fd)
}

/// From now on nobody can make a new writable mapping of `fd`, nor write to it; mappings that exist stay writable.
/// For memory that its maker writes and everybody else only reads.
///
/// # Errors
/// EPERM when its seals are sealed.
pub fn seal_writes(fd: &impl AsFd) -> Result<()> {
    fcntl_add_seals(fd, SealFlags::FUTURE_WRITE | SealFlags::SEAL)
}

/// The size of a memory object, bytes.
///
/// # Errors
/// EBADF.
pub fn size(fd: &impl AsFd) -> Result<u64> {
    Ok(u64::try_from(fstat(fd)?.st_size).unwrap_or(0))
}

/// What a mapping may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Loads only: a store ends the process with SIGSEGV.
    Read,
    /// Loads and stores.
    Write,
}

/// Mapped memory; unmapped when dropped.
#[derive(Debug)]
pub struct Mapping {
    at: NonNull<AtomicU64>,
    bytes: usize,
}

// SAFETY: the memory is only reached as atomics, and unmapping works from any thread.
unsafe impl Send for Mapping {}
// SAFETY: as for Send.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `bytes` of a memory object that is sealed against shrinking.
    ///
    /// # Errors
    /// EPERM without that seal: whoever could shrink it could end this process with SIGBUS. EINVAL when the object
    /// is smaller, or `bytes` is 0. EACCES, ENOMEM.
    pub fn shared(fd: &impl AsFd, bytes: u64, access: Access) -> Result<Self> {
        Self::shared_from(fd, 0, bytes, access)
    }

    /// [`Mapping::shared`] of `bytes` from byte `offset`, a multiple of the page size, on.
    ///
    /// # Errors
    /// As [`Mapping::shared`].
    pub fn shared_from(fd: &impl AsFd, offset: u64, bytes: u64, access: Access) -> Result<Self> {
        if !fcntl_get_seals(fd)?.contains(SealFlags::SHRINK) {
            return Err(Errno::PERM);
        }
        if offset.checked_add(bytes).is_none_or(|end| end > size(fd).unwrap_or(0)) {
            return Err(Errno::INVAL);
        }
        let length = usize::try_from(bytes).map_err(|_| Errno::NOMEM)?;
        let protection = match access {
            Access::Read => ProtFlags::READ,
            Access::Write => ProtFlags::READ | ProtFlags::WRITE,
        };
        // SAFETY: the kernel picks a free address.
        let at = unsafe { mmap(null_mut(), length, protection, MapFlags::SHARED, fd, offset) }?;
        Self::of(at, length)
    }

    /// `bytes` of zeroed memory that only this process and its forks see (forks share it).
    ///
    /// # Errors
    /// ENOMEM, EINVAL when `bytes` is 0.
    pub fn anonymous(bytes: u64) -> Result<Self> {
        let length = usize::try_from(bytes).map_err(|_| Errno::NOMEM)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: the kernel picks a free address.
        let at = unsafe { mmap_anonymous(null_mut(), length, protection, MapFlags::SHARED) }?;
        Self::of(at, length)
    }

    fn of(at: *mut core::ffi::c_void, bytes: usize) -> Result<Self> {
        Ok(Self { at: NonNull::new(at.cast()).ok_or(Errno::NOMEM)?, bytes })
    }

    /// The memory. Others may store to it at any moment.
    #[inline]
    #[must_use]
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: mapped for as long as `self` lives, page-aligned, whole words; shared memory is only seen as atomics.
        unsafe { core::slice::from_raw_parts(self.at.as_ptr(), self.bytes / 8) }
    }

    /// The memory, mapped for the rest of the process's life.
    #[must_use]
    pub fn leak(self) -> &'static [AtomicU64] {
        let (at, words) = (self.at, self.bytes / 8);
        core::mem::forget(self);
        // SAFETY: as in `words`; forgetting the owner means that nothing unmaps it.
        unsafe { core::slice::from_raw_parts(at.as_ptr(), words) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: this value owns the mapping, and `words` cannot outlive it.
        let _ = unsafe { munmap(self.at.as_ptr().cast(), self.bytes) };
    }
}

/// Gives the memory of `words`, part of a shared mapping, back to the kernel: they are zero afterwards, for everybody who maps the
/// object. False: nothing happened, as with parts of huge pages.
#[must_use]
pub fn give_back(words: &[AtomicU64]) -> bool {
    let at = words.as_ptr().cast_mut().cast();
    // SAFETY: the range is that of a slice of atomics, which others may store to at any moment, zero included.
    unsafe { madvise(at, size_of_val(words), Advice::LinuxRemove) }.is_ok()
}

/// [`Mapping::shared`] to read and write, for the rest of the process's life.
///
/// # Errors
/// As [`Mapping::shared`].
pub fn map_shared(fd: &impl AsFd, bytes: u64) -> Result<&'static [AtomicU64]> {
    Ok(Mapping::shared(fd, bytes, Access::Write)?.leak())
}

/// [`Mapping::shared`] to read only, for the rest of the process's life. A store to it ends the process.
///
/// # Errors
/// As [`Mapping::shared`].
pub fn map_shared_readonly(fd: &impl AsFd, bytes: u64) -> Result<&'static [AtomicU64]> {
    Ok(Mapping::shared(fd, bytes, Access::Read)?.leak())
}

/// [`Mapping::anonymous`], for the rest of the process's life.
///
/// # Errors
/// As [`Mapping::anonymous`].
pub fn map_anonymous(bytes: u64) -> Result<&'static [AtomicU64]> {
    Ok(Mapping::anonymous(bytes)?.leak())
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn two_mappings_of_one_object_see_the_same_words() {
        let made = memfd("sys-test", 8192, false).unwrap();
        let a = Mapping::shared(&made.fd, 8192, Access::Write).unwrap();
        let b = map_shared_readonly(&made.fd, 4096).unwrap();
        a.words()[3].store(7, Ordering::Relaxed);
        assert_eq!(b[3].load(Ordering::Relaxed), 7);
        assert_eq!((a.words().len(), b.len(), made.huge), (1024, 512, false));
        assert_eq!(Mapping::shared(&made.fd, 8200, Access::Write).err(), Some(Errno::INVAL));
        assert_eq!(ftruncate(&made.fd, 0), Err(Errno::PERM));
    }

    #[test]
    fn huge_pages_are_used_or_quietly_done_without() {
        let made = memfd("sys-test", 4096, true).unwrap();
        assert_eq!(made.bytes, if made.huge { HUGE_PAGE_BYTES } else { 4096 });
        let words = Mapping::shared(&made.fd, made.bytes, Access::Write).unwrap();
        assert_eq!(words.words()[511].load(Ordering::Relaxed), 0);
        // Never so many that there is one for each byte of the address space's half.
        assert!(free_huge_pages().is_none_or(|free| free < 1 << 27));
    }

    #[test]
    fn memory_given_back_is_zero_and_no_longer_counted() {
        let made = memfd("sys-test", 1 << 20, false).unwrap();
        let mapping = Mapping::shared(&made.fd, 1 << 20, Access::Write).unwrap();
        mapping.words().iter().for_each(|w| w.store(7, Ordering::Relaxed));
        let blocks = || fstat(&made.fd).unwrap().st_blocks;
        let before = blocks();
        assert!(give_back(&mapping.words()[512..128 * 512]));
        assert!(blocks() <= before - 127 * 8, "{} of {before} blocks of 512 bytes", blocks());
        assert_eq!([511, 512, 128 * 512].map(|at| mapping.words()[at].load(Ordering::Relaxed)), [7, 0, 7]);
        mapping.words()[512].store(9, Ordering::Relaxed);
        assert_eq!(mapping.words()[512].load(Ordering::Relaxed), 9);
    }

    #[test]
    fn sealed_writes_stay_possible_through_the_old_mapping_only() {
        let made = memfd("sys-test", 4096, false).unwrap();
        let writer = Mapping::shared(&made.fd, 4096, Access::Write).unwrap();
        seal_writes(&made.fd).unwrap();
        assert_eq!(Mapping::shared(&made.fd, 4096, Access::Write).err(), Some(Errno::PERM));
        let reader = Mapping::shared(&made.fd, 4096, Access::Read).unwrap();
        writer.words()[0].store(9, Ordering::Relaxed);
        assert_eq!(reader.words()[0].load(Ordering::Relaxed), 9);
    }

    #[test]
    fn memory_that_could_shrink_under_us_is_refused() {
        let loose = Fd::from(memfd_create("sys-test", MemfdFlags::CLOEXEC).unwrap());
        ftruncate(&loose, 4096).unwrap();
        assert_eq!(Mapping::shared(&loose, 4096, Access::Read).err(), Some(Errno::PERM));
        assert_eq!(Mapping::anonymous(4096).unwrap().words().len(), 512);
    }
}
