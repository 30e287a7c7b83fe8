//! The process that whoever started the relay waits for. It ends when the program does, as the program ended; the relay proper, its child, lives on for
//! as long as anything that the program left runs or a connection of it has bytes to move. It keeps none of the descriptors that came over exec, so
//! that a pipe the program closes has no writer left.

use std::os::fd::{AsFd, AsRawFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use sys::fds::Fd;
use sys::signals::SignalFd;

use crate::Failure;

/// Signals that are meant for the program.
pub(crate) const FORWARDED: [i32; 6] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2];

/// How a process ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// With this status.
    Exited(u8),
    /// By this signal.
    Killed(u8),
}

impl End {
    /// What nobody can tell of is a failure of the relay.
    pub(crate) fn of(status: rustix::process::WaitStatus) -> Self {
        let killed = status.terminating_signal().map(|signal| Self::Killed(signal as u8));
        killed.unwrap_or(Self::Exited(status.exit_status().unwrap_or(125) as u8))
    }

    /// As a shell reports it.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Exited(status) => status,
            Self::Killed(signal) => 128_u8.wrapping_add(signal),
        }
    }

    fn word(self) -> [u8; 2] {
        match self {
            Self::Exited(status) => [0, status],
            Self::Killed(signal) => [1, signal],
        }
    }

    fn read(word: [u8; 2]) -> Self {
        match word {
            [0, status] => Self::Exited(status),
            [_, signal] => Self::Killed(signal),
        }
    }
}

/// The relay proper's way to the front.
pub(crate) struct Front {
    tell: Fd,
}

impl Front {
    /// Says how the program ended: the front ends so, too.
    pub(crate) fn tell(&self, end: End) {
        // It may have been killed.
        let _ = rustix::io::write(&self.tell, &end.word());
        // What reads this process's last descriptor of whoever started it has waited long enough.
        to_null(&[2]);
    }

    /// Something to poll: in error once the front is gone.
    pub(crate) fn fd(&self) -> i32 {
        self.tell.as_fd().as_raw_fd()
    }
}

/// Which of the two processes this is now.
pub(crate) enum Side {
    /// The relay proper.
    Relay(Front),
    /// The front; the program has ended with this status.
    Front(u8),
}

/// Makes the relay proper a child. In the front it comes back when the program has ended, if by a status.
pub(crate) fn split() -> Result<Side, Failure> {
    let (hear, tell) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(Failure::in_("a pipe"))?;
    // SAFETY: this process has one thread.
    let number = unsafe { libc::fork() };
    if number == 0 {
        return Ok(Side::Relay(Front { tell: Fd::from(tell) }));
    }
    drop(tell);
    let child =
        Pid::from_raw(number).filter(|_| number > 0).ok_or_else(|| Failure::in_("fork")(Errno::AGAIN))?;
    match stand(child, &Fd::from(hear)) {
        End::Exited(status) => Ok(Side::Front(status)),
        End::Killed(signal) => {
            sys::process::end_by(i32::from(signal));
            Ok(Side::Front(End::Killed(signal).code()))
        }
    }
}

/// Passes signals on until it hears how the program ended; if it never hears, the relay proper's own end counts.
fn stand(child: Pid, hear: &Fd) -> End {
    let signals = SignalFd::open(&FORWARDED);
    let own_end = || waitpid(Some(child), WaitOptions::empty()).ok().flatten();
    let gone = || own_end().map_or(End::Exited(125), |(_, status)| End::of(status));
    let Ok(signals) = signals else { return gone() };
    let kept = [hear.as_fd().as_raw_fd(), signals.as_fd().as_raw_fd()];
    let_go(&kept);
    to_null(&[0, 1, 2]);
    loop {
        let mut fds = [PollFd::new(hear, PollFlags::IN), PollFd::new(&signals, PollFlags::IN)];
        if poll(&mut fds, None).is_err_and(|errno| errno != Errno::INTR) {
            return gone();
        }
        pass_on(&signals, Some(child));
        if !fds[0].revents().is_empty() {
            let mut word = [0; 2];
            return match rustix::io::read(hear, &mut word) {
                Ok(2) => End::read(word),
                _ => gone(),
            };
        }
    }
}

/// Passes the signals that have come on to process `to`, if there is one.
pub(crate) fn pass_on(signals: &SignalFd, to: Option<Pid>) {
    while let Ok(Some(arrived)) = signals.next() {
        // What the terminal sent went to its whole process group already.
        let signal = Signal::from_named_raw(arrived.signal).filter(|_| !arrived.from_kernel);
        if let (Some(to), Some(signal)) = (to, signal) {
            // It may have ended.
            let _ = kill_process(to, signal);
        }
    }
}

/// Closes what came over exec but the standard descriptors and those of `kept`.
pub(crate) fn let_go(kept: &[i32]) {
    let Ok(folder) = std::fs::read_dir("/proc/self/fd") else { return };
    let names = folder.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<i32>().ok());
    let all: Vec<i32> = names.filter(|fd| *fd > 2 && !kept.contains(fd)).collect();
    for fd in all {
        // SAFETY: no memory involved.
        let flags = unsafe { libc::fcntl(fd, libc::F_GETFD) };
        if flags >= 0 && flags & libc::FD_CLOEXEC == 0 {
            // SAFETY: nobody here uses a descriptor that came over exec. By libc's call, so that the preload library hears of it.
            unsafe { libc::close(fd) };
        }
    }
}

/// Makes standard descriptors, where they are open, lead nowhere.
pub(crate) fn to_null(fds: &[i32]) {
    let Ok(null) = std::fs::File::options().read(true).write(true).open("/dev/null") else { return };
    for &fd in fds {
        // SAFETY: no memory involved.
        if unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0 {
            // SAFETY: no memory involved; what the number stood for is not used by its owner here, but for messages.
            unsafe { libc::dup2(null.as_raw_fd(), fd) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_read_back_from_its_word() {
        for end in [End::Exited(0), End::Exited(255), End::Killed(9), End::Killed(15)] {
            assert_eq!(End::read(end.word()), end);
        }
        assert_eq!(End::Killed(9).code(), 137);
        assert_eq!(End::Exited(7).code(), 7);
    }
}
