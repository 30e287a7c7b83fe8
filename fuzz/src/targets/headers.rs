//! Every format of `wire`: parsing never panics, and never shows bytes that are not there.

use wire::{
    ArpPacket, EthFrame, EtherType, Icmp4Message, Icmp6Message, IpProtocol, Ipv4Packet, Ipv6Packet,
    TcpSegment, UdpDatagram,
};

use super::Target;
use crate::input::Input;

pub(super) const TARGET: Target = Target {
    name: "headers",
    what: "Ethernet, ARP, IPv4, IPv6, ICMP, UDP and TCP headers, one inside the other",
    longest: 2048,
    play,
    seeds,
};

fn inside(outer: &[u8], inner: &[u8], what: &str) -> Result<(), String> {
    let (outer, inner) = (outer.as_ptr_range(), inner.as_ptr_range());
    if inner.is_empty() || (outer.start <= inner.start && inner.end <= outer.end) {
        Ok(())
    } else {
        Err(format!("the payload of {what} is not inside it"))
    }
}

fn transport(protocol: IpProtocol, bytes: &[u8]) -> Result<(), String> {
    if protocol == IpProtocol::TCP {
        if let Ok(tcp) = TcpSegment::parse(bytes) {
            inside(bytes, tcp.payload(), "TCP")?;
        }
    } else if let Ok(udp) = UdpDatagram::parse(bytes) {
        inside(bytes, udp.payload(), "UDP")?;
    }
    let _ = (Icmp4Message::parse(bytes).is_ok(), Icmp6Message::parse(bytes).is_ok());
    Ok(())
}

fn network(bytes: &[u8], available: usize) -> Result<(), String> {
    if let Ok(ip) = Ipv4Packet::parse(bytes) {
        inside(bytes, ip.payload(), "IPv4")?;
        transport(ip.protocol(), ip.payload())?;
    }
    if let Ok(ip) = Ipv4Packet::parse_head(bytes, available) {
        inside(bytes, ip.payload(), "IPv4 in pieces")?;
    }
    if let Ok(ip) = Ipv6Packet::parse(bytes) {
        inside(bytes, ip.payload(), "IPv6")?;
        transport(IpProtocol::TCP, ip.payload())?;
    }
    let _ = (Ipv6Packet::parse_head(bytes, available).is_ok(), ArpPacket::parse(bytes).is_ok());
    let _ = (Ipv4Packet::parse_quoted(bytes).is_ok(), Ipv6Packet::parse_quoted(bytes).is_ok());
    Ok(())
}

fn play(bytes: &[u8]) -> Result<(), String> {
    let mut input = Input::new(bytes);
    let available = usize::from(input.half());
    let rest = input.take(usize::MAX);
    if let Ok(eth) = EthFrame::parse(rest) {
        inside(rest, eth.payload(), "Ethernet")?;
        let _ = eth.ethertype() == EtherType::IPV4;
        network(eth.payload(), available)?;
    }
    network(rest, available)?;
    transport(IpProtocol::TCP, rest)
}

fn seeds() -> Vec<Vec<u8>> {
    super::frames::packets().into_iter().map(|packet| [vec![0, 4], packet].concat()).collect()
}
