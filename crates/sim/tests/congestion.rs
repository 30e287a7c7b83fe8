//! Congestion control over 100 Mb/s and 40 ms: goodput at several rates of loss, and how two flows share.
#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

use base::Duration;
use engine::Algorithm;
use sim::goodput::Case;
use sim::{BottleneckSpec, BulkPlan, Discipline, LinkSpec, Report, Scenario, jain, run};
use state::TcpOptions;

/// One flow for 15 s; a queue of one round trip.
fn plan(algorithm: Algorithm, drop_ppm: u32) -> BulkPlan {
    BulkPlan {
        flows: 1,
        bottleneck: BottleneckSpec {
            left: 0,
            bits_per_second: 100_000_000,
            delay: Duration::from_millis(18),
            queue_bytes: 500_000,
            discipline: Discipline::DropTail,
        },
        link: LinkSpec { drop_ppm, ..LinkSpec::ideal(Duration::from_millis(1)) },
        stagger: Duration::from_millis(500),
        time: Duration::from_secs(15),
        options: TcpOptions { congestion: algorithm as u8, ..TcpOptions::default() },
        frames: 16_384,
    }
}

fn play(plan: &BulkPlan) -> Report {
    run(&Scenario::bulk(plan, 1)).unwrap_or_else(|failure| panic!("{failure}"))
}

/// Mb/s of each flow.
fn goodput(plan: &BulkPlan) -> Vec<f64> {
    let seconds = plan.time.0 as f64 / 1e9;
    play(plan).carried.iter().map(|c| c.up as f64 * 8.0 / seconds / 1e6).collect()
}

#[test]
fn goodput_at_100_mbit_and_40_ms_is_what_the_algorithm_promises() {
    for algorithm in Algorithm::ALL {
        for drop_ppm in [0, 1_000, 10_000, 30_000] {
            let rate: f64 = goodput(&plan(algorithm, drop_ppm)).iter().sum();
            let p = f64::from(drop_ppm) / 1e6;
            // Mathis, Semke, Mahdavi, Ott 1997; CUBIC's Reno-friendly region has the same (RFC 9438 5.1).
            let model = (1448.0 * 8.0 / 0.04 * (1.5 / p).sqrt() / 1e6).min(95.6);
            println!("{:6} {:4.1} %: {rate:6.2} Mb/s, Reno's model {model:6.2}", algorithm.name(), p * 100.0);
            assert!(rate > 0.85 * model && rate < 95.7, "{algorithm:?} {p}: {rate} Mb/s");
        }
    }
}

/// A slow start that ends with hundreds of losses, and one recovery after the other: each makes the window smaller, none is undone.
#[test]
fn losses_of_a_slow_start_do_not_raise_the_window() {
    for algorithm in [Algorithm::Cubic, Algorithm::Reno] {
        for seed in 1..=8 {
            let plan = BulkPlan { time: Duration::from_secs(30), ..plan(algorithm, 1_000) };
            let report = run(&Scenario::bulk(&plan, seed)).unwrap_or_else(|failure| panic!("{failure}"));
            let rate: f64 = report.carried.iter().map(|c| c.up as f64 * 8.0 / 30e6).sum();
            println!("{:6} seed {seed}: {rate:.1} Mb/s, {} sent again", algorithm.name(), report.retransmits);
            // 11.2 Mb/s by the model; the first seconds have more.
            assert!((8.0..22.0).contains(&rate), "{algorithm:?} seed {seed}: {rate} Mb/s");
            assert!(report.retransmits < 1500 && report.undone == 0, "{algorithm:?} seed {seed}: {report:?}");
        }
    }
}

/// The path's own losses, without a queue, are not for BBR to answer; the other algorithms cannot tell.
#[test]
fn bbr_keeps_its_rate_where_losses_come_without_a_queue() {
    for (drop_ppm, least) in [(1_000, 88.0), (10_000, 84.0), (30_000, 60.0)] {
        let rate: f64 = goodput(&plan(Algorithm::Bbr, drop_ppm)).iter().sum();
        println!("{drop_ppm} in a million lost: {rate:.1} Mb/s");
        assert!(rate > least, "{drop_ppm}: {rate} Mb/s");
    }
}

