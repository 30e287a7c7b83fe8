//! The hierarchical timer wheel: one timer a row, armed and cancelled in constant time.
//!
//! Eight levels of 64 slots cover all of time in ticks of 2^20 ns (about 1.05 ms). A timer waits at the level of the highest
//! 6-bit digit in which its tick differs from the wheel's, in the slot of its own digit there, and moves to lower levels as
//! the wheel gets to that slot. It never fires early, and up to one tick late.
//!
//! Invariant: a timer's tick is not below the wheel's, unless it was armed for the past; and no slot that begins before
//! the wheel's tick holds a timer, except the one at the wheel's own digit, which is being emptied.

use base::{Idx, Instant};

use crate::{Table, plain};

const TICK_SHIFT: u32 = 20;
const DIGIT_BITS: u32 = 6;
const SLOTS: u32 = 1 << DIGIT_BITS;
const LEVELS: u32 = 8;
/// The last tick that an [`Instant`] can name.
const TICK_MAX: u64 = u64::MAX >> TICK_SHIFT;
const _: () = assert!(TICK_MAX >> (DIGIT_BITS * LEVELS) == 0);

/// ns of one tick of the wheel.
pub const WHEEL_TICK_NS: u64 = 1 << TICK_SHIFT;

plain! {
    /// One timer. All zero, or default: not armed.
    #[derive(Debug, Default)]
    pub struct Timer {
        /// Next timer in the slot.
        next: Idx<Timer>,
        /// Timer before it in the slot; none for the first.
        prev: Idx<Timer>,
        /// 0: not armed. Else the tick it is armed for, times 1024, plus the number of its slot, plus 1.
        armed: u64,
    }
}
const _: () = assert!(size_of::<Timer>() == 16);

const SLOT_BITS: u32 = 10;
const SLOT_MASK: u64 = (1 << SLOT_BITS) - 1;
const _: () = assert!(((LEVELS * SLOTS) as u64) < SLOT_MASK && TICK_MAX < u64::MAX >> SLOT_BITS);

impl Timer {
    fn slot(&self) -> Option<u32> {
        ((self.armed & SLOT_MASK) as u32).checked_sub(1).filter(|s| *s < LEVELS * SLOTS)
    }

    fn tick(&self) -> u64 {
        self.armed >> SLOT_BITS
    }
}

plain! {
    /// What a wheel has one of.
    #[derive(Debug)]
    pub struct WheelHead {
        /// The tick the wheel has got to.
        tick: u64,
        /// Timers armed.
        armed: u32,
        /// 1: nothing that was due at `tick` is left.
        settled: u32,
        /// For each level, the slots that hold timers.
        occupied: [u64; LEVELS as usize],
        /// First timer of each occupied slot, level by level.
        heads: [Idx<Timer>; (LEVELS * SLOTS) as usize],
    }
}

impl WheelHead {
    /// The head of a wheel without timers, that has got to `now`.
    #[must_use]
    pub const fn starting(now: Instant) -> Self {
        Self {
            tick: now.0 >> TICK_SHIFT,
            armed: 0,
            settled: 0,
            occupied: [0; LEVELS as usize],
            heads: [Idx::NONE; (LEVELS * SLOTS) as usize],
        }
    }
}

impl Default for WheelHead {
    fn default() -> Self {
        Self::starting(Instant(0))
    }
}

/// A wheel in the hands of the lane's holder.
pub struct Wheel<'a> {
    head: &'a mut WheelHead,
    timers: Table<'a, Timer>,
}

impl<'a> Wheel<'a> {
    /// The wheel over its head and its timers.
    #[must_use]
    pub fn new(head: &'a mut WheelHead, timers: Table<'a, Timer>) -> Self {
        Self { head, timers }
    }

    /// Timers armed.
    #[must_use]
    pub fn armed(&self) -> u32 {
        self.head.armed
    }

    /// When timer `row` fires; `None` if it is not armed. Up to one tick after what it was armed for.
    #[must_use]
    pub fn deadline(&self, row: u32) -> Option<Instant> {
        let timer = self.timers.get(Idx::new(row))?;
        timer.slot().map(|_| Instant(timer.tick().min(TICK_MAX) << TICK_SHIFT))
    }

    /// Arms timer `row` for `at`, in place of what it was armed for. [`Instant::NEVER`] cancels it. False: no such row.
    pub fn arm(&mut self, row: u32, at: Instant) -> bool {
        if row >= self.timers.len() {
            return false;
        }
        self.cancel(row);
        if at != Instant::NEVER {
            self.insert(Idx::new(row), at.0.div_ceil(WHEEL_TICK_NS).min(TICK_MAX));
        }
        true
    }

    /// [`Wheel::arm`] of a timer that nobody armed since its row got a new owner, whatever lies in the row.
    pub fn arm_anew(&mut self, row: u32, at: Instant) -> bool {
        let Some(timer) = self.timers.get_mut(Idx::new(row)) else { return false };
        *timer = Timer::default();
        self.arm(row, at)
    }

    /// Cancels timer `row`, if it is armed.
    pub fn cancel(&mut self, row: u32) {
        let row = Idx::new(row);
        let Some(timer) = self.timers.get_mut(row) else { return };
        let Some(slot) = timer.slot() else { return };
        timer.armed = 0;
        let (next, prev) = (timer.next, timer.prev);
        self.head.armed = self.head.armed.saturating_sub(1);
        // Neighbours are changed only if they agree that they are neighbours.
        if let Some(after) = self.timers.get_mut(next).filter(|t| t.prev == row) {
            after.prev = prev;
        }
        if prev.is_none() {
            if self.first(slot) == Some(row) {
                self.set_first(slot, next);
            }
        } else if let Some(before) = self.timers.get_mut(prev).filter(|t| t.next == row) {
            before.next = next;
        }
    }

