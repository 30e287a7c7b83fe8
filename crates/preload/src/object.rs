//! Counted objects behind descriptors, in memory that is recycled but never given back: a thread that finds a
//! stale pointer in the descriptor table may touch the object, sees that its count is 0, and looks again.

use core::ops::Deref;
use core::sync::atomic::{AtomicU32, Ordering};

/// An object that lives as long as descriptors or running calls refer to it.
pub(crate) trait Counted: Sync + Sized + 'static {
    /// The number of references; 0 while the object is in its pool.
    fn refs(&self) -> &AtomicU32;
    /// The last reference is gone: ends what the object stands for and puts it back into its pool.
    fn retire(&'static self);
}

/// One reference.
pub(crate) struct Handle<T: Counted>(&'static T);

impl<T: Counted> Handle<T> {
    /// Another reference to `object`, unless it is in its pool. The caller then checks that it is still the one it meant.
    pub(crate) fn try_new(object: &'static T) -> Option<Self> {
        let more = |n: u32| if n == 0 { None } else { n.checked_add(1) };
        object.refs().fetch_update(Ordering::Acquire, Ordering::Relaxed, more).ok().map(|_| Self(object))
    }

    /// Takes over a reference that [`Handle::into_raw`] gave away.
    pub(crate) const fn from_raw(object: &'static T) -> Self {
        Self(object)
    }

    /// Gives the reference away, to the descriptor table.
    pub(crate) fn into_raw(self) -> &'static T {
        let object = self.0;
        core::mem::forget(self);
        object
    }

    /// The first reference to an object fresh from its pool.
    pub(crate) fn first(object: &'static T) -> Self {
        object.refs().store(1, Ordering::Release);
        Self(object)
    }

    /// The object, for comparisons and for tokens; it does not keep the object from being retired.
    pub(crate) const fn object(&self) -> &'static T {
        self.0
    }
}

impl<T: Counted> Clone for Handle<T> {
    fn clone(&self) -> Self {
        self.0.refs().fetch_add(1, Ordering::Relaxed);
        Self(self.0)
    }
}

impl<T: Counted> Deref for Handle<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0
    }
}

impl<T: Counted> Drop for Handle<T> {
    fn drop(&mut self) {
        if self.0.refs().fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.retire();
        }
    }
}
