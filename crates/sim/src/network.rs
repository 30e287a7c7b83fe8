//! The network: one switch, one cable to each host. A packet's fate is drawn when it is sent, from one PRNG.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, HashSet, VecDeque};

use base::{Duration, Instant, MacAddr, Rng};
use port::capture::{CaptureFile, Direction};
use state::CsumState;
use wire::EtherType;

use crate::bottleneck::{Bottleneck, BottleneckSpec, Verdict};
use crate::link::LinkSpec;
use crate::packet_oracle::{self, FlowOracle, FragmentId};
use crate::router;

/// Packets that a log keeps.
const LOG_LINES: usize = 300;

/// What happened to packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NetworkCounts {
    /// Sent by hosts.
    pub sent: u64,
    /// Lost.
    pub dropped: u64,
    /// Doubled.
    pub duplicated: u64,
    /// Late.
    pub reordered: u64,
    /// Damaged.
    pub corrupted: u64,
    /// Lost for want of room in the bottleneck's queue, or early as its discipline has it; also in `dropped`.
    pub queue_dropped: u64,
    /// Marked by the bottleneck (ECN).
    pub marked: u64,
    /// Longest queue in front of the bottleneck, bytes.
    pub queue_peak_bytes: u64,
    /// Too long for a path that had become narrower; also in `dropped`.
    pub too_long: u64,
}

/// A packet as a port sees it.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) bytes: Vec<u8>,
    pub(crate) gso_size: u16,
    pub(crate) csum: CsumState,
}

impl Packet {
    /// `bytes` with a finished checksum.
    pub(crate) fn plain(bytes: Vec<u8>) -> Self {
        Self { bytes, gso_size: 0, csum: CsumState::Unknown }
    }
}

/// On its way to one host. Ordered so that the heap gives the earliest first.
struct Flying {
    arrives: Instant,
    order: u64,
    from: usize,
    to: usize,
    packet: Packet,
}

impl PartialEq for Flying {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Flying {}
impl PartialOrd for Flying {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Flying {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.arrives, other.order).cmp(&(self.arrives, self.order))
    }
}

struct Cable {
    mac: MacAddr,
    spec: LinkSpec,
    free_at: Instant,
    in_flight: usize,
    inbox: BinaryHeap<Flying>,
    /// Its host has another stack: the oracles see what it sends, and say nothing of it.
    strange: bool,
    /// Since when it is in a burst of losses.
    bad_since: Instant,
}

/// All cables, the packets on them, and what the oracles saw.
pub(crate) struct Network {
    now: Instant,
    rng: Rng,
    order: u64,
    cables: Vec<Cable>,
    /// What two groups of hosts have between them, and the packets on their way to it.
    bottleneck: Option<Bottleneck>,
    approaching: BinaryHeap<Flying>,
    counts: NetworkCounts,
    /// Not where a stranger opens connections in the name of hosts: which one a segment belongs to cannot be seen then.
    flows: Option<FlowOracle>,
    /// Packets of which a fragment was damaged.
    damaged: HashSet<FragmentId>,
    /// The last packets, if somebody wants to read of them.
    log: Option<VecDeque<String>>,
    /// Where every packet sent is written to.
    pub(crate) capture: Option<CaptureFile>,
    /// What an oracle found first.
    pub(crate) complaint: Option<String>,
    /// Changes with every packet sent, its time and its bytes.
    pub(crate) trace: u64,
}

impl Network {
    pub(crate) fn new(seed: u64, follow: bool, log: bool) -> Self {
        Self {
            now: Instant(0),
            rng: Rng::new(seed),
            order: 0,
            cables: Vec::new(),
            bottleneck: None,
            approaching: BinaryHeap::new(),
            counts: NetworkCounts::default(),
            flows: follow.then(FlowOracle::default),
            damaged: HashSet::new(),
            log: log.then(VecDeque::new),
            capture: None,
            complaint: None,
            trace: 0,
        }
    }

    /// A cable for the next host, whose MAC is a function of its number; gives the number.
    pub(crate) fn attach(&mut self, mac: impl Fn(usize) -> MacAddr, spec: LinkSpec) -> usize {
        let number = self.cables.len();
        let mac = mac(number);
        let inbox = BinaryHeap::new();
        self.cables.push(Cable {
            mac,
            spec,
            free_at: Instant(0),
            in_flight: 0,
            inbox,
            strange: false,
            bad_since: Instant::NEVER,
        });
        number
    }

    /// A cable for a host whose stack is not ours.
    pub(crate) fn attach_stranger(&mut self, mac: impl Fn(usize) -> MacAddr, spec: LinkSpec) -> usize {
        let number = self.attach(mac, spec);
        if let Some(cable) = self.cables.get_mut(number) {
            cable.strange = true;
        }
        number
    }

    /// Puts a bottleneck between the hosts.
    pub(crate) fn narrow(&mut self, spec: BottleneckSpec) {
        self.bottleneck = Some(Bottleneck::new(spec));
    }

