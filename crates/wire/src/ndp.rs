//! Neighbour Discovery for IPv6 over Ethernet (RFC 4861, RFC 2464): the five messages with the options that a host
//! uses. Other options are skipped. Parsing applies the validity rules of RFC 4861 6.1, 7.1 and 8.1.

use core::net::Ipv6Addr;

use base::MacAddr;

use crate::bytes::{TooShort, array, be16, be32, put, put32};
use crate::icmp6::Icmp6Message;
use crate::ipv6::Ipv6Header;

/// Prefixes of one Router Advertisement that are kept.
pub const PREFIXES_MAX: usize = 4;
/// Hop limit of every message: a packet that came through a router has less (RFC 4861 3.1).
pub const HOP_LIMIT: u8 = 255;

const ROUTER_SOLICITATION: u8 = 133;
const ROUTER_ADVERTISEMENT: u8 = 134;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
const REDIRECT: u8 = 137;

const SOURCE_LINK: u8 = 1;
const TARGET_LINK: u8 = 2;
const PREFIX: u8 = 3;
const MTU: u8 = 5;

/// Why an ICMPv6 message is no valid Neighbour Discovery message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NdpError {
    /// The type is none of 133 to 137.
    NotNdp,
    /// The bytes end within the message or an option.
    Truncated,
    /// The hop limit is not 255, or the code not 0.
    Header,
    /// An option has length zero.
    OptionLength,
    /// A source, destination or target address, or a flag, that the message may not have.
    Address,
}

/// What a message says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NdpBody {
    /// Routers, please advertise (RFC 4861 4.1).
    RouterSolicitation,
    /// A router's parameters (RFC 4861 4.2).
    RouterAdvertisement(RouterParameters),
    /// Who has `target` (RFC 4861 4.3)?
    NeighbourSolicitation {
        /// The address asked for.
        target: Ipv6Addr,
    },
    /// The sender has `target` (RFC 4861 4.4).
    NeighbourAdvertisement {
        /// The address.
        target: Ipv6Addr,
        /// The sender is a router.
        router: bool,
        /// The answer to a solicitation.
        solicited: bool,
        /// Replaces a known link-layer address.
        overriding: bool,
    },
    /// There is a better first hop (RFC 4861 4.5).
    Redirect {
        /// The better first hop; equal to `destination` if that is a neighbour.
        target: Ipv6Addr,
        /// For packets to this address.
        destination: Ipv6Addr,
    },
}

/// What a router advertises about itself (RFC 4861 4.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RouterParameters {
    /// Hop limit to use; 0: not said.
    pub hop_limit: u8,
    /// Addresses are to be had by DHCPv6.
    pub managed: bool,
    /// Other configuration is to be had by DHCPv6.
    pub other: bool,
    /// Seconds for which the router is a default router; 0: it is none.
    pub lifetime_s: u16,
    /// Milliseconds for which a neighbour counts as reachable; 0: not said.
    pub reachable_ms: u32,
    /// Milliseconds between solicitations; 0: not said.
    pub retransmit_ms: u32,
}

/// A prefix of the link (RFC 4861 4.6.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Prefix {
    /// The prefix; bits after `len_bits` have no meaning.
    pub prefix: Ipv6Addr,
    /// Bits that count, 0 to 128 (not checked).
    pub len_bits: u8,
    /// Addresses with the prefix are on the link.
    pub on_link: bool,
    /// Addresses may be made from the prefix (RFC 4862).
    pub autonomous: bool,
    /// Seconds of validity; `u32::MAX`: for ever.
    pub valid_s: u32,
    /// Seconds of preference; `u32::MAX`: for ever.
    pub preferred_s: u32,
}

/// The options of a message. Of one that comes twice, the last counts, prefixes apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NdpOptions {
    /// The sender's link-layer address.
    pub source_mac: Option<MacAddr>,
    /// The target's link-layer address.
    pub target_mac: Option<MacAddr>,
    /// MTU of the link, bytes.
    pub mtu: Option<u32>,
    /// The first prefixes, `None` after the last.
    pub prefixes: [Option<Prefix>; PREFIXES_MAX],
}

/// A Neighbour Discovery message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NdpMessage {
    /// What the message says.
    pub body: NdpBody,
    /// Its options.
    pub options: NdpOptions,
}

/// Is this the type of a Neighbour Discovery message?
#[must_use]
pub const fn is_ndp(kind: u8) -> bool {
    matches!(kind, ROUTER_SOLICITATION..=REDIRECT)
}

