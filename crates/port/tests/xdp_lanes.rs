//! Lanes of one region that share the queues of a device (XDP_SHARED_UMEM on the same queue).
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

#[path = "../../sim/tests/kill/mod.rs"]
mod kill;
mod rig;

use std::net::UdpSocket;

use base::{LaneId, Rng};
use kill::kill_after;
use port::Port;
use port::xdp::{XdpParts, XdpPort, XdpSockets, XdpSpec, open, settle, share};
use region::{Owner, Region, RegionShape};
use rig::{FRAMES, Memory, NEAR, Rig, Steered, receive_ipv4, setup, steer_among, udp_head};
use state::RxBatch;
use sys::bpf::XdpMode;

const QUEUES: u32 = 4;
/// A quarter of the frames is in the fill rings, whoever put them there.
const FILLED: u32 = FRAMES / 4;
const PORTS: [u16; 2] = [5000, 5001];

/// Two lanes with AF_XDP sockets on all queues of `near0`, which belong to even and to odd ports.
struct Lanes {
    region: Region,
    memory: [Memory; 2],
    sockets: [XdpSockets; 2],
    ports: [XdpPort; 2],
    _steered: Steered,
}

fn port_on(sockets: &XdpSockets, memory: &Memory) -> XdpPort {
    let copies = sockets.fds.iter().map(|fd| sys::fds::duplicate(fd).unwrap()).collect();
    let any = sockets.any.as_ref().map(|fd| sys::fds::duplicate(fd).unwrap());
    let sockets = XdpSockets { fds: copies, any, ..*sockets };
    XdpPort::from_parts(XdpParts { sockets, companion: None }, memory.lane, setup()).unwrap()
}

impl Lanes {
    fn new(rig: &Rig, mode: XdpMode) -> Self {
        rig::run("ip link del near0");
        rig.join_with_queues(QUEUES);
        let shape = RegionShape { lanes: 2, lane_bytes: 4096, frames: FRAMES };
        let bytes = Region::bytes_needed(&shape);
        let fd = sys::memory::memfd("rig", bytes, false).unwrap().fd;
        let region = Region::format(sys::memory::map_shared(&fd, bytes).unwrap(), &shape, 1, [1, 2]).unwrap();
        let memory = [0, 1].map(|lane| Memory::of_lane(region, lane));
        let ifindex = sys::links::index("near0").unwrap();
        let spec = XdpSpec { ifindex, queues: QUEUES, mtu: 1500, zero_copy: false, busy_poll: false };
        let first = open(&spec, region.frame_area().cells()).unwrap();
        let second = share(&spec, &first).unwrap();
        let steered = steer_among("near0", &[&first.fds, &second.fds], mode);
        let sockets = [first, second];
        let ports = [0, 1].map(|lane| port_on(&sockets[lane], &memory[lane]));
        let mut lanes = Self { region, memory, sockets, ports, _steered: steered };
        // Nothing can come in before the kernel has frames to receive into.
        assert_eq!(lanes.take(0), 0);
        lanes
    }

    /// Receives what is there for `lane` and frees it; gives the number of packets.
    fn take(&mut self, lane: usize) -> usize {
        let mut batch = RxBatch::new();
        let count = self.ports[lane].rx(&mut self.memory[lane].frames(), &mut batch).unwrap();
        for packet in batch.items() {
            self.memory[lane].take(packet);
        }
        count
    }

    /// Sends one datagram to the far side's `port`.
    fn send(&mut self, lane: usize, port: u16) {
        let mut packet = self.memory[lane].packet(&udp_head(PORTS[lane], port, 4), b"sent");
        (packet.csum_start, packet.csum_offset) = (34, 6);
        assert_eq!(self.ports[lane].tx(&mut self.memory[lane].frames(), &[packet]).unwrap(), 1);
        self.memory[lane].release_payload(&packet);
    }

    /// Each of `from` sends to `lanes`, and each of these receives that and nothing of the other's.
    fn exchange(&mut self, lanes: &[usize], from: &[UdpSocket]) {
        for &lane in lanes {
            while self.take(lane) > 0 {}
        }
        for udp in from {
            for port in PORTS {
                udp.send_to(&port.to_be_bytes(), (NEAR, port)).unwrap();
            }
        }
        for &lane in lanes {
            let memory = &mut self.memory[lane];
            for packet in receive_ipv4(&mut self.ports[lane], memory, 17, from.len()) {
                assert_eq!(memory.take(&packet)[42..44], PORTS[lane].to_be_bytes());
            }
        }
    }

    /// Frames that no lane and no ring has, when `lane` is the only one with a stock.
    fn free(&mut self, lane: usize) -> u32 {
        while self.take(lane) > 0 {}
        self.ports[lane].release(&mut self.memory[lane].frames());
        self.memory[lane].free()
    }

