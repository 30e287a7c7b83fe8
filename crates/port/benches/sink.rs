//! The least of a TCP receiver: it answers one connection, copies the payload once, and acknowledges each batch.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpStream;

use base::FrameIdx;
use port::Port;
use state::{RxBatch, TxFrame};

use crate::rig::{FAR_MAC, Memory, NEAR, NEAR_MAC, ones};

const PORT: u16 = 9000;
const RUN_NS: u64 = 1_000_000_000;
const SYN: u8 = 2;
const ACK: u8 = 16;

/// What came of one run.
pub struct Result {
    pub gbit_per_second: f64,
    /// Time of the turns that received something.
    pub busy_us_per_mb: f64,
}

struct Flow {
    peer_port: u16,
    next: u32,
    /// Segments that came early, by distance from the first byte: the kernel sends from two cores.
    early: BTreeMap<u64, u64>,
    received: u64,
}

/// Receives for a second from a kernel sender that is started by `far` in its namespace.
pub fn run(port: &mut dyn Port, memory: &mut Memory, far: impl Fn(&mut dyn FnMut())) -> Result {
    let mut sender = None;
    far(&mut || {
        // A thread stays in the namespace it is started in.
        sender = Some(std::thread::spawn(move || {
            sys::affinity::pin_to(0).unwrap();
            let mut stream = TcpStream::connect((NEAR, PORT)).unwrap();
            let data = vec![7_u8; 256 << 10];
            while stream.write_all(&data).is_ok() {}
        }));
    });
    let mut flow = Flow { peer_port: 0, next: 0, early: BTreeMap::new(), received: 0 };
    let mut target = vec![0_u8; 1 << 20];
    let (mut counted, mut start, mut busy) = (0_u64, 0, 0);
    let deadline = sys::clock::now().0 + 10 * RUN_NS;
    loop {
        assert!(sys::clock::now().0 < deadline, "only {} bytes came: {:?}", flow.received, port.stats());
        let turn = sys::clock::now().0;
        let mut batch = RxBatch::new();
        port.rx(&mut memory.frames(), &mut batch).unwrap();
        let mut answer = 0;
        for packet in batch.items() {
            let (payload, flags) = take(memory, packet.head, &mut flow, &mut target);

            answer = if flags & SYN != 0 {
                SYN | ACK
            } else if payload > 0 {
                answer | ACK
            } else {
                answer
            };
        }
        if answer != 0 {
            let packet = segment(memory, &flow, answer);
            while port.tx(&mut memory.frames(), &[packet]).unwrap() == 0 {}
        }
        let bytes = flow.received - counted;
        // The first megabytes are the sender's slow start.
        let now = sys::clock::now().0;
        busy += if batch.items().is_empty() { 0 } else { now - turn };
        if start == 0 && bytes > 50_000_000 {
            (counted, start, busy) = (flow.received, now, 0);
            continue;
        }
        if start != 0 && now - start > RUN_NS {
            let time = (now - start) as f64;
            let reset = segment(memory, &flow, 4 | ACK);
            while port.tx(&mut memory.frames(), &[reset]).unwrap() == 0 {}
            sender.unwrap().join().unwrap();
            return Result {
                gbit_per_second: bytes as f64 * 8.0 / time,
                busy_us_per_mb: busy as f64 / 1000.0 / (bytes as f64 / 1e6),
            };
        }
    }
}

/// Copies the payload of a segment that is the next one; frees the chain. Gives its length and flags.
fn take(memory: &mut Memory, head: FrameIdx, flow: &mut Flow, target: &mut [u8]) -> (u64, u8) {
    let mut frames = memory.frames();
    let data = frames.data(head);
    let is_ours =
        data.len() >= 54 && data[12..14] == [8, 0] && data[23] == 6 && data[36..38] == PORT.to_be_bytes();
    if !is_ours {
        frames.release_chain(head);
        return (0, 0);
    }
    let flags = data[47];
    let seq = u32::from_be_bytes(data[38..42].try_into().unwrap());
    let start = 34 + usize::from(data[46] >> 4) * 4;
    let total = 14 + usize::from(u16::from_be_bytes([data[16], data[17]]));
    let mut payload = 0;
    if flags & SYN != 0 {
        flow.peer_port = u16::from_be_bytes([data[34], data[35]]);
        flow.next = seq.wrapping_add(1);
        (flow.received, flow.early) = (0, BTreeMap::new());
    } else if seq.wrapping_sub(flow.next) < 1 << 30 {
        let (mut at, mut skip, mut left) = (head, start, total.saturating_sub(start));
        while let Some(meta) = frames.meta(at) {
            let part = frames.data(at).get(skip..).unwrap_or(&[]);
            let part = &part[..part.len().min(left)];
            target[payload..payload + part.len()].copy_from_slice(part);
            payload += part.len();
            left -= part.len();
            skip = 0;
            at = meta.next;
        }
        let from = flow.received + u64::from(seq.wrapping_sub(flow.next));
        flow.early.insert(from, payload as u64);
        let before = flow.received;
        while let Some((from, len)) = flow.early.first_key_value().map(|(a, b)| (*a, *b)) {
            if from > flow.received {
                break;
            }
            flow.early.pop_first();
            flow.received = flow.received.max(from + len);
        }
        flow.next = flow.next.wrapping_add((flow.received - before) as u32);
    }
    frames.release_chain(head);
    (payload as u64, flags)
}

/// A segment without payload. The SYN carries MSS 1460 and a window scale of 14; the window is 8 MB then.
fn segment(memory: &mut Memory, flow: &Flow, flags: u8) -> TxFrame {
    let options: &[u8] = if flags & SYN != 0 { &[2, 4, 5, 180, 3, 3, 14, 0] } else { &[] };
    let upper = 20 + options.len();
    let mut head = Vec::new();
    head.extend(FAR_MAC);
    head.extend(NEAR_MAC);
    head.extend([8, 0, 0x45, 0]);
    head.extend((20 + upper as u16).to_be_bytes());
    head.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 99, 0, 1, 10, 99, 0, 2]);
    let check = !ones(&head[14..34]);
    head[24..26].copy_from_slice(&check.to_be_bytes());
    head.extend(PORT.to_be_bytes());
    head.extend(flow.peer_port.to_be_bytes());
    head.extend(if flags & SYN != 0 { [0, 0, 0, 0] } else { [0, 0, 0, 1] });
    head.extend(flow.next.to_be_bytes());
    head.extend([(upper as u8 / 4) << 4, flags]);
    head.extend(512_u16.to_be_bytes());
    let pseudo = [10, 99, 0, 1, 10, 99, 0, 2, 0, 6, 0, upper as u8];
    head.extend(ones(&pseudo).to_be_bytes());
    head.extend([0, 0]);
    head.extend(options);
    let mut packet = memory.packet(&head, &[]);
    (packet.csum_start, packet.csum_offset) = (34, 16);
    packet
}
