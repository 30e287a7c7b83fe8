//! Loss: timeouts, fast retransmit with and without SACK, tail loss probes (RFC 6298, 5681, 6675, 6582, 8985).
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

mod net;

use std::cell::RefCell;
use std::rc::Rc;

use base::{Duration, SeqNum};
use engine::Algorithm;
use net::{Faults, Net, Packet, Setup, forged_with, pattern};
use state::{SockRef, TcpOptions};
use wire::{SackBlock, SackBlocks, TcpFlags, TcpHeader};

const S: Setup = Setup { super_segment_max: 0, ..Setup::USUAL };

/// Loses the data segments of host 0 whose number, counted from 1 on, is in `lost`.
fn lose(net: &mut Net, lost: &'static [u32]) {
    let seen = Rc::new(RefCell::new(0));
    net.filter = Some(Box::new(move |from, p: &Packet| {
        if from != 0 || p.tcp().is_none_or(|t| t.payload().is_empty()) {
            return false;
        }
        *seen.borrow_mut() += 1;
        lost.contains(&seen.borrow())
    }));
}

fn read_everything(net: &mut Net, b: SockRef, want: &[u8]) -> Duration {
    let start = net.now;
    let mut got = Vec::new();
    while got.len() < want.len() {
        match net.recv(1, b, 100_000) {
            Ok(bytes) => got.extend_from_slice(&bytes),
            Err(_) => assert!(net.step()),
        }
        assert!(net.now.since(start) < Duration::from_secs(600));
    }
    assert!(got == want);
    net.now.since(start)
}

fn counters(net: &mut Net) -> state::TcpCounters {
    net.on(0, |e| e.counters().tcp)
}

#[test]
fn a_lost_segment_is_sent_again_as_soon_as_sack_shows_it() {
    let mut net = Net::new(1, &S);
    let (_, a, b) = net.open();
    lose(&mut net, &[3]);
    let data = pattern(1, 14_000);
    net.send(0, a, &data).unwrap();
    let took = read_everything(&mut net, b, &data);
    assert!(took < Duration::from_millis(2), "{took:?}");
    let c = counters(&mut net);
    assert_eq!((c.recoveries, c.retransmits, c.timeouts), (1, 1, 0));
}

#[test]
fn several_losses_in_one_window_are_repaired_in_one_recovery() {
    let mut net = Net::new(2, &S);
    let (_, a, b) = net.open();
    // The window has grown by then.
    let first = pattern(7, 100_000);
    net.send(0, a, &first).unwrap();
    read_everything(&mut net, b, &first);
    lose(&mut net, &[2, 5, 6, 9, 14]);
    let data = pattern(1, 60_000);
    net.send(0, a, &data).unwrap();
    let took = read_everything(&mut net, b, &data);
    assert!(took < Duration::from_millis(5), "{took:?}");
    let c = counters(&mut net);
    assert_eq!((c.recoveries, c.retransmits, c.timeouts), (1, 5, 0));
}

/// The window before a recovery from two losses, and after it.
fn windows_around_a_recovery(algorithm: Algorithm) -> (u32, u32) {
    let mut net = Net::new(3, &S);
    let listener = net.listen(1, 80, 16);
    net.on(0, |e| e.set_congestion(algorithm));
    let (a, b) = net.open_to(listener, 40_000);
    let first = pattern(7, 200_000);
    net.send(0, a, &first).unwrap();
    read_everything(&mut net, b, &first);
    net.run(Duration::from_millis(1));
    let before = net.on(0, |e| e.tcp_info(a)).unwrap().cwnd_bytes;
    lose(&mut net, &[2, 9]);
    let data = pattern(1, before as usize);
    net.send(0, a, &data).unwrap();
    read_everything(&mut net, b, &data);
    net.run(Duration::from_millis(1));
    let info = net.on(0, |e| e.tcp_info(a)).unwrap();
    assert_eq!((info.recovering, info.congestion.algorithm), (false, algorithm));
    assert_eq!(info.ssthresh_bytes, info.cwnd_bytes, "the window is the threshold at the end (RFC 9937 6.2)");
    (before, info.cwnd_bytes)
}

#[test]
fn reno_halves_the_window_once_a_recovery() {
    let (before, after) = windows_around_a_recovery(Algorithm::Reno);
    assert!(after <= before / 2 + 3000 && after >= before / 3, "{before} {after}");
}

