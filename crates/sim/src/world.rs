//! A world at work: the clock goes from one thing that is due to the next, and everything due at a moment is done to its
//! end, host by host in order. So a run depends on its scenario only.

mod crash;
mod keys;
#[cfg(test)]
mod oracle_tests;
mod verdict;

use std::fmt;
use std::sync::{Arc, Mutex};

use base::{Duration, Instant, Port};
use engine::{ConnectError, Engine};
use port::capture::CaptureFile;
use state::{Endpoint, SockRef, TcpOptions};

use crate::attack::Attacker;
use crate::host::{Host, route};
use crate::ip::address;
use crate::network::{Network, NetworkCounts};
use crate::oracle::Oracle;
use crate::port::{SharedNetwork, lock};
use crate::scenario::{Family, Scenario};
use crate::stream::{Outcome, Role, Side};
use crate::udp::{self, Client};

/// Where every host listens.
const SERVICE: Port = Port(80);
/// The event queue that the programs read.
const QUEUE: u16 = 1;
/// Tokens of sockets: the kind above, the number below.
const LISTENER: u64 = 1 << 32;
const ECHO: u64 = 2 << 32;
const STREAM: u64 = 3 << 32;
const DATAGRAMS: u64 = 4 << 32;
/// Rounds of one host at one moment; more is a loop that does not end.
const ROUNDS_MAX: u32 = 10_000;
/// Moments in a row that follow one another by the least time; more is a deadline that does not go away.
const HURRIES_MAX: u32 = 100_000;
/// Least time between two moments.
const HURRY: Duration = Duration::from_micros(1);
/// Time after the programs are done in which every connection must be gone: TIME-WAIT, orphans' time-outs, retries.
const AFTERLIFE: Duration = Duration::from_secs(1200);

/// What a run did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// A function of every packet sent and its time.
    pub trace: u64,
    /// What happened to packets.
    pub network: NetworkCounts,
    /// Virtual time until everything was over.
    pub took: Duration,
    /// Ends of streams that did all they should.
    pub finished: u32,
    /// Ends of streams that failed.
    pub failed: u32,
    /// Datagrams that came back.
    pub echoes: u32,
    /// Segments sent again.
    pub retransmits: u64,
    /// Recoveries that were found to be for nothing, and undone.
    pub undone: u64,
    /// What each stream has carried, in the order of the plan.
    pub carried: Vec<Carried>,
}

/// Bytes read at both ends of a stream, headers not counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Carried {
    /// By who accepted.
    pub up: u64,
    /// By who connected.
    pub down: u64,
}

/// What went wrong, and when.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The scenario's seed.
    pub seed: u64,
    /// Virtual time.
    pub at: Instant,
    /// What.
    pub what: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {} after {} us: {}", self.seed, self.at.as_micros(), self.what)
    }
}

/// Plays `scenario` to its end.
///
/// # Errors
/// [`Failure`]: what an oracle found.
pub fn run(scenario: &Scenario) -> Result<Report, Failure> {
    play(scenario, None)
}

/// Plays `scenario`, and writes every packet that a host sends to `file` (pcapng, virtual times). A failure tells of the last packets.
///
/// # Errors
/// [`Failure`]: what an oracle found, or that `file` could not be made.
pub fn run_captured(scenario: &Scenario, file: &str) -> Result<Report, Failure> {
    let fail = |what: String| Failure { seed: scenario.seed, at: Instant(0), what };
    let fd = sys::fds::create_file(file).map_err(|e| fail(format!("cannot make {file}: {e}")))?;
    let scenario = Scenario { log: true, ..scenario.clone() };
    play(&scenario, Some(CaptureFile::new(fd, "sim", 0)))
}

/// A host whose program dies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Crash {
    /// The host.
    pub host: usize,
    /// In which of its turns, from 0 on.
    pub turn: u64,
}

/// Plays `scenario`, in which the program of a host dies in the middle of a turn; then a steward takes its lane.
///
/// `die` is given the turn. It does a part of it in a process that shares the hosts' memory with this one and dies there.
///
/// # Errors
/// [`Failure`]: what an oracle found at another host, or that the steward could not do its work.
pub fn run_crashing(
    scenario: &Scenario,
    crash: Crash,
    die: &mut dyn FnMut(&mut dyn FnMut()),
) -> Result<Report, Failure> {
    let fail = |at, what| Failure { seed: scenario.seed, at, what };
    let mut world = World::new(scenario).map_err(|what| fail(Instant(0), what))?;
    world.crash = Some(crash::State { plan: crash, turns: 0, dead: false });
    let result = world.play_with(die);
    result.map_err(|what| fail(world.now, what))
}

