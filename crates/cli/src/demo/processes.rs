//! The programs the demo starts: their CPU time, and their end, even after a demo that was killed.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// Environment variable that every program of a demo carries; its value is the demo's process id.
pub(super) const MARK: &str = "CORELANE_DEMO";
/// Beginning of the name of a demo's temporary directory; the process id follows.
const DIRECTORY: &str = "corelane-demo-";

/// What /proc says of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// utime + stime, clock ticks.
    ticks: u64,
}

/// Clock ticks a second of the times in /proc (USER_HZ, fixed on every Linux machine Corelane runs on).
pub(super) const TICKS_PER_SECOND: f64 = 100.0;

/// Reads /proc/PID/stat (proc(5)): the fields after the command's name in parentheses.
fn parse_stat(text: &str) -> Option<Stat> {
    let rest = text.rsplit_once(") ")?.1;
    let fields: Vec<&str> = rest.split(' ').collect();
    let number = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok());
    // Fields 4, 14 and 15 of the manual's count; `rest` begins with field 3.
    Some(Stat { parent: u32::try_from(number(1)?).ok()?, ticks: number(11)? + number(12)? })
}

fn all() -> BTreeMap<u32, Stat> {
    let mut found = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir("/proc") else { return found };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        if let Some(stat) =
            std::fs::read_to_string(entry.path().join("stat")).ok().as_deref().and_then(parse_stat)
        {
            found.insert(pid, stat);
        }
    }
    found
}

/// `root` and everything below it.
fn tree(processes: &BTreeMap<u32, Stat>, root: u32) -> Vec<u32> {
    let mut members = vec![root];
    let mut next = 0;
    while let Some(&parent) = members.get(next) {
        members.extend(processes.iter().filter(|(_, s)| s.parent == parent).map(|(&pid, _)| pid));
        next += 1;
    }
    members
}

/// CPU time of `root` and everything below it that still runs, s.
pub(super) fn cpu_seconds(root: u32) -> f64 {
    let processes = all();
    let ticks: u64 =
        tree(&processes, root).iter().filter_map(|pid| processes.get(pid)).map(|s| s.ticks).sum();
    ticks as f64 / TICKS_PER_SECOND
}

/// Process ids of `root` and everything below it.
pub(super) fn members(root: u32) -> Vec<u32> {
    tree(&all(), root)
}

/// Time that all processors of this machine were busy since it started, s: user, system, interrupts and softirqs.
pub(super) fn machine_busy_seconds() -> f64 {
    busy_seconds("cpu")
}

/// [`machine_busy_seconds`] of processor `core` alone.
pub(super) fn core_busy_seconds(core: usize) -> f64 {
    busy_seconds(&format!("cpu{core}"))
}

fn busy_seconds(name: &str) -> f64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    busy_ticks(&text, name) as f64 / TICKS_PER_SECOND
}

fn busy_ticks(stat: &str, name: &str) -> u64 {
    // cpu user nice system idle iowait irq softirq steal ...
    let Some(line) = stat.lines().find(|l| l.split_whitespace().next() == Some(name)) else { return 0 };
    let fields: Vec<u64> = line.split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    fields.iter().enumerate().filter(|(i, _)| matches!(i, 0..=2 | 5 | 6)).map(|(_, ticks)| ticks).sum()
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended meanwhile.
        let _ = kill_process(pid, signal);
    }
}

/// Ends `child` and everything below it: asks, waits, then kills.
pub(super) fn stop(child: &mut Child) {
    const GRACE: Duration = Duration::from_secs(8);
    let root = child.id();
    let below = members(root);
    signal(root, Signal::TERM);
    let start = Instant::now();
    while start.elapsed() < GRACE {
        match child.try_wait() {
            Ok(None) => std::thread::sleep(Duration::from_millis(10)),
            Ok(Some(_)) | Err(_) => break,
        }
    }
    // Whoever was below it is our child now (PR_SET_CHILD_SUBREAPER) or dead; a number is not reused in seconds.
    let mine = members(std::process::id());
    for pid in below.into_iter().filter(|pid| mine.contains(pid)) {
        signal(pid, Signal::KILL);
    }
    // Killed or ended: there is nothing left to wait long for.
    let _ = child.wait();
}

/// Kills everything below this process.
pub(super) fn kill_all_below_us() {
    let me = std::process::id();
    for pid in members(me).into_iter().filter(|&pid| pid != me) {
        signal(pid, Signal::KILL);
    }
}

/// The temporary directory of this demo.
pub(super) fn directory() -> PathBuf {
    std::env::temp_dir().join(format!("{DIRECTORY}{}", std::process::id()))
}

fn is_dead(pid: u32) -> bool {
    !PathBuf::from(format!("/proc/{pid}")).exists()
}

/// Clears away what demos left behind that were killed: their programs and their directories.
pub(super) fn clear_stale() {
    let Ok(entries) = std::fs::read_dir("/proc") else { return };
    for entry in entries.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if marked_by(&environ).is_some_and(is_dead) {
            signal(pid, Signal::KILL);
        }
    }
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
    for entry in entries.flatten() {
        let owner = entry.file_name().to_str().and_then(|n| n.strip_prefix(DIRECTORY)?.parse().ok());
        if owner.is_some_and(is_dead) {
            // Somebody else's directory stays.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// The demo that started the process with this environment.
fn marked_by(environ: &[u8]) -> Option<u32> {
    let mark = format!("{MARK}=");
    environ
        .split(|&b| b == 0)
        .find_map(|entry| std::str::from_utf8(entry).ok()?.strip_prefix(&mark)?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_name_with_parentheses_does_not_confuse_the_fields() {
        let line = "42 (a) b) S 7 42 42 0 -1 4194560 1 0 0 0 11 22 0 0 20 0 1 0 5 0 0";
        assert_eq!(parse_stat(line), Some(Stat { parent: 7, ticks: 33 }));
    }

    #[test]
    fn busy_time_leaves_out_idle_waiting_and_stolen_time() {
        let text = "cpu  1 2 4 100 200 8 16 400 0 0\ncpu0 1 0 0 9 9 0 1 9 9 9\n";
        assert_eq!((busy_ticks(text, "cpu"), busy_ticks(text, "cpu0"), busy_ticks(text, "cpu1")), (31, 2, 0));
    }

    #[test]
    fn a_tree_is_found_through_its_parents() {
        let stat = |parent| Stat { parent, ticks: 1 };
        let all = BTreeMap::from([(2, stat(1)), (3, stat(2)), (4, stat(3)), (5, stat(1))]);
        assert_eq!(tree(&all, 2), [2, 3, 4]);
    }

    #[test]
    fn the_mark_is_found_in_an_environment() {
        assert_eq!(marked_by(b"A=1\0CORELANE_DEMO=77\0B=2\0"), Some(77));
        assert_eq!(marked_by(b"A=1\0B=CORELANE_DEMO=77\0"), None);
    }
}
