//! The flow table: finds a row number by a 32-bit keyed hash, in one cache line as a rule.
//!
//! The table does not know keys: a bucket holds 16 bits of each entry's hash, and the caller compares the row itself.
//! It is made for its full capacity: 6 entries a bucket of 10 on average, and enough overflow buckets for the
//! worst distribution, so `insert` fails only at capacity and nothing is ever rehashed.
//!
//! Invariant: in the chain of a bucket every slot before the last entry is in use; so `n` entries need at most `n / 10`
//! overflow buckets, whatever their hashes.

use base::Idx;

use crate::{Table, plain};

/// Entries of a bucket.
const SLOTS: u32 = 10;
/// Entries a bucket gets on average when the table is full.
const LOAD: u32 = 6;
/// Largest capacity of a table.
pub const FLOW_CAPACITY_MAX: u32 = 1 << 30;

plain! {
    /// One cache line of the flow table. All zero: empty.
    #[derive(Debug, Default)]
    pub struct FlowBucket {
        /// Tags of entries 0 to 7, 16 bits each, the first lowest; 0: no entry.
        tags: [u64; 2],
        /// Tags of entries 8 and 9.
        last_tags: u32,
        /// Row of the next bucket of the chain, plus 1; 0: none.
        next: u32,
        /// What was inserted.
        values: [u32; SLOTS as usize],
    }
}
const _: () = assert!(size_of::<FlowBucket>() == base::CACHE_LINE);

plain! {
    /// What a flow table has one of.
    #[derive(Debug, Default)]
    pub struct FlowHead {
        /// Buckets that hashes lead to; the rows behind them are overflow buckets.
        buckets: u32,
        /// Most entries.
        capacity: u32,
        /// Entries.
        len: u32,
        /// First free overflow bucket that was used before, plus 1; 0: none.
        free: u32,
        /// Overflow buckets ever used.
        fresh: u32,
        /// Room.
        spare: u32,
    }
}

impl FlowHead {
    /// The head of an empty table for `capacity` entries (at most [`FLOW_CAPACITY_MAX`]), whose rows are zero.
    #[must_use]
    pub const fn for_capacity(capacity: u32) -> Self {
        let capacity = limited(capacity);
        Self { buckets: buckets_for(capacity), capacity, len: 0, free: 0, fresh: 0, spare: 0 }
    }
}

impl FlowHead {
    /// Rows that hashes lead to, from the first on. The rest need not be zero.
    #[must_use]
    pub const fn buckets(&self) -> u32 {
        self.buckets
    }
}

const fn limited(capacity: u32) -> u32 {
    if capacity > FLOW_CAPACITY_MAX { FLOW_CAPACITY_MAX } else { capacity }
}

const fn buckets_for(capacity: u32) -> u32 {
    capacity / LOAD + 1
}

/// The table holds as many entries as it was made for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowFull;

/// A flow table in the hands of the lane's holder.
pub struct FlowTable<'a> {
    head: &'a mut FlowHead,
    rows: Table<'a, FlowBucket>,
}

const LOW_BITS: u64 = 0x7fff_7fff_7fff_7fff;

/// Bit 15 of each 16-bit lane of `tags` that is `tag`.
const fn lanes(tags: u64, tag: u16) -> u64 {
    let differs = tags ^ (tag as u64).wrapping_mul(0x0001_0001_0001_0001);
    // Exact in each lane: no carry leaves a lane whose top bit is masked off.
    !(((differs & LOW_BITS) + LOW_BITS) | differs | LOW_BITS)
}

impl FlowBucket {
    /// One bit for each entry whose tag is `tag`: entry `e` at bit `(e % 4) * 16 + 15 - e / 4`.
    #[inline]
    fn matches(&self, tag: u16) -> u64 {
        let [a, b] = self.tags;
        if b == 0 {
            // Nothing lies behind the first four, as a rule.
            return lanes(a, tag);
        }
        lanes(a, tag) | lanes(b, tag) >> 1 | (lanes(u64::from(self.last_tags), tag) & 0x8000_8000) >> 2
    }

