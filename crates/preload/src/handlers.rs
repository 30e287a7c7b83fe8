//! The program's signal handlers: none runs while its thread is in our code.
//!
//! A handler may make every call that signal-safety(7) names (read, write, accept, close ...), and programs also fork in one. The kernel's calls
//! bear that; ours would wait for a lock that the interrupted call holds, or find its tables half changed. So the kernel gets [`arrived`] in place of each
//! handler. If the signal interrupts the program's own code, or a call that sleeps, it calls the handler. Otherwise it sends the signal to the
//! thread again and returns with signals blocked; they come in as soon as the thread leaves our code or sleeps, which is what the kernel does with
//! a signal that comes during a system call.
//!
//! Left as they are: signals about what a thread did itself (SIGSEGV ...), and handlers that are installed past the C library.

use core::ffi::{c_int, c_void};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};

use sys::owner;

use libc::{c_long, sigaction as Action, sighandler_t, siginfo_t, ucontext_t};

use crate::boundary;
use crate::errno;
use crate::exec;
use crate::interpose::real;
use crate::signals::{OWN_FAULTS, SIGNALS, all_but_faults, set_of, word_of};
use crate::user;

/// Different actions that a program may install; further ones go to the kernel as they are.
const ACTIONS: usize = 512;

/// What the program asked for. Written once, before its number is in [`CURRENT`].
struct Wish {
    handler: AtomicUsize,
    flags: AtomicU32,
    /// Signals that the handler blocks.
    mask: AtomicU64,
    /// 0: free, 1: being written, 2: valid.
    state: AtomicU32,
}

const FREE: u32 = 0;
const WRITING: u32 = 1;
const VALID: u32 = 2;

static WISHES: [Wish; ACTIONS] = [const {
    Wish {
        handler: AtomicUsize::new(0),
        flags: AtomicU32::new(0),
        mask: AtomicU64::new(0),
        state: AtomicU32::new(FREE),
    }
}; ACTIONS];
/// For each signal the number of its wish, and 1; 0: none.
static CURRENT: [AtomicU32; SIGNALS as usize + 1] = [const { AtomicU32::new(0) }; SIGNALS as usize + 1];
/// Signals whose calls siginterrupt(3) made to be interrupted, a bit each.
static INTERRUPTING: AtomicU64 = AtomicU64::new(0);
static ACTIVE: AtomicBool = AtomicBool::new(false);

/// Handlers that the program installs from now on are ours to call, unless the program cannot have lanes.
pub(crate) fn begin() {
    let runs = std::env::var_os("CORELANE_KEEPER").is_some() && !exec::confines_itself();
    ACTIVE.store(runs, Ordering::Relaxed);
}

fn is_ours(signal: c_int) -> bool {
    let possible = (1..=SIGNALS).contains(&signal) && signal != libc::SIGKILL && signal != libc::SIGSTOP;
    possible && !OWN_FAULTS.contains(&signal) && ACTIVE.load(Ordering::Relaxed)
}

fn is_handler(handler: usize) -> bool {
    handler != libc::SIG_DFL && handler != libc::SIG_IGN
}

const fn bit(signal: c_int) -> u64 {
    1 << (signal - 1)
}

/// The number of a wish like this, and 1. `None`: there are too many.
fn wish(action: &Action) -> Option<u32> {
    let (handler, flags, mask) = (action.sa_sigaction, action.sa_flags as u32, word_of(&action.sa_mask));
    for (at, wish) in WISHES.iter().enumerate() {
        if wish.state.compare_exchange(FREE, WRITING, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            wish.handler.store(handler, Ordering::Relaxed);
            wish.flags.store(flags, Ordering::Relaxed);
            wish.mask.store(mask, Ordering::Relaxed);
            wish.state.store(VALID, Ordering::Release);
            return Some(at as u32 + 1);
        }
        // One that another thread is writing is passed over.
        if wish.state.load(Ordering::Acquire) == VALID
            && wish.handler.load(Ordering::Relaxed) == handler
            && wish.flags.load(Ordering::Relaxed) == flags
            && wish.mask.load(Ordering::Relaxed) == mask
        {
            return Some(at as u32 + 1);
        }
    }
    None
}

