//! Urgent data (tcp(7)): MSG_OOB and SIOCATMARK. SIGURG: [`crate::owner`].

use crate::errno::{Outcome, of_urgent};
use crate::object::Handle;
use crate::sock::{Seat, Sock};
use crate::stream::after_arrivals;
use crate::user::Parts;

/// `recv` with MSG_OOB: the number of bytes, and what of the flags `recvmsg` gives back. Never waits.
pub(crate) fn recv(sock: &Handle<Sock>, seat: Seat, parts: &Parts<'_>, flags: i32) -> Outcome<(usize, i32)> {
    let peek = flags & libc::MSG_PEEK != 0;
    let byte =
        after_arrivals(sock, seat, |engine| engine.tcp_recv_urgent(seat.name, peek).map_err(of_urgent))?;
    let Some(byte) = byte else { return Ok((0, 0)) };
    let Some(room) = parts.targets(0).next() else { return Ok((0, libc::MSG_OOB | libc::MSG_TRUNC)) };
    if let Some(to) = room.first_mut().filter(|_| flags & libc::MSG_TRUNC == 0) {
        *to = byte;
    }
    Ok((1, libc::MSG_OOB))
}

/// SIOCATMARK.
pub(crate) fn at_mark(sock: &Handle<Sock>, seat: Seat) -> Outcome<u32> {
    after_arrivals(sock, seat, |engine| Ok(engine.tcp_at_mark(seat.name).into()))
}
