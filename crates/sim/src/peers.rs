//! A host of ours and one with lwIP ([`crate::lwip`]) on the network of a seed, with programs on both that are the same: who connects, how much goes which
//! way, who closes, half closes or breaks off is the plan's. Everything is looked at that a world of our own hosts is looked at for, but
//! what lwIP sends: that is lwIP's.

use std::sync::{Arc, Mutex};

use base::{Duration, Instant, MacAddr, Port, Rng};
use engine::{Algorithm, Engine, RouteTo};
use port::capture::CaptureFile;
use state::{Endpoint, SockRef, TcpOptions};

use crate::host::{Host, HostSpec, mac};
use crate::ip::address;
use crate::link::LinkSpec;
use crate::lwip::{Build, Lwip};
use crate::network::{Network, NetworkCounts, Packet};
use crate::oracle::Oracle;
use crate::port::{SharedNetwork, lock};
use crate::stream::{Calls as _, Close, Outcome, Role, Side, SidePlan, StreamPlan};
use crate::world::Failure;

/// Numbers of the hosts.
const OURS: usize = 0;
const THEIRS: usize = 1;
/// Where both listen.
const SERVICE: Port = Port(80);
/// The event queue of our programs, and its tokens: that of the listener; others are numbers of ends.
const QUEUE: u16 = 1;
const LISTENER: u64 = u64::MAX;
/// Rounds of one host at one moment; more is a loop that does not end.
const ROUNDS_MAX: u32 = 10_000;
/// Moments in a row that follow one another by the least time.
const HURRIES_MAX: u32 = 100_000;
/// Time in which the programs must be done, and then the connections gone.
const LIMIT: Duration = Duration::from_secs(3600);
const AFTERLIFE: Duration = Duration::from_secs(1200);
/// When those are given up who wait for somebody that broke off.
const PATIENCE: Instant = Instant(1_800_000_000_000);

/// A plan of a world with lwIP.
#[derive(Clone, Debug)]
pub struct PeerPlan {
    /// What it was drawn from.
    pub seed: u64,
    /// Which lwIP.
    pub build: Build,
    /// The hosts speak IPv6, not IPv4.
    pub six: bool,
    /// The cables, ours first.
    pub links: [LinkSpec; 2],
    /// Host 0 is ours.
    pub streams: Vec<StreamPlan>,
    /// Of our sockets.
    pub options: TcpOptions,
}

/// What a run did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerReport {
    /// A function of every packet sent and its time.
    pub trace: u64,
    /// What happened to packets.
    pub network: NetworkCounts,
    /// Virtual time until everything was over.
    pub took: Duration,
    /// Ends that did all they should, those that broke off, and those that failed because the other one had.
    pub finished: u32,
    /// See `finished`.
    pub broke_off: u32,
    /// See `finished`.
    pub failed: u32,
    /// Bytes that our ends and lwIP's have read.
    pub read: [u64; 2],
    /// Segments that we sent again.
    pub retransmits: u64,
}

impl PeerPlan {
    /// The plan that belongs to `seed`.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x0011_b11b);
        let build = Build::ALL.get((seed % 3) as usize).copied().unwrap_or(Build::Large);
        let drop_ppm = [0, 10_000, 30_000][(seed / 3 % 3) as usize];
        let delay = Duration::from_micros([50, 2_000, 20_000][rng.below(3) as usize]);
        let mut link = LinkSpec { drop_ppm, mtu: build.mtu(), ..LinkSpec::ideal(delay) };
        if seed / 9 % 2 == 1 {
            link.reorder_ppm = 20_000;
            link.duplicate_ppm = 5_000;
            link.jitter = Duration(delay.0 / 4);
        }
        if rng.below(3) == 0 {
            link.bits_per_second = 50_000_000;
        }
        // Either may have the longer packets.
        let mut ours = link;
        ours.mtu = [1500, 9000, build.mtu()][rng.below(3) as usize].min(9000);
        let streams = (0..1 + rng.below(6)).map(|_| stream(&mut rng)).collect();
        let buffer = |rng: &mut Rng| [0, 0, 16_384, 262_144][rng.below(4) as usize];
        let algorithm = Algorithm::ALL.get(rng.below(Algorithm::ALL.len() as u64) as usize);
        let options = TcpOptions {
            nodelay: rng.below(2) as u8,
            // A reset may be lost, and who only reads would wait for ever; lwIP's sockets have the same.
            keepalive: 1,
            keep_probes: 5,
            keep_idle_s: 60,
            keep_interval_s: 10,
            rcv_buf_bytes: buffer(&mut rng),
            snd_buf_bytes: buffer(&mut rng),
            congestion: algorithm.map_or(0, |a| *a as u8),
            ..TcpOptions::default()
        };
        Self { seed, build, six: seed / 18 % 3 == 2, links: [ours, link], streams, options }
    }

    /// Does every packet arrive, once and in order?
    #[must_use]
    pub fn is_perfect(&self) -> bool {
        self.links.iter().all(|l| l.is_lossless() && l.reorder_ppm == 0 && l.jitter == Duration::ZERO)
    }
}

