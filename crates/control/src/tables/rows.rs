//! The four kinds of rows, and their packing into words.

use super::layout::{load, store};
use base::{IpAddress, MacAddr};
use std::sync::atomic::AtomicU64;

/// What a link is, as far as ports care (IFLA_INFO_KIND, link type and flags).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum LinkKind {
    /// Anything not named below.
    #[default]
    Other,
    /// Ethernet hardware (no IFLA_INFO_KIND); virtio counts as hardware.
    Ethernet,
    /// One end of a veth pair.
    Veth,
    /// A TUN or TAP device.
    Tun,
    /// The loopback device.
    Loopback,
    /// A bridge.
    Bridge,
    /// VLAN, macvlan, ipvlan: a device on top of another.
    Upper,
    /// A dummy device.
    Dummy,
}

/// One network device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Link {
    /// Interface index, from 1.
    pub ifindex: u32,
    /// Name, padded with zeros.
    pub name: [u8; 16],
    /// Ethernet address; zero on devices without.
    pub mac: MacAddr,
    /// MTU in bytes, without the link header.
    pub mtu: u32,
    /// The administrator switched it on (IFF_UP).
    pub up: bool,
    /// It can carry packets (IFF_RUNNING: carrier and not dormant).
    pub running: bool,
    /// What it is.
    pub kind: LinkKind,
    /// Interface index of the bridge, bond or VRF it is enslaved to; 0: none.
    pub master: u32,
    /// Receive queues.
    pub rx_queues: u16,
    /// Transmit queues.
    pub tx_queues: u16,
}

impl Link {
    /// The name as text; empty if the kernel gave something that is not UTF-8.
    #[must_use]
    pub fn name(&self) -> &str {
        let len = self.name.iter().position(|&byte| byte == 0).unwrap_or(self.name.len());
        self.name.get(..len).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or("")
    }

    /// Up and running.
    #[must_use]
    pub const fn is_usable(&self) -> bool {
        self.up && self.running
    }
}

/// Scope of an address or route (rt_scope_t), narrowing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub enum Scope {
    /// Valid everywhere, including site and user-defined scopes.
    #[default]
    Global,
    /// Valid on its link.
    Link,
    /// Valid on this host.
    Host,
    /// No such destination.
    Nowhere,
}

/// One local address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Address {
    /// Device that carries it.
    pub ifindex: u32,
    /// The address.
    pub addr: IpAddress,
    /// Prefix length in bits of its own family (IPv4: 0 to 32).
    pub prefix: u8,
    /// Its scope.
    pub scope: Scope,
    /// Not the first of its subnet (IFA_F_SECONDARY); of IPv6 temporary or deprecated: never chosen as a source by itself.
    pub secondary: bool,
}

/// What a route does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum RouteKind {
    /// To a gateway or a link.
    #[default]
    Unicast,
    /// Says "unreachable" (type unreachable).
    Unreachable,
    /// Something we do not follow: several next hops, blackhole, prohibit, throw, encapsulation, gateway of another family, type of service.
    Unusual,
}

/// One route of the main table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RouteRow {
    /// Destination network. Of a default route, with prefix 0: [`IpAddress::ANY`] for IPv4, [`IpAddress::ANY_V6`] for IPv6.
    pub dst: IpAddress,
    /// Bits of `dst` that count, in its own family.
    pub prefix: u8,
    /// Next hop; [`IpAddress::ANY`]: the destination is on the link.
    pub gateway: IpAddress,
    /// Device out.
    pub oif: u32,
    /// Preferred source; [`IpAddress::ANY`]: by the device.
    pub prefsrc: IpAddress,
    /// Smaller wins among equal prefixes.
    pub metric: u32,
    /// MTU of the route, bytes; 0: the device's.
    pub mtu: u16,
    /// What it does.
    pub kind: RouteKind,
    /// Scope of the destination.
    pub scope: Scope,
}

/// State of a neighbour entry (NUD_*).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
pub enum NeighbourState {
    /// Nothing known.
    #[default]
    None,
    /// Being asked for.
    Incomplete,
    /// Confirmed lately, permanent, or needing no confirmation.
    Reachable,
    /// Usable, to be confirmed (stale, delay, probe).
    Stale,
    /// Did not answer.
    Failed,
}

/// One neighbour: an address on a link and its Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Neighbour {
    /// Device it is on.
    pub ifindex: u32,
    /// Its IP address.
    pub addr: IpAddress,
    /// Its Ethernet address; zero unless `state` is Reachable or Stale.
    pub mac: MacAddr,
    /// What the kernel knows about it.
    pub state: NeighbourState,
}

fn pack16(row: &[AtomicU64], at: usize, bytes: [u8; 16]) {
    let value = u128::from_le_bytes(bytes);
    store(row, at, value as u64);
    store(row, at + 1, (value >> 64) as u64);
}

fn unpack16(row: &[AtomicU64], at: usize) -> [u8; 16] {
    (u128::from(load(row, at)) | u128::from(load(row, at + 1)) << 64).to_le_bytes()
}

fn mac_word(mac: MacAddr) -> u64 {
    let [a, b, c, d, e, f] = mac.0;
    u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
}

fn word_mac(word: u64) -> MacAddr {
    let [a, b, c, d, e, f, _, _] = word.to_le_bytes();
    MacAddr([a, b, c, d, e, f])
}

