//! What came out: lines while it runs, a table at the end, JSON.

use std::fmt::Write as _;
use std::path::Path;

use serde::Serialize;

use crate::machine::Machine;
use crate::rows::{Goal, OURS, Row, Trouble};
use crate::runner::{Plan, Runs};
use crate::stats::figure;

/// What the first part of a row's id means.
pub(crate) const MODES: &[(&str, &str)] = &[
    (
        "engine",
        "Engine only: both ends in one thread, each packet copied once, from frames of one into frames of the other, and its checksum completed there. CPU time of both ends an operation.",
    ),
    (
        "call",
        "One socket call of an unmodified program, by the CPU time of its thread; the other end is on the kernel, across veth. A system call: getppid.",
    ),
    (
        "memory",
        "Memory of open connections, both ends in one process, each connection proven alive by one exchange of 64 bytes each way. \
         linux lo: growth of the kernel's slabs (socket, inode, dentry, file), buffers apart.",
    ),
    (
        "cores",
        "Scaling over lanes, and the x-kernel experiment: one load on threads of their own, each flow group with one thread, or each turn of a group the next thread's (packet-level). Exchanges a second of all threads.",
    ),
    (
        "coresmodel",
        "The same on more processors than this machine has, by model: one thread's time an exchange as measured, plus the cache lines of a group's state that move with each turn.",
    ),
    (
        "memif",
        "Native API over memif: client and server a core each, two threads or two processes, packets copied through shared memory. Linux lo: two processes, epoll.",
    ),
    (
        "lend",
        "Native API between two lanes of one region that lend each other their frames: nothing of bulk is copied; the sender stamps each 4 KiB, the receiver checks the stamps.",
    ),
    (
        "onethread",
        "Native API, both ends in turns in one thread: for the instruction counts, and for profilers.",
    ),
    (
        "socket",
        "Programs as they are: an epoll server and its client, a process and a processor each, both on the stack named. \
         corelane: on one host, over loopback; corelane veth: in two namespaces joined by a veth pair.",
    ),
    (
        "program",
        "Programs from the distribution, server and client both on the stack named. corelane: on one host, over loopback; \
         corelane veth: in two namespaces joined by a veth pair.",
    ),
    (
        "veth",
        "Over a veth pair: the server on the stack named, the client on the kernel unless said otherwise. Server CPU: all that the \
         server's processor did, on which also its device's packets are received, keeper and steward included. With loss: a program at each \
         device drops packets that arrive, one by one, the same ones by count for each stack.",
    ),
    (
        "tap",
        "A server on Corelane behind a TAP device of its own, its client on the kernel of the same host, whose way to it that device is; \
         beside a server on the kernel over a veth pair. Server CPU: all that the server's processor did.",
    ),
    ("idle", "A program with nothing to do: CPU time of its processes, on Corelane with keeper and steward."),
];

/// The sentence for the mode of the row named `id`.
pub(crate) fn mode(id: &str) -> Option<(&'static str, &'static str)> {
    let name = id.split('-').next()?;
    MODES.iter().copied().find(|(mode, _)| *mode == name)
}

/// One stack in a row of the report.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cell {
    pub(crate) name: &'static str,
    /// Median; none when it was skipped or failed.
    pub(crate) value: Option<f64>,
    pub(crate) lowest: Option<f64>,
    pub(crate) highest: Option<f64>,
    /// Instructions an operation, by callgrind.
    pub(crate) instructions: Option<f64>,
    /// Medians of the further figures.
    pub(crate) more: Vec<(String, f64)>,
    pub(crate) skipped: Option<String>,
    pub(crate) failed: Option<String>,
}

impl Cell {
    /// A further figure.
    pub(crate) fn named(&self, name: &str) -> Option<f64> {
        self.more.iter().find(|(n, _)| n == name).map(|(_, v)| *v)
    }
}

/// A figure to reach, and whether it was.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Verdict {
    /// The demand in words.
    pub(crate) goal: String,
    /// What is compared: our value and that of whom we compare with.
    pub(crate) ours: Option<f64>,
    pub(crate) against: Option<f64>,
    pub(crate) against_name: String,
    /// The number the goal is about.
    pub(crate) number: Option<f64>,
    /// None: one of the two could not be measured here.
    pub(crate) reached: Option<bool>,
}

/// One row of the report.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    pub(crate) id: String,
    pub(crate) work: String,
    pub(crate) unit: &'static str,
    pub(crate) stacks: Vec<Cell>,
    pub(crate) goals: Vec<Verdict>,
    #[serde(skip)]
    pub(crate) plot: Option<(&'static str, f64)>,
    #[serde(skip)]
    pub(crate) obstacle: &'static str,
}

