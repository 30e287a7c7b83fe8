//! A flood of SYNs, a hundred times as many as the host under attack has rows for connections.
#![allow(clippy::panic, reason = "tests")]

use base::{Duration, Instant};
use sim::{AttackPlan, Family, SPECIAL_SEEDS, Scenario, run};

/// Connections a host has room for in these worlds.
const ROWS: u32 = 64;

#[test]
fn streams_begin_and_end_as_if_there_were_no_flood() {
    // Every other one of these seeds has a stranger.
    for seed in (SPECIAL_SEEDS..SPECIAL_SEEDS + 4).filter(|s| s % 2 == 1) {
        let mut scenario = Scenario::of_seed(seed);
        let hosts = scenario.links().count() as u32;
        let syns = 100 * ROWS * hosts;
        // One packet of eight of his is a SYN, the others are what he always sends.
        scenario.attack =
            AttackPlan { count: 9 * syns, interval: Duration::from_micros(50), syns, flood: false };
        let report = run(&scenario).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(report.finished > 0 && report.carried.len() == scenario.streams.len());
    }
}

#[test]
fn connections_open_and_go_on_under_a_flood_of_syns() {
    let mut streams = 0;
    for seed in (0..400).filter(|seed| seed % 8 == 0) {
        let mut scenario = Scenario::of_seed(seed);
        assert_eq!(scenario.family, Family::Perfect);
        // Every connection is to the host under attack; some are open when the flood begins, most open in it.
        let last = scenario.links().count() - 1;
        for (at, stream) in scenario.streams.iter_mut().enumerate() {
            stream.server = last;
            stream.client = at % last;
            stream.start = Instant(0).plus(Duration::from_millis(100 * at as u64));
        }
        scenario.datagrams.clear();
        scenario.streams_a_port = 1;
        let count = 100 * ROWS;
        // Two seconds long.
        scenario.attack = AttackPlan {
            count,
            interval: Duration::from_micros(2_000_000 / u64::from(count)),
            syns: count,
            flood: true,
        };
        // An end that is not finished as planned is a failure; so is one that had to send anything twice.
        match run(&scenario) {
            Ok(report) => {
                assert_eq!(report.failed, 0, "seed {seed}");
                streams += report.finished / 2;
            }
            Err(failure) => panic!("{failure}"),
        }
    }
    println!("{streams} connections beside {} SYNs each time", 100 * ROWS);
    assert!(streams > 100);
}
