//! What a Linux kernel sends is read as it meant it, and written back byte for byte.
#![allow(clippy::unwrap_used, reason = "a helper of tests fails its test by panicking")]

mod frames;

use std::net::{Ipv4Addr, Ipv6Addr};

use base::{MacAddr, Port, SeqNum};
use frames::bytes;
use wire::ipv6_ext::{Start, walk};
use wire::*;

const A: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
const B: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);
const IP_A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const IP_B: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const IP6_A: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const IP6_B: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

fn ipv4(frame: &[u8]) -> Ipv4Packet<'_> {
    Ipv4Packet::parse(EthFrame::parse(frame).unwrap().payload()).unwrap()
}

fn ipv6(frame: &[u8]) -> Ipv6Packet<'_> {
    Ipv6Packet::parse(EthFrame::parse(frame).unwrap().payload()).unwrap()
}

fn pseudo_of(packet: &Ipv4Packet<'_>) -> Sum {
    checksum::pseudo_v4(packet.src(), packet.dst(), packet.protocol(), packet.payload_len() as u16)
}

fn pseudo6_of(packet: &Ipv6Packet<'_>, upper: &UpperLayer) -> Sum {
    let len = (packet.payload_len() - upper.offset) as u32;
    checksum::pseudo_v6(packet.src(), packet.dst(), upper.protocol, len)
}

/// The frame written anew from what was parsed. Options of IPv4 and extension headers are not among the frames.
fn rewritten_v4(frame: &[u8]) -> Vec<u8> {
    let eth = EthFrame::parse(frame).unwrap();
    let ip = ipv4(frame);
    let mut out = vec![0xaa; frame.len()];
    let mut at = eth.header().emit(&mut out).unwrap();
    at += ip.header().emit(&mut out[at..]).unwrap();
    match ip.protocol() {
        IpProtocol::TCP => {
            let tcp = TcpSegment::parse(ip.payload()).unwrap();
            let len = tcp.header().emit(&TcpOptions::parse(tcp.options()), &mut out[at..]).unwrap();
            out[at + len..].copy_from_slice(tcp.payload());
            tcp::fill_checksum(&mut out[at..], pseudo_of(&ip)).unwrap();
        }
        IpProtocol::UDP => {
            let udp = UdpDatagram::parse(ip.payload()).unwrap();
            let len = udp.header().emit(&mut out[at..]).unwrap();
            out[at + len..].copy_from_slice(udp.payload());
            udp::fill_checksum(&mut out[at..], pseudo_of(&ip)).unwrap();
        }
        _ => {
            let icmp = Icmp4Message::parse(ip.payload()).unwrap();
            let len = icmp.header().emit(&mut out[at..]).unwrap();
            out[at + len..].copy_from_slice(icmp.payload());
            icmp4::fill_checksum(&mut out[at..]).unwrap();
        }
    }
    out
}

#[test]
fn ipv4_frames_are_written_back_byte_for_byte() {
    for hex in [
        frames::SYN,
        frames::SYN_ACK,
        frames::ACK,
        frames::REQUEST,
        frames::UDP,
        frames::ECHO_REQUEST,
        frames::ECHO_REPLY,
        frames::PORT_UNREACHABLE,
    ] {
        let frame = bytes(hex);
        assert_eq!(rewritten_v4(&frame), frame);
    }
}

#[test]
fn a_syn_has_the_options_the_kernel_announced() {
    let frame = bytes(frames::SYN);
    let ip = ipv4(&frame);
    assert_eq!((ip.src(), ip.dst(), ip.ttl(), ip.ident()), (IP_A, IP_B, 64, 0x33cd));
    assert!(ip.dont_fragment() && !ip.is_fragment());
    let tcp = TcpSegment::parse(ip.payload()).unwrap();
    assert_eq!((tcp.src_port(), tcp.dst_port()), (Port(44404), Port(8080)));
    assert_eq!((tcp.seq(), tcp.flags(), tcp.window()), (SeqNum(3_067_709_990), TcpFlags::SYN, 64240));
    assert!(tcp.checksum_ok(pseudo_of(&ip)));
    let timestamps = Some(Timestamps { value: 1_764_329_629, echo: 0 });
    let expected = TcpOptions {
        mss: Some(1460),
        window_scale: Some(10),
        sack_permitted: true,
        timestamps,
        ..TcpOptions::NONE
    };
    assert_eq!(TcpOptions::parse(tcp.options()), expected);
}

