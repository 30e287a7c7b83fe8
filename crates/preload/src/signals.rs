//! Signals: may a sleep that one interrupted go on, and SIGPIPE.
//!
//! The kernel restarts a blocking read, write, accept or connect after a handler that was installed with
//! SA_RESTART. Our sleeps are `ppoll`s, which it never restarts, and which handler ran cannot be asked afterwards. So: if every
//! handler of the process has SA_RESTART, the call goes on; if one has not, it returns EINTR, as a program with
//! such a handler has to expect.

use core::mem::MaybeUninit;

/// Highest signal number.
const SIGNALS: i32 = 64;
/// glibc keeps these two for itself.
const GLIBC_OWN: core::ops::RangeInclusive<i32> = 32..=33;

/// Does every signal handler of the process have SA_RESTART?
pub(crate) fn all_restart() -> bool {
    (1..=SIGNALS).filter(|signal| !GLIBC_OWN.contains(signal)).all(|signal| {
        let mut action = MaybeUninit::<libc::sigaction>::zeroed();
        // SAFETY: asks only; the room is there.
        if unsafe { libc::sigaction(signal, core::ptr::null(), action.as_mut_ptr()) } != 0 {
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
