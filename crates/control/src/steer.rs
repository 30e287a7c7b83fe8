//! Steering: which packets of a device go to which lane, told to the kernel as programs and maps.
//!
//! Two ways per device. AF_XDP: an XDP program redirects a lane's packets to its socket. AF_PACKET: each lane's socket has a filter that
//! accepts the lane's packets, and a TCX program drops for the kernel what any lane takes (the kernel runs taps before TCX
//! ingress). All programs read the same two maps, so a rule takes effect everywhere at once. Nothing is pinned: when
//! the last fd of a program or link closes, the device is as before.
//!
//! Invariant: a packet that no rule names goes on to the kernel untouched.

mod attach;
mod entrust;
mod fetch;
mod maps;
mod program;
mod quoted;
mod read;
mod shape;

pub use maps::{BLOCK_PORTS, Flow, LocalEnd, SLOTS, slot_of};

use crate::bpf::AssembleError;
use attach::Device;
use base::IpAddress;
use maps::Listener;
use program::Kind;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::os::fd::AsFd;
use sys::Errno;
use sys::bpf::{LoadError, Map, MapKind, Program, ProgramKind};

/// Lanes of all regions of one keeper.
pub const STEER_LANES: u8 = 64;
/// Flow rules of one keeper.
pub const FLOWS: u32 = 65_536;
/// Listener rules of one keeper.
pub const LISTENERS: u32 = 16_384;
/// Connections whose lane is remembered. Beyond, the idlest go by their listener's slots, which is wrong only after lanes came or went.
pub const PINS: u32 = 65_536;

/// Number of a lane among all lanes of the keeper, below [`STEER_LANES`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SteerLane(u8);

impl SteerLane {
    /// Lane `number`; `None` from [`STEER_LANES`] on.
    #[must_use]
    pub const fn new(number: u8) -> Option<Self> {
        if number < STEER_LANES { Some(Self(number)) } else { None }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self.0
    }
}

/// Why steering failed.
#[derive(Debug)]
pub enum SteerError {
    /// A call failed: what was being done, and what the kernel said.
    Kernel(&'static str, Errno),
    /// The verifier refused a program.
    Load(LoadError),
    /// A program does not assemble.
    Assemble(AssembleError),
    /// Only exact addresses are steered.
    NotExact,
    /// The rule is not there.
    NoRule,
    /// The device is not attached, or is already.
    Device,
}

impl std::fmt::Display for SteerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Kernel(what, errno) => write!(f, "{what}: {errno}"),
            Self::Load(error) => write!(f, "{error}"),
            Self::Assemble(error) => write!(f, "the steering program does not assemble: {error:?}"),
            Self::NotExact => f.write_str("only exact addresses can be steered"),
            Self::NoRule => f.write_str("no such steering rule"),
            Self::Device => f.write_str("the device is not attached, or is attached already"),
        }
    }
}
impl std::error::Error for SteerError {}

fn kernel(what: &'static str) -> impl Fn(Errno) -> SteerError {
    move |errno| SteerError::Kernel(what, errno)
}

/// The maps of one family.
#[derive(Debug)]
struct FamilyMaps {
    flows: Map,
    listeners: Map,
    /// Flow to lane, written by the programs when a connection opens.
    pins: Map,
}

impl FamilyMaps {
    /// Those of the family whose addresses have so many bytes.
    fn new(address: usize) -> Result<Self, SteerError> {
        let make = |kind, key, value, entries, name| {
            Map::create(kind, key, value, entries, name).map_err(kernel("making a steering map"))
        };
        let (flow, listener) = (maps::flow_key_bytes(address), maps::listener_key_bytes(address));
        let (flow_value, listener_value) = (maps::FLOW_VALUE_BYTES, maps::LISTENER_VALUE_BYTES);
        let pin_value = maps::PIN_VALUE_BYTES;
        Ok(Self {
            flows: make(MapKind::Hash, flow, flow_value, FLOWS, "corelane_flows")?,
            listeners: make(MapKind::Hash, listener, listener_value, LISTENERS, "corelane_listen")?,
            pins: make(MapKind::LruHash, flow, pin_value, PINS, "corelane_pins")?,
        })
    }
}

