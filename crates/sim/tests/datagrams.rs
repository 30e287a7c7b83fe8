//! Worlds in which only datagrams travel: UDP, fragments, ARP.
#![allow(clippy::panic, reason = "tests")]

use sim::{Scenario, run};

fn play(seeds: impl Iterator<Item = u64>) {
    for seed in seeds {
        let mut scenario = Scenario::of_seed(seed);
        scenario.streams.clear();
        if let Err(failure) = run(&scenario) {
            panic!("{failure}\n{scenario:#?}");
        }
    }
}

#[test]
fn fragments_and_echoes_come_through_a_perfect_and_a_jittering_network() {
    play((0..100).filter(|seed| seed % 8 < 2));
}

#[test]
fn damaged_and_lost_fragments_never_make_a_wrong_datagram() {
    play((0..100).filter(|seed| seed % 8 >= 2));
}
