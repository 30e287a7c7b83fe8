//! `cargo xtask kills`: kills at random moments under load, and what is left afterwards (`crates/cli/tests/kills`).

use crate::{install, run};

/// Installs what it needs, builds, and plays `--count N` (24 000) kills from `--seed S` in `--jobs J` worlds side by side; with `--end E` each environment
/// ends as row E of the campaign's table says.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let known = |word: &String| matches!(word.as_str(), "--count" | "--seed" | "--jobs" | "--end");
    let pairs = args
        .chunks(2)
        .all(|pair| matches!(pair, [name, value] if known(name) && value.parse::<u64>().is_ok()));
    if !pairs {
        return Err("usage: cargo xtask kills [--count N] [--seed S] [--jobs J] [--end E]".to_owned());
    }
    install::install(install::TESTS)?;
    let mut words = Vec::new();
    // Without a number it would play what `cargo test` plays.
    if !args.iter().any(|arg| arg == "--count") {
        words.extend(["--count", "24000"]);
    }
    words.extend(args.iter().map(String::as_str));
    run::play("kills", &words)
}
