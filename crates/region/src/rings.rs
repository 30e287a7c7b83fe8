//! The fill and completion rings of a device's AF_XDP sockets, which the lanes of a region share: a lock for each device, and the mark of frames that
//! the kernel has.
//!
//! The kernel gives a frame of the fill ring to whichever lane's socket a packet is for, and says by one ring whose packets were sent. So such
//! frames are no lane's: they carry the device's mark, and who takes them out of a ring marks them as its own.
//!
//! Invariant: only the holder of a device's lock puts into its fill rings or takes from its completion rings.
//! Invariant: a frame is marked with a device before the kernel can have it, and as long as it can write to it. Between that and the moment
//! when the ring shows it, a note names the places in the ring: whoever comes after a death there takes those frames back.
//! Invariant: what a ring gives out and is not marked with the device was taken out before, by one who died: it is left to that lane's mark.

use core::mem::ManuallyDrop;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, compiler_fence};

use base::FrameIdx;

use crate::lock::{Lock, Unlocked};
use crate::pool::Mark;
use crate::{Frames, Owner};

/// Looks at a lock that another has before it is asked whether that one is dead.
const SPINS: u32 = 64;

/// The shared words of a device: alone in their cache line.
#[repr(C)]
pub(crate) struct RingsRow {
    lock: AtomicU64,
    note: AtomicU64,
    freed: AtomicU32,
    pad: [AtomicU32; 11],
}
const _: () = assert!(size_of::<RingsRow>() == base::CACHE_LINE);

/// Places of a ring whose frames are being handed to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Note {
    /// The queue of the ring.
    pub queue: u8,
    /// Index of the first place, counted as the ring counts.
    pub first: u32,
    /// Places, 1 to 255.
    pub count: u8,
}

impl Note {
    fn word(self) -> u64 {
        u64::from(self.count) << 40 | u64::from(self.queue) << 32 | u64::from(self.first)
    }

    fn of(word: u64) -> Option<Self> {
        let [a, b, c, d, queue, count, ..] = word.to_le_bytes();
        (count > 0).then_some(Self { queue, first: u32::from_le_bytes([a, b, c, d]), count })
    }
}

/// Where a [`Note`] is written. Cheap to copy.
#[derive(Clone, Copy)]
pub struct NoteRef(pub(crate) &'static AtomicU64);

impl NoteRef {
    /// What is written: somebody died.
    #[inline]
    #[must_use]
    pub fn read(&self) -> Option<Note> {
        Note::of(self.0.load(Ordering::Acquire))
    }

    /// Writes it, before any of the frames is marked.
    #[inline]
    pub fn write(&self, note: Note) {
        self.0.store(note.word(), Ordering::Release);
        compiler_fence(Ordering::SeqCst);
    }

    /// Done: the kernel has the frames, or nobody has.
    #[inline]
    pub fn clear(&self) {
        compiler_fence(Ordering::SeqCst);
        self.0.store(0, Ordering::Release);
    }
}

/// The rings of one device, not locked. Cheap to copy.
#[derive(Clone, Copy)]
pub struct SharedRings {
    row: &'static RingsRow,
}

/// The rings of one device, held.
pub struct RingsGuard {
    rings: SharedRings,
    held: u64,
}

impl SharedRings {
    pub(crate) fn new(words: &'static [AtomicU64]) -> Option<Self> {
        if words.len() * 8 < size_of::<RingsRow>() {
            return None;
        }
        // SAFETY: long enough, aligned to 8 as AtomicU64 is, and every bit pattern of atomics is a value.
        Some(Self { row: unsafe { &*words.as_ptr().cast::<RingsRow>() } })
    }

    fn lock(&self) -> Lock<'static, AtomicU64, AtomicU32> {
        Lock { word: &self.row.lock, freed: &self.row.freed }
    }

    /// Takes the rings, or asks whoever has them to serve them once more before it leaves, so that nothing that is to be done is left undone. From a holder of
    /// whom `is_gone` says so they are taken over; never say so of a live one. After that [`RingsGuard::note`] may have something.
    #[inline]
    pub fn enter(&self, owner: Owner, is_gone: impl FnOnce(Owner) -> bool) -> Option<RingsGuard> {
        let held = self.lock().take_or_ask(owner).or_else(|| self.inherit(owner, is_gone))?;
        Some(RingsGuard { rings: *self, held })
    }

    #[cold]
    #[inline(never)]
    fn inherit(&self, owner: Owner, is_gone: impl FnOnce(Owner) -> bool) -> Option<u64> {
        let lock = self.lock();
        let seen = lock.holding()?;
        for _ in 0..SPINS {
            core::hint::spin_loop();
            if lock.holding() != Some(seen) {
                return None;
            }
        }
        if is_gone(seen.owner) { lock.take_over(seen.owner, owner) } else { None }
    }
}