    pub(crate) fn set_now(&mut self, now: Instant) {
        self.now = now;
        while self.approaching.peek().is_some_and(|f| f.arrives <= now) {
            if let Some(flying) = self.approaching.pop() {
                self.squeeze(flying);
            }
        }
    }

    /// When the network has something to do besides delivering.
    pub(crate) fn due(&self) -> Instant {
        self.approaching.peek().map_or(Instant::NEVER, |f| f.arrives)
    }

    pub(crate) fn counts(&self) -> NetworkCounts {
        self.counts
    }

    pub(crate) fn spec(&self, host: usize) -> Option<&LinkSpec> {
        self.cables.get(host).map(|c| &c.spec)
    }

    /// When the next packet arrives at `host`.
    pub(crate) fn next_arrival(&self, host: usize) -> Instant {
        self.cables.get(host).and_then(|c| c.inbox.peek()).map_or(Instant::NEVER, |f| f.arrives)
    }

    /// Is a packet on its way to `host`, or to the bottleneck?
    pub(crate) fn is_busy(&self, host: usize) -> bool {
        self.next_arrival(host) != Instant::NEVER || !self.approaching.is_empty()
    }

    /// The next packet that has arrived at `host`.
    pub(crate) fn receive(&mut self, host: usize) -> Option<Packet> {
        let now = self.now;
        let inbox = &mut self.cables.get_mut(host)?.inbox;
        if inbox.peek()?.arrives > now {
            return None;
        }
        let flying = inbox.pop()?;
        self.landed(flying.from);
        Some(flying.packet)
    }

    /// Has the cable of `host` room for another packet?
    pub(crate) fn has_room(&self, host: usize) -> bool {
        self.cables.get(host).is_some_and(|c| c.in_flight < c.spec.queue_packets)
    }

    /// `host` sends `packet`.
    pub(crate) fn send(&mut self, host: usize, packet: Packet) {
        let Some(spec) = self.spec(host).copied() else { return };
        self.counts.sent += 1;
        self.note(host, &packet, &spec);
        let Some(leaves) = self.leave(host, &packet, &spec) else { return };
        if let Some(narrow) = spec.narrows.filter(|n| self.now >= n.at)
            && let Some(report) = router::too_long(&packet, narrow.mtu)
        {
            self.counts.too_long += 1;
            self.counts.dropped += 1;
            let back = leaves.plus(spec.delay.times(2));
            if !narrow.silent {
                self.fly(usize::MAX, host, back, report);
            }
            return;
        }
        if self.rng.chance_ppm(spec.duplicate_ppm) {
            self.counts.duplicated += 1;
            self.deliver(host, leaves, &packet, &spec);
        }
        self.deliver(host, leaves, &packet, &spec);
    }

    /// The last packets, a line each.
    pub(crate) fn last_packets(&self) -> String {
        self.log.iter().flatten().fold(String::new(), |text, line| text + "\n  " + line)
    }

    fn write_log(&mut self, who: &str, packet: &Packet) {
        let Some(log) = &mut self.log else { return };
        if log.len() >= LOG_LINES {
            log.pop_front();
        }
        log.push_back(format!("{:>10} us  {who}{}", self.now.as_micros(), packet_oracle::describe(packet)));
    }

    /// A packet from nobody's cable arrives at `host`. No oracle looks at it.
    pub(crate) fn inject(&mut self, host: usize, bytes: Vec<u8>) {
        self.fly(usize::MAX, host, self.now, Packet::plain(bytes));
    }

    /// `packet` will be at `to`.
    fn fly(&mut self, from: usize, to: usize, arrives: Instant, packet: Packet) {
        self.order += 1;
        let flying = Flying { arrives, order: self.order, from, to, packet };
        if let Some(cable) = self.cables.get_mut(to) {
            cable.inbox.push(flying);
        }
    }

    /// A packet has come to the bottleneck.
    fn squeeze(&mut self, mut flying: Flying) {
        let Some(bottleneck) = &mut self.bottleneck else { return };
        let rightward = bottleneck.is_left(flying.from);
        let verdict = bottleneck.pass(rightward, &mut flying.packet, self.now, &mut self.rng);
        self.counts.queue_peak_bytes = self.counts.queue_peak_bytes.max(bottleneck.peak_bytes());
        match verdict {
            Verdict::Dropped => {
                self.counts.dropped += 1;
                self.counts.queue_dropped += 1;
                self.landed(flying.from);
            }
            Verdict::Passes { arrives, marked } => {
                self.counts.marked += u64::from(marked);
                flying.arrives = arrives;
                if let Some(cable) = self.cables.get_mut(flying.to) {
                    cable.inbox.push(flying);
                }
            }
        }
    }

    /// One packet of `from` is no longer on its way.
    fn landed(&mut self, from: usize) {
        if let Some(cable) = self.cables.get_mut(from) {
            cable.in_flight = cable.in_flight.saturating_sub(1);
        }
    }

