//! Connections over a wire between two lanes of one host: loopback addresses at both ends, TIME-WAIT that is no hindrance, and
//! the end of the wire.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

mod net;

use core::net::Ipv6Addr;

use base::{Duration, IpAddress, SeqNum};
use engine::{ConnectError, SockError, State};
use net::{Net, Setup, forged};
use state::ports::{PORT_ADDRESSES, PORT_LOOPBACK, PORT_UP, PORT_WIRE};
use state::{DropReason, PortInfo, Ready};
use wire::TcpFlags;

const S: Setup = Setup::USUAL;

/// An address of loopback.
fn loopback() -> IpAddress {
    if net::V6 { IpAddress::from_v6(Ipv6Addr::LOCALHOST) } else { IpAddress::mapped([127, 3, 2, 1].into()) }
}

/// Two lanes of one namespace, each other's wire as port 0; both call themselves `addr`.
fn wired(seed: u64, addr: IpAddress) -> Net {
    wired_as(seed, addr, &S)
}

fn wired_as(seed: u64, addr: IpAddress, setup: &Setup) -> Net {
    let mut net = Net::new(seed, setup);
    for host in 0..2 {
        net.hosts[host].addr = addr;
        describe(&mut net, host, 0);
    }
    net
}

fn describe(net: &mut Net, host: usize, port: u8) {
    describe_as(net, (host, port), net::address(9), PORT_UP | PORT_WIRE | PORT_LOOPBACK);
}

fn describe_as(net: &mut Net, (host, port): (usize, u8), addr: IpAddress, flags: u32) {
    let mut addrs = [IpAddress::ANY; PORT_ADDRESSES];
    addrs[0] = addr;
    let info = PortInfo {
        addrs,
        addr_count: 1,
        flags,
        super_segment_max: S.super_segment_max,
        mac: net.hosts[host].mac,
        mtu: S.mtu,
    };
    assert!(net.on(host, |e| e.set_port(port, &info)));
}

#[test]
fn both_ends_may_have_the_same_address() {
    for addr in [loopback(), net::address(9)] {
        let mut net = wired(1, addr);
        let (listener, a, b) = net.open();
        net.transfer(a, b, 300_000, 200_000);
        net.close(1, listener);
        net.run(Duration::from_secs(130));
        net.assert_clean(&S);
    }
}

#[test]
fn other_addresses_do_not_come_by_a_wire() {
    for addr in [net::address(1), net::address(99)] {
        let mut net = wired(2, addr);
        net.listen(1, 80, 4);
        net.connect(0, 5000, 80).unwrap();
        net.run(Duration::from_millis(1));
        assert_eq!(net.dropped(1, DropReason::IpSourceBad), 1, "{addr}");
    }
}

#[test]
fn a_connection_in_time_wait_makes_room_for_the_next_one() {
    time_wait_makes_room(&S);
}

#[test]
fn a_connection_that_sleeps_in_time_wait_makes_room_for_the_next_one() {
    time_wait_makes_room(&Setup { dormant: 64, ..S });
}

fn time_wait_makes_room(setup: &Setup) {
    let mut net = wired_as(3, loopback(), setup);
    let listener = net.listen(1, 80, 16);
    for round in 0..50 {
        let (a, b) = net.open_to(listener, 40_000);
        let before = net.connect(0, 40_000, 80);
        assert_eq!(before, Err(ConnectError::InUse), "round {round}: it is open");
        net.close(0, a);
        net.run(Duration::from_micros(200));
        net.close(1, b);
        net.run(Duration::from_micros(200));
    }
    assert_eq!(net.on(0, |e| e.counters().tcp.time_wait_reused), 49);
    net.close(1, listener);
    net.run(Duration::from_secs(61));
    net.assert_clean(setup);
}

/// In LAST-ACK the server would take the SYN for an old one, and answer it with an ACK that refuses it.
#[test]
fn the_next_connection_waits_for_the_ack_of_the_fin() {
    let mut net = wired(5, loopback());
    let listener = net.listen(1, 80, 16);
    let (a, b) = net.open_to(listener, 40_000);
    net.close(0, a);
    net.run(Duration::from_micros(200));
    net.close(1, b);
    let (_, (to, fin)) = net.flying.pop_first().unwrap();
    assert!(to == 0 && fin.tcp().unwrap().flags().is_fin() && net.flying.is_empty());
    net.deliver(0, &fin);
    assert_eq!(net.connect(0, 40_000, 80), Err(ConnectError::InUse));
    net.flush(0);
    net.open_to(listener, 40_000);
    assert_eq!(net.on(0, |e| e.counters().tcp.timeouts), 0);
    assert_eq!(net.on(0, |e| e.counters().tcp.time_wait_reused), 1);
}

#[test]
fn the_server_may_be_the_one_in_time_wait() {
    let mut net = wired(4, loopback());
    let listener = net.listen(1, 80, 16);
    for _ in 0..50 {
        let (a, b) = net.open_to(listener, 40_000);
        net.close(1, b);
        net.run(Duration::from_micros(200));
        net.close(0, a);
        net.run(Duration::from_micros(200));
    }
    net.close(1, listener);
    net.run(Duration::from_secs(61));
    net.assert_clean(&S);
}

