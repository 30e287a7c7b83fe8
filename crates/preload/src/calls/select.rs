//! `select` and `pselect`: made into `poll` when a lane is concerned.

use core::ffi::c_int;

use base::Instant;
use libc::{fd_set, pollfd, sigset_t, timespec, timeval};

use super::epoll::after;
use crate::errno::{self, Errno, Outcome};
use crate::interpose::plain;
use crate::{table, user, waiting};

/// Bits of a word of an `fd_set`.
const WORD_BITS: usize = usize::BITS as usize;
const READABLE: i16 = libc::POLLIN | libc::POLLRDNORM | libc::POLLRDBAND | libc::POLLHUP | libc::POLLERR;
const WRITABLE: i16 = libc::POLLOUT | libc::POLLWRNORM | libc::POLLWRBAND | libc::POLLERR;
const EXCEPTIONAL: i16 = libc::POLLPRI;

/// The three sets as words; a set that is not given is empty. They may be longer than FD_SETSIZE.
struct Sets<'a> {
    words: [&'a mut [usize]; 3],
}

impl Sets<'_> {
    /// # Safety
    /// Each pointer is null or names a set with room for `n` descriptors.
    unsafe fn new(n: usize, sets: [*mut fd_set; 3]) -> Self {
        // SAFETY: the caller's promise.
        Self { words: sets.map(|set| unsafe { user::slice_mut(set.cast::<usize>(), n.div_ceil(WORD_BITS)) }) }
    }

    fn has(&self, set: usize, fd: usize) -> bool {
        let word = self.words.get(set).and_then(|words| words.get(fd / WORD_BITS));
        word.is_some_and(|word| word >> (fd % WORD_BITS) & 1 != 0)
    }

    fn wanted(&self, fd: usize) -> i16 {
        let mut events = 0;
        for (set, bits) in [(0, libc::POLLIN), (1, libc::POLLOUT), (2, libc::POLLPRI)] {
            if self.has(set, fd) {
                events |= bits;
            }
        }
        events
    }

    /// Leaves only what is ready; gives the number of bits.
    fn answer(&mut self, fds: &[pollfd]) -> usize {
        let mut total = 0;
        for (set, bits) in [READABLE, WRITABLE, EXCEPTIONAL].into_iter().enumerate() {
            let ready: Vec<i32> = fds
                .iter()
                .filter(|f| f.revents & bits != 0 && self.has(set, f.fd as usize))
                .map(|f| f.fd)
                .collect();
            let Some(words) = self.words.get_mut(set) else { continue };
            words.fill(0);
            for fd in ready {
                if let Some(word) = words.get_mut(fd as usize / WORD_BITS) {
                    *word |= 1 << (fd as usize % WORD_BITS);
                    total += 1;
                }
            }
        }
        total
    }
}

/// `None`: the call is the kernel's alone.
///
/// # Safety
/// As `pselect`'s, for sets and mask.
unsafe fn wait(
    n: c_int,
    sets: [*mut fd_set; 3],
    deadline: impl FnOnce() -> Option<Instant>,
    mask: *const sigset_t,
) -> Option<Outcome<usize>> {
    let n = usize::try_from(n).ok()?;
    if (0..n as c_int).all(table::is_foreign) {
        return None;
    }
    // SAFETY: the caller's promise.
    let mut sets = unsafe { Sets::new(n, sets) };
    let asked = |fd: usize| pollfd { fd: fd as c_int, events: sets.wanted(fd), revents: 0 };
    let mut fds: Vec<pollfd> = (0..n).map(asked).filter(|f| f.events != 0).collect();
    let mut set = waiting::set_of(&fds)?;
    let Some(deadline) = deadline() else { return Some(Err(Errno(libc::EINVAL))) };
    Some(waiting::wait(&mut set, &mut fds, deadline, mask).and_then(|_| {
        if fds.iter().any(|f| f.revents & libc::POLLNVAL != 0) {
            return Err(Errno(libc::EBADF));
        }
        Ok(sets.answer(&fds))
    }))
}

pub(crate) unsafe fn select(
    n: c_int,
    reads: *mut fd_set,
    writes: *mut fd_set,
    errors: *mut fd_set,
    timeout: *mut timeval,
) -> c_int {
    // SAFETY: the C caller's promise.
    let limit = unsafe { user::load(timeout) };
    let until = limit.map(|t| timespec { tv_sec: t.tv_sec, tv_nsec: t.tv_usec.saturating_mul(1000) });
    // Linux takes microseconds above a million.
    let until = until.map(|t| timespec {
        tv_sec: t.tv_sec.saturating_add(t.tv_nsec.div_euclid(1_000_000_000)),
        tv_nsec: t.tv_nsec.rem_euclid(1_000_000_000),
    });
    let mut end = None;
    let deadline = || {
        end = after(until);
        end
    };
    // SAFETY: the C caller's promise.
    let Some(waited) = (unsafe { wait(n, [reads, writes, errors], deadline, core::ptr::null()) }) else {
        // SAFETY: as above.
        return unsafe { plain::select(n, reads, writes, errors, timeout) };
    };
    if let (Some(end), Some(_)) = (end, limit) {
        // select(2): Linux writes the time left.
        let left_us = end.since(sys::clock::now()).as_micros();
        let left = timeval { tv_sec: (left_us / 1_000_000) as _, tv_usec: (left_us % 1_000_000) as _ };
        // SAFETY: as above.
        unsafe { user::store(timeout, left) };
    }
    errno::small(waited.map(|n| n as c_int))
}

pub(crate) unsafe fn pselect(
    n: c_int,
    reads: *mut fd_set,
    writes: *mut fd_set,
    errors: *mut fd_set,
    timeout: *const timespec,
    mask: *const sigset_t,
) -> c_int {
    // SAFETY: the C caller's promise.
    let until = unsafe { user::load(timeout) };
    // SAFETY: as above.
    match unsafe { wait(n, [reads, writes, errors], || after(until), mask) } {
        Some(waited) => errno::small(waited.map(|n| n as c_int)),
        // SAFETY: as above.
        None => unsafe { plain::pselect(n, reads, writes, errors, timeout, mask) },
    }
}
