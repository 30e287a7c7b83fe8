//! What every packet that a lane sends must fulfil, whatever the network does to others.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use base::SeqNum;
use state::CsumState;
use wire::{
    ArpPacket, EthFrame, EtherType, IpProtocol, Ipv4Packet, TcpFlags, TcpOptions, TcpSegment, UdpDatagram,
};

use crate::network::Packet;

/// Headers, lengths and checksums of one packet.
pub(crate) fn check(packet: &Packet, mtu: u16) -> Result<(), String> {
    let eth = EthFrame::parse(&packet.bytes).map_err(|e| format!("sent a bad Ethernet frame: {e:?}"))?;
    if eth.ethertype() == EtherType::ARP {
        return ArpPacket::parse(eth.payload()).map(|_| ()).map_err(|e| format!("sent bad ARP: {e:?}"));
    }
    let ip = Ipv4Packet::parse(eth.payload()).map_err(|e| format!("sent a bad IPv4 packet: {e:?}"))?;
    if ip.total_len() != eth.payload().len() {
        return Err(format!("sent {} bytes behind an IPv4 packet", eth.payload().len() - ip.total_len()));
    }
    if packet.gso_size == 0 && ip.total_len() > usize::from(mtu) {
        return Err(format!("sent {} bytes over a link of {mtu}", ip.total_len()));
    }
    if ip.ttl() == 0 || ip.is_fragment() {
        return if ip.ttl() == 0 { Err("sent a TTL of 0".into()) } else { Ok(()) };
    }
    let len = ip.payload().len() as u16;
    let pseudo = wire::checksum::pseudo_v4(ip.src(), ip.dst(), ip.protocol(), len);
    let finished = packet.csum != CsumState::Unfinished;
    match ip.protocol() {
        IpProtocol::TCP => {
            let segment =
                TcpSegment::parse(ip.payload()).map_err(|e| format!("sent a bad TCP segment: {e:?}"))?;
            let headers = ip.total_len() - segment.payload().len();
            if usize::from(packet.gso_size) + headers > usize::from(mtu) {
                return Err(format!("cut into segments of {} for a link of {mtu}", packet.gso_size));
            }
            if finished && !segment.checksum_ok(pseudo) {
                return Err("sent a wrong TCP checksum".into());
            }
        }
        IpProtocol::UDP => {
            let datagram =
                UdpDatagram::parse(ip.payload()).map_err(|e| format!("sent a bad UDP datagram: {e:?}"))?;
            if finished && !datagram.checksum_ok(pseudo) {
                return Err("sent a wrong UDP checksum".into());
            }
        }
        _ => {}
    }
    Ok(())
}

/// What fragments of one packet have in common: identification, source, destination.
pub(crate) type FragmentId = (u16, Ipv4Addr, Ipv4Addr);

/// Of which packet it is a fragment, if it is one.
pub(crate) fn fragment_id(packet: &Packet) -> Option<FragmentId> {
    let eth = EthFrame::parse(&packet.bytes).ok()?;
    let ip = Ipv4Packet::parse(eth.payload()).ok()?;
    ip.is_fragment().then(|| (ip.ident(), ip.src(), ip.dst()))
}

/// Is it the last segment of a write or of a stream, as far as its flags show?
pub(crate) fn is_tail(packet: &Packet) -> bool {
    let Some(ip) = EthFrame::parse(&packet.bytes).ok().and_then(|eth| Ipv4Packet::parse(eth.payload()).ok())
    else {
        return false;
    };
    let last = |s: TcpSegment<'_>| s.flags().is_fin() || s.flags().contains(TcpFlags::PSH);
    ip.protocol() == IpProtocol::TCP && TcpSegment::parse(ip.payload()).is_ok_and(last)
}

/// One line about a packet, for the report of a failure.
pub(crate) fn describe(packet: &Packet) -> String {
    let Some(ip) = EthFrame::parse(&packet.bytes).ok().and_then(|eth| Ipv4Packet::parse(eth.payload()).ok())
    else {
        return format!("{} bytes, not IPv4", packet.bytes.len());
    };
    let ends = |src: u16, dst: u16| format!("{}:{src} > {}:{dst}", ip.src(), ip.dst());
    match ip.protocol() {
        IpProtocol::TCP if !ip.is_fragment() => match TcpSegment::parse(ip.payload()) {
            Ok(s) => format!(
                "{} {:?} seq {} +{} ack {} win {} {:?}{}",
                ends(s.src_port().0, s.dst_port().0),
                s.flags(),
                s.seq().0,
                s.payload().len(),
                s.ack().0,
                s.window(),
                TcpOptions::parse(s.options()).sack.as_slice(),
                if packet.gso_size > 0 { " super" } else { "" },
            ),
            Err(e) => format!("bad TCP: {e:?}"),
        },
        protocol => format!("{} {protocol:?} +{}", ends(0, 0), ip.payload().len()),
    }
}