#[test]
fn an_established_segment_carries_only_timestamps() {
    let frame = bytes(frames::REQUEST);
    let tcp = TcpSegment::parse(ipv4(&frame).payload()).unwrap();
    let timestamps = tcp_options::only_timestamps(tcp.options()).unwrap();
    assert_eq!((timestamps.value, timestamps.echo), (1_764_329_629, 3_747_253_752));
    assert_eq!(TcpOptions::parse(tcp.options()).timestamps, Some(timestamps));
    assert_eq!(tcp.flags(), TcpFlags::PSH | TcpFlags::ACK);
    assert!(tcp.payload().starts_with(b"GET / HTTP/1.1\r\n"));
    assert_eq!(tcp.payload().len(), 77);
}

#[test]
fn a_flipped_bit_makes_the_checksum_wrong() {
    let whole = bytes(frames::REQUEST);
    for bit in 0..(whole.len() - 14) * 8 {
        let mut frame = whole.clone();
        frame[14 + bit / 8] ^= 1 << (bit % 8);
        let eth = EthFrame::parse(&frame).unwrap();
        let Ok(ip) = Ipv4Packet::parse(eth.payload()) else { continue };
        assert!(bit >= 160, "the flipped bit {bit} of the IP header went unnoticed");
        let tcp = TcpSegment::parse(ip.payload());
        assert!(tcp.is_err() || !tcp.unwrap().checksum_ok(pseudo_of(&ip)));
    }
}

#[test]
fn arp_is_read_and_answered_as_the_kernel_does() {
    let frame = bytes(frames::ARP_REQUEST);
    let eth = EthFrame::parse(&frame).unwrap();
    assert_eq!((eth.src(), eth.dst(), eth.ethertype()), (A, MacAddr::BROADCAST, EtherType::ARP));
    let request = ArpPacket::parse(eth.payload()).unwrap().header();
    assert_eq!(request.operation, ArpOperation::REQUEST);
    assert_eq!((request.sender_ip, request.target_ip), (IP_A, IP_B));
    let mut reply = vec![0; 42];
    EthHeader { dst: A, src: B, ethertype: EtherType::ARP }.emit(&mut reply).unwrap();
    request.reply_from(B).emit(&mut reply[14..]).unwrap();
    assert_eq!(reply, bytes(frames::ARP_REPLY));
}

#[test]
fn an_icmp_error_quotes_the_datagram_it_is_about() {
    let (frame, cause) = (bytes(frames::PORT_UNREACHABLE), bytes(frames::UDP));
    let ip = ipv4(&frame);
    let icmp = Icmp4Message::parse(ip.payload()).unwrap();
    assert!(icmp.checksum_ok());
    let code = icmp4::unreachable::PORT;
    assert_eq!(icmp.header(), Icmp4Header::Unreachable { code, next_hop_mtu: 0 });
    assert!(icmp.header().is_error());
    assert_eq!(icmp.payload(), &cause[14..]);
    let quoted = Ipv4Packet::parse_quoted(&icmp.payload()[..28]).unwrap();
    let udp = UdpDatagram::parse_quoted(quoted.payload()).unwrap();
    assert_eq!((quoted.dst(), udp.dst_port(), udp.payload_len()), (IP_B, Port(9), 5));
}

