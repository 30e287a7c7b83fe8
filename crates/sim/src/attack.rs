//! A stranger on the link who sees nothing: nonsense of every layer, and packets that pretend to belong to the connections
//! there are, with sequence numbers he can only guess.

use base::{Duration, Instant, IpAddress, MacAddr, Rng, SeqNum};
use wire::ipv6_ext::{FRAGMENT_LEN, Fragment};
use wire::{
    EthHeader, EtherType, Icmp4Header, Icmp6Header, IpProtocol, Ipv4Header, TcpFlags, TcpHeader, TcpOptions,
    UdpHeader,
};

use crate::host::mac;
use crate::ip::{self, IpView};
use crate::stream::StreamPlan;

/// When and how much.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AttackPlan {
    /// Packets.
    pub count: u32,
    /// Time between two.
    pub interval: Duration,
    /// SYNs among them that open a connection to nobody.
    pub syns: u32,
    /// Nothing but such SYNs, all to the last host: a flood.
    pub flood: bool,
}

/// The stranger at work.
pub(crate) struct Attacker {
    plan: AttackPlan,
    six: bool,
    rng: Rng,
    sent: u32,
    syns: u32,
    pub(crate) next_at: Instant,
}

/// The stranger's own MAC.
const MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 0xee]);

impl Attacker {
    pub(crate) fn new(plan: AttackPlan, six: bool, seed: u64) -> Self {
        let next_at = if plan.count == 0 { Instant::NEVER } else { Instant(0).plus(plan.interval) };
        Self { plan, six, rng: Rng::new(!seed), sent: 0, syns: 0, next_at }
    }

    /// The next packet, and the host it goes to.
    pub(crate) fn next(&mut self, hosts: usize, streams: &[StreamPlan]) -> (usize, Vec<u8>) {
        self.sent += 1;
        self.next_at =
            if self.sent >= self.plan.count { Instant::NEVER } else { self.next_at.plus(self.plan.interval) };
        if self.plan.flood {
            let to = hosts.saturating_sub(1);
            return (to, self.syn(to));
        }
        let to = self.rng.below(hosts as u64) as usize;
        let stream = streams.get(self.rng.below(streams.len() as u64) as usize).copied();
        let number = stream.and_then(|s| streams.iter().position(|p| *p == s)).unwrap_or(0);
        match (self.rng.below(8), stream) {
            (0, _) => (to, self.frame(to, if self.six { EtherType::IPV6 } else { EtherType::IPV4 }, 200)),
            (1, _) => (to, self.frame(to, EtherType::ARP, 10)),
            (2, _) => (to, self.nonsense(to)),
            (3, _) if self.syns < self.plan.syns => (to, self.syn(to)),
            (4, Some(plan)) => self.icmp(&plan, number),
            (5, _) => (to, self.datagram(to)),
            (_, Some(plan)) => self.segment(&plan, number),
            (_, None) => (to, self.nonsense(to)),
        }
    }

    fn bytes(&mut self, most: u64) -> Vec<u8> {
        let len = self.rng.below(most + 1);
        (0..len).map(|_| self.rng.next_u64() as u8).collect()
    }

    /// An Ethernet header and random bytes.
    fn frame(&mut self, to: usize, ethertype: EtherType, most: u64) -> Vec<u8> {
        let payload = self.bytes(most);
        link(to, ethertype, &payload)
    }

    /// A good IP header, a fragment's at times, and random bytes.
    fn nonsense(&mut self, to: usize) -> Vec<u8> {
        let payload = self.bytes(1400);
        let protocols = [IpProtocol::TCP, IpProtocol::UDP, IpProtocol::ICMP4, IpProtocol(200)];
        let mut protocol = protocols[self.rng.below(4) as usize];
        let fragment = self.rng.below(2) == 0;
        let more = fragment && self.rng.below(2) == 0;
        let offset = if fragment { self.rng.below(8000) as u16 * 8 } else { 0 };
        let ident = self.rng.below(20) as u16;
        let src = ip::stranger(self.rng.below(250) as u8 + 1, self.six);
        let dst = ip::address(to, self.six);
        let (Some(src_v4), Some(dst_v4)) = (src.as_v4(), dst.as_v4()) else {
            if protocol == IpProtocol::ICMP4 {
                protocol = IpProtocol::ICMP6;
            }
            let mut bytes = vec![];
            if fragment {
                let header = Fragment { next_header: protocol, offset, more, ident: ident.into() };
                bytes.resize(FRAGMENT_LEN, 0);
                let _ = header.emit(&mut bytes);
                protocol = IpProtocol::FRAGMENT;
            }
            bytes.extend_from_slice(&payload);
            return ip::frame(mac(to), MAC, &ip::packet(src, dst, protocol, &bytes));
        };
        let header = Ipv4Header {
            more_fragments: more,
            fragment_offset: offset,
            ident,
            ..ip::v4_header(src_v4, dst_v4, protocol, payload.len())
        };
        let mut bytes = vec![0; 20];
        let _ = header.emit(&mut bytes);
        bytes.extend_from_slice(&payload);
        ip::frame(mac(to), MAC, &bytes)
    }

