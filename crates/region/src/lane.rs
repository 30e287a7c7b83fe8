//! One lane of a region: its lock, the requests queued for the holder, and the signals that are read without the lock.
//!
//! Invariant: only the holder of the lock touches the lane's span, and only one [`LaneGuard`] of a lane exists.

use core::borrow::Borrow;
use core::mem::{ManuallyDrop, size_of};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use base::LaneId;
use base::limits::DEVICES;

use crate::lock::{Lock, Unlocked};
use crate::mailbox::{MAIL_SLOTS, Mailbox};
use crate::{Carver, FrameArea, Full, Holding, Mail, Mpsc, NoteRef, Owner, Region};

/// Requests that can wait for the holder of one lane.
const REQUESTS: usize = 256;

/// What is known of a lane without holding its lock. Each field says who writes it.
#[repr(C)]
pub struct LaneSignals {
    /// When the lane next has something to do, ns; `u64::MAX`: never. Written by the holder, before it unlocks.
    pub deadline_ns: AtomicU64,
    /// When the lane was last held, ns. Written by the holder, before it unlocks.
    pub last_held_ns: AtomicU64,
    /// Threads that sleep until something happens here. Each adds itself before it looks a last time and sleeps, and
    /// takes itself off.
    pub sleepers: AtomicU32,
    /// Futex word of the sleepers: whoever made something happen adds 1, then wakes.
    pub wake_seq: AtomicU32,
    /// Not 0: a holder panicked or died and the tables are not to be trusted, or the lane's keeper is gone. Set by that process, cleared by whoever resets
    /// the lane under its lock. 2: that was done, and each peer was told.
    pub poisoned: AtomicU32,
    /// The process that polls the lane; 0: none yet. Written by that process, or by the steward in its place.
    pub owner_pid: AtomicU32,
    /// How often the lock was taken over from the dead. Written by [`LaneRef::take_over`].
    pub take_overs: AtomicU32,
    /// Not 0: the tables are initialised. Written by the holder.
    pub ready: AtomicU32,
    /// How often the tables were made. Written by the holder, see [`LaneGuard::formats`].
    pub formats: AtomicU32,
    /// Threads of the lane's process that sleep until a connection comes. Each adds itself before it looks at `left_at` a last time and sleeps, and takes
    /// itself off.
    pub accepters: AtomicU32,
    /// Other lanes of the region, a bit each, at whose listeners connections wait while nobody there accepts. Set by those lanes' processes, or the
    /// steward in their place; cleared by this one's. All of them when the lane is new.
    pub left_at: AtomicU64,
    spare: AtomicU64,
}
const _: () = assert!(size_of::<LaneSignals>() == 64);

/// The control block of a lane. Words that different parties write lie in different cache lines.
#[repr(C)]
struct Control {
    lock: AtomicU64,
    freed: AtomicU32,
    pad0: [AtomicU32; 13],
    signals: LaneSignals,
    requests_head: AtomicU64,
    pad1: [AtomicU64; 7],
    requests_tail: AtomicU64,
    pad2: [AtomicU64; 7],
    requests: [AtomicU64; REQUESTS],
    mail_head: AtomicU64,
    pad3: [AtomicU64; 7],
    mail_tail: AtomicU64,
    pad4: [AtomicU64; 7],
    mail: [AtomicU64; MAIL_SLOTS],
    /// What is being put into the lane's transmit ring of each device.
    sending: [AtomicU64; DEVICES],
}
const _: () = assert!(size_of::<Control>() <= 4096);
const _: () = assert!(REQUESTS.is_power_of_two() && MAIL_SLOTS.is_power_of_two());

/// No room for another request, or too much happening at once: take the lock instead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Busy;

/// One lane, not locked. Cheap to copy.
#[derive(Clone, Copy)]
pub struct LaneRef {
    region: Region,
    id: LaneId,
    control: &'static Control,
}

impl LaneRef {
    pub(crate) fn new(region: Region, id: LaneId, control: &'static [AtomicU64]) -> Option<Self> {
        if control.len() * 8 < size_of::<Control>() {
            return None;
        }
        // SAFETY: long enough, aligned to 8 as AtomicU64 is, and every bit pattern of atomics is a value.
        let control = unsafe { &*control.as_ptr().cast::<Control>() };
        Some(Self { region, id, control })
    }

