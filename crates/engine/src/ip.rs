//! Where the two families differ for those above: the headers of a packet to be sent, its fragments, the pseudo-header, and the
//! errors that a received packet is answered with.

use base::{FrameIdx, Instant, IpAddress, MacAddr};
use state::{LaneMem, Reassembly};
use wire::ipv6_ext::{self, Fragment};
use wire::{
    EthFrame, EthHeader, EtherType, Icmp4Header, Icmp6Header, IpProtocol, Ipv4Header, Ipv6Header, Sum,
    checksum,
};

use crate::ipv4::{self, Packet};
use crate::outbox::{self, Note};
use crate::{icmp, icmp6, ipv6, packet};

/// Bytes of Ethernet and IP header in front of a packet's transport header, when it has neither options nor extension headers.
pub(crate) const HEADERS_MAX: usize = ipv6::HEADERS;

/// What the headers of a packet to be sent say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Out {
    /// Own address.
    pub(crate) src: IpAddress,
    /// Where it goes; of the family of `src`.
    pub(crate) dst: IpAddress,
    /// What it carries.
    pub(crate) protocol: IpProtocol,
    /// DSCP and ECN.
    pub(crate) tos: u8,
    /// Time to live, hop limit.
    pub(crate) ttl: u8,
    /// May routers not cut it? (Those of IPv6 never do.)
    pub(crate) dont_fragment: bool,
    /// Flow label of an IPv6 packet (RFC 6437).
    pub(crate) label: u32,
}

/// A header of either family.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Header {
    V4(Ipv4Header),
    V6(Ipv6Header),
}

impl Out {
    /// Bytes of Ethernet and IP header.
    pub(crate) const fn headers(&self) -> usize {
        headers(self.dst)
    }

    /// Bytes of the IP header.
    pub(crate) const fn ip_bytes(&self) -> usize {
        self.headers() - wire::eth::HEADER_LEN
    }

    /// Sum of the pseudo-header for `len` bytes of transport header and payload.
    pub(crate) fn pseudo(&self, len: u32) -> Sum {
        checksum::pseudo(self.src, self.dst, self.protocol, len)
    }

    /// The header of a whole packet with `len` bytes behind it, with an identification where the family has one.
    pub(crate) fn header(&self, mem: &mut LaneMem<'_>, len: u16) -> Header {
        match (self.src.as_v4(), self.dst.as_v4()) {
            (Some(src), Some(dst)) => {
                let ident = ipv4::next_ident(mem, self.dont_fragment);
                Header::V4(Ipv4Header {
                    traffic_class: self.tos,
                    payload_len: len,
                    ident,
                    dont_fragment: self.dont_fragment,
                    more_fragments: false,
                    fragment_offset: 0,
                    ttl: self.ttl,
                    protocol: self.protocol,
                    src,
                    dst,
                })
            }
            _ => Header::V6(Ipv6Header {
                traffic_class: self.tos,
                flow_label: self.label,
                payload_len: len,
                next_header: self.protocol,
                hop_limit: self.ttl,
                src: self.src.as_v6(),
                dst: self.dst.as_v6(),
            }),
        }
    }
}

/// Bytes of Ethernet and IP header of a packet to `dst`.
pub(crate) const fn headers(dst: IpAddress) -> usize {
    if dst.is_v4() { ipv4::HEADERS } else { ipv6::HEADERS }
}

impl Header {
    /// Bytes of Ethernet and IP header.
    const fn bytes(&self) -> usize {
        match self {
            Self::V4(_) => ipv4::HEADERS,
            Self::V6(_) => ipv6::HEADERS,
        }
    }

    /// Writes Ethernet and IP header to the front of the packet `head`, whose data begins with room for them. The MAC of the
    /// destination is `to`, or is filled in later by the hop.
    pub(crate) fn emit(&self, mem: &mut LaneMem<'_>, head: FrameIdx, (from, to): (MacAddr, MacAddr)) -> bool {
        let ethertype = match self {
            Self::V4(_) => EtherType::IPV4,
            Self::V6(_) => EtherType::IPV6,
        };
        let eth = EthHeader { dst: to, src: from, ethertype };
        let data = mem.frames.data_mut(head);
        let Some((front, rest)) = data.split_at_mut_checked(wire::eth::HEADER_LEN) else { return false };
        eth.emit(front).is_ok()
            && match self {
                Self::V4(header) => header.emit(rest).is_ok(),
                Self::V6(header) => header.emit(rest).is_ok(),
            }
    }

