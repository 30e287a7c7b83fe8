//! The usual segment: Ethernet, IPv4 without options, TCP with the aligned timestamps option and nothing else. Nearly every
//! segment of an established connection is one, so its three headers are read and written as one array.
//!
//! What is not exactly that is for the parsers of the single formats.

use core::net::Ipv4Addr;

use base::{MacAddr, Port, SeqNum};

use crate::bytes::{array, be16, be32, put, put16, put32};
use crate::checksum::{Sum, pseudo_v4, update_u16};
use crate::{IpProtocol, TcpFlags, Timestamps};

/// Bytes of the three headers.
pub const HEADER_LEN: usize = 66;
/// Bytes in front of the TCP header.
pub const TCP_AT: usize = 34;
/// Bytes of the TCP header with its option.
pub const TCP_LEN: usize = HEADER_LEN - TCP_AT;

/// EtherType IPv4, version and header length, any DSCP and ECN.
pub(crate) const IPV4_PLAIN: u32 = 0x0800_4500;
/// Two NOPs, kind and length of timestamps (RFC 7323 appendix A).
const TIMESTAMPS: u32 = 0x0101_080a;
pub(crate) const DONT_FRAGMENT: u16 = 0x4000;

/// Bytes of [`Usual::common`].
pub const COMMON: usize = 32;
/// Bytes of the IPv4 packet without payload.
const TOTAL_LEN_MIN: u16 = HEADER_LEN as u16 - 14;

/// Are the control bits ACK, and perhaps PSH and FIN, and is the option that of timestamps?
#[inline(always)]
const fn has_usual_bits(head: &[u8; HEADER_LEN]) -> bool {
    be16::<46, _>(head) & !(TcpFlags::PSH.0 | TcpFlags::FIN.0) == 0x8000 | TcpFlags::ACK.0
        && be32::<54, _>(head) == TIMESTAMPS
}

/// Addresses and ports of a usual segment, to compare.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ends {
    ports: u32,
    src: u32,
    dst: u32,
}

impl Ends {
    /// Those of the TCP segment at the front of `bytes`, whatever its options, in IPv4 without options.
    #[inline]
    #[must_use]
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let head = bytes.first_chunk::<54>()?;
        let is_tcp = be32::<12, _>(head) & 0xffff_ff00 == IPV4_PLAIN && head[23] == IpProtocol::TCP.0;
        is_tcp.then_some(Self {
            ports: be32::<34, _>(head),
            src: be32::<26, _>(head),
            dst: be32::<30, _>(head),
        })
    }

    /// Those of a segment with these words.
    #[inline(always)]
    pub(crate) const fn at(ports: u32, src: u32, dst: u32) -> Self {
        Self { ports, src, dst }
    }

    /// Source address.
    #[must_use]
    pub const fn src(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.src)
    }

    /// Destination address.
    #[must_use]
    pub const fn dst(&self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.dst)
    }

    /// Source and destination port.
    #[must_use]
    pub const fn ports(&self) -> (Port, Port) {
        (Port((self.ports >> 16) as u16), Port(self.ports as u16))
    }
}

/// The headers of a received usual segment.
#[derive(Clone, Copy, Debug)]
pub struct Usual<'a> {
    head: &'a [u8; HEADER_LEN],
}

