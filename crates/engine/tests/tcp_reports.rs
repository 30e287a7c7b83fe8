//! ICMP errors about segments (RFC 1122 4.2.3.9, RFC 1191, RFC 5927).
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

mod net;

use base::Duration;
use engine::{AoAlgorithm, AoKey, KeyPeer, SockError, State};
use net::{Net, Packet, Setup, pattern};
use wire::icmp4::unreachable;
use wire::{EthHeader, EtherType, Icmp4Header, IpProtocol, Ipv4Header};

const S: Setup = Setup { super_segment_max: 0, ..Setup::USUAL };

/// An ICMP error from host 1 to host 0 about `packet`, as a router would send it.
fn error(net: &Net, packet: &Packet, header: Icmp4Header) -> Packet {
    let mut icmp = vec![0; 8];
    header.emit(&mut icmp).unwrap();
    icmp.extend_from_slice(&packet.bytes[14..packet.bytes.len().min(14 + 28)]);
    wire::icmp4::fill_checksum(&mut icmp).unwrap();
    let mut bytes = vec![0; 34];
    EthHeader { dst: net.hosts[0].mac, src: net.hosts[1].mac, ethertype: EtherType::IPV4 }
        .emit(&mut bytes)
        .unwrap();
    let ends = (net.hosts[1].addr.as_v4().unwrap(), net.hosts[0].addr.as_v4().unwrap());
    Ipv4Header::plain(ends, IpProtocol::ICMP4, icmp.len() as u16).emit(&mut bytes[14..]).unwrap();
    bytes.extend_from_slice(&icmp);
    Packet { bytes, gso_size: 0, port: 0 }
}

fn last_segment(net: &Net) -> Packet {
    net.trace.iter().rev().find(|t| t.1 == 0 && t.2.tcp().is_some()).unwrap().2.clone()
}

#[test]
fn an_unreachable_host_ends_the_attempt_to_connect() {
    let mut net = Net::new(1, &S);
    net.keep_trace = true;
    net.filter = Some(Box::new(|_, _| true));
    let a = net.connect(0, 40_000, 80).unwrap();
    net.flush(0);
    let syn = last_segment(&net);
    let mut wrong = syn.clone();
    wrong.bytes[38] ^= 1;
    let unreachable = Icmp4Header::Unreachable { code: unreachable::HOST, next_hop_mtu: 0 };
    let p = error(&net, &wrong, unreachable);
    net.deliver(0, &p);
    assert_eq!(net.state(0, a), Some(State::SynSent));
    let p = error(&net, &syn, unreachable);
    net.deliver(0, &p);
    assert_eq!(net.on(0, |e| e.take_error(a)), Some(SockError::HostUnreachable));
}

#[test]
fn an_open_connection_outlives_unreachable_reports() {
    let mut net = Net::new(2, &S);
    let (_, a, b) = net.open();
    net.keep_trace = true;
    net.filter = Some(Box::new(|_, _| true));
    net.send(0, a, b"data").unwrap();
    let p = error(
        &net,
        &last_segment(&net),
        Icmp4Header::Unreachable { code: unreachable::HOST, next_hop_mtu: 0 },
    );
    net.deliver(0, &p);
    net.filter = None;
    net.run(Duration::from_millis(300));
    assert_eq!(net.recv(1, b, 10), Ok(b"data".to_vec()));
}

#[test]
fn a_narrow_link_makes_segments_smaller_at_once() {
    let mut net = Net::new(3, &S);
    let (_, a, b) = net.open();
    // A link in between takes packets of 1000 bytes.
    net.filter = Some(Box::new(|_, p: &Packet| p.bytes.len() > 14 + 1000));
    net.keep_trace = true;
    let data = pattern(1, 10_000);
    net.send(0, a, &data).unwrap();
    let header = Icmp4Header::Unreachable { code: unreachable::FRAGMENTATION_NEEDED, next_hop_mtu: 1000 };
    let p = error(&net, &last_segment(&net), header);
    net.deliver(0, &p);
    net.run(Duration::from_millis(20));
    assert_eq!(net.recv(1, b, 20_000).unwrap(), data);
    assert_eq!(net.on(0, |e| e.tcp_info(a)).unwrap().snd_mss, 1000 - 52);
    // A report below every sensible MTU does not cut data to crumbs.
    net.send(0, a, b"more").unwrap();
    let header = Icmp4Header::Unreachable { code: unreachable::FRAGMENTATION_NEEDED, next_hop_mtu: 60 };
    let p = error(&net, &last_segment(&net), header);
    net.deliver(0, &p);
    assert_eq!(net.on(0, |e| e.tcp_info(a)).unwrap().snd_mss, 552 - 52);
}

#[test]
fn a_router_that_speaks_of_a_signed_connection_is_not_listened_to() {
    let mut net = Net::new(4, &S);
    let listener = net.listen(1, 80, 4);
    let key = |net: &Net, host: usize| AoKey {
        peer: KeyPeer { addr: net.hosts[1 - host].addr, prefix: 128 },
        send_id: 1,
        recv_id: 1,
        algorithm: AoAlgorithm::HmacSha1,
        mac_len: 12,
        covers_options: true,
        key: b"secret",
    };
    let there = key(&net, 1);
    net.on(1, |e| e.tcp_add_ao_key(listener, &there)).unwrap();
    let a = net.connect(0, 40_000, 80).unwrap();
    let here = key(&net, 0);
    net.on(0, |e| e.tcp_add_ao_key(a, &here)).unwrap();
    net.run(Duration::from_millis(10));
    let mss = net.on(0, |e| e.tcp_info(a)).unwrap().snd_mss;
    net.keep_trace = true;
    net.filter = Some(Box::new(|_, _| true));
    net.send(0, a, &pattern(1, 5000)).unwrap();
    let header = Icmp4Header::Unreachable { code: unreachable::FRAGMENTATION_NEEDED, next_hop_mtu: 1000 };
    let p = error(&net, &last_segment(&net), header);
    net.deliver(0, &p);
    assert_eq!(net.on(0, |e| e.tcp_info(a)).unwrap().snd_mss, mss);
    assert_eq!(net.dropped(0, state::DropReason::IcmpIgnored), 1);
    assert_eq!(net.on(0, |e| e.tcp_ao(a)).unwrap().counters.icmp, 1);
    // Unless the program wants it to be.
    net.on(0, |e| e.tcp_set_ao(a, false, true, None)).unwrap();
    net.deliver(0, &p);
    assert!(net.on(0, |e| e.tcp_info(a)).unwrap().snd_mss < mss);
    assert_eq!(net.on(0, |e| e.tcp_ao(a)).unwrap().counters.icmp, 1);
}
