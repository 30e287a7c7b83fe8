//! Looking at the ports for a moment before sleeping: a thread that is woken by the kernel has lost several microseconds.
//!
//! How long is learnt from each lane's waits ([`Waits`]). A poller spins only while waits have been short, never longer than
//! [`SPIN_MAX_NS`], gives up for a while when that was in vain, and for longer when somebody else wanted its processor. So an idle program
//! sleeps. CORELANE_SPIN_US sets it: `auto` is this, 0 never spins, another number is spun before every sleep.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::OnceLock;

use base::Instant;
use libc::{pollfd, timespec};

use super::sleep::{Wait, Waiter};
use crate::interpose::real;
use crate::view::View;

/// Longest spin of `auto`, ns.
const SPIN_MAX_NS: u64 = 50_000;
/// Waits up to this on the average are short, ns. A thread that sleeps for this long loses a good part of it to being woken.
const SHORT_NS: u64 = 40_000;
/// What a long wait counts, ns, so that some short ones after it are enough to spin again.
const LONG_NS: u64 = 400_000;
/// A new wait's part in the average is one in so many.
const WEIGHT: u64 = 8;
/// Waits without spinning after a spin in vain: doubled each time up to this.
const SKIP_MAX: u32 = 1_024;
/// A gap between two looks at the clock that only another thread on this processor explains, ns.
const PREEMPTED_NS: u64 = 200_000;
/// How often descriptors are looked at that only a system call can tell of, ns.
const KERNEL_LOOK_NS: u64 = 5_000;
/// [`SETTING`] for `auto`.
const AUTO: u64 = u64::MAX;

static SETTING: AtomicU64 = AtomicU64::new(AUTO);

/// Takes CORELANE_SPIN_US from the keeper's `KEY=VALUE` lines.
pub(crate) fn configure(config: &str) {
    let value = config.lines().find_map(|line| line.strip_prefix("CORELANE_SPIN_US="));
    let us = value.and_then(|v| v.trim().parse::<u64>().ok());
    SETTING.store(us.map_or(AUTO, |us| us.saturating_mul(1_000)), Ordering::Relaxed);
}

/// What a lane's waits in this process have been like. Changed by its poller only; another thread's stale view of it does no harm.
pub(crate) struct Waits {
    /// Average length, ns.
    mean_ns: AtomicU64,
    /// Waits to go without spinning.
    skip: AtomicU32,
    /// How many that will be after the next spin in vain.
    step: AtomicU32,
}

impl Waits {
    pub(crate) const fn new() -> Self {
        Self { mean_ns: AtomicU64::new(LONG_NS), skip: AtomicU32::new(0), step: AtomicU32::new(1) }
    }

    /// How long to spin now, ns.
    fn budget(&self) -> u64 {
        let skip = self.skip.load(Ordering::Relaxed);
        if skip > 0 {
            self.skip.store(skip - 1, Ordering::Relaxed);
            return 0;
        }
        let mean = self.mean_ns.load(Ordering::Relaxed);
        if mean > SHORT_NS { 0 } else { (mean * 3).clamp(SPIN_MAX_NS / 5, SPIN_MAX_NS) }
    }

    /// A wait, slept or spun, took `ns`.
    pub(super) fn took(&self, ns: u64) {
        let mean = self.mean_ns.load(Ordering::Relaxed);
        self.mean_ns.store(mean - mean / WEIGHT + ns.min(LONG_NS) / WEIGHT, Ordering::Relaxed);
    }

    fn spun(&self, end: End) {
        let step = self.step.load(Ordering::Relaxed);
        let (skip, step) = match end {
            End::Found => (0, (step / 2).max(1)),
            End::Vain => (step, (step * 2).min(SKIP_MAX)),
            End::Preempted => (SKIP_MAX, SKIP_MAX),
        };
        self.skip.store(skip, Ordering::Relaxed);
        self.step.store(step, Ordering::Relaxed);
    }
}

/// How a spin ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum End {
    /// Something is there.
    Found,
    /// Time was over.
    Vain,
    /// Another thread had the processor meanwhile.
    Preempted,
}

/// With one processor whoever we wait for cannot run while we spin.
fn has_company() -> bool {
    static PROCESSORS: OnceLock<i64> = OnceLock::new();
    // SAFETY: no memory involved.
    *PROCESSORS.get_or_init(|| unsafe { libc::sysconf(libc::_SC_NPROCESSORS_ONLN) }) > 1
}

