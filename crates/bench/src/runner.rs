//! Runs rows: each run in a process of its own, stacks in turns, pinned, with a limit of time.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use sys::launch::Launch;

use crate::count::{self, Instructions};
use crate::rows::{FULL, Job, Outcome, Row, Sample, Stack, Trouble};
use crate::stats::median;

/// How a whole run of the bench goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Few operations, few rounds.
    pub(crate) short: bool,
    /// Runs of each stack of a row.
    pub(crate) rounds: usize,
    /// Count instructions where a row allows it.
    pub(crate) instructions: bool,
}

impl Plan {
    /// The work of one run of `row`.
    fn job(&self, row: &Row) -> Job {
        Job { count: row.count * if self.short { 1 } else { FULL }, seconds: if self.short { 1 } else { 3 } }
    }
}

/// All runs of one stack of a row.
#[derive(Clone, Default, Debug)]
pub(crate) struct Runs {
    pub(crate) name: &'static str,
    pub(crate) samples: Vec<Sample>,
    pub(crate) instructions: Option<f64>,
    /// Why there are no samples.
    pub(crate) trouble: Option<Trouble>,
}

impl Runs {
    /// The figure that counts.
    pub(crate) fn median(&self) -> Option<f64> {
        median(&self.samples.iter().map(|s| s.value).collect::<Vec<_>>())
    }

    /// Smallest and largest.
    pub(crate) fn spread(&self) -> Option<(f64, f64)> {
        let mut values: Vec<f64> = self.samples.iter().map(|s| s.value).collect();
        values.sort_by(f64::total_cmp);
        Some((*values.first()?, *values.last()?))
    }

    /// Medians of the further figures.
    pub(crate) fn more(&self) -> Vec<(String, f64)> {
        let Some(first) = self.samples.first() else { return Vec::new() };
        let all = |name: &str| {
            self.samples
                .iter()
                .filter_map(|s| s.more.iter().find(|(n, _)| n == name))
                .map(|(_, v)| *v)
                .collect()
        };
        first
            .more
            .iter()
            .filter_map(|(name, _)| Some((name.clone(), median(&all(name) as &Vec<f64>)?)))
            .collect()
    }
}

/// Measures one row.
pub(crate) fn measure(row: &Row, plan: &Plan) -> Vec<Runs> {
    let job = plan.job(row);
    let mut all: Vec<Runs> =
        row.stacks.iter().map(|stack| Runs { name: stack.name, ..Runs::default() }).collect();
    for round in 0..plan.rounds {
        let order: Vec<usize> =
            if round % 2 == 0 { (0..all.len()).collect() } else { (0..all.len()).rev().collect() };
        for at in order {
            let (Some(stack), Some(runs)) = (row.stacks.get(at), all.get_mut(at)) else { continue };
            if runs.trouble.is_some() {
                continue;
            }
            match run(row, stack, &job) {
                Ok(sample) => runs.samples.push(sample),
                Err(trouble) => runs.trouble = Some(trouble),
            }
        }
    }
    if plan.instructions {
        for (stack, runs) in row.stacks.iter().zip(&mut all) {
            match stack.counter.as_ref().filter(|_| runs.trouble.is_none()).map(|count| count()) {
                Some(Ok(each)) => runs.instructions = Some(each),
                Some(Err(trouble)) => {
                    eprintln!("  {} {}: no instruction count: {trouble:?}", row.id, runs.name);
                }
                None => {}
            }
        }
    }
    if plan.instructions
        && let Some(operations) = row.counted
    {
        for runs in &mut all {
            if runs.trouble.is_none() && count::worth_counting(row, runs.name) {
                match count::instructions(row, runs.name, operations) {
                    Ok(Instructions(each)) => runs.instructions = Some(each),
                    Err(trouble) => {
                        eprintln!("  {} {}: no instruction count: {trouble:?}", row.id, runs.name)
                    }
                }
            }
        }
    }
    all
}

