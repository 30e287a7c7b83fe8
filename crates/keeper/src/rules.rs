//! Which lane gets which packets: the keeper's own book, checked against kernel sockets, and what it means on the wire.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use base::{IpAddress, Port};
use control::proto::{Proto, Rule};
use control::steer::SteerLane;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};
use sys::fds::Fd;

use crate::client::Refusal;

/// Ports of one session's rules; each holds a descriptor.
const RULES_MAX: usize = 65_536;

/// A lane, numbered over all regions of the session: the number that the steering maps know.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub(crate) struct Slot(pub(crate) u16);

/// The lane of `slot`, as the steering knows it.
pub(crate) fn steer_lane(slot: Slot) -> Result<SteerLane, Refusal> {
    let lane = u8::try_from(slot.0).ok().and_then(SteerLane::new);
    lane.ok_or_else(|| Refusal::new(Errno::NOBUFS, "the session has as many lanes as it can"))
}

/// A local end, or the first of a block of ports.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct End {
    proto: u8,
    addr: [u8; 16],
    port: u16,
    block: bool,
}

impl End {
    pub(crate) fn of(rule: &Rule) -> Self {
        Self { proto: rule.proto as u8, addr: rule.addr.0, port: rule.port.0, block: false }
    }

    /// The block that begins with the port of `rule`.
    pub(crate) fn block_of(rule: &Rule) -> Self {
        Self { block: true, ..Self::of(rule) }
    }

    /// Is it a block of ports?
    pub(crate) fn is_block(self) -> bool {
        self.block
    }

    pub(crate) fn proto(self) -> Option<Proto> {
        Proto::from_number(self.proto)
    }

    pub(crate) fn addr(self) -> IpAddress {
        IpAddress(self.addr)
    }

    pub(crate) fn port(self) -> Port {
        Port(self.port)
    }

    fn at(self, addr: IpAddress) -> Self {
        Self { addr: addr.0, ..self }
    }
}

/// What keeps one end with one lane.
struct Hold {
    slot: Slot,
    /// New connections come in here; else it is the port of a connection that goes out.
    listens: bool,
    /// Others may listen at the same end (SO_REUSEPORT).
    shares: bool,
    /// The kernel sockets that keep the ports taken.
    sockets: Vec<Fd>,
}

impl Hold {
    fn inode(&self) -> u64 {
        self.sockets.first().map_or(0, inode_of)
    }
}

/// The inode number of a kernel socket (stat(2)).
pub(crate) fn inode_of(socket: &Fd) -> u64 {
    rustix::fs::fstat(socket).map_or(0, |stat| stat.st_ino)
}

/// The rules of a session.
#[derive(Default)]
pub(crate) struct RuleBook {
    holds: BTreeMap<End, Vec<Hold>>,
    /// Local addresses of the devices.
    addresses: BTreeSet<[u8; 16]>,
    /// Ends of listeners where programs outside Corelane listen, too: what is new there is the kernel's.
    strangers: BTreeSet<End>,
    count: usize,
    /// Listeners whose ends others may have, too.
    shared: usize,
}

/// A change for the steering maps: packets to `end` go to these lanes (none: to the kernel), one that is there twice gets two shares.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) end: End,
    pub(crate) slots: Vec<Slot>,
    /// Only connections that come in: the kernel may have others here.
    pub(crate) listens: bool,
}

impl RuleBook {
    /// Adds a rule; `sockets` are the kernel sockets bound to its end, one for each port. Gives what changes in the maps.
    pub(crate) fn add(
        &mut self,
        end: End,
        slot: Slot,
        listens: bool,
        sockets: Vec<Fd>,
    ) -> Result<Vec<Change>, Refusal> {
        if self.count + sockets.len() > RULES_MAX {
            return Err(Refusal::new(Errno::NOBUFS, "the session has as many rules as it can"));
        }
        let reuses = |socket: &Fd| rustix::net::sockopt::socket_reuseport(socket).unwrap_or(false);
        let shares = listens && sockets.first().is_some_and(reuses);
        let new = Hold { slot, listens, shares, sockets };
        let holds = self.holds.entry(end).or_default();
        // Several listeners of one process at one end (SO_REUSEPORT), each with a kernel socket of its own.
        let beside = |h: &Hold| new.listens && h.listens && h.inode() != new.inode();
        if holds.iter().any(|h| h.slot == slot && !beside(h)) {
            return Err(Refusal::new(Errno::ADDRINUSE, "the lane has this port already"));
        }
        self.count += new.sockets.len();
        self.shared += usize::from(shares);
        holds.push(new);
        Ok(self.changes(end))
    }

