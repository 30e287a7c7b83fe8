//! What a session leaves behind for others when it ends.
#![allow(clippy::unwrap_used)]

#[macro_use]
mod stub;

use std::cell::Cell;
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use base::{Duration, Instant, IpAddress, LaneId, MacAddr, Port as PortNumber};
use engine::{RouteTo, UdpOptions, UdpTo};
use lane::{Lane, LanePort, Poisoned, Session};
use port::{Port, PortCaps, PortError, PortStats};
use region::{Frames, Owner, Region, RegionShape};
use state::{Endpoint, LAYOUT_VERSION, LaneMem, LaneShape, RxBatch, TxFrame};

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const NOW: Instant = Instant(1_000_000_000);

/// A device that takes this many packets.
struct Room(Arc<AtomicUsize>);

impl Port for Room {
    fn rx(&mut self, _: &mut Frames<'_>, _: &mut RxBatch) -> Result<usize, PortError> {
        Ok(0)
    }
    plain_port!();
    fn tx(&mut self, frames: &mut Frames<'_>, packets: &[TxFrame]) -> Result<usize, PortError> {
        let taken = packets.len().min(self.0.load(Ordering::Relaxed));
        packets[..taken].iter().for_each(|packet| frames.release(packet.head));
        self.0.fetch_sub(taken, Ordering::Relaxed);
        Ok(taken)
    }
}

/// A device that takes nothing for some calls, and then has it wait in a ring for some.
struct Busy {
    refuses: u32,
    keeps: u32,
    waits: usize,
    sent: Arc<AtomicUsize>,
}

impl Port for Busy {
    fn rx(&mut self, _: &mut Frames<'_>, _: &mut RxBatch) -> Result<usize, PortError> {
        Ok(0)
    }
    plain_port!();
    fn tx(&mut self, frames: &mut Frames<'_>, packets: &[TxFrame]) -> Result<usize, PortError> {
        if self.refuses > 0 {
            self.refuses -= 1;
            return Ok(0);
        }
        packets.iter().for_each(|packet| frames.release(packet.head));
        self.waits += packets.len();
        if self.keeps > 0 {
            self.keeps -= 1;
        } else {
            self.sent.fetch_add(core::mem::take(&mut self.waits), Ordering::Relaxed);
        }
        Ok(packets.len())
    }
    fn sends_later(&self) -> bool {
        self.waits > 0
    }
}

/// A lane on a device whose ring is full.
fn lane() -> Lane {
    lane_on(&[Arc::default()])
}

fn lane_on(rooms: &[Arc<AtomicUsize>]) -> Lane {
    lane_by(rooms.iter().map(|room| Box::new(Room(Arc::clone(room))) as Box<dyn Port + Send>))
}

fn lane_by(ports: impl Iterator<Item = Box<dyn Port + Send>>) -> Lane {
    let shape = LaneShape::for_socks(4);
    let region_shape = RegionShape { lanes: 1, lane_bytes: shape.lane_bytes(), frames: 256 };
    let words = sys::memory::map_anonymous(Region::bytes_needed(&region_shape)).unwrap();
    let region = Region::format(words, &region_shape, LAYOUT_VERSION, [1, 2]).unwrap();
    let mut guard = region.lane(LaneId(0)).unwrap().try_lock(Owner { pid: 1, tid: 1 }).unwrap();
    LaneMem::format(&mut guard, &shape, [3, 4], NOW).unwrap();
    drop(guard);
    let port = |port| LanePort { port, ifindex: 1, mac: MAC, wire: None };
    Lane::new(region, LaneId(0), ports.map(port).collect(), None).unwrap()
}

fn end(host: u8) -> Endpoint {
    Endpoint { addr: IpAddress::from_v4(Ipv4Addr::new(10, 0, 0, host)), port: PortNumber(7) }
}

/// Something to send, which the port does not take.
fn queue_a_datagram(session: &mut Session<'_>) {
    queue_a_datagram_by(session, 0);
}

fn queue_a_datagram_by(session: &mut Session<'_>, port: u8) {
    session.set_addresses(port, &[end(1).addr]);
    session.engine(|engine| {
        let local = Endpoint { port: PortNumber(7 + u16::from(port)), ..end(1) };
        let sock = engine.udp_bind(local, &UdpOptions::default()).unwrap();
        let route = RouteTo { port, next_hop: end(2).addr, local_mac: MAC, mac: Some(MAC), mtu: 0 };
        let to = UdpTo { local: local.addr, remote: end(2), route };
        engine.udp_send_to(sock, b"hello", Some(&to)).unwrap();
    });
}

