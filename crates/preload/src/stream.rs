//! Sending, receiving and waiting on a lane's connection, blocking or not.

use base::{Duration, Instant};
use engine::{Engine, How, ShutdownError, State};
use lane::Session;
use libc::pollfd;
use state::{Ready, SockRef};

use crate::cancel;
use crate::errno::{Errno, Outcome, of_recv, of_send, of_sock};
use crate::fast_open;
use crate::hub::{self, Target, Wait};
use crate::object::Handle;
use crate::signals::{self, Held};
use crate::sock::{self, Seat, Sock, flag};
use crate::urgent;
use crate::user::Parts;
use crate::view::Visit;
use crate::zerocopy;

/// Writable, or never again.
pub(crate) const WRITE: Ready = Ready(Ready::OUT.0 | Ready::HUP.0 | Ready::ERR.0);
/// What a socket of a poisoned lane answers.
const POISONED: Errno = Errno(libc::ECONNRESET);

/// When a call that began now gives up: SO_RCVTIMEO or SO_SNDTIMEO, ns; 0 is never.
pub(crate) fn deadline_after(timeout_ns: u64) -> Instant {
    if timeout_ns == 0 { Instant::NEVER } else { sys::clock::now().plus(Duration(timeout_ns)) }
}

/// Sleeps until something may have happened at `sock` since [`hub::seen`] gave `seen`, one of `kernel` is ready, or its time is
/// over.
///
/// # Errors
/// EAGAIN when `deadline` has passed; EINTR.
pub(crate) fn pause(
    sock: &Handle<Sock>,
    views: u32,
    kernel: &[pollfd],
    (deadline, held): (Instant, &mut Held),
    seen: u64,
) -> Outcome<()> {
    if deadline != Instant::NEVER && sys::clock::now() >= deadline {
        return Err(Errno(libc::EAGAIN));
    }
    let target = Target::Sock(sock.object());
    let accepts = sock.state() == sock::State::Listening;
    let mut wait = Wait { target, views, deadline, accepts, mask: core::ptr::null(), kernel, held };
    match hub::block(&mut wait, seen) {
        // signal(7): with a time-out set, the kernel does not restart the call.
        Err(Errno(libc::EINTR))
            if deadline == Instant::NEVER && signals::all_restart() && !cancel::is_due() =>
        {
            Ok(())
        }
        other => other,
    }
}

/// [`pause`] on a connection; the first time only asks for its events, so the caller looks again.
fn pause_on(sock: &Handle<Sock>, seat: Seat, until: (Instant, &mut Held), seen: u64) -> Outcome<()> {
    if !sock.has(flag::SUBSCRIBED) {
        seat.view.subscribe(seat, sock.object());
        return Ok(());
    }
    pause(sock, 1 << seat.view.number(), &[], until, seen)
}

/// One look at a connection: takes the lane and runs `f` on the engine; if `step` and `f` says EAGAIN, lets packets in and out and runs it
/// again.
pub(crate) fn look<R>(
    seat: Seat,
    visit: Visit,
    mut f: impl FnMut(&mut Engine<'_>) -> Outcome<R>,
    step: bool,
) -> Outcome<R> {
    const AGAIN: Errno = Errno(libc::EAGAIN);
    let on = |session: &mut Session<'_>, f: &mut dyn FnMut(&mut Engine<'_>) -> Outcome<R>| {
        session.engine(|engine| Some(f(engine))).unwrap_or(Err(POISONED))
    };
    let looked = seat.view.enter_as(visit, |session, heard| match on(session, &mut f) {
        Err(AGAIN) if step => {
            *heard = true;
            session.step();
            on(session, &mut f)
        }
        other => other,
    });
    looked.unwrap_or(Err(POISONED))
}

/// What `f` says once what has arrived was let in.
pub(crate) fn after_arrivals<R>(
    sock: &Handle<Sock>,
    seat: Seat,
    mut f: impl FnMut(&mut Engine<'_>) -> Outcome<R>,
) -> Outcome<R> {
    let mut looked = false;
    let look_twice = |engine: &mut Engine<'_>| {
        if core::mem::replace(&mut looked, true) { f(engine) } else { Err(Errno(libc::EAGAIN)) }
    };
    look(seat, Visit::taking(sock), look_twice, true)
}

pub(crate) fn is_nonblocking(sock: &Sock, flags: i32) -> bool {
    sock.has(flag::NONBLOCK) || flags & libc::MSG_DONTWAIT != 0
}

