//! From netlink messages to rows. `None`: not a row we keep, or one that is cut.

use super::codec::{Message, attributes, u8_at, u16_at, u32_at};
use super::{ADDRESS, AF_INET, AF_INET6, LINK};
use crate::tables::{Address, Link, LinkKind, Neighbour, NeighbourState, RouteKind, RouteRow, Scope};
use base::{IpAddress, MacAddr};
use std::net::{Ipv4Addr, Ipv6Addr};

/// Attributes and constants of linux/if_link.h, if_addr.h, rtnetlink.h, neighbour.h and fib_rules.h.
mod number {
    pub(super) const IFLA_ADDRESS: u16 = 1;
    pub(super) const IFLA_IFNAME: u16 = 3;
    pub(super) const IFLA_MTU: u16 = 4;
    pub(super) const IFLA_MASTER: u16 = 10;
    pub(super) const IFLA_LINKINFO: u16 = 18;
    pub(super) const IFLA_INFO_KIND: u16 = 1;
    pub(super) const IFLA_NUM_TX_QUEUES: u16 = 31;
    pub(super) const IFLA_NUM_RX_QUEUES: u16 = 32;
    pub(super) const IFF_UP: u32 = 1;
    pub(super) const IFF_LOOPBACK: u32 = 8;
    pub(super) const IFF_RUNNING: u32 = 0x40;
    pub(super) const ARPHRD_ETHER: u16 = 1;

    pub(super) const IFA_ADDRESS: u16 = 1;
    pub(super) const IFA_LOCAL: u16 = 2;
    pub(super) const IFA_FLAGS: u16 = 8;
    pub(super) const IFA_F_SECONDARY: u32 = 1;
    pub(super) const IFA_F_DADFAILED: u32 = 0x08;
    pub(super) const IFA_F_DEPRECATED: u32 = 0x20;
    pub(super) const IFA_F_TENTATIVE: u32 = 0x40;

    pub(super) const RTA_DST: u16 = 1;
    pub(super) const RTA_OIF: u16 = 4;
    pub(super) const RTA_GATEWAY: u16 = 5;
    pub(super) const RTA_PRIORITY: u16 = 6;
    pub(super) const RTA_PREFSRC: u16 = 7;
    pub(super) const RTA_METRICS: u16 = 8;
    pub(super) const RTA_MULTIPATH: u16 = 9;
    pub(super) const RTA_TABLE: u16 = 15;
    pub(super) const RTA_VIA: u16 = 18;
    pub(super) const RTA_ENCAP: u16 = 22;
    pub(super) const RTAX_MTU: u16 = 2;
    pub(super) const RTN_UNICAST: u8 = 1;
    pub(super) const RTN_UNREACHABLE: u8 = 7;
    pub(super) const RTM_F_CLONED: u32 = 0x200;
    pub(super) const RTNH_F_DEAD: u32 = 1;
    pub(super) const RT_TABLE_DEFAULT: u32 = 253;
    pub(super) const RT_TABLE_MAIN: u32 = 254;
    pub(super) const RT_TABLE_LOCAL: u32 = 255;

    pub(super) const NDA_DST: u16 = 1;
    pub(super) const NDA_LLADDR: u16 = 2;
    pub(super) const NUD_INCOMPLETE: u16 = 0x01;
    pub(super) const NUD_REACHABLE: u16 = 0x02;
    pub(super) const NUD_STALE: u16 = 0x04;
    pub(super) const NUD_DELAY: u16 = 0x08;
    pub(super) const NUD_PROBE: u16 = 0x10;
    pub(super) const NUD_FAILED: u16 = 0x20;
    pub(super) const NUD_NOARP: u16 = 0x40;
    pub(super) const NUD_PERMANENT: u16 = 0x80;

    pub(super) const FRA_PRIORITY: u16 = 6;
    pub(super) const FRA_TABLE: u16 = 15;
    pub(super) const FRA_SUPPRESS_PREFIX_LENGTH: u16 = 14;
    pub(super) const FRA_PROTOCOL: u16 = 21;
    pub(super) const FR_ACT_TO_TBL: u8 = 1;
}
use number::*;

/// Bytes of the struct in front of the attributes: ifinfomsg, ifaddrmsg; rtmsg, ndmsg and fib_rule_hdr.
pub(super) const fn header_bytes(kind: u16) -> usize {
    match kind {
        LINK => 16,
        ADDRESS => 8,
        _ => 12,
    }
}

