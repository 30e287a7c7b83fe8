//! Connections that leave a wire for the device beside it: nothing is lost, whatever of it is, and nobody else can have them do so.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

mod net;

use base::{Duration, Idx, IpAddress, MacAddr, SeqNum};
use engine::{Leaver, SockError, State, Unwired};
use net::{Net, Setup, forged, pattern};
use state::ports::{PORT_ADDRESSES, PORT_LOCAL_PEER, PORT_UP, PORT_WIRE};
use state::{DropReason, FlowKey, PortInfo, SockRef, port_beside};
use wire::TcpFlags;

const S: Setup = Setup::USUAL;
/// The ports of both lanes.
const WIRE: u8 = 0;
const DEVICE: u8 = 1;
/// Largest packet of wires and devices here.
const WIRE_MTU: u16 = 9000;
const DEVICE_MTU: u16 = 1500;

/// Two lanes with a wire and a device between them.
fn net(seed: u64) -> Net {
    let mut net = Net::new(seed, &S);
    net.by_port = true;
    for host in 0..2 {
        let mut addrs = [IpAddress::ANY; PORT_ADDRESSES];
        addrs[0] = net.hosts[host].addr;
        let mac = net.hosts[host].mac;
        for (port, flags, mtu) in [(WIRE, PORT_WIRE | port_beside(DEVICE), WIRE_MTU), (DEVICE, 0, DEVICE_MTU)]
        {
            let flags = flags | PORT_UP | PORT_LOCAL_PEER;
            let info =
                PortInfo { addrs, addr_count: 1, flags, super_segment_max: S.super_segment_max, mac, mtu };
            assert!(net.on(host, |e| e.set_port(port, &info)));
        }
    }
    net
}

/// The connection between ports 40000 and 80 as `host` names it.
fn flow(net: &Net, host: usize) -> FlowKey {
    let (local, remote) = if host == 0 { (40_000, 80) } else { (80, 40_000) };
    let (local, remote) = (net.hosts[host].end(local), net.hosts[1 - host].end(remote));
    FlowKey { local: local.addr, remote: remote.addr, local_port: local.port, remote_port: remote.port }
}

/// What the lane of `host` does when it is told that a peer asks. Gives how many did.
fn follow(net: &mut Net, host: usize) -> usize {
    let mut leavers = 0;
    while let Some(leaver) = net.on(host, |e| e.poll_leaver()) {
        net.on(host, |e| e.follow_off_wire(&leaver, DEVICE));
        leavers += 1;
    }
    leavers
}

/// `host` takes the connection off the wire, as `lane` does it: asks every 10 ms.
fn unwire(net: &mut Net, host: usize) {
    let flow = flow(net, host);
    for _ in 0..50 {
        if net.on(host, |e| e.ask_off_wire(&flow, DEVICE)) == Unwired::Done {
            return;
        }
        for _ in 0..100 {
            net.run(Duration::from_micros(100));
            follow(net, 0);
            follow(net, 1);
        }
    }
    panic!("it does not leave the wire");
}

fn ports(net: &mut Net, socks: [SockRef; 2]) -> [Option<u8>; 2] {
    [0, 1].map(|host| net.on(host, |e| e.port_of(socks[host])))
}

/// Everything that has come in.
fn drain(net: &mut Net, host: usize, s: SockRef, wanted: usize) -> Vec<u8> {
    let mut got = Vec::new();
    for _ in 0..10_000 {
        while let Ok(bytes) = net.recv(host, s, 65_536) {
            assert!(!bytes.is_empty(), "the end comes early");
            got.extend(bytes);
        }
        if got.len() >= wanted {
            break;
        }
        net.run(Duration::from_millis(1));
    }
    got
}

