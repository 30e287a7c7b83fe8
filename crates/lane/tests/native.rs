//! Programs on their own lanes: bytes arrive whole by every pair of verbs, on every wire, and nothing is left behind.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;

use base::{Duration, Instant, LaneId, MacAddr};
use lane::native::{
    Config, ConnectError, Event, How, Link, Memory, Native, Ready, RecvError, SendError, Shape, SockRef,
    StartError, Wait,
};
use port::fault::{FaultPort, FaultSpec, Rates};
use port::memif::WireShape;
use port::simwire::{self, WireClock, WireSpec};
use port::{Port, PortSetup};
use proptest::prelude::*;

const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const SERVER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(198, 18, 0, 2), 80);

fn mac(host: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, host])
}

fn setup(mtu: u16) -> PortSetup {
    PortSetup { port: 0, mtu, local_peer: true, own_address: true }
}

fn memory(frames: u32) -> Memory {
    Memory::anonymous(Shape { lanes: 1, sockets: 1024, frames }).unwrap()
}

/// Host 1 or 2 behind `port`.
fn config(memory: Memory, host: u8, port: Box<dyn Port + Send>) -> Config {
    let own = (mac(host), Ipv4Addr::new(198, 18, 0, host));
    Config { wait: Wait::Spin, ..Config::new(memory, 64, vec![Link::wire(port, own, mac(3 - host))]) }
}

/// Two lanes in this thread in virtual time.
struct Pair {
    ends: [Native; 2],
    /// Of the cable; a lending wire has none.
    clock: Option<WireClock>,
    now: Instant,
}

impl Pair {
    fn new(rates: Rates, offloads: bool, frames: u32) -> Self {
        let spec =
            WireSpec { delay: Duration::from_micros(10), bits_per_second: 0, queue_packets: 4096, offloads };
        let (a, b, clock) = simwire::pair(spec, [setup(1500), setup(1500)]);
        let bad = |port, seed| Box::new(FaultPort::new(port, FaultSpec { seed, rx: rates, tx: rates }));
        let ends = [
            Native::new(config(memory(frames), 1, bad(a, 1))).unwrap(),
            Native::new(config(memory(frames), 2, bad(b, 2))).unwrap(),
        ];
        let now = sys::clock::now();
        clock.set(now);
        Self { ends, clock: Some(clock), now }
    }

    /// On a wire on which one lane lends its frames to the other.
    fn lending(memory: &Memory, rates: Rates) -> Self {
        let (near, far) = port::lend::pair(memory.region(), (LaneId(0), LaneId(1))).unwrap();
        let end = |parts, host: u8| {
            let setup = setup(15 * 4096 + 52);
            let port = port::lend::LendPort::from_parts(parts, memory.region(), setup).unwrap();
            let seed = u64::from(host);
            let port = Box::new(FaultPort::new(port, FaultSpec { seed, rx: rates, tx: rates }));
            let config = config(memory.clone(), host, port);
            Native::new(Config { lane: LaneId(u16::from(host) - 1), ..config }).unwrap()
        };
        Self { ends: [end(near, 1), end(far, 2)], clock: None, now: sys::clock::now() }
    }

    /// Both ends have a batch; events go to `each`. Then time goes on to whatever comes next.
    fn turn(&mut self, mut each: impl FnMut(usize, &mut Native, &Event)) {
        let mut busy = false;
        let mut events = [Event::NONE; 16];
        for (at, end) in (0..).zip(&mut self.ends) {
            loop {
                let count = end.poll_at(self.now, &mut events);
                events[..count].iter().for_each(|event| each(at, end, event));
                busy |= count > 0;
                if count == 0 {
                    break;
                }
            }
        }
        if !busy {
            // On a lending wire packets arrive at once.
            let arrival = self.clock.as_ref().map_or(self.now, WireClock::next_arrival);
            let next = self.ends.iter_mut().map(Native::deadline).fold(arrival, Instant::min);
            // A fault port may hold a packet back until it is polled again.
            let step = next.min(self.now.plus(Duration::from_millis(10)));
            self.now = step.max(self.now.plus(Duration::from_micros(1)));
            if let Some(clock) = &self.clock {
                clock.set(self.now);
            }
        }
    }
}

/// How one side of a transfer uses the verbs.
#[derive(Clone, Copy, Debug)]
struct Manner {
    in_frames: bool,
    piece: usize,
}

fn manner() -> impl Strategy<Value = Manner> {
    (any::<bool>(), 1_usize..9000).prop_map(|(in_frames, piece)| Manner { in_frames, piece })
}