/// One run, in a process of its own, so that neither memory nor a crash reaches the next one.
fn run(row: &Row, stack: &Stack, job: &Job) -> Outcome {
    if let Some(why) = stack.left_out {
        return Err(Trouble::Skipped(why.to_owned()));
    }
    let mut command = this_program()?;
    if ahead_of_others() {
        let plain = command;
        command = Command::new("chrt");
        command.args(["--rr", "5"]).arg(plain.get_program());
    }
    command.args(["one", &row.id, stack.name, "--json", "--count", &job.count.to_string()]);
    command.args(["--seconds", &job.seconds.to_string()]);
    let said = finish(&mut command, Duration::from_secs(row.limit_s))?;
    let last = said.lines().last().unwrap_or_default();
    match serde_json::from_str::<Reply>(last) {
        Ok(Reply::Done(sample)) => Ok(sample),
        Ok(Reply::Skipped(why)) => Err(Trouble::Skipped(why)),
        Ok(Reply::Failed(why)) => Err(Trouble::Failed(why)),
        Err(error) => Err(Trouble::failed("a run", format!("unexpected output `{last}`: {error}"))),
    }
}

/// May runs have real-time priority? Then other work on the machine hardly disturbs them; each lasts a few seconds.
pub(crate) fn ahead_of_others() -> bool {
    static MAY: OnceLock<bool> = OnceLock::new();
    *MAY.get_or_init(|| {
        let quiet = |command: &mut Command| command.stdout(Stdio::null()).stderr(Stdio::null()).status();
        quiet(Command::new("chrt").args(["--rr", "5", "true"])).is_ok_and(|status| status.success())
    })
}

/// What a run's process prints.
#[derive(serde::Serialize, serde::Deserialize)]
pub(crate) enum Reply {
    Done(Sample),
    Skipped(String),
    Failed(String),
}

/// This program, to be started again.
pub(crate) fn this_program() -> Result<Command, Trouble> {
    std::env::current_exe().map(Command::new).map_err(|e| Trouble::failed("this program's path", e))
}

/// Runs `command` to its end, which has to be a good one, and gives what it printed. Its error output goes to ours.
pub(crate) fn finish(command: &mut Command, limit: Duration) -> Result<String, Trouble> {
    let (text, status) = to_the_end(command, limit)?;
    if status.is_some_and(|s| s.success()) {
        return Ok(text);
    }
    let how = status.map_or_else(|| format!("not done after {} s", limit.as_secs()), |s| s.to_string());
    Err(Trouble::Failed(format!("{}: {how}", command.get_program().display())))
}

/// What `command` printed, however it ended.
pub(crate) fn output_of(command: &mut Command, limit: Duration) -> Result<String, Trouble> {
    to_the_end(command, limit).map(|(text, _)| text)
}

/// Runs `command`; after `limit` it is killed, and there is no status.
fn to_the_end(command: &mut Command, limit: Duration) -> Result<(String, Option<ExitStatus>), Trouble> {
    let name = command.get_program().display().to_string();
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let launch = Launch { dies_with_parent: true, ..Launch::default() };
    let mut child = launch.spawn(command).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => Trouble::Skipped(format!("{name} is not installed")),
        _ => Trouble::failed(&name, e),
    })?;
    let out = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        // A program that was killed leaves what it had printed.
        out.map(|mut out| out.read_to_end(&mut text))
            .transpose()
            .map(|_| String::from_utf8_lossy(&text).into_owned())
    });
    let status = wait(&mut child, limit).map_err(|e| Trouble::failed(&name, e))?;
    match reader.join() {
        Ok(Ok(text)) => Ok((text, status)),
        Ok(Err(error)) => Err(Trouble::failed(&name, error)),
        Err(_) => Err(Trouble::failed(&name, "its output could not be read")),
    }
}

/// Waits for `child`; after `limit` it is killed, and there is no status.
fn wait(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let start = Instant::now();
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() > limit {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Cargo's target folder, in which this program lies.
pub(crate) fn target_folder() -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_default();
    exe.ancestors().nth(2).map_or_else(|| PathBuf::from("target"), Path::to_path_buf)
}