    /// The entry of the lowest bit of `matches`, which is not 0.
    #[inline]
    const fn entry(matches: u64) -> u32 {
        let bit = matches.trailing_zeros();
        (15 - bit % 16) * 4 + bit / 16
    }

    fn put(&mut self, entry: u32, tag: u16, value: u32) {
        let shift = entry % 4 * 16;
        let mask = u64::from(u16::MAX) << shift;
        let bits = u64::from(tag) << shift;
        match entry / 4 {
            0 => self.tags[0] = self.tags[0] & !mask | bits,
            1 => self.tags[1] = self.tags[1] & !mask | bits,
            _ => self.last_tags = (u64::from(self.last_tags) & !mask | bits) as u32,
        }
        if let Some(slot) = self.values.get_mut(entry as usize) {
            *slot = value;
        }
    }

    fn tag(&self, entry: u32) -> u16 {
        let word = match entry / 4 {
            0 => self.tags[0],
            1 => self.tags[1],
            _ => u64::from(self.last_tags),
        };
        (word >> (entry % 4 * 16)) as u16
    }

    /// The last entry in use.
    #[inline]
    fn last(&self) -> Option<u32> {
        let [a, b] = self.tags;
        let (first, tags) = match (a, b, self.last_tags) {
            (0, 0, 0) => return None,
            (_, 0, 0) => (0, a),
            (_, _, 0) => (4, b),
            (_, _, tags) => (8, u64::from(tags)),
        };
        Some(first + tags.ilog2() / 16)
    }

    fn value(&self, entry: u32) -> u32 {
        self.values.get(entry as usize).copied().unwrap_or(u32::MAX)
    }
}

/// Where an entry is.
#[derive(Clone, Copy)]
struct Place {
    row: u32,
    entry: u32,
}

impl<'a> FlowTable<'a> {
    /// The table over its head and its rows.
    #[must_use]
    pub fn new(head: &'a mut FlowHead, rows: Table<'a, FlowBucket>) -> Self {
        Self { head, rows }
    }

    /// Rows of the bucket table for `capacity` entries.
    #[must_use]
    pub const fn rows_for(capacity: u32) -> u32 {
        let capacity = limited(capacity);
        buckets_for(capacity) + capacity / SLOTS + 1
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.head.len
    }