#[test]
fn either_end_may_ask_while_both_send() {
    for host in 0..2 {
        let mut net = net(1);
        let (listener, a, b) = net.open();
        assert_eq!(ports(&mut net, [a, b]), [Some(WIRE); 2]);
        for (from, s) in [(0, a), (1, b)] {
            assert_eq!(net.send(from, s, &pattern(from as u64, 400_000)), Ok(400_000));
        }
        net.run(Duration::from_micros(150));
        unwire(&mut net, host);
        assert_eq!(ports(&mut net, [a, b]), [Some(DEVICE); 2]);
        assert_eq!(drain(&mut net, 1, b, 400_000), pattern(0, 400_000));
        assert_eq!(drain(&mut net, 0, a, 400_000), pattern(1, 400_000));
        for (at, s) in [(0, a), (1, b)] {
            let info = net.on(at, |e| e.tcp_info(s)).unwrap();
            assert_eq!((info.retransmits, info.snd_mss), (0, net::MSS), "host {at}");
        }
        net.keep_trace = true;
        net.transfer(a, b, 300_000, 200_000);
        assert!(net.trace.iter().all(|(_, _, packet)| packet.port == DEVICE));
        net.close(1, listener);
        net.run(Duration::from_secs(130));
        net.assert_clean(&S);
    }
}

#[test]
fn both_may_ask_at_once() {
    let mut net = net(2);
    let (_, a, b) = net.open();
    for host in 0..2 {
        let flow = flow(&net, host);
        assert_eq!(net.on(host, |e| e.ask_off_wire(&flow, DEVICE)), Unwired::Asked);
    }
    net.run(Duration::from_millis(1));
    assert_eq!((follow(&mut net, 0), follow(&mut net, 1)), (1, 1));
    net.run(Duration::from_millis(1));
    assert_eq!(ports(&mut net, [a, b]), [Some(DEVICE); 2]);
    net.transfer(a, b, 100_000, 100_000);
}

#[test]
fn whatever_is_lost_on_the_way_costs_time_alone() {
    for lost in 0..12 {
        let mut net = net(3);
        let (_, a, b) = net.open();
        assert_eq!(net.send(1, b, &pattern(5, 100_000)), Ok(100_000));
        let mut n = 0;
        net.filter = Some(Box::new(move |_, _| {
            n += 1;
            n - 1 == lost || n - 1 == lost + 3
        }));
        unwire(&mut net, 1);
        assert_eq!(drain(&mut net, 0, a, 100_000), pattern(5, 100_000), "packet {lost} is lost");
        net.run(Duration::from_secs(1));
        assert_eq!(ports(&mut net, [a, b]), [Some(DEVICE); 2]);
        net.transfer(a, b, 10_000, 10_000);
    }
}

/// The ACK with which the peer follows is lost, and nobody asks again: what goes by the wire shows the peer that the other end does not know.
#[test]
fn an_end_that_hears_nothing_goes_on_over_the_wire_until_it_does() {
    let mut net = net(4);
    let (_, a, b) = net.open();
    let flow = flow(&net, 1);
    net.on(1, |e| e.ask_off_wire(&flow, DEVICE));
    net.run(Duration::from_millis(1));
    net.filter = Some(Box::new(|from, _| from == 0));
    assert_eq!(follow(&mut net, 0), 1);
    net.run(Duration::from_millis(100));
    net.filter = None;
    assert_eq!(ports(&mut net, [a, b]), [Some(DEVICE), Some(WIRE)]);
    assert_eq!(net.send(1, b, b"hello"), Ok(5));
    net.run(Duration::from_millis(1));
    assert_eq!(ports(&mut net, [a, b]), [Some(DEVICE); 2]);
    assert_eq!(net.recv(0, a, 100).unwrap(), b"hello");
}

