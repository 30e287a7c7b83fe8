//! IP packets of either family, as the network, its oracles and the stranger look at them and make them.

use std::net::{Ipv4Addr, Ipv6Addr};

use base::{IpAddress, MacAddr};
use wire::ipv6_ext::{self, Start};
use wire::{EthFrame, EthHeader, EtherType, IpProtocol, Ipv4Header, Ipv4Packet, Ipv6Header, Ipv6Packet};

use crate::network::Packet;

/// An IP packet, whole and with a good header.
pub(crate) struct IpView<'a> {
    pub(crate) src: IpAddress,
    pub(crate) dst: IpAddress,
    /// The protocol above IP and its extension headers; of a fragment, that of its first part.
    pub(crate) protocol: IpProtocol,
    /// What is behind the headers.
    pub(crate) payload: &'a [u8],
    /// Bytes of the packet, headers included.
    pub(crate) len: usize,
    /// TTL or hop limit.
    pub(crate) ttl: u8,
    /// Identification, if it is a fragment.
    pub(crate) fragment: Option<u32>,
    /// No router may cut it.
    pub(crate) dont_fragment: bool,
    /// Everything from the IP header on, also what lies behind the packet.
    pub(crate) bytes: &'a [u8],
}

impl<'a> IpView<'a> {
    /// The packet in an Ethernet frame; says what is wrong with it.
    pub(crate) fn parse(frame: &'a [u8]) -> Result<Self, String> {
        let eth = EthFrame::parse(frame).map_err(|e| format!("a bad Ethernet frame: {e:?}"))?;
        if eth.ethertype() == EtherType::IPV6 {
            return Self::six(eth.payload());
        }
        let ip = Ipv4Packet::parse(eth.payload()).map_err(|e| format!("a bad IPv4 packet: {e:?}"))?;
        Ok(Self {
            src: IpAddress::from_v4(ip.src()),
            dst: IpAddress::from_v4(ip.dst()),
            protocol: ip.protocol(),
            payload: ip.payload(),
            len: ip.total_len(),
            ttl: ip.ttl(),
            fragment: ip.is_fragment().then(|| ip.ident().into()),
            dont_fragment: ip.dont_fragment(),
            bytes: eth.payload(),
        })
    }

    fn six(bytes: &'a [u8]) -> Result<Self, String> {
        let ip = Ipv6Packet::parse(bytes).map_err(|e| format!("a bad IPv6 packet: {e:?}"))?;
        let upper = ipv6_ext::walk(ip.next_header(), ip.payload(), Start::FixedHeader)
            .map_err(|e| format!("bad extension headers: {e:?}"))?;
        Ok(Self {
            src: IpAddress::from_v6(ip.src()),
            dst: IpAddress::from_v6(ip.dst()),
            protocol: upper.protocol,
            payload: ip.payload().get(upper.offset..).unwrap_or_default(),
            len: 40 + ip.payload_len(),
            ttl: ip.hop_limit(),
            fragment: upper.fragment.map(|f| f.ident),
            dont_fragment: true,
            bytes,
        })
    }

    /// The sum of the pseudo-header for what is behind the headers.
    pub(crate) fn pseudo(&self) -> wire::checksum::Sum {
        wire::checksum::pseudo(self.src, self.dst, self.protocol, self.payload.len() as u32)
    }
}

/// A packet without options, from the network header on.
pub(crate) fn packet(src: IpAddress, dst: IpAddress, protocol: IpProtocol, payload: &[u8]) -> Vec<u8> {
    let mut bytes = match (src.as_v4(), dst.as_v4()) {
        (Some(src), Some(dst)) => {
            let mut bytes = vec![0; 20];
            let _ = v4_header(src, dst, protocol, payload.len()).emit(&mut bytes);
            bytes
        }
        _ => {
            let header = Ipv6Header::plain((src.as_v6(), dst.as_v6()), protocol, payload.len() as u16);
            let mut bytes = vec![0; 40];
            let _ = header.emit(&mut bytes);
            bytes
        }
    };
    bytes.extend_from_slice(payload);
    bytes
}

/// The header of an IPv4 packet that may be cut.
pub(crate) fn v4_header(src: Ipv4Addr, dst: Ipv4Addr, protocol: IpProtocol, len: usize) -> Ipv4Header {
    Ipv4Header { dont_fragment: false, ..Ipv4Header::plain((src, dst), protocol, len as u16) }
}

/// `packet` in an Ethernet frame of its family.
pub(crate) fn frame(dst: MacAddr, src: MacAddr, packet: &[u8]) -> Vec<u8> {
    let six = packet.first().is_some_and(|b| b >> 4 == 6);
    let ethertype = if six { EtherType::IPV6 } else { EtherType::IPV4 };
    let mut bytes = vec![0; 14];
    let _ = EthHeader { dst, src, ethertype }.emit(&mut bytes);
    bytes.extend_from_slice(packet);
    bytes
}

/// Sets CE in a packet that carries ECT (RFC 3168 5) and corrects its header's checksum. False: it does not.
pub(crate) fn mark(packet: &mut Packet) -> bool {
    let Ok(eth) = EthFrame::parse(&packet.bytes) else { return false };
    if eth.ethertype() == EtherType::IPV6 {
        let Ok(ip) = Ipv6Packet::parse(eth.payload()) else { return false };
        let mut header = ip.header();
        header.traffic_class |= 3;
        let carries = ip.traffic_class() & 3 != 0;
        return carries && packet.bytes.get_mut(14..54).is_some_and(|to| header.emit(to).is_ok());
    }
    let Ok(ip) = Ipv4Packet::parse(eth.payload()) else { return false };
    if ip.traffic_class() & 3 == 0 {
        return false;
    }
    let mut header = ip.header();
    header.traffic_class |= 3;
    // The options of a header are kept: only its first twenty bytes are written anew when there are none.
    let plain = ip.header_len() == 20;
    let to = packet.bytes.get_mut(14..34);
    plain && to.is_some_and(|to| header.emit(to).is_ok())
}

/// The address of host number `host`.
pub(crate) const fn address(host: usize, six: bool) -> IpAddress {
    let n = host as u16 + 1;
    if six {
        IpAddress::from_v6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n))
    } else {
        IpAddress::from_v4(Ipv4Addr::new(10, 0, 0, n as u8))
    }
}

/// Numbers of hosts are below this.
const NUMBER_MAX: usize = 200;

/// The host with this address.
pub(crate) fn host_of(addr: IpAddress) -> Option<usize> {
    (0..NUMBER_MAX).find(|host| addr == address(*host, addr.as_v4().is_none()))
}

/// Somebody who is no host.
pub(crate) const fn stranger(n: u8, six: bool) -> IpAddress {
    if six {
        IpAddress::from_v6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 9, 0, 0, n as u16))
    } else {
        IpAddress::from_v4(Ipv4Addr::new(10, 0, 9, n))
    }
}
