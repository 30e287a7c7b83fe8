//! One row being played: its namespaces, the programs in them, and what the kernels count meanwhile.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::world::{DEVICE, OURS, PEER, Process, Side, World, wait_until};

/// Who does the TCP of one side.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stack {
    Kernel,
    Lane,
}

impl Stack {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Lane => "lane",
        }
    }
}

/// What the kernels counted while a row was played.
pub(crate) struct Opens {
    /// TCP connections that the peer's kernel opened or accepted: all of them, where the peer is the kernel.
    pub(crate) total: u64,
    /// Those that the kernel of the program's side opened or accepted (both kernels, where the peer is on Corelane).
    pub(crate) by_kernel: u64,
    /// What `corelane explain` says of them.
    pub(crate) reasons: Vec<String>,
}

/// A row being played.
pub(crate) struct Trial {
    pub(crate) world: World,
    ours: Stack,
    peer: Stack,
    running: RefCell<Vec<(String, Process)>>,
    /// (ours, peer's) when the row began.
    before: Cell<(u64, u64)>,
}

/// A program of this trial that runs.
#[derive(Clone, Copy)]
pub(crate) struct Running(usize);

impl Trial {
    pub(crate) fn new(programs: &[&str], ours: Stack, peer: Stack) -> Option<Self> {
        let world = World::new(programs)?;
        let trial = Self { world, ours, peer, running: RefCell::default(), before: Cell::new((0, 0)) };
        trial.begin();
        Some(trial)
    }

