//! `close`, duplicates, flags and `ioctl`.

use core::ffi::{c_int, c_uint, c_ulong, c_void};

use crate::errno::{self, Errno};
use crate::interpose::plain;
use crate::object::Handle;
use crate::sock::{Seat, Sock, State, flag};
use crate::table::{self, Entry};
use crate::{entrust, owner, park, stream, urgent, user};

const EBADF: Errno = Errno(libc::EBADF);

pub(crate) unsafe fn close(fd: c_int) -> c_int {
    if table::is_foreign(fd) {
        // SAFETY: the program closes its own descriptor.
        return unsafe { plain::close(fd) };
    }
    match table::get_as_is(fd) {
        Entry::Internal | Entry::Parked => errno::small(Err(EBADF)),
        Entry::Sock(sock) if is_parkable(&sock) => {
            // Parked first, so that whoever takes it from the list finds it so.
            drop(table::replace(fd, Entry::Parked));
            if park::keep(fd, sock.has(flag::CLOEXEC)) {
                return 0;
            }
            really_close(fd)
        }
        Entry::Foreign | Entry::Kernel(_) | Entry::Sock(_) | Entry::Epoll(_) => really_close(fd),
    }
}

fn is_parkable(sock: &Sock) -> bool {
    sock.has(flag::PLACEHOLDER) && !sock.has(flag::ODD_FD)
}

/// stdio closes the descriptor by a path that does not come through [`close`].
pub(crate) unsafe fn fclose(file: *mut libc::FILE) -> c_int {
    if !file.is_null() && table::highest() >= 0 {
        // SAFETY: the program's own open stream.
        let fd = unsafe { libc::fileno(file) };
        if !table::is_foreign(fd) {
            drop(table::replace(fd, Entry::Foreign));
        }
    }
    // SAFETY: the C caller's promise.
    unsafe { plain::fclose(file) }
}

/// Forgets and closes. In this order: once closed, the number may be another's.
fn really_close(fd: c_int) -> c_int {
    drop(table::replace(fd, Entry::Foreign));
    // SAFETY: the program closes its own descriptor.
    unsafe { plain::close(fd) }
}

pub(crate) unsafe fn close_range(first: c_uint, last: c_uint, flags: c_int) -> c_int {
    const CLOEXEC: c_int = 1 << 2;
    if first > last || flags & CLOEXEC != 0 {
        // SAFETY: the C caller's promise; close-on-exec does not concern us, ours all have it.
        return unsafe { plain::close_range(first, last, flags) };
    }
    // Ours stay; what lies between them goes in ranges.
    let mut from = first;
    let highest = c_uint::try_from(table::highest()).map_or(0, |h| h.saturating_add(1));
    for fd in first..=last.min(highest) {
        let is_ours = match table::get_as_is(fd as c_int) {
            Entry::Internal | Entry::Parked => true,
            Entry::Foreign => continue,
            Entry::Kernel(_) | Entry::Sock(_) | Entry::Epoll(_) => {
                drop(table::replace(fd as c_int, Entry::Foreign));
                false
            }
        };
        if is_ours {
            if fd > from {
                // SAFETY: the program closes its own descriptors.
                unsafe { plain::close_range(from, fd - 1, flags) };
            }
            from = fd + 1;
        }
    }
    if from > last {
        return 0;
    }
    // SAFETY: as above.
    unsafe { plain::close_range(from, last, flags) }
}

pub(crate) unsafe fn closefrom(first: c_int) {
    // SAFETY: the C caller's promise.
    unsafe { close_range(first.max(0) as c_uint, c_uint::MAX, 0) };
}

/// Another reference for another descriptor of the same thing.
fn copy_of(fd: c_int) -> Entry {
    match table::get(fd) {
        Entry::Internal | Entry::Parked => Entry::Foreign,
        entry => entry,
    }
}

/// `new` now stands for what `fd` does. The descriptors of a connection with duplicates are not kept on close.
fn became_copy(fd: c_int, new: c_int) -> c_int {
    if new < 0 {
        return new;
    }
    let entry = copy_of(fd);
    if let Entry::Sock(sock) = &entry {
        sock.put(flag::ODD_FD, true);
    }
    if !matches!(entry, Entry::Foreign) || !table::is_foreign(new) {
        drop(table::replace(new, entry));
    }
    // After the copy: whether it came to such a number is known only now.
    entrust::to_number(fd, new);
    new
}

