//! Linux's own stack on a path of the simulator: two network namespaces with a TAP device each, and between them the [`Network`]
//! that the engine's hosts have, moved by the real clock. So loss, queue and delay are the same code with the same seed.
//!
//! The devices have no offloads: each segment is one packet of the network. Needs root. Leaves out everything about cases and reports.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};

use base::{Duration, Instant};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};
use sys::clock;
use sys::fds::Fd;
use sys::poll::{PollFd, PollFlags, poll};

use crate::bottleneck::BottleneckSpec;
use crate::bulk::BulkPlan;
use crate::host::mac;
use crate::ip::address;
use crate::link::LinkSpec;
use crate::network::{Network, Packet};

/// Name of each side's device in its namespace.
const DEVICE: &str = "path0";
/// Where the receiving side listens.
const SERVICE: u16 = 80;
/// Hosts on the path: who sends data, and who takes it.
const SENDER: usize = 0;
const TAKER: usize = 1;
/// A device must be up in this time.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest time between two looks at whether all is over.
const GLANCE: Duration = Duration::from_millis(50);
/// Largest read and write, bytes: that of [`BulkPlan`]'s hosts.
const PIECE: usize = 100_000;

/// What Linux's stack got through a path.
#[derive(Clone, PartialEq, Debug)]
pub struct Measured {
    /// Bytes that each flow's receiver has read in the plan's time.
    pub carried: Vec<u64>,
    /// How late the path's packets were, because a real machine moves them.
    pub late: Lateness,
    /// Packets that a device dropped because the path did not come to fetch them: they are not the path's losses.
    pub missed: u64,
}

/// Delays that the path added to its packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lateness {
    /// Packets delivered.
    pub packets: u64,
    /// Those that were later than [`Lateness::TOLERABLE`].
    pub too_late: u64,
    /// The latest.
    pub most: Duration,
}

impl Lateness {
    /// Delay that does not matter to a sender on a path of tens of milliseconds.
    pub const TOLERABLE: Duration = Duration::from_millis(1);

    fn note(&mut self, late: Duration) {
        self.packets += 1;
        self.too_late += u64::from(late > Self::TOLERABLE);
        self.most = self.most.max(late);
    }

    /// Was one packet in two hundred too late, or one later than 20 ms? Then a run says nothing about the stack.
    #[must_use]
    pub fn spoils(&self) -> bool {
        self.too_late * 200 > self.packets || self.most > Duration::from_millis(20)
    }
}

/// The algorithms of this kernel that a sysctl can choose.
///
/// # Errors
/// Why they cannot be read.
pub fn algorithms() -> Result<Vec<String>, String> {
    let file = "/proc/sys/net/ipv4/tcp_available_congestion_control";
    let text = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// Has Linux, with congestion control `algorithm`, play `plan` with the losses of `seed`: one pair of hosts, all flows between them.
///
/// # Errors
/// What could not be made (EPERM without root), or a flow that broke.
pub fn measure(plan: &BulkPlan, algorithm: &str, seed: u64) -> Result<Measured, String> {
    let shared = Shared {
        plan: *plan,
        algorithm,
        carried: (0..plan.flows).map(|_| AtomicU64::new(0)).collect(),
        ready: Barrier::new(3),
        failed: AtomicBool::new(false),
        over: AtomicBool::new(false),
        missed: AtomicU64::new(0),
    };
    let shared = &shared;
    std::thread::scope(|scope| {
        let sides = [SENDER, TAKER].map(|host| {
            let (give, take) = channel();
            (take, scope.spawn(move || side(shared, host, give)))
        });
        let (takes, threads): (Vec<_>, Vec<_>) = sides.into_iter().unzip();
        let carried = scope.spawn(move || carry(shared, seed, &takes)).join();
        shared.over.store(true, Ordering::Release);
        for thread in threads {
            thread.join().map_err(|_| "a host panicked".to_owned())??;
        }
        // The devices go with their fds, which the hosts have looked at by now.
        let (_taps, late) = carried.map_err(|_| "the path panicked".to_owned())??;
        Ok(Measured {
            carried: shared.carried.iter().map(|c| c.load(Ordering::Acquire)).collect(),
            late,
            missed: shared.missed.load(Ordering::Acquire),
        })
    })
}

/// What path and hosts have in common.
struct Shared<'a> {
    plan: BulkPlan,
    algorithm: &'a str,
    carried: Vec<AtomicU64>,
    /// Path and both hosts are there, or one of them has failed.
    ready: Barrier,
    failed: AtomicBool,
    over: AtomicBool,
    missed: AtomicU64,
}

