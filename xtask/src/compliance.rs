//! `cargo xtask compliance`: COMPLIANCE.md says what is so.

use std::fs;

use crate::report::Row;
use crate::{report, run, tidy};

/// The numbered requirements of RFC 9293's appendix B, and how many of each there are.
const NUMBERED: &[(&str, u32)] = &[("MUST", 69), ("SHLD", 31), ("MAY", 18), ("REC", 1)];

/// Checks that each row of the tables in COMPLIANCE.md names a file that exists and a test that exists in it or
/// anywhere in the workspace, or gives a reason.
///
/// A row is `| RFC and section | demand | where | test or reason |`. `where` is a path in backquotes, or `-`; the last
/// cell names tests (functions, or packet scripts by their titles) in backquotes, or has words. Every numbered requirement of RFC 9293 has a row.
pub(crate) fn run() -> Result<(), String> {
    let path = run::root().join("COMPLIANCE.md");
    let text = fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    let sources = tidy::sources()?;
    let scripts = scripts()?;
    let (mut rows, mut wrong) = (Vec::new(), Vec::new());
    for (n, line) in text.lines().enumerate() {
        let cells: Vec<&str> = line.trim().trim_matches('|').split('|').map(str::trim).collect();
        let [section, demand, place, evidence] = cells.as_slice() else { continue };
        if !line.starts_with('|') || !section.starts_with("RFC") {
            continue;
        }
        let problem = check(place, evidence, &sources, &scripts);
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
    let absent = unlisted(&rows);
    wrong.extend(absent.iter().map(|id| format!("COMPLIANCE.md: no row for RFC 9293 {id}")));
    let tested = rows.iter().filter(|r| r.note.contains('`')).count();
    let reasons = rows.len() - tested;
    let deviations = rows.iter().filter(|r| r.note.contains("Deviation")).count();
    report::write("compliance", &rows)?;
    println!(
        "{} requirements: {tested} with tests or code, {reasons} with a reason alone, {deviations} deviations",
        rows.len()
    );
    for (name, last) in NUMBERED {
        let count = (1..=*last).filter(|n| !absent.contains(&format!("{name}-{n}"))).count();
        println!("RFC 9293 {name}: {count} of {last}");
    }
    println!("{} rows wrong", wrong.len());
    if rows.is_empty() {
        return Err("COMPLIANCE.md has no row that begins with an RFC".to_owned());
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// The requirements of RFC 9293's appendix B that no row names.
fn unlisted(rows: &[Row]) -> Vec<String> {
    let all = NUMBERED.iter().flat_map(|(name, last)| (1..=*last).map(move |n| format!("{name}-{n}")));
    let listed = |id: &String| rows.iter().any(|r| r.id.starts_with(&format!("RFC 9293 {id}:")));
    all.filter(|id| !listed(id)).collect()
}

/// The titles of the packet scripts.
fn scripts() -> Result<String, String> {
    let dir = run::root().join("crates/conformance/scripts");
    let files = fs::read_dir(&dir).map_err(|e| format!("cannot read {}: {e}", dir.display()))?;
    let texts = files.flatten().filter_map(|file| fs::read_to_string(file.path()).ok());
    Ok(texts.flat_map(|text| text.lines().map(|l| format!("{l}\n")).collect::<Vec<_>>()).collect())
}

/// What is wrong with one row, if anything.
fn check(place: &str, evidence: &str, sources: &[tidy::Source], scripts: &str) -> Option<String> {
    if let Some(file) = quoted(place)
        && !run::root().join(file).exists()
    {
        return Some(format!("no such file: {file}"));
    }
    if evidence.is_empty() {
        return Some("neither a test nor a reason".to_owned());
    }
    // A test, a script, a file, or a name that stands in the code.
    let exists = |name: &str| {
        let function = format!("fn {name}(");
        let script = format!("script {name}\n");
        let spoken =
            name.contains("::") || name.chars().all(|c| c.is_ascii_uppercase() || "_0123456789".contains(c));
        let word = name.rsplit("::").next().unwrap_or(name);
        sources.iter().any(|s| s.text.contains(&function) || (spoken && s.text.contains(word)))
            || scripts.contains(&script)
            || (name.contains('/') && run::root().join(name).exists())
    };
    let missing = evidence.split('`').skip(1).step_by(2).find(|name| !exists(name))?;
    Some(format!("no such test: {missing}"))
}

/// The first text in backquotes.
fn quoted(cell: &str) -> Option<&str> {
    cell.split('`').nth(1)
}

#[cfg(test)]
mod tests {
    use super::{check, unlisted};
    use crate::report::Row;

    #[test]
    fn a_missing_test_file_or_number_is_noticed() {
        let there = "script a SYN is answered\n";
        assert_eq!(check("`README.md`", "`a SYN is answered`", &[], there), None);
        assert!(check("`README.md`", "`a SYN is answered`, `no_such_test`", &[], there).is_some());
        assert!(check("`no/such/file.rs`", "Deviation: why", &[], there).is_some());
        assert_eq!(check("-", "Deviation: why", &[], there), None);
        let row = Row { id: "RFC 9293 MUST-7: options".to_owned(), ..Row::default() };
        let absent = unlisted(&[row]);
        assert!(absent.contains(&"MUST-8".to_owned()) && !absent.contains(&"MUST-7".to_owned()));
    }
}
