//! ARP, next hops and ICMP echo.
#![allow(clippy::unwrap_used, reason = "a test")]

mod rig;

use core::net::Ipv4Addr;

use base::{Duration, IpAddress, MacAddr};
use engine::{UdpOptions, UdpSendError, UdpTo};
use rig::*;
use state::SockRef;
use state::ports::{PORT_OWN_ADDRESS, PORT_UP};
use wire::{
    ArpHeader, ArpOperation, ArpPacket, EthFrame, EthHeader, EtherType, Icmp4Header, Icmp4Message,
    IpProtocol, Ipv4Header, Ipv4Packet,
};

const OTHER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

fn arp(operation: ArpOperation, sender: (MacAddr, Ipv4Addr), target: Ipv4Addr, to: MacAddr) -> Vec<u8> {
    let mut bytes = vec![0; 60];
    EthHeader { dst: to, src: sender.0, ethertype: EtherType::ARP }.emit(&mut bytes).unwrap();
    let header = ArpHeader {
        operation,
        sender_mac: sender.0,
        sender_ip: sender.1,
        target_mac: MacAddr::default(),
        target_ip: target,
    };
    header.emit(&mut bytes[14..]).unwrap();
    bytes
}

fn parse(bytes: &[u8]) -> (EthHeader, ArpHeader) {
    let eth = EthFrame::parse(bytes).unwrap();
    assert_eq!(eth.ethertype(), EtherType::ARP);
    (eth.header(), ArpPacket::parse(eth.payload()).unwrap().header())
}

fn bind(host: &mut Host) -> SockRef {
    host.engine(|e| e.udp_bind(anywhere(53), &UdpOptions::default())).unwrap()
}

/// Sends a datagram to `addr` without knowing its MAC.
fn send(host: &mut Host, s: SockRef, addr: Ipv4Addr) -> Result<usize, UdpSendError> {
    let route = engine::RouteTo { next_hop: IpAddress::from_v4(addr), ..route(None) };
    let to = UdpTo { remote: at(addr, 4000), local: IpAddress::from_v4(HOST), route };
    host.engine(|e| e.udp_send_to(s, b"hello", Some(&to)))
}

#[test]
fn a_request_for_our_address_is_answered_to_its_sender() {
    let mut host = Host::new();
    let free = host.free_frames();
    host.receive(&arp(ArpOperation::REQUEST, (PEER_MAC, PEER), HOST, MacAddr::BROADCAST));
    let (eth, reply) = parse(&host.transmitted_one());
    assert_eq!((eth.dst, eth.src), (PEER_MAC, HOST_MAC));
    assert_eq!(reply.operation, ArpOperation::REPLY);
    assert_eq!((reply.sender_mac, reply.sender_ip), (HOST_MAC, HOST));
    assert_eq!((reply.target_mac, reply.target_ip), (PEER_MAC, PEER));
    // A probe (RFC 5227) has no sender address and is answered all the same.
    host.receive(&arp(ArpOperation::REQUEST, (PEER_MAC, Ipv4Addr::UNSPECIFIED), HOST, MacAddr::BROADCAST));
    assert_eq!(parse(&host.transmitted_one()).1.sender_ip, HOST);
    // For another address, a reply, and on a shared address: silence.
    host.receive(&arp(
        ArpOperation::REQUEST,
        (PEER_MAC, PEER),
        Ipv4Addr::new(10, 0, 0, 77),
        MacAddr::BROADCAST,
    ));
    host.receive(&arp(ArpOperation::REPLY, (PEER_MAC, PEER), HOST, HOST_MAC));
    assert!(host.transmitted().is_empty());
    assert_eq!(host.free_frames(), free);
    let mut shared = Host::with(PORT_UP, 1500);
    shared.receive(&arp(ArpOperation::REQUEST, (PEER_MAC, PEER), HOST, MacAddr::BROADCAST));
    assert!(shared.transmitted().is_empty());
}

