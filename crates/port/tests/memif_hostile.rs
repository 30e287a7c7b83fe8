//! Peers that write nonsense into a memif wire, at rest and while we work, peers that race with our sleep, and peers that are
//! killed: the other end loses packets at most.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod rig;

use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use base::{Duration, Rng};
use port::Port;
use port::memif::{Connection, MemifPort, MemifSpec, News, Role, WireShape, pair, pair_lending};
use rig::{Memory, pattern, setup, tcp_head, udp_head};
use state::{RxBatch, TxFrame};
use sys::memif::{MemifParts, Way};
use sys::poll::{PollFd, PollFlags, poll};
use sys::window::Window;

const FRAMES: u32 = 512;
const SHAPE: WireShape = WireShape { log2_ring: 4, buffer_bytes: 256 };

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

    fn send(&mut self, packet: &TxFrame) -> bool {
        let taken = self.port.tx(&mut self.memory.frames(), &[*packet]);
        self.memory.release_payload(packet);
        if !matches!(taken, Ok(1)) {
            self.memory.frames().release(packet.head);
        }
        taken.is_ok()
    }

    fn datagram(&mut self, text: &[u8]) -> TxFrame {
        self.memory.packet(&udp_head(1, 2, text.len()), text)
    }

    fn receive(&mut self) -> Vec<Vec<u8>> {
        let mut batch = RxBatch::new();
        let _ = self.port.rx(&mut self.memory.frames(), &mut batch);
        batch.items().iter().map(|packet| self.memory.take(packet)).collect()
    }

    /// One turn of a lane: whatever lies in the wire, it ends, and gives whole packets.
    fn turn(&mut self, rng: &mut Rng) {
        for bytes in self.receive() {
            assert!((1..=65_553).contains(&bytes.len()));
        }
        let text = pattern(1 + rng.below(600) as usize);
        let packet = if rng.below(4) == 0 {
            let mut packet = self.memory.packet(&tcp_head(5000), &pattern(5000));
            (packet.csum_start, packet.csum_offset, packet.gso_size) = (34, 16, 1000);
            packet
        } else {
            self.datagram(&text)
        };
        self.send(&packet);
        if rng.below(3) == 0 {
            self.port.arm();
            self.port.disarm(rng.below(2) == 0);
        }
    }

    /// Every frame is free again once the wire has ended: none was lost, none given out twice.
    fn settle(mut self) {
        self.port.hang_up();
        for _ in 0..100 {
            let mut batch = RxBatch::new();
            let ended = self.port.rx(&mut self.memory.frames(), &mut batch).is_err();
            for packet in batch.items() {
                self.memory.take(packet);
            }
            if ended {
                break;
            }
        }
        let packet = self.datagram(b"late");
        assert!(!self.send(&packet));
        assert_eq!(self.memory.free(), FRAMES);
    }
}

/// An end under attack, and the wire's memory as the attacker has it.
fn victim(kind: u64) -> (End, Window) {
    let (client, server, memory) = if kind < 2 {
        let (client, server) = pair(SHAPE).unwrap();
        (client, server, None)
    } else {
        let (memory, fd, lending) = Memory::shared(FRAMES);
        let (client, server) = pair_lending(SHAPE, &fd, lending).unwrap();
        (client, server, Some(memory))
    };
    let window = Window::map(&client.memory, 0, SHAPE.bytes()).unwrap();
    let end = match (kind % 2, memory) {
        (0, Some(memory)) => {
            let port = MemifPort::from_parts(client, memory.area, setup()).unwrap();
            End { port, memory }
        }
        (0, None) => End::of(client),
        _ => End::of(server),
    };
    (end, window)
}

