//! IPv6 by itself: extension headers, fragments, ICMPv6, UDP. What TCP does over it is in `tcp_over_ipv6`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

mod rig;
mod six;

use core::net::Ipv6Addr;

use base::{Duration, IpAddress, MacAddr, Port};
use engine::{SockError, UdpConnectError, UdpOptions, UdpRecvError, UdpSendError, UdpTo};
use rig::{HOST_MAC, Host, PEER_MAC, anywhere, pattern, route};
use six::*;
use state::ports::PORT_UP;
use state::{DropReason, Endpoint, SockRef};
use wire::ipv6_ext::{self, Start};
use wire::{Fragment, Icmp6Header, Icmp6Message, IpProtocol, Ipv6Packet, UdpDatagram};

fn bind(host: &mut Host) -> SockRef {
    host.engine(|e| e.udp_bind(anywhere(53), &UdpOptions::default())).unwrap()
}

fn to_peer(local: Ipv6Addr) -> UdpTo {
    let remote = at(PEER, 4000);
    let next_hop = IpAddress::from_v6(PEER);
    UdpTo {
        remote,
        local: IpAddress::from_v6(local),
        route: engine::RouteTo { next_hop, ..route(Some(PEER_MAC)) },
    }
}

fn recv(host: &mut Host, s: SockRef) -> Result<Vec<u8>, UdpRecvError> {
    let mut buf = vec![0; 70_000];
    let datagram = host.engine(|e| e.udp_recv_from(s, &mut buf, false))?;
    assert_eq!(datagram.from, at(PEER, 4000));
    assert_eq!(datagram.to, IpAddress::from_v6(HOST));
    buf.truncate(datagram.copied);
    Ok(buf)
}

/// The ICMPv6 message that the host sent to the peer, its checksum right, and what follows its header.
fn icmp_sent(host: &mut Host) -> (Icmp6Header, Vec<u8>) {
    let (header, bytes) = parse(&host.transmitted_one());
    assert_eq!((header.src, header.dst, header.next_header), (HOST, PEER, IpProtocol::ICMP6));
    let message = Icmp6Message::parse(&bytes).unwrap();
    let pseudo = wire::checksum::pseudo_v6(HOST, PEER, IpProtocol::ICMP6, bytes.len() as u32);
    assert!(message.checksum_ok(pseudo));
    (message.header(), message.payload().to_vec())
}

#[test]
fn a_datagram_arrives_and_its_answer_has_a_checksum_a_hop_limit_and_a_flow_label() {
    let mut host = six();
    let free = host.free_frames();
    let s = bind(&mut host);
    host.receive(&udp_frame(4000, 53, b"question"));
    assert_eq!(recv(&mut host, s).unwrap(), b"question");
    let mut labels = Vec::new();
    for (port, text) in [(4000, &b"answer"[..]), (4000, b"again"), (4001, b"other")] {
        let mut to = to_peer(HOST);
        to.remote.port = Port(port);
        host.engine(|e| e.udp_send_to(s, text, Some(&to))).unwrap();
        let (header, bytes) = parse(&host.transmitted_one());
        assert_eq!((header.src, header.dst, header.hop_limit), (HOST, PEER, 64));
        let datagram = UdpDatagram::parse(&bytes).unwrap();
        assert_eq!((datagram.src_port(), datagram.payload()), (Port(53), text));
        let pseudo = wire::checksum::pseudo_v6(HOST, PEER, IpProtocol::UDP, bytes.len() as u32);
        assert!(datagram.checksum() != 0 && pseudo.plus_bytes(&bytes).is_valid());
        labels.push(header.flow_label);
    }
    // RFC 6437: one label for a flow, another for another, none of them zero.
    assert!(labels[0] == labels[1] && labels[0] != labels[2] && !labels.contains(&0), "{labels:?}");
    assert_eq!(host.free_frames(), free);
}

#[test]
fn a_datagram_without_checksum_is_dropped() {
    let mut host = six();
    let s = bind(&mut host);
    let mut bytes = udp_frame(4000, 53, b"question");
    bytes[54 + 6..54 + 8].fill(0);
    host.receive(&bytes);
    assert_eq!(recv(&mut host, s), Err(UdpRecvError::WouldBlock));
    assert_eq!(host.dropped(DropReason::UdpChecksumBad), 1);
    // Nor is one sent, whatever the socket says.
    host.engine(|e| e.set_udp_options(s, &UdpOptions { no_checksum: true, ..UdpOptions::default() }));
    host.engine(|e| e.udp_send_to(s, b"x", Some(&to_peer(HOST)))).unwrap();
    let (_, bytes) = parse(&host.transmitted_one());
    assert_ne!(UdpDatagram::parse(&bytes).unwrap().checksum(), 0);
}

