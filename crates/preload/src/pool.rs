//! Local ports of this process's lane for connections that go out, oldest use first. Where a device's hash is known, those come first whose answers
//! arrive by the queue that is the lane's: its packets are then received by one processor, not by all in turns.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use base::{IpAddress, Port};
use state::Endpoint;
use sys::rss::Rss;

use crate::reason::Reason;
use crate::view::View;
use crate::{family, home};

/// Ports that are looked at for one that fits.
const LOOKED_AT: usize = 64;

/// Those that the keeper steers to the lane.
struct Ports {
    generation: u32,
    list: Vec<(IpAddress, VecDeque<Port>)>,
}

static PORTS: Mutex<Ports> = Mutex::new(Ports { generation: 0, list: Vec::new() });
/// Devices that were asked how they choose a queue.
static KNOWN: Mutex<Vec<(u32, Option<&'static Rss>)>> = Mutex::new(Vec::new());

/// Holds what no other lock is taken under, over a fork.
pub(crate) fn freeze() -> Box<dyn Any> {
    Box::new((
        PORTS.lock().unwrap_or_else(PoisonError::into_inner),
        KNOWN.lock().unwrap_or_else(PoisonError::into_inner),
    ))
}

/// A lane's queue of a device that spreads packets by a known hash.
#[derive(Clone, Copy)]
pub(crate) struct Queue {
    rss: &'static Rss,
    number: u32,
}

impl Queue {
    /// The queue of lane `lane` at device `ifindex`, if the device has several and its hash is known. It is asked once.
    pub(crate) fn of(ifindex: u32, lane: u16) -> Option<Self> {
        let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let found = known().iter().find(|(of, _)| *of == ifindex).map(|(_, rss)| *rss);
        let rss = found.unwrap_or_else(|| {
            let rss = sys::links::name(ifindex).and_then(|name| Rss::of(&name)).ok().flatten();
            let rss = rss.map(|rss| &*Box::leak(Box::new(rss)));
            known().push((ifindex, rss));
            rss
        })?;
        Some(Self { rss, number: u32::from(lane) % rss.queues() })
    }

    /// Do packets from `remote` to `port` at `addr` come by it?
    fn gets(&self, remote: Endpoint, (addr, port): (IpAddress, Port)) -> bool {
        let hash = wire::rss::toeplitz(&self.rss.key, (remote.addr, remote.port), (addr, port));
        hash.and_then(|hash| self.rss.queue(hash)) == Some(self.number)
    }
}

/// What a port is for.
#[derive(Clone, Copy)]
pub(crate) struct Want {
    pub(crate) addr: IpAddress,
    pub(crate) remote: Endpoint,
    /// Where answers had best come in.
    pub(crate) queue: Option<Queue>,
}

impl Want {
    fn fits(&self, port: Port) -> bool {
        self.queue.is_none_or(|queue| queue.gets(self.remote, (self.addr, port)))
    }
}

/// The port whose last use is longest ago; one that fits, if there is one among the first.
pub(crate) fn oldest(want: &Want) -> Option<Port> {
    with_ports(want.addr, |ports| {
        let at = ports.iter().take(LOOKED_AT).position(|port| want.fits(*port)).unwrap_or(0);
        let port = ports.remove(at)?;
        ports.push_back(port);
        Some(port)
    })
}

/// A port that was not used yet: of a new block, whose others come before all that were used; or a single one, where no whole block is free.
pub(crate) fn more(view: &View, want: &Want) -> Result<Port, Reason> {
    let addr = want.addr;
    let block = match home::take_ports(view, addr) {
        Ok(block) => block,
        Err(Reason::NoKeeper) => return Err(Reason::NoKeeper),
        Err(_) => {
            let port = home::take_port(view, Endpoint { addr, port: Port(0) }, None)?;
            port.0..port.0.saturating_add(1)
        }
    };
    let port = block.clone().map(Port).find(|port| want.fits(*port));
    let port = port.or(block.clone().next().map(Port)).ok_or(Reason::PortTaken)?;
    with_ports(addr, |ports| {
        ports.push_back(port);
        block.map(Port).filter(|other| *other != port).rev().for_each(|unused| ports.push_front(unused));
    });
    Ok(port)
}

fn with_ports<R>(addr: IpAddress, f: impl FnOnce(&mut VecDeque<Port>) -> R) -> R {
    let mut ports = PORTS.lock().unwrap_or_else(PoisonError::into_inner);
    if ports.generation != family::generation() {
        // The parent's ports lead to the parent's lane.
        *ports = Ports { generation: family::generation(), list: Vec::new() };
    }
    let at = match ports.list.iter().position(|(a, _)| *a == addr) {
        Some(at) => at,
        None => {
            ports.list.push((addr, VecDeque::new()));
            ports.list.len() - 1
        }
    };
    let mut none = VecDeque::new();
    f(ports.list.get_mut(at).map_or(&mut none, |(_, list)| list))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(addr: u8, queue: Option<Queue>) -> Want {
        let remote = Endpoint { addr: IpAddress::from_v4([10, 0, 0, 9].into()), port: Port(80) };
        Want { addr: IpAddress::from_v4([10, 0, 0, addr].into()), remote, queue }
    }

    fn fill(want: &Want) {
        with_ports(want.addr, |ports| ports.extend((40_000..40_064).map(Port)));
    }

    #[test]
    fn without_a_known_hash_ports_are_used_in_turn() {
        let want = want(1, None);
        fill(&want);
        let first: Vec<_> = (0..65).map(|_| oldest(&want).map(|port| port.0)).collect();
        let wanted: Vec<_> = (40_000..40_064).chain([40_000]).map(Some).collect();
        assert_eq!(first, wanted);
    }

    #[test]
    fn ports_whose_answers_come_by_the_lanes_queue_go_first() {
        let key = (0u8..40).map(|n| n.wrapping_mul(73) ^ 0x5a).collect();
        let rss: &Rss = Box::leak(Box::new(Rss { key, table: (0..128).map(|n| n % 4).collect() }));
        let queue = Queue { rss, number: 2 };
        let want = want(2, Some(queue));
        fill(&want);
        let fitting = (40_000..40_064).filter(|port| want.fits(Port(*port))).count();
        assert!((4..40).contains(&fitting), "{fitting} of 64");
        // Once round those that fit, then again: the others are only for when none fits.
        let mut used: Vec<u16> = (0..fitting).filter_map(|_| oldest(&want).map(|port| port.0)).collect();
        assert!(used.iter().all(|port| want.fits(Port(*port))));
        used.sort_unstable();
        used.dedup();
        assert_eq!(used.len(), fitting);
        let any = Want { queue: None, ..want };
        assert!(!want.fits(oldest(&any).expect("a port")));
    }

    #[test]
    fn a_device_that_does_not_say_has_no_queue_for_a_lane() {
        let lo = sys::links::index("lo").expect("loopback");
        assert!(Queue::of(lo, 3).is_none());
        assert!(Queue::of(u32::MAX, 3).is_none());
    }
}
