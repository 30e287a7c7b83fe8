//! The AF_XDP port (generic XDP, copy mode, packets of several frames) against the kernel across veth.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod rig;

use base::limits::CHAIN_FRAMES;
use port::Port;
use port::packet::{PacketPort, PacketSpec};
use port::xdp::{XdpParts, XdpPort, XdpRefused, XdpSpec, open, open_companion};
use rig::{FRAMES, Memory, NEAR, Rig, Steered, pattern, receive_ipv4, setup, steer_in, tcp_head, udp_head};
use state::{Piece, RxBatch, TxFrame};
use sys::bpf::XdpMode;

fn near_port(memory: &mut Memory, with_companion: bool) -> (XdpPort, Steered) {
    port_with(memory, with_companion, (1500, 1, XdpMode::Generic))
}

fn port_for_mtu(memory: &mut Memory, with_companion: bool, mtu: u16) -> (XdpPort, Steered) {
    port_with(memory, with_companion, (mtu, 1, XdpMode::Generic))
}

fn port_with(
    memory: &mut Memory,
    with_companion: bool,
    (mtu, queues, mode): (u16, u32, XdpMode),
) -> (XdpPort, Steered) {
    let ifindex = sys::links::index("near0").unwrap();
    let spec = XdpSpec { ifindex, queues, mtu, zero_copy: true, busy_poll: false };
    let sockets = open(&spec, memory.area.cells()).unwrap();
    assert_eq!((sockets.completes_checksums, sockets.scatter), (mtu == 1500, mtu > 1500));
    let steered = steer_in("near0", &sockets.fds, mode);
    let companion = with_companion.then(|| open_companion(ifindex).unwrap());
    let mut port = XdpPort::from_parts(XdpParts { sockets, companion }, memory.lane, setup()).unwrap();
    // Nothing can come in before the kernel has frames to receive into.
    assert_eq!(port.rx(&mut memory.frames(), &mut RxBatch::new()).unwrap(), 0);
    (port, steered)
}

#[test]
fn kernel_datagrams_arrive_whole_and_in_order() {
    let Some(rig) = Rig::veth() else { return };
    let mut memory = Memory::new(FRAMES);
    let (mut port, _steered) = near_port(&mut memory, false);
    let held = FRAMES - memory.free();
    let udp = rig.far_udp(4000);
    for number in 0..300_u32 {
        let mut payload = pattern(1000);
        payload[..4].copy_from_slice(&number.to_be_bytes());
        udp.send_to(&payload, (NEAR, 5000)).unwrap();
        if number % 100 == 99 {
            for (packet, expected) in receive_ipv4(&mut port, &mut memory, 17, 100).iter().zip(number - 99..)
            {
                let bytes = memory.take(packet);
                assert_eq!(bytes[42..46], expected.to_be_bytes());
                assert_eq!(bytes[46..], pattern(1000)[4..]);
            }
        }
    }
    assert_eq!(FRAMES - memory.free(), held, "the fill ring holds as many frames as before");
}

#[test]
fn a_super_frame_arrives_as_one_chain() {
    let Some(rig) = Rig::veth() else { return };
    let mut memory = Memory::new(FRAMES);
    let mut far_memory = Memory::new(FRAMES);
    let (mut port, _steered) = near_port(&mut memory, false);
    let mut sender = rig.far(|| {
        let ifindex = sys::links::index("far0").unwrap();
        let fd = port::packet::open(&PacketSpec { ifindex, filter: None, ring: false, qdisc_bypass: false })
            .unwrap();
        PacketPort::from_fd(fd, far_memory.area, setup())
    });
    let payload = pattern(60_000);
    let mut packet = far_memory.packet(&tcp_head(payload.len()), &payload);
    (packet.csum_start, packet.csum_offset, packet.gso_size) = (34, 16, 1448);
    assert_eq!(sender.tx(&mut far_memory.frames(), &[packet]).unwrap(), 1);
    let packets = receive_ipv4(&mut port, &mut memory, 6, 1);
    assert_eq!(memory.take(&packets[0])[54..], payload);
}

#[test]
fn the_longest_packet_there_is_arrives_as_one_chain() {
    let Some(rig) = Rig::veth() else { return };
    rig::run("ip link set near0 mtu 65535");
    rig.far(|| rig::run("ip link set far0 mtu 65535"));
    let mut memory = Memory::new(FRAMES);
    let (mut port, _steered) = port_for_mtu(&mut memory, false, 65_535);
    let held = FRAMES - memory.free();
    let udp = rig.far_udp(4000);
    for len in [65_237, 65_238, 65_239, 65_507] {
        let payload = pattern(len);
        udp.send_to(&payload, (NEAR, 5000)).unwrap();
        let packets = receive_ipv4(&mut port, &mut memory, 17, 1);
        assert_eq!(memory.take(&packets[0])[42..], payload);
    }
    port.rx(&mut memory.frames(), &mut RxBatch::new()).unwrap();
    assert_eq!(FRAMES - memory.free(), held, "the fill ring holds as many frames as before");
}

