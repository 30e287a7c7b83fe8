//! Segments that are old, forged or nonsense (RFC 5961, RFC 7323 5, RFC 9293 3.10.7.4), and random ones.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

mod net;

use base::{Duration, Port, SeqNum};
use engine::{RecvError, SockError, State};
use net::{Net, Packet, Seen, Setup, forged, forged_with};
use proptest::prelude::*;
use state::{DropReason, SockRef};
use wire::{TcpFlags, TcpHeader, Timestamps};

const S: Setup = Setup::USUAL;
const PORTS: (u16, u16) = (40_000, 80);

/// A connection of which host 0's end is played by hand: (net, host 1's end, host 0's SND.NXT, host 1's SND.NXT).
fn opened() -> (Net, SockRef, SeqNum, SeqNum) {
    opened_with(&S)
}

fn opened_with(setup: &Setup) -> (Net, SockRef, SeqNum, SeqNum) {
    let mut net = Net::new(1, setup);
    let (_, _, b) = net.open();
    net.run(Duration::from_millis(100));
    net.keep_trace = true;
    net.filter = Some(Box::new(|_, _| true));
    let (nxt, theirs) = net.on(1, |e| {
        let t = &e.mem().hot.rows()[0];
        (t.rcv.nxt, t.snd.nxt)
    });
    (net, b, nxt, theirs)
}

/// Host 1 receives the segment; gives what it answers.
fn provoke(net: &mut Net, p: &Packet) -> Vec<Seen> {
    net.trace.clear();
    net.deliver(1, p);
    net.flush(1);
    net.segments()
}

#[test]
fn a_rst_at_exactly_the_next_number_ends_the_connection() {
    let (mut net, b, nxt, _) = opened();
    let p = forged(&net, 0, PORTS, (nxt, SeqNum(0)), TcpFlags::RST, &[]);
    assert_eq!(provoke(&mut net, &p).len(), 0);
    assert_eq!(net.state(1, b), Some(State::Closed));
    assert_eq!(net.recv(1, b, 1), Err(RecvError::Failed(SockError::Reset)));
}

#[test]
fn a_rst_elsewhere_in_the_window_is_answered_with_a_challenge() {
    let (mut net, b, nxt, theirs) = opened();
    let p = forged(&net, 0, PORTS, (nxt.plus(1), SeqNum(0)), TcpFlags::RST, &[]);
    let answer = provoke(&mut net, &p);
    assert_eq!(answer.len(), 1);
    assert_eq!((answer[0].flags, answer[0].seq, answer[0].ack), (TcpFlags::ACK, theirs, nxt));
    assert_eq!(net.state(1, b), Some(State::Established));
    assert_eq!(net.on(1, |e| e.counters().tcp.challenge_acks), 1);
}

#[test]
fn a_rst_outside_the_window_is_dropped() {
    let (mut net, b, nxt, _) = opened();
    for seq in [nxt.minus(1_000_000), nxt.plus(1 << 30)] {
        let p = forged(&net, 0, PORTS, (seq, SeqNum(0)), TcpFlags::RST, &[]);
        assert_eq!(provoke(&mut net, &p).len(), 0);
    }
    assert_eq!(net.state(1, b), Some(State::Established));
}

#[test]
fn a_syn_on_an_open_connection_is_answered_with_a_challenge() {
    let (mut net, b, nxt, theirs) = opened();
    for seq in [nxt, nxt.plus(7), nxt.minus(100_000)] {
        let p = forged(&net, 0, PORTS, (seq, SeqNum(0)), TcpFlags::SYN, &[]);
        let answer = provoke(&mut net, &p);
        assert_eq!(answer.len(), 1);
        assert_eq!((answer[0].flags, answer[0].seq, answer[0].ack), (TcpFlags::ACK, theirs, nxt));
    }
    assert_eq!(net.state(1, b), Some(State::Established));
}

