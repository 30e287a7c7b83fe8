//! Listeners: the kernel's, and beside it one on this process's lane from the first time the program waits on it.
//!
//! `listen` itself only maps the region, so that a master that never accepts needs no lane and its workers, forked from it, get one each
//! with a listener of their own on it. Until then connections come through the kernel, as those from this host and over
//! other devices always do.

use std::any::Any;
use std::sync::{Mutex, MutexGuard, PoisonError};

use base::Instant;
use engine::{AcceptError, Accepted, Engine};
use state::{Endpoint, Ready};

use crate::address;
use crate::errno::{self, Errno, Outcome};
use crate::hub;
use crate::interpose::real;
use crate::object::Handle;
use crate::reason::Reason;
use crate::signals::Held;
use crate::sock::{Inner, Seat, Sock, State, flag};
use crate::stream;
use crate::table::{self, Entry};
use crate::view::{View, Visit};
use crate::{adopt, explain, family, fast_open, home, keys, owner, park};

/// `listen(2)` succeeded in the kernel.
pub(crate) fn begin(sock: &Handle<Sock>, fd: i32, backlog: i32) {
    let mut inner = sock.inner();
    // The kernel takes it as unsigned, and cuts it to net.core.somaxconn.
    inner.backlog = adopt::backlog(fd).unwrap_or(backlog as u32);
    if sock.state() == State::Listening {
        if let Some(seat) = sock.seat.get() {
            let backlog = inner.backlog;
            let _ = stream::with(sock, seat, |engine| engine.tcp_set_backlog(seat.name, backlog));
        }
        return;
    }
    inner.reason = Reason::NotWaitedOn;
    sock.become_state(State::Listening);
    drop(inner);
    home::prepare();
    // A listener in place of one that this process waited on itself: connections that come before the next wait are the lane's, too. Not one beside that
    // (SO_REUSEPORT): it may be for another process.
    let Ok(Some(local)) = address::of_listener(fd) else { return };
    let waited = waited_at().contains(&(family::generation(), local));
    if waited && !listens_at(local) {
        attach(sock, fd);
    }
}

/// Does this process's lane listen at exactly `local`?
fn listens_at(local: Endpoint) -> bool {
    let listens = |view: &View| view.enter(|session| session.engine(|engine| engine.listens_at(local)));
    home::lane().ok().and_then(listens) == Some(true)
}

/// Most addresses remembered.
const WAITED_MAX: usize = 16;
/// Where processes waited for connections themselves: fork generation and address.
static WAITED_AT: Mutex<Vec<(u32, Endpoint)>> = Mutex::new(Vec::new());

fn waited_at() -> MutexGuard<'static, Vec<(u32, Endpoint)>> {
    WAITED_AT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Holds what no other lock is taken under, over a fork.
pub(crate) fn freeze() -> Box<dyn Any> {
    Box::new(waited_at())
}

fn note_waited(local: Endpoint) {
    let mut all = waited_at();
    let this = (family::generation(), local);
    if all.contains(&this) {
        return;
    }
    if all.len() == WAITED_MAX {
        all.remove(0);
    }
    all.push(this);
}

/// The program waits on the listener: gives it a seat on this process's lane, once.
pub(crate) fn attach(sock: &Handle<Sock>, fd: i32) {
    if sock.seat.get().is_some_and(|seat| seat.view.is_own()) {
        return;
    }
    let mut inner = sock.inner();
    if inner.tried == family::generation() {
        return;
    }
    inner.tried = family::generation();
    if let Some(seat) = sock.seat.get() {
        // The listener of the process we were forked from: what waits in its queue is still ours to accept.
        sock.older.set(Some(seat));
        sock.seat.set(None);
        sock.put(flag::SUBSCRIBED, false);
    }
    match open(&mut inner, fd) {
        Ok(seat) => {
            inner.reason = Reason::ByKernelListener;
            // First: who sees the seat waits for lanes and kernel at once, and may not be held by the kernel's `accept`.
            force_nonblocking(sock, fd);
            sock.seat.set(Some(seat));
            note_waited(inner.local);
            drop(inner);
            owner::take_over(sock, seat, fd);
            seat.view.subscribe(seat, sock.object());
            hub::note_listener(sock.object());
            let _ = hub::moves(sock);
            hub::wake_all();
        }
        Err(reason) => {
            inner.reason = reason;
            drop(inner);
        }
    }
    explain::tell();
}

/// Threads that wait in `accept` wait for lanes and kernel at once; none may be held by the kernel's `accept` because another took the
/// connection.
fn force_nonblocking(sock: &Sock, fd: i32) {
    let fd = home::borrow(&fd);
    if let Ok(flags) = rustix::fs::fcntl_getfl(fd)
        && rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK).is_ok()
    {
        sock.put(flag::FORCED, true);
    }
}

fn open(inner: &mut Inner, fd: i32) -> Result<Seat, Reason> {
    if inner.foreign_option {
        return Err(Reason::Option);
    }
    let local = address::of_listener(fd).ok().flatten().ok_or(Reason::Protocol)?;
    inner.options.set_reuse_port(adopt::number(fd, libc::SOL_SOCKET, libc::SO_REUSEPORT) == Some(1));
    inner.inode = rustix::fs::fstat(home::borrow(&fd)).map_or(0, |stat| stat.st_ino);
    let view = home::lane()?;
    let name = view.enter(|session| {
        session.engine(|engine| {
            let name = engine.tcp_listen(local, inner.backlog, &inner.options).ok()?;
            if !keys::give_all(engine, name, inner, None) {
                engine.close(name);
                return None;
            }
            Some(name)
        })
    });
    let name = name.flatten().ok_or(Reason::LaneFull)?;
    if let Err(reason) = home::listen(view, local, home::borrow(&fd)) {
        view.enter(|session| session.engine(|engine| engine.close(name)));
        return Err(reason);
    }
    inner.local = local;
    let seat = Seat { view, name };
    fast_open::at_listener(seat, fd);
    Ok(seat)
}

