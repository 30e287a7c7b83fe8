//! Kills at random moments, under load: workers, main programs, stewards and keepers, and what is left afterwards.
//!
//! `cargo test` plays a short form, `cargo xtask kills` as many as one likes. Two namespaces joined by a wire: a server with forked workers under
//! `corelane run`, a client on the kernel and one on Corelane, whose every byte is checked; and beside them a server and two clients of
//! other runs that nobody touches, none of whose requests may fail. Each environment lives through some dozens of kills, then its main program or its
//! keeper is killed: peers must hear of it, and nothing may be left.
// A test, though not of the usual harness: what goes wrong ends an environment.
#![allow(clippy::expect_used, clippy::panic)]

mod campaign;
mod counters;
mod family;
mod residue;
#[allow(dead_code)]
#[path = "../e2e/world.rs"]
mod world;

use std::panic::{self, AssertUnwindSafe};
use std::process::{Command, ExitCode};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::campaign::{Campaign, PHASES, Tally, Victim};
use crate::world::World;

/// Kills of the short form.
const SHORT: u64 = 60;
/// Environments that may go wrong before a job gives up.
const FAILURES_MAX: usize = 8;
const PROGRAMS: &[&str] = &["cc", "ip", "tc", "bpftool"];

/// What was asked for on the command line.
struct Asked {
    count: u64,
    /// The short form: nobody gave a number.
    gentle: bool,
    seed: u64,
    jobs: u64,
    report: Option<String>,
    list: bool,
    /// Which of its ends each environment has.
    end: Option<usize>,
}

fn asked() -> Asked {
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_secs());
    // `cargo xtask test` names one for each state of the sources.
    let usual = std::env::var("CORELANE_SEED").ok().and_then(|n| n.parse().ok()).unwrap_or_else(clock);
    let mut asked =
        Asked { count: SHORT, gentle: true, seed: usual, jobs: 1, report: None, list: false, end: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut number = |otherwise| words.next().and_then(|n| n.parse().ok()).unwrap_or(otherwise);
        match word.as_str() {
            "--count" => {
                asked.count = number(SHORT);
                asked.gentle = false;
            }
            "--seed" => asked.seed = number(usual),
            "--jobs" => asked.jobs = number(1).max(1),
            "--report" => asked.report = words.next(),
            "--end" => asked.end = words.next().and_then(|n| n.parse().ok()),
            "--list" => asked.list = true,
            // Flags of the usual test harness mean nothing here.
            _ => {}
        }
    }
    asked
}

