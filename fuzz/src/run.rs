//! The loop: take an input, change it, play it; keep what reaches new code, report what goes wrong.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base::Rng;

use crate::coverage::Reached;
use crate::mutate::mutate;
use crate::targets::Target;

/// An input that takes longer than this is a loop without end.
const LONGEST: Duration = Duration::from_secs(20);
/// Attempts to make a failing input shorter.
const SHORTENINGS: usize = 4000;

/// What stops a run.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// So long.
    pub time: Duration,
    /// So many inputs.
    pub inputs: u64,
    /// Where the numbers begin.
    pub seed: u64,
}

/// What a run came to.
#[derive(Debug)]
pub struct Report {
    /// Inputs played.
    pub inputs: u64,
    /// Edges reached; 0 without counters.
    pub edges: usize,
    /// Inputs that reached something new.
    pub new: Vec<Vec<u8>>,
    /// An input that went wrong, and how.
    pub failure: Option<(Vec<u8>, String)>,
}

/// The kept inputs of `target`, with their file names.
///
/// # Errors
/// A file that cannot be read.
pub fn corpus(target: &Target) -> Result<Vec<(PathBuf, Vec<u8>)>, String> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let mut inputs = Vec::new();
    for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
        let path = entry.path();
        let bytes = fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        inputs.push((path, bytes));
    }
    inputs.sort();
    Ok(inputs)
}

/// Plays `input`; what went wrong comes back.
pub fn play(target: &Target, input: &[u8]) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(|| (target.play)(input))) {
        Ok(Ok(())) => None,
        Ok(Err(why)) => Some(why),
        Err(panic) => Some(match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
            (Some(text), _) => (*text).to_owned(),
            (None, Some(text)) => text.clone(),
            (None, None) => "a panic".to_owned(),
        }),
    }
}

/// Watches over a run: an input that takes too long is written down, and ends the process.
struct Watch {
    started: AtomicU64,
    input: Mutex<Vec<u8>>,
}

fn watch(target: &'static str, since: Instant) -> Arc<Watch> {
    let watch = Arc::new(Watch { started: AtomicU64::new(u64::MAX), input: Mutex::new(Vec::new()) });
    let shared = Arc::downgrade(&watch);
    std::thread::spawn(move || {
        while let Some(watch) = shared.upgrade() {
            let started = watch.started.load(Ordering::Relaxed);
            let now = since.elapsed().as_millis() as u64;
            if now.saturating_sub(started) > LONGEST.as_millis() as u64 && started != u64::MAX {
                let input = watch.input.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let path = save(target, "loop", &input);
                eprintln!("{target}: an input takes more than {} s: {path}", LONGEST.as_secs());
                std::process::exit(2);
            }
            drop(watch);
            std::thread::sleep(Duration::from_millis(500));
        }
    });
    watch
}

/// Writes a failing input where the next run finds it; gives the path.
#[must_use]
pub fn save(target: &str, what: &str, input: &[u8]) -> String {
    let hash = input
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3));
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/fuzz-failures").join(target);
    let path = dir.join(format!("{what}-{hash:016x}"));
    let _ = fs::create_dir_all(&dir);
    match fs::write(&path, input) {
        Ok(()) => path.display().to_string(),
        Err(e) => format!("(not written: {e}) {input:02x?}"),
    }
}

/// Plays the kept inputs of `target` and `more`, then new ones made from them.
///
/// # Errors
/// A corpus that cannot be read.
pub fn run(target: &'static Target, more: Vec<Vec<u8>>, limits: Limits) -> Result<Report, String> {
    let since = Instant::now();
    let watch = watch(target.name, since);
    let mut prng = Rng::new(limits.seed);
    let mut reached = Reached::default();
    let mut inputs: Vec<Vec<u8>> = corpus(target)?.into_iter().map(|(_, bytes)| bytes).collect();
    inputs.extend((target.seeds)());
    inputs.extend(more);
    inputs.push(Vec::new());
    let mut report = Report { inputs: 0, edges: 0, new: Vec::new(), failure: None };
    let kept = inputs.len();
    let mut pool: Vec<Vec<u8>> = Vec::new();
    let counting = Reached::is_counting();
    let mut at = 0;
    while (at < kept || report.inputs < limits.inputs && since.elapsed() < limits.time)
        && report.failure.is_none()
    {
        let input = match inputs.get(at) {
            Some(input) => input.clone(),
            None => {
                let mut pick = || {
                    pool.get((prng.next_u64() % pool.len().max(1) as u64) as usize)
                        .cloned()
                        .unwrap_or_default()
                };
                let (one, other) = (pick(), pick());
                mutate(&mut prng, &one, &other, target.longest)
            }
        };
        at += 1;
        *watch.input.lock().unwrap_or_else(PoisonError::into_inner) = input.clone();
        watch.started.store(since.elapsed().as_millis() as u64, Ordering::Relaxed);
        let failure = play(target, &input);
        watch.started.store(u64::MAX, Ordering::Relaxed);
        report.inputs += 1;
        let new = reached.take();
        if let Some(why) = failure {
            report.failure = Some(shorten(target, input, why));
        } else if at <= kept || new {
            if at > kept {
                report.new.push(input.clone());
            }
            pool.push(input);
        } else if !counting && report.inputs.is_multiple_of(64) {
            // Without counters the inputs drift a little.
            let place = (prng.next_u64() % pool.len().max(1) as u64) as usize;
            if let Some(old) = pool.get_mut(place).filter(|_| place >= kept) {
                *old = input;
            } else if pool.len() < 4 * kept {
                pool.push(input);
            }
        }
    }
    report.edges = reached.edges();
    Ok(report)
}

/// Leaves out what the failure does not need.
fn shorten(target: &Target, mut input: Vec<u8>, why: String) -> (Vec<u8>, String) {
    let mut piece = input.len().next_power_of_two() / 2;
    let mut attempts = 0;
    while piece > 0 && attempts < SHORTENINGS {
        let mut at = 0;
        while at < input.len() && attempts < SHORTENINGS {
            attempts += 1;
            let end = (at + piece).min(input.len());
            let less = [input.get(..at).unwrap_or(&[]), input.get(end..).unwrap_or(&[])].concat();
            if play(target, &less).is_some() {
                input = less;
            } else {
                at += piece;
            }
        }
        piece /= 2;
    }
    let why = play(target, &input).unwrap_or(why);
    (input, why)
}
