//! `cargo xtask mutants`: puts deliberate faults into a copy of the engine, one by one, and says which of them the tests find.
//!
//! The faults are `crates/engine/mutants.txt`. Each is played against the packet scripts on the engine, the engine's own tests, and seeds of the
//! simulator, the quick ones first, until one of them fails. Not part of CI but for [`check`]: it takes the better part of an hour.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::report::Row;
use crate::{report, run};

const FILE: &str = "crates/engine/mutants.txt";
/// Seeds of the simulator for each fault, besides those that are kept.
const SEEDS: &str = "150";
/// Faults there are at least.
const LEAST: usize = 30;
/// Of a hundred faults so many must be found.
const ENOUGH: usize = 95;
/// What takes longer than this without a fault is left out of a quick run.
const QUICK: Duration = Duration::from_secs(8);
/// What takes longer than this without a fault finds none: it is left out.
const SLOW: Duration = Duration::from_secs(120);
/// With a fault, each may take ten times what it takes without, and this: after that it hangs, which is a way of failing.
const PATIENCE: Duration = Duration::from_secs(60);

/// One fault.
pub(crate) struct Mutant {
    name: String,
    file: PathBuf,
    find: String,
    replace: String,
}

/// Something that may find a fault: a program, and what cargo builds it by.
struct Finder {
    /// `scripts`, `seeds`, or `tests` and the name of their file.
    name: String,
    build: &'static [&'static str],
    program: PathBuf,
    args: &'static [&'static str],
    dir: PathBuf,
    /// What it takes without a fault.
    takes: Duration,
}

/// What may be asked for besides names. Anything else is an error: it would play them all.
const OPTIONS: [&str; 2] = ["--check", "--quick"];

const BUILD_SCRIPTS: &[&str] = &["build", "--package", "corelane-conformance"];
const BUILD_SEEDS: &[&str] = &["build", "--package", "corelane-sim"];
const BUILD_TESTS: &[&str] = &["test", "--no-run", "--package", "corelane-engine"];

pub(crate) fn run(args: &[String]) -> Result<(), String> {
    if let Some(unknown) = args.iter().find(|a| a.starts_with('-') && !OPTIONS.contains(&a.as_str())) {
        return Err(format!("mutants: unknown option {unknown}; there are {}", OPTIONS.join(" and ")));
    }
    let mutants = check()?;
    if args.iter().any(|a| a == "--check") {
        println!("{} faults, each in its place", mutants.len());
        return Ok(());
    }
    let only: Vec<&str> = args.iter().filter(|a| !a.starts_with("--")).map(String::as_str).collect();
    if let Some(nothing) = only.iter().find(|o| !mutants.iter().any(|m| m.name.contains(*o))) {
        return Err(format!("mutants: no fault has `{nothing}` in its name"));
    }
    let wanted = |m: &&Mutant| only.is_empty() || only.iter().any(|o| m.name.contains(o));
    let tree = run::root().join("target/mutants/tree");
    copy_tree(&tree)?;
    let mut finders = finders(&tree)?;
    if args.iter().any(|a| a == "--quick") {
        finders.retain(|f| f.takes < QUICK);
    }
    let mut rows = Vec::new();
    for mutant in mutants.iter().filter(wanted) {
        let start = Instant::now();
        let path = tree.join(&mutant.file);
        let original =
            fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
        write(&path, &original.replacen(&mutant.find, &mutant.replace, 1))?;
        let found = first_to_find(&tree, &finders);
        write(&path, &original)?;
        let found = found.map_err(|why| format!("{}: {why}", mutant.name))?;
        let seconds = start.elapsed().as_secs();
        println!("{:<72} {:<24} {seconds} s", mutant.name, found.unwrap_or("MISSED"));
        rows.push(Row {
            id: mutant.name.clone(),
            reached: Some(found.is_some()),
            note: found.unwrap_or_default().to_owned(),
            ..Row::default()
        });
    }
    tell(&rows)
}

/// Says how many were found, and by which kind; fails when these are too few.
fn tell(rows: &[Row]) -> Result<(), String> {
    let by = |kind: &str| rows.iter().filter(|r| r.note.starts_with(kind)).count();
    let found = rows.iter().filter(|r| r.reached == Some(true)).count();
    println!(
        "{found} of {} faults found: {} by packet scripts, {} by the engine's tests, {} by seeds of the simulator",
        rows.len(),
        by("scripts"),
        by("tests"),
        by("seeds")
    );
    report::write("mutants", rows)?;
    if found * 100 >= rows.len() * ENOUGH {
        Ok(())
    } else {
        Err(format!("fewer than {ENOUGH} % of the faults are found"))
    }
}