fn address_of(value: &[u8]) -> Option<IpAddress> {
    if let Ok(octets) = <[u8; 16]>::try_from(value) {
        return Some(IpAddress::from_v6(Ipv6Addr::from(octets)));
    }
    let octets: [u8; 4] = value.try_into().ok()?;
    Some(IpAddress::from_v4(Ipv4Addr::from(octets)))
}

fn is_ip(family: u8) -> bool {
    family == AF_INET || family == AF_INET6
}

fn scope_of(number: u8) -> Scope {
    match number {
        255 => Scope::Nowhere,
        254 => Scope::Host,
        253 => Scope::Link,
        _ => Scope::Global,
    }
}

/// A link (struct ifinfomsg).
pub(super) fn link(message: &Message<'_>) -> Option<Link> {
    let (hardware, flags) = (u16_at(message.body, 2)?, u32_at(message.body, 8)?);
    // Other families report their own view of the same link (bridge ports).
    if u8_at(message.body, 0)? != 0 {
        return None;
    }
    let mut link = Link { ifindex: u32_at(message.body, 4)?, ..Link::default() };
    link.up = flags & IFF_UP != 0;
    link.running = flags & IFF_RUNNING != 0;
    link.kind = match (flags & IFF_LOOPBACK != 0, hardware) {
        (true, _) => LinkKind::Loopback,
        (false, ARPHRD_ETHER) => LinkKind::Ethernet,
        (false, _) => LinkKind::Other,
    };
    for (kind, value) in message.attributes(header_bytes(LINK)) {
        match kind {
            IFLA_ADDRESS => link.mac = value.try_into().map(MacAddr).unwrap_or_default(),
            IFLA_IFNAME => link.name.iter_mut().zip(value).for_each(|(to, from)| *to = *from),
            IFLA_MTU => link.mtu = u32_at(value, 0)?,
            IFLA_MASTER => link.master = u32_at(value, 0)?,
            IFLA_NUM_TX_QUEUES => link.tx_queues = u32_at(value, 0)?.min(u32::from(u16::MAX)) as u16,
            IFLA_NUM_RX_QUEUES => link.rx_queues = u32_at(value, 0)?.min(u32::from(u16::MAX)) as u16,
            IFLA_LINKINFO => link.kind = kind_of(value).unwrap_or(link.kind),
            _ => {}
        }
    }
    Some(link)
}

/// The kind by its name in IFLA_INFO_KIND, which hardware does not have.
fn kind_of(info: &[u8]) -> Option<LinkKind> {
    let (_, name) = attributes(info).find(|(kind, _)| *kind == IFLA_INFO_KIND)?;
    Some(match name.strip_suffix(&[0]).unwrap_or(name) {
        b"veth" => LinkKind::Veth,
        b"tun" => LinkKind::Tun,
        b"bridge" => LinkKind::Bridge,
        b"vlan" | b"macvlan" | b"macvtap" | b"ipvlan" | b"ipvtap" => LinkKind::Upper,
        b"dummy" => LinkKind::Dummy,
        _ => LinkKind::Other,
    })
}

/// An address (struct ifaddrmsg).
pub(super) fn address(message: &Message<'_>) -> Option<Address> {
    if !is_ip(u8_at(message.body, 0)?) {
        return None;
    }
    let mut flags = u32::from(u8_at(message.body, 2)?);
    let (mut local, mut peer) = (None, None);
    for (kind, value) in message.attributes(header_bytes(ADDRESS)) {
        match kind {
            // On a point-to-point link IFA_ADDRESS is the other end.
            IFA_LOCAL => local = address_of(value),
            IFA_ADDRESS => peer = address_of(value),
            IFA_FLAGS => flags = u32_at(value, 0)?,
            _ => {}
        }
    }
    // RFC 4862 5.4: an address that may be somebody else's is not one of ours yet.
    if flags & (IFA_F_TENTATIVE | IFA_F_DADFAILED) != 0 {
        return None;
    }
    Some(Address {
        ifindex: u32_at(message.body, 4)?,
        addr: local.or(peer)?,
        prefix: u8_at(message.body, 1)?,
        scope: scope_of(u8_at(message.body, 3)?),
        // Of IPv6 the same bit says "temporary" (RFC 8981).
        secondary: flags & (IFA_F_SECONDARY | IFA_F_DEPRECATED) != 0,
    })
}