impl LinkKind {
    const ALL: [Self; 8] = [
        Self::Other,
        Self::Ethernet,
        Self::Veth,
        Self::Tun,
        Self::Loopback,
        Self::Bridge,
        Self::Upper,
        Self::Dummy,
    ];
}
impl Scope {
    const ALL: [Self; 4] = [Self::Global, Self::Link, Self::Host, Self::Nowhere];
}
impl RouteKind {
    const ALL: [Self; 3] = [Self::Unicast, Self::Unreachable, Self::Unusual];
}
impl NeighbourState {
    const ALL: [Self; 5] = [Self::None, Self::Incomplete, Self::Reachable, Self::Stale, Self::Failed];
}

/// The value numbered by the low byte of `word >> shift`. Out of range only in torn reads, which are thrown away.
fn pick<T: Copy>(all: &[T], word: u64, shift: u32) -> Option<T> {
    all.get(((word >> shift) & 0xff) as usize).copied()
}

/// Words: 0-1 name, 2 mac, 3 ifindex | mtu << 32, 4 kind | up << 8 | running << 9 | rx << 16 | tx << 32, 5 master.
pub(super) fn write_link(row: &[AtomicU64], link: &Link) {
    pack16(row, 0, link.name);
    store(row, 2, mac_word(link.mac));
    store(row, 3, u64::from(link.ifindex) | u64::from(link.mtu) << 32);
    let bits = u64::from(link.up) << 8 | u64::from(link.running) << 9;
    let queues = u64::from(link.rx_queues) << 16 | u64::from(link.tx_queues) << 32;
    store(row, 4, link.kind as u64 | bits | queues);
    store(row, 5, u64::from(link.master));
}

pub(super) fn read_link(row: &[AtomicU64]) -> Option<Link> {
    let (ids, bits) = (load(row, 3), load(row, 4));
    Some(Link {
        ifindex: ids as u32,
        name: unpack16(row, 0),
        mac: word_mac(load(row, 2)),
        mtu: (ids >> 32) as u32,
        up: bits & 0x100 != 0,
        running: bits & 0x200 != 0,
        kind: pick(&LinkKind::ALL, bits, 0)?,
        master: load(row, 5) as u32,
        rx_queues: (bits >> 16) as u16,
        tx_queues: (bits >> 32) as u16,
    })
}

/// Words: 0-1 address, 2 ifindex | prefix << 32 | scope << 40 | secondary << 48.
pub(super) fn write_address(row: &[AtomicU64], address: &Address) {
    pack16(row, 0, address.addr.0);
    let bits =
        u64::from(address.prefix) << 32 | (address.scope as u64) << 40 | u64::from(address.secondary) << 48;
    store(row, 2, u64::from(address.ifindex) | bits);
}

pub(super) fn read_address(row: &[AtomicU64]) -> Option<Address> {
    let bits = load(row, 2);
    Some(Address {
        ifindex: bits as u32,
        addr: IpAddress(unpack16(row, 0)),
        prefix: (bits >> 32) as u8,
        scope: pick(&Scope::ALL, bits, 40)?,
        secondary: bits >> 48 & 1 == 1,
    })
}

/// Words: 0-1 destination, 2-3 gateway, 4-5 preferred source, 6 oif | metric << 32, 7 prefix | kind << 8 | scope << 16 | mtu << 32.
pub(super) fn write_route(row: &[AtomicU64], route: &RouteRow) {
    pack16(row, 0, route.dst.0);
    pack16(row, 2, route.gateway.0);
    pack16(row, 4, route.prefsrc.0);
    store(row, 6, u64::from(route.oif) | u64::from(route.metric) << 32);
    let kinds = (route.kind as u64) << 8 | (route.scope as u64) << 16;
    store(row, 7, u64::from(route.prefix) | kinds | u64::from(route.mtu) << 32);
}

pub(super) fn read_route(row: &[AtomicU64]) -> Option<RouteRow> {
    let (ids, bits) = (load(row, 6), load(row, 7));
    Some(RouteRow {
        dst: IpAddress(unpack16(row, 0)),
        prefix: bits as u8,
        gateway: IpAddress(unpack16(row, 2)),
        oif: ids as u32,
        prefsrc: IpAddress(unpack16(row, 4)),
        metric: (ids >> 32) as u32,
        mtu: (bits >> 32) as u16,
        kind: pick(&RouteKind::ALL, bits, 8)?,
        scope: pick(&Scope::ALL, bits, 16)?,
    })
}

/// Words: 0-1 address, 2 ifindex | state << 32, 3 mac.
pub(super) fn write_neighbour(row: &[AtomicU64], neighbour: &Neighbour) {
    pack16(row, 0, neighbour.addr.0);
    store(row, 2, u64::from(neighbour.ifindex) | (neighbour.state as u64) << 32);
    store(row, 3, mac_word(neighbour.mac));
}

pub(super) fn read_neighbour(row: &[AtomicU64]) -> Option<Neighbour> {
    let bits = load(row, 2);
    Some(Neighbour {
        ifindex: bits as u32,
        addr: IpAddress(unpack16(row, 0)),
        mac: word_mac(load(row, 3)),
        state: pick(&NeighbourState::ALL, bits, 32)?,
    })
}