#[test]
fn challenges_are_limited_in_number() {
    let (mut net, _, nxt, _) = opened();
    let p = forged(&net, 0, PORTS, (nxt.plus(1), SeqNum(0)), TcpFlags::RST, &[]);
    let answers: usize = (0..3000).map(|_| provoke(&mut net, &p).len()).sum();
    assert_eq!(answers, 1000);
    net.run(Duration::from_secs(1));
    assert_eq!(provoke(&mut net, &p).len(), 1);
}

#[test]
fn data_with_an_impossible_ack_is_not_taken() {
    let (mut net, b, nxt, theirs) = opened();
    for ack in [theirs.plus(1), theirs.plus(1 << 30), theirs.minus(1 << 30)] {
        let p = forged(&net, 0, PORTS, (nxt, ack), TcpFlags::ACK | TcpFlags::PSH, b"evil");
        assert_eq!(provoke(&mut net, &p).len(), 1);
        assert_eq!(net.recv(1, b, 10), Err(RecvError::WouldBlock));
    }
}

#[test]
fn data_outside_the_window_is_answered_and_dropped() {
    let (mut net, b, nxt, theirs) = opened();
    let old = forged(&net, 0, PORTS, (nxt.minus(5), theirs), TcpFlags::ACK, b"past!");
    assert_eq!(provoke(&mut net, &old).len(), 1);
    let edge = net.on(1, |e| e.mem().hot.rows()[0].rcv.edge);
    let ahead = forged(&net, 0, PORTS, (edge.plus(1), theirs), TcpFlags::ACK, b"future");
    assert_eq!(provoke(&mut net, &ahead).len(), 1);
    assert_eq!(net.recv(1, b, 10), Err(RecvError::WouldBlock));
    assert_eq!(net.dropped(1, DropReason::TcpOutOfWindow), 1);
}

#[test]
fn what_overlaps_the_next_number_is_trimmed() {
    let (mut net, b, nxt, theirs) = opened();
    let p = forged(&net, 0, PORTS, (nxt, theirs), TcpFlags::ACK, b"hello ");
    provoke(&mut net, &p);
    let p = forged(&net, 0, PORTS, (nxt.plus(3), theirs), TcpFlags::ACK, b"lo world");
    provoke(&mut net, &p);
    assert_eq!(net.recv(1, b, 100), Ok(b"hello world".to_vec()));
}

/// A segment of host 0's with timestamp `value`.
fn stamped(net: &Net, (seq, ack): (SeqNum, SeqNum), value: u32, data: &[u8]) -> Packet {
    let (src_port, dst_port) = (Port(PORTS.0), Port(PORTS.1));
    let header = TcpHeader { src_port, dst_port, seq, ack, flags: TcpFlags::ACK, window: 60_000, urgent: 0 };
    let timestamps = Some(Timestamps { value, echo: 0 });
    let options = wire::TcpOptions { timestamps, ..wire::TcpOptions::NONE };
    forged_with(&net.hosts[0], &net.hosts[1], &header, &options, data)
}

#[test]
fn an_old_timestamp_is_answered_and_dropped() {
    let (mut net, b, nxt, theirs) = opened();
    let recent = net.on(1, |e| e.mem().hot.rows()[0].rcv.ts_recent);
    let old = stamped(&net, (nxt, theirs), recent.wrapping_sub(1), b"old");
    assert_eq!(provoke(&mut net, &old).len(), 1);
    assert_eq!(net.dropped(1, DropReason::TcpPaws), 1);
    assert_eq!(net.recv(1, b, 10), Err(RecvError::WouldBlock));
    let same = stamped(&net, (nxt, theirs), recent, b"new");
    provoke(&mut net, &same);
    assert_eq!(net.recv(1, b, 10), Ok(b"new".to_vec()));
}

