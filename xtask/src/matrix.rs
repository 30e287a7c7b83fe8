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
    let mut words = Vec::new();
    if !short {
        words.push("--all");
    }
    words.extend(names);
    run::play("matrix", &words)
}
