//! Goodput over 100 Mb/s and 40 ms, of the engine and of Linux's own stack on the same path, and how two flows share it.
//!
//! Leaves out how either gets its packets through: [`crate::run`] and [`crate::kernel`].

use std::fmt::Write as _;

use base::{Duration, Rng};
use engine::Algorithm;
use state::TcpOptions;

use crate::bottleneck::{BottleneckSpec, Discipline};
use crate::bulk::{BulkPlan, jain};
use crate::kernel::{self, Lateness};
use crate::link::LinkSpec;
use crate::scenario::Scenario;
use crate::world;

/// Algorithms that both stacks have.
const ALGORITHMS: [Algorithm; 3] = [Algorithm::Cubic, Algorithm::Reno, Algorithm::Bbr];
/// Losses, in a million.
const LOSSES: [u32; 4] = [0, 1_000, 10_000, 30_000];
/// Of what Linux gets through the engine must get this share.
pub const GOAL: f64 = 0.95;
/// Time between the starts of two flows, at least, ...
const APART: Duration = Duration::from_millis(500);
/// ... and how much more it may be.
const APART_MORE: Duration = Duration::from_millis(400);
/// Runs of one seed on Linux until one is not spoilt.
const TRIES: u32 = 4;

/// What to measure.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Plan {
    /// Linux too: needs root, and as long as the runs last.
    pub linux: bool,
    /// Time of one run.
    pub time: Duration,
    /// Runs of a case, with other losses each; see [`Case::runs`].
    pub runs: u64,
    /// Runs at the same time on Linux, where losses keep rates low.
    pub jobs: usize,
}

/// One flow, or two that share.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Case {
    /// Congestion control.
    pub algorithm: Algorithm,
    /// Loss, in a million packets.
    pub drop_ppm: u32,
    /// Flows.
    pub flows: usize,
}

/// What a stack got through in one case, over all runs.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Outcome {
    /// Mb/s of all flows together, of each run.
    pub rates: Vec<f64>,
    /// Jain's index of each run.
    pub fairness: Vec<f64>,
}

/// A case and its outcomes.
#[derive(Clone, PartialEq, Debug)]
pub struct Row {
    /// What was played.
    pub case: Case,
    /// By the engine, in the simulator.
    pub ours: Outcome,
    /// By Linux; or why not.
    pub linux: Option<Result<Outcome, String>>,
    /// Runs on Linux that were thrown away, because the path was late.
    pub spoilt: u32,
    /// The worst of the runs that count.
    pub late: Lateness,
}

impl Case {
    /// All that are measured.
    pub fn all() -> impl Iterator<Item = Self> {
        let one = ALGORITHMS
            .into_iter()
            .flat_map(|algorithm| LOSSES.map(|drop_ppm| Self { algorithm, drop_ppm, flows: 1 }));
        one.chain(ALGORITHMS.map(|algorithm| Self { algorithm, drop_ppm: 0, flows: 2 }))
    }

    /// `cubic-0.1%`, `cubic-2flows`.
    #[must_use]
    pub fn name(&self) -> String {
        match self.flows {
            1 => format!("{}-{}%", self.algorithm.name(), f64::from(self.drop_ppm) / 10_000.0),
            n => format!("{}-{n}flows", self.algorithm.name()),
        }
    }

    /// The path: 40 ms there and back, a queue of one round trip, losses before the queue.
    #[must_use]
    pub fn plan(&self, time: Duration) -> BulkPlan {
        BulkPlan {
            flows: self.flows,
            bottleneck: BottleneckSpec {
                left: 0,
                bits_per_second: 100_000_000,
                delay: Duration::from_millis(19),
                queue_bytes: 500_000,
                discipline: Discipline::DropTail,
            },
            link: LinkSpec { drop_ppm: self.drop_ppm, ..LinkSpec::ideal(Duration::from_millis(1)) },
            stagger: APART,
            // Two flows need longer to find their shares.
            time: time.times(if self.flows > 1 { 3 } else { 1 }),
            options: TcpOptions { congestion: self.algorithm as u8, ..TcpOptions::default() },
            frames: 16_384,
        }
    }