    /// Takes a rule back, that of the kernel socket with this inode number, or 0. `None`: there is none.
    pub(crate) fn remove(&mut self, end: End, slot: Slot, inode: u64) -> Option<Vec<Change>> {
        self.remove_one(end, |hold| hold.slot == slot && (inode == 0 || hold.inode() == inode))
    }

    fn remove_one(&mut self, end: End, which: impl Fn(&Hold) -> bool) -> Option<Vec<Change>> {
        let holds = self.holds.get_mut(&end)?;
        let at = holds.iter().position(which)?;
        let gone = holds.swap_remove(at);
        if holds.is_empty() {
            self.holds.remove(&end);
        }
        self.count -= gone.sockets.len();
        self.shared -= usize::from(gone.shares);
        Some(self.changes(end))
    }

    /// Takes back every rule of a lane.
    pub(crate) fn remove_all(&mut self, slot: Slot) -> Vec<Change> {
        self.remove_those(slot, |_| true)
    }

    /// Takes back the rules by which new connections come to a lane. Those it has are remembered by the programs; a
    /// connection that went out is not, and keeps its rule.
    pub(crate) fn remove_listeners(&mut self, slot: Slot) -> Vec<Change> {
        self.remove_those(slot, |hold| hold.listens)
    }

    fn remove_those(&mut self, slot: Slot, which: impl Fn(&Hold) -> bool) -> Vec<Change> {
        let wanted = |hold: &Hold| hold.slot == slot && which(hold);
        let all = self.holds.iter().flat_map(|(&end, holds)| holds.iter().map(move |hold| (end, hold)));
        let ends: Vec<End> = all.filter(|(_, hold)| wanted(hold)).map(|(end, _)| end).collect();
        ends.into_iter().filter_map(|end| self.remove_one(end, wanted)).flatten().collect()
    }

    /// The devices' addresses are now these: what changes for rules on any address.
    pub(crate) fn set_addresses(&mut self, addresses: impl IntoIterator<Item = IpAddress>) -> Vec<Change> {
        let new: BTreeSet<[u8; 16]> = addresses.into_iter().map(|a| a.0).collect();
        let old = std::mem::replace(&mut self.addresses, new);
        let touched: Vec<IpAddress> =
            old.symmetric_difference(&self.addresses).map(|&addr| IpAddress(addr)).collect();
        let wild: Vec<End> = self.holds.keys().copied().filter(|end| end.addr().is_wild()).collect();
        wild.iter()
            .flat_map(|&end| {
                let covered = touched.iter().filter(move |&&addr| end.addr().covers(addr));
                covered.map(move |&addr| end.at(addr))
            })
            .map(|end| self.change(end))
            .collect()
    }

    /// Are there ends where lanes listen and others may (SO_REUSEPORT), or did?
    pub(crate) fn shares(&self) -> bool {
        self.shared != 0 || !self.strangers.is_empty()
    }

    /// Those ends.
    pub(crate) fn shared_ends(&self) -> BTreeSet<End> {
        let shares = |holds: &Vec<Hold>| holds.iter().any(|hold| hold.shares);
        self.holds.iter().filter(|(_, holds)| shares(holds)).map(|(&end, _)| end).collect()
    }

    /// The inode numbers of the kernel's listeners beside lanes'.
    pub(crate) fn inodes(&self) -> BTreeSet<u64> {
        self.holds.values().flatten().filter(|hold| hold.listens).map(Hold::inode).collect()
    }