/// A program without a lane came by the device, and now one with a lane comes by a wire from the same port; or the other way round.
#[test]
fn a_connection_in_time_wait_makes_room_for_one_that_comes_another_way() {
    for comes_by_wire in [true, false] {
        let mut net = Net::new(7, &S);
        let addr = net.hosts[1].addr;
        let (wire, device) = if comes_by_wire { (0, 1) } else { (1, 0) };
        describe_as(&mut net, (1, wire), addr, PORT_UP | PORT_WIRE);
        describe_as(&mut net, (1, device), addr, PORT_UP);
        let listener = net.listen(1, 80, 16);
        let (a, b) = net.open_to(listener, 40_000);
        net.close(1, b);
        net.run(Duration::from_micros(200));
        net.close(0, a);
        net.run(Duration::from_micros(200));
        net.on(1, |e| {
            let row = &mut e.mem().hot.rows_mut()[b.row() as usize];
            assert_eq!(State::from_raw(row.state), State::TimeWait);
            row.port = 1;
            // The other stack counted from elsewhere: neither its numbers nor its clock say which SYN is newer.
            row.rcv.nxt = row.rcv.nxt.plus(1 << 30);
            row.rcv.ts_recent = row.rcv.ts_recent.wrapping_add(1 << 30);
        });
        // Nothing but a SYN does that.
        let numbers = (SeqNum(1), SeqNum(1));
        for flags in [TcpFlags::RST, TcpFlags::ACK, TcpFlags::FIN | TcpFlags::ACK] {
            let segment = forged(&net, 0, (40_000, 80), numbers, flags, &[]);
            net.put(1, segment);
        }
        net.run(Duration::from_millis(1));
        assert_eq!(net.dropped(1, DropReason::IpSourceBad), 3);
        let (a, b) = net.open_to(listener, 40_000);
        assert_eq!(net.on(1, |e| e.counters().tcp.time_wait_reused), 1);
        net.transfer(a, b, 100_000, 100_000);
        net.close(1, listener);
        net.run(Duration::from_secs(130));
        net.assert_clean(&S);
    }
}

#[test]
fn a_syn_of_another_way_does_not_touch_an_open_connection() {
    let mut net = wired(8, loopback());
    let (_, a, b) = net.open();
    describe(&mut net, 1, 1);
    net.on(1, |e| e.mem().hot.rows_mut()[b.row() as usize].port = 1);
    let syn = forged(&net, 0, (40_000, 80), (SeqNum(1), SeqNum(0)), TcpFlags::SYN, &[]);
    net.put(1, syn);
    net.run(Duration::from_millis(1));
    assert_eq!(net.dropped(1, DropReason::IpSourceBad), 1);
    assert_eq!((net.state(0, a), net.state(1, b)), (Some(State::Established), Some(State::Established)));
}

#[test]
fn the_end_of_a_wire_ends_its_connections() {
    let mut net = wired(5, loopback());
    let (listener, a, b) = net.open();
    net.filter = Some(Box::new(|_, _| true));
    net.on(0, |e| e.tcp_send(a, &[7; 5000], false)).unwrap();
    let opening = net.connect(0, 40_001, 80).unwrap();
    net.flush(0);
    assert_eq!(net.on(0, |e| e.port_of(a)), Some(0));
    assert_eq!(net.on(0, |e| e.drop_port(0)), 2);
    assert_eq!(net.on(0, |e| e.take_error(a)), Some(SockError::Reset));
    assert_eq!(net.on(0, |e| e.take_error(opening)), Some(SockError::Refused));
    assert!(net.on(0, |e| e.ready(a)).has(Ready::HUP | Ready::IN));
    assert_eq!(net.on(1, |e| e.drop_port(0)), 1);
    assert_eq!(net.state(1, b), Some(State::Closed));
    assert_eq!(net.on(1, |e| e.drop_port(0)), 0);
    // Who learnt of the wire before it went is told, instead of waiting for an answer that cannot come.
    assert_eq!(net.connect(0, 40_002, 80), Err(ConnectError::Invalid));
    for (host, sock) in [(0, a), (0, opening), (1, b), (1, listener)] {
        net.close(host, sock);
    }
    net.assert_clean(&S);
}

#[test]
fn who_holds_another_wire_cannot_speak_for_a_connection() {
    let mut net = wired(6, loopback());
    let (_, a, b) = net.open();
    // The connection is of port 0 of its lane; what is put on the wire comes in there. So move the connection's port away.
    let numbers = net.on(1, |e| {
        let row = &mut e.mem().hot.rows_mut()[b.row() as usize];
        row.port = 1;
        (row.rcv.nxt, row.snd.una)
    });
    describe(&mut net, 1, 1);
    let reset = forged(&net, 0, (40_000, 80), numbers, TcpFlags::RST, &[]);
    net.put(1, reset);
    net.run(Duration::from_millis(1));
    assert_eq!(net.state(1, b), Some(State::Established));
    assert_eq!(net.dropped(1, DropReason::IpSourceBad), 1);
    net.on(1, |e| e.mem().hot.rows_mut()[b.row() as usize].port = 0);
    let reset = forged(&net, 0, (40_000, 80), (numbers.0, SeqNum(0)), TcpFlags::RST, &[]);
    net.put(1, reset);
    net.run(Duration::from_millis(1));
    assert_eq!(net.state(1, b), Some(State::Closed));
    assert_eq!(net.state(0, a), Some(State::Established));
}