/// The maps that all programs share.
#[derive(Debug)]
struct Maps {
    four: FamilyMaps,
    six: FamilyMaps,
    /// What the programs need to know of all of it; see [`maps::state_value`].
    state: Map,
}

impl Maps {
    /// Those of the family of `addr`.
    const fn of(&self, addr: IpAddress) -> &FamilyMaps {
        if addr.is_v4() { &self.four } else { &self.six }
    }
}

/// All steering of one keeper. Dropping it detaches everything, except filters of sockets, which live with their sockets.
#[derive(Debug)]
pub struct Steering {
    maps: Maps,
    seed: u32,
    tcx: Option<Program>,
    devices: BTreeMap<u32, Device>,
    listener_rows: HashMap<LocalEnd, Listener>,
    /// Blocks of ports, by their first one.
    block_rows: HashMap<LocalEnd, Listener>,
    flow_rows: HashMap<Flow, SteerLane>,
    /// Connections that are the kernel's, although a lane has their local end.
    entrusted: HashSet<Flow>,
    /// A bit for each lane that was named by a rule and not removed.
    lanes: u64,
    /// A bit for each of those that fetched connections: their pins would outlive them, and be in the way of others that get their ports.
    fetchers: u64,
}

impl Steering {
    /// Makes the maps. `seed` is a random number that remote ends do not know. Needs CAP_BPF and CAP_NET_ADMIN.
    ///
    /// # Errors
    /// EPERM without the capabilities.
    pub fn new(seed: u32) -> Result<Self, SteerError> {
        let state = Map::create(MapKind::Array, 4, maps::STATE_VALUE_BYTES, 1, "corelane_state");
        let [four, six] = maps::ADDRESS_BYTES.map(FamilyMaps::new);
        let state = state.map_err(kernel("making a steering map"))?;
        let maps = Maps { four: four?, six: six?, state };
        Ok(Self {
            maps,
            seed,
            tcx: None,
            devices: BTreeMap::new(),
            listener_rows: HashMap::new(),
            block_rows: HashMap::new(),
            flow_rows: HashMap::new(),
            entrusted: HashSet::new(),
            lanes: 0,
            fetchers: 0,
        })
    }

    /// The seed of [`slot_of`].
    #[must_use]
    pub const fn seed(&self) -> u32 {
        self.seed
    }

    /// Gives an AF_PACKET socket (SOCK_RAW) the filter of `lane`, and locks it: whoever holds the socket cannot see more.
    /// Do it before the socket is bound, so that it never holds another packet.
    ///
    /// # Errors
    /// What the kernel says; EPERM when a filter was locked before.
    pub fn filter_socket(&self, socket: &impl AsFd, lane: SteerLane) -> Result<(), SteerError> {
        let program = self.filter_program(lane)?;
        sys::packet::attach_filter(socket, program.as_fd()).map_err(kernel("setting the socket filter"))?;
        sys::bpf::lock_filter(socket).map_err(kernel("locking the socket filter"))
    }

