//! What each parser refuses, and with which error.
#![allow(clippy::unwrap_used, reason = "a helper of tests fails its test by panicking")]

use std::net::Ipv6Addr;

use base::MacAddr;
use wire::*;

fn ipv4_bytes(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let header = Ipv4Header {
        traffic_class: 0,
        payload_len: 20,
        ident: 1,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol: IpProtocol::TCP,
        src: [10, 0, 0, 1].into(),
        dst: [10, 0, 0, 2].into(),
    };
    let mut packet = vec![0; 46];
    header.emit(&mut packet).unwrap();
    change(&mut packet);
    packet[10..12].fill(0);
    let header_len = usize::from(packet[0] & 0xf) * 4;
    let check = Sum::of(&packet[..header_len.min(46)]).finish();
    packet[10..12].copy_from_slice(&check.to_be_bytes());
    packet
}

#[test]
fn ipv4_refuses_each_bad_field_with_its_own_error() {
    let error = |change: fn(&mut [u8])| Ipv4Packet::parse(&ipv4_bytes(change)).map(|_| ()).unwrap_err();
    assert_eq!(error(|p| p[0] = 0x65), Ipv4Error::NotVersion4);
    assert_eq!(error(|p| p[0] = 0x44), Ipv4Error::HeaderLength);
    assert_eq!(error(|p| p[3] = 19), Ipv4Error::TotalLength);
    assert_eq!(error(|p| p[3] = 47), Ipv4Error::TotalLength);
    assert_eq!(error(|p| (p[0], p[3]) = (0x46, 23)), Ipv4Error::TotalLength);
    let mut bad = ipv4_bytes(|_| {});
    bad[8] -= 1;
    assert_eq!(Ipv4Packet::parse(&bad).unwrap_err(), Ipv4Error::Checksum);
    assert_eq!(Ipv4Packet::parse(&bad[..19]).unwrap_err(), Ipv4Error::Truncated);
    bad[0] = 0x4f;
    assert_eq!(Ipv4Packet::parse(&bad).unwrap_err(), Ipv4Error::Truncated);
}

#[test]
fn ipv4_options_are_summed_and_passed_through() {
    let packet = ipv4_bytes(|p| {
        p[0] = 0x46;
        p[20..24].copy_from_slice(&[0x94, 4, 0, 0]);
    });
    let parsed = Ipv4Packet::parse(&packet).unwrap();
    assert_eq!((parsed.options(), parsed.header_len()), (&[0x94, 4, 0, 0][..], 24));
    assert_eq!((parsed.payload().len(), parsed.payload_len()), (16, 16));
    let mut bad = packet.clone();
    bad[23] = 1;
    assert_eq!(Ipv4Packet::parse(&bad).unwrap_err(), Ipv4Error::Checksum);
}

#[test]
fn link_padding_is_cut_off() {
    let packet = ipv4_bytes(|_| {});
    assert_eq!((packet.len(), Ipv4Packet::parse(&packet).unwrap().payload().len()), (46, 20));
    let datagram = [0, 1, 0, 2, 0, 9, 0, 0, 7, 0, 0];
    assert_eq!(UdpDatagram::parse(&datagram).unwrap().payload(), [7]);
}

#[test]
fn a_packet_in_several_frames_is_parsed_from_its_first() {
    let packet = ipv4_bytes(|p| p[2..4].copy_from_slice(&60_000_u16.to_be_bytes()));
    assert_eq!(Ipv4Packet::parse_head(&packet, 59_999).unwrap_err(), Ipv4Error::TotalLength);
    let parsed = Ipv4Packet::parse_head(&packet, 60_000).unwrap();
    assert_eq!((parsed.payload_len(), parsed.payload().len()), (59_980, 26));
}

