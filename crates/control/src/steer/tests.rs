//! The three programs, run by the kernel (BPF_PROG_TEST_RUN), against a model in plain Rust. As root only.

use super::*;
use crate::proto::Proto;
use base::{IpAddress, Port};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use rustix::net::{AddressFamily, SocketType};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;

const SEED: u32 = 0x1234_5678;
const LANES: u8 = 4;
/// The lane of a pin that says "the kernel's".
const KERNEL: u8 = maps::NO_LANE;

/// One of few addresses of each family, so that rules are hit.
fn address() -> impl Strategy<Value = (Ipv4Addr, Ipv6Addr)> {
    let six = |end: u8| Ipv6Addr::new(0xfd00, 1, 2, 3, 4, 5, 6, end.into());
    (1..4u8).prop_map(move |end| (Ipv4Addr::new(10, 0, 0, end), six(end)))
}

/// The address of the one family or the other.
fn of((four, six): (Ipv4Addr, Ipv6Addr), is_six: bool) -> IpAddress {
    if is_six { IpAddress::from_v6(six) } else { IpAddress::from_v4(four) }
}

fn port() -> impl Strategy<Value = u16> {
    prop_oneof![4 => 79..82u16, 1 => any::<u16>()]
}

fn proto() -> impl Strategy<Value = Proto> {
    prop_oneof![Just(Proto::Tcp), Just(Proto::Udp)]
}

fn local_end() -> impl Strategy<Value = LocalEnd> {
    (proto(), address(), any::<bool>(), port()).prop_map(|(proto, addr, six, port)| LocalEnd {
        proto,
        addr: of(addr, six),
        port: Port(port),
    })
}

fn flow() -> impl Strategy<Value = Flow> {
    (local_end(), address(), port()).prop_map(|(local, remote, port)| Flow {
        local,
        remote: of(remote, !local.addr.is_v4()),
        remote_port: Port(port),
    })
}

/// Mostly plain packets to the few ends; sometimes with options, fragments, other protocols, tags, cut short, or noise.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let mac = prop_oneof![6 => Just([0; 6]), 1 => any::<[u8; 6]>()];
    let ethertype =
        prop_oneof![8 => Just([8, 0]), 8 => Just([0x86, 0xdd]), 1 => Just([0x81, 0]), 1 => any::<[u8; 2]>()];
    let first = prop_oneof![6 => Just(0x45u8), 4 => 0x45..=0x4fu8, 1 => any::<u8>()];
    let fragment = prop_oneof![8 => Just([0x40, 0]), 1 => Just([0x20, 0]), 1 => any::<[u8; 2]>()];
    let number = prop_oneof![4 => Just(6u8), 4 => Just(17u8), 1 => any::<u8>()];
    let fill = prop_oneof![6 => Just(120usize), 1 => 0..90usize];
    let link = (mac, ethertype);
    let ip = (first, fragment, number, address(), address());
    let flags = prop_oneof![2 => Just(2u8), 2 => Just(0x10u8), 1 => any::<u8>()];
    (link, ip, port(), port(), (fill, flags)).prop_map(|((mac, ethertype), ip, source, destination, end)| {
        let (fill, flags) = end;
        let (first, fragment, number, from, to) = ip;
        let mut frame = vec![0; 20];
        frame.splice(..6, mac);
        frame.splice(12..14, ethertype);
        frame.truncate(14);
        if ethertype == [0x86, 0xdd] {
            // The version of most is right, the rest of the first word any.
            let version = if first >> 4 == 4 { 0x60 } else { first };
            frame.extend([version | (first & 15), fragment[0], fragment[1], 7, 0, 60, number, 64]);
            frame.extend(from.1.octets());
            frame.extend(to.1.octets());
        } else {
            frame.extend([first, 0, 0, 80, 0, 1, fragment[0], fragment[1], 64, number, 0, 0]);
            frame.extend(from.0.octets());
            frame.extend(to.0.octets());
            frame.resize(14 + usize::from(first & 15).max(5) * 4, 1);
        }
        frame.extend(source.to_be_bytes());
        frame.extend(destination.to_be_bytes());
        frame.extend([0, 0, 0, 1, 0, 0, 0, 1, 0x50, flags]);
        frame.resize(fill.max(15), 0xee);
        frame
    })
}

