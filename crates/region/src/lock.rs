//! The lane lock: one word says who holds it, who waits and whether work is pending, so that no death between two
//! stores can leave it half taken.
//!
//! Invariant: the word changes only by compare-and-exchange of the whole word. Its `turn` grows with each taking, so a
//! word that is the same at two looks means that the same holding lasts.

use core::sync::atomic::Ordering::{AcqRel, Acquire, Relaxed, Release};

use crate::{Full, Mpsc, Word};

/// The thread that holds a lane. Both numbers are below 2^22, which is the kernel's limit (PID_MAX_LIMIT).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    /// Its process.
    pub pid: u32,
    /// Its thread id, unique on the machine.
    pub tid: u32,
}

const ID_BITS: u32 = 22;
const ID_MASK: u64 = (1 << ID_BITS) - 1;
const OWNER_MASK: u64 = (1 << (2 * ID_BITS)) - 1;
/// Somebody sleeps until the lock is free.
const WAITERS: u64 = 1 << 44;
/// A request was queued since the holder last looked.
const WORK: u64 = 1 << 45;
const TURN_SHIFT: u32 = 46;
const TURN_ONE: u64 = 1 << TURN_SHIFT;

/// Looks at a taken lock before sleeping: about a microsecond, the length of a short visit.
#[cfg(not(loom))]
const SPINS: u32 = 64;
#[cfg(loom)]
const SPINS: u32 = 1;
/// Tries against others who change the word at the same moment.
const RACES: u32 = 16;

impl Owner {
    #[inline]
    fn bits(self) -> u64 {
        let bits = (u64::from(self.pid) & ID_MASK) << ID_BITS | (u64::from(self.tid) & ID_MASK);
        bits.max(1) // 0 means free
    }

    fn of(word: u64) -> Option<Self> {
        let held = word & OWNER_MASK != 0;
        held.then_some(Self { pid: (word >> ID_BITS & ID_MASK) as u32, tid: (word & ID_MASK) as u32 })
    }
}

/// One uninterrupted holding of a lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Holding {
    /// Who holds it.
    pub owner: Owner,
    /// Number of the holding, wrapping at 2^18.
    pub turn: u32,
}

/// What an attempt to unlock came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unlocked {
    /// The lock is free; `wake`: somebody sleeps on the futex word and must be woken.
    Free { wake: bool },
    /// Requests came in: still held, by the word given.
    Work(u64),
    /// The lock had been taken over from us.
    Lost,
}

/// What [`Lock::announce`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Announced {
    /// The holder will see the request, or has done it.
    Held,
    /// Nobody held the lock, now we do.
    Taken(u64),
}

/// The lock over its two shared words. All zero: free.
pub(crate) struct Lock<'a, W, F> {
    /// Owner, flags, turn.
    pub(crate) word: &'a W,
    /// Futex word: changes whenever the lock was freed while somebody waited.
    pub(crate) freed: &'a F,
}

