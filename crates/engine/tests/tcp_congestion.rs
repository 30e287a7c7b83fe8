//! Congestion control over a bottleneck of 100 Mb/s and 40 ms (RFC 9438, RFC 5681, RFC 9406, RFC 9937).
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

mod net;

use base::{Duration, Instant};
use engine::{Algorithm, Ecn, SendError};
use net::{Bottleneck, Faults, Net, Setup};
use state::{SockRef, TcpOptions};

/// One segment a packet, and room for much more than the path holds.
const S: Setup = Setup { super_segment_max: 0, frames: 16_384, ..Setup::USUAL };
const RTT: Duration = Duration::from_millis(40);
const BITS_PER_S: u64 = 100_000_000;
/// What the path holds: 500 000 bytes.
const PATH_BYTES: u64 = BITS_PER_S / 8 * 40 / 1000;
const LINK: Bottleneck = Bottleneck { bits_per_s: BITS_PER_S, queue_bytes: PATH_BYTES, mark_bytes: u64::MAX };
/// Largest share of the link that payload can have: 1448 of 1514 bytes.
const PAYLOAD_SHARE: f64 = 1448.0 / 1514.0;

fn path(seed: u64, loss_ppm: u32, link: Bottleneck) -> Net {
    let mut net = Net::new(seed, &S);
    net.faults = Faults { delay: Duration(RTT.0 / 2), loss_ppm, bottleneck: Some(link), ..Faults::NONE };
    net
}

/// Sends for as long as `d`, from all `pairs` at once; gives the bytes that each read.
fn send_for(net: &mut Net, pairs: &[(SockRef, SockRef)], d: Duration) -> Vec<u64> {
    let end = net.now.plus(d);
    let data = vec![7; 65_536];
    let mut got = vec![0; pairs.len()];
    while net.now < end {
        for (n, (a, b)) in pairs.iter().enumerate() {
            while net.on(0, |e| e.tcp_send(*a, &data, false)) != Err(SendError::WouldBlock) {}
            net.flush(0);
            while let Ok(n_bytes) = net.on(1, |e| e.tcp_recv_skip(*b, 1 << 20)) {
                got[n] += n_bytes as u64;
            }
            net.flush(1);
        }
        let next = net.next();
        assert!(next != Instant::NEVER, "nothing will ever happen");
        net.go_to(next.min(end).max(net.now));
    }
    got
}

fn mbit(bytes: u64, d: Duration) -> f64 {
    bytes as f64 * 8.0 / (d.0 as f64 / 1e9) / 1e6
}

/// Payload Mb/s of one flow over 20 s.
fn goodput(algorithm: Algorithm, loss_ppm: u32) -> f64 {
    let mut net = path(11, loss_ppm, LINK);
    net.on(0, |e| e.set_congestion(algorithm));
    let (_, a, b) = net.open();
    let d = Duration::from_secs(20);
    let got = send_for(&mut net, &[(a, b)], d);
    let info = net.on(0, |e| e.tcp_info(a)).unwrap();
    assert_eq!(info.congestion.algorithm, algorithm);
    let rate = mbit(got[0], d);
    println!(
        "{:6} {:4.1} % loss: {rate:6.2} Mb/s, {} tail drops",
        algorithm.name(),
        f64::from(loss_ppm) / 1e4,
        net.tail_drops
    );
    rate
}

#[test]
fn without_loss_every_algorithm_fills_the_link() {
    for algorithm in Algorithm::ALL {
        let share = goodput(algorithm, 0) / (BITS_PER_S as f64 / 1e6 * PAYLOAD_SHARE);
        // BBR paces one percent below, and makes room for others now and then.
        let least = if algorithm == Algorithm::Bbr { 0.85 } else { 0.95 };
        assert!(share > least && share <= 1.0, "{algorithm:?}: {share}");
    }
}

/// Random loss: Reno's model (Mathis, Semke, Mahdavi, Ott 1997) gives MSS/RTT times sqrt(3/2) over the root of the loss rate; in its Reno-friendly
/// region CUBIC has the same (RFC 9438 5.1). Windows of seven segments, as at 3 %, have timeouts besides, which it leaves out.
#[test]
fn with_random_loss_goodput_is_that_of_the_model() {
    for algorithm in [Algorithm::Cubic, Algorithm::Reno] {
        for loss_ppm in [1_000, 10_000, 30_000] {
            let rate = goodput(algorithm, loss_ppm);
            let p = f64::from(loss_ppm) / 1e6;
            let model = 1448.0 * 8.0 / 0.04 * (1.5 / p).sqrt() / 1e6;
            println!("       the model says {model:.2} Mb/s");
            assert!(
                rate / model > 0.75 && rate / model < 1.3,
                "{algorithm:?} {p}: {rate} Mb/s, the model says {model}"
            );
        }
    }
}

#[test]
fn bbr_does_not_take_a_little_random_loss_for_congestion() {
    for (loss_ppm, least) in [(1_000, 60.0), (10_000, 30.0)] {
        let rate = goodput(Algorithm::Bbr, loss_ppm);
        assert!(rate > least, "{loss_ppm}: {rate} Mb/s");
    }
    // Above its threshold of 2 % it gives way, but not as Reno does.
    let rate = goodput(Algorithm::Bbr, 30_000);
    assert!(rate > 4.0, "{rate} Mb/s");
}

#[test]
fn bbr_leaves_most_of_the_queue_empty() {
    let mut net = path(15, 0, LINK);
    net.on(0, |e| e.set_congestion(Algorithm::Bbr));
    let (_, a, b) = net.open();
    send_for(&mut net, &[(a, b)], Duration::from_secs(10));
    let info = net.on(0, |e| e.tcp_info(a)).unwrap();
    let pace = info.congestion.pacing_rate as f64 * 8.0 / 1e6;
    assert!((70.0..130.0).contains(&pace), "{pace} Mb/s");
    // CUBIC keeps the queue full: 80 ms.
    assert!(info.rtt_us < 60_000, "{info:?}");
}