/// Receives into `parts` with the MSG_* `flags`.
pub(crate) fn recv(sock: &Handle<Sock>, seat: Seat, parts: &Parts<'_>, flags: i32) -> Outcome<usize> {
    if flags & libc::MSG_ERRQUEUE != 0 {
        return zerocopy::take(sock).map(|_| 0);
    }
    if flags & libc::MSG_OOB != 0 {
        return urgent::recv(sock, seat, parts, flags).map(|(n, _)| n);
    }
    let nonblocking = is_nonblocking(sock, flags);
    let whole = flags & libc::MSG_WAITALL != 0 && flags & libc::MSG_PEEK == 0;
    let wanted = parts.bytes();
    let mut done = 0;
    let (mut deadline, mut held) = (None, Held::new());
    loop {
        let seen = hub::seen();
        // A program that waits by epoll lets packets in there.
        let step = !(nonblocking && sock.has(flag::WATCHED));
        let taking = |engine: &mut Engine<'_>| take(engine, seat.name, parts, done, flags);
        // Who looks again and again until enough is there finds something each time, and has to see more of it come.
        let taken = if flags & libc::MSG_PEEK != 0 {
            after_arrivals(sock, seat, taking)
        } else {
            look(seat, Visit::taking(sock), taking, step)
        };
        match taken {
            Ok(n) => {
                done += n;
                if n == 0 || !whole || done >= wanted || nonblocking {
                    return Ok(done);
                }
            }
            Err(Errno(libc::EAGAIN)) if !nonblocking => {}
            Err(_) if done > 0 => return Ok(done),
            Err(errno) => return Err(errno),
        }
        let until = *deadline.get_or_insert_with(|| deadline_after(sock.rcv_timeout_ns()));
        if taken.is_err()
            && let Err(errno) = pause_on(sock, seat, (until, &mut held), seen)
        {
            return if done > 0 { Ok(done) } else { Err(errno) };
        }
    }
}

/// Takes what is there; what follows `skip` bytes that were taken before ends at the mark of urgent data.
fn take(
    engine: &mut Engine<'_>,
    name: SockRef,
    parts: &Parts<'_>,
    skip: usize,
    flags: i32,
) -> Outcome<usize> {
    if skip > 0 && engine.tcp_at_mark(name) {
        return Ok(0);
    }
    if flags & libc::MSG_TRUNC != 0 && flags & libc::MSG_PEEK == 0 {
        // tcp(7): MSG_TRUNC discards instead of copying.
        return engine.tcp_recv_skip(name, parts.bytes().saturating_sub(skip)).map_err(of_recv);
    }
    let mut taken = 0;
    for target in parts.targets(skip) {
        let got = if flags & libc::MSG_PEEK != 0 {
            engine.tcp_peek_at(name, taken, target)
        } else if taken > 0 && engine.tcp_at_mark(name) {
            break;
        } else {
            engine.tcp_recv(name, target, false)
        };
        match got {
            Ok(n) => taken += n,
            Err(_) if taken > 0 => break,
            Err(error) => return Err(of_recv(error)),
        }
        if got.is_ok_and(|n| n < target.len()) {
            break;
        }
    }
    Ok(taken)
}

/// Sends `parts` with the MSG_* `flags`.
pub(crate) fn send(sock: &Handle<Sock>, seat: Seat, parts: &Parts<'_>, flags: i32) -> Outcome<usize> {
    if flags & (libc::MSG_FASTOPEN | libc::MSG_ZEROCOPY) != 0 || sock.has(flag::FAST_FIRST) {
        return send_unusual(sock, seat, parts, flags);
    }
    send_from(sock, seat, parts, flags, 0)
}

#[cold]
fn send_unusual(sock: &Handle<Sock>, seat: Seat, parts: &Parts<'_>, flags: i32) -> Outcome<usize> {
    let sent = if flags & libc::MSG_FASTOPEN != 0 || sock.has(flag::FAST_FIRST) {
        fast_open::send(sock, seat, parts, flags)
    } else {
        send_from(sock, seat, parts, flags, 0)
    };
    zerocopy::sent(sock, flags, &sent);
    sent
}

/// [`send`] of what follows the first `done` bytes of `parts`, which were sent.
pub(crate) fn send_from(
    sock: &Handle<Sock>,
    seat: Seat,
    parts: &Parts<'_>,
    flags: i32,
    mut done: usize,
) -> Outcome<usize> {
    let nonblocking = is_nonblocking(sock, flags);
    let wanted = parts.bytes();
    let (mut deadline, mut held) = (None, Held::new());
    loop {
        let seen = hub::seen();
        let put = look(
            seat,
            Visit::putting(sock),
            |engine| put(engine, seat.name, parts, done, flags),
            !nonblocking,
        );
        match put {
            Ok(n) => {
                done += n;
                if done >= wanted || (nonblocking && n > 0) {
                    return Ok(done);
                }
                continue;
            }
            Err(Errno(libc::EAGAIN)) if !nonblocking => {}
            Err(_) if done > 0 => return Ok(done),
            Err(errno) => {
                if errno == Errno(libc::EPIPE) && flags & libc::MSG_NOSIGNAL == 0 {
                    signals::raise_pipe();
                }
                return Err(errno);
            }
        }
        let until = *deadline.get_or_insert_with(|| deadline_after(sock.snd_timeout_ns()));
        if let Err(errno) = pause_on(sock, seat, (until, &mut held), seen) {
            return if done > 0 { Ok(done) } else { Err(errno) };
        }
    }
}

