//! pthread_cancel(3). A thread that is cancelled leaves by an unwind that no Rust code may stop and that our frames do not expect. So it starts where none of them
//! has anything left to do: in glibc's function that the program's call is passed on to at once (`direct` in [`crate::interpose`]), or at the end of our own.
//! Between, while glibc's cancellation points run on our behalf, the thread cannot be cancelled ([`unmoved`]). A sleep on a lane is told by [`cancel`].

use core::ffi::c_int;
use core::sync::atomic::{AtomicBool, Ordering};
use std::any::Any;
use std::sync::{Mutex, MutexGuard, PoisonError};

use libc::pthread_t;

use crate::boundary;
use crate::hub;
use crate::interpose::real;

const DISABLE: c_int = 1;

unsafe extern "C" {
    fn pthread_setcancelstate(state: c_int, old: *mut c_int) -> c_int;
    static __libc_single_threaded: core::ffi::c_char;
}

unsafe extern "C-unwind" {
    fn pthread_testcancel();
}

/// Was any thread of this process ever to be cancelled?
static ANY: AtomicBool = AtomicBool::new(false);
/// The kernel's numbers of the threads that are to be cancelled and have not left by us: they may have left otherwise.
static DUE: Mutex<Vec<u32>> = Mutex::new(Vec::new());

fn due() -> MutexGuard<'static, Vec<u32>> {
    DUE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Holds what no other lock is taken under, over a fork.
pub(crate) fn freeze() -> Box<dyn Any> {
    Box::new(due())
}

/// POSIX's cancellation points among the functions we stand in front of.
pub(crate) const fn is_point(name: &str) -> bool {
    matches!(
        name.as_bytes(),
        b"accept"
            | b"accept4"
            | b"connect"
            | b"read"
            | b"__read_chk"
            | b"readv"
            | b"recv"
            | b"__recv_chk"
            | b"recvfrom"
            | b"__recvfrom_chk"
            | b"recvmsg"
            | b"recvmmsg"
            | b"write"
            | b"writev"
            | b"send"
            | b"sendto"
            | b"sendmsg"
            | b"sendmmsg"
            | b"splice"
            | b"close"
            | b"fcntl"
            | b"fcntl64"
            | b"fclose"
            | b"vdprintf"
            | b"__vdprintf_chk"
            | b"poll"
            | b"__poll_chk"
            | b"ppoll"
            | b"__ppoll_chk"
            | b"select"
            | b"pselect"
            | b"epoll_wait"
            | b"epoll_pwait"
            | b"epoll_pwait2"
            | b"sigtimedwait"
            | b"sigwaitinfo"
    )
}

/// Sets whether this thread can be cancelled; gives what it was.
fn set(state: c_int) -> c_int {
    let mut old = 0;
    // SAFETY: a live int.
    unsafe { pthread_setcancelstate(state, &raw mut old) };
    old
}

/// Runs `call`, one of glibc's that may be a cancellation point, without being cancelled in it.
#[inline]
pub(crate) fn unmoved<R>(is_point: bool, call: impl FnOnce() -> R) -> R {
    // SAFETY: glibc's, a byte that only it writes.
    if !is_point || unsafe { (&raw const __libc_single_threaded).read_volatile() } != 0 {
        return call();
    }
    let old = set(DISABLE);
    let result = call();
    set(old);
    result
}

/// Is this thread to be cancelled, and can be?
pub(crate) fn is_due() -> bool {
    if !ANY.load(Ordering::Relaxed) {
        return false;
    }
    let listed = due().contains(&sys::process::tid());
    listed && {
        let old = set(DISABLE);
        set(old);
        old != DISABLE
    }
}

/// The end of a call that is a cancellation point: does not come back if the thread is to be cancelled. The caller's frames have nothing left to do.
#[inline]
pub(crate) fn leave_if_due() {
    if ANY.load(Ordering::Relaxed) && !boundary::is_inside() && take_due() {
        // SAFETY: whoever unwinds from here finds nothing to be dropped in our frames.
        unsafe { pthread_testcancel() }
    }
}

#[cold]
fn take_due() -> bool {
    let due_now = is_due();
    if due_now {
        let me = sys::process::tid();
        due().retain(|thread| *thread != me);
    }
    due_now
}

/// The kernel's number of `thread`: its clock says it (Linux encodes it as the kernel's `MAKE_THREAD_CPUCLOCK` does).
///
/// # Safety
/// As `pthread_cancel`'s.
unsafe fn tid_of(thread: pthread_t) -> Option<u32> {
    let mut clock = 0;
    // SAFETY: the caller's promise, and a live number.
    let failed = unsafe { libc::pthread_getcpuclockid(thread, &raw mut clock) };
    (failed == 0).then_some(!(clock >> 3) as u32)
}

/// `pthread_cancel`.
pub(crate) unsafe fn cancel(thread: pthread_t) -> c_int {
    // SAFETY: the C caller's promise.
    if let Some(tid) = unsafe { tid_of(thread) } {
        let me = sys::process::pid();
        let mut due = due();
        due.retain(|other| *other != tid && !sys::process::is_gone(me, *other));
        due.push(tid);
    }
    ANY.store(true, Ordering::SeqCst);
    // SAFETY: the C caller's promise.
    let result = unsafe { real::pthread_cancel(thread) };
    // It may sleep on a lane.
    hub::wake_all();
    result
}