fn play(scenario: &Scenario, capture: Option<CaptureFile>) -> Result<Report, Failure> {
    let mut world =
        World::new(scenario).map_err(|what| Failure { seed: scenario.seed, at: Instant(0), what })?;
    lock(&world.network).capture = capture;
    let result = world.play();
    result.map_err(|what| {
        let what = what + &lock(&world.network).last_packets();
        Failure { seed: scenario.seed, at: world.now, what }
    })
}

struct Program {
    host: usize,
    side: Side,
}

/// What a test does to an engine.
#[cfg(test)]
type Spoil = fn(&mut Engine<'_>);

struct World<'s> {
    scenario: &'s Scenario,
    now: Instant,
    network: SharedNetwork,
    hosts: Vec<Host>,
    /// When each host's lane wants to be called.
    due: Vec<Instant>,
    /// What was seen of each host.
    oracles: Vec<Oracle>,
    /// Tests break something here, from this time on.
    #[cfg(test)]
    spoil: Option<(Instant, Spoil)>,
    listeners: Vec<SockRef>,
    echoes: Vec<SockRef>,
    programs: Vec<Program>,
    clients: Vec<Option<Client>>,
    /// When each stream begins; NEVER: it has begun.
    starts: Vec<Instant>,
    attacker: Attacker,
    /// The host that dies.
    crash: Option<crash::State>,
}

