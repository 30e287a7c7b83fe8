//! Listeners that this process did not make: it began with them (exec), or was sent them (SCM_RIGHTS).
//!
//! Such a descriptor is the kernel's listener itself, so it can get a lane's beside it as if the process had called `listen`. Left out: options that
//! were set on it before, but for the ones read here; one with keys that sign segments stays the kernel's. Connections
//! over exec: [`exec`].

use core::ffi::{c_int, c_void};

use std::ffi::CString;
use std::sync::OnceLock;

use libc::{msghdr, socklen_t};

use crate::interpose::real;
use crate::reason::Reason;
use crate::sock::{Sock, State, flag};
use crate::table::{self, Entry};
use crate::{exec, home, keys, table::fits};

/// Backlog of a listener whose own cannot be read.
const BACKLOG: u32 = 128;
/// Bytes of `struct tcp_info` up to `tcpi_sacked`, which of a listener is its backlog.
const INFO_BYTES: usize = 32;

/// What `corelane run` put into the environment, as it was when the program began.
static SURROUNDINGS: OnceLock<Vec<CString>> = OnceLock::new();
/// The variables.
const KEYS: [&str; 4] = ["LD_PRELOAD", "CORELANE_KEEPER", "CORELANE_TOKEN", "CORELANE_PORT"];

/// As `KEY=VALUE`; nothing outside `corelane run`.
pub(crate) fn surroundings() -> Vec<CString> {
    SURROUNDINGS.get().cloned().unwrap_or_default()
}

/// Has the process a listener that stays open over exec?
pub(crate) fn hands_listeners_on() -> bool {
    (0..=table::highest()).any(|fd| {
        table::sock(fd).is_some_and(|sock| sock.state() == State::Listening) && exec::stays_open(fd)
    })
}

/// Looks through the descriptors that the program began with.
pub(crate) fn inherited() {
    // Nothing is said to programs that use no sockets.
    if std::env::var_os("CORELANE_KEEPER").is_none() {
        return;
    }
    let own = KEYS.iter().filter_map(|key| {
        let value = std::env::var_os(key)?;
        CString::new([key.as_bytes(), b"=", std::os::unix::ffi::OsStrExt::as_bytes(&*value)].concat()).ok()
    });
    let _ = SURROUNDINGS.set(own.collect());
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let numbers: Vec<c_int> = numbers.collect();
    exec::resume(&numbers);
    numbers.into_iter().for_each(adopt);
}

/// Takes `fd` into the table if it is a TCP listener of the kernel's.
fn adopt(fd: c_int) {
    let is = |name: c_int, wanted: c_int| number(fd, libc::SOL_SOCKET, name) == Some(wanted);
    if !fits(fd) || !table::is_foreign(fd) || !is(libc::SO_ACCEPTCONN, 1) {
        return;
    }
    let Some(domain) = number(fd, libc::SOL_SOCKET, libc::SO_DOMAIN) else { return };
    let inet = domain == libc::AF_INET || domain == libc::AF_INET6;
    let (level, mark) = keys::mark_of_keys();
    let has_keys = number(fd, level, mark) == Some(1);
    if !inet || has_keys || !is(libc::SO_PROTOCOL, libc::IPPROTO_TCP) || !home::active() {
        return;
    }
    let mut flags = flag::BOUND;
    let borrowed = home::borrow(&fd);
    if rustix::fs::fcntl_getfl(borrowed).is_ok_and(|f| f.contains(rustix::fs::OFlags::NONBLOCK)) {
        flags |= flag::NONBLOCK;
    }
    if domain == libc::AF_INET6 {
        flags |= flag::V6;
        if number(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY) == Some(1) {
            flags |= flag::V6ONLY;
        }
    }
    let sock = Sock::new(State::Listening, flags);
    {
        let mut inner = sock.inner();
        inner.reason = Reason::NotWaitedOn;
        inner.backlog = backlog(fd).unwrap_or(BACKLOG);
        let on = |level, name| u8::from(number(fd, level, name).is_some_and(|n| n != 0));
        inner.options.nodelay = on(libc::IPPROTO_TCP, libc::TCP_NODELAY);
        inner.options.keepalive = on(libc::SOL_SOCKET, libc::SO_KEEPALIVE);
    }
    drop(table::replace(fd, Entry::Sock(sock)));
    home::join(borrowed);
}

