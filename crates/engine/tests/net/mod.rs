//! Two hosts with one lane each, of either family, and a wire between them in virtual time: delay, loss, duplication and reordering by seed.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "each test file uses its own part of the net"
)]

use core::net::{Ipv4Addr, Ipv6Addr};
use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;

use base::limits::{FRAME_BYTES, FRAME_HEADROOM};
use base::{Duration, FrameIdx, Instant, IpAddress, LaneId, MacAddr, Port, Rng, SeqNum};
use engine::{AcceptError, ConnectError, Engine, RecvError, RouteTo, SendError, State};
use region::{LaneGuard, Owner, Region, RegionShape};
use state::ports::{PORT_LOCAL_PEER, PORT_OWN_ADDRESS, PORT_UP};
use state::{
    CsumState, DropReason, Endpoint, LAYOUT_VERSION, LaneMem, LaneShape, PortInfo, RxBatch, RxFrame, SockRef,
    TcpOptions, TxBatch, TxFrame,
};
use wire::{EthFrame, EtherType, IpProtocol, Ipv4Packet, Ipv6Packet, TcpFlags, TcpSegment};

/// Is this the test program that runs everything over IPv6?
pub const V6: bool = matches!(env!("CARGO_CRATE_NAME").as_bytes(), b"tcp_over_ipv6");
/// Where the TCP header begins.
pub const TCP_AT: usize = if V6 { 54 } else { 34 };
/// Bytes of IP and TCP header without options.
pub const HEADERS: u16 = if V6 { 60 } else { 40 };
/// Payload of a full segment with timestamps on a link of 1500 bytes.
pub const MSS: u16 = 1500 - HEADERS - 12;
/// EtherType of every packet.
pub const ETHERTYPE: EtherType = if V6 { EtherType::IPV6 } else { EtherType::IPV4 };

/// A packet on the wire.
#[derive(Clone)]
pub struct Packet {
    pub bytes: Vec<u8>,
    pub gso_size: u16,
    /// The port of its sender.
    pub port: u8,
}

impl Packet {
    /// Its TCP segment, if it is one.
    pub fn tcp(&self) -> Option<TcpSegment<'_>> {
        let eth = EthFrame::parse(&self.bytes).ok()?;
        if eth.ethertype() == EtherType::IPV6 {
            let ip = Ipv6Packet::parse(eth.payload()).ok()?;
            return (ip.next_header() == IpProtocol::TCP)
                .then(|| TcpSegment::parse(ip.payload()).ok())
                .flatten();
        }
        if eth.ethertype() != EtherType::IPV4 {
            return None;
        }
        let ip = Ipv4Packet::parse(eth.payload()).ok()?;
        (ip.protocol() == IpProtocol::TCP).then(|| TcpSegment::parse(ip.payload()).ok()).flatten()
    }

    /// Cuts a super-segment into segments, as a device does.
    pub fn split(self) -> Vec<Packet> {
        let size = usize::from(self.gso_size);
        let (header, seq, flags, len) = match self.tcp() {
            Some(t) if size > 0 => (TCP_AT + t.header_len(), t.seq(), t.flags(), t.payload().len()),
            _ => return vec![self],
        };
        let mut parts = Vec::new();
        let mut at = 0;
        while at < len {
            let n = size.min(len - at);
            let last = at + n == len;
            let mut bytes = self.bytes[..header].to_vec();
            bytes.extend_from_slice(&self.bytes[header + at..header + at + n]);
            let total = (bytes.len() - 14) as u16;
            if V6 {
                bytes[18..20].copy_from_slice(&(total - 40).to_be_bytes());
            } else {
                wire::ipv4::patch_len_and_ident(&mut bytes[14..], total, 0).unwrap();
            }
            let flags = if last { flags } else { flags.without(TcpFlags::FIN | TcpFlags::PSH) };
            wire::tcp::patch_seq_and_flags(&mut bytes[TCP_AT..], seq.plus(at as u32), flags).unwrap();
            finish_checksum(&mut bytes);
            parts.push(Packet { bytes, gso_size: 0, port: self.port });
            at += n;
        }
        parts
    }
}

