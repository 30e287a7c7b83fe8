//! What each descriptor number of this process is to us.
//!
//! One word a descriptor: 0 is foreign (passed on unchanged), small numbers are marks, others are pointers to a
//! [`Sock`] or, with the lowest bit set, an [`Epoll`]. Readers take no lock.

use core::ptr;
use core::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

use rustix::process::Resource;
use sys::fds::Fd;

use crate::deferred;
use crate::epoll::Epoll;
use crate::object::{Counted, Handle};
use crate::reason::Reason;
use crate::sock::{Sock, flag};

/// Descriptors we can tell apart; higher ones are passed on.
const FDS: usize = 1 << 20;
/// Marks from 1 to this are reasons of kernel sockets.
const REASON_MAX: usize = 255;
/// Mark of a descriptor of our own, which the program must not close.
const INTERNAL: usize = 256;
/// Mark of a placeholder that the program closed and we keep for the next socket.
const PARKED: usize = 257;
/// Words up to this are marks.
const MARK_MAX: usize = 4095;
/// Lowest bit of a word that points to an [`Epoll`].
const EPOLL_TAG: usize = 1;

type Word = AtomicPtr<u8>;

static TABLE: [Word; FDS] = [const { Word::new(ptr::null_mut()) }; FDS];
/// Highest descriptor that was ever entered.
static HIGHEST: AtomicI32 = AtomicI32::new(-1);
/// Lowest number for our own descriptors.
static HIGH: AtomicI32 = AtomicI32::new(0);

/// What a descriptor is.
pub(crate) enum Entry {
    /// Nothing of ours.
    Foreign,
    /// A kernel socket, and why.
    Kernel(Reason),
    /// Our own.
    Internal,
    /// Closed for the program, kept for the next socket.
    Parked,
    /// A socket that is or may become a lane's.
    Sock(Handle<Sock>),
    /// An epoll instance.
    Epoll(Handle<Epoll>),
}

impl Entry {
    fn into_word(self) -> *mut u8 {
        match self {
            Self::Foreign => ptr::null_mut(),
            Self::Kernel(reason) => ptr::without_provenance_mut(reason as usize),
            Self::Internal => ptr::without_provenance_mut(INTERNAL),
            Self::Parked => ptr::without_provenance_mut(PARKED),
            Self::Sock(handle) => ptr::from_ref(handle.into_raw()).cast_mut().cast(),
            Self::Epoll(handle) => {
                ptr::from_ref(handle.into_raw()).cast_mut().cast::<u8>().map_addr(|a| a | EPOLL_TAG)
            }
        }
    }

    /// Takes over the reference in `word`.
    fn from_word(word: *mut u8) -> Self {
        match word.addr() {
            0 => Self::Foreign,
            n @ 1..=REASON_MAX => match Reason::from_number(n as u8) {
                Some(reason) => Self::Kernel(reason),
                None => Self::Foreign,
            },
            INTERNAL => Self::Internal,
            PARKED => Self::Parked,
            n if n <= MARK_MAX => Self::Foreign,
            n if n & EPOLL_TAG != 0 => Self::Epoll(Handle::from_raw(epoll_at(word))),
            _ => Self::Sock(Handle::from_raw(sock_at(word))),
        }
    }
}

fn sock_at(word: *mut u8) -> &'static Sock {
    // SAFETY: only `Entry::into_word` makes such words, from a `&'static Sock`, whose memory is never given back.
    unsafe { &*word.cast::<Sock>() }
}

fn epoll_at(word: *mut u8) -> &'static Epoll {
    let epoll = word.map_addr(|a| a & !EPOLL_TAG).cast::<Epoll>();
    // SAFETY: only `Entry::into_word` makes such words, from a `&'static Epoll`, whose memory is never given back.
    unsafe { &*epoll }
}

fn word(fd: i32) -> Option<&'static Word> {
    TABLE.get(usize::try_from(fd).ok()?)
}

/// Counts a reference to `object` if `fd` still stands for it.
fn hold<T: Counted>(slot: &Word, seen: *mut u8, object: &'static T) -> Option<Handle<T>> {
    let handle = Handle::try_new(object)?;
    (slot.load(Ordering::Acquire) == seen).then_some(handle)
}

/// What `fd` is. A socket whose kernel socket was not made yet gets it.
pub(crate) fn get(fd: i32) -> Entry {
    let entry = get_as_is(fd);
    if let Entry::Sock(sock) = &entry
        && sock.has(flag::DEFERRED)
    {
        // On failure calls meet the placeholder, which refuses them.
        let _ = deferred::make(sock, fd);
    }
    entry
}