/// Two ends that take one another's segments for old would answer one another for ever, as fast as they can.
#[test]
fn empty_segments_that_are_old_are_answered_twice_a_second() {
    let (mut net, _, nxt, theirs) = opened();
    let recent = net.on(1, |e| e.mem().hot.rows()[0].rcv.ts_recent);
    let old = stamped(&net, (nxt, theirs), recent.wrapping_sub(1), &[]);
    let outside = forged(&net, 0, PORTS, (nxt.minus(1), theirs), TcpFlags::ACK, &[]);
    for each in [&old, &outside] {
        let first: usize = (0..100).map(|_| provoke(&mut net, each).len()).sum();
        assert_eq!(first, 1);
        net.run(Duration::from_millis(499));
        assert_eq!(provoke(&mut net, each).len(), 0);
        net.run(Duration::from_millis(1));
        assert_eq!(provoke(&mut net, each).len(), 1);
        net.run(Duration::from_millis(500));
    }
    // Data may come from a peer that never had the acknowledgement.
    let data = stamped(&net, (nxt, theirs), recent.wrapping_sub(1), b"old");
    assert_eq!((0..10).map(|_| provoke(&mut net, &data).len()).sum::<usize>(), 10);
}

#[test]
fn a_timestamp_from_before_a_long_idle_time_is_accepted() {
    let (mut net, b, nxt, theirs) = opened();
    let recent = net.on(1, |e| e.mem().hot.rows()[0].rcv.ts_recent);
    net.run(Duration::from_secs(25 * 24 * 3600));
    let p = stamped(&net, (nxt, theirs), recent.wrapping_sub(5), b"x");
    provoke(&mut net, &p);
    assert_eq!(net.recv(1, b, 10), Ok(b"x".to_vec()));
}

#[test]
fn a_wrong_checksum_is_dropped_and_an_unfinished_one_accepted() {
    let (mut net, b, nxt, theirs) = opened();
    let mut p = forged(&net, 0, PORTS, (nxt, theirs), TcpFlags::ACK, b"data");
    p.bytes[net::TCP_AT + 16] ^= 1;
    assert_eq!(provoke(&mut net, &p).len(), 0);
    assert_eq!(net.dropped(1, DropReason::TcpChecksumBad), 1);
    let len = (p.bytes.len() - net::TCP_AT) as u32;
    let pseudo = wire::checksum::pseudo(net.hosts[0].addr, net.hosts[1].addr, wire::IpProtocol::TCP, len);
    wire::tcp::set_checksum(&mut p.bytes[net::TCP_AT..], pseudo.fold()).unwrap();
    provoke(&mut net, &p);
    assert_eq!(net.recv(1, b, 10), Ok(b"data".to_vec()));
}

#[test]
fn a_segment_without_ack_is_dropped() {
    let (mut net, b, nxt, _) = opened();
    let p = forged(&net, 0, PORTS, (nxt, SeqNum(0)), TcpFlags::NONE, b"data");
    assert_eq!(provoke(&mut net, &p).len(), 0);
    assert_eq!(net.recv(1, b, 10), Err(RecvError::WouldBlock));
}

#[test]
fn a_fin_ahead_of_missing_data_counts_when_the_data_has_come() {
    let (mut net, b, nxt, theirs) = opened();
    let p = forged(&net, 0, PORTS, (nxt.plus(3), theirs), TcpFlags::ACK | TcpFlags::FIN, b"def");
    provoke(&mut net, &p);
    assert_eq!(net.state(1, b), Some(State::Established));
    let p = forged(&net, 0, PORTS, (nxt, theirs), TcpFlags::ACK, b"abc");
    provoke(&mut net, &p);
    assert_eq!(net.recv(1, b, 10), Ok(b"abcdef".to_vec()));
    assert_eq!(net.recv(1, b, 10), Ok(vec![]));
    assert_eq!(net.state(1, b), Some(State::CloseWait));
}

fn arbitrary_flags() -> impl Strategy<Value = TcpFlags> {
    (0u16..0x200).prop_map(TcpFlags)
}

