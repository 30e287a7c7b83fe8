//! A router whose next link is too narrow (RFC 1191 3, RFC 8201 4).

use base::MacAddr;
use wire::{Icmp4Header, Icmp6Header, IpProtocol};

use crate::ip::{self, IpView};
use crate::network::Packet;

/// The number of the router's own address, as if it were a host's.
const NUMBER: usize = 253;
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xfe]);
/// Bytes of an IPv4 packet's payload that a report quotes (RFC 792).
const QUOTED: usize = 8;
/// Bytes of an IPv6 packet that a report quotes: as many as fit (RFC 4443 3.2).
const QUOTED_V6: usize = wire::ipv6::MTU_MIN - 40 - 8;

/// What the router says about `packet`, which does not fit into `mtu` bytes. `None`: it fits, or may be cut.
///
/// Of a super-segment the segments are meant that a device makes of it.
pub(crate) fn too_long(packet: &Packet, mtu: u16) -> Option<Packet> {
    let ip = IpView::parse(&packet.bytes).ok()?;
    let six = ip.src.as_v4().is_none();
    // Neighbours do not talk by way of a router, and hop limits show it (RFC 4861 7.1).
    if !ip.dont_fragment || (ip.protocol == IpProtocol::ICMP6 && ip.ttl == 255) {
        return None;
    }
    let longest = match packet.gso_size {
        0 => ip.len,
        size => {
            let tcp = wire::TcpSegment::parse(ip.payload).ok()?;
            ip.len - tcp.payload().len() + usize::from(size)
        }
    };
    if longest <= usize::from(mtu) {
        return None;
    }
    let router = ip::address(NUMBER, six);
    let mut message = vec![0; 8];
    let protocol = if six {
        Icmp6Header::PacketTooBig { mtu: mtu.into() }.emit(&mut message).ok()?;
        let mut quoted = ip.bytes.get(..longest.min(QUOTED_V6).min(ip.len))?.to_vec();
        // A super-segment's own length would say that it is no packet of this path.
        quoted.get_mut(4..6)?.copy_from_slice(&(longest as u16 - 40).to_be_bytes());
        message.extend_from_slice(&quoted);
        let pseudo = wire::checksum::pseudo(router, ip.src, IpProtocol::ICMP6, message.len() as u32);
        wire::icmp6::fill_checksum(&mut message, pseudo).ok()?;
        IpProtocol::ICMP6
    } else {
        Icmp4Header::Unreachable { code: 4, next_hop_mtu: mtu }.emit(&mut message).ok()?;
        let header = wire::Ipv4Packet::parse(ip.bytes).ok()?;
        let mut quoted = ip.bytes.get(..header.header_len() + QUOTED)?.to_vec();
        wire::ipv4::patch_len_and_ident(&mut quoted, longest as u16, header.ident()).ok()?;
        message.extend_from_slice(&quoted);
        wire::icmp4::fill_checksum(&mut message).ok()?;
        IpProtocol::ICMP4
    };
    let to = packet.bytes.get(6..12)?.first_chunk::<6>()?;
    let report = ip::packet(router, ip.src, protocol, &message);
    Some(Packet::plain(ip::frame(MacAddr(*to), MAC, &report)))
}