#[derive(Debug)]
struct Rules {
    listeners: Vec<(LocalEnd, u8)>,
    blocks: Vec<(LocalEnd, u8)>,
    flows: Vec<(Flow, u8)>,
}

fn rules() -> impl Strategy<Value = Rules> {
    let listeners = proptest::collection::vec((local_end(), 0..LANES), 0..12);
    let flows = proptest::collection::vec((flow(), 0..LANES), 0..12);
    let blocks = proptest::collection::vec((local_end(), 0..LANES), 0..4);
    (listeners, blocks, flows).prop_map(|(listeners, blocks, flows)| Rules { listeners, blocks, flows })
}

/// An ICMP error about the packet that `frame` answers, as a router far away would send it; sometimes another message, or about another packet.
fn error_about(frame: &[u8], kind: u8, cut: usize) -> Vec<u8> {
    let mut error = frame[..14.min(frame.len())].to_vec();
    let ip = frame.get(14..).unwrap_or(&[]);
    let six = frame[12..14] == [0x86, 0xdd];
    // The quoted packet goes the other way: addresses and ports change places.
    let (src, dst, len, header) = if six {
        (8, 24, 16, 40)
    } else {
        (12, 16, 4, usize::from(ip.first().unwrap_or(&5) & 15).max(5) * 4)
    };
    let mut quoted = ip.to_vec();
    if quoted.len() < header + 8 {
        return frame.to_vec();
    }
    for n in 0..len {
        quoted.swap(src + n, dst + n);
    }
    quoted.swap(header, header + 2);
    quoted.swap(header + 1, header + 3);
    let (own, router) = (quoted[src..src + len].to_vec(), [9_u8; 16]);
    if six {
        error.extend([0x60, 0, 0, 0, 0, 60, 58, 64]);
    } else {
        error.extend([0x45, 0, 0, 80, 0, 1, 0, 0, 64, 1, 0, 0]);
    }
    error.extend(&router[..len]);
    error.extend(own);
    error.extend([kind, 4, 0, 0, 0, 0, 5, 0]);
    quoted.truncate(cut.max(12));
    error.extend(quoted);
    error
}

/// A packet, or an error about one.
fn packet_or_error() -> impl Strategy<Value = Vec<u8>> {
    let kind = prop_oneof![4 => 1..5u8, 2 => 11..13u8, 1 => any::<u8>()];
    let cut = prop_oneof![6 => Just(80usize), 1 => 0..80usize];
    let spoiled = prop_oneof![8 => Just(None), 1 => (14..62usize, any::<u8>()).prop_map(Some)];
    (packet(), any::<bool>(), kind, cut, spoiled).prop_map(|(frame, quote, kind, cut, spoiled)| {
        if !quote || frame.len() < 15 {
            return frame;
        }
        let mut error = error_about(&frame, kind, cut);
        if let Some((at, with)) = spoiled
            && let Some(byte) = error.get_mut(at)
        {
            *byte = with;
        }
        error
    })
}

/// Protocol number, source and destination, and what follows the IP header, of a packet; a whole one, or the first of its `pieces`.
fn read_ip(ip: &[u8], six: bool, pieces: u16) -> Option<(u8, [IpAddress; 2], &[u8])> {
    if six {
        let fixed = ip.get(..40).filter(|fixed| fixed[0] >> 4 == 6)?;
        let address = |at: usize| IpAddress(fixed[at..at + 16].try_into().unwrap());
        return Some((fixed[6], [address(8), address(24)], &ip[40..]));
    }
    let header = usize::from(ip.first()? & 15) * 4;
    let fixed = ip.get(..20)?;
    let plain = ip[0] >> 4 == 4 && header >= 20;
    if !plain || u16::from_be_bytes([fixed[6], fixed[7]]) & pieces != 0 {
        return None;
    }
    let address =
        |at: usize| IpAddress::from_v4([fixed[at], fixed[at + 1], fixed[at + 2], fixed[at + 3]].into());
    Some((fixed[9], [address(12), address(16)], ip.get(header..)?))
}

type End = (IpAddress, Port);

