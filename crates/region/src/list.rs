//! Lists of table rows by index: free lists, and doubly linked lists whose links lie in the rows.
//!
//! Invariant: links say whether their row is on a list, on the free list, or on none, and are changed only if the
//! neighbours agree; so a corrupted list loses rows, but never makes a loop or gives a row out twice.

use core::fmt;
use core::marker::PhantomData;

use base::Idx;

use crate::{Plain, Table};

/// In `prev`: the row is on no list.
const OFF: u32 = u32::MAX - 1;
/// In `prev`: the row is on the free list.
const FREE: u32 = u32::MAX - 2;

/// The links of one row for one list (or free list). The default is on no list.
#[repr(C)]
pub struct Links<T> {
    next: Idx<T>,
    prev: Idx<T>,
}

impl<T> Links<T> {
    /// On no list.
    pub const OFF: Self = Self { next: Idx::NONE, prev: Idx::new(OFF) };

    /// Is the row on a list?
    #[must_use]
    pub const fn is_linked(&self) -> bool {
        self.prev.raw() != OFF && self.prev.raw() != FREE
    }

    /// Is the row on the free list?
    #[must_use]
    pub const fn is_free(&self) -> bool {
        self.prev.raw() == FREE
    }
}

impl<T> Clone for Links<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Links<T> {}
impl<T> Default for Links<T> {
    fn default() -> Self {
        Self::OFF
    }
}
impl<T> fmt::Debug for Links<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prev.raw() {
            OFF => f.write_str("off"),
            FREE => f.write_str("free"),
            _ => write!(f, "{:?}..{:?}", self.prev, self.next),
        }
    }
}
// SAFETY: two indices, repr(C), no padding; every bit pattern is a value.
unsafe impl<T: 'static> Plain for Links<T> {}

/// A row that can be on the list named `L` (any type, to tell several lists of the same rows apart).
pub trait Linked<L = ()>: Sized {
    /// Its links for that list.
    fn links(&self) -> &Links<Self>;
    /// Its links for that list, to change them.
    fn links_mut(&mut self) -> &mut Links<Self>;
}

macro_rules! list_traits {
    ($list:ident) => {
        impl<T, L> Clone for $list<T, L> {
            fn clone(&self) -> Self {
                *self
            }
        }
        impl<T, L> Copy for $list<T, L> {}
        impl<T, L> Default for $list<T, L> {
            fn default() -> Self {
                Self::EMPTY
            }
        }
        // SAFETY: integers and a marker without size, repr(C), no padding; every bit pattern is a value.
        unsafe impl<T: 'static, L: 'static> Plain for $list<T, L> {}
    };
}
list_traits!(FreeList);
list_traits!(List);

/// The rows of a table that are not in use. Rows are handed out for the first time in order, so memory that was never
/// needed is never touched.
#[repr(C)]
pub struct FreeList<T, L = ()> {
    head: Idx<T>,
    returned: u32,
    fresh: u32,
    name: PhantomData<fn() -> L>,
}

impl<T, L> FreeList<T, L> {
    /// No row was ever handed out: all are free.
    pub const EMPTY: Self = Self { head: Idx::NONE, returned: 0, fresh: 0, name: PhantomData };
}

impl<T: Linked<L>, L> FreeList<T, L> {
    /// Free rows of `rows`.
    #[must_use]
    pub fn free(&self, rows: &Table<'_, T>) -> u32 {
        rows.len().saturating_sub(self.fresh).saturating_add(self.returned)
    }

    /// A free row, whose links are now off; what else is in it is as it was left. `None`: all are in use.
    pub fn alloc(&mut self, rows: &mut Table<'_, T>) -> Option<Idx<T>> {
        let head = self.head;
        if let Some(links) = rows.get_mut(head).map(T::links_mut).filter(|l| l.is_free()) {
            self.head = links.next;
            self.returned = self.returned.saturating_sub(1);
            *links = Links::OFF;
            return Some(head);
        }
        // Nothing returned, or corrupted: what hung on here is lost, the others are still good.
        self.head = Idx::NONE;
        self.returned = 0;
        let fresh = Idx::new(self.fresh);
        *rows.get_mut(fresh)?.links_mut() = Links::OFF;
        self.fresh += 1;
        Some(fresh)
    }

