//! Another implementation (etherparse) reads the same fields, accepts the same packets and computes the same checksums.
#![allow(clippy::unwrap_used, reason = "a helper of tests fails its test by panicking")]

mod frames;

use base::Rng;
use etherparse::{
    Ethernet2HeaderSlice, Icmpv4Slice, Icmpv6Slice, Ipv4HeaderSlice, Ipv6HeaderSlice, TcpHeaderSlice,
};
use etherparse::{TcpOptionElement, UdpHeaderSlice};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use wire::*;

/// Both read the same from `bytes`, taken for a TCP segment.
fn compare_tcp(bytes: &[u8]) {
    let (ours, theirs) = (TcpSegment::parse(bytes), TcpHeaderSlice::from_slice(bytes));
    assert_eq!(ours.is_ok(), theirs.is_ok(), "{bytes:02x?}");
    let (Ok(ours), Ok(theirs)) = (ours, theirs) else { return };
    assert_eq!((ours.src_port().0, ours.dst_port().0), (theirs.source_port(), theirs.destination_port()));
    assert_eq!((ours.seq().0, ours.ack().0), (theirs.sequence_number(), theirs.acknowledgment_number()));
    assert_eq!((ours.window(), ours.urgent()), (theirs.window_size(), theirs.urgent_pointer()));
    assert_eq!((ours.checksum(), ours.options()), (theirs.checksum(), theirs.options()));
    let flags = ours.flags();
    assert_eq!((flags.is_syn(), flags.is_ack()), (theirs.syn(), theirs.ack()));
    assert_eq!((flags.is_rst(), flags.is_fin()), (theirs.rst(), theirs.fin()));
    assert_eq!(flags.contains(TcpFlags::AE), theirs.ns());
    compare_options(&ours, &theirs);
}

/// Both read the same options, as far as the other implementation finds them well formed.
fn compare_options(ours: &TcpSegment<'_>, theirs: &TcpHeaderSlice<'_>) {
    let ours = TcpOptions::parse(ours.options());
    let mut expected = TcpOptions::NONE;
    for element in theirs.options_iterator() {
        match element {
            Ok(TcpOptionElement::Noop) => {}
            Ok(TcpOptionElement::MaximumSegmentSize(mss)) => expected.mss = Some(mss),
            Ok(TcpOptionElement::WindowScale(shift)) => expected.window_scale = Some(shift.min(14)),
            Ok(TcpOptionElement::SelectiveAcknowledgementPermitted) => expected.sack_permitted = true,
            Ok(TcpOptionElement::Timestamp(value, echo)) => {
                expected.timestamps = Some(Timestamps { value, echo })
            }
            Ok(TcpOptionElement::SelectiveAcknowledgement(first, rest)) => {
                expected.sack = SackBlocks::NONE;
                for (left, right) in [Some(first)].into_iter().chain(rest).flatten() {
                    expected.sack.push(SackBlock { left: base::SeqNum(left), right: base::SeqNum(right) });
                }
            }
            // The other implementation stops at kinds it does not know; ours goes on.
            Err(_) => return,
        }
    }
    assert_eq!(ours, expected);
}

fn compare_ipv4(bytes: &[u8]) {
    let theirs = Ipv4HeaderSlice::from_slice(bytes);
    let ours = Ipv4Packet::parse_quoted(bytes);
    assert_eq!(ours.is_ok(), theirs.is_ok(), "{bytes:02x?}");
    let (Ok(ours), Ok(theirs)) = (ours, theirs) else { return };
    assert_eq!((ours.src(), ours.dst()), (theirs.source_addr(), theirs.destination_addr()));
    assert_eq!((ours.ttl(), ours.protocol().0), (theirs.ttl(), theirs.protocol().0));
    assert_eq!((ours.ident(), ours.total_len()), (theirs.identification(), usize::from(theirs.total_len())));
    assert_eq!(
        (ours.dont_fragment(), ours.more_fragments()),
        (theirs.dont_fragment(), theirs.more_fragments())
    );
    assert_eq!(u32::from(ours.fragment_offset()), u32::from(theirs.fragments_offset().value()) * 8);
    assert_eq!((ours.options(), ours.ecn().bits()), (theirs.options(), theirs.ecn().value()));
    // The other implementation drops the reserved flag before it sums.
    if bytes[6] & 0x80 != 0 {
        return;
    }
    let right = theirs.to_header().calc_header_checksum() == theirs.header_checksum();
    let len_ok = ours.total_len() >= ours.header_len();
    assert_eq!(Ipv4Packet::parse_head(bytes, 65_535).is_ok(), right && len_ok);
}

