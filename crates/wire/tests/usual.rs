//! The usual segment read and written as one array is the same as its three headers one by one.

#![allow(clippy::unwrap_used, reason = "a test ends where its assumptions do")]
use std::net::Ipv4Addr;

use base::{MacAddr, Port, SeqNum};
use proptest::prelude::*;
use wire::usual::{HEADER_LEN, TCP_AT};
use wire::{
    EthFrame, EthHeader, EtherType, IpProtocol, Ipv4Header, Ipv4Packet, Sum, TcpFlags, TcpHeader, TcpOptions,
    TcpSegment, Timestamps, Usual, UsualHeader, checksum, tcp,
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
}
