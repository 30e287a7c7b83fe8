//! ICMP for IPv6 (RFC 4443): echo and errors. Neighbour discovery is in [`crate::ndp`].

use crate::bytes::{TooShort, be16, be32, put, room};
use crate::checksum::{Sum, fill};

/// Bytes of the header of every message.
pub const HEADER_LEN: usize = 8;
/// Where in the header the checksum is.
pub const CHECKSUM_OFFSET: usize = 2;

/// Codes of Destination Unreachable (RFC 4443 3.1).
pub mod unreachable {
    /// No route to the destination.
    pub const NO_ROUTE: u8 = 0;
    /// Communication is administratively prohibited.
    pub const PROHIBITED: u8 = 1;
    /// Beyond the scope of the source address.
    pub const SCOPE: u8 = 2;
    /// No way to the address.
    pub const ADDRESS: u8 = 3;
    /// Nobody is at the port.
    pub const PORT: u8 = 4;
}

/// Codes of Parameter Problem (RFC 4443 3.4).
pub mod parameter_problem {
    /// A header field is wrong.
    pub const HEADER_FIELD: u8 = 0;
    /// A Next Header type is unknown.
    pub const NEXT_HEADER: u8 = 1;
    /// An option is unknown.
    pub const OPTION: u8 = 2;
}

/// Why bytes are no ICMPv6 message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Icmp6Error {
    /// Fewer than 8 bytes.
    Truncated,
}

/// An ICMPv6 message, or the part of one that is in its first frame.
#[derive(Clone, Copy, Debug)]
pub struct Icmp6Message<'a> {
    head: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Icmp6Message<'a> {
    /// The message in `bytes`, the upper layer of an IPv6 packet. The checksum is not verified: see
    /// [`Icmp6Message::checksum_ok`].
    ///
    /// # Errors
    /// [`Icmp6Error::Truncated`].
    pub const fn parse(bytes: &'a [u8]) -> Result<Self, Icmp6Error> {
        match bytes.split_first_chunk::<HEADER_LEN>() {
            Some((head, payload)) => Ok(Self { head, payload }),
            None => Err(Icmp6Error::Truncated),
        }
    }

    /// Is the checksum right? `pseudo` is the pseudo-header's sum (RFC 4443 2.3). Only for a message that is whole in
    /// the parsed bytes.
    #[must_use]
    pub fn checksum_ok(&self, pseudo: Sum) -> bool {
        pseudo.plus_array(self.head).plus_bytes(self.payload).is_valid()
    }

    /// The type.
    #[must_use]
    pub const fn kind(&self) -> u8 {
        self.head[0]
    }

    /// The code.
    #[must_use]
    pub const fn code(&self) -> u8 {
        self.head[1]
    }

    /// Bytes 4 to 7, whose meaning the type gives.
    #[must_use]
    pub const fn rest(&self) -> u32 {
        be32::<4, _>(self.head)
    }

    /// What follows the 8-byte header: echo data, or the quoted packet of an error.
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// What the message says.
    #[must_use]
    pub const fn header(&self) -> Icmp6Header {
        let (code, rest) = (self.code(), self.rest());
        let (ident, seq) = (be16::<4, _>(self.head), be16::<6, _>(self.head));
        match (self.kind(), code) {
            (1, _) => Icmp6Header::Unreachable { code },
            // RFC 4443 3.2: the code of Packet Too Big is ignored.
            (2, _) => Icmp6Header::PacketTooBig { mtu: rest },
            (3, _) => Icmp6Header::TimeExceeded { code },
            (4, _) => Icmp6Header::ParameterProblem { code, pointer: rest },
            (128, 0) => Icmp6Header::EchoRequest { ident, seq },
            (129, 0) => Icmp6Header::EchoReply { ident, seq },
            (kind, code) => Icmp6Header::Other { kind, code, rest },
        }
    }
}

/// What an ICMPv6 message says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Icmp6Header {
    /// Type 1: the quoted packet did not arrive.
    Unreachable {
        /// One of [`unreachable`].
        code: u8,
    },
    /// Type 2: the quoted packet is too big for the next link.
    PacketTooBig {
        /// MTU of the next link, bytes.
        mtu: u32,
    },
    /// Type 3: the quoted packet was on its way for too long.
    TimeExceeded {
        /// 0: hop limit; 1: reassembly.
        code: u8,
    },
    /// Type 4: the quoted packet's header is wrong.
    ParameterProblem {
        /// One of [`parameter_problem`].
        code: u8,
        /// Offset of the wrong byte in the quoted packet.
        pointer: u32,
    },
    /// Type 128: please send the payload back.
    EchoRequest {
        /// Chosen by the sender.
        ident: u16,
        /// Counted by the sender.
        seq: u16,
    },
    /// Type 129: the answer to an echo request.
    EchoReply {
        /// As in the request.
        ident: u16,
        /// As in the request.
        seq: u16,
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

impl Icmp6Header {
    /// Is this an error message, which must never be answered with an error (RFC 4443 2.1, 2.4 e)?
    #[must_use]
    pub const fn is_error(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::PacketTooBig { .. }
            | Self::TimeExceeded { .. }
            | Self::ParameterProblem { .. } => true,
            Self::EchoRequest { .. } | Self::EchoReply { .. } => false,
            Self::Other { kind, .. } => *kind < 128,
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
            Self::Unreachable { code } => (1, code, 0),
            Self::PacketTooBig { mtu } => (2, 0, mtu),
            Self::TimeExceeded { code } => (3, code, 0),
            Self::ParameterProblem { code, pointer } => (4, code, pointer),
            Self::EchoRequest { ident, seq } => (128, 0, pair(ident, seq)),
            Self::EchoReply { ident, seq } => (129, 0, pair(ident, seq)),
            Self::Other { kind, code, rest } => (kind, code, rest),
        };
        put::<0, 4, _>(to, [kind, code, 0, 0]);
        put::<4, 4, _>(to, rest.to_be_bytes());
        Ok(HEADER_LEN)
    }
}

/// Computes and writes the checksum of the whole `message` with the pseudo-header's sum.
///
/// # Errors
/// `message` is shorter than a header.
pub fn fill_checksum(message: &mut [u8], pseudo: Sum) -> Result<(), TooShort> {
    fill(message, CHECKSUM_OFFSET, pseudo).map(|_| ())
}
