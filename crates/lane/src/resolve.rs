//! Keeping what the engine knows of addresses and next hops in step with the kernel's, as the keeper mirrors it.
//!
//! A missing neighbour is never asked for by us on a shared address: the owner of the lane passes [`Ask`]s to the keeper,
//! the keeper asks the kernel, and the answer shows up in the mirrored tables.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

use base::{Duration, Idx, Instant, IpAddress, MacAddr};
use control::tables::{NeighbourEntry, Route, RouteAnswer, RouteRow, Tables};
use engine::{Engine, HopKey, Leaver, RouteTo};
use state::ports::{PORT_ADDRESSES, PORT_LOCAL_PEER, PORT_LOOPBACK, PORT_OWN_ADDRESS, PORT_UP, PORT_WIRE};
use state::{Hop, PortInfo, port_beside};

use crate::{LanePort, Wire};

/// How long a neighbour may be silent before its connections fail (Linux: 3 probes, 1 s each).
const GIVE_UP: Duration = Duration::from_secs(3);
/// How often the tables are looked at for an answer.
const LOOK: Duration = Duration::from_millis(2);
const _: () = assert!(control::tables::HOST_ADDRESSES == PORT_ADDRESSES);
/// Hops that wait for an answer at the same time.
const PENDING_MAX: usize = 256;

/// What the keeper must be asked, because the kernel has to do it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// To look for a neighbour.
    Neighbour {
        /// Device.
        ifindex: u32,
        /// The neighbour.
        addr: IpAddress,
    },
    /// To have the segments that come by a device of a connection come to this lane; then [`Session::follow_off_wire`](crate::Session::follow_off_wire).
    Leaver(Leaver),
}

struct Pending {
    hop: Idx<Hop>,
    key: HopKey,
    /// Whose MAC is looked for.
    addr: IpAddress,
    since: Instant,
}

/// The hops that wait, and what was last seen of the tables.
pub(crate) struct Resolver {
    tables: Option<Tables>,
    generation: Option<u64>,
    pending: Vec<Pending>,
    asks: Vec<Ask>,
}

impl Resolver {
    pub(crate) fn new(tables: Option<Tables>) -> Self {
        Self { tables, generation: None, pending: Vec::new(), asks: Vec::new() }
    }

    /// Brings addresses and hops up to date. Gives the moment to look again.
    pub(crate) fn run(&mut self, engine: &mut Engine<'_>, ports: &[LanePort], now: Instant) -> Instant {
        self.describe_ports(engine, ports);
        while self.pending.len() < PENDING_MAX
            && let Some((hop, key)) = engine.poll_unresolved()
        {
            self.begin(engine, ports, Pending { hop, key, addr: key.addr, since: now });
        }
        let waiting = std::mem::take(&mut self.pending);
        for pending in waiting {
            self.look(engine, ports, pending, now);
        }
        if self.pending.is_empty() { Instant::NEVER } else { now.plus(LOOK) }
    }

    /// What must be asked of the keeper since the last call.
    pub(crate) fn take_asks(&mut self) -> Vec<Ask> {
        std::mem::take(&mut self.asks)
    }

    /// Takes those that are connections.
    pub(crate) fn take_leavers(&mut self) -> Vec<Leaver> {
        let (mut leavers, asks) = (Vec::new(), std::mem::take(&mut self.asks));
        for ask in asks {
            match ask {
                Ask::Leaver(leaver) => leavers.push(leaver),
                Ask::Neighbour { .. } => self.asks.push(ask),
            }
        }
        leavers
    }

    /// The peer of `leaver` asks.
    pub(crate) fn add(&mut self, leaver: Leaver) {
        if self.asks.len() < PENDING_MAX {
            self.asks.push(Ask::Leaver(leaver));
        }
    }

    /// Are there asks to take?
    pub(crate) fn has_asks(&self) -> bool {
        !self.asks.is_empty()
    }

