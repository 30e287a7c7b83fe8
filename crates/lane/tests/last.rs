//! The end of a lane: each peer is told, whoever dies on the way.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests stop at what they do not expect; a holder's death is a panic here"
)]

#[macro_use]
mod stub;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::os::fd::BorrowedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use base::limits::FRAME_HEADROOM;
use base::{Instant, IpAddress, LaneId, MacAddr, Port as PortNumber, SeqNum};
use engine::{Engine, RecvError, SockError};
use lane::{Lane, LanePort};
use port::{Port, PortCaps, PortError, PortStats};
use region::{Frames, Owner, Region, RegionShape};
use state::{
    CsumState, Endpoint, LAYOUT_VERSION, LaneMem, LaneShape, Ready, RxBatch, RxFrame, SockKind, SockRef,
    TcpOptions, TxFrame,
};
use wire::{EthHeader, EtherType, IpProtocol, Ipv4Header, TcpFlags, TcpHeader};

const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const PEER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const HERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const THERE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const NOW: Instant = Instant(1_000_000_000);

/// What left by a device, by the peer's port: the last sequence number, who was reset, and the numbers of resets.
#[derive(Default)]
struct Left {
    seq: BTreeMap<u16, u32>,
    reset: BTreeSet<u16>,
    /// Of those, whose RST would refuse a SYN that was not answered yet (RFC 9293 3.10.7.3).
    refused: BTreeSet<u16>,
    reset_at: Vec<(u16, u32)>,
    /// Calls until the process that sends dies in one.
    lives: Option<u32>,
}

#[derive(Clone, Default)]
struct Device(Arc<Mutex<Left>>);

impl Port for Device {
    fn rx(&mut self, _: &mut Frames<'_>, _: &mut RxBatch) -> Result<usize, PortError> {
        Ok(0)
    }
    plain_port!();
    fn tx(&mut self, frames: &mut Frames<'_>, packets: &[TxFrame]) -> Result<usize, PortError> {
        let mut left = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(lives) = &mut left.lives {
            if *lives == 0 {
                panic!("killed");
            }
            *lives -= 1;
        }
        for packet in packets {
            let from = usize::from(frames.meta(packet.head).unwrap().offset);
            let tcp = &frames.cell(packet.head)[from + 34..];
            let word = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
            let seq = u32::from(word(4)) << 16 | u32::from(word(6));
            left.seq.insert(word(2), seq);
            if tcp[13] & 4 != 0 {
                left.reset.insert(word(2));
                if tcp[13] & 16 != 0 {
                    left.refused.insert(word(2));
                }
                left.reset_at.push((word(2), seq));
            }
            frames.release(packet.head);
        }
        Ok(packets.len())
    }
}

impl Device {
    fn left(&self) -> std::sync::MutexGuard<'_, Left> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn region() -> Region {
    let shape = LaneShape::for_socks(2048);
    let region_shape = RegionShape { lanes: 1, lane_bytes: shape.lane_bytes(), frames: 4096 };
    let words = sys::memory::map_anonymous(Region::bytes_needed(&region_shape)).unwrap();
    let region = Region::format(words, &region_shape, LAYOUT_VERSION, [1, 2]).unwrap();
    let mut guard = region.lane(LaneId(0)).unwrap().try_lock(Owner { pid: 1, tid: 1 }).unwrap();
    LaneMem::format(&mut guard, &shape, [3, 4], NOW).unwrap();
    guard.signals().ready.store(1, Ordering::Release);
    region
}

/// A process's view of the lane, by `device`.
fn view(region: Region, device: &Device) -> Lane {
    let port = LanePort { port: Box::new(device.clone()), ifindex: 1, mac: MAC, wire: None };
    let lane = Lane::new(region, LaneId(0), vec![port], None).unwrap();
    lane.enter(NOW).unwrap().set_addresses(0, &[IpAddress::from_v4(HERE)]);
    lane
}

/// A segment from `port` of the peer arrives.
fn segment(engine: &mut Engine<'_>, port: u16, (flags, seq, ack): (TcpFlags, u32, u32)) {
    let mut bytes = [0; 54];
    EthHeader { dst: MAC, src: PEER_MAC, ethertype: EtherType::IPV4 }.emit(&mut bytes).unwrap();
    Ipv4Header::plain((THERE, HERE), IpProtocol::TCP, 20).emit(&mut bytes[14..]).unwrap();
    let (src_port, dst_port) = (PortNumber(port), PortNumber(80));
    let (seq, ack) = (SeqNum(seq), SeqNum(ack));
    let tcp = TcpHeader { src_port, dst_port, seq, ack, flags, window: 9000, urgent: 0 };
    tcp.emit(&wire::TcpOptions::NONE, &mut bytes[34..]).unwrap();
    let frames = &mut engine.mem().frames;
    let head = frames.alloc().unwrap();
    frames.cell_mut(head)[FRAME_HEADROOM..FRAME_HEADROOM + bytes.len()].copy_from_slice(&bytes);
    frames.meta_mut(head).unwrap().len = bytes.len() as u16;
    let mut batch = RxBatch::new();
    let csum = CsumState::Verified;
    assert!(batch.push(RxFrame { head, len: 54, gso_size: 0, port: 0, local_peer: false, csum }));
    engine.handle_frames(&mut batch);
}

