//! The narrowest link of a path: a queue in front of it for each direction, with a rule for what happens as it fills.

use base::{Duration, Instant, Rng};

use crate::ip::mark;
use crate::network::Packet;

/// What happens to packets as the queue fills.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Discipline {
    /// Nothing, until it is full.
    DropTail,
    /// Random early detection (Floyd and Jacobson 1993): from `min_bytes` of average queue on packets are marked if they
    /// carry ECT (RFC 3168 5), else dropped, as often as `most_ppm` at `max_bytes`, and all beyond.
    Red {
        /// Average queue from which it begins, bytes.
        min_bytes: u64,
        /// Average queue from which no packet passes unmarked, bytes.
        max_bytes: u64,
        /// Odds just below `max_bytes`, in a million.
        most_ppm: u32,
    },
    /// Every packet with ECT that finds more than `mark_bytes` queued is marked (RFC 8257 3.1); others are not touched.
    Step {
        /// Queue from which it marks, bytes.
        mark_bytes: u64,
    },
}

/// A link between two groups of hosts, the same in both directions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BottleneckSpec {
    /// Hosts with a number below this are on its left side.
    pub left: usize,
    /// Bits a second.
    pub bits_per_second: u64,
    /// Time from the end of transmission to arrival.
    pub delay: Duration,
    /// Room of the queue, bytes.
    pub queue_bytes: u64,
    /// What happens as it fills.
    pub discipline: Discipline,
}

/// What became of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    Dropped,
    Passes { arrives: Instant, marked: bool },
}

/// One direction.
#[derive(Clone, Copy, Default)]
struct Queue {
    free_at: Instant,
    /// Average length in bytes, times 512 (the weight that Floyd and Jacobson propose).
    average_512: u64,
}

impl Queue {
    /// While it is empty the average sinks as if small packets came by: of 1000 bytes, `packets` of them.
    fn rest(&mut self, packets: u64) {
        for _ in 0..packets {
            if self.average_512 < 512 {
                self.average_512 = 0;
                return;
            }
            self.average_512 -= self.average_512 / 512;
        }
    }
}

/// Both directions.
pub(crate) struct Bottleneck {
    spec: BottleneckSpec,
    rightward: Queue,
    leftward: Queue,
    peak_bytes: u64,
}

impl Bottleneck {
    pub(crate) fn new(spec: BottleneckSpec) -> Self {
        Self { spec, rightward: Queue::default(), leftward: Queue::default(), peak_bytes: 0 }
    }

    pub(crate) fn is_left(&self, host: usize) -> bool {
        host < self.spec.left
    }

    /// The longest queue so far, bytes.
    pub(crate) fn peak_bytes(&self) -> u64 {
        self.peak_bytes
    }

    /// `packet` comes to the queue of one direction.
    pub(crate) fn pass(
        &mut self,
        rightward: bool,
        packet: &mut Packet,
        now: Instant,
        rng: &mut Rng,
    ) -> Verdict {
        let spec = self.spec;
        let queue = if rightward { &mut self.rightward } else { &mut self.leftward };
        let rate = spec.bits_per_second.max(1);
        let waiting = queue.free_at.since(now).0;
        let queued = (u128::from(waiting) * u128::from(rate) / 8_000_000_000) as u64;
        let idle = now.since(queue.free_at).0 / (8_000_000_000_000 / rate).max(1);
        queue.rest(idle);
        queue.average_512 = queue.average_512 - queue.average_512 / 512 + queued;
        let len = packet.bytes.len() as u64;
        if queued + len > spec.queue_bytes {
            return Verdict::Dropped;
        }
        let congested = match spec.discipline {
            Discipline::DropTail => false,
            Discipline::Red { min_bytes, max_bytes, most_ppm } => {
                let average = queue.average_512 / 512;
                let above = average.saturating_sub(min_bytes);
                let span = max_bytes.saturating_sub(min_bytes).max(1);
                average >= max_bytes
                    || (above > 0 && rng.chance_ppm((u64::from(most_ppm) * above / span) as u32))
            }
            Discipline::Step { mark_bytes } => queued > mark_bytes,
        };
        let marked = congested && mark(packet);
        if congested && !marked && matches!(spec.discipline, Discipline::Red { .. }) {
            return Verdict::Dropped;
        }
        let time = (u128::from(len) * 8_000_000_000 / u128::from(rate)) as u64;
        queue.free_at = queue.free_at.max(now).plus(Duration(time));
        self.peak_bytes = self.peak_bytes.max(queued + len);
        Verdict::Passes { arrives: queue.free_at.plus(spec.delay), marked }
    }
}

