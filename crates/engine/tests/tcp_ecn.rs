//! Explicit congestion notification (RFC 3168) and DCTCP (RFC 8257).
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

mod net;

use base::{Duration, Instant};
use engine::{Algorithm, Ecn, Phase, SendError};
use net::{Bottleneck, Faults, Net, Seen, Setup, pattern};
use state::{SockRef, TcpOptions};
use wire::TcpFlags;

const S: Setup = Setup { super_segment_max: 0, frames: 16_384, ..Setup::USUAL };
const BOTH: TcpFlags = TcpFlags(TcpFlags::ECE.0 | TcpFlags::CWR.0);
const ECT: u8 = 2;
const CE: u8 = 3;

/// An open connection of hosts with these settings, and what was sent to open it.
fn open(settings: [Ecn; 2]) -> (Net, SockRef, SockRef, Vec<Seen>) {
    let mut net = Net::new(1, &S);
    for (host, ecn) in settings.into_iter().enumerate() {
        net.on(host, |e| e.set_ecn(ecn));
    }
    net.keep_trace = true;
    let (_, a, b) = net.open();
    let seen = net.segments();
    net.trace.clear();
    (net, a, b, seen)
}

fn agreed(net: &mut Net, host: usize, s: SockRef) -> bool {
    net.on(host, |e| e.tcp_info(s)).unwrap().congestion.ecn
}

#[test]
fn ecn_is_used_when_one_asks_and_the_other_does_not_refuse() {
    let table = [
        ([Ecn::Asked, Ecn::Asked], TcpFlags::NONE, TcpFlags::NONE, false),
        ([Ecn::Ask, Ecn::Asked], BOTH, TcpFlags::ECE, true),
        ([Ecn::Ask, Ecn::Ask], BOTH, TcpFlags::ECE, true),
        ([Ecn::Ask, Ecn::Never], BOTH, TcpFlags::NONE, false),
        ([Ecn::Never, Ecn::Ask], TcpFlags::NONE, TcpFlags::NONE, false),
    ];
    for (settings, syn, syn_ack, used) in table {
        let (mut net, a, b, seen) = open(settings);
        let mask = |s: &Seen| TcpFlags(s.flags.0 & BOTH.0);
        assert_eq!((mask(&seen[0]), mask(&seen[1])), (syn, syn_ack), "{settings:?}");
        assert!(seen.iter().all(|s| s.ecn == 0), "SYNs and ACKs are sent without ECT");
        assert_eq!((agreed(&mut net, 0, a), agreed(&mut net, 1, b)), (used, used), "{settings:?}");
        net.send(0, a, &[7; 5000]).unwrap();
        net.run(Duration::from_millis(100));
        let want = if used { ECT } else { 0 };
        for s in net.segments() {
            assert_eq!(s.ecn, if s.len > 0 { want } else { 0 }, "{settings:?} {s:?}");
        }
    }
}

#[test]
fn a_syn_that_nothing_answers_goes_again_without_ecn() {
    let mut net = Net::new(2, &S);
    net.on(0, |e| e.set_ecn(Ecn::Ask));
    net.keep_trace = true;
    let mut first = true;
    net.filter = Some(Box::new(move |from, _| from == 0 && core::mem::take(&mut first)));
    let (_, a, b) = net.open();
    let flags: Vec<TcpFlags> = net.segments().iter().filter(|s| s.flags.is_syn()).map(|s| s.flags).collect();
    assert_eq!(flags, [TcpFlags::SYN | BOTH, TcpFlags::SYN, TcpFlags::SYN | TcpFlags::ACK]);
    assert!(!agreed(&mut net, 0, a) && !agreed(&mut net, 1, b));
}

/// Marks the data segments of host 0 whose number, counted from 1 on, is in `marked`.
fn mark(net: &mut Net, marked: &'static [u32]) {
    let mut seen = 0;
    net.marker = Some(Box::new(move |from, p| {
        seen += u32::from(from == 0 && p.tcp().is_some_and(|t| !t.payload().is_empty()));
        from == 0 && marked.contains(&seen)
    }));
}

