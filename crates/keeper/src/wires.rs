//! The wires of a session: which lane has which end, what lies at the other one, and our copies of the ends' fds.

use std::collections::BTreeMap;

use base::LaneId;
use base::limits::PORTS;
use control::meet::FarLane;
use control::proto::WireEnd;
use port::memif::{MemifParts, Role, WireShape};

use crate::meeting::KeeperId;
use crate::session::RegionId;

/// A lane of this session.
pub(crate) type NearLane = (RegionId, LaneId);

/// A lane that a wire can lead to.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Target {
    /// One of this session.
    Near(NearLane),
    /// One of another keeper.
    Far(KeeperId, FarLane),
}

/// What lies at the other end of a wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum There {
    /// The wire in this book with this number.
    Near(u32),
    /// Another keeper's lane. The wire's number there and in letters is the one that its maker gave it: we, if `ours`.
    Far { keeper: KeeperId, number: u32, ours: bool },
}

/// One end of a wire, at a lane of this session.
pub(crate) struct Wire {
    pub(crate) region: RegionId,
    pub(crate) end: WireEnd,
    /// Whom the lane asked for; `None`: others asked for it.
    pub(crate) target: Option<Target>,
    pub(crate) there: There,
    /// For the steward, and to end the wire.
    pub(crate) parts: MemifParts,
}

impl Wire {
    /// The lane that has this end.
    pub(crate) fn lane(&self) -> NearLane {
        (self.region, self.end.lane)
    }
}

/// The parts of the end that `end` describes, from what was received of it. `None`: descriptors are missing.
pub(crate) fn parts_of(end: &WireEnd, fds: Vec<sys::fds::Fd>) -> Option<MemifParts> {
    let shape = WireShape { log2_ring: u32::from(end.log2_ring), buffer_bytes: end.buffer_bytes };
    let role = if end.asked { Role::Client } else { Role::Server };
    MemifParts::from_fds(role, shape, &mut fds.into_iter()).filter(|parts| parts.shape.is_valid())
}

/// All wires, by number.
#[derive(Default)]
pub(crate) struct WireBook {
    wires: BTreeMap<u32, Wire>,
}

impl WireBook {
    pub(crate) fn insert(&mut self, wire: Wire) {
        self.wires.insert(wire.end.wire, wire);
    }

    pub(crate) fn get(&self, number: u32) -> Option<&Wire> {
        self.wires.get(&number)
    }

    pub(crate) fn remove(&mut self, number: u32) -> Option<Wire> {
        self.wires.remove(&number)
    }

    /// The wire over which `lane` reaches `target` by device `ifindex`.
    pub(crate) fn find(&self, lane: NearLane, target: Target, ifindex: u32) -> Option<u32> {
        let is_it = |w: &&Wire| w.lane() == lane && w.target == Some(target) && w.end.ifindex == ifindex;
        self.wires.values().find(is_it).map(|w| w.end.wire)
    }

    /// The numbers of those for which `which` says so.
    pub(crate) fn numbers(&self, which: impl Fn(&Wire) -> bool) -> Vec<u32> {
        self.wires.values().filter(|w| which(w)).map(|w| w.end.wire).collect()
    }

    /// The wires of `lane`.
    pub(crate) fn of(&self, lane: NearLane) -> impl Iterator<Item = &Wire> {
        self.wires.values().filter(move |w| w.lane() == lane)
    }

    /// An index for one more port of `lane`, which has `devices` devices. `None`: it has as many ports as it can.
    pub(crate) fn free_port(&self, lane: NearLane, devices: usize) -> Option<u8> {
        let taken: Vec<u8> = self.of(lane).map(|w| w.end.port).collect();
        (devices..PORTS).filter_map(|at| u8::try_from(at).ok()).find(|at| !taken.contains(at))
    }
}