    /// The path and the flows of run `seed`: flows that share begin another time apart in each. In a queue that drops what comes when it is full, which
    /// flow loses is a matter of microseconds (phase effects: Floyd and Jacobson 1992), and without losses of its own a path is the same in each run.
    #[must_use]
    pub fn plan_of(&self, time: Duration, seed: u64) -> BulkPlan {
        let plan = self.plan(time);
        let more = Rng::new(seed ^ 0x57a6).below(APART_MORE.as_micros());
        let stagger = if self.flows > 1 { Duration(APART.0 + Duration::from_micros(more).0) } else { APART };
        BulkPlan { stagger, ..plan }
    }

    /// Is the rate about that of the link? Then Linux plays its runs one by one.
    fn is_steady(&self) -> bool {
        self.drop_ppm == 0 || self.algorithm == Algorithm::Bbr
    }

    /// Runs that tell what there is to tell, of `runs`: random losses scatter, those of BBR less, a full link does not. How two share it does.
    #[must_use]
    pub fn runs(&self, runs: u64) -> u64 {
        match (self.is_steady(), self.drop_ppm) {
            (_, 0) if self.flows > 1 => runs.min(12),
            (_, 0) => runs.min(3),
            (true, _) => runs.min(8),
            (false, _) => runs,
        }
    }

    /// Mathis, Semke, Mahdavi, Ott 1997, in Mb/s; CUBIC's Reno-friendly region has the same (RFC 9438 5.1). BBR does not follow it.
    #[must_use]
    pub fn model(&self) -> f64 {
        let p = f64::from(self.drop_ppm) / 1e6;
        (1448.0 * 8.0 / 0.04 * (1.5 / p).sqrt() / 1e6).min(95.6)
    }
}

impl Outcome {
    fn add(&mut self, carried: impl Iterator<Item = u64>, time: Duration) {
        let seconds = time.0 as f64 / 1e9;
        let rates: Vec<f64> = carried.map(|bytes| bytes as f64 * 8.0 / seconds / 1e6).collect();
        self.rates.push(rates.iter().sum());
        self.fairness.push(jain(&rates));
    }

    /// Mb/s, the mean of all runs.
    #[must_use]
    pub fn rate(&self) -> f64 {
        mean(&self.rates)
    }

    /// Jain's index: lower quartile, median and upper quartile of all runs.
    #[must_use]
    pub fn jain(&self) -> [f64; 3] {
        quartiles(&self.fairness)
    }

    /// Standard error of [`Outcome::rate`], as a share of it.
    #[must_use]
    pub fn error(&self) -> f64 {
        let (n, rate) = (self.rates.len() as f64, self.rate());
        let squares: f64 = self.rates.iter().map(|r| (r - rate) * (r - rate)).sum();
        if n < 2.0 || rate == 0.0 { 0.0 } else { (squares / (n - 1.0) / n).sqrt() / rate }
    }
}

/// Values at a quarter, half and three quarters of all, the nearest ones.
fn quartiles(values: &[f64]) -> [f64; 3] {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    [1, 2, 3].map(|quarter| sorted.get((last * quarter + 2) / 4).copied().unwrap_or_default())
}

fn shares([low, median, high]: [f64; 3]) -> String {
    format!("{median:.3} ({low:.3} to {high:.3})")
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / (values.len() as f64).max(1.0)
}

impl Row {
    /// Our share of what Linux gets through, if that is known.
    #[must_use]
    pub fn ratio(&self) -> Option<f64> {
        let linux = self.linux.as_ref()?.as_ref().ok()?;
        (linux.rate() > 0.0).then(|| self.ours.rate() / linux.rate())
    }

    /// One line of a table.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = format!(
            "| {:<12} | {:>6.2} ± {:>3.1} % ",
            self.case.name(),
            self.ours.rate(),
            self.ours.error() * 100.0
        );
        // Writing to a string cannot fail.
        let _ = match &self.linux {
            Some(Ok(linux)) => write!(
                line,
                "| {:>6.2} ± {:>3.1} % | {:>5.3} ",
                linux.rate(),
                linux.error() * 100.0,
                self.ratio().unwrap_or_default()
            ),
            Some(Err(why)) => write!(line, "| {why} | "),
            None => write!(line, "| | "),
        };
        let _ = write!(line, "| {:>6.2} ", self.case.model());
        let theirs = self.linux.as_ref().and_then(|l| l.as_ref().ok());
        let _ = match theirs.filter(|_| self.case.flows > 1) {
            Some(linux) => write!(line, "| {}, Linux {} |", shares(self.ours.jain()), shares(linux.jain())),
            None if self.case.flows > 1 => write!(line, "| {} |", shares(self.ours.jain())),
            None => write!(line, "| |"),
        };
        line
    }
}

