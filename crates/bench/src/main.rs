//! `corelane-bench`: Corelane beside its peers, in one run: in turns, pinned, medians; `cargo xtask bench` runs it.
//!
//! A **row** ([`rows::Row`]) is one kind of work with its stacks (ours first, then peers) and its figures to reach. To add rows, write a
//! file with a function `pub(crate) fn rows() -> Vec<Row>` and name it in [`GROUPS`]:
//!
//! ```text
//! Row::new("memif-rr-64", "request/response 64 B, 64 connections, two threads over memif", Unit::PerSecond)
//!     .stack("corelane", |job| native::request_response(64, job.count))      // fn(&Job) -> Result<Sample, Trouble>
//!     .stack("linux lo", kernel::lo(Kind::RequestResponse(64)))              // a peer that is there already
//!     .goal(Goal::OfPeer("linux lo", 25.0))                                   // at least: 1/s is better when larger
//!     .count(200_000)                                                         // of a short run; a full one does 4 times as much
//!     .in_short()                                                             // also part of --short
//!     .plot("memif-rr", 64.0)                                                 // a point of docs/bench/memif-rr.svg (see page.rs)
//! ```
//!
//! Each run is a process of its own (`corelane-bench one ROW STACK`), so a run may spawn threads and processes, use much memory
//! and crash: the next one does not see it. Pin with `place::pin`. What cannot be done here returns `Trouble::Skipped(why)`. The part of
//! the id before the first dash is the row's mode; give it a sentence in `report::MODES`. `.counted(N)` counts instructions too, over N
//! and 2 N operations under callgrind: for work in one thread without system calls.
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a bench ends where its assumptions do")]

mod baseline;
mod calls;
mod cores;
mod count;
mod engine_rows;
mod kernel;
mod kernel_memory;
mod lanes;
mod losses;
mod lwip;
mod machine;
mod native;
mod packets;
mod page;
mod peer;
mod place;
mod plot;
mod programs;
mod report;
mod rows;
mod runner;
mod scale;
mod smol;
mod socket_rows;
mod stats;
mod usage;
mod work;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use rows::{Job, Row, Trouble};
use runner::{Plan, Reply};

/// Where rows come from, in the order of the report.
#[rustfmt::skip]
const GROUPS: &[fn() -> Vec<Row>] = &[
    engine_rows::rows,
    scale::rows,
    native::rows,
    cores::rows,
    packets::rows,
    socket_rows::rows,
    programs::rows,
    calls::rows,
];

/// Corelane beside its peers: in turns, pinned, medians.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Args)]
struct RunArgs {
    /// The rows of a quick look, with little work: under five minutes on two cores
    #[arg(long)]
    short: bool,
    /// Only the row of this id, or the rows whose ids begin so; may be given several times
    #[arg(long, value_name = "ID")]
    only: Vec<String>,
    /// Runs of each stack of a row; the median counts
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Count no instructions
    #[arg(long)]
    no_instructions: bool,
    /// List the rows with their stacks and end
    #[arg(long)]
    list: bool,
    /// Write the figures as JSON to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the page bench.md and its plots to this folder
    #[arg(long, value_name = "DIR")]
    page: Option<PathBuf>,
    /// Exactly COUNT operations of row ID on RIG (default: corelane) in this process; one JSON line
    #[arg(long, num_args = 2..=3, value_names = ["ID", "COUNT", "RIG"])]
    one_run: Option<Vec<String>>,
}

#[derive(Subcommand)]
enum Action {
    /// One run of one stack of a row, in this process
    One(OneArgs),
    /// Compare instruction counts with a stored baseline; fails when one is more than 3 % higher
    Baseline(BaselineArgs),
    /// The server of a native row in a process of its own
    #[command(hide = true)]
    NativeServer,
    /// An epoll server that knows nothing of Corelane
    PeerServer(peer::ServerArgs),
    /// A program that makes one kind of call again and again
    #[command(hide = true)]
    CallsProgram(calls::CallsArgs),
    /// The client of that server
    PeerClient(peer::ClientArgs),
}

#[derive(Args)]
struct BaselineArgs {
    /// The baseline
    #[arg(default_value = "crates/bench/baseline.toml")]
    file: PathBuf,
    /// Write it instead
    #[arg(long)]
    bless: bool,
}

#[derive(Args)]
struct OneArgs {
    /// The row's id
    row: String,
    /// The stack's name
    stack: String,
    /// Operations
    #[arg(long, default_value_t = 1000)]
    count: u64,
    /// Seconds, for work that is timed
    #[arg(long, default_value_t = 1)]
    seconds: u32,
    /// Print one line of JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match (cli.action, cli.run.one_run.clone()) {
        (Some(Action::One(args)), _) => one(&args),
        (Some(Action::Baseline(args)), _) if args.bless => baseline::bless(&all_rows(), &args.file),
        (Some(Action::Baseline(args)), _) => baseline::check(&all_rows(), &args.file),
        (Some(Action::NativeServer), _) => native::serve_other_process(),
        (Some(Action::CallsProgram(args)), _) => calls::program(&args).map_err(|e| e.to_string()),
        (Some(Action::PeerServer(args)), _) => peer::serve(&args).map_err(|e| e.to_string()),
        (Some(Action::PeerClient(args)), _) => peer::drive(&args).map_err(|e| e.to_string()),
        (None, Some(words)) => one_run(&words),
        (None, None) => run(&cli.run),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            eprintln!("corelane-bench: {text}");
            ExitCode::FAILURE
        }
    }
}

/// Every row there is.
fn all_rows() -> Vec<Row> {
    GROUPS.iter().flat_map(|group| group()).collect()
}