pub fn finish_checksum(bytes: &mut [u8]) {
    let pseudo = if V6 {
        let ip = Ipv6Packet::parse(&bytes[14..]).unwrap();
        wire::checksum::pseudo_v6(ip.src(), ip.dst(), IpProtocol::TCP, ip.payload_len() as u32)
    } else {
        let ip = Ipv4Packet::parse(&bytes[14..]).unwrap();
        wire::checksum::pseudo_v4(ip.src(), ip.dst(), IpProtocol::TCP, ip.payload_len() as u16)
    };
    wire::tcp::fill_checksum(&mut bytes[TCP_AT..], pseudo).unwrap();
}

/// The address of host `n`.
pub fn address(n: u8) -> IpAddress {
    if V6 {
        IpAddress::from_v6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()))
    } else {
        IpAddress::from_v4(Ipv4Addr::new(10, 0, 0, n))
    }
}

/// How the wire treats packets.
#[derive(Clone, Copy)]
pub struct Faults {
    pub loss_ppm: u32,
    pub dup_ppm: u32,
    pub reorder_ppm: u32,
    pub delay: Duration,
    /// Cuts super-segments, so that each segment can be lost alone.
    pub split: bool,
    /// Bytes behind each packet, as of a short Ethernet frame. A packet with padding is none of the usual segments.
    pub padding: usize,
    pub bottleneck: Option<Bottleneck>,
}

impl Faults {
    pub const NONE: Self = Self {
        loss_ppm: 0,
        dup_ppm: 0,
        reorder_ppm: 0,
        delay: Duration::from_micros(50),
        split: true,
        padding: 0,
        bottleneck: None,
    };
}

/// The narrowest link of the way from host 0 to host 1, with the queue in front of it.
#[derive(Clone, Copy)]
pub struct Bottleneck {
    pub bits_per_s: u64,
    /// What finds more in the queue is dropped, bytes.
    pub queue_bytes: u64,
    /// What finds more in the queue is marked if its sender knows ECN (RFC 3168 5), bytes.
    pub mark_bytes: u64,
}

/// How hosts are made.
#[derive(Clone, Copy)]
pub struct Setup {
    pub mtu: u16,
    pub super_segment_max: u32,
    pub frames: u32,
    pub socks: u32,
    /// Connections besides those that may hibernate.
    pub dormant: u32,
}

impl Setup {
    pub const USUAL: Self =
        Self { mtu: 1500, super_segment_max: 61_440, frames: 4096, socks: 64, dormant: 0 };
}

pub struct Host {
    guard: Option<LaneGuard>,
    memory: (*mut u64, usize),
    pub addr: IpAddress,
    pub mac: MacAddr,
}

impl Host {
    fn new(n: u8, setup: &Setup, now: Instant) -> Self {
        let shape = LaneShape {
            udp_socks: 4,
            hops: 4,
            reassemblies: 2,
            listeners: 8,
            dormant: setup.dormant,
            ..LaneShape::for_socks(setup.socks)
        };
        let region_shape = RegionShape { lanes: 1, lane_bytes: shape.lane_bytes(), frames: setup.frames };
        let zeroed: &'static mut [u64] = vec![0; (Region::bytes_needed(&region_shape) / 8) as usize].leak();
        let memory = (zeroed.as_mut_ptr(), zeroed.len());
        // SAFETY: an `AtomicU64` is as long and as aligned as a `u64`; the memory lasts until the host is dropped.
        let words = unsafe { std::slice::from_raw_parts(memory.0.cast::<AtomicU64>(), memory.1) };
        let region = Region::format(words, &region_shape, LAYOUT_VERSION, [7, u64::from(n)]).unwrap();
        let mut guard = region.lane(LaneId(0)).unwrap().try_lock(Owner { pid: 1, tid: 1 }).unwrap();
        LaneMem::format(&mut guard, &shape, [n.into(), 2], now).unwrap();
        let guard = Some(guard);
        let mut host = Self { guard, memory, addr: address(n), mac: MacAddr([2, 0, 0, 0, 0, n]) };
        let mut addrs = [IpAddress::ANY; state::ports::PORT_ADDRESSES];
        addrs[0] = host.addr;
        let info = PortInfo {
            addrs,
            addr_count: 1,
            flags: PORT_UP | PORT_OWN_ADDRESS | PORT_LOCAL_PEER,
            super_segment_max: setup.super_segment_max,
            mac: host.mac,
            mtu: setup.mtu,
        };
        assert!(host.engine(now, |e| e.set_port(0, &info)));
        // Large from the beginning: what is tested here is not how they grow.
        let most = state::buffer_max(setup.frames).min(4 << 20);
        let buffers = engine::Buffers { first: most, most };
        host.engine(now, |e| e.set_buffers(buffers, buffers));
        host
    }