#[test]
fn tcp_and_udp_refuse_impossible_lengths() {
    let mut segment = [0; 24];
    for (offset, result) in
        [(4, Some(TcpError::DataOffset)), (5, None), (6, None), (7, Some(TcpError::Truncated))]
    {
        segment[12] = offset << 4;
        assert_eq!(TcpSegment::parse(&segment).err(), result);
    }
    assert_eq!(TcpSegment::parse(&segment[..19]).err(), Some(TcpError::Truncated));
    let mut datagram = [0; 12];
    for (len, result) in [(7, Some(UdpError::Length)), (8, None), (12, None), (13, Some(UdpError::Length))] {
        datagram[5] = len;
        assert_eq!(UdpDatagram::parse(&datagram).err(), result);
    }
    assert_eq!(UdpDatagram::parse(&datagram[..7]).err(), Some(UdpError::Truncated));
}

#[test]
fn arp_for_other_hardware_or_protocols_is_refused() {
    let header = ArpHeader {
        operation: ArpOperation::REQUEST,
        sender_mac: MacAddr([2, 0, 0, 0, 0, 1]),
        sender_ip: [10, 0, 0, 1].into(),
        target_mac: MacAddr::default(),
        target_ip: [10, 0, 0, 2].into(),
    };
    let mut packet = [0; 28];
    header.emit(&mut packet).unwrap();
    let error_at = |at: usize| {
        let mut packet = packet;
        packet[at] ^= 0x40;
        ArpPacket::parse(&packet).err()
    };
    assert_eq!((error_at(0), error_at(4)), (Some(ArpError::NotEthernet), Some(ArpError::NotEthernet)));
    assert_eq!((error_at(2), error_at(5)), (Some(ArpError::NotIpv4), Some(ArpError::NotIpv4)));
    assert_eq!(ArpPacket::parse(&packet[..27]).err(), Some(ArpError::Truncated));
}

#[test]
fn a_third_vlan_tag_is_refused() {
    let mut frame = [0; 40];
    EthHeader { ethertype: EtherType::SERVICE_VLAN, ..EthHeader::default() }.emit(&mut frame).unwrap();
    for at in [14, 18, 22] {
        VlanTag { ethertype: EtherType::VLAN, ..VlanTag::default() }.emit(&mut frame[at..]).unwrap();
    }
    let error = |len: usize| Untagged::parse(&EthFrame::parse(&frame[..len]).unwrap()).err();
    assert_eq!(error(40), Some(VlanError::TooManyTags));
    assert_eq!(error(21), Some(VlanError::Truncated));
    assert_eq!(error(17), Some(VlanError::Truncated));
}

const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const GLOBAL: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0x12, 0x3456);

fn ndp_header(src: Ipv6Addr, dst: Ipv6Addr) -> Ipv6Header {
    Ipv6Header {
        traffic_class: 0,
        flow_label: 0,
        payload_len: 0,
        next_header: IpProtocol::ICMP6,
        hop_limit: 255,
        src,
        dst,
    }
}

/// Emits `body` with a source address option if `source`, and parses it as if it came with `ip`.
fn ndp(body: NdpBody, source: bool, ip: Ipv6Header) -> Result<(), NdpError> {
    let options = NdpOptions { source_mac: source.then(MacAddr::default), ..NdpOptions::default() };
    let mut out = [0; 100];
    let len = NdpMessage { body, options }.emit(&mut out).unwrap();
    NdpMessage::parse(&Icmp6Message::parse(&out[..len]).unwrap(), &ip).map(|_| ())
}

#[test]
fn a_neighbour_solicitation_from_nobody_must_be_a_probe() {
    let body = NdpBody::NeighbourSolicitation { target: GLOBAL };
    let group = ndp::solicited_node(GLOBAL);
    assert_eq!(group, Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff12, 0x3456));
    assert_eq!(ndp(body, true, ndp_header(LINK_LOCAL, GLOBAL)), Ok(()));
    assert_eq!(ndp(body, false, ndp_header(Ipv6Addr::UNSPECIFIED, group)), Ok(()));
    assert_eq!(ndp(body, true, ndp_header(Ipv6Addr::UNSPECIFIED, group)), Err(NdpError::Address));
    assert_eq!(ndp(body, false, ndp_header(Ipv6Addr::UNSPECIFIED, GLOBAL)), Err(NdpError::Address));
    let body = NdpBody::NeighbourSolicitation { target: group };
    assert_eq!(ndp(body, true, ndp_header(LINK_LOCAL, GLOBAL)), Err(NdpError::Address));
}