/// Some of these runs lose so much at their start that the scoreboard cannot hold all of it, and segments go twice. What the peer then says of them
/// undoes no recovery that has lost something.
#[test]
fn segments_of_one_recovery_that_came_twice_do_not_undo_the_next() {
    let [one, two] =
        [Algorithm::Bbr, Algorithm::Reno].map(|a| Case { algorithm: a, drop_ppm: 30_000, flows: 1 });
    let runs = (3..=5).map(|seed| (one, seed)).chain((1..=4).map(|seed| (two, seed)));
    for (case, seed) in runs {
        let report = run(&Scenario::bulk(&case.plan(Duration::from_secs(8)), seed))
            .unwrap_or_else(|failure| panic!("{failure}"));
        println!("{} seed {seed}: {} undone, {} sent again", case.name(), report.undone, report.retransmits);
        assert!(report.undone <= 1 && report.retransmits > 0, "{} {seed}: {report:?}", case.name());
    }
}

/// Reno's model, at rates of loss that leave windows of a few segments, within what losses scatter: so does Linux on this path (docs/goodput.md).
#[test]
fn reno_grows_by_a_segment_a_round_trip_also_when_windows_are_small() {
    for (drop_ppm, least) in [(10_000, 0.98), (30_000, 0.88)] {
        let case = Case { algorithm: Algorithm::Reno, drop_ppm, flows: 1 };
        let seeds = 1..=24;
        let rate = seeds.clone().map(|seed| {
            let report = run(&Scenario::bulk(&case.plan(Duration::from_secs(15)), seed));
            let report = report.unwrap_or_else(|failure| panic!("{failure}"));
            report.carried.iter().map(|c| c.up as f64 * 8.0 / 15e6).sum::<f64>()
        });
        let rate = rate.sum::<f64>() / seeds.count() as f64;
        println!("{}: {rate:.2} Mb/s, {:.3} of the model", case.name(), rate / case.model());
        assert!(rate > least * case.model(), "{}: {rate} Mb/s", case.name());
    }
}

#[test]
fn two_flows_of_one_algorithm_share() {
    for algorithm in Algorithm::ALL {
        let mut two = BulkPlan { flows: 2, time: Duration::from_secs(60), ..plan(algorithm, 0) };
        two.bottleneck.bits_per_second = 20_000_000;
        two.bottleneck.queue_bytes = 100_000;
        let rates = goodput(&two);
        println!("{:6} {rates:?}: Jain {:.3}", algorithm.name(), jain(&rates));
        assert!(jain(&rates) > 0.8, "{algorithm:?} {rates:?}");
    }
}

#[test]
fn buffers_grow_to_what_a_long_fat_path_needs() {
    for (bits_per_second, seconds, frames, least) in
        [(100_000_000, 10, 16_384, 80.0), (1_000_000_000, 6, 65_536, 600.0)]
    {
        let plan = BulkPlan {
            bottleneck: BottleneckSpec {
                bits_per_second,
                delay: Duration::from_millis(48),
                queue_bytes: bits_per_second / 80,
                ..plan(Algorithm::Cubic, 0).bottleneck
            },
            time: Duration::from_secs(seconds),
            frames,
            ..plan(Algorithm::Cubic, 0)
        };
        let rate: f64 = goodput(&plan).iter().sum();
        println!("{} Mb/s and 100 ms: {rate:.0} Mb/s in {seconds} s", bits_per_second / 1_000_000);
        assert!(rate > least, "{rate} Mb/s of {bits_per_second} b/s");
        // With buffers as they are at first, one goes through in a round trip.
        let set = TcpOptions { rcv_buf_bytes: 65_536, ..plan.options };
        let rate: f64 = goodput(&BulkPlan { options: set, ..plan }).iter().sum();
        assert!(rate < 5.3, "{rate} Mb/s with a window of 64 KiB");
    }
}
