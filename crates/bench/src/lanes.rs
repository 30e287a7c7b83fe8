//! The work on Corelane's engine: two lanes joined by an in-memory wire, which copies each packet from one lane's frames to the other's.
//!
//! Each end works as a lane's holder does: it takes what has arrived, lets its program answer, and sends at most a batch.

use std::net::Ipv4Addr;

use base::limits::{BATCH_FRAMES, FRAME_BYTES, FRAME_HEADROOM};
use base::{Duration, FrameIdx, Instant, IpAddress, MacAddr, Port};
use engine::{AcceptError, Engine, RouteTo};
use region::{FrameArea, LaneGuard, Owner, Region, RegionShape};
use state::ports::{PORT_ADDRESSES, PORT_UP};
use state::{
    CsumState, Endpoint, Event, LAYOUT_VERSION, LaneMem, LaneShape, PortInfo, Ready, RxBatch, RxFrame,
    SockRef, TcpOptions, TxBatch, TxFrame,
};
use wire::checksum::Sum;

use crate::work::{Cpu, Figure, Loss, Rig, Setting, WARM_ROUNDS, Work};

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
/// Bytes of them in front of the TCP header.
const TCP_AT: usize = wire::usual::TCP_AT;
/// Buffers of the two ends of a stream, bytes.
const BULK_BUFFER: u32 = 256 << 10;
/// What a program writes and reads of a stream at once, bytes.
const BULK_PIECE: usize = 64 << 10;

/// One direction of the wire. It copies each packet once, from frames of the sender into frames of the receiver: no more than
/// the peers' rigs do, which hand their buffers over.
struct Wire {
    loss: Loss,
    /// Packets carried at the last time.
    carried: usize,
}

impl Wire {
    fn new(setting: &Setting) -> Self {
        Self { loss: Loss::new(setting), carried: 0 }
    }

    /// A batch at most goes from `from` to `to`.
    fn carry(&mut self, from: &mut End<'_>, to: &mut End<'_>) {
        self.carried = 0;
        if !from.engine.transmit_pending() {
            return;
        }
        from.tx.clear();
        self.carried = from.engine.poll_transmit(&mut from.tx);
        let (frames, room) = (&mut from.engine.mem().frames, &mut to.engine.mem().frames);
        let csum = if to.checksums { CsumState::Unknown } else { CsumState::Verified };
        for packet in from.tx.items() {
            if !self.loss.next() {
                let whole = copy_whole(frames, packet, room, from.checksums);
                let head =
                    whole.or_else(|| copy(frames, packet, room, from.checksums)).expect("a free frame");
                let len = packet.bytes();
                to.rx.push(RxFrame { head, len, gso_size: 0, port: 0, local_peer: false, csum });
            }
            frames.release(packet.head);
        }
    }
}

/// [`copy`] of a usual segment whose payload lies in one frame: the headers' copy is a few instructions. `None`: it is none.
#[inline]
fn copy_whole(
    frames: &region::Frames<'_>,
    packet: &TxFrame,
    room: &mut region::Frames<'_>,
    checksums: bool,
) -> Option<FrameIdx> {
    const FIELD: usize = TCP_AT + wire::tcp::CHECKSUM_OFFSET;
    let headers = frames.data(packet.head);
    let usual = headers.first_chunk::<USUAL>().filter(|_| headers.len() == USUAL)?;
    let payload = match packet.pieces() {
        [] => &[],
        [piece] => bytes_of(frames, piece)?,
        _ => return None,
    };
    let len = USUAL + payload.len();
    if len > FRAME_BYTES - FRAME_HEADROOM || usize::from(packet.csum_start) != TCP_AT {
        return None;
    }
    let head = room.alloc_at(FRAME_HEADROOM as u16, len as u16, 0)?;
    let to = room.room_mut(head, FRAME_HEADROOM).get_mut(..len)?;
    let (front, behind) = to.split_first_chunk_mut::<USUAL>()?;
    *front = *usual;
    behind.copy_from_slice(payload);
    if checksums {
        let check = Sum::of(to.get(TCP_AT..)?).finish();
        *to.get_mut(FIELD..)?.first_chunk_mut()? = check.to_be_bytes();
    }
    Some(head)
}

/// A copy of `packet` in `room`, with its checksum completed as a device does it if there are checksums.
#[inline]
fn copy(
    frames: &region::Frames<'_>,
    packet: &TxFrame,
    room: &mut region::Frames<'_>,
    checksums: bool,
) -> Option<FrameIdx> {
    let headers = frames.data(packet.head);
    let mut to = Chain::new(room, packet.bytes() as usize)?;
    to.put(headers)?;
    for piece in packet.pieces() {
        to.put(bytes_of(frames, piece)?)?;
    }
    let (Chain { frames: room, head, last, .. }, start) = (to, usize::from(packet.csum_start));
    if checksums && start > 0 {
        let at = start + usize::from(packet.csum_offset);
        let data = room.data_mut(head);
        let mut sum = Sum::of(data.get(start..)?);
        if head != last {
            sum = Sum::of(headers.get(start..)?);
            for piece in packet.pieces() {
                sum = sum.plus_bytes(bytes_of(frames, piece)?);
            }
        }
        data.get_mut(at..at + 2)?.copy_from_slice(&sum.finish().to_be_bytes());
    }
    Some(head)
}