    fn lock_words(&self) -> Lock<'static, AtomicU64, AtomicU32> {
        Lock { word: &self.control.lock, freed: &self.control.freed }
    }

    fn requests(&self) -> Mpsc<'static, AtomicU64> {
        Mpsc::new(&self.control.requests_head, &self.control.requests_tail, &self.control.requests)
    }

    fn mailbox(&self) -> Mailbox<'static, AtomicU64, AtomicU32> {
        let control = self.control;
        Mailbox {
            ring: Mpsc::new(&control.mail_head, &control.mail_tail, &control.mail),
            sleepers: &control.signals.sleepers,
            wake_seq: &control.signals.wake_seq,
        }
    }

    /// Puts `mail`, whose frames carry no lane's mark, into the lane's mailbox. True: somebody sleeps on `signals().wake_seq`, which was
    /// moved on, and must be woken.
    pub(crate) fn post(&self, mail: Mail) -> Result<bool, Full> {
        self.mailbox().post(mail)
    }

    /// Takes the oldest mail. Only for the holder of the lane.
    pub(crate) fn take_mail(&self) -> Option<Mail> {
        self.mailbox().take()
    }

    /// Is there mail? A look that may be wrong the next moment.
    #[must_use]
    pub fn has_mail(&self) -> bool {
        self.control.mail_head.load(Ordering::Relaxed) != self.control.mail_tail.load(Ordering::Relaxed)
    }

    fn guard(&self, held: u64) -> LaneGuard {
        LaneGuard { lane: *self, held }
    }

    /// Is `other` another lane of the same mapping of the region?
    #[must_use]
    pub fn is_beside(&self, other: &Self) -> bool {
        self.id != other.id && self.region.is_same(&other.region)
    }

    /// The region it is in.
    #[must_use]
    pub fn region(&self) -> Region {
        self.region
    }

    /// Its number.
    #[must_use]
    pub fn id(&self) -> LaneId {
        self.id
    }

    /// The frames, as the lane's holder takes them: those it takes carry its mark while it has them.
    #[must_use]
    pub fn frame_area(&self) -> FrameArea {
        self.region.frame_area().of_lane(*self)
    }

    /// What the lane's holder is putting into its transmit ring of device number `device`. `None` beyond `DEVICES`.
    #[must_use]
    pub fn sending(&self, device: u8) -> Option<NoteRef> {
        self.control.sending.get(usize::from(device)).map(NoteRef)
    }

    /// Takes the lock if nobody holds it.
    #[inline]
    #[must_use]
    pub fn try_lock(&self, owner: Owner) -> Option<LaneGuard> {
        self.lock_words().try_lock(owner).map(|held| self.guard(held))
    }

    /// Takes the lock. Spins for about a microsecond, then calls `wait(word, seen)`, which sleeps while `word` is `seen`
    /// (FUTEX_WAIT without PRIVATE) and may return at any time, until it has the lock. Give the sleep a time limit: a
    /// process may die just before it wakes us (see [`LaneRef::rouse`]).
    #[inline]
    pub fn lock(&self, owner: Owner, wait: impl FnMut(&AtomicU32, u32)) -> LaneGuard {
        let words = self.lock_words();
        let held = words.try_lock(owner).unwrap_or_else(|| words.lock(owner, wait));
        self.guard(held)
    }

    /// [`LaneRef::lock`] for who moves the guard about: it borrows the lane instead of having a copy of it.
    #[inline]
    pub fn hold(&self, owner: Owner, wait: impl FnMut(&AtomicU32, u32)) -> LaneGuard<&Self> {
        let words = self.lock_words();
        let held = words.try_lock(owner).unwrap_or_else(|| words.lock(owner, wait));
        LaneGuard { lane: self, held }
    }

    /// Takes the lock, and the request is the caller's to do; or queues `request` for the holder, who finds it when it
    /// unlocks. Exactly one of the two.
    ///
    /// # Errors
    /// [`Busy`] when the queue is full or bit 63 of `request` is set.
    pub fn lock_or_defer(&self, owner: Owner, request: u64) -> Result<Option<LaneGuard>, Busy> {
        let taken = self.lock_words().lock_or_defer(&self.requests(), owner, request).map_err(|_| Busy)?;
        Ok(taken.map(|held| self.guard(held)))
    }

    /// Who holds the lock.
    #[must_use]
    pub fn holder(&self) -> Option<Owner> {
        self.holding().map(|h| h.owner)
    }

    /// Who holds the lock, and the number of the holding: equal at two looks, the same holding lasts.
    #[must_use]
    pub fn holding(&self) -> Option<Holding> {
        self.lock_words().holding()
    }

    /// Takes the lock over from `dead`, if `dead` still holds it: for the steward, once that process is known to be
    /// dead (its pidfd says so). The tables may be in the middle of a change. Never call it for a live process:
    /// two threads would then change the same tables.
    #[must_use]
    pub fn take_over(&self, dead: Owner, me: Owner) -> Option<LaneGuard> {
        let held = self.lock_words().take_over(dead, me)?;
        self.control.signals.take_overs.fetch_add(1, Ordering::Relaxed);
        Some(self.guard(held))
    }

    /// Wakes whoever waits for the lock, for the case that a process died between freeing it and waking: for the
    /// steward, after any death. `wake` gets the futex word, and wakes all.
    pub fn rouse(&self, wake: impl FnOnce(&AtomicU32)) {
        self.control.freed.fetch_add(1, Ordering::Release);
        wake(&self.control.freed);
    }

    /// The atomics outside the lock.
    #[must_use]
    #[inline]
    pub fn signals(&self) -> &'static LaneSignals {
        &self.control.signals
    }
}

