//! TCP sockets whose kernel socket is made only when something needs it.
//!
//! A client that connects over lanes never uses the kernel socket that `socket` would make. So while this process's connections go over
//! lanes, `socket` gives a placeholder ([`park`]) instead, kept over close like those of accepted connections: a short connection then makes no
//! system call for its descriptor. The few options that clients set first are noted; whatever else is asked of such a descriptor, by any
//! call that looks it up in the table, first gives it its kernel socket, under the same number. So does fork.

use core::ffi::{c_int, c_void};
use core::sync::atomic::{AtomicBool, Ordering};
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use sys::fds::Fd;

use crate::errno::{self, Errno, Outcome};
use crate::interpose::real;
use crate::park;
use crate::sock::{Inner, Sock, State, flag};
use crate::table;

/// Most options noted; one more makes the kernel socket.
pub(crate) const NOTED_MAX: usize = 4;

/// An option that the program set and the kernel socket does not have yet.
#[derive(Clone, Copy)]
pub(crate) struct Noted {
    level: c_int,
    name: c_int,
    value: c_int,
}

impl Noted {
    pub(crate) const NONE: Self = Self { level: 0, name: 0, value: 0 };
}

/// Did the latest connection of this process go over a lane?
static BY_LANE: AtomicBool = AtomicBool::new(false);

/// A connection was begun, or refused to the kernel.
pub(crate) fn learn(by_lane: bool) {
    if BY_LANE.load(Ordering::Relaxed) != by_lane {
        BY_LANE.store(by_lane, Ordering::Relaxed);
    }
}

/// A TCP socket of `domain` without a kernel socket. `None`: the kernel shall make it.
pub(crate) fn open(domain: c_int, kind: c_int) -> Option<c_int> {
    if domain != libc::AF_INET || !BY_LANE.load(Ordering::Relaxed) {
        return None;
    }
    let mut flags = flag::DEFERRED | flag::PLACEHOLDER;
    let cloexec = kind & libc::SOCK_CLOEXEC != 0;
    for (asked, bit) in [(libc::SOCK_NONBLOCK, flag::NONBLOCK), (libc::SOCK_CLOEXEC, flag::CLOEXEC)] {
        if kind & asked != 0 {
            flags |= bit;
        }
    }
    park::open(Sock::new(State::Undecided, flags), cloexec).ok()
}

/// Options with one int that every TCP socket takes.
fn is_plain(level: c_int, name: c_int) -> bool {
    matches!(
        (level, name),
        (libc::IPPROTO_TCP, libc::TCP_NODELAY) | (libc::SOL_SOCKET, libc::SO_KEEPALIVE | libc::SO_REUSEADDR)
    )
}

/// Notes an option for the kernel socket that may still be made. False: make it now.
pub(crate) fn note(sock: &Sock, level: c_int, name: c_int, value: &[u8]) -> bool {
    is_plain(level, name) && remember(&mut sock.inner(), level, name, value)
}

/// Remembers an option of one int, for the kernel socket or for who asks. False: there is no room.
pub(crate) fn remember(inner: &mut Inner, level: c_int, name: c_int, value: &[u8]) -> bool {
    let Some(value) = value.first_chunk::<4>().map(|bytes| c_int::from_ne_bytes(*bytes)) else {
        return false;
    };
    let used = usize::from(inner.noted_used);
    let known = inner.noted.iter().take(used).position(|noted| (noted.level, noted.name) == (level, name));
    let Some(place) = inner.noted.get_mut(known.unwrap_or(used)) else { return false };
    *place = Noted { level, name, value };
    inner.noted_used += u8::from(known.is_none());
    true
}

/// The value of an option that was noted or remembered.
pub(crate) fn noted(inner: &Inner, level: c_int, name: c_int) -> Option<c_int> {
    let mut all = inner.noted.iter().take(usize::from(inner.noted_used));
    all.find(|noted| (noted.level, noted.name) == (level, name)).map(|noted| noted.value)
}

/// A kernel socket that was never used, of IPv6 or IPv4: what it says of an option that nobody set, any socket would.
pub(crate) fn untouched(v6: bool) -> Option<c_int> {
    static MADE: [OnceLock<Fd>; 2] = [const { OnceLock::new() }; 2];
    let place = MADE.get(usize::from(v6))?;
    if let Some(fd) = place.get() {
        return Some(fd.as_raw_fd());
    }
    let family = if v6 { AddressFamily::INET6 } else { AddressFamily::INET };
    let made = rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).ok()?;
    // If another thread was faster, ours stays open beside its one.
    Some(place.get_or_init(|| table::keep(Fd::from(made))).as_raw_fd())
}

/// Gives `sock` its kernel socket, under the number `fd`.
///
/// # Errors
/// What `socket` or `dup3` say; the socket is as before then.
pub(crate) fn make(sock: &Sock, fd: c_int) -> Outcome<()> {
    let mut inner = sock.inner();
    if !sock.has(flag::DEFERRED) || sock.state() == State::Stream {
        return Ok(());
    }
    let mut kind = libc::SOCK_STREAM | libc::SOCK_CLOEXEC;
    if sock.has(flag::NONBLOCK) {
        kind |= libc::SOCK_NONBLOCK;
    }
    let made = match new_socket(kind) {
        Err(Errno(libc::EMFILE)) if park::give_back() > 0 => new_socket(kind)?,
        other => other?,
    };
    for noted in inner.noted.iter().take(usize::from(inner.noted_used)) {
        let value: *const c_int = &raw const noted.value;
        // SAFETY: one live int.
        unsafe { real::setsockopt(made, noted.level, noted.name, value.cast::<c_void>(), 4) };
    }
    // SAFETY: no memory involved.
    let descriptor_flags = unsafe { real::fcntl(fd, libc::F_GETFD, 0) };
    let flags = if descriptor_flags & libc::FD_CLOEXEC != 0 { libc::O_CLOEXEC } else { 0 };
    // SAFETY: `made` is ours, and `fd` the program's, which stands for the same socket before and after.
    let done = errno::check(unsafe { real::dup3(made, fd, flags) });
    // SAFETY: ours, and of no more use.
    unsafe { real::close(made) };
    done?;
    inner.noted_used = 0;
    sock.put(flag::DEFERRED | flag::PLACEHOLDER, false);
    Ok(())
}

fn new_socket(kind: c_int) -> Outcome<c_int> {
    // SAFETY: no memory involved.
    errno::check(unsafe { real::socket(libc::AF_INET, kind, 0) })
}