#[cfg(test)]
#[allow(clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use wire::{EthFrame, Ipv4Packet};

    use super::*;

    const SPEC: BottleneckSpec = BottleneckSpec {
        left: 1,
        bits_per_second: 8_000_000,
        delay: Duration::from_millis(5),
        queue_bytes: 10_000,
        discipline: Discipline::DropTail,
    };

    /// An IPv4 packet of 1000 bytes with its link header.
    fn packet(traffic_class: u8) -> Packet {
        let ends = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let plain = wire::Ipv4Header::plain(ends, wire::IpProtocol::UDP, 980);
        let header = wire::Ipv4Header { traffic_class, ..plain };
        let mut bytes = vec![0; 1014];
        let eth = wire::EthHeader {
            dst: base::MacAddr([2; 6]),
            src: base::MacAddr([4; 6]),
            ethertype: wire::EtherType::IPV4,
        };
        eth.emit(&mut bytes).expect("room");
        header.emit(bytes.get_mut(14..).expect("room")).expect("room");
        Packet::plain(bytes)
    }

    fn class(packet: &Packet) -> u8 {
        let eth = EthFrame::parse(&packet.bytes).expect("a frame");
        // Parsing checks the header's checksum.
        Ipv4Packet::parse(eth.payload()).expect("a packet").traffic_class()
    }

    #[test]
    fn packets_leave_one_after_the_other_and_the_queue_has_an_end() {
        let mut link = Bottleneck::new(SPEC);
        let mut rng = Rng::new(1);
        let mut last = Instant(0);
        for n in 1..=9 {
            let verdict = link.pass(true, &mut packet(0), Instant(0), &mut rng);
            let Verdict::Passes { arrives, marked: false } = verdict else {
                panic!("packet {n}: {verdict:?}")
            };
            assert_eq!(arrives.0, n * 1_014_000 + 5_000_000);
            last = arrives;
        }
        assert_eq!(link.pass(true, &mut packet(0), Instant(0), &mut rng), Verdict::Dropped);
        assert!(matches!(link.pass(false, &mut packet(0), Instant(0), &mut rng), Verdict::Passes { .. }));
        assert!(matches!(link.pass(true, &mut packet(0), last, &mut rng), Verdict::Passes { .. }));
        assert!(link.peak_bytes() > 9000 && link.peak_bytes() <= 10_000);
    }

    #[test]
    fn a_step_marks_what_can_be_marked_and_leaves_the_rest() {
        let spec = BottleneckSpec { discipline: Discipline::Step { mark_bytes: 1500 }, ..SPEC };
        let mut link = Bottleneck::new(spec);
        let mut rng = Rng::new(1);
        for n in 0..6 {
            let ect = n % 2 == 0;
            let mut packet = packet(if ect { 2 } else { 0 });
            let Verdict::Passes { marked, .. } = link.pass(true, &mut packet, Instant(0), &mut rng) else {
                panic!("packet {n} dropped")
            };
            assert_eq!(marked, ect && n >= 2, "packet {n}");
            assert_eq!(
                class(&packet) & 3,
                if marked {
                    3
                } else if ect {
                    2
                } else {
                    0
                }
            );
        }
    }

    #[test]
    fn random_early_detection_drops_or_marks_before_the_queue_is_full() {
        let red = Discipline::Red { min_bytes: 2000, max_bytes: 6000, most_ppm: 100_000 };
        for ect in [0, 2] {
            let mut link = Bottleneck::new(BottleneckSpec { queue_bytes: 1 << 30, discipline: red, ..SPEC });
            let mut rng = Rng::new(7);
            let (mut dropped, mut marked_count) = (0, 0);
            for n in 0..20_000_u64 {
                // A tenth more than the link carries.
                match link.pass(true, &mut packet(ect), Instant(n * 920_000), &mut rng) {
                    Verdict::Dropped => dropped += 1,
                    Verdict::Passes { marked, .. } => marked_count += u32::from(marked),
                }
            }
            let later = Instant(40_000_000_000);
            assert!(matches!(link.pass(true, &mut packet(0), later, &mut rng), Verdict::Passes { .. }));
            if ect == 0 {
                assert!((1000..3000).contains(&dropped), "{dropped}");
                assert!(link.peak_bytes() < 60_000, "{}", link.peak_bytes());
            } else {
                assert!(dropped == 0 && marked_count > 10_000, "{dropped} {marked_count}");
            }
        }
    }
}
