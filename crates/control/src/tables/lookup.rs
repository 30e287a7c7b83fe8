//! What readers ask: where does a packet to this address leave, and to which Ethernet address.
//!
//! Follows what Linux does for a namespace without routing rules: local addresses first, then the longest prefix with the smallest metric.
//! Whatever is beyond that answers [`RouteAnswer::Unknown`].

use super::layout::{self, FLAGS, Section, flags, load};
use super::rows::{self, Address, Link, LinkKind, Neighbour, NeighbourState, RouteKind, RouteRow, Scope};
use super::{Tables, seqlock};
use base::{IpAddress, MacAddr};

/// Where packets to a destination leave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Route {
    /// Device out.
    pub ifindex: u32,
    /// Source address, unless the caller is bound to one.
    pub source: IpAddress,
    /// Whom to send to on the link: the gateway or the destination itself.
    pub next_hop: IpAddress,
    /// Largest IP packet, bytes.
    pub mtu: u32,
}

/// Answer of [`Tables::route_to`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RouteAnswer {
    /// Over a device.
    Via(Route),
    /// No route: ENETUNREACH, or EHOSTUNREACH from a route of that type.
    Unreachable,
    /// One of this host's own addresses, on the device given: the kernel's loopback carries it.
    Local(u32),
    /// 127.0.0.0/8, ::1, or out of the loopback device.
    LoopbackOnly,
    /// The tables cannot tell; leave the socket to the kernel.
    Unknown(Unknown),
}

/// Why the tables cannot tell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unknown {
    /// More links, addresses or routes than the tables hold.
    Overflow,
    /// The namespace has routing rules.
    PolicyRules,
    /// The matching route is of a kind we do not follow.
    UnusualRoute,
    /// The keeper does not finish a write: it is dead.
    KeeperGone,
    /// Multicast or broadcast destination.
    NotMirrored,
    /// No route by the bound device, or no source address: Linux has rules of its own for that.
    NoSource,
}

impl Unknown {
    /// The reason as `explain` prints it.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Overflow => "more links, addresses or routes than the mirrored tables hold",
            Self::PolicyRules => "the network namespace has policy routing rules",
            Self::UnusualRoute => "the route has several next hops, an encapsulation or a special type",
            Self::KeeperGone => "the keeper is gone",
            Self::NotMirrored => "the destination is multicast or broadcast",
            Self::NoSource => "no source address or no route on the bound device",
        }
    }
}

/// Answer of [`Tables::neighbour_entry`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NeighbourEntry {
    /// Resolved. `fresh` is false when the kernel would confirm it on use: ask the keeper to resolve, and send meanwhile.
    Known {
        /// Ethernet address.
        mac: MacAddr,
        /// Confirmed lately.
        fresh: bool,
    },
    /// The kernel is asking.
    Pending,
    /// The neighbour does not answer.
    Failed,
    /// The kernel has no entry: ask the keeper to resolve.
    Absent,
}

impl Tables {
    /// Where a packet to `dst` leaves. `bound_source` ([`IpAddress::ANY`]: none) and `bound_device` (0: none) are what the
    /// socket is bound to; the answer's source is `bound_source` if there is one.
    #[must_use]
    pub fn route_to(&self, dst: IpAddress, bound_source: IpAddress, bound_device: u32) -> RouteAnswer {
        let gone = RouteAnswer::Unknown(Unknown::KeeperGone);
        seqlock::read(self.words, || self.find_route(dst, bound_source, bound_device)).unwrap_or(gone)
    }

    /// The device that carries `addr`, if it is one of this host's.
    #[must_use]
    pub fn is_local(&self, addr: IpAddress) -> Option<u32> {
        seqlock::read(self.words, || self.local_device(addr)).flatten()
    }

    /// Ethernet address of `addr` on device `ifindex`, if known and usable.
    #[must_use]
    pub fn neighbour(&self, ifindex: u32, addr: IpAddress) -> Option<MacAddr> {
        match self.neighbour_entry(ifindex, addr) {
            NeighbourEntry::Known { mac, fresh: _ } => Some(mac),
            NeighbourEntry::Pending | NeighbourEntry::Failed | NeighbourEntry::Absent => None,
        }
    }