#[test]
fn cubic_keeps_seven_tenths_of_the_window_in_a_recovery() {
    let (before, after) = windows_around_a_recovery(Algorithm::Cubic);
    assert!(after <= before * 7 / 10 + 3000 && after >= before * 13 / 20, "{before} {after}");
}

#[test]
fn a_lost_retransmission_is_sent_a_third_time_without_a_timeout() {
    let mut net = Net::new(4, &S);
    let (_, a, b) = net.open();
    let first = pattern(7, 100_000);
    net.send(0, a, &first).unwrap();
    read_everything(&mut net, b, &first);
    // Number 2 and its retransmission: the first segment that begins there and comes twice.
    let lost = Rc::new(RefCell::new((0_u32, None::<SeqNum>, 0_u32)));
    net.filter = Some(Box::new(move |from, p: &Packet| {
        let Some(t) = p.tcp().filter(|t| from == 0 && !t.payload().is_empty()) else { return false };
        let mut l = lost.borrow_mut();
        l.0 += 1;
        if l.0 == 2 {
            l.1 = Some(t.seq());
        }
        if l.1 == Some(t.seq()) {
            l.2 += 1;
            return l.2 <= 2;
        }
        false
    }));
    let data = pattern(1, 400_000);
    net.send(0, a, &data).unwrap();
    let took = read_everything(&mut net, b, &data);
    assert!(took < Duration::from_millis(20), "{took:?}");
    assert_eq!(counters(&mut net).timeouts, 0);
}

#[test]
fn a_lost_tail_is_probed_before_the_timeout() {
    let mut net = Net::new(5, &S);
    let (_, a, b) = net.open();
    lose(&mut net, &[5, 6]);
    let data = pattern(1, 6 * usize::from(net::MSS));
    net.send(0, a, &data).unwrap();
    let took = read_everything(&mut net, b, &data);
    assert!(took < Duration::from_millis(50), "{took:?}");
    let c = counters(&mut net);
    assert_eq!((c.loss_probes, c.timeouts), (1, 0));
}

#[test]
fn a_lone_lost_segment_comes_again_after_the_timeout() {
    let mut net = Net::new(6, &S);
    let (_, a, b) = net.open();
    lose(&mut net, &[1]);
    net.send(0, a, b"ping").unwrap();
    let took = read_everything(&mut net, b, b"ping");
    assert!(took >= Duration::from_millis(200) && took < Duration::from_millis(210), "{took:?}");
    // The tail loss probe is due at the same time and comes first (RFC 8985 7.2).
    let c = counters(&mut net);
    assert_eq!((c.loss_probes, c.timeouts), (1, 0));
}

#[test]
fn the_timeout_doubles_until_the_connection_is_given_up() {
    let mut net = Net::new(7, &S);
    let (_, a, _) = net.open();
    net.filter = Some(Box::new(|_, _| true));
    net.keep_trace = true;
    net.send(0, a, b"ping").unwrap();
    net.run(Duration::from_secs(1200));
    let sent = net.segments();
    assert_eq!(sent.len(), 17);
    let gaps: Vec<u64> = sent.windows(2).map(|w| w[1].at.since(w[0].at).as_millis()).collect();
    // First the tail loss probe, which is no timeout.
    assert!(gaps[0] >= 200 && gaps[0] < 205 && gaps[1] >= 200 && gaps[1] < 205);
    assert!(gaps[1..].windows(2).take(8).all(|g| g[1] >= 2 * g[0] - 4 && g[1] <= 2 * g[0] + 4), "{gaps:?}");
    assert!(gaps.iter().all(|g| *g <= 120_002), "{gaps:?}");
    assert_eq!(net.on(0, |e| e.take_error(a)), Some(engine::SockError::TimedOut));
    net.close(0, a);
    assert_eq!(net.free_frames(0), S.frames);
}

