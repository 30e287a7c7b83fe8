//! Owners of sockets, who are sent signals (fcntl(2): F_SETOWN, F_SETSIG), and the signals.
//!
//! A number of a process is another's once that one is gone. So what sends to another process than its own does it by a pidfd, and compares the number by
//! which pidfs (Linux 6.9) knows the process, which is never given twice, with the one noted when the owner was named.
//!
//! Left out: `si_code` as the kernel has it, which it lets nobody else write: it is SI_SIGIO here.

use rustix::io::Errno;

use crate::fds::Fd;
use crate::{Result, process, raw};

/// Who gets signals.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// Nobody.
    Nobody,
    /// One thread.
    Thread(i32),
    /// A process.
    Process(i32),
    /// A group of processes.
    Group(i32),
}

/// What a signal says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Words {
    /// Its number.
    pub signal: i32,
    /// The descriptor; 0 without F_SETSIG.
    pub fd: i32,
    /// What happened there, as bits of poll; 0 without F_SETSIG.
    pub band: i64,
}

pub use libc::{SIGIO, SIGURG};

/// What happened to a descriptor, as [`Words::band`] (fcntl(2)).
pub mod band {
    /// There is something to read, or to accept.
    pub const IN: i64 = (libc::POLLIN | libc::POLLRDNORM) as i64;
    /// There is room to write.
    pub const OUT: i64 = (libc::POLLOUT | libc::POLLWRNORM | libc::POLLWRBAND) as i64;
    /// Urgent data were announced.
    pub const PRI: i64 = (libc::POLLPRI | libc::POLLRDBAND) as i64;
    /// An error.
    pub const ERR: i64 = libc::POLLERR as i64;
    /// Both directions are shut.
    pub const HUP: i64 = (libc::POLLHUP | libc::POLLERR) as i64;

    /// The `si_code` with which the kernel tells of `band` (POLL_IN ...); SI_KERNEL for none.
    #[must_use]
    pub const fn code(band: i64) -> i32 {
        match band {
            IN => 1,
            OUT => 2,
            ERR => 4,
            PRI => 5,
            HUP => 6,
            _ => 0x80,
        }
    }
}

/// `si_code` of a signal about a descriptor that is not the kernel's own.
pub const SI_SIGIO: i32 = -5;
const PIDFD_THREAD: usize = libc::O_EXCL as usize;
const PIDFD_SIGNAL_PROCESS_GROUP: usize = 1 << 2;
const PIDFS_MAGIC: libc::c_long = 0x5049_4446;

/// `siginfo_t` of a signal about a descriptor.
#[repr(C)]
struct Info {
    signal: i32,
    errno: i32,
    code: i32,
    pad: i32,
    band: i64,
    fd: i32,
    rest: [i32; 25],
}
const _: () = assert!(size_of::<Info>() == 128);

impl Owner {
    /// As one word.
    #[must_use]
    pub const fn word(self) -> u64 {
        let (kind, id) = match self {
            Self::Nobody => return 0,
            Self::Thread(id) => (1_u64, id),
            Self::Process(id) => (2, id),
            Self::Group(id) => (3, id),
        };
        kind << 32 | id as u32 as u64
    }

    /// That of [`Owner::word`].
    #[must_use]
    pub const fn of_word(word: u64) -> Self {
        let id = word as u32 as i32;
        match word >> 32 {
            1 => Self::Thread(id),
            2 => Self::Process(id),
            3 => Self::Group(id),
            _ => Self::Nobody,
        }
    }

    /// Its number; 0: nobody.
    #[must_use]
    pub const fn id(self) -> i32 {
        match self {
            Self::Nobody => 0,
            Self::Thread(id) | Self::Process(id) | Self::Group(id) => id,
        }
    }

