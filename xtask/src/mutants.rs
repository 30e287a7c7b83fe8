//! `cargo xtask mutants`: puts deliberate faults into a copy of the engine, one by one, and says which of them the tests find.
//!
//! The faults are `crates/engine/mutants.txt`. Each is played against seeds of the simulator, then the packet scripts on the engine, then the
//! engine's own tests (not with `--quick`), until one of them fails. Not part of CI but for [`check`]: it takes the better part of an hour.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::report::Row;
use crate::{report, run};

const FILE: &str = "crates/engine/mutants.txt";
/// Seeds of the simulator for each fault.
const SEEDS: &str = "300";
/// Faults there are at least.
const LEAST: usize = 30;
/// A part that takes longer than this hangs, which is a way of failing.
const PATIENCE: Duration = Duration::from_secs(300);

/// One fault.
pub(crate) struct Mutant {
    name: String,
    file: PathBuf,
    find: String,
    replace: String,
}

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let mutants = check()?;
    if args.iter().any(|a| a == "--check") {
        println!("{} faults, each in its place", mutants.len());
        return Ok(());
    }
    let only: Vec<&str> = args.iter().filter(|a| !a.starts_with("--")).map(String::as_str).collect();
    let wanted = |m: &&Mutant| only.is_empty() || only.iter().any(|o| m.name.contains(o));
    let tree = run::root().join("target/mutants/tree");
    copy_tree(&tree)?;
    let quick = args.iter().any(|a| a == "--quick");
    if let Some(part) = first_failure(&tree, quick)? {
        return Err(format!("{part} fails without any fault"));
    }
    let mut rows = Vec::new();
    for mutant in mutants.iter().filter(wanted) {
        let start = Instant::now();
        let path = tree.join(&mutant.file);
        let original =
            fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        write(&path, &original.replacen(&mutant.find, &mutant.replace, 1))?;
        let found = first_failure(&tree, quick);
        write(&path, &original)?;
        let found = found.map_err(|why| format!("{}: {why}", mutant.name))?;
        let seconds = start.elapsed().as_secs();
        println!("{:<60} {:<12} {seconds} s", mutant.name, found.as_deref().unwrap_or("MISSED"));
        rows.push(Row {
            id: mutant.name.clone(),
            reached: Some(found.is_some()),
            note: found.unwrap_or_default(),
            ..Row::default()
        });
    }
    let found = rows.iter().filter(|r| r.reached == Some(true)).count();
    println!("{found} of {} faults found", rows.len());
    let enough = found * 100 >= rows.len() * 95;
    report::write("mutants", &rows)?;
    if enough { Ok(()) } else { Err("fewer than 95 % of the faults are found".to_owned()) }
}

/// Reads the faults and checks that each still has its place.
pub(crate) fn check() -> Result<Vec<Mutant>, String> {
    let text = fs::read_to_string(run::root().join(FILE)).map_err(|e| format!("cannot read {FILE}: {e}"))?;
    let mutants = parse(&text)?;
    let mut wrong = Vec::new();
    for mutant in &mutants {
        let path = run::root().join(&mutant.file);
        let source =
            fs::read_to_string(&path).map_err(|e| format!("{}: {}: {e}", mutant.name, path.display()))?;
        let times = source.matches(&mutant.find).count();
        if times != 1 || mutant.find == mutant.replace {
            wrong.push(format!(
                "{}: its text stands {times} times in {}, not once",
                mutant.name,
                mutant.file.display()
            ));
        }
    }
    if !wrong.is_empty() {
        return Err(wrong.join("\n"));
    }
    if mutants.len() < LEAST { Err(format!("only {} faults in {FILE}", mutants.len())) } else { Ok(mutants) }
}

/// Entries are apart by an empty line before a name; a text goes on until a line that begins with `+ ` or the next entry.
fn parse(text: &str) -> Result<Vec<Mutant>, String> {
    let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with('#')).collect();
    let starts: Vec<usize> = (0..lines.len())
        .filter(|n| lines.get(n + 1).is_some_and(|l| l.ends_with(".rs") && !l.starts_with(' ')))
        .collect();
    let mut mutants = Vec::new();
    for (n, start) in starts.iter().enumerate() {
        let end = starts.get(n + 1).copied().unwrap_or(lines.len());
        let entry = lines.get(*start..end).unwrap_or(&[]);
        let [name, file, body @ ..] = entry else { continue };
        let body = body.join("\n");
        let texts = body.trim_end().strip_prefix("- ").and_then(|b| b.split_once("\n+ "));
        let (find, replace) = texts.ok_or_else(|| format!("{FILE}: {name}: no text and its replacement"))?;
        mutants.push(Mutant {
            name: (*name).to_owned(),
            file: Path::new("crates/engine/src").join(file),
            find: find.to_owned(),
            replace: replace.to_owned(),
        });
    }
    Ok(mutants)
}

