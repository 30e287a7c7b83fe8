//! Moving bytes between near and far, and their ends.

use std::collections::VecDeque;
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown};
use sys::fds::Fd;

use crate::endpoint::{Endpoint, Flow, State};
use crate::target::Targets;

/// Bytes moved at once.
pub(crate) const PIECE: usize = 128 << 10;
/// Pieces moved in one direction before others have their turn.
const PIECES_A_TURN: usize = 8;

/// What is left to do after a turn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Left {
    /// Nothing until the next event.
    Wait,
    /// More, at once.
    Again,
    /// The program's end is closed and nothing is owed.
    Remove,
    /// Near and far are gone, but the program may still have its end.
    Ended,
}

/// What one direction came to.
enum Moved {
    Wait,
    Again,
    Done,
    Broken(Errno),
}

/// Moves what can be moved.
pub(crate) fn turn(endpoint: &mut Endpoint, scratch: &mut [u8], targets: &mut Targets) -> Left {
    match endpoint.state {
        State::Streaming => {}
        State::Ended if endpoint.near.is_some() => return fail_near(endpoint, targets),
        _ => return Left::Wait,
    }
    let up = up(endpoint, scratch);
    if let Moved::Broken(errno) = up {
        return break_off(endpoint, errno, scratch, targets);
    }
    let down = down(endpoint, scratch);
    if let Moved::Broken(errno) = down {
        return break_off(endpoint, errno, scratch, targets);
    }
    if endpoint.up.told && !endpoint.down.told && endpoint.near.as_ref().is_some_and(hung_up) {
        closed(endpoint);
    }
    if endpoint.near.is_none() {
        endpoint.take_far();
        return Left::Remove;
    }
    if endpoint.up.told && endpoint.down.told {
        eat_mark(endpoint);
        endpoint.take_far();
        endpoint.near = None;
        return Left::Ended;
    }
    if matches!(up, Moved::Again) || matches!(down, Moved::Again) { Left::Again } else { Left::Wait }
}

