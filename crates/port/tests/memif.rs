//! Wires between two lanes: what goes in comes out, sleepers wake, and a peer that writes nonsense hurts only itself.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod rig;

use port::memif::{MemifParts, MemifPort, WireShape, pair, pair_lending};
use port::{Port, PortError};
use rig::{FRAMES, Memory, pattern, setup, tcp_head, udp_head};
use state::{CsumState, RxBatch, RxFrame, TxFrame};
use sys::poll::{PollFd, PollFlags, poll};

struct End {
    port: MemifPort,
    memory: Memory,
}

impl End {
    fn of(parts: MemifParts) -> Self {
        let memory = Memory::new(FRAMES);
        let port = MemifPort::from_parts(parts, memory.area, setup()).unwrap();
        Self { port, memory }
    }

    fn send(&mut self, packets: &[TxFrame]) -> usize {
        let taken = self.port.tx(&mut self.memory.frames(), packets).unwrap();
        for packet in packets.iter().take(taken) {
            self.memory.release_payload(packet);
        }
        taken
    }

    fn datagram(&mut self, text: &[u8]) -> TxFrame {
        let mut packet = self.memory.packet(&udp_head(1, 2, text.len()), text);
        (packet.csum_start, packet.csum_offset) = (34, 6);
        packet
    }

    fn receive(&mut self) -> Vec<RxFrame> {
        let mut batch = RxBatch::new();
        self.port.rx(&mut self.memory.frames(), &mut batch).unwrap();
        batch.items().to_vec()
    }

    fn texts(&mut self) -> Vec<Vec<u8>> {
        let got = self.receive();
        got.iter().map(|p| self.memory.take(p).split_off(42)).collect()
    }

    fn is_readable(&self) -> bool {
        let fd = self.port.poll_fd().unwrap();
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(base::Duration(0))).unwrap() == 1
    }
}

fn wire(shape: WireShape) -> (End, End) {
    let (client, server) = pair(shape).unwrap();
    (End::of(client), End::of(server))
}

/// A wire whose client lends its frames.
fn lending(shape: WireShape) -> (End, End) {
    let (memory, fd, lending) = Memory::shared(FRAMES);
    let (client, server) = pair_lending(shape, &fd, lending).unwrap();
    let port = MemifPort::from_parts(client, memory.area, setup()).unwrap();
    let mut client = End { port, memory };
    assert!(client.receive().is_empty(), "posts its frames");
    (client, End::of(server))
}

/// Both directions in turn, copying and lending.
fn ways(shape: WireShape) -> [(End, End); 4] {
    let ((a, b), (c, d)) = (wire(shape), wire(shape));
    let ((e, f), (g, h)) = (lending(shape), lending(shape));
    [(a, b), (d, c), (e, f), (h, g)]
}

/// After the end of the wire every frame is free again.
fn all_free(mut a: End, mut b: End) {
    for end in [&a, &b] {
        end.port.hang_up();
    }
    for end in [&mut a, &mut b] {
        let mut batch = RxBatch::new();
        assert!(end.port.rx(&mut end.memory.frames(), &mut batch).is_err());
        assert_eq!(end.memory.free(), FRAMES);
    }
}

const SMALL: WireShape = WireShape { log2_ring: 3, buffer_bytes: 128 };

#[test]
fn packets_go_both_ways_in_order_and_unchanged() {
    for (mut a, mut b) in ways(WireShape::default()) {
        for round in 0..50_u8 {
            let texts: Vec<Vec<u8>> = (0..60).map(|i| pattern(1 + 23 * i + usize::from(round))).collect();
            let packets: Vec<TxFrame> = texts.iter().map(|t| a.datagram(t)).collect();
            assert_eq!(a.send(&packets), packets.len());
            assert_eq!(b.texts(), texts);
            assert!(b.receive().is_empty());
        }
        assert_eq!((a.port.stats().tx_packets, b.port.stats().rx_packets), (3000, 3000));
        assert_eq!((a.port.stats().syscalls, b.port.stats().syscalls), (0, 0), "nobody sleeps");
        all_free(a, b);
    }
}

