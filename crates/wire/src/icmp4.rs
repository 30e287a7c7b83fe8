//! ICMP for IPv4 (RFC 792): echo, and the errors a host acts on (RFC 1122 3.2.2, next-hop MTU by RFC 1191 4).

use crate::bytes::{TooShort, array, be16, be32, put, room};
use crate::checksum::{Sum, fill};

/// Bytes of the header of every message.
pub const HEADER_LEN: usize = 8;
/// Where in the header the checksum is.
pub const CHECKSUM_OFFSET: usize = 2;

/// Codes of Destination Unreachable (RFC 792, RFC 1122 3.2.2.1).
pub mod unreachable {
    /// No route to the network.
    pub const NETWORK: u8 = 0;
    /// No way to the host.
    pub const HOST: u8 = 1;
    /// The host does not have the protocol.
    pub const PROTOCOL: u8 = 2;
    /// Nobody is at the port.
    pub const PORT: u8 = 3;
    /// The packet is too big for the next link and may not be fragmented (RFC 1191).
    pub const FRAGMENTATION_NEEDED: u8 = 4;
    /// The source route failed.
    pub const SOURCE_ROUTE: u8 = 5;
    /// Communication is administratively prohibited (RFC 1812 5.2.7.1).
    pub const PROHIBITED: u8 = 13;
}

/// Why bytes are no ICMP message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Icmp4Error {
    /// Fewer than 8 bytes.
    Truncated,
}

/// An ICMP message, or the part of one that is in its first frame.
#[derive(Clone, Copy, Debug)]
pub struct Icmp4Message<'a> {
    head: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Icmp4Message<'a> {
    /// The message in `bytes`, the payload of an IPv4 packet. The checksum is not verified: see
    /// [`Icmp4Message::checksum_ok`].
    ///
    /// # Errors
    /// [`Icmp4Error::Truncated`].
    pub const fn parse(bytes: &'a [u8]) -> Result<Self, Icmp4Error> {
        match bytes.split_first_chunk::<HEADER_LEN>() {
            Some((head, payload)) => Ok(Self { head, payload }),
            None => Err(Icmp4Error::Truncated),
        }
    }

    /// Is the checksum right? Only for a message that is whole in the parsed bytes.
    #[must_use]
    pub fn checksum_ok(&self) -> bool {
        Sum::ZERO.plus_array(self.head).plus_bytes(self.payload).is_valid()
    }

    /// What follows the 8-byte header: echo data, or the quoted packet of an error.
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// What the message says.
    #[must_use]
    pub const fn header(&self) -> Icmp4Header {
        let head = self.head;
        let (ident, seq) = (be16::<4, _>(head), be16::<6, _>(head));
        match (head[0], head[1]) {
            (0, 0) => Icmp4Header::EchoReply { ident, seq },
            (3, code) => Icmp4Header::Unreachable { code, next_hop_mtu: seq },
            (5, code) => Icmp4Header::Redirect { code, gateway: array::<4, 4, _>(head) },
            (8, 0) => Icmp4Header::EchoRequest { ident, seq },
            (11, code) => Icmp4Header::TimeExceeded { code },
            (12, code) => Icmp4Header::ParameterProblem { code, pointer: head[4] },
            (kind, code) => Icmp4Header::Other { kind, code, rest: be32::<4, _>(head) },
        }
    }
}

/// What an ICMP message says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Icmp4Header {
    /// Type 0: the answer to an echo request.
    EchoReply {
        /// As in the request.
        ident: u16,
        /// As in the request.
        seq: u16,
    },
    /// Type 3: the quoted packet did not arrive.
    Unreachable {
        /// One of [`unreachable`].
        code: u8,
        /// With [`unreachable::FRAGMENTATION_NEEDED`], the MTU of the next link in bytes; 0 from a router older than
        /// RFC 1191.
        next_hop_mtu: u16,
    },
    /// Type 5: there is a better gateway.
    Redirect {
        /// 0 to 3: for network, host, or either of them with type of service.
        code: u8,
        /// The better gateway's IPv4 address.
        gateway: [u8; 4],
    },
    /// Type 8: please send the payload back.
    EchoRequest {
        /// Chosen by the sender.
        ident: u16,
        /// Counted by the sender.
        seq: u16,
    },
    /// Type 11: the quoted packet was on its way for too long.
    TimeExceeded {
        /// 0: time to live; 1: reassembly.
        code: u8,
    },
    /// Type 12: the quoted packet's header is wrong.
    ParameterProblem {
        /// 0: see the pointer; 1: an option is missing; 2: bad length.
        code: u8,
        /// Offset of the wrong byte.
        pointer: u8,
    },
    /// Any other message.
    Other {
        /// Type.
        kind: u8,
        /// Code.
        code: u8,
        /// Bytes 4 to 7.
        rest: u32,
    },
}

impl Icmp4Header {
    /// Is this an error message, which must never be answered with an error (RFC 1122 3.2.2)?
    #[must_use]
    pub const fn is_error(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Redirect { .. }
            | Self::TimeExceeded { .. }
            | Self::ParameterProblem { .. } => true,
            // Source Quench (RFC 6633: deprecated, ignored) is an error too.
            Self::Other { kind, .. } => *kind == 4,
            Self::EchoReply { .. } | Self::EchoRequest { .. } => false,
        }
    }

    /// Writes the 8-byte header, the checksum 0, to the front of `out`; returns [`HEADER_LEN`]. Then see
    /// [`fill_checksum`].
    ///
    /// # Errors
    /// `out` is too short.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, TooShort> {
        let to = room::<HEADER_LEN>(out)?;
        let pair = |a: u16, b: u16| (u32::from(a) << 16) | u32::from(b);
        let (kind, code, rest) = match *self {
            Self::EchoReply { ident, seq } => (0, 0, pair(ident, seq)),
            Self::Unreachable { code, next_hop_mtu } => (3, code, u32::from(next_hop_mtu)),
            Self::Redirect { code, gateway } => (5, code, u32::from_be_bytes(gateway)),
            Self::EchoRequest { ident, seq } => (8, 0, pair(ident, seq)),
            Self::TimeExceeded { code } => (11, code, 0),
            Self::ParameterProblem { code, pointer } => (12, code, u32::from(pointer) << 24),
            Self::Other { kind, code, rest } => (kind, code, rest),
        };
        put::<0, 4, _>(to, [kind, code, 0, 0]);
        put::<4, 4, _>(to, rest.to_be_bytes());
        Ok(HEADER_LEN)
    }
}

/// Computes and writes the checksum of the whole `message`.
///
/// # Errors
/// `message` is shorter than a header.
pub fn fill_checksum(message: &mut [u8]) -> Result<(), TooShort> {
    fill(message, CHECKSUM_OFFSET, Sum::ZERO).map(|_| ())
}