impl<'s> World<'s> {
    fn new(scenario: &'s Scenario) -> Result<Self, String> {
        let network =
            Arc::new(Mutex::new(Network::new(scenario.seed, scenario.attack.count == 0, scenario.log)));
        if let Some(bottleneck) = scenario.bottleneck {
            lock(&network).narrow(bottleneck);
        }
        let hosts = scenario
            .hosts
            .iter()
            .zip(1..)
            .map(|(spec, n)| {
                Host::new(&network, spec, scenario.six, scenario.seed.wrapping_mul(31).wrapping_add(n))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let mut world = Self {
            scenario,
            now: Instant(0),
            network,
            due: vec![Instant(0); hosts.len()],
            oracles: hosts.iter().map(|_| Oracle::default()).collect(),
            #[cfg(test)]
            spoil: None,
            hosts,
            listeners: Vec::new(),
            echoes: Vec::new(),
            programs: Vec::new(),
            clients: scenario.datagrams.iter().map(|_| None).collect(),
            starts: scenario.streams.iter().map(|plan| plan.start).collect(),
            attacker: Attacker::new(scenario.attack, scenario.six, scenario.seed),
            crash: None,
        };
        world.open_servers()?;
        Ok(world)
    }

    fn open_servers(&mut self) -> Result<(), String> {
        for (at, host) in self.hosts.iter().enumerate() {
            let local = Endpoint { addr: base::IpAddress::ANY, port: SERVICE };
            let options = self.scenario.options;
            let backlog = self.scenario.backlog;
            let serves = !self.scenario.streams.is_empty();
            let made = host.enter(self.now)?.engine(|e| {
                Some((|| {
                    let listener = match serves {
                        true => e.tcp_listen(local, backlog, &options),
                        false => Ok(SockRef::NONE),
                    };
                    let listener = listener.map_err(|error| format!("tcp_listen: {error:?}"))?;
                    keys::of_listener(e, listener, at, self.scenario)?;
                    let echo = udp::open_server(e)?;
                    e.set_event_queue(listener, QUEUE, LISTENER);
                    e.set_event_queue(echo, QUEUE, ECHO);
                    Ok::<_, String>((listener, echo))
                })())
            });
            let (listener, echo) = made.ok_or("no engine")??;
            self.listeners.push(listener);
            self.echoes.push(echo);
        }
        Ok(())
    }

    fn play(&mut self) -> Result<Report, String> {
        self.play_with(&mut |turn| turn())
    }

    fn play_with(&mut self, die: &mut dyn FnMut(&mut dyn FnMut())) -> Result<Report, String> {
        let mut ended_at = None;
        let mut hurries = 0;
        loop {
            while self.attacker.next_at <= self.now {
                let (host, bytes) = self.attacker.next(self.hosts.len(), &self.scenario.streams);
                lock(&self.network).inject(host, bytes);
            }
            for host in 0..self.hosts.len() {
                if self.host_due(host) <= self.now {
                    self.turn(host, die)?;
                }
            }
            if let Some(complaint) = lock(&self.network).complaint.take() {
                return Err(complaint);
            }
            if ended_at.is_none() && self.programs_done() {
                ended_at = Some(self.now);
                self.close_servers()?;
                continue;
            }
            let next = (0..self.hosts.len()).map(|h| self.host_due(h)).min().unwrap_or(Instant::NEVER);
            let next = next.min(self.attacker.next_at).min(lock(&self.network).due());
            if next > self.scenario.stop_at {
                self.now = self.scenario.stop_at;
                return self.measured();
            }
            let end = ended_at.map_or(Instant(0).plus(self.scenario.limit), |at| at.plus(AFTERLIFE));
            let over = ended_at.is_some() && self.all_quiet()?;
            if over || next > end {
                return self.verdict(ended_at);
            }
            hurries = if next <= self.now { hurries + 1 } else { 0 };
            if hurries > HURRIES_MAX {
                return Err(format!("host wants to be called at {next:?} for ever{}", self.describe()));
            }
            self.now = next.max(self.now.plus(HURRY));
            lock(&self.network).set_now(self.now);
        }
    }

    /// When something happens at `host`.
    fn host_due(&self, host: usize) -> Instant {
        let arrival = lock(&self.network).next_arrival(host);
        let own = self.due.get(host).copied().unwrap_or(Instant::NEVER);
        let mine = self.programs.iter().filter(|p| p.host == host).map(|p| p.side.wakes_at());
        let starts = self.scenario.streams.iter().zip(&self.starts);
        let starts = starts.filter(|(plan, _)| plan.client == host).map(|(_, start)| *start);
        let udp = self.scenario.datagrams.iter().zip(&self.clients);
        let udp = udp
            .filter(|(plan, _)| plan.client == host)
            .map(|(plan, client)| client.as_ref().map_or(plan.start, Client::wakes_at));
        mine.chain(starts).chain(udp).fold(arrival.min(own), Instant::min)
    }

    /// Everything that `host` has to do now.
    fn turn(&mut self, at: usize, die: &mut dyn FnMut(&mut dyn FnMut())) -> Result<(), String> {
        let hosts = std::mem::take(&mut self.hosts);
        let result = match hosts.get(at) {
            Some(host) if self.dies_now(at) => self.die(at, host, die),
            Some(host) if self.is_dead(at) => self.serve(host),
            Some(host) => self.turn_of(at, host),
            None => Ok(Instant::NEVER),
        };
        self.hosts = hosts;
        if let Some(due) = self.due.get_mut(at) {
            *due = result?;
        }
        Ok(())
    }

    /// Gives when the lane wants to be called next.
    fn turn_of(&mut self, at: usize, host: &Host) -> Result<Instant, String> {
        let mut session = host.enter(self.now)?;
        for _ in 0..ROUNDS_MAX {
            let progress = session.step();
            let busy =
                session.engine(|e| Some(self.programs_turn(at, e))).ok_or("the lane is poisoned")??;
            let sent = session.flush();
            if progress.received == 0 && !progress.more && !busy && sent == 0 {
                Host::doze(&mut session);
                #[cfg(test)]
                if let Some((_, spoil)) = self.spoil.filter(|(from, _)| *from <= self.now) {
                    session.engine(spoil);
                }
                if let Some(oracle) = self.oracles.get_mut(at) {
                    let now = self.now;
                    let found =
                        session.engine(|e| Some(oracle.look(e, now))).ok_or("the lane is poisoned")?;
                    found.map_err(|what| format!("host {at}, {what}"))?;
                }
                return Ok(session.deadline());
            }
        }
        Err(format!("host {at} does not come to rest"))
    }

    /// Lets the programs of a host act. True: an event was delivered, or something was due.
    fn programs_turn(&mut self, host: usize, e: &mut Engine<'_>) -> Result<bool, String> {
        let mut busy = self.start(host, e)?;
        for at in 0..self.programs.len() {
            let Some(program) = self.programs.get_mut(at).filter(|p| p.host == host) else { continue };
            if program.side.is_due(self.now) {
                program.side.drive(e, &self.scenario.streams, self.now)?;
                busy = true;
            }
        }
        for (client, plan) in self.clients.iter_mut().zip(&self.scenario.datagrams) {
            let Some(client) = client.as_mut().filter(|c| plan.client == host && c.wakes_at() <= self.now)
            else {
                continue;
            };
            client.drive(e, plan, self.now)?;
            busy = true;
        }
        while let Some(event) = e.poll_event(QUEUE) {
            busy = true;
            self.deliver(host, e, event.token)?;
        }
        Ok(busy)
    }

    /// Begins what begins now.
    fn start(&mut self, host: usize, e: &mut Engine<'_>) -> Result<bool, String> {
        let mut any = false;
        for (at, plan) in self.scenario.streams.iter().enumerate() {
            let Some(start) = self.starts.get_mut(at) else { break };
            if plan.client != host || *start > self.now {
                continue;
            }
            *start = Instant::NEVER;
            any = true;
            let local = Endpoint {
                addr: address(host, self.scenario.six),
                port: Port(20_000 + (at / self.scenario.streams_a_port) as u16),
            };
            let remote = Endpoint { addr: address(plan.server, self.scenario.six), port: SERVICE };
            let way = route(host, plan.server, self.scenario);
            let sock = match e.tcp_connect(local, remote, &way, &self.scenario.options) {
                Ok(sock) => sock,
                Err(ConnectError::NoRoom) if self.scenario.family == Family::Crowded => {
                    *start = self.now.plus(Duration::from_secs(1));
                    continue;
                }
                // The connection before, of the same name, is not over yet (or in TIME-WAIT).
                Err(ConnectError::InUse) if self.scenario.streams_a_port > 1 => {
                    *start = self.now.plus(Duration::from_millis(700));
                    continue;
                }
                Err(error) => return Err(format!("tcp_connect: {error:?}")),
            };
            keys::of_stream(e, sock, plan, self.scenario)?;
            self.adopt(host, e, Side::new(sock, Role::Client, Some(at)));
        }
        for (at, plan) in self.scenario.datagrams.iter().enumerate() {
            let Some(slot) = self.clients.get_mut(at) else { break };
            if slot.is_some() || plan.client != host || plan.start > self.now {
                continue;
            }
            any = true;
            let client = Client::open(e, at, plan, self.scenario)?;
            e.set_event_queue(client.sock, QUEUE, DATAGRAMS | at as u64);
            *slot = Some(client);
        }
        Ok(any)
    }

    fn adopt(&mut self, host: usize, e: &mut Engine<'_>, side: Side) {
        let token = STREAM | self.programs.len() as u64;
        let sock = side.sock;
        self.programs.push(Program { host, side });
        e.set_event_queue(sock, QUEUE, token);
    }

    /// An event came for the socket with `token`.
    fn deliver(&mut self, host: usize, e: &mut Engine<'_>, token: u64) -> Result<(), String> {
        let number = (token & 0xffff_ffff) as usize;
        match token >> 32 << 32 {
            LISTENER => {
                let Some(listener) = self.listeners.get(host).copied() else { return Ok(()) };
                while let Ok(accepted) = e.tcp_accept(listener) {
                    keys::check(self.scenario, host, accepted.remote)?;
                    let options: TcpOptions = self.scenario.options;
                    e.set_tcp_options(accepted.sock, &options);
                    self.adopt(host, e, Side::new(accepted.sock, Role::Server, None));
                }
                Ok(())
            }
            ECHO => self.echoes.get(host).map_or(Ok(()), |sock| udp::serve(e, host, *sock, self.scenario)),
            STREAM => match self.programs.get_mut(number) {
                Some(program) => program.side.drive(e, &self.scenario.streams, self.now),
                None => Err(format!("an event for stream {number}")),
            },
            DATAGRAMS => match (self.clients.get_mut(number), self.scenario.datagrams.get(number)) {
                (Some(Some(client)), Some(plan)) => client.drive(e, plan, self.now),
                _ => Err(format!("an event for datagrams {number}")),
            },
            _ => Err(format!("an event with token {token:#x}")),
        }
    }

    fn programs_done(&self) -> bool {
        // A client may have closed before its connection was accepted; where nothing is lost for good, its server comes.
        let served =
            |at: usize| self.programs.iter().any(|p| p.side.role == Role::Server && p.side.plan == Some(at));
        let awaited = |p: &Program| {
            let clean =
                p.side.plan.and_then(|at| self.scenario.streams.get(at)).is_some_and(|s| s.is_clean());
            clean && p.side.role == Role::Client && p.side.outcome == Some(Outcome::Finished)
        };
        let unserved = |p: &Program| awaited(p) && !p.side.plan.is_some_and(served);
        if self.scenario.must_succeed() && self.programs.iter().any(unserved) {
            return false;
        }
        self.starts.iter().all(|start| *start == Instant::NEVER)
            && self.attacker.next_at == Instant::NEVER
            && self.programs.iter().all(|p| p.side.outcome.is_some())
            && self.clients.iter().all(|c| c.as_ref().is_some_and(|c| c.done))
    }

    fn close_servers(&mut self) -> Result<(), String> {
        for (at, host) in self.hosts.iter().enumerate().filter(|(at, _)| !self.is_dead(*at)) {
            let (Some(listener), Some(echo)) = (self.listeners.get(at), self.echoes.get(at)) else {
                continue;
            };
            host.enter(self.now)?.engine(|e| {
                e.close(*listener);
                e.close(*echo);
            });
        }
        self.due.fill(self.now);
        Ok(())
    }

    /// Is every connection gone, and no packet on its way?
    fn all_quiet(&self) -> Result<bool, String> {
        for (at, host) in self.hosts.iter().enumerate() {
            let open = if self.is_dead(at) {
                host.unfinished(self.now)?
            } else {
                host.connections(self.now)? as usize
            };
            if lock(&self.network).is_busy(at) || open > 0 {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
