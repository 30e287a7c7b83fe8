//! ARP for IPv4 over Ethernet (RFC 826, RFC 5227). Other hardware or protocol types are an error.

use core::net::Ipv4Addr;

use base::MacAddr;

use crate::bytes::{TooShort, array, be16, put, put16, room};
use crate::eth::EtherType;

/// Bytes of an ARP packet.
pub const PACKET_LEN: usize = 28;
/// ar$hrd of Ethernet.
const HARDWARE_ETHERNET: u16 = 1;

/// What an ARP packet says (ar$op).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
#[repr(transparent)]
pub struct ArpOperation(pub u16);

impl ArpOperation {
    /// Who has the target address?
    pub const REQUEST: Self = Self(1);
    /// The sender has the sender address.
    pub const REPLY: Self = Self(2);
}

/// Why bytes are no ARP packet we understand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ArpError {
    /// Fewer than 28 bytes.
    Truncated,
    /// The addresses are not Ethernet's (ar$hrd, ar$hln).
    NotEthernet,
    /// The addresses are not IPv4's (ar$pro, ar$pln).
    NotIpv4,
}

/// An ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, Debug)]
pub struct ArpPacket<'a> {
    bytes: &'a [u8; PACKET_LEN],
}

impl<'a> ArpPacket<'a> {
    /// The packet at the front of `bytes`; what follows it is padding.
    ///
    /// # Errors
    /// See [`ArpError`].
    pub const fn parse(bytes: &'a [u8]) -> Result<Self, ArpError> {
        let Some(bytes) = bytes.first_chunk::<PACKET_LEN>() else {
            return Err(ArpError::Truncated);
        };
        if be16::<0, _>(bytes) != HARDWARE_ETHERNET || bytes[4] != 6 {
            return Err(ArpError::NotEthernet);
        }
        if be16::<2, _>(bytes) != EtherType::IPV4.0 || bytes[5] != 4 {
            return Err(ArpError::NotIpv4);
        }
        Ok(Self { bytes })
    }

    /// Request, reply, or something else.
    #[must_use]
    pub const fn operation(&self) -> ArpOperation {
        ArpOperation(be16::<6, _>(self.bytes))
    }

    /// The sender's Ethernet address.
    #[must_use]
    pub const fn sender_mac(&self) -> MacAddr {
        MacAddr(array::<8, 6, _>(self.bytes))
    }

    /// The sender's IPv4 address; 0.0.0.0 in a probe (RFC 5227 1.1).
    #[must_use]
    pub const fn sender_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from_octets(array::<14, 4, _>(self.bytes))
    }

    /// The target's Ethernet address; without meaning in a request.
    #[must_use]
    pub const fn target_mac(&self) -> MacAddr {
        MacAddr(array::<18, 6, _>(self.bytes))
    }

    /// The target's IPv4 address.
    #[must_use]
    pub const fn target_ip(&self) -> Ipv4Addr {
        Ipv4Addr::from_octets(array::<24, 4, _>(self.bytes))
    }

    /// All fields.
    #[must_use]
    pub const fn header(&self) -> ArpHeader {
        ArpHeader {
            operation: self.operation(),
            sender_mac: self.sender_mac(),
            sender_ip: self.sender_ip(),
            target_mac: self.target_mac(),
            target_ip: self.target_ip(),
        }
    }
}

/// The fields of an ARP packet for IPv4 over Ethernet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArpHeader {
    /// Request, reply, or something else.
    pub operation: ArpOperation,
    /// The sender's Ethernet address.
    pub sender_mac: MacAddr,
    /// The sender's IPv4 address.
    pub sender_ip: Ipv4Addr,
    /// The target's Ethernet address.
    pub target_mac: MacAddr,
    /// The target's IPv4 address.
    pub target_ip: Ipv4Addr,
}

impl ArpHeader {
    /// Writes the packet to the front of `out`; returns [`PACKET_LEN`].
    ///
    /// # Errors
    /// `out` is too short.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, TooShort> {
        let to = room::<PACKET_LEN>(out)?;
        put16::<0, _>(to, HARDWARE_ETHERNET);
        put16::<2, _>(to, EtherType::IPV4.0);
        put::<4, 2, _>(to, [6, 4]);
        put16::<6, _>(to, self.operation.0);
        put::<8, 6, _>(to, self.sender_mac.0);
        put::<14, 4, _>(to, self.sender_ip.octets());
        put::<18, 6, _>(to, self.target_mac.0);
        put::<24, 4, _>(to, self.target_ip.octets());
        Ok(PACKET_LEN)
    }

    /// The reply to this request from the owner of the target address (RFC 826, "Packet Reception").
    #[must_use]
    pub const fn reply_from(&self, owner: MacAddr) -> Self {
        Self {
            operation: ArpOperation::REPLY,
            sender_mac: owner,
            sender_ip: self.target_ip,
            target_mac: self.sender_mac,
            target_ip: self.sender_ip,
        }
    }
}