    /// A datagram for a port that is open or not, from nobody.
    fn datagram(&mut self, to: usize) -> Vec<u8> {
        let payload = self.bytes(1000);
        let (src, dst) = (ip::stranger(9, self.six), ip::address(to, self.six));
        let mut datagram = vec![0; 8];
        let ports = [7, 80, 30_000, 9999];
        let dst_port = base::Port(ports[self.rng.below(4) as usize]);
        // Port 9 of nobody: the echo goes to a MAC that nobody has.
        let udp = UdpHeader { src_port: base::Port(9), dst_port, payload_len: payload.len() as u16 };
        let _ = udp.emit(&mut datagram);
        datagram.extend_from_slice(&payload);
        let pseudo = wire::checksum::pseudo(src, dst, IpProtocol::UDP, datagram.len() as u32);
        let _ = wire::udp::fill_checksum(&mut datagram, pseudo);
        packet(to, &ip::packet(src, dst, IpProtocol::UDP, &datagram))
    }

    /// A SYN from somebody who will not answer.
    fn syn(&mut self, to: usize) -> Vec<u8> {
        self.syns += 1;
        let src = ip::stranger(self.rng.below(250) as u8 + 1, self.six);
        let ports = (1000 + self.rng.below(50_000) as u16, 80);
        self.tcp((src, ip::address(to, self.six)), ports, TcpFlags::SYN, to)
    }

    /// A segment of the connection of `plan`, its numbers guessed.
    fn segment(&mut self, plan: &StreamPlan, number: usize) -> (usize, Vec<u8>) {
        let port = 20_000 + number as u16;
        let flags = [
            TcpFlags::RST,
            TcpFlags::RST | TcpFlags::ACK,
            TcpFlags::SYN,
            TcpFlags::SYN | TcpFlags::ACK,
            TcpFlags::FIN | TcpFlags::ACK,
            TcpFlags::ACK,
            TcpFlags::ACK | TcpFlags::PSH,
            TcpFlags::ALL,
            TcpFlags::NONE,
        ][self.rng.below(9) as usize];
        if self.rng.below(2) == 0 {
            let ends = (ip::address(plan.client, self.six), ip::address(plan.server, self.six));
            (plan.server, self.tcp(ends, (port, 80), flags, plan.server))
        } else {
            // A SYN to who has just sent one is a simultaneous open (RFC 9293 3.5, figure 7): who knows the ports can spoil
            // a handshake with it, here as anywhere. So it has an ACK, which must be right.
            let flags = if flags == TcpFlags::SYN { TcpFlags::SYN | TcpFlags::ACK } else { flags };
            let ends = (ip::address(plan.server, self.six), ip::address(plan.client, self.six));
            (plan.client, self.tcp(ends, (80, port), flags, plan.client))
        }
    }

    fn tcp(
        &mut self,
        (src, dst): (IpAddress, IpAddress),
        ports: (u16, u16),
        flags: TcpFlags,
        to: usize,
    ) -> Vec<u8> {
        let tcp = TcpHeader {
            src_port: base::Port(ports.0),
            dst_port: base::Port(ports.1),
            seq: SeqNum(self.rng.next_u64() as u32),
            ack: SeqNum(self.rng.next_u64() as u32),
            flags,
            window: self.rng.next_u64() as u16,
            urgent: 0,
        };
        let mut segment = vec![0; 20];
        let _ = tcp.emit(&TcpOptions::NONE, &mut segment);
        segment.extend_from_slice(&self.bytes(if flags == TcpFlags::SYN { 0 } else { 300 }));
        let pseudo = wire::checksum::pseudo(src, dst, IpProtocol::TCP, segment.len() as u32);
        let _ = wire::tcp::fill_checksum(&mut segment, pseudo);
        packet(to, &ip::packet(src, dst, IpProtocol::TCP, &segment))
    }

    /// An ICMP error about a segment of the connection of `plan`, its sequence number guessed.
    fn icmp(&mut self, plan: &StreamPlan, number: usize) -> (usize, Vec<u8>) {
        let (client, server) = (ip::address(plan.client, self.six), ip::address(plan.server, self.six));
        let quoted = self.tcp((client, server), (20_000 + number as u16, 80), TcpFlags::ACK, plan.server);
        let code = self.rng.below(5) as u8;
        let mut message = vec![0; 8];
        let next_hop_mtu = [0, 68, 576, 1400][self.rng.below(4) as usize];
        let protocol = if self.six {
            let too_big = code == wire::icmp6::unreachable::PORT;
            let header = match too_big {
                true => Icmp6Header::PacketTooBig { mtu: next_hop_mtu.into() },
                false => Icmp6Header::Unreachable { code },
            };
            let _ = header.emit(&mut message);
            message.extend(quoted.iter().skip(14).take(60));
            let pseudo = wire::checksum::pseudo(server, client, IpProtocol::ICMP6, message.len() as u32);
            let _ = wire::icmp6::fill_checksum(&mut message, pseudo);
            IpProtocol::ICMP6
        } else {
            let _ = Icmp4Header::Unreachable { code, next_hop_mtu }.emit(&mut message);
            message.extend(quoted.iter().skip(14).take(28));
            let _ = wire::icmp4::fill_checksum(&mut message);
            IpProtocol::ICMP4
        };
        (plan.client, packet(plan.client, &ip::packet(server, client, protocol, &message)))
    }
}

/// `packet` to host `to`. One that pretends to come from a host comes by the same way as that host's, as through a common gateway.
fn packet(to: usize, packet: &[u8]) -> Vec<u8> {
    let framed = ip::frame(mac(to), MAC, packet);
    let claimed = IpView::parse(&framed).ok().and_then(|ip| ip::host_of(ip.src));
    ip::frame(mac(to), claimed.map_or(MAC, mac), packet)
}

fn link(to: usize, ethertype: EtherType, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 14];
    let _ = EthHeader { dst: mac(to), src: MAC, ethertype }.emit(&mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}
