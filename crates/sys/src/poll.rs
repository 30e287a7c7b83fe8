//! Waiting for file descriptors, to the nanosecond.

use base::Duration;
use rustix::event::epoll;
pub use rustix::event::{PollFd, PollFlags};

use crate::clock::timespec;
use crate::fds::Fd;
use crate::{Result, raw};

/// An fd that polls readable while any of `fds` does, for those who can wait for one only. It holds none of them open. CLOEXEC.
///
/// # Errors
/// ENOSPC, ENOMEM, EMFILE.
pub fn any_of(fds: &[Fd]) -> Result<Fd> {
    let any = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for fd in fds {
        epoll::add(&any, fd, epoll::EventData::new_u64(0), epoll::EventFlags::IN)?;
    }
    Ok(Fd::from(any))
}

/// Waits until one of `fds` is ready or `timeout` is over (`None`: without end); gives how many are ready.
///
/// # Errors
/// EINTR when a signal handler ran; EINVAL when there are more fds than the limit allows.
pub fn poll(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> Result<usize> {
    let limit = timeout.map(timespec);
    rustix::event::poll(fds, limit.as_ref())
}

/// [`poll`] with `mask` as the thread's signal mask meanwhile (the kernel's 64-bit set, bit n is signal n + 1).
///
/// # Errors
/// As [`poll`].
pub fn poll_masked(fds: &mut [PollFd<'_>], timeout: Option<Duration>, mask: u64) -> Result<usize> {
    // The kernel writes the time left into it.
    let mut limit = timeout.map(timespec);
    let limit_at = limit.as_mut().map_or(0, |t| core::ptr::from_mut(t) as usize);
    let mask_at = core::ptr::from_ref(&mask) as usize;
    let args = [fds.as_mut_ptr() as usize, fds.len(), limit_at, mask_at, size_of::<u64>(), 0];
    // SAFETY: `PollFd` is the kernel's pollfd; all three pointers name live locals or the caller's slice.
    unsafe { raw::syscall(libc::SYS_ppoll, args) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fds::{event, event_clear, event_signal};

    #[test]
    fn an_event_makes_its_fd_readable_and_time_runs_out_without_one() {
        let fd = event().unwrap();
        let mut fds = [PollFd::new(&fd, PollFlags::IN)];
        assert_eq!(poll(&mut fds, Some(Duration::from_micros(5))).unwrap(), 0);
        event_signal(&fd).unwrap();
        assert_eq!(poll(&mut fds, None).unwrap(), 1);
        assert_eq!(poll_masked(&mut fds, Some(Duration::ZERO), 0).unwrap(), 1);
    }

    #[test]
    fn one_fd_stands_for_several_as_long_as_they_are_ready() {
        let events = [event().unwrap(), event().unwrap()];
        let any = any_of(&events).unwrap();
        let ready = || poll(&mut [PollFd::new(&any, PollFlags::IN)], Some(Duration::ZERO)).unwrap();
        for fd in &events {
            assert_eq!(ready(), 0);
            event_signal(fd).unwrap();
            assert_eq!((ready(), ready()), (1, 1));
            event_clear(fd).unwrap();
        }
        assert_eq!(ready(), 0);
    }
}
