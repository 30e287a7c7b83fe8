//! The work on Corelane's engine: two lanes joined by an in-memory wire, frames copied onto it and off it.
//!
//! Each end works as a lane's holder does: it takes what has arrived, lets its program answer, and sends at most a batch.

use std::net::Ipv4Addr;

use base::limits::{BATCH_FRAMES, FRAME_BYTES, FRAME_HEADROOM};
use base::{Duration, FrameIdx, Instant, IpAddress, MacAddr, Port};
use engine::{AcceptError, Engine, RouteTo};
use region::{LaneGuard, Owner, Region, RegionShape};
use state::ports::{PORT_ADDRESSES, PORT_UP};
use state::{
    CsumState, Endpoint, Event, LAYOUT_VERSION, LaneMem, LaneShape, PortInfo, Ready, RxBatch, RxFrame,
    SockRef, TcpOptions, TxBatch, TxFrame,
};
use wire::checksum::Sum;

use crate::work::{Cpu, Figure, Loss, Rig, Setting, Work};

pub(crate) const MESSAGE: usize = 64;
/// First of the ports that the server listens on: one for each [`CLIENT_PORTS`] connections.
const SERVER_PORT: u16 = 80;
/// Source ports of the client, from 1024 on.
const CLIENT_PORTS: usize = 60_000;
/// Token of a listener's events; those of connections are smaller.
const LISTENER: u64 = u64::MAX;
pub(crate) const QUEUE: u16 = 1;
/// Bytes of the headers of a usual segment.
const USUAL: usize = wire::usual::HEADER_LEN;
/// Buffers of the two ends of a stream, bytes.
const BULK_BUFFER: u32 = 256 << 10;
/// What a program writes and reads of a stream at once, bytes.
const BULK_PIECE: usize = 64 << 10;

/// One direction of the wire: at most a batch of packets, in buffers of fixed length.
struct Wire {
    bytes: Vec<u8>,
    stride: usize,
    lens: [usize; BATCH_FRAMES],
    count: usize,
    loss: Loss,
}

impl Wire {
    fn new(setting: &Setting) -> Self {
        let stride = (setting.mtu + wire::eth::HEADER_LEN).next_multiple_of(base::CACHE_LINE);
        let (bytes, lens) = (vec![0; stride * BATCH_FRAMES], [0; BATCH_FRAMES]);
        Self { bytes, stride, lens, count: 0, loss: Loss::new(setting) }
    }

