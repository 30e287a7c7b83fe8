//! Ethernet II frames (IEEE 802.3 3.1.1): destination, source, EtherType; the addresses of IP multicast groups. No
//! preamble, no frame check sequence.

use core::net::{Ipv4Addr, Ipv6Addr};

use base::MacAddr;

use crate::bytes::{TooShort, array, be16, put, put16, room};

/// Bytes of the header.
pub const HEADER_LEN: usize = 14;

/// What a frame carries (IANA "IEEE 802 Numbers").
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
#[repr(transparent)]
pub struct EtherType(pub u16);

impl EtherType {
    /// IPv4.
    pub const IPV4: Self = Self(0x0800);
    /// ARP.
    pub const ARP: Self = Self(0x0806);
    /// A customer VLAN tag (IEEE 802.1Q 9.6).
    pub const VLAN: Self = Self(0x8100);
    /// IPv6.
    pub const IPV6: Self = Self(0x86dd);
    /// For local use (IEEE 802 9.2.4): ours, on wires between lanes; see [`crate::unwire`].
    pub const LOCAL: Self = Self(0x88b5);
    /// A service VLAN tag (IEEE 802.1ad, now 802.1Q 9.6).
    pub const SERVICE_VLAN: Self = Self(0x88a8);

    /// Does a VLAN tag follow?
    #[inline]
    #[must_use]
    pub const fn is_vlan(self) -> bool {
        matches!(self, Self::VLAN | Self::SERVICE_VLAN)
    }

    /// Is the number a length of an IEEE 802.3 frame with an LLC header (IEEE 802.3 3.2.6)?
    #[inline]
    #[must_use]
    pub const fn is_length(self) -> bool {
        self.0 < 0x0600
    }
}

/// Why bytes are no Ethernet frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EthError {
    /// Fewer than 14 bytes.
    Truncated,
}

/// An Ethernet frame.
#[derive(Clone, Copy, Debug)]
pub struct EthFrame<'a> {
    head: &'a [u8; HEADER_LEN],
    payload: &'a [u8],
}

impl<'a> EthFrame<'a> {
    /// The frame in `bytes`.
    ///
    /// # Errors
    /// [`EthError::Truncated`]: `bytes` ends within the header.
    #[inline]
    pub const fn parse(bytes: &'a [u8]) -> Result<Self, EthError> {
        match bytes.split_first_chunk::<HEADER_LEN>() {
            Some((head, payload)) => Ok(Self { head, payload }),
            None => Err(EthError::Truncated),
        }
    }

    /// The destination address.
    #[inline]
    #[must_use]
    pub const fn dst(&self) -> MacAddr {
        MacAddr(array::<0, 6, _>(self.head))
    }

    /// The source address.
    #[inline]
    #[must_use]
    pub const fn src(&self) -> MacAddr {
        MacAddr(array::<6, 6, _>(self.head))
    }

    /// What the payload is.
    #[inline]
    #[must_use]
    pub const fn ethertype(&self) -> EtherType {
        EtherType(be16::<12, _>(self.head))
    }

    /// What follows the header, padding included.
    #[inline]
    #[must_use]
    pub const fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The header's fields.
    #[inline]
    #[must_use]
    pub const fn header(&self) -> EthHeader {
        EthHeader { dst: self.dst(), src: self.src(), ethertype: self.ethertype() }
    }
}

/// The fields of an Ethernet header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct EthHeader {
    /// Destination address.
    pub dst: MacAddr,
    /// Source address.
    pub src: MacAddr,
    /// What the payload is.
    pub ethertype: EtherType,
}

impl EthHeader {
    /// Writes the header to the front of `out`; returns [`HEADER_LEN`].
    ///
    /// # Errors
    /// `out` is too short.
    #[inline]
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, TooShort> {
        let head = room::<HEADER_LEN>(out)?;
        put::<0, 6, _>(head, self.dst.0);
        put::<6, 6, _>(head, self.src.0);
        put16::<12, _>(head, self.ethertype.0);
        Ok(HEADER_LEN)
    }
}

/// The Ethernet address of the IPv4 multicast group `group` (RFC 1112 6.4).
#[must_use]
pub const fn multicast_v4(group: Ipv4Addr) -> MacAddr {
    let [_, b, c, d] = group.octets();
    MacAddr([0x01, 0x00, 0x5e, b & 0x7f, c, d])
}

/// The Ethernet address of the IPv6 multicast group `group` (RFC 2464 7).
#[must_use]
pub const fn multicast_v6(group: Ipv6Addr) -> MacAddr {
    let [a, b, c, d] = array::<12, 4, _>(&group.octets());
    MacAddr([0x33, 0x33, a, b, c, d])
}