    /// The address of a side.
    pub(crate) const fn address(side: Side) -> &'static str {
        match side {
            Side::Ours => OURS,
            Side::Peer => PEER,
        }
    }

    fn stack(&self, side: Side) -> Stack {
        match side {
            Side::Ours => self.ours,
            Side::Peer => self.peer,
        }
    }

    /// `words` as they are started on `side`; as `user`, if one is given.
    fn line(&self, side: Side, user: Option<&str>, words: &[&str]) -> Vec<String> {
        let mut line = Vec::new();
        match self.stack(side) {
            Stack::Kernel => {
                if let Some(user) = user {
                    let (uid, gid) = (format!("--reuid={user}"), format!("--regid={user}"));
                    line.extend(["setpriv".to_owned(), uid, gid, "--clear-groups".to_owned()]);
                }
                line.extend(words.iter().map(|w| (*w).to_owned()));
            }
            Stack::Lane => {
                let device = if side == Side::Ours { DEVICE } else { "peer0" };
                line = World::corelane(words);
                line.iter_mut().filter(|word| *word == DEVICE).for_each(|word| device.clone_into(word));
                if let Some(user) = user {
                    line.splice(2..2, ["--user".to_owned(), user.to_owned()]);
                }
            }
        }
        line
    }

    /// Starts a program that goes on running.
    pub(crate) fn start(&self, side: Side, name: &str, words: &[&str]) -> Running {
        self.start_as(side, None, name, words)
    }

    /// [`Trial::start`] as another user.
    pub(crate) fn start_as(&self, side: Side, user: Option<&str>, name: &str, words: &[&str]) -> Running {
        let process = self.world.spawn(side, name, &self.line(side, user, words));
        let mut running = self.running.borrow_mut();
        running.push((name.to_owned(), process));
        Running(running.len() - 1)
    }

    /// Starts a server and waits until it answers on `port`; connections count from then on.
    pub(crate) fn serve(&self, side: Side, name: &str, words: &[&str], port: u16) -> Running {
        let server = self.start(side, name, words);
        self.ready(side, server, port);
        server
    }

    /// Waits until `server` answers on `port`; connections count from then on.
    pub(crate) fn ready(&self, side: Side, server: Running, port: u16) {
        let other = if side == Side::Ours { Side::Peer } else { Side::Ours };
        let mut running = self.running.borrow_mut();
        if let Some((_, process)) = running.get_mut(server.0) {
            self.world.wait_for_port_from(other, Self::address(side), process, port);
        }
        drop(running);
        self.begin();
    }

    /// Runs a program to its end; it must succeed. Gives its standard output.
    pub(crate) fn check(&self, side: Side, seconds: u64, words: &[&str]) -> String {
        self.world.check(side, seconds, &self.line(side, None, words))
    }

    /// Runs a program to its end, whatever that is.
    pub(crate) fn run(&self, side: Side, seconds: u64, words: &[&str]) -> std::process::Output {
        self.world.run(side, seconds, &self.line(side, None, words))
    }

    /// Ends a program, and waits for it.
    pub(crate) fn stop(&self, of: Running, signal: rustix::process::Signal) {
        let mut running = self.running.borrow_mut();
        let Some((_, process)) = running.get_mut(of.0) else { return };
        process.signal(signal);
        process.wait(20);
        running.remove(of.0);
    }

    /// Waits for the end of a program, which must succeed; gives what it printed. Names of those started after it are no longer good.
    pub(crate) fn wait(&self, of: Running, seconds: u64) -> String {
        let mut running = self.running.borrow_mut();
        let Some((name, process)) = running.get_mut(of.0) else { return String::new() };
        assert!(process.wait(seconds).success(), "{name}: {}", process.output());
        let output = process.output();
        running.remove(of.0);
        output
    }

    /// What a running program printed.
    pub(crate) fn output(&self, of: Running) -> String {
        self.running.borrow().get(of.0).map(|(_, process)| process.output()).unwrap_or_default()
    }

    /// Writes a file in the scratch folder; gives its path.
    pub(crate) fn write(&self, name: &str, text: &str) -> String {
        let path = self.world.dir.join(name);
        std::fs::write(&path, text).expect("a file");
        path.display().to_string()
    }

    /// A file of pseudo-random bytes; gives its path.
    pub(crate) fn random(&self, name: &str, bytes: u64) -> PathBuf {
        self.world.random_file(name, bytes)
    }

    /// Connections count from now on.
    pub(crate) fn begin(&self) {
        self.before.set((self.opens(Side::Ours), self.opens(Side::Peer)));
    }

    /// Sends a signal to the process whose id `file` of the scratch folder holds.
    pub(crate) fn signal(&self, file: &str, signal: rustix::process::Signal) {
        let text = std::fs::read_to_string(self.world.dir.join(file)).expect("a file with a process id");
        crate::world::send_signal(text.trim().parse().expect("a process id"), signal);
    }

    /// TCP connections that this side's kernel opened or accepted so far (ActiveOpens and PassiveOpens of RFC 4022).
    fn opens(&self, side: Side) -> u64 {
        let text = self.world.check(side, 5, &["cat", "/proc/net/snmp"]);
        let mut rows = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let (names, values) = (rows.next().unwrap_or_default(), rows.next().unwrap_or_default());
        let pairs = names.split_whitespace().zip(values.split_whitespace());
        let wanted = pairs.filter(|(name, _)| matches!(*name, "ActiveOpens" | "PassiveOpens"));
        wanted.filter_map(|(_, value)| value.parse::<u64>().ok()).sum()
    }

    /// Ends what runs; an error says what is wrong with a program that should still run.
    pub(crate) fn end(&self) -> Result<Opens, String> {
        let (ours, peer) = self.before.get();
        let (ours, peer) = (self.opens(Side::Ours) - ours, self.opens(Side::Peer) - peer);
        let by_kernel = if self.peer == Stack::Lane { ours + peer } else { ours };
        let reasons = if self.ours == Stack::Lane && by_kernel > 0 { self.reasons() } else { Vec::new() };
        for (_, process) in self.running.borrow_mut().iter_mut() {
            process.assert_running();
        }
        let said: Vec<String> = self.complaints();
        self.running.borrow_mut().drain(..).rev().for_each(drop);
        if self.ours == Stack::Lane {
            self.world.assert_clean();
        }
        if said.is_empty() {
            Ok(Opens { total: peer, by_kernel, reasons })
        } else {
            Err(format!("Corelane complained: {}", said.join("; ")))
        }
    }

    /// Lines of Corelane's own in what the programs printed.
    fn complaints(&self) -> Vec<String> {
        let running = self.running.borrow();
        let outputs = running.iter().map(|(_, process)| process.output());
        let lines: Vec<String> =
            outputs.flat_map(|o| o.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
        lines.into_iter().filter(|line| line.starts_with("corelane:") || line.contains("panicked")).collect()
    }

    /// What `corelane explain` says of the kernel's sockets in the program's namespace, each reason once.
    fn reasons(&self) -> Vec<String> {
        let program = crate::world::program().display().to_string();
        let mut reasons = BTreeSet::new();
        let pids = self.world.check(Side::Ours, 5, &["bash", "-c", "ip netns pids $(ip netns identify $$)"]);
        for pid in pids.split_whitespace() {
            let output = self.world.run(Side::Ours, 10, &[&program, "explain", pid]);
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let told = text.lines().filter_map(|line| Some(line.split_once(" kernel: ")?.1.to_owned()));
            reasons.extend(
                told.filter(|reason| !reason.starts_with("not connected") && !reason.starts_with("UDP")),
            );
        }
        reasons.into_iter().collect()
    }

    /// Waits for a condition.
    pub(crate) fn until(&self, what: &str, condition: impl FnMut() -> bool) {
        wait_until(what, 20, condition);
    }
}
