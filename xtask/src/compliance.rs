//! `cargo xtask compliance`: COMPLIANCE.md says what is so.

use std::fs;

use crate::report::Row;
use crate::{report, run, tidy};

/// Checks that each row of the tables in COMPLIANCE.md names a file that exists and a test that exists in it or
/// anywhere in the workspace, or gives a reason.
///
/// A row is `| RFC and section | demand | where | test or reason |`. `where` is a path in backquotes, or `-`; the last
/// cell is a test's name in backquotes, or words.
pub(crate) fn run() -> Result<(), String> {
    let path = run::root().join("COMPLIANCE.md");
    let text = fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let sources = tidy::sources()?;
    let (mut rows, mut wrong) = (Vec::new(), Vec::new());
    for (n, line) in text.lines().enumerate() {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let [section, demand, place, evidence] = cells.as_slice() else { continue };
        if !line.starts_with('|') || !section.starts_with("RFC") {
            continue;
        }
        let problem = check(place, evidence, &sources);
        if let Some(problem) = &problem {
            wrong.push(format!("COMPLIANCE.md:{}: {section}: {problem}", n + 1));
        }
        rows.push(Row {
            id: format!("{section}: {demand}"),
            reached: Some(problem.is_none()),
            note: (*evidence).to_owned(),
            ..Row::default()
        });
    }
    report::write("compliance", &rows)?;
    println!("{} requirements, {} with a missing file or test", rows.len(), wrong.len());
    if rows.is_empty() {
        return Err("COMPLIANCE.md has no row that begins with an RFC".to_owned());
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// What is wrong with one row, if anything.
fn check(place: &str, evidence: &str, sources: &[tidy::Source]) -> Option<String> {
    if let Some(file) = quoted(place)
        && !run::root().join(file).exists()
    {
        return Some(format!("no such file: {file}"));
    }
    if evidence.is_empty() {
        return Some("neither a test nor a reason".to_owned());
    }
    let name = quoted(evidence)?;
    let function = format!("fn {name}(");
    if sources.iter().any(|s| s.text.contains(&function)) {
        None
    } else {
        Some(format!("no such test: {name}"))
    }
}

/// The first text in backquotes.
fn quoted(cell: &str) -> Option<&str> {
    cell.split('`').nth(1)
}
