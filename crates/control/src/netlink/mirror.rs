//! The mirror: follows the kernel's events and writes the tables.

use super::codec::{self, Request};
use super::{ADDRESS, AF_INET, AF_INET6, Asker, DEL, FAMILIES, LINK, NEIGHBOUR, ROUTE, RULE, parse};
use crate::tables::{Address, Link, Neighbour, NeighbourState, RouteRow, Scope, Tables, TablesWriter};
use base::IpAddress;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use sys::Errno;
use sys::netlink::{BUFFER_BYTES, NetlinkSocket};

/// Multicast groups (RTMGRP_*): links, neighbours, and of each family addresses, routes and rules.
const GROUPS: u32 = 0x1 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18;
/// Room for events, bytes. What does not fit costs a new reading of everything.
const EVENT_BYTES: usize = 1 << 20;
/// Datagrams read by one update; the rest is for the next.
const DATAGRAMS_MAX: usize = 1024;

/// What an update changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// Links.
    pub links: bool,
    /// Addresses: rules for "any address" need a look.
    pub addresses: bool,
    /// Routes or rules.
    pub routes: bool,
    /// Neighbours.
    pub neighbours: bool,
}

impl Changes {
    const ALL: Self = Self { links: true, addresses: true, routes: true, neighbours: true };

    /// Is anything set?
    #[must_use]
    pub fn any(self) -> bool {
        self != Self::default()
    }
}

/// The last rows written, so that an event that changes nothing we keep does not count as a change.
#[derive(Default)]
struct Rows {
    links: Vec<Link>,
    addresses: Vec<Address>,
    routes: Vec<RouteRow>,
    policy_rules: [bool; 2],
    neighbours: BTreeMap<(u32, [u8; 16]), Neighbour>,
}

/// An address that belongs to Corelane alone, on a device whose other side is the kernel (TAP). In the tables it takes the
/// place of what the kernel has on that device, which is the neighbour there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OwnAddress {
    /// The device.
    pub ifindex: u32,
    /// Our address.
    pub addr: IpAddress,
    /// Bits of its network, 1 to 32 or to 128.
    pub prefix: u8,
    /// Router for everything that no other route is for; [`IpAddress::ANY`]: none.
    pub gateway: IpAddress,
}

impl OwnAddress {
    /// Behind every default route of the kernel's.
    const METRIC: u32 = 1 << 20;

    fn address(&self) -> Address {
        Address { ifindex: self.ifindex, addr: self.addr, prefix: self.prefix, ..Address::default() }
    }

    fn routes(&self) -> impl Iterator<Item = RouteRow> {
        let (bits, any) = if self.addr.is_v4() { (96, IpAddress::ANY) } else { (0, IpAddress::ANY_V6) };
        let outside = u128::MAX.checked_shr(bits + u32::from(self.prefix)).unwrap_or(0);
        let dst = IpAddress((u128::from_be_bytes(self.addr.0) & !outside).to_be_bytes());
        let row = RouteRow { oif: self.ifindex, prefsrc: self.addr, ..RouteRow::default() };
        let link = RouteRow { dst, prefix: self.prefix, scope: Scope::Link, ..row };
        let gateway = Some(self.gateway).filter(|gateway| !gateway.is_any());
        let default = gateway.map(|gateway| RouteRow { dst: any, gateway, metric: Self::METRIC, ..row });
        std::iter::once(link).chain(default)
    }
}

/// Follows one network namespace, that of the thread that opens it.
pub struct Mirror {
    events: NetlinkSocket,
    asker: Asker,
    buffer: Vec<u8>,
    writer: TablesWriter,
    rows: Rows,
    own: Vec<OwnAddress>,
    own_links: Vec<Link>,
    stale: Changes,
}

impl Mirror {
    /// Opens the sockets and fills the tables. Needs no privilege.
    ///
    /// # Errors
    /// What the netlink sockets give.
    pub fn open(writer: TablesWriter) -> Result<Self, Errno> {
        // The events come first: what changes while the first dumps are read is then not missed.
        let events = NetlinkSocket::listen(GROUPS)?;
        events.set_receive_buffer(EVENT_BYTES)?;
        let asker = Asker::open()?;
        let buffer = vec![0; BUFFER_BYTES];
        let mut mirror = Self {
            events,
            asker,
            buffer,
            writer,
            rows: Rows::default(),
            own: Vec::new(),
            own_links: Vec::new(),
            stale: Changes::ALL,
        };
        mirror.update()?;
        Ok(mirror)
    }

    /// The reader's view of the tables.
    #[must_use]
    pub fn tables(&self) -> Tables {
        self.writer.reader()
    }

    /// The tables, for what does not come from the kernel.
    pub fn writer(&mut self) -> &mut TablesWriter {
        &mut self.writer
    }