    /// Programs outside Corelane listen at these ends, too. Gives what changes in the maps, and which ends it is about: true, they do now.
    pub(crate) fn set_strangers(&mut self, ends: BTreeSet<End>) -> (Vec<Change>, Vec<(End, bool)>) {
        let old = std::mem::replace(&mut self.strangers, ends);
        let touched: Vec<End> = old.symmetric_difference(&self.strangers).copied().collect();
        let changes = touched.iter().flat_map(|&end| self.changes(end)).collect();
        (changes, touched.into_iter().map(|end| (end, self.strangers.contains(&end))).collect())
    }

    /// Are there programs outside Corelane that listen at `end`, too?
    pub(crate) fn has_strangers(&self, end: End) -> bool {
        self.strangers.contains(&end)
    }

    /// Number of ports that rules hold.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// The ends a lane has.
    pub(crate) fn ends_of(&self, slot: Slot) -> impl Iterator<Item = End> {
        self.holds.iter().filter(move |(_, h)| h.iter().any(|h| h.slot == slot)).map(|(&end, _)| end)
    }

    /// The blocks of ports that lanes have, with the kernel sockets that keep them taken.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = (End, Slot, &[Fd])> {
        let blocks = self.holds.iter().filter(|(end, _)| end.is_block());
        blocks
            .flat_map(|(&end, holds)| holds.iter().map(move |hold| (end, hold.slot, hold.sockets.as_slice())))
    }

    /// The lanes with a listener at exactly `end`, if connections are theirs.
    pub(crate) fn listeners_at(&self, end: End) -> BTreeSet<Slot> {
        let holds = self.holds.get(&end).filter(|_| !self.has_strangers(end));
        let holds = holds.map(Vec::as_slice).unwrap_or_default();
        holds.iter().filter(|h| h.listens).map(|h| h.slot).collect()
    }

    /// Every listener that connections are for.
    pub(crate) fn listeners(&self) -> impl Iterator<Item = (End, Slot)> {
        let listening = |(&end, holds): (&End, &Vec<Hold>)| {
            let slots: Vec<Slot> = holds.iter().filter(|h| h.listens).map(|h| h.slot).collect();
            slots.into_iter().map(move |slot| (end, slot))
        };
        self.holds.iter().filter(|(end, _)| !self.has_strangers(**end)).flat_map(listening)
    }

    /// The lanes that listen on a kernel socket that `is` the one meant.
    pub(crate) fn listeners_on(&self, is: impl Fn(&Fd) -> bool) -> Vec<Slot> {
        let holds = self.holds.values().flatten().filter(|hold| hold.listens);
        holds.filter(|hold| hold.sockets.iter().any(&is)).map(|hold| hold.slot).collect()
    }

    /// The numbers of the kernel's listeners (proc(5), `socket:[N]`) behind what the lane listens at: at `end`, or anywhere.
    pub(crate) fn listener_inodes(&self, slot: Slot, end: Option<End>) -> BTreeSet<u64> {
        let ends = self.holds.iter().filter(|(at, _)| end.is_none_or(|end| end == **at));
        let holds = ends.flat_map(|(_, holds)| holds).filter(|hold| hold.slot == slot && hold.listens);
        let sockets = holds.flat_map(|hold| &hold.sockets);
        sockets.map(inode_of).filter(|&inode| inode != 0).collect()
    }

    fn changes(&self, end: End) -> Vec<Change> {
        // No device brings packets to a loopback address; wires do.
        if is_loopback(end.addr()) {
            return Vec::new();
        }
        let touched = if end.addr().is_wild() {
            let all = self.addresses.iter().map(|&addr| IpAddress(addr));
            all.filter(|&addr| end.addr().covers(addr)).map(|addr| end.at(addr)).collect()
        } else {
            vec![end]
        };
        touched.into_iter().map(|end| self.change(end)).collect()
    }

    /// The lanes for a concrete end: those with a rule for its address, else those with one for any address of its family, else of
    /// either (as the kernel prefers the more specific socket).
    fn change(&self, end: End) -> Change {
        let here = self.addresses.contains(&end.addr);
        let exact = self.holds.get_key_value(&end);
        let wild = |addr| self.holds.get_key_value(&end.at(addr)).filter(|_| here);
        let found = exact.or_else(|| wild(any_of(end.addr()))).or_else(|| wild(IpAddress::ANY));
        let ours = found.filter(|(at, _)| !self.has_strangers(**at));
        let holds = ours.map(|(_, holds)| holds.as_slice()).unwrap_or_default();
        let mut slots: Vec<Slot> = holds.iter().map(|h| h.slot).collect();
        slots.sort_unstable();
        Change { end, slots, listens: holds.iter().all(|h| h.listens) }
    }
}