fn main() -> ExitCode {
    let asked = asked();
    if asked.list {
        println!("kills: test");
        return ExitCode::SUCCESS;
    }
    let (told, failures) = if asked.jobs > 1 { several(&asked) } else { one(&asked) };
    if let Some(path) = &asked.report {
        let text = serde_json::to_string_pretty(&told).expect("numbers and texts");
        if let Err(error) = std::fs::write(path, text + "\n") {
            eprintln!("cannot write {path}: {error}");
            return ExitCode::FAILURE;
        }
    }
    let word = if failures == 0 { "ok" } else { "FAILED" };
    let passed = u32::from(failures == 0);
    println!("\ntest result: {word}. {passed} passed; {failures} failed");
    if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// One job in this process.
fn one(asked: &Asked) -> (Vec<Value>, usize) {
    let Some(world) = World::new(PROGRAMS) else { return (Vec::new(), 0) };
    println!("seed {}: {} kills", asked.seed, asked.count);
    let start = Instant::now();
    let mut failures = Vec::new();
    let mut tally = Tally::default();
    let mut seed = asked.seed;
    while tally.all_kills() < asked.count && failures.len() < FAILURES_MAX {
        let played = panic::catch_unwind(AssertUnwindSafe(|| {
            play(&world, (seed, asked.gentle, asked.end), asked.count - tally.all_kills())
        }));
        let (more, why) =
            played.unwrap_or_else(|_| (Tally::default(), Some("a panic: see above".to_owned())));
        add(&mut tally, &more);
        if let Some(why) = why {
            println!("FAILED with seed {seed} after {} kills: {why}", tally.all_kills());
            failures.push(why);
            // What was left of the environment would disturb the next one.
            world.end_all();
            seed = seed.wrapping_add(1_000_003);
        }
    }
    let told = tell(asked, &tally, &failures, start.elapsed().as_secs_f64());
    (told, failures.len())
}

fn play(
    world: &World,
    (seed, gentle, end): (u64, bool, Option<usize>),
    kills: u64,
) -> (Tally, Option<String>) {
    let mut campaign = match Campaign::new(world, seed, gentle, end) {
        Ok(campaign) => campaign,
        Err(why) => return (Tally::default(), Some(why)),
    };
    while campaign.tally.all_kills() < kills {
        let left = kills - campaign.tally.all_kills();
        if let Err(why) = campaign.environment(left) {
            return (campaign.tally, Some(why));
        }
    }
    match campaign.close() {
        (tally, Ok(())) => (tally, None),
        (tally, Err(why)) => (tally, Some(why)),
    }
}

fn add(all: &mut Tally, more: &Tally) {
    all.kills.iter_mut().zip(more.kills).for_each(|(all, more)| *all += more);
    all.stops += more.stops;
    all.environments += more.environments;
    all.answered += more.answered;
    all.cut += more.cut;
    all.opened += more.opened;
    all.refused += more.refused;
    all.by_kernel += more.by_kernel;
    all.worst_us = all.worst_us.max(more.worst_us);
    all.calm_answered += more.calm_answered;
    all.seconds.iter_mut().zip(more.seconds).for_each(|(all, more)| *all += more);
    all.calm_worst_us = all.calm_worst_us.max(more.calm_worst_us);
}

/// Prints and gives the rows of the report.
fn tell(asked: &Asked, tally: &Tally, failures: &[String], seconds: f64) -> Vec<Value> {
    const VICTIMS: [Victim; 7] = [
        Victim::Worker,
        Victim::Client,
        Victim::Main,
        Victim::ClientMain,
        Victim::Steward,
        Victim::Keeper,
        Victim::ClientKeeper,
    ];
    let mut rows = vec![("kills".to_owned(), tally.all_kills() as f64, "kills")];
    rows.extend(
        VICTIMS
            .iter()
            .map(|&victim| (format!("kills/{victim:?}"), tally.kills[victim as usize] as f64, "kills")),
    );
    rows.push(("stops".to_owned(), tally.stops as f64, "stops"));
    rows.push(("environments".to_owned(), tally.environments as f64, "environments"));
    rows.push(("requests answered and checked".to_owned(), tally.answered as f64, "requests"));
    rows.push(("connections opened".to_owned(), tally.opened as f64, "connections"));
    rows.push(("connections accepted by the kernel".to_owned(), tally.by_kernel as f64, "connections"));
    rows.push(("connections cut by kills".to_owned(), tally.cut as f64, "connections"));
    rows.push(("connections refused by wires".to_owned(), tally.refused as f64, "connections"));
    rows.push(("longest silence".to_owned(), tally.worst_us as f64 / 1000.0, "ms"));
    rows.push(("requests to the untouched program".to_owned(), tally.calm_answered as f64, "requests"));
    rows.push(("its longest silence".to_owned(), tally.calm_worst_us as f64 / 1000.0, "ms"));
    rows.push(("seconds".to_owned(), seconds, "s"));
    rows.extend(PHASES.iter().zip(tally.seconds).map(|(phase, s)| (format!("seconds/{phase}"), s, "s")));
    for (name, value, unit) in &rows {
        println!("{name:<40} {value:>12.1} {unit}");
    }
    let row = |(name, value, unit): &(String, f64, &str)| {
        json!({"id": name, "value": value, "unit": unit, "peer": null, "peer_value": null, "ratio": null, "goal": null,
               "reached": if name == "kills" { Some(failures.is_empty()) } else { None }, "note": format!("seed {}", asked.seed)})
    };
    let mut told: Vec<Value> = rows.iter().map(row).collect();
    let failed = |why: &String| {
        json!({"id": "failure", "value": null, "unit": null, "peer": null, "peer_value": null, "ratio": null, "goal": null,
               "reached": false, "note": format!("seed {}: {why}", asked.seed)})
    };
    told.extend(failures.iter().map(failed));
    told
}

/// Jobs in processes of their own, each with its seed and its share of the kills.
fn several(asked: &Asked) -> (Vec<Value>, usize) {
    let me = std::env::current_exe().expect("a program");
    let folder = std::env::temp_dir();
    let mut running = Vec::new();
    for job in 0..asked.jobs {
        let report = folder.join(format!("clkills-{}-{job}.json", std::process::id()));
        let count = asked.count / asked.jobs + u64::from(job < asked.count % asked.jobs);
        let mut command = Command::new(&me);
        command.args([
            "--count",
            &count.to_string(),
            "--seed",
            &asked.seed.wrapping_add(job * 7919).to_string(),
        ]);
        if let Some(end) = asked.end {
            command.args(["--end", &end.to_string()]);
        }
        let child = command.arg("--report").arg(&report).spawn().expect("this program starts");
        running.push((child, report));
    }
    let (mut told, mut failures) = (Vec::new(), 0);
    for (mut child, report) in running {
        let failed = !child.wait().is_ok_and(|status| status.success());
        failures += usize::from(failed);
        let text = std::fs::read_to_string(&report).unwrap_or_default();
        told.extend(serde_json::from_str::<Vec<Value>>(&text).unwrap_or_default());
        let _ = std::fs::remove_file(&report);
    }
    (told, failures)
}
