//! Every script on our engine and on Linux's stack.
#![allow(clippy::unwrap_used, reason = "a script that cannot be read fails the test")]

use conformance::script::Script;
use conformance::{play, scripts};

#[test]
fn every_script_goes_as_it_says_on_the_engine() {
    let all = scripts().unwrap();
    let wanted: Vec<&Script> = all.iter().collect();
    let [ours, _] = play(&wanted, false);
    assert_eq!(ours.failures, Vec::<String>::new());
    assert!(ours.run >= 150, "only {} scripts were played", ours.run);
}

#[test]
fn every_script_goes_as_it_says_on_linux() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIPPED: network namespaces need root");
        return;
    }
    let all = scripts().unwrap();
    let wanted: Vec<&Script> = all.iter().collect();
    let [_, theirs] = play(&wanted, true);
    assert_eq!(theirs.failures, Vec::<String>::new());
}

#[test]
fn a_script_that_expects_something_else_fails_with_its_line() {
    let text = "script wrong\nrfc 9293\nlisten\n+0 < S 0 win 65535 <mss 1460>\n+0 > S. 0 ack 2\n";
    let script = conformance::parse::scripts("wrong.script", text).unwrap().remove(0);
    let error = conformance::on_engine(&script).unwrap_err();
    assert!(error.contains("wrong.script:5") && error.contains("ack 1 instead of 2"), "{error}");
}

#[test]
fn a_packet_that_no_line_expects_fails_the_script() {
    let text = "script more\nrfc 9293\nlisten\n+0 < S 0 win 65535 <mss 1460>\n";
    let script = conformance::parse::scripts("more.script", text).unwrap().remove(0);
    let error = conformance::on_engine(&script).unwrap_err();
    assert!(error.contains("which no line expects"), "{error}");
}

#[test]
fn scripts_are_about_both_kinds_of_ip() {
    let all = scripts().unwrap();
    let six = all.iter().filter(|s| s.family == conformance::packet::Family::V6).count();
    assert!(six >= 15 && all.len() > six + 150, "{six} of {}", all.len());
}
