//! The usual segment read and written as one array is the same as its three headers one by one.

#![allow(clippy::unwrap_used, reason = "a test ends where its assumptions do")]
use std::net::Ipv4Addr;

use base::{MacAddr, Port, SeqNum};
use proptest::prelude::*;
use wire::usual::{FRONT, HEADER_LEN, TCP_AT};
use wire::{
    EthFrame, EthHeader, EtherType, IpProtocol, Ipv4Header, Ipv4Packet, Sum, TcpFlags, TcpHeader, TcpOptions,
    TcpSegment, Timestamps, Usual, UsualHeader, checksum, tcp, usual,
};

fn any_header() -> impl Strategy<Value = UsualHeader> {
    let link = (any::<[u8; 6]>(), any::<[u8; 6]>());
    let network = (any::<u8>(), any::<u8>(), any::<[u8; 4]>(), any::<[u8; 4]>());
    let transport = (any::<[u16; 2]>(), any::<[u32; 4]>(), any::<[bool; 2]>(), any::<u16>());
    (link, network, transport).prop_map(|(link, network, transport)| {
        let ([src_port, dst_port], [seq, ack, value, echo], [push, fin], window) = transport;
        let mut flags = TcpFlags::ACK;
        if push {
            flags = flags | TcpFlags::PSH;
        }
        if fin {
            flags = flags | TcpFlags::FIN;
        }
        UsualHeader {
            dst_mac: MacAddr(link.0),
            src_mac: MacAddr(link.1),
            tos: network.0,
            ttl: network.1,
            src: Ipv4Addr::from(network.2),
            dst: Ipv4Addr::from(network.3),
            src_port: Port(src_port),
            dst_port: Port(dst_port),
            seq: SeqNum(seq),
            ack: SeqNum(ack),
            flags,
            window,
            timestamps: Timestamps { value, echo },
        }
    })
}

/// The same headers, written one by one.
fn one_by_one(header: &UsualHeader, payload: u16) -> [u8; HEADER_LEN] {
    let mut out = [0; HEADER_LEN];
    let options = TcpOptions { timestamps: Some(header.timestamps), ..TcpOptions::NONE };
    let bytes = 32 + payload;
    EthHeader { dst: header.dst_mac, src: header.src_mac, ethertype: EtherType::IPV4 }
        .emit(&mut out)
        .unwrap();
    let plain = Ipv4Header::plain((header.src, header.dst), IpProtocol::TCP, bytes);
    Ipv4Header { traffic_class: header.tos, ttl: header.ttl, ..plain }.emit(&mut out[14..]).unwrap();
    let segment = TcpHeader {
        src_port: header.src_port,
        dst_port: header.dst_port,
        seq: header.seq,
        ack: header.ack,
        flags: header.flags,
        window: header.window,
        urgent: 0,
    };
    segment.emit(&options, &mut out[TCP_AT..]).unwrap();
    let pseudo = checksum::pseudo_v4(header.src, header.dst, IpProtocol::TCP, bytes).fold();
    tcp::set_checksum(&mut out[TCP_AT..], pseudo).unwrap();
    out
}