/// Protocol, ends (remote, local) and whether it opens a connection, of a frame that may be steered.
fn read(frame: &[u8]) -> Option<(Proto, [End; 2], bool)> {
    let ip = frame.get(14..).filter(|_| frame[0] & 1 == 0)?;
    let six = frame[12..14] == [0x86, 0xdd];
    if !six && frame[12..14] != [8, 0] {
        return None;
    }
    let (number, [from, to], rest) = read_ip(ip, six, 0x3fff)?;
    let port = |bytes: &[u8], at: usize| Port(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
    if number == if six { 58 } else { 1 } {
        let kind = *rest.first()?;
        let error = if six { (1..=4).contains(&kind) } else { [3, 11, 12].contains(&kind) };
        let quoted = rest.get(8..).filter(|_| error)?;
        let (number, [source, destination], rest) = read_ip(quoted, six, 0x1fff)?;
        let rest = rest.get(..8).filter(|_| source == to)?;
        return Some((
            Proto::from_number(number)?,
            [(destination, port(rest, 2)), (source, port(rest, 0))],
            false,
        ));
    }
    let proto = Proto::from_number(number)?;
    let rest = Some(rest).filter(|t| t.len() >= if proto == Proto::Tcp { 14 } else { 4 })?;
    let opens = proto == Proto::Tcp && rest[13] & 0x12 == 2;
    Some((proto, [(from, port(rest, 0)), (to, port(rest, 2))], opens))
}

impl Bench {
    /// The lane of `frame`, read as a person would; the rows of the steering give rules and slots.
    fn model(&mut self, frame: &[u8]) -> Option<u8> {
        let (proto, [(remote, remote_port), (addr, port)], opens) = read(frame)?;
        let local = LocalEnd { proto, addr, port };
        let flow = Flow { local, remote, remote_port };
        if self.steering.entrusted.contains(&flow) {
            self.entrusted += 1;
            return None;
        }
        if let Some(lane) = self.steering.flow_rows.get(&flow) {
            return Some(lane.number());
        }
        let block = self.steering.block_rows.get(&local.block());
        let listener = self.steering.listener_rows.get(&local).or(block);
        self.in_blocks +=
            usize::from(listener.is_some() && !self.steering.listener_rows.contains_key(&local));
        let pinned = self.pins.get(&flow).copied().filter(|_| proto == Proto::Tcp && !opens);
        self.followed += usize::from(pinned.is_some());
        let alive =
            |lane: u8| Some(lane).filter(|lane| *lane != KERNEL && self.steering.lanes >> lane & 1 == 1);
        match (listener, pinned) {
            (None, None) => {
                if let Some(pin) = self.pins.get_mut(&flow).filter(|_| opens) {
                    self.left += usize::from(*pin != KERNEL);
                    *pin = KERNEL;
                }
                None
            }
            (None, Some(lane)) => alive(lane),
            (Some(row), None) if row.is_beside_kernel() && proto == Proto::Tcp && !opens => None,
            (Some(row), Some(lane)) if row.is_shared() || row.is_beside_kernel() => alive(lane),
            (Some(row), _) => {
                let lane = row.slots[slot_of(SEED, remote, remote_port)];
                if opens {
                    self.pins.insert(flow, lane);
                }
                Some(lane)
            }
        }
    }
}

struct Bench {
    steering: Steering,
    tcx: Program,
    filters: Vec<Program>,
    xdp: Vec<Program>,
    /// What the programs remember of connections.
    pins: HashMap<Flow, u8>,
    /// Packets that had a pin to follow.
    followed: usize,
    /// Packets to a port that only its block has a rule for.
    in_blocks: usize,
    /// Pins of a lane that a SYN to the kernel took over.
    left: usize,
    /// Packets of connections that were handed over to the kernel.
    entrusted: usize,
    /// SYNs so far.
    opened: u32,
    _keep: Vec<(Map, std::os::fd::OwnedFd)>,
}

/// One XDP program a lane, with a socket for that lane only: then a redirect says which lane.
fn bench() -> Bench {
    let steering = Steering::new(SEED).unwrap();
    let tcx = steering.load(&Kind::TcxIngress).unwrap();
    let lanes = || (0..LANES).filter_map(SteerLane::new);
    let filters = lanes().map(|lane| steering.load(&Kind::SocketFilter(lane)).unwrap()).collect();
    let (mut xdp, mut keep) = (Vec::new(), Vec::new());
    for lane in lanes() {
        let map = Map::create(MapKind::Xsk, 4, 4, u32::from(STEER_LANES), "corelane_test").unwrap();
        let socket = rustix::net::socket(AddressFamily::XDP, SocketType::RAW, None).unwrap();
        map.update(&attach::socket_key(0, lane), &socket.as_raw_fd().to_ne_bytes()).unwrap();
        xdp.push(steering.load(&Kind::Xdp(&map)).unwrap());
        keep.push((map, socket));
    }
    Bench {
        steering,
        tcx,
        filters,
        xdp,
        pins: HashMap::new(),
        followed: 0,
        in_blocks: 0,
        left: 0,
        entrusted: 0,
        opened: 0,
        _keep: keep,
    }
}

fn run(program: &Program, frame: &[u8]) -> u32 {
    program.test_run(frame, &[], 1).unwrap().result
}

/// The test run strips the Ethernet header for a filter; a tap's filter sees it.
fn for_filter(frame: &[u8]) -> Vec<u8> {
    [&[0; 14], frame].concat()
}

impl Bench {
    /// A SYN with a sequence number that none had before.
    fn numbered(&mut self, frame: &[u8]) -> Vec<u8> {
        let mut frame = frame.to_vec();
        if matches!(read(&frame), Some((_, _, true))) {
            self.opened += 2;
            let ip = if frame[12] == 8 { usize::from(frame[14] & 15) * 4 } else { 40 };
            frame[14 + ip + 4..][..4].copy_from_slice(&self.opened.to_be_bytes());
        }
        frame
    }

    fn check(&mut self, frame: &[u8]) -> bool {
        let frame = &self.numbered(frame);
        let wanted = self.model(frame);
        for (lane, program) in (0..LANES).zip(&self.xdp) {
            let verdict = if wanted == Some(lane) { 4 } else { 2 };
            assert_eq!(run(program, frame), verdict, "XDP, lane {lane} of {wanted:?}, {frame:02x?}");
        }
        let with_header = for_filter(frame);
        for (lane, program) in (0..LANES).zip(&self.filters) {
            let verdict = if wanted == Some(lane) { u32::MAX } else { 0 };
            let result = run(program, &with_header);
            assert_eq!(result, verdict, "filter, lane {lane} of {wanted:?}, {frame:02x?}");
        }
        // The test run refuses to make a socket buffer of a cut IP header.
        if frame.len() < 54 && [[8, 0], [0x86, 0xdd]].contains(&[frame[12], frame[13]]) {
            return wanted.is_some();
        }
        // The test run's device has the address 0: other stations' frames are not PACKET_HOST.
        let ours = frame[..6] == [0; 6];
        let verdict = if wanted.is_some() && ours { 2 } else { u32::MAX };
        assert_eq!(run(&self.tcx, frame), verdict, "TCX, {wanted:?}, {frame:02x?}");
        wanted.is_some()
    }
}

fn apply(steering: &mut Steering, rules: &Rules) {
    let lane = |number: &u8| SteerLane::new(*number).unwrap();
    for (end, number) in &rules.listeners {
        // Odd ports may have connections of the kernel's.
        match end.port.0 % 2 {
            0 => steering.add_listener(*end, lane(number)).unwrap(),
            _ => steering.add_listener_beside_kernel(*end, lane(number)).unwrap(),
        }
    }
    for (end, number) in &rules.blocks {
        steering.add_block(*end, lane(number)).unwrap();
    }
    for (flow, number) in &rules.flows {
        steering.add_flow(*flow, lane(number)).unwrap();
    }
}

#[test]
fn all_three_programs_decide_as_the_model_does() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut bench = bench();
    let mut runner = TestRunner::deterministic();
    let cases = (rules(), proptest::collection::vec(packet_or_error(), 120));
    let (mut hits, mut errors) = (0, 0);
    for _ in 0..60 {
        let (rules, packets) = cases.new_tree(&mut runner).unwrap().current();
        apply(&mut bench.steering, &rules);
        let is_error = |frame: &&Vec<u8>| {
            [[1, 8], [58, 0x86]].contains(&[frame[if frame[12] == 8 { 23 } else { 20 }], frame[12]])
        };
        errors +=
            packets.iter().filter(|frame| frame.len() > 60 && is_error(frame) && bench.check(frame)).count();
        hits += packets.iter().filter(|frame| bench.check(frame)).count();
        // The kernel's connections end, on one port after the other.
        for port in [79, 81] {
            bench.steering.settle(|end| end.port.0 > port).unwrap();
            hits += packets.iter().filter(|frame| bench.check(frame)).count();
        }
        // Some connections are handed over to the kernel, and end there.
        let known = bench.pins.keys().chain(bench.steering.flow_rows.keys());
        let some = |flow: &&Flow| (flow.local.port.0 ^ flow.remote_port.0) % 4 == 1;
        let handed: Vec<Flow> = known.filter(some).copied().collect();
        for flow in &handed {
            bench.steering.entrust(*flow).unwrap();
            bench.pins.insert(*flow, KERNEL);
        }
        hits += packets.iter().filter(|frame| bench.check(frame)).count();
        let left = bench.steering.settle_entrusted(|flow| flow.remote_port.0 % 2 == 0).unwrap();
        assert_eq!(left, bench.steering.entrusted.len());
        hits += packets.iter().filter(|frame| bench.check(frame)).count();
        bench.steering.settle_entrusted(|_| false).unwrap();
        // Listeners go one by one; connections stay with their lanes.
        for (end, number) in &rules.listeners {
            bench.steering.remove_listener(*end, SteerLane::new(*number).unwrap()).unwrap();
            hits += packets.iter().filter(|frame| bench.check(frame)).count();
        }
        for lane in (0..LANES).filter_map(SteerLane::new) {
            bench.steering.remove_lane(lane).unwrap();
            packets.iter().for_each(|frame| {
                bench.check(frame);
            });
        }
        assert_eq!(bench.steering.rules().count(), 0);
        assert!(!packets.iter().any(|frame| bench.check(frame)));
    }
    assert!(hits > 1000 && bench.followed > 100, "few packets meet a rule: {hits}, {}", bench.followed);
    assert!(errors > 50, "few errors quote a flow with a rule: {errors}");
    assert!(bench.in_blocks > 500, "few packets meet a block: {}", bench.in_blocks);
    assert!(bench.entrusted > 100, "few packets of handed-over connections: {}", bench.entrusted);
    assert!(bench.left > 20, "few connections open at the kernel where a lane had one: {}", bench.left);
}