/// Connections from `ports` to one listener; the first `accepted` are the program's, as many more wait to be accepted, the rest is half open.
fn connections(lane: &Lane, device: &Device, ports: std::ops::Range<u16>, accepted: usize) {
    let local = Endpoint { addr: IpAddress::ANY, port: PortNumber(80) };
    let listen = |e: &mut Engine<'_>| Some(e.tcp_listen(local, 4096, &TcpOptions::default()).unwrap());
    let listener = lane.enter(NOW).unwrap().engine(listen).unwrap();
    for port in ports.clone() {
        lane.enter(NOW).unwrap().engine(|engine| segment(engine, port, (TcpFlags::SYN, 1, 0)));
    }
    for port in ports.take(2 * accepted) {
        let ack = device.left().seq[&port].wrapping_add(1);
        lane.enter(NOW).unwrap().engine(|engine| segment(engine, port, (TcpFlags::ACK, 2, ack)));
    }
    let mut session = lane.enter(NOW).unwrap();
    for _ in 0..accepted {
        assert!(session.engine(|engine| engine.tcp_accept(listener).is_ok()));
    }
}

#[test]
fn a_holder_that_dies_while_it_resets_its_connections_leaves_no_peer_untold() {
    for lives in 0..7 {
        let (region, dying, heirs) = (region(), Device::default(), Device::default());
        let lane = view(region, &dying);
        connections(&lane, &dying, 1000..1400, 150);
        dying.left().lives = Some(lives);
        let died = catch_unwind(AssertUnwindSafe(|| lane::abort_all(&mut lane.enter(NOW).unwrap())));
        assert!(died.is_err(), "it goes on after {lives} batches");
        lane.lane_ref().signals().poisoned.store(0, Ordering::Release);
        let heir = view(region, &heirs);
        lane::abort_all(&mut heir.enter(NOW).unwrap());
        let told: BTreeSet<u16> = dying.left().reset.union(&heirs.left().reset).copied().collect();
        assert!(told.into_iter().eq(1000..1400), "killed in batch {lives}");
    }
}

#[test]
fn more_connections_than_the_outbox_holds_are_all_reset_with_their_listener() {
    let (region, device) = (region(), Device::default());
    let lane = view(region, &device);
    connections(&lane, &device, 1000..2000, 0);
    lane::abort_all(&mut lane.enter(NOW).unwrap());
    assert!(device.left().reset.iter().copied().eq(1000..2000), "{} were told", device.left().reset.len());
}

/// The answer to its SYN may be lost, and somebody else may listen.
#[test]
fn a_half_open_connection_is_reset_so_that_its_peer_may_try_again() {
    let (region, device) = (region(), Device::default());
    let lane = view(region, &device);
    connections(&lane, &device, 1000..1010, 2);
    lane::abort_all(&mut lane.enter(NOW).unwrap());
    let left = device.left();
    assert!(left.reset.iter().copied().eq(1000..1010) && left.refused.iter().copied().eq(1000..1004));
}

/// What was sent last may never arrive, and nobody answers the challenge ACK of a peer that expects it.
#[test]
fn a_peer_is_told_whether_it_has_what_was_sent_last_or_not() {
    let (region, device) = (region(), Device::default());
    let lane = view(region, &device);
    connections(&lane, &device, 1000..1002, 2);
    let first = device.left().seq[&1000];
    let socks = lane::open_sockets(&mut lane.enter(NOW).unwrap());
    let sent = socks.into_iter().filter(|sock| {
        let mut session = lane.enter(NOW).unwrap();
        let to_first = session.engine(|e| e.names(*sock)).is_some_and(|(_, peer)| peer.port.0 == 1000);
        to_first && session.engine(|e| e.tcp_send(*sock, b"hello", false).ok()) == Some(5)
    });
    assert_eq!(sent.count(), 1);
    let second = device.left().seq[&1001];
    lane::abort_all(&mut lane.enter(NOW).unwrap());
    let mut told = device.left().reset_at.clone();
    told.sort_unstable();
    let next = first.wrapping_add(1);
    assert_eq!(told, [(1000, next), (1000, next.wrapping_add(5)), (1001, second.wrapping_add(1))]);
}

