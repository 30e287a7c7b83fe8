//! CPU time of programs and processors, from /proc; and the end of programs.

use std::collections::BTreeMap;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Clock ticks a second of the times in /proc (USER_HZ).
const TICKS_PER_SECOND: f64 = 100.0;

/// The parent of every process (proc(5): field 4 of /proc/PID/stat, after the name in parentheses).
fn parents() -> BTreeMap<u32, u32> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let text = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if let Some(parent) = parent(&text) {
            found.insert(pid, parent);
        }
    }
    found
}

fn parent(stat: &str) -> Option<u32> {
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

/// `root` and everything below it.
pub(crate) fn members(root: u32) -> Vec<u32> {
    let parents = parents();
    let mut members = vec![root];
    let mut next = 0;
    while let Some(&above) = members.get(next) {
        members.extend(parents.iter().filter(|(_, parent)| **parent == above).map(|(pid, _)| *pid));
        next += 1;
    }
    members
}

/// CPU time so far of `root` and everything below it that still runs, s. On Corelane that is keeper, program and steward.
pub(crate) fn cpu_seconds(root: u32) -> f64 {
    members(root).into_iter().map(process_seconds).sum()
}

/// CPU time of all threads of a process, to the nanosecond (/proc/PID/task/TID/schedstat).
fn process_seconds(pid: u32) -> f64 {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .filter_map(|task| nanoseconds(&std::fs::read_to_string(task.path().join("schedstat")).ok()?))
        .sum::<f64>()
        / 1e9
}

fn nanoseconds(schedstat: &str) -> Option<f64> {
    schedstat.split(' ').next()?.parse().ok()
}

/// Time that processor `core` was busy since the machine started, s: user, system, interrupts and softirqs.
pub(crate) fn core_busy_seconds(core: usize) -> f64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    busy_ticks(&text, &format!("cpu{core}")) as f64 / TICKS_PER_SECOND
}

fn busy_ticks(stat: &str, name: &str) -> u64 {
    // cpu user nice system idle iowait irq softirq steal ...
    let Some(line) = stat.lines().find(|l| l.split_whitespace().next() == Some(name)) else { return 0 };
    let fields = line.split_whitespace().skip(1).filter_map(|f| f.parse::<u64>().ok());
    fields.enumerate().filter(|(i, _)| matches!(i, 0..=2 | 5 | 6)).map(|(_, ticks)| ticks).sum()
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended meanwhile.
        let _ = kill_process(pid, signal);
    }
}

/// Ends `child` and everything below it: asks, waits, then kills.
pub(crate) fn stop(child: &mut Child) {
    const GRACE: Duration = Duration::from_secs(3);
    let below = members(child.id());
    signal(child.id(), Signal::TERM);
    let start = Instant::now();
    while start.elapsed() < GRACE && matches!(child.try_wait(), Ok(None)) {
        std::thread::sleep(Duration::from_millis(5));
    }
    for pid in below {
        let ours = std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok();
        if ours {
            signal(pid, Signal::KILL);
        }
    }
    // Killed or ended: there is nothing left to wait long for.
    let _ = child.wait();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_parentheses_does_not_confuse_the_fields() {
        assert_eq!(parent("42 (a) b) S 7 42 42 0 -1"), Some(7));
    }

    #[test]
    fn busy_time_leaves_out_idle_waiting_and_stolen_time() {
        let text = "cpu  1 2 4 100 200 8 16 400 0 0\ncpu0 1 0 0 9 9 0 1 9 9 9\n";
        assert_eq!((busy_ticks(text, "cpu"), busy_ticks(text, "cpu0"), busy_ticks(text, "cpu1")), (31, 2, 0));
    }
}