impl<W: Word<Value = u64>, F: Word<Value = u32>> Lock<'_, W, F> {
    pub(crate) fn holding(&self) -> Option<Holding> {
        let word = self.word.load(Acquire);
        Owner::of(word).map(|owner| Holding { owner, turn: (word >> TURN_SHIFT) as u32 })
    }

    /// `word` with `owner` as holder, for the next turn.
    #[inline]
    fn taken(word: u64, owner: Owner) -> u64 {
        (word & !OWNER_MASK).wrapping_add(TURN_ONE) | owner.bits()
    }

    /// Takes the lock if it is free; gives the word now in place.
    #[inline]
    pub(crate) fn try_lock(&self, owner: Owner) -> Option<u64> {
        self.try_lock_with(owner, 0)
    }

    #[inline]
    fn try_lock_with(&self, owner: Owner, flags: u64) -> Option<u64> {
        let mut word = self.word.load(Relaxed);
        for _ in 0..RACES {
            if word & OWNER_MASK != 0 {
                return None;
            }
            let taken = Self::taken(word, owner) | flags;
            match self.word.compare_exchange(word, taken, Acquire, Relaxed) {
                Ok(_) => return Some(taken),
                Err(now) => word = now,
            }
        }
        None
    }

    /// Takes the lock, spinning a little, then sleeping in `wait(futex word, value seen)`.
    #[cold]
    #[inline(never)]
    pub(crate) fn lock(&self, owner: Owner, mut wait: impl FnMut(&F, u32)) -> u64 {
        for _ in 0..SPINS {
            if let Some(held) = self.try_lock(owner) {
                return held;
            }
            W::relax();
        }
        let mut flags = 0;
        loop {
            let seen = self.freed.load(Acquire);
            let word = self.word.load(Relaxed);
            if word & OWNER_MASK == 0 {
                if let Some(held) = self.try_lock_with(owner, flags) {
                    return held;
                }
            } else if word & WAITERS != 0
                || self.word.compare_exchange(word, word | WAITERS, Relaxed, Relaxed).is_ok()
            {
                wait(self.freed, seen);
                // Others may sleep too, and whoever woke us has cleared the flag: take it with the flag set.
                flags = WAITERS;
            }
        }
    }

    /// Frees the lock that we hold with `held` in the word.
    #[inline]
    pub(crate) fn unlock(&self, held: u64) -> Unlocked {
        if held & (WORK | WAITERS) == 0
            && self.word.compare_exchange(held, held & !OWNER_MASK, Release, Relaxed).is_ok()
        {
            return Unlocked::Free { wake: false };
        }
        self.unlock_slowly(held, false)
    }

    /// Frees the lock, leaving requests for the next holder.
    pub(crate) fn abandon(&self, held: u64) -> Unlocked {
        self.unlock_slowly(held, true)
    }

    #[cold]
    fn unlock_slowly(&self, held: u64, leave_work: bool) -> Unlocked {
        let mut word = self.word.load(Relaxed);
        loop {
            // While we hold it others only set flags, each once, so this ends after three rounds.
            if (word ^ held) & !(WORK | WAITERS) != 0 {
                return Unlocked::Lost;
            }
            let work = word & WORK != 0 && !leave_work;
            let next = if work { word & !WORK } else { word & !(OWNER_MASK | WAITERS) };
            match self.word.compare_exchange(word, next, AcqRel, Relaxed) {
                Err(now) => word = now,
                Ok(_) if work => return Unlocked::Work(next),
                Ok(_) => {
                    let wake = word & WAITERS != 0;
                    if wake {
                        self.freed.increment(Release);
                    }
                    return Unlocked::Free { wake };
                }
            }
        }
    }

    /// Tells the holder that a request was queued; takes the lock if there is no holder and the request still waits.
    fn announce(&self, owner: Owner, waits: impl Fn() -> bool) -> Announced {
        let mut word = self.word.load(Acquire);
        // Ends: each failed exchange means that another thread got on with its own.
        loop {
            let free = word & OWNER_MASK == 0;
            if free && !waits() {
                return Announced::Held;
            }
            // The turn in the word makes sure that nobody held the lock, and took the request, since `waits` looked.
            let next = if free { Self::taken(word, owner) } else { word | WORK };
            // Release: the holder who sees WORK sees the request. Not skipped when WORK is already set, because the
            // holder may just be clearing it.
            match self.word.compare_exchange(word, next, AcqRel, Acquire) {
                Ok(_) if free => return Announced::Taken(next),
                Ok(_) => return Announced::Held,
                Err(now) => word = now,
            }
        }
    }

    /// Takes the lock if it is free, or has the holder find [`Unlocked::Work`] when it unlocks: exactly one of the two.
    #[inline]
    pub(crate) fn take_or_ask(&self, owner: Owner) -> Option<u64> {
        match self.announce(owner, || true) {
            Announced::Held => None,
            Announced::Taken(held) => Some(held),
        }
    }

    /// Takes the lock, or queues `request` in `requests` for the holder: exactly one of the two. `Err`: no room.
    pub(crate) fn lock_or_defer(
        &self,
        requests: &Mpsc<'_, W>,
        owner: Owner,
        request: u64,
    ) -> Result<Option<u64>, Full> {
        if let Some(held) = self.try_lock(owner) {
            return Ok(Some(held));
        }
        let position = requests.push(request)?;
        match self.announce(owner, || requests.holds(position)) {
            Announced::Held => Ok(None),
            Announced::Taken(held) => {
                requests.withdraw(position);
                Ok(Some(held))
            }
        }
    }

    /// Takes the lock over from `dead`, if `dead` holds it.
    pub(crate) fn take_over(&self, dead: Owner, me: Owner) -> Option<u64> {
        let mut word = self.word.load(Relaxed);
        for _ in 0..RACES {
            if word & OWNER_MASK != dead.bits() {
                return None;
            }
            let taken = Self::taken(word, me);
            match self.word.compare_exchange(word, taken, Acquire, Relaxed) {
                Ok(_) => return Some(taken),
                Err(now) => word = now,
            }
        }
        None
    }
}