#[test]
fn extension_headers_in_front_of_a_datagram_are_walked_over_in_any_order() {
    let mut host = six();
    let s = bind(&mut host);
    let datagram = udp(4000, 53, b"behind");
    let pad = |next: IpProtocol| [next.0, 0, 1, 4, 0, 0, 0, 0];
    let routing = |next: IpProtocol| [next.0, 0, 0, 0, 0, 0, 0, 0];
    let atomic = |next: IpProtocol| [next.0, 0, 0, 0, 1, 2, 3, 4];
    let (h, d, r, f, u) = (
        IpProtocol::HOP_BY_HOP,
        IpProtocol::DESTINATION_OPTIONS,
        IpProtocol::ROUTING,
        IpProtocol::FRAGMENT,
        IpProtocol::UDP,
    );
    let orders: [&[IpProtocol]; 5] = [&[h], &[h, d, r, f, d], &[d], &[r, d, d], &[f]];
    for order in orders {
        let mut bytes = Vec::new();
        for (n, kind) in order.iter().enumerate() {
            let next = order.get(n + 1).copied().unwrap_or(u);
            bytes.extend(match *kind {
                k if k == r => routing(next),
                k if k == f => atomic(next),
                _ => pad(next),
            });
        }
        bytes.extend(&datagram);
        host.receive(&frame(order[0], &bytes));
        assert_eq!(recv(&mut host, s).unwrap(), b"behind", "{order:?}");
    }
    assert!(host.transmitted().is_empty());
}

#[test]
fn headers_that_may_not_be_are_refused_and_the_sender_told() {
    let datagram = udp(4000, 53, b"x");
    /// First header, its bytes, code and pointer of the answer.
    type Case = (IpProtocol, [u8; 8], Option<(u8, u32)>);
    let cases: [Case; 6] = [
        // A routing header of type 0 with a segment left (RFC 5095).
        (IpProtocol::ROUTING, [17, 0, 0, 1, 0, 0, 0, 0], Some((0, 42))),
        // Hop-by-hop options behind others.
        (IpProtocol::DESTINATION_OPTIONS, [0, 0, 1, 4, 0, 0, 0, 0], Some((1, 40))),
        // Unknown options: told, dropped in silence.
        (IpProtocol::DESTINATION_OPTIONS, [17, 0, 0x9e, 4, 0, 0, 0, 0], Some((2, 42))),
        (IpProtocol::DESTINATION_OPTIONS, [17, 0, 0x5e, 4, 0, 0, 0, 0], None),
        // A protocol nobody here knows; nothing at all.
        (IpProtocol::DESTINATION_OPTIONS, [200, 0, 1, 4, 0, 0, 0, 0], Some((1, 40))),
        (IpProtocol::DESTINATION_OPTIONS, [59, 0, 1, 4, 0, 0, 0, 0], None),
    ];
    for (first, header, answer) in cases {
        let mut host = six();
        let free = host.free_frames();
        let s = bind(&mut host);
        let bytes = frame(first, &[&header[..], &datagram].concat());
        host.receive(&bytes);
        assert_eq!(recv(&mut host, s), Err(UdpRecvError::WouldBlock), "{header:?}");
        match answer {
            Some((code, pointer)) => {
                let (message, quoted) = icmp_sent(&mut host);
                assert_eq!(message, Icmp6Header::ParameterProblem { code, pointer }, "{header:?}");
                assert_eq!(quoted, &bytes[14..]);
            }
            None => assert!(host.transmitted().is_empty(), "{header:?}"),
        }
        assert_eq!(host.free_frames(), free);
    }
}

#[test]
fn a_packet_from_or_to_what_is_no_station_is_dropped() {
    let mut host = six();
    let s = bind(&mut host);
    let datagram = udp(4000, 53, b"x");
    let mapped = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0x0a00, 2);
    let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 2);
    for src in [Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST, group, mapped, HOST] {
        host.receive(&frame_between(src, HOST, IpProtocol::UDP, &datagram, 64));
    }
    assert_eq!(host.dropped(DropReason::IpSourceBad), 5);
    host.receive(&frame_between(
        PEER,
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 99),
        IpProtocol::UDP,
        &datagram,
        64,
    ));
    host.receive(&frame_between(PEER, group, IpProtocol::UDP, &datagram, 64));
    assert_eq!(host.dropped(DropReason::IpNotForUs), 2);
    assert_eq!(recv(&mut host, s), Err(UdpRecvError::WouldBlock));
    assert!(host.transmitted().is_empty());
}

