//! What every packet that a lane sends must fulfil, whatever the network does to others.

use std::collections::HashMap;

use base::{IpAddress, SeqNum};
use state::CsumState;
use wire::{ArpPacket, EthFrame, EtherType, IpProtocol, TcpFlags, TcpOptions, TcpSegment, UdpDatagram};

use crate::ip::IpView;
use crate::network::Packet;

/// Headers, lengths and checksums of one packet.
pub(crate) fn check(packet: &Packet, mtu: u16) -> Result<(), String> {
    let eth = EthFrame::parse(&packet.bytes).map_err(|e| format!("sent a bad Ethernet frame: {e:?}"))?;
    if eth.ethertype() == EtherType::ARP {
        return ArpPacket::parse(eth.payload()).map(|_| ()).map_err(|e| format!("sent bad ARP: {e:?}"));
    }
    let ip = IpView::parse(&packet.bytes).map_err(|e| format!("sent {e}"))?;
    if ip.len != eth.payload().len() {
        return Err(format!("sent {} bytes behind an IP packet", eth.payload().len() - ip.len));
    }
    if packet.gso_size == 0 && ip.len > usize::from(mtu) {
        return Err(format!("sent {} bytes over a link of {mtu}", ip.len));
    }
    if ip.ttl == 0 || ip.fragment.is_some() {
        return if ip.ttl == 0 { Err("sent a TTL of 0".into()) } else { Ok(()) };
    }
    let pseudo = ip.pseudo();
    let finished = packet.csum != CsumState::Unfinished;
    match ip.protocol {
        IpProtocol::TCP => {
            let segment =
                TcpSegment::parse(ip.payload).map_err(|e| format!("sent a bad TCP segment: {e:?}"))?;
            let headers = ip.len - segment.payload().len();
            if usize::from(packet.gso_size) + headers > usize::from(mtu) {
                return Err(format!("cut into segments of {} for a link of {mtu}", packet.gso_size));
            }
            if finished && !segment.checksum_ok(pseudo) {
                return Err("sent a wrong TCP checksum".into());
            }
        }
        IpProtocol::UDP => {
            let datagram =
                UdpDatagram::parse(ip.payload).map_err(|e| format!("sent a bad UDP datagram: {e:?}"))?;
            if finished && !datagram.checksum_ok(pseudo) {
                return Err("sent a wrong UDP checksum".into());
            }
        }
        IpProtocol::ICMP6 => {
            let message =
                wire::Icmp6Message::parse(ip.payload).map_err(|e| format!("sent bad ICMPv6: {e:?}"))?;
            if !message.checksum_ok(pseudo) {
                return Err("sent a wrong ICMPv6 checksum".into());
            }
        }
        _ => {}
    }
    Ok(())
}

/// What fragments of one packet have in common: identification, source, destination.
pub(crate) type FragmentId = (u32, IpAddress, IpAddress);

/// Of which packet it is a fragment, if it is one.
pub(crate) fn fragment_id(packet: &Packet) -> Option<FragmentId> {
    let ip = IpView::parse(&packet.bytes).ok()?;
    ip.fragment.map(|ident| (ident, ip.src, ip.dst))
}

/// Is it the last segment of a write or of a stream, as far as its flags show?
pub(crate) fn is_tail(packet: &Packet) -> bool {
    let Ok(ip) = IpView::parse(&packet.bytes) else { return false };
    let last = |s: TcpSegment<'_>| s.flags().is_fin() || s.flags().contains(TcpFlags::PSH);
    ip.protocol == IpProtocol::TCP && TcpSegment::parse(ip.payload).is_ok_and(last)
}