/// Head of the table that [`Row::line`] fills.
pub const HEAD: &str = "\
| case | Corelane, Mb/s | Linux, Mb/s | ratio | Reno's model | Jain's index: median (quartiles) |
|---|---|---|---|---|---|";

/// Plays one case on both stacks.
///
/// # Errors
/// What an oracle of the simulator found. That Linux could not be measured stands in the row.
pub fn play(case: Case, plan: &Plan) -> Result<Row, String> {
    let mut ours = Outcome::default();
    for seed in 1..=case.runs(plan.runs) {
        let bulk = case.plan_of(plan.time, seed);
        let report = world::run(&Scenario::bulk(&bulk, seed)).map_err(|failure| failure.to_string())?;
        ours.add(report.carried.iter().map(|c| c.up), bulk.time);
    }
    let mut row = Row { case, ours, linux: None, spoilt: 0, late: Lateness::default() };
    if plan.linux {
        row.linux = Some(play_linux(&mut row, plan));
    }
    Ok(row)
}

fn play_linux(row: &mut Row, plan: &Plan) -> Result<Outcome, String> {
    let case = row.case;
    let name = case.algorithm.name();
    if !kernel::algorithms()?.iter().any(|known| known == name) {
        return Err(format!("this kernel has no {name}"));
    }
    let mut outcome = Outcome::default();
    let jobs = if case.is_steady() { 1 } else { plan.jobs.max(1) };
    let mut wanted: Vec<(u64, u32)> = (1..=case.runs(plan.runs)).map(|seed| (seed, 0)).collect();
    while !wanted.is_empty() {
        let now: Vec<(u64, u32)> = wanted.drain(..jobs.min(wanted.len())).collect();
        let done: Vec<_> = std::thread::scope(|scope| {
            let one = |seed| kernel::measure(&case.plan_of(plan.time, seed), name, seed);
            let runs = now.iter().map(|(seed, _)| scope.spawn(move || one(*seed)));
            let runs: Vec<_> = runs.collect();
            runs.into_iter().map(|run| run.join().unwrap_or_else(|_| Err("panicked".to_owned()))).collect()
        });
        for ((seed, tries), measured) in now.into_iter().zip(done) {
            let measured = measured?;
            if measured.late.spoils() || measured.missed > 0 {
                row.spoilt += 1;
                if tries + 1 == TRIES {
                    return Err(format!(
                        "the machine is too busy: {:?}, {} missed",
                        measured.late, measured.missed
                    ));
                }
                wanted.push((seed, tries + 1));
                continue;
            }
            row.late.packets += measured.late.packets;
            row.late.too_late += measured.late.too_late;
            row.late.most = row.late.most.max(measured.late.most);
            outcome.add(measured.carried.into_iter(), case.plan_of(plan.time, seed).time);
        }
    }
    Ok(outcome)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_that_share_begin_another_time_apart_in_each_run() {
        let two = Case { algorithm: Algorithm::Reno, drop_ppm: 0, flows: 2 };
        let apart = |seed| two.plan_of(Duration::from_secs(1), seed).stagger;
        assert_eq!(apart(1), apart(1));
        for seed in 1..20 {
            assert!(apart(seed) != apart(seed + 1) && apart(seed) >= APART);
            assert!(apart(seed).0 < APART.0 + APART_MORE.0);
        }
    }

    #[test]
    fn quartiles_are_values_that_were_measured() {
        let near = |values: &[f64], wanted: [f64; 3]| {
            quartiles(values).iter().zip(wanted).all(|(a, b)| (a - b).abs() < 1e-9)
        };
        assert!(near(&[5.0, 1.0, 4.0, 2.0, 3.0], [2.0, 3.0, 4.0]));
        assert!(near(&[7.0], [7.0; 3]) && near(&[], [0.0; 3]));
    }
}
