//! TCP carries bytes both ways, whole and in order, whatever the wire does, and gives everything back afterwards.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests stop at what they do not expect")]

mod net;

use base::Duration;
use net::{Faults, Net, Setup};

fn transfer(seed: u64, faults: Faults, setup: &Setup, there: usize, back: usize) -> Net {
    let mut net = Net::new(seed, setup);
    net.faults = faults;
    let (listener, a, b) = net.open();
    net.transfer(a, b, there, back);
    net.close(1, listener);
    net.faults = Faults::NONE;
    net.run(Duration::from_secs(400));
    net.assert_clean(setup);
    net
}

#[test]
fn bytes_arrive_whole_on_a_perfect_wire() {
    transfer(1, Faults::NONE, &Setup::USUAL, 3_000_000, 100_000);
}

#[test]
fn super_segments_arrive_whole() {
    let faults = Faults { split: false, ..Faults::NONE };
    transfer(2, faults, &Setup::USUAL, 3_000_000, 3_000_000);
}

#[test]
fn bytes_arrive_whole_without_super_segments() {
    let setup = Setup { super_segment_max: 0, ..Setup::USUAL };
    transfer(3, Faults::NONE, &setup, 500_000, 500_000);
}

#[test]
fn bytes_arrive_whole_through_loss_duplication_and_reordering() {
    for seed in 0..60 {
        let faults = Faults {
            loss_ppm: [0, 1000, 10_000, 50_000][seed as usize % 4],
            dup_ppm: [0, 10_000, 50_000][seed as usize % 3],
            reorder_ppm: [0, 10_000, 200_000][(seed as usize / 3) % 3],
            delay: Duration::from_micros([50, 1000, 20_000][(seed as usize / 2) % 3]),
            split: seed % 5 != 0,
            ..Faults::NONE
        };
        transfer(seed, faults, &Setup::USUAL, 200_000, 30_000);
    }
}

#[test]
fn bytes_arrive_whole_with_few_frames() {
    let setup = Setup { frames: 400, ..Setup::USUAL };
    for seed in 0..10 {
        let faults = Faults { loss_ppm: 10_000, reorder_ppm: 100_000, ..Faults::NONE };
        transfer(seed, faults, &setup, 300_000, 300_000);
    }
}

#[test]
fn jumbo_packets_arrive_whole() {
    let setup = Setup { mtu: 9000, ..Setup::USUAL };
    transfer(4, Faults { loss_ppm: 5000, ..Faults::NONE }, &setup, 1_000_000, 10);
}

#[test]
fn packets_of_the_largest_mtu_arrive_whole() {
    for seed in 0..24 {
        let super_segment_max = [0, 61_440][seed as usize % 2];
        let setup = Setup { mtu: 65_535, super_segment_max, ..Setup::USUAL };
        let loss_ppm = [0, 5000, 50_000][seed as usize % 3];
        transfer(seed, Faults { loss_ppm, ..Faults::NONE }, &setup, 3_000_000, 700_000);
    }
}

/// Each packet of a conversation, and when it was sent.
fn conversation(seed: u64, faults: Faults, setup: &Setup) -> Vec<(base::Instant, usize, Vec<u8>)> {
    let mut net = Net::new(seed, setup);
    let (_, a, b) = net.open();
    net.keep_trace = true;
    net.faults = faults;
    net.transfer(a, b, 60_000, 20_000);
    net.run(base::Duration::from_secs(10));
    net.trace.into_iter().map(|(at, from, packet)| (at, from, packet.bytes)).collect()
}

/// What the two ends of a short connection send from its SYN on until it is over, and when; and what they know of it while it is open and
/// after the first FIN. `first`: who closes first. `at_once`: the first data acknowledge the
/// SYN,ACK, and who closes second does so when it has the FIN and has not acknowledged it.
fn short_life(padding: usize, setup: &Setup, first: usize, at_once: bool) -> (Vec<String>, Vec<String>) {
    let mut net = Net::new(9, setup);
    net.keep_trace = true;
    net.faults = Faults { padding, ..Faults::NONE };
    let listener = net.listen(1, 80, 8);
    let a = net.connect(0, 40_000, 80).unwrap();
    if at_once {
        for host in 0..2 {
            net.flush(host);
            net.deliver_flying();
        }
    } else {
        net.run(Duration::from_millis(1));
    }
    net.send(0, a, &[7; 64]).unwrap();
    net.run(Duration::from_millis(1));
    let b = net.accept(1, listener).unwrap();
    let socks = [a, b];
    net.send(1, b, &[8; 64]).unwrap();
    net.run(Duration::from_millis(1));
    let mut known = Vec::new();
    for host in [first, 1 - first] {
        for (host, sock) in socks.into_iter().enumerate() {
            let _ = net.recv(host, sock, 100);
            known.push(net.on(host, |e| format!("{:?} {:?}", e.tcp_info(sock), e.ready(sock))));
        }
        net.close(host, socks[host]);
        if at_once {
            net.flush(host);
            net.deliver_flying();
        } else {
            net.run(Duration::from_millis(1));
        }
    }
    net.run(Duration::from_secs(100));
    known.extend([0, 1].map(|host| net.on(host, |e| format!("{:?}", e.counters().tcp))));
    let sent = net.trace.iter().map(|(at, from, packet)| format!("{at:?} {from} {:?}", packet.bytes));
    (sent.collect(), known)
}

#[test]
fn usual_syns_and_fins_have_the_effect_they_have_on_the_general_way() {
    for (n, super_segment_max) in [0, 61_440].into_iter().enumerate() {
        let setup = Setup { super_segment_max, ..Setup::USUAL };
        for (first, at_once) in [(0, false), (1, false), (0, true), (1, true)] {
            let (usual, general) =
                (short_life(0, &setup, first, at_once), short_life(7, &setup, first, at_once));
            assert!(usual.0.len() >= 7, "{n}, {first}, {at_once}: {}", usual.0.len());
            assert_eq!(usual, general, "{n}, {first}, {at_once}");
        }
    }
}

#[test]
fn usual_segments_have_the_effect_they_have_on_the_general_way() {
    for seed in 0..40 {
        let faults = Faults {
            loss_ppm: [0, 2000, 20_000, 50_000][seed as usize % 4],
            dup_ppm: [0, 10_000][seed as usize % 2],
            reorder_ppm: [0, 10_000, 100_000][seed as usize % 3],
            ..Faults::NONE
        };
        let setup = Setup { super_segment_max: [0, 61_440][(seed as usize / 4) % 2], ..Setup::USUAL };
        let usual = conversation(seed, faults, &setup);
        // Padding keeps a packet off the short path.
        let general = conversation(seed, Faults { padding: 7, ..faults }, &setup);
        assert_eq!(usual.len(), general.len(), "seed {seed}");
        for (n, (one, other)) in usual.iter().zip(&general).enumerate() {
            assert_eq!(one, other, "seed {seed}, packet {n}");
        }
    }
}
