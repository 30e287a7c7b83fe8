//! Processes and threads by number and by pidfd.

use std::os::fd::AsFd;

use base::Duration;
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::Result;
use crate::fds::Fd;
use crate::poll::{PollFd, PollFlags, poll};

/// Number of this process.
#[must_use]
pub fn pid() -> u32 {
    rustix::process::getpid().as_raw_pid() as u32
}

/// Number of the calling thread.
#[must_use]
pub fn tid() -> u32 {
    rustix::thread::gettid().as_raw_pid() as u32
}

/// A descriptor for process `pid`, which polls readable once it is dead. CLOEXEC.
///
/// # Errors
/// ESRCH when there is no such process.
pub fn open(pid: u32) -> Result<Fd> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    pidfd_open(pid, PidfdFlags::empty()).map(Fd::from)
}

/// Is the process behind `pidfd` still running (a zombie is not)?
///
/// # Errors
/// What poll gives.
pub fn alive(pidfd: &impl AsFd) -> Result<bool> {
    let mut fds = [PollFd::new(pidfd, PollFlags::IN)];
    Ok(poll(&mut fds, Some(Duration::ZERO))? == 0)
}

/// Sends `signal` (a number of signal(7)) to the process behind `pidfd`.
///
/// # Errors
/// ESRCH when it is dead, EPERM, EINVAL for a number that is no signal.
pub fn kill(pidfd: &impl AsFd, signal: i32) -> Result<()> {
    let signal = Signal::from_named_raw(signal).ok_or(Errno::INVAL)?;
    pidfd_send_signal(pidfd, signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pidfd_tells_when_its_process_is_dead() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let fd = open(child.id()).unwrap();
        assert!(alive(&fd).unwrap());
        kill(&fd, libc::SIGKILL).unwrap();
        child.wait().unwrap();
        assert!(!alive(&fd).unwrap());
        assert_eq!(open(u32::MAX).err(), Some(Errno::SRCH));
        assert_eq!(pid(), std::process::id());
        assert!(tid() >= 1);
    }
}