#[test]
fn what_we_send_is_good_for_the_kernel_and_every_frame_comes_back() {
    let Some(rig) = Rig::veth() else { return };
    let mut memory = Memory::new(FRAMES);
    // Up to an ordinary MTU the kernel completes checksums of packets in one frame; for a larger one we do, in several.
    let (mut port, _steered) = near_port(&mut memory, false);
    send_and_check(&rig, &mut memory, &mut port, &[1000, 1400, 4]);
    drop(port);
    rig::run("ip link del near0");
    rig.join();
    rig::run("ip link set near0 mtu 9000");
    rig.far(|| rig::run("ip link set far0 mtu 9000"));
    let (mut port, _steered) = port_for_mtu(&mut memory, false, 9000);
    send_and_check(&rig, &mut memory, &mut port, &[1000, 8001, 4, 4096]);
    drop(port);
    rig::run("ip link del near0");
    rig.join();
    rig::run("ip link set near0 mtu 65535");
    rig.far(|| rig::run("ip link set far0 mtu 65535"));
    let (mut port, _steered) = port_for_mtu(&mut memory, false, 65_535);
    // The headers and as many pieces as a packet has room for.
    send_and_check(&rig, &mut memory, &mut port, &[1000, 61_000, 65_234]);
}

/// The first piece as two, of which the caller owns both.
fn split_first_piece(memory: &mut Memory, packet: &mut TxFrame) {
    let pieces = packet.pieces().to_vec();
    let (first, rest) = pieces.split_first().unwrap();
    (packet.payload_pieces, packet.payload_bytes) = (0, 0);
    memory.frames().retain(first.frame);
    packet.push_piece(Piece { len: 100, ..*first });
    packet.push_piece(Piece { offset: first.offset + 100, len: first.len - 100, ..*first });
    assert!(rest.iter().all(|piece| packet.push_piece(*piece)));
    assert_eq!(packet.pieces().len(), CHAIN_FRAMES);
}

fn send_and_check(rig: &Rig, memory: &mut Memory, port: &mut XdpPort, lengths: &[usize]) {
    let held = FRAMES - memory.free();
    let udp = rig.far_udp(4000);
    for len in lengths {
        let payload = pattern(*len);
        let mut packet = memory.packet(&udp_head(5000, 4000, *len), &payload);
        (packet.csum_start, packet.csum_offset) = (34, 6);
        if *len > 65_000 {
            split_first_piece(memory, &mut packet);
        }
        assert_eq!(port.tx(&mut memory.frames(), &[packet]).unwrap(), 1);
        memory.release_payload(&packet);
        let mut got = vec![0; 70_000];
        assert_eq!(udp.recv(&mut got).unwrap(), *len);
        assert_eq!(got[..*len], payload);
    }
    port.release(&mut memory.frames());
    assert_eq!(FRAMES - memory.free(), held);
    assert_eq!((port.stats().tx_packets, port.stats().tx_dropped), (lengths.len() as u64, 0));
}

#[test]
fn super_datagrams_are_cut_by_the_companion_or_in_software() {
    let Some(rig) = Rig::veth() else { return };
    for with_companion in [true, false] {
        let mut memory = Memory::new(FRAMES);
        let (mut port, _steered) = near_port(&mut memory, with_companion);
        let held = FRAMES - memory.free();
        let udp = rig.far_udp(4000);
        let payload = pattern(20_000);
        let mut packet = memory.packet(&udp_head(5000, 4000, payload.len()), &payload);
        (packet.csum_start, packet.csum_offset, packet.gso_size) = (34, 6, 1000);
        assert_eq!(port.tx(&mut memory.frames(), &[packet]).unwrap(), 1);
        memory.release_payload(&packet);
        for part in payload.chunks(1000) {
            let mut got = [0; 2000];
            let len = udp.recv(&mut got).unwrap();
            assert_eq!(got[..len], *part);
        }
        port.release(&mut memory.frames());
        assert_eq!(FRAMES - memory.free(), held);
        drop(port);
        rig::run("ip link del near0");
        rig.join();
    }
}

#[test]
fn a_burst_larger_than_one_call_takes_is_sent_in_order() {
    let Some(rig) = Rig::veth() else { return };
    let mut memory = Memory::new(FRAMES);
    let (mut port, _steered) = near_port(&mut memory, false);
    let udp = rig.far_udp(4000);
    let packets: Vec<_> = (0..200_u32)
        .map(|number| {
            let mut packet = memory.packet(&udp_head(5000, 4000, 4), &number.to_be_bytes());
            (packet.csum_start, packet.csum_offset) = (34, 6);
            packet
        })
        .collect();
    let mut sent = 0;
    while sent < packets.len() {
        sent += port.tx(&mut memory.frames(), &packets[sent..]).unwrap();
    }
    for number in 0..200_u32 {
        let mut got = [0; 100];
        assert_eq!(udp.recv(&mut got).unwrap(), 4);
        assert_eq!(got[..4], number.to_be_bytes());
    }
}

