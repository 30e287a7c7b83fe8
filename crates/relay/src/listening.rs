//! Listening sockets: connections taken off the far listener for the program, and its socket readable just while there is one.

use std::collections::VecDeque;
use std::os::fd::AsFd;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use sys::notify::{Supervisor, write_memory};

use crate::endpoint::{self, Endpoint, Listening, State, Waiting};
use crate::far::{Address, Far};
use crate::target::Targets;

/// Bytes that mark a listener readable at most: more tell nothing new.
const MARKS_MAX: usize = 64;

/// What came of a call that waits for a connection.
pub(crate) enum Accepted {
    /// It got this one, whose bytes move from now on.
    Given(Box<Endpoint>),
    /// It was answered with an error, or waits no more.
    Answered,
}

/// The next connection of `listener`.
fn next(far: &Far, ready: &mut VecDeque<(Far, Address)>) -> Result<(Far, Address), Errno> {
    ready.pop_front().map_or_else(|| far.accept(), Ok)
}

/// Writes a name where a call wants it, cut to the room there is, and its whole length beside.
pub(crate) fn write_name(tid: u32, [at, length_at]: [u64; 2], Address(bytes): &Address) -> Result<(), Errno> {
    if at == 0 {
        return Ok(());
    }
    let mut length = [0; 4];
    if sys::notify::read_memory(tid, length_at, &mut length)? != 4 {
        return Err(Errno::FAULT);
    }
    let room = usize::try_from(i32::from_ne_bytes(length)).map_err(|_| Errno::INVAL)?;
    write_memory(tid, at, &bytes[..bytes.len().min(room)])?;
    write_memory(tid, length_at, &(bytes.len() as u32).to_ne_bytes())
}

/// Answers an accept(2) at `endpoint` if there is a connection. `Err`: there is none, or the listener failed.
pub(crate) fn accept(
    endpoint: &mut Endpoint,
    waiting: Waiting,
    supervisor: &Supervisor,
    targets: &mut Targets,
) -> Result<Accepted, Errno> {
    let State::Listening(listening) = &mut endpoint.state else { return Err(Errno::INVAL) };
    let far = endpoint.far.as_ref().ok_or(Errno::INVAL)?;
    let (connection, peer) = next(far, &mut listening.ready)?;
    // Readable means that the next accept has something: so see what the next one would find.
    if listening.ready.is_empty() {
        match far.accept() {
            Ok(another) => listening.ready.push_back(another),
            Err(_) => unmark(listening, endpoint.seen, endpoint.inode, targets),
        }
    }
    let give = |connection: Far| -> Result<Endpoint, (Errno, Option<Far>)> {
        if let Err(errno) = write_name(waiting.tid, waiting.address, &peer) {
            return Err((errno, None));
        }
        let nonblocking = waiting.flags & libc::SOCK_NONBLOCK != 0;
        let (mut new, theirs) =
            endpoint::new(connection, endpoint.family, nonblocking).map_err(|errno| (errno, None))?;
        new.state = State::Streaming;
        let cloexec = waiting.flags & libc::SOCK_CLOEXEC != 0;
        match supervisor.answer_with_fd(waiting.id, &theirs, cloexec) {
            Ok(()) => Ok(new),
            Err(errno) => Err((errno, new.far.take())),
        }
    };
    match give(connection) {
        Ok(new) => Ok(Accepted::Given(Box::new(new))),
        Err((errno, back)) => {
            // A thread that waits no more leaves the connection to the next one; one without room for a descriptor as well.
            if let Some(connection) = back {
                listening.ready.push_front((connection, peer));
                mark(endpoint);
            }
            let _ = supervisor.answer(waiting.id, Err(errno));
            Ok(Accepted::Answered)
        }
    }
}

/// Connections came: the program's socket becomes readable, or is so once more.
pub(crate) fn mark(endpoint: &mut Endpoint) {
    let State::Listening(listening) = &mut endpoint.state else { return };
    if let Some(near) = &endpoint.near
        && listening.marks < MARKS_MAX
        && rustix::net::send(near, b"+", SendFlags::DONTWAIT | SendFlags::NOSIGNAL) == Ok(1)
    {
        listening.marks += 1;
    }
}

/// There is no connection: the program's socket is not readable.
pub(crate) fn unmark(listening: &mut Listening, seen: (u32, i32), inode: u64, targets: &mut Targets) {
    if listening.marks > 0
        && let Some(theirs) = targets.find(seen, inode)
    {
        eat(&theirs, listening.marks);
        listening.marks = 0;
    }
}

/// Takes `bytes` bytes out of a socket.
pub(crate) fn eat(socket: &impl AsFd, bytes: usize) {
    let mut room = vec![0; bytes];
    let mut left = bytes;
    while left > 0 {
        match rustix::net::recv(socket, &mut room[..left], RecvFlags::DONTWAIT) {
            Ok((n @ 1.., _)) => left -= n,
            Err(Errno::INTR) => {}
            _ => return,
        }
    }
}
