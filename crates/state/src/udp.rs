//! UDP sockets.

use base::{FrameIdx, Idx, IpAddress, Port};
use region::plain;

use crate::{Endpoint, Hop};

/// Flag: the row is in use.
pub const UDP_OPEN: u16 = 1;
/// Flag: the socket has a remote end and takes datagrams from there only.
pub const UDP_CONNECTED: u16 = 1 << 1;
/// Flag: never fragment, say `MessageSize` instead (IP_PMTUDISC_DO).
pub const UDP_DONT_FRAGMENT: u16 = 1 << 2;
/// Flag: the receiving side is shut down.
pub const UDP_SHUT_RECV: u16 = 1 << 3;
/// Flag: the sending side is shut down.
pub const UDP_SHUT_SEND: u16 = 1 << 4;
/// Flag: a send found no room; the owner is told when there is some.
pub const UDP_WANTS_ROOM: u16 = 1 << 5;
/// Flag: send IPv4 datagrams without checksum (SO_NO_CHECK).
pub const UDP_NO_CHECKSUM: u16 = 1 << 6;
/// Flag: several sockets may have this address and port (SO_REUSEPORT).
pub const UDP_REUSE_PORT: u16 = 1 << 7;
/// Flag: datagrams of one sender that follow each other may be read in one go (UDP_GRO).
pub const UDP_MERGES: u16 = 1 << 8;

/// Hash buckets of the UDP sockets.
pub const UDP_BUCKETS: usize = 1024;

plain! {
    /// One UDP socket.
    #[derive(Debug, Default)]
    pub struct UdpSock {
        /// Local end.
        pub local: Endpoint,
        /// Remote end of a connected socket.
        pub remote: Endpoint,
        /// One up at each reuse of the row.
        pub generation: u32,
        /// Next socket in the same hash bucket; next free row on the free list.
        pub chain: Idx<UdpSock>,
        /// Hop of the remote end of a connected socket.
        pub hop: Idx<Hop>,
        /// First frame of the oldest datagram not yet read; datagrams are linked through `FrameMeta::seq`, the frames
        /// of one through `FrameMeta::next`.
        pub recv_head: FrameIdx,
        /// First frame of the newest datagram.
        pub recv_tail: FrameIdx,
        /// Bytes of all cells that the unread datagrams hold.
        pub recv_held: u32,
        /// Limit of `recv_held` (SO_RCVBUF).
        pub recv_max: u32,
        /// Unread datagrams.
        pub recv_count: u32,
        /// Payload bytes of the datagrams that wait to be sent.
        pub send_held: u32,
        /// Limit of `send_held` (SO_SNDBUF).
        pub send_max: u32,
        /// Datagrams dropped because `recv_held` was at its limit.
        pub recv_dropped: u32,
        /// `UDP_*` flags.
        pub flags: u16,
        /// An error that a later call reports (a number of engine's `SockError`); 0: none.
        pub error: u16,
        /// TOS of what it sends.
        pub tos: u8,
        /// TTL of what it sends.
        pub ttl: u8,
        /// The lane's port it is bound to (SO_BINDTODEVICE); 0xff: any.
        pub bound_port: u8,
        /// The lane's port that a connected socket sends by.
        pub out_port: u8,
        /// Largest IP packet towards the remote end of a connected socket, bytes.
        pub mtu: u16,
        /// What is sent is cut into datagrams of so many payload bytes (UDP_SEGMENT); 0: it is one.
        pub segment: u16,
    }
}
const _: () = assert!(size_of::<UdpSock>() == 92);

plain! {
    /// What belongs to all UDP sockets of a lane.
    #[derive(Debug)]
    pub struct UdpGlobals {
        /// First free row.
        pub free: Idx<UdpSock>,
        /// Rows never used: those from here on. The table may begin zeroed.
        pub fresh: u32,
        /// Sockets in use.
        pub open: u32,
        /// First row of each hash bucket, by local port.
        pub buckets: [Idx<UdpSock>; UDP_BUCKETS],
    }
}

impl UdpSock {
    /// A free row.
    pub const EMPTY: Self = Self {
        local: Endpoint { addr: IpAddress::ANY, port: Port(0) },
        remote: Endpoint { addr: IpAddress::ANY, port: Port(0) },
        generation: 0,
        chain: Idx::NONE,
        hop: Idx::NONE,
        recv_head: FrameIdx::NONE,
        recv_tail: FrameIdx::NONE,
        recv_held: 0,
        recv_max: 0,
        recv_count: 0,
        send_held: 0,
        send_max: 0,
        recv_dropped: 0,
        flags: 0,
        error: 0,
        tos: 0,
        ttl: 0,
        bound_port: 0xff,
        out_port: 0,
        mtu: 0,
        segment: 0,
    };
}

impl UdpGlobals {
    /// No socket.
    pub const EMPTY: Self = Self { free: Idx::NONE, fresh: 0, open: 0, buckets: [Idx::NONE; UDP_BUCKETS] };
}