#[test]
fn a_datagram_waits_for_the_answer_to_the_request_and_then_goes() {
    let mut host = Host::new();
    let free = host.free_frames();
    let s = bind(&mut host);
    send(&mut host, s, PEER).unwrap();
    let (eth, request) = parse(&host.transmitted_one());
    assert_eq!(eth.dst, MacAddr::BROADCAST);
    assert_eq!((request.operation, request.target_ip), (ArpOperation::REQUEST, PEER));
    assert_eq!((request.sender_mac, request.sender_ip), (HOST_MAC, HOST));
    send(&mut host, s, PEER).unwrap();
    assert!(host.transmitted().is_empty(), "one question is enough");
    host.receive(&arp(ArpOperation::REPLY, (PEER_MAC, PEER), HOST, HOST_MAC));
    let sent = host.transmitted();
    assert_eq!(sent.len(), 2);
    assert!(sent.iter().all(|p| p[..6] == PEER_MAC.0 && p.ends_with(b"hello")));
    send(&mut host, s, PEER).unwrap();
    assert_eq!(host.transmitted().len(), 1);
    assert_eq!(host.free_frames(), free);
}

#[test]
fn questions_are_repeated_three_times_then_the_packets_are_dropped() {
    let mut host = Host::new();
    let free = host.free_frames();
    let s = bind(&mut host);
    send(&mut host, s, PEER).unwrap();
    assert_eq!(host.transmitted().len(), 1);
    for _ in 0..2 {
        assert_eq!(host.engine(|e| e.next_deadline()), host.now.plus(Duration::from_secs(1)));
        host.sleep(Duration::from_secs(1));
        assert_eq!(host.transmitted().len(), 1);
    }
    host.sleep(Duration::from_secs(1));
    assert!(host.transmitted().is_empty());
    assert_eq!(host.dropped(state::DropReason::Unreachable), 1);
    assert_eq!(host.free_frames(), free);
    // The next datagram asks anew.
    send(&mut host, s, PEER).unwrap();
    assert_eq!(host.transmitted().len(), 1);
}

#[test]
fn only_a_few_packets_wait_for_an_address_the_latest_ones() {
    let mut host = Host::new();
    let free = host.free_frames();
    let s = bind(&mut host);
    for _ in 0..100 {
        send(&mut host, s, PEER).unwrap();
    }
    host.transmitted();
    assert_eq!(free - host.free_frames(), u32::from(base::limits::HOP_WAITING));
    host.receive(&arp(ArpOperation::REPLY, (PEER_MAC, PEER), HOST, HOST_MAC));
    assert_eq!(host.transmitted().len(), usize::from(base::limits::HOP_WAITING));
    assert_eq!(host.free_frames(), free);
}

#[test]
fn unasked_for_packets_make_no_hop_and_change_a_fresh_one_not_at_once() {
    let mut host = Host::new();
    let s = bind(&mut host);
    for n in 0..100 {
        let claim = Ipv4Addr::new(10, 0, 0, 100 + n);
        host.receive(&arp(ArpOperation::REPLY, (OTHER_MAC, claim), claim, MacAddr::BROADCAST));
    }
    send(&mut host, s, PEER).unwrap();
    host.receive(&arp(ArpOperation::REPLY, (PEER_MAC, PEER), HOST, HOST_MAC));
    host.transmitted();
    host.receive(&arp(ArpOperation::REPLY, (OTHER_MAC, PEER), HOST, HOST_MAC));
    send(&mut host, s, PEER).unwrap();
    assert_eq!(host.transmitted_one()[..6], PEER_MAC.0);
    host.sleep(Duration::from_secs(2));
    host.receive(&arp(ArpOperation::REQUEST, (OTHER_MAC, PEER), PEER, MacAddr::BROADCAST));
    send(&mut host, s, PEER).unwrap();
    assert_eq!(host.transmitted_one()[..6], OTHER_MAC.0, "the neighbour has moved");
}