impl Shared<'_> {
    /// Waits for the others. False: one of them has failed.
    fn all_ready(&self, made: bool) -> bool {
        self.failed.fetch_or(!made, Ordering::AcqRel);
        self.ready.wait();
        !self.failed.load(Ordering::Acquire)
    }

    fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }
}

/// The path: takes each host's packets off its device, and brings those that are due.
fn carry(shared: &Shared<'_>, seed: u64, takes: &[Receiver<Fd>]) -> Result<(Vec<Fd>, Lateness), String> {
    // Without the right to it the lateness tells.
    let _ = sys::affinity::run_first();
    let taps: Vec<Fd> = takes.iter().filter_map(|take| take.recv().ok()).collect();
    if !shared.all_ready(taps.len() == takes.len()) {
        return Err("a host could not be made".to_owned());
    }
    let plan = &shared.plan;
    let mut path = Path { network: Network::new(seed, false, false), late: Lateness::default() };
    path.network.narrow(BottleneckSpec { left: TAKER, ..plan.bottleneck });
    path.network.attach(mac, plan.link);
    path.network.attach(mac, LinkSpec { mtu: plan.link.mtu, ..LinkSpec::ideal(plan.link.delay) });
    let origin = clock::now();
    let mut bytes = vec![0; 1 << 16];
    while clock::now().since(origin) < plan.time {
        for (host, tap) in taps.iter().enumerate() {
            path.fetch(host, tap, &mut bytes, origin)?;
        }
        let due = path.deliver(&taps, origin)?;
        let wait = due.since(Instant(clock::now().since(origin).0)).min(GLANCE);
        let mut fds: Vec<PollFd<'_>> = taps.iter().map(|tap| PollFd::new(tap, PollFlags::IN)).collect();
        match poll(&mut fds, Some(wait)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(format!("poll: {errno}")),
        }
    }
    path.network.complaint.take().map_or(Ok((taps, path.late)), |what| Err(format!("Linux {what}")))
}

struct Path {
    network: Network,
    late: Lateness,
}

impl Path {
    /// Lets the network do all that was due until `now`, each thing at its own time.
    fn catch_up(&mut self, now: Instant) {
        while self.network.due() <= now {
            self.network.set_now(self.network.due());
        }
        self.network.set_now(now);
    }