#[test]
fn rules_that_are_not_there_cannot_be_removed() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut steering = Steering::new(SEED).unwrap();
    let (zero, one) = (SteerLane::new(0).unwrap(), SteerLane::new(1).unwrap());
    let end =
        LocalEnd { proto: Proto::Tcp, addr: IpAddress::from_v4(Ipv4Addr::new(10, 0, 0, 1)), port: Port(80) };
    assert!(matches!(steering.remove_listener(end, zero), Err(SteerError::NoRule)));
    steering.add_listener(end, zero).unwrap();
    assert!(matches!(steering.remove_listener(end, one), Err(SteerError::NoRule)));
    steering.remove_listener(end, zero).unwrap();
    assert!(matches!(steering.remove_block(end, zero), Err(SteerError::NoRule)));
    steering.add_block(end, zero).unwrap();
    assert!(matches!(steering.remove_block(end, one), Err(SteerError::NoRule)));
    steering.remove_block(LocalEnd { port: Port(127), ..end }, zero).unwrap();
    let flow = Flow { local: end, remote: end.addr, remote_port: Port(1) };
    assert!(matches!(steering.remove_flow(flow), Err(SteerError::NoRule)));
    let any = LocalEnd { addr: IpAddress::ANY, ..end };
    assert!(matches!(steering.add_listener(any, zero), Err(SteerError::NotExact)));
    assert!(matches!(steering.detach(1), Err(SteerError::Device)));
    assert!(SteerLane::new(STEER_LANES).is_none());
}