fn fragments(ident: u32, next_header: IpProtocol, whole: &[u8], step: usize) -> Vec<Vec<u8>> {
    (0..whole.len())
        .step_by(step)
        .map(|from| {
            let to = (from + step).min(whole.len());
            fragment(
                Fragment { next_header, offset: from as u16, more: to < whole.len(), ident },
                &whole[from..to],
            )
        })
        .collect()
}

#[test]
fn fragments_come_together_in_any_order_with_options_behind_and_ecn_kept() {
    let mut host = six();
    let free = host.free_frames();
    let s = bind(&mut host);
    for len in [100, 3_900, 20_000, 65_000] {
        let data = pattern(len);
        let mut whole = vec![17, 0, 1, 4, 0, 0, 0, 0];
        whole.extend(udp(4000, 53, &data));
        let mut parts = fragments(len as u32, IpProtocol::DESTINATION_OPTIONS, &whole, 1400);
        parts.reverse();
        parts.rotate_left(len % 3);
        for part in &parts {
            host.receive(part);
        }
        assert!(recv(&mut host, s).unwrap() == data, "{len}");
    }
    assert_eq!(host.free_frames(), free);
}

#[test]
fn a_packet_with_overlapping_fragments_is_dropped_whole_and_in_silence() {
    let mut host = six();
    let free = host.free_frames();
    let s = bind(&mut host);
    let whole = udp(4000, 53, &pattern(3000));
    let parts = fragments(9, IpProtocol::UDP, &whole, 1000);
    host.receive(&parts[0]);
    // The same again is no overlap (RFC 8200 4.5); a shifted one is.
    host.receive(&parts[0]);
    host.receive(&fragment(
        Fragment { next_header: IpProtocol::UDP, offset: 992, more: true, ident: 9 },
        &whole[992..1992],
    ));
    for part in &parts {
        host.receive(part);
    }
    assert_eq!(recv(&mut host, s), Err(UdpRecvError::WouldBlock));
    assert!(host.dropped(DropReason::IpFragmentBad) >= 1);
    assert!(host.transmitted().is_empty());
    host.sleep(Duration::from_secs(61));
    assert!(host.transmitted().is_empty());
    assert_eq!(host.free_frames(), free);
}

#[test]
fn fragments_that_make_no_sense_are_refused_and_the_sender_told() {
    let whole = udp(4000, 53, &pattern(100));
    let next_header = IpProtocol::UDP;
    let cases = [
        (Fragment { next_header, offset: 0, more: true, ident: 1 }, &whole[..99], (0, 4)),
        (Fragment { next_header, offset: 65_528, more: false, ident: 2 }, &whole[..16], (0, 42)),
        (Fragment { next_header: IpProtocol::TCP, offset: 0, more: true, ident: 3 }, &whole[..8], (3, 0)),
    ];
    for (header, bytes, (code, pointer)) in cases {
        let mut host = six();
        let free = host.free_frames();
        host.receive(&fragment(header, bytes));
        assert_eq!(icmp_sent(&mut host).0, Icmp6Header::ParameterProblem { code, pointer });
        assert_eq!(host.dropped(DropReason::IpFragmentBad), 1);
        assert_eq!(host.free_frames(), free);
    }
}

#[test]
fn a_packet_that_does_not_come_whole_in_time_is_reported_if_its_begin_came() {
    for first in [true, false] {
        let mut host = six();
        let free = host.free_frames();
        let parts = fragments(5, IpProtocol::UDP, &udp(4000, 53, &pattern(3000)), 1200);
        host.receive(&parts[if first { 0 } else { 1 }]);
        host.sleep(Duration::from_secs(61));
        if first {
            let (message, quoted) = icmp_sent(&mut host);
            assert_eq!(message, Icmp6Header::TimeExceeded { code: 1 });
            let quoted = Ipv6Packet::parse_quoted(&quoted).unwrap();
            assert_eq!((quoted.src(), quoted.dst(), quoted.next_header()), (PEER, HOST, IpProtocol::UDP));
        } else {
            assert!(host.transmitted().is_empty());
        }
        assert_eq!(host.free_frames(), free);
    }
}

