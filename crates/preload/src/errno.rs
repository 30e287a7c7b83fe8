//! Error numbers: the one place where failures of other crates become what a C program sees.

use core::fmt;

use engine::{RecvError, SendError, SockError, UrgentError};

/// An error number of the kernel's, positive.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errno(pub(crate) i32);

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "errno {}", self.0)
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        Self(errno.raw_os_error())
    }
}

/// What a call comes to before it is put into C's form.
pub(crate) type Outcome<T> = Result<T, Errno>;

/// Sets the calling thread's `errno`.
pub(crate) fn set(errno: Errno) {
    // SAFETY: glibc gives the address of the calling thread's own errno, valid as long as the thread runs.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as above; nobody else writes it.
    unsafe { *place = errno.0 };
}

/// The calling thread's `errno`, just after a C function failed.
pub(crate) fn last() -> Errno {
    // SAFETY: glibc gives the address of the calling thread's own errno, valid as long as the thread runs.
    let place = unsafe { libc::__errno_location() };
    // SAFETY: as above.
    Errno(unsafe { *place })
}

/// A count or -1 and errno, as `read` and its like return it.
pub(crate) fn count(outcome: Outcome<usize>) -> isize {
    match outcome {
        Ok(n) => isize::try_from(n).unwrap_or(isize::MAX),
        Err(errno) => {
            set(errno);
            -1
        }
    }
}

/// A small number or -1 and errno, as `bind` and its like return it.
pub(crate) fn small(outcome: Outcome<i32>) -> i32 {
    match outcome {
        Ok(n) => n,
        Err(errno) => {
            set(errno);
            -1
        }
    }
}

/// What a C function returned, as an outcome: negative means errno says why.
pub(crate) fn check(result: i32) -> Outcome<i32> {
    if result < 0 { Err(last()) } else { Ok(result) }
}

/// What happened to a connection.
pub(crate) fn of_sock(error: SockError) -> Errno {
    lane::errno::of_sock(error).into()
}

/// Why nothing was received.
pub(crate) fn of_recv(error: RecvError) -> Errno {
    lane::errno::of_recv(error).into()
}

/// Why nothing was sent.
pub(crate) fn of_send(error: SendError) -> Errno {
    lane::errno::of_send(error).into()
}

/// Why there is no urgent byte.
pub(crate) fn of_urgent(error: UrgentError) -> Errno {
    lane::errno::of_urgent(error).into()
}
