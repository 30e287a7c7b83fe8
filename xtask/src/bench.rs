//! `cargo xtask bench`: the engine beside its peers.

use crate::{install, run};

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    install::install(install::BENCH)?;
    run::run("cargo", &["build", "--release", "--quiet", "--package", "corelane-bench"])?;
    let report = run::root().join("target/reports/bench.json");
    std::fs::create_dir_all(run::root().join("target/reports"))
        .map_err(|e| format!("cannot make target/reports: {e}"))?;
    let mut command = std::process::Command::new(run::root().join("target/release/corelane-bench"));
    command.arg("--report").arg(report).args(args).current_dir(run::root());
    run::run_command(&mut command)
}
