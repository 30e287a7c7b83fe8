//! The service: listens, judges by the policy, starts a keeper for each run that may be. It attaches to nothing itself and keeps no packet
//! alive, so that it may end and come back at any time.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::process::{WaitOptions, wait};
use sys::fds::{self, Fd, PeerCred};
use sys::launch::Launch;
use sys::poll::{PollFd, PollFlags, poll};
use sys::signals::SignalFd;

use super::WORKER_COMMAND;
use super::depot::Held;
use super::letters::{self, Heard, Letter, Plea, Versions};
use super::policy::{Caller, Denied, Leave, Policy, user_name};
use crate::error::StartError;
use crate::meeting::{namespace_of, namespace_of_fd};

/// Connections that have not said anything yet.
const PENDING_MAX: usize = 64;
/// Runs at a time, of all users.
const RUNS_MAX: usize = 1024;

/// Where it is, and what it goes by.
#[derive(Clone, Debug)]
pub struct Service {
    /// Where it listens.
    pub socket: PathBuf,
    /// The policy file.
    pub policy: PathBuf,
    /// Say on standard error what is done.
    pub verbose: bool,
}

/// The keeper of a run, as the service sees it.
struct Worker {
    /// `None`: it is gone, and lanes go on with what is in `held`.
    link: Option<Fd>,
    /// `corelane run`.
    caller: Fd,
    uid: u32,
    held: Held,
}

impl Worker {
    /// Takes in what it says, and whether one of the two is gone. False: nothing is left of the run.
    fn attend(&mut self) -> bool {
        if self.link.as_ref().is_some_and(|link| !self.held.hear(link)) {
            let lost = Letter::Lost { kept: self.held.is_enough() };
            // A caller that is gone needs no answer.
            let _ = letters::send(&self.caller, &lost, &[]);
            self.link = None;
        }
        // While its keeper is there, the run is that one's matter.
        self.link.is_some() || (self.held.is_enough() && !self.caller_is_gone())
    }

    fn caller_is_gone(&self) -> bool {
        matches!(letters::receive(&self.caller), Heard::End)
    }

    fn poll_fd(&self) -> &Fd {
        self.link.as_ref().unwrap_or(&self.caller)
    }
}

struct State<'a> {
    service: &'a Service,
    policy: Policy,
    listener: Fd,
    pending: Vec<Fd>,
    workers: Vec<Worker>,
}

/// Runs the service until it is told to end (SIGTERM, SIGINT); SIGHUP reads the policy again. Keepers of runs go on after it.
///
/// # Errors
/// A wrong policy file, a socket that cannot be made.
pub fn serve(service: &Service) -> Result<(), StartError> {
    let signals = SignalFd::open(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGCHLD])
        .map_err(|e| StartError::new("signal handling", e, ""))?;
    let policy = Policy::load(&service.policy).map_err(|e| {
        StartError::new("corelane keeper", e, "correct the file; docs/keeper.md says what can be in it")
    })?;
    let listener = listen(&service.socket)?;
    sys::process::raise_open_files();
    eprintln!(
        "corelane keeper: listens at {}, {} rules from {}",
        service.socket.display(),
        policy.rules(),
        policy.source()
    );
    let mut state = State { service, policy, listener, pending: Vec::new(), workers: Vec::new() };
    loop {
        state.wait(signals.as_fd());
        while let Ok(Some(arrived)) = signals.next() {
            match arrived.signal {
                libc::SIGCHLD => while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {},
                libc::SIGHUP => state.reload(),
                _ => {
                    eprintln!("corelane keeper: ends; {} runs go on", state.workers.len());
                    return Ok(());
                }
            }
        }
        state.accept();
        state.hear();
        state.workers.retain_mut(Worker::attend);
    }
}

