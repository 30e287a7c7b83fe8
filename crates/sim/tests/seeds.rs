//! Worlds of a few hundred seeds, family by family.
#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

use sim::{Family, MIXED_SEEDS, SPECIAL_SEEDS, Scenario, run};

/// Seeds of each family.
const SEEDS: u64 = 60;

/// Plays the seeds of one family; says how to play the first that fails again.
fn play(family: u64) {
    play_seeds((0..SEEDS).map(|n| n * 8 + family));
}

fn play_seeds(seeds: impl Iterator<Item = u64>) {
    for seed in seeds {
        if let Err(failure) = run(&Scenario::of_seed(seed)) {
            panic!(
                "{failure}\nfamily {:?}; play it again with\n  CORELANE_SIM_SEED={seed} cargo test -p corelane-sim --test \
                 seeds -- --nocapture the_seed_of_the_environment",
                Scenario::of_seed(seed).family
            );
        }
    }
}

#[test]
fn a_perfect_network_carries_every_byte() {
    play(0);
}

#[test]
fn packets_out_of_order_do_no_harm() {
    play(1);
}

#[test]
fn lost_doubled_late_and_damaged_packets_do_no_harm() {
    play(2);
}

#[test]
fn super_segments_arrive_whole() {
    play(3);
}

#[test]
fn closed_windows_open_again() {
    play(4);
}

#[test]
fn who_breaks_off_leaves_nothing_behind() {
    play(5);
}

#[test]
fn connections_outlive_an_outage() {
    play(6);
}

#[test]
fn a_dead_peer_is_noticed_and_forgotten() {
    play(7);
}

#[test]
fn a_crowded_host_drops_and_goes_on() {
    play_seeds((0..SEEDS).map(|n| SPECIAL_SEEDS + 2 * n));
}

#[test]
fn a_stranger_who_guesses_breaks_nothing() {
    play_seeds((0..SEEDS).map(|n| SPECIAL_SEEDS + 2 * n + 1));
}

#[test]
fn seeds_that_once_failed_pass() {
    let kept = sim::kept_seeds();
    assert!(kept.len() >= 3);
    play_seeds(kept.into_iter());
}

#[test]
fn a_mix_of_everything_a_path_can_do_does_no_harm() {
    play_seeds((0..2 * SEEDS).map(|n| MIXED_SEEDS + n));
}

#[test]
fn a_seed_gives_the_same_run_every_time() {
    for seed in [2, 3, 4, 5, 10] {
        let scenario = Scenario::of_seed(seed);
        assert_eq!(run(&scenario), run(&scenario), "seed {seed}");
    }
}

#[test]
fn a_run_does_not_depend_on_the_runs_before_it() {
    // Among them a small region, whose packets lie where the larger ones after it have their tables.
    let [first, second, last] = [2_003_957, 2_003_958, 2_003_959].map(Scenario::of_seed);
    assert_eq!(second.family, Family::Crowded);
    let alone = std::thread::scope(|s| s.spawn(|| run(&last)).join()).expect("no panic");
    assert!(run(&first).is_ok() && run(&second).is_ok());
    assert_eq!(run(&last), alone);
}

#[test]
fn seeds_cover_every_family() {
    let families: Vec<Family> = (0..8).map(|seed| Scenario::of_seed(seed).family).collect();
    assert_eq!(families.first(), Some(&Family::Perfect));
    assert_eq!(families.last(), Some(&Family::Death));
}

/// The seeds from `CORELANE_SIM_SEED` (default 1) on, `CORELANE_SIM_COUNT` of them (default 1).
#[test]
fn the_seed_of_the_environment() {
    let number = |name: &str| std::env::var(name).ok().and_then(|v| v.parse::<u64>().ok());
    let first = number("CORELANE_SIM_SEED").unwrap_or(1);
    let count = number("CORELANE_SIM_COUNT").unwrap_or(1);
    for seed in first..first.saturating_add(count) {
        let mut scenario = Scenario::of_seed(seed);
        scenario.log = count == 1;
        if count == 1 {
            println!("{scenario:#?}");
        }
        match run(&scenario) {
            Ok(report) => println!("seed {seed} {:?}: {report:?}", scenario.family),
            Err(failure) => panic!("{:?}: {failure}", scenario.family),
        }
    }
}