impl RingsGuard {
    /// What is being put into a fill ring.
    #[inline]
    #[must_use]
    pub fn note(&self) -> NoteRef {
        NoteRef(&self.rings.row.note)
    }

    /// Lets go. Gives the guard back when others asked for the rings to be served once more.
    #[inline]
    #[must_use]
    pub fn leave(self) -> Option<Self> {
        let mut this = ManuallyDrop::new(self);
        match this.rings.lock().unlock(this.held) {
            Unlocked::Free { .. } | Unlocked::Lost => None,
            Unlocked::Work(held) => {
                this.held = held;
                Some(ManuallyDrop::into_inner(this))
            }
        }
    }
}

impl Drop for RingsGuard {
    fn drop(&mut self) {
        self.rings.lock().abandon(self.held);
    }
}

impl Frames<'_> {
    /// Marks `frame`, this lane's alone, as the kernel's for `device`.
    #[inline]
    pub fn give_to_kernel(&mut self, frame: FrameIdx, device: u8) {
        self.mark(frame, Mark::of_device(device));
    }

    /// `frame` came out of a ring of `device`: it is this lane's from now on. False: it is not the kernel's, but belongs to another lane, which is dead, or the
    /// ring names it wrongly.
    #[inline]
    #[must_use]
    pub fn take_from_kernel(&mut self, frame: FrameIdx, device: u8) -> bool {
        let Some(link) = self.area.links.get(frame.0 as usize) else { return false };
        if !Mark::of_device(device).is_on(link) || self.meta(frame).is_none_or(|meta| meta.refs != 1) {
            return false;
        }
        self.area.mark.put(link);
        compiler_fence(Ordering::SeqCst);
        true
    }

    /// The thread that holds the lane whose frames these are.
    #[must_use]
    pub fn holder(&self) -> Option<Owner> {
        self.area.lane.and_then(|lane| lane.holder())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;

    const ME: Owner = Owner { pid: 1, tid: 1 };
    const OTHER: Owner = Owner { pid: 2, tid: 2 };

    fn rings() -> SharedRings {
        let words: std::vec::Vec<AtomicU64> = (0..8).map(|_| AtomicU64::new(0)).collect();
        SharedRings::new(words.leak()).expect("long enough")
    }

    #[test]
    fn who_comes_while_another_has_the_rings_has_them_served_again() {
        let rings = rings();
        let held = rings.enter(ME, |_| false).expect("free");
        assert!(
            rings
                .enter(OTHER, |owner| {
                    assert_eq!(owner, ME);
                    false
                })
                .is_none()
        );
        let held = held.leave().expect("asked for");
        assert!(held.leave().is_none());
        assert!(rings.enter(OTHER, |_| false).is_some_and(|held| held.leave().is_none()));
    }

    #[test]
    fn the_rings_of_one_who_died_are_taken_over_with_its_note() {
        let rings = rings();
        let held = rings.enter(ME, |_| false).expect("free");
        let note = Note { queue: 15, first: u32::MAX, count: 64 };
        held.note().write(note);
        core::mem::forget(held);
        let held = rings.enter(OTHER, |_| true).expect("taken over");
        assert_eq!(held.note().read(), Some(note));
        held.note().clear();
        assert_eq!(held.note().read(), None);
        // The death's request is served, and nobody else's.
        assert!(held.leave().expect("asked for").leave().is_none());
    }
}
