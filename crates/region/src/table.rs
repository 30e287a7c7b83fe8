//! A typed table: the safe way to turn an index from the region into a reference.

use base::Idx;

/// All rows of one kind. Rows are reached by [`Idx`]; an index outside the table gives `None`, never a panic.
pub struct Table<'a, T> {
    rows: &'a mut [T],
}

impl<'a, T> Table<'a, T> {
    /// A table over `rows`.
    pub fn new(rows: &'a mut [T]) -> Self {
        Self { rows }
    }

    /// Number of rows.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.rows.len() as u32
    }

    /// Has the table no rows?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The row at `at`.
    #[inline]
    #[must_use]
    pub fn get(&self, at: Idx<T>) -> Option<&T> {
        self.rows.get(at.as_usize())
    }

    /// The row at `at`, to change it.
    #[inline]
    #[must_use]
    pub fn get_mut(&mut self, at: Idx<T>) -> Option<&mut T> {
        self.rows.get_mut(at.as_usize())
    }

    /// Starts to load the first cache line of the row at `at` into the cache.
    #[inline]
    pub fn prefetch(&self, at: Idx<T>) {
        #[cfg(target_arch = "x86_64")]
        if let Some(row) = self.get(at) {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a prefetch changes nothing, and the row can be read.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(core::ptr::from_ref(row).cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = at;
    }

    /// Starts to load `lines` cache lines of the row at `at`, from line `first` on, into the cache. Lines behind the row's end
    /// are left out.
    #[inline]
    pub fn prefetch_lines(&self, at: Idx<T>, first: usize, lines: usize) {
        #[cfg(target_arch = "x86_64")]
        if let Some(row) = self.get(at) {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let start: *const i8 = core::ptr::from_ref(row).cast();
            let end = size_of::<T>().div_ceil(base::CACHE_LINE);
            for line in first..end.min(first.saturating_add(lines)) {
                // SAFETY: a prefetch changes nothing and cannot fault, wherever it points.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(line * base::CACHE_LINE)) };
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (at, first, lines);
    }

    /// Two different rows at once; `None` if they are the same row or outside.
    #[must_use]
    pub fn pair_mut(&mut self, a: Idx<T>, b: Idx<T>) -> Option<(&mut T, &mut T)> {
        self.rows.get_disjoint_mut([a.as_usize(), b.as_usize()]).ok().map(|[x, y]| (x, y))
    }

    /// All rows in order.
    #[must_use]
    pub fn rows(&self) -> &[T] {
        self.rows
    }

    /// All rows in order, to change them.
    #[must_use]
    pub fn rows_mut(&mut self) -> &mut [T] {
        self.rows
    }

    /// The first row, giving the table up.
    #[must_use]
    pub fn into_first(self) -> Option<&'a mut T> {
        self.rows.first_mut()
    }

    /// All rows, giving the table up.
    #[must_use]
    pub fn into_rows(self) -> &'a mut [T] {
        self.rows
    }

    /// The same table for a shorter time.
    #[must_use]
    pub fn reborrow(&mut self) -> Table<'_, T> {
        Table { rows: self.rows }
    }
}