fn wished(number: u32) -> Option<&'static Wish> {
    WISHES.get(number.checked_sub(1)? as usize)
}

fn current(signal: c_int) -> Option<&'static AtomicU32> {
    CURRENT.get(usize::try_from(signal).ok()?)
}

/// The function that the kernel calls.
fn ours() -> sighandler_t {
    arrived as *const () as sighandler_t
}

/// `sigaction`.
///
/// # Safety
/// As the C function's.
pub(crate) unsafe fn sigaction(signal: c_int, new: *const Action, old: *mut Action) -> c_int {
    if !is_ours(signal) {
        // SAFETY: the caller's promise.
        return unsafe { real::sigaction(signal, new, old) };
    }
    // SAFETY: as above.
    let wanted = unsafe { user::load(new) };
    let Some(place) = current(signal) else { return errno::small(Err(errno::Errno(libc::EINVAL))) };
    let before = place.load(Ordering::Acquire);
    let mut given = wanted;
    if let Some(action) = &mut given
        && is_handler(action.sa_sigaction)
        && let Some(number) = wish(action)
    {
        // First: once the kernel has it, the signal may come.
        place.store(number, Ordering::Release);
        action.sa_sigaction = ours();
        action.sa_flags |= libc::SA_SIGINFO;
        action.sa_flags &= !(libc::SA_RESETHAND | libc::SA_NODEFER);
    }
    let at = given.as_ref().map_or(core::ptr::null(), core::ptr::from_ref);
    let mut was = MaybeUninit::<Action>::zeroed();
    // SAFETY: null or a live action, and room for one.
    let result = unsafe { real::sigaction(signal, at, was.as_mut_ptr()) };
    if result != 0 {
        place.store(before, Ordering::Release);
        return result;
    }
    // SAFETY: zeroed, and filled by the call above.
    let mut was = unsafe { was.assume_init() };
    if was.sa_sigaction == ours()
        && let Some(wish) = wished(before)
    {
        was.sa_sigaction = wish.handler.load(Ordering::Relaxed);
        was.sa_flags = wish.flags.load(Ordering::Relaxed) as c_int;
    }
    // SAFETY: the caller's promise.
    unsafe { user::store(old, was) };
    result
}

/// `signal`, which is `sigaction` with these flags.
pub(crate) fn install(
    signal: c_int,
    handler: sighandler_t,
    flags: c_int,
    blocks_itself: bool,
) -> sighandler_t {
    if handler == libc::SIG_ERR {
        errno::set(errno::Errno(libc::EINVAL));
        return libc::SIG_ERR;
    }
    let mask = if blocks_itself && (1..=SIGNALS).contains(&signal) { bit(signal) } else { 0 };
    let new = Action { sa_sigaction: handler, sa_mask: set_of(mask), sa_flags: flags, sa_restorer: None };
    let mut old = MaybeUninit::<Action>::zeroed();
    // SAFETY: a live action, and room for one.
    if unsafe { sigaction(signal, &raw const new, old.as_mut_ptr()) } != 0 {
        return libc::SIG_ERR;
    }
    // SAFETY: zeroed, and filled by the call above.
    unsafe { old.assume_init() }.sa_sigaction
}

/// The flags of a handler that `signal` installs.
pub(crate) fn usual_flags(signal: c_int) -> c_int {
    let interrupts =
        (1..=SIGNALS).contains(&signal) && INTERRUPTING.load(Ordering::Relaxed) & bit(signal) != 0;
    if interrupts { 0 } else { libc::SA_RESTART }
}

/// What siginterrupt(3) says of handlers to come; the one there is has been changed by the C library.
pub(crate) fn note_interrupting(signal: c_int, on: bool) {
    if !(1..=SIGNALS).contains(&signal) {
        return;
    }
    if on {
        INTERRUPTING.fetch_or(bit(signal), Ordering::Relaxed);
    } else {
        INTERRUPTING.fetch_and(!bit(signal), Ordering::Relaxed);
    }
}

