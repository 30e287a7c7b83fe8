//! The peer programs on Linux's own TCP and under Corelane: server and client in a process each, on a processor each.

use std::io::{BufRead as _, BufReader};
use std::process::Child;
use std::time::{Duration, Instant};

use crate::peer::{Found, Kind, PERCENTILES};
use crate::place::{Side, Under, World};
use crate::rows::{Job, Outcome, Sample, Trouble, Unit};
use crate::usage;

/// Port of the peer server.
const PORT: u16 = 7_001;

/// What the peer programs do.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Load {
    pub(crate) kind: Kind,
    /// At a time.
    pub(crate) connections: usize,
    /// Neither side sleeps.
    pub(crate) spin: bool,
    /// What a sample's value is.
    pub(crate) unit: Unit,
    /// A part of the row's work: so many times less, where the row is made for a much quicker stack.
    pub(crate) less: u64,
}

impl Load {
    /// Does so many times less than the row says.
    pub(crate) const fn less(mut self, times: u64) -> Self {
        self.less = times;
        self
    }
}

/// Short connections, so many at a time: connections a second.
pub(crate) const fn short_connections(connections: usize) -> Load {
    Load { kind: Kind::Conn, connections, spin: false, unit: Unit::PerSecond, less: 1 }
}

/// Requests and answers of 64 B on so many connections: exchanges a second.
pub(crate) const fn request_response(connections: usize) -> Load {
    Load { kind: Kind::Rr, connections, spin: false, unit: Unit::PerSecond, less: 1 }
}

/// One stream, client to server.
pub(crate) const fn bulk() -> Load {
    Load { kind: Kind::Bulk, connections: 1, spin: false, unit: Unit::Gbit, less: 1 }
}

/// Time of one exchange on one connection, p50.
pub(crate) const fn ping_pong(spin: bool) -> Load {
    Load { kind: Kind::Rr, connections: 1, spin, unit: Unit::Us, less: 1 }
}

/// The hosts of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Hosts {
    /// One host, over loopback.
    One,
    /// The same with this MTU.
    OneOfMtu(usize),
    /// The server behind a TAP device of its own; servers on the kernel, which can have none: [`Self::Two`].
    Tap,
    /// Two hosts, over a veth pair of MTU 1500.
    Two,
    /// The same, and their keepers do not meet, as on two machines: lanes send by their devices, with this kind of port.
    Strangers(&'static str),
    /// Two hosts with this MTU.
    TwoOfMtu(usize),
    /// MTU 1500; so many packets of a million are lost, either way.
    Losing(u32),
}

impl Hosts {
    /// The hosts; `parted`: each receives on its own processor.
    pub(crate) fn world(self, parted: bool) -> Result<World, Trouble> {
        match self {
            Self::One => World::one_host(None),
            Self::OneOfMtu(mtu) => World::one_host(Some(mtu)),
            Self::Tap => World::behind_tap(),
            Self::Two => World::two_hosts(1_500, parted),
            Self::Strangers(port) => Ok(World::two_hosts(1_500, parted)?.of_strangers(port)),
            Self::TwoOfMtu(mtu) => World::two_hosts(mtu, parted),
            Self::Losing(ppm) => World::two_hosts(1_500, parted)?.losing(ppm),
        }
    }

    /// The hosts where the server is on the kernel, too.
    pub(crate) fn of_the_kernel(self) -> Self {
        if self == Self::Tap { Self::Two } else { self }
    }
}

/// What is lost in the rows with loss, packets of a million; ends of their ids; words.
pub(crate) const LOSSES: [(u32, &str, &str); 2] =
    [(1_000, "-loss-0.1", ", 0.1 % lost"), (10_000, "-loss-1", ", 1 % lost")];

/// On Linux, over loopback. For [`crate::rows::Row::stack`].
pub(crate) fn lo(load: Load) -> impl Fn(&Job) -> Outcome {
    run(load, Hosts::One, Under::Linux, Under::Linux)
}

/// On Linux, over loopback with this MTU.
pub(crate) fn lo_of_mtu(load: Load, mtu: usize) -> impl Fn(&Job) -> Outcome {
    run(load, Hosts::OneOfMtu(mtu), Under::Linux, Under::Linux)
}

/// On Linux, over a veth pair.
pub(crate) fn veth(load: Load) -> impl Fn(&Job) -> Outcome {
    run(load, Hosts::Two, Under::Linux, Under::Linux)
}

