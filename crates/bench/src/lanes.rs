//! The work on Corelane's engine: two lanes joined by an in-memory wire, frames copied onto it and off it.

use std::collections::VecDeque;

use base::{Duration, FrameIdx, Instant, IpAddress, MacAddr, Port};
use engine::{AcceptError, Engine, RouteTo};
use region::{LaneGuard, Owner, Region, RegionShape};
use state::ports::{PORT_ADDRESSES, PORT_UP};
use state::{
    CsumState, Endpoint, Event, LAYOUT_VERSION, LaneMem, LaneShape, PortInfo, Ready, RxBatch, RxFrame,
    SockRef, TcpOptions, TxBatch, TxFrame,
};
use std::net::Ipv4Addr;
use wire::checksum::Sum;

use crate::work::{Cpu, Figure, Rig, Work};

const MESSAGE: usize = 64;
const SERVER_PORT: Port = Port(80);
const QUEUE: u16 = 1;

/// One packet on the wire.
type Packet = (Vec<u8>, usize);

/// One host: a region with one lane, always held by this thread.
struct End {
    guard: LaneGuard,
    addr: IpAddress,
    mac: MacAddr,
    checksums: bool,
    arrived: VecDeque<Packet>,
    departed: VecDeque<Packet>,
    rx: RxBatch,
    tx: TxBatch,
    options: TcpOptions,
}

impl End {
    fn new(host: u8, mtu: usize, checksums: bool, sockets: u32) -> Self {
        let shape = LaneShape::for_socks(sockets);
        let frames = 32_768.max(sockets * 2);
        let region_shape = RegionShape { lanes: 1, lane_bytes: shape.lane_bytes(), frames };
        let words = sys::memory::map_anonymous(Region::bytes_needed(&region_shape)).expect("memory");
        let region = Region::format(words, &region_shape, LAYOUT_VERSION, [7, 11]).expect("a region");
        let lane = region.lane(base::LaneId(0)).expect("lane 0");
        let owner = Owner { pid: sys::process::pid(), tid: sys::process::tid() };
        let mut guard = lane.try_lock(owner).expect("a free lane");
        let area = region.frame_area();
        LaneMem::format(&mut guard, &shape, [13, u64::from(host)], Instant(1)).expect("a lane");
        let mem = LaneMem::carve(guard.carver(), area).expect("the tables");
        let addr = IpAddress::from_v4(Ipv4Addr::new(198, 18, 0, host));
        let mac = MacAddr([2, 0, 0, 0, 0, host]);
        let mut addrs = [IpAddress::ANY; PORT_ADDRESSES];
        if let Some(first) = addrs.first_mut() {
            *first = addr;
        }
        let info =
            PortInfo { addrs, addr_count: 1, flags: PORT_UP, super_segment_max: 0, mac, mtu: mtu as u16 };
        Engine::new(mem, Instant(1)).set_port(0, &info);
        let options = TcpOptions { nodelay: 1, ..TcpOptions::default() };
        let (arrived, departed) = (VecDeque::new(), VecDeque::new());
        let (rx, tx) = (RxBatch::new(), TxBatch::new());
        Self { guard, addr, mac, checksums, arrived, departed, rx, tx, options }
    }

