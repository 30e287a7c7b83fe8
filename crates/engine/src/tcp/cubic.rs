//! CUBIC (RFC 9438) in integers: windows in bytes, times in 1/1024 s.
//!
//! C is 0.4 and beta 0.7 (RFC 9438 4.6, 5.1). What the curve gives in segments is multiplied by the segment's size first, so that nothing is
//! rounded to segments.

use ::state::Cubic;
use base::{Duration, Instant};

/// Units of time in a second, as a shift.
const SECOND_SHIFT: u32 = 10;
/// Farthest from K that the curve is followed, 1/1024 s. There W(t) is 100 000 segments beyond W_max: no window of ours is.
const FAR: u32 = 64 << SECOND_SHIFT;

/// Beta of `bytes`.
pub(super) fn beta(bytes: u32) -> u32 {
    (u64::from(bytes) * 7 / 10) as u32
}

/// `time` in 1/1024 s.
fn units(time: Duration) -> u32 {
    let us = time.as_micros().min(1 << 40);
    ((us << SECOND_SHIFT) / 1_000_000).min(u64::from(u32::MAX)) as u32
}

/// The cube root of `value`, rounded down.
pub(super) fn cube_root(value: u64) -> u32 {
    let mut root = 0_u64;
    for bit in (0..22).rev() {
        let next: u64 = root | 1 << bit;
        if u128::from(next).pow(3) <= u128::from(value) {
            root = next;
        }
    }
    root as u32
}

/// K (RFC 9438 4.2, figure 2) for windows in bytes with segments of `mss`: when the curve gets back to `w_max` from `cwnd`.
pub(super) fn k_of(w_max: u32, cwnd: u32, mss: u32) -> u32 {
    let below = u64::from(w_max.saturating_sub(cwnd).min(1 << 30));
    // (w_max - cwnd) / C segments, in cubes of 1/1024 s.
    cube_root(((below * 5) << (3 * SECOND_SHIFT)) / (2 * u64::from(mss.max(1))))
}

/// W_cubic(t) (RFC 9438 4.2, figure 1), bytes.
pub(super) fn w_cubic(cubic: &Cubic, t: u32, mss: u32) -> u32 {
    let far = t.abs_diff(cubic.k).min(FAR);
    let cube = u64::from(far).pow(3);
    let bytes = (cube * 2 / 5 * u64::from(mss.min(1 << 14))) >> (3 * SECOND_SHIFT);
    let bytes = bytes.min(u64::from(u32::MAX)) as u32;
    if t < cubic.k { cubic.w_max.saturating_sub(bytes) } else { cubic.w_max.saturating_add(bytes) }
}

/// The window was reduced from `cwnd` (RFC 9438 4.6, 4.7).
pub(super) fn reduce(cubic: &mut Cubic, cwnd: u32) {
    cubic.prior_w_max = cubic.w_max;
    // RFC 9438 4.7, fast convergence: a flow that did not get back to where it was lets others have more.
    cubic.w_max = if cwnd < cubic.w_max { (u64::from(cwnd) * 17 / 20) as u32 } else { cwnd };
    cubic.w_prior = cwnd;
    cubic.epoch = Instant(0);
}

/// `acked` bytes were acknowledged in congestion avoidance; gives how many `cwnd` grows by. `rtt`: the smoothed round-trip time. `rest` is what
/// growth left over.
pub(super) fn grow(
    cubic: &mut Cubic,
    now: Instant,
    rtt: Duration,
    (cwnd, mss): (u32, u32),
    acked: u32,
    rest: &mut u32,
) -> u32 {
    if cubic.epoch == Instant(0) {
        // RFC 9438 4.2: a stage begins with the window as it is; after slow start there was no reduction, so K is 0.
        cubic.epoch = now;
        cubic.w_max = cubic.w_max.max(cwnd);
        cubic.k = k_of(cubic.w_max, cwnd, mss);
        cubic.w_est = cwnd;
        cubic.rest = 0;
        *rest = 0;
    }
    let room = cwnd.max(1);
    // RFC 9438 4.3: W_est grows by alpha segments a window, alpha = 3 (1 - beta) / (1 + beta) = 9/17, and by one once it is back at cwnd_prior.
    let step = if cubic.w_est >= cubic.w_prior {
        u64::from(mss) * u64::from(acked)
    } else {
        u64::from(mss) * u64::from(acked) * 9 / 17
    };
    let sum = step.saturating_add(u64::from(cubic.rest));
    cubic.w_est = cubic.w_est.saturating_add((sum / u64::from(room)).min(u64::from(u32::MAX)) as u32);
    cubic.rest = (sum % u64::from(room)) as u32;
    let t = units(now.since(cubic.epoch));
    if w_cubic(cubic, t, mss) < cubic.w_est {
        // RFC 9438 4.3: the Reno-friendly region.
        *rest = 0;
        return cubic.w_est.saturating_sub(cwnd);
    }
    // RFC 9438 4.2: the target is where the curve will be a round trip from now, at most half as much again.
    let ahead = t.saturating_add(units(rtt));
    let target = w_cubic(cubic, ahead, mss).clamp(cwnd, cwnd.saturating_add(cwnd / 2));
    // RFC 9438 4.4, 4.5: (target - cwnd) / cwnd for each segment acknowledged.
    let sum = u64::from(target - cwnd) * u64::from(acked) + u64::from(*rest);
    *rest = (sum % u64::from(room)) as u32;
    (sum / u64::from(room)).min(u64::from(u32::MAX)) as u32
}

