//! Where programs run: network namespaces without names, joined by a veth pair, each side on a processor of its own.
//!
//! A namespace lives in a thread of this process and in the programs started from it, so it is gone when this process is, whatever
//! ended it.

use std::io;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Sender, channel};

use sys::launch::Launch;

use crate::losses::Losses;
use crate::rows::Trouble;

/// Address of the server between namespaces.
const SERVER_ADDRESS: &str = "10.232.0.1";
/// Address of the client.
const CLIENT_ADDRESS: &str = "10.232.0.2";
/// The server's device.
const SERVER_DEVICE: &str = "clb-server";
/// The client's device.
const CLIENT_DEVICE: &str = "clb-client";
/// The device that the server's lane makes for itself, with the server's address; the kernel's side of it has the client's.
const TAP_DEVICE: &str = "tap:clb-tap=10.232.0.1/24,gw=10.232.0.2";

type Task = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own.
struct Place {
    tasks: Sender<Task>,
    tid: u32,
}

impl Place {
    /// A thread in a new namespace, its loopback on, with room for many short connections.
    fn new() -> Result<Self, Trouble> {
        let (tasks, todo) = channel::<Task>();
        let work = move || todo.into_iter().for_each(|task| task());
        std::thread::Builder::new().spawn(work).map_err(|e| Trouble::failed("starting a thread", e))?;
        let mut place = Self { tasks, tid: 0 };
        place.tid = place.run(sys::process::tid);
        place.run(|| sys::namespace::enter_new_net().map(drop)).map_err(|e| match e.kind() {
            io::ErrorKind::PermissionDenied => Trouble::Skipped("network namespaces need root".to_owned()),
            _ => Trouble::failed("making a network namespace", e),
        })?;
        place.ip(&["link", "set", "lo", "up"])?;
        for (name, value) in [("ipv4/ip_local_port_range", "1024 65000"), ("ipv4/tcp_tw_reuse", "1")] {
            let file = format!("/proc/sys/net/{name}");
            place
                .run(move || std::fs::write(file, value))
                .map_err(|e| Trouble::failed(&format!("setting {name}"), e))?;
        }
        Ok(place)
    }

    fn run<R: Send + 'static>(&self, task: impl FnOnce() -> R + Send + 'static) -> R {
        let (done, result) = channel();
        let task: Task = Box::new(move || {
            // The receiver below waits for exactly this.
            let _ = done.send(task());
        });
        self.tasks.send(task).expect("the namespace's thread");
        result.recv().expect("an answer of the namespace's thread")
    }

    fn ip(&self, args: &[&str]) -> Result<(), Trouble> {
        let mut command = Command::new("ip");
        command.args(args);
        let what = format!("ip {}", args.join(" "));
        match self.run(move || command.output()) {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(Trouble::failed(&what, String::from_utf8_lossy(&output.stderr).trim())),
            Err(e) => Err(Trouble::failed(&what, e)),
        }
    }
}

/// What a program's sockets are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Under {
    /// The kernel's.
    Linux,
    /// Ours: the program is started by `corelane run`.
    Corelane,
}

/// Who.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Side {
    Server,
    Client,
}

/// A server's side and a client's.
pub(crate) struct World {
    server: Place,
    /// None: both are on one host.
    client: Option<Place>,
    /// On one host: the server is reached by a TAP device of its own, not over loopback.
    tap: bool,
    cores: (usize, usize),
    /// Strangers to each other, as on two machines: their keepers do not meet, so nothing goes by a wire; with this kind of port.
    strangers: Option<&'static str>,
    /// What loses packets on the way.
    losses: Vec<Losses>,
}

impl World {
    /// One host: server and client meet over loopback with this MTU; its own when none is given.
    pub(crate) fn one_host(mtu: Option<usize>) -> Result<Self, Trouble> {
        let server = Place::new()?;
        if let Some(mtu) = mtu {
            server.ip(&["link", "set", "lo", "mtu", &mtu.to_string()])?;
        }
        Ok(Self { server, client: None, tap: false, cores: cores(), strangers: None, losses: Vec::new() })
    }

    /// One host: the server is on Corelane with a TAP device of its own, the client on the kernel, whose way to the server it is.
    pub(crate) fn behind_tap() -> Result<Self, Trouble> {
        Ok(Self { tap: true, ..Self::one_host(None)? })
    }

    /// Two hosts joined by a veth pair with this MTU. `parted`: each side's packets are received on its own processor, as those of
    /// two machines would be (else on that of the sender, which is quicker and puts a part of each side's work on the other's
    /// account).
    pub(crate) fn two_hosts(mtu: usize, parted: bool) -> Result<Self, Trouble> {
        let (server, client) = (Place::new()?, Place::new()?);
        server.ip(&["link", "add", SERVER_DEVICE, "type", "veth", "peer", "name", CLIENT_DEVICE])?;
        server.ip(&["link", "set", CLIENT_DEVICE, "netns", &client.tid.to_string()])?;
        let cores = cores();
        for (place, device, address, core) in [
            (&server, SERVER_DEVICE, SERVER_ADDRESS, cores.0),
            (&client, CLIENT_DEVICE, CLIENT_ADDRESS, cores.1),
        ] {
            place.ip(&["addr", "add", &format!("{address}/24"), "dev", device])?;
            place.ip(&["link", "set", device, "mtu", &mtu.to_string(), "up"])?;
            if parted {
                receive_on(place, device, core)?;
            }
        }
        Ok(Self { server, client: Some(client), tap: false, cores, strangers: None, losses: Vec::new() })
    }