#[test]
fn an_end_is_elsewhere_only_while_other_lanes_have_it_alone() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut bench = bench();
    let lane = |number| SteerLane::new(number).unwrap();
    let local =
        LocalEnd { proto: Proto::Tcp, addr: IpAddress::from_v4([10, 0, 0, 1].into()), port: Port(80) };
    let flow = Flow { local, remote: IpAddress::from_v4([10, 0, 0, 2].into()), remote_port: Port(40_000) };
    let elsewhere = |steering: &Steering| steering.is_elsewhere(&flow, |of| of == lane(1));
    // A listener that closed leaves its connections to whoever has them.
    assert!(!elsewhere(&bench.steering));
    bench.steering.add_listener(local, lane(2)).unwrap();
    assert!(elsewhere(&bench.steering));
    bench.steering.add_listener(local, lane(1)).unwrap();
    assert!(!elsewhere(&bench.steering));
    bench.steering.remove_listener(local, lane(1)).unwrap();
    assert!(elsewhere(&bench.steering));
    bench.steering.remove_listener(local, lane(2)).unwrap();
    bench.steering.add_block(local, lane(3)).unwrap();
    assert!(elsewhere(&bench.steering));
    bench.steering.remove_lane(lane(3)).unwrap();
    assert!(!elsewhere(&bench.steering));
}

