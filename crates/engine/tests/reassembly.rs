//! IPv4 input and reassembly: what is put together, what is dropped, and what it may hold meanwhile.
#![allow(clippy::unwrap_used, reason = "a test")]

mod rig;

use base::Duration;
use base::limits::{CHAIN_FRAMES, REASSEMBLY_FRAMES};
use engine::UdpOptions;
use proptest::prelude::*;
use rig::*;
use state::{DropReason, SockRef};
use wire::{Icmp4Header, Icmp4Message, IpProtocol, Ipv4Header, Ipv4Packet};

fn listening() -> (Host, SockRef) {
    let mut host = Host::new();
    let s = host.engine(|e| e.udp_bind(anywhere(53), &UdpOptions::default())).unwrap();
    (host, s)
}

fn read(host: &mut Host, s: SockRef) -> Option<Vec<u8>> {
    let mut buf = vec![0; 65_536];
    let got = host.engine(|e| e.udp_recv_from(s, &mut buf, false)).ok()?;
    buf.truncate(got.copied);
    Some(buf)
}

/// Fragments of `step` bytes (a multiple of 8) of a UDP datagram for port 53.
fn fragments(ident: u16, payload: &[u8], step: usize) -> Vec<Vec<u8>> {
    let datagram = udp(4000, 53, payload);
    (0..datagram.len())
        .step_by(step)
        .map(|from| fragment(ident, &datagram, from, step.min(datagram.len() - from)))
        .collect()
}

#[test]
fn the_largest_packet_comes_together_from_fragments_in_any_order() {
    let (mut host, s) = listening();
    let free = host.free_frames();
    let payload = pattern(65_507);
    for (ident, step) in [(1, 1480), (2, 32_000), (3, 800)] {
        let mut parts = fragments(ident, &payload, step);
        parts.reverse();
        let half = parts.len() / 2;
        parts[half..].reverse();
        for part in &parts {
            host.receive_in(part, 2000, state::CsumState::Unknown);
        }
        assert_eq!(read(&mut host, s).unwrap(), payload, "fragments of {step} bytes");
        assert_eq!(host.free_frames(), free);
    }
}

#[test]
fn a_repeated_fragment_does_no_harm() {
    let (mut host, s) = listening();
    let payload = pattern(4000);
    let parts = fragments(1, &payload, 1480);
    for part in [&parts[0], &parts[0], &parts[2], &parts[2], &parts[1]] {
        host.receive(part);
    }
    assert_eq!(read(&mut host, s).unwrap(), payload);
}

#[test]
fn an_overlap_drops_the_packet_and_what_still_comes_of_it() {
    let (mut host, s) = listening();
    let free = host.free_frames();
    let datagram = udp(4000, 53, &pattern(4000));
    host.receive(&fragment(1, &datagram, 0, 1480));
    host.receive(&fragment(1, &datagram, 1472, 1480));
    assert_eq!(host.dropped(DropReason::IpFragmentBad), 1);
    assert_eq!(host.free_frames(), free);
    host.receive(&fragment(1, &datagram, 1480, datagram.len() - 1480));
    host.receive(&fragment(1, &datagram, 0, 1480));
    assert_eq!(read(&mut host, s), None);
    assert_eq!(host.free_frames(), free);
    // When its time is over, the identification is free again.
    host.sleep(Duration::from_secs(31));
    for part in fragments(1, &pattern(4000), 1480) {
        host.receive(&part);
    }
    assert_eq!(read(&mut host, s).unwrap(), pattern(4000));
}

#[test]
fn fragments_that_contradict_the_end_drop_the_packet() {
    let data = udp(4000, 53, &pattern(2392));
    // (from, to, more follow): data behind the end; an end before what has come; another end.
    let contradictions = [
        [(1600, 2400, false), (2400, 2408, true)],
        [(1600, 2400, true), (800, 1600, false)],
        [(1600, 2400, false), (2400, 2408, false)],
    ];
    for parts in contradictions {
        let (mut host, s) = listening();
        let free = host.free_frames();
        let good = [(0, 800, true), (800, 1600, true), (1600, 2400, false)];
        for (from, to, more) in parts.into_iter().chain(good) {
            let header = Ipv4Header {
                fragment_offset: from as u16,
                more_fragments: more,
                ..ip_header(IpProtocol::UDP, to - from)
            };
            host.receive(&frame(&header, data.get(from..to).unwrap_or(&[0; 8])));
        }
        assert_eq!(read(&mut host, s), None, "{parts:?}");
        assert_eq!(host.free_frames(), free, "{parts:?}");
    }
}