#[test]
fn a_user_timeout_ends_the_connection_earlier() {
    let mut net = Net::new(8, &S);
    let (_, a, _) = net.open();
    let opts = TcpOptions { user_timeout_ms: 3000, ..TcpOptions::default() };
    net.on(0, |e| e.set_tcp_options(a, &opts));
    net.filter = Some(Box::new(|_, _| true));
    net.send(0, a, b"ping").unwrap();
    net.run(Duration::from_secs(2));
    assert_eq!(net.on(0, |e| e.take_error(a)), None);
    net.run(Duration::from_secs(8));
    assert_eq!(net.on(0, |e| e.take_error(a)), Some(engine::SockError::TimedOut));
}

#[test]
fn recovery_after_a_timeout_sends_everything_that_was_lost() {
    let mut net = Net::new(9, &S);
    let (_, a, b) = net.open();
    lose(&mut net, &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]);
    let data = pattern(1, 100_000);
    net.send(0, a, &data).unwrap();
    let took = read_everything(&mut net, b, &data);
    assert!(took < Duration::from_millis(700), "{took:?}");
}

#[test]
fn the_fin_is_sent_again_when_it_is_lost() {
    let mut net = Net::new(10, &S);
    let (_, a, b) = net.open();
    net.filter = Some(Box::new({
        let mut n = 0;
        move |from, p: &Packet| {
            let fin = from == 0 && p.tcp().is_some_and(|t| t.flags().is_fin());
            n += u32::from(fin);
            fin && n <= 2
        }
    }));
    net.send(0, a, b"bye").unwrap();
    net.close(0, a);
    net.run(Duration::from_secs(3));
    assert_eq!(net.recv(1, b, 10), Ok(b"bye".to_vec()));
    assert_eq!(net.recv(1, b, 10), Ok(vec![]));
}

/// A peer made by hand: it agrees to nothing but an MSS, or to SACK too.
struct Peer {
    ours: SeqNum,
    theirs: SeqNum,
}

impl Peer {
    /// Host 0 connects to a peer in host 1's place.
    fn open(net: &mut Net, sack: bool) -> (Peer, SockRef) {
        net.keep_trace = true;
        net.filter = Some(Box::new(|_, _| true));
        let a = net.connect(0, 40_000, 80).unwrap();
        net.flush(0);
        let syn = net.segments()[0];
        let peer = Peer { ours: SeqNum(100), theirs: syn.seq.plus(1) };
        let options = wire::TcpOptions { mss: Some(1000), sack_permitted: sack, ..wire::TcpOptions::NONE };
        peer.answer(net, TcpFlags::SYN | TcpFlags::ACK, peer.theirs, &options);
        net.flush(0);
        net.trace.clear();
        (Peer { ours: SeqNum(101), ..peer }, a)
    }

    fn answer(&self, net: &mut Net, flags: TcpFlags, ack: SeqNum, options: &wire::TcpOptions) {
        let header = TcpHeader {
            src_port: base::Port(80),
            dst_port: base::Port(40_000),
            seq: self.ours,
            ack,
            flags,
            window: 60_000,
            urgent: 0,
        };
        let packet = forged_with(&net.hosts[1], &net.hosts[0], &header, options, &[]);
        net.deliver(0, &packet);
        net.flush(0);
    }

    fn ack(&self, net: &mut Net, bytes: u32) {
        self.answer(net, TcpFlags::ACK, self.theirs.plus(bytes), &wire::TcpOptions::NONE);
    }

    fn sack(&self, net: &mut Net, bytes: u32, blocks: &[(u32, u32)]) {
        let mut sack = SackBlocks::NONE;
        for b in blocks {
            sack.push(SackBlock { left: self.theirs.plus(b.0), right: self.theirs.plus(b.1) });
        }
        self.answer(
            net,
            TcpFlags::ACK,
            self.theirs.plus(bytes),
            &wire::TcpOptions { sack, ..wire::TcpOptions::NONE },
        );
    }

    /// Where the data segments sent since the last call begin.
    fn sent(&self, net: &mut Net) -> Vec<u32> {
        let sent = net.segments().iter().filter(|s| s.len > 0).map(|s| s.seq.since(self.theirs)).collect();
        net.trace.clear();
        sent
    }
}

