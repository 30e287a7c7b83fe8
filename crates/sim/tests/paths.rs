//! What paths do to transfers: bottlenecks, bursts, lost tails, narrow links.
#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

use base::{Duration, Instant};
use sim::{
    BottleneckSpec, BulkPlan, Burst, Discipline, LinkSpec, MIXED_SEEDS, Narrowing, Report, Scenario, jain,
    run,
};
use state::TcpOptions;

/// 20 Mb/s, 20 ms there and back, a queue of one and a half round trips.
fn plan() -> BulkPlan {
    BulkPlan {
        flows: 2,
        bottleneck: BottleneckSpec {
            left: 0,
            bits_per_second: 20_000_000,
            delay: Duration::from_millis(9),
            queue_bytes: 75_000,
            discipline: Discipline::DropTail,
        },
        link: LinkSpec::ideal(Duration::from_millis(1)),
        stagger: Duration::from_millis(500),
        time: Duration::from_secs(20),
        options: TcpOptions::default(),
        frames: 4096,
    }
}

fn play(plan: &BulkPlan) -> Report {
    let scenario = Scenario::bulk(plan, 1);
    run(&scenario).unwrap_or_else(|failure| panic!("{failure}"))
}

/// Bits a second of each flow.
fn goodput(plan: &BulkPlan, report: &Report) -> Vec<f64> {
    let seconds = plan.time.0 as f64 / 1e9;
    report.carried.iter().map(|c| c.up as f64 * 8.0 / seconds).collect()
}

#[test]
fn two_flows_fill_a_bottleneck_and_its_queue_drops() {
    let report = play(&plan());
    let flows = goodput(&plan(), &report);
    let sum: f64 = flows.iter().sum();
    println!("{flows:?}, Jain {:.3}, {:?}", jain(&flows), report.network);
    // 1448 of 1514 bytes are payload.
    assert!(sum > 0.85 * 20e6 && sum < 0.957 * 20e6, "{sum}");
    assert!(report.network.queue_dropped > 0 && report.network.queue_peak_bytes <= 75_000);
    assert_eq!(report, play(&plan()), "a run is a function of its plan");
}

#[test]
fn a_long_path_loses_less_with_early_drops() {
    let red = Discipline::Red { min_bytes: 15_000, max_bytes: 60_000, most_ppm: 20_000 };
    let plan = BulkPlan { bottleneck: BottleneckSpec { discipline: red, ..plan().bottleneck }, ..plan() };
    let report = play(&plan);
    let sum: f64 = goodput(&plan, &report).iter().sum();
    assert!(sum > 0.75 * 20e6, "{sum}");
    assert!(report.network.queue_dropped > 0);
}

#[test]
fn bursts_and_lost_tails_slow_a_flow_and_do_not_stop_it() {
    let burst = Burst { to_bad_ppm: 1000, to_good_ppm: 200_000, drop_bad_ppm: 900_000 };
    let link = LinkSpec { burst: Some(burst), tail_ppm: 50_000, ..plan().link };
    let plan = BulkPlan { flows: 1, link, ..plan() };
    let report = play(&plan);
    assert!(report.network.dropped > 20 && report.retransmits > 20, "{report:?}");
    let sum: f64 = goodput(&plan, &report).iter().sum();
    assert!(sum > 1e6, "{sum}");
}

#[test]
fn a_path_that_becomes_narrower_is_noticed_and_used_on() {
    let narrows = Narrowing { at: Instant(0).plus(Duration::from_secs(5)), mtu: 900, silent: false };
    let plan = BulkPlan { flows: 1, link: LinkSpec { narrows: Some(narrows), ..plan().link }, ..plan() };
    let report = play(&plan);
    assert!(report.network.too_long > 0);
    let sum: f64 = goodput(&plan, &report).iter().sum();
    assert!(sum > 0.75 * 20e6, "{sum}");
}