    /// Lets the oracles look at a packet.
    fn note(&mut self, host: usize, packet: &Packet, spec: &LinkSpec) {
        let mut digest = self.trace ^ self.now.0;
        for chunk in packet.bytes.chunks(8) {
            let word = chunk.iter().fold(0_u64, |w, b| w << 8 | u64::from(*b));
            digest = (digest ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
        self.trace = digest;
        self.write_log("", packet);
        if let Some(capture) = &mut self.capture {
            capture.packet(Direction::Sent, self.now.0, &packet.bytes);
        }
        let found = packet_oracle::check(packet, spec.mtu)
            .and_then(|()| self.flows.as_mut().map_or(Ok(()), |flows| flows.check(packet)));
        let strange = self.cables.get(host).is_some_and(|c| c.strange);
        if let Err(complaint) = found
            && !strange
            && self.complaint.is_none()
        {
            self.complaint = Some(complaint);
        }
    }

    /// When the packet has left, or `None`: it is lost.
    fn leave(&mut self, host: usize, packet: &Packet, spec: &LinkSpec) -> Option<Instant> {
        let bits = packet.bytes.len() as u64 * 8;
        let time =
            Duration(bits.saturating_mul(1_000_000_000).checked_div(spec.bits_per_second).unwrap_or(0));
        let cable = self.cables.get_mut(host)?;
        cable.free_at = cable.free_at.max(self.now).plus(time);
        let leaves = cable.free_at;
        let down = self.now >= spec.down_from && self.now < spec.down_until;
        if let Some(burst) = &spec.burst {
            cable.bad_since = burst.next(cable.bad_since, self.now, &mut self.rng);
        }
        let burst = spec.burst.filter(|_| cable.bad_since != Instant::NEVER).map_or(0, |b| b.drop_bad_ppm);
        let unlucky = self.rng.chance_ppm(spec.drop_ppm)
            || (burst > 0 && self.rng.chance_ppm(burst))
            || (spec.tail_ppm > 0 && packet_oracle::is_tail(packet) && self.rng.chance_ppm(spec.tail_ppm));
        if unlucky || down {
            self.counts.dropped += 1;
            return None;
        }
        Some(leaves)
    }

    /// Puts a copy of `packet` on its way.
    fn deliver(&mut self, host: usize, leaves: Instant, packet: &Packet, spec: &LinkSpec) {
        let mut arrives = leaves.plus(spec.delay).plus(Duration(self.rng.below(spec.jitter.0 + 1)));
        if self.rng.chance_ppm(spec.reorder_ppm) {
            self.counts.reordered += 1;
            arrives = arrives.plus(spec.delay.times(3));
        }
        let mut packet = packet.clone();
        if self.rng.chance_ppm(spec.corrupt_ppm) && !self.corrupt(&mut packet) {
            self.counts.dropped += 1;
            return;
        }
        let dst = packet.bytes.first_chunk::<6>().map_or(MacAddr::default(), |m| MacAddr(*m));
        for to in 0..self.cables.len() {
            let meant = self.cables.get(to).is_some_and(|c| c.mac == dst || dst.is_multicast());
            if to == host || !meant {
                continue;
            }
            let passes = self.bottleneck.as_ref().is_some_and(|b| b.is_left(host) != b.is_left(to));
            if passes {
                self.order += 1;
                let packet = packet.clone();
                self.approaching.push(Flying { arrives, order: self.order, from: host, to, packet });
            } else {
                self.fly(host, to, arrives, packet.clone());
            }
            if let Some(cable) = self.cables.get_mut(host) {
                cable.in_flight += 1;
            }
        }
    }

    /// Changes one bit behind the Ethernet header. False: nobody could tell (no checksum), so the packet is lost, as
    /// the Ethernet check sequence would have it.
    fn corrupt(&mut self, packet: &mut Packet) -> bool {
        let ethertype = packet.bytes.get(12..14).and_then(|b| b.first_chunk::<2>());
        let front = match ethertype.map(|b| EtherType(u16::from_be_bytes(*b))) {
            Some(EtherType::IPV4) => 14,
            // No checksum of IPv6 protects its own header and that of a fragment; the link's does.
            Some(EtherType::IPV6) => 14 + 40 + wire::ipv6_ext::FRAGMENT_LEN,
            Some(_) | None => packet.bytes.len(),
        };
        let is_ip = front < packet.bytes.len();
        if packet.csum != CsumState::Unknown || !is_ip {
            return false;
        }
        // Two wrong bits in fragments of one datagram may cancel out in its checksum; one cannot.
        if let Some(id) = packet_oracle::fragment_id(packet)
            && !self.damaged.insert(id)
        {
            return false;
        }
        self.counts.corrupted += 1;
        let at = front + self.rng.below((packet.bytes.len() - front) as u64) as usize;
        let bit = 1_u8 << self.rng.below(8);
        if let Some(byte) = packet.bytes.get_mut(at) {
            *byte ^= bit;
        }
        true
    }
}
