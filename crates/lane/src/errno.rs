//! What the engine's failures are to a program: the kernel's error numbers.

use engine::{RecvError, SendError, SockError, UrgentError};
use rustix::io::Errno;

/// What happened to a connection.
#[must_use]
pub const fn of_sock(error: SockError) -> Errno {
    match error {
        SockError::Refused => Errno::CONNREFUSED,
        SockError::Reset => Errno::CONNRESET,
        SockError::Pipe => Errno::PIPE,
        SockError::TimedOut => Errno::TIMEDOUT,
        SockError::HostUnreachable => Errno::HOSTUNREACH,
        SockError::NetUnreachable => Errno::NETUNREACH,
        SockError::MessageSize => Errno::MSGSIZE,
        SockError::Aborted => Errno::CONNABORTED,
        SockError::NoProtocol => Errno::NOPROTOOPT,
        SockError::Unsupported => Errno::OPNOTSUPP,
        SockError::HostDown => Errno::HOSTDOWN,
        SockError::NoNetwork => Errno::NONET,
        SockError::Access => Errno::ACCESS,
        SockError::Protocol => Errno::PROTO,
    }
}

/// Why nothing was received.
#[must_use]
pub const fn of_recv(error: RecvError) -> Errno {
    match error {
        RecvError::WouldBlock => Errno::AGAIN,
        RecvError::NotConnected => Errno::NOTCONN,
        RecvError::Failed(error) => of_sock(error),
        RecvError::Gone => Errno::BADF,
    }
}

/// Why nothing was sent.
#[must_use]
pub const fn of_send(error: SendError) -> Errno {
    match error {
        SendError::WouldBlock => Errno::AGAIN,
        SendError::NotConnected => Errno::NOTCONN,
        SendError::Pipe => Errno::PIPE,
        SendError::Failed(error) => of_sock(error),
        SendError::Gone => Errno::BADF,
    }
}

/// Why there is no urgent byte.
#[must_use]
pub const fn of_urgent(error: UrgentError) -> Errno {
    match error {
        UrgentError::Nothing => Errno::INVAL,
        UrgentError::NotYet => Errno::AGAIN,
        UrgentError::NotConnected => Errno::NOTCONN,
        UrgentError::Gone => Errno::BADF,
    }
}
