//! One host for tests of the engine: a lane in leaked memory, one port, packets as byte vectors, and a count of free frames.
#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "each test file uses its own part of the rig"
)]

use core::net::Ipv4Addr;
use std::sync::atomic::AtomicU64;

use base::limits::{FRAME_BYTES, FRAME_HEADROOM};
use base::{Duration, FrameIdx, Instant, IpAddress, LaneId, MacAddr, Port};
use engine::{Engine, RouteTo};
use region::{LaneGuard, Owner, Region, RegionShape};
use state::ports::{PORT_LOCAL_PEER, PORT_OWN_ADDRESS, PORT_UP};
use state::{
    CsumState, DropReason, Endpoint, LAYOUT_VERSION, LaneMem, LaneShape, PortInfo, RxBatch, RxFrame, TxBatch,
    TxFrame,
};
use wire::{EthHeader, EtherType, IpProtocol, Ipv4Header, UdpHeader};

/// Frames of a host's region.
pub const FRAMES: u32 = 640;
/// Own address and MAC of the host under test.
pub const HOST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
pub const HOST_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
/// Address and MAC of the other end.
pub const PEER: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
pub const PEER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// A lane with one port, number 0, and its clock.
pub struct Host {
    guard: LaneGuard,
    pub now: Instant,
}

impl Host {
    /// A host whose address is its own alone, on a link of 1500 bytes.
    pub fn new() -> Self {
        Self::with(PORT_UP | PORT_OWN_ADDRESS, 1500)
    }

    pub fn with(flags: u32, mtu: u16) -> Self {
        let shape = LaneShape { udp_socks: 8, hops: 4, reassemblies: 4, ..LaneShape::for_socks(16) };
        let region_shape = RegionShape { lanes: 1, lane_bytes: shape.lane_bytes(), frames: FRAMES };
        let words = Region::bytes_needed(&region_shape) / 8;
        let words: Vec<AtomicU64> = (0..words).map(|_| AtomicU64::new(0)).collect();
        let region = Region::format(words.leak(), &region_shape, LAYOUT_VERSION, [7, 11]).unwrap();
        let lane = region.lane(LaneId(0)).unwrap();
        let mut guard = lane.try_lock(Owner { pid: 1, tid: 1 }).unwrap();
        let now = Instant(0).plus(Duration::from_secs(100));
        LaneMem::format(&mut guard, &shape, [1, 2], now).unwrap();
        let mut host = Self { guard, now };
        let mut addrs = [IpAddress::ANY; state::ports::PORT_ADDRESSES];
        addrs[0] = IpAddress::from_v4(HOST);
        let info = PortInfo { addrs, addr_count: 1, flags, super_segment_max: 0, mac: HOST_MAC, mtu };
        assert!(host.engine(|e| e.set_port(0, &info)));
        host
    }