#[test]
fn a_datagram_longer_than_the_path_is_cut_and_comes_together_at_the_other_end() {
    let mut host = six();
    let free = host.free_frames();
    let s = bind(&mut host);
    let data = pattern(9000);
    host.engine(|e| e.udp_send_to(s, &data, Some(&to_peer(HOST)))).unwrap();
    let sent = host.transmitted();
    assert_eq!(sent.len(), 7);
    let mut whole = Vec::new();
    let mut idents = Vec::new();
    for bytes in &sent {
        assert!(bytes.len() <= 1514);
        let (header, payload) = parse(bytes);
        let upper = ipv6_ext::walk(header.next_header, &payload, Start::FixedHeader).unwrap();
        let part = upper.fragment.unwrap();
        assert_eq!((usize::from(part.offset), part.next_header), (whole.len(), IpProtocol::UDP));
        whole.extend_from_slice(&payload[8..]);
        assert_eq!(part.more, whole.len() < data.len() + 8);
        idents.push(part.ident);
    }
    assert!(idents.iter().all(|i| *i == idents[0]) && idents[0] != 0);
    let pseudo = wire::checksum::pseudo_v6(HOST, PEER, IpProtocol::UDP, whole.len() as u32);
    assert!(pseudo.plus_bytes(&whole).is_valid());
    assert!(whole[8..] == data);
    assert_eq!(
        host.engine(|e| e.udp_send_to(s, &pattern(65_528), Some(&to_peer(HOST)))),
        Err(UdpSendError::MessageSize)
    );
    assert_eq!(host.free_frames(), free);
}

#[test]
fn echo_is_answered_also_when_it_was_asked_of_all_nodes() {
    let mut host = six();
    let free = host.free_frames();
    for (dst, len) in [(HOST, 10), (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), 1000), (HOST, 3000)] {
        let data = pattern(len);
        host.receive(&icmp_frame(PEER, dst, Icmp6Header::EchoRequest { ident: 7, seq: 9 }, &data));
        let sent = host.transmitted();
        if len == 3000 {
            assert_eq!(sent.len(), 3);
            continue;
        }
        let (header, bytes) = parse(&sent[0]);
        let source = if dst == HOST { HOST } else { header.src };
        assert_eq!((header.src, header.dst), (source, PEER));
        let message = Icmp6Message::parse(&bytes).unwrap();
        let pseudo = wire::checksum::pseudo_v6(header.src, PEER, IpProtocol::ICMP6, bytes.len() as u32);
        assert!(message.checksum_ok(pseudo));
        assert_eq!(message.header(), Icmp6Header::EchoReply { ident: 7, seq: 9 });
        assert_eq!(message.payload(), data);
    }
    assert_eq!(host.free_frames(), free);
    // On an address that is the kernel's too, the kernel answers.
    let mut shared = six_with(PORT_UP);
    shared.receive(&icmp_frame(PEER, HOST, Icmp6Header::EchoRequest { ident: 7, seq: 9 }, b"x"));
    assert!(shared.transmitted().is_empty());
}

#[test]
fn a_port_where_nobody_listens_is_said_so_but_not_too_often() {
    let mut host = six();
    let bytes = udp_frame(4000, 99, &pattern(1400));
    host.receive(&bytes);
    let (message, quoted) = icmp_sent(&mut host);
    assert_eq!(message, Icmp6Header::Unreachable { code: 4 });
    // As much as fits into 1280 bytes.
    assert_eq!(quoted, &bytes[14..14 + 1280 - 48]);
    let answers: usize = (0..200)
        .map(|_| {
            host.receive(&bytes);
            host.transmitted().len()
        })
        .sum();
    assert_eq!(answers, 49);
    assert_eq!(host.dropped(DropReason::IcmpRateLimited), 151);
    // Never about an error.
    host.sleep(Duration::from_secs(2));
    let error = icmp_bytes(PEER, HOST, Icmp6Header::Other { kind: 100, code: 0, rest: 0 }, b"");
    host.receive(&frame(
        IpProtocol::DESTINATION_OPTIONS,
        &[&[58, 0, 0x9e, 4, 0, 0, 0, 0][..], &error].concat(),
    ));
    host.receive(&icmp_frame(PEER, HOST, Icmp6Header::Unreachable { code: 4 }, &bytes[14..100]));
    let sent = host.transmitted();
    assert!(sent.len() <= 1, "{sent:?}");
}

