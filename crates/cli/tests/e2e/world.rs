//! Two network namespaces joined by a veth pair, and processes in them that end with the test.

use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Address of the kernel's side.
pub(crate) const PEER: &str = "10.77.0.1";
/// Address of Corelane's side.
pub(crate) const OURS: &str = "10.77.0.2";
/// Addresses of both sides after [`World::add_ipv6`].
pub(crate) const PEER_V6: &str = "fd00:77::1";
pub(crate) const OURS_V6: &str = "fd00:77::2";
/// Corelane's device.
pub(crate) const DEVICE: &str = "lane0";

/// One test at a time: two cores, and each test has several busy processes.
static TURN: Mutex<()> = Mutex::new(());
static NUMBER: AtomicU32 = AtomicU32::new(0);

/// Two namespaces and a scratch folder, removed on drop.
pub(crate) struct World {
    peer: String,
    ours: String,
    /// Scratch folder.
    pub(crate) dir: PathBuf,
    _turn: MutexGuard<'static, ()>,
}

/// Which side of the wire.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    /// The kernel's.
    Peer,
    /// Corelane's.
    Ours,
}

impl World {
    /// A new world, or `None` (said on stderr) where the machine cannot make one or a program is missing.
    pub(crate) fn new(programs: &[&str]) -> Option<Self> {
        Self::with_queues(1, programs)
    }