/// The socket: everybody may connect, the policy says what comes of it.
fn listen(path: &Path) -> Result<Fd, StartError> {
    let failed = |e: &dyn std::fmt::Display| {
        let fix = "is another keeper running? Else check its folder, or name another place with --socket";
        StartError::new(format!("the keeper's socket {}", path.display()), e, fix)
    };
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|e| failed(&e))?;
        // Keepers of root make the folder for themselves; users must get to this socket.
        let mode = fs::metadata(folder).map_err(|e| failed(&e))?.permissions().mode();
        if mode & 0o111 != 0o111 {
            fs::set_permissions(folder, fs::Permissions::from_mode(mode | 0o111)).map_err(|e| failed(&e))?;
        }
    }
    let listener = fds::listen_path(&path.to_string_lossy()).map_err(|e| failed(&e))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o666)).map_err(|e| failed(&e))?;
    Ok(listener)
}

impl State<'_> {
    fn say(&self, text: &str) {
        if self.service.verbose {
            eprintln!("corelane keeper: {text}");
        }
    }

    fn wait(&self, signals: BorrowedFd<'_>) {
        let links = self.pending.iter().chain(self.workers.iter().map(Worker::poll_fd));
        let wanted = [signals, self.listener.as_fd()].into_iter().chain(links.map(AsFd::as_fd));
        let mut polled: Vec<PollFd<'_>> =
            wanted.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        // A failure shows again where the fds are used.
        let _ = poll(&mut polled, None);
    }

    /// Reads the policy again; a wrong one changes nothing.
    fn reload(&mut self) {
        match Policy::load(&self.service.policy) {
            Ok(policy) => {
                eprintln!("corelane keeper: {} rules from {}", policy.rules(), policy.source());
                self.policy = policy;
            }
            Err(why) => eprintln!("corelane keeper: the policy stays as it was: {why}"),
        }
    }

    fn accept(&mut self) {
        while let Ok(caller) = fds::accept_nonblocking(&self.listener) {
            if self.pending.len() >= PENDING_MAX {
                // Whoever has waited longest without a word.
                self.pending.remove(0);
            }
            self.pending.push(caller);
        }
    }

    fn hear(&mut self) {
        for link in std::mem::take(&mut self.pending) {
            match letters::receive(&link) {
                Heard::Nothing => self.pending.push(link),
                Heard::End => {}
                Heard::Strange => self.refuse(&link, &unknown_letter()),
                Heard::Letter(letter, with) => match *letter {
                    Letter::Run(plea) => self.serve_run(link, &plea),
                    Letter::Here { uid, pid } => self.take_back(link, with, (uid, pid)),
                    Letter::Welcome { .. }
                    | Letter::Refused { .. }
                    | Letter::Start { .. }
                    | Letter::Keep { .. }
                    | Letter::Forget { .. }
                    | Letter::Lost { .. } => {
                        self.refuse(&link, &unknown_letter());
                    }
                },
            }
        }
    }

    fn refuse(&self, link: &Fd, error: &StartError) {
        self.say(&format!("refused: {error}"));
        // A caller that is gone needs no answer.
        let _ = letters::send(link, &Letter::refused(error), &[]);
    }

    /// A keeper that a service before this one started.
    fn take_back(&mut self, link: Fd, with: Vec<Fd>, (uid, pid): (u32, u32)) {
        let ours = rustix::process::geteuid().as_raw();
        let trusted = fds::peer_cred(&link).is_ok_and(|cred| cred.uid == ours);
        if let (true, Some(caller)) = (trusted, with.into_iter().next()) {
            self.say(&format!("process {pid} keeps a run of user {}", user_name(uid)));
            self.workers.push(Worker { link: Some(link), caller, uid, held: Held::default() });
        }
    }

    fn serve_run(&mut self, link: Fd, plea: &Plea) {
        match self.start(&link, plea) {
            Ok((worker, uid)) => {
                let held = Held::default();
                self.workers.push(Worker { link: Some(worker), caller: link, uid, held });
            }
            Err(error) => self.refuse(&link, &error),
        }
    }

    /// Starts a keeper for the run; gives the connection to it, and whose run it is.
    fn start(&self, link: &Fd, plea: &Plea) -> Result<(Fd, u32), StartError> {
        plea.versions.check(&Versions::ours()).map_err(|why| {
            StartError::new("versions differ", why, "install one version of both, and restart the keeper")
        })?;
        let (cred, net) = identify(link)?;
        let inside = namespace_of_fd(&net) == namespace_of("/proc/self/ns/net");
        let caller = Caller { uid: cred.uid, groups: groups_of(cred), inside };
        let user = user_name(cred.uid);
        let leave = self
            .policy
            .judge(&caller, &plea.devices)
            .map_err(|Denied { why, fix }| StartError::new(format!("user {user} may not"), why, fix))?;
        self.check_number(&leave, &user)?;
        let plea = plea_within(plea, &leave, cred)?;
        let letter = Letter::Start {
            plea,
            guard: leave.guard,
            pid: cred.pid,
            lenient: leave.lenient,
            socket: self.service.socket.display().to_string(),
            verbose: self.service.verbose,
        };
        let failed = |e: &dyn std::fmt::Display| StartError::new("starting a keeper for the run", e, "");
        let (ours, theirs) = fds::pair().map_err(|e| failed(&e))?;
        let mut command = Command::new("/proc/self/exe");
        command.arg(WORKER_COMMAND).current_dir("/").stdin(Stdio::from(OwnedFd::from(theirs)));
        // The terminal's signals are for the service.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = Launch::default().spawn(&mut command).map_err(|e| failed(&e))?;
        letters::send(&ours, &letter, &[link.as_fd(), net.as_fd()]).map_err(|e| failed(&e))?;
        self.say(&format!("process {} keeps a run of user {user}, process {}", child.id(), cred.pid));
        Ok((ours, cred.uid))
    }

    fn check_number(&self, leave: &Leave, user: &str) -> Result<(), StartError> {
        let own = self.workers.iter().filter(|worker| worker.uid == leave.guard.uid()).count();
        let most = leave.runs.map_or(usize::MAX, |runs| runs as usize);
        if own >= most || self.workers.len() >= RUNS_MAX {
            let why = format!(
                "{own} runs of the user are going on, {} of all (rule {})",
                self.workers.len(),
                leave.guard.rule
            );
            return Err(StartError::new(
                format!("no further run for user {user}"),
                why,
                "end one, or raise `runs` of the rule",
            ));
        }
        Ok(())
    }
}

