//! Where the two families differ for those above: the headers of a packet to be sent, its fragments, the pseudo-header, and the
//! errors that a received packet is answered with.

use base::{FrameIdx, Instant, IpAddress, MacAddr};
use state::{LaneMem, Reassembly};
use wire::{Icmp4Header, Icmp6Header, IpProtocol, Ipv4Header, Ipv6Header, Sum, checksum};

use crate::ipv4::{self, Packet};
use crate::outbox::Note;
use crate::{icmp, icmp6, ipv6};

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
                let out = ipv4::Out {
                    tos: self.tos,
                    ttl: self.ttl,
                    dont_fragment: self.dont_fragment,
                    ..ipv4::Out::new(src, dst, self.protocol)
                };
                Header::V4(out.header(len, ident))
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
    /// Writes Ethernet and IP header to the front of the packet `head`, whose data begins with room for them.
    pub(crate) fn emit(&self, mem: &mut LaneMem<'_>, head: FrameIdx, macs: (MacAddr, MacAddr)) -> bool {
        match self {
            Self::V4(header) => ipv4::emit_headers(mem, head, macs, header),
            Self::V6(header) => ipv6::emit_headers(mem, head, macs, header),
        }
    }

    /// Cuts `whole`, a packet with this header, into fragments of at most `mtu` bytes; see [`ipv4::fragment`].
    pub(crate) fn fragment(
        &self,
        mem: &mut LaneMem<'_>,
        whole: FrameIdx,
        mtu: u16,
        note: &Note,
        send: impl FnMut(&mut LaneMem<'_>, FrameIdx),
    ) -> bool {
        match self {
            Self::V4(header) => ipv4::fragment(mem, whole, (header, mtu), note, send),
            Self::V6(header) => ipv6::fragment(mem, whole, (header, mtu), note, send),
        }
    }
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
