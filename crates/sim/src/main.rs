//! Plays seeds: `corelane-sim [--seeds N] [--from S] [--minutes M] [--seed S] [--kept] [--jobs J] [--json FILE] [--pcap DIR]`, or
//! measures goodput: `corelane-sim goodput`, or plays with lwIP: `corelane-sim lwip`.
//!
//! A seed that fails is played again with a log of its last packets and a capture, and its number is printed. Leaves out
//! everything else: what a seed means is the library's.

mod goodput_report;
mod lwip_seeds;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sim::{Failure, MIXED_SEEDS, Report, Scenario, kept_seeds, run, run_captured};

const USAGE: &str = "\
usage: corelane-sim [options]

  --seeds N      play N seeds (default 1000; without end with --minutes)
  --from S       the first of them (default 2000000: paths mixed of everything)
  --minutes M    stop after M minutes
  --seed S       play this one seed, print its plan and its last packets, write its packets to DIR/sim-S.pcapng
  --kept         play the kept seeds first
  --jobs J       threads (default 1)
  --json FILE    write a report
  --pcap DIR     where captures of failing seeds go (default target/reports)

or: corelane-sim goodput [options]    goodput over 100 Mb/s and 40 ms at several losses, and how two flows share

  --linux        Linux's own stack too, on the same path between network namespaces: needs root, and minutes
  --only NAME    only cases with this in their name
  --seconds S    of one run (default 15)
  --runs N       of each case, with other losses each (default 3)
  --jobs J       on Linux, where rates are low, as many at a time (default 4)
  --json FILE    write a report
  --page FILE    write a page with the table

or: corelane-sim lwip [options]       our engine and lwIP (Debian's source package) on one network: both connect, send, close

  --seeds N      play N seeds (default 1000)
  --from S       the first of them (default 0)
  --seed S       play this one seed, print its plan, write its packets to DIR/lwip-S.pcapng
  --pcap DIR     where that goes (default target/reports)";

/// What to do.
struct Plan {
    seeds: Option<u64>,
    from: u64,
    minutes: Option<f64>,
    seed: Option<u64>,
    kept: bool,
    jobs: u64,
    json: Option<String>,
    pcap: String,
}

/// What all seeds together did.
#[derive(Default)]
struct Total {
    seeds: u64,
    packets: u64,
    dropped: u64,
    retransmits: u64,
    finished: u64,
    failed: u64,
    virtual_s: f64,
    failures: Vec<String>,
}

fn main() -> ExitCode {
    let rest = std::env::args().skip(2);
    let other = match std::env::args().nth(1).as_deref() {
        Some("goodput") => Some(goodput_report::run(rest)),
        Some("lwip") => Some(lwip_seeds::play(rest)),
        Some(_) | None => None,
    };
    if let Some(done) = other {
        return done.unwrap_or_else(|why| {
            eprintln!("{why}");
            ExitCode::FAILURE
        });
    }
    let plan = match parse() {
        Ok(plan) => plan,
        Err(why) => {
            eprintln!("{why}\n\n{USAGE}");
            return ExitCode::FAILURE;
        }
    };
    if let Err(why) = std::fs::create_dir_all(&plan.pcap) {
        eprintln!("cannot make {}: {why}", plan.pcap);
        return ExitCode::FAILURE;
    }
    if let Some(seed) = plan.seed {
        let scenario = Scenario::of_seed(seed);
        println!("{scenario:#?}");
        return match replay(seed, &plan.pcap) {
            Ok(report) => {
                println!("seed {seed}: {report:?}");
                ExitCode::SUCCESS
            }
            Err(text) => {
                eprintln!("{text}");
                ExitCode::FAILURE
            }
        };
    }
    let start = Instant::now();
    let total = play_all(&plan);
    let took = start.elapsed().as_secs_f64();
    println!(
        "{} seeds in {took:.1} s: {} packets, {} lost, {} segments sent again, {} ends of streams finished, {} failed as \
         planned, {:.1} h of network; {} seeds failed",
        total.seeds,
        total.packets,
        total.dropped,
        total.retransmits,
        total.finished,
        total.failed,
        total.virtual_s / 3600.0,
        total.failures.len()
    );
    if let Some(file) = &plan.json
        && let Err(why) = std::fs::write(file, json(&total, took))
    {
        eprintln!("cannot write {file}: {why}");
        return ExitCode::FAILURE;
    }
    if total.failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn parse() -> Result<Plan, String> {
    let mut plan = Plan {
        seeds: None,
        from: MIXED_SEEDS,
        minutes: None,
        seed: None,
        kept: false,
        jobs: 1,
        json: None,
        pcap: "target/reports".to_owned(),
    };
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        if name == "--kept" {
            plan.kept = true;
            continue;
        }
        let value = args.next().ok_or_else(|| format!("{name} wants a value"))?;
        let number = || value.parse::<u64>().map_err(|_| format!("{name} {value}: not a number"));
        match name.as_str() {
            "--seeds" => plan.seeds = Some(number()?),
            "--from" => plan.from = number()?,
            "--seed" => plan.seed = Some(number()?),
            "--jobs" => plan.jobs = number()?.clamp(1, 64),
            "--minutes" => {
                plan.minutes = Some(value.parse().map_err(|_| format!("{name} {value}: not a number"))?);
            }
            "--json" => plan.json = Some(value),
            "--pcap" => plan.pcap = value,
            _ => return Err(format!("unknown option {name}")),
        }
    }
    Ok(plan)
}

fn play_all(plan: &Plan) -> Total {
    let kept = if plan.kept { kept_seeds() } else { Vec::new() };
    let fresh = plan.seeds.unwrap_or(if plan.minutes.is_some() { u64::MAX >> 8 } else { 1000 });
    let count = fresh.saturating_add(kept.len() as u64);
    let end = plan.minutes.map(|m| Instant::now() + Duration::from_secs_f64(m.max(0.0) * 60.0));
    let (next, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let total = Mutex::new(Total::default());
    std::thread::scope(|scope| {
        for _ in 0..plan.jobs {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let late = end.is_some_and(|end| Instant::now() >= end);
                    if at >= count || late || over.load(Ordering::Relaxed) {
                        return;
                    }
                    let seed = kept
                        .get(at as usize)
                        .copied()
                        .unwrap_or(plan.from.wrapping_add(at.saturating_sub(kept.len() as u64)));
                    let outcome = guarded(seed, run);
                    let failed = note(&total, seed, outcome, &plan.pcap);
                    // A hundred broken seeds say no more than ten.
                    over.fetch_or(failed >= 10, Ordering::Relaxed);
                }
            });
        }
    });
    total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Adds one seed's outcome; gives the number of failures so far.