#[test]
fn ipv6_frames_have_right_checksums() {
    for hex in [frames::ECHO6_REQUEST, frames::PORT6_UNREACHABLE, frames::MLD_REPORT, frames::DAD_PROBE] {
        let frame = bytes(hex);
        let ip = ipv6(&frame);
        let upper = walk(ip.next_header(), ip.payload(), Start::FixedHeader).unwrap();
        assert_eq!(upper.protocol, IpProtocol::ICMP6);
        let icmp = Icmp6Message::parse(&ip.payload()[upper.offset..]).unwrap();
        assert!(icmp.checksum_ok(pseudo6_of(&ip, &upper)));
    }
    let frame = bytes(frames::UDP6);
    let ip = ipv6(&frame);
    let upper = walk(ip.next_header(), ip.payload(), Start::FixedHeader).unwrap();
    let udp = UdpDatagram::parse(ip.payload()).unwrap();
    assert!(udp.checksum_ok(pseudo6_of(&ip, &upper)));
    assert_eq!((ip.src(), ip.dst(), ip.flow_label(), ip.hop_limit()), (IP6_A, IP6_B, 0xa513b, 64));
}

#[test]
fn an_mld_report_comes_with_a_router_alert() {
    let frame = bytes(frames::MLD_REPORT);
    let ip = ipv6(&frame);
    let upper = walk(ip.next_header(), ip.payload(), Start::FixedHeader).unwrap();
    assert!(upper.router_alert);
    assert_eq!((upper.offset, upper.next_header_at, upper.fragment), (8, 40, None));
    let group = ip.dst();
    assert_eq!(EthFrame::parse(&frame).unwrap().dst(), eth::multicast_v6(group));
}

fn ndp(hex: &str) -> (NdpMessage, Vec<u8>) {
    let frame = bytes(hex);
    let ip = ipv6(&frame);
    let icmp = Icmp6Message::parse(ip.payload()).unwrap();
    let message = NdpMessage::parse(&icmp, &ip.header()).unwrap();
    let mut out = vec![0; 200];
    let len = message.emit(&mut out).unwrap();
    out.truncate(len);
    let pseudo = checksum::pseudo_v6(ip.src(), ip.dst(), ip.next_header(), len as u32);
    icmp6::fill_checksum(&mut out, pseudo).unwrap();
    (message, out)
}

#[test]
fn neighbour_discovery_is_read_and_written_back() {
    let (probe, _) = ndp(frames::DAD_PROBE);
    assert_eq!(probe.body, NdpBody::NeighbourSolicitation { target: IP6_B });
    assert_eq!(probe.options, NdpOptions::default());
    let (solicitation, out) = ndp(frames::ROUTER_SOLICITATION);
    assert_eq!(solicitation.body, NdpBody::RouterSolicitation);
    assert_eq!(solicitation.options.source_mac, Some(A));
    assert_eq!(out, bytes(frames::ROUTER_SOLICITATION)[54..]);
    let (advertisement, out) = ndp(frames::NEIGHBOUR_ADVERTISEMENT);
    let (router, solicited, overriding) = (false, true, true);
    let body = NdpBody::NeighbourAdvertisement { target: IP6_B, router, solicited, overriding };
    assert_eq!(advertisement.body, body);
    assert_eq!(advertisement.options.target_mac, Some(B));
    assert_eq!(out, bytes(frames::NEIGHBOUR_ADVERTISEMENT)[54..]);
}

#[test]
fn all_frames_are_cut_short_without_a_panic() {
    for hex in frames::ALL {
        let frame = bytes(hex);
        for len in 0..frame.len() {
            let Ok(eth) = EthFrame::parse(&frame[..len]) else { continue };
            assert!(len >= 14);
            match eth.ethertype() {
                EtherType::ARP => assert!(ArpPacket::parse(eth.payload()).is_err()),
                EtherType::IPV4 => assert!(Ipv4Packet::parse(eth.payload()).is_err()),
                _ => assert!(Ipv6Packet::parse(eth.payload()).is_err()),
            }
        }
    }
}