    fn engine<R>(&mut self, now: Instant, f: impl FnOnce(&mut Engine<'_>) -> R) -> R {
        let area = self.guard.region().frame_area();
        let mem = LaneMem::carve(self.guard.carver(), area).expect("the tables");
        f(&mut Engine::new(mem, now))
    }

    /// What arrived goes in, timers run, what came of it goes out.
    fn step(&mut self, now: Instant, spare: &mut Vec<Vec<u8>>) {
        let area = self.guard.region().frame_area();
        let mem = LaneMem::carve(self.guard.carver(), area).expect("the tables");
        let mut engine = Engine::new(mem, now);
        while !self.arrived.is_empty() {
            self.rx.clear();
            while self.rx.room() > 0
                && let Some(packet) = self.arrived.pop_front()
            {
                if let Some(frame) = receive(&mut engine, &packet, self.checksums) {
                    self.rx.push(frame);
                }
                spare.push(packet.0);
            }
            engine.handle_frames(&mut self.rx);
        }
        engine.handle_timers();
        loop {
            self.tx.clear();
            if engine.poll_transmit(&mut self.tx) == 0 {
                break;
            }
            for packet in self.tx.items() {
                let buffer = spare.pop().unwrap_or_else(|| vec![0; 16_384]);
                self.departed.push_back(send(&mut engine, packet, buffer, self.checksums));
            }
        }
    }
}

/// One packet from the wire in a frame (or a chain, when it is longer than one).
fn receive(engine: &mut Engine<'_>, packet: &Packet, checksums: bool) -> Option<RxFrame> {
    let bytes = packet.0.get(..packet.1)?;
    let frames = &mut engine.mem().frames;
    let (mut head, mut last) = (FrameIdx::NONE, FrameIdx::NONE);
    for piece in bytes.chunks(base::limits::FRAME_BYTES - base::limits::FRAME_HEADROOM) {
        let frame = frames.alloc()?;
        let meta = frames.meta_mut(frame)?;
        meta.len = piece.len() as u16;
        frames.data_mut(frame).copy_from_slice(piece);
        if let Some(meta) = frames.meta_mut(last) {
            meta.next = frame;
        } else {
            head = frame;
        }
        last = frame;
    }
    let csum = if checksums { CsumState::Unknown } else { CsumState::Verified };
    Some(RxFrame { head, len: packet.1 as u32, gso_size: 0, port: 0, local_peer: false, csum })
}

/// One packet onto the wire.
fn send(engine: &mut Engine<'_>, packet: &TxFrame, mut buffer: Vec<u8>, checksums: bool) -> Packet {
    let frames = &mut engine.mem().frames;
    let mut len = 0;
    let mut put = |bytes: &[u8]| {
        buffer[len..len + bytes.len()].copy_from_slice(bytes);
        len += bytes.len();
    };
    put(frames.data(packet.head));
    for piece in packet.pieces() {
        let from = usize::from(piece.offset);
        put(&frames.cell(piece.frame)[from..from + usize::from(piece.len)]);
    }
    frames.release(packet.head);
    let start = usize::from(packet.csum_start);
    if checksums && start > 0 {
        let sum = Sum::of(&buffer[start..len]).finish();
        let at = start + usize::from(packet.csum_offset);
        buffer[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }
    (buffer, len)
}

/// Two Corelane lanes.
pub(crate) struct Lanes {
    client: End,
    server: End,
    now: Instant,
    /// Buffers not on the wire.
    spare: Vec<Vec<u8>>,
}

impl Lanes {
    pub(crate) fn new(mtu: usize, checksums: bool, sockets: u32) -> Self {
        let client = End::new(1, mtu, checksums, sockets);
        let server = End::new(2, mtu, checksums, sockets);
        Self { client, server, now: Instant(1_000_000_000), spare: Vec::new() }
    }

    fn client_side(&mut self) {
        self.now = self.now.plus(Duration::from_micros(5));
        self.client.step(self.now, &mut self.spare);
        carry(&mut self.client, &mut self.server);
    }

    fn server_side(&mut self) {
        self.now = self.now.plus(Duration::from_micros(5));
        self.server.step(self.now, &mut self.spare);
        carry(&mut self.server, &mut self.client);
    }

    fn listen(&mut self) -> SockRef {
        let local = Endpoint { addr: self.server.addr, port: SERVER_PORT };
        let options = self.server.options;
        self.server.engine(self.now, |engine| {
            let listener = engine.tcp_listen(local, 4096, &options).expect("a listener");
            engine.set_event_queue(listener, QUEUE, 0);
            listener
        })
    }

    fn connect(&mut self, port: u16, token: u64) -> SockRef {
        let local = Endpoint { addr: self.client.addr, port: Port(port) };
        let remote = Endpoint { addr: self.server.addr, port: SERVER_PORT };
        let route = RouteTo {
            port: 0,
            next_hop: self.server.addr,
            local_mac: self.client.mac,
            mac: Some(self.server.mac),
            mtu: 0,
        };
        let options = self.client.options;
        self.client.engine(self.now, |engine| {
            let sock = engine.tcp_connect(local, remote, &route, &options).expect("a connection");
            engine.set_event_queue(sock, QUEUE, token);
            sock
        })
    }

    /// The echo server's turn: accepts, reads and answers whatever its events name. Closes what the peer closed.
    fn serve(&mut self, listener: SockRef) {
        let now = self.now;
        self.server.engine(now, |engine| {
            let mut buffer = [0u8; 4096];
            while let Some(event) = engine.poll_event(QUEUE) {
                if event.sock == listener {
                    accept_all(engine, listener);
                } else {
                    answer(engine, &event, &mut buffer);
                }
            }
        });
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

/// What `from` sent is what `to` gets.
fn carry(from: &mut End, to: &mut End) {
    to.arrived.append(&mut from.departed);
}

impl Rig for Lanes {
    const NAME: &'static str = "corelane";

    fn short_connections(mut self, concurrent: usize, count: u64) -> Figure {
        let listener = self.listen();
        let (mut port, mut started, mut done) = (1023u16, 0u64, 0u64);
        let mut open = 0;
        let cpu = Cpu::now();
        while done < count {
            while open < concurrent && started < count {
                port = if port >= 65_000 { 1024 } else { port + 1 };
                self.connect(port, 0);
                open += 1;
                started += 1;
            }
            self.client_side();
            self.server_side();
            self.serve(listener);
            self.server_side();
            self.client_side();
            let now = self.now;
            let closed = self.client.engine(now, |engine| {
                let mut buffer = [0u8; MESSAGE];
                let mut closed = 0;
                while let Some(event) = engine.poll_event(QUEUE) {
                    if event.ready.any(Ready::IN)
                        && engine.tcp_recv(event.sock, &mut buffer, false) == Ok(MESSAGE)
                    {
                        engine.close(event.sock);
                        closed += 1;
                    } else if event.ready.any(Ready::OUT) {
                        assert_eq!(engine.tcp_send(event.sock, &[7; MESSAGE], false), Ok(MESSAGE));
                    }
                }
                closed
            });
            open -= closed;
            done += closed as u64;
        }
        cpu.figure(Work::ShortConnections(concurrent), done)
    }

    fn request_response(mut self, connections: usize, count: u64) -> Figure {
        let listener = self.listen();
        let mut clients = Vec::with_capacity(connections);
        for n in 0..connections {
            clients.push(self.connect(1024 + n as u16, n as u64));
            if n % 64 == 63 || n + 1 == connections {
                for _ in 0..3 {
                    self.client_side();
                    self.server_side();
                    self.serve(listener);
                }
            }
        }
        let mut done = 0;
        let cpu = Cpu::now();
        while done < count {
            let now = self.now;
            self.client.engine(now, |engine| {
                while engine.poll_event(QUEUE).is_some() {}
                for sock in &clients {
                    assert_eq!(engine.tcp_send(*sock, &[7; MESSAGE], false), Ok(MESSAGE));
                }
            });
            self.client_side();
            self.server_side();
            self.serve(listener);
            self.server_side();
            self.client_side();
            let now = self.now;
            done += self.client.engine(now, |engine| {
                let mut buffer = [0u8; MESSAGE];
                let mut answers = 0;
                while let Some(event) = engine.poll_event(QUEUE) {
                    if event.ready.any(Ready::IN) {
                        assert_eq!(engine.tcp_recv(event.sock, &mut buffer, false), Ok(MESSAGE));
                        answers += 1;
                    }
                }
                answers
            });
        }
        cpu.figure(Work::RequestResponse(connections), done)
    }

    fn bulk(mut self, mtu: usize, bytes: u64) -> Figure {
        let listener = self.listen();
        let client = self.connect(1024, 0);
        for _ in 0..4 {
            self.client_side();
            self.server_side();
        }
        let server =
            self.server.engine(self.now, |engine| engine.tcp_accept(listener).expect("a connection").sock);
        let data = vec![7u8; 65_536];
        let mut buffer = vec![0u8; 65_536];
        let (mut sent, mut got) = (0u64, 0u64);
        let cpu = Cpu::now();
        while got < bytes {
            let now = self.now;
            self.client.engine(now, |engine| {
                while sent < bytes {
                    let want = data.len().min((bytes - sent) as usize);
                    match engine.tcp_send(client, &data[..want], false) {
                        Ok(n) => sent += n as u64,
                        Err(_) => break,
                    }
                }
            });
            self.client_side();
            self.server_side();
            let now = self.now;
            self.server.engine(now, |engine| {
                while let Ok(n) = engine.tcp_recv(server, &mut buffer, false)
                    && n > 0
                {
                    got += n as u64;
                }
            });
            self.server_side();
        }
        cpu.figure(Work::Bulk(mtu), got)
    }
}