/// A port on a device with four queues, by all of which the other side sends.
fn four_queues(memory: &mut Memory, rig: &Rig, mode: XdpMode) -> (XdpPort, Steered) {
    rig::run("ip link del near0");
    rig.join_with_queues(4);
    assert_eq!(sys::links::receive_queues("near0"), Ok(4));
    port_with(memory, true, (1500, 4, mode))
}

#[test]
fn packets_of_every_queue_arrive_in_generic_mode() {
    packets_of_every_queue_arrive(XdpMode::Generic);
}

#[test]
fn packets_of_every_queue_arrive_in_the_driver() {
    packets_of_every_queue_arrive(XdpMode::Native);
}

fn packets_of_every_queue_arrive(mode: XdpMode) {
    let Some(rig) = Rig::veth() else { return };
    let mut memory = Memory::new(FRAMES);
    let (mut port, _steered) = four_queues(&mut memory, &rig, mode);
    let held = FRAMES - memory.free();
    assert_eq!(held, 512, "a quarter of the frames is in the fill rings");
    // The kernel picks the queue of each socket as it likes; with so many it is not always the first one.
    for round in 0..4 {
        let sockets: Vec<_> = (0..64).map(|at| rig.far_udp(4000 + 100 * round + at)).collect();
        for udp in &sockets {
            let from = udp.local_addr().unwrap().port();
            udp.send_to(&from.to_be_bytes(), (NEAR, 5000)).unwrap();
        }
        let mut came: Vec<u16> = receive_ipv4(&mut port, &mut memory, 17, sockets.len())
            .iter()
            .map(|packet| memory.take(packet))
            .map(|bytes| u16::from_be_bytes([bytes[42], bytes[43]]))
            .collect();
        came.sort_unstable();
        let sent: Vec<u16> = sockets.iter().map(|udp| udp.local_addr().unwrap().port()).collect();
        assert_eq!(came, sent);
    }
    let by_queue: Vec<u64> = port.received_by_queue().collect();
    assert!(
        by_queue.iter().filter(|&&packets| packets > 0).count() > 1,
        "all came by one queue: {by_queue:?}"
    );
    assert_eq!(by_queue.iter().sum::<u64>(), port.stats().rx_packets);
    port.rx(&mut memory.frames(), &mut RxBatch::new()).unwrap();
    assert_eq!(FRAMES - memory.free(), held, "the fill rings hold as many frames as before");
    send_and_check(&rig, &mut memory, &mut port, &[1000, 1400, 4]);
}

#[test]
fn a_sleeper_is_woken_by_any_queue() {
    let Some(rig) = Rig::veth() else { return };
    let mut memory = Memory::new(FRAMES);
    let (mut port, _steered) = four_queues(&mut memory, &rig, XdpMode::Generic);
    // Alone each time: `receive` sleeps on the port's one fd before it comes.
    for at in 0..64 {
        rig.far_udp(4000 + at).send_to(b"one", (NEAR, 5000)).unwrap();
        for packet in receive_ipv4(&mut port, &mut memory, 17, 1) {
            assert_eq!(memory.take(&packet)[42..45], *b"one");
        }
        assert_eq!(port.packets_wait(), Some(false));
    }
}

#[test]
fn a_queue_that_somebody_has_is_named_and_nothing_is_kept() {
    let Some(rig) = Rig::veth() else { return };
    rig::run("ip link del near0");
    rig.join_with_queues(4);
    let (memory, other) = (Memory::new(FRAMES), Memory::new(FRAMES));
    let ifindex = sys::links::index("near0").unwrap();
    let spec = XdpSpec { ifindex, queues: 2, mtu: 1500, zero_copy: false, busy_poll: false };
    let held = open(&spec, other.area.cells()).unwrap();
    let refused = open(&XdpSpec { queues: 4, ..spec }, memory.area.cells()).unwrap_err();
    assert_eq!(refused, XdpRefused { queue: 0, errno: sys::Errno::BUSY });
    assert_eq!(refused.to_string(), "another AF_XDP socket has queue 0");
    drop(held);
    // The queues of sockets are free only a moment after these were closed.
    let open_free = |queues| {
        let deadline = sys::clock::now().plus(base::Duration::from_secs(5));
        loop {
            let opened = open(&XdpSpec { queues, ..spec }, memory.area.cells());
            if !matches!(opened, Err(XdpRefused { errno: sys::Errno::BUSY, .. })) {
                return opened;
            }
            assert!(sys::clock::now() < deadline, "the queues do not become free");
            sys::poll::poll(&mut [], Some(base::Duration::from_millis(5))).unwrap();
        }
    };
    let refused = open_free(5).unwrap_err();
    assert_eq!(refused, XdpRefused { queue: 4, errno: sys::Errno::INVAL });
    assert_eq!(open_free(17).unwrap_err().errno, sys::Errno::INVAL);
    assert_eq!(open_free(4).unwrap().fds.len(), 4);
}
