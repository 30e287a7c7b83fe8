//! Losses found by time, reports of what came twice, alarms undone, probes judged (RFC 8985, 2883, 3522, 4015).
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

mod net;

use base::{Duration, SeqNum};
use net::{Faults, Net, Packet, Setup, forged_with, pattern};
use state::{SockRef, TcpCounters};
use wire::{SackBlock, SackBlocks, TcpFlags, TcpHeader, TcpOptions, Timestamps};

const S: Setup = Setup { super_segment_max: 0, ..Setup::USUAL };
/// Time between a segment and the peer's answer.
const RTT: Duration = Duration::from_millis(40);

fn counters(net: &mut Net) -> TcpCounters {
    net.on(0, |e| e.counters().tcp)
}

/// A peer made by hand, with SACK, and with timestamps if it likes. It takes segments of 1000 bytes.
struct Peer {
    ours: SeqNum,
    theirs: SeqNum,
    /// TSecr of the next answer.
    echo: Option<u32>,
}

impl Peer {
    /// Host 0 connects to a peer in host 1's place, which is [`RTT`] away.
    fn open(net: &mut Net, timestamps: bool) -> (Peer, SockRef) {
        net.keep_trace = true;
        net.filter = Some(Box::new(|_, _| true));
        let a = net.connect(0, 40_000, 80).unwrap();
        net.flush(0);
        let syn = net.segments()[0];
        let stamp = stamp_of(&net.trace[0].2);
        net.go_to(net.now.plus(RTT));
        let mut peer =
            Peer { ours: SeqNum(100), theirs: syn.seq.plus(1), echo: stamp.filter(|_| timestamps) };
        let mss = if timestamps { 1012 } else { 1000 };
        let options = TcpOptions { mss: Some(mss), sack_permitted: true, ..TcpOptions::NONE };
        peer.answer(net, TcpFlags::SYN | TcpFlags::ACK, peer.theirs, options);
        peer.ours = SeqNum(101);
        net.trace.clear();
        (peer, a)
    }

    fn answer(&self, net: &mut Net, flags: TcpFlags, ack: SeqNum, options: TcpOptions) {
        let header = TcpHeader {
            src_port: base::Port(80),
            dst_port: base::Port(40_000),
            seq: self.ours,
            ack,
            flags,
            window: 60_000,
            urgent: 0,
        };
        let timestamps = self.echo.map(|echo| Timestamps { value: net.now.as_millis_u32(), echo });
        let options = TcpOptions { timestamps, ..options };
        let packet = forged_with(&net.hosts[1], &net.hosts[0], &header, &options, &[]);
        net.deliver(0, &packet);
        net.flush(0);
    }

    /// Acknowledges the first `bytes`, and reports `blocks`.
    fn ack(&self, net: &mut Net, bytes: u32, blocks: &[(u32, u32)]) {
        let mut sack = SackBlocks::NONE;
        for b in blocks {
            sack.push(SackBlock { left: self.theirs.plus(b.0), right: self.theirs.plus(b.1) });
        }
        self.answer(net, TcpFlags::ACK, self.theirs.plus(bytes), TcpOptions { sack, ..TcpOptions::NONE });
    }

    /// Where the data segments sent since the last call begin.
    fn sent(&self, net: &mut Net) -> Vec<u32> {
        let sent = net.segments().iter().filter(|s| s.len > 0).map(|s| s.seq.since(self.theirs)).collect();
        net.trace.clear();
        sent
    }
}

fn stamp_of(packet: &Packet) -> Option<u32> {
    packet.tcp().and_then(|t| TcpOptions::parse(t.options()).timestamps).map(|t| t.value)
}