    pub fn engine<R>(&mut self, now: Instant, f: impl FnOnce(&mut Engine<'_>) -> R) -> R {
        let guard = self.guard.as_mut().unwrap();
        let area = guard.region().frame_area();
        let mem = LaneMem::carve(guard.carver(), &area).unwrap();
        f(&mut Engine::new(mem, now))
    }

    pub fn end(&self, port: u16) -> Endpoint {
        Endpoint { addr: self.addr, port: Port(port) }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.guard = None;
        let words = std::ptr::slice_from_raw_parts_mut(self.memory.0, self.memory.1);
        // SAFETY: leaked by `new`, of the same length; the guard, the last that reached it, is gone.
        drop(unsafe { Box::from_raw(words) });
    }
}

/// Says for a packet from a host whether it is lost.
pub type Filter = Box<dyn FnMut(usize, &Packet) -> bool>;

pub struct Net {
    pub now: Instant,
    pub hosts: [Host; 2],
    pub faults: Faults,
    pub rng: Rng,
    /// Packets under way by arrival time and number: to which host.
    pub flying: BTreeMap<(Instant, u64), (usize, Packet)>,
    number: u64,
    /// When the bottleneck has sent what is in its queue.
    busy_until: Instant,
    /// Packets that the bottleneck dropped, and marked.
    pub tail_drops: u64,
    pub marks: u64,
    /// Everything that was sent, by whom, before the wire treated it.
    pub trace: Vec<(Instant, usize, Packet)>,
    pub keep_trace: bool,
    /// Packets come in at the port with the number of the one they left by, not at port 0.
    pub by_port: bool,
    /// How often, of a million steps, every idle connection is put to sleep.
    pub sleepy_ppm: u32,
    /// Says for each packet whether it is lost, besides the faults.
    pub filter: Option<Filter>,
    /// Says for each packet that uses ECN whether it is marked on the way.
    pub marker: Option<Filter>,
}

/// What a test looks at in a segment that was sent.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    pub at: Instant,
    pub from: usize,
    pub seq: SeqNum,
    pub ack: SeqNum,
    pub flags: TcpFlags,
    pub window: u16,
    pub len: usize,
    pub options: wire::TcpOptions,
    /// The ECN field of its IPv4 packet.
    pub ecn: u8,
}

impl Net {
    /// The TCP segments of the trace.
    pub fn segments(&self) -> Vec<Seen> {
        let see = |(at, from, p): &(Instant, usize, Packet)| {
            p.tcp().map(|t| Seen {
                at: *at,
                from: *from,
                seq: t.seq(),
                ack: t.ack(),
                flags: t.flags(),
                window: t.window(),
                len: t.payload().len(),
                options: wire::TcpOptions::parse(t.options()),
                ecn: p.bytes[15] & 3,
            })
        };
        self.trace.iter().filter_map(see).collect()
    }

    pub fn new(seed: u64, setup: &Setup) -> Self {
        let now = Instant(0).plus(Duration::from_secs(1000));
        Self {
            now,
            hosts: [Host::new(1, setup, now), Host::new(2, setup, now)],
            faults: Faults::NONE,
            rng: Rng::new(seed),
            flying: BTreeMap::new(),
            number: 0,
            busy_until: now,
            tail_drops: 0,
            marks: 0,
            trace: Vec::new(),
            keep_trace: false,
            by_port: false,
            sleepy_ppm: 0,
            filter: None,
            marker: None,
        }
    }