/// Writes something into the wire: mostly where it matters, mostly values at the edge of sense.
fn scribble(window: &Window, rng: &mut Rng) {
    let way = if rng.below(2) == 0 { Way::ToServer } else { Way::ToClient };
    let ring = SHAPE.ring_at(way) as usize;
    let slot = rng.below(u64::from(SHAPE.ring_size())) as usize;
    let descriptor = ring + 128 + 16 * slot;
    let small = rng.below(20) as u16;
    let edges = [0, 1, 255, 256, 4096, 65_535, 1 << 20, SHAPE.bytes() as u32 - 1, u32::MAX - 3, u32::MAX];
    let edge = edges[rng.below(edges.len() as u64) as usize];
    match rng.below(9) {
        0 => assert!(window.write(ring + 6, &small.to_ne_bytes())),
        1 => assert!(window.write(ring + 64, &small.to_ne_bytes())),
        2 => assert!(window.write(ring + 6, &(rng.next_u64() as u16).to_ne_bytes())),
        3 => assert!(window.write(descriptor, &1_u16.to_ne_bytes())),
        4 => assert!(window.write(descriptor + 2, &(small % 4).to_ne_bytes())),
        5 => assert!(window.write(descriptor + 4, &edge.to_ne_bytes())),
        6 => assert!(window.write(descriptor + 8, &edge.to_ne_bytes())),
        7 => assert!(window.write(descriptor + 12, &(rng.next_u64() as u32).to_ne_bytes())),
        _ => {
            let at = rng.below(SHAPE.bytes() / 8) as usize * 8;
            assert!(window.write(at, &rng.next_u64().to_ne_bytes()));
        }
    }
}

#[test]
fn nonsense_in_the_wire_costs_packets_only() {
    for seed in 0..1200 {
        let mut rng = Rng::new(seed);
        let (mut end, window) = victim(seed % 4);
        for _ in 0..40 {
            for _ in 0..rng.below(6) {
                scribble(&window, &mut rng);
            }
            end.turn(&mut rng);
        }
        end.settle();
    }
}

#[test]
fn nonsense_written_while_we_work_costs_packets_only() {
    for seed in 0..8 {
        let (mut end, window) = victim(seed % 4);
        let done = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&done);
        let attacker = std::thread::spawn(move || {
            let mut rng = Rng::new(seed);
            while !stop.load(Ordering::Relaxed) {
                scribble(&window, &mut rng);
                // An end that gave the wire up would be out of danger.
                for way in [Way::ToServer, Way::ToClient] {
                    assert!(window.write(SHAPE.ring_at(way) as usize + 8, &[0; 4]));
                }
            }
        });
        let mut rng = Rng::new(seed + 100);
        for _ in 0..3000 {
            end.turn(&mut rng);
        }
        done.store(true, Ordering::Relaxed);
        attacker.join().unwrap();
        end.settle();
    }
}

/// Receives `count` numbered packets, sleeping whenever there is none; `seen` says how many there were.
fn receive_all(end: &mut End, count: u32, seen: &AtomicU32) {
    let mut next = 0_u32;
    while next < count {
        for bytes in end.receive() {
            assert_eq!(bytes[42..46], next.to_ne_bytes(), "in order");
            assert!(bytes[46..] == pattern(bytes.len() - 46));
            next += 1;
        }
        seen.store(next, Ordering::Release);
        if next < count && !end.port.arm() {
            let fd = end.port.poll_fd().unwrap();
            let patience = Some(Duration::from_secs(30));
            assert_eq!(poll(&mut [PollFd::new(&fd, PollFlags::IN)], patience), Ok(1), "a lost wake-up");
        }
        end.port.disarm(true);
    }
}

