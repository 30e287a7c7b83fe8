//! Long transfers over one bottleneck: for goodput and fairness.

use base::{Duration, Instant};
use state::TcpOptions;

use crate::attack::AttackPlan;
use crate::bottleneck::BottleneckSpec;
use crate::host::HostSpec;
use crate::link::LinkSpec;
use crate::scenario::{Family, Keys, Scenario};
use crate::stream::{Close, SidePlan, StreamPlan};

/// Bytes that no flow gets through in its time.
const ENDLESS: u64 = 1 << 50;

/// Flows from hosts on the left to hosts on the right of a bottleneck, one pair of hosts each.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BulkPlan {
    /// Flows.
    pub flows: usize,
    /// The bottleneck; its `left` is set to the number of flows.
    pub bottleneck: BottleneckSpec,
    /// Each sender's own cable, with losses if wanted; the receivers' have its delay and nothing else.
    pub link: LinkSpec,
    /// Time between the starts of two flows.
    pub stagger: Duration,
    /// When the run stops and is measured.
    pub time: Duration,
    /// Options of every socket.
    pub options: TcpOptions,
    /// Frames of each host.
    pub frames: u32,
}

impl Scenario {
    /// The world of `plan`; what its flows have carried stands in [`crate::Report::carried`], `up`.
    #[must_use]
    pub fn bulk(plan: &BulkPlan, seed: u64) -> Self {
        let host = |link| HostSpec { link, socks: 4, frames: plan.frames, piece_bytes: 2048 };
        let receiver = LinkSpec { mtu: plan.link.mtu, ..LinkSpec::ideal(plan.link.delay) };
        let senders = (0..plan.flows).map(|_| host(plan.link));
        let hosts = senders.chain((0..plan.flows).map(|_| host(receiver))).collect();
        let side = SidePlan {
            bytes: 0,
            write: 100_000,
            read: 100_000,
            read_pause: Duration::ZERO,
            write_pause: Duration::ZERO,
            close: Close::Shutdown,
            urgent: 0,
            answer: false,
        };
        let streams = (0..plan.flows).map(|flow| StreamPlan {
            client: flow,
            server: plan.flows + flow,
            start: Instant(0).plus(plan.stagger.times(flow as u64)),
            up: SidePlan { bytes: ENDLESS, ..side },
            down: side,
        });
        Self {
            seed,
            family: Family::Bad,
            hosts,
            streams: streams.collect(),
            datagrams: Vec::new(),
            options: plan.options,
            backlog: 8,
            attack: AttackPlan { count: 0, interval: Duration::ZERO, syns: 0, flood: false },
            knows_macs: true,
            streams_a_port: 1,
            six: false,
            keys: Keys::None,
            mixed: false,
            bottleneck: Some(BottleneckSpec { left: plan.flows, ..plan.bottleneck }),
            stop_at: Instant(0).plus(plan.time),
            log: false,
            limit: Duration::from_secs(1 << 20),
        }
    }
}

/// Jain's index of fairness: 1 when all have the same, 1/n when one has everything.
#[must_use]
pub fn jain(shares: &[f64]) -> f64 {
    let sum: f64 = shares.iter().sum();
    let squares: f64 = shares.iter().map(|x| x * x).sum();
    if squares == 0.0 { 1.0 } else { sum * sum / (shares.len() as f64 * squares) }
}

#[cfg(test)]
mod tests {
    use super::jain;

    #[test]
    fn equal_shares_are_fair_and_a_single_winner_is_not() {
        assert!((jain(&[5.0, 5.0, 5.0, 5.0]) - 1.0).abs() < 1e-9);
        assert!((jain(&[1.0, 0.0, 0.0, 0.0]) - 0.25).abs() < 1e-9);
        assert!((jain(&[0.0, 0.0]) - 1.0).abs() < 1e-9);
    }
}
