//! Where each section lies, and the header.

use super::{ADDRESSES, LINKS, NEIGHBOURS, ROUTES};
use std::sync::atomic::{AtomicU64, Ordering};

const MAGIC: u64 = u64::from_le_bytes(*b"CLTABLES");
const VERSION: u64 = 1;

// Header words.
const AT_MAGIC: usize = 0;
const AT_VERSION: usize = 1;
/// Sequence word: odd while the keeper writes.
pub(super) const SEQUENCE: usize = 2;
/// Counts changes.
pub(super) const GENERATION: usize = 3;
/// Bits of [`flags`].
pub(super) const FLAGS: usize = 4;
/// Counts changes of who listens where on this host, as far as wires lead there.
pub(super) const MEETINGS: usize = 5;
/// Counts the notices sent to programs of this keeper.
pub(super) const NOTICES: usize = 6;
/// Row counts, in the order of [`Section`].
const COUNTS: usize = 8;
const HEADER_WORDS: usize = 16;

/// Bits of the flags word.
pub(super) mod flags {
    /// Some section did not fit; bit 0 + section number.
    pub(in crate::tables) const OVERFLOW: u64 = 0xf;
    /// The namespace has routing rules beside the three every namespace starts with.
    pub(in crate::tables) const POLICY_RULES: u64 = 1 << 8;
    /// The same of IPv6.
    pub(in crate::tables) const POLICY_RULES_V6: u64 = 1 << 9;
}

/// One kind of row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Section {
    Links,
    Addresses,
    Routes,
    Neighbours,
}

impl Section {
    pub(super) const fn number(self) -> usize {
        match self {
            Self::Links => 0,
            Self::Addresses => 1,
            Self::Routes => 2,
            Self::Neighbours => 3,
        }
    }

    pub(super) const fn capacity(self) -> usize {
        match self {
            Self::Links => LINKS,
            Self::Addresses => ADDRESSES,
            Self::Routes => ROUTES,
            Self::Neighbours => NEIGHBOURS,
        }
    }

    /// Words of one row.
    pub(super) const fn stride(self) -> usize {
        match self {
            Self::Links | Self::Routes => 8,
            Self::Addresses | Self::Neighbours => 4,
        }
    }

    const fn start(self) -> usize {
        match self {
            Self::Links => HEADER_WORDS,
            Self::Addresses => Self::Links.end(),
            Self::Routes => Self::Addresses.end(),
            Self::Neighbours => Self::Routes.end(),
        }
    }

    const fn end(self) -> usize {
        self.start() + self.capacity() * self.stride()
    }

    /// The word with this section's row count.
    pub(super) const fn count_at(self) -> usize {
        COUNTS + self.number()
    }
}

/// Words of the whole layout.
pub(super) const TOTAL_WORDS: usize = Section::Neighbours.end();

/// Why words are not tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TablesError {
    /// The mapping is smaller than [`super::TABLES_BYTES`].
    TooSmall,
    /// The words were not formatted, or by another version of the keeper.
    WrongVersion,
}

/// A word of a mapping that may be read-only, where only relaxed loads are allowed; 0 beyond the end.
pub(super) fn load(words: &[AtomicU64], at: usize) -> u64 {
    words.get(at).map_or(0, |word| word.load(Ordering::Relaxed))
}

/// Stores a word; beyond the end does nothing.
pub(super) fn store(words: &[AtomicU64], at: usize, value: u64) {
    if let Some(word) = words.get(at) {
        word.store(value, Ordering::Relaxed);
    }
}

pub(super) fn check(words: &[AtomicU64]) -> Result<(), TablesError> {
    if words.len() < TOTAL_WORDS {
        return Err(TablesError::TooSmall);
    }
    if load(words, AT_MAGIC) != MAGIC || load(words, AT_VERSION) != VERSION {
        return Err(TablesError::WrongVersion);
    }
    Ok(())
}

pub(super) fn format(words: &[AtomicU64]) -> Result<(), TablesError> {
    if words.len() < TOTAL_WORDS {
        return Err(TablesError::TooSmall);
    }
    (0..HEADER_WORDS).for_each(|at| store(words, at, 0));
    store(words, AT_VERSION, VERSION);
    store(words, AT_MAGIC, MAGIC);
    Ok(())
}

/// All rows of `section`, used or not.
pub(super) fn all_rows(words: &[AtomicU64], section: Section) -> std::slice::ChunksExact<'_, AtomicU64> {
    words.get(section.start()..section.end()).unwrap_or(&[]).chunks_exact(section.stride())
}

/// The used rows of `section`. The count is bounded by the slice, whatever the word says.
pub(super) fn rows(
    words: &[AtomicU64],
    section: Section,
) -> std::iter::Take<std::slice::ChunksExact<'_, AtomicU64>> {
    let count = load(words, section.count_at()).min(section.capacity() as u64) as usize;
    all_rows(words, section).take(count)
}