/// What a socket of the family of `addr` alone listens at for any address.
pub(crate) fn any_of(addr: IpAddress) -> IpAddress {
    if addr.is_v4() { IpAddress::ANY_V4 } else { IpAddress::ANY_V6 }
}

/// Is it 127.0.0.0/8 or ::1?
pub(crate) fn is_loopback(addr: IpAddress) -> bool {
    addr.as_v4().map_or(addr.as_v6().is_loopback(), |v4| v4.is_loopback())
}

/// Is `socket` a kernel socket that is bound to the end of `rule`?
pub(crate) fn check_socket(socket: &Fd, rule: &Rule) -> Result<(), Refusal> {
    let refused = |text: String| Refusal::new(Errno::ACCESS, text);
    let unreadable =
        |errno: Errno| Refusal::new(Errno::ACCESS, format!("the descriptor is no socket: {errno}"));
    let kind = rustix::net::sockopt::socket_type(socket).map_err(unreadable)?;
    let wanted = match rule.proto {
        Proto::Tcp => SocketType::STREAM,
        Proto::Udp => SocketType::DGRAM,
    };
    let domain = rustix::net::sockopt::socket_domain(socket).map_err(unreadable)?;
    if kind != wanted || !matches!(domain, AddressFamily::INET | AddressFamily::INET6) {
        return Err(refused("the socket is of another kind than the rule".to_owned()));
    }
    let (addr, port) = bound_end(socket).ok_or_else(|| refused("the socket is not bound".to_owned()))?;
    if addr != rule.addr || port != rule.port || port.0 == 0 {
        return Err(refused(format!(
            "the socket is bound to {addr}:{}, the rule is for {}:{}",
            port.0, rule.addr, rule.port.0
        )));
    }
    Ok(())
}

/// Where a socket is bound; at any address: of which families.
pub(crate) fn bound_end(socket: &Fd) -> Option<(IpAddress, Port)> {
    let name = rustix::net::getsockname(socket).ok()?;
    let name = SocketAddr::try_from(name).ok()?;
    let addr = match name.ip() {
        IpAddr::V4(v4) => IpAddress::mapped(v4),
        IpAddr::V6(v6) if v6.is_unspecified() && rustix::net::sockopt::ipv6_v6only(socket).ok()? => {
            IpAddress::ANY_V6
        }
        IpAddr::V6(v6) => IpAddress::from_v6(v6),
    };
    Some((addr, Port(name.port())))
}

/// Reserves the end of `rule` with a kernel socket of ours; port 0: the kernel chooses one. `own`: the kernel does not know the
/// address.
pub(crate) fn reserve(rule: &Rule, own: bool) -> Result<Fd, Refusal> {
    let failed = |errno: Errno| Refusal::new(errno, format!("taking port {}: {errno}", rule.port.0));
    // A port below 1024 would need the program's own rights, and it is our rights that bind here.
    if (1..1024).contains(&rule.port.0) {
        return Err(Refusal::new(Errno::ACCESS, "a port below 1024 must be bound by the program itself"));
    }
    bind(rule.proto, (rule.addr, rule.port), own).map_err(failed)
}