fn note(total: &Mutex<Total>, seed: u64, outcome: Result<Report, String>, pcap: &str) -> usize {
    let again = outcome.as_ref().is_err().then(|| replay(seed, pcap));
    let mut total = total.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    total.seeds += 1;
    match outcome {
        Ok(report) => {
            total.packets += report.network.sent;
            total.dropped += report.network.dropped;
            total.retransmits += report.retransmits;
            total.finished += u64::from(report.finished);
            total.failed += u64::from(report.failed);
            total.virtual_s += report.took.0 as f64 / 1e9;
        }
        Err(first) => {
            let text = match again {
                Some(Err(text)) => text,
                Some(Ok(_)) | None => {
                    format!("{first}\nbut played again it passes: the run is not a function of its seed")
                }
            };
            eprintln!("{text}\nplay it again: cargo xtask sim --seed {seed}\n");
            total.failures.push(first);
        }
    }
    total.failures.len()
}

/// Plays `seed` with a log and a capture.
fn replay(seed: u64, pcap: &str) -> Result<Report, String> {
    let file = format!("{pcap}/sim-{seed}.pcapng");
    guarded(seed, |scenario| run_captured(scenario, &file)).map_err(|what| format!("{what}\npackets: {file}"))
}

/// A panic is a failure of its seed too.
fn guarded(seed: u64, play: impl Fn(&Scenario) -> Result<Report, Failure>) -> Result<Report, String> {
    let scenario = Scenario::of_seed(seed);
    match catch_unwind(AssertUnwindSafe(|| play(&scenario))) {
        Ok(Ok(report)) => Ok(report),
        Ok(Err(failure)) => Err(format!("{:?}: {failure}", scenario.family)),
        Err(_) => Err(format!("seed {seed} {:?}: panicked", scenario.family)),
    }
}

fn json(total: &Total, took: f64) -> String {
    let row = |id: &str, value: f64, unit: &str, reached: Option<bool>, note: &str| {
        let reached = reached.map_or_else(|| "null".to_owned(), |r| r.to_string());
        let note: String = note.lines().next().unwrap_or("").replace(['"', '\\'], "'");
        format!(
            "  {{\"id\": \"{id}\", \"value\": {value}, \"unit\": \"{unit}\", \"peer\": null, \"peer_value\": null, \"ratio\": null, \
             \"goal\": null, \"reached\": {reached}, \"note\": \"{note}\"}}"
        )
    };
    let clean = total.failures.is_empty();
    let mut rows = vec![
        row("seeds", total.seeds as f64, "seeds", Some(clean), ""),
        row("time", took, "s", None, ""),
        row("packets", total.packets as f64, "packets", None, ""),
        row("lost", total.dropped as f64, "packets", None, ""),
        row("sent again", total.retransmits as f64, "segments", None, ""),
        row("network time", total.virtual_s, "s", None, ""),
        row("failed", total.failures.len() as f64, "seeds", Some(clean), ""),
    ];
    rows.extend(total.failures.iter().map(|f| row("failure", 1.0, "seeds", Some(false), f)));
    format!("[\n{}\n]\n", rows.join(",\n"))
}