    /// The next timer due at `now`, no longer armed. Each timer looked at costs 1 of `budget`; at 0 there is no answer, and
    /// [`Wheel::next_deadline`] says whether to come back at once.
    #[inline]
    pub fn expire(&mut self, now: Instant, budget: &mut u32) -> Option<u32> {
        let target = now.0 >> TICK_SHIFT;
        if target <= self.head.tick && self.head.settled == 1 {
            return None;
        }
        self.expire_by(target, budget)
    }

    /// The timer that most likely fires after `row`, which just fired. For prefetching only.
    #[must_use]
    pub fn behind(&self, row: u32) -> Option<u32> {
        self.timers.get(Idx::new(row)).map(|timer| timer.next.raw())
    }

    fn expire_by(&mut self, target: u64, budget: &mut u32) -> Option<u32> {
        self.head.settled = 0;
        while *budget > 0 {
            let Some((slot, start)) = self.earliest().filter(|(_, start)| *start <= target) else {
                self.head.tick = self.head.tick.max(target);
                self.head.settled = 1;
                return None;
            };
            *budget -= 1;
            self.head.tick = self.head.tick.max(start);
            let Some(row) = self.first(slot) else { continue };
            let Some(timer) = self.timers.get(row).filter(|t| t.slot() == Some(slot)) else {
                self.set_first(slot, Idx::NONE); // corrupted: what hung on here is lost
                continue;
            };
            let tick = timer.tick();
            self.cancel(row.raw());
            if self.first(slot) == Some(row) {
                self.set_first(slot, Idx::NONE); // corrupted: it had a timer before it
            }
            // In its own slot again it would never get out: corrupted, it fires.
            if tick <= self.head.tick || self.slot_for(tick) == slot {
                return Some(row.raw());
            }
            self.insert(row, tick);
        }
        None
    }

    /// No timer fires before this; [`Instant::NEVER`] when none is armed. Exact within the next 64 ticks, else a lower
    /// bound at which [`Wheel::expire`] has work to do.
    #[must_use]
    pub fn next_deadline(&self) -> Instant {
        self.earliest().map_or(Instant::NEVER, |(_, tick)| Instant(tick.min(TICK_MAX) << TICK_SHIFT))
    }

    fn slot_for(&self, tick: u64) -> u32 {
        let tick = tick.max(self.head.tick).min(TICK_MAX);
        let level = (tick ^ self.head.tick).checked_ilog2().map_or(0, |bit| bit / DIGIT_BITS).min(LEVELS - 1);
        level * SLOTS + (tick >> (level * DIGIT_BITS)) as u32 % SLOTS
    }

    /// Puts `row`, which is not armed, in front of the slot for `tick`.
    fn insert(&mut self, row: Idx<Timer>, tick: u64) {
        let slot = self.slot_for(tick);
        if tick <= self.head.tick {
            self.head.settled = 0;
        }
        let next = self.first(slot).unwrap_or(Idx::NONE);
        if let Some(after) = self.timers.get_mut(next) {
            after.prev = row;
        }
        let Some(timer) = self.timers.get_mut(row) else { return };
        *timer = Timer { next, prev: Idx::NONE, armed: tick << SLOT_BITS | u64::from(slot + 1) };
        self.set_first(slot, row);
        self.head.armed = self.head.armed.saturating_add(1);
    }

    /// The first timer of `slot`; `None` when it holds none.
    fn first(&self, slot: u32) -> Option<Idx<Timer>> {
        let occupied = self.head.occupied.get((slot / SLOTS) as usize)? >> (slot % SLOTS) & 1;
        if occupied == 0 { None } else { self.head.heads.get(slot as usize).copied() }
    }

    fn set_first(&mut self, slot: u32, row: Idx<Timer>) {
        let (Some(map), Some(head)) =
            (self.head.occupied.get_mut((slot / SLOTS) as usize), self.head.heads.get_mut(slot as usize))
        else {
            return;
        };
        *head = row;
        let bit = 1 << (slot % SLOTS);
        if row.is_none() { *map &= !bit } else { *map |= bit }
    }

    /// The occupied slot that begins first, and the tick at which it begins.
    fn earliest(&self) -> Option<(u32, u64)> {
        let mut found: Option<(u32, u64)> = None;
        for (level, occupied) in (0..).zip(self.head.occupied) {
            if occupied == 0 {
                continue;
            }
            let shift = level * DIGIT_BITS;
            let digit = (self.head.tick >> shift) as u32 % SLOTS;
            let ahead = occupied >> digit << digit;
            let slot = if ahead == 0 { occupied } else { ahead }.trailing_zeros();
            let round = self.head.tick >> shift >> DIGIT_BITS << DIGIT_BITS << shift;
            // A slot that lies behind cannot be, so it is emptied at once.
            let start = if ahead == 0 { self.head.tick } else { round + (u64::from(slot) << shift) };
            if found.is_none_or(|(_, first)| start <= first) {
                found = Some((level * SLOTS + slot, start));
            }
        }
        found
    }
}