/// Sends what it can of `data` behind `sent`.
fn write(end: &mut Native, sock: SockRef, data: &[u8], sent: &mut usize, how: Manner) {
    while *sent < data.len() {
        let rest = &data[*sent..data.len().min(*sent + how.piece)];
        let mut done = 0;
        let wrote = if how.in_frames {
            end.send_with(sock, rest.len(), |room| {
                room.copy_from_slice(&rest[done..done + room.len()]);
                done += room.len();
                room.len()
            })
        } else {
            end.send(sock, rest)
        };
        match wrote {
            Ok(n) => *sent += n,
            Err(SendError::WouldBlock) => return,
            Err(error) => panic!("{error:?}"),
        }
    }
}

/// Reads all there is; true: the stream is at its end.
fn read(end: &mut Native, sock: SockRef, got: &mut Vec<u8>, how: Manner) -> bool {
    loop {
        let mut called = false;
        let before = got.len();
        let n = if how.in_frames {
            end.recv_with(sock, |piece| {
                called = true;
                let n = piece.len().min(how.piece);
                got.extend_from_slice(&piece[..n]);
                n
            })
        } else {
            got.resize(before + how.piece, 0);
            let n = end.recv(sock, &mut got[before..]);
            got.truncate(before + n.unwrap_or(0));
            n
        };
        match n {
            Ok(0) if !called => return true,
            Ok(_) => {}
            Err(RecvError::WouldBlock) => return false,
            Err(error) => panic!("{error:?}"),
        }
    }
}

fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut rng = base::Rng::new(seed);
    (0..len).map(|_| rng.next_u64() as u8).collect()
}

