//! One `corelane run` (or a program on the kernel alone) and its processes, found as they come and go.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use rustix::process::{Pid, Signal, kill_process};

use crate::counters::Counters;
use crate::world::{Process, Side, World};

/// A program of the campaign.
pub(crate) struct Family {
    pub(crate) name: String,
    pub(crate) process: Process,
    pub(crate) counters: Counters,
    on_lanes: bool,
}

/// The children of a process, oldest first (proc(5), CONFIG_PROC_CHILDREN).
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

fn is_steward(pid: u32) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.windows(9).any(|word| word == b"__steward")
}

/// Is it there, and not only waiting to be collected?
pub(crate) fn is_alive(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Sends a signal; false: the process is gone.
pub(crate) fn signal(pid: u32, signal: Signal) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| kill_process(pid, signal).is_ok())
}

impl Family {
    /// Starts `program` with `words` (its counters' file is put in behind the fourth) on the kernel or under `corelane run`.
    pub(crate) fn start(
        world: &World,
        (side, device): (Side, Option<&str>),
        name: &str,
        words: &[&str],
    ) -> Result<Self, String> {
        let counters = Counters::new(&world.dir, name)?;
        let mut line: Vec<String> = Vec::new();
        if let Some(device) = device {
            let corelane = crate::world::program().display().to_string();
            line.extend([corelane, "run".into(), "--device".into(), device.into(), "--".into()]);
        }
        line.push(world.dir.join("traffic").display().to_string());
        let (front, back) = words.split_at(words.len().min(4));
        line.extend(front.iter().map(|word| (*word).to_owned()));
        line.push(counters.path());
        line.extend(back.iter().map(|word| (*word).to_owned()));
        let process = world.spawn(side, name, &line);
        Ok(Self { name: name.to_owned(), process, counters, on_lanes: device.is_some() })
    }

    /// The keeper, if there is one.
    pub(crate) fn keeper(&self) -> Option<u32> {
        self.on_lanes.then(|| self.process.id())
    }

    /// The program's first process.
    pub(crate) fn main(&self) -> Option<u32> {
        if !self.on_lanes {
            return Some(self.process.id());
        }
        children(self.process.id()).into_iter().find(|&pid| !is_steward(pid))
    }

    pub(crate) fn stewards(&self) -> Vec<u32> {
        if !self.on_lanes {
            return Vec::new();
        }
        children(self.process.id()).into_iter().filter(|&pid| is_steward(pid)).collect()
    }

    pub(crate) fn workers(&self) -> Vec<u32> {
        self.main().map(children).unwrap_or_default()
    }

    /// All of its processes.
    pub(crate) fn pids(&self) -> BTreeSet<u32> {
        let mut found = BTreeSet::from([self.process.id()]);
        let mut fresh: Vec<u32> = vec![self.process.id()];
        while let Some(pid) = fresh.pop() {
            fresh.extend(children(pid).into_iter().filter(|&child| found.insert(child)));
        }
        found
    }

    /// Sends a signal to main program and workers.
    pub(crate) fn tell(&self, number: Signal) {
        let Some(main) = self.main() else { return };
        signal(main, number);
        for worker in children(main) {
            signal(worker, number);
        }
    }

    /// Lines that tell of what must never happen.
    pub(crate) fn complaints(&self, dir: &Path) -> Vec<String> {
        let text = fs::read_to_string(dir.join(format!("{}.log", self.name))).unwrap_or_default();
        let bad = |line: &&str| {
            line.starts_with("BAD") || line.contains("panicked") || line.contains("a steward ends")
        };
        text.lines().filter(bad).map(|line| format!("{}: {line}", self.name)).collect()
    }
}