    /// Takes what `host` has sent.
    fn fetch(&mut self, host: usize, tap: &Fd, bytes: &mut [u8], origin: Instant) -> Result<(), String> {
        loop {
            match rustix::io::read(tap, &mut *bytes) {
                Ok(len) => {
                    self.catch_up(Instant(clock::now().since(origin).0));
                    self.network.send(host, Packet::plain(bytes.get(..len).unwrap_or_default().to_vec()));
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(errno) => return Err(format!("reading from a TAP device: {errno}")),
            }
        }
    }

    /// Brings what is due; gives when the next thing is.
    fn deliver(&mut self, taps: &[Fd], origin: Instant) -> Result<Instant, String> {
        self.catch_up(Instant(clock::now().since(origin).0));
        let mut next = self.network.due();
        for (host, tap) in taps.iter().enumerate() {
            loop {
                let arrives = self.network.next_arrival(host);
                let Some(packet) = self.network.receive(host) else { break };
                self.late.note(clock::now().since(origin.plus(Duration(arrives.0))));
                rustix::io::write(tap, &packet.bytes)
                    .map_err(|errno| format!("writing to a TAP device: {errno}"))?;
            }
            next = next.min(self.network.next_arrival(host));
        }
        Ok(next)
    }
}

/// One host: a namespace of this thread, its device, and its programs.
fn side(shared: &Shared<'_>, host: usize, give: Sender<Fd>) -> Result<(), String> {
    let made = open_host(shared, host).and_then(|tap| {
        let listener = (host == TAKER).then(|| TcpListener::bind(("0.0.0.0", SERVICE)));
        let listener = listener.transpose().map_err(|e| format!("a listener: {e}"))?;
        give.send(tap).map_err(|_| "the path is gone".to_owned())?;
        Ok(listener)
    });
    // Nothing more comes: the path need not wait for what could not be made.
    drop(give);
    if !shared.all_ready(made.is_ok()) {
        return made.map(|_| ());
    }
    match made? {
        Some(listener) => take_all(shared, &listener)?,
        None => send_all(shared)?,
    }
    shared.missed.fetch_add(dropped_by_device()?, Ordering::AcqRel);
    Ok(())
}

fn open_host(shared: &Shared<'_>, host: usize) -> Result<Fd, String> {
    sys::namespace::enter_new_net().map_err(|e| format!("a network namespace (needs root): {e}"))?;
    // Nothing is remembered from one flow for the next, and nobody else sends.
    set("net/ipv4/tcp_no_metrics_save", "1")?;
    for name in ["all", "default"] {
        // A kernel without IPv6 sends none either.
        let _ = set(&format!("net/ipv6/conf/{name}/disable_ipv6"), "1");
    }
    let tap = sys::tun::open_plain_tap(DEVICE).map_err(|e| format!("a TAP device: {e}"))?;
    let other = SENDER + TAKER - host;
    let link =
        format!("link set {DEVICE} address {} mtu {} txqueuelen 20000 up", mac(host), shared.plan.link.mtu);
    ip(&link)?;
    ip(&format!("addr add {}/24 dev {DEVICE}", ip_of(host)))?;
    ip(&format!("neigh replace {} lladdr {} nud permanent dev {DEVICE}", ip_of(other), mac(other)))?;
    let deadline = clock::now().plus(PATIENCE);
    while sys::links::flags(DEVICE).map_err(|e| format!("{DEVICE}: {e}"))? & sys::links::FLAG_RUNNING == 0 {
        if clock::now() > deadline {
            return Err(format!("{DEVICE} does not come up"));
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Ok(tap)
}

fn ip_of(host: usize) -> IpAddr {
    let address = address(host, false);
    address.as_v4().map_or_else(|| IpAddr::V6(address.as_v6()), IpAddr::V4)
}

fn set(name: &str, value: &str) -> Result<(), String> {
    let file = format!("/proc/sys/{name}");
    std::fs::write(&file, value).map_err(|e| format!("writing {value} to {file}: {e}"))
}

fn ip(line: &str) -> Result<(), String> {
    let done = Command::new("ip").args(line.split_whitespace()).output();
    let done = done.map_err(|e| format!("ip {line} (package iproute2): {e}"))?;
    let text = String::from_utf8_lossy(&done.stderr);
    if done.status.success() { Ok(()) } else { Err(format!("ip {line}: {}", text.trim())) }
}

/// Packets that the host's stack sent and its device had no room for.
fn dropped_by_device() -> Result<u64, String> {
    let file = "/proc/thread-self/net/dev";
    let text = std::fs::read_to_string(file).map_err(|e| format!("{file}: {e}"))?;
    let line = text.lines().find_map(|l| l.trim().strip_prefix(DEVICE)?.strip_prefix(':'));
    let field = line.and_then(|l| l.split_whitespace().nth(11)).and_then(|n| n.parse().ok());
    field.ok_or_else(|| format!("{file} does not tell of {DEVICE}"))
}

/// The flows' senders, a thread each.
fn send_all(shared: &Shared<'_>) -> Result<(), String> {
    std::thread::scope(|scope| {
        let flows = (0..shared.plan.flows).map(|flow| scope.spawn(move || send(shared, flow)));
        let flows: Vec<_> = flows.collect();
        flows.into_iter().try_for_each(|flow| flow.join().map_err(|_| "a sender panicked".to_owned())?)
    })
}

fn send(shared: &Shared<'_>, flow: usize) -> Result<(), String> {
    let start = shared.plan.stagger.times(flow as u64);
    std::thread::sleep(std::time::Duration::from_nanos(start.0));
    let Some(mut sock) = open_flow(shared).map_err(|e| format!("flow {flow}: {e}"))? else { return Ok(()) };
    let broken = |e: std::io::Error| format!("the sender of flow {flow}: {e}");
    sock.set_write_timeout(Some(std::time::Duration::from_nanos(GLANCE.0))).map_err(broken)?;
    sock.write_all(&[flow as u8]).map_err(broken)?;
    let data = vec![0x5a; PIECE];
    while !shared.is_over() {
        match sock.write(&data) {
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(e) => return Err(broken(e)),
        }
    }
    Ok(())
}

/// A connection; none if all its SYNs were lost, so that it carries nothing, as it would in the simulator.
fn open_flow(shared: &Shared<'_>) -> rustix::io::Result<Option<TcpStream>> {
    let flags = SocketFlags::CLOEXEC;
    let sock = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    // Not by sysctl: in a namespace of its own that takes only the machine's default, and what everybody may use.
    sockopt::set_tcp_congestion(&sock, shared.algorithm)?;
    // Closing sends a RST: nothing goes on after the run.
    sockopt::set_socket_linger(&sock, Some(std::time::Duration::ZERO))?;
    let limit = std::time::Duration::from_nanos(shared.plan.time.0);
    sockopt::set_socket_timeout(&sock, sockopt::Timeout::Send, Some(limit))?;
    match connect(&sock, &SocketAddr::new(ip_of(TAKER), SERVICE)) {
        Ok(()) => Ok(Some(sock.into())),
        Err(Errno::INPROGRESS | Errno::TIMEDOUT) => Ok(None),
        Err(errno) => Err(errno),
    }
}

/// The flows' receivers, a thread each.
fn take_all(shared: &Shared<'_>, listener: &TcpListener) -> Result<(), String> {
    let broken = |e: std::io::Error| format!("accept: {e}");
    listener.set_nonblocking(true).map_err(broken)?;
    std::thread::scope(|scope| {
        let mut flows = Vec::new();
        while !shared.is_over() {
            match listener.accept() {
                Ok((sock, _)) => flows.push(scope.spawn(move || take(shared, sock))),
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                Err(e) => return Err(broken(e)),
            }
        }
        flows.into_iter().try_for_each(|flow| flow.join().map_err(|_| "a receiver panicked".to_owned())?)
    })
}

fn take(shared: &Shared<'_>, mut sock: TcpStream) -> Result<(), String> {
    let broken = |e: std::io::Error| format!("a receiver: {e}");
    sock.set_nonblocking(false).map_err(broken)?;
    sock.set_read_timeout(Some(std::time::Duration::from_nanos(GLANCE.0))).map_err(broken)?;
    let mut carried = None;
    let mut buf = vec![0; PIECE];
    loop {
        let room = if carried.is_none() { 1 } else { buf.len() };
        let read = sock.read(buf.get_mut(..room).unwrap_or_default());
        if shared.is_over() {
            return Ok(());
        }
        match (read, carried) {
            (Ok(0), _) => return Err("a receiver: the stream ended".to_owned()),
            (Ok(_), None) => carried = buf.first().and_then(|flow| shared.carried.get(usize::from(*flow))),
            (Ok(n), Some(carried)) => drop(carried.fetch_add(n as u64, Ordering::AcqRel)),
            (Err(e), _) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            (Err(e), _) => return Err(broken(e)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use base::Duration;
    use state::TcpOptions;

    use super::*;
    use crate::bottleneck::Discipline;

    #[test]
    fn a_run_is_spoilt_by_packets_that_come_late() {
        let mut late = Lateness::default();
        for _ in 0..199 {
            late.note(Duration::from_micros(900));
        }
        late.note(Duration::from_millis(2));
        assert!(!late.spoils(), "{late:?}");
        late.note(Duration::from_millis(2));
        assert!(late.spoils(), "{late:?}");
        let mut once = Lateness { packets: 1_000_000, ..Lateness::default() };
        once.note(Duration::from_millis(21));
        assert!(once.spoils());
    }

    /// No rate is asserted, the machine may be busy: that data gets through, that the queue and the losses are those of the plan.
    #[test]
    fn linux_sends_over_a_path_of_the_simulator() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: needs root for network namespaces");
            return;
        }
        let plan = BulkPlan {
            flows: 2,
            bottleneck: BottleneckSpec {
                left: 0,
                bits_per_second: 10_000_000,
                delay: Duration::from_millis(4),
                queue_bytes: 50_000,
                discipline: Discipline::DropTail,
            },
            link: LinkSpec { drop_ppm: 10_000, ..LinkSpec::ideal(Duration::from_millis(1)) },
            stagger: Duration::from_millis(50),
            time: Duration::from_secs(2),
            options: TcpOptions::default(),
            frames: 0,
        };
        let measured = measure(&plan, "reno", 1).unwrap_or_else(|why| panic!("{why}"));
        println!("{measured:?}");
        let most = 10_000_000 / 8 * 2;
        let sum: u64 = measured.carried.iter().sum();
        assert!(measured.carried.iter().all(|c| *c > 10_000) && sum < most, "{measured:?}");
        assert!(measured.late.packets > sum / 1500 && measured.missed == 0, "{measured:?}");
    }
}
