//! Frames that go from lane to lane of a region: chain by chain through a mailbox, or singly while both lanes are held.

use base::limits::CHAIN_FRAMES;
use base::{FrameIdx, LaneId};

use crate::lent::STAND_IN;
use crate::pool::Mark;
use crate::{Frames, LaneRef, Mail};

/// A chain could not be handed over, and is still the caller's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotPosted;

impl Frames<'_> {
    /// The lane whose view this is.
    #[must_use]
    pub fn lane(&self) -> Option<LaneRef> {
        self.area.lane
    }

    /// Hands the chain `head`, whose frames have no other owner, to lane `to` of the region, with a note of [`crate::NOTE_BITS`] bits. True:
    /// somebody sleeps on that lane's `signals().wake_seq` and must be woken.
    ///
    /// # Errors
    /// [`NotPosted`] when the mailbox is full, there is no such lane, or the chain is too long or has other owners.
    pub fn hand_over(&mut self, to: LaneId, head: FrameIdx, note: u32) -> Result<bool, NotPosted> {
        let lane = self.area.lane.and_then(|lane| lane.region().lane(to)).ok_or(NotPosted)?;
        if !self.is_alone(head) {
            return Err(NotPosted);
        }
        self.mark_chain(head, Mark::NONE);
        lane.post(Mail { head, note }).map_err(|_| {
            self.mark_chain(head, self.area.mark);
            NotPosted
        })
    }

    /// The oldest chain in this lane's mailbox, which is this lane's from now on.
    pub fn next_mail(&mut self) -> Option<Mail> {
        let mail = self.area.lane?.take_mail()?;
        self.mark_chain(mail.head, self.area.mark);
        Some(mail)
    }

    /// Takes `frame` over from another lane without a mailbox, while both lanes are held. It has no other owner there.
    pub fn adopt(&mut self, frame: FrameIdx) {
        self.mark(frame, self.area.mark);
    }

    /// Has each frame of the chain one owner, and is the chain as long as a packet may be?
    fn is_alone(&self, head: FrameIdx) -> bool {
        let mut at = head;
        for _ in 0..CHAIN_FRAMES {
            match self.meta(at) {
                // A frame that stands for another lane's is reported by the lane that borrowed it.
                Some(meta) if meta.refs == 1 && meta.flags & STAND_IN == 0 => at = meta.next,
                Some(_) => return false,
                None => return at != head,
            }
        }
        at.is_none()
    }

    fn mark_chain(&self, head: FrameIdx, mark: Mark) {
        let mut at = head;
        for _ in 0..CHAIN_FRAMES {
            let Some(meta) = self.meta(at) else { return };
            self.mark(at, mark);
            at = meta.next;
        }
    }
}