    /// Copies `packet` onto the wire, as a device does that completes checksums.
    fn put(&mut self, frames: &region::Frames<'_>, packet: &TxFrame, checksums: bool) {
        let slot = self.stride * self.count;
        let buffer = &mut self.bytes[slot..slot + self.stride];
        let head = frames.data(packet.head);
        let mut len = head.len();
        // Most headers are those of usual segments, whose copy is a few instructions.
        match (head.first_chunk::<USUAL>(), buffer.first_chunk_mut::<USUAL>()) {
            (Some(from), Some(to)) if len == USUAL => *to = *from,
            _ => buffer[..len].copy_from_slice(head),
        }
        for piece in packet.pieces() {
            let from = usize::from(piece.offset);
            let bytes = &frames.cell(piece.frame)[from..from + usize::from(piece.len)];
            buffer[len..len + bytes.len()].copy_from_slice(bytes);
            len += bytes.len();
        }
        let start = usize::from(packet.csum_start);
        if checksums && start > 0 {
            let sum = Sum::of(&buffer[start..len]).finish();
            let at = start + usize::from(packet.csum_offset);
            buffer[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        self.lens[self.count] = len;
        self.count += 1;
    }

    /// Copies what is on the wire to `rx`, in frames, or in chains where a packet is longer than one.
    fn take(&mut self, frames: &mut region::Frames<'_>, rx: &mut RxBatch, checksums: bool) {
        let csum = if checksums { CsumState::Unknown } else { CsumState::Verified };
        for (buffer, len) in self.bytes.chunks_exact(self.stride).zip(&self.lens[..self.count]) {
            if self.loss.next() {
                continue;
            }
            let head = fill(frames, &buffer[..*len]).expect("a free frame");
            rx.push(RxFrame { head, len: *len as u32, gso_size: 0, port: 0, local_peer: false, csum });
        }
        self.count = 0;
    }
}

/// A chain of frames with `packet`, cut as ports cut: headroom in the first frame only, or the longest packets would take
/// more frames than a chain has.
#[inline]
fn fill(frames: &mut region::Frames<'_>, packet: &[u8]) -> Option<FrameIdx> {
    if packet.len() <= FRAME_BYTES - FRAME_HEADROOM {
        let frame = frames.alloc()?;
        frames.meta_mut(frame)?.len = packet.len() as u16;
        frames.data_mut(frame).copy_from_slice(packet);
        return Some(frame);
    }
    let (front, rest) = packet.split_at(FRAME_BYTES - FRAME_HEADROOM);
    let head = frames.alloc()?;
    frames.meta_mut(head)?.len = front.len() as u16;
    frames.data_mut(head).copy_from_slice(front);
    let mut last = head;
    for piece in rest.chunks(FRAME_BYTES) {
        let frame = frames.alloc()?;
        let meta = frames.meta_mut(frame)?;
        (meta.offset, meta.len) = (0, piece.len() as u16);
        frames.data_mut(frame).copy_from_slice(piece);
        frames.meta_mut(last)?.next = frame;
        last = frame;
    }
    Some(head)
}

/// One host: a region with one lane, whose lock this thread holds all the time.
struct Host {
    guard: LaneGuard,
    addr: IpAddress,
    mac: MacAddr,
}

impl Host {
    fn new(host: u8, setting: &Setting) -> Self {
        let shape =
            LaneShape { listeners: 256, dormant: setting.dormant, ..LaneShape::for_socks(setting.sockets) };
        let frames = (setting.sockets * 2).clamp(32_768, 131_072);
        let region_shape = RegionShape { lanes: 1, lane_bytes: shape.lane_bytes(), frames };
        let words = sys::memory::map_anonymous(Region::bytes_needed(&region_shape)).expect("memory");
        let region = Region::format(words, &region_shape, LAYOUT_VERSION, [7, 11]).expect("a region");
        let lane = region.lane(base::LaneId(0)).expect("lane 0");
        let owner = Owner { pid: sys::process::pid(), tid: sys::process::tid() };
        let mut guard = lane.try_lock(owner).expect("a free lane");
        LaneMem::format(&mut guard, &shape, [13, u64::from(host)], Instant(1)).expect("a lane");
        let addr = IpAddress::from_v4(Ipv4Addr::new(198, 18, 0, host));
        let mac = MacAddr([2, 0, 0, 0, 0, host]);
        let mut addrs = [IpAddress::ANY; PORT_ADDRESSES];
        addrs[0] = addr;
        let mtu = setting.mtu as u16;
        let info = PortInfo { addrs, addr_count: 1, flags: PORT_UP, super_segment_max: 0, mac, mtu };
        let mut host = Self { guard, addr, mac };
        host.engine().set_port(0, &info);
        host
    }

    fn engine(&mut self) -> Engine<'_> {
        let area = self.guard.frame_area();
        Engine::new(LaneMem::carve(self.guard.carver(), area).expect("the tables"), Instant(1))
    }
}

/// One end at work.
pub(crate) struct End<'a> {
    pub(crate) engine: Engine<'a>,
    addr: IpAddress,
    mac: MacAddr,
    checksums: bool,
    rx: RxBatch,
    tx: TxBatch,
}

impl<'a> End<'a> {
    fn new(host: &'a mut Host, checksums: bool) -> Self {
        let (addr, mac) = (host.addr, host.mac);
        Self { engine: host.engine(), addr, mac, checksums, rx: RxBatch::new(), tx: TxBatch::new() }
    }

    /// What arrived goes in, timers run.
    fn receive(&mut self, wire: &mut Wire, now: Instant) {
        self.engine.set_now(now);
        wire.take(&mut self.engine.mem().frames, &mut self.rx, self.checksums);
        self.engine.handle_frames(&mut self.rx);
        self.engine.handle_timers();
    }