    /// The filter of `lane` by itself, for a caller that opens, filters, binds and locks the socket in one go.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn filter_program(&self, lane: SteerLane) -> Result<Program, SteerError> {
        self.load(&Kind::SocketFilter(lane))
    }

    /// Loads the program of `kind` over this object's maps.
    fn load(&self, kind: &Kind<'_>) -> Result<Program, SteerError> {
        let insns = program::generate(kind, &self.maps, self.seed);
        let (program_kind, name) = match kind {
            Kind::Xdp(_) => (ProgramKind::Xdp, "corelane_xdp"),
            Kind::TcxIngress => (ProgramKind::TcxIngress, "corelane_tcx"),
            Kind::SocketFilter(_) => (ProgramKind::SocketFilter, "corelane_filter"),
        };
        Program::load(program_kind, &insns.map_err(SteerError::Assemble)?, name).map_err(SteerError::Load)
    }

    /// Steers a local end to `lane`. With several lanes, each takes an even share of the remote ends. Adding twice needs removing twice.
    ///
    /// # Errors
    /// [`SteerError::NotExact`], E2BIG above [`LISTENERS`].
    pub fn add_listener(&mut self, end: LocalEnd, lane: SteerLane) -> Result<(), SteerError> {
        let listener = self.listener_rows.get(&end).cloned().unwrap_or_else(Listener::new);
        self.add_to(listener, end, lane)
    }

    /// [`Steering::add_listener`] on an end where the kernel may have connections: those stay with the kernel. It costs
    /// each segment a lookup, until [`Steering::settle`].
    ///
    /// # Errors
    /// As [`Steering::add_listener`].
    pub fn add_listener_beside_kernel(&mut self, end: LocalEnd, lane: SteerLane) -> Result<(), SteerError> {
        let mut listener = self.listener_rows.get(&end).cloned().unwrap_or_else(Listener::new);
        listener.set_beside_kernel(true);
        self.add_to(listener, end, lane)
    }

    /// The kernel has no connection left on any end but those that `busy` names. Gives how many of them there still are.
    ///
    /// # Errors
    /// What the kernel says about the first rule that failed; the others are changed all the same.
    pub fn settle(&mut self, busy: impl Fn(&LocalEnd) -> bool) -> Result<usize, SteerError> {
        let beside: Vec<(LocalEnd, Listener)> = self
            .listener_rows
            .iter()
            .filter(|(_, row)| row.is_beside_kernel())
            .map(|(end, row)| (*end, row.clone()))
            .collect();
        let (mut left, mut outcome) = (0, Ok(()));
        for (end, mut listener) in beside {
            if busy(&end) {
                left += 1;
                continue;
            }
            listener.set_beside_kernel(false);
            outcome = outcome.and(self.set_listener(end, listener));
        }
        outcome.map(|()| left)
    }

    fn add_to(&mut self, mut listener: Listener, end: LocalEnd, lane: SteerLane) -> Result<(), SteerError> {
        self.lanes |= 1 << lane.number();
        listener.add(lane, self.lanes.count_ones() == 1);
        self.write_state(0)?;
        self.set_listener(end, listener)
    }

    /// Takes one [`Steering::add_listener`] back. TCP connections that came in by it stay with the lane until [`Steering::remove_lane`];
    /// new ones, and datagrams, go to the other lanes, or to the kernel after the last.
    ///
    /// # Errors
    /// [`SteerError::NoRule`].
    pub fn remove_listener(&mut self, end: LocalEnd, lane: SteerLane) -> Result<(), SteerError> {
        let mut listener = self.listener_rows.get(&end).cloned().ok_or(SteerError::NoRule)?;
        if !listener.remove(lane) {
            return Err(SteerError::NoRule);
        }
        self.set_listener(end, listener)
    }

    fn set_listener(&mut self, end: LocalEnd, listener: Listener) -> Result<(), SteerError> {
        let key = end.key().ok_or(SteerError::NotExact)?;
        if listener.is_empty() {
            self.listener_rows.remove(&end);
            return self
                .maps
                .of(end.addr)
                .listeners
                .delete(key.bytes())
                .map_err(kernel("removing a listener rule"));
        }
        self.maps
            .of(end.addr)
            .listeners
            .update(key.bytes(), &listener.value())
            .map_err(kernel("adding a listener rule"))?;
        self.listener_rows.insert(end, listener);
        Ok(())
    }

    /// Steers the [`BLOCK_PORTS`] ports of the block of `end` to `lane`, for connections that go out: one rule for all of them. A port with a
    /// rule of its own goes by that. A block belongs to one lane.
    ///
    /// # Errors
    /// As [`Steering::add_listener`].
    pub fn add_block(&mut self, end: LocalEnd, lane: SteerLane) -> Result<(), SteerError> {
        let key = end.block_key().ok_or(SteerError::NotExact)?;
        self.lanes |= 1 << lane.number();
        let mut row = Listener::new();
        row.add(lane, self.lanes.count_ones() == 1);
        self.maps
            .of(end.addr)
            .listeners
            .update(key.bytes(), &row.value())
            .map_err(kernel("adding a rule for a block of ports"))?;
        self.block_rows.insert(end.block(), row);
        self.write_state(0)
    }

    /// Takes [`Steering::add_block`] back.
    ///
    /// # Errors
    /// [`SteerError::NoRule`].
    pub fn remove_block(&mut self, end: LocalEnd, lane: SteerLane) -> Result<(), SteerError> {
        let key = end.block_key().ok_or(SteerError::NotExact)?;
        let row = self.block_rows.get(&end.block()).filter(|row| row.lanes().any(|member| member == lane));
        row.ok_or(SteerError::NoRule)?;
        self.block_rows.remove(&end.block());
        self.maps
            .of(end.addr)
            .listeners
            .delete(key.bytes())
            .map_err(kernel("removing a rule for a block of ports"))?;
        self.write_state(0)
    }

    /// Steers one flow to `lane`, before any listener. A flow that is there moves.
    ///
    /// # Errors
    /// [`SteerError::NotExact`], E2BIG above [`FLOWS`].
    pub fn add_flow(&mut self, flow: Flow, lane: SteerLane) -> Result<(), SteerError> {
        let key = flow.key().ok_or(SteerError::NotExact)?;
        let value = u32::from(lane.number()).to_ne_bytes();
        self.lanes |= 1 << lane.number();
        self.write_state(1)?;
        self.maps.of(flow.remote).flows.update(key.bytes(), &value).map_err(kernel("adding a flow rule"))?;
        self.flow_rows.insert(flow, lane);
        self.write_state(0)
    }

    /// Takes [`Steering::add_flow`] back.
    ///
    /// # Errors
    /// [`SteerError::NoRule`].
    pub fn remove_flow(&mut self, flow: Flow) -> Result<(), SteerError> {
        let key = flow.key().ok_or(SteerError::NotExact)?;
        self.flow_rows.remove(&flow).ok_or(SteerError::NoRule)?;
        self.maps.of(flow.remote).flows.delete(key.bytes()).map_err(kernel("removing a flow rule"))?;
        self.write_state(0)
    }

    /// For as many flows as there are, and `more`.
    fn write_state(&self, more: usize) -> Result<(), SteerError> {
        let flows = self.flow_rows.len() + self.entrusted.len() + more;
        let value = maps::state_value(flows, self.block_rows.len(), self.lanes);
        self.maps.state.update(&[0; 4], &value).map_err(kernel("writing the steering state"))
    }

    /// Removes every rule of `lane`, and its connections: new ones go to its listeners' other lanes, or to the kernel, which resets old ones.
    ///
    /// # Errors
    /// What the kernel says about the first rule that failed; the others are removed all the same.
    pub fn remove_lane(&mut self, lane: SteerLane) -> Result<(), SteerError> {
        let flows: Vec<Flow> =
            self.flow_rows.iter().filter(|row| *row.1 == lane).map(|(flow, _)| *flow).collect();
        self.lanes &= !(1 << lane.number());
        let mut outcome = self.write_state(0);
        for flow in flows {
            outcome = outcome.and(self.remove_flow(flow));
        }
        outcome = outcome.and(self.forget_pins(lane));
        let holds = |row: &Listener| row.lanes().any(|member| member == lane);
        let blocks: Vec<LocalEnd> =
            self.block_rows.iter().filter(|(_, row)| holds(row)).map(|(end, _)| *end).collect();
        for end in blocks {
            outcome = outcome.and(self.remove_block(end, lane));
        }
        let listeners: Vec<(LocalEnd, Listener)> =
            self.listener_rows.iter().map(|(end, row)| (*end, row.clone())).collect();
        for (end, mut listener) in listeners {
            if listener.remove_all(lane) {
                outcome = outcome.and(self.set_listener(end, listener));
            }
        }
        outcome
    }

    /// Every rule for a local end, with its lane: for `explain`. A flow shows as its local end, a block as its first port.
    pub fn rules(&self) -> impl Iterator<Item = (LocalEnd, SteerLane)> {
        let lanes = self
            .listener_rows
            .iter()
            .chain(&self.block_rows)
            .flat_map(|(end, row)| row.lanes().map(|lane| (*end, lane)));
        lanes.chain(self.flow_rows.iter().map(|(flow, lane)| (flow.local, *lane)))
    }
}

#[cfg(test)]
mod tests;
