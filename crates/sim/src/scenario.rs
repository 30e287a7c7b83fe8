//! Plans of worlds, drawn from a seed.

mod keys;
mod mix;

use base::{Duration, Instant, Rng};
use state::TcpOptions;

pub use self::keys::Keys;
use crate::attack::AttackPlan;
use crate::bottleneck::BottleneckSpec;
use crate::host::HostSpec;
use crate::link::LinkSpec;
use crate::stream::{Close, SidePlan, StreamPlan};
use crate::udp::DatagramPlan;

/// From this seed on the families are those with something wrong on the hosts or beside them, not on the cables.
pub const SPECIAL_SEEDS: u64 = 1_000_000;

/// From this seed on the families are all of the above in turn, and paths are mixed of everything that a path can do.
pub const MIXED_SEEDS: u64 = 2_000_000;

/// What a scenario is about; a seed's family is `seed % 8`, from [`SPECIAL_SEEDS`] on that of the last two, from [`MIXED_SEEDS`] on
/// `seed % 10`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// A perfect network.
    Perfect,
    /// Delay and jitter: packets out of order, none lost.
    Jitter,
    /// Everything that can happen to packets, each to up to 5 %.
    Bad,
    /// A veth-like network with super-segments, and losses.
    Offloads,
    /// Ends that read slowly, write slowly, and small buffers: windows close and open.
    Slow,
    /// Ends that break off in the middle.
    BreakOff,
    /// A cable that is dead for a while.
    Outage,
    /// A cable that dies for good.
    Death,
    /// Hosts with few frames, few connections and a short backlog.
    Crowded,
    /// A stranger sends nonsense and guesses.
    Hostile,
}

/// A plan of a world.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What it was drawn from.
    pub seed: u64,
    /// What it is about.
    pub family: Family,
    pub(crate) hosts: Vec<HostSpec>,
    /// TCP connections.
    pub streams: Vec<StreamPlan>,
    /// UDP echo clients.
    pub datagrams: Vec<DatagramPlan>,
    /// Of every TCP socket.
    pub options: TcpOptions,
    pub(crate) backlog: u32,
    /// The stranger.
    pub attack: AttackPlan,
    /// Next hops' MACs are given, not asked for. In an outage nobody answers a question, which is final (RFC 1122 2.3.2:
    /// three, one a second), so there they are always given.
    pub knows_macs: bool,
    /// Streams that share one client port, one after the other: 1 or more.
    pub streams_a_port: usize,
    /// The hosts speak IPv6, not IPv4.
    pub six: bool,
    /// Keys that sign segments.
    pub keys: Keys,
    /// Each host's path is one of its own, with whatever paths can do.
    pub mixed: bool,
    /// What the hosts have between them.
    pub bottleneck: Option<BottleneckSpec>,
    /// When the run stops to be measured, whatever is still under way; NEVER: it goes to its end.
    pub stop_at: Instant,
    /// Keep the last packets for the report of a failure.
    pub log: bool,
    /// Time in which the programs must be done.
    pub limit: Duration,
}