/// What `fd` is, for who does not use a kernel socket that may have to be made first.
pub(crate) fn get_as_is(fd: i32) -> Entry {
    let Some(slot) = word(fd) else { return Entry::Foreign };
    loop {
        let seen = slot.load(Ordering::Acquire);
        if seen.addr() <= MARK_MAX {
            return Entry::from_word(seen);
        }
        let held = if seen.addr() & EPOLL_TAG == 0 {
            hold(slot, seen, sock_at(seen)).map(Entry::Sock)
        } else {
            hold(slot, seen, epoll_at(seen)).map(Entry::Epoll)
        };
        if let Some(entry) = held {
            return entry;
        }
    }
}

/// The socket behind `fd`, if it is one of ours, with its kernel socket if it is not a lane's.
pub(crate) fn sock(fd: i32) -> Option<Handle<Sock>> {
    if is_mark(fd) { None } else { sock_of(get(fd)) }
}

/// As [`sock`]; a kernel socket that is not made yet stays so.
pub(crate) fn sock_as_is(fd: i32) -> Option<Handle<Sock>> {
    if is_mark(fd) { None } else { sock_of(get_as_is(fd)) }
}

fn is_mark(fd: i32) -> bool {
    word(fd).is_none_or(|slot| slot.load(Ordering::Relaxed).addr() <= MARK_MAX)
}

fn sock_of(entry: Entry) -> Option<Handle<Sock>> {
    match entry {
        Entry::Sock(sock) => Some(sock),
        Entry::Foreign | Entry::Kernel(_) | Entry::Internal | Entry::Parked | Entry::Epoll(_) => None,
    }
}

/// Makes `fd` stand for `entry`; gives what it was. False from [`fits`]: the entry is dropped.
pub(crate) fn replace(fd: i32, entry: Entry) -> Entry {
    let Some(slot) = word(fd) else { return Entry::Foreign };
    HIGHEST.fetch_max(fd, Ordering::Relaxed);
    Entry::from_word(slot.swap(entry.into_word(), Ordering::AcqRel))
}

/// Turns a parked `fd` into `entry`; gives the entry back if it is not parked any more.
pub(crate) fn unpark(fd: i32, entry: Entry) -> Result<(), Entry> {
    let Some(slot) = word(fd) else { return Err(entry) };
    let new = entry.into_word();
    let parked = ptr::without_provenance_mut(PARKED);
    match slot.compare_exchange(parked, new, Ordering::AcqRel, Ordering::Acquire) {
        Ok(_) => Ok(()),
        Err(_) => Err(Entry::from_word(new)),
    }
}

/// Is `fd` nothing of ours? The quick test of every call.
pub(crate) fn is_foreign(fd: i32) -> bool {
    word(fd).is_none_or(|slot| slot.load(Ordering::Relaxed).is_null())
}

/// Is `fd` nothing of ours, or a socket that is the kernel's for good?
pub(crate) fn is_kernels(fd: i32) -> bool {
    is_foreign(fd) || is_mark(fd) && matches!(get_as_is(fd), Entry::Kernel(_))
}

/// Is `fd` in the table's range?
pub(crate) fn fits(fd: i32) -> bool {
    word(fd).is_some()
}

/// Highest descriptor that was ever entered; -1 if none.
pub(crate) fn highest() -> i32 {
    HIGHEST.load(Ordering::Relaxed)
}

/// Our own descriptors begin here at the highest: the kernel's table of a process grows with its highest number, and fork copies it.
const HIGH_MAX: i32 = 16_384;

/// Chooses where our own descriptors go: the top eighth of what the program may open, away from the lowest free numbers that programs
/// count on.
pub(crate) fn reserve_high() {
    let soft = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(FDS as u64);
    let room = i32::try_from(soft.min(FDS as u64)).unwrap_or(i32::MAX);
    HIGH.store((room - room / 8).min(HIGH_MAX), Ordering::Relaxed);
}

/// Moves a descriptor of ours up and marks it, so that the program neither meets nor closes it. It stays where
/// it is if there is no room above.
pub(crate) fn keep(fd: Fd) -> Fd {
    let moved = match rustix::io::fcntl_dupfd_cloexec(&fd, HIGH.load(Ordering::Relaxed)) {
        Ok(moved) => Fd::from(moved),
        Err(_) => fd,
    };
    drop(replace(std::os::fd::AsRawFd::as_raw_fd(&moved), Entry::Internal));
    moved
}

/// Closes a descriptor of ours.
pub(crate) fn discard(fd: Fd) {
    drop(replace(std::os::fd::AsRawFd::as_raw_fd(&fd), Entry::Foreign));
    drop(fd);
}
