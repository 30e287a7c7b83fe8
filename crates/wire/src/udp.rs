//! UDP (RFC 768).

use base::Port;

use crate::bytes::{TooShort, be16, put16, room, store16};
use crate::checksum::{Sum, fill};

/// Bytes of the header.
pub const HEADER_LEN: usize = 8;
/// Where in the header the checksum is.
pub const CHECKSUM_OFFSET: usize = 6;

/// Why bytes are no UDP datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UdpError {
    /// The bytes end within the header.
    Truncated,
    /// The length is below 8, or more than there is.
    Length,
}

/// A UDP datagram, or the part of one that is in its first frame.
#[derive(Clone, Copy, Debug)]
pub struct UdpDatagram<'a> {
    head: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> UdpDatagram<'a> {
    /// The datagram in `bytes`, the payload of an IP packet.
    ///
    /// # Errors
    /// See [`UdpError`].
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, UdpError> {
        Self::parse_head(bytes, bytes.len())
    }

    /// The datagram whose first frame holds `bytes` and whose whole chain of frames holds `available` bytes.
    ///
    /// # Errors
    /// See [`UdpError`].
    #[inline]
    pub fn parse_head(bytes: &'a [u8], available: usize) -> Result<Self, UdpError> {
        let (head, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(UdpError::Truncated)?;
        let len = usize::from(be16::<4, _>(head));
        if len < HEADER_LEN || len > available {
            return Err(UdpError::Length);
        }
        Ok(Self { head, payload: rest.get(..len - HEADER_LEN).unwrap_or(rest) })
    }

    /// The start of a datagram quoted in an ICMP error; its length is not looked at.
    ///
    /// # Errors
    /// [`UdpError::Truncated`].
    pub fn parse_quoted(bytes: &'a [u8]) -> Result<Self, UdpError> {
        let (head, payload) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(UdpError::Truncated)?;
        Ok(Self { head, payload })
    }

    /// The source port; 0: no reply is expected.
    #[inline]
    #[must_use]
    pub const fn src_port(&self) -> Port {
        Port(be16::<0, _>(self.head))
    }

    /// The destination port.
    #[inline]
    #[must_use]
    pub const fn dst_port(&self) -> Port {
        Port(be16::<2, _>(self.head))
    }

    /// Bytes of header and payload, as the header says.
    #[inline]
    #[must_use]
    pub const fn len_bytes(&self) -> usize {
        be16::<4, _>(self.head) as usize
    }

    /// Bytes of the payload, as the header says; more than `payload().len()` if the datagram goes on in further
    /// frames.
    #[inline]
    #[must_use]
    pub const fn payload_len(&self) -> usize {
        self.len_bytes().saturating_sub(HEADER_LEN)
    }

    /// The checksum field; 0: the sender computed none (RFC 768; not allowed over IPv6, RFC 8200 8.1).
    #[inline]
    #[must_use]
    pub const fn checksum(&self) -> u16 {
        be16::<6, _>(self.head)
    }

    /// Is the checksum right? `pseudo` is the pseudo-header's sum. Only for a datagram that is whole in the parsed
    /// bytes. A datagram without a checksum is right.
    #[inline]
    #[must_use]
    pub fn checksum_ok(&self, pseudo: Sum) -> bool {
        self.checksum() == 0 || pseudo.plus_array(self.head).plus_bytes(self.payload).is_valid()
    }

    /// The payload that is in the parsed bytes.
    #[inline]
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The header's fields.
    #[inline]
    #[must_use]
    pub const fn header(&self) -> UdpHeader {
        UdpHeader {
            src_port: self.src_port(),
            dst_port: self.dst_port(),
            payload_len: self.payload_len() as u16,
        }
    }
}

/// The fields of a UDP header, but for the checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UdpHeader {
    /// Source port.
    pub src_port: Port,
    /// Destination port.
    pub dst_port: Port,
    /// Bytes of the payload: at most 65527.
    pub payload_len: u16,
}

impl UdpHeader {
    /// Writes the header, the checksum 0, to the front of `out`; returns [`HEADER_LEN`]. A `payload_len` above 65527 is
    /// written as a length of 65535. Then see [`fill_checksum`].
    ///
    /// # Errors
    /// `out` is too short.
    #[inline]
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, TooShort> {
        let to = room::<HEADER_LEN>(out)?;
        put16::<0, _>(to, self.src_port.0);
        put16::<2, _>(to, self.dst_port.0);
        put16::<4, _>(to, self.payload_len.saturating_add(HEADER_LEN as u16));
        put16::<6, _>(to, 0);
        Ok(HEADER_LEN)
    }
}

/// Computes and writes the checksum of the whole `datagram` with the pseudo-header's sum.
///
/// # Errors
/// `datagram` is shorter than a header.
pub fn fill_checksum(datagram: &mut [u8], pseudo: Sum) -> Result<(), TooShort> {
    if fill(datagram, CHECKSUM_OFFSET, pseudo)? == 0 {
        set_checksum(datagram, 0)?;
    }
    Ok(())
}

/// Writes `checksum`, which is that of a whole datagram in several pieces, into the header at the front of `datagram`.
///
/// # Errors
/// `datagram` is shorter than a header.
#[inline]
pub fn set_checksum(datagram: &mut [u8], checksum: u16) -> Result<(), TooShort> {
    // RFC 768: a computed zero is sent as all ones, for zero means that there is no checksum.
    store16(datagram, CHECKSUM_OFFSET, if checksum == 0 { 0xffff } else { checksum })
}
