//! The functions we stand in front of: one line each gives the exported symbol, [`real`] for the next library's
//! function of that name, and the body in [`crate::calls`].
//!
//! `fcntl`, `ioctl` and `syscall` are variadic in C; their optional arguments are words where those of a function with a fixed number of them
//! are, on every ABI we support, so fixed words stand for them.
#![allow(clippy::unused_unit)] // what a function without a result returns when it fails

use core::ffi::{c_char, c_int, c_long, c_uint, c_ulong, c_void};

use libc::{
    FILE, epoll_event, fd_set, iovec, mmsghdr, msghdr, nfds_t, off_t, off64_t, pid_t, pollfd, pthread_t,
    sigaction as Action, sighandler_t, siginfo_t, sigset_t, size_t, sockaddr, socklen_t, ssize_t, timespec,
    timeval,
};

use crate::boundary::{Next, guard, is_inside, outside};
use crate::{calls, cancel};

/// What a function without a result returns.
type Nothing = ();

macro_rules! interpose {
    ($($name:ident($($arg:ident: $kind:ty),*) -> $ret:ty = $fail:expr => $body:path
        $(, direct if $kernels:path: $($which:ident)+ $(, then $after:path: $($from:ident)+)?)?;)*) => {
        mod next {
            use super::Next;
            $(#[allow(non_upper_case_globals)]
            pub(super) static $name: Next = {
                match core::ffi::CStr::from_bytes_with_nul(concat!(stringify!($name), "\0").as_bytes()) {
                    Ok(name) => Next::new(name),
                    Err(_) => Next::new(c""),
                }
            };)*
        }

        /// Looks up the next library's functions.
        pub(crate) fn resolve_all() {
            $(next::$name.get();)*
        }

        /// The next library's functions, in which a thread can be cancelled. ENOSYS for one that it does not have.
        mod straight {
            use super::*;

            $(
            #[inline]
            #[allow(non_snake_case, clippy::too_many_arguments)] // as in C
            pub(super) unsafe fn $name($($arg: $kind),*) -> $ret {
                let found = next::$name.get();
                if found.is_null() {
                    crate::errno::set(crate::errno::Errno(libc::ENOSYS));
                    return $fail;
                }
                // SAFETY: the symbol of this name has this C signature.
                let call: unsafe extern "C-unwind" fn($($kind),*) -> $ret = unsafe { core::mem::transmute(found) };
                // SAFETY: the caller keeps the C function's rules.
                unsafe { call($($arg),*) }
            }
            )*
        }

        /// The next library's functions, in which no thread is cancelled.
        pub(crate) mod real {
            use super::*;

            $(#[doc = concat!("The next library's `", stringify!($name), "`.")]
            ///
            /// # Safety
            /// As the C function's.
            #[allow(dead_code, non_snake_case, clippy::too_many_arguments)] // as in C; not all are called from here
            pub(crate) unsafe fn $name($($arg: $kind),*) -> $ret {
                // SAFETY: the caller keeps the C function's rules.
                cancel::unmoved(const { cancel::is_point(stringify!($name)) }, || unsafe { straight::$name($($arg),*) })
            })*
        }

        /// The next library's functions on the program's behalf, when a call is not for a lane: signal handlers run meanwhile, as they may in the
        /// kernel's call. The caller holds no lock of ours.
        pub(crate) mod plain {
            use super::*;

            $(#[doc = concat!("The next library's `", stringify!($name), "`, as the program would call it.")]
            ///
            /// # Safety
            /// As the C function's.
            #[allow(dead_code, non_snake_case, clippy::too_many_arguments)] // as in C; not all are called from here
            pub(crate) unsafe fn $name($($arg: $kind),*) -> $ret {
                // SAFETY: the caller keeps the C function's rules.
                outside(|| unsafe { real::$name($($arg),*) })
            })*
        }

        $(exported! { $name($($arg: $kind),*) -> $ret = $fail => $body
            $(, direct if $kernels: $($which)+ $(, then $after: $($from)+)?)? })*
    };
}

