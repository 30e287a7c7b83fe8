//! What UDP's verbs take and give, and what can go wrong, one enum an operation.

use base::IpAddress;
use state::Endpoint;

use crate::errors::SockError;
use crate::types::RouteTo;

/// Options of a UDP socket; the default is what a fresh socket of Linux has.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UdpOptions {
    /// Never fragment: a datagram that does not fit is refused (IP_MTU_DISCOVER: IP_PMTUDISC_DO).
    pub dont_fragment: bool,
    /// Send without checksum (SO_NO_CHECK).
    pub no_checksum: bool,
    /// Share address and port with other sockets that say so (SO_REUSEPORT).
    pub reuse_port: bool,
    /// IP_TOS.
    pub tos: u8,
    /// IP_TTL; 0: 64.
    pub ttl: u8,
    /// Payload bytes of the datagrams that what is sent in one go is cut into (UDP_SEGMENT); 0: it is one datagram.
    pub segment: u16,
    /// Datagrams of one sender and of one length that follow each other may be read in one go (UDP_GRO).
    pub merges: bool,
    /// Take datagrams from this device only: index into the lane's ports (SO_BINDTODEVICE).
    pub device: Option<u8>,
    /// SO_RCVBUF: bytes of frames that unread datagrams may hold; 0: 212992.
    pub recv_bytes: u32,
    /// SO_SNDBUF: bytes of datagrams that may wait to be sent; 0: 212992.
    pub send_bytes: u32,
}

/// Where one datagram goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UdpTo {
    /// The other end.
    pub remote: Endpoint,
    /// Source address for a socket bound to any.
    pub local: IpAddress,
    /// The way there.
    pub route: RouteTo,
}

/// A datagram that was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Datagram {
    /// Bytes copied to the caller's buffer.
    pub copied: usize,
    /// Bytes of the datagram; more than `copied`: it was cut (MSG_TRUNC).
    pub len: u32,
    /// Its sender.
    pub from: Endpoint,
    /// The address it was sent to (IP_PKTINFO).
    pub to: IpAddress,
    /// Device it came by: index into the lane's ports.
    pub port: u8,
    /// Its TOS (IP_RECVTOS).
    pub tos: u8,
    /// Payload bytes of each datagram but the last, if these are several (UDP_GRO); 0: it is one.
    pub segment: u16,
}

/// Why there is no socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UdpBindError {
    /// Port 0: the caller picks the port (EINVAL).
    Invalid,
    /// Another socket of this lane has this address and port (EADDRINUSE).
    InUse,
    /// No free row (ENOBUFS).
    NoRoom,
}

/// Why the remote end was not fixed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UdpConnectError {
    /// An address or port is missing or of another family, or the port of the lane does not exist (EINVAL).
    Invalid,
    /// No free next hop (ENOBUFS).
    NoRoom,
    /// The name names no socket (EBADF).
    Gone,
}

/// Why a datagram was not sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UdpSendError {
    /// The send buffer is full (EAGAIN).
    WouldBlock,
    /// No destination (EDESTADDRREQ).
    NotConnected,
    /// Sending was shut down (EPIPE).
    Pipe,
    /// Longer than a packet can be, or than the path takes and the socket may not fragment, or its datagrams are not to be fragmented
    /// because it is cut into several (EMSGSIZE).
    MessageSize,
    /// An address or port is missing or of another family, the port of the lane does not exist, or it would be cut into more than 128 datagrams
    /// or into datagrams without checksum (EINVAL).
    Invalid,
    /// No free next hop (ENOBUFS).
    NoRoom,
    /// No free frame, or no room for all fragments (ENOBUFS).
    NoFrames,
    /// What happened to an earlier datagram; told once.
    Failed(SockError),
    /// The name names no socket (EBADF).
    Gone,
}

/// Why no datagram was read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UdpRecvError {
    /// None has come (EAGAIN).
    WouldBlock,
    /// Receiving was shut down and nothing is left: the caller reports 0 bytes.
    Shut,
    /// What happened to an earlier datagram; told once.
    Failed(SockError),
    /// The name names no socket (EBADF).
    Gone,
}