/// A TCP segment with `flags` from 10.0.0.2, `port`, to port 80 of 10.0.0.1.
fn segment(port: u16, flags: u8, seq: u32) -> Vec<u8> {
    let mut frame = vec![0; 12];
    frame.extend([8, 0, 0x45, 0, 0, 40, 0, 1, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 2, 10, 0, 0, 1]);
    frame.extend(port.to_be_bytes());
    frame.extend([0, 80]);
    frame.extend(seq.to_be_bytes());
    frame.extend([0, 0, 0, 0, 0x50, flags, 0xff, 0xff]);
    frame.resize(80, 0);
    frame
}

impl Bench {
    /// The lanes that take `frame`, each looking in turn, with `change` after `after` of them have looked.
    fn taken_by(&mut self, frame: &[u8], after: u8, mut change: impl FnMut(&mut Steering)) -> Vec<u8> {
        let with_header = for_filter(frame);
        let mut takers = Vec::new();
        for lane in 0..LANES {
            if lane == after {
                change(&mut self.steering);
            }
            if run(&self.filters[usize::from(lane)], &with_header) == u32::MAX {
                takers.push(lane);
            }
        }
        takers
    }
}

/// Lanes that come and go while a SYN passes the taps: it belongs to one of them at most, and its connection's segments go to the one that took it.
#[test]
fn a_syn_belongs_to_the_lane_that_took_it_whatever_changes_on_its_way() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let local =
        LocalEnd { proto: Proto::Tcp, addr: IpAddress::from_v4([10, 0, 0, 1].into()), port: Port(80) };
    let lane = |number| SteerLane::new(number).unwrap();
    let (mut lost, mut whole) = (0, 0);
    for after in 0..=LANES {
        // A lane leaves, one comes, the only one leaves.
        for (before, comes, leaves) in
            [(vec![1, 2], None, Some(1)), (vec![1], Some(2), None), (vec![1], None, Some(1))]
        {
            let mut bench = bench();
            before.iter().for_each(|number| bench.steering.add_listener(local, lane(*number)).unwrap());
            // Others were there, so that pins count.
            bench.steering.add_listener(LocalEnd { port: Port(81), ..local }, lane(3)).unwrap();
            bench.steering.add_listener(local, lane(3)).unwrap();
            bench.steering.remove_listener(local, lane(3)).unwrap();
            let change = |steering: &mut Steering| {
                comes.iter().for_each(|number| steering.add_listener(local, lane(*number)).unwrap());
                leaves.iter().for_each(|number| steering.remove_listener(local, lane(*number)).unwrap());
            };
            let undo = |steering: &mut Steering| {
                leaves.iter().for_each(|number| steering.add_listener(local, lane(*number)).unwrap());
                comes.iter().for_each(|number| steering.remove_listener(local, lane(*number)).unwrap());
            };
            for port in 40_000..40_032 {
                let syn = segment(port, 2, 2 * u32::from(port));
                let takers = bench.taken_by(&syn, after, change);
                if after == LANES {
                    change(&mut bench.steering);
                }
                let at_kernel = run(&bench.tcx, &syn) != 2;
                assert!(
                    takers.len() + usize::from(at_kernel) <= 1,
                    "{takers:?}, the kernel: {at_kernel}, port {port}"
                );
                let ack = segment(port, 0x10, 2 * u32::from(port) + 1);
                let followers = bench.taken_by(&ack, LANES, |_| ());
                if let [taker] = takers[..] {
                    assert_eq!(followers, [taker], "port {port}");
                    whole += 1;
                } else {
                    lost += usize::from(!at_kernel);
                }
                // Sent again, it goes by the rules as they are now, and so does another one between the same ends.
                for seq in [0, 2] {
                    let again = segment(port, 2, 2 * u32::from(port) + seq);
                    let takers = bench.taken_by(&again, LANES, |_| ());
                    let at_kernel = run(&bench.tcx, &again) != 2;
                    assert_eq!(takers.len() + usize::from(at_kernel), 1, "{takers:?}, port {port}");
                    assert_eq!(at_kernel, !bench.steering.listener_rows.contains_key(&local));
                }
                undo(&mut bench.steering);
            }
        }
    }
    assert!(whole > 100 && lost < whole, "{whole} taken, {lost} taken by nobody");
}