    /// Lane 1 as its next holder finds it.
    fn begin_again(&mut self) {
        let lane = self.region.lane(LaneId(1)).unwrap();
        let me = Owner { pid: sys::process::pid(), tid: sys::process::tid() };
        let guard = lane.holder().map_or_else(|| lane.try_lock(me), |dead| lane.take_over(dead, me));
        let mut guard = guard.unwrap();
        settle(&self.sockets[1].fds, lane, setup().port).unwrap();
        guard.reclaim_frames();
        drop(guard);
        self.memory[1] = Memory::of_lane(self.region, 1);
        self.ports[1] = port_on(&self.sockets[1], &self.memory[1]);
    }
}

fn lanes_get_their_own(mode: XdpMode) {
    let Some(rig) = Rig::veth() else { return };
    let mut lanes = Lanes::new(&rig, mode);
    for round in 0..8 {
        let from: Vec<_> = (0..48).map(|at| rig.far_udp(4000 + 100 * round + at)).collect();
        lanes.exchange(&[0, 1], &from);
    }
    let by_queue = |port: &XdpPort| port.received_by_queue().filter(|&packets| packets > 0).count();
    assert!(lanes.ports.iter().all(|port| by_queue(port) > 1), "all came by one queue");
    lanes.begin_again();
    assert_eq!(lanes.free(0), FRAMES - FILLED);
}

#[test]
fn each_lane_receives_what_is_steered_to_it_by_every_queue_in_generic_mode() {
    lanes_get_their_own(XdpMode::Generic);
}

#[test]
fn each_lane_receives_what_is_steered_to_it_by_every_queue_in_the_driver() {
    lanes_get_their_own(XdpMode::Native);
}

#[test]
fn one_lane_fills_the_rings_for_both_and_takes_back_what_the_other_sent() {
    let Some(rig) = Rig::veth() else { return };
    let mut lanes = Lanes::new(&rig, XdpMode::Generic);
    let udp = rig.far_udp(4000);
    // More than the rings were filled with: lane 0, for which nothing comes, makes up for it.
    for _ in 0..4 * FILLED / 32 {
        for _ in 0..32 {
            udp.send_to(b"odd", (NEAR, PORTS[1])).unwrap();
        }
        lanes.take(0);
        let memory = &mut lanes.memory[1];
        let mut batch = RxBatch::new();
        lanes.ports[1].rx(&mut memory.frames(), &mut batch).unwrap();
        for packet in batch.items() {
            memory.take(packet);
        }
        lanes.send(1, 4000);
    }
    let received = lanes.ports[1].stats();
    assert!(received.rx_packets >= u64::from(4 * FILLED), "{received:?}");
    assert_eq!(received.rx_dropped, 0);
    lanes.begin_again();
    assert_eq!(lanes.free(0), FRAMES - FILLED);
}

#[test]
fn a_lane_killed_anywhere_costs_the_other_nothing_and_loses_no_frame() {
    /// Instructions of a turn, about, as tests are built.
    const STEPS: u64 = 12_000;
    const DEATHS: u32 = 60;
    const SEED: u64 = 71;
    let Some(rig) = Rig::veth() else { return };
    let mut lanes = Lanes::new(&rig, XdpMode::Generic);
    let udp = rig.far_udp(4000);
    let mut rng = Rng::new(SEED);
    let mut killed = 0;
    for death in 0..DEATHS {
        for _ in 0..4 {
            for port in PORTS {
                udp.send_to(b"to be or not", (NEAR, port)).unwrap();
            }
        }
        // A batch from the pool, which a death on its way to the stock would lose with any port.
        let mut frames = lanes.memory[1].frames();
        let frame = frames.alloc().unwrap();
        frames.release(frame);
        let lane = lanes.region.lane(LaneId(1)).unwrap();
        let mut turn = || {
            let me = Owner { pid: sys::process::pid(), tid: sys::process::tid() };
            std::mem::forget(lane.try_lock(me));
            lanes.take(1);
            lanes.send(1, 4000);
            lanes.take(1);
        };
        killed += u32::from(kill_after(rng.below(STEPS), &mut turn));
        // At times the lane begins anew before the other one has been by.
        if death % 2 == 0 {
            lanes.begin_again();
            lanes.exchange(&[0, 1], std::slice::from_ref(&udp));
        }
        lanes.exchange(&[0], std::slice::from_ref(&udp));
        lanes.begin_again();
        // What the kernel is still sending comes back by and by.
        let deadline = sys::clock::now().plus(base::Duration::from_secs(5));
        while lanes.free(0) < FRAMES - FILLED && sys::clock::now() < deadline {}
        assert_eq!((death, lanes.free(0)), (death, FRAMES - FILLED));
    }
    assert!(killed > DEATHS / 2, "{killed} were killed in a turn");
}
