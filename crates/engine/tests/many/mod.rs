//! Two machines, one with several lanes in one region, and a wire between them that may deliver a packet to any lane.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use core::net::Ipv4Addr;
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use base::{Duration, FrameIdx, Instant, IpAddress, LaneId, MacAddr, Port, Rng};
use engine::{Engine, How, RecvError, RouteTo, SendError};
use region::{Directory, Group, LaneGuard, Owner, Region, RegionShape};
use state::ports::{PORT_LOCAL_PEER, PORT_OWN_ADDRESS, PORT_UP};
use state::{
    CsumState, DropReason, Endpoint, LAYOUT_VERSION, LaneMem, LaneShape, PortInfo, RxBatch, RxFrame, SockRef,
    TcpOptions, TxBatch,
};
use wire::TcpFlags;

use crate::net::{Flow, Packet, chain, flatten, pattern};

pub const FRAMES: u32 = 8192;
const DELAY: Duration = Duration::from_micros(50);

/// A machine: one address, one region, its lanes.
pub struct Machine {
    guards: Vec<LaneGuard>,
    pub addr: Ipv4Addr,
    pub mac: MacAddr,
}

impl Machine {
    fn new(n: u8, lanes: u16, shape: LaneShape, now: Instant) -> Self {
        let region_shape = RegionShape { lanes, lane_bytes: shape.lane_bytes(), frames: FRAMES };
        let words = Region::bytes_needed(&region_shape) / 8;
        let words: Vec<AtomicU64> = (0..words).map(|_| AtomicU64::new(0)).collect();
        let region = Region::format(words.leak(), &region_shape, LAYOUT_VERSION, [7, n.into()]).unwrap();
        region.directory().unwrap().set_seed(u32::from(n) * 77);
        let (addr, mac) = (Ipv4Addr::new(10, 0, 0, n), MacAddr([2, 0, 0, 0, 0, n]));
        let mut addrs = [IpAddress::ANY; state::ports::PORT_ADDRESSES];
        addrs[0] = IpAddress::from_v4(addr);
        let flags = PORT_UP | PORT_OWN_ADDRESS | PORT_LOCAL_PEER;
        let info = PortInfo { addrs, addr_count: 1, flags, super_segment_max: 61_440, mac, mtu: 1500 };
        let make = |lane: u16| {
            let owner = Owner { pid: 1, tid: u32::from(lane) + 1 };
            let mut guard = region.lane(LaneId(lane)).unwrap().try_lock(owner).unwrap();
            LaneMem::format(&mut guard, &shape, [n.into(), lane.into()], now).unwrap();
            guard
        };
        let mut machine = Self { guards: (0..lanes).map(make).collect(), addr, mac };
        for lane in 0..lanes {
            assert!(machine.engine(lane, now, |e| e.set_port(0, &info)));
        }
        machine
    }

    pub fn engine<R>(&mut self, lane: u16, now: Instant, f: impl FnOnce(&mut Engine<'_>) -> R) -> R {
        let guard = &mut self.guards[usize::from(lane)];
        let area = guard.frame_area();
        f(&mut Engine::new(LaneMem::carve(guard.carver(), &area).unwrap(), now))
    }

    pub fn lanes(&self) -> u16 {
        self.guards.len() as u16
    }

    pub fn directory(&self) -> Directory {
        self.guards[0].region().directory().unwrap()
    }

    /// Both lanes at once.
    pub fn pair<R>(
        &mut self,
        (a, b): (u16, u16),
        now: Instant,
        f: impl FnOnce(&mut Engine<'_>, &mut Engine<'_>) -> R,
    ) -> R {
        let [a, b] = self.guards.get_disjoint_mut([usize::from(a), usize::from(b)]).unwrap();
        let areas = (a.frame_area(), b.frame_area());
        let mut one = Engine::new(LaneMem::carve(a.carver(), &areas.0).unwrap(), now);
        let mut two = Engine::new(LaneMem::carve(b.carver(), &areas.1).unwrap(), now);
        f(&mut one, &mut two)
    }
}

/// Shape of a lane with `socks` rows and as many connections asleep as `dormant`.
pub fn shape(socks: u32, dormant: u32) -> LaneShape {
    let shape = LaneShape::for_connections(socks + dormant, socks);
    LaneShape { hops: 8, reassemblies: 2, listeners: 8, udp_socks: 4, ..shape }
}

/// A socket: of which machine, lane, and its name there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sock {
    pub machine: usize,
    pub lane: u16,
    pub name: SockRef,
}

