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
    span: *mut u64,
    /// Bytes of the span.
    len: u64,
    /// Up to here it was handed out, bytes; a multiple of 8.
    taken: u64,
    kind: PhantomData<&'a mut [u64]>,
}

impl<'a> Carver<'a> {
    /// Carves `span`, which begins on a cache line.
    #[inline]
    pub fn new(span: &'a mut [u64]) -> Self {
        Self { span: span.as_mut_ptr(), len: span.len() as u64 * 8, taken: 0, kind: PhantomData }
    }

    /// The table at `at`. This runs some two dozen times whenever a lane is entered.
    ///
    /// # Errors
    /// [`CarveError`] when `at` overlaps an earlier table or leaves the span.
    #[inline(always)]
    pub fn table<T: Plain>(&mut self, at: TableAt<T>) -> Result<Table<'a, T>, CarveError> {
        const { assert!(align_of::<T>() <= 8 && size_of::<T>().is_multiple_of(4)) };
        const { assert!(size_of::<usize>() == 8 && size_of::<T>() < 1 << 31) };
        let start = at.offset & !7;
        if start < self.taken {
            return Err(CarveError::Overlap);
        }
        // No overflow of the product: 31 and 32 bits.
        let bytes = (size_of::<T>() as u64 * u64::from(at.rows)).next_multiple_of(8);
        let end = start.saturating_add(bytes);
        if end > self.len {
            return Err(CarveError::Outside);
        }
        self.taken = end;
        let first = self.span.wrapping_byte_add(start as usize).cast::<T>();
        // SAFETY: bytes `start` to `end` lie in the span, of which this carver has the only use for `'a`; nothing before `taken` is
        // handed out again. `first` is aligned to 8, and every bit pattern is a `T` because `T: Plain`.
        let rows = unsafe { core::slice::from_raw_parts_mut(first, at.rows as usize) };
        Ok(Table::new(rows))
    }

    /// The only row of a table of one.
    ///
    /// # Errors
    /// As [`Carver::table`]; [`CarveError::Outside`] too when the table is empty.
    #[inline(always)]
    pub fn one<T: Plain>(&mut self, at: TableAt<T>) -> Result<&'a mut T, CarveError> {
        let table = self.table(at)?;
        table.into_first().ok_or(CarveError::Outside)
    }
}
