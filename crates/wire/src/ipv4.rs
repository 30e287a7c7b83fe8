//! IPv4 (RFC 791). Parsing verifies the header checksum; emitting computes it. Options are passed through as bytes
//! on receipt and never sent.

use core::net::Ipv4Addr;

use crate::bytes::{TooShort, array, be16, put, put16, room};
use crate::checksum::{Sum, update_u16};
use crate::ip::{Ecn, IpProtocol};

/// Bytes of a header without options.
pub const HEADER_LEN: usize = 20;
/// Bytes of the longest header.
pub const HEADER_LEN_MAX: usize = 60;
/// Largest packet, bytes.
pub const PACKET_LEN_MAX: usize = 65_535;

const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

/// Why bytes are no IPv4 packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ipv4Error {
    /// The bytes end within the header.
    Truncated,
    /// The version is not 4.
    NotVersion4,
    /// The header length is below 20 bytes.
    HeaderLength,
    /// The total length is below the header length, or more than there is.
    TotalLength,
    /// The header checksum is wrong (RFC 1122 3.2.1.2).
    Checksum,
}

/// An IPv4 packet, or the part of one that is in its first frame.
#[derive(Clone, Copy, Debug)]
pub struct Ipv4Packet<'a> {
    head: &'a [u8; HEADER_LEN],
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Ipv4Packet<'a> {
    /// The packet in `bytes`, which may have link padding after it.
    ///
    /// # Errors
    /// See [`Ipv4Error`].
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Ipv4Error> {
        Self::parse_head(bytes, bytes.len())
    }

    /// The packet whose first frame holds `bytes` and whose whole chain of frames holds `available` bytes from
    /// there on. The header must be in `bytes`.
    ///
    /// # Errors
    /// See [`Ipv4Error`].
    #[inline]
    pub fn parse_head(bytes: &'a [u8], available: usize) -> Result<Self, Ipv4Error> {
        let packet = Self::split(bytes)?;
        let (header_len, total_len) = (packet.header_len(), packet.total_len());
        if total_len < header_len || total_len > available {
            return Err(Ipv4Error::TotalLength);
        }
        // RFC 1122 3.2.1.2: verify the header checksum of every received packet, and discard those that fail.
        let sum = Sum::ZERO.plus_array(packet.head);
        let sum = if packet.options.is_empty() { sum } else { sum.plus_bytes(packet.options) };
        if !sum.is_valid() {
            return Err(Ipv4Error::Checksum);
        }
        let payload = packet.payload.get(..total_len - header_len).unwrap_or(packet.payload);
        Ok(Self { payload, ..packet })
    }

    /// The packet quoted in an ICMP error, mostly cut short (RFC 792: header and 64 bits; RFC 1812 4.3.2.3: up to 576
    /// bytes). Routers may have changed it, so neither length nor checksum is looked at.
    ///
    /// # Errors
    /// [`Ipv4Error::Truncated`], [`Ipv4Error::NotVersion4`], [`Ipv4Error::HeaderLength`].
    pub fn parse_quoted(bytes: &'a [u8]) -> Result<Self, Ipv4Error> {
        Self::split(bytes)
    }

    /// Splits header, options and the rest.
    #[inline]
    fn split(bytes: &'a [u8]) -> Result<Self, Ipv4Error> {
        let (head, rest) = bytes.split_first_chunk::<HEADER_LEN>().ok_or(Ipv4Error::Truncated)?;
        if head[0] == 0x45 {
            return Ok(Self { head, options: &[], payload: rest });
        }
        if head[0] >> 4 != 4 {
            return Err(Ipv4Error::NotVersion4);
        }
        let header_len = usize::from(head[0] & 0xf) * 4;
        let options_len = header_len.checked_sub(HEADER_LEN).ok_or(Ipv4Error::HeaderLength)?;
        let (options, payload) = rest.split_at_checked(options_len).ok_or(Ipv4Error::Truncated)?;
        Ok(Self { head, options, payload })
    }

    /// Bytes of the header, options included: 20 to 60.
    #[inline]
    #[must_use]
    pub const fn header_len(&self) -> usize {
        HEADER_LEN + self.options.len()
    }

    /// Bytes of header and payload, as the header says.
    #[inline]
    #[must_use]
    pub const fn total_len(&self) -> usize {
        be16::<2, _>(self.head) as usize
    }

    /// Bytes of the payload, as the header says; more than `payload().len()` if the packet goes on in further
    /// frames.
    #[inline]
    #[must_use]
    pub const fn payload_len(&self) -> usize {
        self.total_len().saturating_sub(self.header_len())
    }

    /// DSCP and ECN (RFC 2474, RFC 3168).
    #[inline]
    #[must_use]
    pub const fn traffic_class(&self) -> u8 {
        self.head[1]
    }

    /// The ECN field.
    #[inline]
    #[must_use]
    pub const fn ecn(&self) -> Ecn {
        Ecn::of(self.head[1])
    }

    /// The identification, common to the fragments of a packet (RFC 6864).
    #[inline]
    #[must_use]
    pub const fn ident(&self) -> u16 {
        be16::<4, _>(self.head)
    }

    /// May routers not fragment this packet?
    #[inline]
    #[must_use]
    pub const fn dont_fragment(&self) -> bool {
        be16::<6, _>(self.head) & DONT_FRAGMENT != 0
    }

    /// Do fragments with larger offsets follow?
    #[inline]
    #[must_use]
    pub const fn more_fragments(&self) -> bool {
        be16::<6, _>(self.head) & MORE_FRAGMENTS != 0
    }

    /// Where the payload belongs in the whole packet's payload, bytes: a multiple of 8, at most 65528.
    #[inline]
    #[must_use]
    pub const fn fragment_offset(&self) -> u16 {
        (be16::<6, _>(self.head) & OFFSET_MASK) * 8
    }

    /// Is this one fragment of a larger packet?
    #[inline]
    #[must_use]
    pub const fn is_fragment(&self) -> bool {
        be16::<6, _>(self.head) & (MORE_FRAGMENTS | OFFSET_MASK) != 0
    }

    /// Time to live, hops.
    #[inline]
    #[must_use]
    pub const fn ttl(&self) -> u8 {
        self.head[8]
    }

    /// The protocol of the payload.
    #[inline]
    #[must_use]
    pub const fn protocol(&self) -> IpProtocol {
        IpProtocol(self.head[9])
    }

    /// The source address.
    #[inline]
    #[must_use]
    pub const fn src(&self) -> Ipv4Addr {
        Ipv4Addr::from_octets(array::<12, 4, _>(self.head))
    }

    /// The destination address.
    #[inline]
    #[must_use]
    pub const fn dst(&self) -> Ipv4Addr {
        Ipv4Addr::from_octets(array::<16, 4, _>(self.head))
    }

    /// The options, 0 to 40 bytes, not looked at.
    #[inline]
    #[must_use]
    pub const fn options(&self) -> &'a [u8] {
        self.options
    }

    /// The payload that is in the parsed bytes.
    #[inline]
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The header's fields. Options are left out; `payload_len` keeps its value.
    #[inline]
    #[must_use]
    pub const fn header(&self) -> Ipv4Header {
        Ipv4Header {
            traffic_class: self.traffic_class(),
            payload_len: self.payload_len() as u16,
            ident: self.ident(),
            dont_fragment: self.dont_fragment(),
            more_fragments: self.more_fragments(),
            fragment_offset: self.fragment_offset(),
            ttl: self.ttl(),
            protocol: self.protocol(),
            src: self.src(),
            dst: self.dst(),
        }
    }
}