pub struct World {
    pub now: Instant,
    pub rng: Rng,
    pub machines: [Machine; 2],
    /// Packets under way: to which machine.
    flying: BTreeMap<(Instant, u64), (usize, Packet)>,
    number: u64,
    /// Packets to machine 1 come to any lane, else to the lane that the directory names.
    pub misdirect: bool,
    pub loss_ppm: u32,
    /// The lanes do not look into their mailboxes.
    pub hold_mail: bool,
    /// RSTs seen on the wire.
    pub resets: u32,
}

impl World {
    /// Machine 0 has one lane, machine 1 has `lanes`, which share all slots.
    pub fn new(seed: u64, lanes: u16, socks: u32) -> Self {
        Self::with(seed, lanes, shape(socks, 0))
    }

    pub fn with(seed: u64, lanes: u16, shape: LaneShape) -> Self {
        let now = Instant(0).plus(Duration::from_secs(1000));
        let machines = [Machine::new(1, 1, self::shape(256, 0), now), Machine::new(2, lanes, shape, now)];
        if lanes > 1 {
            machines[1].directory().share(lanes);
        }
        let rng = Rng::new(seed);
        Self {
            now,
            rng,
            machines,
            flying: BTreeMap::new(),
            number: 0,
            misdirect: true,
            loss_ppm: 0,
            hold_mail: false,
            resets: 0,
        }
    }