    /// Takes `row` back. False, and nothing changes, if it is outside, free already or still on a list.
    pub fn release(&mut self, rows: &mut Table<'_, T>, row: Idx<T>) -> bool {
        let handed_out = row.raw() < self.fresh;
        let Some(links) = rows.get_mut(row).map(T::links_mut).filter(|l| handed_out && !l.is_free()) else {
            return false;
        };
        if links.is_linked() {
            return false;
        }
        *links = Links { next: self.head, prev: Idx::new(FREE) };
        self.head = row;
        self.returned = self.returned.saturating_add(1);
        true
    }
}

/// A doubly linked list of rows; a row is on at most one list of the same name `L`.
#[repr(C)]
pub struct List<T, L = ()> {
    head: Idx<T>,
    tail: Idx<T>,
    len: u32,
    name: PhantomData<fn() -> L>,
}

impl<T, L> List<T, L> {
    /// The empty list.
    pub const EMPTY: Self = Self { head: Idx::NONE, tail: Idx::NONE, len: 0, name: PhantomData };
}

impl<T: Linked<L>, L> List<T, L> {
    /// Rows on the list.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Is no row on the list?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.head.is_none()
    }

    /// The first row.
    #[must_use]
    pub fn front(&self) -> Option<Idx<T>> {
        self.head.some()
    }

    /// The row after `row`.
    #[must_use]
    pub fn after(&self, rows: &Table<'_, T>, row: Idx<T>) -> Option<Idx<T>> {
        rows.get(row)?.links().next.some()
    }

    /// All rows in order; at most as many as the table has, whatever a corrupted list says.
    pub fn iter<'r>(&self, rows: &'r Table<'_, T>) -> impl Iterator<Item = (Idx<T>, &'r T)> {
        let mut at = self.head;
        (0..self.len.min(rows.len())).map_while(move |_| {
            let (row, found) = (at, rows.get(at)?);
            at = found.links().next;
            Some((row, found))
        })
    }

    /// Puts `row` at the end. False, and nothing changes, if it is outside or on a list already.
    pub fn push_back(&mut self, rows: &mut Table<'_, T>, row: Idx<T>) -> bool {
        let links = Links { next: Idx::NONE, prev: self.tail };
        if !Self::link(rows, row, links) {
            return false;
        }
        match rows.get_mut(self.tail) {
            Some(last) => last.links_mut().next = row,
            None => self.head = row,
        }
        self.tail = row;
        self.len = self.len.saturating_add(1);
        true
    }

    /// Puts `row` in front. False, and nothing changes, if it is outside or on a list already.
    pub fn push_front(&mut self, rows: &mut Table<'_, T>, row: Idx<T>) -> bool {
        let links = Links { next: self.head, prev: Idx::NONE };
        if !Self::link(rows, row, links) {
            return false;
        }
        match rows.get_mut(self.head) {
            Some(first) => first.links_mut().prev = row,
            None => self.tail = row,
        }
        self.head = row;
        self.len = self.len.saturating_add(1);
        true
    }

    fn link(rows: &mut Table<'_, T>, row: Idx<T>, new: Links<T>) -> bool {
        let Some(links) = rows.get_mut(row).map(T::links_mut) else { return false };
        if links.is_linked() || links.is_free() {
            return false;
        }
        *links = new;
        true
    }

    /// Takes the first row off.
    pub fn pop_front(&mut self, rows: &mut Table<'_, T>) -> Option<Idx<T>> {
        let head = self.head.some()?;
        if self.remove(rows, head) {
            return Some(head);
        }
        *self = Self::EMPTY; // corrupted: the rows behind are lost
        None
    }

    /// Takes `row`, which is on this list, off. False if it is outside or on no list.
    pub fn remove(&mut self, rows: &mut Table<'_, T>, row: Idx<T>) -> bool {
        let Some(links) = rows.get_mut(row).map(T::links_mut).filter(|l| l.is_linked()) else { return false };
        let Links { next, prev } = *links;
        *links = Links::OFF;
        match rows.get_mut(prev).map(T::links_mut) {
            Some(before) if before.next == row => before.next = next,
            Some(_) => {}
            None if self.head == row => self.head = next,
            None => {}
        }
        match rows.get_mut(next).map(T::links_mut) {
            Some(after) if after.prev == row => after.prev = prev,
            Some(_) => {}
            None if self.tail == row => self.tail = prev,
            None => {}
        }
        self.len = self.len.saturating_sub(1);
        true
    }
}
