//! `cargo xtask matrix`: each program of the matrix, unmodified, on Corelane (`crates/cli/tests/matrix`).

use crate::{install, run};

/// Installs what the rows need, builds, and plays them; `--short` is what the tests play, names play those rows.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let short = args.iter().any(|arg| arg == "--short");
    let names: Vec<&str> = args.iter().map(String::as_str).filter(|arg| !arg.starts_with("--")).collect();
    install::install(install::DEMO)?;
    install::install(install::TESTS)?;
    if !short {
        install::install(install::MATRIX)?;
        install::install_matrix_libraries();
    }
    run::run(
        "cargo",
        &["build", "--release", "--quiet", "--package", "corelane-cli", "--package", "corelane-preload"],
    )?;
    let reports = run::root().join("target/reports");
    std::fs::create_dir_all(&reports).map_err(|e| format!("cannot make {}: {e}", reports.display()))?;
    let report = reports.join("matrix.json").display().to_string();
    let mut words =
        vec!["test", "--quiet", "--package", "corelane-cli", "--test", "matrix", "--", "--report", &report];
    if !short {
        words.push("--all");
    }
    words.extend(names);
    let mut command = run::command("cargo", &words);
    command.env("CORELANE_BIN_DIR", run::root().join("target/release"));
    run::run_command(&mut command)
}
