//! SO_MAX_PACING_RATE: a program's limit on how fast a connection sends.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

mod net;

use base::{Duration, Instant};
use engine::{Algorithm, SendError};
use net::{Bottleneck, Faults, Net, Seen, Setup};
use state::{SockRef, TcpOptions};

/// Single segments, so that the trace shows each one's time.
const S: Setup = Setup { super_segment_max: 0, frames: 16_384, ..Setup::USUAL };
/// The same in super-segments.
const MERGED: Setup = Setup { super_segment_max: 61_440, ..S };
const MSS: u64 = 1448;
/// What the path carries: a hundred times the limits of most tests.
const LINK: Bottleneck =
    Bottleneck { bits_per_s: 1_000_000_000, queue_bytes: 4_000_000, mark_bytes: u64::MAX };

fn world(seed: u64, setup: &Setup, algorithm: Algorithm) -> Net {
    let mut net = Net::new(seed, setup);
    net.faults = Faults { delay: Duration::from_millis(5), bottleneck: Some(LINK), ..Faults::NONE };
    net.on(0, |e| e.set_congestion(algorithm));
    net.keep_trace = true;
    net
}

fn limited(rate: u64) -> TcpOptions {
    let mut options = TcpOptions::default();
    options.set_max_pacing_rate(rate);
    options
}

/// Sends as much as goes for as long as `d`.
fn pour(net: &mut Net, a: SockRef, b: SockRef, d: Duration) {
    let end = net.now.plus(d);
    let data = vec![3; 65_536];
    while net.now < end {
        while net.on(0, |e| e.tcp_send(a, &data, false)) != Err(SendError::WouldBlock) {}
        net.flush(0);
        while net.on(1, |e| e.tcp_recv_skip(b, 1 << 20)).is_ok() {}
        net.flush(1);
        let next = net.next();
        assert!(next != Instant::NEVER, "nothing will ever happen");
        net.go_to(next.min(end).max(net.now));
    }
}

/// Data segments from host 0 since `from`.
fn data(net: &Net, from: Instant) -> Vec<Seen> {
    net.segments().into_iter().filter(|s| s.from == 0 && s.len > 0 && s.at >= from).collect()
}

/// Most bytes that went out within any time of `d`.
fn busiest(segments: &[Seen], d: Duration) -> u64 {
    let (mut first, mut sum, mut most) = (0, 0, 0);
    for s in segments {
        sum += s.len as u64;
        while segments[first].at.plus(d) <= s.at {
            sum -= segments[first].len as u64;
            first += 1;
        }
        most = most.max(sum);
    }
    most
}

/// Bytes a second over the whole of `d`, and the most in 10 ms.
fn measure(setup: &Setup, algorithm: Algorithm, rate: u64) -> (f64, u64) {
    let mut net = world(21, setup, algorithm);
    let (_, a, b) = net.open();
    assert!(net.on(0, |e| e.set_tcp_options(a, &limited(rate))));
    // The first ten segments are free.
    pour(&mut net, a, b, Duration::from_millis(500));
    let from = net.now;
    let d = Duration::from_secs(5);
    pour(&mut net, a, b, d);
    let sent = data(&net, from);
    let bytes: u64 = sent.iter().map(|s| s.len as u64).sum();
    (bytes as f64 / 5.0, busiest(&sent, Duration::from_millis(10)))
}

#[test]
fn every_algorithm_keeps_to_the_limit_and_uses_it() {
    for algorithm in Algorithm::ALL {
        for setup in [&S, &MERGED] {
            for rate in [100_000, 1_250_000, 10_000_000] {
                let (got, burst) = measure(setup, algorithm, rate);
                let share = got / rate as f64;
                println!("{:6} {rate:9} B/s: {share:.4}, at most {burst} bytes in 10 ms", algorithm.name());
                // BBR sends less now and then, to see the path with an empty queue.
                let least = if algorithm == Algorithm::Bbr { 0.90 } else { 0.98 };
                assert!(share > least && share < 1.005, "{algorithm:?} {rate}: {got} B/s");
                // What 10 ms are worth, 2 ms that were late, and what goes out at once: 1 ms or two segments.
                let bound = rate * 12 / 1000 + (rate / 1000).max(2 * MSS) + MSS;
                assert!(burst <= bound, "{algorithm:?} {rate}: {burst} bytes in 10 ms, {bound} are right");
            }
        }
    }
}

#[test]
fn what_is_sent_again_counts() {
    let mut net = world(22, &S, Algorithm::Cubic);
    net.faults.loss_ppm = 50_000;
    let (_, a, b) = net.open();
    let rate = 500_000;
    net.on(0, |e| e.set_tcp_options(a, &limited(rate)));
    pour(&mut net, a, b, Duration::from_millis(500));
    let from = net.now;
    pour(&mut net, a, b, Duration::from_secs(10));
    let sent = data(&net, from);
    assert!(net.on(0, |e| e.tcp_info(a)).unwrap().retransmits > 100);
    let bound = rate * 12 / 1000 + 3 * MSS;
    // A tail loss probe does not wait.
    assert!(busiest(&sent, Duration::from_millis(10)) <= bound + MSS);
    let bytes: u64 = sent.iter().map(|s| s.len as u64).sum();
    assert!(bytes <= rate * 10 * 1005 / 1000, "{bytes}");
}

