//! `corelane-bench`: the engine beside its peers, in one run: alternating, medians, CPU time of both ends.
//!
//! Engine only: both ends in one thread on an in-memory wire, checksums on. What goes over devices is measured by
//! `corelane demo`. `--only ID` takes one kind of work, `--ours` runs Corelane alone once, for a profiler.
//! `--one-run ID COUNT [RIG]` does exactly COUNT operations (bulk: bytes) on `corelane` or `smoltcp` in this process, and
//! prints one JSON line: instructions of one operation are the difference of two counts under callgrind.
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a bench ends where its assumptions do")]

mod lanes;
mod smol;
mod work;

use std::fmt::Write as _;
use std::process::ExitCode;

use lanes::Lanes;
use smol::Smoltcp;
use work::{Figure, Rig, Work};

/// Runs of each rig; the median counts.
const RUNS: usize = 5;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Some(at) = args.iter().position(|a| a == "--one-run") {
        return one_run(args.get(at + 1..).unwrap_or(&[]));
    }
    let short = args.iter().any(|a| a == "--short");
    let report = args.iter().position(|a| a == "--report").and_then(|at| args.get(at + 1));
    let only = args.iter().position(|a| a == "--only").and_then(|at| args.get(at + 1));
    let scale = if short { 1 } else { 8 };
    let mut plan = plan(scale);
    plan.retain(|(work, _)| only.is_none_or(|id| work.id() == *id));
    if args.iter().any(|a| a == "--ours") {
        // For a profiler: one run of Corelane alone.
        for (work, count) in plan {
            run(Lanes::new(mtu_of(work), true, sockets_of(work)), work, count);
        }
        return ExitCode::SUCCESS;
    }
    let rows: Vec<Row> = plan.into_iter().map(|(work, count)| measure(work, count)).collect();
    println!(
        "engine only, both ends in one thread, checksums on; CPU ns an operation (bulk: a byte), median of {RUNS}"
    );
    println!("{:<24} {:>12} {:>12} {:>8}", "work", "corelane", "smoltcp", "ratio");
    for row in &rows {
        println!("{:<24} {:>12.2} {:>12.2} {:>8.2}", row.work.id(), row.ours, row.peer, row.ours / row.peer);
    }
    if let Some(file) = report
        && let Err(error) = std::fs::write(file, json(&rows))
    {
        eprintln!("cannot write {file}: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// `ID COUNT [RIG]`: that work alone, once; one JSON line.
fn one_run(args: &[String]) -> ExitCode {
    let work = args.first().and_then(|id| Work::from_id(id));
    let count = args.get(1).and_then(|n| n.parse().ok()).filter(|n| *n > 0);
    let rig = args.get(2).map_or(Lanes::NAME, String::as_str);
    let (Some(work), Some(count)) = (work, count) else {
        eprintln!("--one-run needs the name of a row, as request-response-1, and a number above 0");
        return ExitCode::FAILURE;
    };
    let figure = match rig {
        Lanes::NAME => do_work(Lanes::new(mtu_of(work), true, sockets_of(work)), work, count),
        Smoltcp::NAME => do_work(Smoltcp::new(mtu_of(work), true), work, count),
        other => {
            eprintln!("there is no rig {other}: {} and {} are known", Lanes::NAME, Smoltcp::NAME);
            return ExitCode::FAILURE;
        }
    };
    println!(
        "{{\"rig\": \"{rig}\", \"id\": \"{}\", \"count\": {count}, \"ns_per_operation\": {:.3}}}",
        work.id(),
        figure.ns_per_operation
    );
    ExitCode::SUCCESS
}

/// The work, and how much of it.
fn plan(scale: u64) -> Vec<(Work, u64)> {
    vec![
        (Work::ShortConnections(1), 20_000 * scale),
        (Work::ShortConnections(64), 20_000 * scale),
        (Work::RequestResponse(1), 100_000 * scale),
        (Work::RequestResponse(64), 100_000 * scale),
        (Work::RequestResponse(1_000), 50_000 * scale),
        (Work::Bulk(1_500), (256 << 20) * scale),
        (Work::Bulk(9_000), (256 << 20) * scale),
    ]
}

struct Row {
    work: Work,
    ours: f64,
    peer: f64,
}

/// Alternates the two rigs, so that noise of the machine meets both.
fn measure(work: Work, count: u64) -> Row {
    let (mut ours, mut peer) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        ours.push(run(Lanes::new(mtu_of(work), true, sockets_of(work)), work, count).ns_per_operation);
        peer.push(run(Smoltcp::new(mtu_of(work), true), work, count).ns_per_operation);
    }
    Row { work, ours: median(ours), peer: median(peer) }
}

fn mtu_of(work: Work) -> usize {
    match work {
        Work::Bulk(mtu) => mtu,
        Work::ShortConnections(_) | Work::RequestResponse(_) => 1_500,
    }
}

/// Short connections leave their client in TIME-WAIT, which wants room.
fn sockets_of(work: Work) -> u32 {
    match work {
        Work::ShortConnections(_) => 65_536,
        Work::RequestResponse(_) | Work::Bulk(_) => 4_096,
    }
}

fn do_work<R: Rig>(rig: R, work: Work, count: u64) -> Figure {
    match work {
        Work::ShortConnections(concurrent) => rig.short_connections(concurrent, count),
        Work::RequestResponse(connections) => rig.request_response(connections, count),
        Work::Bulk(mtu) => rig.bulk(mtu, count),
    }
}

fn run<R: Rig>(rig: R, work: Work, count: u64) -> Figure {
    let figure = do_work(rig, work, count);
    eprintln!("{:<10} {:<24} {:>10.2} ns", R::NAME, figure.work.id(), figure.ns_per_operation);
    figure
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The report: an array of rows, as every chore writes it.
fn json(rows: &[Row]) -> String {
    let mut out = String::from("[\n");
    for (n, row) in rows.iter().enumerate() {
        let unit = if matches!(row.work, Work::Bulk(_)) { "ns/byte" } else { "ns" };
        let comma = if n + 1 < rows.len() { "," } else { "" };
        let _ = writeln!(
            out,
            "  {{\"id\": \"engine-{}\", \"value\": {:.3}, \"unit\": \"{unit}\", \"peer\": \"smoltcp\", \"peer_value\": {:.3}, \"ratio\": {:.3}, \"goal\": null, \"reached\": null, \"note\": \"both ends, CPU time, median of {RUNS}\"}}{comma}",
            row.work.id(),
            row.ours,
            row.peer,
            row.ours / row.peer
        );
    }
    out.push_str("]\n");
    out
}
