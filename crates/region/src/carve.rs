//! Laying typed tables out in a span of the region, and handing them out again without overlap.

use core::marker::PhantomData;
use core::mem::{align_of, size_of};

use base::CACHE_LINE;

use crate::{Plain, Table};

/// Where a table of `T` lies in its span: byte offset and number of rows. Stored in the region.
#[repr(C)]
pub struct TableAt<T> {
    offset: u64,
    rows: u32,
    spare: u32,
    kind: PhantomData<fn() -> T>,
}

impl<T> Clone for TableAt<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for TableAt<T> {}
// SAFETY: two integers and padding made explicit; every bit pattern is a value and is checked on use.
unsafe impl<T: 'static> Plain for TableAt<T> {}

impl<T> TableAt<T> {
    /// Number of rows.
    #[must_use]
    pub const fn rows(&self) -> u32 {
        self.rows
    }
}

/// Gives each table of a span its place, one after the other, on cache-line bounds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Layout {
    next: u64,
}

impl Layout {
    /// An empty layout.
    #[must_use]
    pub const fn new() -> Self {
        Self { next: 0 }
    }

    /// Place for `rows` rows of `T`.
    pub const fn table<T>(&mut self, rows: u32) -> TableAt<T> {
        let line = CACHE_LINE as u64;
        let offset = self.next.next_multiple_of(line);
        self.next = offset + (size_of::<T>() as u64) * (rows as u64);
        TableAt { offset, rows, spare: 0, kind: PhantomData }
    }

    /// Bytes used so far, rounded up to a cache line.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.next.next_multiple_of(CACHE_LINE as u64)
    }
}

/// Why a table could not be handed out: the region's own description of itself is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CarveError {
    /// The table begins before the end of the one handed out before it.
    Overlap,
    /// The table ends outside the span.
    Outside,
}

/// Hands out the tables of one exclusively held span in the order in which they lie. Each call takes a later
/// part of the span, so no two tables can overlap whatever offsets a corrupted region holds.
pub struct Carver<'a> {
    rest: &'a mut [u64],
    taken_words: u64,
}

impl<'a> Carver<'a> {
    /// Carves `span`, which begins on a cache line.
    pub fn new(span: &'a mut [u64]) -> Self {
        Self { rest: span, taken_words: 0 }
    }

    /// The table at `at`.
    ///
    /// # Errors
    /// [`CarveError`] when `at` overlaps an earlier table or leaves the span.
    #[inline]
    pub fn table<T: Plain>(&mut self, at: TableAt<T>) -> Result<Table<'a, T>, CarveError> {
        const { assert!(align_of::<T>() <= 8 && size_of::<T>().is_multiple_of(4)) };
        const { assert!(size_of::<usize>() == 8 && size_of::<T>() < 1 << 31) };
        let start = at.offset / 8;
        let words = (size_of::<T>() as u64 * u64::from(at.rows)).div_ceil(8); // no overflow: 31 and 32 bits
        let skip = start.checked_sub(self.taken_words).ok_or(CarveError::Overlap)?;
        let rest = core::mem::take(&mut self.rest);
        let Some((_, rest)) = rest.split_at_mut_checked(skip as usize) else {
            return Err(CarveError::Outside);
        };
        let Some((first, rest)) = rest.split_at_mut_checked(words as usize) else {
            return Err(CarveError::Outside);
        };
        self.rest = rest;
        self.taken_words = start + words;
        // SAFETY: `first` is an exclusive span of at least `rows * size_of::<T>()` bytes, aligned to 8, and
        // every bit pattern is a `T` because `T: Plain`.
        let rows =
            unsafe { core::slice::from_raw_parts_mut(first.as_mut_ptr().cast::<T>(), at.rows as usize) };
        Ok(Table::new(rows))
    }

    /// The only row of a table of one.
    ///
    /// # Errors
    /// As [`Carver::table`]; [`CarveError::Outside`] too when the table is empty.
    #[inline]
    pub fn one<T: Plain>(&mut self, at: TableAt<T>) -> Result<&'a mut T, CarveError> {
        let table = self.table(at)?;
        table.into_first().ok_or(CarveError::Outside)
    }
}