fn unknown_letter() -> StartError {
    StartError::new(
        "the request",
        "this keeper does not know it",
        "install one version of corelane for both, and restart the keeper",
    )
}

/// Who is at the other end, and that process's network namespace. The kernel names the process by pidfd: as long as that one
/// lives, its number means no other.
fn identify(link: &Fd) -> Result<(PeerCred, OwnedFd), StartError> {
    let failed = |e: &dyn std::fmt::Display| {
        let fix = "run the keeper in the host's PID namespace, with CAP_SYS_PTRACE";
        StartError::new("looking at the caller", e, fix)
    };
    let cred = fds::peer_cred(link).map_err(|e| failed(&e))?;
    let process = fds::peer_pidfd(link).map_err(|e| failed(&e))?;
    let net = fs::File::open(format!("/proc/{}/ns/net", cred.pid)).map_err(|e| failed(&e))?;
    match sys::process::alive(&process) {
        Ok(true) => Ok((cred, net.into())),
        Ok(false) | Err(_) => Err(failed(&"it is gone")),
    }
}

/// The groups of the caller, its primary one first.
fn groups_of(cred: PeerCred) -> Vec<u32> {
    let status = fs::read_to_string(format!("/proc/{}/status", cred.pid)).unwrap_or_default();
    let others = status.lines().find_map(|line| line.strip_prefix("Groups:")).unwrap_or_default();
    let others = others.split_whitespace().filter_map(|gid| gid.parse().ok());
    std::iter::once(cred.gid).chain(others).collect()
}

/// What of the plea is carried out.
fn plea_within(plea: &Plea, leave: &Leave, cred: PeerCred) -> Result<Plea, StartError> {
    if plea.identity.is_some_and(|(uid, _)| uid != cred.uid) && cred.uid != 0 {
        return Err(StartError::new("--user", "only root may run a command as another user", ""));
    }
    let sockets = leave.connections.map_or(plea.sockets, |most| plea.sockets.min(most));
    Ok(Plea { devices: leave.devices.clone(), sockets, ..plea.clone() })
}