    pub fn on<R>(&mut self, host: usize, f: impl FnOnce(&mut Engine<'_>) -> R) -> R {
        let now = self.now;
        self.hosts[host].engine(now, f)
    }

    /// Marks an IPv4 packet whose sender knows ECN.
    fn mark(&mut self, packet: &mut Packet) {
        // Bytes 14 to 34 are the IP header; the second of these has the ECN field.
        if packet.bytes[15] & 3 != 0 && packet.bytes[12..14] == [8, 0] {
            self.marks += 1;
            packet.bytes[15] |= 3;
            packet.bytes[24..26].fill(0);
            let check = wire::Sum::of(&packet.bytes[14..34]).finish();
            packet.bytes[24..26].copy_from_slice(&check.to_be_bytes());
        }
    }

    /// Puts a packet on the wire towards `to`.
    pub fn put(&mut self, to: usize, mut packet: Packet) {
        let mut delay = self.faults.delay;
        if self.marker.as_mut().is_some_and(|m| m(1 - to, &packet)) {
            self.mark(&mut packet);
        }
        if to == 1
            && let Some(link) = self.faults.bottleneck
        {
            let start = self.busy_until.max(self.now);
            let waiting = start.since(self.now).0 * link.bits_per_s / 8_000_000_000;
            if waiting > link.queue_bytes {
                self.tail_drops += 1;
                return;
            }
            if waiting > link.mark_bytes {
                self.mark(&mut packet);
            }
            let ns = packet.bytes.len() as u64 * 8_000_000_000 / link.bits_per_s;
            self.busy_until = start.plus(Duration(ns));
            delay = Duration(delay.0 + self.busy_until.since(self.now).0);
        }
        if self.rng.chance_ppm(self.faults.reorder_ppm) {
            delay = Duration(delay.0 + self.rng.below(4 * delay.0 + 1));
        }
        self.number += 1;
        self.flying.insert((self.now.plus(delay), self.number), (to, packet));
    }

    /// Sends what `host` has to send.
    pub fn flush(&mut self, host: usize) {
        loop {
            let now = self.now;
            let packets = self.hosts[host].engine(now, |e| {
                let mut out = TxBatch::new();
                e.poll_transmit(&mut out);
                let packets: Vec<Packet> = out.items().iter().map(|p| flatten(e, p)).collect();
                for p in out.items() {
                    e.mem().frames.release(p.head);
                }
                packets
            });
            if packets.is_empty() {
                return;
            }
            for packet in packets {
                self.treat(host, packet);
            }
        }
    }

    fn treat(&mut self, from: usize, packet: Packet) {
        let parts = if self.faults.split { packet.split() } else { vec![packet] };
        for part in parts {
            if self.keep_trace {
                self.trace.push((self.now, from, part.clone()));
            }
            if self.filter.as_mut().is_some_and(|f| f(from, &part))
                || self.rng.chance_ppm(self.faults.loss_ppm)
            {
                continue;
            }
            if self.rng.chance_ppm(self.faults.dup_ppm) {
                self.put(1 - from, part.clone());
            }
            self.put(1 - from, part);
        }
    }

    /// Delivers a packet to `host` at once.
    pub fn deliver(&mut self, host: usize, packet: &Packet) {
        let (padding, by_port) = (self.faults.padding, self.by_port);
        self.on(host, |e| {
            let bytes = [&packet.bytes[..], &[0; 64][..padding]].concat();
            let Some(head) = chain(e, &bytes) else { return };
            let mut batch = RxBatch::new();
            let len = bytes.len() as u32;
            let (gso_size, port) = (packet.gso_size, if by_port { packet.port } else { 0 });
            assert!(batch.push(RxFrame {
                head,
                len,
                gso_size,
                port,
                local_peer: true,
                csum: CsumState::Unknown
            }));
            e.handle_frames(&mut batch);
        });
    }

    /// Delivers what is under way, before anybody answers.
    pub fn deliver_flying(&mut self) {
        while let Some(((at, _), (to, packet))) = self.flying.pop_first() {
            self.now = self.now.max(at);
            self.deliver(to, &packet);
        }
    }

    /// When something happens next.
    pub fn next(&mut self) -> Instant {
        let mut at = self.flying.keys().next().map_or(Instant::NEVER, |k| k.0);
        for host in 0..2 {
            at = at.min(self.on(host, |e| e.next_deadline()));
        }
        at.max(self.now)
    }

    /// Goes to `at` and does what is due then. Packets due together arrive together.
    pub fn go_to(&mut self, at: Instant) {
        self.now = self.now.max(at);
        while let Some(entry) = self.flying.first_entry() {
            if entry.key().0 > self.now {
                break;
            }
            let (to, packet) = entry.remove();
            self.deliver(to, &packet);
        }
        for host in 0..2 {
            self.on(host, |e| e.handle_timers());
        }
        self.flush(0);
        self.flush(1);
        if self.sleepy_ppm > 0 && self.rng.chance_ppm(self.sleepy_ppm) {
            self.sleep();
        }
    }

    /// Puts every idle connection to sleep; gives how many hibernate at each host.
    pub fn sleep(&mut self) -> [u64; 2] {
        [0, 1].map(|host| {
            self.on(host, |e| {
                e.hibernate_idle(u32::MAX);
                e.counters().tcp.dormant
            })
        })
    }

    /// One event further; false when nothing will ever happen.
    pub fn step(&mut self) -> bool {
        let at = self.next();
        if at == Instant::NEVER {
            return false;
        }
        self.go_to(at);
        true
    }

    /// Runs for `d`.
    pub fn run(&mut self, d: Duration) {
        let end = self.now.plus(d);
        self.flush(0);
        self.flush(1);
        for _ in 0..2_000_000 {
            let at = self.next();
            if at > end {
                self.now = end;
                return;
            }
            self.go_to(at);
        }
        panic!("the net does not come to rest");
    }

    pub fn route(&self, from: usize) -> RouteTo {
        let to = &self.hosts[1 - from];
        let own = &self.hosts[from];
        RouteTo { port: 0, next_hop: to.addr, local_mac: own.mac, mac: Some(to.mac), mtu: 0 }
    }

    pub fn listen(&mut self, host: usize, port: u16, backlog: u32) -> SockRef {
        let local = Endpoint { addr: IpAddress::ANY, port: Port(port) };
        self.on(host, |e| e.tcp_listen(local, backlog, &TcpOptions::default())).unwrap()
    }

    pub fn connect(&mut self, from: usize, local: u16, remote: u16) -> Result<SockRef, ConnectError> {
        self.connect_with(from, local, remote, &TcpOptions::default())
    }

    pub fn connect_with(
        &mut self,
        from: usize,
        local: u16,
        remote: u16,
        opts: &TcpOptions,
    ) -> Result<SockRef, ConnectError> {
        let (route, l, r) = (self.route(from), self.hosts[from].end(local), self.hosts[1 - from].end(remote));
        let opts = *opts;
        self.on(from, |e| e.tcp_connect(l, r, &route, &opts))
    }

    /// A listener at host 1 and an open connection to it: (listener, host 0's end, host 1's end).
    pub fn open(&mut self) -> (SockRef, SockRef, SockRef) {
        let listener = self.listen(1, 80, 16);
        let (a, b) = self.open_to(listener, 40_000);
        (listener, a, b)
    }

    pub fn open_to(&mut self, listener: SockRef, local: u16) -> (SockRef, SockRef) {
        let a = self.connect(0, local, 80).unwrap();
        for _ in 0..2000 {
            self.flush(0);
            if let Ok(accepted) = self.on(1, |e| e.tcp_accept(listener)) {
                assert_eq!(accepted.remote, self.hosts[0].end(local));
                return (a, accepted.sock);
            }
            assert!(self.step(), "the handshake came to a stop");
        }
        panic!("no connection");
    }

    pub fn state(&mut self, host: usize, s: SockRef) -> Option<State> {
        self.on(host, |e| e.tcp_info(s)).map(|i| i.state)
    }

    pub fn send(&mut self, host: usize, s: SockRef, data: &[u8]) -> Result<usize, SendError> {
        let n = self.on(host, |e| e.tcp_send(s, data, false));
        self.flush(host);
        n
    }

    pub fn recv(&mut self, host: usize, s: SockRef, len: usize) -> Result<Vec<u8>, RecvError> {
        let mut buf = vec![0; len];
        let n = self.on(host, |e| e.tcp_recv(s, &mut buf, false))?;
        self.flush(host);
        buf.truncate(n);
        Ok(buf)
    }

    pub fn close(&mut self, host: usize, s: SockRef) {
        self.on(host, |e| e.close(s));
        self.flush(host);
    }

    pub fn accept(&mut self, host: usize, s: SockRef) -> Result<SockRef, AcceptError> {
        self.on(host, |e| e.tcp_accept(s)).map(|a| a.sock)
    }

    pub fn dropped(&mut self, host: usize, reason: DropReason) -> u64 {
        self.on(host, |e| e.counters().dropped(reason))
    }

    /// Free frames of `host`, those of the shared pool included.
    pub fn free_frames(&mut self, host: usize) -> u32 {
        self.flush(host);
        self.on(host, |e| {
            let frames = &mut e.mem().frames;
            let all: Vec<FrameIdx> = std::iter::from_fn(|| frames.alloc()).collect();
            for frame in &all {
                frames.release(*frame);
            }
            all.len() as u32
        })
    }

    /// Asserts that no host holds a frame or a connection any more.
    pub fn assert_clean(&mut self, setup: &Setup) {
        for host in 0..2 {
            assert_eq!(self.on(host, |e| e.counters().tcp.open), 0, "open connections of host {host}");
            assert_eq!(self.free_frames(host), setup.frames, "free frames of host {host}");
        }
    }
}

/// The bytes of `packet`, its checksum completed as a device would.
pub fn flatten(e: &mut Engine<'_>, packet: &TxFrame) -> Packet {
    let frames = &e.mem().frames;
    let mut bytes = frames.data(packet.head).to_vec();
    assert_eq!(bytes.len(), usize::from(packet.header_bytes));
    for piece in packet.pieces() {
        let from = usize::from(piece.offset);
        assert!(frames.meta(piece.frame).unwrap().refs > 0);
        bytes.extend_from_slice(&frames.cell(piece.frame)[from..from + usize::from(piece.len)]);
    }
    assert_eq!(bytes.len() as u32, packet.bytes());
    if packet.csum_start != 0 {
        let start = usize::from(packet.csum_start);
        let check = wire::Sum::of(&bytes[start..]).finish();
        let at = start + usize::from(packet.csum_offset);
        bytes[at..at + 2].copy_from_slice(&check.to_be_bytes());
    }
    Packet { bytes, gso_size: packet.gso_size, port: packet.port }
}

/// `bytes` in a chain of frames of host `e`, cut as ports cut: headroom in the first one only, or the longest packets would
/// take more frames than a chain has. `None` when there are none (the packet is lost as in a full ring).
pub fn chain(e: &mut Engine<'_>, bytes: &[u8]) -> Option<FrameIdx> {
    let frames = &mut e.mem().frames;
    let (front, rest) = bytes.split_at(bytes.len().min(FRAME_BYTES - FRAME_HEADROOM));
    let mut head = FrameIdx::NONE;
    let mut last = FrameIdx::NONE;
    for (n, part) in [front].into_iter().chain(rest.chunks(FRAME_BYTES)).enumerate() {
        let offset = if n == 0 { FRAME_HEADROOM } else { 0 };
        let Some(frame) = frames.alloc() else {
            frames.release_chain(head);
            return None;
        };
        frames.cell_mut(frame)[offset..offset + part.len()].copy_from_slice(part);
        let meta = frames.meta_mut(frame).unwrap();
        (meta.offset, meta.len) = (offset as u16, part.len() as u16);
        match frames.meta_mut(last) {
            Some(meta) => meta.next = frame,
            None => head = frame,
        }
        last = frame;
    }
    Some(head)
}

/// Bytes that show where they are in a stream.
pub fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&rng.next_u64().to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// One direction of a transfer: what is to be sent and what has come.
pub struct Flow {
    pub data: Vec<u8>,
    pub sent: usize,
    pub got: Vec<u8>,
    pub fin: bool,
    pub closed: bool,
}

impl Flow {
    pub fn new(data: Vec<u8>) -> Self {
        Self { data, sent: 0, got: Vec::new(), fin: false, closed: false }
    }
}

impl Net {
    /// Sends `there` from host 0's `a` to host 1's `b` and `back` the other way, in pieces of random size, until both have
    /// all of it and the end of the stream; then closes both.
    pub fn transfer(&mut self, a: SockRef, b: SockRef, there: usize, back: usize) {
        let mut flows = [Flow::new(pattern(1, there)), Flow::new(pattern(2, back))];
        let socks = [a, b];
        let end = self.now.plus(Duration::from_secs(3600));
        for _ in 0..5_000_000 {
            let mut done = true;
            for host in 0..2 {
                self.write_some(host, socks[host], &mut flows[host]);
                let flow = &mut flows[1 - host];
                read_all(self, host, socks[host], flow);
                done &= flow.closed;
            }
            if done {
                break;
            }
            assert!(
                self.now < end,
                "the transfer takes too long: {:?} {:?}",
                self.brief(0, a),
                self.brief(1, b)
            );
            let at = self.next();
            assert!(
                at != Instant::NEVER,
                "the transfer is stuck: {:?} {:?}",
                self.brief(0, a),
                self.brief(1, b)
            );
            self.go_to(at);
        }
        for flow in &flows {
            assert!(flow.closed);
            assert_eq!(flow.got.len(), flow.data.len());
            assert!(flow.got == flow.data, "the bytes differ");
        }
        self.close(0, a);
        self.close(1, b);
    }

