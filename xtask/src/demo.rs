//! `cargo xtask demo`: the main job on a fresh machine.

use crate::{install, run};

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    install::install(install::DEMO)?;
    run::run(
        "cargo",
        &["build", "--release", "--quiet", "--package", "corelane-cli", "--package", "corelane-preload"],
    )?;
    let report = run::root().join("target/reports/demo.json");
    std::fs::create_dir_all(run::root().join("target/reports"))
        .map_err(|e| format!("cannot make target/reports: {e}"))?;
    let program = run::root().join("target/release/corelane");
    let mut command = std::process::Command::new(program);
    command.arg("demo").arg("--report").arg(report).args(args).current_dir(run::root());
    run::run_command(&mut command)
}
