//! Wires to other programs of this host: those a lane has, and where connections can go over one.
//!
//! The keeper hands a wire out when this process asks ([`to`]) or when another program does; then a notice says so, which
//! `home` takes. Answers are kept, "nobody" too, until the keeper counts a change of who listens where, or a wire goes.

use core::sync::atomic::{AtomicU64, Ordering};
use std::any::Any;
use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use base::Port;
use control::proto::WireEnd;
use lane::LanePort;
use region::Region;
use state::Endpoint;
use sys::fds::Fd;

use crate::table::{self, Entry};
use crate::view::View;
use crate::{family, home};

/// Lanes of one listener that connections are spread over.
const SPREAD: usize = 16;
/// Answers kept; at the next one all are forgotten.
const KNOWN_MAX: usize = 1024;
/// Multiplier that spreads local ports over lanes (2^32 divided by the golden ratio).
const MIX: u32 = 0x9e37_79b1;

/// One wire, as this process has it.
struct Held {
    end: WireEnd,
    /// What came from the keeper, to make ports of after a fork.
    fds: Vec<Fd>,
    /// The descriptors in the port, which closes them.
    in_port: Vec<RawFd>,
}

/// The wires of one lane. Used by who holds the home, and in a child that is alone.
pub(crate) struct Wires {
    list: Mutex<Vec<Held>>,
}

impl Wires {
    pub(crate) const fn new() -> Self {
        Self { list: Mutex::new(Vec::new()) }
    }

    fn list(&self) -> MutexGuard<'_, Vec<Held>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a wire in; gives the port made of it.
    pub(crate) fn add(&self, region: Region, end: &WireEnd, fds: Vec<Fd>) -> Option<LanePort> {
        let mut held =
            Held { end: *end, fds: fds.into_iter().map(table::keep).collect(), in_port: Vec::new() };
        let port = held.port(region);
        match port {
            Some(_) => self.list().push(held),
            None => held.fds.into_iter().for_each(table::discard),
        }
        port
    }

    /// Gives the wire `number` up, and its index among the ports.
    pub(crate) fn remove(&self, number: u32) -> Option<u8> {
        let mut list = self.list();
        let at = list.iter().position(|held| held.end.wire == number)?;
        let held = list.swap_remove(at);
        // The port closes these; the program may get the numbers then.
        held.in_port.iter().for_each(|&raw| drop(table::replace(raw, Entry::Foreign)));
        held.fds.into_iter().for_each(table::discard);
        Some(held.end.port)
    }

    /// Every wire as a new port, with its index: for a lane that is made again after a fork.
    pub(crate) fn again(&self, region: Region) -> Vec<(u8, LanePort)> {
        let mut list = self.list();
        list.iter_mut().filter_map(|held| Some((held.end.port, held.port(region)?))).collect()
    }

    /// The process at the other end of the wire at index `port`.
    pub(crate) fn peer_at(&self, port: u8) -> Option<u32> {
        self.list().iter().find(|held| held.end.port == port).map(|held| held.end.peer_pid)
    }
}

impl Held {
    fn port(&mut self, region: Region) -> Option<LanePort> {
        let copies: Option<Vec<Fd>> =
            self.fds.iter().map(|fd| sys::fds::duplicate(&fd.as_fd()).ok()).collect();
        // The first is the memory, which is mapped and closed.
        let mut fds =
            copies?.into_iter().enumerate().map(|(n, fd)| if n == 0 { fd } else { table::keep(fd) });
        let fds: Vec<Fd> = fds.by_ref().collect();
        self.in_port = fds.iter().skip(1).map(AsRawFd::as_raw_fd).collect();
        lane::open_wire(region, &self.end, &mut fds.into_iter()).ok()
    }
}

/// Ports by which connections to one place go.
#[derive(Clone, Copy, Default)]
pub(crate) struct Spread {
    ports: [u8; SPREAD],
    count: u8,
}

impl Spread {
    /// The port for a connection from local port `local`.
    pub(crate) fn pick(&self, local: Port) -> u8 {
        let hash = u32::from(local.0).wrapping_mul(MIX);
        let at = ((u64::from(hash) * u64::from(self.count)) >> 32) as usize;
        self.ports.get(at).copied().unwrap_or_default()
    }
}

/// Where a connection goes: the remote end, and the device by which its route leaves (0: it is in this network namespace).
type Place = ([u8; 16], u16, u32);

/// What was answered, and what was so then: fork generation, changes counted by the keeper, wires that went.
struct Known {
    since: (u32, u64, u64),
    spread: Spread,
}

static KNOWN: Mutex<BTreeMap<Place, Known>> = Mutex::new(BTreeMap::new());
/// Holds what no other lock is taken under, over a fork.
pub(crate) fn freeze() -> Box<dyn Any> {
    Box::new(KNOWN.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Wires that went.
static GONE: AtomicU64 = AtomicU64::new(0);

/// A wire went: what was answered is not to be used any more.
pub(crate) fn forget() {
    GONE.fetch_add(1, Ordering::Release);
}

/// The wires by which the lane of `view` reaches `remote`. `None`: nobody with a lane listens there.
pub(crate) fn to(view: &View, remote: Endpoint, ifindex: u32) -> Option<Spread> {
    home::hear_news();
    let tables = home::tables()?;
    let since = (family::generation(), tables.meetings(), GONE.load(Ordering::Acquire));
    let place = (remote.addr.0, remote.port.0, ifindex);
    let found = |spread: Spread| (spread.count > 0).then_some(spread);
    let lock = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(known) = lock().get(&place)
        && known.since == since
    {
        return found(known.spread);
    }
    let spread = ask(view, remote, ifindex);
    let mut known = lock();
    if known.len() >= KNOWN_MAX {
        known.clear();
    }
    known.insert(place, Known { since, spread });
    found(spread)
}

fn ask(view: &View, remote: Endpoint, ifindex: u32) -> Spread {
    let mut spread = Spread::default();
    for turn in 0..SPREAD {
        let Some((port, lanes)) = home::introduce(view, remote, ifindex, turn as u8) else { break };
        if let Some(place) = spread.ports.get_mut(usize::from(spread.count)) {
            *place = port;
            spread.count += 1;
        }
        if usize::from(spread.count) >= usize::from(lanes) {
            break;
        }
    }
    spread
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_ports_are_spread_over_all_lanes() {
        let spread = Spread { ports: core::array::from_fn(|n| n as u8 + 10), count: 4 };
        let mut counts = [0; 4];
        for local in 40_000..40_064 {
            let port = spread.pick(Port(local));
            assert!((10..14).contains(&port));
            counts[usize::from(port - 10)] += 1;
        }
        assert!(counts.iter().all(|count| (12..=20).contains(count)), "{counts:?}");
    }
}
