//! Each program of the matrix, unmodified, under `corelane run`: with peers on the kernel and with peers on Corelane, byte for byte.
//!
//! `cargo test` plays the short rows; `cargo xtask matrix` plays all of them and installs what they need. What is told of a row: how many of
//! its TCP connections went over lanes, by the kernel's own counters (/proc/net/snmp of both namespaces, which count what the kernel opened), whether the
//! program did all it was asked, and what `corelane explain` says of connections that were the kernel's.
// A test, though not of the usual harness: what goes wrong ends a row.
#![allow(clippy::expect_used, clippy::panic)]

mod curl;
mod files;
mod report;
mod rows;
mod runtimes;
mod stores;
mod suite;
mod tokio_echo;
mod tools;
mod trial;
mod web;
#[allow(dead_code)]
#[path = "../e2e/world.rs"]
mod world;

use std::panic::{self, AssertUnwindSafe};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::Instant;

use crate::report::Told;
use crate::rows::{ROWS, Row};
use crate::trial::{Stack, Trial};

/// What was asked for on the command line.
#[derive(Default)]
struct Asked {
    /// Every row, and each also with both ends on the kernel, for comparison.
    all: bool,
    /// Print each failure's logs.
    list: bool,
    report: Option<String>,
    only: Vec<String>,
}

fn asked() -> Asked {
    let mut asked = Asked::default();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--all" => asked.all = true,
            "--list" => asked.list = true,
            "--report" => asked.report = words.next(),
            // Flags of the usual test harness mean nothing here.
            word if word.starts_with('-') => {}
            word => asked.only.push(word.to_owned()),
        }
    }
    asked
}

fn main() -> ExitCode {
    if let Some(port) = std::env::args().skip_while(|word| word != "tokio-echo").nth(1) {
        return tokio_echo::serve(&port);
    }
    let asked = asked();
    if asked.list {
        ROWS.iter().for_each(|row| println!("{}: test", row.name));
        return ExitCode::SUCCESS;
    }
    keep_panics_quiet();
    let mut told = Vec::new();
    for row in ROWS.iter().filter(|row| is_wanted(row, &asked)) {
        for (ours, peer) in pairs(row, &asked) {
            let one = play(row, ours, peer);
            println!("{}", one.line());
            told.push(one);
        }
    }
    report::summary(&told);
    if let Some(path) = &asked.report
        && let Err(error) = report::write(path, &told)
    {
        eprintln!("cannot write {path}: {error}");
        return ExitCode::FAILURE;
    }
    if told.iter().any(|one| one.failed()) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn is_wanted(row: &Row, asked: &Asked) -> bool {
    if asked.only.is_empty() {
        return asked.all && !row.asked_only || row.short;
    }
    asked.only.iter().any(|only| row.name.contains(only.as_str()))
}

/// Which stacks a row is played on: the program's, and its peer's.
fn pairs(row: &Row, asked: &Asked) -> Vec<(Stack, Stack)> {
    let mut pairs = Vec::new();
    if asked.all {
        pairs.push((Stack::Kernel, Stack::Kernel));
    }
    pairs.push((Stack::Lane, Stack::Kernel));
    if asked.all || row.both {
        pairs.push((Stack::Lane, Stack::Lane));
    }
    pairs
}

fn play(row: &Row, ours: Stack, peer: Stack) -> Told {
    let mut told = Told::new(row.name, ours, peer, row.least_share);
    let start = Instant::now();
    let mut seconds = None;
    let played = panic::catch_unwind(AssertUnwindSafe(|| {
        let trial = Trial::new(row.programs, ours, peer)?;
        (row.play)(&trial);
        seconds = Some(start.elapsed());
        let ended = trial.end();
        if ended.is_err() {
            // Shows the logs.
            panic!("{}", ended.err().unwrap_or_default());
        }
        ended.ok()
    }));
    told.seconds = seconds.unwrap_or_else(|| start.elapsed()).as_secs_f64();
    match played {
        Ok(Some(opens)) => told.opens = Some(opens),
        Ok(None) => told.skipped = true,
        Err(_) => told.why = Some(WHY.lock().map(|mut why| core::mem::take(&mut *why)).unwrap_or_default()),
    }
    told
}

/// What the last panic said.
static WHY: Mutex<String> = Mutex::new(String::new());

/// A failed row is a line in the table, and goes on with the next one.
fn keep_panics_quiet() {
    panic::set_hook(Box::new(|info| {
        let said = info.payload();
        let text = said.downcast_ref::<String>().cloned();
        let text = text.or_else(|| said.downcast_ref::<&str>().map(|s| (*s).to_owned()));
        if let Ok(mut why) = WHY.lock() {
            *why = text.unwrap_or_else(|| info.to_string());
        }
    }));
}
