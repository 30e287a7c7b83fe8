//! What one host's cable does to the packets it sends.

use base::{Duration, Instant, Rng};

/// What one host's cable does to the packets it sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkSpec {
    /// Time from the end of transmission to arrival.
    pub delay: Duration,
    /// Added to the delay, evenly from 0 to this. Above the packets' distance in time it reorders them.
    pub jitter: Duration,
    /// Bits a second; 0: no limit.
    pub bits_per_second: u64,
    /// Packets on the way before the port takes no more.
    pub queue_packets: usize,
    /// Lost, in a million.
    pub drop_ppm: u32,
    /// Arriving twice, in a million.
    pub duplicate_ppm: u32,
    /// Arriving three delays late, in a million.
    pub reorder_ppm: u32,
    /// Arriving with one wrong bit, in a million.
    pub corrupt_ppm: u32,
    /// Largest IP packet, bytes.
    pub mtu: u16,
    /// Super-segments go over whole and checksums unfinished, as on veth.
    pub offloads: bool,
    /// Nothing is lost or hurt in this time; after `down_from` and before `down_until` everything is lost.
    pub down_from: Instant,
    /// See `down_from`.
    pub down_until: Instant,
    /// Losses that come together.
    pub burst: Option<Burst>,
    /// The last segments of a write or of the stream (PSH or FIN) are lost, in a million.
    pub tail_ppm: u32,
    /// The path becomes narrower on the way.
    pub narrows: Option<Narrowing>,
}

impl LinkSpec {
    /// A cable that does nothing but take its time.
    #[must_use]
    pub const fn ideal(delay: Duration) -> Self {
        Self {
            delay,
            jitter: Duration::ZERO,
            bits_per_second: 0,
            queue_packets: 65_536,
            drop_ppm: 0,
            duplicate_ppm: 0,
            reorder_ppm: 0,
            corrupt_ppm: 0,
            mtu: 1500,
            offloads: false,
            down_from: Instant::NEVER,
            down_until: Instant::NEVER,
            burst: None,
            tail_ppm: 0,
            narrows: None,
        }
    }

    /// Does every packet arrive, once and as it was?
    #[must_use]
    pub fn is_lossless(&self) -> bool {
        let odds = [self.drop_ppm, self.duplicate_ppm, self.corrupt_ppm, self.tail_ppm];
        odds == [0; 4] && self.down_from == Instant::NEVER && self.burst.is_none() && self.narrows.is_none()
    }
}

/// Losses in bursts: a cable is good or bad, and changes with each packet (Gilbert and Elliott's model). It is not bad for longer than
/// [`Burst::LONGEST`]: who sends one packet a second does not wait for a burst of ten to pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Burst {
    /// From good to bad, in a million packets.
    pub to_bad_ppm: u32,
    /// From bad to good, in a million packets: a burst lasts 1 000 000 packets divided by this on average.
    pub to_good_ppm: u32,
    /// Lost while bad, in a million.
    pub drop_bad_ppm: u32,
}

impl Burst {
    /// Longest burst.
    pub const LONGEST: Duration = Duration::from_millis(100);

    /// The state for one more packet at `now`: since when the cable is bad, NEVER if it is good.
    pub(crate) fn next(&self, bad_since: Instant, now: Instant, rng: &mut Rng) -> Instant {
        if bad_since == Instant::NEVER {
            return if rng.chance_ppm(self.to_bad_ppm) { now } else { Instant::NEVER };
        }
        let over = rng.chance_ppm(self.to_good_ppm) || now.since(bad_since) > Self::LONGEST;
        if over { Instant::NEVER } else { bad_since }
    }
}

/// A router behind the cable whose next link is narrower from some time on. It drops what does not fit and says so by ICMP, or is silent: a black hole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Narrowing {
    /// Since when.
    pub at: Instant,
    /// Largest IP packet from then on, bytes.
    pub mtu: u16,
    /// Says nothing.
    pub silent: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn losses_of_a_burst_come_together_and_end_in_time() {
        let burst = Burst { to_bad_ppm: 10_000, to_good_ppm: 250_000, drop_bad_ppm: 1_000_000 };
        let mut rng = Rng::new(3);
        let (mut since, mut lost, mut bursts) = (Instant::NEVER, 0, 0);
        for n in 0..100_000 {
            let before = since;
            since = burst.next(since, Instant(n * 1000), &mut rng);
            lost += u32::from(since != Instant::NEVER);
            bursts += u32::from(before == Instant::NEVER && since != Instant::NEVER);
        }
        // One packet in a hundred begins a burst of four.
        assert!((800..1150).contains(&bursts), "{bursts}");
        assert!((3 * bursts..5 * bursts).contains(&lost), "{lost} in {bursts}");
        let bad = Instant(1_000_000);
        assert_eq!(burst.next(bad, bad.plus(Duration::from_secs(1)), &mut rng), Instant::NEVER);
    }
}
