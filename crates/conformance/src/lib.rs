//! Packet scripts: calls of a program, segments that a peer sends, and segments that the stack must answer with, at
//! given times. Each runs on our engine in virtual time ([`ours`]) and on Linux's stack behind a TAP device ([`linux`]), so that
//! a script shows what Linux does; where the two differ, it says which RFC decides.
//!
//! The language is described in `docs/scripts.md`; the scripts are in `scripts/`.

pub mod linux;
mod md5;
pub mod ours;
pub mod packet;
pub mod parse;
pub mod run;
pub mod script;
pub mod segment;
pub mod target;
mod words;

use std::path::Path;

use script::{For, Script};

/// Scripts that are played on Linux at the same time: most of their time is waiting.
const AT_ONCE: usize = 16;

/// All scripts of the folder `dir`, in the order of their files.
///
/// # Errors
/// A file that cannot be read, or what is wrong in it.
pub fn scripts_in(dir: &Path) -> Result<Vec<Script>, String> {
    let listing = std::fs::read_dir(dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let mut files: Vec<_> = listing.filter_map(|entry| entry.ok().map(|e| e.path())).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "script"));
    files.sort();
    let mut all = Vec::new();
    for path in files {
        let text = std::fs::read_to_string(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        all.extend(parse::scripts(&name, &text)?);
    }
    Ok(all)
}

/// The scripts of this crate.
///
/// # Errors
/// As [`scripts_in`].
pub fn scripts() -> Result<Vec<Script>, String> {
    scripts_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts"))
}

/// Does `script` run on `whose` stack?
#[must_use]
pub fn runs_on(script: &Script, whose: For) -> bool {
    script.only.as_ref().is_none_or(|(only, _)| *only == whose)
}

/// Plays `script` on our engine.
///
/// # Errors
/// What went otherwise than the script says.
pub fn on_engine(script: &Script) -> Result<(), String> {
    run::play(&mut ours::Ours::new(script)?, For::Engine, script)
}

/// Plays `script` on Linux's stack, in network namespaces of the calling thread; needs root. What happens in real time can be
/// late on a busy machine, so a script that fails is played again, at most twice.
///
/// # Errors
/// What went otherwise than the script says, the last time.
pub fn on_linux(script: &Script) -> Result<(), String> {
    let mut result = Ok(());
    for _ in 0..3 {
        result = linux::Linux::new(script).and_then(|mut linux| run::play(&mut linux, For::Linux, script));
        if result.is_ok() {
            break;
        }
    }
    result
}

/// How one stack did.
#[derive(Clone, Debug, Default)]
pub struct Score {
    /// Scripts that were played.
    pub run: usize,
    /// Of these, those that went as they say.
    pub passed: usize,
    /// What went otherwise, one text a script.
    pub failures: Vec<String>,
}

impl Score {
    fn note(&mut self, result: Result<(), String>) {
        self.run += 1;
        match result {
            Ok(()) => self.passed += 1,
            Err(why) => self.failures.push(why),
        }
    }
}

/// Plays `wanted` on our engine and, if `linux`, on Linux's stack (needs root); the scores in this order.
#[must_use]
pub fn play(wanted: &[&Script], linux: bool) -> [Score; 2] {
    let mut scores = [Score::default(), Score::default()];
    let [ours, theirs] = &mut scores;
    for script in wanted.iter().filter(|s| runs_on(s, For::Engine)) {
        ours.note(on_engine(script));
    }
    if linux {
        let todo: Vec<&&Script> = wanted.iter().filter(|s| runs_on(s, For::Linux)).collect();
        for some in todo.chunks(AT_ONCE) {
            let results: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = some.iter().map(|s| scope.spawn(|| on_linux(s))).collect();
                threads
                    .into_iter()
                    .map(|t| t.join().unwrap_or_else(|_| Err("the player panicked".into())))
                    .collect()
            });
            for result in results {
                theirs.note(result);
            }
        }
    }
    scores
}
