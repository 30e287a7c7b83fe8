//! Worlds whose segments are signed: the right key lets every byte through, a wrong one lets nothing in.
#![allow(clippy::expect_used, clippy::panic, reason = "tests")]

use base::Duration;
use sim::{Family, Keys, MIXED_SEEDS, Report, Scenario, run};

fn play(world: &Scenario, keys: Keys) -> Report {
    let mut scenario = world.clone();
    scenario.keys = keys;
    run(&scenario).unwrap_or_else(|failure| panic!("{keys:?}: {failure}"))
}

/// The kinds of keys, with host `wrong` having another one.
fn kinds(wrong: Option<usize>) -> Vec<Keys> {
    let ao = |aes, covers_options| Keys::Ao { wrong, aes, covers_options };
    vec![Keys::Md5 { wrong }, ao(false, false), ao(false, true), ao(true, false), ao(true, true)]
}

/// Worlds of a bad network with streams that must succeed.
fn worlds() -> impl Iterator<Item = Scenario> {
    let all = (MIXED_SEEDS..).map(Scenario::of_seed);
    all.filter(|s| s.family == Family::Bad && s.streams.iter().all(sim::StreamPlan::is_clean)).take(3)
}

#[test]
fn a_key_at_both_ends_lets_every_byte_through_and_a_wrong_one_lets_nothing_in() {
    for world in worlds() {
        let plain = play(&world, Keys::None);
        for keys in kinds(None) {
            let report = play(&world, keys);
            assert_eq!((report.finished, report.failed), (plain.finished, plain.failed), "{keys:?}");
            assert_ne!(report.trace, plain.trace, "signed segments are others");
        }
        for keys in kinds(Some(0)) {
            let report = play(&world, keys);
            for (plan, carried) in world.streams.iter().zip(&report.carried) {
                let stranger = plan.client == 0 || plan.server == 0;
                assert_eq!(carried.up + carried.down == 0, stranger, "{keys:?} {plan:?}");
            }
            assert!(report.failed > 0 && report.took > Duration::from_secs(60), "{report:?}");
        }
    }
}

#[test]
fn some_seeds_have_keys_and_some_of_those_a_wrong_one() {
    let drawn: Vec<Keys> = (MIXED_SEEDS..MIXED_SEEDS + 2000).map(|s| Scenario::of_seed(s).keys).collect();
    let count = |is: fn(&Keys) -> bool| drawn.iter().filter(|keys| is(keys)).count();
    assert!(count(|k| matches!(k, Keys::Md5 { wrong: None })) > 80);
    assert!(count(|k| matches!(k, Keys::Md5 { wrong: Some(_) })) > 20);
    assert!(count(|k| matches!(k, Keys::Ao { wrong: None, .. })) > 80);
    assert!(count(|k| matches!(k, Keys::Ao { wrong: Some(_), .. })) > 20);
    assert!(count(|k| *k == Keys::None) > 1000);
}
