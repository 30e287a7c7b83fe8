//! Next hops of peers that came to us: first where their packets came from, then the neighbour that routes name, wherever that goes.
#![allow(clippy::unwrap_used, reason = "a test")]

mod net;

use base::{Duration, Idx, IpAddress, MacAddr, Port, SeqNum};
use engine::{HopKey, RouteTo, State, UdpOptions};
use net::{Net, Packet, Setup, forged};
use state::ports::{PORT_ADDRESSES, PORT_OWN_ADDRESS, PORT_UP};
use state::{Endpoint, Hop, PortInfo, SockRef, TcpOptions};
use wire::TcpFlags;

const LISTENS: u16 = 80;
const NEAR: MacAddr = MacAddr([2, 0, 0, 0, 0, 0]);
const ELSEWHERE: MacAddr = MacAddr([2, 0, 0, 0, 0, 0x77]);

/// Host 1 listens, and has the kernel look for neighbours; host 0 is played by hand.
fn server(flags: u32, setup: &Setup) -> (Net, SockRef) {
    let mut net = Net::new(1, setup);
    let mut addrs = [IpAddress::ANY; PORT_ADDRESSES];
    addrs[0] = net.hosts[1].addr;
    let mac = net.hosts[1].mac;
    let info = PortInfo { addrs, addr_count: 1, flags, super_segment_max: 0, mac, mtu: 1500 };
    assert!(net.on(1, |e| e.set_port(0, &info)));
    let listener = net.listen(1, LISTENS, 8);
    net.keep_trace = true;
    net.filter = Some(Box::new(|_, _| true));
    (net, listener)
}

/// Host 1 gets a segment whose Ethernet source is `mac`; gives its answers.
fn receive(net: &mut Net, mac: MacAddr, mut packet: Packet) -> Vec<Packet> {
    packet.bytes[6..12].copy_from_slice(&mac.0);
    net.trace.clear();
    net.deliver(1, &packet);
    net.flush(1);
    net.trace.drain(..).map(|(_, _, packet)| packet).collect()
}

fn destination(packet: &Packet) -> MacAddr {
    MacAddr(*packet.bytes.first_chunk().unwrap())
}

fn syn(net: &mut Net, mac: MacAddr, port: u16) -> Packet {
    let packet = forged(net, 0, (port, LISTENS), (SeqNum(99), SeqNum(0)), TcpFlags::SYN, &[]);
    let mut answers = receive(net, mac, packet);
    assert_eq!(answers.len(), 1);
    answers.remove(0)
}

/// Completes the handshake that `answer` answered, and accepts.
fn open(net: &mut Net, listener: SockRef, (mac, port): (MacAddr, u16), answer: &Packet) -> SockRef {
    let next = answer.tcp().unwrap().seq().plus(1);
    let packet = forged(net, 0, (port, LISTENS), (SeqNum(100), next), TcpFlags::ACK, &[]);
    assert!(receive(net, mac, packet).is_empty());
    let s = net.accept(1, listener).unwrap();
    assert!(net.on(1, |e| e.set_tcp_options(s, &TcpOptions { nodelay: 1, ..TcpOptions::default() })));
    s
}

/// Where what host 1 sends on `s` goes.
fn way(net: &mut Net, s: SockRef) -> MacAddr {
    net.trace.clear();
    net.send(1, s, b"hello").unwrap();
    net.flush(1);
    destination(&net.trace.pop().unwrap().2)
}

fn asked(net: &mut Net) -> Option<(Idx<Hop>, HopKey)> {
    net.on(1, |e| e.poll_unresolved())
}

/// The peer's neighbour, as the kernel has it, is at another Ethernet address.
fn moves(net: &mut Net, neighbour: IpAddress, to: MacAddr) {
    let named = |key: &HopKey| key.addr == neighbour && !key.by_mac;
    let (hop, key, _) = net.on(1, |e| e.known_hops().find(|(_, key, _)| named(key))).unwrap();
    net.on(1, |e| e.handle_hop(hop, &key, Some(to)));
}

#[test]
fn accepted_connections_follow_their_neighbour() {
    for dormant in [0, 64] {
        let (mut net, listener) = server(PORT_UP, &Setup { dormant, ..Setup::USUAL });
        let peer = net.hosts[0].addr;
        let answer = syn(&mut net, NEAR, 40_000);
        assert_eq!(destination(&answer), NEAR, "nothing waits for a route");
        let (hop, key) = asked(&mut net).unwrap();
        assert!(key.by_mac && key.addr == peer);
        assert!(asked(&mut net).is_none());
        net.on(1, |e| e.name_hop(hop, &key, peer, NEAR));
        let a = open(&mut net, listener, (NEAR, 40_000), &answer);
        let answer = syn(&mut net, NEAR, 40_001);
        assert!(asked(&mut net).is_none(), "once is enough");
        let b = open(&mut net, listener, (NEAR, 40_001), &answer);
        assert_eq!([way(&mut net, a), way(&mut net, b)], [NEAR; 2]);
        moves(&mut net, peer, ELSEWHERE);
        assert_eq!([way(&mut net, a), way(&mut net, b)], [ELSEWHERE; 2]);
    }
}

