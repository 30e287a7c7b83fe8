//! Super-segments cut in software, compared byte by byte with what the packets have to be.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod rig;

use port::split::{Splitter, complete_checksum};
use rig::{FRAMES, Memory, ones, pattern, tcp_head, udp_head};
use state::TxFrame;

/// The whole packet; frees its headers.
fn bytes(memory: &mut Memory, packet: &TxFrame) -> Vec<u8> {
    let mut frames = memory.frames();
    let mut bytes = frames.data(packet.head).to_vec();
    for piece in packet.pieces() {
        let from = piece.offset as usize;
        bytes.extend_from_slice(&frames.cell(piece.frame)[from..from + piece.len as usize]);
    }
    frames.release(packet.head);
    bytes
}

fn transport_sum(packet: &[u8], protocol: u8) -> u16 {
    let mut summed = packet[26..34].to_vec();
    summed.extend([0, protocol]);
    summed.extend(((packet.len() - 34) as u16).to_be_bytes());
    summed.extend(&packet[34..]);
    ones(&summed)
}

fn split(memory: &mut Memory, packet: &TxFrame) -> Vec<Vec<u8>> {
    let mut splitter = Splitter::new(&memory.frames(), packet).unwrap();
    let mut packets = Vec::new();
    while let Some(mut part) = splitter.next(&mut memory.frames()) {
        complete_checksum(&mut memory.frames(), &mut part);
        assert_eq!(part.csum_start, 0);
        packets.push(bytes(memory, &part));
    }
    assert!(splitter.is_done());
    packets
}

#[test]
fn a_tcp_super_segment_becomes_segments_with_their_own_numbers_and_sums() {
    let mut memory = Memory::new(FRAMES);
    let payload = pattern(10_001);
    let mut head = tcp_head(payload.len());
    head[34 + 13] = 0x99; // CWR ACK PSH FIN
    let mut packet = memory.packet(&head, &payload);
    (packet.csum_start, packet.csum_offset, packet.gso_size) = (34, 16, 1447);
    let packets = split(&mut memory, &packet);
    assert_eq!(packets.len(), 7);
    let mut joined: Vec<u8> = Vec::new();
    for (number, segment) in packets.iter().enumerate() {
        let field = |at: usize| u16::from_be_bytes([segment[at], segment[at + 1]]);
        assert_eq!(field(16) as usize, segment.len() - 14, "total length");
        assert_eq!(field(18) as usize, 7 + number, "identification");
        assert_eq!(ones(&segment[14..34]), 0xffff, "header checksum");
        assert_eq!(transport_sum(segment, 6), 0xffff, "TCP checksum");
        let seq = u32::from_be_bytes(segment[38..42].try_into().unwrap());
        assert_eq!(seq as usize, 1 + joined.len());
        let flags = match number {
            0 => 0x90,
            6 => 0x19,
            _ => 0x10,
        };
        assert_eq!(segment[47], flags, "segment {number}");
        assert!(segment.len() <= 54 + 1447);
        joined.extend(&segment[54..]);
    }
    assert_eq!(joined, payload);
    memory.release_payload(&packet);
    memory.frames().release(packet.head);
    assert_eq!(memory.free(), FRAMES);
}

#[test]
fn a_udp_super_datagram_becomes_datagrams() {
    let mut memory = Memory::new(FRAMES);
    let payload = pattern(2500);
    let mut packet = memory.packet(&udp_head(1, 2, payload.len()), &payload);
    (packet.csum_start, packet.csum_offset, packet.gso_size) = (34, 6, 1000);
    let packets = split(&mut memory, &packet);
    let lengths: Vec<u16> = packets.iter().map(|p| u16::from_be_bytes([p[38], p[39]])).collect();
    assert_eq!(lengths, [1008, 1008, 508]);
    for datagram in &packets {
        assert_eq!(transport_sum(datagram, 17), 0xffff);
    }
}

#[test]
fn without_frames_the_cut_goes_on_later() {
    let mut memory = Memory::new(4);
    let payload = pattern(3000);
    let mut packet = memory.packet(&tcp_head(payload.len()), &payload);
    (packet.csum_start, packet.csum_offset, packet.gso_size) = (34, 16, 1000);
    let mut splitter = Splitter::new(&memory.frames(), &packet).unwrap();
    let first = splitter.next(&mut memory.frames()).unwrap();
    let second = splitter.next(&mut memory.frames()).unwrap();
    assert!(splitter.next(&mut memory.frames()).is_none());
    assert!(!splitter.is_done());
    memory.frames().release(first.head);
    let third = splitter.next(&mut memory.frames()).unwrap();
    assert_eq!((second.payload_bytes, third.payload_bytes), (1000, 1000));
    assert!(splitter.is_done());
}

#[test]
fn what_is_no_super_segment_is_left_alone() {
    let mut memory = Memory::new(16);
    let mut packet = memory.packet(&tcp_head(100), &pattern(100));
    assert!(Splitter::new(&memory.frames(), &packet).is_none());
    packet.gso_size = 50;
    packet.csum_start = 20;
    assert!(
        Splitter::new(&memory.frames(), &packet).is_none(),
        "the transport header is not inside the IP header"
    );
}