/// One line about a packet, for the report of a failure.
pub(crate) fn describe(packet: &Packet) -> String {
    let Ok(ip) = IpView::parse(&packet.bytes) else {
        return format!("{} bytes, not IP", packet.bytes.len());
    };
    let ends = |src: u16, dst: u16| format!("{}:{src} > {}:{dst}", text(ip.src), text(ip.dst));
    match ip.protocol {
        IpProtocol::TCP if ip.fragment.is_none() => match TcpSegment::parse(ip.payload) {
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
        protocol => format!("{} {protocol:?} +{}", ends(0, 0), ip.payload.len()),
    }
}

fn text(addr: IpAddress) -> String {
    addr.as_v4().map_or_else(|| addr.as_v6().to_string(), |v4| v4.to_string())
}

/// One direction of a connection, as its sender's segments show it.
#[derive(Clone, Copy, Default)]
struct Way {
    /// One past the highest sequence number sent.
    end: Option<SeqNum>,
    /// The same of the connection before, when a late copy of its SYN was answered anew: the other end goes on to speak of that one.
    before: Option<SeqNum>,
    /// Its initial sequence number, if its SYN was seen.
    first: Option<SeqNum>,
    /// Scale of the windows it announces; `None` until its SYN was seen.
    shift: Option<u8>,
    /// Right edge of the window it announced last.
    right: Option<SeqNum>,
}

type Ends = (IpAddress, u16, IpAddress, u16);

/// Follows every TCP connection over the segments both ends send.
#[derive(Default)]
pub(crate) struct FlowOracle {
    ways: HashMap<Ends, Way>,
    /// One past the highest sequence number of the connection before, between the same ends.
    ended: HashMap<Ends, SeqNum>,
}

impl FlowOracle {
    /// The rules that hold between segments: a window's right edge does not move left (RFC 9293 3.8.6: SHOULD NOT shrink
    /// the window), nothing is sent beyond it but a zero-window probe, and nothing is acknowledged that was never sent.
    pub(crate) fn check(&mut self, packet: &Packet) -> Result<(), String> {
        let Ok(ip) = IpView::parse(&packet.bytes) else { return Ok(()) };
        if ip.protocol != IpProtocol::TCP {
            return Ok(());
        }
        let Ok(segment) = TcpSegment::parse(ip.payload) else { return Ok(()) };
        let key = (ip.src, segment.src_port().0, ip.dst, segment.dst_port().0);
        let back = (key.2, key.3, key.0, key.1);
        if segment.flags().is_rst() {
            return Ok(());
        }
        if segment.flags().is_syn() {
            let shift = TcpOptions::parse(segment.options()).window_scale;
            let end = segment.seq().plus(1);
            // Who waits for its device may send a SYN,ACK again when the connection is open already.
            let fresh = self.ways.get(&key).is_none_or(|w| w.first != Some(segment.seq()));
            if fresh {
                // RFC 7323 2.2: the window of a SYN is not scaled. This may be a new connection of the same name.
                let right = segment.flags().is_ack().then(|| segment.ack().plus(u32::from(segment.window())));
                let before = self.ways.get(&key).and_then(|w| w.end).filter(|_| segment.flags().is_ack());
                self.begin(
                    key,
                    Some(Way { end: Some(end), before, first: Some(segment.seq()), shift, right }),
                );
            }
            if !segment.flags().is_ack() && fresh {
                self.begin(back, None);
            }
            return Ok(());
        }
        if self.is_overtaken(&key, &segment) {
            return Ok(());
        }
        let other = self.ways.get(&back).copied();
        let Some(way) = self.ways.get_mut(&key) else { return Ok(()) };
        let Some(other) = other else { return Ok(()) };
        check_ack(way, &other, &segment)?;
        check_window(way, &other, &segment)
    }
}

impl FlowOracle {
    /// A new connection begins in the direction `key`, with `way` if its SYN was seen.
    fn begin(&mut self, key: Ends, way: Option<Way>) {
        let old = match way {
            Some(way) => self.ways.insert(key, way),
            None => self.ways.remove(&key),
        };
        if let Some(end) = old.and_then(|way| way.end) {
            self.ended.insert(key, end);
        }
    }

    /// Is `segment` of the connection before, overtaken by this one's SYN? A host that waits for its device sends control segments before ACKs, and those
    /// before data. Whoever gets it sees an old duplicate (RFC 9293 3.4).
    fn is_overtaken(&mut self, key: &Ends, segment: &TcpSegment<'_>) -> bool {
        let Some(&ended) = self.ended.get(key) else { return false };
        let end = segment.seq().plus(segment.payload().len() as u32 + u32::from(segment.flags().is_fin()));
        let first = match self.ways.get(key) {
            Some(way) => way.first,
            None => {
                // The peer has asked for a new connection, and this end still speaks of the old one.
                self.ended.insert(*key, end.later(ended));
                return false;
            }
        };
        if !first.is_some_and(|first| segment.seq().before(first) && end.at_or_before(first)) {
            return false;
        }
        // New data may have waited, too: it follows what went out before.
        let follows = segment.seq() == ended;
        if follows {
            self.ended.insert(*key, end);
        }
        follows || end.at_or_before(ended)
    }
}

fn check_ack(way: &mut Way, other: &Way, segment: &TcpSegment<'_>) -> Result<(), String> {
    let ack = segment.ack();
    if other.before.is_some_and(|before| !ack.after(before)) {
        return Ok(());
    }
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
    way.end = Some(way.end.map_or(end, |before| before.later(end)));
    if other.right.is_some_and(|right| end.after(right.plus(2))) {
        return Err(format!("sent up to {end:?}, beyond the window's right edge {:?}", other.right));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use base::{MacAddr, Port, SeqNum};
    use wire::{IpProtocol, TcpFlags, TcpHeader, TcpOptions};

    use super::FlowOracle;
    use crate::ip;
    use crate::network::Packet;

    /// What host 0, the client, or host 1, its server, sends.
    fn sent(by_client: bool, flags: TcpFlags, seq: u32, ack: u32) -> Packet {
        let (client, server) = (ip::address(0, false), ip::address(1, false));
        let (src, dst) = if by_client { (client, server) } else { (server, client) };
        let (src_port, dst_port) = if by_client { (20_000, 80) } else { (80, 20_000) };
        let (seq, ack) = (SeqNum(seq), SeqNum(ack));
        let (src_port, dst_port) = (Port(src_port), Port(dst_port));
        let header = TcpHeader { src_port, dst_port, seq, ack, flags, window: 1_000, urgent: 0 };
        let mut segment = vec![0; 20];
        header.emit(&TcpOptions::NONE, &mut segment).expect("room for a header");
        let packet = ip::packet(src, dst, IpProtocol::TCP, &segment);
        Packet::plain(ip::frame(MacAddr::default(), MacAddr::default(), &packet))
    }

    /// A connection from 100 and 5 000, closed by both, and the handshake of the next, from 400 000 and 900 000.
    fn two_connections() -> FlowOracle {
        let mut oracle = FlowOracle::default();
        let (syn_ack, fin) = (TcpFlags::SYN | TcpFlags::ACK, TcpFlags::FIN | TcpFlags::ACK);
        for packet in [
            sent(true, TcpFlags::SYN, 100, 0),
            sent(false, syn_ack, 5_000, 101),
            sent(true, TcpFlags::ACK, 101, 5_001),
            sent(false, fin, 5_001, 101),
            sent(true, fin, 101, 5_002),
            sent(true, TcpFlags::SYN, 400_000, 0),
            sent(false, syn_ack, 900_000, 400_001),
            sent(true, TcpFlags::ACK, 400_001, 900_001),
        ] {
            oracle.check(&packet).expect("nothing wrong so far");
        }
        oracle
    }

    #[test]
    fn an_ack_of_the_connection_before_may_be_overtaken_by_the_next_handshake() {
        let mut oracle = two_connections();
        assert_eq!(oracle.check(&sent(false, TcpFlags::ACK, 5_002, 102)), Ok(()));
        assert_eq!(oracle.check(&sent(true, TcpFlags::ACK, 102, 5_002)), Ok(()));
    }

    #[test]
    fn the_window_of_a_connection_whose_ports_were_used_before_may_not_shrink() {
        let mut oracle = two_connections();
        let shrunk = oracle.check(&sent(false, TcpFlags::ACK, 900_001, 399_000));
        assert!(shrunk.is_err_and(|why| why.contains("moved left")));
        let mut oracle = two_connections();
        let unsent = oracle.check(&sent(false, TcpFlags::ACK, 900_001, 500_000));
        assert!(unsent.is_err_and(|why| why.contains("no more than")));
    }
}
