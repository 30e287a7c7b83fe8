//! IPv6 (RFC 8200 3): the fixed header. Extension headers are in [`crate::ipv6_ext`]. Jumbograms (RFC 2675) are left out.

use core::net::Ipv6Addr;

use crate::bytes::{TooShort, array, be16, be32, put, put16, put32, room};
use crate::ip::{Ecn, IpProtocol};

/// Bytes of the fixed header.
pub const HEADER_LEN: usize = 40;
/// Every link carries packets of this many bytes (RFC 8200 5).
pub const MTU_MIN: usize = 1280;

/// Why bytes are no IPv6 packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ipv6Error {
    /// The bytes end within the header.
    Truncated,
    /// The version is not 6.
    NotVersion6,
    /// The payload length is more than there is.
    PayloadLength,
}

/// An IPv6 packet, or the part of one that is in its first frame.
#[derive(Clone, Copy, Debug)]
pub struct Ipv6Packet<'a> {
    head: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> Ipv6Packet<'a> {
    /// The packet in `bytes`, which may have link padding after it.
    ///
    /// # Errors
    /// See [`Ipv6Error`].
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Ipv6Error> {
        Self::parse_head(bytes, bytes.len())
    }

    /// The packet whose first frame holds `bytes` and whose whole chain of frames holds `available` bytes from
    /// there on. The fixed header must be in `bytes`.
    ///
    /// # Errors
    /// See [`Ipv6Error`].
    #[inline]
    pub fn parse_head(bytes: &'a [u8], available: usize) -> Result<Self, Ipv6Error> {
        let packet = Self::parse_quoted(bytes)?;
        let payload_len = packet.payload_len();
        if payload_len > available.saturating_sub(HEADER_LEN) {
            return Err(Ipv6Error::PayloadLength);
        }
        let payload = packet.payload.get(..payload_len).unwrap_or(packet.payload);
        Ok(Self { payload, ..packet })
    }

    /// The packet quoted in an ICMPv6 error, which may be cut short (RFC 4443 2.4 c): its length is not looked at.
    ///
    /// # Errors
    /// [`Ipv6Error::Truncated`], [`Ipv6Error::NotVersion6`].
    #[inline]
    pub fn parse_quoted(bytes: &'a [u8]) -> Result<Self, Ipv6Error> {
        let (head, payload) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(Ipv6Error::Truncated)?;
        if head[0] >> 4 != 6 {
            return Err(Ipv6Error::NotVersion6);
        }
        Ok(Self { head, payload })
    }

    /// DSCP and ECN (RFC 2474, RFC 3168).
    #[inline]
    #[must_use]
    pub const fn traffic_class(&self) -> u8 {
        (be16::<0, _>(self.head) >> 4) as u8
    }

    /// The ECN field.
    #[inline]
    #[must_use]
    pub const fn ecn(&self) -> Ecn {
        Ecn::of(self.traffic_class())
    }

    /// The flow label, 20 bits (RFC 6437).
    #[inline]
    #[must_use]
    pub const fn flow_label(&self) -> u32 {
        be32::<0, _>(self.head) & 0x000f_ffff
    }

    /// Bytes after the fixed header, as the header says; more than `payload().len()` if the packet goes on in further
    /// frames.
    #[inline]
    #[must_use]
    pub const fn payload_len(&self) -> usize {
        be16::<4, _>(self.head) as usize
    }

    /// The type of the header after this one: an extension header or the payload's protocol.
    #[inline]
    #[must_use]
    pub const fn next_header(&self) -> IpProtocol {
        IpProtocol(self.head[6])
    }

    /// Hop limit.
    #[inline]
    #[must_use]
    pub const fn hop_limit(&self) -> u8 {
        self.head[7]
    }

    /// The source address.
    #[inline]
    #[must_use]
    pub const fn src(&self) -> Ipv6Addr {
        Ipv6Addr::from_octets(array::<8, 16, _>(self.head))
    }

    /// The destination address.
    #[inline]
    #[must_use]
    pub const fn dst(&self) -> Ipv6Addr {
        Ipv6Addr::from_octets(array::<24, 16, _>(self.head))
    }

    /// What follows the fixed header, extension headers included, as far as it is in the parsed bytes.
    #[inline]
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The header's fields.
    #[inline]
    #[must_use]
    pub const fn header(&self) -> Ipv6Header {
        Ipv6Header {
            traffic_class: self.traffic_class(),
            flow_label: self.flow_label(),
            payload_len: self.payload_len() as u16,
            next_header: self.next_header(),
            hop_limit: self.hop_limit(),
            src: self.src(),
            dst: self.dst(),
        }
    }
}

/// The fields of the fixed IPv6 header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipv6Header {
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Flow label, 20 bits (the rest is cut off).
    pub flow_label: u32,
    /// Bytes after the header.
    pub payload_len: u16,
    /// The type of the header after this one.
    pub next_header: IpProtocol,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub src: Ipv6Addr,
    /// Destination address.
    pub dst: Ipv6Addr,
}

impl Ipv6Header {
    /// The header of a packet with nothing special about it: 64 hops, no label.
    #[inline]
    #[must_use]
    pub const fn plain((src, dst): (Ipv6Addr, Ipv6Addr), next_header: IpProtocol, payload_len: u16) -> Self {
        Self { traffic_class: 0, flow_label: 0, payload_len, next_header, hop_limit: 64, src, dst }
    }

    /// Writes the header to the front of `out`; returns [`HEADER_LEN`].
    ///
    /// # Errors
    /// `out` is too short.
    #[inline]
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, TooShort> {
        let to = room::<HEADER_LEN>(out)?;
        let class = u32::from(self.traffic_class) << 20;
        put32::<0, _>(to, 0x6000_0000 | class | (self.flow_label & 0x000f_ffff));
        put16::<4, _>(to, self.payload_len);
        put::<6, 2, _>(to, [self.next_header.0, self.hop_limit]);
        put::<8, 16, _>(to, self.src.octets());
        put::<24, 16, _>(to, self.dst.octets());
        Ok(HEADER_LEN)
    }
}