/// Gives `far` what waits for it. False: it takes no more now.
fn flush(flow: &mut Flow, mut give: impl FnMut(&[u8]) -> Result<usize, Errno>) -> Result<bool, Errno> {
    while !flow.pending.is_empty() {
        match give(flow.pending.as_slices().0) {
            Ok(taken) => drop(flow.pending.drain(..taken)),
            Err(Errno::AGAIN) => return Ok(false),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    // Buffers of slow connections only.
    flow.pending = VecDeque::new();
    Ok(true)
}

/// From the program to the network.
fn up(endpoint: &mut Endpoint, scratch: &mut [u8]) -> Moved {
    let Some(far) = &endpoint.far else { return Moved::Done };
    for _ in 0..PIECES_A_TURN {
        match flush(&mut endpoint.up, |bytes| far.send(bytes)) {
            Ok(true) => {}
            Ok(false) => return Moved::Wait,
            Err(errno) => return Moved::Broken(errno),
        }
        if endpoint.up.ended {
            return finish_up(endpoint);
        }
        let room = endpoint.until_mark.unwrap_or(PIECE).min(PIECE);
        let Some(near) = &endpoint.near else { return Moved::Done };
        let Some(room) = scratch.get_mut(..room) else { return Moved::Done };
        let got = if room.is_empty() { Ok(0) } else { receive(near, room) };
        match got {
            Ok(0) => endpoint.up.ended = true,
            Ok(n) => {
                let bytes = &scratch[..n];
                if let Some(until) = &mut endpoint.until_mark {
                    *until -= n;
                }
                let taken = match far.send(bytes) {
                    Ok(taken) => taken,
                    Err(Errno::AGAIN | Errno::INTR) => 0,
                    Err(errno) => return Moved::Broken(errno),
                };
                endpoint.up.pending.extend(&bytes[taken..]);
            }
            Err(Errno::AGAIN) => return Moved::Wait,
            Err(Errno::INTR) => {}
            // Closed with something unread in it.
            Err(Errno::CONNRESET) => {
                endpoint.near = None;
                if let Some(far) = endpoint.take_far() {
                    far.abort();
                }
                return Moved::Done;
            }
            Err(errno) => return Moved::Broken(errno),
        }
    }
    Moved::Again
}

fn receive(near: &Fd, room: &mut [u8]) -> Result<usize, Errno> {
    rustix::net::recv(near, room, RecvFlags::DONTWAIT).map(|(n, _)| n)
}

/// Everything the program wrote is with far, and it writes no more.
fn finish_up(endpoint: &mut Endpoint) -> Moved {
    if endpoint.up.told {
        return Moved::Done;
    }
    endpoint.up.told = true;
    if let Some(far) = &endpoint.far {
        // A connection that is gone says so by its next event.
        let _ = far.shutdown(libc::SHUT_WR);
    }
    Moved::Done
}

/// The program closed its end, or shut both directions. What it has not read is lost, and as with any socket the peer is then told by a reset.
fn closed(endpoint: &mut Endpoint) {
    endpoint.near = None;
    let unread = !endpoint.down.pending.is_empty();
    if let Some(far) = endpoint.take_far() {
        if unread { far.abort() } else { drop(far) }
    }
}

/// Are both directions of `near` shut?
pub(crate) fn hung_up(near: &Fd) -> bool {
    let mut fds = [PollFd::new(near, PollFlags::empty())];
    poll(&mut fds, Some(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok()
        && fds[0].revents().contains(PollFlags::HUP)
}

/// From the network to the program.
fn down(endpoint: &mut Endpoint, scratch: &mut [u8]) -> Moved {
    for _ in 0..PIECES_A_TURN {
        let (Some(far), Some(near)) = (&endpoint.far, &endpoint.near) else { return Moved::Done };
        match flush(&mut endpoint.down, |bytes| give(near, bytes)) {
            Ok(true) => {}
            Ok(false) => return Moved::Wait,
            Err(errno) => return Moved::Broken(errno),
        }
        if endpoint.down.ended {
            if !endpoint.down.told {
                endpoint.down.told = true;
                // It may be shut already, by the program.
                let _ = rustix::net::shutdown(near, Shutdown::Write);
            }
            return Moved::Done;
        }
        match far.receive(&mut scratch[..PIECE]) {
            Ok(0) => endpoint.down.ended = true,
            Ok(n) => {
                let bytes = &scratch[..n];
                let taken = match give(near, bytes) {
                    Ok(taken) => taken,
                    Err(Errno::AGAIN | Errno::INTR) => 0,
                    Err(errno) => return Moved::Broken(errno),
                };
                endpoint.down.pending.extend(&bytes[taken..]);
            }
            Err(Errno::AGAIN) => return Moved::Wait,
            Err(Errno::INTR) => {}
            Err(errno) => return Moved::Broken(errno),
        }
    }
    Moved::Again
}

/// Gives the program bytes; what it will never read is taken all the same.
fn give(near: &Fd, bytes: &[u8]) -> Result<usize, Errno> {
    match rustix::net::send(near, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
        Err(Errno::PIPE | Errno::CONNRESET) => Ok(bytes.len()),
        done => done,
    }
}

/// The connection is lost: the program reads what came before, then gets an error.
fn break_off(endpoint: &mut Endpoint, errno: Errno, scratch: &mut [u8], targets: &mut Targets) -> Left {
    // What far still has came before the loss.
    if !endpoint.down.ended
        && let Some(far) = &endpoint.far
    {
        while let Ok(n @ 1..) = far.receive(scratch) {
            endpoint.down.pending.extend(&scratch[..n]);
        }
    }
    endpoint.error = Some(errno);
    endpoint.take_far();
    fail_near(endpoint, targets)
}

/// Shows the program an error, once it has been given what was read for it.
pub(crate) fn fail_near(endpoint: &mut Endpoint, targets: &mut Targets) -> Left {
    let Some(near) = &endpoint.near else { return Left::Remove };
    if let Ok(false) = flush(&mut endpoint.down, |bytes| give(near, bytes)) {
        return Left::Wait;
    }
    if endpoint.until_mark.is_none()
        && !has_unread(near)
        && let Some(theirs) = targets.find(endpoint.seen, endpoint.inode)
    {
        // Never read: it is what makes the close a reset. A full socket has something unread already.
        let _ = rustix::net::send(&theirs, b"!", SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
    endpoint.near = None;
    Left::Ended
}

fn has_unread(near: &Fd) -> bool {
    let mut one = [0];
    let look = RecvFlags::DONTWAIT | RecvFlags::PEEK;
    rustix::net::recv(near, &mut one, look).is_ok_and(|(n, _)| n > 0)
}

/// The end is orderly: nothing of ours may lie unread.
fn eat_mark(endpoint: &mut Endpoint) {
    if endpoint.until_mark.take().is_some()
        && let Some(near) = &endpoint.near
    {
        let _ = receive(near, &mut [0]);
    }
}

/// Before the program shuts its writing direction: a byte behind all it wrote, so that the connection can still be shown as reset.
pub(crate) fn mark_end(endpoint: &mut Endpoint, theirs: &impl AsFd) {
    let Some(near) = &endpoint.near else { return };
    if endpoint.until_mark.is_some() || endpoint.up.ended {
        return;
    }
    let Ok(before) = rustix::io::ioctl_fionread(near) else { return };
    let put = rustix::net::send(theirs, b"!", SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    if put == Ok(1) {
        endpoint.until_mark = Some(before as usize);
    }
}
