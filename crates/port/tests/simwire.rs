//! The cable in virtual time, plain and with faults around it.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod rig;

use base::{Duration, Instant};
use port::fault::{FaultPort, FaultSpec, Rates};
use port::simwire::{WireClock, WirePort, WireSpec, pair};
use port::{Port, PortSetup};
use rig::{FRAMES, Memory, ones, pattern, tcp_head, udp_head};
use state::{CsumState, RxBatch, TxFrame};

const SPEC: WireSpec = WireSpec {
    delay: Duration::from_micros(100),
    bits_per_second: 1_000_000_000,
    queue_packets: 1000,
    offloads: true,
};

fn ends(spec: WireSpec) -> (WirePort, WirePort, WireClock) {
    pair(spec, [PortSetup { port: 0, ..rig::setup() }, PortSetup { port: 1, ..rig::setup() }])
}

fn datagram(memory: &mut Memory, text: &[u8]) -> TxFrame {
    let mut packet = memory.packet(&udp_head(1, 2, text.len()), text);
    (packet.csum_start, packet.csum_offset) = (34, 6);
    packet
}

fn send(port: &mut impl Port, memory: &mut Memory, packets: &[TxFrame]) -> usize {
    let taken = port.tx(&mut memory.frames(), packets).unwrap();
    for packet in packets.iter().take(taken) {
        memory.release_payload(packet);
    }
    taken
}

fn receive(port: &mut impl Port, memory: &mut Memory) -> Vec<(Vec<u8>, CsumState)> {
    let mut batch = RxBatch::new();
    port.rx(&mut memory.frames(), &mut batch).unwrap();
    batch.items().iter().map(|p| (memory.take(p), p.csum)).collect()
}

#[test]
fn a_packet_arrives_after_its_time_on_the_wire_and_not_before() {
    let (mut a, mut b, clock) = ends(SPEC);
    let mut memory = Memory::new(FRAMES);
    let packets = [datagram(&mut memory, &pattern(958)), datagram(&mut memory, b"second")];
    assert_eq!(send(&mut a, &mut memory, &packets), 2);
    // 1000 bytes at 1 Gb/s are 8 us.
    assert_eq!(clock.next_arrival(), Instant(108_000));
    clock.set(Instant(107_999));
    assert!(receive(&mut b, &mut memory).is_empty());
    clock.set(Instant(108_000));
    let got = receive(&mut b, &mut memory);
    assert_eq!(got.len(), 1);
    assert_eq!((&got[0].0[42..], got[0].1), (&pattern(958)[..], CsumState::Unfinished));
    assert_eq!(clock.next_arrival(), Instant(108_000 + 48 * 8));
    assert!(receive(&mut a, &mut memory).is_empty(), "nothing comes back to the sender");
    clock.set(Instant(1_000_000));
    assert_eq!(receive(&mut b, &mut memory).len(), 1);
    assert_eq!(memory.free(), FRAMES);
}

#[test]
fn super_segments_go_over_whole_only_with_offloads() {
    let mut memory = Memory::new(FRAMES);
    for offloads in [true, false] {
        let (mut a, mut b, clock) = ends(WireSpec { offloads, ..SPEC });
        assert_eq!(a.caps().super_segment_max > 0, offloads);
        let payload = pattern(20_000);
        let mut packet = memory.packet(&tcp_head(payload.len()), &payload);
        (packet.csum_start, packet.csum_offset, packet.gso_size) = (34, 16, 1448);
        send(&mut a, &mut memory, &[packet]);
        clock.set(Instant(1_000_000_000));
        let got = receive(&mut b, &mut memory);
        assert_eq!(got.len(), usize::from(offloads));
        assert_eq!(a.stats().tx_dropped, u64::from(!offloads));
    }
    assert_eq!(memory.free(), FRAMES);
}

#[test]
fn without_offloads_checksums_arrive_complete() {
    let (mut a, mut b, clock) = ends(WireSpec { offloads: false, ..SPEC });
    let mut memory = Memory::new(FRAMES);
    let packet = datagram(&mut memory, b"sum");
    send(&mut a, &mut memory, &[packet]);
    clock.set(Instant(1_000_000));
    let (bytes, csum) = receive(&mut b, &mut memory).pop().unwrap();
    assert_eq!(csum, CsumState::Unknown);
    let mut summed = bytes[26..34].to_vec();
    summed.extend([0, 17, 0, 11]);
    summed.extend(&bytes[34..]);
    assert_eq!(ones(&summed), 0xffff);
}

#[test]
fn a_full_queue_takes_no_more() {
    let (mut a, _b, _clock) = ends(WireSpec { queue_packets: 2, ..SPEC });
    let mut memory = Memory::new(FRAMES);
    let packets: Vec<TxFrame> = (0..3).map(|_| datagram(&mut memory, b"x")).collect();
    assert_eq!(send(&mut a, &mut memory, &packets), 2);
    assert_eq!(send(&mut a, &mut memory, &packets[2..]), 0);
}

/// Sends 2000 numbered datagrams one by one through faults; gives the numbers as they arrive.
fn through(spec: FaultSpec) -> (Vec<u32>, port::fault::FaultCounts, port::fault::FaultCounts) {
    let (a, b, clock) = ends(WireSpec { offloads: false, ..SPEC });
    let mut a = FaultPort::new(a, FaultSpec { rx: Rates::default(), ..spec });
    let mut b = FaultPort::new(b, FaultSpec { tx: Rates::default(), ..spec });
    let mut memory = Memory::new(FRAMES);
    let mut numbers = Vec::new();
    for number in 0..2010_u32 {
        if number < 2000 {
            let packet = datagram(&mut memory, &number.to_be_bytes());
            assert_eq!(send(&mut a, &mut memory, &[packet]), 1);
        }
        receive(&mut a, &mut memory);
        clock.set(Instant(u64::from(number) * 1_000_000));
        for (bytes, _) in receive(&mut b, &mut memory) {
            let mut summed = bytes[26..34].to_vec();
            summed.extend([0, 17, 0, 12]);
            summed.extend(&bytes[34..]);
            if ones(&summed) == 0xffff && ones(&bytes[14..34]) == 0xffff {
                numbers.push(u32::from_be_bytes(bytes[42..46].try_into().unwrap()));
            }
        }
    }
    a.release(&mut memory.frames());
    b.release(&mut memory.frames());
    assert_eq!(memory.free(), FRAMES, "no frame is lost with the packets");
    (numbers, a.counts(), b.counts())
}

#[test]
fn equal_seeds_lose_double_and_reorder_the_same_packets() {
    let rates = Rates { drop_ppm: 50_000, duplicate_ppm: 50_000, reorder_ppm: 50_000, corrupt_ppm: 50_000 };
    let spec = FaultSpec { seed: 7, rx: rates, tx: rates };
    let (first, tx, rx) = through(spec);
    assert_eq!(through(spec).0, first);
    assert_ne!(through(FaultSpec { seed: 8, ..spec }).0, first);
    for counts in [tx, rx] {
        for count in [counts.dropped, counts.duplicated, counts.reordered, counts.corrupted] {
            assert!((50..200).contains(&count), "{counts:?}");
        }
    }
    assert!(first.windows(2).any(|w| w[0] > w[1]), "some packets overtook others");
    assert!(first.windows(2).any(|w| w[0] == w[1]), "some came twice");
}

#[test]
fn without_faults_everything_arrives_in_order() {
    let (numbers, _, _) = through(FaultSpec::default());
    assert_eq!(numbers, (0..2000).collect::<Vec<u32>>());
}