/// Packets are steered to a lane for a moment after its program was killed; another process listens, or the kernel knows that none does.
#[test]
fn a_lane_that_ends_refuses_nobody() {
    let (region, device) = (region(), Device::default());
    let lane = view(region, &device);
    let comes = |port, what| lane.enter(NOW).unwrap().engine(|engine| segment(engine, port, what));
    comes(999, (TcpFlags::SYN, 1, 0));
    assert!(device.left().reset.contains(&999), "nobody listens, and the lane lives");
    connections(&lane, &device, 1000..1001, 1);
    lane::abort_all(&mut lane.enter(NOW).unwrap());
    comes(1001, (TcpFlags::SYN, 1, 0));
    assert!(!device.left().seq.contains_key(&1001), "it is answered");
    comes(1002, (TcpFlags::ACK, 2, 7));
    assert!(device.left().reset.contains(&1002), "what belongs to a connection that is over is reset");
}

/// A process that does nothing until it is killed, and has the lane's lock.
struct Holder(std::process::Child);

impl Holder {
    fn of(region: Region) -> Self {
        let holder = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let owner = Owner { pid: holder.id(), tid: holder.id() };
        core::mem::forget(region.lane(LaneId(0)).unwrap().try_lock(owner).unwrap());
        Self(holder)
    }

    fn die(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn assert_cut(lane: &Lane, device: &Device) {
    assert!(lane.cut(NOW));
    assert!(device.left().reset.iter().copied().eq(1000..1010), "{:?}", device.left().reset);
    let told = device.left().reset_at.len();
    assert!(lane.cut(NOW));
    assert_eq!(device.left().reset_at.len(), told, "each is told once");
}

/// Who waits for a lane and finds its holder dead only says that nobody may trust it.
#[test]
fn peers_of_a_lane_that_nobody_trusts_are_told_when_its_keeper_is_gone() {
    let (region, device) = (region(), Device::default());
    let lane = view(region, &device);
    connections(&lane, &device, 1000..1010, 5);
    lane.lane_ref().signals().poisoned.store(1, Ordering::Release);
    assert_cut(&lane, &device);
}

/// A killed process holds what it has until it is gone, which is later than the end of its keeper is heard.
#[test]
fn peers_of_a_lane_that_a_dying_process_holds_are_told_once_it_is_gone() {
    let (region, device) = (region(), Device::default());
    let lane = view(region, &device);
    connections(&lane, &device, 1000..1010, 5);
    let holder = Holder::of(region);
    assert!(!lane.cut(NOW), "it is not gone");
    assert!(!lane.is_poisoned() && device.left().reset.is_empty());
    holder.die();
    assert_cut(&lane, &device);
}

/// A steward that takes the place of one that was killed is told of the lane's wires first.
#[test]
fn a_lane_gets_a_wire_though_its_holder_is_gone_and_is_taken_over_as_it_is() {
    let (region, device) = (region(), Device::default());
    let lane = view(region, &device);
    connections(&lane, &device, 1000..1010, 5);
    Holder::of(region).die();
    let wire = LanePort { port: Box::new(Device::default()), ifindex: 0, mac: MAC, wire: None };
    assert!(lane.add_wire(1, wire, NOW).is_ok());
    assert!(!lane.is_poisoned());
    assert_eq!(lane.port_count(), 2);
    assert_cut(&lane, &device);
}

/// A process died holding the lane of one that lives, to which it gave connections, say: that one hears of the end of its own.
#[test]
fn a_living_program_finds_its_connections_reset_when_its_lane_is_taken_over() {
    let (region, device) = (region(), Device::default());
    let lane = view(region, &device);
    connections(&lane, &device, 1000..1005, 5);
    let mut session = lane.enter(NOW).unwrap();
    let socks = lane::open_sockets(&mut session);
    let socks: Vec<SockRef> = socks.into_iter().filter(|sock| sock.kind() == Some(SockKind::Tcp)).collect();
    session.engine(|engine| {
        for (token, sock) in socks.iter().enumerate() {
            assert!(engine.set_event_queue(*sock, 1, token as u64));
        }
        while engine.poll_event(1).is_some() {}
    });
    assert_eq!(lane::fail_all(&mut session), 5);
    assert!(device.left().reset.iter().copied().eq(1000..1005), "peers hear of it");
    session.engine(|engine| {
        let ended = std::iter::from_fn(|| engine.poll_event(1));
        let ended: BTreeSet<u64> =
            ended.filter(|event| event.ready.any(Ready::HUP)).map(|e| e.token).collect();
        assert!(ended.into_iter().eq(0..5));
        for sock in &socks {
            assert_eq!(engine.tcp_recv(*sock, &mut [0; 8], false), Err(RecvError::Failed(SockError::Reset)));
            engine.close(*sock);
            assert!(!engine.exists(*sock));
        }
    });
    // The listener takes the next one.
    session.engine(|engine| segment(engine, 1005, (TcpFlags::SYN, 1, 0)));
    session.see_off();
    assert!(device.left().seq.contains_key(&1005));
}
