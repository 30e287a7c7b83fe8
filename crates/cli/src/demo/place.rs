//! Two network namespaces with a veth pair between them. They have no names: they live in two threads of this
//! process and in the programs started from these, so they are gone when those are, whatever ended them.

use std::io;
use std::process::{Child, Command};
use std::sync::mpsc::{Sender, channel};

use sys::launch::Launch;

use super::processes::MARK;
use crate::failure::Failure;

/// Address of the server on both stacks.
pub(super) const SERVER_ADDRESS: &str = "10.231.0.1";
/// Address of the client.
const CLIENT_ADDRESS: &str = "10.231.0.2";
/// Prefix length of their network.
const PREFIX: u8 = 24;
/// The server's device.
const SERVER_DEVICE: &str = "cl-server";
/// The client's device.
const CLIENT_DEVICE: &str = "cl-client";

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own. It lives as long as the process: what it started dies with it.
pub(super) struct Place {
    jobs: Sender<Job>,
    tid: u32,
}

impl Place {
    /// A thread in a new namespace, its loopback on.
    fn new_namespace() -> Result<Self, Failure> {
        let place = Self::here()?;
        place.run(|| sys::namespace::enter_new_net().map(drop)).map_err(|e| {
            Failure::new("making a network namespace", e)
                .fix("run as root, or let the kernel make user namespaces (see `corelane doctor`)")
        })?;
        place.ip(&["link", "set", "lo", "up"])?;
        Ok(place)
    }

    /// A thread in the namespace the process is in.
    fn here() -> Result<Self, Failure> {
        let (jobs, todo) = channel::<Job>();
        let work = move || todo.into_iter().for_each(|job| job());
        std::thread::Builder::new()
            .name("place".to_owned())
            .spawn(work)
            .map_err(|e| Failure::new("starting a thread", e))?;
        let mut place = Self { jobs, tid: 0 };
        place.tid = place.run(sys::process::tid);
        Ok(place)
    }

    /// Runs `job` in this namespace and waits for it.
    pub(super) fn run<R: Send + 'static>(&self, job: impl FnOnce() -> R + Send + 'static) -> R {
        let (done, result) = channel();
        let job: Job = Box::new(move || {
            // The receiver below waits for exactly this.
            let _ = done.send(job());
        });
        match self.jobs.send(job).ok().and_then(|()| result.recv().ok()) {
            Some(result) => result,
            // The thread takes jobs until `self` is dropped, and a job that panicked was ours.
            None => unreachable!("the thread of a namespace ended"),
        }
    }

    /// Starts a program in this namespace. It dies with this process.
    pub(super) fn spawn(&self, mut command: Command) -> io::Result<Child> {
        command.env(MARK, std::process::id().to_string());
        self.run(move || Launch { dies_with_parent: true, ..Launch::default() }.spawn(&mut command))
    }

    /// Runs `ip` with `args` in this namespace.
    pub(super) fn ip(&self, args: &[&str]) -> Result<(), Failure> {
        let what = format!("ip {}", args.join(" "));
        let mut command = Command::new("ip");
        command.args(args);
        let output = self.run(move || command.output());
        match output {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(Failure::new(what, String::from_utf8_lossy(&output.stderr).trim())),
            Err(e) => Err(Failure::new(what, e).fix("install iproute2")),
        }
    }
}

/// The two sides of the demo.
pub(super) struct World {
    client: Place,
    server: Place,
    alone: Alone,
    server_core: Option<usize>,
}

/// Where Corelane's server runs without privileges: on a device with an address of its own.
enum Alone {
    /// With privileges: where the kernel's server runs.
    No,
    /// In one namespace with its client, a TAP device between them.
    Tap(Place),
    /// On one end of a second veth pair.
    Veth { client: Place, server: Place },
}

/// What there is to run the demo with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Means {
    /// Privileges: the kernel's addresses, packets steered by BPF programs.
    Privileges,
    /// A TAP device.
    Tap,
    /// Packet sockets.
    PacketSocket,
}

impl Means {
    /// What can be had without privileges.
    pub(super) fn without_privileges() -> Self {
        match std::fs::File::options().read(true).write(true).open("/dev/net/tun") {
            Ok(_) => Self::Tap,
            Err(_) => Self::PacketSocket,
        }
    }
}