    fn begin(&mut self, engine: &mut Engine<'_>, ports: &[LanePort], pending: Pending) {
        let port = ports.get(usize::from(pending.key.port));
        if let Some(wire) = port.and_then(|p| p.wire) {
            engine.handle_hop(pending.hop, &pending.key, Some(wire.peer));
            return;
        }
        let ifindex = port.map_or(0, |p| p.ifindex);
        let Some(tables) = &self.tables else {
            engine.handle_hop(pending.hop, &pending.key, None);
            return;
        };
        let Some(addr) = neighbour_of(tables, ifindex, &pending.key) else { return };
        let fresh =
            matches!(tables.neighbour_entry(ifindex, addr), NeighbourEntry::Known { mac: _, fresh: true });
        if !fresh {
            self.asks.push(Ask::Neighbour { ifindex, addr });
        }
        self.pending.push(Pending { addr, ..pending });
    }

    fn look(&mut self, engine: &mut Engine<'_>, ports: &[LanePort], pending: Pending, now: Instant) {
        let ifindex = ports.get(usize::from(pending.key.port)).map_or(0, |p| p.ifindex);
        let entry = match &self.tables {
            Some(tables) => tables.neighbour_entry(ifindex, pending.addr),
            None => NeighbourEntry::Failed,
        };
        let late = now.since(pending.since) >= GIVE_UP;
        match entry {
            NeighbourEntry::Known { mac, fresh: _ } if pending.key.by_mac => {
                engine.name_hop(pending.hop, &pending.key, pending.addr, mac)
            }
            // Without an answer it stays as it is.
            NeighbourEntry::Failed | NeighbourEntry::Pending | NeighbourEntry::Absent
                if late && pending.key.by_mac => {}
            NeighbourEntry::Known { mac, fresh: _ } => {
                engine.handle_hop(pending.hop, &pending.key, Some(mac))
            }
            // The kernel may hold an old failure: the ask we sent makes it try again, so wait for the answer.
            NeighbourEntry::Failed | NeighbourEntry::Pending | NeighbourEntry::Absent if late => {
                engine.handle_hop(pending.hop, &pending.key, None);
            }
            NeighbourEntry::Failed | NeighbourEntry::Pending | NeighbourEntry::Absent => {
                self.pending.push(pending)
            }
        }
    }

    /// Tells the engine each port's addresses and abilities, whenever the mirrored tables have changed.
    fn describe_ports(&mut self, engine: &mut Engine<'_>, ports: &[LanePort]) {
        let generation = self.tables.as_ref().map_or(0, Tables::generation);
        if self.generation == Some(generation) {
            return;
        }
        self.generation = Some(generation);
        self.follow_neighbours(engine, ports);
        self.follow_routes(engine, ports);
        for (at, port) in (0..).zip(ports).filter(|(_, port)| !port.is_absent()) {
            self.describe(engine, ports, at, port);
        }
    }

    /// Connections go by the routes that there are now.
    fn follow_routes(&self, engine: &mut Engine<'_>, ports: &[LanePort]) {
        let Some(tables) = &self.tables else { return };
        let mut known: HashMap<(u8, IpAddress), Option<RouteTo>> = HashMap::new();
        engine.follow_routes(number_of(&tables.routes()), |at, peer| {
            *known.entry((at, peer)).or_insert_with(|| {
                let port = ports.get(usize::from(at)).filter(|port| port.wire.is_none())?;
                let route = route_by(tables, port.ifindex, peer)?;
                let (mac, mtu) = (tables.neighbour(port.ifindex, route.next_hop), route.mtu);
                let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
                Some(RouteTo { port: at, next_hop: route.next_hop, local_mac: port.mac, mac, mtu })
            })
        });
    }

