//! `cargo xtask tidy`: the house rules that a program can check (STYLE.md).

use std::fs;
use std::path::{Path, PathBuf};

use crate::report::Row;
use crate::{report, run};

/// Crates by layer: a crate uses only layers below its own (ARCHITECTURE.md).
const LAYERS: &[&[&str]] = &[
    &["base", "simd"],
    &["wire", "region", "sys"],
    &["state"],
    &["engine", "port", "control", "nf"],
    &["lane"],
    &["preload", "capi", "keeper", "relay", "cli"],
    &["sim"],
    &["conformance", "bench", "packetdrill"],
];
/// `cli` runs the keeper and the relay, so it may use these crates of its own layer.
const SAME_LAYER: &[(&str, &str)] = &[("cli", "keeper"), ("cli", "relay")];
/// Crates that may hold unsafe code.
const UNSAFE: &[&str] = &["simd", "region", "sys", "preload", "relay", "capi", "packetdrill"];
/// Crates without std, heap and unsafe.
const BARE: &[&str] = &["base", "wire", "state", "engine"];
const FILE_LINES: usize = 500;
const FUNCTION_LINES: usize = 70;
const FOLDERS_NOT_TO_USE: &[&str] = &["core", "common", "util", "utils", "helper", "helpers", "manager"];

/// One Rust source file of the workspace.
pub(crate) struct Source {
    /// Path below the repository.
    pub(crate) path: PathBuf,
    /// The whole text.
    pub(crate) text: String,
}

/// Checks everything; the error lists each place.
pub(crate) fn run() -> Result<(), String> {
    let mut wrong = layers()?;
    let sources = sources()?;
    for source in &sources {
        file_rules(source, &mut wrong);
    }
    let rows: Vec<Row> =
        wrong.iter().map(|w| Row { id: w.clone(), reached: Some(false), ..Row::default() }).collect();
    report::write("tidy", &rows)?;
    println!("{} files checked, {} places to mend", sources.len(), wrong.len());
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// Every `.rs` file of crates/, fuzz/ and xtask/.
pub(crate) fn sources() -> Result<Vec<Source>, String> {
    let mut found = Vec::new();
    for top in ["crates", "fuzz", "xtask"] {
        walk(&run::root().join(top), &mut found)?;
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

fn walk(dir: &Path, found: &mut Vec<Source>) -> Result<(), String> {
    let entries = fs::read_dir(dir).map_err(|e| format!("cannot read {}: {e}", dir.display()))?;
    for entry in entries.filter_map(Result::ok) {
        let path = entry.path();
        if path.is_dir() {
            if !path.ends_with("target") {
                walk(&path, found)?;
            }
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text =
                fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
            let path = path.strip_prefix(run::root()).unwrap_or(&path).to_path_buf();
            found.push(Source { path, text });
        }
    }
    Ok(())
}

fn layer_of(name: &str) -> Option<usize> {
    LAYERS.iter().position(|names| names.contains(&name))
}

/// Rule 1: a crate's `[dependencies]` name only crates of lower layers.
fn layers() -> Result<Vec<String>, String> {
    let mut wrong = Vec::new();
    let crates = run::root().join("crates");
    let entries = fs::read_dir(&crates).map_err(|e| format!("cannot read {}: {e}", crates.display()))?;
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(layer) = layer_of(&name) else {
            wrong.push(format!("crates/{name}: no layer in xtask/src/tidy.rs"));
            continue;
        };
        let manifest = fs::read_to_string(entry.path().join("Cargo.toml"))
            .map_err(|e| format!("crates/{name}/Cargo.toml: {e}"))?;
        for used in dependencies(&manifest) {
            let allowed = SAME_LAYER.contains(&(name.as_str(), used.as_str()));
            if layer_of(&used).is_some_and(|l| l >= layer) && !allowed {
                wrong.push(format!("crates/{name}: uses `{used}`, which is not in a layer below it"));
            }
        }
    }
    Ok(wrong)
}

/// The names in the `[dependencies]` section.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut inside = false;
    let mut names = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line == "[dependencies]";
        } else if inside && let Some(end) = line.find(['.', ' ', '=']) {
            names.push(line.get(..end).unwrap_or_default().to_owned());
        }
    }
    names
}