#[test]
fn an_advertisement_to_a_group_cannot_be_solicited() {
    let body = |solicited| NdpBody::NeighbourAdvertisement {
        target: GLOBAL,
        router: false,
        solicited,
        overriding: true,
    };
    let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    assert_eq!(ndp(body(true), false, ndp_header(GLOBAL, LINK_LOCAL)), Ok(()));
    assert_eq!(ndp(body(false), false, ndp_header(GLOBAL, all_nodes)), Ok(()));
    assert_eq!(ndp(body(true), false, ndp_header(GLOBAL, all_nodes)), Err(NdpError::Address));
}

#[test]
fn routers_speak_from_link_local_addresses() {
    let body = NdpBody::RouterAdvertisement(ndp::RouterParameters::default());
    assert_eq!(ndp(body, true, ndp_header(LINK_LOCAL, GLOBAL)), Ok(()));
    assert_eq!(ndp(body, true, ndp_header(GLOBAL, GLOBAL)), Err(NdpError::Address));
    let redirect = |target| NdpBody::Redirect { target, destination: GLOBAL };
    assert_eq!(ndp(redirect(GLOBAL), false, ndp_header(LINK_LOCAL, GLOBAL)), Ok(()));
    assert_eq!(ndp(redirect(LINK_LOCAL), false, ndp_header(LINK_LOCAL, GLOBAL)), Ok(()));
    let other = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);
    assert_eq!(ndp(redirect(other), false, ndp_header(LINK_LOCAL, GLOBAL)), Err(NdpError::Address));
    assert_eq!(ndp(redirect(GLOBAL), false, ndp_header(GLOBAL, GLOBAL)), Err(NdpError::Address));
    let body = NdpBody::RouterSolicitation;
    assert_eq!(ndp(body, true, ndp_header(Ipv6Addr::UNSPECIFIED, GLOBAL)), Err(NdpError::Address));
}

#[test]
fn neighbour_discovery_from_beyond_a_router_or_with_bad_options_is_refused() {
    let ip = ndp_header(LINK_LOCAL, GLOBAL);
    let mut bytes = [0; 40];
    let body = NdpBody::NeighbourSolicitation { target: GLOBAL };
    let len = NdpMessage { body, options: NdpOptions::default() }.emit(&mut bytes).unwrap();
    let parse = |bytes: &[u8], ip: &Ipv6Header| {
        NdpMessage::parse(&Icmp6Message::parse(bytes).unwrap(), ip).map(|_| ())
    };
    assert_eq!(parse(&bytes[..len], &ip), Ok(()));
    assert_eq!(parse(&bytes[..len], &Ipv6Header { hop_limit: 254, ..ip }), Err(NdpError::Header));
    assert_eq!(parse(&bytes[..len - 1], &ip), Err(NdpError::Truncated));
    assert_eq!(parse(&bytes[..len + 8], &ip), Err(NdpError::OptionLength));
    bytes[len + 1] = 3;
    assert_eq!(parse(&bytes[..len + 8], &ip), Err(NdpError::Truncated));
    assert_eq!(parse(&bytes[..len + 1], &ip), Err(NdpError::Truncated));
    bytes[1] = 1;
    assert_eq!(parse(&bytes[..len], &ip), Err(NdpError::Header));
    bytes[0] = 128;
    assert_eq!(parse(&bytes[..len], &ip), Err(NdpError::NotNdp));
}
