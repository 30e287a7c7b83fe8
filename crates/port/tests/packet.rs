//! The AF_PACKET port against the kernel and against itself, across veth.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod rig;

use port::Port;
use port::packet::{PacketPort, PacketSpec, open};
use rig::{FRAMES, Memory, NEAR, Rig, pattern, receive_ipv4, setup, tcp_head, udp_head};
use state::CsumState;
use sys::fds::Fd;

fn socket(device: &str, ring: bool) -> Fd {
    let ifindex = sys::links::index(device).unwrap();
    open(&PacketSpec { ifindex, filter: None, ring, qdisc_bypass: false }).unwrap()
}

fn near_port(memory: &Memory) -> PacketPort {
    PacketPort::from_fd(socket("near0", true), memory.area, setup())
}

/// Without a ring.
fn plain_port(memory: &Memory) -> PacketPort {
    PacketPort::from_fd(socket("near0", false), memory.area, setup())
}

fn check_a_kernel_datagram_arrives_whole_with_its_checksum_unfinished(make: fn(&Memory) -> PacketPort) {
    let Some(rig) = Rig::veth() else { return };
    let mut memory = Memory::new(FRAMES);
    let mut port = make(&memory);
    let udp = rig.far_udp(4000);
    let payload = pattern(1000);
    udp.send_to(&payload, (NEAR, 5000)).unwrap();
    let packets = receive_ipv4(&mut port, &mut memory, 17, 1);
    let packet = packets[0];
    assert_eq!((packet.port, packet.local_peer, packet.gso_size), (3, true, 0));
    assert_eq!(packet.csum, CsumState::Unfinished);
    let bytes = memory.take(&packet);
    assert_eq!(bytes[42..], payload);
    assert_eq!(memory.free(), FRAMES, "no frame is lost");
    assert!(port.stats().rx_packets >= 1);
}

#[test]
fn a_kernel_datagram_arrives_whole_with_its_checksum_unfinished_with_and_without_a_ring() {
    check_a_kernel_datagram_arrives_whole_with_its_checksum_unfinished(near_port);
    check_a_kernel_datagram_arrives_whole_with_its_checksum_unfinished(plain_port);
}

#[test]
fn the_kernel_completes_the_checksum_of_what_we_send() {
    let Some(rig) = Rig::veth() else { return };
    let mut memory = Memory::new(FRAMES);
    let mut port = near_port(&memory);
    let udp = rig.far_udp(4000);
    let payload = pattern(700);
    let mut packet = memory.packet(&udp_head(5000, 4000, payload.len()), &payload);
    (packet.csum_start, packet.csum_offset) = (34, 6);
    assert_eq!(port.tx(&mut memory.frames(), &[packet]).unwrap(), 1);
    memory.release_payload(&packet);
    let mut got = [0; 2000];
    let (len, from) = udp.recv_from(&mut got).unwrap();
    assert_eq!(got[..len], payload);
    assert_eq!(from.port(), 5000);
    assert_eq!(memory.free(), FRAMES);
    assert_eq!((port.stats().tx_packets, port.stats().tx_bytes), (1, 742));
}

#[test]
fn the_kernel_cuts_a_super_datagram() {
    let Some(rig) = Rig::veth() else { return };
    let mut memory = Memory::new(FRAMES);
    let mut port = near_port(&memory);
    let udp = rig.far_udp(4000);
    rig::the_kernel_cuts_a_super_datagram(&mut port, &mut memory, &udp);
}

fn check_super_segments_arrive_as_one_chain_the_first_and_those_that_were_expected(
    make: fn(&Memory) -> PacketPort,
) {
    let Some(rig) = Rig::veth() else { return };
    let mut memory = Memory::new(FRAMES);
    let mut far_memory = Memory::new(FRAMES);
    let mut port = make(&memory);
    let mut sender = rig.far(|| PacketPort::from_fd(socket("far0", true), far_memory.area, setup()));
    // The first lands in the overflow buffer of a narrow message, the others in wide ones.
    for round in 0..3 {
        let payload = pattern(60_000 + round);
        let mut packet = far_memory.packet(&tcp_head(payload.len()), &payload);
        (packet.csum_start, packet.csum_offset, packet.gso_size) = (34, 16, 1448);
        assert_eq!(sender.tx(&mut far_memory.frames(), &[packet]).unwrap(), 1);
        far_memory.release_payload(&packet);
        let packets = receive_ipv4(&mut port, &mut memory, 6, 1);
        assert_eq!((packets[0].gso_size, packets[0].csum), (1448, CsumState::Unfinished));
        let bytes = memory.take(&packets[0]);
        assert_eq!(bytes[54..], payload);
        assert_eq!((memory.free(), far_memory.free()), (FRAMES, FRAMES));
    }
}

#[test]
fn super_segments_arrive_as_one_chain_the_first_and_those_that_were_expected_with_and_without_a_ring() {
    check_super_segments_arrive_as_one_chain_the_first_and_those_that_were_expected(near_port);
    check_super_segments_arrive_as_one_chain_the_first_and_those_that_were_expected(plain_port);
}

