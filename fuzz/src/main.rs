//! `corelane-fuzz TARGET [--seconds N] [--seed N]`, `corelane-fuzz --list`, `corelane-fuzz TARGET --play FILE`: see `cargo xtask fuzz`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use fuzz::coverage::Reached;
use fuzz::run::{self, Limits};
use fuzz::targets::{TARGETS, Target};

/// Inputs that reached new code in earlier runs.
fn found_before(target: &Target) -> (PathBuf, Vec<Vec<u8>>) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fuzz-corpus").join(target.name);
    let files = std::fs::read_dir(&dir).into_iter().flatten().flatten();
    (dir, files.filter_map(|entry| std::fs::read(entry.path()).ok()).collect())
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| args.iter().skip_while(|a| *a != name).nth(1);
    if args.iter().any(|a| a == "--list") {
        for target in TARGETS {
            println!("{:<10} {}", target.name, target.what);
        }
        return ExitCode::SUCCESS;
    }
    let named = args.first().and_then(|name| TARGETS.iter().find(|t| t.name == name));
    let Some(target) = named else {
        eprintln!(
            "usage: corelane-fuzz TARGET [--seconds N] [--seed N] [--play FILE]; --list names the targets"
        );
        return ExitCode::FAILURE;
    };
    if let Some(file) = value("--play") {
        let Ok(input) = std::fs::read(file) else {
            eprintln!("cannot read {file}");
            return ExitCode::FAILURE;
        };
        return match (target.play)(&input) {
            Ok(()) => ExitCode::SUCCESS,
            Err(why) => {
                eprintln!("{why}");
                ExitCode::FAILURE
            }
        };
    }
    let number = |name: &str, otherwise: u64| value(name).and_then(|n| n.parse().ok()).unwrap_or(otherwise);
    let time = Duration::from_secs(number("--seconds", 60));
    let limits = Limits { time, inputs: u64::MAX, seed: number("--seed", std::process::id().into()) };
    // A panic is part of the play here: what it says comes with the report.
    std::panic::set_hook(Box::new(|_| {}));
    let (dir, more) = found_before(target);
    let report = match run::run(target, more, limits) {
        Ok(report) => report,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::FAILURE;
        }
    };
    let _ = std::fs::create_dir_all(&dir);
    for (n, input) in report.new.iter().enumerate() {
        let _ = std::fs::write(dir.join(format!("{:08x}-{n:06}", limits.seed)), input);
    }
    let edges = if Reached::is_counting() { report.edges.to_string() } else { "no".to_owned() };
    println!(
        "{}: {} inputs, {edges} edges counted, {} new inputs",
        target.name,
        report.inputs,
        report.new.len()
    );
    match report.failure {
        None => ExitCode::SUCCESS,
        Some((input, why)) => {
            println!("{}: FAILED: {why}\n  {}", target.name, run::save(target.name, "failure", &input));
            ExitCode::FAILURE
        }
    }
}