/// A route of the tables main and default (struct rtmsg).
pub(super) fn route(message: &Message<'_>) -> Option<RouteRow> {
    let header = |at| u8_at(message.body, at);
    let flags = u32_at(message.body, 8)?;
    let family = header(0)?;
    if !is_ip(family) || flags & (RTM_F_CLONED | RTNH_F_DEAD) != 0 {
        return None;
    }
    let dst = if family == AF_INET { IpAddress::ANY } else { IpAddress::ANY_V6 };
    let mut row = RouteRow { dst, prefix: header(1)?, scope: scope_of(header(6)?), ..RouteRow::default() };
    let mut table = u32::from(header(4)?);
    row.kind = match header(7)? {
        RTN_UNICAST if header(2)? == 0 && header(3)? == 0 => RouteKind::Unicast,
        RTN_UNREACHABLE => RouteKind::Unreachable,
        _ => RouteKind::Unusual,
    };
    for (kind, value) in message.attributes(12) {
        match kind {
            RTA_DST => row.dst = address_of(value)?,
            RTA_GATEWAY => row.gateway = address_of(value)?,
            RTA_PREFSRC => row.prefsrc = address_of(value)?,
            RTA_OIF => row.oif = u32_at(value, 0)?,
            RTA_PRIORITY => row.metric = u32_at(value, 0)?,
            RTA_TABLE => table = u32_at(value, 0)?,
            RTA_METRICS => row.mtu = mtu_of(value),
            RTA_MULTIPATH | RTA_VIA | RTA_ENCAP => row.kind = RouteKind::Unusual,
            _ => {}
        }
    }
    match table {
        RT_TABLE_MAIN => Some(row),
        // The rule of this table comes after main's, whatever the prefix: that order the rows cannot say.
        RT_TABLE_DEFAULT => Some(RouteRow { kind: RouteKind::Unusual, ..row }),
        _ => None,
    }
}

/// RTAX_MTU among the metrics; 0 if there is none.
fn mtu_of(metrics: &[u8]) -> u16 {
    let found = attributes(metrics).find(|(kind, _)| *kind == RTAX_MTU);
    found.and_then(|(_, value)| u32_at(value, 0)).map_or(0, |mtu| mtu.min(u32::from(u16::MAX)) as u16)
}

/// A neighbour (struct ndmsg).
pub(super) fn neighbour(message: &Message<'_>) -> Option<Neighbour> {
    if !is_ip(u8_at(message.body, 0)?) {
        return None;
    }
    let (mut addr, mut mac) = (None, None);
    for (kind, value) in message.attributes(12) {
        match kind {
            NDA_DST => addr = address_of(value),
            NDA_LLADDR => mac = value.try_into().ok().map(MacAddr),
            _ => {}
        }
    }
    let number = u16_at(message.body, 8)?;
    let state = if number & (NUD_REACHABLE | NUD_PERMANENT | NUD_NOARP) != 0 {
        NeighbourState::Reachable
    } else if number & (NUD_STALE | NUD_DELAY | NUD_PROBE) != 0 {
        NeighbourState::Stale
    } else if number & NUD_INCOMPLETE != 0 {
        NeighbourState::Incomplete
    } else if number & NUD_FAILED != 0 {
        NeighbourState::Failed
    } else {
        NeighbourState::None
    };
    // The kernel lists groups of IPv6 as well, and what is on the loopback device.
    let addr = addr.filter(|addr| addr.is_unicast());
    let usable = matches!(state, NeighbourState::Reachable | NeighbourState::Stale);
    Some(Neighbour {
        ifindex: u32_at(message.body, 4)?,
        addr: addr?,
        mac: mac.filter(|_| usable).unwrap_or_default(),
        state: if usable && mac.is_none() { NeighbourState::None } else { state },
    })
}

/// Is this one of the rules (three of IPv4, two of IPv6) that every namespace starts with (struct fib_rule_hdr)? Anything about it that they
/// do not have makes it another.
pub(super) fn is_first_rule(message: &Message<'_>) -> bool {
    let header = |at| u8_at(message.body, at).unwrap_or(u8::MAX);
    let (mut priority, mut table) = (0, u32::from(header(4)));
    let mut plain = header(1) == 0 && header(2) == 0 && header(3) == 0 && header(7) == FR_ACT_TO_TBL;
    for (kind, value) in message.attributes(12) {
        match kind {
            FRA_PRIORITY => priority = u32_at(value, 0).unwrap_or(u32::MAX),
            FRA_TABLE => table = u32_at(value, 0).unwrap_or(0),
            // Suppression (-1: none) and the rule's origin are in every rule.
            FRA_SUPPRESS_PREFIX_LENGTH => plain &= u32_at(value, 0) == Some(u32::MAX),
            FRA_PROTOCOL => {}
            _ => plain = false,
        }
    }
    let first = [(0, RT_TABLE_LOCAL), (32_766, RT_TABLE_MAIN), (32_767, RT_TABLE_DEFAULT)];
    plain && first.contains(&(priority, table))
}