/// Queues what fits.
fn put(engine: &mut Engine<'_>, name: SockRef, parts: &Parts<'_>, skip: usize, flags: i32) -> Outcome<usize> {
    let more = flags & libc::MSG_MORE != 0;
    // The last byte that is queued is the urgent one, so each part may be the last.
    let write = if flags & libc::MSG_OOB != 0 { Engine::tcp_send_urgent } else { Engine::tcp_send };
    let mut queued = 0;
    let mut sources = parts.sources(skip).peekable();
    if sources.peek().is_none() {
        return write(engine, name, &[], more).map_err(of_send);
    }
    while let Some(source) = sources.next() {
        match write(engine, name, source, more || sources.peek().is_some()) {
            Ok(n) => queued += n,
            Err(_) if queued > 0 => break,
            Err(error) => return Err(of_send(error)),
        }
        if queued > 0 && sources.peek().is_some() && engine.ready(name).0 & Ready::OUT.0 == 0 {
            break;
        }
    }
    Ok(queued)
}

/// Waits until `sock` is ready for any of `wanted`.
pub(crate) fn wait_for(sock: &Handle<Sock>, seat: Seat, wanted: Ready, deadline: Instant) -> Outcome<Ready> {
    let mut held = Held::new();
    loop {
        let seen = hub::seen();
        let ready = look(
            seat,
            Visit::taking(sock),
            |engine| {
                let ready = engine.ready(seat.name);
                if ready.any(wanted) { Ok(ready) } else { Err(Errno(libc::EAGAIN)) }
            },
            true,
        );
        match ready {
            Err(Errno(libc::EAGAIN)) => pause_on(sock, seat, (deadline, &mut held), seen)?,
            other => return other,
        }
    }
}

/// `shutdown(2)` with SHUT_RD, SHUT_WR or SHUT_RDWR.
pub(crate) fn shutdown(sock: &Sock, seat: Seat, how: i32) -> Outcome<()> {
    let how = match how {
        libc::SHUT_RD => How::Read,
        libc::SHUT_WR => How::Write,
        libc::SHUT_RDWR => How::Both,
        _ => return Err(Errno(libc::EINVAL)),
    };
    let shut = |engine: &mut Engine<'_>| {
        engine.shutdown(seat.name, how).map_err(|error| match error {
            ShutdownError::NotConnected => Errno(libc::ENOTCONN),
            ShutdownError::Gone => Errno(libc::EBADF),
        })
    };
    // Another thread may wait for what this makes ready.
    let shut = seat.view.enter_as(Visit::putting(sock), |session, heard| {
        *heard = true;
        session.engine(|engine| Some(shut(engine)))
    });
    shut.flatten().unwrap_or(Err(POISONED))
}

/// SO_ERROR: the pending error, 0 if none.
pub(crate) fn take_error(sock: &Sock, seat: Seat) -> i32 {
    look(
        seat,
        Visit::taking(sock),
        |engine| Ok(engine.take_error(seat.name).map_or(0, |e| of_sock(e).0)),
        false,
    )
    .unwrap_or(POISONED.0)
}

/// Runs `f` on the engine.
pub(crate) fn with<R>(sock: &Sock, seat: Seat, mut f: impl FnMut(&mut Engine<'_>) -> R) -> Outcome<R> {
    look(seat, Visit::taking(sock), |engine| Ok(f(engine)), false)
}

/// Is it connected, as `getpeername` means it?
pub(crate) fn is_connected(sock: &Sock, seat: Seat) -> bool {
    let info = look(seat, Visit::taking(sock), |engine| Ok(engine.tcp_info(seat.name)), false).ok().flatten();
    info.is_some_and(|info| !matches!(info.state, State::Closed | State::Listen | State::SynSent))
}

/// Bytes that can be read now.
pub(crate) fn unread(sock: &Sock, seat: Seat) -> Outcome<u32> {
    let mut looked = false;
    look(
        seat,
        Visit::taking(sock),
        |engine| {
            let n = engine.unread_bytes(seat.name);
            // Looks once more after letting packets in.
            if n == 0 && !core::mem::replace(&mut looked, true) { Err(Errno(libc::EAGAIN)) } else { Ok(n) }
        },
        true,
    )
}

/// How the ends of `sock` are shown: `None` as IPv4 addresses, else as IPv6 ones, with the number of the connection's device as scope id of
/// link-local ones.
pub(crate) fn scope(sock: &Sock, seat: Seat) -> Option<u32> {
    if !sock.has(flag::V6) {
        return None;
    }
    if !sock.inner().remote.addr.as_v6().is_unicast_link_local() {
        return Some(0);
    }
    let port = with(sock, seat, |engine| engine.port_of(seat.name)).ok().flatten();
    Some(port.and_then(|port| seat.view.lane().device_at(port)).unwrap_or(0))
}
