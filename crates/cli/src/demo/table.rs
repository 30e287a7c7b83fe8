//! The figures as a table for people and as rows for machines.

use std::fmt::Write;

use serde::Serialize;

use super::measure::{Figures, Plan, Sample, Series};

/// One row of the report.
#[derive(Clone, Debug, Serialize, PartialEq)]
pub(super) struct Row {
    pub(super) id: &'static str,
    pub(super) value: Option<f64>,
    pub(super) unit: &'static str,
    pub(super) peer: &'static str,
    pub(super) peer_value: Option<f64>,
    /// value / peer_value.
    pub(super) ratio: Option<f64>,
    /// What the ratio should be: at least, or at most when smaller is better.
    pub(super) goal: Option<f64>,
    pub(super) reached: Option<bool>,
    pub(super) note: String,
}

/// One line of the table: how it is taken from a series.
struct Line {
    id: &'static str,
    label: &'static str,
    unit: &'static str,
    smaller_is_better: bool,
    goal: Option<f64>,
    take: fn(&Series) -> Option<f64>,
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        1 => values.get(middle).copied(),
        _ => Some((values.get(middle.checked_sub(1)?)? + values.get(middle)?) / 2.0),
    }
}

fn over(samples: &[Sample], take: fn(&Sample) -> f64) -> Option<f64> {
    median(samples.iter().map(take).collect())
}

const fn line(
    id: &'static str,
    label: &'static str,
    unit: &'static str,
    take: fn(&Series) -> Option<f64>,
) -> Line {
    Line { id, label, unit, smaller_is_better: false, goal: None, take }
}

impl Line {
    const fn smaller(mut self) -> Self {
        self.smaller_is_better = true;
        self
    }

    const fn goal(mut self, ratio: f64) -> Self {
        self.goal = Some(ratio);
        self
    }
}

fn lines() -> Vec<Line> {
    vec![
        line("keepalive-rate", "keep-alive requests/s", "1/s", |s| over(&s.keep_alive, |x| x.requests.rate)),
        line("keepalive-p50", "  latency p50", "us", |s| over(&s.keep_alive, |x| x.requests.p50_us))
            .smaller(),
        line("keepalive-p99", "  latency p99", "us", |s| over(&s.keep_alive, |x| x.requests.p99_us))
            .smaller(),
        line("keepalive-server-cpu", "  server CPU/request", "us", |s| {
            over(&s.keep_alive, |x| x.server_cpu_us)
        })
        .smaller(),
        line("keepalive-machine-cpu", "  machine CPU/request", "us", |s| {
            over(&s.keep_alive, |x| x.machine_cpu_us)
        })
        .smaller(),
        line("close-rate", "Connection: close requests/s", "1/s", |s| over(&s.close, |x| x.requests.rate)),
        line("close-p50", "  latency p50", "us", |s| over(&s.close, |x| x.requests.p50_us)).smaller(),
        line("close-p99", "  latency p99", "us", |s| over(&s.close, |x| x.requests.p99_us)).smaller(),
        line("close-server-cpu", "  server CPU/request", "us", |s| over(&s.close, |x| x.server_cpu_us))
            .smaller()
            .goal(0.7),
        line("close-machine-cpu", "  machine CPU/request", "us", |s| over(&s.close, |x| x.machine_cpu_us))
            .smaller(),
        line("file", "large file, checked", "Gb/s", |s| median(s.file_gbit.clone())),
        line("bulk-receive", "iperf3, server receives", "Gb/s", |s| median(s.bulk_in_gbit.clone())).goal(0.8),
        line("bulk-send", "iperf3, server sends", "Gb/s", |s| median(s.bulk_out_gbit.clone())).goal(0.8),
    ]
}