    /// What the kernel knows of `addr` on device `ifindex`.
    #[must_use]
    pub fn neighbour_entry(&self, ifindex: u32, addr: IpAddress) -> NeighbourEntry {
        let Some(Some(found)) = seqlock::read(self.words, || self.find_neighbour(ifindex, addr)) else {
            return NeighbourEntry::Absent;
        };
        match found.state {
            NeighbourState::Reachable => NeighbourEntry::Known { mac: found.mac, fresh: true },
            NeighbourState::Stale => NeighbourEntry::Known { mac: found.mac, fresh: false },
            NeighbourState::Incomplete => NeighbourEntry::Pending,
            NeighbourState::Failed => NeighbourEntry::Failed,
            NeighbourState::None => NeighbourEntry::Absent,
        }
    }

    /// The link numbered `ifindex`.
    #[must_use]
    pub fn link(&self, ifindex: u32) -> Option<Link> {
        seqlock::read(self.words, || self.find_link(ifindex)).flatten()
    }

    fn find_link(&self, ifindex: u32) -> Option<Link> {
        layout::rows(self.words, Section::Links)
            .filter_map(rows::read_link)
            .find(|link| link.ifindex == ifindex)
    }

    fn address_rows(&self) -> impl Iterator<Item = Address> {
        layout::rows(self.words, Section::Addresses).filter_map(rows::read_address)
    }

    fn local_device(&self, addr: IpAddress) -> Option<u32> {
        self.address_rows().find(|row| row.addr == addr).map(|row| row.ifindex)
    }

