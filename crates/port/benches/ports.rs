//! What the ports cost across veth and TAP, all in one run and in turns, so that the machine's mood hits each alike.
//!
//! `cargo bench -p corelane-port --bench ports` (as root). Bursts are sent and drained by one thread, each side timed
//! by its CPU time; the TCP rows have a kernel sender on another core.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a measurement that cannot be made ends the run"
)]

#[path = "../tests/rig/mod.rs"]
mod rig;
#[path = "sink.rs"]
mod sink;

use std::collections::BTreeMap;
use std::net::UdpSocket;

use base::FrameIdx;
use port::Port;
use port::packet::{PacketPort, PacketSpec};
use port::tap::TapPort;
use port::xdp::{XdpParts, XdpPort, XdpSpec, open_companion};
use rig::{Memory, NEAR, Rig, pattern, run, setup, tcp_head, udp_head};
use state::{RxBatch, TxFrame};

const ROUNDS: usize = 7;
const FRAMES: u32 = 16_384;
/// A TAP's queue holds 1000 packets.
const SMALL_BURST: usize = 500;
const SUPER_BURST: usize = 32;
const SUPER_BYTES: usize = 60_000;

/// Samples by row.
type Table = BTreeMap<String, Vec<f64>>;

fn note(table: &mut Table, row: &str, value: f64) {
    table.entry(row.to_owned()).or_default().push(value);
}

/// CPU time of this thread, ns.
fn cpu_ns() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// Which back-end a round measures.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Packet,
    PacketBypass,
    Xdp,
    XdpCompanion,
    Tap,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Packet, Self::PacketBypass, Self::Xdp, Self::XdpCompanion, Self::Tap];

    fn name(self) -> &'static str {
        match self {
            Self::Packet => "AF_PACKET",
            Self::PacketBypass => "AF_PACKET, qdisc bypass",
            Self::Xdp => "AF_XDP generic + SG",
            Self::XdpCompanion => "AF_XDP generic + SG, GSO by AF_PACKET",
            Self::Tap => "TAP",
        }
    }
}

/// A program that drops everything on the way into `device` for the kernel's stack.
fn drop_ingress(device: &str) -> (sys::bpf::Program, sys::bpf::Attachment) {
    use sys::bpf::{Attachment, Insn, Program, ProgramKind};
    let insn = |code, registers, immediate| Insn { code, registers, offset: 0, immediate };
    let program = [insn(0xb7, 0, 2), insn(0x95, 0, 0)]; // return TCX_DROP
    let program = Program::load(ProgramKind::TcxIngress, &program, "bench_drop").unwrap();
    let attachment = Attachment::tcx_ingress(&program, sys::links::index(device).unwrap()).unwrap();
    (program, attachment)
}

/// A port under measurement and what keeps it going.
struct Bench {
    port: Box<dyn Port>,
    _steered: Option<rig::Steered>,
    _quiet: Vec<(sys::bpf::Program, sys::bpf::Attachment)>,
}

fn make(rig: &Rig, memory: &mut Memory, kind: Kind, quiet_far: bool) -> Bench {
    if kind == Kind::Tap {
        let fd = port::tap::open("tap0").unwrap();
        rig::wait_running("tap0");
        run("ip link set tap0 address 02:00:00:00:00:02");
        run("ip addr add 10.99.0.2/24 dev tap0");
        run("ip neigh replace 10.99.0.1 lladdr 02:00:00:00:00:01 dev tap0");
        let quiet = if quiet_far { vec![drop_ingress("tap0")] } else { Vec::new() };
        return Bench {
            port: Box::new(TapPort::from_fd(fd, memory.area, setup())),
            _steered: None,
            _quiet: quiet,
        };
    }
    rig.join();
    let ifindex = sys::links::index("near0").unwrap();
    let mut quiet = Vec::new();
    if quiet_far {
        quiet.push(rig.far(|| drop_ingress("far0")));
    }
    if matches!(kind, Kind::Packet | Kind::PacketBypass) {
        quiet.push(drop_ingress("near0"));
        let spec = PacketSpec { ifindex, filter: None, ring: true, qdisc_bypass: kind == Kind::PacketBypass };
        let port = PacketPort::from_fd(port::packet::open(&spec).unwrap(), memory.area, setup());
        return Bench { port: Box::new(port), _steered: None, _quiet: quiet };
    }
    let spec = XdpSpec { ifindex, queues: 1, mtu: 1500, zero_copy: false, busy_poll: false };
    let sockets = port::xdp::open(&spec, memory.area.cells()).unwrap();
    let steered = rig::steer("near0", &sockets.fds);
    let companion = (kind == Kind::XdpCompanion).then(|| open_companion(ifindex).unwrap());
    let mut port = XdpPort::from_parts(XdpParts { sockets, companion }, memory.lane, setup()).unwrap();
    port.rx(&mut memory.frames(), &mut RxBatch::new()).unwrap();
    Bench { port: Box::new(port), _steered: Some(steered), _quiet: quiet }
}

