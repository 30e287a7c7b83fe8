//! What `corelane explain` prints of this process: a line for each listener and each socket left to the kernel.
//!
//! Told at rare moments only: when a listener was decided on, and at the first few fall-backs. Accepted connections are not listed; the
//! listener's line says how they come.

use core::fmt::Write;
use core::sync::atomic::{AtomicU32, Ordering};

use crate::home;
use crate::sock::{Sock, State};
use crate::table::{self, Entry};

/// Sockets listed at most.
const LINES: usize = 200;
/// Last connecting socket that is told of.
const TOLD: u32 = 1024;

static CONNECTS: AtomicU32 = AtomicU32::new(0);

/// A socket that connects was decided on: tells of the first, the second, the fourth ...
pub(crate) fn connected() {
    let number = CONNECTS.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
    if number.is_power_of_two() && number <= TOLD {
        tell();
    }
}

/// A connection was handed over to the kernel: tells as [`connected`] does.
pub(crate) fn entrusted() {
    static ENTRUSTED: AtomicU32 = AtomicU32::new(0);
    let number = ENTRUSTED.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
    if number.is_power_of_two() && number <= TOLD {
        tell();
    }
}

/// Tells the keeper.
pub(crate) fn tell() {
    let mut text = String::new();
    let mut lines = 0;
    for fd in 0..=table::highest() {
        if table::is_foreign(fd) {
            continue;
        }
        let written = match table::get_as_is(fd) {
            Entry::Kernel(reason) => writeln!(text, "fd {fd} kernel: {reason}"),
            Entry::Sock(sock) => line(&mut text, fd, &sock),
            Entry::Foreign | Entry::Internal | Entry::Parked | Entry::Epoll(_) => continue,
        };
        lines += usize::from(written.is_ok());
        if lines >= LINES {
            break;
        }
    }
    home::tell(&text);
}

fn line(text: &mut String, fd: i32, sock: &Sock) -> core::fmt::Result {
    let inner = sock.inner();
    match (sock.state(), sock.seat.get()) {
        (State::Stream, Some(seat)) => {
            let (local, remote) = (inner.local, inner.remote);
            let number = seat.view.id.0;
            write!(text, "fd {fd} lane {number}: {}:{} to ", local.addr, local.port.0)?;
            write!(text, "{}:{}", remote.addr, remote.port.0)?;
            match home::peer_of(seat) {
                Some(pid) => writeln!(text, ", wire to PID {pid}"),
                None => writeln!(text),
            }
        }
        (State::Listening, Some(seat)) => {
            writeln!(
                text,
                "fd {fd} lane {}: listens on port {}; programs without a lane and other devices through the kernel",
                seat.view.id.0, inner.local.port.0
            )
        }
        (State::Listening | State::Kernel | State::Undecided | State::Stream, _) => {
            writeln!(text, "fd {fd} kernel: {}", inner.reason)
        }
    }
}