    pub fn on<R>(&mut self, at: (usize, u16), f: impl FnOnce(&mut Engine<'_>) -> R) -> R {
        let now = self.now;
        self.machines[at.0].engine(at.1, now, f)
    }

    /// Every lane of both machines.
    pub fn lanes(&self) -> Vec<(usize, u16)> {
        (0..2).flat_map(|m| (0..self.machines[m].lanes()).map(move |lane| (m, lane))).collect()
    }

    fn send_all(&mut self) {
        for at in self.lanes() {
            loop {
                let packets = self.lose(at);
                if packets.is_empty() {
                    break;
                }
                for packet in packets.into_iter().flat_map(Packet::split) {
                    self.resets += u32::from(packet.tcp().is_some_and(|t| t.flags().contains(TcpFlags::RST)));
                    if !self.rng.chance_ppm(self.loss_ppm) {
                        self.number += 1;
                        let jitter = Duration(self.rng.below(2000));
                        let due = self.now.plus(DELAY).plus(jitter);
                        self.flying.insert((due, self.number), (1 - at.0, packet));
                    }
                }
            }
        }
    }

    /// What the lane `at` has to send now, instead of sending it.
    pub fn lose(&mut self, at: (usize, u16)) -> Vec<Packet> {
        self.on(at, |e| {
            let mut out = TxBatch::new();
            e.poll_transmit(&mut out);
            let packets: Vec<Packet> = out.items().iter().map(|p| flatten(e, p)).collect();
            out.items().iter().for_each(|p| e.mem().frames.release(p.head));
            packets
        })
    }

    fn lane_for(&mut self, machine: usize, packet: &Packet) -> u16 {
        let lanes = u64::from(self.machines[machine].lanes());
        if lanes == 1 || self.misdirect {
            return self.rng.below(lanes) as u16;
        }
        let remote = IpAddress::from_v4(self.machines[1 - machine].addr);
        let Some(tcp) = packet.tcp() else { return 0 };
        let directory = self.machines[machine].directory();
        let group = directory.group_of(tcp.dst_port(), remote, tcp.src_port());
        directory.lane_of(group).map_or(0, |lane| lane.0)
    }

    fn deliver(&mut self, machine: usize, packet: &Packet) {
        let lane = self.lane_for(machine, packet);
        self.receive((machine, lane), packet);
    }

    /// `packet` comes to the lane `at`.
    pub fn receive(&mut self, at: (usize, u16), packet: &Packet) {
        self.on(at, |e| {
            let Some(head) = chain(e, &packet.bytes) else { return };
            let mut batch = RxBatch::new();
            let (len, gso_size) = (packet.bytes.len() as u32, packet.gso_size);
            let csum = CsumState::Unknown;
            assert!(batch.push(RxFrame { head, len, gso_size, port: 0, local_peer: true, csum }));
            e.handle_frames(&mut batch);
        });
    }

    /// Every lane takes its mail.
    pub fn take_mail(&mut self) {
        for at in self.lanes() {
            self.on(at, |e| {
                let mut batch = RxBatch::new();
                while e.take_mail(&mut batch) > 0 {
                    e.handle_frames(&mut batch);
                }
            });
        }
    }

    /// One event further.
    pub fn step(&mut self) {
        self.send_all();
        let mut at = self.flying.keys().next().map_or(Instant::NEVER, |k| k.0);
        for lane in self.lanes() {
            at = at.min(self.on(lane, |e| e.next_deadline()));
        }
        assert!(at != Instant::NEVER, "nothing will ever happen");
        self.now = self.now.max(at);
        while let Some(entry) = self.flying.first_entry()
            && entry.key().0 <= self.now
        {
            let (to, packet) = entry.remove();
            self.deliver(to, &packet);
        }
        if !self.hold_mail {
            self.take_mail();
        }
        for lane in self.lanes() {
            self.on(lane, |e| e.handle_timers());
        }
        self.send_all();
    }

    /// Runs for `d`.
    pub fn run(&mut self, d: Duration) {
        let end = self.now.plus(d);
        loop {
            self.send_all();
            let mut at = self.flying.keys().next().map_or(Instant::NEVER, |k| k.0);
            for lane in self.lanes() {
                at = at.min(self.on(lane, |e| e.next_deadline()));
            }
            if at > end {
                self.now = end;
                return;
            }
            self.step();
        }
    }

    /// A clone of one listener in every lane of machine 1.
    pub fn listen(&mut self, port: u16) -> Vec<SockRef> {
        let local = Endpoint { addr: IpAddress::ANY, port: Port(port) };
        let lanes = 0..self.machines[1].lanes();
        lanes
            .map(|lane| self.on((1, lane), |e| e.tcp_listen(local, 512, &TcpOptions::default())).unwrap())
            .collect()
    }

    pub fn end(&self, machine: usize, port: u16) -> Endpoint {
        Endpoint { addr: IpAddress::from_v4(self.machines[machine].addr), port: Port(port) }
    }

    /// Begins a connection from `from`.
    pub fn connect(&mut self, from: (usize, u16), local: u16, remote: u16) -> Sock {
        let (l, r) = (self.end(from.0, local), self.end(1 - from.0, remote));
        let (local_mac, mac) = (self.machines[from.0].mac, Some(self.machines[1 - from.0].mac));
        let route = RouteTo { port: 0, next_hop: r.addr, local_mac, mac, mtu: 0 };
        let name = self.on(from, |e| e.tcp_connect(l, r, &route, &TcpOptions::default())).unwrap();
        Sock { machine: from.0, lane: from.1, name }
    }

    /// Where `sock` is now.
    pub fn follow(&mut self, sock: &mut Sock) {
        while let Some((lane, name)) = self.on((sock.machine, sock.lane), |e| e.take_moved(sock.name)) {
            (sock.lane, sock.name) = (lane.0, name);
        }
    }

    pub fn group_of(&self, remote_port: u16) -> Group {
        let remote = IpAddress::from_v4(self.machines[0].addr);
        self.machines[1].directory().group_of(Port(80), remote, Port(remote_port))
    }

    pub fn close(&mut self, sock: Sock) {
        let mut sock = sock;
        self.follow(&mut sock);
        self.on((sock.machine, sock.lane), |e| e.close(sock.name));
    }

    pub fn dropped(&mut self, reason: DropReason) -> u64 {
        self.lanes().into_iter().map(|at| self.on(at, |e| e.counters().dropped(reason))).sum()
    }

    /// How often the shared pool of machine `m` was changed.
    pub fn pool_changes(&self, m: usize) -> u32 {
        self.machines[m].guards[0].frame_area().pool_changes()
    }

    /// Free frames of machine `m`, those of the pool included.
    pub fn free_frames(&mut self, m: usize) -> u32 {
        let mut all: Vec<Vec<FrameIdx>> = Vec::new();
        for lane in 0..self.machines[m].lanes() {
            all.push(self.on((m, lane), |e| std::iter::from_fn(|| e.mem().frames.alloc()).collect()));
        }
        let count = all.iter().map(Vec::len).sum::<usize>() as u32;
        for (lane, frames) in (0..).zip(all) {
            self.on((m, lane), |e| frames.iter().for_each(|frame| e.mem().frames.release(*frame)));
        }
        count
    }

    /// Asserts that nothing is held any more.
    pub fn assert_clean(&mut self) {
        self.send_all();
        for at in self.lanes() {
            assert_eq!(self.on(at, |e| e.counters().tcp.open), 0, "connections of {at:?}");
        }
        for m in 0..2 {
            assert_eq!(self.free_frames(m), FRAMES, "free frames of machine {m}");
        }
    }
}

/// Both ends of a connection and what goes over it each way.
pub struct Talk {
    pub ends: [Sock; 2],
    pub flows: [Flow; 2],
}

impl Talk {
    pub fn new(client: Sock, server: Sock, seed: u64, len: usize) -> Self {
        Self {
            ends: [client, server],
            flows: [Flow::new(pattern(seed, len)), Flow::new(pattern(seed + 1, len / 2))],
        }
    }