#[test]
fn a_hop_in_use_is_asked_again_after_a_minute_and_unused_ones_make_room() {
    let mut host = Host::new();
    let s = bind(&mut host);
    let local = IpAddress::from_v4(HOST);
    host.engine(|e| e.udp_connect(s, local, at(PEER, 9), &route(Some(PEER_MAC)))).unwrap();
    host.sleep(Duration::from_secs(59));
    assert!(host.transmitted().is_empty());
    host.sleep(Duration::from_secs(2));
    let (eth, request) = parse(&host.transmitted_one());
    assert_eq!((eth.dst, request.target_ip), (PEER_MAC, PEER), "asked of the one who had it");
    host.receive(&arp(ArpOperation::REPLY, (PEER_MAC, PEER), HOST, HOST_MAC));
    host.sleep(Duration::from_secs(5));
    assert!(host.transmitted().is_empty());
    // The table has four rows: one is referenced, the others are reused, each when its packet has gone or failed.
    for n in 10..40 {
        send(&mut host, s, Ipv4Addr::new(10, 0, 0, n)).unwrap();
        host.receive(&arp(ArpOperation::REPLY, (OTHER_MAC, Ipv4Addr::new(10, 0, 0, n)), HOST, HOST_MAC));
    }
    for n in 40..43 {
        send(&mut host, s, Ipv4Addr::new(10, 0, 0, n)).unwrap();
    }
    assert_eq!(send(&mut host, s, Ipv4Addr::new(10, 0, 0, 43)), Err(UdpSendError::NoRoom));
    host.transmitted();
    host.engine(|e| e.udp_send_to(s, b"x", None)).unwrap();
    assert_eq!(host.transmitted_one()[..6], PEER_MAC.0);
}

#[test]
fn a_silent_neighbour_is_asked_alone_then_with_all_and_its_mac_stays_in_use() {
    let mut host = Host::new();
    let s = bind(&mut host);
    let local = IpAddress::from_v4(HOST);
    host.engine(|e| e.udp_connect(s, local, at(PEER, 9), &route(Some(PEER_MAC)))).unwrap();
    let mut to = Vec::new();
    for _ in 0..80 {
        host.sleep(Duration::from_secs(1));
        to.extend(host.transmitted().iter().map(|p| parse(p).0.dst));
    }
    let all = MacAddr::BROADCAST;
    assert_eq!(to, [PEER_MAC, PEER_MAC, all, all, all]);
    host.engine(|e| e.udp_send_to(s, b"x", None)).unwrap();
    assert_eq!(host.transmitted_one()[..6], PEER_MAC.0);
    host.sleep(Duration::from_secs(60));
    assert_eq!(parse(&host.transmitted_one()).0.dst, PEER_MAC);
}

#[test]
fn on_a_shared_address_the_lane_is_asked_and_late_answers_are_ignored() {
    let mut host = Host::with(PORT_UP, 1500);
    let free = host.free_frames();
    let s = bind(&mut host);
    send(&mut host, s, PEER).unwrap();
    assert!(host.transmitted().is_empty());
    let (hop, key) = host.engine(|e| e.poll_unresolved()).unwrap();
    assert_eq!((key.port, key.addr), (0, IpAddress::from_v4(PEER)));
    assert!(host.engine(|e| e.poll_unresolved()).is_none());
    let stale = engine::HopKey { generation: key.generation.wrapping_sub(1), ..key };
    host.engine(|e| e.handle_hop(hop, &stale, Some(OTHER_MAC)));
    assert!(host.transmitted().is_empty());
    host.engine(|e| e.handle_hop(hop, &key, Some(PEER_MAC)));
    assert_eq!(host.transmitted_one()[..6], PEER_MAC.0);
    send(&mut host, s, Ipv4Addr::new(10, 0, 0, 7)).unwrap();
    let (hop, key) = host.engine(|e| e.poll_unresolved()).unwrap();
    host.engine(|e| e.handle_hop(hop, &key, None));
    assert!(host.transmitted().is_empty());
    assert_eq!(host.free_frames(), free);
}

#[test]
fn our_address_is_defended_once_in_ten_seconds() {
    let mut host = Host::new();
    for _ in 0..5 {
        host.receive(&arp(ArpOperation::REPLY, (OTHER_MAC, HOST), PEER, MacAddr::BROADCAST));
    }
    let (eth, said) = parse(&host.transmitted_one());
    assert_eq!(eth.dst, MacAddr::BROADCAST);
    assert_eq!((said.sender_mac, said.sender_ip, said.target_ip), (HOST_MAC, HOST, HOST));
    host.sleep(Duration::from_secs(11));
    host.receive(&arp(ArpOperation::REPLY, (OTHER_MAC, HOST), PEER, MacAddr::BROADCAST));
    assert_eq!(host.transmitted().len(), 1);
}

