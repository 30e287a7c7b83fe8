//! IPv4 (RFC 791, RFC 1122 3.2.1, RFC 6864): received packets checked, trimmed and put together; headers of sent ones,
//! and fragmentation of those that are too long for the link.
//!
//! Left out: forwarding, source routes (options are skipped), multicast and broadcast destinations.

use core::net::Ipv4Addr;

use base::{FrameIdx, Instant, IpAddress, MacAddr};
use state::ports::{PORT_LOOPBACK, PORT_OWN_ADDRESS};
use state::{CsumState, DropReason, LaneMem, PortInfo, RxFrame};
use wire::{EthFrame, IpProtocol, Ipv4Error, Ipv4Header, Ipv4Packet};

use crate::{packet, reassembly};

/// Bytes of Ethernet and IPv4 header without options.
pub(crate) const HEADERS: usize = wire::eth::HEADER_LEN + wire::ipv4::HEADER_LEN;
/// TTL of what we send (RFC 1122 3.2.1.7 asks for a configurable one; sockets can set theirs).
pub(crate) const DEFAULT_TTL: u8 = 64;

/// A checked IPv4 packet that is for us and whole. It owns its chain of frames, which begins with the Ethernet header
/// and ends with the packet's last byte.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    /// First frame of the chain.
    pub(crate) head: FrameIdx,
    /// The lane's port it came by.
    pub(crate) port: u8,
    /// Where it came from.
    pub(crate) src: IpAddress,
    /// One of our addresses.
    pub(crate) dst: IpAddress,
    /// Who put it on the link.
    pub(crate) src_mac: MacAddr,
    /// What it carries.
    pub(crate) protocol: IpProtocol,
    /// Bytes of `head`'s data before the transport header.
    pub(crate) l4_offset: u16,
    /// Bytes of transport header and payload in the whole chain.
    pub(crate) l4_bytes: u32,
    /// DSCP and ECN.
    pub(crate) tos: u8,
    /// What is known of the transport checksum.
    pub(crate) csum: CsumState,
    /// As in [`RxFrame::gso_size`].
    pub(crate) gso_size: u16,
    /// As in [`RxFrame::local_peer`].
    pub(crate) local_peer: bool,
}

impl Packet {
    /// The addresses as IPv4: source, destination.
    pub(crate) fn v4(&self) -> Option<(Ipv4Addr, Ipv4Addr)> {
        Some((self.src.as_v4()?, self.dst.as_v4()?))
    }
}

/// What of a received header decides the packet's way.
struct Parsed {
    head: Ipv4Header,
    header_bytes: usize,
    is_fragment: bool,
    src_mac: MacAddr,
    dst_mac: MacAddr,
}

/// The port `port` of the lane.
pub(crate) fn port_info<'m>(mem: &'m LaneMem<'_>, port: u8) -> Option<&'m PortInfo> {
    mem.ports.rows().get(usize::from(port))
}

/// Is `addr` an address of `port`?
#[inline]
pub(crate) fn is_local(info: &PortInfo, addr: IpAddress) -> bool {
    !addr.is_any() && info.addrs.iter().take(info.addr_count as usize).any(|a| *a == addr)
}

/// May packets between `src` and `dst` come by a wire inside one network namespace? Both are addresses of it then.
fn is_inside(info: &PortInfo, src: Ipv4Addr, dst: Ipv4Addr) -> bool {
    let own = |addr: Ipv4Addr| addr.is_loopback() || is_local(info, IpAddress::from_v4(addr));
    own(src) && own(dst)
}

/// Is a packet between these, of a connection that is open, for us?
#[inline]
pub(crate) fn is_for_us(info: &PortInfo, src: Ipv4Addr, dst: Ipv4Addr) -> bool {
    if info.flags & PORT_LOOPBACK != 0 {
        return is_inside(info, src, dst);
    }
    is_local(info, IpAddress::from_v4(dst))
}

/// May a packet from `src` come by `port`? RFC 1122 3.2.1.3: broadcast, multicast and loopback are no source addresses; and no packet of
/// ours comes back.
#[inline]
pub(crate) fn may_send(info: &PortInfo, src: Ipv4Addr) -> bool {
    let odd = src.is_unspecified() || src.is_loopback() || src.is_multicast() || src.is_broadcast();
    !odd && !is_local(info, IpAddress::from_v4(src))
}

