//! One host: a region in memory that is used again by later worlds, a lane over it, and one address.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use base::{Duration, FrameIdx, Idx, Instant, IpAddress, LaneId, MacAddr};
use engine::{Engine, RouteTo};
use lane::{Lane, LanePort, Session};
use region::{Owner, Region, RegionShape};
use state::{LAYOUT_VERSION, LaneMem, LaneShape};

use crate::ip::address;
use crate::link::LinkSpec;
use crate::port::{SharedNetwork, SimPort, lock};
use crate::scenario::Scenario;

thread_local! {
    /// Memory of hosts of worlds that are over.
    static MEMORY: RefCell<Vec<&'static [AtomicU64]>> = const { RefCell::new(Vec::new()) };
}

/// How a host is made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct HostSpec {
    pub(crate) link: LinkSpec,
    /// TCP connections it has room for.
    pub(crate) socks: u32,
    pub(crate) frames: u32,
    /// Bytes of a received packet in each frame.
    pub(crate) piece_bytes: usize,
}

/// A host of a world.
pub(crate) struct Host {
    lane: Lane,
    words: &'static [AtomicU64],
    pub(crate) addr: IpAddress,
    frames_at_start: u32,
}

pub(crate) const fn mac(host: usize) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, host as u8 + 1])
}

/// Do connections of the hosts with this seed hibernate at every chance?
const fn is_sleepy(seed: u64) -> bool {
    seed.is_multiple_of(3)
}

/// The way to host number `to`; its MAC is given, or is for ARP or neighbour discovery to find.
pub(crate) fn route(from: usize, to: usize, plan: &Scenario) -> RouteTo {
    let mac_of = plan.knows_macs.then(|| mac(to));
    RouteTo { port: 0, next_hop: address(to, plan.six), local_mac: mac(from), mac: mac_of, mtu: 0 }
}

impl Host {
    pub(crate) fn new(
        network: &SharedNetwork,
        spec: &HostSpec,
        six: bool,
        seed: u64,
    ) -> Result<Self, String> {
        let dormant = if is_sleepy(seed) { spec.socks } else { 0 };
        let shape = LaneShape {
            udp_socks: 16,
            hops: 16,
            reassemblies: 8,
            dormant,
            ..LaneShape::for_socks(spec.socks)
        };
        let region_shape = RegionShape { lanes: 1, lane_bytes: shape.lane_bytes(), frames: spec.frames };
        let bytes = Region::bytes_needed(&region_shape);
        let words = memory(bytes / 8)?;
        // Tables must be zero; the cells of an earlier world may have been here.
        let tables = Region::frames_offset_of(&region_shape).ok_or("an impossible shape")? / 8;
        for word in words.iter().take(tables as usize) {
            word.store(0, Ordering::Relaxed);
        }
        let key = [seed | 1, seed.rotate_left(17)];
        let region =
            Region::format(words, &region_shape, LAYOUT_VERSION, key).map_err(|e| format!("{e:?}"))?;
        let id = LaneId(0);
        let mut guard = region
            .lane(id)
            .and_then(|l| l.try_lock(Owner { pid: 1, tid: 1 }))
            .ok_or("the lane of a new region is locked")?;
        LaneMem::format(&mut guard, &shape, [seed, !seed], Instant(0)).map_err(|e| format!("{e:?}"))?;
        drop(guard);
        let number = lock(network).attach(mac, spec.link);
        let port = SimPort::new(network.clone(), number, spec.piece_bytes);
        let port = LanePort { port: Box::new(port), ifindex: 0, mac: mac(number), wire: None };
        let lane = Lane::new(region, id, vec![port], None).ok_or("the region has no lane")?;
        let mut host = Self { lane, words, addr: address(number, six), frames_at_start: 0 };
        let addr = host.addr;
        host.enter(Instant(0))?.set_addresses(0, &[addr]);
        host.frames_at_start = host.free_frames(Instant(0))?;
        Ok(host)
    }