#[test]
fn a_packet_above_65535_bytes_and_a_crooked_fragment_are_dropped() {
    let (mut host, _) = listening();
    let free = host.free_frames();
    let data = pattern(1480);
    for (offset, len, more) in [(65_528, 16, false), (64_800, 1480, false), (0, 1001, true)] {
        let header =
            Ipv4Header { fragment_offset: offset, more_fragments: more, ..ip_header(IpProtocol::UDP, len) };
        host.receive(&frame(&header, &data[..len]));
    }
    assert_eq!(host.dropped(DropReason::IpFragmentBad), 3);
    assert_eq!(host.free_frames(), free);
}

#[test]
fn time_over_frees_everything_and_tells_the_sender_if_the_first_fragment_came() {
    let (mut host, _) = listening();
    let free = host.free_frames();
    let parts = fragments(1, &pattern(9000), 1480);
    host.receive(&parts[0]);
    host.receive(&parts[4]);
    host.receive(&fragments(2, &pattern(9000), 1480)[3]);
    host.sleep(Duration::from_secs(29));
    assert!(host.transmitted().is_empty() && host.free_frames() < free);
    host.sleep(Duration::from_secs(2));
    let bytes = host.transmitted_one();
    let ip = Ipv4Packet::parse(&bytes[14..]).unwrap();
    let icmp = Icmp4Message::parse(ip.payload()).unwrap();
    assert!(icmp.checksum_ok());
    assert_eq!(icmp.header(), Icmp4Header::TimeExceeded { code: 1 });
    let quoted = Ipv4Packet::parse_quoted(icmp.payload()).unwrap();
    assert_eq!((quoted.src(), quoted.dst(), quoted.ident()), (PEER, HOST, 1));
    assert_eq!(&quoted.payload()[..100], &parts[0][34..134]);
    assert_eq!(host.free_frames(), free);
    assert_eq!(host.dropped(DropReason::IpReassemblyTimeout), 2);
}

#[test]
fn a_flood_of_fragments_holds_no_more_than_its_limit_and_the_newest_still_arrive() {
    let (mut host, s) = listening();
    let free = host.free_frames();
    let datagram = udp(4000, 53, &pattern(60_000));
    for ident in 0..300 {
        // Many small fragments, spread over the whole packet.
        for from in (0..56_000).step_by(4096) {
            host.receive(&fragment(ident, &datagram, from, 8));
        }
        assert!(free - host.free_frames() <= REASSEMBLY_FRAMES.min(4 * CHAIN_FRAMES as u32));
    }
    for part in fragments(999, &pattern(5000), 1480) {
        host.receive(&part);
    }
    assert_eq!(read(&mut host, s).unwrap(), pattern(5000));
    host.sleep(Duration::from_secs(31));
    host.transmitted();
    assert_eq!(host.free_frames(), free);
}

#[test]
fn congestion_experienced_in_one_fragment_marks_the_packet_and_not_ect_beside_it_drops_it() {
    for (codes, taken) in [([0b10, 0b11], Some(0b11)), ([0b00, 0b11], None), ([0b10, 0b10], Some(0b10))] {
        let (mut host, s) = listening();
        let datagram = udp(4000, 53, &pattern(2000));
        for (i, code) in codes.iter().enumerate() {
            let (from, len) = [(0, 1480), (1480, datagram.len() - 1480)][i];
            let header = Ipv4Header {
                traffic_class: *code,
                fragment_offset: from as u16,
                more_fragments: i == 0,
                ..ip_header(IpProtocol::UDP, len)
            };
            host.receive(&frame(&header, &datagram[from..from + len]));
        }
        let got = host.engine(|e| e.udp_recv_from(s, &mut [], false)).ok();
        assert_eq!(got.map(|d| d.tos), taken);
    }
}