fn is_hidden(fd: c_int) -> bool {
    !table::is_foreign(fd) && matches!(table::get_as_is(fd), Entry::Internal | Entry::Parked)
}

/// `fd` goes to the kernel now: it has its own kernel socket there, if it is not a lane's.
fn settle(fd: c_int) {
    drop(table::get(fd));
}

fn is_internal(fd: c_int) -> bool {
    !table::is_foreign(fd) && matches!(table::get_as_is(fd), Entry::Internal)
}

pub(crate) unsafe fn dup(fd: c_int) -> c_int {
    if is_hidden(fd) {
        return errno::small(Err(EBADF));
    }
    settle(fd);
    // SAFETY: the C caller's promise.
    became_copy(fd, unsafe { plain::dup(fd) })
}

pub(crate) unsafe fn dup2(fd: c_int, to: c_int) -> c_int {
    if is_hidden(fd) {
        return errno::small(Err(EBADF));
    }
    if is_internal(to) && fd != to {
        // dup2(2) has this error for a number that is just being opened.
        return errno::small(Err(Errno(libc::EBUSY)));
    }
    settle(fd);
    entrust::to_number(fd, to);
    // SAFETY: the C caller's promise.
    let new = unsafe { plain::dup2(fd, to) };
    if fd == to { new } else { became_copy(fd, new) }
}

pub(crate) unsafe fn dup3(fd: c_int, to: c_int, flags: c_int) -> c_int {
    if is_hidden(fd) {
        return errno::small(Err(EBADF));
    }
    if is_internal(to) {
        return errno::small(Err(Errno(libc::EBUSY)));
    }
    settle(fd);
    entrust::to_number(fd, to);
    // SAFETY: the C caller's promise.
    became_copy(fd, unsafe { plain::dup3(fd, to, flags) })
}

pub(crate) unsafe fn fcntl(fd: c_int, command: c_int, arg: c_ulong) -> c_int {
    // SAFETY: the C caller's promise.
    let by_kernel = || unsafe { plain::fcntl(fd, command, arg) };
    fcntl_with(fd, command, arg, by_kernel)
}

pub(crate) unsafe fn fcntl64(fd: c_int, command: c_int, arg: c_ulong) -> c_int {
    // SAFETY: the C caller's promise.
    let by_kernel = || unsafe { plain::fcntl64(fd, command, arg) };
    fcntl_with(fd, command, arg, by_kernel)
}

fn fcntl_with(fd: c_int, command: c_int, arg: c_ulong, by_kernel: impl FnOnce() -> c_int) -> c_int {
    if table::is_foreign(fd) {
        return by_kernel();
    }
    if is_hidden(fd) {
        return errno::small(Err(EBADF));
    }
    if command == libc::F_DUPFD || command == libc::F_DUPFD_CLOEXEC {
        settle(fd);
        return became_copy(fd, by_kernel());
    }
    let Some(sock) = table::sock_as_is(fd) else { return by_kernel() };
    match command {
        libc::F_GETFD => by_kernel(),
        libc::F_GETFL => status_flags(&sock, by_kernel),
        libc::F_SETFL => set_status_flags(&sock, fd, arg, by_kernel),
        libc::F_SETFD => {
            sock.put(flag::ODD_FD, true);
            by_kernel()
        }
        _ if owner::is_command(command) => {
            settle(fd);
            // SAFETY: the C caller's promise for these commands.
            unsafe { owner::fcntl(&sock, (fd, command, arg), by_kernel) }
        }
        _ => {
            settle(fd);
            by_kernel()
        }
    }
}

fn status_flags(sock: &Handle<Sock>, by_kernel: impl FnOnce() -> c_int) -> c_int {
    let told = if sock.has(flag::PLACEHOLDER) { libc::O_RDWR } else { by_kernel() };
    if told < 0 {
        return told;
    }
    let told = if sock.has(flag::NONBLOCK) { told | libc::O_NONBLOCK } else { told & !libc::O_NONBLOCK };
    match (sock.state() == State::Stream, owner::is_async(sock)) {
        (false, _) => told,
        (true, false) => told & !libc::O_ASYNC,
        (true, true) => told | libc::O_ASYNC,
    }
}

