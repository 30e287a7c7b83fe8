//! Starting other programs: under another user, tied to the life of their parent, without a way back to privileges.

use std::io;
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use rustix::io::Errno;
use rustix::process::{Gid, Pid, Signal, Uid, getpid, getppid, set_parent_process_death_signal};
use rustix::thread::{set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// Who a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// What is done in the child between fork and exec.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// Become this user; a change away from uid 0 drops every capability. `None`: stay as the parent is.
    pub identity: Option<Identity>,
    /// SIGKILL the child when the thread that started it ends, in whatever way.
    pub dies_with_parent: bool,
    /// PR_SET_NO_NEW_PRIVS: no set-user-id program raises its privileges any more.
    pub no_new_privs: bool,
}

impl Launch {
    /// Starts `command` so. Signals are unblocked in the child.
    ///
    /// # Errors
    /// Those of fork and exec (`NotFound`: no such program), or of the change of identity (`PermissionDenied`).
    pub fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let plan = self.clone();
        let groups: Vec<Gid> =
            plan.identity.iter().flat_map(|i| i.groups.iter().map(|&g| Gid::from_raw(g))).collect();
        let parent = getpid();
        let apply = move || apply(&plan, &groups, parent);
        // SAFETY: `apply` makes plain system calls on memory prepared before the fork: no allocation, no lock.
        unsafe { command.pre_exec(apply) };
        command.spawn()
    }
}

/// In the child: async-signal-safe.
fn apply(plan: &Launch, groups: &[Gid], parent: Pid) -> io::Result<()> {
    unblock_signals()?;
    if let Some(identity) = &plan.identity {
        let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
        set_thread_groups(groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        set_thread_res_uid(uid, uid, uid)?;
    }
    if plan.no_new_privs {
        set_no_new_privs(true)?;
    }
    // After the change of identity, which clears it.
    if plan.dies_with_parent {
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // A parent that died before that sends no signal. (None: it is in another namespace, and cannot be told.)
        if getppid().is_some_and(|now| now != parent) {
            return Err(Errno::SRCH.into());
        }
    }
    Ok(())
}

/// A parent that reads its signals from an fd blocks them; its children must not start that way.
fn unblock_signals() -> io::Result<()> {
    let mut none = MaybeUninit::<libc::sigset_t>::zeroed();
    // SAFETY: `none` is writable memory of the right size.
    unsafe { libc::sigemptyset(none.as_mut_ptr()) };
    // SAFETY: `none` is initialised; the old mask is not asked for.
    let rc = unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut()) };
    if rc == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(rc)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_that_the_parent_blocks_are_open_in_the_child() {
        let _signals = crate::signals::SignalFd::open(&[libc::SIGUSR1]).expect("signalfd");
        let mut command = Command::new("grep");
        command.args(["-q", "^SigBlk:[[:space:]]*0*$", "/proc/self/status"]);
        let status =
            Launch::default().spawn(&mut command).and_then(|mut child| child.wait()).expect("grep runs");
        assert!(status.success());
    }

    #[test]
    fn no_new_privs_reaches_the_program() {
        let launch = Launch { no_new_privs: true, dies_with_parent: true, ..Launch::default() };
        let mut command = Command::new("grep");
        command.args(["-q", "^NoNewPrivs:[[:space:]]*1$", "/proc/self/status"]);
        let status = launch.spawn(&mut command).and_then(|mut child| child.wait()).expect("grep runs");
        assert!(status.success());
    }

    #[test]
    fn a_missing_program_is_reported_as_not_found() {
        let error = Launch::default().spawn(&mut Command::new("/no/such/program")).expect_err("no program");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