/// Measures and reports.
fn run(args: &RunArgs) -> Result<(), String> {
    let mut rows = all_rows();
    let exact: Vec<&String> = args.only.iter().filter(|id| rows.iter().any(|row| row.id == **id)).collect();
    let begins =
        |row: &Row| args.only.iter().any(|id| !exact.contains(&id) && row.id.starts_with(id.as_str()));
    let chosen: Vec<bool> =
        rows.iter().map(|row| exact.iter().any(|id| **id == row.id) || begins(row)).collect();
    let mut keep = chosen.into_iter();
    rows.retain(|_| keep.next() == Some(true) || args.only.is_empty());
    if args.short {
        rows.retain(|row| row.short || !args.only.is_empty());
    }
    if rows.is_empty() {
        return Err(format!("no row begins with {}; --list shows them", args.only.join(" or ")));
    }
    if args.list {
        report::list(&rows);
        return Ok(());
    }
    let rounds = args.rounds.unwrap_or(if args.short { 3 } else { 5 }).max(1);
    let instructions = !args.no_instructions && count::possible();
    let plan = Plan { short: args.short, rounds, instructions };
    lwip::forget_failure();
    let machine = machine::Machine::here();
    let mut results = Vec::new();
    for (n, row) in rows.iter().enumerate() {
        eprintln!("[{}/{}] {}: {}", n + 1, rows.len(), row.id, row.work);
        let runs = runner::measure(row, &plan);
        report::say(row, &runs);
        results.push(runs);
    }
    let report = report::Report::new(&rows, &results, &plan, &machine);
    report.print();
    if let Some(file) = &args.json {
        report.write_json(file)?;
    }
    if let Some(dir) = &args.page {
        page::write(&report, &machine, dir)?;
    }
    report.verdict()
}

/// `one`: what the runner starts.
fn one(args: &OneArgs) -> Result<(), String> {
    let rows = all_rows();
    let row = find(&rows, &args.row)?;
    let stack = row.stacks.iter().find(|stack| stack.name == args.stack);
    let stack =
        stack.ok_or_else(|| format!("row {} has no stack {}; --list shows them", row.id, args.stack))?;
    raise_priority();
    let reply = match (stack.run)(&Job { count: args.count, seconds: args.seconds }) {
        Ok(sample) => Reply::Done(sample),
        Err(Trouble::Skipped(why)) => Reply::Skipped(why),
        Err(Trouble::Failed(why)) => Reply::Failed(why),
    };
    if args.json {
        println!("{}", serde_json::to_string(&reply).map_err(|e| e.to_string())?);
        return Ok(());
    }
    match reply {
        Reply::Done(sample) => {
            println!("{} {}: {} {}", row.id, stack.name, stats::figure(sample.value), row.unit.text());
            for (name, value) in sample.more {
                println!("  {name}: {}", stats::figure(value));
            }
            Ok(())
        }
        Reply::Skipped(why) => {
            println!("skipped: {why}");
            Ok(())
        }
        Reply::Failed(why) => Err(why),
    }
}

/// Other work on the machine shall disturb a run as little as can be: a bench's processes come first, where they may.
fn raise_priority() {
    // Without the privilege the figures are noisier, and the page shows the machine's load.
    let _ = rustix::process::setpriority_process(None, -15);
}

/// `--one-run ID COUNT [RIG]`.
fn one_run(words: &[String]) -> Result<(), String> {
    let [id, count, rest @ ..] = words else { return Err("--one-run needs a row and a count".to_owned()) };
    let count = count.parse().ok().filter(|n| *n > 0).ok_or("COUNT must be a number above 0")?;
    let rig = rest.first().map_or(rows::OURS, String::as_str);
    let rows = all_rows();
    let row = find(&rows, id)?;
    let stack = row.stacks.iter().find(|stack| stack.name == rig);
    let stack = stack.ok_or_else(|| format!("row {} has no stack {rig}; --list shows them", row.id))?;
    match (stack.run)(&Job { count, seconds: 1 }) {
        Ok(sample) => {
            println!(
                "{{\"rig\": \"{rig}\", \"id\": \"{}\", \"count\": {count}, \"ns_per_operation\": {:.3}}}",
                row.id, sample.value
            );
            Ok(())
        }
        Err(Trouble::Skipped(why) | Trouble::Failed(why)) => Err(why),
    }
}

/// The row of this id; `engine-` may be left out.
fn find<'a>(rows: &'a [Row], id: &str) -> Result<&'a Row, String> {
    let engine = format!("engine-{id}");
    rows.iter()
        .find(|row| row.id == id || row.id == engine)
        .ok_or_else(|| format!("there is no row {id}; --list shows them"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_named_once_and_begins_with_our_stack() {
        let rows = all_rows();
        for (n, row) in rows.iter().enumerate() {
            assert!(rows.iter().skip(n + 1).all(|other| other.id != row.id), "{} is there twice", row.id);
            assert_eq!(row.stacks.first().map(|s| s.name), Some(rows::OURS), "{}", row.id);
            assert!(report::mode(&row.id).is_some(), "{}: its mode is not in report::MODES", row.id);
        }
    }

    #[test]
    fn goals_name_rows_and_peers_that_exist() {
        let rows = all_rows();
        for row in &rows {
            for goal in &row.goals {
                match goal {
                    rows::Goal::OfPeer(peer, _) => {
                        assert!(row.stacks.iter().any(|s| s.name == *peer), "{}", row.id)
                    }
                    rows::Goal::OfRow(other, _) => assert!(rows.iter().any(|r| r.id == *other), "{}", row.id),
                    rows::Goal::OfBestPeer(_) => assert!(row.stacks.len() > 1, "{}", row.id),
                    rows::Goal::Instructions(_) => assert!(row.counted.is_some(), "{}", row.id),
                    rows::Goal::Value(_) => {}
                }
            }
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