/// The exported function. `direct if KERNELS: ARGS`: where that says yes of those arguments, the call is glibc's at once, so that the thread can be cancelled in
/// it; `then AFTER: ARGS` hears of what came of it.
macro_rules! exported {
    ($name:ident($($arg:ident: $kind:ty),*) -> $ret:ty = $fail:expr => $body:path
        $(, direct if $kernels:path: $($which:ident)+ $(, then $after:path: $($from:ident)+)?)?) => {
        #[doc = concat!("`", stringify!($name), "` as the program calls it.")]
        ///
        /// # Safety
        /// As the C function's: pointers are valid for what it reads and writes.
        #[allow(non_snake_case, unreachable_pub, clippy::unused_unit, clippy::too_many_arguments)] // as in C; exported by name
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C-unwind" fn $name($($arg: $kind),*) -> $ret {
            // SAFETY: the caller keeps the C function's rules.
            let _straight = || unsafe { straight::$name($($arg),*) };
            // SAFETY: as above.
            $(if unsafe { $kernels($($which),+) } && !is_inside() {
                let result = _straight();
                // SAFETY: as above.
                $(guard((), || unsafe { $after(result, $($from),+) });)?
                return result;
            })?
            // SAFETY: as above.
            let result = guard($fail, || unsafe { $body($($arg),*) });
            if const { cancel::is_point(stringify!($name)) } {
                cancel::leave_if_due();
            }
            result
        }
    };
}