/// The whole run.
#[derive(Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) short: bool,
    pub(crate) rounds: usize,
    pub(crate) rows: Vec<Line>,
}

impl Report {
    /// Medians and verdicts.
    pub(crate) fn new(rows: &[Row], results: &[Vec<Runs>], plan: &Plan, machine: &Machine) -> Self {
        let ours_in = |id: &str| {
            let (_, runs) = rows.iter().zip(results).find(|(row, _)| row.id == id)?;
            runs.first()?.median()
        };
        let line = |(row, runs): (&Row, &Vec<Runs>)| Line {
            id: row.id.clone(),
            work: row.work.clone(),
            unit: row.unit.text(),
            stacks: runs.iter().map(cell).collect(),
            goals: row.goals.iter().map(|goal| verdict(row, runs, goal, &ours_in)).collect(),
            plot: row.plot.map(|plot| (plot.id, plot.x)),
            obstacle: row.obstacle,
        };
        Self {
            machine: machine.clone(),
            short: plan.short,
            rounds: plan.rounds,
            rows: rows.iter().zip(results).map(line).collect(),
        }
    }

    /// The tables on the terminal.
    pub(crate) fn print(&self) {
        print!("{}", self.text());
    }

    fn text(&self) -> String {
        let mut out = String::new();
        let mut last_mode = "";
        for line in &self.rows {
            let (name, sentence) = mode(&line.id).unwrap_or(("", ""));
            if name != last_mode {
                // Writing to a String cannot fail.
                let _ = writeln!(out, "\n{sentence}");
                let _ = writeln!(
                    out,
                    "{:<42}{:>20}{:>12} {:<11}{:>11}{:>13}",
                    "work", "stack", "median", "", "x corelane", "instructions"
                );
                last_mode = name;
            }
            out.push_str(&rows_of(line));
        }
        out.push_str(&self.goals_text());
        out
    }

    fn goals_text(&self) -> String {
        let mut out = String::new();
        if self.rows.iter().all(|line| line.goals.is_empty()) {
            return out;
        }
        let _ = writeln!(out, "\nFigures to reach");
        let _ = writeln!(
            out,
            "{:<42}{:>12}{:>12}{:>10}  {:<34}reached",
            "row", "corelane", "against", "is", "goal"
        );
        for line in &self.rows {
            for verdict in &line.goals {
                let show = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), figure);
                let reached = match verdict.reached {
                    Some(true) => "yes",
                    Some(false) => "NO",
                    None => "not measured",
                };
                let _ = writeln!(
                    out,
                    "{:<42}{:>12}{:>12}{:>10}  {:<34}{reached}",
                    line.id,
                    show(verdict.ours),
                    show(verdict.against),
                    show(verdict.number),
                    verdict.goal
                );
            }
        }
        out
    }

    /// Writes everything for machines.
    pub(crate) fn write_json(&self, file: &Path) -> Result<(), String> {
        let text = serde_json::to_string_pretty(self).map_err(|e| format!("the report as JSON: {e}"))?;
        if let Some(dir) = file.parent() {
            std::fs::create_dir_all(dir).map_err(|e| format!("cannot make {}: {e}", dir.display()))?;
        }
        std::fs::write(file, text).map_err(|e| format!("cannot write {}: {e}", file.display()))
    }

    /// An error when something that should have run did not. A goal that is missed is a result, not an error.
    pub(crate) fn verdict(&self) -> Result<(), String> {
        let failed: Vec<String> = self
            .rows
            .iter()
            .flat_map(|line| line.stacks.iter().map(move |cell| (line, cell)))
            .filter_map(|(line, cell)| Some(format!("{} {}: {}", line.id, cell.name, cell.failed.as_ref()?)))
            .collect();
        if failed.is_empty() { Ok(()) } else { Err(format!("these runs failed:\n  {}", failed.join("\n  "))) }
    }
}

fn cell(runs: &Runs) -> Cell {
    let (skipped, failed) = match &runs.trouble {
        None => (None, None),
        Some(Trouble::Skipped(why)) => (Some(why.clone()), None),
        Some(Trouble::Failed(why)) => (None, Some(why.clone())),
    };
    Cell {
        name: runs.name,
        value: if runs.trouble.is_none() { runs.median() } else { None },
        lowest: runs.spread().map(|s| s.0),
        highest: runs.spread().map(|s| s.1),
        instructions: runs.instructions,
        more: runs.more(),
        skipped,
        failed,
    }
}

