//! `socket`, `bind`, `listen`, `accept`, `connect`, `shutdown` and the names of both ends.

use core::ffi::c_int;

use libc::{sockaddr, socklen_t};

use super::data::connection;
use crate::address::Named;
use crate::errno::{self, Errno};
use crate::interpose::plain;
use crate::reason::Reason;
use crate::sock::{Sock, State, flag};
use crate::table::{self, Entry};
use crate::user::Parts;
use crate::{
    address, ao, connect as connecting, deferred, fast_open, home, listen as listening, stream, zerocopy,
};

pub(crate) unsafe fn socket(domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    if is_tcp(kind, protocol)
        && let Some(fd) = deferred::open(domain, kind)
    {
        return fd;
    }
    // SAFETY: the C caller's promise.
    let fd = unsafe { plain::socket(domain, kind, protocol) };
    if fd >= 0 {
        note(fd, domain, kind, protocol);
    }
    fd
}

fn is_tcp(kind: c_int, protocol: c_int) -> bool {
    let base_kind = kind & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC);
    base_kind == libc::SOCK_STREAM && (protocol == 0 || protocol == libc::IPPROTO_TCP)
}

/// Enters a new socket into the table.
fn note(fd: c_int, domain: c_int, kind: c_int, protocol: c_int) {
    let inet = domain == libc::AF_INET || domain == libc::AF_INET6;
    if !inet || !table::fits(fd) || !home::active() {
        return;
    }
    let base_kind = kind & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC);
    let entry = if base_kind == libc::SOCK_DGRAM {
        Entry::Kernel(Reason::Udp)
    } else if !is_tcp(kind, protocol) {
        Entry::Kernel(Reason::Protocol)
    } else {
        let mut flags = 0;
        if kind & libc::SOCK_NONBLOCK != 0 {
            flags |= flag::NONBLOCK;
        }
        if domain == libc::AF_INET6 {
            flags |= flag::V6;
        }
        Entry::Sock(Sock::new(State::Undecided, flags))
    };
    drop(table::replace(fd, entry));
}

pub(crate) unsafe fn bind(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
    if connection(fd).is_some() {
        return errno::small(Err(Errno(libc::EINVAL)));
    }
    // SAFETY: the C caller's promise.
    let result = unsafe { plain::bind(fd, addr, len) };
    if result == 0
        && let Some(sock) = table::sock(fd)
    {
        sock.put(flag::BOUND, true);
    }
    result
}

pub(crate) unsafe fn listen(fd: c_int, backlog: c_int) -> c_int {
    if connection(fd).is_some() {
        return errno::small(Err(Errno(libc::EINVAL)));
    }
    // SAFETY: the C caller's promise.
    let result = unsafe { plain::listen(fd, backlog) };
    if result == 0
        && let Some(sock) = table::sock(fd)
        && sock.state() != State::Kernel
    {
        listening::begin(&sock, fd, backlog);
    }
    result
}

pub(crate) unsafe fn accept(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int {
    // SAFETY: the C caller's promise.
    unsafe { accept4(fd, addr, len, 0) }
}

pub(crate) unsafe fn accept4(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t, flags: c_int) -> c_int {
    // SAFETY: the C caller's promise.
    let by_kernel = || unsafe { plain::accept4(fd, addr, len, flags) };
    let Some(sock) = table::sock(fd) else {
        return by_kernel();
    };
    match sock.state() {
        State::Listening => {}
        State::Stream => return errno::small(Err(Errno(libc::EINVAL))),
        State::Undecided | State::Kernel => return by_kernel(),
    }
    if flags & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) != 0 {
        return errno::small(Err(Errno(libc::EINVAL)));
    }
    errno::small(listening::accept(&sock, fd, flags, by_kernel).map(|arrival| {
        if let Some(remote) = arrival.remote {
            // SAFETY: the C caller's promise.
            unsafe { address::write(remote, arrival.scope, addr, len) };
        }
        arrival.fd
    }))
}

