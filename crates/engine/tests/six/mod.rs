//! Packets of IPv6 from the peer to the host under test, and what the host sends.
#![allow(dead_code, unreachable_pub, missing_docs, clippy::unwrap_used, clippy::panic, reason = "a test")]

use core::net::Ipv6Addr;

use base::{IpAddress, MacAddr, Port};
use state::ports::{PORT_OWN_ADDRESS, PORT_UP};
use state::{Endpoint, PortInfo};
use wire::{
    EthFrame, EthHeader, EtherType, Fragment, Icmp6Header, Icmp6Message, IpProtocol, Ipv6Header, Ipv6Packet,
    NdpBody, NdpMessage, NdpOptions, UdpHeader,
};

use crate::rig::{HOST as HOST_V4, HOST_MAC, Host, PEER_MAC};

pub const HOST: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
pub const PEER: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2);

/// A host with an address of each family, both its own alone.
pub fn six() -> Host {
    six_with(PORT_UP | PORT_OWN_ADDRESS)
}

pub fn six_with(flags: u32) -> Host {
    let mut host = Host::with(flags, 1500);
    let mut addrs = [IpAddress::ANY; state::ports::PORT_ADDRESSES];
    addrs[0] = IpAddress::from_v4(HOST_V4);
    addrs[1] = IpAddress::from_v6(HOST);
    let info = PortInfo { addrs, addr_count: 2, flags, super_segment_max: 0, mac: HOST_MAC, mtu: 1500 };
    assert!(host.engine(|e| e.set_port(0, &info)));
    host
}

pub fn at(addr: Ipv6Addr, port: u16) -> Endpoint {
    Endpoint { addr: IpAddress::from_v6(addr), port: Port(port) }
}

pub fn header(src: Ipv6Addr, dst: Ipv6Addr, next: IpProtocol, len: usize, hop_limit: u8) -> Ipv6Header {
    Ipv6Header { flow_label: 0x12345, hop_limit, ..Ipv6Header::plain((src, dst), next, len as u16) }
}

pub fn frame_between(
    src: Ipv6Addr,
    dst: Ipv6Addr,
    next: IpProtocol,
    payload: &[u8],
    hop_limit: u8,
) -> Vec<u8> {
    let mut bytes = vec![0; 54];
    let [.., a, b, c, d] = dst.octets();
    let to = if dst.is_multicast() { MacAddr([0x33, 0x33, a, b, c, d]) } else { HOST_MAC };
    EthHeader { dst: to, src: PEER_MAC, ethertype: EtherType::IPV6 }.emit(&mut bytes).unwrap();
    header(src, dst, next, payload.len(), hop_limit).emit(&mut bytes[14..]).unwrap();
    bytes.extend_from_slice(payload);
    bytes
}

/// A packet from the peer whose first header behind the fixed one is of type `next`.
pub fn frame(next: IpProtocol, payload: &[u8]) -> Vec<u8> {
    frame_between(PEER, HOST, next, payload, 64)
}

pub fn udp(src_port: u16, dst_port: u16, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 8];
    let header =
        UdpHeader { src_port: Port(src_port), dst_port: Port(dst_port), payload_len: payload.len() as u16 };
    header.emit(&mut bytes).unwrap();
    bytes.extend_from_slice(payload);
    let pseudo = wire::checksum::pseudo_v6(PEER, HOST, IpProtocol::UDP, bytes.len() as u32);
    wire::udp::fill_checksum(&mut bytes, pseudo).unwrap();
    bytes
}

pub fn udp_frame(src_port: u16, dst_port: u16, payload: &[u8]) -> Vec<u8> {
    frame(IpProtocol::UDP, &udp(src_port, dst_port, payload))
}

pub fn fragment(header: Fragment, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 8];
    header.emit(&mut bytes).unwrap();
    bytes.extend_from_slice(payload);
    frame(IpProtocol::FRAGMENT, &bytes)
}

pub fn icmp_bytes(src: Ipv6Addr, dst: Ipv6Addr, message: Icmp6Header, rest: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 8];
    message.emit(&mut bytes).unwrap();
    bytes.extend_from_slice(rest);
    fill(src, dst, &mut bytes);
    bytes
}

