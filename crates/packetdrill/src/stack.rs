//! The stack: one lane over anonymous memory, and the virtual clock it works by.

use core::net::Ipv6Addr;
use std::collections::VecDeque;
use std::sync::Arc;

use base::{Duration, Instant, IpAddress, LaneId};
use engine::{Engine, RouteTo};
use lane::{Lane, LanePort};
use region::{Owner, Region, RegionShape};
use state::ports::PORT_ADDRESSES;
use state::{LAYOUT_VERSION, LaneMem, LaneShape};

use crate::device::{self, Device, OUR_MAC, PEER_MAC, SharedWire};
use crate::errno::{Errno, Outcome};
use crate::flags::Flags;

/// Frames of the region: 32 MiB, because packetdrill locks all of its memory.
const FRAMES: u32 = 8192;
/// Connections of the lane.
const SOCKS: u32 = 64;
/// The clock when the library is loaded, s: no timer is in the past.
const START_S: u64 = 1_000_000;

/// Source of IPv6 connections from sockets that are not bound: in the prefix of packetdrill's own device.
const LOCAL6: Ipv6Addr = Ipv6Addr::new(0xfd3d, 0xfa7b, 0xd17d, 0, 0, 0, 0, 1);

/// A packet that left, and when.
pub(crate) struct Outbound {
    pub(crate) at: Instant,
    pub(crate) bytes: Vec<u8>,
}

/// One lane, its device and its clock.
pub(crate) struct Stack {
    lane: Lane,
    wire: SharedWire,
    now: Instant,
    outbound: VecDeque<Outbound>,
    /// Addresses that are ours, the oldest first.
    own: Vec<IpAddress>,
    pub(crate) flags: Flags,
}

impl Stack {
    /// A stack with nothing on it.
    ///
    /// # Errors
    /// What failed.
    pub(crate) fn new(flags: Flags) -> Result<Self, String> {
        let shape = LaneShape { udp_socks: 16, hops: 16, reassemblies: 8, ..LaneShape::for_socks(SOCKS) };
        let region_shape = RegionShape { lanes: 1, lane_bytes: shape.lane_bytes(), frames: FRAMES };
        let words = sys::memory::map_anonymous(Region::bytes_needed(&region_shape))
            .map_err(|e| format!("no memory for a region: {e}"))?;
        let region = Region::format(words, &region_shape, LAYOUT_VERSION, [11, 13])
            .map_err(|e| format!("no region: {e:?}"))?;
        let now = Instant(0).plus(Duration::from_secs(START_S));
        let owner = Owner { pid: sys::process::pid(), tid: sys::process::tid() };
        let mut guard = region.lane(LaneId(0)).and_then(|l| l.try_lock(owner)).ok_or("the lane is locked")?;
        LaneMem::format(&mut guard, &shape, [5, 7], now).map_err(|e| format!("no lane: {e:?}"))?;
        drop(guard);
        let wire = SharedWire::default();
        let port = Box::new(Device::new(Arc::clone(&wire), flags.mtu, flags.tso));
        let port = LanePort { port, ifindex: 0, mac: OUR_MAC, wire: None };
        let lane = Lane::new(region, LaneId(0), vec![port], None).ok_or("the region has no lane")?;
        let own = Vec::new();
        let mut stack = Self { lane, wire, now, outbound: VecDeque::new(), own, flags };
        stack
            .with(|engine| engine.set_fast_open(flags.fast_open))
            .map_err(|e| format!("no engine: {e:?}"))?;
        stack.own_address(IpAddress::from_v4(flags.local));
        stack.own_address(IpAddress::from_v6(LOCAL6));
        Ok(stack)
    }

    pub(crate) const fn now(&self) -> Instant {
        self.now
    }

    /// `addr` is an address of this host from now on.
    pub(crate) fn own_address(&mut self, addr: IpAddress) {
        if addr == IpAddress::ANY || self.own.contains(&addr) {
            return;
        }
        if self.own.len() == PORT_ADDRESSES {
            self.own.remove(0);
        }
        self.own.push(addr);
        if let Ok(mut session) = self.lane.enter(self.now) {
            session.set_addresses(0, &self.own);
        }
    }

    /// Moves the clock to `at`; never back. What is due is not done yet: [`Stack::step`].
    pub(crate) fn set_clock(&mut self, at: Instant) {
        device::new_burst(&self.wire);
        self.now = self.now.max(at);
    }

    /// Does what is due now, and takes what the stack sends.
    pub(crate) fn step(&mut self) -> Outcome<()> {
        // A batch may leave more behind than one step takes.
        for _ in 0..1000 {
            let mut session = self.lane.enter(self.now).map_err(|_| Errno(libc::EIO))?;
            let more = session.step().more;
            let due = session.deadline() <= self.now;
            drop(session);
            let now = self.now;
            self.outbound
                .extend(device::sent(&self.wire).into_iter().map(|bytes| Outbound { at: now, bytes }));
            if !more && !due {
                break;
            }
        }
        Ok(())
    }

    /// When the stack next does something by itself.
    pub(crate) fn deadline(&self) -> Instant {
        self.lane.enter(self.now).map_or(Instant::NEVER, |mut session| session.deadline())
    }

    /// Calls `f` with the engine, then does what follows from it.
    pub(crate) fn with<R>(&mut self, f: impl FnOnce(&mut Engine<'_>) -> R) -> Outcome<R> {
        device::new_burst(&self.wire);
        let mut session = self.lane.enter(self.now).map_err(|_| Errno(libc::EIO))?;
        let result = session.engine(|engine| Some(f(engine)));
        drop(session);
        self.step()?;
        result.ok_or(Errno(libc::EIO))
    }

    /// Hands the stack an IP packet of the peer's.
    pub(crate) fn inject(&mut self, packet: &[u8]) -> Outcome<()> {
        if let Some(to) = destination(packet) {
            self.own_address(to);
        }
        device::new_burst(&self.wire);
        if !device::inject(&self.wire, packet) {
            return Err(Errno(libc::EINVAL));
        }
        self.step()
    }

    /// The oldest packet that left and was not taken.
    pub(crate) fn take_outbound(&mut self) -> Option<Outbound> {
        self.outbound.pop_front()
    }

    pub(crate) fn has_outbound(&self) -> bool {
        !self.outbound.is_empty()
    }

    /// The address of sockets that go to `remote` and are not bound.
    pub(crate) fn own_for(&self, remote: IpAddress) -> IpAddress {
        if remote.as_v4().is_some() {
            IpAddress::from_v4(self.flags.local)
        } else {
            IpAddress::from_v6(LOCAL6)
        }
    }

    /// The way to `remote`: everybody is behind the one device.
    pub(crate) fn route(&self, remote: IpAddress) -> RouteTo {
        RouteTo { port: 0, next_hop: remote, local_mac: OUR_MAC, mac: Some(PEER_MAC), mtu: 0 }
    }
}

/// Where an IP packet goes.
fn destination(packet: &[u8]) -> Option<IpAddress> {
    match packet.first()? >> 4 {
        4 => packet.get(16..20)?.first_chunk::<4>().map(|a| IpAddress::from_v4((*a).into())),
        6 => packet.get(24..40)?.first_chunk::<16>().map(|a| IpAddress::from_v6((*a).into())),
        _ => None,
    }
}