#[test]
fn a_segment_that_is_late_by_less_than_the_reordering_window_is_not_sent_again() {
    let mut net = Net::new(1, &S);
    let (peer, a) = Peer::open(&mut net, false);
    net.send(0, a, &pattern(1, 5000)).unwrap();
    assert_eq!(peer.sent(&mut net).len(), 5);
    net.run(RTT);
    // One segment overtook another: too few to be sure at once, and a quarter of the round-trip time is to be waited.
    peer.ack(&mut net, 0, &[(1000, 2000)]);
    net.run(Duration::from_millis(9));
    assert_eq!(peer.sent(&mut net), Vec::<u32>::new());
    peer.ack(&mut net, 2000, &[]);
    net.run(Duration::from_millis(30));
    assert_eq!(peer.sent(&mut net), Vec::<u32>::new());
    let c = counters(&mut net);
    assert_eq!((c.recoveries, c.retransmits, c.reordered), (0, 0, 1));
    // From now on it is known that this path reorders: three reports are no proof any more.
    peer.ack(&mut net, 2000, &[(3000, 5000)]);
    assert_eq!(peer.sent(&mut net), Vec::<u32>::new());
    peer.ack(&mut net, 5000, &[]);
}

#[test]
fn a_segment_that_is_later_is_lost() {
    let mut net = Net::new(2, &S);
    let (peer, a) = Peer::open(&mut net, false);
    net.send(0, a, &pattern(1, 5000)).unwrap();
    peer.sent(&mut net);
    net.run(RTT);
    peer.ack(&mut net, 0, &[(1000, 2000)]);
    assert_eq!(peer.sent(&mut net), Vec::<u32>::new());
    net.run(Duration::from_millis(11));
    assert_eq!(peer.sent(&mut net), [0]);
    let c = counters(&mut net);
    assert_eq!((c.recoveries, c.timeouts, c.loss_probes), (1, 0, 0));
}

#[test]
fn a_retransmission_that_is_lost_again_is_found_by_what_was_sent_later() {
    let mut net = Net::new(3, &S);
    let (peer, a) = Peer::open(&mut net, false);
    net.send(0, a, &pattern(1, 30_000)).unwrap();
    peer.sent(&mut net);
    net.run(RTT);
    peer.ack(&mut net, 0, &[(1000, 5000)]);
    let sent = peer.sent(&mut net);
    assert_eq!(sent.first(), Some(&0));
    peer.ack(&mut net, 0, &[(1000, 9000)]);
    assert_eq!(peer.sent(&mut net), [11_000, 12_000, 13_000, 14_000]);
    net.run(RTT);
    // New data that went out behind the retransmission has come, and the retransmission has not.
    peer.ack(&mut net, 0, &[(1000, 11_000)]);
    let more = peer.sent(&mut net);
    assert!(more.contains(&0), "{sent:?} {more:?}");
    assert_eq!(counters(&mut net).lost_again, 1);
}

#[test]
fn a_lost_tail_behind_a_hole_is_found_by_the_delivery_of_the_retransmission() {
    let mut net = Net::new(4, &S);
    let (peer, a) = Peer::open(&mut net, false);
    net.send(0, a, &pattern(1, 8000)).unwrap();
    peer.sent(&mut net);
    net.run(RTT);
    // 0 is lost, and so are 5000 .. 8000, of which no later segment tells.
    peer.ack(&mut net, 0, &[(1000, 5000)]);
    assert_eq!(peer.sent(&mut net), [0]);
    net.run(RTT);
    peer.ack(&mut net, 5000, &[]);
    net.run(Duration::from_millis(1));
    assert_eq!(peer.sent(&mut net).first(), Some(&5000));
    assert_eq!(counters(&mut net).timeouts, 0);
}