impl<'a> Usual<'a> {
    /// The headers at the front of `bytes`, if they are those of a usual segment with a valid IPv4 header whose control bits
    /// are ACK, and perhaps PSH and FIN.
    #[inline]
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let head = bytes.first_chunk::<HEADER_LEN>()?;
        // A packet marked CE is none: it has something to tell (RFC 3168 6.1.3).
        let is_one = be32::<12, _>(head) & 0xffff_ff00 == IPV4_PLAIN
            && head[15] & 3 != 3
            && be16::<20, _>(head) & !DONT_FRAGMENT == 0
            && head[23] == IpProtocol::TCP.0
            && has_usual_bits(head);
        let usual = Self { head };
        (is_one && usual.ip_sum().is_valid() && usual.total_len() >= TOTAL_LEN_MIN).then_some(usual)
    }

    /// The headers at the front of `bytes`, if they are what [`Usual::parse`] takes, and like those of an earlier segment that gave
    /// `common` and, by [`Usual::common_sums`], `ip_sum`.
    #[inline(always)]
    #[must_use]
    pub fn like(bytes: &'a [u8], common: &[u8; COMMON], ip_sum: u16) -> Option<Self> {
        let head = bytes.first_chunk::<HEADER_LEN>()?;
        let alike = array::<0, 16, _>(head) == array::<0, 16, _>(common)
            && array::<26, 12, _>(head) == array::<16, 12, _>(common)
            && array::<20, 4, _>(head) == array::<28, 4, _>(common)
            && has_usual_bits(head);
        let others =
            Sum::of_native([array::<16, 2, _>(head), array::<18, 2, _>(head), array::<24, 2, _>(head)]);
        let usual = Self { head };
        (alike && others.plus_u16(ip_sum).is_valid() && usual.total_len() >= TOTAL_LEN_MIN).then_some(usual)
    }

    /// What the headers have in common with those of most other segments of the flow: Ethernet, and of IPv4 all but length,
    /// identification and checksum; ports.
    #[inline]
    #[must_use]
    pub fn common(&self) -> [u8; COMMON] {
        let mut common = [0; COMMON];
        put::<0, 16, _>(&mut common, array::<0, 16, _>(self.head));
        put::<16, 12, _>(&mut common, array::<26, 12, _>(self.head));
        put::<28, 4, _>(&mut common, array::<20, 4, _>(self.head));
        common
    }

    /// The folded sums of what is in [`Usual::common`] of the IPv4 header, and of the pseudo-header but for its length.
    #[inline]
    #[must_use]
    pub fn common_sums(&self) -> (u16, u16) {
        let ends = [be32::<26, _>(self.head), be32::<30, _>(self.head)];
        let ip = Sum::of_words(ends).plus_u16(be16::<14, _>(self.head)).plus_u32(be32::<20, _>(self.head));
        (ip.fold(), Sum::of_words(ends).plus_u16(IpProtocol::TCP.0.into()).fold())
    }

    /// [`Usual::pseudo`], of which all but the length has the folded sum `common`.
    #[inline(always)]
    #[must_use]
    pub const fn pseudo_like(&self, common: u16) -> Sum {
        Sum::of_words([common as u32, self.total_len() as u32 - 20])
    }

    /// The headers at the front of bytes that [`Usual::parse`] took before.
    #[inline]
    #[must_use]
    pub fn again(bytes: &'a [u8]) -> Option<Self> {
        bytes.first_chunk().map(|head| Self { head })
    }

    #[inline]
    fn ip_sum(&self) -> Sum {
        Sum::ZERO.plus_array(&array::<14, 20, _>(self.head))
    }

    /// Ethernet destination.
    #[inline]
    #[must_use]
    pub const fn dst_mac(&self) -> MacAddr {
        MacAddr(array::<0, 6, _>(self.head))
    }

    /// Ethernet source.
    #[inline]
    #[must_use]
    pub const fn src_mac(&self) -> MacAddr {
        MacAddr(array::<6, 6, _>(self.head))
    }

    /// Bytes of the IPv4 packet; at least its and the TCP header's.
    #[inline]
    #[must_use]
    pub const fn total_len(&self) -> u16 {
        be16::<16, _>(self.head)
    }

    /// The ECN field.
    #[inline]
    #[must_use]
    pub const fn ecn(&self) -> u8 {
        self.head[15] & 3
    }

    /// Source address.
    #[inline]
    #[must_use]
    pub const fn src(&self) -> Ipv4Addr {
        Ipv4Addr::from_octets(array::<26, 4, _>(self.head))
    }

    /// Destination address.
    #[inline]
    #[must_use]
    pub const fn dst(&self) -> Ipv4Addr {
        Ipv4Addr::from_octets(array::<30, 4, _>(self.head))
    }

    /// Source port.
    #[inline]
    #[must_use]
    pub const fn src_port(&self) -> Port {
        Port(be16::<34, _>(self.head))
    }

    /// Destination port.
    #[inline]
    #[must_use]
    pub const fn dst_port(&self) -> Port {
        Port(be16::<36, _>(self.head))
    }

    /// SEG.SEQ.
    #[inline]
    #[must_use]
    pub const fn seq(&self) -> SeqNum {
        SeqNum(be32::<38, _>(self.head))
    }

    /// SEG.ACK.
    #[inline]
    #[must_use]
    pub const fn ack(&self) -> SeqNum {
        SeqNum(be32::<42, _>(self.head))
    }

    /// Control bits: ACK, and perhaps PSH and FIN.
    #[inline]
    #[must_use]
    pub const fn flags(&self) -> TcpFlags {
        TcpFlags(be16::<46, _>(self.head) & TcpFlags::ALL.0)
    }

    /// SEG.WND as sent, not scaled.
    #[inline]
    #[must_use]
    pub const fn window(&self) -> u16 {
        be16::<48, _>(self.head)
    }

    /// The TCP checksum as received.
    #[inline]
    #[must_use]
    pub const fn checksum(&self) -> u16 {
        be16::<50, _>(self.head)
    }

    /// The timestamps.
    #[inline]
    #[must_use]
    pub const fn timestamps(&self) -> Timestamps {
        Timestamps { value: be32::<58, _>(self.head), echo: be32::<62, _>(self.head) }
    }

    /// Sum of the pseudo-header (RFC 9293 3.1).
    #[inline]
    #[must_use]
    pub const fn pseudo(&self) -> Sum {
        pseudo_v4(self.src(), self.dst(), IpProtocol::TCP, self.total_len() - 20)
    }
}