    pub(crate) fn enter(&self, now: Instant) -> Result<Session<'_>, String> {
        self.lane.enter(now).map_err(|_| "the lane is poisoned".to_string())
    }

    /// Does for a holder that is gone what a steward does: takes the lane, resets every connection, and lets the resets out. Gives the
    /// number of sockets.
    pub(crate) fn inherit(&self, now: Instant) -> Result<u32, String> {
        let mut session = match self.lane.lane_ref().holder() {
            Some(dead) => self.lane.take_over(dead, now).ok_or("the dead holder's lane cannot be taken")?,
            None => self.enter(now)?,
        };
        let aborted = keeper::abort_all(&mut session);
        session.step();
        drop(session);
        if self.lane.is_poisoned() { Err("the heir panicked".to_owned()) } else { Ok(aborted) }
    }

    /// Connections that are not over.
    pub(crate) fn unfinished(&self, now: Instant) -> Result<usize, String> {
        Ok(keeper::unfinished(&mut self.enter(now)?))
    }

    /// Frames that are neither in the lane's stock nor in the pool.
    pub(crate) fn frames_missing(&self, now: Instant) -> Result<u32, String> {
        Ok(self.frames_at_start.saturating_sub(self.free_frames(now)?))
    }

    fn free_frames(&self, now: Instant) -> Result<u32, String> {
        Ok(self.enter(now)?.engine(count_free))
    }

    /// Lets everything without a connection run out: hops that are asked for, fragments, packets given to the port.
    pub(crate) fn settle(&self, now: Instant) -> Result<(), String> {
        for s in 1..=60 {
            self.enter(now.plus(Duration::from_secs(s)))?.step();
        }
        Ok(())
    }

    /// Puts connections to sleep that have nothing to do, where connections can.
    pub(crate) fn doze(session: &mut Session<'_>) {
        session.engine(|e| e.hibernate_idle(u32::MAX));
    }

    /// Connections in use, those in TIME-WAIT included.
    pub(crate) fn connections(&self, now: Instant) -> Result<u32, String> {
        Ok(self.enter(now)?.engine(|e| e.mem().globals.tcp.used + e.mem().globals.dormant.used))
    }

    /// Segments sent again so far.
    pub(crate) fn retransmits(&self, now: Instant) -> Result<u64, String> {
        Ok(self.enter(now)?.engine(|e| e.counters().tcp.retransmits))
    }

    /// Recoveries undone so far.
    pub(crate) fn undone(&self, now: Instant) -> Result<u64, String> {
        Ok(self.enter(now)?.engine(|e| e.counters().tcp.undone))
    }

    /// States of the connections in use, for the report of a failure.
    pub(crate) fn describe(&self, now: Instant) -> String {
        let Ok(mut session) = self.enter(now) else { return "poisoned".into() };
        session.engine(|e| {
            let mut text = format!(" {} frames free", count_free(e));
            let rows = e.mem().hot.len();
            for at in 0..rows {
                let Some(tcb) = e.mem().hot.get(Idx::new(at)).filter(|t| t.state != 0) else { continue };
                text += &format!(
                    "\n    row {at}: state {} flags {:#x} una {:?} nxt {:?} end {:?} wnd {} rcv_nxt {:?} edge {:?} unread {} \
                     rexmit_at {} ms",
                    tcb.state,
                    tcb.flags,
                    tcb.snd.una.0,
                    tcb.snd.nxt.0,
                    tcb.snd.end.0,
                    tcb.snd.wnd,
                    tcb.rcv.nxt.0,
                    tcb.rcv.edge.0,
                    tcb.rcv_bytes,
                    tcb.rexmit_at.0 / 1_000_000,
                );
            }
            text
        })
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        MEMORY.with(|m| m.borrow_mut().push(self.words));
    }
}

/// Memory of at least `words` words, used before if possible.
fn memory(words: u64) -> Result<&'static [AtomicU64], String> {
    let old = MEMORY.with(|m| {
        let mut pool = m.borrow_mut();
        let at = pool.iter().position(|w| w.len() as u64 >= words)?;
        Some(pool.swap_remove(at))
    });
    match old {
        Some(memory) => Ok(memory),
        None => sys::memory::map_anonymous(words * 8).map_err(|e| format!("no memory: {e}")),
    }
}

fn count_free(e: &mut Engine<'_>) -> u32 {
    let frames = &mut e.mem().frames;
    let all: Vec<FrameIdx> = std::iter::from_fn(|| frames.alloc()).collect();
    for frame in &all {
        frames.release(*frame);
    }
    all.len() as u32
}