/// Does the address of `port` belong to us alone, so that we speak ARP and ICMP there?
pub(crate) fn is_own(mem: &LaneMem<'_>, port: u8) -> bool {
    port_info(mem, port).is_some_and(|p| p.flags & PORT_OWN_ADDRESS != 0)
}

/// Takes the chain of `rx`: an Ethernet frame with an IPv4 packet. `None`: it was dropped (and counted) or is kept
/// until its other fragments come.
pub(crate) fn input(mem: &mut LaneMem<'_>, now: Instant, rx: &RxFrame) -> Option<Packet> {
    let parsed = match parse(mem, rx) {
        Ok(parsed) => parsed,
        Err(reason) => return discard(mem, rx.head, reason),
    };
    let total = wire::eth::HEADER_LEN + parsed.header_bytes + usize::from(parsed.head.payload_len);
    if !packet::trim(&mut mem.frames, rx.head, total) {
        return discard(mem, rx.head, DropReason::FrameBad);
    }
    let packet = Packet {
        head: rx.head,
        port: rx.port,
        src: IpAddress::from_v4(parsed.head.src),
        dst: IpAddress::from_v4(parsed.head.dst),
        src_mac: parsed.src_mac,
        protocol: parsed.head.protocol,
        l4_offset: (wire::eth::HEADER_LEN + parsed.header_bytes) as u16,
        l4_bytes: u32::from(parsed.head.payload_len),
        tos: parsed.head.traffic_class,
        csum: rx.csum,
        gso_size: rx.gso_size,
        local_peer: rx.local_peer,
    };
    if parsed.is_fragment {
        return reassembly::input(mem, now, &packet, &parsed.head, parsed.dst_mac);
    }
    Some(packet)
}

fn discard(mem: &mut LaneMem<'_>, head: FrameIdx, reason: DropReason) -> Option<Packet> {
    mem.frames.release_chain(head);
    mem.counters.drop_packet(reason);
    None
}

fn parse(mem: &LaneMem<'_>, rx: &RxFrame) -> Result<Parsed, DropReason> {
    let info = port_info(mem, rx.port).ok_or(DropReason::EthNotForUs)?;
    let eth = EthFrame::parse(mem.frames.data(rx.head)).map_err(|_| DropReason::EthMalformed)?;
    // RFC 1122 3.3.6: what came as a link-layer broadcast must not be taken for a unicast packet.
    if eth.dst() != info.mac {
        return Err(DropReason::EthNotForUs);
    }
    let available = (rx.len as usize).saturating_sub(wire::eth::HEADER_LEN);
    let ip = Ipv4Packet::parse_head(eth.payload(), available).map_err(|e| match e {
        Ipv4Error::Checksum => DropReason::IpChecksumBad,
        Ipv4Error::Truncated | Ipv4Error::NotVersion4 | Ipv4Error::HeaderLength | Ipv4Error::TotalLength => {
            DropReason::IpMalformed
        }
    })?;
    let src = ip.src();
    let inside = info.flags & PORT_LOOPBACK != 0;
    if inside && !is_inside(info, src, ip.dst()) {
        return Err(DropReason::IpSourceBad);
    }
    if !inside && !is_local(info, IpAddress::from_v4(ip.dst())) {
        return Err(DropReason::IpNotForUs);
    }
    if !inside && !may_send(info, src) {
        return Err(DropReason::IpSourceBad);
    }
    Ok(Parsed {
        head: ip.header(),
        header_bytes: ip.header_len(),
        is_fragment: ip.is_fragment(),
        src_mac: eth.src(),
        dst_mac: eth.dst(),
    })
}

/// The identification for a packet. RFC 6864 4.1: of one that may not be fragmented it means nothing, so 0 will do and
/// tells nobody how much we send.
pub(crate) fn next_ident(mem: &mut LaneMem<'_>, dont_fragment: bool) -> u16 {
    if dont_fragment {
        return 0;
    }
    mem.ip.next_id = mem.ip.next_id.wrapping_add(1);
    // Spread by a secret, so that the number of packets sent to others cannot be read off (RFC 7739 5.3's concern).
    let key = mem.globals.key;
    (base::hash::flow_hash(key, [0x1d; 16], [0; 16], mem.ip.next_id >> 16) as u16)
        .wrapping_add(mem.ip.next_id as u16)
}
