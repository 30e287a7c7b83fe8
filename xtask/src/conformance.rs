//! `cargo xtask conformance`: every packet script on our engine and on Linux's stack.

use crate::run;

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let reports = run::root().join("target/reports");
    std::fs::create_dir_all(&reports).map_err(|e| format!("cannot make target/reports: {e}"))?;
    let mut command =
        run::command("cargo", &["run", "--quiet", "--release", "--package", "corelane-conformance", "--"]);
    command.arg("--json").arg(reports.join("conformance.json")).args(args);
    run::run_command(&mut command)
}
