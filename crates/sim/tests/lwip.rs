//! Our engine and lwIP, in virtual time: both connect, both send, with and without losses, and close in all ways.
#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

use sim::lwip::Build;
use sim::peers::{PeerPlan, PeerReport, run};
use sim::{Close, StreamPlan};

/// Seeds that are played: each lwIP, rate of loss, order and family several times.
const SEEDS: u64 = 216;

/// Is lwIP here? Says why not.
fn is_there() -> bool {
    match Build::Small.program() {
        Ok(_) => true,
        Err(why) => {
            eprintln!("SKIPPED: {why}");
            false
        }
    }
}

fn play(seed: u64) -> PeerReport {
    run(&PeerPlan::of_seed(seed), None)
        .unwrap_or_else(|failure| panic!("{failure}\nplay it again: cargo xtask sim lwip --seed {seed}"))
}

#[test]
fn streams_between_us_and_lwip_arrive_whole_and_end() {
    if !is_there() {
        return;
    }
    let (mut finished, mut broke_off, mut read, mut dropped) = (0, 0, [0; 2], 0);
    for seed in 0..SEEDS {
        let report = play(seed);
        finished += report.finished;
        broke_off += report.broke_off;
        dropped += report.network.dropped;
        for (sum, read) in read.iter_mut().zip(report.read) {
            *sum += read;
        }
    }
    println!("{finished} ends finished, {broke_off} broke off, {read:?} bytes read, {dropped} packets lost");
    assert!(finished > 1000 && broke_off > 100, "{finished} {broke_off}");
    assert!(read.iter().all(|n| *n > 15_000_000) && dropped > 800, "{read:?} {dropped}");
}

/// BBR after a few bytes; a stream that lwIP itself would cut short; resets that are lost; lwIP sending beyond our window, because it takes the
/// window of a segment that is not the latest for one behind the latest acknowledgement.
#[test]
fn seeds_with_lwip_that_once_failed_pass() {
    if !is_there() {
        return;
    }
    for seed in [328, 370, 1538, 1753, 1803, 1_000_393, 1_000_886, 1_001_779, 1_003_054] {
        play(seed);
    }
}

#[test]
fn a_seed_with_lwip_gives_the_same_run_every_time() {
    if !is_there() {
        return;
    }
    for seed in [5, 31, 47] {
        assert_eq!(play(seed), play(seed), "seed {seed}");
    }
}

#[test]
fn the_plans_have_every_lwip_path_and_close() {
    let plans: Vec<PeerPlan> = (0..SEEDS).map(PeerPlan::of_seed).collect();
    let any = |test: &dyn Fn(&PeerPlan) -> bool| plans.iter().any(test);
    for build in Build::ALL {
        for six in [false, true] {
            for drop_ppm in [0, 10_000, 30_000] {
                let link = |p: &PeerPlan| p.links.iter().all(|l| l.drop_ppm == drop_ppm);
                assert!(any(&|p| p.build == build && p.six == six && link(p)), "{build:?} {six} {drop_ppm}");
            }
            let late = |p: &PeerPlan| p.links.iter().all(|l| l.reorder_ppm > 0 && l.duplicate_ppm > 0);
            assert!(any(&|p| p.build == build && p.six == six && late(p)), "{build:?} {six}");
        }
    }
    // Whoever connects, either end is the one that does it.
    let streams = |client| plans.iter().flat_map(|p| &p.streams).filter(move |s| s.client == client);
    for client in [0, 1] {
        let one = |test: fn(&StreamPlan) -> bool| streams(client).any(test);
        assert!(one(|s| matches!(s.up.close, Close::AbortAfter(_))));
        assert!(one(|s| matches!(s.down.close, Close::AbortAfter(_))));
        assert!(one(|s| matches!(s.up.close, Close::CloseAfterReading(_))));
        assert!(one(|s| matches!(s.down.close, Close::CloseAfterReading(_))));
        assert!(one(|s| s.up.close == Close::Close && s.is_clean()));
        assert!(one(|s| s.down.close == Close::Close && s.is_clean()));
        // Half closed while the other end still has much to send.
        assert!(one(|s| s.up.close == Close::Shutdown && s.down.answer && s.down.bytes > 20_000));
        assert!(one(|s| s.down.close == Close::Shutdown && s.up.answer && s.up.bytes > 20_000));
    }
}