pub fn icmp_frame(src: Ipv6Addr, dst: Ipv6Addr, message: Icmp6Header, rest: &[u8]) -> Vec<u8> {
    frame_between(src, dst, IpProtocol::ICMP6, &icmp_bytes(src, dst, message, rest), 64)
}

fn fill(src: Ipv6Addr, dst: Ipv6Addr, bytes: &mut [u8]) {
    let pseudo = wire::checksum::pseudo_v6(src, dst, IpProtocol::ICMP6, bytes.len() as u32);
    wire::icmp6::fill_checksum(bytes, pseudo).unwrap();
}

/// Fixed header and what follows it of a packet that the host sent.
pub fn parse(bytes: &[u8]) -> (Ipv6Header, Vec<u8>) {
    let eth = EthFrame::parse(bytes).unwrap();
    assert_eq!((eth.ethertype(), eth.src()), (EtherType::IPV6, HOST_MAC));
    let ip = Ipv6Packet::parse(eth.payload()).unwrap();
    (ip.header(), ip.payload().to_vec())
}

fn ndp(bytes: &[u8]) -> (EthHeader, Ipv6Header, NdpMessage) {
    let (ip, payload) = parse(bytes);
    let message = Icmp6Message::parse(&payload).unwrap();
    let pseudo = wire::checksum::pseudo_v6(ip.src, ip.dst, IpProtocol::ICMP6, payload.len() as u32);
    assert!(message.checksum_ok(pseudo));
    (EthFrame::parse(bytes).unwrap().header(), ip, NdpMessage::parse(&message, &ip).unwrap())
}

/// A solicitation that the host sent: target and source address of the link.
pub fn solicitation(bytes: &[u8]) -> (EthHeader, Ipv6Header, (Ipv6Addr, Option<MacAddr>)) {
    let (eth, ip, message) = ndp(bytes);
    let NdpBody::NeighbourSolicitation { target } = message.body else { panic!("{message:?}") };
    (eth, ip, (target, message.options.source_mac))
}

/// An advertisement that the host sent: whom to, target, its MAC, whether it was asked for.
pub fn advertised(bytes: &[u8]) -> (Ipv6Addr, Ipv6Addr, Option<MacAddr>, bool) {
    let (_, ip, message) = ndp(bytes);
    assert_eq!(ip.hop_limit, 255);
    let NdpBody::NeighbourAdvertisement { target, solicited, overriding: true, router: false } = message.body
    else {
        panic!("{message:?}")
    };
    (ip.dst, target, message.options.target_mac, solicited)
}

pub struct Advert {
    pub solicited: bool,
    pub overriding: bool,
    pub with_mac: bool,
    pub hop_limit: u8,
}

impl Advert {
    pub const SOLICITED: Self = Self { solicited: true, overriding: true, with_mac: true, hop_limit: 255 };
}

fn message(src: Ipv6Addr, dst: Ipv6Addr, message: &NdpMessage, hop_limit: u8) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    let len = message.emit(&mut bytes).unwrap();
    bytes.truncate(len);
    fill(src, dst, &mut bytes);
    frame_between(src, dst, IpProtocol::ICMP6, &bytes, hop_limit)
}

/// The peer says that `target` is at `mac`.
pub fn advertisement(target: Ipv6Addr, mac: MacAddr, how: Advert) -> Vec<u8> {
    let (solicited, overriding) = (how.solicited, how.overriding);
    let body = NdpBody::NeighbourAdvertisement { target, router: false, solicited, overriding };
    let options = NdpOptions { target_mac: how.with_mac.then_some(mac), ..NdpOptions::default() };
    message(PEER, HOST, &NdpMessage { body, options }, how.hop_limit)
}

/// `src` asks for `target`.
pub fn question(src: Ipv6Addr, target: Ipv6Addr, source_mac: Option<MacAddr>) -> Vec<u8> {
    let body = NdpBody::NeighbourSolicitation { target };
    let options = NdpOptions { source_mac, ..NdpOptions::default() };
    message(src, wire::ndp::solicited_node(target), &NdpMessage { body, options }, 255)
}