#[test]
fn a_path_that_swallows_long_packets_in_silence_is_used_on() {
    for six in [false, true] {
        let narrows = Narrowing { at: Instant(0).plus(Duration::from_secs(5)), mtu: 1300, silent: true };
        let plan = BulkPlan { flows: 1, link: LinkSpec { narrows: Some(narrows), ..plan().link }, ..plan() };
        let mut scenario = Scenario::bulk(&plan, 1);
        scenario.six = six;
        let report = run(&scenario).unwrap_or_else(|failure| panic!("{failure}"));
        assert!((1..300).contains(&report.network.too_long), "{report:?}");
        let sum: f64 = goodput(&plan, &report).iter().sum();
        assert!(sum > 0.5 * 20e6, "{sum}");
    }
}

#[test]
fn an_ipv6_path_that_becomes_narrower_is_noticed_and_used_on() {
    let narrows = Narrowing { at: Instant(0).plus(Duration::from_secs(5)), mtu: 1300, silent: false };
    let plan = BulkPlan { flows: 1, link: LinkSpec { narrows: Some(narrows), ..plan().link }, ..plan() };
    let mut six = Scenario::bulk(&plan, 1);
    six.six = true;
    let report = run(&six).unwrap_or_else(|failure| panic!("{failure}"));
    // Not every packet from then on: those that were under way, and none after that.
    assert!((1..200).contains(&report.network.too_long), "{report:?}");
    let sum: f64 = goodput(&plan, &report).iter().sum();
    assert!(sum > 0.75 * 20e6, "{sum}");
    let four = play(&BulkPlan { link: LinkSpec { narrows: None, ..plan.link }, ..plan });
    assert!(four.trace != report.trace);
}

#[test]
fn ipv6_hosts_open_transfer_and_mark_as_ipv4_hosts_do() {
    let red = Discipline::Step { mark_bytes: 20_000 };
    let plan = BulkPlan { bottleneck: BottleneckSpec { discipline: red, ..plan().bottleneck }, ..plan() };
    let options = TcpOptions { congestion: engine::Algorithm::Dctcp as u8, ..plan.options };
    let plan = BulkPlan { options, ..plan };
    let mut six = Scenario::bulk(&plan, 1);
    six.six = true;
    let report = run(&six).unwrap_or_else(|failure| panic!("{failure}"));
    let sum: f64 = goodput(&plan, &report).iter().sum();
    assert!(report.network.marked > 100 && report.network.queue_dropped == 0, "{report:?}");
    assert!(sum > 0.8 * 20e6, "{sum}");
}

#[test]
fn mixed_seeds_cover_everything_that_paths_can_do() {
    let scenarios: Vec<Scenario> = (0..200).map(|n| Scenario::of_seed(MIXED_SEEDS + n)).collect();
    let any = |test: fn(&LinkSpec) -> bool| scenarios.iter().any(|s| s.links().any(|l| test(&l)));
    assert!(any(|l| l.burst.is_some()) && any(|l| l.tail_ppm > 0) && any(|l| l.narrows.is_some()));
    assert!(any(|l| l.drop_ppm > 0) && any(|l| l.jitter.0 > 0) && any(|l| l.corrupt_ppm > 0));
    assert!(scenarios.iter().any(|s| s.bottleneck.is_some_and(|b| b.discipline == Discipline::DropTail)));
    let red = |d: Discipline| matches!(d, Discipline::Red { .. });
    assert!(scenarios.iter().any(|s| s.bottleneck.is_some_and(|b| red(b.discipline))));
    for six in [true, false] {
        let known = scenarios.iter().filter(|s| s.six == six);
        assert!(known.clone().any(|s| s.knows_macs) && known.clone().any(|s| !s.knows_macs));
        assert!(known.clone().any(|s| s.attack.count > 0) && known.clone().any(|s| !s.datagrams.is_empty()));
        assert!(known.flat_map(Scenario::links).any(|l| l.narrows.is_some()));
    }
    let uneven = |s: &Scenario| s.links().zip(s.links().skip(1)).any(|(a, b)| a.delay != b.delay);
    assert!(scenarios.iter().any(uneven), "asymmetric paths");
}
