//! ICMP for IPv4 (RFC 792, RFC 1122 3.2.2, RFC 1812 4.3): echo is answered, errors are sent, at a limited rate, and
//! received errors are handed to the transport they are about. Only where the address is ours alone; else the kernel does it.
//!
//! Left out: redirects, timestamps and router discovery, which a host may ignore.

use core::net::Ipv4Addr;

use base::{Duration, Instant, IpAddress, MacAddr};
use state::ports::PORT_OWN_ADDRESS;
use state::{DropReason, Endpoint, FlowKey, LaneMem};
use wire::icmp4::{self, unreachable};
use wire::{Icmp4Header, Icmp4Message, IpProtocol, Ipv4Packet, UdpDatagram};

use crate::errors::SockError;
use crate::ip::Out;
use crate::ipv4::{self, Packet};
use crate::outbox::{self, Note};
use crate::{away, ip, packet, tcp, udp};

/// ICMP errors sent a second at most (RFC 1812 4.3.2.8; the figure is Linux's icmp_msgs_per_sec).
const ERRORS_A_SECOND: u64 = 1000;
/// ICMP errors sent at once at most (Linux's icmp_msgs_burst).
const ERRORS_AT_ONCE: u32 = 50;
/// Longest IP packet that is an error, bytes (RFC 1812 4.3.2.3).
const ERROR_BYTES: usize = 576;
/// Code of Time Exceeded: not all fragments came in time.
const FRAGMENTS_LATE: u8 = 1;
/// Precedence "internetwork control" (RFC 1812 4.3.2.5).
const ERROR_TOS: u8 = 0xc0;

/// What an ICMP error says of a packet of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It did not arrive, and may the next time (RFC 1122 4.2.3.9: a soft error).
    Soft(SockError),
    /// Nor will the next one (a hard error).
    Hard(SockError),
    /// The packet is too long for a link; that link's MTU in bytes, 0 if the router did not say.
    TooBig(u16),
}

/// An ICMP error about a packet that we sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// What the packet carried.
    pub(crate) protocol: IpProtocol,
    /// Our end.
    pub(crate) local: Endpoint,
    /// The other end.
    pub(crate) remote: Endpoint,
    /// The 32 bits behind the ports: TCP's sequence number.
    pub(crate) word: u32,
    /// What happened to it.
    pub(crate) fault: Fault,
}

impl Report {
    /// The connection it is about.
    pub(crate) const fn key(&self) -> FlowKey {
        FlowKey {
            local: self.local.addr,
            remote: self.remote.addr,
            local_port: self.local.port,
            remote_port: self.remote.port,
        }
    }
}

/// Takes the ICMP message `whole`. An error about TCP is for the caller; all others are dealt with here.
pub(crate) fn input(mem: &mut LaneMem<'_>, whole: Packet) -> Option<Report> {
    let at = usize::from(whole.l4_offset);
    let summed = packet::sum(&mem.frames, whole.head, at, whole.l4_bytes as usize);
    let header =
        Icmp4Message::parse(mem.frames.data(whole.head).get(at..).unwrap_or(&[])).map(|m| m.header());
    // RFC 1122 3.2.2: a message with a wrong checksum, or of a type we do not know, is dropped.
    let (Ok(header), true) = (header, summed.is_some_and(|s| s.is_valid())) else {
        return discard(mem, &whole, DropReason::IcmpMalformed);
    };
    if let Icmp4Header::EchoRequest { .. } = header {
        if ipv4::is_own(mem, whole.port) {
            echo(mem, whole);
            return None;
        }
        return discard(mem, &whole, DropReason::IcmpIgnored);
    }
    let report = fault_of(&header).and_then(|fault| parse_quoted(mem, &whole, fault));
    hand_on(mem, &whole, report)
}

/// What came of the message `whole`: a report for UDP is dealt with, one about another transport is the caller's.
pub(crate) fn hand_on(mem: &mut LaneMem<'_>, whole: &Packet, report: Option<Report>) -> Option<Report> {
    let Some(report) = report else { return discard(mem, whole, DropReason::IcmpIgnored) };
    if is_of_another(mem, whole, &report) {
        return None;
    }
    mem.frames.release_chain(whole.head);
    match report.protocol {
        IpProtocol::UDP => {
            udp::handle_report(mem, &report);
            None
        }
        _ => Some(report),
    }
}

/// Hands `whole` over if `report` is about a connection that another lane has.
fn is_of_another(mem: &mut LaneMem<'_>, whole: &Packet, report: &Report) -> bool {
    let key = report.key();
    report.protocol == IpProtocol::TCP && !tcp::knows(mem, &key) && away::hand_over(mem, whole, &key)
}

pub(crate) fn discard(mem: &mut LaneMem<'_>, whole: &Packet, reason: DropReason) -> Option<Report> {
    mem.frames.release_chain(whole.head);
    mem.counters.drop_packet(reason);
    None
}

