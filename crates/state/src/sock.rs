//! Names of sockets, readiness, events and options: what the engine and its callers exchange.

use core::ops::{BitOr, BitOrAssign};

use base::{IpAddress, Port};
use region::plain;

/// Kind of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SockKind {
    /// A TCP connection.
    Tcp,
    /// A TCP listener.
    Listener,
    /// A UDP socket.
    Udp,
}

plain! {
    /// Names one socket of one lane: kind, row and the row's generation, so that a stale name never reaches the
    /// socket that took the row over.
    #[derive(PartialEq, Eq, Debug, Hash, Default)]
    pub struct SockRef {
        /// Kind in the upper 2 bits, row in the lower 30.
        pub raw: u32,
        /// Generation of the row.
        pub generation: u32,
    }
}

impl SockRef {
    /// No socket.
    pub const NONE: Self = Self { raw: u32::MAX, generation: 0 };

    /// Names row `row` (below 2^30) of the table for `kind`.
    #[must_use]
    pub const fn new(kind: SockKind, row: u32, generation: u32) -> Self {
        let bits = match kind {
            SockKind::Tcp => 0,
            SockKind::Listener => 1,
            SockKind::Udp => 2,
        };
        Self { raw: (bits << 30) | (row & 0x3fff_ffff), generation }
    }

    /// Its kind; `None` for [`SockRef::NONE`] and for nonsense.
    #[must_use]
    pub const fn kind(self) -> Option<SockKind> {
        match self.raw >> 30 {
            0 => Some(SockKind::Tcp),
            1 => Some(SockKind::Listener),
            2 => Some(SockKind::Udp),
            _ => None,
        }
    }

    /// Its row.
    #[must_use]
    pub const fn row(self) -> u32 {
        self.raw & 0x3fff_ffff
    }

    /// Is it [`SockRef::NONE`]?
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.raw == u32::MAX
    }
}

plain! {
    /// An address and a port.
    #[derive(PartialEq, Eq, Debug, Hash, Default)]
    pub struct Endpoint {
        /// The address; [`IpAddress::ANY`] for any.
        pub addr: IpAddress,
        /// The port; 0 for any.
        pub port: Port,
    }
}

/// Readiness bits with the values of Linux's EPOLL* flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
#[repr(transparent)]
pub struct Ready(pub u32);

impl Ready {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// EPOLLIN: data, end of stream, or a connection to accept.
    pub const IN: Self = Self(0x001);
    /// EPOLLPRI: an urgent byte that was not read.
    pub const PRI: Self = Self(0x002);
    /// EPOLLOUT: room to send.
    pub const OUT: Self = Self(0x004);
    /// EPOLLERR: an error waits in SO_ERROR.
    pub const ERR: Self = Self(0x008);
    /// EPOLLHUP: both directions are shut.
    pub const HUP: Self = Self(0x010);
    /// EPOLLRDHUP: the peer has shut its sending side.
    pub const RDHUP: Self = Self(0x2000);
    /// No bit of epoll's, and told by signals alone: the peer has announced urgent data (SIGURG).
    pub const ALARM: Self = Self(0x0100_0000);

