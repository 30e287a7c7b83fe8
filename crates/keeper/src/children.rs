//! Children of the keeper: the command, stewards, and what the command left running when it ended.

use std::collections::{BTreeMap, BTreeSet};

/// A process whose parent is the keeper.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Child {
    pub(crate) pid: u32,
    /// Its session (setsid(2)).
    session: u32,
}

/// Reads the fields of /proc/PID/stat (proc(5)) after the name in parentheses: state, parent, process group, session.
fn parse(stat: &str) -> Option<(u32, u32)> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ').skip(1);
    let parent = fields.next()?.parse().ok()?;
    let session = fields.nth(1)?.parse().ok()?;
    Some((parent, session))
}

fn read(pid: u32) -> Option<(u32, u32)> {
    parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The children of this process that are not in `stewards`.
pub(crate) fn left_running(stewards: &BTreeSet<u32>) -> Vec<Child> {
    let me = sys::process::pid();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| !stewards.contains(pid))
        .filter_map(|pid| read(pid).map(|(parent, session)| (pid, parent, session)))
        .filter(|(_, parent, _)| *parent == me)
        .map(|(pid, _, session)| Child { pid, session })
        .collect()
}

/// Does any descendant of this process, `stewards` left out, have the memory object number `inode` mapped?
pub(crate) fn is_mapped(inode: u64, stewards: &BTreeSet<u32>) -> bool {
    let me = sys::process::pid();
    let Ok(entries) = std::fs::read_dir("/proc") else { return true };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let parents: BTreeMap<u32, u32> = pids.filter_map(|pid| Some((pid, read(pid)?.0))).collect();
    let descends = |pid: u32| {
        let mut at = pid;
        // As many steps as there are processes: the table may be inconsistent.
        (0..parents.len()).any(|_| {
            at = parents.get(&at).copied().unwrap_or(0);
            at == me
        })
    };
    let mut candidates = parents.keys().copied().filter(|pid| !stewards.contains(pid) && descends(*pid));
    candidates.any(|pid| std::fs::read_to_string(format!("/proc/{pid}/maps")).is_ok_and(|m| maps(&m, inode)))
}

/// Does a text like /proc/PID/maps (address, permissions, offset, device, inode, name) name this memory object?
fn maps(text: &str, inode: u64) -> bool {
    let memory = text.lines().filter(|line| line.contains("/memfd:"));
    memory.filter_map(|line| line.split_whitespace().nth(4)?.parse::<u64>().ok()).any(|found| found == inode)
}

/// Has it left our session, as daemons do? A job that a shell put into the background has not.
pub(crate) fn is_daemon(child: &Child) -> bool {
    read(sys::process::pid()).is_some_and(|(_, ours)| ours != child.session)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parent_and_session_are_read_behind_any_name() {
        assert_eq!(parse("42 (a) b) S 7 41 40 0 -1"), Some((7, 40)));
        assert_eq!(parse("42 (a"), None);
    }

    #[test]
    fn a_mapped_memory_object_is_found_by_its_number() {
        let text = "7f00-7f10 r-xp 00000000 fe:00 77 /lib/x\n7f10-7f20 rw-s 0 00:01 4242 /memfd:corelane-region (deleted)\n";
        assert!(maps(text, 4242) && !maps(text, 77) && !maps(text, 42));
    }

    #[test]
    fn a_child_is_found_and_is_no_daemon() {
        let mut sleep = std::process::Command::new("sleep").arg("60").spawn().expect("sleep runs");
        let found = left_running(&BTreeSet::new()).into_iter().find(|child| child.pid == sleep.id());
        let other = left_running(&BTreeSet::from([sleep.id()])).into_iter().find(|c| c.pid == sleep.id());
        sleep.kill().expect("killed");
        sleep.wait().expect("reaped");
        assert!(found.is_some_and(|child| !is_daemon(&child)));
        assert_eq!(other, None);
    }
}