fn bytes_of<'f>(frames: &'f region::Frames<'_>, piece: &state::Piece) -> Option<&'f [u8]> {
    let from = usize::from(piece.offset);
    frames.cell(piece.frame).get(from..from + usize::from(piece.len))
}

/// A chain of frames being filled, cut as ports cut: headroom in the first frame only, or the longest packets would take more
/// frames than a chain has.
struct Chain<'r, 'a> {
    frames: &'r mut region::Frames<'a>,
    head: FrameIdx,
    last: FrameIdx,
    /// Bytes of the last frame's cell before the next byte, and before the end of the frame's data.
    at: usize,
    end: usize,
    /// Bytes of frames still to come.
    left: usize,
}

impl<'r, 'a> Chain<'r, 'a> {
    /// A chain for `len` bytes.
    #[inline]
    fn new(frames: &'r mut region::Frames<'a>, len: usize) -> Option<Self> {
        let first = len.min(FRAME_BYTES - FRAME_HEADROOM);
        let head = frames.alloc_at(FRAME_HEADROOM as u16, first as u16, 0)?;
        let end = FRAME_HEADROOM + first;
        Some(Self { frames, head, last: head, at: FRAME_HEADROOM, end, left: len - first })
    }

    #[inline]
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        if bytes.len() > self.end - self.at {
            return self.put_over(bytes);
        }
        self.frames.room_mut(self.last, self.at).get_mut(..bytes.len())?.copy_from_slice(bytes);
        self.at += bytes.len();
        Some(())
    }

    /// [`Chain::put`] of bytes that go on in the next frame.
    fn put_over(&mut self, bytes: &[u8]) -> Option<()> {
        let (front, rest) = bytes.split_at_checked(self.end - self.at)?;
        self.put(front)?;
        let len = self.left.min(FRAME_BYTES);
        let next = self.frames.alloc_at(0, len as u16, 0)?;
        self.frames.meta_mut(self.last)?.next = next;
        (self.last, self.at, self.end) = (next, 0, len);
        self.left -= len;
        self.put(rest)
    }
}

/// One host: a region with one lane, whose lock this thread holds all the time.
struct Host {
    guard: LaneGuard,
    area: FrameArea,
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
        let mut host = Self { area: guard.frame_area(), guard, addr, mac };
        host.engine().set_port(0, &info);
        host
    }

    fn engine(&mut self) -> Engine<'_> {
        Engine::new(LaneMem::carve(self.guard.carver(), &self.area).expect("the tables"), Instant(1))
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
    fn receive(&mut self, now: Instant) {
        self.engine.set_now(now);
        self.engine.handle_frames(&mut self.rx);
        self.engine.handle_timers();
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
        // The clock goes by about what the work takes: delayed acknowledgements fall due among as many exchanges as on a real one.
        self.there.carry(&mut self.client, &mut self.server);
        self.now = self.now.plus(Duration::from_micros(5 + self.there.carried as u64 / 2));
        self.server.receive(self.now);
        program(&mut self.server.engine, &mut self.buffer);
        self.back.carry(&mut self.server, &mut self.client);
        // Nothing on the wire: something was lost and is waited for, so time goes faster.
        let idle = self.there.carried + self.back.carried == 0;
        let passed = if idle { 1_000 } else { 5 + self.back.carried as u64 / 2 };
        self.now = self.now.plus(Duration::from_micros(passed));
        self.client.receive(self.now);
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

/// The client's side of request and response, over connections that take turns.
struct Turns<'c> {
    clients: &'c [SockRef],
    /// Whose turn is next.
    first: usize,
}

impl Turns<'_> {
    /// At least `count` exchanges; gives their number.
    fn exchange(&mut self, world: &mut World<'_>, count: u64) -> u64 {
        let connections = self.clients.len();
        let active = Work::active(connections);
        let mut buffer = [0u8; MESSAGE];
        let mut done = 0;
        while done < count {
            for n in self.first..self.first + active {
                let sock = self.clients[if n < connections { n } else { n - connections }];
                assert_eq!(world.client.engine.tcp_send(sock, &[7; MESSAGE], false), Ok(MESSAGE));
            }
            self.first = (self.first + active) % connections;
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
        done
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
        let mut turns = Turns { clients: &clients, first: 0 };
        // What is touched for the first time, at the first exchanges of each connection, does not count.
        turns.exchange(&mut world, WARM_ROUNDS * connections as u64);
        let cpu = Cpu::now();
        let done = turns.exchange(&mut world, count);
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
