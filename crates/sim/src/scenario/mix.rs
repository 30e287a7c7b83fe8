//! Paths mixed of everything that a path can do.

use base::{Duration, Instant, Rng};

use super::{Family, Keys, Scenario};
use crate::bottleneck::{BottleneckSpec, Discipline};
use crate::link::{Burst, LinkSpec, Narrowing};

/// No link may be narrower for IPv6 (RFC 8200 5).
const MTU_MIN_V6: u16 = wire::ipv6::MTU_MIN as u16;

/// Gives each host a path of its own.
pub(super) fn mix(scenario: &mut Scenario) {
    let mut rng = Rng::new(scenario.seed ^ 0x0dd5_eed5);
    let family = scenario.family;
    scenario.mixed = true;
    if family == Family::BreakOff {
        // The RST of who broke off may be lost; then only a probe shows that he is gone (RFC 9293 3.8.4).
        scenario.options.keepalive = 1;
    }
    for host in &mut scenario.hosts {
        if rng.below(2) == 0 {
            // Another way forth than back.
            host.link = super::link(&mut rng, family);
        }
        spoil(&mut host.link, &mut rng);
    }
    // One network has one kind of device: what a host sends whole another can take whole.
    let offloads = scenario.hosts.first().is_some_and(|h| h.link.offloads);
    for host in &mut scenario.hosts {
        host.link.offloads = offloads;
    }
    // From a generator of its own, so that seeds that once failed stay what they were.
    scenario.six = Rng::new(scenario.seed ^ 6).below(3) == 0;
    // Likewise. Of the routers behind narrow links some say nothing.
    let mut silent = Rng::new(scenario.seed ^ 0x4821);
    for narrows in scenario.hosts.iter_mut().filter_map(|host| host.link.narrows.as_mut()) {
        narrows.silent = silent.below(3) == 0;
    }
    if scenario.six {
        for host in &mut scenario.hosts {
            let LinkSpec { mtu, narrows, .. } = &mut host.link;
            *mtu = (*mtu).max(MTU_MIN_V6);
            if let Some(narrows) = narrows {
                narrows.mtu = narrows.mtu.max(MTU_MIN_V6);
            }
        }
    }
    scenario.keys = Keys::draw(&mut Rng::new(scenario.seed ^ 0x2385), scenario.hosts.len());
    let mut urgent = Rng::new(scenario.seed ^ 0x0b);
    if urgent.below(4) == 0 {
        scenario.options.set_urgent_inline(true);
        for stream in &mut scenario.streams {
            stream.up.urgent = urgent.below(6) as u32;
            stream.down.urgent = urgent.below(6) as u32;
        }
    }
    if rng.below(3) == 0 && family != Family::Crowded {
        let count = scenario.hosts.len() as u64;
        scenario.bottleneck = Some(bottleneck(&mut rng, count));
    }
}

fn spoil(link: &mut LinkSpec, rng: &mut Rng) {
    if rng.below(3) == 0 {
        link.burst = Some(Burst {
            to_bad_ppm: 1000 + rng.below(10_000) as u32,
            to_good_ppm: 100_000 + rng.below(400_000) as u32,
            drop_bad_ppm: 300_000 + rng.below(700_000) as u32,
        });
    }
    if rng.below(4) == 0 {
        link.tail_ppm = rng.below(100_000) as u32;
    }
    if rng.below(4) == 0 {
        let at = Instant(0).plus(Duration::from_micros(rng.below(3_000_000)));
        link.narrows = Some(Narrowing { at, mtu: 576 + rng.below(900) as u16, silent: false });
    }
}

fn bottleneck(rng: &mut Rng, hosts: u64) -> BottleneckSpec {
    let queue_bytes = 20_000 + rng.below(200_000);
    let discipline = match rng.below(3) {
        0 => Discipline::DropTail,
        1 => Discipline::Red {
            min_bytes: queue_bytes / 8,
            max_bytes: queue_bytes / 2,
            most_ppm: 20_000 + rng.below(100_000) as u32,
        },
        _ => Discipline::Step { mark_bytes: queue_bytes / 8 },
    };
    BottleneckSpec {
        left: 1 + rng.below(hosts - 1) as usize,
        bits_per_second: 2_000_000 + rng.below(100_000_000),
        delay: Duration::from_micros(rng.below(30_000)),
        // A super-segment is one packet here, and must have room.
        queue_bytes: queue_bytes + 70_000,
        discipline,
    }
}
