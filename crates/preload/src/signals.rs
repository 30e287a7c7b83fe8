//! Signals: which are held back while a call waits, may a sleep that one interrupted go on, and SIGPIPE. The program's handlers: [`crate::handlers`].
//!
//! The kernel restarts a blocking read, write, accept or connect after a handler that was installed with
//! SA_RESTART. Our sleeps are `ppoll`s, which it never restarts, and which handler ran cannot be asked afterwards. So: if every
//! handler of the process has SA_RESTART, the call goes on; if one has not, it returns EINTR, as a program with
//! such a handler has to expect.
//!
//! A call that sleeps may sleep several times before it has something to return. A handler that ran between two of its sleeps would not interrupt it,
//! so from the first one on signals are held back while the call is awake ([`Held`]).

use core::mem::MaybeUninit;

use libc::sigset_t;

use crate::boundary;
use crate::interpose::real;

/// Signals of one call that waits: from its first sleep to its end, or from where it begins to wait again, they are let in only while it sleeps.
/// One that comes before counts as come before the call.
pub(crate) struct Held {
    /// The call waits, not for the first time.
    again: bool,
    /// The thread's mask when the first sleep began, and whether this call changed it.
    before: Option<(sigset_t, bool)>,
}

/// Signals about what a thread did itself: never held back.
pub(crate) const OWN_FAULTS: [i32; 6] =
    [libc::SIGSEGV, libc::SIGBUS, libc::SIGFPE, libc::SIGILL, libc::SIGTRAP, libc::SIGSYS];

impl Held {
    pub(crate) const fn new() -> Self {
        Self { again: false, before: None }
    }

    /// The call begins to wait.
    pub(crate) fn wait(&mut self) {
        if self.again {
            self.begin();
        }
        self.again = true;
    }

    /// Holds signals back, unless that was done, and gives the mask to sleep with.
    pub(crate) fn begin(&mut self) -> &sigset_t {
        let (mask, _) = self.before.get_or_insert_with(|| {
            let put_off = |mask| (set_of(mask), false);
            if let Some(mask) = boundary::held() {
                return put_off(mask);
            }
            let all = all_but_faults();
            let mut before = MaybeUninit::<sigset_t>::zeroed();
            // SAFETY: a filled set, and room for the one there was.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, before.as_mut_ptr()) };
            // One may have been put off just before.
            // SAFETY: zeroed, which is the empty set, and filled by the call above.
            boundary::held().map_or_else(|| (unsafe { before.assume_init() }, true), put_off)
        });
        mask
    }
}

/// Every signal but those of [`OWN_FAULTS`].
pub(crate) fn all_but_faults() -> sigset_t {
    let mut all = MaybeUninit::<sigset_t>::zeroed();
    // SAFETY: room for a set.
    unsafe { libc::sigfillset(all.as_mut_ptr()) };
    for signal in OWN_FAULTS {
        // SAFETY: a filled set and a valid number.
        unsafe { libc::sigdelset(all.as_mut_ptr(), signal) };
    }
    // SAFETY: zeroed, which is the empty set, and filled above.
    unsafe { all.assume_init() }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some((before, true)) = &self.before {
            // SAFETY: the mask that the thread had.
            unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, before, core::ptr::null_mut()) };
        }
    }
}

/// The first word of a set: all signals that Linux has.
pub(crate) fn word_of(set: &sigset_t) -> u64 {
    // SAFETY: a set is at least a word.
    unsafe { core::ptr::from_ref(set).cast::<u64>().read_unaligned() }
}

/// The set whose first word is `word`.
pub(crate) fn set_of(word: u64) -> sigset_t {
    let mut set = MaybeUninit::<sigset_t>::zeroed();
    // SAFETY: a set is at least a word.
    unsafe { set.as_mut_ptr().cast::<u64>().write_unaligned(word) };
    // SAFETY: zeroed, which is the empty set, and its first word written.
    unsafe { set.assume_init() }
}

/// The thread's mask becomes `word`.
pub(crate) fn set_mask(word: u64) {
    let set = set_of(word);
    // SAFETY: a live set.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const set, core::ptr::null_mut()) };
}

/// Highest signal number.
pub(crate) const SIGNALS: i32 = 64;
/// glibc keeps these two for itself.
const GLIBC_OWN: core::ops::RangeInclusive<i32> = 32..=33;

/// Does every signal handler of the process have SA_RESTART?
pub(crate) fn all_restart() -> bool {
    (1..=SIGNALS).filter(|signal| !GLIBC_OWN.contains(signal)).all(|signal| {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: asks only; the room is there.
        if unsafe { real::sigaction(signal, core::ptr::null(), action.as_mut_ptr()) } != 0 {
            return true;
        }
        // SAFETY: zeroed, and filled by the call above.
        let action = unsafe { action.assume_init() };
        let handled = action.sa_sigaction != libc::SIG_DFL && action.sa_sigaction != libc::SIG_IGN;
        !handled || action.sa_flags & libc::SA_RESTART != 0
    })
}

/// Sends SIGPIPE to the calling thread, as the kernel does for a write to a connection that is shut.
pub(crate) fn raise_pipe() {
    // SAFETY: no memory involved.
    unsafe { libc::raise(libc::SIGPIPE) };
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    static HITS: AtomicU32 = AtomicU32::new(0);

    extern "C" fn hit(_: i32) {
        HITS.fetch_add(1, Ordering::SeqCst);
    }

    fn raise() {
        // SAFETY: the handler below touches an atomic number only.
        unsafe { libc::raise(libc::SIGUSR1) };
    }

    #[test]
    fn a_signal_between_two_sleeps_of_a_call_interrupts_the_next_one() {
        // SAFETY: a function of that type.
        unsafe { libc::signal(libc::SIGUSR1, hit as *const () as libc::sighandler_t) };
        let mut held = Held::new();
        held.wait();
        raise();
        assert_eq!(HITS.load(Ordering::SeqCst), 1, "as before the call");
        held.wait();
        raise();
        assert_eq!(HITS.load(Ordering::SeqCst), 1, "held back");
        let limit = libc::timespec { tv_sec: 10, tv_nsec: 0 };
        let mask = core::ptr::from_ref(held.begin());
        // SAFETY: no descriptors, a live limit and a live mask.
        let slept = unsafe { libc::ppoll(core::ptr::null_mut(), 0, &raw const limit, mask) };
        assert_eq!((slept, std::io::Error::last_os_error().raw_os_error()), (-1, Some(libc::EINTR)));
        assert_eq!(HITS.load(Ordering::SeqCst), 2);
        raise();
        assert_eq!(HITS.load(Ordering::SeqCst), 2, "held back");
        drop(held);
        assert_eq!(HITS.load(Ordering::SeqCst), 3, "let in at the end of the call");
    }
}
