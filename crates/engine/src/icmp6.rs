//! ICMP for IPv6 (RFC 4443): echo is answered, errors are sent, at a limited rate, and received errors are handed to the
//! transport they are about. Neighbour discovery is in `nd`. Only where the address is ours alone; else the kernel does it.

use base::{Instant, IpAddress};
use state::{DropReason, Endpoint, LaneMem};
use wire::icmp6::{self, unreachable};
use wire::ipv6_ext::{self, Start};
use wire::{
    EthFrame, Icmp6Header, Icmp6Message, IpProtocol, Ipv6Header, Ipv6Packet, UdpDatagram, checksum, ndp,
};

use crate::errors::SockError;
use crate::icmp::{Fault, Report, discard, hand_on, send_back, send_quoting, strip, take_token};
use crate::ipv4::{self, Packet};
use crate::{ip, ipv6, nd, packet};

/// Longest packet that is an error, bytes (RFC 4443 2.4 c).
const ERROR_BYTES: usize = wire::ipv6::MTU_MIN;

/// Where in the fixed header the payload length is.
pub(crate) const PAYLOAD_LENGTH_AT: u32 = 4;
/// Code of Parameter Problem: the first fragment does not have all headers (RFC 7112 5).
pub(crate) const FIRST_FRAGMENT_INCOMPLETE: u8 = 3;

/// Takes the ICMPv6 message `whole`. An error about TCP is for the caller; all others are dealt with here.
pub(crate) fn input(mem: &mut LaneMem<'_>, now: Instant, whole: Packet) -> Option<Report> {
    let at = usize::from(whole.l4_offset);
    let pseudo = checksum::pseudo(whole.src, whole.dst, IpProtocol::ICMP6, whole.l4_bytes);
    let summed = packet::sum(&mem.frames, whole.head, at, whole.l4_bytes as usize);
    let bytes = mem.frames.data(whole.head).get(at..).unwrap_or(&[]);
    // RFC 4443 2.3: a message with a wrong checksum is dropped.
    let (Ok(message), true) = (Icmp6Message::parse(bytes), summed.is_some_and(|s| s.plus(pseudo).is_valid()))
    else {
        return discard(mem, &whole, DropReason::IcmpMalformed);
    };
    let own = ipv4::is_own(mem, whole.port);
    if ndp::is_ndp(message.kind()) {
        if own {
            nd::input(mem, now, &whole);
            mem.frames.release_chain(whole.head);
            return None;
        }
        return discard(mem, &whole, DropReason::IcmpIgnored);
    }
    let header = message.header();
    if let Icmp6Header::EchoRequest { .. } = header {
        if own && whole.src.is_unicast() {
            echo(mem, &whole);
            return None;
        }
        return discard(mem, &whole, DropReason::IcmpIgnored);
    }
    let report = fault_of(&header).and_then(|fault| parse_quoted(mem, &whole, fault));
    hand_on(mem, &whole, report)
}

/// What the messages of RFC 4443 3 mean for a transport; as Linux maps them to errno (icmpv6_err_convert).
fn fault_of(header: &Icmp6Header) -> Option<Fault> {
    use Fault::{Hard, Soft};
    match *header {
        Icmp6Header::Unreachable { code } => Some(match code {
            unreachable::NO_ROUTE => Soft(SockError::NetUnreachable),
            unreachable::SCOPE | unreachable::ADDRESS => Soft(SockError::HostUnreachable),
            unreachable::PORT => Hard(SockError::Refused),
            unreachable::PROHIBITED | 5 | 6 => Hard(SockError::Access),
            _ => Hard(SockError::Protocol),
        }),
        Icmp6Header::PacketTooBig { mtu } => Some(Fault::TooBig(u16::try_from(mtu).unwrap_or(u16::MAX))),
        Icmp6Header::TimeExceeded { .. } => Some(Soft(SockError::HostUnreachable)),
        Icmp6Header::ParameterProblem { .. } => Some(Hard(SockError::Protocol)),
        Icmp6Header::EchoRequest { .. } | Icmp6Header::EchoReply { .. } | Icmp6Header::Other { .. } => None,
    }
}

/// The ends of the quoted packet, if it can have been one of ours.
fn parse_quoted(mem: &LaneMem<'_>, whole: &Packet, fault: Fault) -> Option<Report> {
    let bytes = mem.frames.data(whole.head).get(usize::from(whole.l4_offset) + icmp6::HEADER_LEN..)?;
    let quoted = Ipv6Packet::parse_quoted(bytes).ok()?;
    let upper = ipv6_ext::walk(quoted.next_header(), quoted.payload(), Start::FixedHeader).ok()?;
    if upper.fragment.is_some_and(|f| f.offset != 0) {
        return None;
    }
    let local = IpAddress::from_v6(quoted.src());
    // The quoted source is the address the error came to: else it is not about a packet of ours.
    if local != whole.dst {
        return None;
    }
    let transport = quoted.payload().get(upper.offset..)?;
    let ports = UdpDatagram::parse_quoted(transport).ok()?;
    let word = transport.get(4..).and_then(|b| b.first_chunk::<4>()).copied()?;
    Some(Report {
        protocol: upper.protocol,
        local: Endpoint { addr: local, port: ports.src_port() },
        remote: Endpoint { addr: IpAddress::from_v6(quoted.dst()), port: ports.dst_port() },
        word: u32::from_be_bytes(word),
        fault,
    })
}

