//! One `corelane run`: the command, its signals, its descendants, and the session that serves them.

use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::ExitStatus;

use base::{Duration, Instant};
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait};
use sys::signals::{Arrived, SignalFd};

use crate::children::{is_daemon, left_running};
use crate::command::{Program, exit_code};
use crate::error::StartError;
use crate::session::Session;
use crate::settings::{DeviceSpec, PortChoice, RegionSizes, Spin};

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
    /// How long threads spin before they sleep.
    pub spin: Spin,
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
    // Each port of a lane is a descriptor of ours. After the start, so that the command has the limit its user gave it.
    sys::process::raise_open_files();
    let command = Pid::from_child(&child);
    let mut end = None;
    while end.as_ref().is_none_or(|end: &End| session.is_busy() || end.left_daemons(&session)) {
        let limit = end.as_ref().and_then(End::grace_left);
        if let Err(error) = session.wait(signals.as_fd(), limit) {
            log::error!("keeper: poll: {error}");
            break;
        }
        while let Ok(Some(arrived)) = signals.next() {
            match (arrived.signal, &mut end) {
                (libc::SIGCHLD, _) => {}
                (_, None) => forward(command, arrived),
                // The command is gone: the signal is for what it left running, then for ourselves.
                (_, Some(end)) => {
                    if !end.signal_daemons(arrived, &session) {
                        return Ok(end.status);
                    }
                }
            }
        }
        reap(command, &mut end, &mut session);
        session.serve();
    }
    Ok(end.map_or(125, |end| end.status))
}

/// How the command ended.
struct End {
    status: u8,
    at: Instant,
    /// What it left running was sent a signal.
    signalled: bool,
}

impl End {
    /// Time that a child of the command has to become a daemon, or to connect.
    const GRACE: Duration = Duration::from_secs(1);

    /// Did the command leave daemons? They may use the network at any time.
    fn left_daemons(&self, session: &Session) -> bool {
        let left = left_running(&session.steward_pids());
        left.iter().any(is_daemon) || (self.grace_left().is_some() && !left.is_empty())
    }

    /// Passes a signal on to the daemons, once. False: there is none, or they had one before.
    fn signal_daemons(&mut self, arrived: Arrived, session: &Session) -> bool {
        let first = !std::mem::replace(&mut self.signalled, true);
        let daemons: Vec<Pid> = left_running(&session.steward_pids())
            .iter()
            .filter_map(|child| i32::try_from(child.pid).ok().and_then(Pid::from_raw))
            .collect();
        if first {
            // Whatever sent it, it did not go to them: they have left the terminal's process group.
            let arrived = Arrived { from_kernel: false, ..arrived };
            daemons.iter().for_each(|daemon| forward(*daemon, arrived));
        }
        first && !daemons.is_empty()
    }

    fn grace_left(&self) -> Option<Duration> {
        let over = sys::clock::now().since(self.at);
        (over < Self::GRACE).then(|| Duration(Self::GRACE.0 - over.0))
    }
}

/// Passes a signal on to a process, usually the command. What the terminal or the kernel sent went to its whole process group already.
fn forward(process: Pid, arrived: Arrived) {
    if arrived.from_kernel {
        return;
    }
    if let Some(signal) = Signal::from_named_raw(arrived.signal) {
        // It may be gone already; there is nobody else to tell.
        let _ = kill_process(process, signal);
    }
}

/// Collects every child that ended.
fn reap(command: Pid, end: &mut Option<End>, session: &mut Session) {
    while let Ok(Some((pid, wait_status))) = wait(WaitOptions::NOHANG) {
        if pid == command {
            let status = exit_code(ExitStatus::from_raw(wait_status.as_raw()));
            *end = Some(End { status, at: sys::clock::now(), signalled: false });
            session.say("the command has ended; its connections are finished first (a signal cuts them)");
        }
        session.child_ended(pid);
    }
}