fn stream(rng: &mut Rng) -> StreamPlan {
    let client = rng.below(2) as usize;
    let (mut up, mut down) = (side(rng), side(rng));
    // Who answers may find the other side half closed.
    down.answer = rng.below(3) == 0;
    up.answer = !down.answer && rng.below(5) == 0;
    if rng.below(4) == 0 {
        let breaks = if rng.below(2) == 0 { &mut up } else { &mut down };
        let limit = rng.below(breaks.bytes + 1);
        breaks.close =
            if rng.below(2) == 0 { Close::AbortAfter(limit) } else { Close::CloseAfterReading(limit) };
    }
    let start = Instant(0).plus(Duration::from_micros(rng.below(500_000)));
    StreamPlan { client, server: 1 - client, start, up, down }
}

fn side(rng: &mut Rng) -> SidePlan {
    let bytes = [100, 3_000, 40_000, 250_000][rng.below(4) as usize];
    let chunk = |rng: &mut Rng| {
        let most = [30_000, 600, 5_000][rng.below(3) as usize];
        1 + rng.below(most) as usize
    };
    let slow = rng.below(6) == 0;
    SidePlan {
        bytes: rng.below(bytes),
        write: chunk(rng),
        read: chunk(rng).max(if slow { 2_000 } else { 1 }),
        read_pause: if slow { Duration::from_millis(rng.below(60)) } else { Duration::ZERO },
        write_pause: Duration::ZERO,
        close: if rng.below(3) == 0 { Close::Close } else { Close::Shutdown },
        answer: false,
        urgent: 0,
    }
}

/// Plays `plan`; packets are written to `file`, if there is one (pcapng, virtual times).
///
/// # Errors
/// [`Failure`]: what an oracle found, or that lwIP cannot be had.
pub fn run(plan: &PeerPlan, file: Option<&str>) -> Result<PeerReport, Failure> {
    let fail = |at, what| Failure { seed: plan.seed, at, what };
    let mut world = World::new(plan, file).map_err(|what| fail(Instant(0), what))?;
    let result = world.play();
    result.map_err(|what| {
        let what = what + &lock(&world.network).last_packets();
        fail(world.now, what)
    })
}

struct World<'p> {
    plan: &'p PeerPlan,
    now: Instant,
    network: SharedNetwork,
    ours: Host,
    due: Instant,
    oracle: Oracle,
    lwip: Lwip,
    listener: SockRef,
    /// The ends, and the host of each.
    ends: Vec<(usize, Side)>,
    /// When each stream begins; NEVER: it has begun.
    starts: Vec<Instant>,
}