    /// Writes and reads as far as it goes. True: all has come, both ways.
    pub fn go_on(&mut self, world: &mut World) -> bool {
        for side in 0..2 {
            world.follow(&mut self.ends[side]);
            let Sock { machine, lane, name } = self.ends[side];
            let chunk = 1 + world.rng.below(9000) as usize;
            let flow = &mut self.flows[side];
            world.on((machine, lane), |e| write(e, name, flow, chunk));
            let flow = &mut self.flows[1 - side];
            world.on((machine, lane), |e| read(e, name, flow));
        }
        self.flows.iter().all(|f| f.closed)
    }

    pub fn check(&self) {
        for flow in &self.flows {
            assert_eq!(flow.got.len(), flow.data.len());
            assert!(flow.got == flow.data, "the bytes differ");
        }
    }
}

fn write(e: &mut Engine<'_>, s: SockRef, flow: &mut Flow, chunk: usize) {
    while flow.sent < flow.data.len() {
        let part = &flow.data[flow.sent..(flow.sent + chunk).min(flow.data.len())];
        match e.tcp_send(s, part, false) {
            Ok(n) => flow.sent += n,
            Err(SendError::WouldBlock) => return,
            Err(error) => panic!("send: {error:?}"),
        }
    }
    if !flow.fin {
        e.shutdown(s, How::Write).unwrap();
        flow.fin = true;
    }
}

fn read(e: &mut Engine<'_>, s: SockRef, flow: &mut Flow) {
    let mut buf = [0; 5000];
    while !flow.closed {
        match e.tcp_recv(s, &mut buf, false) {
            Ok(0) => flow.closed = true,
            Ok(n) => flow.got.extend_from_slice(&buf[..n]),
            Err(RecvError::WouldBlock) => return,
            Err(error) => panic!("recv: {error:?}"),
        }
    }
}
