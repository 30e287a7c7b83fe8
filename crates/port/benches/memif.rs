//! What a wire between two lanes costs: both ends in one thread (for instruction counts), and one on each of two cores.
//!
//! `cargo bench -p corelane-port --bench memif [-- copy|lend|lent BYTES ROUNDS]`: all, or one case in one thread. `copy`: both ends
//! copy; `lend`: the sender lends its frames; `lent`: the receiver does.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a measurement that cannot be made ends the run"
)]

#[path = "../tests/rig/mod.rs"]
mod rig;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
// Not `sys::clock`: valgrind hides the vDSO that it needs.
use std::time::Instant;

use base::limits::BATCH_FRAMES;
use port::Port;
use port::memif::{MemifPort, WireShape, pair, pair_lending};
use rig::{Memory, pattern, setup, tcp_head, udp_head};
use state::{RxBatch, TxFrame};

const FRAMES: u32 = 4096;
const HEAD_BYTES: usize = 42;
const NS: f64 = 1e9;

struct End {
    port: MemifPort,
    memory: Memory,
    batch: RxBatch,
}

/// The sending and the receiving end.
fn wire(mode: &str) -> (End, End) {
    let end = |parts, memory: Memory| {
        let port = MemifPort::from_parts(parts, memory.area, setup()).unwrap();
        End { port, memory, batch: RxBatch::new() }
    };
    if mode == "copy" {
        let (client, server) = pair(WireShape::default()).unwrap();
        return (end(client, Memory::new(FRAMES)), end(server, Memory::new(FRAMES)));
    }
    let (memory, fd, lending) = Memory::shared(FRAMES);
    let (client, server) = pair_lending(WireShape::default(), &fd, lending).unwrap();
    let (client, server) = (end(client, memory), end(server, Memory::new(FRAMES)));
    let (from, mut to) = if mode == "lend" { (client, server) } else { (server, client) };
    to.receive(); // posts its frames
    (from, to)
}

impl End {
    /// A batch to be sent again and again: the frames are kept.
    fn packets(&mut self, bytes: usize) -> Vec<TxFrame> {
        let is_super = bytes > 9000;
        let count = if is_super { 8 } else { BATCH_FRAMES };
        (0..count)
            .map(|_| {
                let head = if is_super { tcp_head(bytes - 54) } else { udp_head(1, 2, bytes - HEAD_BYTES) };
                let mut packet = self.memory.packet(&head, &pattern(bytes - head.len()));
                (packet.csum_start, packet.csum_offset) = (34, if is_super { 16 } else { 6 });
                packet.gso_size = if is_super { 1448 } else { 0 };
                packet
            })
            .collect()
    }

    fn send(&mut self, packets: &[TxFrame]) -> usize {
        let mut frames = self.memory.frames();
        for packet in packets {
            frames.retain(packet.head);
            // A port may have put the payload behind the headers.
            frames.meta_mut(packet.head).unwrap().len = packet.header_bytes;
        }
        let taken = self.port.tx(&mut frames, packets).unwrap();
        for packet in packets.iter().skip(taken) {
            frames.release(packet.head);
        }
        taken
    }

    fn receive(&mut self) -> usize {
        let mut frames = self.memory.frames();
        self.batch.clear();
        let got = self.port.rx(&mut frames, &mut self.batch).unwrap();
        for packet in self.batch.items() {
            frames.release_chain(packet.head);
        }
        got
    }
}

/// ns a packet, both ends in this thread.
fn one_thread(mode: &str, bytes: usize, rounds: usize) -> f64 {
    let (mut a, mut b) = wire(mode);
    let packets = a.packets(bytes);
    let start = Instant::now();
    for _ in 0..rounds {
        assert_eq!(a.send(&packets), packets.len());
        assert_eq!(b.receive(), packets.len());
    }
    start.elapsed().as_nanos() as f64 / (rounds * packets.len()) as f64
}

/// Packets a second from core 0 to core 1.
fn two_threads(mode: &str, bytes: usize, seconds: u64) -> f64 {
    let (mut a, mut b) = wire(mode);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let sender = std::thread::spawn(move || {
        sys::affinity::pin_to(0).unwrap();
        let packets = a.packets(bytes);
        let mut from = 0;
        while !stopped.load(Ordering::Relaxed) {
            from += a.send(&packets[from..]);
            if from == packets.len() {
                from = 0;
            }
        }
    });
    sys::affinity::pin_to(1).unwrap();
    while b.receive() == 0 {}
    let start = Instant::now();
    let (mut got, mut elapsed) = (0, 0);
    while elapsed < seconds * 1_000_000_000 {
        for _ in 0..100 {
            got += b.receive();
        }
        elapsed = start.elapsed().as_nanos() as u64;
    }
    stop.store(true, Ordering::Relaxed);
    sender.join().unwrap();
    got as f64 * NS / elapsed as f64
}

fn main() {
    let args: Vec<String> = std::env::args().filter(|a| a != "--bench").collect();
    if let [_, mode, bytes, rounds] = &args[..] {
        println!("{:.1} ns a packet", one_thread(mode, bytes.parse().unwrap(), rounds.parse().unwrap()));
        return;
    }
    println!(
        "{:>6} {:>8} {:>22} {:>22} {:>10}",
        "", "bytes", "one thread, ns/packet", "two cores, Mpackets/s", "Gb/s"
    );
    for bytes in [64, 1500, 60_000] {
        for mode in ["copy", "lend", "lent"] {
            let mut ones: Vec<f64> =
                (0..5).map(|_| one_thread(mode, bytes, 2_000_000 / (bytes + 500))).collect();
            let mut twos: Vec<f64> = (0..5).map(|_| two_threads(mode, bytes, 1)).collect();
            ones.sort_by(f64::total_cmp);
            twos.sort_by(f64::total_cmp);
            let (one, two) = (ones[2], twos[2]);
            println!(
                "{mode:>6} {bytes:>8} {one:>22.1} {:>22.2} {:>10.1}",
                two / 1e6,
                two * bytes as f64 * 8.0 / 1e9
            );
        }
    }
}
