//! Error numbers: the one place where failures of the engine become what packetdrill sees.

use engine::{RecvError, SendError, SockError};

/// An error number of the kernel's, positive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Errno(pub(crate) i32);

/// What a call comes to before it is put into C's form.
pub(crate) type Outcome<T> = Result<T, Errno>;

/// The call would have to wait.
pub(crate) const AGAIN: Errno = Errno(libc::EAGAIN);

/// What happened to a connection.
pub(crate) fn of_sock(error: SockError) -> Errno {
    Errno(match error {
        SockError::Refused => libc::ECONNREFUSED,
        SockError::Reset => libc::ECONNRESET,
        SockError::Pipe => libc::EPIPE,
        SockError::TimedOut => libc::ETIMEDOUT,
        SockError::HostUnreachable => libc::EHOSTUNREACH,
        SockError::NetUnreachable => libc::ENETUNREACH,
        SockError::MessageSize => libc::EMSGSIZE,
        SockError::Aborted => libc::ECONNABORTED,
    })
}

/// Why nothing was received.
pub(crate) fn of_recv(error: RecvError) -> Errno {
    match error {
        RecvError::WouldBlock => AGAIN,
        RecvError::NotConnected => Errno(libc::ENOTCONN),
        RecvError::Failed(error) => of_sock(error),
        RecvError::Gone => Errno(libc::EBADF),
    }
}

/// Why nothing was sent.
pub(crate) fn of_send(error: SendError) -> Errno {
    match error {
        SendError::WouldBlock => AGAIN,
        // Linux: a socket that was never connected.
        SendError::NotConnected | SendError::Pipe => Errno(libc::EPIPE),
        SendError::Failed(error) => of_sock(error),
        SendError::Gone => Errno(libc::EBADF),
    }
}
