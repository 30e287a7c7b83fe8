//! The mailbox of a lane: frames that came to another lane of the region, handed over by whole chains, and the wake-up of a lane that sleeps.
//!
//! Invariant: what a lane posts before it looks for sleepers, a sleeper that announced itself before its last look has seen, or is woken
//! for (`announce`, `ring`).
//! Invariant: the frames of a chain in a mailbox are marked with no lane; a death between unmarking and posting loses that chain.

use core::sync::atomic::Ordering::{Relaxed, SeqCst};

use base::FrameIdx;

use crate::{Full, Mpsc, Word};

/// Chains that wait in one mailbox at most: two batches.
pub(crate) const MAIL_SLOTS: usize = 128;
/// Bits of a [`Mail`]'s note.
pub const NOTE_BITS: u32 = 31;

/// A chain of frames on its way to a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mail {
    /// First frame.
    pub head: FrameIdx,
    /// The sender's remark, of [`NOTE_BITS`] bits.
    pub note: u32,
}

/// A mailbox over its shared words: the ring, how many sleep, and what they sleep on.
pub(crate) struct Mailbox<'a, W, F> {
    pub(crate) ring: Mpsc<'a, W>,
    pub(crate) sleepers: &'a F,
    pub(crate) wake_seq: &'a F,
}

impl<W: Word<Value = u64>, F: Word<Value = u32>> Mailbox<'_, W, F> {
    /// Puts `mail` in. True: somebody sleeps there and must be woken from `wake_seq`.
    pub(crate) fn post(&self, mail: Mail) -> Result<bool, Full> {
        let note = mail.note & ((1 << NOTE_BITS) - 1);
        self.ring.push(u64::from(note) << 32 | u64::from(mail.head.0))?;
        Ok(self.ring_the_bell())
    }

    fn ring_the_bell(&self) -> bool {
        // Either the sleeper's last look sees the mail, or its announcement is seen here.
        W::fence(SeqCst);
        if self.sleepers.load(Relaxed) == 0 {
            return false;
        }
        self.wake_seq.increment(SeqCst);
        true
    }

    /// Takes the oldest out. Only the holder of the lane may call this.
    pub(crate) fn take(&self) -> Option<Mail> {
        let value = self.ring.pop()?;
        Some(Mail { head: FrameIdx(value as u32), note: (value >> 32) as u32 })
    }

    /// One more sleeps, once it has looked a last time; gives what to sleep on.
    #[cfg(all(test, loom))]
    pub(crate) fn announce(&self) -> u32 {
        self.sleepers.increment(SeqCst);
        W::fence(SeqCst);
        self.wake_seq.load(SeqCst)
    }
}
