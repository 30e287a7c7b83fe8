//! Where C calls in: no unwind leaves, the next library's functions are found, and it is known whether a thread is in our code.
//!
//! The program's signal handlers wait until it is not ([`crate::handlers`]).

use core::ffi::{CStr, c_void};
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering, compiler_fence};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::signals;

/// Where a thread is. Only its own signal handlers look at it beside itself.
struct Place {
    /// How deep in our code; 0: in the program's, or in a sleep.
    depth: AtomicU32,
    /// A signal was put off: all are blocked until the thread leaves our code.
    held: AtomicBool,
    /// The thread's mask of signals before that.
    before: AtomicU64,
}

thread_local! {
    static PLACE: Place = const {
        Place { depth: AtomicU32::new(0), held: AtomicBool::new(false), before: AtomicU64::new(0) }
    };
}

impl Place {
    #[inline]
    fn go_to(&self, depth: u32) {
        compiler_fence(Ordering::SeqCst);
        self.depth.store(depth, Ordering::Relaxed);
        compiler_fence(Ordering::SeqCst);
    }

    fn depth(&self) -> u32 {
        self.depth.load(Ordering::Relaxed)
    }

    /// The thread has left our code: lets in what was put off.
    #[inline]
    fn let_in(&self) {
        if self.held.load(Ordering::Relaxed) {
            self.unblock();
        }
    }

    #[cold]
    fn unblock(&self) {
        // First: the handlers run before the next line is over.
        self.held.store(false, Ordering::Relaxed);
        signals::set_mask(self.before.load(Ordering::Relaxed));
    }
}

/// Signal handlers of the program wait from here to [`leave`].
#[inline]
pub(crate) fn enter() {
    PLACE.with(|place| place.go_to(place.depth() + 1));
}

/// The end of [`enter`].
#[inline]
pub(crate) fn leave() {
    PLACE.with(|place| {
        let depth = place.depth().saturating_sub(1);
        place.go_to(depth);
        if depth == 0 {
            place.let_in();
        }
    });
}

/// Runs `body`; an unwind ends here, poisons this process's lanes and becomes `fail` with EIO. Signal handlers wait meanwhile.
pub(crate) fn guard<R>(fail: R, body: impl FnOnce() -> R) -> R {
    enter();
    let result = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => result,
        Err(_) => {
            crate::errno::set(crate::errno::Errno(libc::EIO));
            fail
        }
    };
    leave();
    result
}

/// Runs `call`, one of the kernel's on the program's behalf: signal handlers run meanwhile, and before it if one was put off. The caller holds no
/// lock. A call that our own code made, by Rust's library, which calls us as the program does, is part of our code.
pub(crate) fn outside<R>(call: impl FnOnce() -> R) -> R {
    PLACE.with(|place| {
        let depth = place.depth();
        if depth > 1 {
            return call();
        }
        place.go_to(0);
        place.let_in();
        let result = call();
        place.go_to(depth);
        result
    })
}

/// Runs `sleep`, which lets signals in and blocks them again itself; handlers run meanwhile. The caller holds no lock.
pub(crate) fn asleep<R>(sleep: impl FnOnce() -> R) -> R {
    PLACE.with(|place| {
        let (depth, held) = (place.depth(), place.held.swap(false, Ordering::Relaxed));
        place.go_to(0);
        let result = sleep();
        place.go_to(depth);
        place.held.store(held, Ordering::Relaxed);
        result
    })
}

/// Is this thread in our code?
pub(crate) fn is_inside() -> bool {
    PLACE.with(|place| place.depth() > 0)
}

/// Did the call that this thread is in come from our own code, or from a handler that interrupted that?
pub(crate) fn is_nested() -> bool {
    PLACE.with(|place| place.depth() > 1)
}

/// A signal was put off, and all are blocked; before that `mask` was.
pub(crate) fn hold(mask: u64) {
    PLACE.with(|place| {
        place.before.store(mask, Ordering::Relaxed);
        place.held.store(true, Ordering::Relaxed);
    });
}

/// The mask before a signal was put off, if one is.
pub(crate) fn held() -> Option<u64> {
    PLACE.with(|place| place.held.load(Ordering::Relaxed).then(|| place.before.load(Ordering::Relaxed)))
}
/// The function of one name in the next library of the search order, normally glibc's.
pub(crate) struct Next {
    name: &'static CStr,
    found: AtomicPtr<c_void>,
}

impl Next {
    pub(crate) const fn new(name: &'static CStr) -> Self {
        Self { name, found: AtomicPtr::new(core::ptr::null_mut()) }
    }

    /// Its address; null if no library has it. Looked up once, normally before `main`.
    pub(crate) fn get(&self) -> *mut c_void {
        let found = self.found.load(Ordering::Relaxed);
        if !found.is_null() {
            return found;
        }
        // SAFETY: the name ends with NUL; RTLD_NEXT is allowed in a loaded object.
        let found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
        self.found.store(found, Ordering::Relaxed);
        found
    }
}
