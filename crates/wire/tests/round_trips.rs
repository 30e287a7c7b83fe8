//! Parsing what was emitted gives the same fields, for every format and any values.
#![allow(clippy::unwrap_used, reason = "a helper of tests fails its test by panicking")]

use std::net::{Ipv4Addr, Ipv6Addr};

use base::{MacAddr, Port, SeqNum};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use wire::ipv6_ext::{Start, walk};
use wire::ndp::{Prefix, RouterParameters};
use wire::*;

prop_compose! {
    fn ipv4_header()(traffic_class: u8, payload_len in 0..=65_515_u16, ident: u16, dont_fragment: bool, more_fragments: bool,
        offset in 0..0x2000_u32, ttl: u8, protocol: u8, src: u32, dst: u32) -> Ipv4Header {
        Ipv4Header { traffic_class, payload_len, ident, dont_fragment, more_fragments, fragment_offset: (offset * 8) as u16,
            ttl, protocol: IpProtocol(protocol), src: src.into(), dst: dst.into() }
    }
}

prop_compose! {
    fn ipv6_header()(traffic_class: u8, flow_label in 0..1_u32 << 20, payload_len: u16, next: u8, hop_limit: u8, src: u128,
        dst: u128) -> Ipv6Header {
        Ipv6Header { traffic_class, flow_label, payload_len, next_header: IpProtocol(next), hop_limit, src: src.into(),
            dst: dst.into() }
    }
}

prop_compose! {
    fn tcp_header()(src: u16, dst: u16, seq: u32, ack: u32, flags in 0..0x200_u16, window: u16, urgent: u16) -> TcpHeader {
        TcpHeader { src_port: Port(src), dst_port: Port(dst), seq: SeqNum(seq), ack: SeqNum(ack), flags: TcpFlags(flags),
            window, urgent }
    }
}

prop_compose! {
    /// Options that fit into one header: at most two SACK blocks beside all others.
    fn tcp_options()(mss: Option<u16>, window_scale in prop::option::of(0..=14_u8), sack_permitted: bool,
        timestamps: Option<(u32, u32)>, blocks in prop::collection::vec(any::<(u32, u32)>(), 0..=2)) -> TcpOptions {
        let mut sack = SackBlocks::NONE;
        for (left, right) in blocks {
            assert!(sack.push(SackBlock { left: SeqNum(left), right: SeqNum(right) }));
        }
        let timestamps = timestamps.map(|(value, echo)| Timestamps { value, echo });
        TcpOptions { mss, window_scale, sack_permitted, timestamps, sack, ..TcpOptions::NONE }
    }
}

fn icmp4_header() -> impl Strategy<Value = Icmp4Header> {
    prop_oneof![
        any::<(u16, u16)>().prop_map(|(ident, seq)| Icmp4Header::EchoReply { ident, seq }),
        any::<(u16, u16)>().prop_map(|(ident, seq)| Icmp4Header::EchoRequest { ident, seq }),
        any::<(u8, u16)>().prop_map(|(code, next_hop_mtu)| Icmp4Header::Unreachable { code, next_hop_mtu }),
        any::<(u8, [u8; 4])>().prop_map(|(code, gateway)| Icmp4Header::Redirect { code, gateway }),
        any::<u8>().prop_map(|code| Icmp4Header::TimeExceeded { code }),
        any::<(u8, u8)>().prop_map(|(code, pointer)| Icmp4Header::ParameterProblem { code, pointer }),
        (13..=255_u8, any::<(u8, u32)>()).prop_map(|(kind, (code, rest))| Icmp4Header::Other {
            kind,
            code,
            rest
        }),
    ]
}

fn icmp6_header() -> impl Strategy<Value = Icmp6Header> {
    prop_oneof![
        any::<(u16, u16)>().prop_map(|(ident, seq)| Icmp6Header::EchoReply { ident, seq }),
        any::<(u16, u16)>().prop_map(|(ident, seq)| Icmp6Header::EchoRequest { ident, seq }),
        any::<u8>().prop_map(|code| Icmp6Header::Unreachable { code }),
        any::<u32>().prop_map(|mtu| Icmp6Header::PacketTooBig { mtu }),
        any::<u8>().prop_map(|code| Icmp6Header::TimeExceeded { code }),
        any::<(u8, u32)>().prop_map(|(code, pointer)| Icmp6Header::ParameterProblem { code, pointer }),
        (130..=255_u8, any::<(u8, u32)>()).prop_map(|(kind, (code, rest))| Icmp6Header::Other {
            kind,
            code,
            rest
        }),
    ]
}

prop_compose! {
    fn prefix()(prefix: u128, len_bits: u8, on_link: bool, autonomous: bool, valid_s: u32, preferred_s: u32) -> Prefix {
        Prefix { prefix: prefix.into(), len_bits, on_link, autonomous, valid_s, preferred_s }
    }
}