    /// With a device of so many queues each way.
    pub(crate) fn with_queues(queues: u32, programs: &[&str]) -> Option<Self> {
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root for network namespaces");
            return None;
        }
        for program in programs {
            if find(program).is_none() {
                eprintln!("skipped: {program} is not installed (cargo xtask test installs it)");
                return None;
            }
        }
        remove_stale();
        let id = std::process::id();
        let n = NUMBER.fetch_add(1, Ordering::Relaxed);
        let (peer, ours) = (format!("cle2e-{id}-{n}-p"), format!("cle2e-{id}-{n}-o"));
        let dir = std::env::temp_dir().join(format!("cle2e-{id}-{n}"));
        fs::create_dir_all(&dir).expect("a scratch folder");
        let world = Self { peer, ours, dir, _turn: turn };
        ip(&["netns", "add", &world.peer]);
        ip(&["netns", "add", &world.ours]);
        let count = queues.to_string();
        let queues = ["numrxqueues", &count, "numtxqueues", &count];
        let near = ["link", "add", "peer0", "netns", &world.peer];
        let far = ["type", "veth", "peer", "name", DEVICE, "netns", &world.ours];
        ip(&[&near[..], &queues, &far, &queues].concat());
        for (ns, device, address) in [(&world.peer, "peer0", PEER), (&world.ours, DEVICE, OURS)] {
            ip(&["-n", ns, "address", "add", &format!("{address}/24"), "dev", device]);
            ip(&["-n", ns, "link", "set", "lo", "up"]);
            ip(&["-n", ns, "link", "set", device, "up"]);
        }
        wait_until("the wire has carrier", 10, || {
            world.check(Side::Ours, 5, &["ip", "link", "show", DEVICE]).contains("LOWER_UP")
                && world.check(Side::Ours, 5, &["cat", &format!("/sys/class/net/{DEVICE}/operstate")]).trim()
                    == "up"
        });
        Some(world)
    }

    /// Gives both sides an IPv6 address, and waits until they can use their link-local ones.
    pub(crate) fn add_ipv6(&self) {
        for (side, device, address) in [(Side::Peer, "peer0", PEER_V6), (Side::Ours, DEVICE, OURS_V6)] {
            self.check(side, 5, &["ip", "address", "add", &format!("{address}/64"), "dev", device, "nodad"]);
            wait_until("the link-local address is known to be free", 20, || {
                self.check(side, 5, &["ip", "-6", "address", "show", "dev", device, "-tentative"])
                    .contains("fe80:")
            });
        }
    }

    /// The link-local address of a side's device.
    pub(crate) fn link_local(&self, side: Side) -> String {
        let device = if side == Side::Peer { "peer0" } else { DEVICE };
        let shown =
            self.check(side, 5, &["ip", "-6", "-o", "address", "show", "dev", device, "scope", "link"]);
        let network = shown.split_whitespace().find(|word| word.starts_with("fe80:")).expect("an address");
        network.split('/').next().expect("a part").to_owned()
    }

    pub(crate) fn namespace(&self, side: Side) -> &str {
        match side {
            Side::Peer => &self.peer,
            Side::Ours => &self.ours,
        }
    }

    /// A command inside one side's namespace, not started yet.
    pub(crate) fn command<S: AsRef<OsStr>>(&self, side: Side, words: &[S]) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", self.namespace(side)])
            .args(words)
            .current_dir(&self.dir)
            .stdin(Stdio::null());
        command
    }

    /// The command line of `corelane run` on Corelane's device around `words`.
    pub(crate) fn corelane(words: &[&str]) -> Vec<String> {
        let program = program();
        let mut line =
            vec![program.display().to_string(), "run".into(), "--device".into(), DEVICE.into(), "--".into()];
        line.extend(words.iter().map(|w| (*w).to_owned()));
        line
    }

    /// Starts a process whose output goes to `NAME.log` in the scratch folder.
    pub(crate) fn spawn<S: AsRef<OsStr>>(&self, side: Side, name: &str, words: &[S]) -> Process {
        self.spawn_command(name, self.command(side, words))
    }

    /// [`World::spawn`] for a command with its own environment.
    pub(crate) fn spawn_command(&self, name: &str, mut command: Command) -> Process {
        let log = self.dir.join(format!("{name}.log"));
        let file = fs::File::create(&log).expect("a log file");
        let both = file.try_clone().expect("a second handle");
        // Of its own, because Apache's prefork ends its whole process group.
        let child = command.stdout(file).stderr(both).process_group(0).spawn().expect("the program starts");
        Process { child, log }
    }

    /// Runs to the end, at most `seconds`; gives status and output.
    pub(crate) fn run<S: AsRef<OsStr>>(&self, side: Side, seconds: u64, words: &[S]) -> Output {
        finish(self.command(side, words), seconds)
    }

    /// As [`World::run`]; the program must succeed. Gives its standard output.
    pub(crate) fn check<S: AsRef<OsStr>>(&self, side: Side, seconds: u64, words: &[S]) -> String {
        let shown: Vec<String> = words.iter().map(|w| w.as_ref().to_string_lossy().into_owned()).collect();
        let output = self.run(side, seconds, words);
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(
            output.status.success(),
            "{}: {}\n{out}\n{}",
            shown.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        out
    }

    /// Waits until a TCP connection from the kernel's side to `port` of Corelane's side is answered.
    pub(crate) fn wait_for_port(&self, server: &mut Process, port: u16) {
        self.wait_for_port_from(Side::Peer, OURS, server, port);
    }

    /// Waits until a TCP connection from `side` to `address` is answered.
    pub(crate) fn wait_for_port_from(&self, side: Side, address: &str, server: &mut Process, port: u16) {
        let probe = format!("exec 3<>/dev/tcp/{address}/{port}");
        wait_until("the server answers", 20, || {
            server.assert_running();
            self.run(side, 5, &["bash", "-c", &probe]).status.success()
        });
    }

    /// A file of `bytes` pseudo-random bytes in the scratch folder; gives its path.
    pub(crate) fn random_file(&self, name: &str, bytes: u64) -> PathBuf {
        let path = self.dir.join(name);
        let mut random = base::Rng::new(bytes ^ 0x5eed);
        let mut out = std::io::BufWriter::with_capacity(1 << 20, fs::File::create(&path).expect("a file"));
        for _ in 0..bytes.div_ceil(8) {
            std::io::Write::write_all(&mut out, &random.next_u64().to_le_bytes()).expect("room on the disk");
        }
        drop(out);
        let file = fs::OpenOptions::new().write(true).open(&path).expect("the file");
        file.set_len(bytes).expect("a shorter file");
        path
    }

    /// Ends whatever runs in either namespace.
    pub(crate) fn end_all(&self) {
        end_all_in(&self.peer);
        end_all_in(&self.ours);
    }

    /// Nothing of Corelane may be left in its namespace: no process, no program on the device.
    pub(crate) fn assert_clean(&self) {
        wait_until("Corelane's processes are gone", 20, || {
            self.check(Side::Ours, 5, &["ip", "netns", "pids", &self.ours]).split_whitespace().count() <= 1
        });
        let link = self.check(Side::Ours, 5, &["ip", "-details", "link", "show", DEVICE]);
        assert!(!link.contains("xdp"), "an XDP program is left: {link}");
        let filters = self.check(Side::Ours, 5, &["tc", "filter", "show", "dev", DEVICE, "ingress"]);
        assert!(filters.trim().is_empty(), "a filter is left: {filters}");
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.end_all();
        for ns in [&self.peer, &self.ours] {
            let _ = Command::new("ip").args(["netns", "delete", ns]).stderr(Stdio::null()).status();
        }
        if std::thread::panicking() {
            show_logs(&self.dir);
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A process that ends with its handle.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it printed so far.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Fails the test if it has ended.
    pub(crate) fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().expect("a child") {
            panic!("the program ended: {status}\n{}", self.output());
        }
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        send_signal(self.id(), signal);
    }

    /// Waits for its end, at most `seconds`.
    pub(crate) fn wait(&mut self, seconds: u64) -> std::process::ExitStatus {
        let mut status = None;
        wait_until("the program ends", seconds, || {
            status = self.child.try_wait().expect("a child");
            status.is_some()
        });
        status.expect("an exit status")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(rustix::process::Signal::TERM);
            let end = Instant::now() + Duration::from_secs(5);
            while Instant::now() < end && matches!(self.child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(10));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Sends `signal` to the process `pid`, which this test started.
pub(crate) fn send_signal(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = rustix::process::Pid::from_raw(pid.cast_signed()) {
        let _ = rustix::process::kill_process(pid, signal);
    }
}

/// Waits for a condition, looking every 20 ms; fails the test after `seconds`.
pub(crate) fn wait_until(what: &str, seconds: u64, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(seconds);
    while !condition() {
        assert!(Instant::now() < end, "waited {seconds} s in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs a command to its end, at most `seconds`.
pub(crate) fn finish(mut command: Command, seconds: u64) -> Output {
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let mut out = child.stdout.take().expect("a pipe");
    let mut err = child.stderr.take().expect("a pipe");
    let read_out = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = out.read_to_end(&mut bytes);
        bytes
    });
    let read_err = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = err.read_to_end(&mut bytes);
        bytes
    });
    let end = Instant::now() + Duration::from_secs(seconds);
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            panic!("{command:?} did not end within {seconds} s");
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    Output {
        status,
        stdout: read_out.join().unwrap_or_default(),
        stderr: read_err.join().unwrap_or_default(),
    }
}

/// The `corelane` program: beside the preload library in CORELANE_BIN_DIR, else the build of this test run.
pub(crate) fn program() -> PathBuf {
    match std::env::var_os("CORELANE_BIN_DIR") {
        Some(dir) => Path::new(&dir).join("corelane"),
        None => PathBuf::from(env!("CARGO_BIN_EXE_corelane")),
    }
}

/// SHA-256 of a file, hexadecimal, by coreutils.
pub(crate) fn sha256(path: &Path) -> String {
    let output = Command::new("sha256sum").arg(path).output().expect("sha256sum");
    String::from_utf8_lossy(&output.stdout).split_whitespace().next().unwrap_or_default().to_owned()
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .map(|d| d.join(program))
        .find(|p| p.is_file())
}

fn ip(args: &[&str]) {
    let output = Command::new("ip").args(args).output().expect("ip (package iproute2)");
    assert!(output.status.success(), "ip {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
}

/// Ends what runs in a namespace of this test.
fn end_all_in(ns: &str) {
    let Ok(output) = Command::new("ip").args(["netns", "pids", ns]).output() else { return };
    for pid in String::from_utf8_lossy(&output.stdout).split_whitespace().filter_map(|p| p.parse().ok()) {
        send_signal(pid, rustix::process::Signal::KILL);
    }
}

/// Removes the namespaces of earlier runs whose process is gone.
fn remove_stale() {
    let Ok(entries) = fs::read_dir("/run/netns") else { return };
    for name in entries.filter_map(Result::ok).filter_map(|e| e.file_name().into_string().ok()) {
        let Some(pid) = name.strip_prefix("cle2e-").and_then(|r| r.split('-').next()) else { continue };
        if !Path::new("/proc").join(pid).exists() {
            end_all_in(&name);
            let _ = Command::new("ip").args(["netns", "delete", &name]).status();
        }
    }
}

fn show_logs(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for path in
        entries.filter_map(Result::ok).map(|e| e.path()).filter(|p| p.extension().is_some_and(|e| e == "log"))
    {
        let text = fs::read_to_string(&path).unwrap_or_default();
        let tail: Vec<&str> = text.lines().rev().take(40).collect();
        eprintln!("--- {}", path.display());
        for line in tail.iter().rev() {
            eprintln!("{line}");
        }
    }
}