    /// Neighbours that have another Ethernet address than before: connections to them follow.
    fn follow_neighbours(&self, engine: &mut Engine<'_>, ports: &[LanePort]) {
        let Some(tables) = &self.tables else { return };
        let moved = |(hop, key, old): (Idx<Hop>, HopKey, MacAddr)| {
            let port = ports.get(usize::from(key.port)).filter(|port| !key.by_mac && port.wire.is_none())?;
            tables.neighbour(port.ifindex, key.addr).filter(|mac| *mac != old).map(|mac| (hop, key, mac))
        };
        let moved: Vec<_> = engine.known_hops().filter_map(moved).collect();
        for (hop, key, mac) in moved {
            engine.handle_hop(hop, &key, Some(mac));
        }
    }

    /// Tells the engine the addresses and abilities of `port`, which is at index `at` of `ports`.
    pub(crate) fn describe(&self, engine: &mut Engine<'_>, ports: &[LanePort], at: u8, port: &LanePort) {
        let Some(tables) = &self.tables else { return };
        let mut info = port_info(port);
        info.flags |= device_beside(ports, port).map_or(0, port_beside);
        let own = match port.wire {
            Some(Wire { ifindex: 0, .. }) => tables.host_addresses(),
            Some(Wire { ifindex, .. }) => addresses_on(tables, ifindex),
            None => addresses_on(tables, port.ifindex),
        };
        for (slot, addr) in info.addrs.iter_mut().zip(own) {
            *slot = addr;
            info.addr_count += 1;
        }
        engine.set_port(at, &info);
    }
}

/// The device beside the wire `port`, by its index in `ports`; `None`: it is no wire, the lane has none, or the wire stays inside one network namespace.
pub(crate) fn device_beside(ports: &[LanePort], port: &LanePort) -> Option<u8> {
    let ifindex = port.wire.map(|wire| wire.ifindex).filter(|at| *at != 0)?;
    let at = ports.iter().position(|port| port.wire.is_none() && port.ifindex == ifindex)?;
    u8::try_from(at).ok()
}

/// The neighbour that `key` asks for; of a hop known by its MAC the one by which routes lead to the peer. `None`: they lead elsewhere, or cannot tell.
fn neighbour_of(tables: &Tables, ifindex: u32, key: &HopKey) -> Option<IpAddress> {
    if !key.by_mac {
        return Some(key.addr);
    }
    route_by(tables, ifindex, key.addr).map(|route| route.next_hop)
}

/// The route to `peer`, if it leads over device `ifindex`.
fn route_by(tables: &Tables, ifindex: u32, peer: IpAddress) -> Option<Route> {
    let near = peer.as_v6().is_unicast_link_local();
    match tables.route_to(peer, IpAddress::ANY, if near { ifindex } else { 0 }) {
        RouteAnswer::Via(route) if route.ifindex == ifindex => Some(route),
        _ => None,
    }
}

/// A number that other routes have another of; never 0.
fn number_of(routes: &[RouteRow]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for row in routes {
        (row.dst.0, row.prefix, row.gateway.0, row.oif, row.mtu).hash(&mut hasher);
        std::mem::discriminant(&row.kind).hash(&mut hasher);
    }
    hasher.finish().max(1)
}

fn addresses_on(tables: &Tables, ifindex: u32) -> Vec<IpAddress> {
    tables.addresses().iter().filter(|a| a.ifindex == ifindex).map(|a| a.addr).collect()
}

/// What the engine must know of a port, without addresses.
pub(crate) fn port_info(port: &LanePort) -> PortInfo {
    let caps = port.port.caps();
    let mut flags = PORT_UP;
    if caps.own_address {
        flags |= PORT_OWN_ADDRESS;
    }
    if caps.local_peer {
        flags |= PORT_LOCAL_PEER;
    }
    if let Some(wire) = port.wire {
        flags |= PORT_WIRE | if wire.ifindex == 0 { PORT_LOOPBACK } else { 0 };
    }
    PortInfo {
        addrs: [IpAddress::ANY; PORT_ADDRESSES],
        addr_count: 0,
        flags,
        super_segment_max: caps.super_segment_max,
        mac: port.mac,
        mtu: caps.mtu,
    }
}
