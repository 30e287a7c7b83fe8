//! What the tests of TCP say holds over IPv6 too: the same tests, with the hosts' addresses of the other family (`net::V6`).
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]
#![allow(clippy::duplicate_mod, reason = "each file has its own net, with the part of it that it uses")]

mod net;

#[path = "tcp_ao.rs"]
mod ao_signed;
#[path = "tcp_borrow.rs"]
mod borrow;
#[path = "tcp_defence.rs"]
mod defence;
#[path = "tcp_events.rs"]
mod events;
#[path = "tcp_fast_open.rs"]
mod fast_open;
#[path = "tcp_flow_control.rs"]
mod flow_control;
#[path = "half_open.rs"]
mod half_open;
#[path = "tcp_listen.rs"]
mod listen;
#[path = "tcp_md5.rs"]
mod md5_signed;
#[path = "tcp_open_close.rs"]
mod open_close;
#[path = "tcp_recovery.rs"]
mod recovery;
#[path = "tcp_transfer.rs"]
mod transfer;
#[path = "tcp_wires.rs"]
mod wires;

use base::Duration;
use engine::{SockError, State};
use net::{Net, Packet, Setup, pattern};
use wire::{EthHeader, EtherType, Icmp6Header, IpProtocol, Ipv6Header};

const S: Setup = Setup { super_segment_max: 0, ..Setup::USUAL };

/// An ICMPv6 error to host 0 about `packet`, as a router would send it; the other host stands for it.
fn error(net: &Net, packet: &Packet, header: Icmp6Header) -> Packet {
    let (src, dst) = (net.hosts[1].addr.as_v6(), net.hosts[0].addr.as_v6());
    let mut icmp = vec![0; 8];
    header.emit(&mut icmp).unwrap();
    icmp.extend_from_slice(&packet.bytes[14..packet.bytes.len().min(14 + 1232)]);
    let pseudo = wire::checksum::pseudo_v6(src, dst, IpProtocol::ICMP6, icmp.len() as u32);
    wire::icmp6::fill_checksum(&mut icmp, pseudo).unwrap();
    let mut bytes = vec![0; 54];
    let link = EthHeader { dst: net.hosts[0].mac, src: net.hosts[1].mac, ethertype: EtherType::IPV6 };
    link.emit(&mut bytes).unwrap();
    Ipv6Header::plain((src, dst), IpProtocol::ICMP6, icmp.len() as u16).emit(&mut bytes[14..]).unwrap();
    bytes.extend_from_slice(&icmp);
    Packet { bytes, gso_size: 0, port: 0 }
}

fn last_segment(net: &Net) -> Packet {
    net.trace.iter().rev().find(|t| t.1 == 0 && t.2.tcp().is_some()).unwrap().2.clone()
}

#[test]
fn a_packet_too_big_makes_segments_smaller_at_once_but_never_below_1280() {
    let mut net = Net::new(3, &S);
    let (_, a, b) = net.open();
    net.filter = Some(Box::new(|_, p: &Packet| p.bytes.len() > 14 + 1400));
    net.keep_trace = true;
    let data = pattern(1, 10_000);
    net.send(0, a, &data).unwrap();
    let p = error(&net, &last_segment(&net), Icmp6Header::PacketTooBig { mtu: 1400 });
    net.deliver(0, &p);
    net.run(Duration::from_millis(20));
    assert_eq!(net.recv(1, b, 20_000).unwrap(), data);
    assert_eq!(net.on(0, |e| e.tcp_info(a)).unwrap().snd_mss, 1400 - 72);
    net.send(0, a, b"more").unwrap();
    let p = error(&net, &last_segment(&net), Icmp6Header::PacketTooBig { mtu: 600 });
    net.deliver(0, &p);
    assert_eq!(net.on(0, |e| e.tcp_info(a)).unwrap().snd_mss, 1280 - 72);
}

#[test]
fn an_error_about_a_syn_ends_the_attempt_if_its_number_is_in_flight() {
    let mut net = Net::new(1, &S);
    net.keep_trace = true;
    net.filter = Some(Box::new(|_, _| true));
    let a = net.connect(0, 40_000, 80).unwrap();
    net.flush(0);
    let syn = last_segment(&net);
    let mut wrong = syn.clone();
    wrong.bytes[net::TCP_AT + 4] ^= 1;
    let unreachable = Icmp6Header::Unreachable { code: wire::icmp6::unreachable::ADDRESS };
    let p = error(&net, &wrong, unreachable);
    net.deliver(0, &p);
    assert_eq!(net.state(0, a), Some(State::SynSent));
    let p = error(&net, &syn, unreachable);
    net.deliver(0, &p);
    assert_eq!(net.on(0, |e| e.take_error(a)), Some(SockError::HostUnreachable));
}

#[test]
fn every_packet_of_a_connection_has_one_flow_label() {
    let mut net = Net::new(4, &S);
    net.keep_trace = true;
    let (listener, a, b) = net.open();
    net.transfer(a, b, 100_000, 5_000);
    net.close(1, listener);
    let labels = |host| {
        let sent = net.trace.iter().filter(move |t| t.1 == host && t.2.tcp().is_some());
        let mut labels: Vec<u32> =
            sent.map(|t| wire::Ipv6Packet::parse(&t.2.bytes[14..]).unwrap().flow_label()).collect();
        labels.sort_unstable();
        labels.dedup();
        labels
    };
    for host in 0..2 {
        assert!(labels(host).len() == 1 && labels(host)[0] != 0, "{:?}", labels(host));
    }
}

#[test]
fn a_peer_that_names_no_mss_is_sent_1220_bytes() {
    let mut net = Net::new(5, &S);
    let listener = net.listen(1, 80, 4);
    let syn =
        net::forged(&net, 0, (40_000, 80), (base::SeqNum(7), base::SeqNum(0)), wire::TcpFlags::SYN, b"");
    net.deliver(1, &syn);
    net.keep_trace = true;
    net.flush(1);
    let theirs = net.segments()[0].seq;
    let ack = net::forged(&net, 0, (40_000, 80), (base::SeqNum(8), theirs.plus(1)), wire::TcpFlags::ACK, b"");
    net.deliver(1, &ack);
    let b = net.accept(1, listener).unwrap();
    assert_eq!(net.on(1, |e| e.tcp_info(b)).unwrap().snd_mss, 1220);
}
