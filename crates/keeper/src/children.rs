//! Children of the keeper: the command, stewards, and what the command left running when it ended.

use std::collections::{BTreeMap, BTreeSet};

/// Looks at processes that multiply while we look.
const LOOKS_MAX: usize = 8;

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

/// The numbers of all processes that can be seen.
fn processes() -> std::io::Result<impl Iterator<Item = u32>> {
    let entries = std::fs::read_dir("/proc")?;
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()))
}

/// The children of this process that are not in `stewards`.
pub(crate) fn left_running(stewards: &BTreeSet<u32>) -> Vec<Child> {
    let me = sys::process::pid();
    let Ok(pids) = processes() else { return Vec::new() };
    pids.filter(|pid| !stewards.contains(pid))
        .filter_map(|pid| read(pid).map(|(parent, session)| (pid, parent, session)))
        .filter(|(_, parent, _)| *parent == me)
        .map(|(pid, _, session)| Child { pid, session })
        .collect()
}

/// The descendants of process `family`, `stewards` left out; of one that is gone, whose children have another parent now, every process.
/// `None`: the kernel does not tell.
pub(crate) fn descendants(family: u32, stewards: &BTreeSet<u32>) -> Option<Vec<u32>> {
    let parents: BTreeMap<u32, u32> = processes().ok()?.filter_map(|pid| Some((pid, read(pid)?.0))).collect();
    let orphaned = !parents.contains_key(&family);
    let descends = |pid: u32| {
        let mut at = pid;
        orphaned ||
        // As many steps as there are processes: the table may be inconsistent.
        (0..parents.len()).any(|_| {
            at = parents.get(&at).copied().unwrap_or(0);
            at == family
        })
    };
    Some(parents.keys().copied().filter(|pid| !stewards.contains(pid) && descends(*pid)).collect())
}

/// Does any descendant of process `family`, `stewards` left out, have the memory object number `inode` mapped?
pub(crate) fn is_mapped(inode: u64, family: u32, stewards: &BTreeSet<u32>) -> bool {
    let mapped = |pid| std::fs::read_to_string(format!("/proc/{pid}/maps")).is_ok_and(|m| maps(&m, inode));
    descendants(family, stewards).is_none_or(|all| all.into_iter().any(mapped))
}

/// Is there a process with this number?
pub(crate) fn exists(pid: u32) -> bool {
    read(pid).is_some()
}

/// The processes that have the sockets with these numbers, of those that may be looked into.
pub(crate) fn owners(inodes: &BTreeSet<u64>) -> BTreeMap<u64, BTreeSet<u32>> {
    let mut found: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::new();
    for pid in processes().into_iter().flatten() {
        let sockets = sockets_of(pid).into_iter().flatten();
        for inode in sockets.filter(|inode| inodes.contains(inode)) {
            found.entry(inode).or_default().insert(pid);
        }
    }
    found
}

/// Has any descendant of process `family`, or one of `others`, a socket of these `inodes` open? `stewards` and process `but` are left out. One that
/// may not be looked into may have.
pub(crate) fn has_socket(
    inodes: &BTreeSet<u64>,
    (family, stewards, others): (u32, &BTreeSet<u32>, &BTreeSet<u32>),
    but: u32,
) -> bool {
    let has = |pid: u32| match sockets_of(pid) {
        Ok(mut sockets) => sockets.any(|inode| inodes.contains(&inode)),
        Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied,
    };
    // One that was forked while we looked may have it from a parent that closed it since: until there is nobody new.
    let mut known = BTreeSet::from([but]);
    for _ in 0..LOOKS_MAX {
        let Some(all) = descendants(family, stewards) else { return true };
        let all = all.into_iter().chain(others.iter().copied());
        let fresh: Vec<u32> = all.filter(|&pid| known.insert(pid)).collect();
        if fresh.is_empty() {
            return false;
        }
        if fresh.into_iter().any(has) {
            return true;
        }
    }
    true
}

/// The sockets that process `pid` has open.
fn sockets_of(pid: u32) -> std::io::Result<impl Iterator<Item = u64>> {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd"))?;
    let names = fds.flatten().filter_map(|fd| std::fs::read_link(fd.path()).ok());
    Ok(names.filter_map(|name| socket_inode(name.to_str()?)))
}

/// The number in a name like `socket:[4242]` (proc(5)).
fn socket_inode(name: &str) -> Option<u64> {
    name.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
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
    fn a_socket_is_found_at_the_processes_that_have_it() {
        let socket = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a socket");
        let inode = rustix::fs::fstat(&socket).expect("a descriptor").st_ino;
        let mut sleep = std::process::Command::new("sleep")
            .arg("60")
            .stdin(std::process::Stdio::from(std::os::fd::OwnedFd::from(socket)))
            .spawn()
            .expect("sleep runs");
        let (none, me) = (BTreeSet::new(), std::process::id());
        let inodes = BTreeSet::from([inode]);
        let by_a_child = has_socket(&inodes, (me, &none, &none), 0);
        let by_others = has_socket(&inodes, (me, &none, &BTreeSet::from([sleep.id()])), 0);
        let but_it = has_socket(&inodes, (me, &none, &none), sleep.id());
        let another = has_socket(&BTreeSet::from([1]), (me, &none, &none), 0);
        sleep.kill().expect("killed");
        sleep.wait().expect("reaped");
        assert!(by_a_child && by_others && !but_it && !another);
        assert!(!has_socket(&inodes, (me, &none, &none), 0));
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
