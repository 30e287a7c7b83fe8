//! The walk over IPv6 extension headers: where it ends, and what it objects to.

use base::limits::IPV6_EXTENSIONS;
use wire::ipv6_ext::{ExtensionError, Fragment, Start, UpperLayer, walk};
use wire::{IpProtocol, Ipv6Packet};

const HOP: IpProtocol = IpProtocol::HOP_BY_HOP;
const DST: IpProtocol = IpProtocol::DESTINATION_OPTIONS;
const ROUTING: IpProtocol = IpProtocol::ROUTING;
const FRAGMENT: IpProtocol = IpProtocol::FRAGMENT;
const TCP: IpProtocol = IpProtocol::TCP;

fn from_header(first: IpProtocol, bytes: &[u8]) -> Result<UpperLayer, ExtensionError> {
    walk(first, bytes, Start::FixedHeader)
}

/// An options header of 8 bytes: next header, and 6 bytes of options.
fn options(next: IpProtocol, options: [u8; 6]) -> [u8; 8] {
    let [a, b, c, d, e, f] = options;
    [next.0, 0, a, b, c, d, e, f]
}

const PADDING: [u8; 6] = [1, 4, 0, 0, 0, 0];

#[test]
fn without_extension_headers_the_walk_ends_at_once() {
    let upper = from_header(TCP, &[]).unwrap();
    assert_eq!((upper.protocol, upper.offset, upper.next_header_at), (TCP, 0, 6));
}

#[test]
fn a_chain_of_all_kinds_is_walked() {
    let bytes = [
        options(ROUTING, [5, 2, 0, 0, 0, 0]),
        [DST.0, 0, 0, 0, 0, 0, 0, 0],
        options(TCP, [0x1e, 1, 9, 0, 0, 0]),
        [0; 8],
    ]
    .concat();
    let upper = from_header(HOP, &bytes).unwrap();
    assert_eq!((upper.protocol, upper.offset, upper.next_header_at), (TCP, 24, 56));
    assert!(upper.router_alert);
}

#[test]
fn the_walk_stops_at_a_fragment() {
    let fragment = Fragment { next_header: DST, offset: 1448, more: true, ident: 0xdead_beef };
    let mut bytes = [options(FRAGMENT, PADDING), [0; 8], [0xff; 8]].concat();
    assert_eq!(fragment.emit(&mut bytes[8..]), Ok(8));
    let upper = from_header(HOP, &bytes).unwrap();
    assert_eq!((upper.protocol, upper.offset, upper.fragment), (DST, 16, Some(fragment)));
    assert!(fragment.emit(&mut [0; 7]).is_err());
}

#[test]
fn an_atomic_fragment_is_walked_over() {
    let bytes = [[DST.0, 0, 0, 0, 1, 2, 3, 4], options(TCP, PADDING)].concat();
    let upper = from_header(FRAGMENT, &bytes).unwrap();
    assert_eq!((upper.protocol, upper.offset, upper.fragment), (TCP, 16, None));
}

#[test]
fn hop_by_hop_options_come_first_or_not_at_all() {
    let bytes = [options(HOP, PADDING), options(TCP, PADDING)].concat();
    assert_eq!(from_header(DST, &bytes), Err(ExtensionError::HopByHopMisplaced { pointer: 40 }));
    let reassembled = walk(HOP, &bytes, Start::Reassembled);
    assert_eq!(reassembled, Err(ExtensionError::HopByHopMisplaced { pointer: 6 }));
}

#[test]
fn a_routing_header_with_segments_left_is_refused_whatever_its_type() {
    for routing_type in [0, 2, 4, 253] {
        let bytes = [options(ROUTING, PADDING), [TCP.0, 0, routing_type, 1, 0, 0, 0, 0]].concat();
        assert_eq!(from_header(DST, &bytes), Err(ExtensionError::RoutingType { pointer: 50 }));
    }
}

#[test]
fn the_high_bits_of_an_unknown_option_say_what_to_do() {
    let one = |kind| from_header(DST, &options(TCP, [0, kind, 2, 0, 0, 0]));
    assert!(one(0x3f).is_ok());
    assert_eq!(one(0x7f), Err(ExtensionError::Discard));
    let told = |even_multicast| Err(ExtensionError::UnknownOption { pointer: 43, even_multicast });
    assert_eq!(one(0xbf), told(true));
    assert_eq!(one(0xff), told(false));
}

#[test]
fn a_header_or_option_beyond_the_end_is_truncated() {
    for bytes in
        [&[][..], &[6, 0, 1], &[6, 1, 1, 4, 0, 0, 0, 0], &[6, 0, 1, 5, 0, 0, 0, 0], &[6, 0, 0, 0, 0, 0, 0, 1]]
    {
        assert_eq!(from_header(DST, bytes), Err(ExtensionError::Truncated), "{bytes:?}");
    }
    assert_eq!(from_header(FRAGMENT, &[6, 0, 0, 0, 0, 0, 0]), Err(ExtensionError::Truncated));
}

#[test]
fn the_number_of_headers_and_options_is_limited() {
    let chain = |count: usize| {
        let mut bytes = options(DST, PADDING).repeat(count);
        bytes[8 * (count - 1)] = TCP.0;
        from_header(DST, &bytes)
    };
    assert_eq!(chain(IPV6_EXTENSIONS).unwrap().protocol, TCP);
    assert_eq!(chain(IPV6_EXTENSIONS + 1), Err(ExtensionError::TooMany));
    let many = |count: usize| {
        let mut bytes = vec![TCP.0, 2];
        bytes.extend([0x1e, 0].repeat(count));
        bytes.resize(24, 0);
        from_header(DST, &bytes)
    };
    assert!(many(IPV6_EXTENSIONS).is_ok());
    assert_eq!(many(IPV6_EXTENSIONS + 1), Err(ExtensionError::TooMany));
}

#[test]
fn a_payload_length_beyond_the_chain_is_refused() {
    let mut packet = [0; 60];
    packet[0] = 0x60;
    packet[5] = 20;
    assert_eq!(Ipv6Packet::parse(&packet).unwrap().payload().len(), 20);
    packet[5] = 21;
    assert!(Ipv6Packet::parse(&packet).is_err());
    assert_eq!(Ipv6Packet::parse_head(&packet, 61).unwrap().payload().len(), 20);
}