/// The fields of an IPv4 header without options.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipv4Header {
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Bytes after the header: at most 65515.
    pub payload_len: u16,
    /// Identification, common to the fragments of a packet.
    pub ident: u16,
    /// Routers may not fragment the packet.
    pub dont_fragment: bool,
    /// Fragments with larger offsets follow.
    pub more_fragments: bool,
    /// Where the payload belongs in the whole packet's payload, bytes: a multiple of 8 (the rest is cut off).
    pub fragment_offset: u16,
    /// Time to live, hops.
    pub ttl: u8,
    /// The protocol of the payload.
    pub protocol: IpProtocol,
    /// Source address.
    pub src: Ipv4Addr,
    /// Destination address.
    pub dst: Ipv4Addr,
}

impl Ipv4Header {
    /// The header of a whole packet with nothing special about it: 64 hops, not to be cut.
    #[inline]
    #[must_use]
    pub const fn plain((src, dst): (Ipv4Addr, Ipv4Addr), protocol: IpProtocol, payload_len: u16) -> Self {
        Self {
            traffic_class: 0,
            payload_len,
            ident: 0,
            dont_fragment: true,
            more_fragments: false,
            fragment_offset: 0,
            ttl: 64,
            protocol,
            src,
            dst,
        }
    }

    /// Writes the header with its checksum to the front of `out`; returns [`HEADER_LEN`]. A `payload_len` above 65515
    /// is written as a total length of 65535.
    ///
    /// # Errors
    /// `out` is too short.
    #[inline]
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, TooShort> {
        let to = room::<HEADER_LEN>(out)?;
        let fragment = (self.fragment_offset / 8)
            | if self.dont_fragment { DONT_FRAGMENT } else { 0 }
            | if self.more_fragments { MORE_FRAGMENTS } else { 0 };
        put::<0, 2, _>(to, [0x45, self.traffic_class]);
        put16::<2, _>(to, self.payload_len.saturating_add(HEADER_LEN as u16));
        put16::<4, _>(to, self.ident);
        put16::<6, _>(to, fragment);
        put::<8, 4, _>(to, [self.ttl, self.protocol.0, 0, 0]);
        put::<12, 4, _>(to, self.src.octets());
        put::<16, 4, _>(to, self.dst.octets());
        let check = Sum::ZERO.plus_array(to).finish();
        put16::<10, _>(to, check);
        Ok(HEADER_LEN)
    }
}

/// Changes the total length of the header at the front of `packet` to `total_len` and its identification to `ident`,
/// and the checksum with them (RFC 1624): for splitting a super-frame.
///
/// # Errors
/// `packet` is shorter than a header.
#[inline]
pub fn patch_len_and_ident(packet: &mut [u8], total_len: u16, ident: u16) -> Result<(), TooShort> {
    let head = room::<HEADER_LEN>(packet)?;
    let check = be16::<10, _>(head);
    let check = update_u16(check, be16::<2, _>(head), total_len);
    let check = update_u16(check, be16::<4, _>(head), ident);
    put16::<2, _>(head, total_len);
    put16::<4, _>(head, ident);
    put16::<10, _>(head, check);
    Ok(())
}