/// The lock of a lane, held. Dropping it unlocks without waking anybody; use [`LaneGuard::unlock`].
/// `L`: the lane, or a borrow of it; no other is ever made.
pub struct LaneGuard<L: Borrow<LaneRef> = LaneRef> {
    lane: L,
    held: u64,
}

impl LaneGuard {
    /// The same holding, by a borrow of the lane, whose `lane` must be a copy.
    ///
    /// # Panics
    /// When `lane` is another one.
    #[must_use]
    pub fn at(self, lane: &LaneRef) -> LaneGuard<&LaneRef> {
        assert!(core::ptr::eq(self.lane.control, lane.control), "the guard of another lane");
        LaneGuard { lane, held: ManuallyDrop::new(self).held }
    }
}

impl<L: Borrow<LaneRef>> LaneGuard<L> {
    /// Carves the lane's span.
    #[inline]
    pub fn carver(&mut self) -> Carver<'_> {
        let lane = self.lane.borrow();
        let words = lane.region.lane_span(lane.id);
        // SAFETY: the span is mapped for the life of the process and aligned to 8; atomics may be written through a
        // shared reference; the lock gives this guard the only access, and `&mut self` this carver.
        Carver::new(unsafe { core::slice::from_raw_parts_mut(words.as_ptr() as *mut u64, words.len()) })
    }

    /// The next request that was deferred to the holder.
    pub fn next_request(&mut self) -> Option<u64> {
        self.lane.borrow().requests().pop()
    }

    /// The region.
    #[must_use]
    pub fn region(&self) -> Region {
        self.lane.borrow().region
    }

    /// As [`LaneRef::frame_area`].
    #[must_use]
    pub fn frame_area(&self) -> FrameArea {
        self.lane.borrow().frame_area()
    }

    /// Puts every frame that earlier holders of the lane took and did not give back into the shared pool, and gives their
    /// number; so every frame that waits in its mailbox. For a lane that is about to be formatted: its tables and its devices' rings must be
    /// gone.
    pub fn reclaim_frames(&mut self) -> u32 {
        self.frame_area().reclaim()
    }

    /// The holder is about to make the lane's tables: nobody's notes of where they lie are of use any more ([`crate::Kept`]).
    pub fn formats(&mut self) {
        self.signals().formats.fetch_add(1, Ordering::Relaxed);
    }

    /// The lane.
    #[must_use]
    #[inline]
    pub fn lane(&self) -> LaneRef {
        *self.lane.borrow()
    }

    /// The lane's atomics outside the lock.
    #[must_use]
    #[inline]
    pub fn signals(&self) -> &'static LaneSignals {
        self.lane.borrow().signals()
    }

    /// Unlocks. `wake` is called with the futex word when somebody waits, and wakes one (FUTEX_WAKE without PRIVATE).
    ///
    /// # Errors
    /// The guard itself when requests came in since it was taken or last came back: do those and unlock again.
    #[inline]
    pub fn unlock(self, wake: impl FnOnce(&AtomicU32)) -> Result<(), Self> {
        let mut this = ManuallyDrop::new(self);
        let words = this.lane.borrow().lock_words();
        match words.unlock(this.held) {
            Unlocked::Free { wake: false } | Unlocked::Lost => Ok(()),
            Unlocked::Free { wake: true } => {
                wake(words.freed);
                Ok(())
            }
            Unlocked::Work(held) => {
                this.held = held;
                Err(ManuallyDrop::into_inner(this))
            }
        }
    }
}

impl<L: Borrow<LaneRef>> Drop for LaneGuard<L> {
    fn drop(&mut self) {
        // Requests stay queued for the next holder; sleepers see the changed futex word at their time limit.
        self.lane.borrow().lock_words().abandon(self.held);
    }
}