/// What was taken for congestion was none (RFC 9438 4.9).
pub(super) fn undo(cubic: &mut Cubic) {
    cubic.w_max = cubic.prior_w_max;
    cubic.epoch = Instant(0);
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1448;

    /// W_cubic(t) after a reduction from `w_max` segments to 0.7 of it, by the RFC's formula in real numbers, segments.
    fn exact(w_max: f64, cwnd: f64, t: f64) -> f64 {
        let k = ((w_max - cwnd) / 0.4).cbrt();
        0.4 * (t - k).powi(3) + w_max
    }

    #[test]
    fn the_cube_root_is_the_largest_that_fits() {
        for n in [0_u64, 1, 7, 8, 26, 27, 1_000_000, (1 << 60) - 1, 1 << 60, u64::MAX] {
            let root = u128::from(cube_root(n));
            assert!(root.pow(3) <= u128::from(n), "{n}");
            assert!((root + 1).pow(3) > u128::from(n), "{n}");
        }
    }

    #[test]
    fn the_curve_is_that_of_the_rfc() {
        for segments in [10_u32, 100, 1000, 10_000, 100_000] {
            let w_max = segments * MSS;
            let cwnd = beta(w_max);
            let cubic = Cubic { w_max, k: k_of(w_max, cwnd, MSS), ..Cubic::default() };
            for ms in (0..40_000).step_by(97) {
                let t = (u64::from(ms as u32) * 1024 / 1000) as u32;
                let got = f64::from(w_cubic(&cubic, t, MSS)) / f64::from(MSS);
                let want =
                    exact(f64::from(segments), f64::from(cwnd) / f64::from(MSS), f64::from(ms) / 1000.0);
                // A 1/1024 s of time is what rounding costs at most, so many segments as the curve climbs in that time.
                let slope = 1.2 * (f64::from(ms) / 1000.0 - f64::from(cubic.k) / 1024.0).powi(2) / 512.0;
                assert!((got - want.max(0.0)).abs() <= slope + 0.1, "{segments} {ms}: {got} {want}");
            }
        }
    }

    /// Acknowledges whole windows, one a round trip of `rtt_ms`, and shows the window after each.
    fn rounds(cubic: &mut Cubic, mut cwnd: u32, rtt_ms: u64, count: u32, mut see: impl FnMut(u32, u32)) {
        let (mut now, mut rest) = (Instant(1_000_000_000), 0);
        for n in 1..=count {
            let acks = cwnd / MSS;
            for ack in 0..acks {
                let part = Duration::from_millis(rtt_ms).0 * u64::from(ack) / u64::from(acks);
                let (at, rtt) = (now.plus(Duration(part)), Duration::from_millis(rtt_ms));
                cwnd += grow(cubic, at, rtt, (cwnd, MSS), MSS, &mut rest);
            }
            now = now.plus(Duration::from_millis(rtt_ms));
            see(n, cwnd);
        }
    }

    #[test]
    fn the_window_follows_the_curve_over_a_long_path() {
        let mut cubic = Cubic { w_max: 1000 * MSS, w_prior: 1000 * MSS, ..Cubic::default() };
        let start = beta(1000 * MSS);
        rounds(&mut cubic, start, 100, 200, |n, cwnd| {
            let want = exact(1000.0, 700.0, 0.1 * f64::from(n));
            let got = f64::from(cwnd) / f64::from(MSS);
            assert!((got / want - 1.0).abs() < 0.02, "round {n}: {got} segments, the curve says {want}");
        });
    }

    #[test]
    fn over_a_short_path_it_grows_as_reno_would() {
        let mut cubic = Cubic { w_max: 100 * MSS, w_prior: 100 * MSS, ..Cubic::default() };
        let mut last = 0;
        rounds(&mut cubic, beta(100 * MSS), 2, 100, |_, cwnd| last = cwnd);
        // 9/17 of a segment each round until 100 segments are reached, then one.
        let want = (70 + 57) * MSS + (100 - 57) * MSS - 27 * MSS;
        assert!(last.abs_diff(want) < 4 * MSS, "{last} {want}");
    }

    #[test]
    fn a_flow_that_did_not_get_back_gives_way() {
        let mut cubic = Cubic { w_max: 100_000, ..Cubic::default() };
        reduce(&mut cubic, 80_000);
        assert_eq!((cubic.w_max, cubic.w_prior), (68_000, 80_000));
        undo(&mut cubic);
        assert_eq!(cubic.w_max, 100_000);
        reduce(&mut cubic, 120_000);
        assert_eq!(cubic.w_max, 120_000);
    }
}
