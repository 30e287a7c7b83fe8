//! The shared pool of free frames: a stack of batches that any lane pushes and pops without a lock.
//!
//! Invariant: the head word is (tag, first frame of the top batch). The tag grows by one with each change, so a head read
//! before others popped and pushed is never swapped in again (ABA).

use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use crate::Word;

/// Tries against other lanes before giving up; a lane that loses so often goes on without.
const RACES: u32 = 1024;

/// The pool over its head word and one link word for each frame. A batch's link, (length, first frame of the batch below), is
/// that of its first frame. Empty: the low half of `head` is `u32::MAX`.
pub(crate) struct Pool<'a, W> {
    pub(crate) head: &'a W,
    pub(crate) links: &'a [W],
}

impl<W: Word<Value = u64>> Pool<'_, W> {
    fn head_after(head: u64, first: u32) -> u64 {
        (head >> 32).wrapping_add(1) << 32 | u64::from(first)
    }

    /// Puts the batch of `len` frames that begins with `first` on top. A batch that cannot be put there is lost.
    pub(crate) fn push(&self, first: u32, len: u32) {
        let Some(link) = self.links.get(first as usize) else { return };
        let mut head = self.head.load(Relaxed);
        for _ in 0..RACES {
            link.store(u64::from(len) << 32 | head & u64::from(u32::MAX), Relaxed);
            // Release: who pops the batch sees its records.
            match self.head.compare_exchange(head, Self::head_after(head, first), AcqRel, Relaxed) {
                Ok(_) => return,
                Err(now) => head = now,
            }
        }
    }

    /// Takes the top batch: its first frame and its length.
    pub(crate) fn pop(&self) -> Option<(u32, u32)> {
        let mut head = self.head.load(Acquire);
        for _ in 0..RACES {
            let first = head as u32;
            // The link may be of another time when another lane has the batch by now; then the exchange fails.
            let link = self.links.get(first as usize)?.load(Relaxed);
            match self.head.compare_exchange(head, Self::head_after(head, link as u32), AcqRel, Acquire) {
                Ok(_) => return Some((first, (link >> 32) as u32)),
                Err(now) => head = now,
            }
        }
        None
    }
}