    /// A batch at most goes out. The wire is empty before.
    fn transmit(&mut self, wire: &mut Wire) {
        if !self.engine.transmit_pending() {
            return;
        }
        self.tx.clear();
        self.engine.poll_transmit(&mut self.tx);
        for packet in self.tx.items() {
            let frames = &mut self.engine.mem().frames;
            wire.put(frames, packet, self.checksums);
            frames.release(packet.head);
        }
    }
}

/// Two Corelane lanes.
pub(crate) struct Lanes {
    client: Host,
    server: Host,
    setting: Setting,
}

impl Lanes {
    pub(crate) fn new(setting: &Setting) -> Self {
        Self { client: Host::new(1, setting), server: Host::new(2, setting), setting: *setting }
    }

    pub(crate) fn world(&mut self) -> World<'_> {
        World {
            client: End::new(&mut self.client, self.setting.checksums),
            server: End::new(&mut self.server, self.setting.checksums),
            there: Wire::new(&self.setting),
            back: Wire::new(&self.setting),
            now: Instant(1_000_000_000),
            options: TcpOptions { nodelay: 1, ..TcpOptions::default() },
            buffer: vec![0; BULK_PIECE],
        }
    }
}

/// Both ends, and the wire between them.
pub(crate) struct World<'a> {
    pub(crate) client: End<'a>,
    pub(crate) server: End<'a>,
    there: Wire,
    back: Wire,
    pub(crate) now: Instant,
    options: TcpOptions,
    buffer: Vec<u8>,
}

impl World<'_> {
    /// What the client has to send goes to the server, whose program gets its turn; and back.
    pub(crate) fn turn(&mut self, program: impl FnOnce(&mut Engine<'_>, &mut [u8])) {
        self.client.transmit(&mut self.there);
        let there = self.there.lens.len();
        // About what the work takes: delayed acknowledgements fall due among as many exchanges as on a real clock.
        self.now = self.now.plus(Duration::from_micros(5 + there as u64 / 2));
        self.server.receive(&mut self.there, self.now);
        program(&mut self.server.engine, &mut self.buffer);
        self.server.transmit(&mut self.back);
        // Nothing on the wire: something was lost and is waited for, so time goes faster.
        let idle = there + self.back.lens.len() == 0;
        self.now = self.now.plus(Duration::from_micros(if idle {
            1_000
        } else {
            5 + self.back.lens.len() as u64 / 2
        }));
        self.client.receive(&mut self.back, self.now);
    }

    /// Listens for so many connections.
    pub(crate) fn listen(&mut self, connections: usize) {
        for n in 0..connections.div_ceil(CLIENT_PORTS) as u16 {
            let local = Endpoint { addr: self.server.addr, port: Port(SERVER_PORT + n) };
            let engine = &mut self.server.engine;
            let listener = engine.tcp_listen(local, 4096, &self.options).expect("a listener");
            engine.set_event_queue(listener, QUEUE, LISTENER);
        }
    }

    /// Opens connection number `n`.
    pub(crate) fn connect(&mut self, n: usize) -> SockRef {
        let local = Endpoint { addr: self.client.addr, port: Port(1024 + (n % CLIENT_PORTS) as u16) };
        let port = Port(SERVER_PORT + (n / CLIENT_PORTS) as u16);
        let remote = Endpoint { addr: self.server.addr, port };
        let route = RouteTo {
            port: 0,
            next_hop: self.server.addr,
            local_mac: self.client.mac,
            mac: Some(self.server.mac),
            mtu: 0,
        };
        let engine = &mut self.client.engine;
        let sock = engine.tcp_connect(local, remote, &route, &self.options).expect("a connection");
        engine.set_event_queue(sock, QUEUE, n as u64);
        sock
    }
}

/// The echo server's turn: accepts, reads and answers whatever its events name. Closes what the peer closed.
pub(crate) fn serve(engine: &mut Engine<'_>, buffer: &mut [u8]) {
    while let Some(event) = engine.poll_event(QUEUE) {
        if event.token == LISTENER {
            accept_all(engine, event.sock);
        } else {
            answer(engine, &event, buffer);
        }
    }
}

fn accept_all(engine: &mut Engine<'_>, listener: SockRef) {
    loop {
        match engine.tcp_accept(listener) {
            Ok(accepted) => {
                engine.set_event_queue(accepted.sock, QUEUE, 0);
            }
            Err(AcceptError::WouldBlock | AcceptError::Gone) => return,
        }
    }
}

