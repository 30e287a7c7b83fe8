//! The sequence lock over the whole table: one writer, readers that try again.

use super::layout::{SEQUENCE, load, store};
use std::sync::atomic::{AtomicU64, Ordering, fence};

/// Tries of a reader before it gives up. A write takes microseconds; who fails this often looks at a dead keeper.
const TRIES: u32 = 10_000;

/// Runs `copy` until no write fell into it. `None`: the writer did not finish within [`TRIES`] tries.
/// Only relaxed loads and fences are used, because the mapping may be read-only.
pub(super) fn read<T>(words: &[AtomicU64], copy: impl Fn() -> T) -> Option<T> {
    for _ in 0..TRIES {
        let before = load(words, SEQUENCE);
        fence(Ordering::Acquire);
        if before & 1 == 0 {
            let value = copy();
            fence(Ordering::Acquire);
            if load(words, SEQUENCE) == before {
                return Some(value);
            }
        }
        std::hint::spin_loop();
    }
    None
}

/// Runs `change` with the sequence odd, also after a write that was cut short. The caller is the only writer.
pub(super) fn write(words: &[AtomicU64], change: impl FnOnce()) {
    let odd = load(words, SEQUENCE) | 1;
    store(words, SEQUENCE, odd);
    fence(Ordering::Release);
    change();
    fence(Ordering::Release);
    store(words, SEQUENCE, odd.wrapping_add(1));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_write_that_was_cut_short_the_next_one_is_still_seen_as_one() {
        let words: [AtomicU64; 8] = Default::default();
        store(&words, SEQUENCE, 7);
        assert_eq!(read(&words, || ()), None);
        write(&words, || assert_eq!(read(&words, || ()), None, "in the middle of a write"));
        assert_eq!(read(&words, || ()), Some(()));
    }
}
