//! Python's own tests of sockets, events and what stands on them: each comes to the same as without Corelane.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Output;

use crate::files::{PYTHON, program};
use crate::trial::Trial;
use crate::world::Side;

const SUITES: &[&str] =
    &["test_socket", "test_selectors", "test_epoll", "test_ssl", "test_httplib", "test_asyncio"];

/// Plays each suite twice on the machine's loopback, as the row says and without Corelane, and compares test by test.
pub(crate) fn python(trial: &Trial) {
    let mut differences = Vec::new();
    for suite in SUITES {
        let kernel = outcomes(trial, suite, "kernel", |line| trial.world.run(Side::Ours, 900, line));
        let ours = outcomes(trial, suite, "ours", |line| trial.run(Side::Ours, 900, line));
        assert!(kernel.len() > 5, "{suite}: {kernel:?}");
        let names: BTreeSet<_> = kernel.keys().chain(ours.keys()).collect();
        for name in names {
            let (before, now) = (kernel.get(name), ours.get(name));
            if before != now {
                differences.push(format!("{name}: {before:?} on the kernel, {now:?} here"));
            }
        }
        let ok = ours.values().filter(|outcome| *outcome == "ok").count();
        println!(
            "{suite}: {} tests, {ok} ok, {} skipped",
            ours.len(),
            ours.values().filter(|o| *o == "skipped").count()
        );
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// What each test of `suite` comes to, when `play` runs it.
fn outcomes(
    trial: &Trial,
    suite: &str,
    kind: &str,
    play: impl Fn(&[&str]) -> Output,
) -> BTreeMap<String, String> {
    let report = trial.world.dir.join(format!("{suite}.{kind}.xml")).display().to_string();
    // Those of VSOCK are no TCP, and wait for ever where a module of that name has no device.
    let output = play(&[PYTHON, "-m", "test", "-i", "*VSOCK*", "--junit-xml", &report, suite]);
    assert!(
        std::fs::exists(&report).unwrap_or(false),
        "{suite}: {}",
        String::from_utf8_lossy(&output.stdout)
    );
    let lines = trial.world.check(Side::Ours, 20, &[PYTHON, &program("outcomes.py"), &report]);
    let pairs = lines.lines().filter_map(|line| line.rsplit_once(' '));
    pairs.map(|(name, outcome)| (name.to_owned(), outcome.to_owned())).collect()
}