/// What [`accept`] gives.
pub(crate) struct Arrival {
    /// The new descriptor.
    pub(crate) fd: i32,
    /// The peer of a lane's connection; `None`: the kernel wrote the address itself.
    pub(crate) remote: Option<Endpoint>,
    /// As [`stream::scope`] has it.
    pub(crate) scope: Option<u32>,
}

/// `accept4`: the lanes' connections first, then the kernel's, for which `by_kernel` is called when the listener is known to
/// have one or can be asked without blocking.
pub(crate) fn accept(
    sock: &Handle<Sock>,
    fd: i32,
    flags: i32,
    mut by_kernel: impl FnMut() -> i32,
) -> Outcome<Arrival> {
    attach(sock, fd);
    let nonblocking = sock.has(flag::NONBLOCK);
    let kernel_only = views_of(sock) == 0 && !sock.has(flag::FORCED);
    let (mut deadline, mut held) = (None, Held::new());
    loop {
        let seen = hub::seen();
        let until = match nonblocking {
            true => Instant::NEVER,
            false => *deadline.get_or_insert_with(|| stream::deadline_after(sock.rcv_timeout_ns())),
        };
        if let Some(arrival) = from_lanes(sock, flags, !nonblocking || !sock.has(flag::WATCHED))? {
            return Ok(arrival);
        }
        if nonblocking || kernel_only || kernel_has_one(fd) {
            let new = by_kernel();
            if new >= 0 {
                note_kernel(new, sock.inner().reason);
                return Ok(Arrival { fd: new, remote: None, scope: None });
            }
            let errno = errno::last();
            // A process that has the listener, too, and a lane may have made it non-blocking for all.
            if nonblocking || errno != Errno(libc::EAGAIN) {
                return Err(errno);
            }
        }
        let kernel = [libc::pollfd { fd, events: libc::POLLIN, revents: 0 }];
        stream::pause(sock, views_of(sock), &kernel, (until, &mut held), seen)?;
    }
}

/// The lanes a listener has seats on, as bits.
pub(crate) fn views_of(sock: &Sock) -> u32 {
    let seats = [sock.seat.get(), sock.older.get()];
    seats.into_iter().flatten().fold(0, |mask, seat| mask | 1 << seat.view.number())
}

fn kernel_has_one(fd: i32) -> bool {
    let mut look = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: one live pollfd.
    unsafe { real::poll(&raw mut look, 1, 0) > 0 }
}

/// A connection the kernel accepted.
fn note_kernel(fd: i32, reason: Reason) {
    if table::fits(fd) {
        drop(table::replace(fd, Entry::Kernel(reason)));
    }
}

fn from_lanes(listener: &Handle<Sock>, flags: i32, step: bool) -> Outcome<Option<Arrival>> {
    let mut bits = flag::PLACEHOLDER | flag::SUBSCRIBED;
    for (asked, bit) in [(libc::SOCK_NONBLOCK, flag::NONBLOCK), (libc::SOCK_CLOEXEC, flag::CLOEXEC)] {
        if flags & asked != 0 {
            bits |= bit;
        }
    }
    bits |= listener.those_of(flag::V6 | flag::ZEROCOPY);
    let options = listener.inner().options;
    for from in [listener.seat.get(), listener.older.get()].into_iter().flatten() {
        // Made before the lane is entered: its `inner` comes first, which a thread that forks may hold.
        let sock = Sock::new(State::Stream, bits);
        let taken = from.view.enter_as(Visit::taking(listener), |session, heard| {
            let first = session.engine(|engine| Some(engine.tcp_accept(from.name)));
            if first == Some(Err(AcceptError::WouldBlock)) && step {
                *heard = true;
                session.step();
                return session.engine(|engine| {
                    let accepted = engine.tcp_accept(from.name).ok()?;
                    Some(seat_at(&sock, from.view, engine, accepted))
                });
            }
            let Some(Ok(accepted)) = first else { return None };
            session.engine(|engine| Some(seat_at(&sock, from.view, engine, accepted)))
        });
        let Some(Some(Accepted { local, remote, .. })) = taken else { continue };
        {
            let mut inner = sock.inner();
            (inner.local, inner.remote, inner.options) = (local, remote, options);
        }
        // On failure the connection is dropped with the socket, as the kernel drops it.
        let scope = sock.seat.get().and_then(|seat| stream::scope(&sock, seat));
        let fd = park::open(sock, flags & libc::SOCK_CLOEXEC != 0)?;
        return Ok(Some(Arrival { fd, remote: Some(remote), scope }));
    }
    Ok(None)
}

/// Makes `sock`, which nobody knows yet, the socket of the `accepted` connection, and has it hear of its events.
fn seat_at(
    sock: &Handle<Sock>,
    view: &'static View,
    engine: &mut Engine<'_>,
    accepted: Accepted,
) -> Accepted {
    sock.seat.set(Some(Seat { view, name: accepted.sock }));
    engine.set_event_queue(accepted.sock, view.queue(), sock.object().token());
    accepted
}

/// Is a connection waiting on one of the listener's lanes?
pub(crate) fn ready(sock: &Sock) -> Ready {
    let mut ready = Ready::NONE;
    for seat in [sock.seat.get(), sock.older.get()].into_iter().flatten() {
        ready |= stream::with(sock, seat, |engine| engine.ready(seat.name)).unwrap_or(Ready::NONE);
    }
    ready
}