/// The solicited-node group of `address` (RFC 4291 2.7.1).
#[must_use]
pub const fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [a, b, c] = array::<13, 3, _>(&address.octets());
    Ipv6Addr::from_octets([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

/// Is `address` the solicited-node group of some address?
#[must_use]
pub const fn is_solicited_node(address: Ipv6Addr) -> bool {
    matches!(address.octets(), [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, ..])
}

impl NdpMessage {
    /// The message in `message`, whose checksum the caller has verified and which came in a packet with header `ip`.
    ///
    /// # Errors
    /// See [`NdpError`]. The message must be ignored then.
    pub fn parse(message: &Icmp6Message<'_>, ip: &Ipv6Header) -> Result<Self, NdpError> {
        let kind = message.kind();
        if !is_ndp(kind) {
            return Err(NdpError::NotNdp);
        }
        // RFC 4861 6.1, 7.1, 8.1: hop limit 255 shows that no router forwarded the message; the code is 0.
        if ip.hop_limit != HOP_LIMIT || message.code() != 0 {
            return Err(NdpError::Header);
        }
        let (body, options) = NdpBody::parse(kind, message.rest(), message.payload())?;
        let parsed = Self { body, options: NdpOptions::parse(options)? };
        if parsed.addresses_are_valid(ip) { Ok(parsed) } else { Err(NdpError::Address) }
    }

    /// The rules about addresses: RFC 4861 6.1.1, 6.1.2, 7.1.1, 7.1.2, 8.1.
    fn addresses_are_valid(&self, ip: &Ipv6Header) -> bool {
        let nobody = ip.src.is_unspecified();
        match self.body {
            NdpBody::RouterSolicitation => !(nobody && self.options.source_mac.is_some()),
            NdpBody::RouterAdvertisement(_) => ip.src.is_unicast_link_local(),
            NdpBody::NeighbourSolicitation { target } => {
                let probe = is_solicited_node(ip.dst) && self.options.source_mac.is_none();
                !target.is_multicast() && (!nobody || probe)
            }
            NdpBody::NeighbourAdvertisement { target, solicited, .. } => {
                let to_asker = !solicited || !ip.dst.is_multicast();
                to_asker && !target.is_multicast()
            }
            NdpBody::Redirect { target, destination } => {
                let router = target.is_unicast_link_local();
                ip.src.is_unicast_link_local()
                    && !destination.is_multicast()
                    && (router || target == destination)
            }
        }
    }

    /// Writes the message, the checksum 0, to the front of `out`; returns its length. Then see
    /// [`crate::icmp6::fill_checksum`].
    ///
    /// # Errors
    /// `out` is too short.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, TooShort> {
        let body_len = self.body.emit(out)?;
        let options = out.get_mut(body_len..).unwrap_or_default();
        match self.options.emit(options) {
            Ok(len) => Ok(body_len + len),
            Err(TooShort { needed }) => Err(TooShort { needed: body_len + needed }),
        }
    }
}

impl NdpBody {
    /// The body of a message of type `kind`, and the bytes of its options.
    fn parse(kind: u8, rest: u32, bytes: &[u8]) -> Result<(Self, &[u8]), NdpError> {
        let address = |bytes: &[u8; 16]| Ipv6Addr::from_octets(*bytes);
        if kind == ROUTER_SOLICITATION {
            return Ok((Self::RouterSolicitation, bytes));
        }
        if kind == ROUTER_ADVERTISEMENT {
            let (timers, options) = bytes.split_first_chunk::<8>().ok_or(NdpError::Truncated)?;
            let rest = rest.to_be_bytes();
            let parameters = RouterParameters {
                hop_limit: rest[0],
                managed: rest[1] & 0x80 != 0,
                other: rest[1] & 0x40 != 0,
                lifetime_s: be16::<2, _>(&rest),
                reachable_ms: be32::<0, _>(timers),
                retransmit_ms: be32::<4, _>(timers),
            };
            return Ok((Self::RouterAdvertisement(parameters), options));
        }
        let (target, after) = bytes.split_first_chunk::<16>().ok_or(NdpError::Truncated)?;
        let target = address(target);
        match kind {
            NEIGHBOUR_SOLICITATION => Ok((Self::NeighbourSolicitation { target }, after)),
            NEIGHBOUR_ADVERTISEMENT => {
                let flag = |bit: u32| rest >> bit & 1 == 1;
                let (router, solicited, overriding) = (flag(31), flag(30), flag(29));
                Ok((Self::NeighbourAdvertisement { target, router, solicited, overriding }, after))
            }
            _ => {
                let (destination, options) = after.split_first_chunk::<16>().ok_or(NdpError::Truncated)?;
                Ok((Self::Redirect { target, destination: address(destination) }, options))
            }
        }
    }

    /// Writes type, code, checksum 0 and body; returns their length.
    fn emit(&self, out: &mut [u8]) -> Result<usize, TooShort> {
        let (kind, rest) = match *self {
            Self::RouterSolicitation => (ROUTER_SOLICITATION, 0),
            Self::RouterAdvertisement(p) => {
                let flags = (u8::from(p.managed) << 7) | (u8::from(p.other) << 6);
                let [a, b] = p.lifetime_s.to_be_bytes();
                (ROUTER_ADVERTISEMENT, u32::from_be_bytes([p.hop_limit, flags, a, b]))
            }
            Self::NeighbourSolicitation { .. } => (NEIGHBOUR_SOLICITATION, 0),
            Self::NeighbourAdvertisement { router, solicited, overriding, .. } => {
                let bit = |set: bool, at: u32| u32::from(set) << at;
                (NEIGHBOUR_ADVERTISEMENT, bit(router, 31) | bit(solicited, 30) | bit(overriding, 29))
            }
            Self::Redirect { .. } => (REDIRECT, 0),
        };
        let mut to = Writer { out, len: 0 };
        to.put([kind, 0, 0, 0])?;
        to.put(rest.to_be_bytes())?;
        match *self {
            Self::RouterSolicitation => {}
            Self::RouterAdvertisement(p) => {
                to.put(p.reachable_ms.to_be_bytes())?;
                to.put(p.retransmit_ms.to_be_bytes())?;
            }
            Self::NeighbourSolicitation { target } | Self::NeighbourAdvertisement { target, .. } => {
                to.put(target.octets())?;
            }
            Self::Redirect { target, destination } => {
                to.put(target.octets())?;
                to.put(destination.octets())?;
            }
        }
        Ok(to.len)
    }
}

impl NdpOptions {
    /// The options in `bytes` (RFC 4861 4.6: type, length in units of 8 bytes, content).
    fn parse(mut bytes: &[u8]) -> Result<Self, NdpError> {
        let mut options = Self::default();
        let mut prefixes = 0;
        while let [kind, units, ..] = *bytes {
            // RFC 4861 4.6: a message with an option of length zero must be discarded.
            if units == 0 {
                return Err(NdpError::OptionLength);
            }
            let len = usize::from(units) * 8;
            let (option, after) = bytes.split_at_checked(len).ok_or(NdpError::Truncated)?;
            match (kind, units) {
                (SOURCE_LINK, 1) => options.source_mac = option.get(2..).and_then(mac),
                (TARGET_LINK, 1) => options.target_mac = option.get(2..).and_then(mac),
                (MTU, 1) => options.mtu = option.first_chunk::<8>().map(be32::<4, 8>),
                (PREFIX, 4) => {
                    if let Some(free) = options.prefixes.get_mut(prefixes) {
                        *free = option.first_chunk::<32>().map(Prefix::read);
                        prefixes += 1;
                    }
                }
                _ => {}
            }
            bytes = after;
        }
        if bytes.is_empty() { Ok(options) } else { Err(NdpError::Truncated) }
    }

    /// Writes the options; returns their length.
    fn emit(&self, out: &mut [u8]) -> Result<usize, TooShort> {
        let mut to = Writer { out, len: 0 };
        for (kind, mac) in [(SOURCE_LINK, self.source_mac), (TARGET_LINK, self.target_mac)] {
            if let Some(MacAddr(mac)) = mac {
                to.put([kind, 1])?;
                to.put(mac)?;
            }
        }
        if let Some(mtu) = self.mtu {
            to.put([MTU, 1, 0, 0])?;
            to.put(mtu.to_be_bytes())?;
        }
        for prefix in self.prefixes.iter().flatten() {
            to.put(prefix.bytes())?;
        }
        Ok(to.len)
    }
}

fn mac(bytes: &[u8]) -> Option<MacAddr> {
    bytes.first_chunk::<6>().map(|mac| MacAddr(*mac))
}

impl Prefix {
    fn read(option: &[u8; 32]) -> Self {
        Self {
            prefix: Ipv6Addr::from_octets(array::<16, 16, _>(option)),
            len_bits: option[2],
            on_link: option[3] & 0x80 != 0,
            autonomous: option[3] & 0x40 != 0,
            valid_s: be32::<4, _>(option),
            preferred_s: be32::<8, _>(option),
        }
    }

    fn bytes(&self) -> [u8; 32] {
        let mut option = [0; 32];
        let flags = (u8::from(self.on_link) << 7) | (u8::from(self.autonomous) << 6);
        put::<0, 4, _>(&mut option, [PREFIX, 4, self.len_bits, flags]);
        put32::<4, _>(&mut option, self.valid_s);
        put32::<8, _>(&mut option, self.preferred_s);
        put::<16, 16, _>(&mut option, self.prefix.octets());
        option
    }
}

/// Writes pieces one after another.
struct Writer<'a> {
    out: &'a mut [u8],
    len: usize,
}

impl Writer<'_> {
    fn put<const N: usize>(&mut self, piece: [u8; N]) -> Result<(), TooShort> {
        let needed = self.len + N;
        let to = self.out.get_mut(self.len..needed).ok_or(TooShort { needed })?;
        to.copy_from_slice(&piece);
        self.len = needed;
        Ok(())
    }
}