#[test]
fn a_super_segment_goes_over_whole_with_what_is_known_of_it() {
    for (mut a, mut b) in ways(WireShape::default()) {
        assert_eq!(a.port.caps().super_segment_max, 61_440);
        let payload = pattern(61_440);
        let mut packet = a.memory.packet(&tcp_head(payload.len()), &payload);
        (packet.csum_start, packet.csum_offset, packet.gso_size) = (34, 16, 1448);
        assert_eq!(a.send(&[packet]), 1);
        let [got] = b.receive()[..] else { panic!("one packet") };
        assert_eq!((got.gso_size, got.csum, got.port), (1448, CsumState::Unfinished, 3));
        let bytes = b.memory.take(&got);
        assert_eq!(bytes.get(..54), Some(&tcp_head(payload.len())[..]));
        assert_eq!(bytes.get(54..), Some(&payload[..]));
        all_free(a, b);
    }
}

#[test]
fn the_longest_packet_there_is_goes_over_whole() {
    for (mut a, mut b) in ways(WireShape::default()) {
        for len in [65_226, 65_227, 65_495] {
            let payload = pattern(len);
            let mut packet = a.memory.packet(&tcp_head(len), &payload);
            (packet.csum_start, packet.csum_offset) = (34, 16);
            assert_eq!(a.send(&[packet]), 1);
            let [got] = b.receive()[..] else { panic!("one packet of {len} bytes") };
            assert_eq!(b.memory.take(&got).get(54..), Some(&payload[..]));
        }
        all_free(a, b);
    }
}

#[test]
fn a_full_ring_takes_no_more_until_the_peer_has_read() {
    for (mut a, mut b) in ways(SMALL) {
        for _ in 0..20 {
            let packets: Vec<TxFrame> = (0..10).map(|i| a.datagram(&[i; 60])).collect();
            assert_eq!(a.send(&packets), 8);
            assert_eq!(a.send(&packets[8..]), 0);
            assert_eq!(b.texts().len(), 8);
            assert_eq!(a.send(&packets[8..]), 2);
            assert_eq!(b.texts(), [vec![8; 60], vec![9; 60]]);
        }
        all_free(a, b);
    }
}

#[test]
fn a_packet_longer_than_all_buffers_is_lost_and_not_offered_for_ever() {
    let [first, second, _, _] = ways(SMALL);
    for (mut a, mut b) in [first, second] {
        let long = a.datagram(&pattern(1000));
        let short = a.datagram(b"short");
        assert_eq!(a.send(&[long, short]), 2);
        assert_eq!(a.port.stats().tx_dropped, 1, "1042 bytes need nine buffers of the eight");
        assert_eq!(b.texts(), [b"short"]);
        all_free(a, b);
    }
}

#[test]
fn a_sleeper_is_signalled_once_and_nobody_else_is() {
    for (mut a, mut b) in ways(WireShape::default()) {
        let packet = a.datagram(b"one");
        a.send(&[packet]);
        assert!(!b.is_readable(), "masked");
        assert!(b.port.arm(), "something is there");
        assert_eq!(b.texts().len(), 1);
        assert!(!b.port.arm());
        let packet = a.datagram(b"two");
        a.send(&[packet]);
        assert_eq!(a.port.stats().syscalls, 1);
        assert!(b.is_readable());
        assert_eq!(b.texts(), [b"two"]);
        b.port.disarm(false);
        assert!(!b.is_readable());
        let packet = a.datagram(b"three");
        a.send(&[packet]);
        assert!(b.is_readable(), "another one sleeps still");
        b.port.disarm(false);
        assert!(b.is_readable(), "what came before is told to the other one, too");
        b.port.disarm(true);
        let packet = a.datagram(b"four");
        a.send(&[packet]);
        assert!(!b.is_readable());
        assert_eq!(b.texts().len(), 2);
    }
}

#[test]
fn a_wire_that_was_hung_up_says_so_to_both_after_its_last_packet() {
    let (client, server) = pair(SMALL).unwrap();
    let introducer = client.duplicate().unwrap();
    let (mut a, mut b) = (End::of(client), End::of(server));
    let packet = a.datagram(b"last");
    a.send(&[packet]);
    introducer.hang_up().unwrap();
    assert!(a.is_readable() && b.is_readable());
    assert_eq!(b.texts(), [b"last"]);
    for end in [&mut a, &mut b] {
        let packet = end.datagram(b"never");
        let mut batch = RxBatch::new();
        let end_of_wire = |e: PortError| matches!(e, PortError::Device(32));
        assert!(end.port.rx(&mut end.memory.frames(), &mut batch).is_err_and(end_of_wire));
        assert!(end.port.tx(&mut end.memory.frames(), &[packet]).is_err_and(end_of_wire));
        assert!(!end.port.arm(), "nothing will come, so nobody is kept from sleeping");
    }
}