/// One direction of a connection, as its sender's segments show it.
#[derive(Clone, Copy, Default)]
struct Way {
    /// One past the highest sequence number sent.
    end: Option<SeqNum>,
    /// Scale of the windows it announces; `None` until its SYN was seen.
    shift: Option<u8>,
    /// Right edge of the window it announced last.
    right: Option<SeqNum>,
}

type Ends = (Ipv4Addr, u16, Ipv4Addr, u16);

/// Follows every TCP connection over the segments both ends send.
#[derive(Default)]
pub(crate) struct FlowOracle {
    ways: HashMap<Ends, Way>,
}

impl FlowOracle {
    /// The rules that hold between segments: a window's right edge does not move left (RFC 9293 3.8.6: SHOULD NOT shrink
    /// the window), nothing is sent beyond it but a zero-window probe, and nothing is acknowledged that was never sent.
    pub(crate) fn check(&mut self, packet: &Packet) -> Result<(), String> {
        let Ok(eth) = EthFrame::parse(&packet.bytes) else { return Ok(()) };
        if eth.ethertype() != EtherType::IPV4 {
            return Ok(());
        }
        let Ok(ip) = Ipv4Packet::parse(eth.payload()) else { return Ok(()) };
        if ip.protocol() != IpProtocol::TCP {
            return Ok(());
        }
        let Ok(segment) = TcpSegment::parse(ip.payload()) else { return Ok(()) };
        let key = (ip.src(), segment.src_port().0, ip.dst(), segment.dst_port().0);
        let back = (key.2, key.3, key.0, key.1);
        if segment.flags().is_rst() {
            return Ok(());
        }
        if segment.flags().is_syn() {
            let shift = TcpOptions::parse(segment.options()).window_scale;
            let end = segment.seq().plus(1);
            let fresh = self.ways.get(&key).is_none_or(|w| w.end != Some(end));
            if fresh {
                // RFC 7323 2.2: the window of a SYN is not scaled. This may be a new connection of the same name.
                let right = segment.flags().is_ack().then(|| segment.ack().plus(u32::from(segment.window())));
                self.ways.insert(key, Way { end: Some(end), shift, right });
            }
            if !segment.flags().is_ack() && fresh {
                self.ways.remove(&back);
            }
            return Ok(());
        }
        let other = self.ways.get(&back).copied();
        let Some(way) = self.ways.get_mut(&key) else { return Ok(()) };
        let Some(other) = other else { return Ok(()) };
        check_ack(way, &other, &segment)?;
        check_window(way, &other, &segment)
    }
}

fn check_ack(way: &mut Way, other: &Way, segment: &TcpSegment<'_>) -> Result<(), String> {
    let ack = segment.ack();
    if other.end.is_some_and(|end| ack.after(end)) {
        return Err(format!("acknowledged {ack:?}, but no more than {:?} was sent", other.end));
    }
    let scaled = way.shift.is_some() && other.shift.is_some();
    let shift = if scaled { way.shift.unwrap_or(0).min(14) } else { 0 };
    let right = ack.plus(u32::from(segment.window()) << shift);
    // A scaled window is rounded down, so the edge may seem to move left by less than one unit.
    let unit = 1_u32 << shift;
    if way.right.is_some_and(|before| right.plus(unit).before(before)) {
        return Err(format!("the window's right edge moved left from {:?} to {right:?}", way.right));
    }
    way.right = Some(way.right.map_or(right, |before| before.later(right)));
    Ok(())
}

fn check_window(way: &mut Way, other: &Way, segment: &TcpSegment<'_>) -> Result<(), String> {
    let len = segment.payload().len() as u32 + u32::from(segment.flags().is_fin());
    let end = segment.seq().plus(len);
    // The edge that was announced last may still be on its way to this sender, and one byte beyond is a probe
    // (RFC 9293 3.8.6.1); a FIN needs no window of its own.
    if other.right.is_some_and(|right| end.after(right.plus(2))) {
        return Err(format!("sent up to {end:?}, beyond the window's right edge {:?}", other.right));
    }
    way.end = Some(way.end.map_or(end, |before| before.later(end)));
    Ok(())
}
