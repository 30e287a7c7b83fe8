//! What can go wrong, one enum an operation. Which errno each is to a POSIX caller is the caller's business.

/// What happened to a socket, as SO_ERROR and the next call report it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum SockError {
    /// The peer refused the connection (ECONNREFUSED).
    Refused = 1,
    /// The peer reset the connection (ECONNRESET).
    Reset = 2,
    /// The peer reset the connection after it had finished sending (EPIPE).
    Pipe = 3,
    /// The peer did not answer in time (ETIMEDOUT).
    TimedOut = 4,
    /// The next hop or the host cannot be reached (EHOSTUNREACH).
    HostUnreachable = 5,
    /// No network leads there (ENETUNREACH).
    NetUnreachable = 6,
    /// The message is larger than the path takes and may not be cut (EMSGSIZE).
    MessageSize = 7,
    /// The connection was given up on our side (ECONNABORTED).
    Aborted = 8,
    /// The host does not know the protocol (ENOPROTOOPT).
    NoProtocol = 9,
    /// Somebody on the way cannot do what the packet asks for (EOPNOTSUPP).
    Unsupported = 10,
    /// The host is known to be down (EHOSTDOWN).
    HostDown = 11,
    /// The host is cut off (ENONET).
    NoNetwork = 12,
    /// Not allowed, says somebody on the way (EACCES).
    Access = 13,
    /// Somebody on the way does not understand the packet (EPROTO).
    Protocol = 14,
}

impl SockError {
    /// The error numbered `raw` in a region; `None` for 0 and for nonsense.
    #[must_use]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            1 => Some(Self::Refused),
            2 => Some(Self::Reset),
            3 => Some(Self::Pipe),
            4 => Some(Self::TimedOut),
            5 => Some(Self::HostUnreachable),
            6 => Some(Self::NetUnreachable),
            7 => Some(Self::MessageSize),
            8 => Some(Self::Aborted),
            9 => Some(Self::NoProtocol),
            10 => Some(Self::Unsupported),
            11 => Some(Self::HostDown),
            12 => Some(Self::NoNetwork),
            13 => Some(Self::Access),
            14 => Some(Self::Protocol),
            _ => None,
        }
    }
}

/// Why there is no listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ListenError {
    /// Port 0: the caller picks the port.
    Invalid,
    /// Another listener of this lane has this address and port (EADDRINUSE).
    InUse,
    /// No free row (ENOBUFS).
    NoRoom,
}

/// Why there is no connection to accept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AcceptError {
    /// None has arrived (EAGAIN).
    WouldBlock,
    /// The name names no listener (EINVAL).
    Gone,
}

/// Why no connection is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnectError {
    /// An address or port is missing, of another family, or the port of the lane does not exist (EINVAL).
    Invalid,
    /// There is a connection between the same two ends (EADDRINUSE, EADDRNOTAVAIL).
    InUse,
    /// No free row (ENOBUFS).
    NoRoom,
    /// The next hop was asked for in vain (EHOSTUNREACH).
    HostUnreachable,
}

/// Why a key was not set or removed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeyError {
    /// The key or the prefix is too long (EINVAL); or the connection began without signatures, or with those of MD5.
    Invalid,
    /// There is no such key (ENOENT).
    NoSuchKey,
    /// There is a key with one of these numbers for just that peer (EEXIST).
    Exists,
    /// The key is the one in use, or the one that the peer was asked to use (EBUSY).
    InUse,
    /// The socket has keys of the other kind for that peer (EKEYREJECTED).
    OtherKind,
    /// The lane has no room for another key (ENOMEM).
    NoRoom,
    /// The name names neither a connection nor a listener (EBADF).
    Gone,
}

/// Why a group of flows stays with its lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MoveError {
    /// The new lane has no room for all of its connections.
    NoRoom,
    /// A connection goes by a port that the new lane does not have, or by a wire.
    OtherPorts,
    /// Connections wait for the program at a listener of which the new lane has no clone.
    NoListener,
    /// The new lane has a connection with the same four numbers.
    NameTaken,
    /// The lanes are not of one region, or are the same.
    NoLane,
}

/// Why nothing was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SendError {
    /// The send buffer is full, no frame is free, or the connection is still being opened (EAGAIN).
    WouldBlock,
    /// Never connected (ENOTCONN).
    NotConnected,
    /// Sending was shut down, or the connection is gone (EPIPE).
    Pipe,
    /// What happened to the connection; told once.
    Failed(SockError),
    /// The name names no connection (EBADF).
    Gone,
}

/// Why nothing was received.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RecvError {
    /// No data yet (EAGAIN).
    WouldBlock,
    /// Never connected (ENOTCONN).
    NotConnected,
    /// What happened to the connection; told once.
    Failed(SockError),
    /// The name names no connection (EBADF).
    Gone,
}

/// Why there is no urgent byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UrgentError {
    /// The peer has announced none, it was read already, or it is read in line (EINVAL).
    Nothing,
    /// It was announced and has not come (EAGAIN).
    NotYet,
    /// The connection is gone (ENOTCONN).
    NotConnected,
    /// The name names no connection (EBADF).
    Gone,
}

/// Why nothing was shut down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShutdownError {
    /// Not connected (ENOTCONN).
    NotConnected,
    /// The name names no socket (EBADF).
    Gone,
}
