//! A program is killed at any instruction of its turn, so between any two stores to its region, and a steward takes its lane: neither
//! a panic nor a hang, every connection of the dead program is over, and its peers hear of it.
#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

mod kill;

use base::Rng;
use kill::kill_after;
use sim::{Crash, Scenario, run_crashing};

/// Deaths, unless CORELANE_SIM_DEATHS says otherwise, each in another world, unless CORELANE_SIM_SEED names one.
const DEATHS: u64 = 60;
/// Instructions until death, at most; most turns have fewer.
const STEPS: u64 = 30_000;

/// Plays `scenario` with a death that `rng` chooses. Gives whether its program died at all, and in the middle of a turn.
fn die(mut scenario: Scenario, rng: &mut Rng) -> (bool, bool) {
    // Their clients do not expect what a host without a program says.
    scenario.datagrams.clear();
    // A reset may be lost; then only a probe shows that the other end is gone.
    scenario.options.keepalive = 1;
    let crash = Crash { host: rng.below(2) as usize, turn: rng.below(200) };
    let steps = rng.below(STEPS);
    let (mut died, mut in_the_middle) = (false, false);
    let outcome = run_crashing(&scenario, crash, &mut |turn| {
        died = true;
        in_the_middle = kill_after(steps, turn);
    });
    if let Err(failure) = outcome {
        panic!("{crash:?} after {steps} instructions, {:?}: {failure}", scenario.family);
    }
    (died, in_the_middle)
}

/// A number of the environment.
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|v| v.parse().ok())
}

#[test]
fn a_steward_cleans_up_after_a_death_at_any_instruction() {
    let deaths = setting("CORELANE_SIM_DEATHS").unwrap_or(DEATHS);
    let mut rng = Rng::new(20);
    let (mut in_the_middle, mut died) = (0, 0);
    for n in 0..deaths {
        // Every family of paths; both ends; early and late. Or one world again and again.
        let seed = setting("CORELANE_SIM_SEED").unwrap_or(2_000_000 + n);
        let death = die(Scenario::of_seed(seed), &mut rng);
        died += u64::from(death.0);
        in_the_middle += u64::from(death.1);
    }
    println!("{died} deaths, {in_the_middle} of them in the middle of a turn");
    assert!(in_the_middle > deaths / 10, "{in_the_middle} of {died}");
}