prop_compose! {
    fn ndp_options()(source: Option<[u8; 6]>, target: Option<[u8; 6]>, mtu: Option<u32>,
        list in prop::collection::vec(prefix(), 0..=ndp::PREFIXES_MAX)) -> NdpOptions {
        let mut prefixes = [None; ndp::PREFIXES_MAX];
        for (to, from) in prefixes.iter_mut().zip(list) {
            *to = Some(from);
        }
        NdpOptions { source_mac: source.map(MacAddr), target_mac: target.map(MacAddr), mtu, prefixes }
    }
}

fn ndp_body() -> impl Strategy<Value = NdpBody> {
    let unicast = || any::<u64>().prop_map(|low| Ipv6Addr::from((0xfe80_u128 << 112) | u128::from(low)));
    let router =
        any::<(u8, bool, bool, u16, u32, u32)>().prop_map(|(hop_limit, managed, other, lifetime_s, a, b)| {
            NdpBody::RouterAdvertisement(RouterParameters {
                hop_limit,
                managed,
                other,
                lifetime_s,
                reachable_ms: a,
                retransmit_ms: b,
            })
        });
    prop_oneof![
        Just(NdpBody::RouterSolicitation),
        router,
        unicast().prop_map(|target| NdpBody::NeighbourSolicitation { target }),
        (unicast(), any::<(bool, bool, bool)>()).prop_map(|(target, (router, solicited, overriding))| {
            NdpBody::NeighbourAdvertisement { target, router, solicited, overriding }
        }),
        (unicast(), unicast()).prop_map(|(target, destination)| NdpBody::Redirect { target, destination }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, rng_seed: RngSeed::Fixed(9293), ..ProptestConfig::default() })]

    #[test]
    fn ethernet(dst: [u8; 6], src: [u8; 6], ethertype: u16, payload: [u8; 9]) {
        let header = EthHeader { dst: MacAddr(dst), src: MacAddr(src), ethertype: EtherType(ethertype) };
        let mut out = [0; 23];
        prop_assert_eq!(header.emit(&mut out), Ok(14));
        out[14..].copy_from_slice(&payload);
        let frame = EthFrame::parse(&out).unwrap();
        prop_assert_eq!(frame.header(), header);
        prop_assert_eq!(frame.payload(), payload);
    }

    #[test]
    fn vlan_tags(priority in 0..8_u8, drop_eligible: bool, id in 0..4096_u16, inner: bool, ethertype in 0x9000_u16..) {
        let tag = VlanTag { priority, drop_eligible, id, ethertype: EtherType(ethertype) };
        let outer = VlanTag { ethertype: EtherType::VLAN, id: 7, ..VlanTag::default() };
        let mut out = [0; 30];
        let ethertype = if inner { EtherType::SERVICE_VLAN } else { EtherType::VLAN };
        let mut at = EthHeader { ethertype, ..EthHeader::default() }.emit(&mut out).unwrap();
        if inner {
            at += outer.emit(&mut out[at..]).unwrap();
        }
        at += tag.emit(&mut out[at..]).unwrap();
        let untagged = Untagged::parse(&EthFrame::parse(&out).unwrap()).unwrap();
        let expected = if inner { (Some(outer), Some(tag)) } else { (Some(tag), None) };
        prop_assert_eq!((untagged.outer, untagged.inner), expected);
        prop_assert_eq!((untagged.ethertype, untagged.payload.len()), (tag.ethertype, 30 - at));
    }

    #[test]
    fn arp(op: u16, sender_mac: [u8; 6], sender_ip: u32, target_mac: [u8; 6], target_ip: u32) {
        let header = ArpHeader { operation: ArpOperation(op), sender_mac: MacAddr(sender_mac), sender_ip: sender_ip.into(),
            target_mac: MacAddr(target_mac), target_ip: target_ip.into() };
        let mut out = [0; 46];
        prop_assert_eq!(header.emit(&mut out), Ok(28));
        prop_assert_eq!(ArpPacket::parse(&out).unwrap().header(), header);
    }

    #[test]
    fn ipv4(header in ipv4_header()) {
        let mut out = [0; 60];
        prop_assert_eq!(header.emit(&mut out), Ok(20));
        let packet = Ipv4Packet::parse_head(&out, 65_535).unwrap();
        prop_assert_eq!(packet.header(), header);
        prop_assert_eq!(packet.payload().len(), usize::from(header.payload_len).min(40));
        prop_assert_eq!(Ipv4Packet::parse(&out).is_ok(), header.payload_len <= 40);
    }

    #[test]
    fn ipv4_patched_for_a_split(header in ipv4_header(), len in 20..=60_u16, ident: u16) {
        let mut out = [0; 60];
        header.emit(&mut out).unwrap();
        ipv4::patch_len_and_ident(&mut out, len, ident).unwrap();
        let packet = Ipv4Packet::parse(&out).unwrap();
        prop_assert_eq!(packet.header(), Ipv4Header { payload_len: len - 20, ident, ..header });
    }

    #[test]
    fn ipv6(header in ipv6_header()) {
        let mut out = [0; 80];
        prop_assert_eq!(header.emit(&mut out), Ok(40));
        let packet = Ipv6Packet::parse_head(&out, 65_575).unwrap();
        prop_assert_eq!(packet.header(), header);
        prop_assert_eq!(packet.payload().len(), usize::from(header.payload_len).min(40));
    }

    #[test]
    fn ipv6_fragments(next: u8, units in 0..0x2000_u32, more: bool, ident: u32) {
        let fragment = Fragment { next_header: IpProtocol(next), offset: (units * 8) as u16, more, ident };
        prop_assume!(!fragment.is_atomic());
        let mut out = [0; 8];
        fragment.emit(&mut out).unwrap();
        let upper = walk(IpProtocol::FRAGMENT, &out, Start::FixedHeader).unwrap();
        prop_assert_eq!(upper.fragment, Some(fragment));
    }

    #[test]
    fn udp(src: u16, dst: u16, payload in prop::collection::vec(any::<u8>(), 0..100), a: u32, b: u32) {
        let header = UdpHeader { src_port: Port(src), dst_port: Port(dst), payload_len: payload.len() as u16 };
        let mut out = vec![0; 8 + payload.len()];
        prop_assert_eq!(header.emit(&mut out), Ok(8));
        out[8..].copy_from_slice(&payload);
        let pseudo = checksum::pseudo_v4(a.into(), b.into(), IpProtocol::UDP, out.len() as u16);
        udp::fill_checksum(&mut out, pseudo).unwrap();
        let datagram = UdpDatagram::parse(&out).unwrap();
        prop_assert_eq!(datagram.header(), header);
        prop_assert_eq!(datagram.payload(), payload);
        prop_assert!(datagram.checksum() != 0 && datagram.checksum_ok(pseudo));
    }

    #[test]
    fn tcp(header in tcp_header(), options in tcp_options(), payload in prop::collection::vec(any::<u8>(), 0..100)) {
        let mut out = vec![0xaa; 60 + payload.len()];
        let len = header.emit(&options, &mut out).unwrap();
        out[len..len + payload.len()].copy_from_slice(&payload);
        out.truncate(len + payload.len());
        let pseudo = checksum::pseudo_v4(Ipv4Addr::LOCALHOST, Ipv4Addr::BROADCAST, IpProtocol::TCP, out.len() as u16);
        tcp::fill_checksum(&mut out, pseudo).unwrap();
        let segment = TcpSegment::parse(&out).unwrap();
        prop_assert_eq!(segment.header(), header);
        prop_assert_eq!(TcpOptions::parse(segment.options()), options);
        prop_assert_eq!((segment.header_len(), segment.payload()), (len, &payload[..]));
        prop_assert!(segment.checksum_ok(pseudo));
    }

    #[test]
    fn icmp4(header in icmp4_header(), payload: [u8; 21]) {
        let mut out = [0; 29];
        prop_assert_eq!(header.emit(&mut out), Ok(8));
        out[8..].copy_from_slice(&payload);
        icmp4::fill_checksum(&mut out).unwrap();
        let message = Icmp4Message::parse(&out).unwrap();
        prop_assert_eq!(message.header(), header);
        prop_assert_eq!(message.payload(), payload);
        prop_assert!(message.checksum_ok());
    }

    #[test]
    fn icmp6(header in icmp6_header(), payload: [u8; 21]) {
        let mut out = [0; 29];
        prop_assert_eq!(header.emit(&mut out), Ok(8));
        out[8..].copy_from_slice(&payload);
        let pseudo = checksum::pseudo_v6(Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST, IpProtocol::ICMP6, 29);
        icmp6::fill_checksum(&mut out, pseudo).unwrap();
        let message = Icmp6Message::parse(&out).unwrap();
        prop_assert_eq!(message.header(), header);
        prop_assert_eq!(message.payload(), payload);
        prop_assert!(message.checksum_ok(pseudo));
    }

    #[test]
    fn neighbour_discovery(body in ndp_body(), options in ndp_options()) {
        let message = NdpMessage { body, options };
        let mut out = [0xaa; 400];
        let len = message.emit(&mut out).unwrap();
        let link_local = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
        let ip = Ipv6Header { traffic_class: 0, flow_label: 0, payload_len: len as u16, next_header: IpProtocol::ICMP6,
            hop_limit: 255, src: link_local, dst: link_local };
        prop_assert_eq!(NdpMessage::parse(&Icmp6Message::parse(&out[..len]).unwrap(), &ip), Ok(message));
        for short in 0..len {
            prop_assert!(message.emit(&mut out[..short]).is_err());
        }
    }
}