    /// Takes in what the kernel reported, without blocking. Call it when the fd is readable.
    ///
    /// # Errors
    /// What the sockets give; then nothing is lost, the next update reads what was not read.
    pub fn update(&mut self) -> Result<Changes, Errno> {
        let mut changes = Changes { neighbours: self.take_events()?, ..Changes::default() };
        if self.stale.links {
            changes.links = self.read_links()?;
            self.stale.links = false;
            self.stale.neighbours |= changes.links;
        }
        if self.stale.addresses {
            changes.addresses = self.read_addresses()?;
            self.stale.addresses = false;
        }
        if self.stale.routes {
            changes.routes = self.read_routes()?;
            self.stale.routes = false;
        }
        if self.stale.neighbours {
            changes.neighbours |= self.read_neighbours()?;
            self.stale.neighbours = false;
        }
        Ok(changes)
    }

    /// Enters an address of our own; the next update writes it.
    pub fn add_own(&mut self, own: OwnAddress) {
        self.own.push(own);
        self.stale.addresses = true;
        self.stale.routes = true;
    }

    /// Is `addr` one that [`Mirror::add_own`] entered?
    #[must_use]
    pub fn is_own_address(&self, addr: IpAddress) -> bool {
        self.own.iter().any(|own| own.addr == addr)
    }

    /// Enters a device of which the kernel does not know; the next update writes it.
    pub fn add_own_link(&mut self, link: Link) {
        self.own_links.push(link);
        self.stale.links = true;
    }

