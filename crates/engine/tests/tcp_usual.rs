//! Usual segments: what is remembered of a connection's last ones is used for the next ones only while it holds.

#![allow(clippy::unwrap_used, reason = "a test ends where its assumptions do")]
mod net;

use base::{Duration, IpAddress, MacAddr};
use engine::RouteTo;
use net::{Net, Setup};
use state::ports::{PORT_ADDRESSES, PORT_LOCAL_PEER, PORT_OWN_ADDRESS, PORT_UP};
use state::{PortInfo, SockRef, TcpOptions};

const S: Setup = Setup::USUAL;
const OTHER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 77]);

/// Two hosts with an open connection over which so much went that each end knows the next segment by the last.
fn open(seed: u64) -> (Net, SockRef, SockRef) {
    let mut net = Net::new(seed, &S);
    let (_, a, b) = net.open();
    talk(&mut net, a, b);
    net.keep_trace = true;
    (net, a, b)
}

/// Some exchanges of one size, and some of others.
fn talk(net: &mut Net, a: SockRef, b: SockRef) {
    for len in [64, 64, 64, 64, 64, 64, 1, 700, 3000, 64] {
        exchange(net, a, b, len);
    }
}

fn exchange(net: &mut Net, a: SockRef, b: SockRef, len: usize) {
    for (from, sock, to, other) in [(0, a, 1, b), (1, b, 0, a)] {
        let data = net::pattern(len as u64, len);
        assert_eq!(net.send(from, sock, &data), Ok(len));
        net.run(Duration::from_millis(1));
        assert_eq!(net.recv(to, other, len), Ok(data));
    }
}

/// Host 0's port, with the Ethernet address `mac` and the address `addr`.
fn describe(net: &mut Net, mac: MacAddr, addr: IpAddress) {
    let mut addrs = [IpAddress::ANY; PORT_ADDRESSES];
    addrs[0] = addr;
    let flags = PORT_UP | PORT_OWN_ADDRESS | PORT_LOCAL_PEER;
    let info =
        PortInfo { addrs, addr_count: 1, flags, super_segment_max: S.super_segment_max, mac, mtu: S.mtu };
    assert!(net.on(0, |e| e.set_port(0, &info)));
}

/// What host 0 sent, by `part` of its bytes.
fn sent<const N: usize>(net: &mut Net, from: usize) -> Vec<[u8; N]> {
    let of_host = net.trace.drain(..).filter(|(_, host, packet)| *host == 0 && packet.tcp().is_some());
    of_host.map(|(_, _, packet)| packet.bytes[from..from + N].try_into().unwrap()).collect()
}

#[test]
fn options_set_meanwhile_are_in_the_next_segment() {
    let (mut net, a, b) = open(1);
    for (ttl, tos) in [(9, 0), (9, 0x20), (33, 0x20), (0, 0)] {
        let options = TcpOptions { ttl, tos, ..net.on(0, |e| e.tcp_options(a)).unwrap() };
        assert!(net.on(0, |e| e.set_tcp_options(a, &options)));
        net.trace.clear();
        talk(&mut net, a, b);
        let seen: Vec<[u8; 8]> = sent(&mut net, 15);
        let wanted = (tos, if ttl == 0 { 64 } else { ttl });
        assert!(seen.len() >= 10 && seen.iter().all(|head| (head[0], head[7]) == wanted), "{seen:?}");
    }
}

#[test]
fn a_next_hop_with_another_address_gets_the_next_segment() {
    let (mut net, a, _) = open(2);
    let (local, remote) = (net.hosts[0].end(40_100), net.hosts[1].end(81));
    let route = RouteTo { mac: Some(OTHER_MAC), ..net.route(0) };
    net.on(0, |e| e.tcp_connect(local, remote, &route, &TcpOptions::default())).unwrap();
    net.run(Duration::from_millis(1));
    net.trace.clear();
    assert_eq!(net.send(0, a, &[7; 64]), Ok(64));
    net.run(Duration::from_millis(1));
    assert_eq!(sent::<6>(&mut net, 0).first(), Some(&OTHER_MAC.0));
}

#[test]
fn a_port_with_another_address_sends_by_that_and_takes_nothing_for_the_old_one() {
    let (mut net, a, b) = open(3);
    let (own_mac, own_addr) = (net.hosts[0].mac, net.hosts[0].addr);
    for (mac, addr) in [(OTHER_MAC, own_addr), (own_mac, net::address(9))] {
        describe(&mut net, mac, addr);
        assert_eq!(net.send(1, b, &[8; 64]), Ok(64));
        net.run(Duration::from_millis(1));
        assert!(net.recv(0, a, 64).is_err(), "it was for another port");
        net.trace.clear();
        assert_eq!(net.send(0, a, &[7; 64]), Ok(64));
        net.run(Duration::from_millis(1));
        assert_eq!(sent::<6>(&mut net, 6).first(), Some(&mac.0));
        assert_eq!(net.recv(1, b, 64), Ok(vec![7; 64]));
        describe(&mut net, own_mac, own_addr);
        net.run(Duration::from_secs(5));
        assert_eq!(net.recv(0, a, 64), Ok(vec![8; 64]), "it comes again");
    }
    talk(&mut net, a, b);
}

#[test]
fn a_row_s_next_connection_is_not_taken_for_the_one_before() {
    let (mut net, listener, mut socks) = {
        let mut net = Net::new(4, &S);
        let (listener, a, b) = net.open();
        (net, listener, (a, b))
    };
    for port in [40_001, 41_025, 40_001, 40_002, 42_049, 40_002] {
        talk(&mut net, socks.0, socks.1);
        net.on(0, |e| e.abort(socks.0));
        net.run(Duration::from_millis(1));
        net.on(1, |e| e.close(socks.1));
        net.run(Duration::from_millis(1));
        socks = net.open_to(listener, port);
    }
    talk(&mut net, socks.0, socks.1);
}
