//! Two unnamed network namespaces joined by a veth pair, and a region to receive into. Nothing is left behind: the
//! namespaces go with the test's thread.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a rig that cannot be built fails the test")]

use std::io::ErrorKind;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::OwnedFd;
use std::process::Command;
use std::time::{Duration, Instant};

use base::limits::CHAIN_FRAMES;
use base::{FrameIdx, LaneId};
use port::{Port, PortSetup};
use region::{FrameArea, FrameLane, Frames, LaneRef, Region, RegionShape};
use state::{Piece, RxBatch, RxFrame, TxFrame};
use sys::namespace::{enter_net, enter_new_net};
use sys::poll::{PollFd, PollFlags, poll};

pub const NEAR: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
pub const FAR: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
pub const NEAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub const FAR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
pub const ETHERNET: usize = 14;
pub const FRAMES: u32 = 2048;

/// The side of the port under test is `near`, device `near0`; the kernel's is `far`, device `far0` with [`FAR`].
pub struct Rig {
    near: OwnedFd,
    far: OwnedFd,
}

pub fn run(line: &str) {
    let words: Vec<&str> = line.split_whitespace().collect();
    let done = Command::new(words[0]).args(&words[1..]).output().unwrap();
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
}

/// Waits until `device` is running: until then the kernel drops what is to be sent on it. What follows must take the
/// kernel's configuration lock once, to be behind the thread that makes it so.
pub fn wait_running(device: &str) {
    let deadline = sys::clock::now().plus(base::Duration::from_secs(10));
    while sys::links::flags(device).unwrap() & sys::links::FLAG_RUNNING == 0 {
        assert!(sys::clock::now() < deadline, "{device} does not run");
        poll(&mut [], Some(base::Duration::from_millis(1))).unwrap();
    }
}

impl Rig {
    /// `None`, with a line that says so, without root.
    pub fn new() -> Option<Self> {
        let Ok(far) = enter_new_net() else {
            eprintln!("SKIPPED: network namespaces need root");
            return None;
        };
        run("ip link set lo up");
        let near = enter_new_net().unwrap();
        let rig = Self { near, far };
        run("ip link set lo up");
        Some(rig)
    }

    /// With a veth pair between the two.
    pub fn veth() -> Option<Self> {
        let rig = Self::new()?;
        rig.join();
        Some(rig)
    }

    /// Makes the veth pair.
    pub fn join(&self) {
        self.join_with_queues(1);
    }

    /// Makes a veth pair with `queues` queues each way.
    pub fn join_with_queues(&self, queues: u32) {
        self.on_near();
        // `ip` finds the near namespace by a process that waits in it.
        let mut holder = Command::new("sleep").arg("60").spawn().unwrap();
        self.on_far();
        let count = format!("numrxqueues {queues} numtxqueues {queues}");
        run(&format!("ip link add far0 {count} type veth peer name near0 {count} netns {}", holder.id()));
        holder.kill().unwrap();
        holder.wait().unwrap();
        run("ip link set far0 address 02:00:00:00:00:02 up");
        self.on_near();
        run("ip link set near0 address 02:00:00:00:00:01 up");
        wait_running("near0");
        self.on_far();
        wait_running("far0");
        run("ip addr add 10.99.0.2/24 dev far0");
        run("ip neigh add 10.99.0.1 lladdr 02:00:00:00:00:01 dev far0");
        self.on_near();
    }

    pub fn on_near(&self) {
        enter_net(&self.near).unwrap();
    }

    pub fn on_far(&self) {
        enter_net(&self.far).unwrap();
    }

    /// Runs `f` in the far namespace.
    pub fn far<R>(&self, f: impl FnOnce() -> R) -> R {
        self.on_far();
        let result = f();
        self.on_near();
        result
    }

    /// A kernel UDP socket on the far side, bound to `port`, that sends to and hears from the near side. One that was closed there a moment ago may still be held by a
    /// child that another test is about to start, until that child has executed its program.
    pub fn far_udp(&self, port: u16) -> UdpSocket {
        let until = Instant::now() + Duration::from_secs(10);
        let socket = loop {
            match self.far(|| UdpSocket::bind((FAR, port))) {
                Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                bound => break bound.unwrap(),
            }
        };
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }
}

pub fn setup() -> PortSetup {
    PortSetup { port: 3, mtu: 1500, local_peer: true, own_address: false }
}

/// A region and one lane's stock of its frames.
pub struct Memory {
    pub lane: LaneRef,
    pub area: FrameArea,
    pub stock: FrameLane,
}

impl Memory {
    pub fn new(frames: u32) -> Self {
        let shape = RegionShape { lanes: 1, lane_bytes: 4096, frames };
        let words = sys::memory::map_anonymous(Region::bytes_needed(&shape)).unwrap();
        Self::of_lane(Region::format(words, &shape, 1, [1, 2]).unwrap(), 0)
    }

    /// What lane `number` of `region` has.
    pub fn of_lane(region: Region, number: u16) -> Self {
        let lane = region.lane(LaneId(number)).unwrap();
        let stock = FrameLane { head: FrameIdx::NONE, free: 0, high: 256, failed: 0 };
        Self { lane, area: lane.frame_area(), stock }
    }

