//! The monotonic clock.

use base::{Duration, Instant};
use rustix::time::{ClockId, Timespec, clock_gettime};

/// CLOCK_MONOTONIC now, through the vDSO (25 ns, no system call).
#[inline]
#[must_use]
pub fn now() -> Instant {
    let t = clock_gettime(ClockId::Monotonic);
    Instant((t.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(t.tv_nsec as u64))
}

/// CLOCK_REALTIME now, ns since 1970: for records that people read, never for timers.
#[must_use]
pub fn wall_ns() -> u64 {
    let t = clock_gettime(ClockId::Realtime);
    (t.tv_sec as u64).wrapping_mul(1_000_000_000).wrapping_add(t.tv_nsec as u64)
}

/// `d` as the kernel takes it.
#[must_use]
pub const fn timespec(d: Duration) -> Timespec {
    Timespec { tv_sec: (d.0 / 1_000_000_000) as i64, tv_nsec: (d.0 % 1_000_000_000) as i64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_does_not_go_back() {
        let first = now();
        assert!(now() >= first);
    }
}