#[test]
fn packets_that_are_not_for_us_or_from_nowhere_are_dropped() {
    let (mut host, s) = listening();
    let datagram = udp(4000, 53, b"x");
    let good = ip_header(IpProtocol::UDP, datagram.len());
    host.receive(&frame(&Ipv4Header { dst: PEER, src: [9, 9, 9, 9].into(), ..good }, &datagram));
    assert_eq!(host.dropped(DropReason::IpNotForUs), 1);
    for src in [[127, 0, 0, 1], [224, 0, 0, 1], [255; 4], [0; 4], [10, 0, 0, 1]] {
        host.receive(&frame(&Ipv4Header { src: src.into(), ..good }, &datagram));
    }
    assert_eq!(host.dropped(DropReason::IpSourceBad), 5);
    let mut broadcast = frame(&good, &datagram);
    broadcast[..6].fill(0xff);
    host.receive(&broadcast);
    assert_eq!(host.dropped(DropReason::EthNotForUs), 1);
    let mut wrong = frame(&good, &datagram);
    wrong[24] ^= 1;
    host.receive(&wrong);
    assert_eq!(host.dropped(DropReason::IpChecksumBad), 1);
    assert_eq!(read(&mut host, s), None);
}

#[test]
fn options_are_skipped() {
    let (mut host, s) = listening();
    let plain = udp_frame(4000, 53, b"with options");
    let mut bytes = plain[..34].to_vec();
    bytes.extend_from_slice(&[1; 8]);
    bytes.extend_from_slice(&plain[34..]);
    bytes[14] = 0x47;
    let total = (bytes.len() - 14) as u16;
    bytes[16..18].copy_from_slice(&total.to_be_bytes());
    bytes[24..26].fill(0);
    let check = wire::Sum::of(&bytes[14..42]).finish();
    bytes[24..26].copy_from_slice(&check.to_be_bytes());
    host.receive(&bytes);
    assert_eq!(read(&mut host, s).unwrap(), b"with options");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn shuffled_repeated_and_mixed_fragments_give_the_packets_and_leak_nothing(
        seed in any::<u64>(),
        lens in prop::collection::vec(0_usize..20_000, 1..4),
        step in 1_usize..300,
    ) {
        let (mut host, s) = listening();
        let free = host.free_frames();
        let mut rng = base::Rng::new(seed);
        let mut parts = Vec::new();
        for (ident, len) in lens.iter().enumerate() {
            parts.extend(fragments(ident as u16, &pattern(*len), step * 8));
        }
        let again = parts[rng.below(parts.len() as u64) as usize].clone();
        for i in (1..parts.len()).rev() {
            parts.swap(i, rng.below(i as u64 + 1) as usize);
        }
        parts.insert(0, again);
        for part in &parts {
            host.receive_in(part, 400, state::CsumState::Unknown);
        }
        let mut got: Vec<usize> = Vec::new();
        while let Some(payload) = read(&mut host, s) {
            prop_assert_eq!(&payload, &pattern(payload.len()));
            got.push(payload.len());
        }
        let mut want = lens.clone();
        // A datagram that fits into one fragment is no fragment, and its repetition is a second datagram.
        want.sort_unstable();
        got.sort_unstable();
        got.dedup();
        want.dedup();
        prop_assert_eq!(got, want);
        host.sleep(Duration::from_secs(31));
        host.transmitted();
        prop_assert_eq!(host.free_frames(), free);
    }

    #[test]
    fn arbitrary_fragments_never_hold_frames_for_longer_than_their_time(
        parts in prop::collection::vec((0_u16..3, 0_u16..8191, 0_usize..1480, any::<bool>()), 0..60),
    ) {
        let (mut host, s) = listening();
        let free = host.free_frames();
        let data = pattern(1480);
        for (ident, offset, len, more) in parts {
            let header = Ipv4Header {
                ident,
                fragment_offset: offset / 16 * 8,
                more_fragments: more,
                ..ip_header(IpProtocol::UDP, len)
            };
            host.receive(&frame(&header, &data[..len]));
        }
        host.sleep(Duration::from_secs(31));
        host.transmitted();
        host.engine(|e| e.close(s));
        prop_assert_eq!(host.free_frames(), free);
    }
}
