//! One word shared between threads and processes. Every algorithm on shared words is written against this
//! trait, so that loom, whose atomics cannot lie in mapped bytes, runs the very same code.

use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// An atomic integer. The methods are those of `core::sync::atomic`.
pub trait Word {
    /// The integer inside.
    type Value: Copy + PartialEq;
    /// As `AtomicU64::load`.
    fn load(&self, order: Ordering) -> Self::Value;
    /// As `AtomicU64::store`.
    fn store(&self, value: Self::Value, order: Ordering);
    /// As `AtomicU64::compare_exchange`.
    ///
    /// # Errors
    /// The value found, when it was not `current`.
    fn compare_exchange(
        &self,
        current: Self::Value,
        new: Self::Value,
        success: Ordering,
        failure: Ordering,
    ) -> Result<Self::Value, Self::Value>;
    /// As `AtomicU64::fetch_add` of 1.
    fn increment(&self, order: Ordering) -> Self::Value;
    /// As `core::sync::atomic::fence`.
    fn fence(order: Ordering);
    /// As `core::hint::spin_loop`.
    fn relax();
}

macro_rules! word {
    ($atomic:ty, $value:ty) => {
        impl Word for $atomic {
            type Value = $value;
            #[inline]
            fn load(&self, order: Ordering) -> $value {
                <$atomic>::load(self, order)
            }
            #[inline]
            fn store(&self, value: $value, order: Ordering) {
                <$atomic>::store(self, value, order);
            }
            #[inline]
            fn compare_exchange(
                &self,
                current: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                <$atomic>::compare_exchange(self, current, new, success, failure)
            }
            #[inline]
            fn increment(&self, order: Ordering) -> $value {
                <$atomic>::fetch_add(self, 1, order)
            }
            #[inline]
            fn fence(order: Ordering) {
                core::sync::atomic::fence(order);
            }
            #[inline]
            fn relax() {
                core::hint::spin_loop();
            }
        }
    };
}
word!(AtomicU64, u64);
word!(AtomicU32, u32);