    /// In memory that can be lent to the other end of a memif wire.
    pub fn shared(frames: u32) -> (Self, sys::fds::Fd, sys::memif::Lending) {
        let shape = RegionShape { lanes: 1, lane_bytes: 4096, frames };
        let bytes = Region::bytes_needed(&shape);
        let fd = sys::memory::memfd("rig", bytes, false).unwrap().fd;
        let region = Region::format(sys::memory::map_shared(&fd, bytes).unwrap(), &shape, 1, [1, 2]).unwrap();
        let lending = sys::memif::Lending { offset: region.frames_offset(), bytes: u64::from(frames) * 4096 };
        (Self::of_lane(region, 0), fd, lending)
    }

    pub fn frames(&mut self) -> Frames<'_> {
        self.area.frames(&mut self.stock)
    }

    /// Free frames of the whole region.
    pub fn free(&mut self) -> u32 {
        let mut frames = self.frames();
        let taken: Vec<FrameIdx> = std::iter::from_fn(|| frames.alloc()).collect();
        for frame in &taken {
            frames.release(*frame);
        }
        taken.len() as u32
    }

    /// The bytes of a packet; frees its chain.
    pub fn take(&mut self, packet: &RxFrame) -> Vec<u8> {
        let mut frames = self.frames();
        let mut bytes = Vec::new();
        let mut at = packet.head;
        let mut count = 0;
        while let Some(meta) = frames.meta(at) {
            bytes.extend_from_slice(frames.data(at));
            at = meta.next;
            count += 1;
        }
        assert!(count <= CHAIN_FRAMES, "a chain of {count} frames");
        frames.release_chain(packet.head);
        assert_eq!(bytes.len(), packet.len as usize);
        bytes
    }

    /// A packet with `head` as its headers and `payload` in frames that the caller then owns.
    pub fn packet(&mut self, head: &[u8], payload: &[u8]) -> TxFrame {
        let mut frames = self.frames();
        let first = frames.alloc().unwrap();
        frames.meta_mut(first).unwrap().len = head.len() as u16;
        frames.data_mut(first).copy_from_slice(head);
        let mut packet = TxFrame::new(first);
        packet.header_bytes = head.len() as u16;
        for part in payload.chunks(4096) {
            let frame = frames.alloc().unwrap();
            frames.cell_mut(frame)[..part.len()].copy_from_slice(part);
            assert!(packet.push_piece(Piece { frame, offset: 0, len: part.len() as u16 }));
        }
        packet
    }

    /// Frees the payload of a packet that was sent.
    pub fn release_payload(&mut self, packet: &TxFrame) {
        let mut frames = self.frames();
        for piece in packet.pieces() {
            frames.release(piece.frame);
        }
    }
}

/// Polls until `port` has given `count` packets, at most 5 s.
pub fn receive(port: &mut impl Port, memory: &mut Memory, count: usize) -> Vec<RxFrame> {
    let deadline = sys::clock::now().plus(base::Duration::from_secs(5));
    let mut got = Vec::new();
    while got.len() < count {
        let left = deadline.since(sys::clock::now());
        assert!(left.0 > 0, "{} of {count} packets came", got.len());
        let mut batch = RxBatch::new();
        if port.rx(&mut memory.frames(), &mut batch).unwrap() == 0 {
            let fd = port.poll_fd().unwrap();
            poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(left)).unwrap();
        }
        got.extend_from_slice(batch.items());
    }
    got
}

/// Receives until a packet is IPv4 of `protocol`; others (IPv6 router solicitations and the like) are freed.
pub fn receive_ipv4(port: &mut impl Port, memory: &mut Memory, protocol: u8, count: usize) -> Vec<RxFrame> {
    let mut wanted = Vec::new();
    while wanted.len() < count {
        for packet in receive(port, memory, 1) {
            let data = memory.frames().data(packet.head).to_vec();
            if data.get(12..14) == Some(&[8, 0]) && data.get(23) == Some(&protocol) {
                wanted.push(packet);
            } else {
                memory.take(&packet);
            }
        }
    }
    wanted
}

/// Ethernet, IPv4 and UDP headers from near to far, the UDP checksum left unfinished.
pub fn udp_head(source: u16, target: u16, payload: usize) -> Vec<u8> {
    let mut head = ipv4_head(17, 8 + payload);
    head.extend(source.to_be_bytes());
    head.extend(target.to_be_bytes());
    head.extend((8 + payload as u16).to_be_bytes());
    let sum = pseudo(17, 8 + payload);
    head.extend(sum.to_be_bytes());
    head
}

/// Ethernet, IPv4 and TCP headers from near to far, the TCP checksum left unfinished.
pub fn tcp_head(payload: usize) -> Vec<u8> {
    let mut head = ipv4_head(6, 20 + payload);
    head.extend([0, 80, 0x10, 0, 0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x18, 0xff, 0xff]);
    head.extend(pseudo(6, 20 + payload).to_be_bytes());
    head.extend([0, 0]);
    head
}