/// Sends an echo request back as the reply (RFC 4443 4.2), in the frames it came in.
fn echo(mem: &mut LaneMem<'_>, whole: &Packet) {
    let source = ipv4::port_info(mem, whole.port).and_then(|info| {
        // RFC 4443 4.2: the answer to a question to a group comes from an address of the interface.
        let own =
            if whole.dst.is_unicast() { Some(whole.dst) } else { ipv6::source_for(info, whole.src.as_v6()) };
        own.map(|own| (own, info.mac, info.mtu))
    });
    let Some((own, mac, mtu)) = source else {
        mem.frames.release_chain(whole.head);
        return;
    };
    if let Some(message) = strip(mem, whole) {
        turn_to_reply(message, whole.dst, own);
    }
    send_back(mem, whole, out(own, whole.src), (mac, mtu));
}

/// The headers of an ICMPv6 message.
const fn out(src: IpAddress, dst: IpAddress) -> ip::Out {
    let (protocol, ttl) = (IpProtocol::ICMP6, ipv4::DEFAULT_TTL);
    ip::Out { src, dst, protocol, tos: 0, ttl, dont_fragment: false, label: 0 }
}

/// Makes the echo request `message` the reply: the type changes, perhaps the address `was` to `own`, and the checksum with them.
fn turn_to_reply(message: &mut [u8], was: IpAddress, own: IpAddress) {
    let Some([kind, code, high, low, ..]) = message.first_chunk_mut::<8>() else { return };
    let old = u16::from_be_bytes([*kind, *code]);
    let check = checksum::update_u16(u16::from_be_bytes([*high, *low]), old, 129 << 8);
    let check = if was == own { check } else { checksum::update_v6(check, was.as_v6(), own.as_v6()) };
    [*high, *low] = check.to_be_bytes();
    *kind = 129;
}

/// Sends the error `header` about the received packet `about`, which stays the caller's, if an error may be sent at all.
pub(crate) fn send_error(mem: &mut LaneMem<'_>, now: Instant, about: &Packet, header: Icmp6Header) {
    let Some(info) = ipv4::port_info(mem, about.port).filter(|_| ipv4::is_own(mem, about.port)) else {
        return;
    };
    // RFC 4443 2.4 e: never about an error or a redirect, nor to what is no single station; about a packet to a group only to say that it
    // was too big, or had an option that wants it.
    let to_group = matches!(header, Icmp6Header::PacketTooBig { .. })
        || matches!(header, Icmp6Header::ParameterProblem { code: icmp6::parameter_problem::OPTION, .. });
    let local = if about.dst.is_unicast() {
        Some(about.dst)
    } else {
        ipv6::source_for(info, about.src.as_v6()).filter(|_| to_group)
    };
    let Some(local) = local.filter(|_| about.src.is_unicast() && !is_about_error(mem, about)) else { return };
    let mac = info.mac;
    if !take_token(mem, now) {
        mem.counters.drop_packet(DropReason::IcmpRateLimited);
        return;
    }
    // RFC 4443 2.4 c: as much of the packet as fits into the least MTU.
    let out = out(local, about.src);
    send_quoting(mem, about, (&out, mac), ERROR_BYTES, |message| {
        let pseudo = out.pseudo(message.len() as u32);
        header.emit(message).is_ok() && icmp6::fill_checksum(message, pseudo).is_ok()
    });
}

/// Is `about` an ICMPv6 error, or a redirect?
fn is_about_error(mem: &LaneMem<'_>, about: &Packet) -> bool {
    if about.protocol != IpProtocol::ICMP6 {
        return false;
    }
    let bytes = mem.frames.data(about.head).get(usize::from(about.l4_offset)..).unwrap_or(&[]);
    bytes.first().is_none_or(|kind| *kind < 128 || *kind == 137)
}

/// The IPv6 header of `whole`, for who looks at more of it than a [`Packet`] has.
pub(crate) fn header_of(mem: &LaneMem<'_>, whole: &Packet) -> Option<Ipv6Header> {
    let eth = EthFrame::parse(mem.frames.data(whole.head)).ok()?;
    Ipv6Packet::parse_quoted(eth.payload()).ok().map(|ip| ip.header())
}
