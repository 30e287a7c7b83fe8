//! Fragments of IPv6 packets (RFC 8200 4.5, RFC 7112): what of them goes to reassembly, and what is refused.

use base::{Instant, MacAddr};
use state::{DropReason, LaneMem};
use wire::ipv6_ext::{self, Fragment, Start};
use wire::{IpProtocol, Ipv6Header};

use crate::icmp6;
use crate::ipv4::Packet;
use crate::reassembly::{self, Facts, PAYLOAD_MAX_V6, Span};

/// A fragment of an IPv6 packet.
#[derive(Clone, Copy)]
pub(crate) struct Part<'a> {
    pub(crate) header: &'a Ipv6Header,
    pub(crate) fragment: Fragment,
    pub(crate) dst_mac: MacAddr,
}

/// Takes the fragment `part`, whose transport header is its payload; gives the whole packet when this was the last one missing. Its
/// transport header is then what follows the fixed header, to be walked over.
pub(crate) fn input(mem: &mut LaneMem<'_>, now: Instant, part: &Packet, about: &Part<'_>) -> Option<Packet> {
    let Fragment { next_header, offset, more, ident } = about.fragment;
    let from = u32::from(offset);
    let span = Span { from, to: from + part.l4_bytes, last: !more };
    // RFC 8200 4.5: what is too long, or not a multiple of 8 bytes in the middle, is dropped, and the sender told which field says so.
    let problem = if more && !part.l4_bytes.is_multiple_of(8) {
        Some((icmp6::PAYLOAD_LENGTH_AT, wire::icmp6::parameter_problem::HEADER_FIELD))
    } else if span.to > PAYLOAD_MAX_V6 {
        let at = u32::from(part.l4_offset) - (wire::eth::HEADER_LEN + ipv6_ext::FRAGMENT_LEN) as u32 + 2;
        Some((at, wire::icmp6::parameter_problem::HEADER_FIELD))
    } else if from == 0 && !has_all_headers(mem, part, next_header) {
        // RFC 8200 4.5, RFC 7112 5: the first fragment has all headers up to the transport's, else filters see nothing.
        Some((0, icmp6::FIRST_FRAGMENT_INCOMPLETE))
    } else {
        None
    };
    if let Some((pointer, code)) = problem {
        icmp6::send_error(mem, now, part, wire::Icmp6Header::ParameterProblem { code, pointer });
        mem.frames.release_chain(part.head);
        mem.counters.drop_packet(DropReason::IpFragmentBad);
        return None;
    }
    // RFC 8200 4.5: fragments belong together by source, destination and identification; their next headers may differ.
    let part = Packet { protocol: IpProtocol::FRAGMENT, ..*part };
    let facts = Facts {
        id: ident,
        ttl: about.header.hop_limit,
        tos: about.header.traffic_class,
        next_header: next_header.0,
        dst_mac: about.dst_mac,
    };
    reassembly::take(mem, now, &part, (&facts, span, PAYLOAD_MAX_V6))
}

/// Are the headers of the packet whose first fragment is `part` all in it?
fn has_all_headers(mem: &LaneMem<'_>, part: &Packet, first: IpProtocol) -> bool {
    let bytes = mem.frames.data(part.head).get(usize::from(part.l4_offset)..).unwrap_or(&[]);
    let Ok(upper) = ipv6_ext::walk(first, bytes, Start::Reassembled) else { return false };
    let least = match upper.protocol {
        IpProtocol::TCP => wire::tcp::HEADER_LEN,
        IpProtocol::UDP | IpProtocol::ICMP6 => 8,
        _ => 0,
    };
    bytes.len() >= upper.offset + least
}