fn compare_ipv6(bytes: &[u8]) {
    let (ours, theirs) = (Ipv6Packet::parse_quoted(bytes), Ipv6HeaderSlice::from_slice(bytes));
    assert_eq!(ours.is_ok(), theirs.is_ok(), "{bytes:02x?}");
    let (Ok(ours), Ok(theirs)) = (ours, theirs) else { return };
    assert_eq!((ours.src(), ours.dst()), (theirs.source_addr(), theirs.destination_addr()));
    assert_eq!(
        (ours.traffic_class(), ours.flow_label()),
        (theirs.traffic_class(), theirs.flow_label().value())
    );
    assert_eq!((ours.next_header().0, ours.hop_limit()), (theirs.next_header().0, theirs.hop_limit()));
    assert_eq!(ours.payload_len(), usize::from(theirs.payload_length()));
}

fn compare_rest(bytes: &[u8]) {
    if let (Ok(ours), Ok(theirs)) = (EthFrame::parse(bytes), Ethernet2HeaderSlice::from_slice(bytes)) {
        assert_eq!((ours.dst().0, ours.src().0), (theirs.destination(), theirs.source()));
        assert_eq!(ours.ethertype().0, theirs.ether_type().0);
    }
    if let (Ok(ours), Ok(theirs)) = (UdpDatagram::parse_quoted(bytes), UdpHeaderSlice::from_slice(bytes)) {
        assert_eq!((ours.src_port().0, ours.dst_port().0), (theirs.source_port(), theirs.destination_port()));
        assert_eq!((ours.len_bytes(), ours.checksum()), (usize::from(theirs.length()), theirs.checksum()));
    }
    if let (Ok(ours), Ok(theirs)) = (Icmp4Message::parse(bytes), Icmpv4Slice::from_slice(bytes)) {
        let theirs_ok = Sum::of(bytes).is_valid();
        assert_eq!(ours.checksum_ok(), theirs_ok);
        let mut out = [0; 8];
        ours.header().emit(&mut out).unwrap();
        assert_eq!((out[0], out[1]), (theirs.type_u8(), theirs.code_u8()));
    }
}

fn compare_all(bytes: &[u8]) {
    compare_tcp(bytes);
    compare_ipv4(bytes);
    compare_ipv6(bytes);
    compare_rest(bytes);
}

#[test]
fn both_read_damaged_kernel_frames_alike() {
    let mut rng = Rng::new(2);
    for hex in frames::ALL {
        let whole = frames::bytes(hex);
        for turn in 0..1000 {
            let mut frame = whole.clone();
            for _ in 0..turn % 4 {
                let at = rng.below(frame.len() as u64) as usize;
                frame[at] = rng.next_u64() as u8;
            }
            for start in [0, 14, 34, 54] {
                compare_all(frame.get(start..).unwrap_or_default());
            }
        }
    }
}

#[test]
fn both_find_the_same_icmp6_checksums_right() {
    for hex in [frames::ECHO6_REQUEST, frames::NEIGHBOUR_ADVERTISEMENT, frames::PORT6_UNREACHABLE] {
        let frame = frames::bytes(hex);
        let packet = Ipv6Packet::parse(&frame[14..]).unwrap();
        let (src, dst) = (packet.src(), packet.dst());
        for bit in 0..=packet.payload().len() * 8 {
            let mut message = packet.payload().to_vec();
            if let Some(byte) = message.get_mut(bit / 8) {
                *byte ^= 1 << (bit % 8);
            }
            let theirs = Icmpv6Slice::from_slice(&message).unwrap();
            let theirs = theirs.is_checksum_valid(src.octets(), dst.octets());
            let pseudo = checksum::pseudo_v6(src, dst, IpProtocol::ICMP6, message.len() as u32);
            assert_eq!(Icmp6Message::parse(&message).unwrap().checksum_ok(pseudo), theirs);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, rng_seed: RngSeed::Fixed(8200), ..ProptestConfig::default() })]

    #[test]
    fn both_read_arbitrary_bytes_alike(mut bytes in prop::collection::vec(any::<u8>(), 0..120), version in 0..16_u8) {
        if let Some(first) = bytes.first_mut() {
            *first = (if version % 2 == 0 { 0x40 } else { 0x60 }) | (*first & 0xf);
        }
        compare_all(&bytes);
    }

    #[test]
    fn both_write_the_same_tcp_checksum(payload in prop::collection::vec(any::<u8>(), 0..300), seq: u32, src: [u8; 4], dst: [u8; 4]) {
        let theirs = etherparse::TcpHeader::new(1, 2, seq, 3);
        let expected = theirs.calc_checksum_ipv4_raw(src, dst, &payload).unwrap();
        let header = TcpHeader { src_port: base::Port(1), dst_port: base::Port(2), seq: base::SeqNum(seq), window: 3, ..TcpHeader::default() };
        let mut out = vec![0; 20 + payload.len()];
        header.emit(&TcpOptions::NONE, &mut out).unwrap();
        out[20..].copy_from_slice(&payload);
        let pseudo = checksum::pseudo_v4(src.into(), dst.into(), IpProtocol::TCP, out.len() as u16);
        tcp::fill_checksum(&mut out, pseudo).unwrap();
        prop_assert_eq!(TcpSegment::parse(&out).unwrap().checksum(), expected);
    }
}