impl<'p> World<'p> {
    fn new(plan: &'p PeerPlan, file: Option<&str>) -> Result<Self, String> {
        let [link, other] = plan.links;
        let program = plan.build.program()?;
        let network = Arc::new(Mutex::new(Network::new(plan.seed, true, file.is_some())));
        let spec = HostSpec { link, socks: 64, frames: 4096, piece_bytes: 2048 };
        let ours = Host::new(&network, &spec, plan.six, plan.seed)?;
        let theirs = lock(&network).attach_stranger(mac, other);
        let mut lwip = Lwip::start(&program, theirs, other.mtu, plan.seed)?;
        lwip.listen(SERVICE.0)?;
        if let Some(file) = file {
            let fd = sys::fds::create_file(file).map_err(|e| format!("cannot make {file}: {e}"))?;
            lock(&network).capture = Some(CaptureFile::new(fd, "sim", 0));
        }
        let local = Endpoint { addr: base::IpAddress::ANY, port: SERVICE };
        let listener = ours.enter(Instant(0))?.engine(|e| {
            let listener = e.tcp_listen(local, 32, &plan.options).ok()?;
            e.set_event_queue(listener, QUEUE, LISTENER);
            Some(listener)
        });
        Ok(Self {
            plan,
            now: Instant(0),
            network,
            ours,
            due: Instant(0),
            oracle: Oracle::default(),
            lwip,
            listener: listener.ok_or("no listener")?,
            ends: Vec::new(),
            starts: plan.streams.iter().map(|s| s.start).collect(),
        })
    }

    fn play(&mut self) -> Result<PeerReport, String> {
        let mut ended_at = None;
        let mut hurries = 0;
        loop {
            if self.next_of(OURS) <= self.now {
                self.our_turn()?;
            }
            if self.next_of(THEIRS) <= self.now {
                self.their_turn()?;
            }
            if let Some(complaint) = lock(&self.network).complaint.take() {
                return Err(complaint);
            }
            if self.now >= PATIENCE && ended_at.is_none() {
                self.forsake();
            }
            if ended_at.is_none() && self.is_done() {
                ended_at = Some(self.now);
                let listener = self.listener;
                self.ours.enter(self.now)?.engine(|e| e.close(listener));
                self.due = self.now;
            }
            if ended_at.is_some() && self.is_quiet()? {
                return self.verdict();
            }
            let end = ended_at.map_or(Instant(0).plus(LIMIT), |at| at.plus(AFTERLIFE));
            if self.now > end {
                let what =
                    if ended_at.is_some() { "connections never end" } else { "the programs are not done" };
                return Err(format!("{what}{}", self.describe()));
            }
            let next = self.next_of(OURS).min(self.next_of(THEIRS));
            hurries = if next <= self.now { hurries + 1 } else { 0 };
            if hurries > HURRIES_MAX {
                return Err(format!("a host wants to be called at {next:?} for ever{}", self.describe()));
            }
            self.now = next.max(self.now.plus(Duration::from_micros(1)));
            lock(&self.network).set_now(self.now);
        }
    }

    /// When something happens at `host`.
    fn next_of(&self, host: usize) -> Instant {
        let arrival = lock(&self.network).next_arrival(host);
        let timer = if host == OURS { self.due } else { self.lwip.due };
        let ends = self.ends.iter().filter(|(at, _)| *at == host).map(|(_, side)| side.wakes_at());
        let starts = self.plan.streams.iter().zip(&self.starts);
        let starts = starts.filter(|(plan, _)| plan.client == host).map(|(_, start)| *start);
        ends.chain(starts).fold(arrival.min(timer), Instant::min)
    }

    /// Streams that `host` begins now.
    fn begin(&mut self, host: usize) -> Vec<usize> {
        let mut begun = Vec::new();
        for (at, (plan, start)) in self.plan.streams.iter().zip(&mut self.starts).enumerate() {
            if plan.client == host && *start <= self.now {
                *start = Instant::NEVER;
                begun.push(at);
            }
        }
        begun
    }

    fn our_turn(&mut self) -> Result<(), String> {
        for _ in 0..ROUNDS_MAX {
            let mut session = self.ours.enter(self.now)?;
            let progress = session.step();
            drop(session);
            let busy = self.our_programs()?;
            let mut session = self.ours.enter(self.now)?;
            let sent = session.flush();
            if progress.received == 0 && !progress.more && !busy && sent == 0 {
                Host::doze(&mut session);
                let (now, oracle) = (self.now, &mut self.oracle);
                let found = session.engine(|e| Some(oracle.look(e, now))).ok_or("the lane is poisoned")?;
                self.due = session.deadline();
                return found;
            }
        }
        Err("our host does not come to rest".to_owned())
    }

