//! What the capture middleware writes, read back by another implementation of the format.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod rig;

use std::fs::File;

use base::{Duration, Instant};
use pcap_file::pcapng::{Block, PcapNgReader};
use port::Port;
use port::capture::{CaptureFile, CapturePort};
use port::simwire::{WireSpec, pair};
use rig::{FRAMES, Memory, pattern, tcp_head, udp_head};
use state::RxBatch;

/// Times, lengths on the wire, bytes kept, and directions (1 in, 2 out) of the packets in a file.
fn read(path: &str) -> Vec<(u64, u32, Vec<u8>, u32)> {
    let mut reader = PcapNgReader::new(File::open(path).unwrap()).unwrap();
    let mut packets = Vec::new();
    while let Some(block) = reader.next_block() {
        if let Block::EnhancedPacket(packet) = block.unwrap() {
            let direction = packet.options.iter().find_map(|option| match option {
                pcap_file::pcapng::blocks::enhanced_packet::EnhancedPacketOption::Flags(flags) => {
                    Some(*flags)
                }
                _ => None,
            });
            let time = packet.timestamp.as_nanos() as u64;
            packets.push((time, packet.original_len, packet.data.to_vec(), direction.unwrap()));
        }
    }
    packets
}

#[test]
fn every_packet_is_in_the_file_with_its_time_and_direction() {
    let path = format!("{}/capture-{}.pcapng", std::env::temp_dir().display(), std::process::id());
    let spec = WireSpec { delay: Duration::ZERO, bits_per_second: 0, queue_packets: 10, offloads: true };
    let (a, mut b, clock) = pair(spec, [rig::setup(), rig::setup()]);
    let mut memory = Memory::new(FRAMES);
    let file = CaptureFile::new(sys::fds::create_file(&path).unwrap(), "wire0", 0);
    let mut a = CapturePort::new(a, file, || 5_000_000_123);
    let payload = pattern(20_000);
    let mut large = memory.packet(&tcp_head(payload.len()), &payload);
    (large.csum_start, large.csum_offset, large.gso_size) = (34, 16, 1448);
    let small = memory.packet(&udp_head(1, 2, 3), b"abc");
    assert_eq!(a.tx(&mut memory.frames(), &[large, small]).unwrap(), 2);
    let answer = memory.packet(&udp_head(2, 1, 6), b"answer");
    assert_eq!(b.tx(&mut memory.frames(), &[answer]).unwrap(), 1);
    clock.set(Instant(1));
    let mut batch = RxBatch::new();
    assert_eq!(a.rx(&mut memory.frames(), &mut batch).unwrap(), 1);
    a.release(&mut memory.frames());
    assert_eq!((a.file().packets(), a.file().failed()), (3, None));

    let packets = read(&path);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(packets.len(), 3);
    assert_eq!(packets[0].2[54..], payload);
    assert_eq!(packets[1].2[42..], *b"abc");
    assert_eq!(packets[2].2[42..], *b"answer");
    assert_eq!(packets.iter().map(|p| p.3).collect::<Vec<u32>>(), [2, 2, 1]);
    assert_eq!(packets[1].1, 45);
    assert!(packets.iter().all(|p| p.0 == 5_000_000_123), "{:?}", packets[0].0);
}

#[test]
fn long_packets_are_cut_to_what_was_asked_for() {
    let path = format!("{}/capture-snap-{}.pcapng", std::env::temp_dir().display(), std::process::id());
    let mut file = CaptureFile::new(sys::fds::create_file(&path).unwrap(), "wire0", 50);
    file.packet(port::capture::Direction::Sent, 7, &pattern(101));
    drop(file);
    let packets = read(&path);
    std::fs::remove_file(&path).unwrap();
    assert_eq!((packets[0].1, &packets[0].2[..]), (101, &pattern(50)[..]));
}

#[test]
fn a_full_disk_ends_the_capture_and_not_the_port() {
    let mut file = CaptureFile::new(sys::fds::create_file("/dev/full").unwrap(), "wire0", 0);
    file.packet(port::capture::Direction::Sent, 7, &pattern(100));
    file.flush();
    assert_eq!(file.failed(), Some(sys::Errno::NOSPC));
    file.packet(port::capture::Direction::Sent, 8, &pattern(100));
    file.flush();
}