#[test]
fn errors_reach_the_connected_socket_they_are_about() {
    let mut host = six();
    let s = bind(&mut host);
    let to = to_peer(HOST);
    host.engine(|e| e.udp_connect(s, to.local, to.remote, &to.route)).unwrap();
    assert_eq!(
        host.engine(|e| e.udp_connect(s, IpAddress::from_v4(rig::HOST), to.remote, &to.route)),
        Err(UdpConnectError::Invalid),
        "ends of two families"
    );
    let quoted = |src_port: u16| {
        let mut bytes = vec![0; 40];
        header(HOST, PEER, IpProtocol::UDP, 12, 64).emit(&mut bytes).unwrap();
        bytes.extend_from_slice(&[src_port.to_be_bytes(), 4000u16.to_be_bytes(), [0, 12], [1, 1]].concat());
        bytes.extend_from_slice(b"data");
        bytes
    };
    host.receive(&icmp_frame(PEER, HOST, Icmp6Header::Unreachable { code: 4 }, &quoted(54)));
    assert_eq!(host.engine(|e| e.take_error(s)), None);
    host.receive(&icmp_frame(PEER, HOST, Icmp6Header::Unreachable { code: 4 }, &quoted(53)));
    assert_eq!(host.engine(|e| e.take_error(s)), Some(SockError::Refused));
    // RFC 8201: a router's MTU is believed, but never below 1280.
    host.receive(&icmp_frame(PEER, HOST, Icmp6Header::PacketTooBig { mtu: 1400 }, &quoted(53)));
    host.engine(|e| e.udp_send_to(s, &pattern(1440), None)).unwrap();
    assert!(host.transmitted().iter().all(|p| p.len() <= 1414));
    host.receive(&icmp_frame(PEER, HOST, Icmp6Header::PacketTooBig { mtu: 60 }, &quoted(53)));
    host.engine(|e| e.udp_send_to(s, &pattern(1232), None)).unwrap();
    assert_eq!(host.transmitted_one().len(), 14 + 1280);
}

#[test]
fn sockets_of_both_families_share_a_port_and_each_takes_its_own() {
    let mut host = six();
    let end = |addr| Endpoint { addr, port: Port(53) };
    let bind = |host: &mut Host, addr| host.engine(|e| e.udp_bind(end(addr), &UdpOptions::default()));
    let four = bind(&mut host, IpAddress::ANY_V4).unwrap();
    let sixth = bind(&mut host, IpAddress::ANY_V6).unwrap();
    assert!(bind(&mut host, IpAddress::ANY).is_err());
    host.receive(&udp_frame(4000, 53, b"six"));
    host.receive(&rig::udp_frame(4000, 53, b"four"));
    assert_eq!(recv(&mut host, sixth).unwrap(), b"six");
    let mut buf = [0; 16];
    let got = host.engine(|e| e.udp_recv_from(four, &mut buf, false)).unwrap();
    assert_eq!((got.from, &buf[..4]), (rig::at(rig::PEER, 4000), &b"four"[..]));
    // A listener of TCP likewise; one at any address of either family comes last.
    let listen =
        |host: &mut Host, addr| host.engine(|e| e.tcp_listen(end(addr), 4, &state::TcpOptions::default()));
    let all = [IpAddress::ANY_V4, IpAddress::ANY_V6, IpAddress::ANY, IpAddress::from_v6(HOST)];
    assert!(all.into_iter().all(|addr| listen(&mut host, addr).is_ok()));
}

const OTHER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 9]);