/// The part of the tests that fails first, if any does; `quick`: the engine's own are left out.
fn first_failure(tree: &Path, quick: bool) -> Result<Option<String>, String> {
    let build = ["build", "--quiet", "--package", "corelane-sim", "--package", "corelane-conformance"];
    if !finish(cargo(tree, &build))? {
        return Err("it does not build".to_owned());
    }
    let program = |name: &str| {
        let mut command = Command::new(tree.join("../build/debug").join(name));
        command.current_dir(tree);
        command
    };
    let mut seeds = program("corelane-sim");
    seeds.args(["--kept", "--jobs", "2", "--seeds", SEEDS, "--pcap", "../captures"]);
    if !finish(seeds)? {
        return Ok(Some("seeds".to_owned()));
    }
    let mut scripts = program("corelane-conformance");
    scripts.arg("--engine-only");
    if !finish(scripts)? {
        return Ok(Some("scripts".to_owned()));
    }
    // The rest of the engine's tests is compiled only for what neither has found.
    if quick || finish(cargo(tree, &["test", "--quiet", "--package", "corelane-engine"]))? {
        return Ok(None);
    }
    Ok(Some("tests".to_owned()))
}

fn cargo(tree: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(args).current_dir(tree).env("CARGO_TARGET_DIR", tree.join("../build"));
    command.env("CARGO_PROFILE_DEV_DEBUG", "0");
    command
}

/// Runs `command` in silence. True: it succeeded, in time.
fn finish(mut command: Command) -> Result<bool, String> {
    let shown = format!("{command:?}").replace('"', "");
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut child: Child = child.map_err(|e| format!("cannot start `{shown}`: {e}"))?;
    let end = Instant::now() + PATIENCE;
    loop {
        match child.try_wait().map_err(|e| format!("cannot wait for `{shown}`: {e}"))? {
            Some(status) => return Ok(status.success()),
            None if Instant::now() > end => {
                let _ = child.kill();
                let _ = child.wait();
                return Ok(false);
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}

/// Copies every file that git knows to `tree`; leaves those alone that are the same already, so that little is built again.
fn copy_tree(tree: &Path) -> Result<(), String> {
    let listed =
        run::command("git", &["ls-files", "-z"]).output().map_err(|e| format!("cannot start git: {e}"))?;
    let names =
        String::from_utf8(listed.stdout).map_err(|e| format!("git names a file that is no text: {e}"))?;
    for name in names.split('\0').filter(|n| !n.is_empty()) {
        let (from, to) = (run::root().join(name), tree.join(name));
        let Ok(bytes) = fs::read(&from) else { continue };
        if fs::read(&to).is_ok_and(|old| old == bytes) {
            continue;
        }
        if let Some(dir) = to.parent() {
            fs::create_dir_all(dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
        }
        fs::write(&to, bytes).map_err(|e| format!("cannot write {}: {e}", to.display()))?;
    }
    fs::create_dir_all(tree.join("../captures"))
        .map_err(|e| format!("cannot make a folder for captures: {e}"))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    fs::write(path, text).map_err(|e| format!("cannot write {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn an_entry_is_a_name_a_file_a_text_and_its_replacement() {
        let text =
            "# words\n\nno timer\ntcp/a.rs\n- one\n    two\n+ three\n\noff by one\ntcp/b.rs\n- 4\n+ 5\n";
        let mutants = parse(text).unwrap_or_default();
        let [first, second] = mutants.as_slice() else { panic!("{} entries", mutants.len()) };
        assert_eq!((first.find.as_str(), first.replace.as_str()), ("one\n    two", "three"));
        assert_eq!((second.name.as_str(), second.find.as_str()), ("off by one", "4"));
        assert!(parse("no text\ntcp/a.rs\n").is_err());
    }
}