#[test]
fn those_behind_a_gateway_go_with_it_also_those_that_came_first() {
    let (mut net, listener) = server(PORT_UP, &Setup::USUAL);
    let (far, farther, gateway) = (net.hosts[0].addr, net::address(9), net::address(200));
    let first = syn(&mut net, NEAR, 40_000);
    let early = open(&mut net, listener, (NEAR, 40_000), &first);
    let (hop, key) = asked(&mut net).unwrap();
    assert_eq!(key.addr, far);
    net.on(1, |e| e.name_hop(hop, &key, gateway, NEAR));
    net.hosts[0].addr = farther;
    let answer = syn(&mut net, NEAR, 40_000);
    assert!(asked(&mut net).is_none());
    let late = open(&mut net, listener, (NEAR, 40_000), &answer);
    moves(&mut net, gateway, ELSEWHERE);
    assert_eq!([way(&mut net, early), way(&mut net, late)], [ELSEWHERE; 2]);
    // The old router sends on what it gets, but answers go where the route leads.
    assert_eq!(destination(&syn(&mut net, NEAR, 40_001)), ELSEWHERE);
    moves(&mut net, gateway, NEAR);
    assert_eq!([way(&mut net, early), way(&mut net, late)], [NEAR; 2]);
}

#[test]
fn addresses_behind_one_mac_are_neighbours_of_their_own() {
    let (mut net, listener) = server(PORT_UP, &Setup::USUAL);
    let peers = [net.hosts[0].addr, net::address(9)];
    let mut socks = Vec::new();
    for peer in peers {
        net.hosts[0].addr = peer;
        let answer = syn(&mut net, NEAR, 40_000);
        let (hop, key) = asked(&mut net).unwrap();
        assert_eq!(key.addr, peer);
        net.on(1, |e| e.name_hop(hop, &key, peer, NEAR));
        socks.push(open(&mut net, listener, (NEAR, 40_000), &answer));
        net.run(Duration::from_secs(1));
        while asked(&mut net).is_some() {}
    }
    moves(&mut net, peers[1], ELSEWHERE);
    assert_eq!([way(&mut net, socks[0]), way(&mut net, socks[1])], [NEAR, ELSEWHERE]);
    net.hosts[0].addr = peers[1];
    assert_eq!(destination(&syn(&mut net, ELSEWHERE, 40_001)), ELSEWHERE);
}

#[test]
fn a_peer_whose_name_is_not_known_yet_has_not_the_one_of_another_behind_its_mac() {
    let (mut net, listener) = server(PORT_UP, &Setup::USUAL);
    let first = net.hosts[0].addr;
    syn(&mut net, NEAR, 40_000);
    let (hop, key) = asked(&mut net).unwrap();
    net.on(1, |e| e.name_hop(hop, &key, first, NEAR));
    net.run(Duration::from_secs(1));
    net.hosts[0].addr = net::address(9);
    let answer = syn(&mut net, NEAR, 40_001);
    assert!(asked(&mut net).is_some());
    let s = open(&mut net, listener, (NEAR, 40_001), &answer);
    moves(&mut net, first, ELSEWHERE);
    assert_eq!(way(&mut net, s), NEAR);
}

#[test]
fn what_is_not_answered_has_the_next_hop_looked_for_again() {
    let (mut net, listener) = server(PORT_UP, &Setup::USUAL);
    let peer = net.hosts[0].addr;
    // The kernel does not know the neighbour when the connection comes.
    let answer = syn(&mut net, NEAR, 40_000);
    assert!(asked(&mut net).is_some_and(|(_, key)| key.by_mac));
    let s = open(&mut net, listener, (NEAR, 40_000), &answer);
    assert_eq!(way(&mut net, s), NEAR);
    net.run(Duration::from_secs(2));
    let (hop, key) = asked(&mut net).unwrap();
    assert!(key.by_mac && key.addr == peer);
    net.on(1, |e| e.name_hop(hop, &key, peer, NEAR));
    net.run(Duration::from_secs(4));
    let (hop, key) = asked(&mut net).unwrap();
    assert_eq!((key.by_mac, key.addr), (false, peer), "it has the neighbour's hop by now");
    net.trace.clear();
    net.on(1, |e| e.handle_hop(hop, &key, Some(ELSEWHERE)));
    net.run(Duration::from_secs(20));
    let sent = &net.trace;
    assert!(!sent.is_empty() && sent.iter().all(|(_, _, packet)| destination(packet) == ELSEWHERE));
    assert_eq!(net.state(1, s), Some(State::Established));
}

