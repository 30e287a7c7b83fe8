//! The shared pool of free frames: a stack of batches that any lane pushes and pops without a lock.
//!
//! Invariant: the head word is (tag, first frame of the top batch). The tag grows by one with each change, so a head read
//! before others popped and pushed is never swapped in again (ABA).

use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed};

use base::LaneId;
use base::limits::{DEVICES, LANES};

use crate::Word;

/// Tries against other lanes before giving up; a lane that loses so often goes on without.
const RACES: u32 = 1024;

const LEN_SHIFT: u32 = 32;
const MARK_SHIFT: u32 = 40;
/// Bit of a mark that is a device's and no lane's.
const OF_DEVICE: u8 = 0x80;
const _: () = assert!(LANES < OF_DEVICE as usize);
const _: () = assert!(DEVICES <= OF_DEVICE as usize);

/// Which lane a frame is with, or with which device in the kernel, in the link word of the frame; 0: with none.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mark(u8);

impl Mark {
    pub(crate) const NONE: Self = Self(0);

    pub(crate) fn of(lane: LaneId) -> Self {
        u8::try_from(lane.0 + 1).map_or(Self::NONE, Self)
    }

    /// The kernel has the frame, for AF_XDP sockets of `device`.
    pub(crate) fn of_device(device: u8) -> Self {
        Self(OF_DEVICE | device)
    }

    /// Marks the frame of `link`, which the caller owns.
    pub(crate) fn put<W: Word<Value = u64>>(self, link: &W) {
        link.store(u64::from(self.0) << MARK_SHIFT, Relaxed);
    }

    pub(crate) fn is_on<W: Word<Value = u64>>(self, link: &W) -> bool {
        (link.load(Relaxed) >> MARK_SHIFT) as u8 == self.0
    }
}

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

    /// Puts the batch of `len` frames that begins with `first` on top; `len` is at most 255. A batch that cannot be put there is lost.
    pub(crate) fn push(&self, first: u32, len: u32) {
        let Some(link) = self.links.get(first as usize) else { return };
        let mut head = self.head.load(Relaxed);
        for _ in 0..RACES {
            link.store(u64::from(len as u8) << LEN_SHIFT | head & u64::from(u32::MAX), Relaxed);
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
                Ok(_) => return Some((first, u32::from((link >> LEN_SHIFT) as u8))),
                Err(now) => head = now,
            }
        }
        None
    }
}