impl Scenario {
    /// The plan that belongs to `seed`.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        let number = if seed >= MIXED_SEEDS { seed % 10 } else { seed % 8 };
        let family = match number {
            n if (SPECIAL_SEEDS..MIXED_SEEDS).contains(&seed) || n > 7 => {
                [Family::Crowded, Family::Hostile][(n % 2) as usize]
            }
            0 => Family::Perfect,
            1 => Family::Jitter,
            2 => Family::Bad,
            3 => Family::Offloads,
            4 => Family::Slow,
            5 => Family::BreakOff,
            6 => Family::Outage,
            _ => Family::Death,
        };
        let mut rng = Rng::new(seed ^ 0x5ca1_ab1e);
        let count = 2 + rng.below(2) as usize;
        let link = link(&mut rng, family);
        let host = HostSpec {
            link,
            socks: 64,
            frames: 2048,
            piece_bytes: [3840, 2048, 1024, 200][rng.below(4) as usize],
        };
        let streams = (0..1 + rng.below(12)).map(|_| stream(&mut rng, family, count)).collect();
        let datagrams = (0..rng.below(3)).map(|_| datagrams(&mut rng, family, count)).collect();
        let scenario = Self {
            seed,
            family,
            hosts: vec![host; count],
            streams,
            datagrams,
            options: options(&mut rng, family),
            backlog: 32,
            attack: AttackPlan { count: 0, interval: Duration::ZERO, syns: 0, flood: false },
            knows_macs: family == Family::Outage || rng.below(2) == 0,
            // From a generator of its own, so that seeds that once failed stay what they were.
            streams_a_port: if Rng::new(seed ^ 1).below(4) == 0 { 3 } else { 1 },
            six: false,
            keys: Keys::None,
            mixed: false,
            bottleneck: None,
            stop_at: Instant::NEVER,
            log: false,
            limit: Duration::from_secs(3600),
        };
        let mut scenario = scenario;
        if seed >= MIXED_SEEDS {
            mix::mix(&mut scenario);
        }
        scenario.cut(&mut rng);
        scenario.crowd(&mut rng);
        scenario
    }

    /// Cables that are dead for a while or for good.
    fn cut(&mut self, rng: &mut Rng) {
        let from = Instant(0).plus(Duration::from_millis(rng.below(3000)));
        let until = match self.family {
            // Who closed and waits for an ACK sends eight times, in two minutes (as Linux): a longer outage leaves one try or two,
            // and a path that loses besides may take those.
            Family::Outage => {
                let most = if self.mixed { 10_000 } else { 30_000 };
                from.plus(Duration::from_millis(rng.below(30_000).min(most)))
            }
            Family::Death => Instant::NEVER,
            Family::Perfect
            | Family::Jitter
            | Family::Bad
            | Family::Offloads
            | Family::Slow
            | Family::BreakOff
            | Family::Crowded
            | Family::Hostile => return,
        };
        // One way or both.
        let both = rng.below(2) == 0;
        for (at, host) in self.hosts.iter_mut().enumerate() {
            if both || at == 0 {
                host.link.down_from = from;
                host.link.down_until = until;
            }
        }
    }

    /// Little room, or a stranger.
    fn crowd(&mut self, rng: &mut Rng) {
        if self.family == Family::Hostile {
            let interval = Duration::from_micros(100 + rng.below(5_000));
            self.attack = AttackPlan {
                count: rng.below(3000) as u32,
                interval,
                syns: rng.below(12) as u32,
                flood: false,
            };
        }
        if self.family == Family::Crowded {
            self.backlog = 1 + rng.below(4) as u32;
            for host in &mut self.hosts {
                host.frames = 128 + rng.below(200) as u32;
                host.socks = 4 + rng.below(8) as u32;
            }
        }
    }

    /// The cables, host by host.
    pub fn links(&self) -> impl Iterator<Item = LinkSpec> {
        self.hosts.iter().map(|h| h.link)
    }

    /// Must every connection succeed that its ends do not break off?
    #[must_use]
    pub fn must_succeed(&self) -> bool {
        // A full table may be full for longer than a SYN is repeated.
        !matches!(self.family, Family::Death | Family::Crowded)
    }

    /// Is the network perfect and without queues, so that nothing may be sent twice?
    #[must_use]
    pub fn is_fast(&self) -> bool {
        let fast = |l: &LinkSpec| l.queue_packets > 1000 && l.bits_per_second == 0;
        self.family == Family::Perfect
            && !self.mixed
            && self.streams_a_port == 1
            && self.hosts.iter().all(|h| fast(&h.link))
    }

    /// Time that the stream `plan` takes at most when nothing is lost and nothing queues: round trips for the MAC, to
    /// open, for slow start to double the window, for each window of bytes, and to close.
    pub(crate) fn time_for(&self, plan: &StreamPlan) -> Duration {
        let delay = self.hosts.iter().map(|h| h.link.delay.0).max().unwrap_or(0);
        let mss = self.hosts.iter().map(|h| u64::from(h.link.mtu) - 52).min().unwrap_or(536);
        let buffer = |bytes: u32| if bytes == 0 { 1 << 20 } else { u64::from(bytes) };
        let window = buffer(self.options.rcv_buf_bytes).min(buffer(self.options.snd_buf_bytes)).min(65_535);
        let trips = |bytes: u64| u64::from((bytes / (10 * mss) + 1).ilog2()) + 1 + bytes / window;
        let trips = 4 + trips(plan.up.bytes) + trips(plan.down.bytes);
        // Half as much again for what small writes and the other streams add; a timer costs far more.
        Duration(trips * 3 * delay + Duration::from_millis(1).0)
    }

    /// Does every packet arrive, once?
    #[must_use]
    pub fn is_lossless(&self) -> bool {
        self.bottleneck.is_none() && self.hosts.iter().all(|h| h.link.is_lossless())
    }
}

fn ms(rng: &mut Rng, most: u64) -> Duration {
    Duration::from_micros(rng.below(most * 1000))
}