    /// Is there no entry?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.head.len == 0
    }

    /// Number of entries it has room for.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.head.capacity
    }

    #[inline]
    fn bucket_of(&self, hash: u32) -> u32 {
        ((u64::from(hash) * u64::from(self.head.buckets)) >> 32) as u32
    }

    /// The tag of `hash`: its low bits, because the high ones have chosen the bucket.
    #[inline]
    const fn tag_of(hash: u32) -> u16 {
        let tag = hash as u16;
        if tag == 0 { 1 } else { tag }
    }

    /// Starts to load the bucket of `hash` into the cache.
    #[inline]
    pub fn prefetch(&self, hash: u32) {
        self.rows.prefetch(Idx::new(self.bucket_of(hash)));
    }

    /// The first value in the bucket of `hash` that was inserted with a hash like it: most likely the one that
    /// [`FlowTable::find`] will give. For prefetching only: no key was compared.
    #[inline]
    #[must_use]
    pub fn candidate(&self, hash: u32) -> Option<u32> {
        let bucket = self.rows.get(Idx::new(self.bucket_of(hash)))?;
        let matches = bucket.matches(Self::tag_of(hash));
        (matches != 0).then(|| bucket.value(FlowBucket::entry(matches)))
    }

    /// Puts `value` in the place of the value inserted with `hash` for which `is_it` says so. False: there is none.
    pub fn replace(&mut self, hash: u32, is_it: impl FnMut(u32) -> bool, value: u32) -> bool {
        let Some((place, _)) = self.place(hash, is_it) else { return false };
        let slot =
            self.rows.get_mut(Idx::new(place.row)).and_then(|b| b.values.get_mut(place.entry as usize));
        slot.map(|slot| *slot = value).is_some()
    }

    /// The value inserted with `hash` for which `is_it` says so.
    #[inline]
    pub fn find(&self, hash: u32, is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.place(hash, is_it).map(|(_, value)| value)
    }

    #[inline]
    fn place(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<(Place, u32)> {
        let tag = Self::tag_of(hash);
        let mut row = self.bucket_of(hash);
        for _ in 0..self.rows.len() {
            let bucket = self.rows.get(Idx::new(row))?;
            let mut matches = bucket.matches(tag);
            while matches != 0 {
                let entry = FlowBucket::entry(matches);
                let value = bucket.value(entry);
                if is_it(value) {
                    return Some((Place { row, entry }, value));
                }
                matches &= matches - 1;
            }
            row = bucket.next.checked_sub(1)?;
        }
        None
    }

    /// Adds `value` under `hash`. The caller has made sure that its key is not there yet.
    ///
    /// # Errors
    /// [`FlowFull`] at capacity.
    pub fn insert(&mut self, hash: u32, value: u32) -> Result<(), FlowFull> {
        if self.head.len >= self.head.capacity {
            return Err(FlowFull);
        }
        let tag = Self::tag_of(hash);
        let mut row = self.bucket_of(hash);
        for _ in 0..self.rows.len() {
            let bucket = self.rows.get_mut(Idx::new(row)).ok_or(FlowFull)?;
            let entry = bucket.last().map_or(0, |e| e + 1);
            if entry < SLOTS {
                bucket.put(entry, tag, value);
                self.head.len += 1;
                return Ok(());
            }
            row = match bucket.next.checked_sub(1) {
                Some(next) => next,
                None => self.extend(row)?,
            };
        }
        Err(FlowFull)
    }

    /// Puts an overflow bucket behind `row`, the last of its chain.
    fn extend(&mut self, row: u32) -> Result<u32, FlowFull> {
        let added = match self.head.free.checked_sub(1) {
            Some(free) => {
                self.head.free = self.rows.get(Idx::new(free)).map_or(0, |b| b.next);
                free
            }
            None => {
                let fresh = self.head.buckets.saturating_add(self.head.fresh);
                self.head.fresh = self.head.fresh.saturating_add(1);
                fresh
            }
        };
        *self.rows.get_mut(Idx::new(added)).ok_or(FlowFull)? = FlowBucket::default();
        self.rows.get_mut(Idx::new(row)).ok_or(FlowFull)?.next = added + 1;
        Ok(added)
    }

    /// Removes the value inserted with `hash` for which `is_it` says so.
    pub fn remove(&mut self, hash: u32, is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let (hole, value) = self.place(hash, is_it)?;
        let (before, last_row) = self.end_of_chain(self.bucket_of(hash));
        let last = self.rows.get_mut(Idx::new(last_row))?;
        let last_entry = last.last()?;
        let (tag, moved) = (last.tag(last_entry), last.value(last_entry));
        last.put(last_entry, 0, 0);
        if last_row != hole.row || last_entry != hole.entry {
            self.rows.get_mut(Idx::new(hole.row))?.put(hole.entry, tag, moved);
        }
        self.head.len = self.head.len.saturating_sub(1);
        if last_entry == 0
            && let Some(before) = before
        {
            self.rows.get_mut(Idx::new(before))?.next = 0;
            let free = self.head.free;
            self.rows.get_mut(Idx::new(last_row))?.next = free;
            self.head.free = last_row + 1;
        }
        Some(value)
    }

    /// The last bucket of the chain that begins with `first`, and the one before it.
    fn end_of_chain(&self, first: u32) -> (Option<u32>, u32) {
        let (mut before, mut row) = (None, first);
        for _ in 0..self.rows.len() {
            let next = self.rows.get(Idx::new(row)).and_then(|b| b.next.checked_sub(1));
            let Some(next) = next.filter(|n| *n < self.rows.len()) else { break };
            before = Some(row);
            row = next;
        }
        (before, row)
    }
}