pub(crate) unsafe fn connect(fd: c_int, addr: *const sockaddr, len: socklen_t) -> c_int {
    // SAFETY: the C caller's promise.
    let by_kernel = || unsafe { plain::connect(fd, addr, len) };
    let Some(sock) = table::sock_as_is(fd) else {
        return by_kernel();
    };
    match sock.state() {
        State::Stream => match sock.stream() {
            Some(seat) => errno::small(connecting::again(&sock, seat).map(|()| 0)),
            None => errno::small(Err(Errno(libc::EBADF))),
        },
        State::Listening | State::Kernel => by_kernel(),
        State::Undecided => {
            // SAFETY: the C caller's promise.
            let named = unsafe { address::read(addr, len) };
            if let Some(errno) = ao::refusal(&sock, &named) {
                return errno::small(Err(errno));
            }
            match connecting::over_lane(&sock, fd, &named, sock.has(flag::FAST_CONNECT)) {
                Ok(()) => {
                    deferred::learn(true);
                    match sock.stream() {
                        // As the kernel: the first write connects.
                        Some(_) if sock.has(flag::FAST_FIRST) => 0,
                        Some(seat) => errno::small(connecting::finish(&sock, seat).map(|()| 0)),
                        None => errno::small(Err(Errno(libc::EBADF))),
                    }
                }
                // The kernel could connect only without signatures.
                Err(_) if ao::is_for_lanes_only(&sock.inner()) => errno::small(Err(Errno(libc::ENOPROTOOPT))),
                Err(reason) => {
                    deferred::learn(false);
                    if let Err(errno) = deferred::make(&sock, fd) {
                        return errno::small(Err(errno));
                    }
                    drop(table::replace(fd, Entry::Kernel(reason)));
                    by_kernel()
                }
            }
        }
    }
}

/// A call with MSG_FASTOPEN and an address: connects the socket behind `fd` over a lane and sends. `None`: the kernel shall do it.
///
/// # Safety
/// `addr` names `len` bytes.
pub(super) unsafe fn send_fast(
    fd: c_int,
    (addr, len): (*const sockaddr, socklen_t),
    parts: &Parts<'_>,
    flags: c_int,
) -> Option<Result<usize, Errno>> {
    let sock = table::sock_as_is(fd).filter(|sock| sock.state() == State::Undecided)?;
    // SAFETY: the caller's promise.
    let named = unsafe { address::read(addr, len) };
    if let Some(errno) = ao::refusal(&sock, &named) {
        return Some(Err(errno));
    }
    let over = match named {
        // The kernel says what is wrong.
        Named::Other => None,
        Named::V4(_) | Named::V6(..) => Some(connecting::over_lane(&sock, fd, &named, true)),
    };
    if let Some(over) = &over {
        deferred::learn(over.is_ok());
    }
    match over {
        Some(Ok(())) => {
            let seat = sock.stream().ok_or(Errno(libc::EBADF));
            let sent = seat.and_then(|seat| fast_open::send_first(&sock, seat, parts, flags));
            zerocopy::sent(&sock, flags, &sent);
            return Some(sent);
        }
        Some(Err(_)) if ao::is_for_lanes_only(&sock.inner()) => return Some(Err(Errno(libc::ENOPROTOOPT))),
        Some(Err(_)) | None => {
            if let Err(errno) = deferred::make(&sock, fd) {
                return Some(Err(errno));
            }
        }
    }
    if let Some(Err(reason)) = over {
        drop(table::replace(fd, Entry::Kernel(reason)));
    }
    None
}

pub(crate) unsafe fn shutdown(fd: c_int, how: c_int) -> c_int {
    let Some((sock, seat)) = connection(fd) else {
        // SAFETY: the C caller's promise.
        return unsafe { plain::shutdown(fd, how) };
    };
    errno::small(stream::shutdown(&sock, seat, how).map(|()| 0))
}

pub(crate) unsafe fn getsockname(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int {
    let Some((sock, seat)) = connection(fd) else {
        // SAFETY: the C caller's promise.
        return unsafe { plain::getsockname(fd, addr, len) };
    };
    let local = sock.inner().local;
    // SAFETY: the C caller's promise.
    unsafe { address::write(local, stream::scope(&sock, seat), addr, len) };
    0
}

pub(crate) unsafe fn getpeername(fd: c_int, addr: *mut sockaddr, len: *mut socklen_t) -> c_int {
    let Some((sock, seat)) = connection(fd) else {
        // SAFETY: the C caller's promise.
        return unsafe { plain::getpeername(fd, addr, len) };
    };
    if !stream::is_connected(&sock, seat) {
        return errno::small(Err(Errno(libc::ENOTCONN)));
    }
    let remote = sock.inner().remote;
    // SAFETY: the C caller's promise.
    unsafe { address::write(remote, stream::scope(&sock, seat), addr, len) };
    0
}