#[test]
fn nobody_else_takes_a_connection_off_its_wire() {
    let mut net = net(5);
    let (_, a, b) = net.open();
    let (numbers, info) = net.on(1, |e| {
        let row = e.mem().hot.rows()[b.row() as usize];
        ((row.rcv.nxt, row.snd.una), row.rcv.nxt)
    });
    let ack = |net: &mut Net, numbers: (SeqNum, SeqNum)| {
        let mut segment = forged(net, 0, (40_000, 80), numbers, TcpFlags::ACK, &[]);
        segment.port = DEVICE;
        net.put(1, segment);
        net.run(Duration::from_millis(1));
        ports(net, [a, b])[1]
    };
    // Nobody asked.
    assert_eq!(ack(&mut net, numbers), Some(WIRE));
    let flow = flow(&net, 1);
    net.on(1, |e| e.ask_off_wire(&flow, DEVICE));
    // Who does not know the numbers.
    assert_eq!(ack(&mut net, (info.plus(1 << 30), numbers.1)), Some(WIRE));
    assert_eq!(ack(&mut net, (info.minus(1), numbers.1)), Some(WIRE));
    assert_eq!(ack(&mut net, (info, numbers.1.plus(1))), Some(WIRE));
    assert_eq!(net.dropped(1, DropReason::IpSourceBad), 4);
    assert_eq!(ack(&mut net, numbers), Some(DEVICE));
}

#[test]
fn what_asks_by_another_way_than_the_connections_wire_is_not_heard() {
    let mut net = net(6);
    let (_, a, b) = net.open();
    let (flow, other_end) = (flow(&net, 1), flow(&net, 0));
    // By a device.
    net.keep_trace = true;
    net.filter = Some(Box::new(|from, _| from == 1));
    net.on(1, |e| e.ask_off_wire(&flow, DEVICE));
    net.flush(1);
    net.filter = None;
    let mut asking = net.trace.pop().unwrap().2;
    asking.port = DEVICE;
    net.put(0, asking.clone());
    net.run(Duration::from_millis(1));
    assert_eq!((net.dropped(0, DropReason::EthUnknownType), follow(&mut net, 0)), (1, 0));
    // Cut short.
    asking.port = WIRE;
    let mut cut = asking.clone();
    cut.bytes.truncate(50);
    net.put(0, cut);
    net.run(Duration::from_millis(1));
    assert_eq!((net.dropped(0, DropReason::EthUnknownType), follow(&mut net, 0)), (2, 0));
    // For a connection that there is not.
    let mut other = asking.clone();
    let last = other.bytes.len() - 1;
    other.bytes[last] ^= 1;
    net.put(0, other);
    net.run(Duration::from_millis(1));
    assert_eq!(follow(&mut net, 0), 0);
    // What the lane says must be what it was told.
    let wrong = Leaver { flow: other_end, wire: DEVICE, mac: MacAddr([2; 6]), mtu: 1500 };
    assert!(!net.on(0, |e| e.follow_off_wire(&wrong, DEVICE)));
    assert_eq!(ports(&mut net, [a, b]), [Some(WIRE); 2]);
    net.put(0, asking);
    net.run(Duration::from_millis(1));
    assert_eq!(follow(&mut net, 0), 1);
}

#[test]
fn a_wire_that_ends_takes_nothing_along_that_has_left_it() {
    let mut net = net(7);
    let (_, a, b) = net.open();
    unwire(&mut net, 0);
    for host in 0..2 {
        assert_eq!(net.on(host, |e| e.drop_port(WIRE)), 0);
    }
    // What comes by another wire at its place is not the connection's.
    let numbers = net.on(1, |e| e.mem().hot.rows()[b.row() as usize].rcv.nxt);
    let reset = forged(&net, 0, (40_000, 80), (numbers, SeqNum(0)), TcpFlags::RST | TcpFlags::ACK, &[]);
    net.put(1, reset);
    net.run(Duration::from_millis(1));
    assert_eq!(net.state(1, b), Some(State::Established));
    net.transfer(a, b, 50_000, 50_000);
}