fn set_status_flags(
    sock: &Handle<Sock>,
    fd: c_int,
    arg: c_ulong,
    by_kernel: impl FnOnce() -> c_int,
) -> c_int {
    let nonblocking = arg as c_int & libc::O_NONBLOCK != 0;
    let is_async = arg as c_int & libc::O_ASYNC != 0;
    if is_async {
        settle(fd);
    }
    // The placeholder's kernel socket is shared by all of them, and a lane's connection never uses its own.
    let result = if sock.state() == State::Stream {
        errno::small(owner::set_async(sock, fd, is_async))
    } else if sock.has(flag::DEFERRED) {
        0
    } else if sock.has(flag::FORCED) {
        // SAFETY: no memory involved.
        unsafe { plain::fcntl(fd, libc::F_SETFL, arg | libc::O_NONBLOCK as c_ulong) }
    } else {
        by_kernel()
    };
    if result >= 0 {
        sock.put(flag::NONBLOCK, nonblocking);
    }
    if sock.state() != State::Stream && (is_async || sock.has(flag::SIGNALS)) {
        return owner::followed(sock, fd, result);
    }
    result
}

pub(crate) unsafe fn ioctl(fd: c_int, request: c_ulong, arg: *mut c_void) -> c_int {
    // SAFETY: the C caller's promise.
    let by_kernel = || unsafe { plain::ioctl(fd, request, arg) };
    let Some(sock) = table::sock_as_is(fd) else {
        return if is_hidden(fd) { errno::small(Err(EBADF)) } else { by_kernel() };
    };
    if request == libc::FIONBIO as c_ulong {
        // SAFETY: FIONBIO takes an int.
        let on = unsafe { user::load(arg.cast::<c_int>()) };
        return match on {
            Some(on) => set_nonblocking(&sock, on != 0, by_kernel),
            None => errno::small(Err(Errno(libc::EFAULT))),
        };
    }
    if request == libc::FIOCLEX as c_ulong || request == libc::FIONCLEX as c_ulong {
        sock.put(flag::ODD_FD, true);
        return by_kernel();
    }
    settle(fd);
    let changes_async = request == libc::FIOASYNC as c_ulong;
    let Some(seat) = sock.stream() else {
        let result = by_kernel();
        let changes = changes_async || owner::is_request(request);
        return if changes { owner::followed(&sock, fd, result) } else { result };
    };
    if changes_async {
        // SAFETY: FIOASYNC takes an int.
        let on = unsafe { user::load(arg.cast::<c_int>()) }.ok_or(Errno(libc::EFAULT));
        return errno::small(on.and_then(|on| owner::set_async(&sock, fd, on != 0)));
    }
    // SAFETY: the requests that are answered take an int.
    unsafe { ioctl_stream(&sock, seat, request, arg.cast(), by_kernel) }
}

fn set_nonblocking(sock: &Sock, on: bool, by_kernel: impl FnOnce() -> c_int) -> c_int {
    let kept = sock.state() == State::Stream || sock.has(flag::FORCED | flag::DEFERRED);
    let result = if kept { 0 } else { by_kernel() };
    if result >= 0 {
        sock.put(flag::NONBLOCK, on);
    }
    result
}

/// # Safety
/// `arg` is null or names an int.
unsafe fn ioctl_stream(
    sock: &Handle<Sock>,
    seat: Seat,
    request: c_ulong,
    arg: *mut c_int,
    by_kernel: impl FnOnce() -> c_int,
) -> c_int {
    const SIOCOUTQNSD: c_ulong = 0x894b;
    const SIOCATMARK: c_ulong = 0x8905;
    let number = if request == libc::FIONREAD as c_ulong {
        stream::unread(sock, seat)
    } else if request == libc::TIOCOUTQ as c_ulong {
        stream::with(sock, seat, |engine| engine.unacked_bytes(seat.name))
    } else if request == SIOCOUTQNSD {
        stream::with(sock, seat, |engine| engine.unsent_bytes(seat.name))
    } else if request == SIOCATMARK {
        urgent::at_mark(sock, seat)
    } else if owner::names(request) {
        Ok(owner::named(sock, seat) as u32)
    } else if owner::is_request(request) {
        // SAFETY: the caller's promise.
        let given = unsafe { user::load(arg) }.ok_or(Errno(libc::EFAULT));
        return errno::small(given.and_then(|given| owner::set_named(sock, given)));
    } else {
        return by_kernel();
    };
    errno::small(number.map(|n| {
        // SAFETY: the caller's promise.
        unsafe { user::store(arg, n as c_int) };
        0
    }))
}
