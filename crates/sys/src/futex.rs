//! Sleeping on a word of memory that several processes map (so never FUTEX_PRIVATE).

use core::sync::atomic::AtomicU32;

use base::Duration;
use rustix::io::Errno;
use rustix::thread::futex::{self, Flags};

use crate::clock::timespec;

/// Why a sleep ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// Somebody woke the word, or for no reason at all: look at the word again.
    Maybe,
    /// The word did not hold the expected value: no sleep took place.
    Changed,
    /// The time is over.
    TimedOut,
    /// A signal handler ran.
    Interrupted,
}

/// Sleeps while `word` holds `seen`, at most `timeout` (`None`: without end).
pub fn wait(word: &AtomicU32, seen: u32, timeout: Option<Duration>) -> Woken {
    let limit = timeout.map(timespec);
    match futex::wait(word, Flags::empty(), seen, limit.as_ref()) {
        Ok(()) => Woken::Maybe,
        Err(Errno::AGAIN) => Woken::Changed,
        Err(Errno::TIMEDOUT) => Woken::TimedOut,
        Err(Errno::INTR) => Woken::Interrupted,
        // Only a bad address or a bad time is left, which these types rule out; the caller looks at its word again.
        Err(_) => Woken::Maybe,
    }
}

/// Wakes up to `count` sleepers of `word`; gives how many there were.
pub fn wake(word: &AtomicU32, count: u32) -> usize {
    futex::wake(word, Flags::empty(), count.min(i32::MAX as u32)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn a_changed_word_is_not_slept_on_and_a_timeout_ends_the_sleep() {
        let word = AtomicU32::new(1);
        assert_eq!(wait(&word, 0, None), Woken::Changed);
        assert_eq!(wait(&word, 1, Some(Duration::from_micros(10))), Woken::TimedOut);
        assert_eq!(wake(&word, 1), 0);
    }

    #[test]
    fn a_waker_in_another_thread_ends_the_sleep() {
        let word = AtomicU32::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                word.store(1, Ordering::Release);
                wake(&word, u32::MAX);
            });
            while word.load(Ordering::Acquire) == 0 {
                wait(&word, 0, None);
            }
        });
    }
}
