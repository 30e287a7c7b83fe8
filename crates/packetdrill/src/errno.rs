//! Error numbers: the one place where failures of the engine become what packetdrill sees.

use engine::{RecvError, SendError, SockError, UrgentError};

/// An error number of the kernel's, positive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Errno(pub(crate) i32);

/// What a call comes to before it is put into C's form.
pub(crate) type Outcome<T> = Result<T, Errno>;

/// The call would have to wait.
pub(crate) const AGAIN: Errno = Errno(libc::EAGAIN);

/// What happened to a connection.
pub(crate) const fn of_sock(error: SockError) -> Errno {
    Errno(lane::errno::of_sock(error).raw_os_error())
}

/// Why nothing was received.
pub(crate) const fn of_recv(error: RecvError) -> Errno {
    Errno(lane::errno::of_recv(error).raw_os_error())
}

/// Why nothing was sent.
pub(crate) const fn of_send(error: SendError) -> Errno {
    // Linux: a socket that was never connected.
    if matches!(error, SendError::NotConnected) {
        return Errno(libc::EPIPE);
    }
    Errno(lane::errno::of_send(error).raw_os_error())
}

/// Why there is no urgent byte.
pub(crate) const fn of_urgent(error: UrgentError) -> Errno {
    Errno(lane::errno::of_urgent(error).raw_os_error())
}