/// A number near one that matters, or anywhere.
fn near() -> impl Strategy<Value = (u8, u32)> {
    (0u8..5, prop_oneof![Just(0u32), 0u32..3000, Just(u32::MAX), any::<u32>()])
}

#[derive(Clone, Debug)]
struct Move {
    seq: (u8, u32),
    ack: (u8, u32),
    flags: TcpFlags,
    window: u16,
    options: Vec<u8>,
    len: usize,
    then: u8,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = (
        near(),
        near(),
        arbitrary_flags(),
        any::<u16>(),
        prop::collection::vec(any::<u8>(), 0..10),
        0usize..3000,
        0u8..12,
    )
        .prop_map(|(seq, ack, flags, window, options, len, then)| Move {
            seq,
            ack,
            flags,
            window,
            options,
            len,
            then,
        });
    prop::collection::vec(one, 1..40)
}

/// The segment of `m`, with whatever bytes as options.
fn segment(net: &mut Net, m: &Move) -> Packet {
    let (nxt, una, theirs, edge) = net.on(1, |e| {
        let t = &e.mem().hot.rows()[0];
        (t.rcv.nxt, t.snd.una, t.snd.nxt, t.rcv.edge)
    });
    let pick = |(which, by): (u8, u32)| match which {
        0 => nxt.plus(by),
        1 => una.plus(by),
        2 => theirs.plus(by),
        3 => edge.minus(by),
        _ => SeqNum(by),
    };
    let payload = vec![7; m.len];
    let mut p = forged(net, 0, PORTS, (pick(m.seq), pick(m.ack)), m.flags, &payload);
    let mut options = m.options.clone();
    options.resize(options.len().next_multiple_of(4), 1);
    p.bytes.splice(54..54, options.iter().copied());
    p.bytes[46] = (((20 + options.len()) / 4) as u8) << 4 | p.bytes[46] & 0xf;
    p.bytes[48..50].copy_from_slice(&m.window.to_be_bytes());
    let total = (p.bytes.len() - 14) as u16;
    wire::ipv4::patch_len_and_ident(&mut p.bytes[14..], total, 0).unwrap();
    net::finish_checksum(&mut p.bytes);
    p
}

/// One case: whatever a peer sends, and whatever the program does meanwhile.
fn play(moves: &[Move]) {
    let setup = Setup { frames: 512, socks: 8, ..S };
    let (mut net, b, _, _) = opened_with(&setup);
    for m in moves {
        let p = segment(&mut net, m);
        net.deliver(1, &p);
        match m.then {
            0 => drop(net.send(1, b, &[1; 5000])),
            1 => drop(net.recv(1, b, 2000)),
            2 => net.close(1, b),
            3 => net.run(Duration::from_millis(300)),
            4 => drop(net.on(1, |e| e.shutdown(b, engine::How::Write))),
            5 => net.run(Duration::from_secs(5)),
            6 => net.on(1, |e| e.abort(b)),
            _ => net.flush(1),
        }
        net.trace.clear();
    }
    net.close(1, b);
    // What a SYN among them has opened waits in the accept queue.
    let listener =
        net.on(1, |e| SockRef::new(state::SockKind::Listener, 0, e.mem().listeners.rows()[0].generation));
    net.close(1, listener);
    net.keep_trace = false;
    net.run(Duration::from_secs(3000));
    assert_eq!(net.on(1, |e| e.counters().tcp.open), 0);
    assert_eq!(net.free_frames(1), setup.frames);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn random_segments_never_panic_and_leak_nothing(moves in moves()) {
        play(&moves);
    }

    #[test]
    fn random_packets_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), keep in 0usize..60) {
        let (mut net, _, nxt, theirs) = opened_with(&Setup { frames: 256, socks: 4, ..S });
        let mut p = forged(&net, 0, PORTS, (nxt, theirs), TcpFlags::ACK, b"data");
        p.bytes.truncate(keep);
        p.bytes.extend_from_slice(&bytes);
        net.deliver(1, &p);
        net.flush(1);
    }
}