interpose! {
    socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int = -1 => calls::socket::socket;
    bind(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int = -1 => calls::socket::bind;
    listen(fd: c_int, backlog: c_int) -> c_int = -1 => calls::socket::listen;
    accept(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int = -1 => calls::socket::accept;
    accept4(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int = -1 => calls::socket::accept4;
    connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int = -1 => calls::socket::connect;
    shutdown(fd: c_int, how: c_int) -> c_int = -1 => calls::socket::shutdown;
    getsockname(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int = -1 => calls::socket::getsockname;
    getpeername(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int = -1 => calls::socket::getpeername;
    getsockopt(fd: c_int, level: c_int, name: c_int, value: *mut c_void, len: *mut socklen_t) -> c_int = -1
        => calls::options::getsockopt;
    setsockopt(fd: c_int, level: c_int, name: c_int, value: *const c_void, len: socklen_t) -> c_int = -1
        => calls::options::setsockopt;

    read(fd: c_int, buf: *mut c_void, n: size_t) -> ssize_t = -1 => calls::data::read, direct if calls::direct::one: fd;
    __read_chk(fd: c_int, buf: *mut c_void, n: size_t, room: size_t) -> ssize_t = -1 => calls::data::__read_chk, direct if calls::direct::one: fd;
    readv(fd: c_int, parts: *const iovec, n: c_int) -> ssize_t = -1 => calls::data::readv, direct if calls::direct::one: fd;
    recv(fd: c_int, buf: *mut c_void, n: size_t, flags: c_int) -> ssize_t = -1 => calls::data::recv, direct if calls::direct::one: fd;
    __recv_chk(fd: c_int, buf: *mut c_void, n: size_t, room: size_t, flags: c_int) -> ssize_t = -1
        => calls::data::__recv_chk, direct if calls::direct::one: fd;
    recvfrom(fd: c_int, buf: *mut c_void, n: size_t, flags: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> ssize_t
        = -1 => calls::data::recvfrom, direct if calls::direct::one: fd;
    __recvfrom_chk(fd: c_int, buf: *mut c_void, n: size_t, room: size_t, flags: c_int, addr: *mut sockaddr,
        len: *mut socklen_t) -> ssize_t = -1 => calls::data::__recvfrom_chk, direct if calls::direct::one: fd;
    recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t = -1 => calls::data::recvmsg, direct if calls::direct::one: fd,
        then calls::data::received: message;
    recvmmsg(fd: c_int, messages: *mut mmsghdr, n: c_uint, flags: c_int, timeout: *mut timespec) -> c_int = -1
        => calls::bulk::recvmmsg;
    write(fd: c_int, buf: *const c_void, n: size_t) -> ssize_t = -1 => calls::data::write, direct if calls::direct::one: fd;
    writev(fd: c_int, parts: *const iovec, n: c_int) -> ssize_t = -1 => calls::data::writev, direct if calls::direct::one: fd;
    send(fd: c_int, buf: *const c_void, n: size_t, flags: c_int) -> ssize_t = -1 => calls::data::send, direct if calls::direct::one: fd;
    sendto(fd: c_int, buf: *const c_void, n: size_t, flags: c_int, addr: *const sockaddr, len: socklen_t) -> ssize_t
        = -1 => calls::data::sendto, direct if calls::direct::one: fd;
    sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t = -1 => calls::data::sendmsg;
    sendmmsg(fd: c_int, messages: *mut mmsghdr, n: c_uint, flags: c_int) -> c_int = -1 => calls::bulk::sendmmsg;
    sendfile(out: c_int, from: c_int, offset: *mut off_t, n: size_t) -> ssize_t = -1 => calls::bulk::sendfile;
    sendfile64(out: c_int, from: c_int, offset: *mut off64_t, n: size_t) -> ssize_t = -1 => calls::bulk::sendfile64;
    splice(from: c_int, from_at: *mut off64_t, to: c_int, to_at: *mut off64_t, n: size_t, flags: c_uint) -> ssize_t = -1
        => calls::bulk::splice;

    close(fd: c_int) -> c_int = -1 => calls::fds::close;
    close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int = -1 => calls::fds::close_range;
    fclose(file: *mut FILE) -> c_int = libc::EOF => calls::fds::fclose;
    closefrom(first: c_int) -> Nothing = () => calls::fds::closefrom;
    fdopen(fd: c_int, mode: *const c_char) -> *mut FILE = core::ptr::null_mut() => calls::stdio::fdopen;
    vdprintf(fd: c_int, format: *const c_char, list: *mut c_void) -> c_int = -1 => calls::stdio::vdprintf;
    __vdprintf_chk(fd: c_int, flag: c_int, format: *const c_char, list: *mut c_void) -> c_int = -1
        => calls::stdio::__vdprintf_chk;
    posix_spawn_file_actions_adddup2(actions: *mut c_void, fd: c_int, to: c_int) -> c_int = libc::ENOSYS
        => calls::stdio::posix_spawn_file_actions_adddup2;
    dup(fd: c_int) -> c_int = -1 => calls::fds::dup;
    dup2(fd: c_int, to: c_int) -> c_int = -1 => calls::fds::dup2;
    dup3(fd: c_int, to: c_int, flags: c_int) -> c_int = -1 => calls::fds::dup3;
    fcntl(fd: c_int, command: c_int, arg: c_ulong) -> c_int = -1 => calls::fds::fcntl;
    fcntl64(fd: c_int, command: c_int, arg: c_ulong) -> c_int = -1 => calls::fds::fcntl64;
    ioctl(fd: c_int, request: c_ulong, arg: *mut c_void) -> c_int = -1 => calls::fds::ioctl;

    poll(fds: *mut pollfd, n: nfds_t, timeout_ms: c_int) -> c_int = -1 => calls::poll::poll, direct if calls::direct::all: fds n;
    __poll_chk(fds: *mut pollfd, n: nfds_t, timeout_ms: c_int, room: size_t) -> c_int = -1 => calls::poll::__poll_chk, direct if calls::direct::all: fds n;
    ppoll(fds: *mut pollfd, n: nfds_t, timeout: *const timespec, mask: *const sigset_t) -> c_int = -1
        => calls::poll::ppoll, direct if calls::direct::all: fds n;
    __ppoll_chk(fds: *mut pollfd, n: nfds_t, timeout: *const timespec, mask: *const sigset_t, room: size_t) -> c_int
        = -1 => calls::poll::__ppoll_chk, direct if calls::direct::all: fds n;
    select(n: c_int, reads: *mut fd_set, writes: *mut fd_set, errors: *mut fd_set, timeout: *mut timeval) -> c_int = -1
        => calls::select::select, direct if calls::direct::below: n;
    pselect(n: c_int, reads: *mut fd_set, writes: *mut fd_set, errors: *mut fd_set, timeout: *const timespec,
        mask: *const sigset_t) -> c_int = -1 => calls::select::pselect, direct if calls::direct::below: n;

    epoll_create(size: c_int) -> c_int = -1 => calls::epoll::epoll_create;
    epoll_create1(flags: c_int) -> c_int = -1 => calls::epoll::epoll_create1;
    epoll_ctl(epfd: c_int, op: c_int, fd: c_int, event: *mut epoll_event) -> c_int = -1 => calls::epoll::epoll_ctl;
    epoll_wait(epfd: c_int, events: *mut epoll_event, max: c_int, timeout_ms: c_int) -> c_int = -1
        => calls::epoll::epoll_wait;
    epoll_pwait(epfd: c_int, events: *mut epoll_event, max: c_int, timeout_ms: c_int, mask: *const sigset_t) -> c_int
        = -1 => calls::epoll::epoll_pwait;
    epoll_pwait2(epfd: c_int, events: *mut epoll_event, max: c_int, timeout: *const timespec, mask: *const sigset_t)
        -> c_int = -1 => calls::epoll::epoll_pwait2;

    syscall(number: c_long, a: c_long, b: c_long, c: c_long, d: c_long, e: c_long, f: c_long) -> c_long = -1
        => calls::raw::syscall;
    execve(path: *const c_char, args: *const *const c_char, env: *const *const c_char) -> c_int = -1
        => calls::process::execve;
    execv(path: *const c_char, args: *const *const c_char) -> c_int = -1 => calls::process::execv;
    execvp(file: *const c_char, args: *const *const c_char) -> c_int = -1 => calls::process::execvp;
    execvpe(file: *const c_char, args: *const *const c_char, env: *const *const c_char) -> c_int = -1
        => calls::process::execvpe;
    fexecve(fd: c_int, args: *const *const c_char, env: *const *const c_char) -> c_int = -1
        => calls::process::fexecve;
    execveat(dir: c_int, path: *const c_char, args: *const *const c_char, env: *const *const c_char, flags: c_int)
        -> c_int = -1 => calls::process::execveat;
    posix_spawn(pid: *mut pid_t, path: *const c_char, actions: *const c_void, attributes: *const c_void,
        args: *const *const c_char, env: *const *const c_char) -> c_int = libc::EAGAIN => calls::process::posix_spawn;
    posix_spawnp(pid: *mut pid_t, file: *const c_char, actions: *const c_void, attributes: *const c_void,
        args: *const *const c_char, env: *const *const c_char) -> c_int = libc::EAGAIN => calls::process::posix_spawnp;
    corelane_execle(path: *const c_char, args: *const *const c_char) -> c_int = -1
        => calls::process::corelane_execle;
    sigaction(signal: c_int, new: *const Action, old: *mut Action) -> c_int = -1 => calls::signals::sigaction;
    __sigaction(signal: c_int, new: *const Action, old: *mut Action) -> c_int = -1 => calls::signals::sigaction;
    signal(signal: c_int, handler: sighandler_t) -> sighandler_t = libc::SIG_ERR => calls::signals::signal;
    bsd_signal(signal: c_int, handler: sighandler_t) -> sighandler_t = libc::SIG_ERR => calls::signals::signal;
    ssignal(signal: c_int, handler: sighandler_t) -> sighandler_t = libc::SIG_ERR => calls::signals::signal;
    sysv_signal(signal: c_int, handler: sighandler_t) -> sighandler_t = libc::SIG_ERR => calls::signals::sysv_signal;
    __sysv_signal(signal: c_int, handler: sighandler_t) -> sighandler_t = libc::SIG_ERR
        => calls::signals::sysv_signal;
    sigtimedwait(set: *const sigset_t, info: *mut siginfo_t, limit: *const timespec) -> c_int = -1
        => calls::signals::sigtimedwait, direct if calls::direct::always: set, then calls::signals::received: info;
    sigwaitinfo(set: *const sigset_t, info: *mut siginfo_t) -> c_int = -1
        => calls::signals::sigwaitinfo, direct if calls::direct::always: set, then calls::signals::received: info;
    siginterrupt(signal: c_int, on: c_int) -> c_int = -1 => calls::signals::siginterrupt;
    pthread_cancel(thread: pthread_t) -> c_int = libc::ESRCH => cancel::cancel;
    vfork() -> pid_t = -1 => calls::process::vfork;
    _exit(status: c_int) -> Nothing = () => calls::process::_exit;
    _Exit(status: c_int) -> Nothing = () => calls::process::_exit;
}