    pub fn engine<R>(&mut self, f: impl FnOnce(&mut Engine<'_>) -> R) -> R {
        let area = self.guard.region().frame_area();
        let mem = LaneMem::carve(self.guard.carver(), &area).unwrap();
        f(&mut Engine::new(mem, self.now))
    }

    /// Time goes on, and what is due is done.
    pub fn sleep(&mut self, d: Duration) {
        self.now = self.now.plus(d);
        self.engine(|e| e.handle_timers());
    }

    /// The packet `bytes` arrives, cut into frames of `piece` bytes.
    pub fn receive_in(&mut self, bytes: &[u8], piece: usize, csum: CsumState) {
        self.receive_merged(bytes, piece, csum, 0);
    }

    /// As [`Host::receive_in`], merged of segments with `gso_size` payload bytes.
    pub fn receive_merged(&mut self, bytes: &[u8], piece: usize, csum: CsumState, gso_size: u16) {
        let local_peer = self.engine(|e| e.mem().ports.rows()[0].flags & PORT_LOCAL_PEER != 0);
        self.engine(|e| {
            let mut head = FrameIdx::NONE;
            let mut last = FrameIdx::NONE;
            for part in bytes.chunks(piece) {
                let frames = &mut e.mem().frames;
                let frame = frames.alloc().expect("a frame");
                let from = FRAME_HEADROOM;
                frames.cell_mut(frame)[from..from + part.len()].copy_from_slice(part);
                frames.meta_mut(frame).unwrap().len = part.len() as u16;
                match frames.meta_mut(last) {
                    Some(meta) => meta.next = frame,
                    None => head = frame,
                }
                last = frame;
            }
            let mut batch = RxBatch::new();
            let len = bytes.len() as u32;
            assert!(batch.push(RxFrame { head, len, gso_size, port: 0, local_peer, csum }));
            e.handle_frames(&mut batch);
        });
    }

    pub fn receive(&mut self, bytes: &[u8]) {
        self.receive_in(bytes, FRAME_BYTES - FRAME_HEADROOM, CsumState::Unknown);
    }

    /// Everything the engine wants to send now, checksums completed.
    pub fn transmitted(&mut self) -> Vec<Vec<u8>> {
        self.engine(|e| {
            let mut all = Vec::new();
            loop {
                let mut out = TxBatch::new();
                if e.poll_transmit(&mut out) == 0 {
                    return all;
                }
                for packet in out.items() {
                    all.push(flatten(e, packet));
                    e.mem().frames.release(packet.head);
                }
            }
        })
    }

    /// The only packet the engine wants to send now.
    pub fn transmitted_one(&mut self) -> Vec<u8> {
        let mut all = self.transmitted();
        assert_eq!(all.len(), 1, "packets sent");
        all.remove(0)
    }

    pub fn dropped(&mut self, reason: DropReason) -> u64 {
        self.engine(|e| e.counters().dropped(reason))
    }

    /// Free frames, those in the shared pool included.
    pub fn free_frames(&mut self) -> u32 {
        self.engine(|e| {
            let frames = &mut e.mem().frames;
            let all: Vec<FrameIdx> = std::iter::from_fn(|| frames.alloc()).collect();
            for frame in &all {
                frames.release(*frame);
            }
            all.len() as u32
        })
    }
}

/// The bytes of `packet`, its checksum completed as a device would.
pub fn flatten(e: &mut Engine<'_>, packet: &TxFrame) -> Vec<u8> {
    let frames = &e.mem().frames;
    let mut bytes = frames.data(packet.head).to_vec();
    assert_eq!(bytes.len(), usize::from(packet.header_bytes));
    for piece in packet.pieces() {
        let from = usize::from(piece.offset);
        bytes.extend_from_slice(&frames.cell(piece.frame)[from..from + usize::from(piece.len)]);
    }
    if packet.csum_start != 0 {
        let start = usize::from(packet.csum_start);
        let check = wire::Sum::of(&bytes[start..]).finish();
        let check = if check == 0 { 0xffff } else { check };
        let at = start + usize::from(packet.csum_offset);
        bytes[at..at + 2].copy_from_slice(&check.to_be_bytes());
    }
    bytes
}

/// An IPv4 header from the peer to the host.
pub fn ip_header(protocol: IpProtocol, payload_len: usize) -> Ipv4Header {
    let plain = Ipv4Header::plain((PEER, HOST), protocol, payload_len as u16);
    Ipv4Header { ident: 7, dont_fragment: false, ..plain }
}

/// An Ethernet frame from the peer to the host with an IPv4 packet.
pub fn frame(header: &Ipv4Header, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 34];
    let eth = EthHeader { dst: HOST_MAC, src: PEER_MAC, ethertype: EtherType::IPV4 };
    eth.emit(&mut bytes).unwrap();
    header.emit(&mut bytes[14..]).unwrap();
    bytes.extend_from_slice(payload);
    bytes
}

/// A UDP datagram with header and checksum, from the peer to the host.
pub fn udp(src_port: u16, dst_port: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 8];
    let header =
        UdpHeader { src_port: Port(src_port), dst_port: Port(dst_port), payload_len: payload.len() as u16 };
    header.emit(&mut bytes).unwrap();
    bytes.extend_from_slice(payload);
    let pseudo = wire::checksum::pseudo_v4(PEER, HOST, IpProtocol::UDP, bytes.len() as u16);
    wire::udp::fill_checksum(&mut bytes, pseudo).unwrap();
    bytes
}

/// An Ethernet frame from the peer with a whole UDP packet.
pub fn udp_frame(src_port: u16, dst_port: u16, payload: &[u8]) -> Vec<u8> {
    let datagram = udp(src_port, dst_port, payload);
    frame(&ip_header(IpProtocol::UDP, datagram.len()), &datagram)
}

/// `payload` cut into fragments with the IP identification `ident`: (offset, bytes) gives each.
pub fn fragment(ident: u16, payload: &[u8], from: usize, len: usize) -> Vec<u8> {
    let header = Ipv4Header {
        ident,
        fragment_offset: from as u16,
        more_fragments: from + len < payload.len(),
        ..ip_header(IpProtocol::UDP, len)
    };
    frame(&header, &payload[from..from + len])
}

/// Bytes that depend on their position.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
}

pub fn at(addr: Ipv4Addr, port: u16) -> Endpoint {
    Endpoint { addr: IpAddress::from_v4(addr), port: Port(port) }
}

pub fn anywhere(port: u16) -> Endpoint {
    Endpoint { addr: IpAddress::ANY, port: Port(port) }
}

/// The way to the peer; its MAC known or not.
pub fn route(mac: Option<MacAddr>) -> RouteTo {
    RouteTo { port: 0, next_hop: IpAddress::from_v4(PEER), local_mac: HOST_MAC, mac, mtu: 0 }
}
