//! Processes and threads by number and by pidfd.

use std::os::fd::AsFd;

use base::Duration;
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Resource, Rlimit, Signal, getrlimit, pidfd_open, pidfd_send_signal, setrlimit,
};

use crate::fds::Fd;
use crate::poll::{PollFd, PollFlags, poll};
use crate::{Result, raw};

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

/// Lets this process have as many descriptors as its hard limit allows.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // A refusal leaves the limit as it was.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
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

/// Ends this process by `signal`, without a core: whoever waits for it sees how another process ended that it stood for. Comes back when the
/// signal ends no process.
pub fn end_by(signal: i32) {
    // A refusal leaves a core behind.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    // SAFETY: the default action needs no memory; a number that is no signal is refused.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
    let set = if (1..=64).contains(&signal) { 1_u64 << (signal - 1) } else { 0 };
    let unblock = [libc::SIG_UNBLOCK as usize, &raw const set as usize, 0, size_of::<u64>(), 0, 0];
    // SAFETY: a kernel signal set of eight bytes, only read.
    let _ = unsafe { raw::syscall(libc::SYS_rt_sigprocmask, unblock) };
    // SAFETY: no memory involved.
    unsafe { libc::raise(signal) };
}

/// Is thread `tid` of process `pid` gone: ended, or left behind by the process's exec? A zombie is gone. Both are numbers
/// of the caller's PID namespace.
#[must_use]
pub fn is_gone(pid: u32, tid: u32) -> bool {
    // SAFETY: signal 0 only asks.
    let asked = unsafe { raw::syscall(libc::SYS_tgkill, [pid as usize, tid as usize, 0, 0, 0, 0]) };
    asked == Err(Errno::SRCH)
        || matches!(open(pid).and_then(|process| alive(&process)), Ok(false) | Err(Errno::SRCH))
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
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], None).unwrap();
        assert!(is_gone(child.id(), child.id()), "a zombie");
        child.wait().unwrap();
        assert!(is_gone(child.id(), child.id()));
        assert!(!alive(&fd).unwrap());
        assert_eq!(open(u32::MAX).err(), Some(Errno::SRCH));
        assert_eq!(pid(), std::process::id());
        assert!(tid() >= 1);
    }

    #[test]
    fn a_thread_that_ended_is_gone_while_its_process_lives() {
        let ended = std::thread::spawn(tid).join().unwrap();
        // `join` returns a moment before the kernel forgets the thread.
        while !is_gone(pid(), ended) {
            std::thread::yield_now();
        }
        assert!(!is_gone(pid(), tid()));
    }
}