#[test]
fn the_deadline_left_behind_counts_what_was_done_for_others_last() {
    let lane = lane();
    let mut session = lane.enter(NOW).unwrap();
    queue_a_datagram(&mut session);
    session.gather();
    // What another thread defers makes the session send after all; the port refuses, and wants to be asked again.
    let other = Owner { pid: 2, tid: 2 };
    assert!(lane.lane_ref().lock_or_defer(other, 0).unwrap().is_none());
    drop(session);
    let published = lane.lane_ref().signals().deadline_ns.load(Ordering::Relaxed);
    assert!(published <= NOW.plus(Duration::from_millis(1)).0, "{published}");
}

/// Leaves the lock of `lane` to a process that has ended.
fn hold_by_the_dead(lane: &Lane) {
    let mut dead = std::process::Command::new("true").spawn().unwrap();
    dead.wait().unwrap();
    std::mem::forget(lane.lane_ref().try_lock(Owner { pid: dead.id(), tid: dead.id() }).unwrap());
}

#[test]
fn a_lane_whose_holder_is_gone_is_poisoned_instead_of_waited_for() {
    let lane = lane();
    hold_by_the_dead(&lane);
    assert_eq!(lane.enter(NOW).err(), Some(Poisoned));
    assert_eq!(lane.lane_ref().holder(), None);
}

thread_local! {
    /// How often this test was asked whether its process, whose keeper is gone, has a steward.
    static ASKED: Cell<usize> = const { Cell::new(0) };
}

#[test]
fn a_process_without_steward_finds_a_dead_holder_when_it_first_looks() {
    lane::alone_when(|| {
        ASKED.set(ASKED.get() + 1);
        true
    });
    let lane = lane();
    hold_by_the_dead(&lane);
    assert_eq!(lane.enter(NOW).err(), Some(Poisoned));
    assert_eq!(ASKED.get(), 1);
}

#[test]
fn a_process_without_steward_takes_its_lane_from_a_dead_holder_at_once_and_resets_what_is_there() {
    let lane = lane();
    let local = Endpoint { addr: IpAddress::ANY, port: PortNumber(80) };
    let listen =
        |engine: &mut engine::Engine<'_>| engine.tcp_listen(local, 4, &state::TcpOptions::default()).is_ok();
    assert!(lane.enter(NOW).unwrap().engine(listen));
    hold_by_the_dead(&lane);
    lane.outlast_holder(NOW);
    assert_eq!((lane.lane_ref().holder(), lane.is_poisoned()), (None, false));
    assert!(lane::open_sockets(&mut lane.enter(NOW).unwrap()).is_empty());
}

#[test]
fn what_a_port_does_not_take_for_long_is_lost_so_that_others_have_their_share() {
    let lane = lane();
    let mut session = lane.enter(NOW).unwrap();
    queue_a_datagram(&mut session);
    drop(session);
    for (after_ms, waits) in [(1, true), (90, true), (101, false)] {
        let mut session = lane.enter(NOW.plus(Duration::from_millis(after_ms))).unwrap();
        session.flush();
        assert_eq!(session.engine(|engine| Some(engine.transmit_pending())), Some(waits), "{after_ms} ms");
    }
}

#[test]
fn what_leaves_a_lane_for_the_last_time_leaves_its_port_too() {
    for (refuses, keeps) in [(0, 0), (3, 0), (0, 3), (3, 3)] {
        let sent = Arc::default();
        let busy = Busy { refuses, keeps, waits: 0, sent: Arc::clone(&sent) };
        let lane = lane_by(std::iter::once(Box::new(busy) as Box<dyn Port + Send>));
        let mut session = lane.enter(NOW).unwrap();
        queue_a_datagram(&mut session);
        session.see_off();
        assert_eq!(sent.load(Ordering::Relaxed), 1, "{refuses} {keeps}");
    }
}

#[test]
fn what_waits_in_a_port_is_not_sent_yet() {
    let sent = Arc::default();
    let busy = Busy { refuses: 0, keeps: 3, waits: 0, sent: Arc::clone(&sent) };
    let lane = lane_by(std::iter::once(Box::new(busy) as Box<dyn Port + Send>));
    let mut session = lane.enter(NOW).unwrap();
    queue_a_datagram(&mut session);
    session.flush();
    let looks = std::iter::from_fn(|| session.has_unsent().then_some(())).take(10).count();
    assert_eq!((looks, sent.load(Ordering::Relaxed)), (2, 1), "each look has it sent, if that is possible");
}

#[test]
fn what_leaves_a_lane_for_the_last_time_is_not_held_up_by_a_port_that_takes_nothing() {
    let rooms = [Arc::default(), Arc::new(AtomicUsize::new(1))];
    let lane = lane_on(&rooms);
    let mut session = lane.enter(NOW).unwrap();
    queue_a_datagram_by(&mut session, 0);
    queue_a_datagram_by(&mut session, 1);
    session.flush();
    assert!(session.has_unsent());
    session.see_off();
    assert!(!session.has_unsent());
    assert_eq!(rooms[1].load(Ordering::Relaxed), 0, "the other port got its packet");
}
