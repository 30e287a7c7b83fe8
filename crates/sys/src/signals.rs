//! Signals of this process as something to poll: blocked, then read from a signalfd.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};

use crate::fds::Fd;
use crate::{Errno, Result};

/// A signal that arrived.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrived {
    /// Its number.
    pub signal: i32,
    /// Sent by the terminal or the kernel, not by a process: then the whole foreground process group has it already.
    pub from_kernel: bool,
}

/// The signals that [`SignalFd::open`] blocked. They stay blocked when this is dropped.
#[derive(Debug)]
pub struct SignalFd {
    fd: Fd,
}

impl SignalFd {
    /// Blocks `signals` for this thread and for the threads it makes from now on, and opens an fd that is readable
    /// when one is pending. Children made by [`std::process::Command`] start with nothing blocked.
    ///
    /// # Errors
    /// That of sigprocmask(2) or signalfd(2).
    pub fn open(signals: &[i32]) -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::zeroed();
        // SAFETY: `set` is writable memory of the right size.
        unsafe { libc::sigemptyset(set.as_mut_ptr()) };
        for &signal in signals {
            // SAFETY: `set` was initialised by sigemptyset; a number that is no signal is refused with EINVAL.
            unsafe { libc::sigaddset(set.as_mut_ptr(), signal) };
        }
        // SAFETY: `set` is initialised; the old mask is not asked for.
        let rc = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, set.as_ptr(), std::ptr::null_mut()) };
        if rc != 0 {
            return Err(io::Error::from_raw_os_error(rc));
        }
        // SAFETY: `set` is initialised; -1 asks for a new fd.
        let fd = unsafe { libc::signalfd(-1, set.as_ptr(), libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just opened and nobody else owns it.
        let fd = unsafe { Fd::from_raw(fd) };
        Ok(Self { fd })
    }

    /// The next pending signal; `None` when there is none.
    ///
    /// # Errors
    /// That of read(2).
    pub fn next(&self) -> Result<Option<Arrived>> {
        // signalfd_siginfo begins with ssi_signo: u32, ssi_errno: i32, ssi_code: i32 (signalfd(2)).
        let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
        match rustix::io::read(&self.fd, &mut info) {
            Ok(_) => {}
            Err(Errno::AGAIN | Errno::INTR) => return Ok(None),
            Err(errno) => return Err(errno),
        }
        let [a, b, c, d, _, _, _, _, e, f, g, h, ..] = info;
        let signal = i32::from_ne_bytes([a, b, c, d]);
        let from_kernel = i32::from_ne_bytes([e, f, g, h]) > 0;
        Ok(Some(Arrived { signal, from_kernel }))
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_read_from_the_fd() {
        let signals = SignalFd::open(&[libc::SIGUSR2]).expect("signalfd");
        assert_eq!(signals.next().expect("read"), None);
        // To this thread only: other test threads have not blocked it.
        // SAFETY: asks for this thread's handle only.
        let me = unsafe { libc::pthread_self() };
        // SAFETY: `me` is alive and blocks the signal.
        let rc = unsafe { libc::pthread_kill(me, libc::SIGUSR2) };
        assert_eq!(rc, 0);
        let arrived = signals.next().expect("read").expect("one signal");
        assert_eq!(arrived, Arrived { signal: libc::SIGUSR2, from_kernel: false });
    }
}