#[test]
fn neighbours_are_asked_and_answer() {
    let mut host = six();
    let free = host.free_frames();
    let s = bind(&mut host);
    let mut to = to_peer(HOST);
    to.route.mac = None;
    host.engine(|e| e.udp_send_to(s, b"hello", Some(&to))).unwrap();
    let (eth, ip, question) = solicitation(&host.transmitted_one());
    assert_eq!((eth.src, eth.dst), (HOST_MAC, MacAddr([0x33, 0x33, 0xff, 0, 0, 2])));
    assert_eq!((ip.src, ip.dst, ip.hop_limit), (HOST, wire::ndp::solicited_node(PEER), 255));
    assert_eq!(question, (PEER, Some(HOST_MAC)));
    // An answer from behind a router, and one without an address, count for nothing.
    host.receive(&advertisement(PEER, PEER_MAC, Advert { hop_limit: 254, ..Advert::SOLICITED }));
    host.receive(&advertisement(PEER, PEER_MAC, Advert { with_mac: false, ..Advert::SOLICITED }));
    assert!(host.transmitted().is_empty());
    host.receive(&advertisement(PEER, PEER_MAC, Advert::SOLICITED));
    let sent = host.transmitted_one();
    assert!(sent[..6] == PEER_MAC.0 && sent.ends_with(b"hello"));
    // Another one claims the address, without the right to: it is the first that stays, and is asked again soon.
    host.receive(&advertisement(PEER, OTHER_MAC, Advert { overriding: false, ..Advert::SOLICITED }));
    host.engine(|e| e.udp_send_to(s, b"hello", Some(&to))).unwrap();
    assert_eq!(host.transmitted_one()[..6], PEER_MAC.0);
    // With the right to.
    host.receive(&advertisement(PEER, OTHER_MAC, Advert::SOLICITED));
    host.engine(|e| e.udp_send_to(s, b"hello", Some(&to_by_table()))).unwrap();
    assert_eq!(host.transmitted_one()[..6], OTHER_MAC.0);
    assert_eq!(host.free_frames(), free);
}

fn to_by_table() -> UdpTo {
    let mut to = to_peer(HOST);
    to.route.mac = None;
    to
}

#[test]
fn questions_are_repeated_and_a_silent_neighbour_is_given_up() {
    let mut host = six();
    let free = host.free_frames();
    let s = bind(&mut host);
    host.engine(|e| e.udp_send_to(s, b"hello", Some(&to_by_table()))).unwrap();
    assert_eq!(host.transmitted().len(), 1);
    for _ in 0..2 {
        host.sleep(Duration::from_secs(1));
        assert_eq!(host.transmitted().len(), 1);
    }
    host.sleep(Duration::from_secs(1));
    assert!(host.transmitted().is_empty());
    assert_eq!(host.dropped(DropReason::Unreachable), 1);
    assert_eq!(host.free_frames(), free);
}

#[test]
fn a_neighbour_in_use_is_asked_again_after_its_time() {
    let mut host = six();
    let s = bind(&mut host);
    let to = to_by_table();
    host.engine(|e| e.udp_connect(s, to.local, to.remote, &to.route)).unwrap();
    host.transmitted();
    host.receive(&advertisement(PEER, PEER_MAC, Advert::SOLICITED));
    host.sleep(Duration::from_secs(29));
    assert!(host.transmitted().is_empty());
    host.sleep(Duration::from_secs(2));
    // RFC 4861 7.3.3: the one who had the address is asked alone.
    let (eth, ip, _) = solicitation(&host.transmitted_one());
    assert_eq!((eth.dst, ip.dst), (PEER_MAC, PEER));
}

#[test]
fn a_question_for_our_address_is_answered_and_a_claim_of_it_refused() {
    let mut host = six();
    let free = host.free_frames();
    host.receive(&question(PEER, HOST, Some(PEER_MAC)));
    let sent = host.transmitted_one();
    let answer = advertised(&sent);
    assert_eq!(sent[..6], PEER_MAC.0);
    assert_eq!(answer, (PEER, HOST, Some(HOST_MAC), true));
    // Who has no address yet looks whether ours is free (RFC 4862 5.4.3): all are told that it is not.
    host.receive(&question(Ipv6Addr::UNSPECIFIED, HOST, None));
    assert_eq!(advertised(&host.transmitted_one()).0, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1));
    // Somebody says that it has our address: it is defended, once in a while.
    host.receive(&advertisement(HOST, OTHER_MAC, Advert::SOLICITED));
    assert_eq!(advertised(&host.transmitted_one()).1, HOST);
    host.receive(&advertisement(HOST, OTHER_MAC, Advert::SOLICITED));
    host.receive(&question(PEER, Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x101), Some(PEER_MAC)));
    assert!(host.transmitted().is_empty());
    assert_eq!(host.free_frames(), free);
    let mut shared = six_with(PORT_UP);
    shared.receive(&question(PEER, HOST, Some(PEER_MAC)));
    assert!(shared.transmitted().is_empty());
}

#[test]
fn addresses_are_announced_when_a_port_comes_up() {
    let mut host = six();
    host.engine(|e| e.announce_addresses(0));
    let sent = host.transmitted();
    assert_eq!(sent.len(), 2, "one for each family");
    let six = sent.iter().find(|p| p[12..14] == [0x86, 0xdd]).unwrap();
    assert_eq!(advertised(six), (Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1), HOST, Some(HOST_MAC), false));
}