    fn write_some(&mut self, host: usize, s: SockRef, flow: &mut Flow) {
        while flow.sent < flow.data.len() {
            let n = 1 + self.rng.below(20_000) as usize;
            let part = &flow.data[flow.sent..(flow.sent + n).min(flow.data.len())];
            match self.send(host, s, part) {
                Ok(n) => flow.sent += n,
                Err(SendError::WouldBlock) => break,
                Err(e) => panic!("send: {e:?}"),
            }
        }
        if flow.sent == flow.data.len() && !flow.fin {
            match self.on(host, |e| e.shutdown(s, engine::How::Write)) {
                Ok(()) => flow.fin = true,
                Err(e) => panic!("shutdown: {e:?}"),
            }
            self.flush(host);
        }
    }

    pub fn brief(&mut self, host: usize, s: SockRef) -> String {
        format!("{:?}", self.on(host, |e| e.tcp_info(s)))
    }
}

fn read_all(net: &mut Net, host: usize, s: SockRef, flow: &mut Flow) {
    while !flow.closed {
        let n = 1 + net.rng.below(30_000) as usize;
        match net.recv(host, s, n) {
            Ok(bytes) if bytes.is_empty() => flow.closed = true,
            Ok(bytes) => flow.got.extend_from_slice(&bytes),
            Err(RecvError::WouldBlock) => break,
            Err(e) => panic!("recv: {e:?}"),
        }
    }
}

/// A segment from host `from` to the other, made by hand: numbers, flags, payload.
pub fn forged(
    net: &Net,
    from: usize,
    ports: (u16, u16),
    numbers: (SeqNum, SeqNum),
    flags: TcpFlags,
    data: &[u8],
) -> Packet {
    let (src, dst) = (&net.hosts[from], &net.hosts[1 - from]);
    let header = wire::TcpHeader {
        src_port: Port(ports.0),
        dst_port: Port(ports.1),
        seq: numbers.0,
        ack: numbers.1,
        flags,
        window: 60_000,
        urgent: 0,
    };
    forged_with(src, dst, &header, &wire::TcpOptions::NONE, data)
}

pub fn forged_with(
    src: &Host,
    dst: &Host,
    header: &wire::TcpHeader,
    options: &wire::TcpOptions,
    data: &[u8],
) -> Packet {
    let mut bytes = vec![0; TCP_AT + 60];
    wire::EthHeader { dst: dst.mac, src: src.mac, ethertype: ETHERTYPE }.emit(&mut bytes).unwrap();
    let n = header.emit(options, &mut bytes[TCP_AT..]).unwrap();
    bytes.truncate(TCP_AT + n);
    bytes.extend_from_slice(data);
    emit_ip(&mut bytes, src.addr, dst.addr, n + data.len());
    finish_checksum(&mut bytes);
    Packet { bytes, gso_size: 0, port: 0 }
}

/// Writes the IP header of a TCP packet of `len` bytes from `src` to `dst`.
pub fn emit_ip(bytes: &mut [u8], src: IpAddress, dst: IpAddress, len: usize) {
    if V6 {
        let ends = (src.as_v6(), dst.as_v6());
        wire::Ipv6Header::plain(ends, IpProtocol::TCP, len as u16).emit(&mut bytes[14..]).unwrap();
    } else {
        let ends = (src.as_v4().unwrap(), dst.as_v4().unwrap());
        wire::Ipv4Header::plain(ends, IpProtocol::TCP, len as u16).emit(&mut bytes[14..]).unwrap();
    }
}
