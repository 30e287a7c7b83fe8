//! The page of results, `docs/bench.md`, and its plots.

use std::fmt::Write as _;
use std::path::Path;

use crate::machine::Machine;
use crate::plot::{self, Chart, Series};
use crate::report::{Cell, Line, MODES, Report, mode};
use crate::rows::OURS;
use crate::stats::figure;

/// Plots: id, title, words under the x axis. A plot's y axis is its rows' unit.
const PLOTS: &[(&str, &str, &str)] = &[
    ("engine-rr", "Engine only: request/response over the number of connections", "connections"),
    ("engine-conn", "Engine only: short connections", "connections at a time"),
    ("engine-bulk", "Engine only: bulk", "MTU, bytes"),
    ("socket-rr", "Unmodified epoll programs: request/response", "connections"),
    ("socket-conn", "Unmodified epoll programs: short connections", "connections at a time"),
    ("cores", "Scaling over lanes", "lanes"),
];

/// Rows whose percentiles make the plot of latencies.
const LATENCY: &[&str] = &["socket-pingpong-spinning", "veth-pingpong-spinning", "memif-pingpong"];

/// Writes the page `bench.md` in `dir`, and the plots in `dir/bench`.
pub(crate) fn write(report: &Report, machine: &Machine, dir: &Path) -> Result<(), String> {
    let plots = dir.join("bench");
    std::fs::create_dir_all(&plots).map_err(|e| format!("cannot make {}: {e}", plots.display()))?;
    let mut drawn = Vec::new();
    for (id, chart) in charts(report) {
        if let Some(text) = plot::svg(&chart) {
            save(&plots.join(format!("{id}.svg")), &text)?;
            drawn.push((id, chart.title));
        }
    }
    save(&dir.join("bench.md"), &text(report, machine, &drawn))?;
    println!("\nwritten: {}", dir.join("bench.md").display());
    Ok(())
}

fn save(file: &Path, text: &str) -> Result<(), String> {
    std::fs::write(file, text).map_err(|e| format!("cannot write {}: {e}", file.display()))
}

fn text(report: &Report, machine: &Machine, drawn: &[(String, String)]) -> String {
    let mut out = format!(
        "# Benches\n\n`cargo xtask bench` measures everything here and writes this page; `cargo xtask bench --short` takes under five \
         minutes and writes `target/bench/bench.md`. Only figures of one run compare: ratios count, nanoseconds are for orientation.\n\n\
         | | |\n|---|---|\n| processor | {} x {} |\n| memory | {:.0} GiB |\n| system | {}, Linux {}, congestion control {} |\n| compiler | {} |\n\
         | run | {}, commit {}, {} |\n",
        machine.cores,
        machine.cpu,
        machine.memory_gib,
        machine.system,
        machine.kernel,
        machine.congestion_control,
        machine.compiler,
        machine.date,
        machine.commit,
        if report.short { "short" } else { "full" }
    );
    let priority =
        if machine.realtime { "runs had real-time priority" } else { "runs had the priority of everybody" };
    let _ = writeln!(
        out,
        "| other work on the machine | load {:.1} in the minute before; {priority} |",
        machine.load_before
    );
    let _ = writeln!(
        out,
        "\nEach figure is the median of {} runs of each stack, in turns, each in a process of its own, pinned. *instructions*: of one operation, \
         by callgrind, the difference of runs with N and 2 N operations over N.\n",
        report.rounds
    );
    goals(&mut out, report);
    missed(&mut out, report);
    for (id, title) in drawn {
        let _ = writeln!(out, "![{title}](bench/{id}.svg)\n");
    }
    for (name, sentence) in MODES {
        let lines: Vec<&Line> =
            report.rows.iter().filter(|line| mode(&line.id).is_some_and(|m| m.0 == *name)).collect();
        if !lines.is_empty() {
            let _ = writeln!(out, "## {}\n\n{sentence}\n", name);
            let _ = writeln!(
                out,
                "| work | stack | median | lowest to highest | x corelane | instructions | further |"
            );
            let _ = writeln!(out, "|---|---|---|---|---|---|---|");
            lines.iter().for_each(|line| out.push_str(&table(line)));
            out.push('\n');
        }
    }
    out
}

fn goals(out: &mut String, report: &Report) {
    let _ = writeln!(out, "## Figures to reach\n\n| work | row | corelane | against | is | goal | reached |");
    let _ = writeln!(out, "|---|---|---|---|---|---|---|");
    let (mut yes, mut no, mut open) = (0, 0, 0);
    for line in &report.rows {
        for verdict in &line.goals {
            let word = match verdict.reached {
                Some(true) => "yes",
                Some(false) => "**no**",
                None => "not measured",
            };
            match verdict.reached {
                Some(true) => yes += 1,
                Some(false) => no += 1,
                None => open += 1,
            }
            let show = |v: Option<f64>| v.map_or_else(|| "-".to_owned(), figure);
            let (_, sentence) = mode(&line.id).unwrap_or_default();
            let short = sentence.split([':', ',', '.']).next().unwrap_or_default();
            let _ = writeln!(
                out,
                "| {short}: {} | `{}` | {} | {} | {} | {} | {word} |",
                line.work,
                line.id,
                show(verdict.ours),
                show(verdict.against),
                show(verdict.number),
                verdict.goal
            );
        }
    }
    let _ = writeln!(out, "\n{yes} reached, {no} not, {open} not measured.\n");
}

