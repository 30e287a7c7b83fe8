//! The processes under the filter, seen through /proc: which socket a descriptor of theirs is, and a descriptor of ours for the same.

use std::collections::HashMap;
use std::os::fd::AsFd;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use sys::fds::Fd;

/// Processes remembered before all are forgotten.
const REMEMBERED: usize = 1024;

/// Inode number of a socket: the same for every descriptor of it in every process, and nobody else's while one is open.
pub(crate) type Inode = u64;

/// Processes whose threads made calls.
#[derive(Default)]
pub(crate) struct Targets {
    /// By thread number. May be out of date: whatever comes by it is checked.
    processes: HashMap<u32, Fd>,
}

/// The inode of descriptor `fd` of thread `tid`, if it is a socket.
pub(crate) fn inode(tid: u32, fd: i32) -> Option<Inode> {
    let link = rustix::fs::readlink(format!("/proc/{tid}/fd/{fd}"), Vec::new()).ok()?;
    link.to_str().ok()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// The inode of a socket of ours.
pub(crate) fn own_inode(fd: &impl AsFd) -> Option<Inode> {
    rustix::fs::fstat(fd).ok().map(|stat| stat.st_ino)
}

/// The process of thread `tid`.
fn process_of(tid: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{tid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}

fn open(tid: u32) -> Option<Fd> {
    let process = i32::try_from(process_of(tid)?).ok().and_then(Pid::from_raw)?;
    pidfd_open(process, PidfdFlags::empty()).ok().map(Fd::from)
}

impl Targets {
    /// A descriptor of ours for what `fd` of thread `tid` is, which must be socket `inode`. Close it soon: while it is open the program's close shows
    /// nothing.
    pub(crate) fn borrow(&mut self, tid: u32, fd: i32, inode: Inode) -> Option<Fd> {
        for again in [false, true] {
            if again {
                self.processes.remove(&tid);
            }
            if !self.processes.contains_key(&tid) {
                if self.processes.len() >= REMEMBERED {
                    self.processes.clear();
                }
                self.processes.insert(tid, open(tid)?);
            }
            let found = self.processes.get(&tid).and_then(|process| get(process, fd));
            if let Some(found) = found.filter(|found| own_inode(found) == Some(inode)) {
                return Some(found);
            }
        }
        None
    }

    /// The same, wherever in the remembered processes it is open; `likely`: thread and descriptor where it was last.
    pub(crate) fn find(&mut self, likely: (u32, i32), inode: Inode) -> Option<Fd> {
        if let Some(found) = self.borrow(likely.0, likely.1, inode) {
            return Some(found);
        }
        let name = format!("socket:[{inode}]");
        let tids: Vec<u32> = self.processes.keys().copied().collect();
        tids.into_iter().find_map(|tid| {
            let entries = std::fs::read_dir(format!("/proc/{tid}/fd")).ok()?;
            let is_it = |path: std::path::PathBuf| {
                let link = std::fs::read_link(&path).ok()?;
                (link.as_os_str() == name.as_str()).then_some(path)
            };
            let path = entries.filter_map(|entry| is_it(entry.ok()?.path())).next()?;
            let fd = path.file_name()?.to_str()?.parse().ok()?;
            self.borrow(tid, fd, inode)
        })
    }
}

fn get(process: &Fd, fd: i32) -> Option<Fd> {
    pidfd_getfd(process, fd, PidfdGetfdFlags::empty()).ok().map(Fd::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_is_known_by_its_inode_and_borrowed_by_it() {
        let (one, other) = sys::fds::pair().unwrap();
        let me = sys::process::tid();
        let number = std::os::fd::AsRawFd::as_raw_fd(&one);
        let known = inode(me, number).unwrap();
        assert_eq!(own_inode(&one), Some(known));
        assert_ne!(own_inode(&other), Some(known));
        let mut targets = Targets::default();
        assert!(targets.borrow(me, number, known).is_some());
        assert!(targets.borrow(me, number, known + 1).is_none(), "another socket");
        let moved = one.duplicate().unwrap();
        drop(one);
        assert!(targets.find((me, number), known).is_some(), "under another number");
        drop(moved);
        assert!(targets.find((me, number), known).is_none());
    }
}
