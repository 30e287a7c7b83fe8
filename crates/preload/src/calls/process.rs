//! Calls that end, copy or replace the process.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use libc::pid_t;
use sys::image::takes_library;

use crate::boundary;
use crate::calls::carried::Carried;
use crate::interpose::plain;
use crate::{adopt, exec, fork};

/// A child of `vfork` runs in the parent's memory, where its `close` and `dup2` before exec would change the parent's
/// descriptor table. It gets a copy of its own instead.
pub(crate) unsafe fn vfork() -> pid_t {
    // SAFETY: no memory involved.
    unsafe { libc::fork() }
}

pub(crate) unsafe fn _exit(status: c_int) {
    // A handler of a fault in our own code ends the process: this thread may have what closing takes.
    if !boundary::is_nested() {
        fork::at_exit();
    }
    // SAFETY: ends the process.
    unsafe { plain::_exit(status) };
}

/// Runs `by_kernel` with the environment of the next image. A program that hands sockets on to its next image, in an environment it made itself,
/// means no less by that than one that leaves the environment as it was: the image finds us there.
///
/// # Safety
/// `args` and `env` are null or lists of C strings that end with a null pointer.
unsafe fn exec_with(
    file: Option<PathBuf>,
    args: *const *const c_char,
    env: *const *const c_char,
    by_kernel: impl FnOnce(*const *const c_char) -> c_int,
) -> c_int {
    // SAFETY: the caller's promise.
    let passage =
        exec::prepare(|| unsafe { keeps_library(env) } && file.as_ref().is_some_and(|f| takes_library(f)));
    // SAFETY: the caller's promise.
    let carried = unsafe { carried(file.as_ref(), args, env) };
    if let Some((path, args)) = carried.as_ref().map(Carried::words) {
        // SAFETY: the caller's promise, and lists that are alive.
        return unsafe { plain::execve(path, args, env) };
    }
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

/// What is executed in the place of `file`, if a relay is to carry it.
///
/// # Safety
/// `args` and `env` are null or lists of C strings that end with a null pointer.
unsafe fn carried(
    file: Option<&PathBuf>,
    args: *const *const c_char,
    env: *const *const c_char,
) -> Option<Carried> {
    // SAFETY: the caller's promise.
    let file = file.filter(|_| unsafe { loads_library(env) })?;
    // SAFETY: the caller's promise.
    let args = unsafe { strings(args) };
    // SAFETY: as above.
    let args: Vec<&CStr> = args.into_iter().map(|arg| unsafe { CStr::from_ptr(arg) }).collect();
    Carried::new(file, &args)
}

/// Will the loader find this library named in `env`, once what is missing there is added?
///
/// # Safety
/// `env` is null or a list of C strings that ends with a null pointer.
unsafe fn keeps_library(env: *const *const c_char) -> bool {
    let own = adopt::surroundings();
    let Some(ours) = own.iter().find(|own| own.to_bytes().starts_with(b"LD_PRELOAD=")) else { return false };
    let library = ours.to_bytes().get(b"LD_PRELOAD=".len()..).unwrap_or(&[]);
    // SAFETY: the caller's promise.
    let given = unsafe { strings(env) };
    // SAFETY: as above.
    let mut given = given.into_iter().map(|one| unsafe { CStr::from_ptr(one) }.to_bytes());
    // Nothing is added to an environment that is no list.
    !env.is_null()
        && given
            .find_map(|one| one.strip_prefix(b"LD_PRELOAD="))
            .is_none_or(|list| !library.is_empty() && list.windows(library.len()).any(|part| part == library))
}

/// Does `env` name this library?
///
/// # Safety
/// `env` is null or a list of C strings that ends with a null pointer.
unsafe fn loads_library(env: *const *const c_char) -> bool {
    // SAFETY: the caller's promise.
    let given = unsafe { strings(env) };
    // SAFETY: as above.
    let named =
        given.into_iter().any(|one| unsafe { CStr::from_ptr(one) }.to_bytes().starts_with(b"LD_PRELOAD="));
    // SAFETY: as above.
    named && unsafe { keeps_library(env) }
}

/// The file that a path names.
///
/// # Safety
/// `path` is null or a C string.
unsafe fn named(path: *const c_char) -> Option<PathBuf> {
    if path.is_null() {
        return None;
    }
    // SAFETY: the caller's promise.
    let name = unsafe { CStr::from_ptr(path) };
    Some(PathBuf::from(OsStr::from_bytes(name.to_bytes())))
}

/// The file that `execvp` finds by a name: the first that may be executed.
///
/// # Safety
/// `name` is null or a C string.
unsafe fn searched(name: *const c_char) -> Option<PathBuf> {
    // SAFETY: the caller's promise.
    let name = unsafe { named(name) }?;
    if name.as_os_str().as_bytes().contains(&b'/') {
        return Some(name);
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/bin:/usr/bin".into());
    let mut files = std::env::split_paths(&path).map(|folder| folder.join(&name));
    files.find(|file| rustix::fs::access(file, rustix::fs::Access::EXEC_OK).is_ok_and(|()| !file.is_dir()))
}

/// The file behind a descriptor.
fn opened(fd: c_int) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{fd}"))
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
    let image = unsafe { named(path) };
    // SAFETY: the C caller's promise.
    unsafe { exec_with(image, args, env, by_kernel) }
}

pub(crate) unsafe fn execv(path: *const c_char, args: *const *const c_char) -> c_int {
    // SAFETY: the C caller's promise, and the environment that is given.
    let by_kernel = |env| unsafe { plain::execve(path, args, env) };
    // SAFETY: the C caller's promise.
    let image = unsafe { named(path) };
    // SAFETY: the C caller's promise.
    unsafe { exec_with(image, args, own_env(), by_kernel) }
}

pub(crate) unsafe fn execvpe(
    file: *const c_char,
    args: *const *const c_char,
    env: *const *const c_char,
) -> c_int {
    // SAFETY: the C caller's promise, and the environment that is given.
    let by_kernel = |env| unsafe { plain::execvpe(file, args, env) };
    // SAFETY: the C caller's promise.
    let image = unsafe { searched(file) };
    // SAFETY: the C caller's promise.
    unsafe { exec_with(image, args, env, by_kernel) }
}

pub(crate) unsafe fn execvp(file: *const c_char, args: *const *const c_char) -> c_int {
    // SAFETY: the C caller's promise, and the environment that is given.
    let by_kernel = |env| unsafe { plain::execvpe(file, args, env) };
    // SAFETY: the C caller's promise.
    let image = unsafe { searched(file) };
    // SAFETY: the C caller's promise.
    unsafe { exec_with(image, args, own_env(), by_kernel) }
}

pub(crate) unsafe fn fexecve(fd: c_int, args: *const *const c_char, env: *const *const c_char) -> c_int {
    // SAFETY: the C caller's promise, and the environment that is given.
    let by_kernel = |env| unsafe { plain::fexecve(fd, args, env) };
    // SAFETY: the C caller's promise.
    unsafe { exec_with(Some(opened(fd)), args, env, by_kernel) }
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
    let file = || {
        // SAFETY: the C caller's promise.
        let name = unsafe { named(path) }?;
        // A path that is absolute stays as it is.
        Some(match dir {
            libc::AT_FDCWD => name,
            // AT_EMPTY_PATH.
            _ if name.as_os_str().is_empty() => opened(dir),
            _ => opened(dir).join(name),
        })
    };
    // SAFETY: the C caller's promise.
    unsafe { exec_with(file(), args, env, by_kernel) }
}

/// As `posix_spawn` of the next library, for a file that is known.
///
/// # Safety
/// As `posix_spawn`'s.
unsafe fn spawn_with(
    file: Option<PathBuf>,
    (pid, actions, attributes): (*mut pid_t, *const c_void, *const c_void),
    (args, env): (*const *const c_char, *const *const c_char),
    by_kernel: impl FnOnce() -> c_int,
) -> c_int {
    // SAFETY: the caller's promise.
    match unsafe { carried(file.as_ref(), args, env) } {
        Some(carried) => {
            let (path, args) = carried.words();
            // SAFETY: the caller's promise, and lists that are alive.
            unsafe { plain::posix_spawn(pid, path, actions, attributes, args, env) }
        }
        None => by_kernel(),
    }
}

pub(crate) unsafe fn posix_spawn(
    pid: *mut pid_t,
    path: *const c_char,
    actions: *const c_void,
    attributes: *const c_void,
    args: *const *const c_char,
    env: *const *const c_char,
) -> c_int {
    // SAFETY: the C caller's promise.
    let by_kernel = || unsafe { plain::posix_spawn(pid, path, actions, attributes, args, env) };
    // SAFETY: the C caller's promise.
    let image = unsafe { named(path) };
    // SAFETY: the C caller's promise.
    unsafe { spawn_with(image, (pid, actions, attributes), (args, env), by_kernel) }
}

pub(crate) unsafe fn posix_spawnp(
    pid: *mut pid_t,
    file: *const c_char,
    actions: *const c_void,
    attributes: *const c_void,
    args: *const *const c_char,
    env: *const *const c_char,
) -> c_int {
    // SAFETY: the C caller's promise.
    let by_kernel = || unsafe { plain::posix_spawnp(pid, file, actions, attributes, args, env) };
    // SAFETY: the C caller's promise.
    let image = unsafe { searched(file) };
    // SAFETY: the C caller's promise.
    unsafe { spawn_with(image, (pid, actions, attributes), (args, env), by_kernel) }
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