/// Judges one goal.
fn verdict(row: &Row, runs: &[Runs], goal: &Goal, ours_in: &dyn Fn(&str) -> Option<f64>) -> Verdict {
    let smaller = row.unit.smaller_is_better();
    let ours = runs.iter().find(|r| r.name == OURS);
    let value = ours.and_then(Runs::median);
    let peers = || runs.iter().filter(|r| !r.name.starts_with(OURS));
    let best = || {
        let values = peers().filter_map(|r| Some((r.median()?, r.name)));
        if smaller {
            values.min_by(|a, b| a.0.total_cmp(&b.0))
        } else {
            values.max_by(|a, b| a.0.total_cmp(&b.0))
        }
    };
    let (ours, against, name, factor) = match *goal {
        Goal::OfBestPeer(factor) => {
            let best = best();
            (value, best.map(|b| b.0), best.map_or("the best peer", |b| b.1).to_owned(), factor)
        }
        Goal::OfPeer(peer, factor) => {
            (value, peers().find(|r| r.name == peer).and_then(Runs::median), peer.to_owned(), factor)
        }
        Goal::OfRow(id, factor) => (value, ours_in(id), format!("corelane in {id}"), factor),
        Goal::Value(limit) => (value, Some(1.0), String::new(), limit),
        Goal::Instructions(limit) => (ours.and_then(|r| r.instructions), Some(1.0), String::new(), limit),
    };
    let absolute = matches!(goal, Goal::Value(_) | Goal::Instructions(_));
    let upper = smaller || matches!(goal, Goal::Instructions(_));
    let number = ours.zip(against).filter(|(_, a)| *a > 0.0).map(|(v, a)| v / a);
    let sign = if upper { "<=" } else { ">=" };
    let words = match goal {
        Goal::Value(_) => format!("{sign} {} {}", figure(factor), row.unit.text()),
        Goal::Instructions(_) => format!("{sign} {} instructions", figure(factor)),
        Goal::OfBestPeer(_) | Goal::OfPeer(..) | Goal::OfRow(..) => {
            format!("{sign} {} x {name}", figure(factor))
        }
    };
    Verdict {
        goal: words,
        ours,
        against: if absolute { None } else { against },
        against_name: name,
        number,
        reached: number.map(|n| if upper { n <= factor } else { n >= factor }),
    }
}

/// The lines of a row: one a stack.
fn rows_of(line: &Line) -> String {
    let mut out = String::new();
    let ours = line.stacks.iter().find(|c| c.name == OURS).and_then(|c| c.value);
    for (n, cell) in line.stacks.iter().enumerate() {
        let id = if n == 0 { line.id.as_str() } else { "" };
        let what = match (&cell.value, &cell.skipped, &cell.failed) {
            (Some(value), ..) => {
                let ratio = ours.map_or_else(|| "-".to_owned(), |ours| figure(value / ours));
                let count = cell.instructions.map_or_else(|| "-".to_owned(), figure);
                format!("{:>12} {:<11}{ratio:>11}{count:>13}", figure(*value), line.unit)
            }
            (None, Some(why), _) => format!("  skipped: {why}"),
            (None, None, why) => format!("  FAILED: {}", why.as_deref().unwrap_or("no value")),
        };
        let _ = writeln!(out, "{id:<42}{:>20}{what}", cell.name);
    }
    out
}

/// A row that has just been measured.
pub(crate) fn say(row: &Row, runs: &[Runs]) {
    for runs in runs {
        let what = match (&runs.trouble, runs.median(), runs.spread()) {
            (Some(Trouble::Skipped(why)), ..) => format!("skipped: {why}"),
            (Some(Trouble::Failed(why)), ..) => format!("FAILED: {why}"),
            (None, Some(median), Some((low, high))) => {
                let mut text =
                    format!("{} {}   ({} to {})", figure(median), row.unit.text(), figure(low), figure(high));
                if let Some(count) = runs.instructions {
                    let _ = write!(text, "   {} instructions", figure(count));
                }
                for (name, value) in runs.more() {
                    let _ = write!(text, "   {name} {}", figure(value));
                }
                text
            }
            (None, ..) => "no value".to_owned(),
        };
        eprintln!("    {:<20} {what}", runs.name);
    }
}

/// `--list`.
pub(crate) fn list(rows: &[Row]) {
    println!("{:<42}{:<7}{:<12}{:<44}work", "row", "short", "unit", "stacks");
    for row in rows {
        let names: Vec<&str> = row.stacks.iter().map(|stack| stack.name).collect();
        let short = if row.short { "yes" } else { "" };
        println!("{:<42}{short:<7}{:<12}{:<44}{}", row.id, row.unit.text(), names.join(", "), row.work);
    }
}