/// The rows of the report: medians over the rounds.
pub(super) fn rows(figures: &Figures) -> Vec<Row> {
    let row = |line: &Line| {
        let (value, peer_value) = ((line.take)(&figures.corelane), (line.take)(&figures.kernel));
        let ratio = value.zip(peer_value).filter(|(_, peer)| *peer > 0.0).map(|(v, peer)| v / peer);
        let reached = line.goal.map(|goal| {
            ratio.is_some_and(|ratio| if line.smaller_is_better { ratio <= goal } else { ratio >= goal })
        });
        let note = format!("{}; median of {} rounds", line.label.trim(), figures.kernel.keep_alive.len());
        Row {
            id: line.id,
            value,
            unit: line.unit,
            peer: "kernel",
            peer_value,
            ratio,
            goal: line.goal,
            reached,
            note,
        }
    };
    let mut rows: Vec<Row> = lines().iter().map(row).collect();
    let sound = figures.faults.is_empty();
    rows.push(Row {
        id: "correct",
        value: Some(f64::from(u8::from(sound))),
        unit: "bool",
        peer: "kernel",
        peer_value: None,
        ratio: None,
        goal: None,
        reached: Some(sound),
        note: if sound { "every answer whole, digest equal".to_owned() } else { figures.faults.join("; ") },
    });
    rows
}

fn figure(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(v) if v >= 1000.0 => format!("{v:.0}"),
        Some(v) if v >= 100.0 => format!("{v:.1}"),
        Some(v) => format!("{v:.2}"),
    }
}

/// The table and what there is to say about it.
/// What the CPU figures count.
fn counted(server_core: Option<usize>) -> String {
    match server_core {
        Some(core) => format!(
            "Client and server have a processor each, on which also their\ndevice's packets are received (RPS), as two machines \
             would. Server CPU: all busy time of the server's (number {core}),\ninterrupts, softirqs, keeper and steward \
             included. Machine CPU: that of all processors."
        ),
        None => "Server CPU: user and system time of the server's\nprocesses, on Corelane with its keeper and steward; the \
                 kernel does much of a server's receiving in softirqs that run on\nthe sender's account, so machine CPU counts \
                 all busy time of all processors, client included."
            .to_owned(),
    }
}

pub(super) fn text(figures: &Figures, rows: &[Row], plan: &Plan) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = writeln!(out, "{:<32}{:>12}{:>12}  {:<5}{:>8}", "", "kernel", "Corelane", "", "ratio");
    for (line, row) in lines().iter().zip(rows) {
        if row.value.is_none() && row.peer_value.is_none() {
            continue;
        }
        let ratio = row.ratio.map_or("-".to_owned(), |r| format!("{r:.2}"));
        let sign = if line.smaller_is_better { "<=" } else { ">=" };
        let goal = match (row.goal, row.reached) {
            (Some(goal), Some(true)) => format!("  goal {sign} {goal}: reached"),
            (Some(goal), _) => format!("  goal {sign} {goal}: missed"),
            (None, _) => String::new(),
        };
        let (kernel, ours) = (figure(row.peer_value), figure(row.value));
        let _ = writeln!(out, "{:<32}{kernel:>12}{ours:>12}  {:<5}{ratio:>8}{goal}", line.label, line.unit);
    }
    let _ = writeln!(
        out,
        "\nMedians of {} round(s). Ratio: Corelane / kernel. {}",
        plan.rounds,
        counted(plan.server_core)
    );
    if !figures.accelerated.is_empty() {
        let _ = writeln!(out, "\nWhat was accelerated:");
        for line in &figures.accelerated {
            let _ = writeln!(out, "  {line}");
        }
    }
    for fault in &figures.faults {
        let _ = writeln!(out, "\nFAULT: {fault}");
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_or_the_mean_of_the_two_in_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), Some(2.5));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn a_goal_for_cpu_is_an_upper_bound_and_one_for_bulk_a_lower() {
        let mut figures = Figures::default();
        let sample = |cpu| Sample { server_cpu_us: cpu, ..Sample::default() };
        figures.kernel.close = vec![sample(10.0)];
        figures.corelane.close = vec![sample(6.0)];
        figures.kernel.bulk_in_gbit = vec![10.0];
        figures.corelane.bulk_in_gbit = vec![6.0];
        let rows = rows(&figures);
        let reached = |id| rows.iter().find(|r| r.id == id).and_then(|r| r.reached);
        assert_eq!(reached("close-server-cpu"), Some(true));
        assert_eq!(reached("bulk-receive"), Some(false));
        assert_eq!(reached("bulk-send"), Some(false));
        assert_eq!(reached("correct"), Some(true));
    }
}
