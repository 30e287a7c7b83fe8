//! A sequence lock: one writer who never waits, readers who try again when a write fell into their reading.
//!
//! Invariant: what it protects are words, read and written with relaxed atomics between the fences here; so a reader in the middle
//! of a write reads nonsense, which it throws away, but no undefined behaviour.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::Word;

/// The lock over its sequence word: odd while a write is going on. Zero to begin with.
pub struct Seqlock<'a, W> {
    sequence: &'a W,
}

impl<'a, W: Word<Value = u64>> Seqlock<'a, W> {
    /// The lock over `sequence`, which readers may have mapped read-only.
    #[must_use]
    pub fn new(sequence: &'a W) -> Self {
        Self { sequence }
    }

    /// Runs `change`, which stores words. Only the one writer may call this; after a writer that died in the middle, the next
    /// write puts things right if it writes everything.
    pub fn write<R>(&self, change: impl FnOnce() -> R) -> R {
        let odd = self.sequence.load(Relaxed) | 1;
        self.sequence.store(odd, Relaxed);
        W::fence(Release); // a reader who sees one of the stores sees the odd sequence
        let result = change();
        self.sequence.store(odd.wrapping_add(1), Release);
        result
    }

    /// Runs `copy`, which loads words, until no write fell into it. `None`: not within `tries` times.
    pub fn read<R>(&self, tries: u32, copy: impl Fn() -> R) -> Option<R> {
        for _ in 0..tries {
            let before = self.sequence.load(Acquire);
            if before & 1 == 0 {
                let copied = copy();
                W::fence(Acquire); // the loads of `copy` come before the second look
                if self.sequence.load(Relaxed) == before {
                    return Some(copied);
                }
            }
            W::relax();
        }
        None
    }
}
