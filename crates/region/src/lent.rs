//! Frames that one lane of a region lends to another one, which reads them where they are.
//!
//! The borrower takes a frame of its own as a stand-in: its record says which bytes it is about, and its cell says whose bytes
//! these are and where the frame is to be reported when the stand-in is released. So a stand-in can be queued, cut and released
//! as any frame; only its bytes are elsewhere, and cannot be written.
//!
//! What both ends share lies in cells of the region itself ([`Shelf`]): a ring of words one way, and a ring of places that came
//! back.
//!
//! Invariant: a frame is lent once at a time, and has an owner more for as long; meanwhile it carries no lane's mark, so
//! that no reset of the lender's lane gives it to somebody else under the eyes of the borrower. When the lender dies, what was lent
//! (no more than [`LENT_MAX`] frames a wire) is lost rather than given out too early.
//! Invariant: bytes that are lent are not written; others of the same cell may be ([`Frames::room_mut`]).

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};

use base::FrameIdx;
use base::limits::FRAME_BYTES;

use crate::frames::FrameLane;
use crate::pool::Mark;
use crate::{FrameArea, Frames};

/// Frames that a wire has lent at one time: the slots of its rings.
pub const LENT_MAX: usize = 256;
/// Set in [`crate::FrameMeta::flags`] of a stand-in.
pub(crate) const STAND_IN: u16 = 1 << 11;

const WORDS: usize = FRAME_BYTES / 8;
// Words of a shelf's cell; each of the first three is alone in its cache line.
const AT_TAIL: usize = 0;
const AT_HEAD: usize = 8;
const AT_CLOSED: usize = 16;
const AT_SLOTS: usize = WORDS - LENT_MAX;
const _: () = assert!(LENT_MAX.is_power_of_two() && AT_SLOTS > AT_CLOSED);

/// A ring of words in one cell of the region: one producer, one consumer, each of which counts for itself how far it is.
#[derive(Clone, Copy)]
pub struct Shelf {
    words: &'static [AtomicU64],
}

impl Shelf {
    /// The shelf in `cell`, whichever mapping `area` is of. `None`: there is no such cell.
    #[must_use]
    pub fn at(area: &FrameArea, cell: FrameIdx) -> Option<Self> {
        let from = (cell.0 as usize).checked_mul(WORDS)?;
        Some(Self { words: area.cells().get(from..from + WORDS)? })
    }

    fn word(&self, at: usize) -> &'static AtomicU64 {
        static NOWHERE: AtomicU64 = AtomicU64::new(0);
        self.words.get(at).unwrap_or(&NOWHERE) // never: a shelf has a whole cell
    }

    /// Puts `value` at `position`, for the consumer to see once it is shown.
    #[inline]
    pub fn put(&self, position: u64, value: u64) {
        self.word(AT_SLOTS + position as usize % LENT_MAX).store(value, Relaxed);
    }

    /// Shows the consumer everything before `tail`.
    #[inline]
    pub fn show(&self, tail: u64) {
        self.word(AT_TAIL).store(tail, Release);
    }

    /// Appends `value` and shows it: for a shelf of places, which has a slot for everything that may be lent.
    #[inline]
    pub fn push(&self, value: u64) {
        let tail = self.word(AT_TAIL).load(Relaxed);
        self.put(tail, value);
        self.show(tail.wrapping_add(1));
    }

    /// Everything before this was shown.
    #[inline]
    #[must_use]
    pub fn shown(&self) -> u64 {
        self.word(AT_TAIL).load(Acquire)
    }

    /// The value at `position`, which was shown.
    #[inline]
    #[must_use]
    pub fn get(&self, position: u64) -> u64 {
        self.word(AT_SLOTS + position as usize % LENT_MAX).load(Relaxed)
    }

    /// Tells the producer that everything before `head` was taken.
    #[inline]
    pub fn taken(&self, head: u64) {
        self.word(AT_HEAD).store(head, Release);
    }

    /// How far the consumer is.
    #[inline]
    #[must_use]
    pub fn consumed(&self) -> u64 {
        self.word(AT_HEAD).load(Acquire)
    }

    /// One end is gone.
    pub fn close(&self) {
        self.word(AT_CLOSED).store(1, Release);
    }

    /// Is one end gone?
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.word(AT_CLOSED).load(Acquire) != 0
    }
}