#[test]
fn reports_of_what_came_twice_widen_the_reordering_window_and_undo_the_recovery() {
    let mut net = Net::new(5, &S);
    let (peer, a) = Peer::open(&mut net, false);
    net.send(0, a, &pattern(1, 40_000)).unwrap();
    peer.sent(&mut net);
    net.run(RTT);
    let before = net.on(0, |e| e.tcp_info(a)).unwrap();
    peer.ack(&mut net, 0, &[(1000, 5000)]);
    assert_eq!(peer.sent(&mut net).first(), Some(&0));
    assert!(net.on(0, |e| e.tcp_info(a)).unwrap().cwnd_bytes < before.cwnd_bytes);
    net.run(Duration::from_millis(2));
    // The first transmission was late only ...
    peer.ack(&mut net, 5000, &[]);
    peer.ack(&mut net, 10_000, &[]);
    net.run(Duration::from_millis(30));
    // ... and then the second one comes too.
    peer.ack(&mut net, 10_000, &[(0, 1000)]);
    let info = net.on(0, |e| e.tcp_info(a)).unwrap();
    assert!(info.cwnd_bytes >= before.cwnd_bytes && info.ssthresh_bytes >= before.ssthresh_bytes, "{info:?}");
    let c = counters(&mut net);
    assert_eq!((c.twice_in, c.undone), (1, 1));
    assert_eq!(net.on(0, |e| e.mem().cold.rows()[0].reo_extra), 1);
}

#[test]
fn an_echo_from_before_the_timeout_undoes_it() {
    let mut net = Net::new(6, &S);
    let (mut peer, a) = Peer::open(&mut net, true);
    net.send(0, a, &pattern(1, 40_000)).unwrap();
    peer.echo = net.trace.first().and_then(|(_, _, p)| stamp_of(p));
    let first = peer.sent(&mut net);
    assert_eq!(first.len(), 10);
    let before = net.on(0, |e| e.tcp_info(a)).unwrap();
    // Nothing is heard for a second: probe, then timeout.
    net.run(Duration::from_millis(700));
    let c = counters(&mut net);
    assert!(c.timeouts >= 1 && c.loss_probes == 1, "{c:?}");
    peer.sent(&mut net);
    // Then the answers to the first transmissions come.
    peer.ack(&mut net, 2000, &[]);
    let info = net.on(0, |e| e.tcp_info(a)).unwrap();
    assert!(!info.recovering && info.cwnd_bytes >= before.cwnd_bytes, "{info:?}");
    assert_eq!(counters(&mut net).undone, 1);
    // Nothing goes again.
    assert!(peer.sent(&mut net).iter().all(|seq| *seq >= 10_000));
}

#[test]
fn a_timeout_that_was_needed_is_not_undone() {
    let mut net = Net::new(7, &S);
    let (mut peer, a) = Peer::open(&mut net, true);
    net.send(0, a, &pattern(1, 40_000)).unwrap();
    peer.sent(&mut net);
    let before = net.on(0, |e| e.tcp_info(a)).unwrap();
    net.run(Duration::from_millis(700));
    peer.echo = net.trace.iter().rev().find_map(|(_, _, p)| stamp_of(p));
    peer.sent(&mut net);
    peer.ack(&mut net, 1000, &[]);
    let info = net.on(0, |e| e.tcp_info(a)).unwrap();
    assert!(info.recovering && info.cwnd_bytes < before.cwnd_bytes, "{info:?}");
    assert_eq!(counters(&mut net).undone, 0);
}

#[test]
fn a_loss_that_only_the_probe_repaired_halves_the_window() {
    for lost in [false, true] {
        let mut net = Net::new(8, &S);
        let (mut peer, a) = Peer::open(&mut net, true);
        net.send(0, a, &pattern(1, 5000)).unwrap();
        let first = net.trace.first().and_then(|(_, _, p)| stamp_of(p));
        peer.sent(&mut net);
        let before = net.on(0, |e| e.tcp_info(a)).unwrap().cwnd_bytes;
        net.run(Duration::from_millis(100));
        let probe = net.trace.first().and_then(|(_, _, p)| stamp_of(p));
        assert_eq!(peer.sent(&mut net), [4000]);
        peer.echo = if lost { probe } else { first };
        peer.ack(&mut net, 5000, &[]);
        let info = net.on(0, |e| e.tcp_info(a)).unwrap();
        assert_eq!(info.ssthresh_bytes < before, lost, "{info:?}");
        assert_eq!(counters(&mut net).loss_probe_repairs, u64::from(lost));
        assert_eq!(net.on(0, |e| e.mem().cold.rows()[0].board), base::Idx::NONE);
    }
}