/// What the headers of a usual segment to be sent say.
#[derive(Clone, Copy, Debug)]
pub struct UsualHeader {
    /// Ethernet destination.
    pub dst_mac: MacAddr,
    /// Ethernet source.
    pub src_mac: MacAddr,
    /// DSCP and ECN.
    pub tos: u8,
    /// Time to live.
    pub ttl: u8,
    /// Own address.
    pub src: Ipv4Addr,
    /// The peer's address.
    pub dst: Ipv4Addr,
    /// Own port.
    pub src_port: Port,
    /// The peer's port.
    pub dst_port: Port,
    /// SEG.SEQ.
    pub seq: SeqNum,
    /// SEG.ACK.
    pub ack: SeqNum,
    /// Control bits.
    pub flags: TcpFlags,
    /// SEG.WND, scaled.
    pub window: u16,
    /// The timestamps.
    pub timestamps: Timestamps,
}

impl UsualHeader {
    /// Writes the headers of a packet that may not be fragmented, with `payload` bytes behind them (at most 65 483). The TCP
    /// checksum is left unfinished: it holds the pseudo-header's folded sum.
    #[inline]
    pub fn emit(&self, payload: u16, to: &mut [u8; HEADER_LEN]) {
        put_link(to, self.dst_mac, self.src_mac);
        put_ends(to, (self.src.octets(), self.src_port), (self.dst.octets(), self.dst_port));
        put_network(to, self.tos, self.ttl, payload);
        put_transport(to, self.seq, self.ack, self.flags, self.window);
        put_timestamps(to, self.timestamps);
    }
}

/// Bytes of the headers up to the ports.
pub const FRONT: usize = 38;

/// Writes the headers up to the ports of segments with `payload` bytes, for packets that may not be fragmented; gives their unfinished
/// TCP checksum. `link`: Ethernet destination and source. `ends`: own address and port, the peer's.
#[inline]
pub fn put_front(
    to: &mut [u8; FRONT],
    link: (MacAddr, MacAddr),
    (src, dst): (([u8; 4], Port), ([u8; 4], Port)),
    (tos, ttl): (u8, u8),
    payload: u16,
) -> u16 {
    put_link(to, link.0, link.1);
    put::<26, 4, _>(to, src.0);
    put::<30, 4, _>(to, dst.0);
    put16::<34, _>(to, src.1.0);
    put16::<36, _>(to, dst.1.0);
    put_ip(to, tos, ttl, TCP_LEN as u16 + payload)
}

/// Turns what [`put_front`] wrote, with the unfinished checksum `pseudo`, into that of segments with `payload` bytes.
#[inline]
pub fn resize_front(front: &mut [u8; FRONT], pseudo: u16, payload: u16) -> u16 {
    let (before, now) = (be16::<16, _>(front), TCP_LEN as u16 + payload + 20);
    put16::<16, _>(front, now);
    put16::<24, _>(front, update_u16(be16::<24, _>(front), before, now));
    // The lengths in the pseudo-header differ by as much.
    !update_u16(!pseudo, before, now)
}