fn ipv4_head(protocol: u8, payload: usize) -> Vec<u8> {
    let mut head = Vec::new();
    head.extend(FAR_MAC);
    head.extend(NEAR_MAC);
    head.extend([8, 0, 0x45, 0]);
    head.extend((20 + payload as u16).to_be_bytes());
    head.extend([0, 7, 0x40, 0, 64, protocol, 0, 0]);
    head.extend(NEAR.octets());
    head.extend(FAR.octets());
    let check = !ones(&head[ETHERNET..]);
    head[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&check.to_be_bytes());
    head
}

fn pseudo(protocol: u8, len: usize) -> u16 {
    let mut bytes = Vec::new();
    bytes.extend(NEAR.octets());
    bytes.extend(FAR.octets());
    bytes.extend([0, protocol]);
    bytes.extend((len as u16).to_be_bytes());
    ones(&bytes)
}

/// One's complement sum of big-endian words (RFC 1071).
pub fn ones(bytes: &[u8]) -> u16 {
    let mut sum: u32 = 0;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |b| u32::from(*b));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// Bytes that differ from place to place.
pub fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

/// An XDP program on a device that gives its queue 0 to one socket, as long as this lives.
pub struct Steered {
    _program: sys::bpf::Program,
    _map: sys::bpf::Map,
    _attachment: sys::bpf::Attachment,
}

/// Gives every packet of queue 0 of `device` to `socket`, with generic XDP.
pub fn steer(device: &str, sockets: &[sys::fds::Fd]) -> Steered {
    steer_in(device, sockets, sys::bpf::XdpMode::Generic)
}

/// [`steer`] with the program in the driver or in front of the stack.
pub fn steer_in(device: &str, sockets: &[sys::fds::Fd], mode: sys::bpf::XdpMode) -> Steered {
    steer_among(device, &[sockets], mode)
}

/// [`steer_in`] for several lanes, a power of two, each with a socket on every queue: the lowest bits of the target port say whose a packet is.
pub fn steer_among(device: &str, lanes: &[&[sys::fds::Fd]], mode: sys::bpf::XdpMode) -> Steered {
    use std::os::fd::{AsFd, AsRawFd};
    use sys::bpf::{Attachment, Insn, Map, MapKind, Program, ProgramKind};
    let count = lanes.len();
    assert!(count.is_power_of_two());
    let map = Map::create(MapKind::Xsk, 4, 4, (lanes[0].len() * count) as u32, "test_xsks").unwrap();
    for (number, sockets) in lanes.iter().enumerate() {
        for (queue, socket) in sockets.iter().enumerate() {
            let key = (queue * count + number) as u32;
            map.update(&key.to_ne_bytes(), &socket.as_raw_fd().to_ne_bytes()).unwrap();
        }
    }
    let insn = |code, registers, offset, immediate| Insn { code, registers, offset, immediate };
    let count = count as i32;
    let program = [
        insn(0x61, 0x12, 16, 0), // r2 = ctx->rx_queue_index
        insn(0x27, 0x02, 0, count),
        insn(0x61, 0x13, 0, 0), // r3 = data
        insn(0x61, 0x14, 4, 0), // r4 = end of data
        insn(0xbf, 0x35, 0, 0),
        insn(0x07, 0x05, 0, 38),
        insn(0x2d, 0x45, 3, 0),  // shorter: the first lane's
        insn(0x71, 0x35, 37, 0), // r5 = low byte of the target port
        insn(0x57, 0x05, 0, count - 1),
        insn(0x0f, 0x52, 0, 0),
        insn(0x18, 0x11, 0, map.as_fd().as_raw_fd()), // r1 = map
        insn(0, 0, 0, 0),
        insn(0xb7, 0x03, 0, 2), // r3 = XDP_PASS
        insn(0x85, 0, 0, 51),   // bpf_redirect_map
        insn(0x95, 0, 0, 0),
    ];
    let program = Program::load(ProgramKind::Xdp, &program, "test_steer").unwrap();
    let ifindex = sys::links::index(device).unwrap();
    let attachment = Attachment::xdp(&program, ifindex, mode).unwrap();
    Steered { _program: program, _map: map, _attachment: attachment }
}

/// A super-datagram of ours arrives at `udp`, which has port 4000, as the datagrams the kernel cut from it.
pub fn the_kernel_cuts_a_super_datagram(port: &mut impl Port, memory: &mut Memory, udp: &UdpSocket) {
    let payload = pattern(5000);
    let mut packet = memory.packet(&udp_head(5000, 4000, payload.len()), &payload);
    (packet.csum_start, packet.csum_offset, packet.gso_size) = (34, 6, 1000);
    assert_eq!(port.tx(&mut memory.frames(), &[packet]).unwrap(), 1);
    memory.release_payload(&packet);
    for part in payload.chunks(1000) {
        let mut got = [0; 2000];
        let len = udp.recv(&mut got).unwrap();
        assert_eq!(got[..len], *part);
    }
    assert_eq!(memory.free(), FRAMES);
}