/// One end has followed, the other has not heard of it, and is gone with the wire: what it said last, over that, is lost.
#[test]
fn who_has_left_a_wire_that_ends_asks_whether_its_peer_is_there() {
    for gone in [true, false] {
        let mut net = net(7);
        let (_, a, b) = net.open();
        net.filter = Some(Box::new(move |_, packet| packet.port == DEVICE));
        let flow = flow(&net, 0);
        assert_eq!(net.on(0, |e| e.ask_off_wire(&flow, DEVICE)), Unwired::Asked);
        net.run(Duration::from_millis(1));
        assert_eq!(follow(&mut net, 1), 1);
        net.run(Duration::from_millis(1));
        assert_eq!(ports(&mut net, [a, b]), [Some(WIRE), Some(DEVICE)]);
        net.filter = None;
        if gone {
            assert_eq!(net.on(0, |e| e.drop_port(WIRE)), 1);
        }
        assert_eq!(net.on(1, |e| e.drop_port(WIRE)), 0);
        net.run(Duration::from_millis(10));
        let ended = net.state(1, b) == Some(State::Closed);
        assert_eq!(ended, gone);
    }
}

/// A lane that has no connection any more answers late segments with a RST; a connection that is still there has an ACK in its own.
#[test]
fn a_late_answer_over_the_wire_does_not_end_the_connection() {
    for (flags, after) in
        [(TcpFlags::RST, State::Established), (TcpFlags::RST | TcpFlags::ACK, State::Closed)]
    {
        let mut net = net(8);
        let (_, _, b) = net.open();
        unwire(&mut net, 0);
        let numbers = net.on(1, |e| {
            let row = e.mem().hot.rows()[b.row() as usize];
            (row.rcv.nxt, row.snd.una)
        });
        let reset = forged(&net, 0, (40_000, 80), numbers, flags, &[]);
        net.put(1, reset);
        net.run(Duration::from_millis(1));
        assert_eq!(net.state(1, b), Some(after));
    }
}

#[test]
fn many_connections_can_leave_at_once() {
    let mut net = net(9);
    let listener = net.listen(1, 80, 128);
    let socks: Vec<(SockRef, SockRef)> = (0..50).map(|n| net.open_to(listener, 41_000 + n)).collect();
    for round in 0..3 {
        for n in 0..50 {
            let (local, remote) = (net.hosts[1].end(80), net.hosts[0].end(41_000 + n));
            let flow = FlowKey {
                local: local.addr,
                remote: remote.addr,
                local_port: local.port,
                remote_port: remote.port,
            };
            net.on(1, |e| e.ask_off_wire(&flow, DEVICE));
        }
        net.run(Duration::from_millis(2));
        let asked = follow(&mut net, 0);
        assert!(round > 0 || asked == 50, "{asked}");
        net.run(Duration::from_millis(2));
    }
    for (a, b) in socks {
        assert_eq!(ports(&mut net, [a, b]), [Some(DEVICE); 2]);
        net.transfer(a, b, 3000, 3000);
    }
}

/// Segments that came to host 1 from the other one: by which port.
fn ways(net: &Net) -> Vec<u8> {
    net.trace.iter().filter(|(_, from, _)| *from == 0).map(|(_, _, packet)| packet.port).collect()
}

/// As the lane does it that reads the kernel's neighbours.
fn find_neighbours(net: &mut Net) {
    let mac = net.hosts[1].mac;
    while let Some((hop, key)) = net.on(0, |e| e.poll_unresolved()) {
        assert_eq!((key.port, key.addr), (DEVICE, net.hosts[1].addr));
        net.on(0, |e| e.handle_hop(hop, &key, Some(mac)));
    }
}