    /// Lets our programs act. True: an event was delivered, or something was due.
    fn our_programs(&mut self) -> Result<bool, String> {
        let begun = self.begin(OURS);
        let mut busy = !begun.is_empty();
        let (plan, now, listener, ends) = (self.plan, self.now, self.listener, &mut self.ends);
        let mut session = self.ours.enter(now)?;
        let acted = session.engine(|e| {
            Some((|| {
                for at in begun {
                    let sock = connect(e, plan, at)?;
                    adopt(e, ends, Side::new(sock, Role::Client, Some(at)));
                }
                for (_, side) in ends.iter_mut().filter(|(host, _)| *host == OURS) {
                    if side.is_due(now) {
                        busy = true;
                        side.drive(e, &plan.streams, now)?;
                    }
                }
                while let Some(event) = e.poll_event(QUEUE) {
                    busy = true;
                    if event.token != LISTENER {
                        let (_, side) = ends.get_mut(event.token as usize).ok_or("an event of no end")?;
                        side.drive(e, &plan.streams, now)?;
                        continue;
                    }
                    while let Ok(accepted) = e.tcp_accept(listener) {
                        e.set_tcp_options(accepted.sock, &plan.options);
                        adopt(e, ends, Side::new(accepted.sock, Role::Server, None));
                    }
                }
                Ok::<_, String>(())
            })())
        });
        acted.ok_or("the lane is poisoned")??;
        Ok(busy)
    }

    fn their_turn(&mut self) -> Result<(), String> {
        self.lwip.tick(self.now);
        for _ in 0..ROUNDS_MAX {
            let mut busy = false;
            loop {
                let packet = lock(&self.network).receive(THEIRS);
                let Some(packet) = packet else { break };
                busy = true;
                self.lwip.frame(&packet.bytes);
            }
            busy |= self.their_programs()?;
            self.lwip.check()?;
            for frame in std::mem::take(&mut self.lwip.sent) {
                lock(&self.network).send(THEIRS, Packet::plain(frame));
            }
            if !busy {
                return Ok(());
            }
        }
        Err("lwIP's host does not come to rest".to_owned())
    }

    /// Lets the programs on lwIP act. True: there was news, or something was due.
    fn their_programs(&mut self) -> Result<bool, String> {
        let begun = self.begin(THEIRS);
        let news = std::mem::take(&mut self.lwip.news);
        let mut busy = !begun.is_empty() || !news.is_empty();
        for at in begun {
            let sock = self.lwip.connect(OURS, 20_000 + at as u16, SERVICE.0, self.plan.six);
            let sock = sock.ok_or("lwIP does not connect")?;
            self.ends.push((THEIRS, Side::new(sock, Role::Client, Some(at))));
        }
        while let Some(sock) = self.lwip.accept() {
            busy = true;
            let mut side = Side::new(sock, Role::Server, None);
            side.drive(&mut self.lwip, &self.plan.streams, self.now)?;
            self.ends.push((THEIRS, side));
        }
        for (_, side) in self.ends.iter_mut().filter(|(host, _)| *host == THEIRS) {
            let due = side.is_due(self.now);
            if due || (side.outcome.is_none() && news.contains(&side.sock.row())) {
                busy = true;
                side.drive(&mut self.lwip, &self.plan.streams, self.now)?;
            }
        }
        Ok(busy)
    }

    /// lwIP probes nobody once it has sent its FIN: ends of its are broken off whose other end was, and the reset was lost.
    fn forsake(&mut self) {
        let plans = &self.plan.streams;
        for (_, side) in self.ends.iter_mut().filter(|(host, side)| *host == THEIRS && side.outcome.is_none())
        {
            if side.plan.and_then(|at| plans.get(at)).is_none_or(|plan| !plan.is_clean()) {
                self.lwip.abort(side.sock);
                side.outcome = Some(Outcome::BrokeOff);
            }
        }
    }