    /// Of two hosts: they know nothing of each other, and lanes use this kind of port.
    pub(crate) fn of_strangers(self, port: &'static str) -> Self {
        Self { strangers: Some(port), ..self }
    }

    /// Of two hosts: the way between them loses so many packets of a million, either way.
    pub(crate) fn losing(mut self, ppm: u32) -> Result<Self, Trouble> {
        for (side, device) in [(Side::Server, SERVER_DEVICE), (Side::Client, CLIENT_DEVICE)] {
            let losses = self.place(side).run(move || Losses::at(device, ppm))?;
            self.losses.push(losses);
        }
        Ok(self)
    }

    /// Where the client finds the server.
    pub(crate) fn address(&self) -> &'static str {
        if self.client.is_some() || self.tap { SERVER_ADDRESS } else { "127.0.0.1" }
    }

    /// The processor of a side.
    pub(crate) fn core(&self, side: Side) -> usize {
        match side {
            Side::Server => self.cores.0,
            Side::Client => self.cores.1,
        }
    }

    fn place(&self, side: Side) -> &Place {
        match (side, &self.client) {
            (Side::Client, Some(place)) => place,
            (Side::Client | Side::Server, _) => &self.server,
        }
    }

    /// Starts `words` on a side, pinned. It dies with this process.
    pub(crate) fn spawn(&self, side: Side, under: Under, words: &[String]) -> Result<Child, Trouble> {
        let (first, rest) = words.split_first().ok_or_else(|| Trouble::failed("a program", "no name"))?;
        let mut command = match under {
            Under::Linux => Command::new(first),
            Under::Corelane => {
                let mut command = match self.strangers {
                    None => Command::new(corelane()?),
                    Some(_) => alone(&corelane()?),
                };
                command.arg("run");
                if let Some(port) = self.strangers {
                    command.args(["--port", port]);
                }
                let device = match (&self.client, side) {
                    (None, Side::Server) if self.tap => TAP_DEVICE,
                    (None, _) => "lo",
                    (Some(_), Side::Server) => SERVER_DEVICE,
                    (Some(_), Side::Client) => CLIENT_DEVICE,
                };
                command.args(["--device", device]);
                command.arg("--").arg(first);
                command
            }
        };
        command.args(rest).stdin(Stdio::piped()).stdout(Stdio::piped());
        if std::env::var_os(QUIET).is_none() {
            command.stderr(Stdio::null());
        }
        let core = self.core(side);
        let start = move || {
            sys::affinity::pin_to(core)?;
            Launch { dies_with_parent: true, ..Launch::default() }.spawn(&mut command)
        };
        self.place(side).run(start).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => Trouble::Skipped(format!("{first} is not installed")),
            _ => Trouble::failed(first, e),
        })
    }

    /// Runs `task` in the namespace of a side.
    pub(crate) fn on<R: Send + 'static>(&self, side: Side, task: impl FnOnce() -> R + Send + 'static) -> R {
        self.place(side).run(task)
    }
}

/// `program` with a /run of its own, where keepers meet.
fn alone(program: &std::path::Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount -t tmpfs tmpfs /run && exec \"$@\"", "sh"]).arg(program);
    command
}

/// With this variable set the error output of programs is seen.
const QUIET: &str = "CORELANE_BENCH_LOUD";

/// `corelane` beside this program.
fn corelane() -> Result<std::path::PathBuf, Trouble> {
    let file = std::env::current_exe().unwrap_or_default().with_file_name("corelane");
    if file.exists() {
        Ok(file)
    } else {
        let why = format!("there is no {}: cargo build -p corelane-cli -p corelane-preload", file.display());
        Err(Trouble::Skipped(why))
    }
}

/// The server's processor and the client's: the last and the first; where there is one, it is both.
fn cores() -> (usize, usize) {
    let cores = sys::affinity::allowed().unwrap_or_default();
    (cores.last().copied().unwrap_or(0), cores.first().copied().unwrap_or(0))
}

/// Pins this thread to the processor on which single-threaded work and servers run.
pub(crate) fn pin() {
    // Where it may not be pinned it runs all the same.
    let _ = sys::affinity::pin_to(cores().0);
}

/// Has the kernel receive the packets of `device` on `core` (RPS).
fn receive_on(place: &Place, device: &str, core: usize) -> Result<(), Trouble> {
    // A mount of sysfs shows the network namespace of whoever mounts it.
    let mask = 1u64 << core.min(31);
    let script =
        format!("mount -t sysfs sysfs /sys && echo {mask:x} > /sys/class/net/{device}/queues/rx-0/rps_cpus");
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]);
    match place.run(move || command.output()) {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => {
            Err(Trouble::failed("setting rps_cpus", String::from_utf8_lossy(&output.stderr).trim()))
        }
        Err(e) => Err(Trouble::failed("unshare", e)),
    }
}