/// A connection came by a lane's port, the lane ended, and another one, or the next of its number, connects from the same port to the same remote end.
#[test]
fn a_port_that_another_lane_has_now_knows_nothing_of_connections_the_lane_before_fetched() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let lane = |number| SteerLane::new(number).unwrap();
    let at = |port| LocalEnd { proto: Proto::Tcp, addr: IpAddress::from_v4([10, 0, 0, 1].into()), port };
    let flow = |remote_port| Flow {
        local: at(Port(80)),
        remote: IpAddress::from_v4([10, 0, 0, 2].into()),
        remote_port: Port(remote_port),
    };
    for number_is_taken in [false, true] {
        let mut bench = bench();
        // There are others, so that pins count.
        bench.steering.add_block(at(Port(200)), lane(3)).unwrap();
        bench.steering.add_block(at(Port(80)), lane(1)).unwrap();
        bench.steering.fetch(flow(40_000), lane(1)).unwrap();
        // One that went on to another lane stays with that.
        bench.steering.fetch(flow(40_001), lane(3)).unwrap();
        bench.steering.remove_lane(lane(1)).unwrap();
        if number_is_taken {
            bench.steering.add_block(at(Port(300)), lane(1)).unwrap();
        }
        bench.steering.add_block(at(Port(80)), lane(2)).unwrap();
        let syn_ack = segment(40_000, 0x12, 1);
        assert_eq!(bench.taken_by(&syn_ack, LANES, |_| ()), [2], "number taken: {number_is_taken}");
        assert_eq!(run(&bench.tcx, &syn_ack), 2);
        let other = segment(40_001, 0x10, 1);
        assert_eq!(bench.taken_by(&other, LANES, |_| ()), [3]);
    }
}

/// Where the server of these tests listens.
fn web() -> LocalEnd {
    LocalEnd { proto: Proto::Tcp, addr: IpAddress::from_v4([10, 0, 0, 1].into()), port: Port(80) }
}

/// The connection of its client at `port`.
fn client(port: u16) -> Flow {
    Flow { local: web(), remote: IpAddress::from_v4([10, 0, 0, 2].into()), remote_port: Port(port) }
}

/// `syn` comes to `lane`, which does not listen any more afterwards.
fn waits_at(bench: &mut Bench, lane: SteerLane, syn: &[u8]) {
    bench.steering.add_listener(web(), lane).unwrap();
    assert_eq!(bench.taken_by(syn, LANES, |_| ()), [lane.number()]);
    assert_eq!(run(&bench.tcx, syn), 2);
    bench.steering.remove_listener(web(), lane).unwrap();
}

