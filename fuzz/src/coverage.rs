//! Which code ran: counters that the compiler's sanitizer-coverage pass puts at every edge, if this program was built with it.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Ranges of counters: one for each crate that was built with the pass.
const RANGES: usize = 256;
static STARTS: [AtomicUsize; RANGES] = [const { AtomicUsize::new(0) }; RANGES];
static ENDS: [AtomicUsize; RANGES] = [const { AtomicUsize::new(0) }; RANGES];
static USED: AtomicUsize = AtomicUsize::new(0);

/// What the pass calls before `main`, once for each object: the counters lie from `start` to `end`.
#[unsafe(no_mangle)]
extern "C" fn __sanitizer_cov_8bit_counters_init(start: *mut u8, end: *mut u8) {
    let at = USED.fetch_add(1, Ordering::Relaxed);
    if let (Some(from), Some(to)) = (STARTS.get(at), ENDS.get(at)) {
        from.store(start.addr(), Ordering::Relaxed);
        to.store(end.addr(), Ordering::Relaxed);
    }
}

/// How often an edge was taken, roughly: a bit for 1, 2, 3, 4 to 7, 8 to 15, 16 to 31, 32 to 127, and more.
const fn class(count: u8) -> u8 {
    match count {
        0 => 0,
        1 => 1,
        2 => 2,
        3 => 4,
        4..=7 => 8,
        8..=15 => 16,
        16..=31 => 32,
        32..=127 => 64,
        128..=255 => 128,
    }
}

/// Everything that was ever reached.
#[derive(Debug, Default)]
pub struct Reached {
    seen: Vec<Vec<u8>>,
    edges: usize,
}

impl Reached {
    /// Does this program count?
    #[must_use]
    pub fn is_counting() -> bool {
        USED.load(Ordering::Relaxed) > 0
    }

    /// Edges reached so far.
    #[must_use]
    pub const fn edges(&self) -> usize {
        self.edges
    }

    /// Takes the counters, which are 0 afterwards. True: something is new.
    pub fn take(&mut self) -> bool {
        let ranges = USED.load(Ordering::Relaxed).min(RANGES);
        self.seen.resize(ranges, Vec::new());
        let mut new = false;
        for (seen, (from, to)) in self.seen.iter_mut().zip(STARTS.iter().zip(&ENDS)) {
            let (from, to) = (from.load(Ordering::Relaxed), to.load(Ordering::Relaxed));
            let len = to.saturating_sub(from);
            seen.resize(len, 0);
            // SAFETY: the pass told this range of bytes, which is there as long as the program; what it counts while we look is lost.
            let counters = unsafe {
                core::slice::from_raw_parts_mut(core::ptr::with_exposed_provenance_mut::<u8>(from), len)
            };
            for (counter, seen) in counters.iter_mut().zip(seen).filter(|(counter, _)| **counter != 0) {
                let bit = class(*counter);
                if *seen & bit == 0 {
                    self.edges += usize::from(*seen == 0);
                    *seen |= bit;
                    new = true;
                }
                *counter = 0;
            }
        }
        new
    }
}