/// Builds everything that finds faults in the tree without any, runs each once, and orders them by the time it takes.
fn finders(tree: &Path) -> Result<Vec<Finder>, String> {
    let program = |name: &str| tree.join("../build/debug").join(name);
    let finder = |name: &str, build, program, args, dir: &str| Finder {
        name: name.to_owned(),
        build,
        program,
        args,
        dir: tree.join(dir),
        takes: Duration::ZERO,
    };
    for args in [BUILD_SCRIPTS, BUILD_SEEDS] {
        build(tree, args)?;
    }
    let scripts = finder("scripts", BUILD_SCRIPTS, program("corelane-conformance"), &["--engine-only"], "");
    let args = &["--kept", "--jobs", "2", "--seeds", SEEDS, "--pcap", "../captures"];
    let seeds = finder("seeds", BUILD_SEEDS, program("corelane-sim"), args, "");
    let mut all = vec![scripts, seeds];
    for (name, program) in executables(&build(tree, BUILD_TESTS)?) {
        let name = format!("tests {name}");
        all.push(finder(&name, BUILD_TESTS, tree.join(program), &["--quiet"], "crates/engine"));
    }
    for finder in &mut all {
        let start = Instant::now();
        match finish(finder.command(), SLOW)? {
            Ended::Well => finder.takes = start.elapsed(),
            Ended::Badly => {
                return Err(format!("{} fails without any fault: {:?}", finder.name, finder.command()));
            }
            Ended::Late => {
                println!("{} is left out: it takes longer than {} s", finder.name, SLOW.as_secs());
                finder.takes = Duration::MAX;
            }
        }
    }
    all.retain(|f| f.takes < Duration::MAX);
    // The scripts need the least to be built.
    all.sort_by_key(|f| (f.name != "scripts", f.takes));
    let times = all.iter().map(|f| format!("{} {:.1} s", f.name, f.takes.as_secs_f64()));
    println!("without a fault: {}", times.collect::<Vec<_>>().join(", "));
    Ok(all)
}

impl Finder {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(self.args).current_dir(&self.dir);
        command
    }
}

/// The tests that cargo says it has built: the names of their files, and the programs.
fn executables(text: &str) -> Vec<(String, PathBuf)> {
    let one = |line: &str| {
        let (source, program) = line.trim().strip_prefix("Executable ")?.split_once(" (")?;
        let name = Path::new(source.split(' ').next_back()?).file_stem()?.to_str()?.to_owned();
        Some((name, PathBuf::from(program.strip_suffix(')')?)))
    };
    text.lines().filter_map(one).collect()
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

/// The first of `finders` that fails, if any does.
fn first_to_find<'f>(tree: &Path, finders: &'f [Finder]) -> Result<Option<&'f str>, String> {
    let mut built: Vec<&[&str]> = Vec::new();
    for finder in finders {
        // What is not needed is not built.
        if !built.contains(&finder.build) {
            build(tree, finder.build)?;
            built.push(finder.build);
        }
        if finish(finder.command(), finder.takes * 10 + PATIENCE)? != Ended::Well {
            return Ok(Some(&finder.name));
        }
    }
    Ok(None)
}

/// Has cargo do `args` in `tree`; gives what it said. Not optimised: there is more to build than to run.
fn build(tree: &Path, args: &[&str]) -> Result<String, String> {
    let mut command = Command::new("cargo");
    command.args(args).current_dir(tree).env("CARGO_TARGET_DIR", tree.join("../build"));
    command.env("CARGO_PROFILE_DEV_DEBUG", "0").env("CARGO_PROFILE_DEV_OPT_LEVEL", "0");
    let done = command.stdin(Stdio::null()).output().map_err(|e| format!("cannot start cargo: {e}"))?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    if done.status.success() { Ok(said) } else { Err(format!("it does not build:\n{said}")) }
}

/// How a program ended.
#[derive(PartialEq, Eq)]
enum Ended {
    Well,
    Badly,
    /// It was ended: its time was over.
    Late,
}

/// Runs `command` in silence, for `patience` at most.
fn finish(mut command: Command, patience: Duration) -> Result<Ended, String> {
    let shown = format!("{command:?}").replace('"', "");
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let mut child: Child = child.map_err(|e| format!("cannot start `{shown}`: {e}"))?;
    let end = Instant::now() + patience;
    loop {
        match child.try_wait().map_err(|e| format!("cannot wait for `{shown}`: {e}"))? {
            Some(status) => return Ok(if status.success() { Ended::Well } else { Ended::Badly }),
            None if Instant::now() > end => {
                let _ = child.kill();
                let _ = child.wait();
                return Ok(Ended::Late);
            }
            None => std::thread::sleep(Duration::from_millis(10)),
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
    use std::path::Path;

    use super::{executables, parse, run};

    #[test]
    fn what_is_not_known_is_an_error_and_plays_nothing() {
        for (args, says) in [(["--list"], "--check and --quick"), (["no such fault"], "no such fault")] {
            let said = run(&args.map(str::to_owned)).err().unwrap_or_default();
            assert!(said.contains(says), "{said}");
        }
    }

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
    #[test]
    fn the_tests_that_cargo_has_built_are_found_in_what_it_says() {
        let said = "   Compiling corelane-engine v0.1.0 (/tree/crates/engine)\n    Finished `test` profile\n  Executable unittests \
                    src/lib.rs (/build/debug/deps/engine-a4)\n  Executable tests/udp.rs (/build/debug/deps/udp-8f)\n";
        let all = executables(said);
        let [(lib, _), (udp, program)] = all.as_slice() else { panic!("{all:?}") };
        assert_eq!((lib.as_str(), udp.as_str()), ("lib", "udp"));
        assert_eq!(program, Path::new("/build/debug/deps/udp-8f"));
    }
}