    /// Has `self` every bit of `other`?
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Has `self` any bit of `other`?
    #[must_use]
    pub const fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Is no bit set?
    #[must_use]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Ready {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
impl BitOrAssign for Ready {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// What became ready at one socket since its last event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    /// The socket.
    pub sock: SockRef,
    /// The caller's number for it, as given to `set_event_queue`.
    pub token: u64,
    /// Bits that became set, gathered.
    pub ready: Ready,
}

impl Event {
    /// No event: to fill arrays with.
    pub const NONE: Self = Self { sock: SockRef::NONE, token: 0, ready: Ready::NONE };
}

plain! {
    /// Options of a TCP socket. A listener's are copied to the connections it makes. Zero means "off" for the switches
    /// and "the default" for the numbers, so that a zeroed value is the default.
    #[derive(PartialEq, Eq, Debug, Default)]
    pub struct TcpOptions {
        /// TCP_NODELAY: 1 turns Nagle's algorithm off.
        pub nodelay: u8,
        /// TCP_CORK: 1 holds partial segments back (200 ms at most).
        pub cork: u8,
        /// SO_KEEPALIVE: 1 probes an idle peer.
        pub keepalive: u8,
        /// SO_LINGER: 1 makes `linger_s` count.
        pub linger: u8,
        /// TCP_KEEPCNT: probes without an answer before the connection is dropped; 0: 9.
        pub keep_probes: u8,
        /// IP_TTL; 0: 64.
        pub ttl: u8,
        /// IP_TOS.
        pub tos: u8,
        /// TCP_SYNCNT: SYN retransmissions; 0: 6 (5 for a SYN,ACK).
        pub syn_retries: u8,
        /// TCP_NOTSENT_LOWAT: bytes that may wait to be sent; 0: as many as the send buffer holds.
        pub notsent_low_bytes: u32,
        /// Seconds of SO_LINGER. 0 with `linger` set: close sends RST.
        pub linger_s: u16,
        /// TCP_KEEPIDLE, seconds; 0: 7200.
        pub keep_idle_s: u16,
        /// TCP_KEEPINTVL, seconds; 0: 75.
        pub keep_interval_s: u16,
        /// TCP_DEFER_ACCEPT: timeouts of a SYN,ACK for which a handshake waits for data; 0: it does not wait.
        pub defer_accept: u8,
        /// TCP_FASTOPEN_NO_COOKIE: 1 takes and sends data in a SYN without a cookie.
        pub fast_open_bare: u8,
        /// TCP_USER_TIMEOUT, ms; 0: the retry limits decide.
        pub user_timeout_ms: u32,
        /// Receive buffer, bytes; 0: the lane's default.
        pub rcv_buf_bytes: u32,
        /// Send buffer, bytes; 0: the lane's default.
        pub snd_buf_bytes: u32,
        /// SO_RCVLOWAT, bytes; 0: 1.
        pub rcv_low_bytes: u32,
        /// TCP_MAXSEG: largest MSS to use and to announce, bytes; 0: what the device's MTU gives.
        pub mss_max: u16,
        /// TCP_CONGESTION, as the engine numbers them; 0: the lane's default.
        pub congestion: u8,
        /// Switches of few: see [`TcpOptions::is_urgent_inline`], [`TcpOptions::tells_errors`] and [`TcpOptions::reuses_port`].
        pub switches: u8,
        /// SO_MAX_PACING_RATE with every bit turned over, so that 0 is no limit; see [`TcpOptions::max_pacing_rate`].
        pub pacing_limit: u64,
    }
}

impl TcpOptions {
    const URGENT_INLINE: u8 = 1;
    const TELLS_ERRORS: u8 = 2;
    const REUSE_PORT: u8 = 4;

    /// SO_OOBINLINE: are urgent bytes left in the stream?
    #[must_use]
    pub const fn is_urgent_inline(&self) -> bool {
        self.switches & Self::URGENT_INLINE != 0
    }

    /// Sets SO_OOBINLINE.
    pub const fn set_urgent_inline(&mut self, on: bool) {
        self.put(Self::URGENT_INLINE, on);
    }

    /// IP_RECVERR, IPV6_RECVERR: does a router's word about an open connection end the next call?
    #[must_use]
    pub const fn tells_errors(&self) -> bool {
        self.switches & Self::TELLS_ERRORS != 0
    }

    /// Sets IP_RECVERR.
    pub const fn set_tells_errors(&mut self, on: bool) {
        self.put(Self::TELLS_ERRORS, on);
    }

    /// SO_REUSEPORT: may several listeners of a lane have one address and port? The connections are shared among them.
    #[must_use]
    pub const fn reuses_port(&self) -> bool {
        self.switches & Self::REUSE_PORT != 0
    }

    /// Sets SO_REUSEPORT.
    pub const fn set_reuse_port(&mut self, on: bool) {
        self.put(Self::REUSE_PORT, on);
    }

    const fn put(&mut self, switch: u8, on: bool) {
        self.switches = self.switches & !switch | if on { switch } else { 0 };
    }

    /// SO_MAX_PACING_RATE, bytes a second; `u64::MAX`: no limit.
    #[must_use]
    pub const fn max_pacing_rate(&self) -> u64 {
        !self.pacing_limit
    }

    /// Sets SO_MAX_PACING_RATE, bytes a second; `u64::MAX`: no limit.
    pub const fn set_max_pacing_rate(&mut self, bytes_a_second: u64) {
        self.pacing_limit = !bytes_a_second;
    }
}

#[cfg(test)]
mod tests {
    use super::{SockKind, SockRef};

    #[test]
    fn a_socket_name_gives_back_kind_and_row() {
        for kind in [SockKind::Tcp, SockKind::Listener, SockKind::Udp] {
            let name = SockRef::new(kind, 0x3fff_fffe, 7);
            assert_eq!((name.kind(), name.row(), name.is_none()), (Some(kind), 0x3fff_fffe, false));
        }
        assert_eq!(SockRef::NONE.kind(), None);
    }
}
