//! Placeholders: the kernel descriptors that stand for connections of lanes.
//!
//! All are duplicates of one unconnected UNIX socket, so making one costs a `dup`. One that the program closes is kept for the next
//! `accept` or `socket`, which then makes no system call at all. In a program that got one but not what it stands for
//! ([`crate::exec`]) such a descriptor is just that socket: reading
//! from it fails with EINVAL, writing with ENOTCONN.

use std::any::Any;
use std::os::fd::AsRawFd;
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::net::{AddressFamily, SocketFlags, SocketType};
use sys::fds::Fd;

use crate::errno::{Errno, Outcome};
use crate::home;
use crate::object::Handle;
use crate::sock::Sock;
use crate::table::{self, Entry};

/// Most descriptors kept, of each kind.
const KEPT: usize = 64;
/// Descriptors up to this are not kept: programs close standard input and count on getting the number back.
const LOWEST: i32 = 3;

static MODEL: OnceLock<Fd> = OnceLock::new();
/// Descriptors kept: not close-on-exec, close-on-exec.
static PARKED: [Mutex<Vec<i32>>; 2] = [Mutex::new(Vec::new()), Mutex::new(Vec::new())];

/// Holds what no other lock is taken under, over a fork.
pub(crate) fn freeze() -> Box<dyn Any> {
    Box::new(PARKED.each_ref().map(|kept| kept.lock().unwrap_or_else(PoisonError::into_inner)))
}

fn model() -> Outcome<&'static Fd> {
    if let Some(fd) = MODEL.get() {
        return Ok(fd);
    }
    let made = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // If another thread was faster, ours stays open beside its one.
    Ok(MODEL.get_or_init(|| table::keep(Fd::from(made))))
}

/// A descriptor for `sock`.
///
/// # Errors
/// EMFILE, ENFILE.
pub(crate) fn open(sock: Handle<Sock>, cloexec: bool) -> Outcome<i32> {
    let mut entry = Entry::Sock(sock);
    while let Some(fd) = pop(cloexec) {
        // It may have been put to another use since.
        match table::unpark(fd, entry) {
            Ok(()) => return Ok(fd),
            Err(back) => entry = back,
        }
    }
    let model = model()?;
    let new = if cloexec {
        rustix::io::fcntl_dupfd_cloexec(model, 0).map(Fd::from)?
    } else {
        // SAFETY: a plain dup of a descriptor of ours.
        let new = crate::errno::check(unsafe { crate::interpose::real::dup(model.as_raw_fd()) })?;
        // SAFETY: fresh from dup.
        unsafe { Fd::from_raw(new) }
    };
    if !table::fits(new.as_raw_fd()) {
        return Err(Errno(libc::EMFILE));
    }
    let new = new.into_raw();
    drop(table::replace(new, entry));
    Ok(new)
}

fn pop(cloexec: bool) -> Option<i32> {
    let kept = PARKED.get(usize::from(cloexec))?;
    kept.lock().unwrap_or_else(PoisonError::into_inner).pop()
}

/// Closes the placeholders kept: the process is at its limit of descriptors. Gives how many.
pub(crate) fn give_back() -> usize {
    let mut closed = 0;
    for cloexec in [false, true] {
        while let Some(fd) = pop(cloexec) {
            if table::unpark(fd, Entry::Foreign).is_ok() {
                // SAFETY: kept by us, and now nobody's.
                unsafe { crate::interpose::real::close(fd) };
                closed += 1;
            }
        }
    }
    closed
}

/// The program closes the placeholder `fd`: keeps it if there is room. True: kept, and `fd` is parked in the table.
pub(crate) fn keep(fd: i32, cloexec: bool) -> bool {
    if fd < LOWEST || !home::active() {
        return false;
    }
    let Some(kept) = PARKED.get(usize::from(cloexec)) else { return false };
    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
    if kept.len() >= KEPT {
        return false;
    }
    kept.push(fd);
    true
}
