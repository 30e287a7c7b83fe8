//! Round-trip time and the retransmission timeout (RFC 6298).

use ::state::RttState;
use base::{Duration, Instant};

/// RTO before anything was measured (RFC 6298 2.1).
pub(super) const RTO_INITIAL_US: u32 = 1_000_000;
/// Least RTO. RFC 6298 2.4 says 1 s; Linux takes 200 ms, and so do we.
pub(super) const RTO_MIN_US: u32 = 200_000;
/// Largest RTO (RFC 6298 2.5 wants at least 60 s; Linux takes 120 s).
pub(super) const RTO_MAX_US: u32 = 120_000_000;
/// A longer sample is nonsense, us.
const SAMPLE_MAX_US: u32 = 60_000_000;

/// The clock for samples, us, wrapping.
#[inline]
pub(super) fn clock_us(now: Instant) -> u32 {
    now.as_micros() as u32
}

/// Takes a sample (RFC 6298 2.2, 2.3).
#[inline]
pub(super) fn sample(rtt: &mut RttState, us: u32) {
    let us = us.clamp(1, SAMPLE_MAX_US);
    if rtt.srtt_us8 == 0 {
        rtt.srtt_us8 = us << 3;
        rtt.var_us4 = us << 1;
    } else {
        let srtt = rtt.srtt_us8 >> 3;
        let error = us.abs_diff(srtt);
        rtt.var_us4 = (rtt.var_us4 - (rtt.var_us4 >> 2)).saturating_add(error);
        rtt.srtt_us8 = (rtt.srtt_us8 - srtt).saturating_add(us).max(1);
    }
    set_timeout(rtt);
}

/// The round-trip time that the timestamp `echo` tells, us, on a clock of ms with `offset` (RFC 7323 4.1).
pub(super) fn echoed_us(now: Instant, offset: u32, echo: u32) -> Option<u32> {
    let ms = now.as_millis_u32().wrapping_add(offset).wrapping_sub(echo);
    (echo != 0 && ms < SAMPLE_MAX_US / 1000).then(|| ms.max(1) * 1000)
}

/// The RTO that follows from the samples.
#[inline]
pub(super) fn set_timeout(rtt: &mut RttState) {
    if rtt.srtt_us8 == 0 {
        rtt.rto_us = 0;
        return;
    }
    // The variance term has a floor as in Linux, so that the RTO is at least 200 ms above the round-trip time.
    rtt.rto_us = (rtt.srtt_us8 >> 3).saturating_add(rtt.var_us4.max(RTO_MIN_US)).min(RTO_MAX_US);
}

/// RTO after `backoff` timeouts in a row (RFC 6298 5.5).
#[inline]
pub(super) fn rto(rtt: &RttState, backoff: u8) -> Duration {
    let base = u64::from(if rtt.rto_us == 0 { RTO_INITIAL_US } else { rtt.rto_us });
    let us = (base << backoff.min(16)).min(u64::from(RTO_MAX_US));
    Duration(us * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_sample_sets_rtt_and_variance() {
        let mut rtt = RttState::default();
        sample(&mut rtt, 100_000);
        assert_eq!((rtt.srtt_us8 >> 3, rtt.var_us4 >> 2), (100_000, 50_000));
        assert_eq!(rtt.rto_us, 300_000);
    }

    #[test]
    fn the_timeout_stays_within_its_limits() {
        let mut rtt = RttState::default();
        for _ in 0..100 {
            sample(&mut rtt, 20);
        }
        assert!(rtt.rto_us >= RTO_MIN_US && rtt.rto_us < RTO_MIN_US + 1000);
        assert_eq!(rto(&rtt, 200), Duration::from_micros(u64::from(RTO_MAX_US)));
        assert_eq!(rto(&RttState::default(), 1), Duration::from_secs(2));
        sample(&mut rtt, u32::MAX);
        assert!(rtt.rto_us <= RTO_MAX_US);
    }
}