/// Joins two places by a veth pair; an end without an address is only switched on.
fn join(server: &Place, client: &Place, server_address: Option<&str>) -> Result<(), Failure> {
    server.ip(&["link", "add", SERVER_DEVICE, "type", "veth", "peer", "name", CLIENT_DEVICE])?;
    server.ip(&["link", "set", CLIENT_DEVICE, "netns", &client.tid.to_string()])?;
    for (place, device, address) in
        [(server, SERVER_DEVICE, server_address), (client, CLIENT_DEVICE, Some(CLIENT_ADDRESS))]
    {
        if let Some(address) = address {
            place.ip(&["addr", "add", &format!("{address}/{PREFIX}"), "dev", device])?;
        }
        place.ip(&["link", "set", device, "up"])?;
    }
    Ok(())
}

/// Gives each side a processor of its own, on which it also does the receiving of its device (RPS), as two machines
/// would. Gives the server's; `None` when there is one processor only, or the kernel does not let us.
fn part_cores(client: &Place, server: &Place) -> Option<usize> {
    let cores = sys::affinity::allowed().ok()?;
    let (first, last) = (*cores.first()?, *cores.last()?);
    if first == last || last >= 32 {
        return None;
    }
    for (place, device, core) in [(client, CLIENT_DEVICE, first), (server, SERVER_DEVICE, last)] {
        place.run(move || sys::affinity::pin_to(core)).ok()?;
        // A mount of sysfs shows the network namespace of whoever mounts it.
        let script = format!(
            "mount -t sysfs sysfs /sys && echo {:x} > /sys/class/net/{device}/queues/rx-0/rps_cpus",
            1u32 << core
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script]);
        let set = place.run(move || command.output()).ok()?;
        if !set.status.success() {
            return None;
        }
    }
    Some(last)
}

impl World {
    /// Two new namespaces joined by a veth pair, and what `means` needs besides.
    pub(super) fn build(means: Means) -> Result<Self, Failure> {
        let (client, server) = (Place::new_namespace()?, Place::new_namespace()?);
        join(&server, &client, Some(SERVER_ADDRESS))?;
        let alone = match means {
            Means::Privileges => Alone::No,
            Means::Tap => Alone::Tap(Place::new_namespace()?),
            Means::PacketSocket => {
                let (client, server) = (Place::new_namespace()?, Place::new_namespace()?);
                join(&server, &client, None)?;
                Alone::Veth { client, server }
            }
        };
        let server_core = if means == Means::Privileges { part_cores(&client, &server) } else { None };
        Ok(Self { client, server, alone, server_core })
    }

    /// The processor that does all of the server's work and nothing of the client's; `None`: they share.
    pub(super) fn server_core(&self) -> Option<usize> {
        self.server_core
    }

    /// Where the load for `stack` comes from; always the kernel's own TCP.
    pub(super) fn client(&self, stack: Stack) -> &Place {
        match (stack, &self.alone) {
            (Stack::Corelane, Alone::Tap(place) | Alone::Veth { client: place, .. }) => place,
            (Stack::Kernel, _) | (Stack::Corelane, Alone::No) => &self.client,
        }
    }

    /// Where the server of `stack` runs.
    pub(super) fn server(&self, stack: Stack) -> &Place {
        match (stack, &self.alone) {
            (Stack::Corelane, Alone::Tap(place) | Alone::Veth { server: place, .. }) => place,
            (Stack::Kernel, _) | (Stack::Corelane, Alone::No) => &self.server,
        }
    }

    /// The device for `corelane run --device`.
    pub(super) fn device(&self) -> String {
        let own = || format!("{SERVER_DEVICE}={SERVER_ADDRESS}/{PREFIX},gw={CLIENT_ADDRESS}");
        match self.alone {
            Alone::No => SERVER_DEVICE.to_owned(),
            Alone::Tap(_) => format!("tap:{}", own()),
            Alone::Veth { .. } => format!("own:{}", own()),
        }
    }
}

/// Whose TCP the server runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stack {
    /// The kernel's.
    Kernel,
    /// Ours.
    Corelane,
}

impl Stack {
    /// For tables and messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Corelane => "corelane",
        }
    }
}