/// The server under one stack, the client under another.
pub(crate) fn run(load: Load, hosts: Hosts, server: Under, client: Under) -> impl Fn(&Job) -> Outcome {
    move |job| {
        let world = hosts.world(load.unit == Unit::ServerCpuUs)?;
        once(&world, load, (server, client), job.count / load.less)
    }
}

fn once(world: &World, load: Load, (server, client): (Under, Under), count: u64) -> Outcome {
    let mut words = peer("peer-server", &format!("0.0.0.0:{PORT}"))?;
    if load.kind == Kind::Bulk {
        words.push("--sink".to_owned());
    }
    if load.spin {
        words.push("--spin".to_owned());
    }
    let mut server_process = world.spawn(Side::Server, server, &words)?;
    let keep_open = server_process.stdin.take();
    wait_until_ready(&mut server_process)?;
    let kind = match load.kind {
        Kind::Conn => "conn",
        Kind::Rr => "rr",
        Kind::Bulk => "bulk",
        Kind::Memcached => "memcached",
    };
    let mut words = peer("peer-client", kind)?;
    words.push(format!("{}:{PORT}", world.address()));
    words.extend(["--connections".to_owned(), load.connections.to_string()]);
    words.extend(["--count".to_owned(), count.to_string()]);
    if load.spin {
        words.push("--spin".to_owned());
    }
    let before =
        (usage::cpu_seconds(server_process.id()), usage::core_busy_seconds(world.core(Side::Server)));
    let client_process = world.spawn(Side::Client, client, &words)?;
    let output = client_process.wait_with_output().map_err(|e| Trouble::failed("peer-client", e))?;
    let after = (usage::cpu_seconds(server_process.id()), usage::core_busy_seconds(world.core(Side::Server)));
    drop(keep_open);
    usage::stop(&mut server_process);
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(Trouble::failed("peer-client", output.status));
    }
    let found: Found = serde_json::from_str(text.trim())
        .map_err(|e| Trouble::failed("peer-client", format!("{e} in `{}`", text.trim())))?;
    Ok(sample(load.unit, &found, (after.0 - before.0, after.1 - before.1)))
}

/// `server`: CPU time of its processes and of its processor over the run.
fn sample(unit: Unit, found: &Found, (server, core): (f64, f64)) -> Sample {
    let each_us = |seconds: f64| seconds * 1e6 / found.count.max(1) as f64;
    let value = match unit {
        Unit::PerSecond => found.count as f64 / found.seconds,
        Unit::Gbit => found.count as f64 * 8.0 / 1e9 / found.seconds,
        Unit::ServerCpuUs => each_us(core),
        Unit::CpuNs | Unit::CpuNsPerByte => each_us(server + found.cpu_seconds) * 1e3,
        Unit::Us | Unit::Bytes | Unit::CpuPercent => {
            found.percentiles_us.first().copied().unwrap_or(f64::NAN)
        }
    };
    let mut sample = Sample::of(value)
        .with("client_cpu_us", each_us(found.cpu_seconds))
        .with("server_cpu_us", each_us(server));
    if found.percentiles_us.iter().any(|us| *us > 0.0) {
        for (p, us) in PERCENTILES.iter().zip(&found.percentiles_us) {
            sample = sample.with(&format!("p{p}_us"), *us);
        }
    }
    sample
}

/// This program as one of the peers.
pub(crate) fn peer(name: &str, first: &str) -> Result<Vec<String>, Trouble> {
    let this = std::env::current_exe().map_err(|e| Trouble::failed("this program's path", e))?;
    Ok(vec![this.display().to_string(), name.to_owned(), first.to_owned()])
}

/// Waits for the server's word.
fn wait_until_ready(server: &mut Child) -> Result<(), Trouble> {
    const LIMIT: Duration = Duration::from_secs(10);
    let out = server.stdout.take().ok_or_else(|| Trouble::failed("peer-server", "no output"))?;
    let (done, said) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut line = String::new();
        let mut out = BufReader::new(out);
        // Nobody listens any more when it took too long.
        let _ = done.send(out.read_line(&mut line).map(|_| line));
    });
    let start = Instant::now();
    match said.recv_timeout(LIMIT) {
        Ok(Ok(line)) if line.trim() == "ready" => Ok(()),
        Ok(Ok(line)) => {
            Err(Trouble::failed("peer-server", format!("said `{}` instead of ready", line.trim())))
        }
        Ok(Err(e)) => Err(Trouble::failed("peer-server", e)),
        Err(_) => Err(Trouble::failed("peer-server", format!("not ready after {:?}", start.elapsed()))),
    }
}
