//! The kept inputs of every target, and a bounded number of new ones made from them, as plain tests.

#![allow(clippy::expect_used, clippy::panic)]

use std::time::Duration;

use fuzz::run::{self, Limits};
use fuzz::targets::TARGETS;

/// New inputs of each target, at most.
const INPUTS: u64 = 3000;

fn play(name: &str) {
    let target = TARGETS.iter().find(|t| t.name == name).expect("a target");
    for (path, input) in run::corpus(target).expect("the corpus") {
        if let Some(why) = run::play(target, &input) {
            panic!("{}: {why}", path.display());
        }
    }
    let limits = Limits { time: Duration::from_secs(20), inputs: INPUTS, seed: 1 };
    let report = run::run(target, Vec::new(), limits).expect("the corpus");
    if let Some((input, why)) = report.failure {
        panic!("{why}\n{}", run::save(target.name, "failure", &input));
    }
    assert!(report.inputs > 0);
}

macro_rules! targets {
    ($($test:ident plays $name:literal;)*) => {
        $(#[test]
        fn $test() {
            play($name);
        })*

        #[test]
        fn every_target_is_played() {
            let played = [$($name),*];
            assert!(TARGETS.iter().all(|t| played.contains(&t.name)) && played.len() == TARGETS.len());
        }
    };
}

targets! {
    raw_frames_do_no_harm plays "frames";
    no_conversation_does_harm plays "conversation";
    headers_are_read_within_their_bytes plays "headers";
    options_read_again_as_they_were_written plays "options";
    a_corrupted_region_does_no_harm plays "region";
    messages_have_one_form plays "messages";
    a_memif_client_does_no_harm plays "memif";
    programs_do_what_the_assembler_was_asked plays "assembler";
}
