//! Plays packet scripts: `corelane-conformance [--engine-only] [--json FILE] [FILE-OR-NAME ...]`.

use std::process::ExitCode;

use conformance::script::Script;
use conformance::{play, scripts};

fn main() -> ExitCode {
    let mut args: Vec<String> = std::env::args().skip(1).collect();
    let engine_only = args.iter().any(|a| a == "--engine-only");
    args.retain(|a| a != "--engine-only");
    let json = args.iter().position(|a| a == "--json").and_then(|at| {
        args.remove(at);
        (at < args.len()).then(|| args.remove(at))
    });
    let all = match scripts() {
        Ok(all) => all,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    let wants =
        |s: &&Script| args.is_empty() || args.iter().any(|a| s.file == *a || s.name.contains(a.as_str()));
    let wanted: Vec<&Script> = all.iter().filter(wants).collect();
    let scores = play(&wanted, !engine_only);
    let [ours, theirs] = &scores;
    for why in ours.failures.iter().chain(&theirs.failures) {
        println!("FAILED {why}");
    }
    println!(
        "{} scripts: {} of {} passed on Corelane, {} of {} on Linux",
        wanted.len(),
        ours.passed,
        ours.run,
        theirs.passed,
        theirs.run
    );
    if let Some(file) = json {
        let report = serde_json::json!({
            "scripts": wanted.len(),
            "engine": { "run": ours.run, "passed": ours.passed, "failures": ours.failures },
            "linux": { "run": theirs.run, "passed": theirs.passed, "failures": theirs.failures },
        });
        if let Err(e) = std::fs::write(&file, format!("{report:#}\n")) {
            eprintln!("{file}: {e}");
            return ExitCode::FAILURE;
        }
    }
    if ours.failures.is_empty() && theirs.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