fn answer(engine: &mut Engine<'_>, event: &Event, buffer: &mut [u8]) {
    if !event.ready.any(Ready::IN | Ready::RDHUP | Ready::HUP | Ready::ERR) {
        return;
    }
    loop {
        match engine.tcp_recv(event.sock, buffer, false) {
            Ok(0) => return engine.close(event.sock),
            Ok(n) => {
                let sent = engine.tcp_send(event.sock, &buffer[..n], false).expect("room for an answer");
                assert_eq!(sent, n);
                if n < buffer.len() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

impl Rig for Lanes {
    fn short_connections(mut self, concurrent: usize, count: u64) -> Figure {
        let mut world = self.world();
        world.listen(1);
        let (mut started, mut done) = (0u64, 0u64);
        let mut open = 0;
        let mut buffer = [0u8; MESSAGE];
        let cpu = Cpu::now();
        while done < count {
            while open < concurrent && started < count {
                world.connect(started as usize % CLIENT_PORTS);
                open += 1;
                started += 1;
            }
            world.turn(serve);
            let engine = &mut world.client.engine;
            while let Some(event) = engine.poll_event(QUEUE) {
                if event.ready.any(Ready::IN)
                    && engine.tcp_recv(event.sock, &mut buffer, false) == Ok(MESSAGE)
                {
                    engine.close(event.sock);
                    open -= 1;
                    done += 1;
                } else if event.ready.any(Ready::OUT) {
                    assert_eq!(engine.tcp_send(event.sock, &[7; MESSAGE], false), Ok(MESSAGE));
                }
            }
        }
        cpu.figure(done)
    }

    fn request_response(mut self, connections: usize, count: u64) -> Figure {
        let mut world = self.world();
        world.listen(connections);
        let mut clients = Vec::with_capacity(connections);
        for n in 0..connections {
            clients.push(world.connect(n));
            if n % BATCH_FRAMES == BATCH_FRAMES - 1 || n + 1 == connections {
                for _ in 0..4 {
                    world.turn(serve);
                }
            }
        }
        while world.client.engine.poll_event(QUEUE).is_some() {}
        let active = Work::active(connections);
        let (mut done, mut first) = (0, 0);
        let mut buffer = [0u8; MESSAGE];
        let cpu = Cpu::now();
        while done < count {
            for n in first..first + active {
                let sock = clients[if n < connections { n } else { n - connections }];
                assert_eq!(world.client.engine.tcp_send(sock, &[7; MESSAGE], false), Ok(MESSAGE));
            }
            first = (first + active) % connections;
            let mut missing = active;
            while missing > 0 {
                world.turn(serve);
                let engine = &mut world.client.engine;
                while let Some(event) = engine.poll_event(QUEUE) {
                    if event.ready.any(Ready::IN) {
                        assert_eq!(engine.tcp_recv(event.sock, &mut buffer, false), Ok(MESSAGE));
                        missing -= 1;
                    }
                }
            }
            done += active as u64;
        }
        cpu.figure(done)
    }

    fn bulk(mut self, bytes: u64) -> Figure {
        let mut world = self.world();
        world.options.snd_buf_bytes = BULK_BUFFER;
        world.options.rcv_buf_bytes = BULK_BUFFER;
        world.listen(1);
        let client = world.connect(0);
        for _ in 0..4 {
            world.turn(|_, _| {});
        }
        let event = world.server.engine.poll_event(QUEUE).expect("the listener's event");
        let server = world.server.engine.tcp_accept(event.sock).expect("a connection").sock;
        let data = vec![7u8; BULK_PIECE];
        let (mut sent, mut got) = (0u64, 0u64);
        let cpu = Cpu::now();
        while got < bytes {
            while sent < bytes {
                let want = data.len().min((bytes - sent) as usize);
                match world.client.engine.tcp_send(client, &data[..want], false) {
                    Ok(n) => sent += n as u64,
                    Err(_) => break,
                }
            }
            world.turn(|engine, buffer| {
                while let Ok(n) = engine.tcp_recv(server, buffer, false)
                    && n > 0
                {
                    got += n as u64;
                }
            });
        }
        cpu.figure(got)
    }
}
