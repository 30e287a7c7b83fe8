//! Bounded rings of words between threads and processes.
//!
//! Invariant: a process may die between any two stores of a push or a pop; the ring then still works, and at most
//! the one value in that process's hands is lost.

use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use crate::Word;

/// The ring has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Set in a slot that holds a value; the other 63 bits are the value. Clear: the other bits say for which lap
/// around the ring the slot is free.
const FILLED: u64 = 1 << 63;

/// Largest value an [`Mpsc`] ring carries.
pub const MPSC_VALUE_MAX: u64 = FILLED - 1;

/// Ring of 63-bit values: many producers, one consumer at a time. All its words zero: empty.
///
/// A slot is one word, so that a value is either wholly there or not at all. Position `p` of the endless sequence lies in slot
/// `p % slots`, lap `p / slots`. `tail` is a hint that any producer moves on; the slots decide.
pub struct Mpsc<'a, W> {
    head: &'a W,
    tail: &'a W,
    slots: &'a [W],
}

impl<'a, W: Word<Value = u64>> Mpsc<'a, W> {
    /// The ring over these words; the number of slots is a power of two, else nothing goes in or out.
    #[must_use]
    pub fn new(head: &'a W, tail: &'a W, slots: &'a [W]) -> Self {
        let slots = if slots.len().is_power_of_two() { slots } else { &[] };
        Self { head, tail, slots }
    }

    fn slot(&self, position: u64) -> Option<&'a W> {
        self.slots.get(position as usize & self.slots.len().wrapping_sub(1))
    }

    /// What an empty slot for `position` holds.
    fn free_for(&self, position: u64) -> u64 {
        (position >> self.slots.len().trailing_zeros()) & MPSC_VALUE_MAX
    }

    /// Appends `value` and gives its position.
    ///
    /// # Errors
    /// [`Full`] when there is no room, or `value` is above [`MPSC_VALUE_MAX`].
    pub fn push(&self, value: u64) -> Result<u64, Full> {
        if value > MPSC_VALUE_MAX {
            return Err(Full);
        }
        let slots = self.slots.len() as u64;
        // Each failure means that another producer or the consumer made progress; a corrupted ring must still end.
        for _ in 0..slots.saturating_mul(4) {
            let tail = self.tail.load(Acquire);
            if tail.wrapping_sub(self.head.load(Acquire)) as i64 >= slots as i64 {
                return Err(Full);
            }
            let Some(slot) = self.slot(tail) else { return Err(Full) };
            let free = self.free_for(tail);
            let pushed = slot.compare_exchange(free, value | FILLED, Release, Relaxed).is_ok();
            // Whoever filled the slot, this position is used: help `tail` past it.
            let _ = self.tail.compare_exchange(tail, tail.wrapping_add(1), Release, Relaxed);
            if pushed {
                return Ok(tail);
            }
        }
        Err(Full)
    }

    /// Takes the oldest value. Only the one consumer may call this.
    pub fn pop(&self) -> Option<u64> {
        let (head, slot, found) = self.pass_taken()?;
        if found & FILLED == 0 {
            return None;
        }
        slot.store(self.free_for(head).wrapping_add(1) & MPSC_VALUE_MAX, Release);
        self.head.store(head.wrapping_add(1), Release);
        Some(found & MPSC_VALUE_MAX)
    }

    /// Moves `head` past slots that were withdrawn, or taken by a consumer that died before it moved `head`. Gives the position it
    /// ends at, the slot there and what is in that.
    fn pass_taken(&self) -> Option<(u64, &'a W, u64)> {
        let mut head = self.head.load(Relaxed);
        for _ in 0..=self.slots.len() {
            let slot = self.slot(head)?;
            let found = slot.load(Acquire);
            if found != self.free_for(head).wrapping_add(1) & MPSC_VALUE_MAX {
                return Some((head, slot, found));
            }
            head = head.wrapping_add(1);
            self.head.store(head, Release);
        }
        None
    }

    /// Is the value pushed at `position` still in the ring?
    #[must_use]
    pub fn holds(&self, position: u64) -> bool {
        let ahead = position.wrapping_sub(self.head.load(Acquire));
        ahead < self.slots.len() as u64 && self.slot(position).is_some_and(|s| s.load(Acquire) & FILLED != 0)
    }

    /// Takes the value at `position` back out, if it is still there. Only the one consumer may call this.
    pub fn withdraw(&self, position: u64) -> bool {
        let holds = self.holds(position);
        if holds && let Some(slot) = self.slot(position) {
            slot.store(self.free_for(position).wrapping_add(1) & MPSC_VALUE_MAX, Release);
            // Who only ever withdraws must not fill the ring with slots that nobody passes.
            self.pass_taken();
        }
        holds
    }
}

