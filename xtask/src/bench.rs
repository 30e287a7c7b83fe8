//! `cargo xtask bench`: Corelane beside its peers.

use crate::{install, run};

/// Where the figures go.
const FIGURES: &str = "target/bench/bench.json";

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    install::install(install::DEMO)?;
    install::install(install::BENCH)?;
    let packages = ["corelane-bench", "corelane-cli", "corelane-preload"];
    let mut build = run::command("cargo", &["build", "--release", "--quiet"]);
    packages.iter().for_each(|package| {
        build.args(["--package", package]);
    });
    run::run_command(&mut build)?;
    let mut command = std::process::Command::new(run::root().join("target/release/corelane-bench"));
    command.args(["--json", FIGURES]).args(args).current_dir(run::root());
    run::run_command(&mut command)
}