#[test]
fn a_mark_is_echoed_until_the_sender_says_that_it_has_slowed_down() {
    let (mut net, a, b, _) = open([Ecn::Ask, Ecn::Asked]);
    mark(&mut net, &[3]);
    let before = net.on(0, |e| e.tcp_info(a)).unwrap().cwnd_bytes;
    net.send(0, a, &pattern(1, 14_480)).unwrap();
    net.run(Duration::from_millis(200));
    let info = net.on(0, |e| e.tcp_info(a)).unwrap();
    assert!(info.cwnd_bytes <= before && info.ssthresh_bytes < before, "{info:?}");
    assert_eq!((info.retransmits, info.congestion.phase), (0, Phase::Open));
    assert_eq!(net.on(0, |e| e.counters().tcp.marks_echoed), 1, "once a round trip");
    // Nothing new was sent since, so the echo goes on.
    assert!(net.segments().iter().rev().find(|s| s.from == 1).unwrap().flags.intersects(TcpFlags::ECE));
    net.trace.clear();
    net.send(0, a, &[7; 1000]).unwrap();
    net.run(Duration::from_millis(200));
    let seen = net.segments();
    assert!(seen[0].flags.intersects(TcpFlags::CWR) && seen[0].ecn == ECT, "{:?}", seen[0]);
    assert!(seen.iter().filter(|s| s.from == 1).all(|s| !s.flags.intersects(TcpFlags::ECE)));
    net.trace.clear();
    net.send(0, a, &[7; 1000]).unwrap();
    net.run(Duration::from_millis(200));
    assert!(net.segments().iter().all(|s| !s.flags.intersects(BOTH)), "said once");
    assert_eq!(net.recv(1, b, 100_000).unwrap().len(), 16_480);
}

#[test]
fn what_is_sent_again_is_sent_without_ect_and_the_loss_is_announced() {
    let (mut net, a, _, _) = open([Ecn::Ask, Ecn::Asked]);
    let mut seen = 0;
    net.filter = Some(Box::new(move |from, p| {
        seen += u32::from(from == 0 && p.tcp().is_some_and(|t| !t.payload().is_empty()));
        from == 0 && seen == 2
    }));
    net.send(0, a, &pattern(1, 60_000)).unwrap();
    net.run(Duration::from_secs(1));
    let seen = net.segments();
    let lost = seen.iter().filter(|s| s.from == 0 && s.len > 0).nth(1).unwrap().seq;
    let again: Vec<&Seen> = seen.iter().filter(|s| s.from == 0 && s.seq == lost).collect();
    assert_eq!(again.iter().map(|s| s.ecn).collect::<Vec<_>>(), [ECT, 0]);
    let said = seen.iter().filter(|s| s.flags.intersects(TcpFlags::CWR)).collect::<Vec<_>>();
    assert!(said.len() == 1 && said[0].seq.after(lost), "{said:?}");
}

/// Sends for as long as `d`; gives payload Mb/s.
fn rate(net: &mut Net, (a, b): (SockRef, SockRef), d: Duration) -> f64 {
    let (end, data) = (net.now.plus(d), vec![7; 65_536]);
    let mut got = 0;
    while net.now < end {
        while net.on(0, |e| e.tcp_send(a, &data, false)) != Err(SendError::WouldBlock) {}
        net.flush(0);
        while let Ok(n) = net.on(1, |e| e.tcp_recv_skip(b, 1 << 20)) {
            got += n;
        }
        net.flush(1);
        let next = net.next();
        assert!(next != Instant::NEVER, "nothing will ever happen");
        net.go_to(next.min(end).max(net.now));
    }
    got as f64 * 8.0 / (d.0 as f64 / 1e9) / 1e6
}