#[test]
fn a_receiver_that_sleeps_misses_nothing() {
    const COUNT: u32 = 5_000;
    for kind in 0..4 {
        let (client, server) = if kind < 2 {
            let (client, server) = pair(SHAPE).unwrap();
            (End::of(client), End::of(server))
        } else {
            let (memory, fd, lending) = Memory::shared(FRAMES);
            let (client, server) = pair_lending(SHAPE, &fd, lending).unwrap();
            let port = MemifPort::from_parts(client, memory.area, setup()).unwrap();
            (End { port, memory }, End::of(server))
        };
        let (mut from, mut to) = if kind % 2 == 0 { (client, server) } else { (server, client) };
        to.receive(); // posts what it lends
        let seen = Arc::new(AtomicU32::new(0));
        let theirs = Arc::clone(&seen);
        let receiver = std::thread::spawn(move || receive_all(&mut to, COUNT, &theirs));
        let mut rng = Rng::new(kind);
        let mut number = 0_u32;
        while number < COUNT && !receiver.is_finished() {
            let text = [&number.to_ne_bytes()[..], &pattern(rng.below(700) as usize)].concat();
            let packet = from.datagram(&text);
            let taken = from.port.tx(&mut from.memory.frames(), &[packet]).unwrap();
            from.memory.release_payload(&packet);
            if taken == 1 {
                number += 1;
            } else {
                from.memory.frames().release(packet.head);
                std::thread::yield_now();
            }
            let gate = rng.below(8) > 0;
            // Mostly the next packet goes only after this one came: nothing else then makes up for a signal that was not given. Pauses of
            // all lengths, so that the receiver is met before, in and after its last look.
            while gate && seen.load(Ordering::Acquire) < number && !receiver.is_finished() {
                std::thread::yield_now();
            }
            for _ in 0..rng.below(200) {
                std::hint::spin_loop();
            }
        }
        receiver.join().unwrap();
        assert!(from.port.stats().syscalls > 0, "some signals were needed");
    }
}

fn spec(role: Role, name: &str) -> MemifSpec {
    MemifSpec { role, path: format!("@corelane-memif-{name}"), id: 0, secret: String::new(), shape: SHAPE }
}

fn open(connection: &mut Connection, patience: u32) -> Option<End> {
    for _ in 0..patience {
        match connection.advance().unwrap() {
            News::Up(wire) => {
                let memory = Memory::new(FRAMES);
                let port = wire.into_port(memory.area, setup()).unwrap();
                return Some(End { port, memory });
            }
            News::None | News::Down(_) => poll(&mut [], Some(Duration::from_millis(1))).map(|_| ()).unwrap(),
        }
    }
    None
}

/// What the peer that is killed runs: it sends and receives until then. By itself it does nothing.
#[test]
fn peer_to_be_killed() {
    let (Ok(name), Ok(role)) = (std::env::var("MEMIF_NAME"), std::env::var("MEMIF_ROLE")) else { return };
    let role = if role == "client" { Role::Client } else { Role::Server };
    let mut connection = Connection::open(spec(role, &name)).unwrap();
    let mut end = open(&mut connection, 10_000).unwrap();
    loop {
        end.turn(&mut Rng::new(1));
    }
}

#[test]
fn the_survivor_of_a_peer_that_is_killed_goes_on_with_the_next_one() {
    for (role, theirs) in [(Role::Server, "client"), (Role::Client, "server")] {
        let name = format!("kill-{}-{theirs}", std::process::id());
        let mut connection = Connection::open(spec(role, &name)).unwrap();
        let mut rng = Rng::new(3);
        for _ in 0..6 {
            let mut child = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "peer_to_be_killed"])
                .env("MEMIF_NAME", &name)
                .env("MEMIF_ROLE", theirs)
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            let mut end = open(&mut connection, 20_000).unwrap();
            while end.port.stats().rx_packets == 0 {
                end.turn(&mut rng);
            }
            for _ in 0..rng.below(3000) {
                end.turn(&mut rng);
            }
            child.kill().unwrap();
            child.wait().unwrap();
            end.turn(&mut rng);
            let mut down = false;
            for _ in 0..100 {
                down |= matches!(connection.advance().unwrap(), News::Down(_));
            }
            assert!(down, "its end is noticed at once");
            end.settle();
        }
    }
}