#[test]
fn a_connection_has_the_limit_of_its_listener() {
    let mut net = world(23, &S, Algorithm::Cubic);
    let listener = net.listen(0, 80, 8);
    net.on(0, |e| e.set_tcp_options(listener, &limited(77_000)));
    let peer = net.connect(1, 50_000, 80).unwrap();
    net.run(Duration::from_millis(50));
    let a = net.accept(0, listener).unwrap();
    assert_eq!(net.on(0, |e| e.tcp_options(a)).unwrap().max_pacing_rate(), 77_000);
    let from = net.now;
    pour(&mut net, a, peer, Duration::from_secs(4));
    let bytes: u64 = data(&net, from).iter().map(|s| s.len as u64).sum();
    assert!((77_000 * 4..77_000 * 4 + 13 * MSS).contains(&bytes), "{bytes}");
    let info = net.on(0, |e| e.tcp_info(a)).unwrap().congestion;
    assert_eq!((info.pacing_rate, info.max_pacing_rate), (77_000, 77_000));
}

#[test]
fn the_limit_can_be_raised_lowered_and_lifted() {
    let mut net = world(24, &S, Algorithm::Cubic);
    let (_, a, b) = net.open();
    let mut rate_with = |limit| {
        net.on(0, |e| e.set_tcp_options(a, &limited(limit)));
        pour(&mut net, a, b, Duration::from_millis(500));
        let from = net.now;
        pour(&mut net, a, b, Duration::from_secs(1));
        data(&net, from).iter().map(|s| s.len as u64).sum::<u64>()
    };
    assert!((395_000..405_000).contains(&rate_with(400_000)));
    assert!((1_990_000..2_010_000).contains(&rate_with(2_000_000)));
    assert!((95_000..105_000).contains(&rate_with(100_000)));
    assert!(rate_with(u64::MAX) > 5_000_000);
    // As on Linux: a rate of nothing does not stop a connection.
    assert!(rate_with(0) > 5_000_000);
}

#[test]
fn a_limit_above_what_the_window_gives_is_not_felt() {
    let slow = Bottleneck { bits_per_s: 20_000_000, queue_bytes: 100_000, mark_bytes: u64::MAX };
    let goodput = |limit| {
        let mut net = world(25, &S, Algorithm::Cubic);
        net.faults.bottleneck = Some(slow);
        let (_, a, b) = net.open();
        net.on(0, |e| e.set_tcp_options(a, &limited(limit)));
        pour(&mut net, a, b, Duration::from_secs(5));
        net.on(0, |e| e.tcp_info(a)).unwrap().bytes_out as f64
    };
    let (with, without) = (goodput(100_000_000), goodput(u64::MAX));
    assert!(with > 0.97 * without, "{with} {without}");
}

#[test]
fn the_pace_of_a_window_is_told_without_a_limit_too() {
    let mut net = world(26, &S, Algorithm::Cubic);
    let (_, a, b) = net.open();
    pour(&mut net, a, b, Duration::from_secs(1));
    let info = net.on(0, |e| e.tcp_info(a)).unwrap();
    let window = u64::from(info.cwnd_bytes.max(info.unacked_bytes));
    let rate = |percent: u64| window * percent * 10_000 / u64::from(info.rtt_us);
    let told = info.congestion.pacing_rate;
    assert!([rate(120), rate(200)].iter().any(|r| told.abs_diff(*r) <= r / 1000), "{info:?}");
    assert_eq!(info.congestion.max_pacing_rate, u64::MAX);
}

/// The rate at which a question of a few bytes was answered says nothing of the path (draft-ietf-ccwg-bbr 5.6.2: until the path was full the pace does
/// not fall below what the first window in the first round-trip time gives).
#[test]
fn a_few_bytes_do_not_slow_what_bbr_sends_after_them() {
    let mut net = world(27, &S, Algorithm::Bbr);
    let (_, a, b) = net.open();
    for question in [8, 100] {
        assert_eq!(net.on(0, |e| e.tcp_send(a, &[1; 100][..question], false)), Ok(question));
        net.run(Duration::from_millis(300));
        assert_eq!(net.on(1, |e| e.tcp_recv_skip(b, 1000)), Ok(question));
    }
    let from = net.now;
    let answer = vec![2; 10 * MSS as usize];
    assert_eq!(net.on(0, |e| e.tcp_send(a, &answer, false)), Ok(answer.len()));
    net.run(Duration::from_millis(10));
    let sent: usize = data(&net, from).iter().map(|s| s.len).sum();
    assert_eq!(sent, answer.len(), "in one round-trip time");
}
