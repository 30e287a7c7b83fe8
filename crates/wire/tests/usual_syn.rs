//! The usual SYN written and read as one array is the same as its three headers one by one.

#![allow(clippy::unwrap_used, reason = "a test ends where its assumptions do")]
use std::net::Ipv4Addr;

use base::{MacAddr, Port, SeqNum};
use proptest::prelude::*;
use wire::usual::{TCP_AT, put_ends, put_link, put_network, put_transport};
use wire::usual_syn::{LEN, put_options};
use wire::{
    EthFrame, EthHeader, EtherType, IpProtocol, Ipv4Header, Ipv4Packet, Sum, TcpFlags, TcpHeader, TcpOptions,
    TcpSegment, Timestamps, UsualSyn, checksum, tcp,
};

#[derive(Clone, Debug)]
struct Syn {
    macs: ([u8; 6], [u8; 6]),
    tos: u8,
    ttl: u8,
    addrs: ([u8; 4], [u8; 4]),
    header: TcpHeader,
    mss: u16,
    timestamps: Timestamps,
    shift: u8,
}

fn any_syn() -> impl Strategy<Value = Syn> {
    let network = (any::<u8>(), any::<u8>(), any::<([u8; 4], [u8; 4])>());
    let transport = (any::<[u16; 4]>(), any::<[u32; 4]>(), any::<[bool; 2]>(), 0u8..=255);
    (any::<([u8; 6], [u8; 6])>(), network, transport).prop_map(|(macs, (tos, ttl, addrs), transport)| {
        let ([src_port, dst_port, window, mss], [seq, ack, value, echo], [answer, ecn], shift) = transport;
        let flags = TcpFlags::SYN | if answer { TcpFlags::ACK } else { TcpFlags::NONE };
        let header = TcpHeader {
            src_port: Port(src_port),
            dst_port: Port(dst_port),
            seq: SeqNum(seq),
            ack: SeqNum(ack),
            flags: flags | if ecn { TcpFlags::ECE } else { TcpFlags::NONE },
            window,
            urgent: 0,
        };
        Syn { macs, tos, ttl, addrs, header, mss, timestamps: Timestamps { value, echo }, shift }
    })
}

impl Syn {
    fn options(&self) -> TcpOptions {
        TcpOptions {
            mss: Some(self.mss),
            window_scale: Some(self.shift.min(14)),
            sack_permitted: true,
            timestamps: Some(self.timestamps),
            ..TcpOptions::NONE
        }
    }

    fn ends(&self) -> (Ipv4Addr, Ipv4Addr) {
        (Ipv4Addr::from(self.addrs.0), Ipv4Addr::from(self.addrs.1))
    }

    /// Written as one array, the checksum unfinished.
    fn at_once(&self) -> [u8; LEN] {
        let mut out = [0xaa; LEN];
        let header = &self.header;
        put_link(&mut out, MacAddr(self.macs.0), MacAddr(self.macs.1));
        put_ends(&mut out, (self.addrs.0, header.src_port), (self.addrs.1, header.dst_port));
        put_network(&mut out, self.tos, self.ttl, 0);
        put_transport(&mut out, header.seq, header.ack, header.flags, header.window);
        put_options(&mut out, self.mss, self.timestamps, self.shift);
        out
    }

    /// The same headers, written one by one.
    fn one_by_one(&self) -> [u8; LEN] {
        let mut out = [0; LEN];
        let bytes = (LEN - TCP_AT) as u16;
        let (dst, src) = (MacAddr(self.macs.0), MacAddr(self.macs.1));
        EthHeader { dst, src, ethertype: EtherType::IPV4 }.emit(&mut out).unwrap();
        let plain = Ipv4Header::plain(self.ends(), IpProtocol::TCP, bytes);
        Ipv4Header { traffic_class: self.tos, ttl: self.ttl, ..plain }.emit(&mut out[14..]).unwrap();
        self.header.emit(&self.options(), &mut out[TCP_AT..]).unwrap();
        let (src, dst) = self.ends();
        let pseudo = checksum::pseudo_v4(src, dst, IpProtocol::TCP, bytes).fold();
        tcp::set_checksum(&mut out[TCP_AT..], pseudo).unwrap();
        out
    }
}

proptest! {
    #[test]
    fn a_usual_syn_is_its_three_headers(syn in any_syn()) {
        prop_assert_eq!(syn.at_once(), syn.one_by_one());
    }

    #[test]
    fn what_is_written_is_read_again(syn in any_syn()) {
        let mut bytes = syn.at_once();
        let check = Sum::of(&bytes[TCP_AT..]).finish();
        tcp::set_checksum(&mut bytes[TCP_AT..], check).unwrap();
        let read = UsualSyn::parse(&bytes);
        // One that tells of ECN is for the parsers of the single formats.
        prop_assert_eq!(read.is_none(), syn.header.flags.intersects(TcpFlags::ECE));
        let Some(read) = read else { return Ok(()) };
        prop_assert_eq!((read.dst_mac(), read.src_mac()), (MacAddr(syn.macs.0), MacAddr(syn.macs.1)));
        prop_assert_eq!((read.ends().src(), read.ends().dst()), syn.ends());
        prop_assert_eq!(read.ends().ports(), (syn.header.src_port, syn.header.dst_port));
        prop_assert_eq!((read.seq(), read.ack()), (syn.header.seq, syn.header.ack));
        prop_assert_eq!((read.flags(), read.window()), (syn.header.flags, syn.header.window));
        prop_assert_eq!((read.options(), read.ecn()), (syn.options(), syn.tos & 3));
        prop_assert_eq!(read.checksum(), check);
        prop_assert!(read.pseudo().plus(read.tcp_sum()).is_valid());
    }

    /// One bit changed: it is not a usual SYN any more, or the single parsers read the same of it.
    #[test]
    fn what_is_taken_for_usual_is_so_by_the_single_parsers(syn in any_syn(), at in 0usize..LEN * 8) {
        let mut bytes = syn.at_once();
        bytes[at / 8] ^= 1 << (at % 8);
        if let Some(usual) = UsualSyn::parse(&bytes) {
            let eth = EthFrame::parse(&bytes).unwrap();
            let ip = Ipv4Packet::parse(eth.payload()).unwrap();
            let segment = TcpSegment::parse(ip.payload()).unwrap();
            prop_assert_eq!((eth.src(), eth.dst()), (usual.src_mac(), usual.dst_mac()));
            prop_assert!(!ip.is_fragment() && ip.protocol() == IpProtocol::TCP);
            prop_assert_eq!(ip.payload_len(), LEN - TCP_AT);
            prop_assert_eq!((ip.src(), ip.dst()), (usual.ends().src(), usual.ends().dst()));
            prop_assert_eq!((segment.src_port(), segment.dst_port()), usual.ends().ports());
            prop_assert_eq!((segment.seq(), segment.ack()), (usual.seq(), usual.ack()));
            prop_assert_eq!((segment.flags(), segment.window()), (usual.flags(), usual.window()));
            prop_assert_eq!(TcpOptions::parse(segment.options()), usual.options());
            prop_assert_eq!(segment.payload().len(), 0);
        }
    }

    /// Whatever else a packet has, it is none.
    #[test]
    fn what_is_longer_or_shorter_is_none(syn in any_syn(), len in 0usize..LEN + 40) {
        let mut bytes = [0; LEN + 40];
        bytes[..LEN].copy_from_slice(&syn.at_once());
        prop_assert!(len == LEN || UsualSyn::parse(&bytes[..len]).is_none());
    }
}