proptest! {
    #[test]
    fn a_usual_header_is_its_three_headers(header in any_header(), payload in 0u16..65_483) {
        let mut out = [0xaa; HEADER_LEN];
        header.emit(payload, &mut out);
        prop_assert_eq!(out, one_by_one(&header, payload));
    }

    #[test]
    fn what_is_written_is_read_again(header in any_header(), payload in prop::collection::vec(any::<u8>(), 0..1500)) {
        let mut head = [0; HEADER_LEN];
        header.emit(payload.len() as u16, &mut head);
        let check = Sum::of(&head[TCP_AT..]).plus_bytes(&payload).finish();
        tcp::set_checksum(&mut head[TCP_AT..], check).unwrap();
        let usual = Usual::parse(&head);
        // A packet marked CE is for the parsers of the single formats.
        prop_assert_eq!(usual.is_none(), header.tos & 3 == 3);
        let Some(usual) = usual else { return Ok(()) };
        prop_assert_eq!(usual.dst_mac(), header.dst_mac);
        prop_assert_eq!(usual.src_mac(), header.src_mac);
        prop_assert_eq!(usual.src(), header.src);
        prop_assert_eq!(usual.dst(), header.dst);
        prop_assert_eq!((usual.src_port(), usual.dst_port()), (header.src_port, header.dst_port));
        prop_assert_eq!((usual.seq(), usual.ack()), (header.seq, header.ack));
        prop_assert_eq!((usual.flags(), usual.window()), (header.flags, header.window));
        prop_assert_eq!(usual.timestamps(), header.timestamps);
        prop_assert_eq!(usual.total_len() as usize, 52 + payload.len());
        prop_assert_eq!(usual.checksum(), check);
        prop_assert!(usual.pseudo().plus_bytes(&head[TCP_AT..]).plus_bytes(&payload).is_valid());
    }

    /// One bit changed: it is not a usual segment any more, or the single parsers read the same of it.
    #[test]
    fn what_is_taken_for_usual_is_so_by_the_single_parsers(header in any_header(), at in 0usize..HEADER_LEN * 8, len in 0usize..100) {
        let mut bytes = vec![0; HEADER_LEN + len];
        let mut head = [0; HEADER_LEN];
        header.emit(len as u16, &mut head);
        head[at / 8] ^= 1 << (at % 8);
        bytes[..HEADER_LEN].copy_from_slice(&head);
        if let Some(usual) = Usual::parse(&bytes) {
            let eth = EthFrame::parse(&bytes).unwrap();
            let ip = Ipv4Packet::parse(eth.payload()).unwrap();
            let segment = TcpSegment::parse(ip.payload()).unwrap();
            let options = TcpOptions::parse(segment.options());
            prop_assert_eq!((eth.src(), eth.dst()), (usual.src_mac(), usual.dst_mac()));
            prop_assert!(!ip.is_fragment());
            prop_assert_eq!((ip.src(), ip.dst()), (usual.src(), usual.dst()));
            prop_assert_eq!((segment.src_port(), segment.dst_port()), (usual.src_port(), usual.dst_port()));
            prop_assert_eq!((segment.seq(), segment.ack()), (usual.seq(), usual.ack()));
            prop_assert_eq!((segment.flags(), segment.window()), (usual.flags(), usual.window()));
            prop_assert_eq!(options, TcpOptions { timestamps: Some(usual.timestamps()), ..TcpOptions::NONE });
        }
    }

    /// A segment with any bit changed is known by an earlier one of its flow if, and only if, it is a usual one and as that one
    /// where it has to be.
    #[test]
    fn what_is_like_an_earlier_segment_is_usual(
        header in any_header(),
        other in any_header(),
        at in 0usize..HEADER_LEN * 8 + 1,
        lens in any::<[u8; 2]>(),
        ident in any::<u16>(),
    ) {
        let mut first = [0; HEADER_LEN];
        header.emit(lens[0].into(), &mut first);
        let Some(known) = Usual::parse(&first) else { return Ok(()) };
        let (common, (ip_sum, pseudo_sum)) = (known.common(), known.common_sums());
        let mut next = [0; HEADER_LEN];
        let (seq, ack, flags, window, timestamps) = (other.seq, other.ack, other.flags, other.window, other.timestamps);
        UsualHeader { seq, ack, flags, window, timestamps, ..header }.emit(lens[1].into(), &mut next);
        let check = u16::from_be_bytes([next[24], next[25]]);
        next[18..20].copy_from_slice(&ident.to_be_bytes());
        next[24..26].copy_from_slice(&checksum::update_u16(check, 0, ident).to_be_bytes());
        if at < HEADER_LEN * 8 {
            next[at / 8] ^= 1 << (at % 8);
        }
        let same = next[..16] == first[..16] && next[20..24] == first[20..24] && next[26..38] == first[26..38];
        let like = Usual::like(&next, &common, ip_sum);
        prop_assert_eq!(like.is_some(), same && Usual::parse(&next).is_some());
        if let Some(like) = like {
            prop_assert_eq!(like.pseudo_like(pseudo_sum).fold(), like.pseudo().fold());
        }
    }

    /// Headers begun from what was kept of others, for another length, are those that are written at once.
    #[test]
    fn headers_from_kept_ones_are_those_written_at_once(header in any_header(), lens in any::<[u16; 3]>()) {
        let lens = lens.map(|len| len % 65_483);
        let mut front = [0; FRONT];
        let ends = ((header.src.octets(), header.src_port), (header.dst.octets(), header.dst_port));
        let mut pseudo =
            usual::put_front(&mut front, (header.dst_mac, header.src_mac), ends, (header.tos, header.ttl), lens[0]);
        for len in lens {
            pseudo = usual::resize_front(&mut front, pseudo, len);
            let (mut kept, mut once) = ([0xaa; HEADER_LEN], [0; HEADER_LEN]);
            usual::begin(&mut kept, &front, pseudo);
            usual::put_transport(&mut kept, header.seq, header.ack, header.flags, header.window);
            usual::put_timestamps(&mut kept, header.timestamps);
            header.emit(len, &mut once);
            prop_assert_eq!(kept, once);
        }
    }
}