/// Writes the headers up to the ports, and the unfinished TCP checksum.
#[inline(always)]
pub fn begin<const N: usize>(to: &mut [u8; N], front: &[u8; FRONT], pseudo: u16) {
    put::<0, FRONT, _>(to, *front);
    // The pointer to urgent data behind it is 0.
    put32::<50, _>(to, u32::from(pseudo) << 16);
}

// The parts of [`UsualHeader::emit`], for who has the values at hand one after the other: all at once do not fit the registers.
// Most are for headers of any length `N` in which the TCP header begins at `TCP_AT`.

/// Writes the Ethernet header, but for its type.
#[inline(always)]
pub fn put_link<const N: usize>(to: &mut [u8; N], dst: MacAddr, src: MacAddr) {
    put::<0, 6, _>(to, dst.0);
    put::<6, 6, _>(to, src.0);
}

/// Writes addresses and ports.
#[inline(always)]
pub fn put_ends<const N: usize>(
    to: &mut [u8; N],
    (src, src_port): ([u8; 4], Port),
    (dst, dst_port): ([u8; 4], Port),
) {
    put::<26, 4, _>(to, src);
    put::<30, 4, _>(to, dst);
    put32::<34, _>(to, u32::from(src_port.0) << 16 | u32::from(dst_port.0));
}

/// Writes the rest of the IPv4 header and the unfinished TCP checksum of a packet whose addresses are there.
#[inline(always)]
pub fn put_network<const N: usize>(to: &mut [u8; N], tos: u8, ttl: u8, payload: u16) {
    let pseudo = put_ip(to, tos, ttl, (N - TCP_AT) as u16 + payload);
    // The pointer to urgent data behind it is 0.
    put32::<50, _>(to, u32::from(pseudo) << 16);
}

/// Writes the rest of the IPv4 header of a packet whose addresses are there; gives the folded sum of its pseudo-header.
#[inline(always)]
fn put_ip<const N: usize>(to: &mut [u8; N], tos: u8, ttl: u8, tcp_bytes: u16) -> u16 {
    let (src, dst) = (be32::<26, _>(to), be32::<30, _>(to));
    let pseudo = Sum::of_words([src, dst, u32::from(IpProtocol::TCP.0) << 16 | u32::from(tcp_bytes)]);
    let first = u32::from(0x4500 | u16::from(tos)) << 16 | u32::from(tcp_bytes + 20);
    let third = u32::from(ttl) << 24 | u32::from(IpProtocol::TCP.0) << 16;
    // RFC 6864 4.1: of a packet that may not be fragmented the identification means nothing.
    let second = u32::from(DONT_FRAGMENT);
    let check = Sum::of_words([src, dst, first, second, third]).finish();
    put16::<12, _>(to, (IPV4_PLAIN >> 16) as u16);
    put32::<14, _>(to, first);
    put32::<18, _>(to, second);
    put32::<22, _>(to, third | u32::from(check));
    pseudo.fold()
}

/// Writes the TCP header, but for ports, checksum and options.
#[inline(always)]
pub fn put_transport<const N: usize>(
    to: &mut [u8; N],
    seq: SeqNum,
    ack: SeqNum,
    flags: TcpFlags,
    window: u16,
) {
    let words = ((N - TCP_AT) / 4) as u16;
    put32::<38, _>(to, seq.0);
    put32::<42, _>(to, ack.0);
    put32::<46, _>(to, u32::from(words << 12 | (flags.0 & TcpFlags::ALL.0)) << 16 | u32::from(window));
}

/// Writes the timestamps option.
#[inline(always)]
pub fn put_timestamps(to: &mut [u8; HEADER_LEN], timestamps: Timestamps) {
    put32::<54, _>(to, TIMESTAMPS);
    put32::<58, _>(to, timestamps.value);
    put32::<62, _>(to, timestamps.echo);
}

/// Turns `headers` of a segment to be sent into those of another one with as many bytes, beginning at `seq`.
#[inline(always)]
pub fn follow(headers: &mut [u8; HEADER_LEN], seq: SeqNum, flags: TcpFlags) {
    put32::<38, _>(headers, seq.0);
    put16::<46, _>(headers, 0x8000 | (flags.0 & TcpFlags::ALL.0));
}
