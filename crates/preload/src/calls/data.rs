//! `read`, `write` and their relatives.

use core::ffi::{c_int, c_void};

use libc::{iovec, msghdr, size_t, sockaddr, socklen_t, ssize_t};

use super::socket::send_fast;
use crate::errno::{self, Errno, Outcome};
use crate::interpose::plain;
use crate::object::Handle;
use crate::sock::{Seat, Sock};
use crate::user::{self, Parts, part};
use crate::{adopt, entrust, stream, table, urgent, zerocopy};

/// The lane's connection behind `fd`.
pub(super) fn connection(fd: c_int) -> Option<(Handle<Sock>, Seat)> {
    let sock = table::sock(fd)?;
    let seat = sock.stream()?;
    Some((sock, seat))
}

/// `outcome` of a call on a lane's connection, or `by_kernel` if another thread has handed the connection over to the kernel meanwhile.
fn count_or(
    of: &(Handle<Sock>, Seat),
    outcome: Outcome<usize>,
    by_kernel: impl FnOnce() -> ssize_t,
) -> ssize_t {
    if outcome == Err(Errno(libc::EBADF)) && of.0.is_entrusted() {
        by_kernel()
    } else {
        errno::count(outcome)
    }
}

/// # Safety
/// As `recv`'s.
unsafe fn recv_one(
    fd: c_int,
    of: &(Handle<Sock>, Seat),
    buf: *mut c_void,
    n: size_t,
    flags: c_int,
) -> ssize_t {
    let list = part(buf, n);
    // SAFETY: the caller's buffer.
    let parts = unsafe { Parts::new(&list) };
    // SAFETY: the caller's promise.
    count_or(of, stream::recv(&of.0, of.1, &parts, flags), || unsafe { plain::recv(fd, buf, n, flags) })
}

/// # Safety
/// As `send`'s.
unsafe fn send_one(
    fd: c_int,
    of: &(Handle<Sock>, Seat),
    buf: *const c_void,
    n: size_t,
    flags: c_int,
) -> ssize_t {
    let list = part(buf, n);
    // SAFETY: the caller's buffer.
    let parts = unsafe { Parts::new(&list) };
    // SAFETY: the caller's promise.
    count_or(of, stream::send(&of.0, of.1, &parts, flags), || unsafe { plain::send(fd, buf, n, flags) })
}

pub(crate) unsafe fn read(fd: c_int, buf: *mut c_void, n: size_t) -> ssize_t {
    match connection(fd) {
        // SAFETY: the C caller's promise.
        Some(of) => unsafe { recv_one(fd, &of, buf, n, 0) },
        // SAFETY: as above.
        None => unsafe { plain::read(fd, buf, n) },
    }
}

pub(crate) unsafe fn recv(fd: c_int, buf: *mut c_void, n: size_t, flags: c_int) -> ssize_t {
    match connection(fd) {
        // SAFETY: the C caller's promise.
        Some(of) => unsafe { recv_one(fd, &of, buf, n, flags) },
        // SAFETY: as above.
        None => unsafe { plain::recv(fd, buf, n, flags) },
    }
}

pub(crate) unsafe fn recvfrom(
    fd: c_int,
    buf: *mut c_void,
    n: size_t,
    flags: c_int,
    addr: *mut sockaddr,
    len: *mut socklen_t,
) -> ssize_t {
    match connection(fd) {
        Some(of) => {
            if !addr.is_null() {
                // tcp(7): a connection's data has no address.
                // SAFETY: the C caller's promise.
                unsafe { user::store(len, 0) };
            }
            // SAFETY: as above.
            unsafe { recv_one(fd, &of, buf, n, flags) }
        }
        // SAFETY: as above.
        None => unsafe { plain::recvfrom(fd, buf, n, flags, addr, len) },
    }
}

/// glibc ends the program when a length is above what the compiler knows of the buffer.
fn check(n: size_t, room: size_t) {
    if n > room {
        let _ = rustix::io::write(rustix::stdio::stderr(), b"*** buffer overflow detected ***: terminated\n");
        // SAFETY: ends the program.
        unsafe { libc::abort() };
    }
}

pub(crate) unsafe fn __read_chk(fd: c_int, buf: *mut c_void, n: size_t, room: size_t) -> ssize_t {
    check(n, room);
    // SAFETY: the C caller's promise.
    unsafe { read(fd, buf, n) }
}

