//! The stored instruction counts that changes are held against: `crates/bench/baseline.toml`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use crate::count::{self, Instructions};
use crate::rows::{OURS, Row, Trouble};
use crate::stats::figure;

/// More than this above the baseline is a failure.
const ALLOWED: f64 = 1.03;
/// More than this below it should become the baseline.
const BETTER: f64 = 0.97;

/// The file.
#[derive(Deserialize, Debug)]
struct Baseline {
    /// What `rustc --version` printed. Another compiler makes other instructions.
    compiler: String,
    /// What `uname -m` calls the machine.
    arch: String,
    /// Instructions an operation of each row, on our stack.
    instructions: BTreeMap<String, f64>,
}

/// Writes the counts of this build.
pub(crate) fn bless(rows: &[Row], file: &Path) -> Result<(), String> {
    let counts = measure(rows)?;
    let mut text = String::from(
        "# Instructions an operation (bulk: a byte) of both ends, by callgrind, release build. `cargo xtask test` fails where a count\n\
         # is more than 3 % higher; `cargo xtask bench --bless` writes this file.\n",
    );
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "compiler = \"{}\"\narch = \"{}\"\n\n[instructions]",
        compiler()?,
        std::env::consts::ARCH
    );
    for (id, count) in &counts {
        let _ = writeln!(text, "{id} = {count:.3}");
        println!("{id:<40}{:>12}", figure(*count));
    }
    std::fs::write(file, text).map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    println!("written to {}", file.display());
    Ok(())
}

/// Compares this build with the file.
pub(crate) fn check(rows: &[Row], file: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|e| format!("cannot read {}: {e}", file.display()))?;
    let stored: Baseline = toml::from_str(&text).map_err(|e| format!("{}: {e}", file.display()))?;
    let (compiler, arch) = (compiler()?, std::env::consts::ARCH);
    if stored.compiler != compiler || stored.arch != arch {
        println!(
            "SKIPPED: nothing is compared. The baseline is of {} on {}, this is {compiler} on {arch}; `cargo xtask bench --bless` makes a new one",
            stored.compiler, stored.arch
        );
        return Ok(());
    }
    if !count::possible() {
        println!("SKIPPED: nothing is compared, because valgrind is not installed");
        return Ok(());
    }
    let (table, worse) = compare(&stored.instructions, &measure(rows)?);
    print!("{table}");
    if worse.is_empty() {
        return Ok(());
    }
    Err(format!(
        "more instructions than the baseline allows: {}\nif that is meant: cargo xtask bench --bless, and say why in the commit",
        worse.join(", ")
    ))
}

/// The comparison as a table, and the rows that failed.
fn compare(stored: &BTreeMap<String, f64>, counts: &BTreeMap<String, f64>) -> (String, Vec<String>) {
    let mut table =
        format!("{:<40}{:>12}{:>12}{:>9}\n", "instructions an operation", "baseline", "now", "change");
    let mut failed = Vec::new();
    for (id, now) in counts {
        let Some(before) = stored.get(id).filter(|before| **before > 0.0) else {
            failed.push(format!("{id} (not in the baseline)"));
            continue;
        };
        let ratio = now / before;
        let word = match ratio {
            r if r > ALLOWED => "  TOO MANY",
            r if r < BETTER => "  better: cargo xtask bench --bless",
            _ => "",
        };
        if ratio > ALLOWED {
            failed.push(id.clone());
        }
        let change = format!("{:+.1} %", (ratio - 1.0) * 100.0);
        let _ = writeln!(table, "{id:<40}{:>12}{:>12}{change:>9}{word}", figure(*before), figure(*now));
    }
    failed.extend(
        stored.keys().filter(|id| !counts.contains_key(*id)).map(|id| format!("{id} (there is no such row)")),
    );
    (table, failed)
}

/// Counts every row that can be counted, on our stack.
fn measure(rows: &[Row]) -> Result<BTreeMap<String, f64>, String> {
    let profile = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.file_name()?.to_owned()));
    if profile.is_none_or(|name| name != "release") {
        return Err(
            "the baseline is that of release builds: cargo build --release -p corelane-bench".to_owned()
        );
    }
    let mut counts = BTreeMap::new();
    for row in rows {
        // A native lane reads the clock: its counts differ by 2 % from run to run.
        let Some(operations) = row.counted.filter(|_| !row.id.starts_with("onethread-")) else { continue };
        match count::instructions(row, OURS, operations) {
            Ok(Instructions(each)) => counts.insert(row.id.clone(), each),
            Err(Trouble::Skipped(why) | Trouble::Failed(why)) => return Err(format!("{}: {why}", row.id)),
        };
    }
    Ok(counts)
}

/// What `rustc --version` prints here.
fn compiler() -> Result<String, String> {
    let output =
        Command::new("rustc").arg("--version").output().map_err(|e| format!("cannot run rustc: {e}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(pairs: &[(&str, f64)]) -> BTreeMap<String, f64> {
        pairs.iter().map(|(id, count)| ((*id).to_owned(), *count)).collect()
    }

    #[test]
    fn three_percent_more_is_allowed_and_four_is_not() {
        let stored = counts(&[("a", 100.0), ("b", 100.0), ("c", 100.0)]);
        let (table, failed) = compare(&stored, &counts(&[("a", 103.0), ("b", 104.0), ("c", 90.0)]));
        assert_eq!(failed, ["b"]);
        assert!(table.contains("+4.0 %  TOO MANY") && table.contains("-10.0 %  better"), "{table}");
    }

    #[test]
    fn a_row_that_is_new_or_gone_is_not_passed_over() {
        let (_, failed) = compare(&counts(&[("old", 1.0)]), &counts(&[("new", 1.0)]));
        assert_eq!(failed, ["new (not in the baseline)", "old (there is no such row)"]);
    }
}