/// An integer option of the kernel's socket.
pub(crate) fn number(fd: c_int, level: c_int, name: c_int) -> Option<c_int> {
    let mut value: c_int = 0;
    let mut len = size_of::<c_int>() as socklen_t;
    let at = (&raw mut value).cast::<c_void>();
    // SAFETY: room for an int, and its size.
    let result = unsafe { real::getsockopt(fd, level, name, at, &raw mut len) };
    (result == 0).then_some(value)
}

/// The backlog of the kernel's listener `fd`, as the kernel has it. `None`: it does not say, or there is none.
pub(crate) fn backlog(fd: c_int) -> Option<u32> {
    let mut info = [0_u32; INFO_BYTES / 4];
    let mut len = INFO_BYTES as socklen_t;
    let at = info.as_mut_ptr().cast::<c_void>();
    // SAFETY: room for so many bytes, and their number.
    let result = unsafe { real::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, at, &raw mut len) };
    // tcpi_state is the first byte; tcpi_sacked of a listener is its longest queue (tcp(7), struct tcp_info).
    const LISTEN: u8 = 10;
    let [state, ..] = info.first()?.to_ne_bytes();
    if result == 0 && len as usize >= INFO_BYTES && state == LISTEN { info.get(7).copied() } else { None }
}

/// A message came on a kernel socket: takes the listeners that were sent with it.
///
/// # Safety
/// `message` is null or what `recvmsg` has just filled in.
pub(crate) unsafe fn received(message: *const msghdr) {
    // SAFETY: the caller's promise.
    unsafe { each_right(message, came) };
}

/// Calls `each` with every descriptor among the control messages.
///
/// # Safety
/// `message` is null or whole, as for `sendmsg` and after `recvmsg`.
pub(crate) unsafe fn each_right(message: *const msghdr, mut each: impl FnMut(c_int)) {
    // SAFETY: the caller's promise.
    let Some(filled) = (unsafe { message.as_ref() }) else { return };
    if filled.msg_control.is_null() || filled.msg_controllen < size_of::<libc::cmsghdr>() {
        return;
    }
    let end = filled.msg_control.addr().saturating_add(filled.msg_controllen);
    // SAFETY: a whole message; its control messages lie one behind the other.
    let mut at = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: null, or a whole header inside the control buffer.
    while let Some(head) = unsafe { at.as_ref() } {
        if head.cmsg_level == libc::SOL_SOCKET && head.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: the header is whole.
            let data = unsafe { libc::CMSG_DATA(at) };
            // SAFETY: no memory involved.
            let header = unsafe { libc::CMSG_LEN(0) } as usize;
            // No further than the buffer, whatever the program says.
            let room = end.saturating_sub(data.addr());
            let count = head.cmsg_len.saturating_sub(header).min(room) / size_of::<c_int>();
            for n in 0..count {
                // SAFETY: inside the control buffer.
                let fd = unsafe { data.cast::<c_int>().wrapping_add(n).read_unaligned() };
                each(fd);
            }
        }
        // SAFETY: as for the first.
        at = unsafe { libc::CMSG_NXTHDR(message, at) };
    }
}

/// The kernel gave the program `fd`: whatever the number stood for before is gone.
fn came(fd: c_int) {
    if !table::is_foreign(fd) {
        drop(table::replace(fd, Entry::Foreign));
    }
    adopt(fd);
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_backlog_is_what_the_kernel_has() {
        use rustix::net::{AddressFamily, SocketType, listen, socket};
        let made = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        assert_eq!(backlog(made.as_raw_fd()), None, "no listener");
        listen(&made, 0).expect("a listener");
        assert_eq!(backlog(made.as_raw_fd()), Some(0));
        listen(&made, 77).expect("a listener");
        assert_eq!(backlog(made.as_raw_fd()), Some(77));
        assert_eq!(backlog(-1), None);
    }
}