/// The rules that look at one file.
fn file_rules(source: &Source, wrong: &mut Vec<String>) {
    let shown = source.path.display().to_string();
    let in_crate = shown.split('/').nth(1).unwrap_or_default().to_owned();
    let is_test = shown.contains("/tests/") || shown.ends_with("tests.rs") || shown.contains("/benches/");
    let code = source.text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
    let mut say = |what: String| wrong.push(format!("{shown}: {what}"));
    if !source.text.starts_with("//!") {
        say("does not open with `//!`: what it holds, which RFC sections, what it leaves out".to_owned());
    }
    let lines = code.lines().count();
    if !is_test && lines > FILE_LINES {
        say(format!("{lines} lines without tests; at most {FILE_LINES}"));
    }
    for (line, name, length) in long_functions(code) {
        say(format!("line {line}: `{name}` has {length} lines; at most {FUNCTION_LINES}"));
    }
    let uses_unsafe = code.lines().any(|l| {
        l.trim_start().starts_with("unsafe ") || l.contains("= unsafe {") || l.contains("(unsafe {")
    });
    if uses_unsafe && !UNSAFE.contains(&in_crate.as_str()) && !is_test && in_crate != "src" {
        say("unsafe code outside simd, region, sys, preload and capi".to_owned());
    }
    if BARE.contains(&in_crate.as_str())
        && shown.ends_with("src/lib.rs")
        && !(code.contains("#![no_std]") && code.contains("#![forbid(unsafe_code)]"))
    {
        say("must be no_std and forbid unsafe code".to_owned());
    }
    if code.contains(concat!("#[ign", "ore"))
        || code.contains(concat!("TO", "DO"))
        || code.contains(concat!("FIX", "ME"))
    {
        say("an ignored test or an open end".to_owned());
    }
    if source
        .path
        .components()
        .any(|c| FOLDERS_NOT_TO_USE.contains(&c.as_os_str().to_string_lossy().trim_end_matches(".rs")))
    {
        say("a folder or file name that says nothing".to_owned());
    }
}

/// Functions longer than the limit: line, name, length. Reads rustfmt's layout: a function ends at the closing
/// brace that stands in the column of its first word.
fn long_functions(code: &str) -> Vec<(usize, String, usize)> {
    let mut found = Vec::new();
    let mut open: Option<(usize, usize, String)> = None;
    for (n, line) in code.lines().enumerate() {
        let indent = line.len() - line.trim_start().len();
        match &open {
            None => {
                if let Some(name) = function_name(line)
                    && !line.trim_end().ends_with(['}', ';'])
                {
                    open = Some((n, indent, name));
                }
            }
            Some((start, column, name)) => {
                let at_end = indent == *column && matches!(line.trim(), "}" | "};");
                let declared_only =
                    indent == *column && line.trim_end().ends_with(';') && line.trim_start().starts_with(')');
                if at_end || declared_only {
                    let length = n - start + 1;
                    if length > FUNCTION_LINES {
                        found.push((start + 1, name.clone(), length));
                    }
                    open = None;
                }
            }
        }
    }
    found
}

/// The name, if `line` begins a function.
fn function_name(line: &str) -> Option<String> {
    let mut words = line.trim_start();
    for prefix in ["pub ", "pub(crate) ", "pub(super) ", "const ", "async ", "unsafe ", "extern \"C\" "] {
        words = words.strip_prefix(prefix).unwrap_or(words);
    }
    let rest = words.strip_prefix("fn ")?;
    Some(rest.split(['(', '<']).next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use super::{dependencies, long_functions, run};

    #[test]
    fn the_house_rules_hold() {
        if let Err(places) = run() {
            panic!("{places}");
        }
    }

    #[test]
    fn only_the_dependencies_section_counts() {
        let manifest = "[package]\nname = \"x\"\n[dependencies]\nbase.workspace = true\nlibc = \"1\"\n[dev-dependencies]\nsim.workspace = true\n";
        assert_eq!(dependencies(manifest), ["base", "libc"]);
    }

    #[test]
    fn a_function_that_is_too_long_is_found() {
        let body = "    let x = 1;\n".repeat(80);
        let code = format!("fn short() {{}}\npub fn long(\n    a: u8,\n) {{\n{body}}}\n");
        let found = long_functions(&code);
        assert_eq!(found.len(), 1);
        assert_eq!(found.first().map(|f| f.1.as_str()), Some("long"));
    }
}