    /// Gives the kernel an address on device `ifindex`; fine if it has it.
    ///
    /// # Errors
    /// ENODEV, EINVAL for an address that stands for many, EPERM without CAP_NET_ADMIN.
    pub fn add_kernel_address(&mut self, ifindex: u32, addr: IpAddress, prefix: u8) -> Result<(), Errno> {
        const IFA_ADDRESS: u16 = 1;
        const IFA_LOCAL: u16 = 2;
        const IFA_F_NODAD: u8 = 2;
        let octets = Octets::of(addr)?;
        let [a, b, c, d] = ifindex.to_ne_bytes();
        // The other side of the device is ourselves: nobody else can have the address.
        let flags = if addr.is_v4() { 0 } else { IFA_F_NODAD };
        let request = Request::new(ADDRESS, codec::REQUEST | codec::ACK | codec::CREATE);
        let request = request.put(&[octets.family, prefix, flags, 0, a, b, c, d]);
        let request = request.attribute(IFA_LOCAL, octets.bytes()).attribute(IFA_ADDRESS, octets.bytes());
        match self.asker.ask(request, |_| {}) {
            Ok(_) | Err(Errno::EXIST) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    fn is_own(&self, ifindex: u32) -> bool {
        self.own.iter().any(|own| own.ifindex == ifindex)
    }

    /// Asks the kernel to resolve `addr` on device `ifindex`, or to confirm what it has. The answer shows up in the tables.
    ///
    /// # Errors
    /// ENODEV, EINVAL for an address the kernel does not resolve there, EPERM without CAP_NET_ADMIN.
    pub fn resolve(&mut self, ifindex: u32, addr: IpAddress) -> Result<(), Errno> {
        const NTF_USE: u8 = 1;
        const NDA_DST: u16 = 1;
        let octets = Octets::of(addr)?;
        let [a, b, c, d] = ifindex.to_ne_bytes();
        let neighbour = [octets.family, 0, 0, 0, a, b, c, d, 0, 0, NTF_USE, 0];
        let request = Request::new(NEIGHBOUR, codec::REQUEST | codec::ACK | codec::CREATE);
        self.asker.ask(request.put(&neighbour).attribute(NDA_DST, octets.bytes()), |_| {}).map(drop)
    }

    /// Takes in the waiting events. True: a neighbour changed.
    fn take_events(&mut self) -> Result<bool, Errno> {
        let mut changed = false;
        let outcome = self.note_events(&mut changed);
        if changed {
            self.write_neighbours();
        }
        outcome.map(|()| changed)
    }

    fn note_events(&mut self, changed: &mut bool) -> Result<(), Errno> {
        for _ in 0..DATAGRAMS_MAX {
            match self.events.receive(&mut self.buffer) {
                Ok(bytes) => {
                    for message in codec::messages(bytes) {
                        *changed |= note(&mut self.stale, &mut self.rows, &message);
                    }
                }
                Err(Errno::AGAIN) => break,
                // The kernel dropped events, or one was longer than any we know: read everything.
                Err(Errno::NOBUFS | Errno::MSGSIZE) => self.stale = Changes::ALL,
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    fn write_neighbours(&mut self) {
        self.writer.set_neighbours(self.rows.neighbours.values().copied().collect());
    }

    fn read_links(&mut self) -> Result<bool, Errno> {
        let mut links = self.asker.dump(LINK, 0, parse::link)?;
        links.extend(self.own_links.iter().copied());
        let changed = links != self.rows.links;
        if changed {
            self.writer.set_links(links.clone());
            self.rows.links = links;
        }
        Ok(changed)
    }

    fn read_addresses(&mut self) -> Result<bool, Errno> {
        let mut addresses = self.dump_both(ADDRESS, parse::address)?;
        addresses.retain(|row| !self.is_own(row.ifindex));
        addresses.extend(self.own.iter().map(OwnAddress::address));
        let changed = addresses != self.rows.addresses;
        if changed {
            self.writer.set_addresses(&addresses);
            self.rows.addresses = addresses;
        }
        Ok(changed)
    }

    fn read_routes(&mut self) -> Result<bool, Errno> {
        let mut policy_rules = [false; 2];
        for (family, present) in FAMILIES.into_iter().zip(&mut policy_rules) {
            let rules = self.asker.dump(RULE, family, |rule| Some(parse::is_first_rule(rule)));
            *present = without_family(family, rules)?.contains(&false);
        }
        let mut routes = self.dump_both(ROUTE, parse::route)?;
        routes.retain(|row| !self.is_own(row.oif));
        routes.extend(self.own.iter().flat_map(OwnAddress::routes));
        let changed = (policy_rules, &routes) != (self.rows.policy_rules, &self.rows.routes);
        if changed {
            self.writer.set_policy_rules(policy_rules);
            self.writer.set_routes(routes.clone());
            (self.rows.policy_rules, self.rows.routes) = (policy_rules, routes);
        }
        Ok(changed)
    }

    /// Everything of `kind` of both families.
    fn dump_both<T>(
        &mut self,
        kind: u16,
        parse: impl Fn(&codec::Message<'_>) -> Option<T>,
    ) -> Result<Vec<T>, Errno> {
        let mut rows = Vec::new();
        for family in FAMILIES {
            rows.extend(without_family(family, self.asker.dump(kind, family, &parse))?);
        }
        Ok(rows)
    }

    fn read_neighbours(&mut self) -> Result<bool, Errno> {
        let rows = self.dump_both(NEIGHBOUR, parse::neighbour)?;
        let rows = rows.into_iter().filter(is_known).map(|row| (key(&row), row)).collect();
        let changed = rows != self.rows.neighbours;
        if changed {
            self.rows.neighbours = rows;
            self.write_neighbours();
        }
        Ok(changed)
    }
}

impl AsFd for Mirror {
    /// Readable when there is something for [`Mirror::update`].
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }
}

/// An address as netlink has it.
struct Octets {
    family: u8,
    all: [u8; 16],
}

impl Octets {
    fn of(addr: IpAddress) -> Result<Self, Errno> {
        let family = if addr.is_v4() { AF_INET } else { AF_INET6 };
        if addr.is_wild() { Err(Errno::INVAL) } else { Ok(Self { family, all: addr.0 }) }
    }

    fn bytes(&self) -> &[u8] {
        // The mapped form ends with the address.
        let from = if self.family == AF_INET { 12 } else { 0 };
        self.all.get(from..).unwrap_or(&self.all)
    }
}

/// A kernel may be without IPv6; then it has nothing of it.
fn without_family<T>(family: u8, rows: Result<Vec<T>, Errno>) -> Result<Vec<T>, Errno> {
    match rows {
        Err(Errno::OPNOTSUPP | Errno::AFNOSUPPORT) if family == AF_INET6 => Ok(Vec::new()),
        other => other,
    }
}

fn key(row: &Neighbour) -> (u32, [u8; 16]) {
    (row.ifindex, row.addr.0)
}

fn is_known(row: &Neighbour) -> bool {
    row.state != NeighbourState::None
}

/// Marks what `message` makes stale, and follows neighbours. True: a neighbour changed.
fn note(stale: &mut Changes, rows: &mut Rows, message: &codec::Message<'_>) -> bool {
    match message.kind & !3 {
        LINK => {
            stale.links = true;
            // Routes that go with their link go without an event.
            stale.routes = true;
        }
        ADDRESS => {
            stale.addresses = true;
            stale.routes = true;
        }
        ROUTE | RULE => stale.routes = true,
        NEIGHBOUR => return note_neighbour(rows, message),
        _ => {}
    }
    false
}

fn note_neighbour(rows: &mut Rows, message: &codec::Message<'_>) -> bool {
    let Some(row) = parse::neighbour(message) else {
        return false;
    };
    if message.kind == NEIGHBOUR + DEL || !is_known(&row) {
        return rows.neighbours.remove(&key(&row)).is_some();
    }
    rows.neighbours.insert(key(&row), row) != Some(row)
}
