//! One `corelane run`: the command, its signals, its descendants, and the session that serves them.

use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait};
use sys::signals::{Arrived, SignalFd};

use crate::command::{Program, exit_code};
use crate::error::StartError;
use crate::session::Session;
use crate::settings::{DeviceSpec, PortChoice, RegionSizes};

/// What to run, and how.
#[derive(Clone, Debug)]
pub struct Run {
    /// The command.
    pub program: Program,
    /// The preload library's path.
    pub preload: PathBuf,
    /// Devices; empty: every usable one.
    pub devices: Vec<DeviceSpec>,
    /// Kind of port.
    pub port: PortChoice,
    /// Sizes of each process's region.
    pub sizes: RegionSizes,
    /// Say on standard error what is done.
    pub verbose: bool,
}

/// Signals that a user or a supervisor sends to us and means for the command.
const FORWARDED: [i32; 6] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2];

/// Runs the command until it and every descendant that uses Corelane is gone. Gives the command's exit status, as a
/// shell reports it.
///
/// # Errors
/// When the command could not be started at all.
pub fn run(run: &Run) -> Result<u8, StartError> {
    let mut watched = FORWARDED.to_vec();
    watched.push(libc::SIGCHLD);
    let signals = SignalFd::open(&watched).map_err(|e| StartError::new("signal handling", e, ""))?;
    // Daemonised descendants become our children, so that we see them end.
    set_child_subreaper(Some(getpid())).map_err(|e| StartError::new("PR_SET_CHILD_SUBREAPER", e, ""))?;
    let mut session = Session::open(run)?;
    let child = run.program.start(&session.environment(&run.preload))?;
    let command = Pid::from_child(&child);
    let mut status = None;
    while status.is_none() || session.is_busy() {
        if let Err(error) = session.wait(signals.as_fd()) {
            log::error!("keeper: poll: {error}");
            break;
        }
        while let Ok(Some(arrived)) = signals.next() {
            if arrived.signal != libc::SIGCHLD {
                forward(command, arrived);
            }
        }
        reap(command, &mut status, &mut session);
        session.serve();
    }
    Ok(status.unwrap_or(125))
}

/// Passes a signal on to the command. What the terminal or the kernel sent went to its whole process group already.
fn forward(command: Pid, arrived: Arrived) {
    if arrived.from_kernel {
        return;
    }
    if let Some(signal) = Signal::from_named_raw(arrived.signal) {
        // The command may be gone already; there is nobody else to tell.
        let _ = kill_process(command, signal);
    }
}

/// Collects every child that ended.
fn reap(command: Pid, status: &mut Option<u8>, session: &mut Session) {
    while let Ok(Some((pid, wait_status))) = wait(WaitOptions::NOHANG) {
        if pid == command {
            *status = Some(exit_code(ExitStatus::from_raw(wait_status.as_raw())));
        }
        session.child_ended(pid);
    }
}