#[test]
fn a_queue_that_marks_fills_the_link_without_losing_anything() {
    for algorithm in [Algorithm::Cubic, Algorithm::Reno] {
        let mut net = Net::new(3, &S);
        net.on(0, |e| e.set_ecn(Ecn::Ask));
        net.on(0, |e| e.set_congestion(algorithm));
        let link = Bottleneck { bits_per_s: 100_000_000, queue_bytes: 1_000_000, mark_bytes: 125_000 };
        net.faults = Faults { delay: Duration::from_millis(5), bottleneck: Some(link), ..Faults::NONE };
        let (_, a, b) = net.open();
        let mbit = rate(&mut net, (a, b), Duration::from_secs(10));
        let info = net.on(0, |e| e.tcp_info(a)).unwrap();
        println!("{}: {mbit:.2} Mb/s, {} marks", algorithm.name(), net.marks);
        assert!(mbit > 85.0, "{algorithm:?}: {mbit} Mb/s");
        assert!(net.marks > 10, "{}", net.marks);
        assert_eq!((net.tail_drops, info.retransmits), (0, 0));
    }
}

#[test]
fn dctcp_keeps_the_queue_at_its_mark() {
    let mut net = Net::new(4, &S);
    for host in 0..2 {
        net.on(host, |e| e.set_congestion(Algorithm::Dctcp));
    }
    // 1 Gb/s and 200 us: the path holds 17 segments, and the queue is marked from 20 on.
    let link = Bottleneck { bits_per_s: 1_000_000_000, queue_bytes: 150_000, mark_bytes: 30_000 };
    net.faults = Faults { delay: Duration::from_micros(100), bottleneck: Some(link), ..Faults::NONE };
    let (_, a, b) = net.open();
    assert!(agreed(&mut net, 0, a) && agreed(&mut net, 1, b), "it asks by itself");
    rate(&mut net, (a, b), Duration::from_millis(200));
    let (drops, marks) = (net.tail_drops, net.marks);
    let mbit = rate(&mut net, (a, b), Duration::from_millis(500));
    let info = net.on(0, |e| e.tcp_info(a)).unwrap();
    println!("dctcp: {mbit:.2} Mb/s, {} marks, window {}", net.marks - marks, info.cwnd_bytes);
    assert!(mbit > 900.0, "{mbit} Mb/s");
    assert!(net.marks > marks && net.tail_drops == drops);
    // Path, mark, and what is sent until the echo is back.
    assert!(info.cwnd_bytes < 25_000 + 30_000 + 25_000, "{info:?}");
}

#[test]
fn a_dctcp_receiver_echoes_each_mark_for_itself() {
    let mut net = Net::new(5, &S);
    for host in 0..2 {
        net.on(host, |e| e.set_congestion(Algorithm::Dctcp));
    }
    let (_, a, _) = net.open();
    expect_echoes_as_marked(&mut net, a);
}

#[test]
fn so_does_one_that_became_so_while_it_was_open() {
    let (mut net, a, b, _) = open([Ecn::Ask; 2]);
    let options = TcpOptions { congestion: Algorithm::Dctcp as u8, ..TcpOptions::default() };
    assert!(net.on(1, |e| e.set_tcp_options(b, &options)));
    expect_echoes_as_marked(&mut net, a);
}

fn expect_echoes_as_marked(net: &mut Net, a: SockRef) {
    net.keep_trace = true;
    net.trace.clear();
    mark(net, &[2, 3]);
    for n in 1..=5 {
        net.send(0, a, &[n; 1448]).unwrap();
        net.run(Duration::from_millis(100));
    }
    let echoes: Vec<bool> =
        net.segments().iter().filter(|s| s.from == 1).map(|s| s.flags.intersects(TcpFlags::ECE)).collect();
    assert_eq!(echoes, [false, true, true, false, false]);
    assert!(net.segments().iter().all(|s| s.ecn != CE), "marked on the way, not by the sender");
}