/// Jain's index of fairness.
fn jain(rates: &[u64]) -> f64 {
    let sum: f64 = rates.iter().map(|r| *r as f64).sum();
    let squares: f64 = rates.iter().map(|r| (*r as f64).powi(2)).sum();
    sum * sum / (rates.len() as f64 * squares)
}

#[test]
fn two_flows_share_the_link() {
    for algorithm in Algorithm::ALL {
        let link = Bottleneck { bits_per_s: BITS_PER_S / 5, queue_bytes: PATH_BYTES / 5, ..LINK };
        let mut net = path(12, 0, link);
        net.on(0, |e| e.set_congestion(algorithm));
        let listener = net.listen(1, 80, 16);
        let first = net.open_to(listener, 40_000);
        send_for(&mut net, &[first], Duration::from_secs(5));
        // The second flow finds the link full.
        let second = net.open_to(listener, 40_001);
        send_for(&mut net, &[first, second], Duration::from_secs(60));
        let got = send_for(&mut net, &[first, second], Duration::from_secs(60));
        let index = jain(&got);
        println!("{:6} {got:?}: Jain {index:.3}", algorithm.name());
        assert!(index > if algorithm == Algorithm::Bbr { 0.8 } else { 0.9 }, "{algorithm:?} {got:?}");
    }
}

#[test]
fn hystart_leaves_slow_start_before_the_queue_overflows() {
    for algorithm in [Algorithm::Cubic, Algorithm::Reno] {
        // Five careful rounds let the window grow to three times what it was when the delay grew; slow start alone would go on to
        // 4 MB, what the receiver takes.
        let link = Bottleneck { bits_per_s: BITS_PER_S / 5, queue_bytes: 2_000_000, ..LINK };
        let mut net = path(13, 0, link);
        net.on(0, |e| e.set_congestion(algorithm));
        let (_, a, b) = net.open();
        send_for(&mut net, &[(a, b)], Duration::from_secs(5));
        let info = net.on(0, |e| e.tcp_info(a)).unwrap();
        assert!(info.ssthresh_bytes < 1 << 30, "{info:?}");
        assert_eq!((net.tail_drops, info.retransmits), (0, 0), "{info:?}");
        assert!(u64::from(info.cwnd_bytes) > PATH_BYTES / 5, "{info:?}");
    }
}

#[test]
fn an_algorithm_is_chosen_for_a_lane_for_a_listener_and_for_a_connection() {
    let mut net = Net::new(1, &S);
    let reno = TcpOptions { congestion: Algorithm::Reno as u8, ..TcpOptions::default() };
    let listener = net.listen(1, 80, 16);
    let algorithm = |net: &mut Net, host, s| net.on(host, |e| e.tcp_info(s)).unwrap().congestion.algorithm;
    assert!(net.on(1, |e| e.set_tcp_options(listener, &reno)));
    let (a, b) = net.open_to(listener, 40_000);
    assert_eq!(algorithm(&mut net, 0, a), Algorithm::Cubic, "the default");
    assert_eq!(algorithm(&mut net, 1, b), Algorithm::Reno, "inherited");
    net.on(0, |e| e.set_congestion(Algorithm::Reno));
    let (c, _) = net.open_to(listener, 40_001);
    assert_eq!(algorithm(&mut net, 0, c), Algorithm::Reno, "the lane's");
    // In the middle of a transfer, too.
    net.send(0, c, &[1; 100_000]).unwrap();
    net.run(Duration::from_millis(10));
    let cubic = TcpOptions { congestion: Algorithm::Cubic as u8, ..TcpOptions::default() };
    assert!(net.on(0, |e| e.set_tcp_options(c, &cubic)));
    assert_eq!(algorithm(&mut net, 0, c), Algorithm::Cubic);
}

#[test]
fn every_algorithm_carries_bytes_whole_through_loss_and_reordering() {
    for (n, algorithm) in Algorithm::ALL.into_iter().enumerate() {
        for super_segment_max in [0, 61_440] {
            let mut net = Net::new(20 + n as u64, &Setup { super_segment_max, ..Setup::USUAL });
            for host in 0..2 {
                net.on(host, |e| e.set_congestion(algorithm));
                net.on(host, |e| e.set_ecn(Ecn::Ask));
            }
            let (delay, split) = (Duration::from_millis(2), n % 2 == 0);
            net.faults = Faults {
                loss_ppm: 10_000,
                dup_ppm: 5_000,
                reorder_ppm: 20_000,
                delay,
                split,
                ..Faults::NONE
            };
            let mut count = 0_u32;
            net.marker = Some(Box::new(move |_, _| {
                count += 1;
                count.is_multiple_of(40)
            }));
            let (listener, a, b) = net.open();
            net.transfer(a, b, 1_000_000, 300_000);
            net.close(1, listener);
            net.run(Duration::from_secs(200));
            net.assert_clean(&Setup { super_segment_max, ..Setup::USUAL });
        }
    }
}

#[test]
fn tcp_info_tells_how_fast_data_arrives() {
    let mut net = path(14, 0, LINK);
    let (_, a, b) = net.open();
    send_for(&mut net, &[(a, b)], Duration::from_secs(5));
    let rate = net.on(0, |e| e.tcp_info(a)).unwrap().congestion.delivery_rate as f64 * 8.0 / 1e6;
    assert!((85.0..=100.0).contains(&rate), "{rate} Mb/s");
}