    fn is_done(&self) -> bool {
        // A server that nobody has accepted yet may still come.
        let served = |at: usize| self.ends.iter().any(|(_, s)| s.role == Role::Server && s.plan == Some(at));
        let waits = |at: usize, plan: &StreamPlan| plan.is_clean() && !served(at);
        self.starts.iter().all(|start| *start == Instant::NEVER)
            && self.ends.iter().all(|(_, side)| side.outcome.is_some())
            && !self.plan.streams.iter().enumerate().any(|(at, plan)| waits(at, plan))
    }

    /// Is nothing under way, and no connection left at either host?
    fn is_quiet(&mut self) -> Result<bool, String> {
        let network = lock(&self.network);
        let busy = network.is_busy(OURS) || network.is_busy(THEIRS);
        drop(network);
        Ok(!busy && self.ours.connections(self.now)? == 0 && self.lwip.left().0 == 0)
    }

    fn describe(&mut self) -> String {
        let ends = self.ends.iter().map(|(host, side)| format!("\n  host {host}, {}", side.progress()));
        let ends: String = ends.collect();
        let (left, text) = self.lwip.left();
        format!("{ends}\n  ours:{}\n  lwIP: {left} left: {text}", self.ours.describe(self.now))
    }

    fn verdict(&mut self) -> Result<PeerReport, String> {
        self.ours.settle(self.now)?;
        let missing = self.ours.frames_missing(self.now)?;
        if missing > 0 {
            return Err(format!("{missing} frames are lost{}", self.describe()));
        }
        let clean = |side: &Side| {
            side.plan.and_then(|at| self.plan.streams.get(at)).is_some_and(StreamPlan::is_clean)
        };
        if self.ends.iter().any(|(_, s)| clean(s) && s.outcome != Some(Outcome::Finished)) {
            return Err(format!("a stream did not come to its end{}", self.describe()));
        }
        let retransmits = self.ours.retransmits(self.now)?;
        // lwIP may keep an ACK back for longer than a probe waits (RFC 8985 7.2).
        if self.plan.is_perfect() && retransmits > self.plan.streams.len() as u64 {
            return Err(format!("{retransmits} segments sent again on a perfect network{}", self.describe()));
        }
        let count = |test: fn(Outcome) -> bool| {
            self.ends.iter().filter_map(|(_, s)| s.outcome).filter(|o| test(*o)).count() as u32
        };
        let read = |at: usize| self.ends.iter().filter(|(h, _)| *h == at).map(|(_, s)| s.received()).sum();
        let network = lock(&self.network);
        Ok(PeerReport {
            trace: network.trace,
            network: network.counts(),
            took: self.now.since(Instant(0)),
            finished: count(|o| o == Outcome::Finished),
            broke_off: count(|o| o == Outcome::BrokeOff),
            failed: count(|o| matches!(o, Outcome::Failed(_))),
            read: [read(OURS), read(THEIRS)],
            retransmits,
        })
    }
}

/// Our end of stream `at` begins.
fn connect(e: &mut Engine<'_>, plan: &PeerPlan, at: usize) -> Result<SockRef, String> {
    let local = Endpoint { addr: address(OURS, plan.six), port: Port(20_000 + at as u16) };
    let remote = Endpoint { addr: address(THEIRS, plan.six), port: SERVICE };
    // Three questions for a MAC may all be lost, which is final; so only a good network is asked.
    let known: Option<MacAddr> = (!plan.is_perfect()).then(|| mac(THEIRS));
    let way = RouteTo { port: 0, next_hop: remote.addr, local_mac: mac(OURS), mac: known, mtu: 0 };
    e.tcp_connect(local, remote, &way, &plan.options).map_err(|error| format!("tcp_connect: {error:?}"))
}

fn adopt(e: &mut Engine<'_>, ends: &mut Vec<(usize, Side)>, side: Side) {
    e.set_event_queue(side.sock, QUEUE, ends.len() as u64);
    ends.push((OURS, side));
}
