//! `cargo xtask fuzz`: mutated inputs, kept when they reach new code, on the stable compiler (fuzz/src/lib.rs says how).

use crate::report::Row;
use crate::{report, run, test};

/// Where the instrumented build goes: its flags are not those of the others.
const TARGET_DIR: &str = "target/fuzz";
/// The compiler's pass, and a byte for each edge that counts.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=3 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters";

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let (mut minutes, mut seed, mut wanted) = (1.0, None, Vec::new());
    let mut words = args.iter();
    while let Some(word) = words.next() {
        if word == "--minutes" {
            let number = words.next().and_then(|n| n.parse().ok()).filter(|n: &f64| *n > 0.0);
            minutes = number.ok_or("--minutes takes a number")?;
        } else if word == "--seed" {
            let number: Option<u64> = words.next().and_then(|n| n.parse().ok());
            seed = Some(number.ok_or("--seed takes a number")?.to_string());
        } else {
            wanted.push(word.clone());
        }
    }
    let program = build()?;
    let list = test::output(&program, &["--list"])?;
    let all: Vec<String> =
        list.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect();
    if let Some(unknown) = wanted.iter().find(|name| !all.contains(name)) {
        return Err(format!("no target `{unknown}`; there are:\n{list}"));
    }
    let targets = if wanted.is_empty() { all } else { wanted };
    let seconds = ((minutes * 60.0 / targets.len() as f64) as u64).max(1).to_string();
    let mut rows = Vec::new();
    for target in &targets {
        let mut words = vec![target.as_str(), "--seconds", &seconds];
        words.extend(seed.iter().flat_map(|seed| ["--seed", seed.as_str()]));
        let outcome = run::run(&program, &words);
        rows.push(Row {
            id: target.clone(),
            value: seconds.parse().ok(),
            unit: "s",
            reached: Some(outcome.is_ok()),
            note: outcome.err().unwrap_or_default(),
            ..Row::default()
        });
    }
    report::write("fuzz", &rows)?;
    let failed = rows.iter().filter(|row| row.reached == Some(false)).count();
    if failed == 0 {
        Ok(())
    } else {
        Err(format!("{failed} targets failed; their inputs are in target/fuzz-failures"))
    }
}

/// Builds the fuzzer with counters; gives its path.
fn build() -> Result<String, String> {
    let version = test::output("rustc", &["--version", "--verbose"])?;
    // Named, so that build scripts and procedural macros are built without the flags.
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("rustc names no host")?;
    let mut command = run::command("cargo", &["build", "--quiet", "--package", "corelane-fuzz"]);
    command.args(["--profile", "fuzz", "--target", host, "--target-dir", TARGET_DIR]).env("RUSTFLAGS", FLAGS);
    run::run_command(&mut command)?;
    Ok(run::root().join(TARGET_DIR).join(host).join("fuzz/corelane-fuzz").display().to_string())
}