fn unmake(rig: &Rig, kind: Kind) {
    if kind != Kind::Tap {
        rig.on_near();
        run("ip link del near0");
    }
}

/// Receives and frees until `count` packets of `least` bytes or more came; gives the time of the calls that brought any.
fn drain(port: &mut dyn Port, memory: &mut Memory, count: usize, least: u32) -> u64 {
    let deadline = sys::clock::now().0 + 10_000_000_000;
    let (mut got, mut spent) = (0, 0);
    while got < count {
        let start = sys::clock::now().0;
        assert!(start < deadline, "{got} of {count} packets came: {:?}", port.stats());
        let mut batch = RxBatch::new();
        let mut frames = memory.frames();
        port.rx(&mut frames, &mut batch).unwrap();
        for packet in batch.items() {
            got += usize::from(packet.len >= least);
            frames.release_chain(packet.head);
        }
        if !batch.items().is_empty() {
            spent += sys::clock::now().0 - start;
        }
    }
    spent
}

fn receive_small(table: &mut Table, rig: &Rig, kind: Kind, size: usize) {
    let mut memory = Memory::new(FRAMES);
    let mut bench = make(rig, &mut memory, kind, false);
    let udp = if kind == Kind::Tap { UdpSocket::bind((rig::FAR, 4000)).unwrap() } else { rig.far_udp(4000) };
    let payload = pattern(size);
    let burst = SMALL_BURST;
    for warm in 0..20 {
        let start = cpu_ns();
        for _ in 0..burst {
            udp.send_to(&payload, (NEAR, 5000)).unwrap();
        }
        let sent = cpu_ns() - start;
        let drained = drain(bench.port.as_mut(), &mut memory, burst, size as u32);
        if warm > 4 {
            note(
                table,
                &format!("rx {size} B, ns/packet      | {}", kind.name()),
                drained as f64 / burst as f64,
            );
            note(
                table,
                &format!("rx {size} B, kernel sender's ns/packet | {}", kind.name()),
                sent as f64 / burst as f64,
            );
        }
    }
    drop(bench);
    unmake(rig, kind);
}

fn receive_super(table: &mut Table, rig: &Rig, kind: Kind) {
    if kind == Kind::Tap {
        return; // the kernel alone can put a super-frame into a TAP: see the TCP rows
    }
    let mut memory = Memory::new(FRAMES);
    let mut bench = make(rig, &mut memory, kind, false);
    let mut far = Memory::new(FRAMES);
    let mut sender = rig.far(|| {
        let ifindex = sys::links::index("far0").unwrap();
        let fd = port::packet::open(&PacketSpec { ifindex, filter: None, ring: false, qdisc_bypass: true })
            .unwrap();
        PacketPort::from_fd(fd, far.area, setup())
    });
    let packet = packet(&mut far, SUPER_BYTES, 1448);
    for warm in 0..20 {
        let start = cpu_ns();
        for _ in 0..SUPER_BURST {
            far.frames().retain(packet.head);
            assert_eq!(sender.tx(&mut far.frames(), &[packet]).unwrap(), 1);
        }
        let sent = cpu_ns() - start;
        let drained = drain(bench.port.as_mut(), &mut memory, SUPER_BURST, 2000);
        if warm > 4 {
            note(
                table,
                &format!("rx 60 kB super-frame, ns | {}", kind.name()),
                drained as f64 / SUPER_BURST as f64,
            );
            note(
                table,
                &format!("rx 60 kB super-frame, sender's ns | {}", kind.name()),
                sent as f64 / SUPER_BURST as f64,
            );
        }
    }
    drop(bench);
    unmake(rig, kind);
}