pub(crate) unsafe fn __recv_chk(
    fd: c_int,
    buf: *mut c_void,
    n: size_t,
    room: size_t,
    flags: c_int,
) -> ssize_t {
    check(n, room);
    // SAFETY: the C caller's promise.
    unsafe { recv(fd, buf, n, flags) }
}

#[allow(clippy::too_many_arguments)] // glibc's function has seven
pub(crate) unsafe fn __recvfrom_chk(
    fd: c_int,
    buf: *mut c_void,
    n: size_t,
    room: size_t,
    flags: c_int,
    addr: *mut sockaddr,
    len: *mut socklen_t,
) -> ssize_t {
    check(n, room);
    // SAFETY: the C caller's promise.
    unsafe { recvfrom(fd, buf, n, flags, addr, len) }
}

/// The list behind a vector call; EINVAL for a number of entries that the kernel refuses.
///
/// # Safety
/// `parts` names `n` entries.
unsafe fn vector<'a>(parts: *const iovec, n: usize) -> Result<&'a [iovec], Errno> {
    if n > libc::UIO_MAXIOV as usize {
        return Err(Errno(libc::EINVAL));
    }
    // SAFETY: the caller's promise.
    Ok(unsafe { user::slice(parts, n) })
}

pub(crate) unsafe fn readv(fd: c_int, parts: *const iovec, n: c_int) -> ssize_t {
    let Some((sock, seat)) = connection(fd) else {
        // SAFETY: the C caller's promise.
        return unsafe { plain::readv(fd, parts, n) };
    };
    // SAFETY: the C caller's promise.
    let list = unsafe { vector(parts, usize::try_from(n).unwrap_or(usize::MAX)) };
    let outcome = list.and_then(|list| {
        // SAFETY: the C caller's buffers.
        let parts = unsafe { Parts::new(list) };
        stream::recv(&sock, seat, &parts, 0)
    });
    // SAFETY: the C caller's promise.
    count_or(&(sock, seat), outcome, || unsafe { plain::readv(fd, parts, n) })
}

pub(crate) unsafe fn writev(fd: c_int, parts: *const iovec, n: c_int) -> ssize_t {
    let Some((sock, seat)) = connection(fd) else {
        // SAFETY: the C caller's promise.
        return unsafe { plain::writev(fd, parts, n) };
    };
    // SAFETY: the C caller's promise.
    let list = unsafe { vector(parts, usize::try_from(n).unwrap_or(usize::MAX)) };
    let outcome = list.and_then(|list| {
        // SAFETY: the C caller's buffers.
        let parts = unsafe { Parts::new(list) };
        stream::send(&sock, seat, &parts, 0)
    });
    // SAFETY: the C caller's promise.
    count_or(&(sock, seat), outcome, || unsafe { plain::writev(fd, parts, n) })
}

pub(crate) unsafe fn write(fd: c_int, buf: *const c_void, n: size_t) -> ssize_t {
    match connection(fd) {
        // SAFETY: the C caller's promise.
        Some(of) => unsafe { send_one(fd, &of, buf, n, 0) },
        // SAFETY: as above.
        None => unsafe { plain::write(fd, buf, n) },
    }
}

pub(crate) unsafe fn send(fd: c_int, buf: *const c_void, n: size_t, flags: c_int) -> ssize_t {
    match connection(fd) {
        // SAFETY: the C caller's promise.
        Some(of) => unsafe { send_one(fd, &of, buf, n, flags) },
        // SAFETY: as above.
        None => unsafe { plain::send(fd, buf, n, flags) },
    }
}

pub(crate) unsafe fn sendto(
    fd: c_int,
    buf: *const c_void,
    n: size_t,
    flags: c_int,
    addr: *const sockaddr,
    len: socklen_t,
) -> ssize_t {
    match connection(fd) {
        // A connection ignores the address, as Linux does without MSG_FASTOPEN.
        // SAFETY: the C caller's promise.
        Some(of) => unsafe { send_one(fd, &of, buf, n, flags) },
        None => {
            if flags & libc::MSG_FASTOPEN != 0 {
                let list = part(buf, n);
                // SAFETY: the C caller's buffer.
                let parts = unsafe { Parts::new(&list) };
                // SAFETY: the C caller's promise.
                if let Some(sent) = unsafe { send_fast(fd, (addr, len), &parts, flags) } {
                    return errno::count(sent);
                }
            }
            // SAFETY: as above.
            unsafe { plain::sendto(fd, buf, n, flags, addr, len) }
        }
    }
}

