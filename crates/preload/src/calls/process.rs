//! Calls that end, copy or replace the process.

use core::ffi::{c_char, c_int};
use core::ptr;

use libc::pid_t;

use crate::interpose::plain;
use crate::{adopt, exec, fork};

/// A child of `vfork` runs in the parent's memory, where its `close` and `dup2` before exec would change the parent's
/// descriptor table. It gets a copy of its own instead.
pub(crate) unsafe fn vfork() -> pid_t {
    // SAFETY: no memory involved.
    unsafe { libc::fork() }
}

pub(crate) unsafe fn _exit(status: c_int) {
    fork::at_exit();
    // SAFETY: ends the process.
    unsafe { plain::_exit(status) };
}

/// Runs `by_kernel` with the environment of the next image. A program that hands sockets on to its next image, in an environment it made itself,
/// means no less by that than one that leaves the environment as it was: the image finds us there.
///
/// # Safety
/// `env` is null or a list of C strings that ends with a null pointer.
unsafe fn exec_with(
    env: *const *const c_char,
    by_kernel: impl FnOnce(*const *const c_char) -> c_int,
) -> c_int {
    let passage = exec::prepare();
    let hands_on = passage.is_some() || adopt::hands_listeners_on();
    let missing = if env.is_null() || !hands_on { Vec::new() } else { adopt::surroundings() };
    // SAFETY: the caller's promise.
    let mut list = unsafe { strings(env) };
    // SAFETY: as above.
    let absent =
        missing.iter().filter(|own| !list.iter().any(|given| unsafe { same_key(*given, own.as_ptr()) }));
    let added: Vec<*const c_char> = absent.map(|own| own.as_ptr()).collect();
    // Either call comes back only when it failed.
    if added.is_empty() {
        return by_kernel(env);
    }
    list.extend(added);
    list.push(ptr::null());
    by_kernel(list.as_ptr())
}

/// The environment of this image.
fn own_env() -> *const *const c_char {
    unsafe extern "C" {
        static environ: *const *const c_char;
    }
    // SAFETY: a variable of the C library.
    unsafe { environ }
}

pub(crate) unsafe fn execve(
    path: *const c_char,
    args: *const *const c_char,
    env: *const *const c_char,
) -> c_int {
    // SAFETY: the C caller's promise, and the environment that is given.
    let by_kernel = |env| unsafe { plain::execve(path, args, env) };
    // SAFETY: the C caller's promise.
    unsafe { exec_with(env, by_kernel) }
}

pub(crate) unsafe fn execv(path: *const c_char, args: *const *const c_char) -> c_int {
    // SAFETY: the C caller's promise, and the environment that is given.
    let by_kernel = |env| unsafe { plain::execve(path, args, env) };
    // SAFETY: the C caller's promise.
    unsafe { exec_with(own_env(), by_kernel) }
}

pub(crate) unsafe fn execvpe(
    file: *const c_char,
    args: *const *const c_char,
    env: *const *const c_char,
) -> c_int {
    // SAFETY: the C caller's promise, and the environment that is given.
    let by_kernel = |env| unsafe { plain::execvpe(file, args, env) };
    // SAFETY: the C caller's promise.
    unsafe { exec_with(env, by_kernel) }
}

pub(crate) unsafe fn execvp(file: *const c_char, args: *const *const c_char) -> c_int {
    // SAFETY: the C caller's promise, and the environment that is given.
    let by_kernel = |env| unsafe { plain::execvpe(file, args, env) };
    // SAFETY: the C caller's promise.
    unsafe { exec_with(own_env(), by_kernel) }
}

pub(crate) unsafe fn fexecve(fd: c_int, args: *const *const c_char, env: *const *const c_char) -> c_int {
    // SAFETY: the C caller's promise, and the environment that is given.
    let by_kernel = |env| unsafe { plain::fexecve(fd, args, env) };
    // SAFETY: the C caller's promise.
    unsafe { exec_with(env, by_kernel) }
}

pub(crate) unsafe fn execveat(
    dir: c_int,
    path: *const c_char,
    args: *const *const c_char,
    env: *const *const c_char,
    flags: c_int,
) -> c_int {
    // SAFETY: the C caller's promise, and the environment that is given.
    let by_kernel = |env| unsafe { plain::execveat(dir, path, args, env, flags) };
    // SAFETY: the C caller's promise.
    unsafe { exec_with(env, by_kernel) }
}

/// `execle`, with its arguments as they lie: the environment follows the null pointer.
#[cfg(target_arch = "x86_64")]
pub(crate) unsafe fn corelane_execle(path: *const c_char, args: *const *const c_char) -> c_int {
    // SAFETY: the trampoline's promise.
    let count = unsafe { strings(args) }.len();
    // SAFETY: the C caller's promise: one more argument behind the null pointer.
    let env = unsafe { args.wrapping_add(count + 1).cast::<*const *const c_char>().read_unaligned() };
    // SAFETY: the C caller's promise.
    unsafe { execve(path, args, env) }
}

// `execl`, `execlp` and `execle` take a list of any length, which stable Rust cannot define. The registers' part of the list is put in front of the
// stack's, so that it becomes an array (System V ABI, AMD64, 3.2.3), and the function that takes one is called.
#[cfg(all(target_arch = "x86_64", not(test)))]
macro_rules! list_to_array {
    ($($name:ident => $with:path;)*) => {
        $(#[doc = concat!("`", stringify!($name), "` as the program calls it.")]
        ///
        /// # Safety
        /// As the C function's.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        #[allow(unreachable_pub)] // exported by name
        pub unsafe extern "C" fn $name() {
            core::arch::naked_asm!(
                "pop rax",
                "push r9",
                "push r8",
                "push rcx",
                "push rdx",
                "push rsi",
                "mov rsi, rsp",
                "push rax",
                "call {with}",
                "pop rcx",
                "add rsp, 40",
                "push rcx",
                "ret",
                with = sym $with,
            )
        })*
    };
}
#[cfg(all(target_arch = "x86_64", not(test)))]
list_to_array! {
    execl => crate::interpose::execv;
    execlp => crate::interpose::execvp;
    execle => crate::interpose::corelane_execle;
}

/// The strings of a list that ends with a null pointer; none if `at` is null.
///
/// # Safety
/// `at` is null or such a list.
unsafe fn strings(at: *const *const c_char) -> Vec<*const c_char> {
    let mut list = Vec::new();
    if at.is_null() {
        return list;
    }
    loop {
        // SAFETY: the caller's promise; no further than the null pointer.
        let next = unsafe { at.wrapping_add(list.len()).read_unaligned() };
        if next.is_null() {
            return list;
        }
        list.push(next);
    }
}

/// Do two strings `KEY=VALUE` have one key?
///
/// # Safety
/// Both are C strings.
unsafe fn same_key(a: *const c_char, b: *const c_char) -> bool {
    // SAFETY: the caller's promise.
    let a = unsafe { core::ffi::CStr::from_ptr(a) };
    // SAFETY: as above.
    let b = unsafe { core::ffi::CStr::from_ptr(b) };
    let key = |s: &core::ffi::CStr| s.to_bytes().split(|c| *c == b'=').next().map(<[u8]>::to_vec);
    key(a) == key(b)
}
