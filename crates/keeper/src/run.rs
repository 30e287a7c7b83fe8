//! One `corelane run`: the command, its signals, its descendants, and the keeper that serves them: one of its own in this process, or one that the
//! shared keeper started.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use base::{Duration, Instant};
use rustix::process::{
    Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, set_child_subreaper, wait,
};
use sys::Errno;
use sys::poll::{PollFd, PollFlags, poll};
use sys::signals::{Arrived, SignalFd};

use crate::children::{is_daemon, left_running};
use crate::command::{Program, exit_code};
use crate::error::StartError;
use crate::session::{Session, Terms};
use crate::settings::{DeviceSpec, PortChoice, RegionSizes, Spin};
use crate::shared::SharedKeeper;

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

/// Who keeps the run.
#[derive(Debug)]
pub enum Keeper {
    /// This process; why, for `explain`.
    Private(String),
    /// One that the shared keeper started.
    Shared(SharedKeeper),
}

/// Signals that a user or a supervisor sends to us and means for the command.
const FORWARDED: [i32; 6] =
    [libc::SIGHUP, libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2];

/// The keeper while the command runs.
// There is one of it.
#[allow(clippy::large_enum_variant)]
enum Serving {
    Here(Session),
    /// With --verbose, and until its end was seen.
    There {
        keeper: SharedKeeper,
        verbose: bool,
        gone: bool,
    },
}

impl Serving {
    fn open(run: &Run, keeper: Keeper) -> Result<Self, StartError> {
        let serving = match keeper {
            Keeper::Private(why) => Self::Here(Session::open(&run.terms(why))?),
            Keeper::Shared(keeper) => Self::There { keeper, verbose: run.verbose, gone: false },
        };
        serving.say(&match &serving {
            Self::Here(session) => format!("keeper {}", session.about()),
            Self::There { keeper, .. } => {
                format!("keeper shared, process {}, by rule {}", keeper.pid, keeper.rule)
            }
        });
        Ok(serving)
    }

    /// Name and secret, for the environment.
    fn names(&self) -> (String, String) {
        match self {
            Self::Here(session) => (session.name().to_owned(), session.token_text()),
            Self::There { keeper, .. } => (keeper.name.clone(), keeper.token.clone()),
        }
    }

    fn say(&self, text: &str) {
        match self {
            Self::Here(session) => session.say(text),
            Self::There { verbose, .. } if *verbose => eprintln!("corelane: {text}"),
            Self::There { .. } => {}
        }
    }

    /// Must this process stay for programs that are left, or connections that are being finished? The shared keeper's stays by itself.
    fn is_busy(&self) -> bool {
        match self {
            Self::Here(session) => session.is_busy(),
            Self::There { .. } => false,
        }
    }

    fn steward_pids(&self) -> BTreeSet<u32> {
        match self {
            Self::Here(session) => session.steward_pids(),
            Self::There { .. } => BTreeSet::new(),
        }
    }

    fn wait(&self, signals: &SignalFd, limit: Option<Duration>) -> Result<(), Errno> {
        match self {
            Self::Here(session) => session.wait(signals.as_fd(), &[], limit),
            Self::There { keeper, gone, .. } => {
                let link = (!gone).then(|| keeper.poll_fd());
                let wanted = link.into_iter().chain([signals.as_fd()]);
                let mut polled: Vec<PollFd<'_>> =
                    wanted.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
                match poll(&mut polled, limit) {
                    Ok(_) | Err(Errno::INTR) => Ok(()),
                    Err(errno) => Err(errno),
                }
            }
        }
    }

    fn child_ended(&mut self, pid: Pid, status: WaitStatus) {
        match self {
            Self::Here(session) => session.child_ended(pid, status),
            Self::There { .. } => {}
        }
    }

    fn serve(&mut self) {
        match self {
            Self::Here(session) => session.serve(),
            Self::There { keeper, gone, .. } => {
                let end = (!*gone).then(|| keeper.end()).flatten();
                if let Some(kept) = end {
                    *gone = true;
                    let then = if kept { "lanes go on as they are" } else { "accelerated connections end" };
                    let pid = keeper.pid;
                    eprintln!(
                        "corelane: the keeper of this run (process {pid}) is gone: {then}, what needs a keeper stays with the kernel"
                    );
                }
            }
        }
    }
}