#[test]
fn our_addresses_are_announced_on_request() {
    let mut host = Host::new();
    host.engine(|e| e.announce_addresses(0));
    let (eth, said) = parse(&host.transmitted_one());
    assert_eq!((eth.dst, said.sender_ip, said.target_ip), (MacAddr::BROADCAST, HOST, HOST));
}

fn echo_message(len: usize) -> Vec<u8> {
    let mut message = vec![0; 8];
    Icmp4Header::EchoRequest { ident: 5, seq: 6 }.emit(&mut message).unwrap();
    message.extend_from_slice(&pattern(len));
    wire::icmp4::fill_checksum(&mut message).unwrap();
    message
}

#[test]
fn an_echo_request_comes_back_as_the_reply() {
    let mut host = Host::new();
    let free = host.free_frames();
    for len in [0, 1, 56, 1472] {
        let message = echo_message(len);
        let header = Ipv4Header { traffic_class: 0x20, ..ip_header(IpProtocol::ICMP4, message.len()) };
        let mut bytes = frame(&header, &message);
        bytes.resize(bytes.len().max(60), 0);
        host.receive_in(&bytes, 512, state::CsumState::Unknown);
        let reply = host.transmitted_one();
        assert_eq!((&reply[..6], &reply[6..12]), (&PEER_MAC.0[..], &HOST_MAC.0[..]));
        let ip = Ipv4Packet::parse(&reply[14..]).unwrap();
        assert_eq!((ip.src(), ip.dst(), ip.traffic_class()), (HOST, PEER, 0x20));
        let icmp = Icmp4Message::parse(ip.payload()).unwrap();
        assert!(icmp.checksum_ok());
        assert_eq!(icmp.header(), Icmp4Header::EchoReply { ident: 5, seq: 6 });
        assert_eq!(icmp.payload(), pattern(len));
        assert_eq!(host.free_frames(), free);
    }
}

#[test]
fn a_large_echo_is_put_together_and_the_reply_cut_again() {
    let mut host = Host::with(PORT_UP | PORT_OWN_ADDRESS, 1500);
    let free = host.free_frames();
    let message = echo_message(20_000);
    for from in (0..message.len()).step_by(1480) {
        let len = 1480.min(message.len() - from);
        let header = Ipv4Header {
            fragment_offset: from as u16,
            more_fragments: from + len < message.len(),
            ..ip_header(IpProtocol::ICMP4, len)
        };
        host.receive(&frame(&header, &message[from..from + len]));
    }
    let parts = host.transmitted();
    let mut whole = vec![0; message.len()];
    for part in &parts {
        let ip = Ipv4Packet::parse(&part[14..]).unwrap();
        let from = usize::from(ip.fragment_offset());
        whole[from..from + ip.payload().len()].copy_from_slice(ip.payload());
    }
    let icmp = Icmp4Message::parse(&whole).unwrap();
    assert!(icmp.checksum_ok() && icmp.payload() == pattern(20_000));
    assert_eq!(icmp.header(), Icmp4Header::EchoReply { ident: 5, seq: 6 });
    assert_eq!(host.free_frames(), free);
}

#[test]
fn a_broken_echo_request_is_dropped() {
    let mut host = Host::new();
    let mut message = echo_message(56);
    message[20] ^= 1;
    host.receive(&frame(&ip_header(IpProtocol::ICMP4, message.len()), &message));
    assert_eq!(host.dropped(state::DropReason::IcmpMalformed), 1);
    assert!(host.transmitted().is_empty());
}

#[test]
fn a_question_for_a_mac_goes_before_all_datagrams() {
    let mut host = Host::new();
    let s = bind(&mut host);
    let to = UdpTo { remote: at(PEER, 9), local: IpAddress::from_v4(HOST), route: route(Some(PEER_MAC)) };
    let sent = (0..1000).take_while(|_| host.engine(|e| e.udp_send_to(s, b"x", Some(&to))).is_ok()).count();
    assert_eq!(sent, base::limits::OUTBOX_PACKETS as usize);
    host.receive(&arp(ArpOperation::REQUEST, (PEER_MAC, PEER), HOST, MacAddr::BROADCAST));
    assert_eq!(parse(&host.transmitted()[0]).1.operation, ArpOperation::REPLY);
}
