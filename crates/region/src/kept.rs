//! What a holder carved out of a lane's span, kept for its next holding of the lock: to find two dozen tables anew takes longer than
//! many a call that a program makes.
//!
//! Invariant: what is kept is bits while nobody holds the lane, and is borrowed only from who holds it, for no longer. It leads to the
//! span of that very lane in this process's mapping, checked when it was carved; a region that was formatted since is carved anew. So a
//! head that is corrupted later changes nothing here.

use core::borrow::Borrow;
use core::mem::{MaybeUninit, needs_drop};
use core::sync::atomic::Ordering;

use crate::{CarveError, Carver, FrameArea, LaneGuard, LaneRef};

/// What is carved out of a span.
pub trait Carved {
    /// It, for as long as the lane is held.
    type Of<'a>;

    /// Carves it.
    ///
    /// # Errors
    /// [`CarveError`] when the span describes no proper layout.
    fn carve<'a>(carver: Carver<'a>, area: &'a FrameArea) -> Result<Self::Of<'a>, CarveError>;
}

/// From what something was carved.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Origin {
    /// Address of the lane's signals, which names the lane and its mapping.
    lane: usize,
    /// Address of the frame area.
    area: usize,
    /// How often the lane had been formatted.
    formats: u32,
}

/// A place for what one lane's holder carved.
///
/// What the borrow checker does not see: nobody swaps the contents of what [`Kept::open`] gives with those of another lane.
pub struct Kept<T: Carved> {
    /// None: nothing is there.
    origin: Option<Origin>,
    of: MaybeUninit<T::Of<'static>>,
}

impl<T: Carved> Default for Kept<T> {
    fn default() -> Self {
        const { assert!(!needs_drop::<T::Of<'static>>()) };
        Self { origin: None, of: MaybeUninit::uninit() }
    }
}

impl<T: Carved> Kept<T> {
    /// What was carved of the lane that `guard` holds, or is now. `area` is the region's frame area.
    ///
    /// # Errors
    /// [`CarveError`] when the span describes no proper layout.
    #[inline]
    pub fn open<'g, L: Borrow<LaneRef>>(
        &'g mut self,
        guard: &'g mut LaneGuard<L>,
        area: &'g FrameArea,
    ) -> Result<&'g mut T::Of<'g>, CarveError> {
        let signals = guard.signals();
        let origin = Origin {
            lane: core::ptr::from_ref(signals).addr(),
            area: core::ptr::from_ref(area).addr(),
            // Under the lane's lock, as those who format it.
            formats: signals.formats.load(Ordering::Relaxed),
        };
        let place = self.of.as_mut_ptr().cast::<T::Of<'g>>();
        if self.origin != Some(origin) {
            self.origin = None;
            let fresh = T::carve(guard.carver(), area)?;
            // SAFETY: the place is for a value of this type, whose lifetime has no part in its layout.
            unsafe { place.write(fresh) };
            self.origin = Some(origin);
        }
        // SAFETY: there is a value, as `origin` says, and it was carved from the same span and the same area. What it borrows of them is
        // mapped, and for `'g` nobody else's: the span is the guard's, which is borrowed for so long, and so is the area.
        Ok(unsafe { &mut *place })
    }
}