/// The kernel's handler of every signal that the program handles.
extern "C" fn arrived(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    if boundary::is_inside() && put_off(signal, info, context.cast()) {
        return;
    }
    let Some(wish) = current(signal).and_then(|number| wished(number.load(Ordering::Acquire))) else {
        return;
    };
    let flags = wish.flags.load(Ordering::Relaxed) as c_int;
    if flags & libc::SA_RESETHAND != 0 {
        let default = Action {
            sa_sigaction: libc::SIG_DFL,
            sa_mask: set_of(0),
            sa_flags: flags & !libc::SA_RESETHAND,
            sa_restorer: None,
        };
        // SAFETY: a live action.
        unsafe { real::sigaction(signal, &raw const default, core::ptr::null_mut()) };
    }
    if flags & libc::SA_NODEFER != 0 && wish.mask.load(Ordering::Relaxed) & bit(signal) == 0 {
        let own = set_of(bit(signal));
        // SAFETY: a live set.
        unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const own, core::ptr::null_mut()) };
    }
    let handler = wish.handler.load(Ordering::Relaxed);
    if !is_handler(handler) {
        return;
    }
    tell_as_the_kernel(signal, info);
    // SAFETY: the program's handler; one without SA_SIGINFO ignores the arguments after the first, as under the kernel.
    let call: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = unsafe { core::mem::transmute(handler) };
    call(signal, info, context);
}

/// Signals about a lane's sockets (`sys::owner`) say what happened as those of the kernel do, which lets nobody else write `si_code`.
pub(crate) fn tell_as_the_kernel(signal: c_int, info: *mut siginfo_t) {
    // SAFETY: null or the kernel's siginfo, as it is of a signal with this code.
    let Some(told) = (unsafe { user::load(info.cast::<Told>()) }) else { return };
    // Of SIGCHLD the code has another meaning, so the kernel leaves it at that, too.
    if told.code == owner::SI_SIGIO && signal != libc::SIGCHLD {
        let code = owner::band::code(told.band);
        // SAFETY: as above.
        unsafe { user::store(info.cast::<Told>(), Told { code, ..told }) };
    }
}

/// The beginning of `siginfo_t`, of a signal about a descriptor.
#[derive(Clone, Copy)]
#[repr(C)]
struct Told {
    signal: c_int,
    errno: c_int,
    code: c_int,
    pad: c_int,
    band: i64,
}

/// Sends `signal` to this thread again, for when it leaves our code, and blocks signals until then. False: it cannot be sent.
fn put_off(signal: c_int, info: *mut siginfo_t, context: *mut ucontext_t) -> bool {
    // The code that was interrupted may be about to read it.
    let errno = errno::last();
    let all = all_but_faults();
    // Another signal may have come before this, and been put off; what was true before that one is what it finds here, so ours counts.
    // SAFETY: a live set.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, core::ptr::null_mut()) };
    // SAFETY: the kernel's context of this handler.
    let mask = unsafe { &raw mut (*context).uc_sigmask }.cast::<u64>();
    // SAFETY: a set is at least a word.
    boundary::hold(unsafe { mask.read_unaligned() });
    // SAFETY: as above; the kernel reads this word when we return.
    unsafe { mask.write_unaligned(word_of(&all)) };
    let (pid, tid) = (rustix::process::getpid(), rustix::thread::gettid());
    let (pid, tid) = (pid.as_raw_nonzero().get(), tid.as_raw_nonzero().get());
    let info = info.expose_provenance() as c_long;
    // SAFETY: the kernel's own siginfo.
    let sent = unsafe {
        real::syscall(
            libc::SYS_rt_tgsigqueueinfo,
            c_long::from(pid),
            c_long::from(tid),
            c_long::from(signal),
            info,
            0,
            0,
        )
    };
    errno::set(errno);
    sent == 0
}
