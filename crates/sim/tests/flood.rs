//! A stranger opens a hundred times as many connections as the tables have rows, and answers none.
#![allow(clippy::panic, reason = "tests")]

use base::Duration;
use sim::{AttackPlan, SPECIAL_SEEDS, Scenario, run};

/// TCP rows of each host.
const ROWS: u32 = 64;

#[test]
fn streams_begin_and_end_as_if_there_were_no_flood() {
    // Every other one of these seeds has a stranger.
    for seed in (SPECIAL_SEEDS..SPECIAL_SEEDS + 4).filter(|s| s % 2 == 1) {
        let mut scenario = Scenario::of_seed(seed);
        let hosts = scenario.links().count() as u32;
        let syns = 100 * ROWS * hosts;
        // One packet of eight of his is a SYN, the others are what he always sends.
        scenario.attack = AttackPlan { count: 9 * syns, interval: Duration::from_micros(50), syns };
        let report = run(&scenario).unwrap_or_else(|failure| panic!("{failure}"));
        assert!(report.finished > 0 && report.carried.len() == scenario.streams.len());
    }
}