/// The lane at the other end of a wire has just closed its listener; by the device another lane, or the kernel, answers.
#[test]
fn a_syn_that_a_wire_refuses_goes_by_the_device() {
    let mut net = net(10);
    net.keep_trace = true;
    let a = net.connect(0, 40_000, 80).unwrap();
    net.run(Duration::from_millis(1));
    assert_eq!(net.state(0, a), Some(State::SynSent), "the program hears nothing yet");
    let listener = net.listen(1, 80, 4);
    find_neighbours(&mut net);
    net.run(Duration::from_millis(1));
    assert_eq!(net.state(0, a), Some(State::Established));
    let accepted = net.on(1, |e| e.tcp_accept(listener)).unwrap();
    assert_eq!(ways(&net)[..2], [WIRE, DEVICE]);
    let info = net.on(0, |e| e.tcp_info(a)).unwrap();
    assert_eq!((info.retransmits, info.snd_mss), (0, net::MSS));
    assert_eq!(ports(&mut net, [a, accepted.sock]), [Some(DEVICE); 2]);
    net.transfer(a, accepted.sock, 100_000, 100_000);
}

#[test]
fn a_syn_that_the_device_refuses_too_is_refused() {
    let mut net = net(11);
    net.keep_trace = true;
    let a = net.connect(0, 40_000, 80).unwrap();
    net.run(Duration::from_millis(1));
    find_neighbours(&mut net);
    net.run(Duration::from_millis(1));
    assert_eq!(net.on(0, |e| e.take_error(a)), Some(SockError::Refused));
    assert_eq!(ways(&net), [WIRE, DEVICE]);
}

/// What the wire says after that is not heard: a SYN that was sent twice is refused twice.
#[test]
fn a_second_refusal_by_the_wire_does_not_count() {
    let mut net = net(12);
    net.keep_trace = true;
    let a = net.connect(0, 40_000, 80).unwrap();
    net.run(Duration::from_millis(1));
    let refusal = net.trace.iter().find(|(_, from, _)| *from == 1).unwrap().2.clone();
    assert_eq!(refusal.port, WIRE);
    net.put(0, refusal);
    net.run(Duration::from_millis(1));
    assert_eq!(net.state(0, a), Some(State::SynSent));
    assert_eq!(net.dropped(0, DropReason::IpSourceBad), 1);
}

/// A wire whose other end is gone says no more than one that refuses.
#[test]
fn a_syn_under_way_by_a_wire_that_ends_goes_by_the_device() {
    let mut net = net(13);
    net.filter = Some(Box::new(|from, _| from == 0));
    let a = net.connect(0, 40_000, 80).unwrap();
    net.run(Duration::from_millis(1));
    net.filter = None;
    assert_eq!(net.on(0, |e| e.drop_port(WIRE)), 0);
    let listener = net.listen(1, 80, 4);
    find_neighbours(&mut net);
    net.run(Duration::from_millis(1));
    assert_eq!(net.state(0, a), Some(State::Established));
    assert!(net.on(1, |e| e.tcp_accept(listener)).is_ok());
}

#[test]
fn without_a_device_beside_it_a_wire_says_the_last_word() {
    for flags in [PORT_UP | PORT_WIRE, PORT_UP | PORT_WIRE | port_beside(5)] {
        let mut net = net(14);
        net.on(0, |e| e.mem().ports.get_mut(Idx::new(WIRE.into())).unwrap().flags = flags);
        let a = net.connect(0, 40_000, 80).unwrap();
        net.run(Duration::from_millis(1));
        assert_eq!(net.on(0, |e| e.take_error(a)), Some(SockError::Refused));
    }
}

#[test]
fn a_neighbour_that_cannot_be_found_ends_the_attempt() {
    let mut net = net(15);
    let a = net.connect(0, 40_000, 80).unwrap();
    net.run(Duration::from_millis(1));
    let (hop, key) = net.on(0, |e| e.poll_unresolved()).unwrap();
    net.on(0, |e| e.handle_hop(hop, &key, None));
    net.run(Duration::from_millis(1));
    assert_eq!(net.on(0, |e| e.take_error(a)), Some(SockError::HostUnreachable));
}