/// RFC 1122 3.2.2.1, RFC 1812 5.2.7.1, RFC 1191 4: what the messages mean for a transport; as Linux maps them to errno (icmp_err_convert).
fn fault_of(header: &Icmp4Header) -> Option<Fault> {
    use Fault::{Hard, Soft};
    match *header {
        Icmp4Header::Unreachable { code, next_hop_mtu } => match code {
            unreachable::NETWORK | 11 => Some(Soft(SockError::NetUnreachable)),
            unreachable::HOST | 12 => Some(Soft(SockError::HostUnreachable)),
            unreachable::PROTOCOL => Some(Hard(SockError::NoProtocol)),
            unreachable::PORT => Some(Hard(SockError::Refused)),
            unreachable::FRAGMENTATION_NEEDED => Some(Fault::TooBig(next_hop_mtu)),
            5 => Some(Soft(SockError::Unsupported)),
            6 | 9 => Some(Hard(SockError::NetUnreachable)),
            7 => Some(Hard(SockError::HostDown)),
            8 => Some(Hard(SockError::NoNetwork)),
            10 | 13..=15 => Some(Hard(SockError::HostUnreachable)),
            _ => None,
        },
        // RFC 792: code 1 is about a fragment, which says nothing of the way.
        Icmp4Header::TimeExceeded { code } => {
            (code != FRAGMENTS_LATE).then_some(Soft(SockError::HostUnreachable))
        }
        Icmp4Header::ParameterProblem { .. } => Some(Hard(SockError::Protocol)),
        Icmp4Header::EchoReply { .. }
        | Icmp4Header::EchoRequest { .. }
        | Icmp4Header::Redirect { .. }
        | Icmp4Header::Other { .. } => None,
    }
}

/// The ends of the quoted packet, if it can have been one of ours.
fn parse_quoted(mem: &LaneMem<'_>, whole: &Packet, fault: Fault) -> Option<Report> {
    let bytes = mem.frames.data(whole.head).get(usize::from(whole.l4_offset) + icmp4::HEADER_LEN..)?;
    let quoted = Ipv4Packet::parse_quoted(bytes).ok()?;
    if quoted.fragment_offset() != 0 {
        return None;
    }
    let local = IpAddress::from_v4(quoted.src());
    // The quoted source is the address the error came to: else it is not about a packet of ours.
    if local != whole.dst {
        return None;
    }
    let ports = UdpDatagram::parse_quoted(quoted.payload()).ok()?;
    let word = quoted.payload().get(4..).and_then(|b| b.first_chunk::<4>()).copied()?;
    Some(Report {
        protocol: quoted.protocol(),
        local: Endpoint { addr: local, port: ports.src_port() },
        remote: Endpoint { addr: IpAddress::from_v4(quoted.dst()), port: ports.dst_port() },
        word: u32::from_be_bytes(word),
        fault,
    })
}

/// Sends an echo request back as the reply (RFC 1122 3.2.2.6), in the frames it came in.
fn echo(mem: &mut LaneMem<'_>, whole: Packet) {
    let Some((from, to)) = whole.v4() else {
        mem.frames.release_chain(whole.head);
        return;
    };
    let Some(info) = ipv4::port_info(mem, whole.port) else {
        mem.frames.release_chain(whole.head);
        return;
    };
    let (mac, mtu) = (info.mac, info.mtu);
    if let Some(message) = strip(mem, &whole) {
        turn_to_reply(message);
    }
    send_back(mem, &whole, Out { tos: whole.tos, ..out(to, from) }, (mac, mtu));
}

/// The headers of an ICMP message.
const fn out(src: Ipv4Addr, dst: Ipv4Addr) -> Out {
    let (src, dst) = (IpAddress::from_v4(src), IpAddress::from_v4(dst));
    let (protocol, ttl) = (IpProtocol::ICMP4, ipv4::DEFAULT_TTL);
    Out { src, dst, protocol, tos: 0, ttl, dont_fragment: true, label: 0 }
}

/// Takes options or extension headers out of the front of `whole`, whose headers are written anew: they move up to the message, which is
/// given as far as it lies in the first frame.
pub(crate) fn strip<'m>(mem: &'m mut LaneMem<'_>, whole: &Packet) -> Option<&'m mut [u8]> {
    let headers = ip::headers(whole.dst);
    let meta = mem.frames.meta_mut(whole.head)?;
    let between = whole.l4_offset.saturating_sub(headers as u16);
    meta.offset = meta.offset.saturating_add(between);
    meta.len = meta.len.saturating_sub(between);
    mem.frames.data_mut(whole.head).get_mut(headers..)
}

