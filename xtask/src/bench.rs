//! `cargo xtask bench`: Corelane beside its peers.

use crate::{install, run};

/// Where the figures go.
const FIGURES: &str = "target/bench/bench.json";

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    if args.iter().any(|arg| arg == "--bless") {
        return baseline(true);
    }
    // What cannot be had is a row that is skipped and says so.
    for needs in [install::DEMO, install::BENCH] {
        install::install(needs).unwrap_or_else(|why| println!("{why}"));
    }
    install::install_dpdk_memif();
    build(&["corelane-bench", "corelane-cli", "corelane-preload"])?;
    // The page in the repository is that of a whole run.
    let page = if args.is_empty() { "docs" } else { "target/bench" };
    run::run_command(program().args(["--json", FIGURES, "--page", page]).args(args))
}

/// Compares instruction counts with the stored ones, or stores them.
pub(crate) fn baseline(bless: bool) -> Result<(), String> {
    install::install(install::COUNT)?;
    build(&["corelane-bench"])?;
    let mut command = program();
    command.arg("baseline");
    if bless {
        command.arg("--bless");
    }
    run::run_command(&mut command)
}

fn build(packages: &[&str]) -> Result<(), String> {
    let mut build = run::command("cargo", &["build", "--release", "--quiet"]);
    packages.iter().for_each(|package| {
        build.args(["--package", package]);
    });
    run::run_command(&mut build)
}

fn program() -> std::process::Command {
    let mut command = std::process::Command::new(run::root().join("target/release/corelane-bench"));
    command.current_dir(run::root());
    command
}