/// A SYN waited at a lane whose process died, and the peer sent it again: the lane that took it then has the connection, whatever becomes of the first.
#[test]
fn what_a_dead_lane_hands_on_takes_no_segments_from_the_lane_that_took_the_syn_after_it() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (lane, local) = (|number| SteerLane::new(number).unwrap(), web());
    let mut bench = bench();
    // The heir has a listener, too.
    bench.steering.add_listener(LocalEnd { port: Port(81), ..local }, lane(3)).unwrap();
    for port in 40_000..40_016 {
        let (flow, syn, ack) = (client(port), segment(port, 2, 7), segment(port, 0x10, 8));
        waits_at(&mut bench, lane(1), &syn);
        // The odd ones come again.
        let again = port % 2 == 1;
        bench.steering.add_listener(local, lane(2)).unwrap();
        if again {
            assert_eq!(bench.taken_by(&syn, LANES, |_| ()), [2]);
            assert_eq!(run(&bench.tcx, &syn), 2);
        }
        bench.steering.remove_listener(local, lane(2)).unwrap();
        bench.steering.hand_on(flow, lane(1), lane(3)).unwrap();
        assert_eq!(bench.taken_by(&ack, LANES, |_| ()), [if again { 2 } else { 3 }], "port {port}");
        // The heir has no room, so they stay where they were: but not what another lane has.
        bench.steering.keep(flow, lane(1), lane(3)).unwrap();
        assert_eq!(bench.taken_by(&ack, LANES, |_| ()), [if again { 2 } else { 1 }], "port {port}, back");
    }
    // That lane is gone: whoever has the connection now gets its segments.
    bench.steering.remove_lane(lane(2)).unwrap();
    bench.steering.hand_on(client(40_001), lane(1), lane(3)).unwrap();
    assert_eq!(bench.taken_by(&segment(40_001, 0x10, 8), LANES, |_| ()), [3]);
}

/// Connections that cannot be handed on are steered back. Their peers may have sent their SYNs again, to the very lane that would have been their heir, and even have opened other
/// connections between the same ends: these keep their segments.
#[test]
fn what_is_steered_back_was_steered_away_before() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (lane, local) = (|number| SteerLane::new(number).unwrap(), web());
    let mut bench = bench();
    bench.steering.add_listener(LocalEnd { port: Port(81), ..local }, lane(3)).unwrap();
    let (flow, syn, ack) = (client(40_000), segment(40_000, 2, 7), segment(40_000, 0x10, 8));
    waits_at(&mut bench, lane(1), &syn);
    bench.steering.add_listener(local, lane(2)).unwrap();
    assert_eq!(bench.taken_by(&segment(40_000, 2, 70), LANES, |_| ()), [2]);
    for _ in 0..2 {
        bench.steering.keep(flow, lane(1), lane(2)).unwrap();
        assert_eq!(bench.taken_by(&ack, LANES, |_| ()), [2]);
        // Its own connection, from there on.
        bench.steering.hand_on(flow, lane(1), lane(3)).unwrap();
        assert_eq!(bench.taken_by(&ack, LANES, |_| ()), [2]);
    }
    bench.steering.hand_on(flow, lane(2), lane(3)).unwrap();
    assert_eq!(bench.taken_by(&ack, LANES, |_| ()), [3]);
    bench.steering.keep(flow, lane(1), lane(3)).unwrap();
    assert_eq!(bench.taken_by(&ack, LANES, |_| ()), [3], "given by another lane");
    bench.steering.keep(flow, lane(2), lane(3)).unwrap();
    assert_eq!(bench.taken_by(&ack, LANES, |_| ()), [2]);
}

/// A process died between having a connection's segments go to another lane and giving it the connection: whom it is given to later gets them, although both lanes are there. A SYN that comes
/// to the first heir ends that.
#[test]
fn what_a_dead_lane_began_to_hand_on_goes_with_its_connection() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let (lane, local) = (|number| SteerLane::new(number).unwrap(), web());
    let mut bench = bench();
    for heir in [2, 3] {
        bench.steering.add_listener(LocalEnd { port: Port(81), ..local }, lane(heir)).unwrap();
    }
    for (port, again) in [(40_000, false), (40_001, true)] {
        let (flow, syn, ack) = (client(port), segment(port, 2, 7), segment(port, 0x10, 8));
        waits_at(&mut bench, lane(1), &syn);
        bench.steering.hand_on(flow, lane(1), lane(2)).unwrap();
        assert_eq!(bench.taken_by(&ack, LANES, |_| ()), [2]);
        if again {
            bench.steering.add_listener(local, lane(2)).unwrap();
            assert_eq!(bench.taken_by(&syn, LANES, |_| ()), [2]);
            assert_eq!(run(&bench.tcx, &syn), 2);
            bench.steering.remove_listener(local, lane(2)).unwrap();
        }
        bench.steering.hand_on(flow, lane(1), lane(3)).unwrap();
        assert_eq!(bench.taken_by(&ack, LANES, |_| ()), [if again { 2 } else { 3 }], "port {port}");
    }
}