#[test]
fn a_report_of_what_came_twice_takes_its_room_from_the_data_and_is_made_once() {
    let mut net = Net::new(9, &S);
    let (mut peer, a) = Peer::open(&mut net, false);
    let seq = peer.ours;
    for _ in 0..2 {
        // The second time there is data to send beside the report.
        let twice = peer.ours != seq;
        let header = TcpHeader {
            src_port: base::Port(80),
            dst_port: base::Port(40_000),
            seq,
            ack: peer.theirs,
            flags: TcpFlags::ACK,
            window: 60_000,
            urgent: 0,
        };
        let packet = forged_with(&net.hosts[1], &net.hosts[0], &header, &TcpOptions::NONE, &pattern(2, 100));
        net.deliver(0, &packet);
        if twice {
            net.on(0, |e| e.tcp_send(a, &pattern(1, 5000), false)).unwrap();
        }
        net.flush(0);
        peer.ours = seq.plus(100);
    }
    let sent = net.segments();
    let (first, rest) = sent[1..].split_first().unwrap();
    let block = first.options.sack.as_slice()[0];
    assert_eq!((block.left, block.right), (seq, seq.plus(100)));
    for s in &sent {
        assert!(s.len + s.options.len_bytes() <= 1000, "{s:?}");
    }
    assert!(first.len > 0 && rest.iter().all(|s| s.len > 0 && s.options.sack.is_empty()), "{rest:?}");
}

#[test]
fn what_comes_twice_is_reported_first() {
    let mut net = Net::new(9, &S);
    let (_, a, b) = net.open();
    net.keep_trace = true;
    net.faults = Faults { dup_ppm: 1_000_000, ..net.faults };
    net.send(0, a, &pattern(1, 1000)).unwrap();
    net.run(Duration::from_millis(5));
    assert_eq!(net.recv(1, b, 2000).map(|d| d.len()), Ok(1000));
    let start = net.segments().iter().find(|s| s.len > 0).unwrap().seq;
    let reports: Vec<_> = net
        .trace
        .iter()
        .filter_map(|(_, from, p)| {
            p.tcp().filter(|_| *from == 1).map(|t| TcpOptions::parse(t.options()).sack)
        })
        .filter(|s| !s.is_empty())
        .collect();
    let want = SackBlock { left: start, right: start.plus(1000) };
    assert_eq!(reports.first().and_then(|s| s.as_slice().first().copied()), Some(want));
    assert!(net.on(1, |e| e.counters().tcp.twice_out) >= 1);
    assert!(net.on(0, |e| e.counters().tcp.twice_in) >= 1);
}

#[test]
fn a_path_that_reorders_by_up_to_two_round_trips_costs_no_timeout_and_alarms_are_undone() {
    let mut net = Net::new(10, &S);
    let (_, a, b) = net.open();
    net.faults = Faults { reorder_ppm: 50_000, delay: Duration::from_millis(5), ..net.faults };
    let data = pattern(3, 3_000_000);
    let (mut sent, mut got) = (0, Vec::new());
    while got.len() < data.len() {
        while sent < data.len() {
            match net.send(0, a, &data[sent..]) {
                Ok(n) => sent += n,
                Err(_) => break,
            }
        }
        match net.recv(1, b, 100_000) {
            Ok(bytes) => got.extend_from_slice(&bytes),
            Err(_) => assert!(net.step()),
        }
    }
    assert!(got == data);
    // Nothing was lost. About a hundred segments came late, half of them by more than the window can become (RFC 8985 6.2.4: SRTT).
    let c = counters(&mut net);
    assert!(c.reordered > 0 && c.twice_in > 20 && c.undone > 20 && c.retransmits < 250, "{c:?}");
    assert_eq!(c.timeouts, 0);
}