impl FrameArea {
    /// Takes `N` frames out of the pool for good, as shelves that are empty. `None`: there are not that many.
    #[must_use]
    pub fn take_shelves<const N: usize>(&self) -> Option<[FrameIdx; N]> {
        let mut stock = FrameLane { head: FrameIdx::NONE, free: 0, high: 0, failed: 0 };
        let mut frames = self.frames(&mut stock);
        let mut cells = [FrameIdx::NONE; N];
        let mut whole = true;
        for cell in &mut cells {
            match frames.alloc() {
                Some(frame) => {
                    frames.cell_mut(frame).fill(0);
                    *cell = frame;
                }
                None => whole = false,
            }
        }
        if !whole {
            cells.into_iter().for_each(|cell| frames.release(cell));
        }
        frames.empty_stock();
        whole.then_some(cells)
    }
}

impl Frames<'_> {
    /// Lends `frame` out: it has an owner more until [`Frames::take_back`]. False: it is lent already, or not this lane's.
    #[inline]
    pub fn lend(&mut self, frame: FrameIdx) -> bool {
        let Some(link) = self.area.links.get(frame.0 as usize) else { return false };
        if self.area.mark == Mark::NONE || !self.area.mark.is_on(link) {
            return false;
        }
        Mark::NONE.put(link);
        self.retain(frame);
        true
    }

    /// `frame`, which this lane lent, has come back.
    #[inline]
    pub fn take_back(&mut self, frame: FrameIdx) {
        if let Some(link) = self.area.links.get(frame.0 as usize) {
            self.area.mark.put(link);
        }
        self.release(frame);
    }

    /// A stand-in for `len` bytes at `offset` of `origin`, which another lane lends. When it is released, `place` is put onto the shelf
    /// in cell `shelf`. `None`: there is no such span, or no frame is free.
    #[inline]
    pub fn borrow(
        &mut self,
        origin: FrameIdx,
        (offset, len): (u16, u16),
        shelf: FrameIdx,
        place: u32,
    ) -> Option<FrameIdx> {
        if origin.0 >= self.area.count() || usize::from(offset) + usize::from(len) > FRAME_BYTES {
            return None;
        }
        let frame = self.alloc()?;
        let note = u64::from(origin.0) | u64::from(shelf.0) << 32;
        let [first, second] = [note, u64::from(place)].map(u64::to_le_bytes);
        let cell = self.cell_mut(frame).split_first_chunk_mut::<8>();
        if let Some((to, rest)) = cell
            && let Some(next) = rest.first_chunk_mut::<8>()
        {
            (*to, *next) = (first, second);
        }
        let meta = self.meta_mut(frame)?;
        (meta.offset, meta.len, meta.flags) = (offset, len, STAND_IN);
        Some(frame)
    }

    /// Bytes of the frame for which `frame` stands in.
    #[inline(never)]
    pub(crate) fn lent_data(&self, frame: FrameIdx, from: usize, len: usize) -> &[u8] {
        self.cell(self.origin_of(frame)).get(from..from + len).unwrap_or(&[])
    }

    /// The cell whose bytes the stand-in `frame` is about.
    #[inline]
    pub(crate) fn origin_of(&self, frame: FrameIdx) -> FrameIdx {
        self.note_of(frame).map_or(FrameIdx::NONE, |(origin, _, _)| origin)
    }

    /// Reports the stand-in `frame`, which is about to be freed.
    #[inline(never)]
    pub(crate) fn report(&mut self, frame: FrameIdx) {
        let Some((_, shelf, place)) = self.note_of(frame) else { return };
        let Some(shelf) = Shelf::at(self.area, shelf) else { return };
        shelf.push(u64::from(place));
    }

    /// Origin, shelf and place that the cell of a stand-in names.
    #[inline]
    fn note_of(&self, frame: FrameIdx) -> Option<(FrameIdx, FrameIdx, u32)> {
        let (note, rest) = self.cell(frame).split_first_chunk::<8>()?;
        let (note, place) = (u64::from_le_bytes(*note), u64::from_le_bytes(*rest.first_chunk::<8>()?));
        Some((FrameIdx(note as u32), FrameIdx((note >> 32) as u32), place as u32))
    }
}