    fn open(self) -> Result<Fd> {
        let flags = if matches!(self, Self::Thread(_)) { PIDFD_THREAD } else { 0 };
        // SAFETY: no memory involved.
        let fd = unsafe { raw::syscall(libc::SYS_pidfd_open, [self.id() as usize, flags, 0, 0, 0, 0]) }?;
        // SAFETY: just opened, and nobody else's.
        Ok(unsafe { Fd::from_raw(fd as i32) })
    }

    /// What tells it from any other process of its number, now or later; 0: this kernel does not say, or there is none.
    #[must_use]
    pub fn identity(self) -> u64 {
        let Ok(fd) = self.open() else { return 0 };
        match rustix::fs::fstatfs(&fd) {
            Ok(of) if of.f_type == PIDFS_MAGIC => rustix::fs::fstat(&fd).map_or(0, |stat| stat.st_ino),
            Ok(_) | Err(_) => 0,
        }
    }

    /// Sends what `words` say to it, if it still is who had `identity`. One without an identity is taken for who has the number.
    ///
    /// # Errors
    /// ESRCH when it is gone, EPERM, EAGAIN when too many signals wait.
    pub fn send(self, identity: u64, words: Words) -> Result<()> {
        let id = self.id() as usize;
        let signal = words.signal as usize;
        let info = Info {
            signal: words.signal,
            errno: 0,
            code: SI_SIGIO,
            pad: 0,
            band: words.band,
            fd: words.fd,
            rest: [0; 25],
        };
        let at = core::ptr::from_ref(&info).expose_provenance();
        let me = process::pid() as usize;
        let (number, args) = match self {
            Self::Nobody => return Ok(()),
            Self::Process(_) if id == me || identity == 0 => {
                (libc::SYS_rt_sigqueueinfo, [id, signal, at, 0, 0, 0])
            }
            Self::Group(_) if identity == 0 => (libc::SYS_kill, [id.wrapping_neg(), signal, 0, 0, 0, 0]),
            Self::Thread(_) if identity == 0 => (libc::SYS_rt_tgsigqueueinfo, [me, id, signal, at, 0, 0]),
            Self::Process(_) | Self::Group(_) | Self::Thread(_) => {
                return self.send_by_pidfd(identity, signal, at);
            }
        };
        // SAFETY: `info` is live and a whole siginfo_t.
        unsafe { raw::syscall(number, args) }.map(|_| ())
    }

    fn send_by_pidfd(self, identity: u64, signal: usize, info: usize) -> Result<()> {
        use std::os::fd::AsRawFd;
        let fd = self.open()?;
        if rustix::fs::fstat(&fd)?.st_ino != identity {
            return Err(Errno::SRCH);
        }
        let flags = if matches!(self, Self::Group(_)) { PIDFD_SIGNAL_PROCESS_GROUP } else { 0 };
        let args = [fd.as_raw_fd() as usize, signal, info, flags, 0, 0];
        // SAFETY: `info` is the caller's live siginfo_t.
        unsafe { raw::syscall(libc::SYS_pidfd_send_signal, args) }.map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_owner_is_the_same_as_a_word() {
        for owner in [Owner::Nobody, Owner::Thread(7), Owner::Process(1), Owner::Group(i32::MAX)] {
            assert_eq!(Owner::of_word(owner.word()), owner);
        }
    }

    #[test]
    fn a_process_that_has_the_number_of_another_gets_no_signal() {
        use std::os::unix::process::ExitStatusExt;
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let owner = Owner::Process(child.id() as i32);
        let words = Words { signal: libc::SIGTERM, fd: 3, band: 1 };
        let identity = owner.identity();
        // On a kernel without pidfs nobody can be told from another.
        if identity != 0 {
            assert_eq!(owner.identity(), identity);
            assert_ne!(Owner::Process(process::pid() as i32).identity(), identity);
            assert_eq!(owner.send(identity + 1, words), Err(Errno::SRCH));
            assert_eq!(child.try_wait().unwrap(), None);
        }
        owner.send(identity, words).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGTERM));
        assert_eq!(owner.send(identity, words), Err(Errno::SRCH));
    }
}