/// Ring of 64-bit values: one producer and one consumer at a time. All its words zero: empty.
pub struct Spsc<'a, W> {
    head: &'a W,
    tail: &'a W,
    slots: &'a [W],
}

impl<'a, W: Word<Value = u64>> Spsc<'a, W> {
    /// The ring over these words; the number of slots is a power of two, else nothing goes in or out.
    #[must_use]
    pub fn new(head: &'a W, tail: &'a W, slots: &'a [W]) -> Self {
        let slots = if slots.len().is_power_of_two() { slots } else { &[] };
        Self { head, tail, slots }
    }

    fn slot(&self, position: u64) -> Option<&'a W> {
        self.slots.get(position as usize & self.slots.len().wrapping_sub(1))
    }

    /// Values in the ring (0 when the words are corrupted).
    #[must_use]
    pub fn len(&self) -> usize {
        let waiting = self.tail.load(Acquire).wrapping_sub(self.head.load(Acquire));
        if waiting > self.slots.len() as u64 { 0 } else { waiting as usize }
    }

    /// Is nothing in the ring?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends `value`. Only the one producer may call this.
    ///
    /// # Errors
    /// [`Full`] when there is no room.
    pub fn push(&self, value: u64) -> Result<(), Full> {
        let tail = self.tail.load(Relaxed);
        if tail.wrapping_sub(self.head.load(Acquire)) >= self.slots.len() as u64 {
            return Err(Full);
        }
        self.slot(tail).ok_or(Full)?.store(value, Relaxed);
        self.tail.store(tail.wrapping_add(1), Release);
        Ok(())
    }

    /// Takes the oldest value. Only the one consumer may call this.
    pub fn pop(&self) -> Option<u64> {
        let head = self.head.load(Relaxed);
        let waiting = self.tail.load(Acquire).wrapping_sub(head);
        if waiting == 0 || waiting > self.slots.len() as u64 {
            return None;
        }
        let value = self.slot(head)?.load(Relaxed);
        self.head.store(head.wrapping_add(1), Release);
        Some(value)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use core::sync::atomic::AtomicU64;

    use super::Mpsc;

    #[test]
    fn what_is_withdrawn_takes_no_room() {
        let words: [AtomicU64; 6] = Default::default();
        let ring = Mpsc::new(&words[0], &words[1], &words[2..]);
        for value in 0..20 {
            let position = ring.push(value).expect("an empty ring has room");
            assert!(ring.withdraw(position));
        }
        assert_eq!(ring.pop(), None);
    }

    #[test]
    fn what_is_withdrawn_between_others_is_passed_when_they_are_taken() {
        let words: [AtomicU64; 6] = Default::default();
        let ring = Mpsc::new(&words[0], &words[1], &words[2..]);
        for _ in 0..20 {
            let positions = [1, 2, 3, 4].map(|value| ring.push(value).expect("there is room for four"));
            assert!(ring.push(5).is_err());
            assert!(ring.withdraw(positions[1]) && ring.withdraw(positions[3]));
            assert_eq!((ring.pop(), ring.pop(), ring.pop()), (Some(1), Some(3), None));
        }
    }
}
