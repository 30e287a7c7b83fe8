//! Whatever the bytes, nothing panics, and what is parsed stays within them.
#![allow(clippy::unwrap_used, reason = "a helper of tests fails its test by panicking")]

mod frames;

use base::Rng;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use wire::ipv6_ext::{Start, walk};
use wire::*;

/// Everything that can be asked of `bytes`, as whatever format.
fn ask_everything(bytes: &[u8], available: usize) {
    if let Ok(eth) = EthFrame::parse(bytes) {
        let _ = (eth.header(), Untagged::parse(&eth).map(|u| u.payload.len()));
    }
    let _ = ArpPacket::parse(bytes).map(|p| p.header());
    for packet in
        [Ipv4Packet::parse_head(bytes, available), Ipv4Packet::parse_quoted(bytes)].into_iter().flatten()
    {
        assert!(packet.header_len() + packet.payload().len() <= bytes.len());
        let _ = (packet.header(), packet.ecn(), packet.is_fragment());
    }
    for packet in
        [Ipv6Packet::parse_head(bytes, available), Ipv6Packet::parse_quoted(bytes)].into_iter().flatten()
    {
        assert!(40 + packet.payload().len() <= bytes.len());
        let _ = (packet.header(), walk(packet.next_header(), packet.payload(), Start::FixedHeader));
        if let Ok(message) = Icmp6Message::parse(packet.payload()) {
            let _ = NdpMessage::parse(&message, &Ipv6Header { hop_limit: 255, ..packet.header() });
        }
    }
    for first in [0, 43, 44, 60] {
        for start in [Start::FixedHeader, Start::Reassembled] {
            if let Ok(upper) = walk(IpProtocol(first), bytes, start) {
                assert!(upper.offset <= bytes.len());
            }
        }
    }
    for datagram in
        [UdpDatagram::parse_head(bytes, available), UdpDatagram::parse_quoted(bytes)].into_iter().flatten()
    {
        let _ = (datagram.header(), datagram.checksum_ok(Sum::ZERO));
    }
    if let Ok(segment) = TcpSegment::parse(bytes) {
        assert_eq!(segment.header_len() + segment.payload().len(), bytes.len());
        let options = TcpOptions::parse(segment.options());
        assert!(options.len_bytes() <= tcp_options::OPTIONS_LEN_MAX);
        let _ = (segment.header(), segment.checksum_ok(Sum::ZERO));
    }
    let _ = TcpOptions::parse(bytes);
    let _ = Icmp4Message::parse(bytes).map(|m| (m.header().is_error(), m.checksum_ok()));
    let _ = Icmp6Message::parse(bytes).map(|m| (m.header().is_error(), m.checksum_ok(Sum::ZERO)));
}

#[test]
fn damaged_kernel_frames_never_panic() {
    let mut rng = Rng::new(1);
    for hex in frames::ALL {
        let whole = frames::bytes(hex);
        for _ in 0..2000 {
            let mut frame = whole.clone();
            for _ in 0..=rng.below(4) {
                let at = rng.below(frame.len() as u64) as usize;
                frame[at] = rng.next_u64() as u8;
            }
            frame.truncate(rng.below(frame.len() as u64 + 1) as usize);
            for start in [0, 14, 34, 54] {
                ask_everything(frame.get(start..).unwrap_or_default(), 65_535);
            }
        }
    }
}

#[test]
fn headers_that_no_slice_can_hold_are_refused_when_emitted() {
    for len in 0..14 {
        assert_eq!(EthHeader::default().emit(&mut vec![0; len]), Err(TooShort { needed: 14 }));
    }
    for len in 0..20 {
        let error = TcpHeader::default().emit(&TcpOptions::NONE, &mut vec![0; len]);
        assert_eq!(error, Err(TooShort { needed: 20 }));
        assert!(ipv4::patch_len_and_ident(&mut vec![0; len], 20, 1).is_err());
    }
    assert_eq!(tcp::set_checksum(&mut [0; 17], 1), Err(TooShort { needed: 18 }));
    assert_eq!(icmp4::fill_checksum(&mut [0; 3]), Err(TooShort { needed: 4 }));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, rng_seed: RngSeed::Fixed(791), ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), available in 0..70_000_usize) {
        ask_everything(&bytes, available);
    }

    #[test]
    fn bytes_with_plausible_first_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 60..200), first: bool, small in 0..12_u8) {
        bytes[0] = if first { 0x40 | small } else { 0x60 };
        bytes[2] = 0;
        bytes[4] = 0;
        bytes[6] = [0, 43, 44, 60, 58, 6][usize::from(small) % 6];
        bytes[12] = small << 4;
        bytes[40] = 133 + small % 5;
        bytes[41] = 0;
        let len = bytes.len();
        ask_everything(&bytes, len);
    }
}