fn link(rng: &mut Rng, family: Family) -> LinkSpec {
    let delay = match rng.below(3) {
        0 => Duration::from_micros(10 + rng.below(100)),
        1 => Duration::from_micros(500 + rng.below(5000)),
        _ => Duration::from_millis(10 + rng.below(90)),
    };
    let mut link = LinkSpec {
        bits_per_second: [0, 1_000_000_000, 50_000_000][rng.below(3) as usize],
        queue_packets: [4096, 256, 16][rng.below(3) as usize],
        mtu: [1500, 1500, 9000, 576][rng.below(4) as usize],
        ..LinkSpec::ideal(delay)
    };
    match family {
        Family::Perfect | Family::BreakOff | Family::Hostile => {}
        Family::Crowded => link.drop_ppm = rng.below(2) as u32 * rng.below(20_000) as u32,
        Family::Jitter => {
            link.jitter = Duration(link.delay.0 / 2 + rng.below(link.delay.0));
            link.reorder_ppm = rng.below(50_000) as u32;
        }
        Family::Bad => {
            link.drop_ppm = rng.below(50_000) as u32;
            link.duplicate_ppm = rng.below(50_000) as u32;
            link.reorder_ppm = rng.below(50_000) as u32;
            link.corrupt_ppm = rng.below(50_000) as u32;
            link.jitter = Duration(rng.below(link.delay.0 + 1));
        }
        Family::Offloads => {
            link.offloads = true;
            link.drop_ppm = rng.below(20_000) as u32;
            link.reorder_ppm = rng.below(20_000) as u32;
        }
        Family::Slow => link.drop_ppm = rng.below(2) as u32 * rng.below(20_000) as u32,
        Family::Outage | Family::Death => link.drop_ppm = rng.below(10_000) as u32,
    }
    link
}

fn stream(rng: &mut Rng, family: Family, hosts: usize) -> StreamPlan {
    let client = rng.below(hosts as u64) as usize;
    let server = (client + 1 + rng.below(hosts as u64 - 1) as usize) % hosts;
    let mut up = side(rng, family);
    let mut down = side(rng, family);
    // Not both may wait for the other, and who answers knows that the question is over by its length.
    down.answer = rng.below(2) == 0;
    up.answer = !down.answer && rng.below(4) == 0;
    if family == Family::BreakOff {
        let breaks = if rng.below(2) == 0 { &mut up } else { &mut down };
        let limit = rng.below(breaks.bytes + 1);
        breaks.close =
            if rng.below(2) == 0 { Close::AbortAfter(limit) } else { Close::CloseAfterReading(limit) };
    }
    StreamPlan { client, server, start: Instant(0).plus(ms(rng, 2000)), up, down }
}

/// Largest read or write: tiny, middling or large.
fn chunk(rng: &mut Rng, tiny: u64) -> usize {
    let most = [100_000, tiny, 10_000][rng.below(3) as usize];
    1 + rng.below(most) as usize
}

fn side(rng: &mut Rng, family: Family) -> SidePlan {
    let bytes = match rng.below(4) {
        0 => rng.below(100),
        1 => rng.below(5_000),
        2 => rng.below(50_000),
        _ => rng.below(300_000),
    };
    let slow = family == Family::Slow;
    let pause = |rng: &mut Rng| if slow && rng.below(2) == 0 { ms(rng, 30) } else { Duration::ZERO };
    let mut side = SidePlan {
        bytes,
        write: chunk(rng, 1000),
        read: chunk(rng, 500),
        read_pause: pause(rng),
        write_pause: pause(rng),
        close: if rng.below(3) == 0 { Close::Close } else { Close::Shutdown },
        answer: false,
        urgent: 0,
    };
    if slow {
        side.bytes = side.bytes.min(60_000);
        side.read = side.read.max(500);
        side.write = side.write.max(500);
        if rng.below(4) == 0 {
            // Long enough for several zero-window probes.
            side.read_pause = Duration::from_secs(5 + rng.below(20));
            side.read = side.read.max(20_000);
        }
    }
    side
}

fn datagrams(rng: &mut Rng, family: Family, hosts: usize) -> DatagramPlan {
    let client = rng.below(hosts as u64) as usize;
    let server = (client + 1 + rng.below(hosts as u64 - 1) as usize) % hosts;
    let largest = if family == Family::Perfect || family == Family::Jitter { 30_000 } else { 5_000 };
    DatagramPlan {
        client,
        server,
        start: Instant(0).plus(ms(rng, 2000)),
        count: 1 + rng.below(20) as u32,
        bytes: 1000 + rng.below(largest) as usize,
        interval: Duration::from_millis(20 + rng.below(200)),
    }
}

fn options(rng: &mut Rng, family: Family) -> TcpOptions {
    let buffer = |rng: &mut Rng| match rng.below(3) {
        0 => 0,
        1 => 16_384 + rng.below(100_000) as u32,
        _ if family == Family::Slow => 4096 + rng.below(8192) as u32,
        _ => 262_144,
    };
    let death = u8::from(family == Family::Death);
    TcpOptions {
        nodelay: rng.below(2) as u8,
        // A reader waits for ever for a dead peer, unless it probes (RFC 9293 3.8.4).
        keepalive: death.max(u8::from(rng.below(8) == 0)),
        keep_probes: 5,
        keep_idle_s: 60,
        keep_interval_s: 10,
        rcv_buf_bytes: buffer(rng),
        snd_buf_bytes: buffer(rng),
        ..TcpOptions::default()
    }
}