    fn find_neighbour(&self, ifindex: u32, addr: IpAddress) -> Option<Neighbour> {
        let count = layout::rows(self.words, Section::Neighbours).len();
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low.midpoint(high);
            let row = layout::all_rows(self.words, Section::Neighbours)
                .nth(middle)
                .and_then(rows::read_neighbour)?;
            match (row.ifindex, row.addr.0).cmp(&(ifindex, addr.0)) {
                std::cmp::Ordering::Equal => return Some(row),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    fn find_route(&self, dst: IpAddress, bound_source: IpAddress, bound_device: u32) -> RouteAnswer {
        let state = load(self.words, FLAGS);
        // A full neighbour table only costs resolutions; the other three would give wrong routes.
        if state & flags::OVERFLOW & !(1 << Section::Neighbours.number()) != 0 {
            return RouteAnswer::Unknown(Unknown::Overflow);
        }
        let policy = if dst.is_v4() { flags::POLICY_RULES } else { flags::POLICY_RULES_V6 };
        if state & policy != 0 {
            return RouteAnswer::Unknown(Unknown::PolicyRules);
        }
        let v4 = dst.as_v4();
        if v4.map_or(dst.as_v6().is_loopback(), |v4| v4.is_loopback()) {
            return RouteAnswer::LoopbackOnly;
        }
        if !dst.is_unicast() || v4.is_some_and(|v4| self.is_subnet_broadcast(u32::from(v4))) {
            return RouteAnswer::Unknown(Unknown::NotMirrored);
        }
        // Every link has the network of link-local addresses: without a device they name nobody (RFC 4007 6).
        if bound_device == 0 && dst.as_v6().is_unicast_link_local() {
            return RouteAnswer::Unknown(Unknown::NoSource);
        }
        if let Some(ifindex) = self.local_device(dst) {
            return RouteAnswer::Local(ifindex);
        }
        let found = layout::rows(self.words, Section::Routes)
            .filter_map(rows::read_route)
            .find(|row| covers(row, dst) && (bound_device == 0 || row.oif == bound_device));
        match found {
            None if bound_device != 0 => RouteAnswer::Unknown(Unknown::NoSource),
            None => RouteAnswer::Unreachable,
            Some(row) => self.follow(&row, dst, bound_source),
        }
    }

    /// Is `dst` the broadcast address of a subnet of ours? RFC 922 7; /31 and /32 have none (RFC 3021 2.1).
    fn is_subnet_broadcast(&self, dst: u32) -> bool {
        self.address_rows().any(|row| {
            let hosts = u32::MAX.checked_shr(u32::from(row.prefix)).unwrap_or(0);
            row.prefix < 31 && row.addr.as_v4().is_some_and(|own| u32::from(own) | hosts == dst)
        })
    }

    fn follow(&self, row: &RouteRow, dst: IpAddress, bound_source: IpAddress) -> RouteAnswer {
        match row.kind {
            RouteKind::Unusual => return RouteAnswer::Unknown(Unknown::UnusualRoute),
            RouteKind::Unreachable => return RouteAnswer::Unreachable,
            RouteKind::Unicast => {}
        }
        let Some(link) = self.find_link(row.oif) else {
            return RouteAnswer::Unknown(Unknown::UnusualRoute);
        };
        if link.kind == LinkKind::Loopback {
            return RouteAnswer::LoopbackOnly;
        }
        let next_hop = if row.gateway.is_any() { dst } else { row.gateway };
        let source = match (bound_source.is_any(), row.prefsrc.is_any()) {
            (false, _) => Some(bound_source),
            (true, false) => Some(row.prefsrc),
            (true, true) if dst.is_v4() => self.source_on(row, next_hop),
            (true, true) => self.source_v6(row.oif, dst),
        };
        let Some(source) = source else {
            return RouteAnswer::Unknown(Unknown::NoSource);
        };
        let mtu = if row.mtu == 0 { link.mtu } else { link.mtu.min(u32::from(row.mtu)) };
        RouteAnswer::Via(Route { ifindex: row.oif, source, next_hop, mtu })
    }

    /// The kernel's choice of a source (inet_select_addr): the first primary address of the device whose subnet holds the gateway,
    /// else its first primary address that is valid as far as the route goes, else one of another device, but none of link scope.
    fn source_on(&self, row: &RouteRow, next_hop: IpAddress) -> Option<IpAddress> {
        let scope = if row.scope == Scope::Nowhere { Scope::Link } else { row.scope };
        let usable = |a: &Address| !a.secondary && a.addr.as_v4().is_some() && a.scope <= scope;
        let here = || self.address_rows().filter(|a| usable(a) && a.ifindex == row.oif);
        let near = here().find(|a| !row.gateway.is_any() && in_subnet(a.addr, a.prefix, next_hop));
        let elsewhere = || self.address_rows().find(|a| usable(a) && a.scope != Scope::Link);
        near.or_else(|| here().next()).or_else(elsewhere).map(|a| a.addr)
    }

    /// The source of an IPv6 packet by device `oif` (RFC 6724 5): of the scope of `dst` (rule 2), of the device (rule 5), with the longest
    /// prefix in common (rule 8). Deprecated addresses (rule 3) and temporary ones (rule 7, as Linux has it by default) are not taken; labels
    /// (rule 6) are left out, and are mostly what rule 8 gives too.
    fn source_v6(&self, oif: u32, dst: IpAddress) -> Option<IpAddress> {
        let near = dst.as_v6().is_unicast_link_local();
        let fits = |a: &Address| {
            let link_local = a.addr.as_v6().is_unicast_link_local();
            !a.addr.is_v4() && !a.secondary && a.scope != Scope::Host && link_local == near
        };
        let usable = self.address_rows().filter(|a| fits(a) && (a.ifindex == oif || !near));
        let common = |a: &Address| (differing(a.addr, dst).leading_zeros()).min(u32::from(a.prefix));
        // Of equals the first: `max_by_key` would give the last.
        let best = usable.reduce(|best, a| {
            let better = (a.ifindex == oif, common(&a)) > (best.ifindex == oif, common(&best));
            if better { a } else { best }
        });
        best.map(|a| a.addr)
    }
}

/// Does the network of `net`, with `prefix` bits of its own family, hold `addr`?
fn in_subnet(net: IpAddress, prefix: u8, addr: IpAddress) -> bool {
    let family_bits = if net.is_v4() { 96 } else { 0 };
    let outside = u128::MAX.checked_shr(family_bits + u32::from(prefix)).unwrap_or(0);
    net.is_v4() == addr.is_v4() && differing(net, addr) & !outside == 0
}

fn differing(a: IpAddress, b: IpAddress) -> u128 {
    u128::from_be_bytes(a.0) ^ u128::from_be_bytes(b.0)
}

/// Does the route's destination network hold `addr`?
fn covers(row: &RouteRow, addr: IpAddress) -> bool {
    if row.prefix == 0 && row.dst.is_wild() {
        return row.dst.is_any() == addr.is_v4();
    }
    in_subnet(row.dst, row.prefix, addr)
}