fn packet(memory: &mut Memory, size: usize, gso_size: u16) -> TxFrame {
    let payload = pattern(size);
    let mut packet = if gso_size > 0 {
        memory.packet(&tcp_head(size), &payload)
    } else {
        memory.packet(&udp_head(5000, 4000, size), &payload)
    };
    packet.csum_start = 34;
    packet.csum_offset = if gso_size > 0 { 16 } else { 6 };
    packet.gso_size = gso_size;
    packet
}

fn transmit(table: &mut Table, rig: &Rig, kind: Kind, size: usize, gso_size: u16) {
    let mut memory = Memory::new(FRAMES);
    let mut bench = make(rig, &mut memory, kind, true);
    let burst = if gso_size > 0 { SUPER_BURST } else { 64 };
    let model = packet(&mut memory, size, gso_size);
    let head = memory.frames().data(model.head).to_vec();
    for warm in 0..200 {
        let mut packets = vec![model; burst];
        for packet in &mut packets {
            packet.head = copy(&mut memory, &head);
        }
        let start = cpu_ns();
        let (mut sent, mut stuck) = (0, 0);
        while sent < burst {
            let taken = bench.port.tx(&mut memory.frames(), &packets[sent..]).unwrap();
            stuck = if taken == 0 { stuck + 1 } else { 0 };
            assert!(stuck < 100_000, "{}: nothing more is taken", kind.name());
            sent += taken;
        }
        bench.port.release(&mut memory.frames());
        let spent = cpu_ns() - start;
        if warm >= 20 {
            let what = if gso_size > 0 {
                "tx 60 kB super-segment, ns".to_owned()
            } else {
                format!("tx {size} B, ns/packet")
            };
            note(table, &format!("{what} | {}", kind.name()), spent as f64 / burst as f64);
        }
    }
    assert_eq!(bench.port.stats().tx_dropped, 0);
    drop(bench);
    unmake(rig, kind);
}

fn copy(memory: &mut Memory, head: &[u8]) -> FrameIdx {
    let mut frames = memory.frames();
    let frame = frames.alloc().unwrap();
    frames.meta_mut(frame).unwrap().len = head.len() as u16;
    frames.data_mut(frame).copy_from_slice(head);
    frame
}

fn bulk(table: &mut Table, rig: &Rig, kind: Kind) {
    let mut memory = Memory::new(FRAMES);
    let mut bench = make(rig, &mut memory, kind, false);
    let far = |f: &mut dyn FnMut()| if kind == Kind::Tap { f() } else { rig.far(f) };
    let result = sink::run(bench.port.as_mut(), &mut memory, far);
    note(table, &format!("kernel TCP into a sink, Gb/s | {}", kind.name()), result.gbit_per_second);
    note(
        table,
        &format!("kernel TCP into a sink, sink's busy us/MB | {}", kind.name()),
        result.busy_us_per_mb,
    );
    drop(bench);
    unmake(rig, kind);
}

fn main() {
    let Some(rig) = Rig::new() else { return };
    // What a burst sets off in the kernel then runs on this core too, before it is drained.
    let cores = sys::affinity::allowed().unwrap();
    sys::affinity::pin_to(cores[cores.len() - 1]).unwrap();
    let mut table = Table::new();
    for round in 0..ROUNDS {
        eprintln!("round {} of {ROUNDS}", round + 1);
        for kind in Kind::ALL {
            eprintln!("  {}", kind.name());
            if kind != Kind::XdpCompanion && kind != Kind::PacketBypass {
                receive_small(&mut table, &rig, kind, 64);
                receive_small(&mut table, &rig, kind, 1400);
                receive_super(&mut table, &rig, kind);
                bulk(&mut table, &rig, kind);
            }
            transmit(&mut table, &rig, kind, SUPER_BYTES, 1448);
            if kind != Kind::XdpCompanion {
                transmit(&mut table, &rig, kind, 64, 0);
                transmit(&mut table, &rig, kind, 1400, 0);
            }
        }
    }
    println!("{:<75} {:>10} {:>10} {:>10}", "what | port", "median", "lowest", "highest");
    for (row, mut samples) in table {
        samples.sort_by(f64::total_cmp);
        let median = samples[samples.len() / 2];
        println!("{row:<75} {median:>10.1} {:>10.1} {:>10.1}", samples[0], samples[samples.len() - 1]);
    }
}
