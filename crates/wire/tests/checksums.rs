//! The checksum agrees with RFC 1071 done word by word, whatever the pieces, and survives incremental updates.

use std::net::{Ipv4Addr, Ipv6Addr};

use base::{IpAddress, Rng};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use wire::checksum::{pseudo, pseudo_v4, pseudo_v6, update_u16, update_u32, update_v6};
use wire::{IpProtocol, Sum, udp};

/// RFC 1071 1, literally.
fn reference(bytes: &[u8]) -> u16 {
    let mut sum = 0_u64;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0));
    }
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

fn random_bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    (0..len).map(|_| rng.next_u64() as u8).collect()
}

#[test]
fn every_length_up_to_three_chunks_sums_right_at_every_alignment() {
    let bytes = random_bytes(300, 1);
    for start in 0..9 {
        for len in 0..200 {
            let slice = &bytes[start..start + len];
            assert_eq!(Sum::of(slice).fold(), reference(slice), "start {start}, length {len}");
        }
    }
}

#[test]
fn every_length_up_to_a_long_segment_sums_right_at_every_alignment() {
    let bytes = random_bytes(1700, 2);
    for start in 0..33 {
        for len in 200..1600 {
            let slice = &bytes[start..start + len];
            assert_eq!(Sum::of(slice).fold(), reference(slice), "start {start}, length {len}");
        }
    }
}

#[test]
fn all_ones_carry_right_over_a_whole_super_frame() {
    for len in [63, 64, 65, 1460, 65_535] {
        let bytes = vec![0xff; len];
        assert_eq!(Sum::of(&bytes).fold(), reference(&bytes));
    }
}

#[test]
fn nothing_but_zeros_has_no_valid_checksum() {
    assert_eq!(Sum::of(&[0; 40]).finish(), 0xffff);
    assert!(!Sum::of(&[0; 40]).is_valid());
    assert!(!Sum::ZERO.is_valid());
}

#[test]
fn a_mapped_address_sums_like_the_plain_one() {
    let (a, b) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 77));
    let plain = pseudo_v4(a, b, IpProtocol::TCP, 1234);
    let mapped = pseudo(IpAddress::from_v4(a), IpAddress::from_v4(b), IpProtocol::TCP, 1234);
    assert_eq!(plain.fold(), mapped.fold());
}

#[test]
fn pseudo_headers_sum_like_their_bytes() {
    let (a, b) = (Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 77));
    let mut bytes = [a.octets(), b.octets()].concat();
    bytes.extend([0, 17, 0x12, 0x34]);
    assert_eq!(pseudo_v4(a, b, IpProtocol::UDP, 0x1234).fold(), reference(&bytes));
    let (a, b) = (Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 3, 4, 5, 6), Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 9));
    let mut bytes = [a.octets(), b.octets()].concat();
    bytes.extend([0, 1, 0x12, 0x34, 0, 0, 0, 58]);
    assert_eq!(pseudo_v6(a, b, IpProtocol::ICMP6, 0x1_1234).fold(), reference(&bytes));
}

#[test]
fn a_udp_checksum_that_comes_out_as_zero_is_sent_as_all_ones() {
    // The last word is chosen so that the sum is ffff and its complement zero (RFC 768).
    let mut datagram = [0, 1, 0, 2, 0, 10, 0, 0, 0, 0];
    let partial = Sum::of(&datagram).fold();
    datagram[8..].copy_from_slice(&(0xffff - partial).to_be_bytes());
    udp::fill_checksum(&mut datagram, Sum::ZERO).unwrap();
    assert_eq!(&datagram[6..8], [0xff, 0xff]);
    assert!(wire::UdpDatagram::parse(&datagram).unwrap().checksum_ok(Sum::ZERO));
}

#[test]
fn an_unfinished_checksum_is_completed_by_summing_the_rest() {
    let (a, b) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
    let mut segment = random_bytes(97, 3);
    let pseudo = pseudo_v4(a, b, IpProtocol::TCP, 97);
    wire::tcp::set_checksum(&mut segment, pseudo.fold()).unwrap();
    let completed = Sum::of(&segment).finish();
    wire::tcp::fill_checksum(&mut segment, pseudo).unwrap();
    assert_eq!(segment[16..18], completed.to_be_bytes());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, rng_seed: RngSeed::Fixed(1071), ..ProptestConfig::default() })]

    #[test]
    fn pieces_of_any_length_sum_like_the_whole(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..150), 0..8)) {
        let whole = pieces.concat();
        let one_by_one = pieces.iter().fold(Sum::ZERO, |sum, piece| sum.plus_bytes(piece));
        let from_sums = pieces.iter().map(|piece| Sum::of(piece)).fold(Sum::ZERO, Sum::plus);
        prop_assert_eq!(one_by_one.fold(), reference(&whole));
        prop_assert_eq!(from_sums.fold(), reference(&whole));
    }

    #[test]
    fn an_update_equals_summing_anew(mut bytes in prop::collection::vec(any::<u8>(), 40..80), at in 0_usize..12, new: [u8; 16]) {
        let at = at * 2;
        // A packet always has a word that is not zero, so that the sum is not the other zero.
        bytes[38] = 1;
        let check = Sum::of(&bytes).finish();
        let old: [u8; 16] = bytes[at..at + 16].try_into().unwrap();
        let set = |bytes: &mut Vec<u8>, len: usize| {
            bytes[at..at + len].copy_from_slice(&new[..len]);
            Sum::of(bytes).finish()
        };
        let (o2, n2) = ([old[0], old[1]], [new[0], new[1]]);
        prop_assert_eq!(update_u16(check, u16::from_be_bytes(o2), u16::from_be_bytes(n2)), set(&mut bytes, 2));
        let (o4, n4) = (u32::from_be_bytes(old[..4].try_into().unwrap()), u32::from_be_bytes(new[..4].try_into().unwrap()));
        prop_assert_eq!(update_u32(check, o4, n4), set(&mut bytes, 4));
        prop_assert_eq!(update_v6(check, Ipv6Addr::from(old), Ipv6Addr::from(new)), set(&mut bytes, 16));
    }

    #[test]
    fn what_was_filled_in_is_valid(mut segment in prop::collection::vec(any::<u8>(), 20..1600), src: u32, dst: u32) {
        let pseudo = pseudo_v4(src.into(), dst.into(), IpProtocol::TCP, segment.len() as u16);
        wire::tcp::fill_checksum(&mut segment, pseudo).unwrap();
        prop_assert!(pseudo.plus_bytes(&segment).is_valid());
    }
}
