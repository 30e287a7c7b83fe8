//! Calls that move more than one buffer: `sendfile`, `splice`, `recvmmsg`, `sendmmsg`.

use core::ffi::{c_int, c_uint};
use std::any::Any;
use std::sync::{Mutex, PoisonError};

use libc::{mmsghdr, off_t, off64_t, size_t, ssize_t, timespec};

use super::data::{connection, recv_message, send_message, send_message_fast};
use super::epoll::after;
use crate::errno::{self, Errno, Outcome};
use crate::home::borrow;
use crate::interpose::plain;
use crate::object::Handle;
use crate::sock::{Seat, Sock, flag};
use crate::user::{self, Parts, part};
use crate::{entrust, stream};

/// Bytes moved at a time.
const CHUNK: usize = 128 * 1024;
/// Chunks kept for the next call.
const KEPT: usize = 8;
/// Most bytes of one call, as in the kernel (MAX_RW_COUNT).
const CALL_BYTES_MAX: usize = 0x7fff_f000;

static CHUNKS: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());

/// Holds what no other lock is taken under, over a fork.
pub(crate) fn freeze() -> Box<dyn Any> {
    Box::new(CHUNKS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Runs `f` with a buffer of [`CHUNK`] bytes.
fn with_chunk<R>(f: impl FnOnce(&mut [u8]) -> R) -> R {
    let kept = CHUNKS.lock().unwrap_or_else(PoisonError::into_inner).pop();
    let mut chunk = kept.unwrap_or_else(|| vec![0; CHUNK].into_boxed_slice());
    let result = f(&mut chunk);
    let mut kept = CHUNKS.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.len() < KEPT {
        kept.push(chunk);
    }
    result
}

pub(crate) unsafe fn sendfile(out: c_int, from: c_int, offset: *mut off_t, n: size_t) -> ssize_t {
    match connection(out) {
        // SAFETY: the C caller's promise; off_t and off64_t are the same here.
        Some(of) => errno::count(unsafe { send_file(&of, from, offset, n) }),
        // SAFETY: as above.
        None => unsafe { plain::sendfile(out, from, offset, n) },
    }
}

pub(crate) unsafe fn sendfile64(out: c_int, from: c_int, offset: *mut off64_t, n: size_t) -> ssize_t {
    match connection(out) {
        // SAFETY: the C caller's promise.
        Some(of) => errno::count(unsafe { send_file(&of, from, offset, n) }),
        // SAFETY: as above.
        None => unsafe { plain::sendfile64(out, from, offset, n) },
    }
}

/// # Safety
/// `offset` is null or names the program's offset.
unsafe fn send_file(
    of: &(Handle<Sock>, Seat),
    from: c_int,
    offset: *mut off64_t,
    n: size_t,
) -> Outcome<usize> {
    // SAFETY: the caller's promise.
    let given = unsafe { user::load(offset) };
    let file = borrow(&from);
    let start = match given {
        Some(at) => u64::try_from(at).map_err(|_| Errno(libc::EINVAL))?,
        None => rustix::fs::seek(file, rustix::fs::SeekFrom::Current(0))?,
    };
    let mut done = 0;
    let outcome: Outcome<()> = with_chunk(|chunk| {
        while done < n.min(CALL_BYTES_MAX) {
            let want = chunk.len().min(n - done);
            let got = rustix::io::pread(file, chunk.get_mut(..want).unwrap_or(&mut []), start + done as u64)?;
            if got == 0 {
                break;
            }
            let sent = send_all(
                of,
                chunk.get(..got).unwrap_or(&[]),
                if done + got < n { libc::MSG_MORE } else { 0 },
            )?;
            done += sent;
            if sent < got {
                break;
            }
        }
        Ok(())
    });
    if done == 0 {
        outcome?;
    }
    let end = start + done as u64;
    if given.is_some() {
        // SAFETY: the caller's promise.
        unsafe { user::store(offset, end as off64_t) };
    } else {
        rustix::fs::seek(file, rustix::fs::SeekFrom::Start(end))?;
    }
    Ok(done)
}

fn send_all(of: &(Handle<Sock>, Seat), bytes: &[u8], flags: c_int) -> Outcome<usize> {
    let list = part(bytes.as_ptr().cast(), bytes.len());
    // SAFETY: `bytes` lives as long as the call.
    let parts = unsafe { Parts::new(&list) };
    stream::send(&of.0, of.1, &parts, flags)
}

pub(crate) unsafe fn splice(
    from: c_int,
    from_at: *mut off64_t,
    to: c_int,
    to_at: *mut off64_t,
    n: size_t,
    flags: c_uint,
) -> ssize_t {
    let dont_wait = if flags & libc::SPLICE_F_NONBLOCK != 0 { libc::MSG_DONTWAIT } else { 0 };
    if let Some(of) = connection(from) {
        return errno::count(to_pipe(&of, to, n, dont_wait));
    }
    if let Some(of) = connection(to) {
        let more = if flags & libc::SPLICE_F_MORE != 0 { libc::MSG_MORE } else { 0 };
        return errno::count(from_pipe(&of, from, n, more));
    }
    // SAFETY: the C caller's promise.
    unsafe { plain::splice(from, from_at, to, to_at, n, flags) }
}

/// Looks at what has come, writes what the pipe takes, and only then takes that much.
fn to_pipe(of: &(Handle<Sock>, Seat), pipe: c_int, n: usize, flags: c_int) -> Outcome<usize> {
    let name = of.1.name;
    let stops = |e: &mut engine::Engine<'_>| {
        e.tcp_at_mark(name) && e.tcp_info(name).is_some_and(|info| info.unread_bytes > 0)
    };
    if stream::with(&of.0, of.1, stops)? {
        // As the kernel's: there is no way past the mark of urgent data but a read.
        return if stream::is_nonblocking(&of.0, 0) { Err(Errno(libc::EAGAIN)) } else { Ok(0) };
    }
    with_chunk(|chunk| {
        let list = part(chunk.as_ptr().cast(), n.min(chunk.len()));
        // SAFETY: `chunk` lives as long as the call, and nothing else refers to it meanwhile.
        let parts = unsafe { Parts::new(&list) };
        let got = stream::recv(&of.0, of.1, &parts, flags | libc::MSG_PEEK)?;
        if got == 0 {
            return Ok(0);
        }
        let wrote = rustix::io::write(borrow(&pipe), chunk.get(..got).unwrap_or(&[]))?;
        let taken = part(core::ptr::null(), wrote);
        // SAFETY: MSG_TRUNC touches no memory.
        let parts = unsafe { Parts::new(&taken) };
        stream::recv(&of.0, of.1, &parts, libc::MSG_TRUNC | libc::MSG_DONTWAIT)
    })
}

/// What was taken from the pipe cannot go back, so it is sent as a whole even on a non-blocking socket; a socket without
/// any room says so before the pipe is touched.
fn from_pipe(of: &(Handle<Sock>, Seat), pipe: c_int, n: usize, flags: c_int) -> Outcome<usize> {
    let (sock, seat) = of;
    if sock.has(flag::NONBLOCK) {
        let ready = stream::with(sock, *seat, |engine| engine.ready(seat.name))?;
        if !ready.any(stream::WRITE) {
            return Err(Errno(libc::EAGAIN));
        }
    }
    with_chunk(|chunk| {
        let room = n.min(chunk.len());
        let got = rustix::io::read(borrow(&pipe), chunk.get_mut(..room).unwrap_or(&mut []))?;
        let mut done = 0;
        while done < got {
            match send_all(of, chunk.get(done..got).unwrap_or(&[]), flags) {
                Ok(sent) => done += sent,
                Err(Errno(libc::EAGAIN)) => {
                    stream::wait_for(sock, *seat, stream::WRITE, base::Instant::NEVER)?;
                }
                Err(errno) => return Err(errno),
            }
        }
        Ok(done)
    })
}

pub(crate) unsafe fn recvmmsg(
    fd: c_int,
    messages: *mut mmsghdr,
    n: c_uint,
    flags: c_int,
    timeout: *mut timespec,
) -> c_int {
    let Some(of) = connection(fd) else {
        // SAFETY: the C caller's promise.
        return unsafe { plain::recvmmsg(fd, messages, n, flags, timeout) };
    };
    // SAFETY: the C caller's promise.
    let list = unsafe { user::slice_mut(messages, n as usize) };
    // SAFETY: as above.
    let deadline = after(unsafe { user::load(timeout) }).unwrap_or(base::Instant::NEVER);
    let mut flags = flags & !libc::MSG_WAITFORONE;
    let mut done = 0;
    for message in list {
        // SAFETY: as above.
        match unsafe { recv_message(&of, &raw mut message.msg_hdr, flags) } {
            Ok(len) => {
                message.msg_len = len as c_uint;
                done += 1;
                if len == 0 || sys::clock::now() >= deadline {
                    break;
                }
                // A stream has no message that could still come whole: the rest is what is there.
                flags |= libc::MSG_DONTWAIT;
            }
            Err(_) if done > 0 => break,
            Err(errno) => return errno::small(Err(errno)),
        }
    }
    done
}

pub(crate) unsafe fn sendmmsg(fd: c_int, messages: *mut mmsghdr, n: c_uint, flags: c_int) -> c_int {
    let mut done = 0;
    if flags & libc::MSG_FASTOPEN != 0 && n > 0 && connection(fd).is_none() {
        // SAFETY: the C caller's promise: there is at least one.
        let list = unsafe { user::slice_mut(messages, 1) };
        // SAFETY: as above.
        match list.first_mut().map(|m| (unsafe { send_message_fast(fd, &raw const m.msg_hdr, flags) }, m)) {
            Some((Some(Ok(len)), message)) => {
                message.msg_len = len as c_uint;
                done = 1;
            }
            Some((Some(Err(errno)), _)) => return errno::small(Err(errno)),
            // The kernel shall do it.
            Some((None, _)) | None => {}
        }
    }
    let Some(of) = connection(fd) else {
        // SAFETY: the C caller's promise.
        for message in unsafe { user::slice_mut(messages, n as usize) } {
            // SAFETY: as above.
            unsafe { entrust::sending(&raw const message.msg_hdr) };
        }
        // SAFETY: the C caller's promise.
        return unsafe { plain::sendmmsg(fd, messages, n, flags) };
    };
    // SAFETY: the C caller's promise.
    let list = unsafe { user::slice_mut(messages, n as usize) };
    for message in list.iter_mut().skip(done as usize) {
        // SAFETY: as above.
        match unsafe { send_message(&of, &raw const message.msg_hdr, flags) } {
            Ok(len) => {
                message.msg_len = len as c_uint;
                done += 1;
            }
            Err(_) if done > 0 => break,
            Err(errno) => return errno::small(Err(errno)),
        }
    }
    done
}