#[test]
fn nobody_is_asked_for_names_where_the_address_is_ours_alone() {
    let (mut net, _) = server(PORT_UP | PORT_OWN_ADDRESS, &Setup::USUAL);
    assert_eq!(destination(&syn(&mut net, NEAR, 40_000)), NEAR);
    assert!(asked(&mut net).is_none());
}

#[test]
fn a_name_for_a_row_that_means_something_else_by_now_is_ignored() {
    let (mut net, listener) = server(PORT_UP, &Setup::USUAL);
    let peer = net.hosts[0].addr;
    let answer = syn(&mut net, NEAR, 40_000);
    let (hop, key) = asked(&mut net).unwrap();
    let late = HopKey { generation: key.generation.wrapping_add(1), ..key };
    net.on(1, |e| e.name_hop(hop, &late, peer, ELSEWHERE));
    let s = open(&mut net, listener, (NEAR, 40_000), &answer);
    assert_eq!(way(&mut net, s), NEAR);
}

/// Routes lead over `gateway`, whose Ethernet address is `mac`, from now on.
fn route_over(net: &mut Net, number: u64, gateway: IpAddress, mac: Option<MacAddr>) {
    let local_mac = net.hosts[1].mac;
    let way = |port, _| Some(RouteTo { port, next_hop: gateway, local_mac, mac, mtu: 1400 });
    net.on(1, |e| e.follow_routes(number, way));
}

#[test]
fn connections_go_by_the_routes_that_there_are() {
    for dormant in [0, 64] {
        let (mut net, listener) = server(PORT_UP, &Setup { dormant, ..Setup::USUAL });
        let [old, new] = [net::address(200), net::address(201)];
        route_over(&mut net, 1, old, Some(NEAR));
        let answer = syn(&mut net, NEAR, 40_000);
        let (hop, key) = asked(&mut net).unwrap();
        net.on(1, |e| e.name_hop(hop, &key, old, NEAR));
        let s = open(&mut net, listener, (NEAR, 40_000), &answer);
        let half = syn(&mut net, NEAR, 40_001);
        let connected = net.on(1, |e| {
            let udp = e
                .udp_bind(Endpoint { addr: net::address(1), port: Port(53) }, &UdpOptions::default())
                .unwrap();
            let to = Endpoint { addr: net::address(0), port: Port(9) };
            let local_mac = MacAddr([2, 0, 0, 0, 0, 1]);
            let route = RouteTo { port: 0, next_hop: old, local_mac, mac: None, mtu: 0 };
            e.udp_connect(udp, net::address(1), to, &route).unwrap();
            udp
        });
        // The same ones, as another process reads them.
        route_over(&mut net, 1, new, Some(ELSEWHERE));
        assert_eq!(way(&mut net, s), NEAR);
        route_over(&mut net, 2, new, Some(ELSEWHERE));
        assert_eq!(way(&mut net, s), ELSEWHERE);
        net.trace.clear();
        net.on(1, |e| e.udp_send_to(connected, b"x", None)).unwrap();
        net.flush(1);
        assert_eq!(destination(&net.trace.pop().unwrap().2), ELSEWHERE);
        let half = open(&mut net, listener, (NEAR, 40_001), &half);
        assert_eq!(way(&mut net, half), ELSEWHERE);
        let answer = syn(&mut net, NEAR, 40_002);
        assert_eq!(destination(&answer), NEAR);
        assert!(
            asked(&mut net).is_some_and(|(_, key)| key.by_mac),
            "which neighbour that is may be another one now"
        );
        // What has to wait for an address goes when that is known.
        route_over(&mut net, 3, old, None);
        route_over(&mut net, 4, net::address(202), None);
        net.send(1, s, b"waits").unwrap();
        net.trace.clear();
        net.flush(1);
        assert!(net.trace.is_empty());
        let (hop, key) =
            std::iter::from_fn(|| asked(&mut net)).find(|(_, key)| key.addr == net::address(202)).unwrap();
        net.on(1, |e| e.handle_hop(hop, &key, Some(ELSEWHERE)));
        net.flush(1);
        assert!(net.trace.iter().any(|(_, _, packet)| destination(packet) == ELSEWHERE));
        // None any more: a connection stays as it is.
        net.on(1, |e| e.follow_routes(5, |_, _| None));
        assert_eq!(way(&mut net, s), ELSEWHERE);
    }
}
