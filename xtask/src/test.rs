//! `cargo xtask test`: every test there is; what CI runs.

use std::process::{Command, Stdio};
use std::time::Instant;

use crate::report::Row;
use crate::{bench, compliance, fuzz, install, mutants, report, run, seed, sim};

/// One part of the test run: its name, and what it does. Gives (passed, failed) tests.
type Part = (&'static str, fn() -> Result<(u64, u64), String>);

const PARTS: &[Part] = &[
    ("rustfmt", format),
    ("clippy", clippy),
    ("compliance", || compliance::run().map(|()| (1, 0))),
    ("mutants", || mutants::check().map(|all| (all.len() as u64, 0))),
    ("build", build),
    ("workspace", workspace),
    ("sim", || sim::new_ones().map(|()| (1, 0))),
    ("instructions", || bench::baseline(false).map(|()| (1, 0))),
    ("fuzz", fuzz_inputs),
    ("loom", loom),
    ("asan", asan),
];

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    install::install(install::DEMO)?;
    install::install(install::TESTS)?;
    let only: Vec<&str> = args.iter().map(String::as_str).collect();
    let mut rows = Vec::new();
    let (mut passed, mut failed) = (0, 0);
    for (name, part) in PARTS {
        if !only.is_empty() && !only.contains(name) {
            continue;
        }
        println!("--- {name}");
        let start = Instant::now();
        let (p, f, note) = match part() {
            Ok((p, f)) => (p, f, String::new()),
            Err(text) => {
                println!("{text}");
                (0, 1, text)
            }
        };
        passed += p;
        failed += f;
        rows.push(Row {
            id: (*name).to_owned(),
            value: Some(start.elapsed().as_secs_f64()),
            unit: "s",
            reached: Some(f == 0),
            note,
            ..Row::default()
        });
    }
    println!("\n{:<12} {:>8}  result", "part", "seconds");
    for row in &rows {
        let result = if row.reached == Some(true) { "ok" } else { "FAILED" };
        println!("{:<12} {:>8.1}  {result}", row.id, row.value.unwrap_or(0.0));
    }
    report::write("test", &rows)?;
    println!("{passed} passed, {failed} failed");
    if failed == 0 { Ok(()) } else { Err("some tests failed: see above".to_owned()) }
}

fn format() -> Result<(u64, u64), String> {
    run::run("cargo", &["fmt", "--all", "--check"]).map(|()| (1, 0))
}

fn clippy() -> Result<(u64, u64), String> {
    run::run("cargo", &["clippy", "--quiet", "--workspace", "--all-targets", "--", "--deny", "warnings"])
        .map(|()| (1, 0))
}

/// The release program and library, which the end-to-end tests run.
fn build() -> Result<(u64, u64), String> {
    run::run(
        "cargo",
        &["build", "--release", "--quiet", "--package", "corelane-cli", "--package", "corelane-preload"],
    )
    .map(|()| (1, 0))
}

fn workspace() -> Result<(u64, u64), String> {
    let mut command = run::command("cargo", &["test", "--workspace", "--no-fail-fast"]);
    command.env("CORELANE_SEED", seed::of_sources().to_string());
    cargo_test(command)
}

/// Two minutes of new inputs for the targets under `fuzz/`.
fn fuzz_inputs() -> Result<(u64, u64), String> {
    fuzz::run(&["--minutes", "2", "--seed", &seed::of_sources().to_string()].map(str::to_owned))
        .map(|()| (1, 0))
}

/// The model checks of rings, seqlock and lane lock. Their own target folder: the flag rebuilds everything.
fn loom() -> Result<(u64, u64), String> {
    let mut command = run::command("cargo", &["test", "--package", "corelane-region", "--lib", "--release"]);
    command.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", run::root().join("target/loom"));
    cargo_test(command)
}

/// The crates that handle memory by hand, and the ports that have the kernel write to it, under AddressSanitizer. Leaks do
/// not count: a region stays mapped as long as its process lives. The sanitizer is not stable yet, hence the bootstrap.
fn asan() -> Result<(u64, u64), String> {
    let libraries = output("rustc", &["--print", "target-libdir"])?;
    let runtime = |name: &str| name.starts_with("librustc") && name.ends_with("_rt.asan.a");
    let files = std::fs::read_dir(libraries.trim()).map_err(|e| format!("cannot read {libraries}: {e}"))?;
    if !files.flatten().any(|file| file.file_name().to_str().is_some_and(runtime)) {
        println!("SKIPPED: this Rust toolchain has no AddressSanitizer runtime in {libraries}");
        return Ok((0, 0));
    }
    let version = output("rustc", &["--version", "--verbose"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("rustc names no host")?;
    let mut command =
        run::command("cargo", &["test", "--no-fail-fast", "--lib", "--tests", "--target", host]);
    command.args(["--package", "corelane-region", "--package", "corelane-sys", "--package", "corelane-port"]);
    command.env("RUSTC_BOOTSTRAP", "1").env("RUSTFLAGS", "-Zsanitizer=address");
    command.env("ASAN_OPTIONS", "detect_leaks=0").env("CARGO_TARGET_DIR", run::root().join("target/asan"));
    cargo_test(command)
}

/// What `program` prints.
pub(crate) fn output(program: &str, args: &[&str]) -> Result<String, String> {
    let done = run::command(program, args).output().map_err(|e| format!("cannot start {program}: {e}"))?;
    String::from_utf8(done.stdout).map_err(|e| format!("{program} printed what is no text: {e}"))
}

/// Runs `cargo test`, shows its output, and adds up its `test result:` lines.
fn cargo_test(mut command: Command) -> Result<(u64, u64), String> {
    let shown = format!("{command:?}").replace('"', "");
    let child = command
        .env("CORELANE_BIN_DIR", run::root().join("target/release"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn();
    let child = child.map_err(|e| format!("cannot start `{shown}`: {e}"))?;
    let mut child = child;
    let out = child.stdout.take().ok_or("no output to read")?;
    let (mut passed, mut failed) = (0, 0);
    for line in std::io::BufRead::lines(std::io::BufReader::new(out)) {
        let line = line.map_err(|e| format!("cannot read the output of `{shown}`: {e}"))?;
        println!("{line}");
        if let Some(result) = line.strip_prefix("test result: ") {
            passed += count(result, " passed");
            failed += count(result, " failed");
        }
    }
    let status = child.wait().map_err(|e| format!("cannot wait for `{shown}`: {e}"))?;
    if !status.success() && failed == 0 {
        return Err(format!("`{shown}` failed: {status}"));
    }
    Ok((passed, failed))
}

/// The number in front of `word` in a line such as `ok. 12 passed; 0 failed; ...`.
fn count(result: &str, word: &str) -> u64 {
    let before = result.split(word).next().unwrap_or_default();
    before.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn the_summary_line_of_cargo_test_is_read() {
        let line = "ok. 12 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        assert_eq!((count(line, " passed"), count(line, " failed")), (12, 3));
    }
}