/// What stands in the way where a goal is missed.
fn missed(out: &mut String, report: &Report) {
    let missed = report
        .rows
        .iter()
        .filter(|l| l.goals.iter().any(|g| g.reached != Some(true)) && !l.obstacle.is_empty());
    let lines: Vec<&Line> = missed.collect();
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(out, "What stands in the way:\n");
    for line in lines {
        let _ = writeln!(out, "- `{}`: {}", line.id, line.obstacle);
    }
    out.push('\n');
}

fn table(line: &Line) -> String {
    let mut out = String::new();
    let ours = line.stacks.iter().find(|c| c.name == OURS).and_then(|c| c.value);
    for (n, cell) in line.stacks.iter().enumerate() {
        let work = if n == 0 { format!("{} (`{}`)", line.work, line.id) } else { String::new() };
        let _ = write!(out, "| {work} | {} | ", cell.name);
        let Some(value) = cell.value else {
            let why = cell.skipped.as_ref().map(|w| format!("skipped: {w}"));
            let why =
                why.or_else(|| cell.failed.as_ref().map(|w| format!("failed: {w}"))).unwrap_or_default();
            let _ = writeln!(out, "{} | | | | |", why.replace('\n', " "));
            continue;
        };
        let ratio = ours.map_or_else(|| "-".to_owned(), |ours| figure(value / ours));
        let spread = cell.lowest.zip(cell.highest).map(|(l, h)| format!("{} to {}", figure(l), figure(h)));
        let count = cell.instructions.map(figure).unwrap_or_default();
        let _ = writeln!(
            out,
            "{} {} | {} | {ratio} | {count} | {} |",
            figure(value),
            line.unit,
            spread.unwrap_or_default(),
            further(cell)
        );
    }
    out
}

/// The further figures, without those that are nothing.
fn further(cell: &Cell) -> String {
    let all = cell.more.iter().filter(|(_, value)| *value > 0.0);
    let words: Vec<String> = all
        .map(|(name, value)| {
            let (what, unit) = name.rsplit_once('_').unwrap_or((name, ""));
            format!("{} {} {unit}", what.replace('_', " "), figure(*value))
        })
        .collect();
    words.join(", ")
}

/// What there is to draw.
fn charts(report: &Report) -> Vec<(String, Chart)> {
    let mut ids: Vec<&str> = report.rows.iter().filter_map(|line| line.plot.map(|p| p.0)).collect();
    ids.dedup();
    let mut found: Vec<(String, Chart)> = Vec::new();
    for id in ids {
        if found.iter().all(|(other, _)| other != id) {
            found.push((id.to_owned(), chart(report, id)));
        }
    }
    found.push(("latency".to_owned(), latency(report)));
    found
}

fn chart(report: &Report, id: &str) -> Chart {
    let (title, x_label) = PLOTS.iter().find(|p| p.0 == id).map_or((id, ""), |p| (p.1, p.2));
    let lines: Vec<(&Line, f64)> = report
        .rows
        .iter()
        .filter_map(|line| line.plot.filter(|(plot, _)| *plot == id).map(|(_, x)| (line, x)))
        .collect();
    let mut names: Vec<&str> = Vec::new();
    for cell in lines.iter().flat_map(|(line, _)| &line.stacks) {
        if !names.contains(&cell.name) {
            names.push(cell.name);
        }
    }
    let points = |name: &str| {
        let value = |line: &Line| line.stacks.iter().find(|c| c.name == name).and_then(|c| c.value);
        lines.iter().filter_map(|(line, x)| Some((*x, value(line)?))).collect::<Vec<_>>()
    };
    let series = names.iter().map(|name| Series { name: (*name).to_owned(), points: points(name) });
    Chart {
        title: title.to_owned(),
        x_label: x_label.to_owned(),
        y_label: lines.first().map(|(line, _)| line.unit.to_owned()).unwrap_or_default(),
        series: series.filter(|s| !s.points.is_empty()).collect(),
        x_names: Vec::new(),
    }
}

/// Percentiles of one exchange.
fn latency(report: &Report) -> Chart {
    const AT: [(&str, &str); 5] = [
        ("p50_us", "p50"),
        ("p90_us", "p90"),
        ("p99_us", "p99"),
        ("p99.9_us", "p99.9"),
        ("p99.99_us", "p99.99"),
    ];
    let mut series = Vec::new();
    for line in report.rows.iter().filter(|line| LATENCY.contains(&line.id.as_str())) {
        for cell in &line.stacks {
            let named = AT.iter().enumerate();
            let points: Vec<(f64, f64)> =
                named.filter_map(|(n, (name, _))| Some((n as f64, cell.named(name)?))).collect();
            let place = line.id.split('-').next().unwrap_or_default();
            if !points.is_empty() {
                series.push(Series { name: format!("{place}: {}", cell.name), points });
            }
        }
    }
    Chart {
        title: "One exchange of 64 bytes each way, neither end sleeps".to_owned(),
        x_label: "percentile".to_owned(),
        y_label: "us".to_owned(),
        series,
        x_names: AT.iter().map(|(_, name)| (*name).to_owned()).collect(),
    }
}