/// The first end sends `data` and its end of stream; the second one echoes all of it.
fn echo(pair: &mut Pair, data: &[u8], hows: [Manner; 2]) -> Vec<u8> {
    let listener = pair.ends[1].listen(SERVER, 16, 1).unwrap();
    let client = pair.ends[0].connect(SERVER, 2).unwrap();
    let mut server = SockRef::NONE;
    let (mut sent, mut finished, mut back) = (0, false, Vec::new());
    let (mut got, mut echoed, mut ended, mut closed) = (Vec::new(), 0, false, false);
    for _ in 0..3_000_000 {
        pair.turn(|at, end, event| {
            if at == 1 && event.sock == listener {
                assert_eq!(event.token, 1);
                end.accept(listener, |accepted| {
                    server = accepted.sock;
                    3
                });
            } else if at == 1 {
                assert_eq!((event.sock, event.token), (server, 3));
                ended |= read(end, server, &mut got, hows[1]);
                write(end, server, &got, &mut echoed, hows[1]);
                if ended && echoed == got.len() && !closed {
                    end.close(server);
                    closed = true;
                }
            } else {
                assert_eq!((event.sock, event.token), (client, 2));
                assert!(!event.ready.any(Ready::ERR), "{:?}", end.take_error(client));
                if event.ready.any(Ready::OUT) {
                    write(end, client, data, &mut sent, hows[0]);
                }
                if sent == data.len() && !finished {
                    end.shutdown(client, How::Write).unwrap();
                    finished = true;
                }
                if read(end, client, &mut back, hows[0]) && closed {
                    end.close(client);
                }
            }
        });
        if closed && pair.ends[0].names(client).is_none() {
            return back;
        }
    }
    panic!("stuck: sent {sent} of {}, echoed {echoed} of {}, back {}", data.len(), got.len(), back.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]
    #[test]
    fn an_echo_is_exact_by_every_pair_of_verbs_on_a_bad_wire(
        len in 0_usize..200_000,
        hows in [manner(), manner()],
        bad in any::<bool>(),
        offloads in any::<bool>(),
    ) {
        let ppm = if bad { 5000 } else { 0 };
        let rates = Rates { drop_ppm: ppm, duplicate_ppm: ppm, reorder_ppm: ppm, corrupt_ppm: ppm };
        let mut pair = Pair::new(rates, offloads, 4096);
        let data = pattern(len, 7);
        prop_assert!(echo(&mut pair, &data, hows) == data);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn an_echo_is_exact_when_frames_are_lent_and_every_frame_comes_back(
        len in 0_usize..400_000,
        hows in [manner(), manner()],
        bad in any::<bool>(),
        frames in prop_oneof![Just(2048_u32), Just(8192)],
    ) {
        let ppm = if bad { 5000 } else { 0 };
        let rates = Rates { drop_ppm: ppm, duplicate_ppm: ppm, reorder_ppm: ppm, corrupt_ppm: ppm };
        let memory = Memory::anonymous(Shape { lanes: 2, sockets: 64, frames }).unwrap();
        let mut pair = Pair::lending(&memory, rates);
        let data = pattern(len, 7);
        prop_assert!(echo(&mut pair, &data, hows) == data);
        drop(pair);
        // Both lanes are formatted again, which finds what they had left: with it, all frames are free but the wire's four.
        for lane in 0..2 {
            Native::new(Config { lane: LaneId(lane), ..Config::new(memory.clone(), 64, Vec::new()) }).unwrap();
        }
        prop_assert_eq!(memory.region().frame_area().take_shelves::<2044>().is_some(), true);
    }
}

/// An echo server that ends when `connections` clients have gone.
fn serve(mut lane: Native, connections: usize) -> usize {
    let listener = lane.listen(SERVER, 1024, u64::MAX).unwrap();
    let (mut accepted, mut gone) = (0, 0);
    let mut events = [Event::NONE; 64];
    while gone < connections {
        let count = lane.wait(&mut events, None);
        for event in &events[..count] {
            if event.sock == listener {
                accepted += lane.accept(listener, |_| 7);
                continue;
            }
            let mut buf = [0; 512];
            loop {
                match lane.recv(event.sock, &mut buf) {
                    Ok(0) => {
                        lane.close(event.sock);
                        gone += 1;
                        break;
                    }
                    Ok(n) => assert_eq!(lane.send(event.sock, &buf[..n]), Ok(n)),
                    Err(RecvError::WouldBlock | RecvError::Gone) => break,
                    Err(error) => panic!("{error:?}"),
                }
            }
        }
    }
    accepted
}

/// `connections` at a time exchange `rounds` messages each, each checked, and close.
fn exchange(mut lane: Native, connections: u64, rounds: u64) {
    let message = |token: u64, round: u64| (token << 32 | round).to_be_bytes();
    let socks: Vec<SockRef> = (0..connections).map(|token| lane.connect(SERVER, token).unwrap()).collect();
    let mut round_of = vec![0; socks.len()];
    let mut open = connections;
    let mut events = [Event::NONE; 32];
    while open > 0 {
        let count = lane.wait(&mut events, None);
        for event in &events[..count] {
            let (token, sock) = (event.token, event.sock);
            let round = &mut round_of[token as usize];
            assert!(!event.ready.any(Ready::ERR), "{:?}", lane.take_error(sock));
            if *round == 0 && event.ready.any(Ready::OUT) {
                assert_eq!(lane.send(sock, &message(token, 0)), Ok(8));
                *round = 1;
                continue;
            }
            let mut buf = [0; 8];
            match lane.recv(sock, &mut buf) {
                Ok(n) => assert_eq!((n, buf), (8, message(token, *round - 1))),
                Err(RecvError::WouldBlock) => continue,
                Err(error) => panic!("{error:?}"),
            }
            if *round == rounds {
                lane.close(sock);
                open -= 1;
            } else {
                assert_eq!(lane.send(sock, &message(token, *round)), Ok(8));
                *round += 1;
            }
        }
    }
    lane.poll(&mut events);
}

#[test]
fn threads_that_lend_each_other_their_frames_get_their_own_answers() {
    let memory = Memory::shared(Shape { lanes: 2, sockets: 1024, frames: 8192 }, false).unwrap();
    let (near, far) = port::lend::pair(memory.region(), (LaneId(0), LaneId(1))).unwrap();
    let server = std::thread::spawn({
        let memory = memory.clone();
        move || {
            let link = Link::lend(far, &memory, *SERVER.ip(), CLIENT).unwrap();
            let config = Config { lane: LaneId(1), ..Config::new(memory, 1024, vec![link]) };
            serve(Native::new(config).unwrap(), 100)
        }
    });
    let link = Link::lend(near, &memory, CLIENT, *SERVER.ip()).unwrap();
    exchange(Native::new(Config::new(memory, 1024, vec![link])).unwrap(), 100, 50);
    assert_eq!(server.join().unwrap(), 100);
}

fn over_memif(wait: Wait, connections: u64, rounds: u64) {
    let (client, server) = port::memif::pair(WireShape::default()).unwrap();
    let server = std::thread::spawn(move || {
        let memory = memory(2048);
        let link = Link::memif(server, &memory, *SERVER.ip(), CLIENT).unwrap();
        let config = Config { wait, ..Config::new(memory, 1024, vec![link]) };
        serve(Native::new(config).unwrap(), connections as usize)
    });
    let memory = memory(2048);
    let link = Link::memif(client, &memory, CLIENT, *SERVER.ip()).unwrap();
    let config = Config { wait, ..Config::new(memory, 1024, vec![link]) };
    exchange(Native::new(config).unwrap(), connections, rounds);
    assert_eq!(server.join().unwrap(), connections as usize);
}

#[test]
fn many_connections_between_two_threads_get_their_own_answers() {
    over_memif(Wait::SpinThenSleep(Duration::from_micros(5)), 200, 50);
}

#[test]
fn threads_that_sleep_at_once_wake_each_other() {
    over_memif(Wait::Sleep, 1, 300);
}

/// A connection that is open at both ends; the server's events carry token 3.
fn connected() -> (Pair, SockRef) {
    let mut pair = Pair::new(Rates::default(), true, 1024);
    let listener = pair.ends[1].listen(SERVER, 4, 1).unwrap();
    let client = pair.ends[0].connect(SERVER, 2).unwrap();
    let mut open = 0;
    while open < 2 {
        pair.turn(|_, end, event| {
            open += if event.sock == listener { end.accept(listener, |_| 3) } else { 1 };
        });
    }
    (pair, client)
}

#[test]
fn a_dropped_lane_ends_its_connections() {
    let (pair, client) = connected();
    let Pair { ends: [mut near, far], clock, mut now } = pair;
    drop(far);
    let mut events = [Event::NONE; 4];
    let mut seen = Ready::NONE;
    while !seen.any(Ready::RDHUP) {
        now = now.plus(Duration::from_micros(20));
        clock.as_ref().unwrap().set(now);
        let count = near.poll_at(now, &mut events);
        events[..count].iter().for_each(|event| seen |= event.ready);
    }
    assert_eq!(near.recv(client, &mut [0; 8]), Ok(0));
}

#[test]
fn a_lane_has_one_holder_and_comes_free_with_it() {
    let memory = Memory::shared(Shape { lanes: 2, sockets: 16, frames: 256 }, false).unwrap();
    let other =
        Memory::open(sys::fds::Fd::from(memory.fd().unwrap().as_fd().try_clone_to_owned().unwrap())).unwrap();
    let make = |memory: &Memory, lane: u16| {
        Native::new(Config { lane: LaneId(lane), ..Config::new(memory.clone(), 16, Vec::new()) })
    };
    let first = make(&memory, 0).unwrap();
    assert_eq!(make(&other, 0).err(), Some(StartError::Taken));
    let second = make(&other, 1).unwrap();
    drop(first);
    assert!(make(&other, 0).is_ok());
    drop(second);
    assert_eq!(make(&memory, 2).err(), Some(StartError::NoLane));
    let config = Config::new(memory, 1 << 20, Vec::new());
    assert_eq!(Native::new(config).err(), Some(StartError::TooSmall));
}

#[test]
fn what_cannot_be_connected_says_why() {
    let mut lane = Native::new(Config::new(memory(256), 16, Vec::new())).unwrap();
    assert_eq!(lane.connect(SERVER, 0).err(), Some(ConnectError::NoRoute));
    let mut pair = Pair::new(Rates::default(), true, 256);
    let all = SocketAddrV4::new(Ipv4Addr::BROADCAST, 80);
    assert_eq!(pair.ends[0].connect(all, 0).err(), Some(ConnectError::Invalid));
    // Nobody listens there.
    let sock = pair.ends[0].connect(SERVER, 9).unwrap();
    let mut failed = false;
    while !failed {
        pair.turn(|at, _, event| failed |= at == 0 && event.token == 9 && event.ready.any(Ready::ERR));
    }
    assert_eq!(pair.ends[0].take_error(sock), Some(lane::native::SockError::Refused));
}

#[test]
fn events_left_over_come_before_anything_else() {
    let mut pair = Pair::new(Rates::default(), true, 1024);
    let listener = pair.ends[1].listen(SERVER, 16, 1).unwrap();
    for token in 0..4 {
        pair.ends[0].connect(SERVER, token).unwrap();
    }
    let mut tokens = Vec::new();
    while tokens.len() < 4 {
        pair.turn(|at, end, event| {
            if event.sock == listener {
                end.accept(listener, |_| 5);
            } else if at == 0 {
                tokens.push(event.token);
                let mut one = [Event::NONE];
                // The rest of the batch, one at a time.
                while end.poll_at(Instant(0), &mut one) == 1 {
                    tokens.push(one[0].token);
                }
            }
        });
    }
    tokens.sort_unstable();
    assert_eq!(tokens, [0, 1, 2, 3]);
}

#[test]
fn writes_gather_until_there_are_32_of_them() {
    let (pair, client) = connected();
    let Pair { ends: [mut near, mut far], clock, mut now } = pair;
    near.flush();
    let mut arrived = |far: &mut Native| {
        now = now.plus(Duration::from_millis(1));
        clock.as_ref().unwrap().set(now);
        let mut events = [Event::NONE; 4];
        let count = far.poll_at(now, &mut events);
        events[..count].iter().filter(|event| event.token == 3).count()
    };
    arrived(&mut far);
    for n in 1..=32 {
        assert_eq!(arrived(&mut far), 0, "after {} writes", n - 1);
        near.send(client, &[n]).unwrap();
    }
    assert_eq!(arrived(&mut far), 1);
}