/// A kernel socket bound to `end`. `own`: the kernel does not know the address.
pub(crate) fn bind(proto: Proto, (addr, port): (IpAddress, Port), own: bool) -> Result<Fd, Errno> {
    let ip = match addr.as_v4() {
        Some(v4) => IpAddr::V4(v4),
        // A link-local address needs its device to be bound; without, the port is taken on all addresses.
        None if addr.is_wild() || addr.as_v6().is_unicast_link_local() => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        None => IpAddr::V6(addr.as_v6()),
    };
    let end = SocketAddr::new(ip, port.0);
    let (kind, protocol) = match proto {
        Proto::Tcp => (SocketType::STREAM, ipproto::TCP),
        Proto::Udp => (SocketType::DGRAM, ipproto::UDP),
    };
    let family = if end.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, Some(protocol))?;
    if end.is_ipv6() && !addr.is_any() {
        rustix::net::sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if own {
        match end {
            SocketAddr::V4(_) => rustix::net::sockopt::set_ip_freebind(&socket, true)?,
            SocketAddr::V6(_) => rustix::net::sockopt::set_ipv6_freebind(&socket, true)?,
        }
    }
    rustix::net::bind(&socket, &end)?;
    Ok(Fd::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::LaneId;
    use std::net::{Ipv4Addr, TcpListener, UdpSocket};

    const LOOPBACK: IpAddress = IpAddress::from_v4(Ipv4Addr::LOCALHOST);
    const HERE: IpAddress = IpAddress::from_v4(Ipv4Addr::new(10, 0, 0, 1));
    const ALSO: IpAddress = IpAddress::from_v4(Ipv4Addr::new(10, 0, 0, 2));

    fn rule(addr: IpAddress, port: u16) -> Rule {
        Rule { region: 1, lane: LaneId(0), proto: Proto::Tcp, addr, port: Port(port) }
    }

    fn socket() -> Vec<Fd> {
        let made = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None);
        vec![Fd::from(made.expect("a socket"))]
    }

    fn end(addr: IpAddress, port: u16) -> End {
        End::of(&rule(addr, port))
    }

    fn change(addr: IpAddress, port: u16, slots: &[u16]) -> Change {
        let slots = slots.iter().map(|&s| Slot(s)).collect();
        Change { end: end(addr, port), slots, listens: true }
    }

    #[test]
    fn a_rule_for_any_address_means_each_address_of_the_devices() {
        let mut book = RuleBook::default();
        book.set_addresses([HERE, ALSO]);
        let changes = book.add(end(IpAddress::ANY, 80), Slot(3), true, socket()).expect("added");
        assert_eq!(changes, [change(HERE, 80, &[3]), change(ALSO, 80, &[3])]);
        assert_eq!(book.set_addresses([HERE]), [change(ALSO, 80, &[])]);
        let changes = book.add(end(IpAddress::ANY, 80), Slot(1), true, socket()).expect("a second lane");
        assert_eq!(changes, [change(HERE, 80, &[1, 3])]);
        assert_eq!(book.remove_all(Slot(3)), [change(HERE, 80, &[1])]);
        assert_eq!(book.remove(end(IpAddress::ANY, 80), Slot(1), 0), Some(vec![change(HERE, 80, &[])]));
        assert_eq!(book.len(), 0);
    }

    #[test]
    fn a_rule_for_one_address_hides_the_rule_for_any() {
        let mut book = RuleBook::default();
        book.set_addresses([HERE]);
        book.add(end(IpAddress::ANY, 80), Slot(1), true, socket()).expect("added");
        assert_eq!(
            book.add(end(HERE, 80), Slot(2), true, socket()).expect("added"),
            [change(HERE, 80, &[2])]
        );
        assert_eq!(book.remove(end(HERE, 80), Slot(2), 0), Some(vec![change(HERE, 80, &[1])]));
    }

    #[test]
    fn rules_for_any_address_of_one_family_and_of_both_lie_beside_each_other() {
        let six = IpAddress::from_v6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1));
        let mut book = RuleBook::default();
        book.set_addresses([HERE, six]);
        let mut add = |addr, slot| book.add(end(addr, 80), Slot(slot), true, socket()).expect("added");
        let both = [change(HERE, 80, &[3]), change(six, 80, &[3])];
        let mut dual = add(IpAddress::ANY, 3);
        dual.sort_by_key(|change| !change.end.addr().is_v4());
        assert_eq!(dual, both);
        assert_eq!(add(IpAddress::ANY_V4, 1), [change(HERE, 80, &[1])]);
        assert_eq!(add(IpAddress::ANY_V6, 2), [change(six, 80, &[2])]);
        assert_eq!(book.remove_all(Slot(2)), [change(six, 80, &[3])]);
    }

    #[test]
    fn where_a_socket_listens_says_of_which_families() {
        let at = |text: &str| Fd::from(std::os::fd::OwnedFd::from(TcpListener::bind(text).expect("bound")));
        let addr = |socket: &Fd| bound_end(socket).expect("bound").0;
        assert_eq!(addr(&at("0.0.0.0:0")), IpAddress::ANY_V4);
        assert_eq!(addr(&at("[::]:0")), IpAddress::ANY);
        assert_eq!(addr(&at("127.0.0.1:0")), LOOPBACK);
        let only = bind(Proto::Tcp, (IpAddress::ANY_V6, Port(0)), false).expect("a socket");
        assert_eq!(addr(&only), IpAddress::ANY_V6);
    }

    #[test]
    fn a_connection_that_went_out_keeps_its_rule_when_listeners_go() {
        let mut book = RuleBook::default();
        book.set_addresses([HERE]);
        book.add(end(HERE, 80), Slot(1), true, socket()).expect("a listener");
        book.add(end(HERE, 40_000), Slot(1), false, socket()).expect("a connection's port");
        assert_eq!(book.remove_listeners(Slot(1)), [change(HERE, 80, &[])]);
        assert_eq!(book.remove_all(Slot(1)), [change(HERE, 40_000, &[])]);
    }

    #[test]
    fn a_block_counts_as_many_ports_as_it_has_and_stays_when_listeners_go() {
        let mut book = RuleBook::default();
        book.set_addresses([HERE]);
        let block = End::block_of(&rule(HERE, 64));
        let sockets = [socket(), socket()].into_iter().flatten().collect();
        let changes = book.add(block, Slot(1), false, sockets).expect("added");
        assert_eq!(changes, [Change { end: block, slots: vec![Slot(1)], listens: false }]);
        book.add(end(HERE, 64), Slot(2), true, socket()).expect("a port of its own beside it");
        assert_eq!((book.len(), book.remove_listeners(Slot(1)).len()), (3, 0));
        let gone = Change { end: block, slots: Vec::new(), listens: true };
        assert_eq!((book.remove_all(Slot(1)), book.len()), (vec![gone], 1));
    }

    #[test]
    fn a_port_is_given_to_a_lane_once() {
        let mut book = RuleBook::default();
        let [made] = socket().try_into().expect("one");
        let same = vec![Fd::from(rustix::io::fcntl_dupfd_cloexec(&made, 0).expect("a copy"))];
        let number = inode_of(&made);
        book.add(end(HERE, 80), Slot(1), true, vec![made]).expect("added");
        let mut add = |listens, sockets| book.add(end(HERE, 80), Slot(1), listens, sockets);
        assert_eq!(add(true, same).err().map(|r| r.errno), Some(Errno::ADDRINUSE), "that kernel socket");
        assert_eq!(
            add(false, socket()).err().map(|r| r.errno),
            Some(Errno::ADDRINUSE),
            "a connection's port"
        );
        assert_eq!(add(true, socket()).expect("a group"), [change(HERE, 80, &[1, 1])]);
        assert_eq!(book.listeners_at(end(HERE, 80)).len(), 1, "one lane");
        assert_eq!(book.remove(end(HERE, 81), Slot(1), 0), None);
        assert_eq!(book.remove(end(HERE, 80), Slot(1), number), Some(vec![change(HERE, 80, &[1])]));
        assert_eq!(book.remove(end(HERE, 80), Slot(1), number), None);
        book.add(end(HERE, 80), Slot(1), true, socket()).expect("a group again");
        assert_eq!(book.remove_all(Slot(1)).last(), Some(&change(HERE, 80, &[])));
        assert_eq!(book.len(), 0);
    }

    #[test]
    fn what_a_stranger_shares_is_the_kernels_while_it_does() {
        let mut book = RuleBook::default();
        book.set_addresses([HERE]);
        let made = socket();
        rustix::net::sockopt::set_socket_reuseport(&made[0], true).expect("an option");
        book.add(end(HERE, 81), Slot(1), true, socket()).expect("added");
        assert!(!book.shares());
        book.add(end(IpAddress::ANY, 80), Slot(1), true, made).expect("added");
        assert!(book.shares());
        let shared = BTreeSet::from([end(IpAddress::ANY, 80)]);
        assert_eq!(book.shared_ends(), shared);
        let began = vec![(end(IpAddress::ANY, 80), true)];
        assert_eq!(book.set_strangers(shared.clone()), (vec![change(HERE, 80, &[])], began));
        assert_eq!(book.set_strangers(shared), (vec![], vec![]));
        let at = |book: &RuleBook, port| {
            book.listeners_at(end(if port == 80 { IpAddress::ANY } else { HERE }, port)).len()
        };
        assert_eq!((at(&book, 80), at(&book, 81), book.listeners().count()), (0, 1, 1));
        let ended = vec![(end(IpAddress::ANY, 80), false)];
        assert_eq!(book.set_strangers(BTreeSet::new()), (vec![change(HERE, 80, &[1])], ended));
        assert_eq!((at(&book, 80), book.listeners().count()), (1, 2));
        book.remove_all(Slot(1));
        assert!(!book.shares());
    }

    #[test]
    fn only_a_socket_bound_to_the_end_of_the_rule_is_accepted() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let port = listener.local_addr().expect("name").port();
        let socket = Fd::from(std::os::fd::OwnedFd::from(listener));
        assert_eq!(check_socket(&socket, &rule(LOOPBACK, port)), Ok(()));
        for wrong in [
            rule(LOOPBACK, port ^ 1),
            rule(HERE, port),
            rule(IpAddress::ANY, port),
            Rule { proto: Proto::Udp, ..rule(LOOPBACK, port) },
        ] {
            let refusal = check_socket(&socket, &wrong).expect_err("refused");
            assert_eq!(refusal.errno, Errno::ACCESS);
        }
        let datagram = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let port = datagram.local_addr().expect("name").port();
        let datagram = Fd::from(std::os::fd::OwnedFd::from(datagram));
        assert!(check_socket(&datagram, &rule(LOOPBACK, port)).is_err());
        let event = sys::fds::event().expect("eventfd");
        assert!(check_socket(&event, &rule(LOOPBACK, port)).is_err());
    }

    #[test]
    fn a_port_of_an_address_that_the_kernel_does_not_know_is_reserved_when_it_is_ours() {
        let theirs = IpAddress::from_v4(Ipv4Addr::new(192, 0, 2, 77));
        assert_eq!(reserve(&rule(theirs, 0), false).err().map(|r| r.errno), Some(Errno::ADDRNOTAVAIL));
        let socket = reserve(&rule(theirs, 0), true).expect("reserved");
        assert!(bound_end(&socket).is_some_and(|(addr, port)| addr == theirs && port.0 > 0));
    }

    #[test]
    fn a_reserved_port_is_taken_and_low_ports_are_refused() {
        let socket = reserve(&rule(LOOPBACK, 0), false).expect("reserved");
        let (addr, port) = bound_end(&socket).expect("bound");
        assert_eq!(addr, LOOPBACK);
        assert!(TcpListener::bind(("127.0.0.1", port.0)).is_err());
        assert_eq!(reserve(&rule(LOOPBACK, 80), false).err().map(|r| r.errno), Some(Errno::ACCESS));
    }
}