impl Run {
    fn terms(&self, about: String) -> Terms {
        Terms {
            devices: self.devices.clone(),
            port: self.port,
            sizes: self.sizes,
            spin: self.spin,
            verbose: self.verbose,
            identity: self.program.identity.clone(),
            family: sys::process::pid(),
            guard: None,
            about,
        }
    }

    /// What the command and its descendants find in their environment.
    fn environment(&self, (name, token): (String, String)) -> Vec<(String, OsString)> {
        vec![
            ("LD_PRELOAD".to_owned(), with_others(&self.preload)),
            ("CORELANE_KEEPER".to_owned(), OsString::from(name)),
            ("CORELANE_TOKEN".to_owned(), OsString::from(token)),
            ("CORELANE_PORT".to_owned(), OsString::from(self.port.to_string())),
        ]
    }
}

/// The preload library, and those that are preloaded anyway.
fn with_others(preload: &Path) -> OsString {
    let mut libraries = preload.as_os_str().to_owned();
    if let Some(others) = std::env::var_os("LD_PRELOAD").filter(|v| !v.is_empty()) {
        libraries.push(" ");
        libraries.push(others);
    }
    libraries
}

/// Runs the command until it and every descendant that uses Corelane is gone. Gives the command's exit status, as a
/// shell reports it.
///
/// # Errors
/// When the command could not be started at all.
pub fn run(run: &Run, keeper: Keeper) -> Result<u8, StartError> {
    let mut watched = FORWARDED.to_vec();
    watched.push(libc::SIGCHLD);
    let signals = SignalFd::open(&watched).map_err(|e| StartError::new("signal handling", e, ""))?;
    // Daemonised descendants become our children, so that we see them end.
    set_child_subreaper(Some(getpid())).map_err(|e| StartError::new("PR_SET_CHILD_SUBREAPER", e, ""))?;
    let mut serving = Serving::open(run, keeper)?;
    let child = run.program.start(&run.environment(serving.names()))?;
    // Each port of a lane is a descriptor of ours. After the start, so that the command has the limit its user gave it.
    sys::process::raise_open_files();
    let command = Pid::from_child(&child);
    let mut end = None;
    while end.as_ref().is_none_or(|end: &End| serving.is_busy() || end.left_daemons(&serving)) {
        let limit = end.as_ref().and_then(End::grace_left);
        if let Err(error) = serving.wait(&signals, limit) {
            log::error!("keeper: poll: {error}");
            break;
        }
        while let Ok(Some(arrived)) = signals.next() {
            match (arrived.signal, &mut end) {
                (libc::SIGCHLD, _) => {}
                (_, None) => forward(command, arrived),
                // The command is gone: the signal is for what it left running, then for ourselves.
                (_, Some(end)) => {
                    if !end.signal_daemons(arrived, &serving) {
                        return Ok(end.status);
                    }
                }
            }
        }
        reap(command, &mut end, &mut serving);
        serving.serve();
    }
    if let Serving::Here(session) = &mut serving {
        session.take_leave();
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
    fn left_daemons(&self, serving: &Serving) -> bool {
        let left = left_running(&serving.steward_pids());
        left.iter().any(is_daemon) || (self.grace_left().is_some() && !left.is_empty())
    }

    /// Passes a signal on to the daemons, once. False: there is none, or they had one before.
    fn signal_daemons(&mut self, arrived: Arrived, serving: &Serving) -> bool {
        let first = !std::mem::replace(&mut self.signalled, true);
        let daemons: Vec<Pid> = left_running(&serving.steward_pids())
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
fn reap(command: Pid, end: &mut Option<End>, serving: &mut Serving) {
    while let Ok(Some((pid, wait_status))) = wait(WaitOptions::NOHANG) {
        if pid == command {
            let status = exit_code(ExitStatus::from_raw(wait_status.as_raw()));
            *end = Some(End { status, at: sys::clock::now(), signalled: false });
            serving.say("the command has ended; its connections are finished first (a signal cuts them)");
        }
        serving.child_ended(pid, wait_status);
    }
}