#[test]
fn three_duplicate_acks_repair_a_loss_for_a_peer_without_sack() {
    let mut net = Net::new(11, &S);
    let (peer, a) = Peer::open(&mut net, false);
    net.send(0, a, &pattern(1, 20_000)).unwrap();
    assert_eq!(peer.sent(&mut net), (0..10).map(|n| n * 1000).collect::<Vec<_>>());
    // The first two let one new segment out each (limited transmit), the third brings the lost one.
    peer.ack(&mut net, 0);
    assert_eq!(peer.sent(&mut net), vec![10_000]);
    peer.ack(&mut net, 0);
    assert_eq!(peer.sent(&mut net), vec![11_000]);
    peer.ack(&mut net, 0);
    assert_eq!(peer.sent(&mut net), vec![0]);
    // Further ones inflate the window until new segments go out.
    for _ in 0..4 {
        peer.ack(&mut net, 0);
    }
    assert!(!peer.sent(&mut net).contains(&0));
    // A partial ACK shows the next loss (RFC 6582).
    peer.ack(&mut net, 4000);
    assert_eq!(peer.sent(&mut net).first(), Some(&4000));
    let info = net.on(0, |e| e.tcp_info(a)).unwrap();
    assert!(info.recovering);
    peer.ack(&mut net, 4000 + info.unacked_bytes);
    let info = net.on(0, |e| e.tcp_info(a)).unwrap();
    assert!(!info.recovering);
}

#[test]
fn reported_data_is_not_sent_again() {
    let mut net = Net::new(12, &S);
    let (peer, a) = Peer::open(&mut net, true);
    net.send(0, a, &pattern(1, 10_000)).unwrap();
    peer.sent(&mut net);
    peer.sack(&mut net, 1000, &[(2000, 3000), (4000, 5000)]);
    let mut resent = peer.sent(&mut net);
    peer.sack(&mut net, 1000, &[(6000, 8000), (4000, 5000), (2000, 3000)]);
    resent.extend(peer.sent(&mut net));
    assert_eq!(resent.first(), Some(&1000));
    peer.sack(&mut net, 1000, &[(6000, 10_000), (4000, 5000), (2000, 3000)]);
    let more = [resent, peer.sent(&mut net)].concat();
    assert_eq!(more, vec![1000, 3000, 5000]);
}

#[test]
fn sack_blocks_that_lie_are_ignored() {
    let mut net = Net::new(13, &S);
    let (peer, a) = Peer::open(&mut net, true);
    net.send(0, a, &pattern(1, 5000)).unwrap();
    peer.sent(&mut net);
    for _ in 0..10 {
        peer.sack(&mut net, 0, &[(90_000, 91_000), (3000, 2000), (u32::MAX - 500, 5)]);
    }
    // They are duplicate ACKs all the same, but report nothing.
    assert_eq!(peer.sent(&mut net), vec![0]);
    let reported = net.on(0, |e| {
        let board = e.mem().cold.rows()[0].board;
        e.mem().boards.get(board).map_or(0, |b| b.count)
    });
    assert_eq!(reported, 0);
    peer.ack(&mut net, 5000);
    assert_eq!(net.on(0, |e| e.tcp_info(a)).unwrap().unacked_bytes, 0);
}

#[test]
fn no_scoreboard_left_is_no_disaster() {
    let mut net = Net::new(14, &S);
    let (peer, a) = Peer::open(&mut net, true);
    net.on(0, |e| e.mem().globals.tcp.free_board = base::Idx::NONE);
    net.send(0, a, &pattern(1, 10_000)).unwrap();
    peer.sent(&mut net);
    for _ in 0..3 {
        peer.sack(&mut net, 0, &[(1000, 5000)]);
    }
    assert_eq!(peer.sent(&mut net).first(), Some(&0));
}

#[test]
fn acks_are_few_for_a_bulk_stream() {
    let mut net = Net::new(15, &Setup::USUAL);
    net.faults = Faults { split: false, ..Faults::NONE };
    let (_, a, b) = net.open();
    let data = pattern(1, 2_000_000);
    let mut sent = 0;
    let mut got = Vec::new();
    while got.len() < data.len() {
        if let Ok(n) = net.send(0, a, &data[sent..]) {
            sent += n;
        }
        net.run(Duration::from_micros(100));
        while let Ok(bytes) = net.recv(1, b, 1 << 20) {
            got.extend_from_slice(&bytes);
        }
    }
    assert!(got == data);
    let acks = net.on(1, |e| e.counters().tcp.segments_out);
    assert!(acks < 80, "{acks} ACKs");
}
