//! `cargo xtask sim`: seeds in the simulator, also with lwIP, or goodput there and on Linux.

use crate::{run, seed};

/// New seeds that `cargo xtask test` plays besides the kept ones.
const NEW_SEEDS: u64 = 3000;
/// From here on paths are mixed of everything; the simulator's own default.
const MIXED_SEEDS: u64 = 2_000_000;

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let reports = run::root().join("target/reports");
    std::fs::create_dir_all(&reports).map_err(|e| format!("cannot make target/reports: {e}"))?;
    let mut command =
        run::command("cargo", &["run", "--quiet", "--release", "--package", "corelane-sim", "--"]);
    match args.split_first() {
        // Its options come behind it, and its report is one of its own.
        Some((word, rest)) if word == "goodput" => {
            command.arg(word).arg("--json").arg(reports.join("goodput.json")).args(rest)
        }
        Some((word, rest)) if word == "lwip" => command.arg(word).args(rest),
        Some(_) | None => command.arg("--json").arg(reports.join("sim.json")).args(args),
    };
    run::run_command(&mut command)
}

/// The kept seeds, and a fixed number of seeds that nobody has played yet: they begin where the sources say (`seed`). One that fails is printed.
pub(crate) fn new_ones() -> Result<(), String> {
    let from = (MIXED_SEEDS + u64::from(seed::of_sources()) * NEW_SEEDS).to_string();
    println!("seeds from {from} on");
    run(&["--kept", "--jobs", "2", "--seeds", &NEW_SEEDS.to_string(), "--from", &from].map(str::to_owned))
}