fn check_many_packets_come_in_few_calls_and_in_order(make: fn(&Memory) -> PacketPort) {
    let Some(rig) = Rig::veth() else { return };
    let mut memory = Memory::new(FRAMES);
    let mut port = make(&memory);
    let udp = rig.far_udp(4000);
    for number in 0..200_u32 {
        udp.send_to(&number.to_be_bytes(), (NEAR, 5000)).unwrap();
    }
    let packets = receive_ipv4(&mut port, &mut memory, 17, 200);
    for (number, packet) in packets.iter().enumerate() {
        assert_eq!(memory.take(packet)[42..46], (number as u32).to_be_bytes());
    }
    assert!(port.stats().syscalls <= 30, "{} calls", port.stats().syscalls);
    assert_eq!(memory.free(), FRAMES);
}

#[test]
fn many_packets_come_in_few_calls_and_in_order_with_and_without_a_ring() {
    check_many_packets_come_in_few_calls_and_in_order(near_port);
    check_many_packets_come_in_few_calls_and_in_order(plain_port);
}

fn check_without_free_frames_packets_wait_in_the_kernel(make: fn(&Memory) -> PacketPort) {
    let Some(rig) = Rig::veth() else { return };
    let mut memory = Memory::new(64);
    let mut port = make(&memory);
    let udp = rig.far_udp(4000);
    let mut frames = memory.frames();
    let taken: Vec<_> = std::iter::from_fn(|| frames.alloc()).collect();
    udp.send_to(b"patience", (NEAR, 5000)).unwrap();
    assert_eq!(port.rx(&mut memory.frames(), &mut state::RxBatch::new()).unwrap(), 0);
    for frame in taken {
        memory.frames().release(frame);
    }
    let packets = receive_ipv4(&mut port, &mut memory, 17, 1);
    assert_eq!(memory.take(&packets[0])[42..50], *b"patience");
}

#[test]
fn without_free_frames_packets_wait_in_the_kernel_with_and_without_a_ring() {
    check_without_free_frames_packets_wait_in_the_kernel(near_port);
    check_without_free_frames_packets_wait_in_the_kernel(plain_port);
}

#[test]
fn a_packet_the_kernel_refuses_does_not_hold_up_the_next() {
    let Some(rig) = Rig::veth() else { return };
    let mut memory = Memory::new(FRAMES);
    let mut port = near_port(&memory);
    let udp = rig.far_udp(4000);
    // Larger than the MTU and not to be cut: EMSGSIZE.
    let large = memory.packet(&udp_head(5000, 4000, 5000), &pattern(5000));
    let mut small = memory.packet(&udp_head(5000, 4000, 4), b"next");
    (small.csum_start, small.csum_offset) = (34, 6);
    assert_eq!(port.tx(&mut memory.frames(), &[large, small]).unwrap(), 2);
    memory.release_payload(&large);
    memory.release_payload(&small);
    let mut got = [0; 100];
    assert_eq!(udp.recv(&mut got).unwrap(), 4);
    assert_eq!((port.stats().tx_dropped, port.stats().tx_packets), (1, 1));
    assert_eq!(memory.free(), FRAMES);
}

fn check_a_device_that_goes_away_is_an_error(make: fn(&Memory) -> PacketPort) {
    let Some(rig) = Rig::veth() else { return };
    let mut memory = Memory::new(FRAMES);
    let mut port = make(&memory);
    rig.far_udp(4000).send_to(b"before", (NEAR, 5000)).unwrap();
    rig::run("ip link del near0");
    let packet = memory.packet(&udp_head(1, 2, 4), b"gone");
    assert!(port.tx(&mut memory.frames(), &[packet]).is_err());
    // From a ring, what came before is received first: the datagram, and what the kernel sends when a device comes up.
    while let Ok(taken) = port.rx(&mut memory.frames(), &mut state::RxBatch::new()) {
        assert!(taken > 0, "nothing is left, and there is no error");
    }
}

#[test]
fn a_device_that_goes_away_is_an_error_with_and_without_a_ring() {
    check_a_device_that_goes_away_is_an_error(near_port);
    check_a_device_that_goes_away_is_an_error(plain_port);
}

#[test]
fn the_ring_goes_on_with_whichever_process_or_port_reads_it() {
    let Some(rig) = Rig::veth() else { return };
    let mut memory = Memory::new(FRAMES);
    let fd = socket("near0", true);
    let mut ports = [
        PacketPort::from_fd(fd.duplicate().unwrap(), memory.area, setup()),
        PacketPort::from_fd(fd, memory.area, setup()),
    ];
    let udp = rig.far_udp(4000);
    // More than the ring has slots, so that it comes round.
    for round in 0..40_u32 {
        for number in 0..50_u32 {
            udp.send_to(&(round * 50 + number).to_be_bytes(), (NEAR, 5000)).unwrap();
        }
        let packets = receive_ipv4(&mut ports[round as usize % 2], &mut memory, 17, 50);
        for (number, packet) in (0..).zip(&packets) {
            assert_eq!(memory.take(packet)[42..46], (round * 50 + number).to_be_bytes());
        }
    }
    assert_eq!((memory.free(), ports[0].packets_wait()), (FRAMES, Some(false)));
}
