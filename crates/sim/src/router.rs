//! A router whose next link is too narrow (RFC 1191 3).

use std::net::Ipv4Addr;

use base::MacAddr;
use wire::{EthFrame, EthHeader, EtherType, Icmp4Header, IpProtocol, Ipv4Header, Ipv4Packet};

use crate::network::Packet;

/// The router's own address.
const ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 254);
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);
/// Bytes of the packet's payload that a report quotes (RFC 792).
const QUOTED: usize = 8;

/// What the router says about `packet`, which does not fit into `mtu` bytes. `None`: it fits, or may be cut.
///
/// Of a super-segment the segments are meant that a device makes of it.
pub(crate) fn too_long(packet: &Packet, mtu: u16) -> Option<Packet> {
    let eth = EthFrame::parse(&packet.bytes).ok()?;
    let ip = Ipv4Packet::parse(eth.payload()).ok().filter(|_| eth.ethertype() == EtherType::IPV4)?;
    if !ip.dont_fragment() {
        return None;
    }
    let longest = match packet.gso_size {
        0 => ip.total_len(),
        size => {
            let tcp = wire::TcpSegment::parse(ip.payload()).ok()?;
            ip.total_len() - tcp.payload().len() + usize::from(size)
        }
    };
    if longest <= usize::from(mtu) {
        return None;
    }
    let mut message = vec![0; 8];
    Icmp4Header::Unreachable { code: 4, next_hop_mtu: mtu }.emit(&mut message).ok()?;
    // A super-segment's own length would say that it is no packet of this path.
    let mut quoted = eth.payload().get(..ip.header_len() + QUOTED)?.to_vec();
    wire::ipv4::patch_len_and_ident(&mut quoted, longest as u16, ip.ident()).ok()?;
    message.extend_from_slice(&quoted);
    wire::icmp4::fill_checksum(&mut message).ok()?;
    let header = Ipv4Header {
        traffic_class: 0,
        payload_len: message.len() as u16,
        ident: 0,
        dont_fragment: false,
        more_fragments: false,
        fragment_offset: 0,
        ttl: 64,
        protocol: IpProtocol::ICMP4,
        src: ADDRESS,
        dst: ip.src(),
    };
    let mut bytes = vec![0; 34];
    EthHeader { dst: eth.src(), src: MAC, ethertype: EtherType::IPV4 }.emit(&mut bytes).ok()?;
    header.emit(bytes.get_mut(14..)?).ok()?;
    bytes.extend_from_slice(&message);
    Some(Packet::plain(bytes))
}