/// `recvmsg` on a connection: no address, and no control data but that of notifications.
///
/// # Safety
/// As `recvmsg`'s.
pub(super) unsafe fn recv_message(
    of: &(Handle<Sock>, Seat),
    message: *mut msghdr,
    flags: c_int,
) -> Result<usize, Errno> {
    // SAFETY: the caller's promise.
    let Some(message) = (unsafe { message.as_mut() }) else { return Err(Errno(libc::EFAULT)) };
    if flags & libc::MSG_ERRQUEUE != 0 {
        // SAFETY: as above.
        return unsafe { zerocopy::receive(&of.0, message) };
    }
    // SAFETY: as above.
    let list = unsafe { vector(message.msg_iov, message.msg_iovlen) }?;
    // SAFETY: as above.
    let parts = unsafe { Parts::new(list) };
    let (n, told) = match flags & libc::MSG_OOB != 0 {
        true => urgent::recv(&of.0, of.1, &parts, flags)?,
        false => (stream::recv(&of.0, of.1, &parts, flags)?, 0),
    };
    message.msg_namelen = 0;
    message.msg_controllen = 0;
    message.msg_flags = told;
    Ok(n)
}

/// `sendmsg` on a connection; control data is ignored.
///
/// # Safety
/// As `sendmsg`'s.
pub(super) unsafe fn send_message(
    of: &(Handle<Sock>, Seat),
    message: *const msghdr,
    flags: c_int,
) -> Result<usize, Errno> {
    // SAFETY: the caller's promise.
    let Some(message) = (unsafe { message.as_ref() }) else { return Err(Errno(libc::EFAULT)) };
    // SAFETY: as above.
    let list = unsafe { vector(message.msg_iov, message.msg_iovlen) }?;
    // SAFETY: as above.
    let parts = unsafe { Parts::new(list) };
    stream::send(&of.0, of.1, &parts, flags)
}

pub(crate) unsafe fn recvmsg(fd: c_int, message: *mut msghdr, flags: c_int) -> ssize_t {
    match connection(fd) {
        // SAFETY: the C caller's promise.
        Some(of) => count_or(&of, unsafe { recv_message(&of, message, flags) }, || {
            // SAFETY: as above.
            unsafe { plain::recvmsg(fd, message, flags) }
        }),
        None => {
            // SAFETY: as above.
            let got = unsafe { plain::recvmsg(fd, message, flags) };
            // SAFETY: as above.
            unsafe { received(got, message) };
            got
        }
    }
}

/// The kernel's `recvmsg` gave `got`: descriptors that came along may be connections of lanes.
///
/// # Safety
/// As `recvmsg`'s.
pub(crate) unsafe fn received(got: ssize_t, message: *mut msghdr) {
    if got >= 0 {
        // SAFETY: the kernel has just filled it in.
        unsafe { adopt::received(message) };
    }
}

pub(crate) unsafe fn sendmsg(fd: c_int, message: *const msghdr, flags: c_int) -> ssize_t {
    match connection(fd) {
        // SAFETY: the C caller's promise.
        Some(of) => count_or(&of, unsafe { send_message(&of, message, flags) }, || {
            // SAFETY: as above.
            unsafe { plain::sendmsg(fd, message, flags) }
        }),
        None => {
            if flags & libc::MSG_FASTOPEN != 0
                // SAFETY: as above.
                && let Some(sent) = unsafe { send_message_fast(fd, message, flags) }
            {
                return errno::count(sent);
            }
            // SAFETY: as above.
            unsafe { entrust::sending(message) };
            // SAFETY: as above.
            unsafe { plain::sendmsg(fd, message, flags) }
        }
    }
}

/// `sendmsg` with MSG_FASTOPEN on a socket that is no connection; `None`: the kernel shall do it.
///
/// # Safety
/// As `sendmsg`'s.
pub(super) unsafe fn send_message_fast(
    fd: c_int,
    message: *const msghdr,
    flags: c_int,
) -> Option<Result<usize, Errno>> {
    // SAFETY: the caller's promise.
    let message = unsafe { message.as_ref() }?;
    // SAFETY: as above.
    let list = unsafe { vector(message.msg_iov, message.msg_iovlen) }.ok()?;
    // SAFETY: as above.
    let parts = unsafe { Parts::new(list) };
    // SAFETY: as above.
    unsafe { send_fast(fd, (message.msg_name.cast(), message.msg_namelen), &parts, flags) }
}