    /// Cuts `whole` (Ethernet header, this header without options or extensions, payload; it is released) into fragments of at
    /// most `mtu` bytes (RFC 791 3.2, RFC 8200 4.5), and gives each to `send` with its note. False: no frame, or no room: not all of
    /// them were sent.
    pub(crate) fn fragment(
        &self,
        mem: &mut LaneMem<'_>,
        whole: FrameIdx,
        mtu: u16,
        note: &Note,
        mut send: impl FnMut(&mut LaneMem<'_>, FrameIdx),
    ) -> bool {
        let (len, extension) = match self {
            Self::V4(header) => (usize::from(header.payload_len), 0),
            Self::V6(header) => (usize::from(header.payload_len), ipv6_ext::FRAGMENT_LEN),
        };
        let (from, front) = (self.bytes(), self.bytes() + extension);
        // Each fragment lies in one frame, also where the link would take a longer one.
        let room = usize::from(mtu).saturating_sub(front - wire::eth::HEADER_LEN);
        let step = room.min(packet::FRESH_BYTES - front) / 8 * 8;
        if step == 0 || !outbox::has_room(mem, len.div_ceil(step) as u32) {
            mem.frames.release_chain(whole);
            return false;
        }
        let macs = EthFrame::parse(mem.frames.data(whole))
            .map_or_else(|_| Default::default(), |e| (e.src(), e.dst()));
        let ident = match self {
            Self::V4(header) => u32::from(header.ident),
            Self::V6(_) => ipv6::next_ident(mem),
        };
        let mut sent = 0;
        let mut first = Note { csum_start: 0, csum_offset: 0, gso_size: 0, ..*note };
        while sent < len {
            let take = step.min(len - sent);
            let Some(frame) = cut(mem, (whole, from + sent), front, take) else { break };
            let part = Part { offset: sent as u16, bytes: take as u16, more: sent + take < len, ident };
            if !self.emit_part(mem, frame, macs, &part) {
                mem.frames.release(frame);
                break;
            }
            outbox::annotate(mem, frame, &first);
            first = Note::plain(note.port); // the first fragment carries what the packet counts against its socket
            send(mem, frame);
            sent += take;
        }
        mem.frames.release_chain(whole);
        sent == len
    }

    /// Writes the headers of the fragment `part` to the front of `frame`.
    fn emit_part(
        &self,
        mem: &mut LaneMem<'_>,
        frame: FrameIdx,
        macs: (MacAddr, MacAddr),
        part: &Part,
    ) -> bool {
        match self {
            Self::V4(header) => Self::V4(Ipv4Header {
                payload_len: part.bytes,
                fragment_offset: part.offset,
                more_fragments: part.more,
                dont_fragment: false,
                ..*header
            })
            .emit(mem, frame, macs),
            Self::V6(header) => {
                let outer = Ipv6Header {
                    payload_len: ipv6_ext::FRAGMENT_LEN as u16 + part.bytes,
                    next_header: IpProtocol::FRAGMENT,
                    ..*header
                };
                let Part { offset, more, ident, .. } = *part;
                let inner = Fragment { next_header: header.next_header, offset, more, ident };
                Self::V6(outer).emit(mem, frame, macs)
                    && mem
                        .frames
                        .data_mut(frame)
                        .get_mut(ipv6::HEADERS..)
                        .is_some_and(|to| inner.emit(to).is_ok())
            }
        }
    }
}

/// One of the fragments of a packet.
struct Part {
    /// Where its payload begins in that of the packet.
    offset: u16,
    /// Bytes of payload.
    bytes: u16,
    /// Are there later ones?
    more: bool,
    /// The packet's identification.
    ident: u32,
}

/// A fresh frame with `front` bytes of room for headers and a copy of `take` bytes of the packet `from.0` from byte `from.1` on.
fn cut(mem: &mut LaneMem<'_>, from: (FrameIdx, usize), front: usize, take: usize) -> Option<FrameIdx> {
    let frame = packet::fresh(&mut mem.frames, front + take)?;
    let to = usize::from(mem.frames.meta(frame)?.offset) + front;
    if !packet::copy_chain(&mut mem.frames, from, (frame, to), take) {
        mem.frames.release(frame);
        return None;
    }
    Some(frame)
}

/// The header of the whole packet that was put together in `row`, with `total` bytes behind it.
pub(crate) fn header_of(row: &Reassembly, total: u32, tos: u8) -> Header {
    if let (Some(src), Some(dst)) = (row.src.as_v4(), row.dst.as_v4()) {
        return Header::V4(Ipv4Header {
            traffic_class: tos,
            payload_len: total as u16,
            ident: row.id as u16,
            dont_fragment: false,
            more_fragments: false,
            fragment_offset: 0,
            ttl: row.ttl,
            protocol: IpProtocol(row.protocol),
            src,
            dst,
        });
    }
    Header::V6(Ipv6Header {
        traffic_class: tos,
        flow_label: 0,
        payload_len: total as u16,
        next_header: IpProtocol(row.next_header),
        hop_limit: row.ttl,
        src: row.src.as_v6(),
        dst: row.dst.as_v6(),
    })
}

/// Answers `about`, a datagram for a port where nobody listens (RFC 1122 4.1.3.1, RFC 4443 3.1).
pub(crate) fn port_unreachable(mem: &mut LaneMem<'_>, now: Instant, about: &Packet) {
    if about.dst.is_v4() {
        let header = Icmp4Header::Unreachable { code: wire::icmp4::unreachable::PORT, next_hop_mtu: 0 };
        return icmp::send_error(mem, now, about, header);
    }
    icmp6::send_error(mem, now, about, Icmp6Header::Unreachable { code: wire::icmp6::unreachable::PORT });
}

/// Tells the sender of `about`, the first fragment of a packet, that the others did not come in time (RFC 1122 3.3.2, RFC 8200 4.5).
pub(crate) fn reassembly_time_over(mem: &mut LaneMem<'_>, now: Instant, about: &Packet) {
    if about.dst.is_v4() {
        return icmp::send_error(mem, now, about, Icmp4Header::TimeExceeded { code: 1 });
    }
    icmp6::send_error(mem, now, about, Icmp6Header::TimeExceeded { code: 1 });
}