/// Spins for the lanes `polls`, if that pays. True: look again, do not sleep.
pub(super) fn serve(wait: &Wait<'_>, waiter: &Waiter, polls: u32) -> bool {
    let Some(view) = View::in_mask(polls).next() else { return false };
    let setting = SETTING.load(Ordering::Relaxed);
    let budget = if setting == AUTO { view.waits.budget() } else { setting };
    if budget == 0 || (setting == AUTO && !has_company()) {
        return false;
    }
    waiter.begin_spin();
    let (end, ns) = spin(wait, waiter, polls, budget);
    view.waits.spun(end);
    let raised = waiter.end_spin();
    if end == End::Found {
        view.waits.took(ns);
    }
    end == End::Found || raised
}

/// Gives how it ended, and how long it took, ns.
fn spin(wait: &Wait<'_>, waiter: &Waiter, polls: u32, budget_ns: u64) -> (End, u64) {
    let mut asked = Asked::new(wait, polls);
    let timer = View::in_mask(polls).map(View::deadline).fold(wait.deadline, Instant::min);
    let begin = sys::clock::now();
    let (mut last, mut look_at) = (begin, begin.0 + KERNEL_LOOK_NS);
    loop {
        let (mut blind, mut there) = (false, false);
        for view in View::in_mask(polls) {
            let wait = view.packets_wait();
            blind |= wait.is_none();
            there |= wait == Some(true);
        }
        let now = sys::clock::now();
        let ns = now.since(begin).0;
        if there || waiter.is_raised() || now >= timer {
            return (End::Found, ns);
        }
        if blind || (now.0 >= look_at && !wait.kernel.is_empty()) {
            look_at = now.0 + KERNEL_LOOK_NS;
            if asked.any_ready() {
                return (End::Found, ns);
            }
        }
        if now.since(last).0 >= PREEMPTED_NS {
            return (End::Preempted, ns);
        }
        if ns >= budget_ns {
            return (End::Vain, ns);
        }
        last = now;
        core::hint::spin_loop();
    }
}

/// Descriptors that only the kernel can tell of.
struct Asked {
    fds: Vec<pollfd>,
}

impl Asked {
    fn new(wait: &Wait<'_>, polls: u32) -> Self {
        let mut fds = wait.kernel.to_vec();
        for view in View::in_mask(polls).filter(|view| view.packets_wait().is_none()) {
            view.add_wait_fds(&mut fds);
        }
        Self { fds }
    }

    fn any_ready(&mut self) -> bool {
        let now = timespec { tv_sec: 0, tv_nsec: 0 };
        let len = self.fds.len() as libc::nfds_t;
        // SAFETY: a live array of that length, a live local, and no signal mask.
        unsafe { real::ppoll(self.fds.as_mut_ptr(), len, &raw const now, core::ptr::null()) > 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_with_long_waits_does_not_spin() {
        let waits = Waits::new();
        for _ in 0..100 {
            assert_eq!(waits.budget(), 0);
            waits.took(1_000_000_000);
        }
    }

    #[test]
    fn short_waits_bring_spinning_and_one_long_wait_ends_it() {
        let waits = Waits::new();
        for _ in 0..40 {
            waits.took(10_000);
        }
        assert!((SPIN_MAX_NS / 5..=SPIN_MAX_NS).contains(&waits.budget()));
        waits.took(1_000_000_000);
        assert_eq!(waits.budget(), 0);
    }

    #[test]
    fn spins_in_vain_become_rare() {
        let waits = Waits::new();
        let mut spins = 0;
        for _ in 0..10_000 {
            // Whoever we wait for answers quickly, but only once we sleep.
            waits.mean_ns.store(5_000, Ordering::Relaxed);
            if waits.budget() > 0 {
                spins += 1;
                waits.spun(End::Vain);
            }
        }
        assert!(spins < 25, "{spins}");
    }

    #[test]
    fn a_spin_that_lost_its_processor_is_not_repeated_soon() {
        let waits = Waits::new();
        waits.mean_ns.store(5_000, Ordering::Relaxed);
        assert!(waits.budget() > 0);
        waits.spun(End::Preempted);
        assert!((0..SKIP_MAX).all(|_| waits.budget() == 0));
        assert!(waits.budget() > 0);
    }
}
