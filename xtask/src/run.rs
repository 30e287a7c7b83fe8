//! Running other programs, with the repository as their directory.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository's top folder.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_path_buf()
}

/// A command that runs in the repository's top folder.
pub(crate) fn command(program: &str, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(root());
    command
}

/// Runs `program` with its output on the terminal; an error names the command and its status.
pub(crate) fn run(program: &str, args: &[&str]) -> Result<(), String> {
    run_command(&mut command(program, args))
}

/// [`run`] for a command that was prepared elsewhere.
pub(crate) fn run_command(command: &mut Command) -> Result<(), String> {
    let shown = format!("{command:?}").replace('"', "");
    let status = command.status().map_err(|e| format!("cannot start `{shown}`: {e}"))?;
    if status.success() { Ok(()) } else { Err(format!("`{shown}` failed: {status}")) }
}

/// Is `program` on the PATH (or in /usr/sbin, where Debian keeps nginx)?
pub(crate) fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let extra = [PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")];
    std::env::split_paths(&path).chain(extra).any(|dir| dir.join(program).is_file())
}

/// Plays the test program `name` of the command line's crate on a release build with `words`; its report goes to target/reports.
pub(crate) fn play(name: &str, words: &[&str]) -> Result<(), String> {
    run(
        "cargo",
        &["build", "--release", "--quiet", "--package", "corelane-cli", "--package", "corelane-preload"],
    )?;
    let reports = root().join("target/reports");
    std::fs::create_dir_all(&reports).map_err(|e| format!("cannot make {}: {e}", reports.display()))?;
    let report = reports.join(format!("{name}.json")).display().to_string();
    let all = ["test", "--quiet", "--package", "corelane-cli", "--test", name, "--", "--report", &report];
    let mut command = command("cargo", &[&all, words].concat());
    command.env("CORELANE_BIN_DIR", root().join("target/release"));
    run_command(&mut command)
}