/// Sends the message of `whole` with the headers `out`, in the frames it came in, to where it came from; cut if need be.
pub(crate) fn send_back(mem: &mut LaneMem<'_>, whole: &Packet, out: Out, (mac, mtu): (MacAddr, u16)) {
    let len = whole.l4_bytes as u16;
    let fits = len <= mtu.saturating_sub(out.ip_bytes() as u16);
    let header = Out { dont_fragment: fits, ..out }.header(mem, len);
    header.emit(mem, whole.head, (mac, whole.src_mac));
    let note = Note::plain(whole.port);
    if fits {
        outbox::push(mem, whole.head, &note);
        return;
    }
    header.fragment(mem, whole.head, mtu, &note, |mem, part| {
        outbox::push_annotated(mem, part);
    });
}

/// Makes the echo request `message` the reply: the type changes, and the checksum with it (RFC 1624).
fn turn_to_reply(message: &mut [u8]) {
    let Some([kind, code, high, low, ..]) = message.first_chunk_mut::<8>() else { return };
    let old = u16::from_be_bytes([*kind, *code]);
    let check = wire::checksum::update_u16(u16::from_be_bytes([*high, *low]), old, 0);
    [*high, *low] = check.to_be_bytes();
    *kind = 0;
}

/// Sends the error `header` about the received packet `about`, which stays the caller's, if an error may be sent at all.
pub(crate) fn send_error(mem: &mut LaneMem<'_>, now: Instant, about: &Packet, header: Icmp4Header) {
    let Some((remote, local)) = about.v4() else { return };
    let Some(info) = ipv4::port_info(mem, about.port) else { return };
    let (mac, flags) = (info.mac, info.flags);
    // RFC 1122 3.2.2: never about an ICMP error; group addresses and later fragments do not get as far as here.
    let about_icmp = about.protocol == IpProtocol::ICMP4;
    if flags & PORT_OWN_ADDRESS == 0 || about_icmp {
        return;
    }
    if !take_token(mem, now) {
        mem.counters.drop_packet(DropReason::IcmpRateLimited);
        return;
    }
    // RFC 1812 4.3.2.3: as much of the packet as fits into 576 bytes.
    let out = Out { tos: ERROR_TOS, ..out(local, remote) };
    send_quoting(mem, about, (&out, mac), ERROR_BYTES, |message| {
        header.emit(message).is_ok() && icmp4::fill_checksum(message).is_ok()
    });
}

/// Sends an error of at most `most` bytes of IP packet that quotes `about`, with the headers `out`; `emit` writes the message's own
/// header in front of the quote.
pub(crate) fn send_quoting(
    mem: &mut LaneMem<'_>,
    about: &Packet,
    (out, mac): (&Out, MacAddr),
    most: usize,
    emit: impl FnOnce(&mut [u8]) -> bool,
) {
    let have = usize::from(about.l4_offset) - wire::eth::HEADER_LEN + about.l4_bytes as usize;
    let quote = have.min(most - out.ip_bytes() - icmp4::HEADER_LEN);
    let (headers, len) = (out.headers(), icmp4::HEADER_LEN + quote);
    let Some(frame) = packet::fresh(&mut mem.frames, headers + len) else { return };
    let at = mem.frames.meta(frame).map_or(0, |m| usize::from(m.offset)) + headers + icmp4::HEADER_LEN;
    let written =
        packet::copy_chain(&mut mem.frames, (about.head, wire::eth::HEADER_LEN), (frame, at), quote)
            && out.header(mem, len as u16).emit(mem, frame, (mac, about.src_mac))
            && mem.frames.data_mut(frame).get_mut(headers..).is_some_and(emit);
    if !written {
        mem.frames.release(frame);
        return;
    }
    outbox::push(mem, frame, &Note::plain(about.port));
}
const _: () = assert!(icmp4::HEADER_LEN == wire::icmp6::HEADER_LEN);

/// May one more error go out now?
pub(crate) fn take_token(mem: &mut LaneMem<'_>, now: Instant) -> bool {
    let passed = now.since(mem.ip.icmp_filled_at);
    let fill = passed.as_micros().saturating_mul(ERRORS_A_SECOND) / 1_000;
    let full = ERRORS_AT_ONCE * 1_000;
    if mem.ip.icmp_filled_at == Instant(0) || passed >= Duration::from_secs(1) {
        mem.ip.icmp_milli_tokens = full;
        mem.ip.icmp_filled_at = now;
    } else if fill > 0 {
        let sum = u64::from(mem.ip.icmp_milli_tokens).saturating_add(fill);
        mem.ip.icmp_milli_tokens = sum.min(u64::from(full)) as u32;
        mem.ip.icmp_filled_at = now;
    }
    match mem.ip.icmp_milli_tokens.checked_sub(1_000) {
        Some(rest) => {
            mem.ip.icmp_milli_tokens = rest;
            true
        }
        None => false,
    }
}
