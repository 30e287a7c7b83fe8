//! What becomes of a dead program's sockets, as Linux does it at process exit.

use base::Instant;
use engine_state::{CLOSED, NOTES, TIME_WAIT};
use lane::{Lane, Session, open_sockets, twins};
use state::{Endpoint, Listener, SockKind, SockRef};

/// States of a connection as its row numbers them (RFC 9293 3.3.2; the engine's `State`).
mod engine_state {
    pub(super) const CLOSED: u8 = 0;
    pub(super) const TIME_WAIT: u8 = 10;
    /// From here on a row is a note of where its connection went.
    pub(super) const NOTES: u8 = 0x80;
}

/// Closes every socket but listeners: a connection with unread data is reset, any other sends what is queued and then its FIN.
pub(crate) fn close_connections(session: &mut Session<'_>) {
    close_those(session, |kind| kind != SockKind::Listener);
}

/// Closes every listener of a lane whose program is gone, and resets what waits at it. A SYN that is still under way to the lane is not refused: somebody else
/// may listen.
pub(crate) fn close_listeners(session: &mut Session<'_>) {
    session.engine(|engine| engine.listens_no_more());
    close_those(session, |kind| kind == SockKind::Listener);
}

fn close_those(session: &mut Session<'_>, which: impl Fn(SockKind) -> bool) {
    let open = open_sockets(session).into_iter().filter(|sock| sock.kind().is_some_and(&which));
    session.engine(|engine| {
        open.for_each(|sock| {
            // Those go with their listener.
            if !engine.is_waiting(sock) {
                engine.close(sock);
            }
        });
    });
}

/// Does a connection wait at a listener, half open or to be accepted?
pub(crate) fn has_waiting(session: &mut Session<'_>) -> bool {
    session.engine(|engine| engine.mem().listeners.rows().iter().any(|row| waiting(row) > 0))
}

fn waiting(row: &Listener) -> u32 {
    if row.used == 0 { 0 } else { row.accept_queue.len.saturating_add(row.half_open_count()) }
}

/// The listeners of `lane` at which connections wait, with their ends.
pub(crate) fn listeners_with_waiting(lane: &Lane, now: Instant) -> Vec<(SockRef, Endpoint)> {
    let Ok(Some(mut session)) = lane.try_enter(now) else { return Vec::new() };
    let all = twins::listeners(&mut session).into_iter();
    all.filter(|(_, row)| waiting(row) > 0).map(|(name, row)| (name, row.local)).collect()
}

/// Those at which connections wait to be accepted.
pub(crate) fn listeners_with_unaccepted(lane: &Lane, now: Instant) -> Vec<(SockRef, Endpoint)> {
    let Ok(Some(mut session)) = lane.try_enter(now) else { return Vec::new() };
    twins::unaccepted(&mut session)
}

/// Closes the listener at `local` that its program left if nothing waits at it, or whatever does if it is `over`. True: it is closed, or there is none.
pub(crate) fn close_listener(session: &mut Session<'_>, local: Endpoint, over: bool) -> bool {
    let found = twins::listeners(session).into_iter().find(|(_, row)| row.local == local && row.closing != 0);
    let Some((name, row)) = found else { return true };
    let closes = over || waiting(&row) == 0;
    if closes {
        session.engine(|engine| engine.close(name));
    }
    closes
}

/// Connections that still have something to say or to hear. One in TIME-WAIT has not: the kernel answers for it.
pub fn unfinished(session: &mut Session<'_>) -> usize {
    session.engine(|engine| {
        let dormant = &engine.mem().globals.dormant;
        let asleep = dormant.used.saturating_sub(dormant.waiting) as usize;
        let connections = engine.mem().hot.rows().iter();
        connections.filter(|c| c.state != CLOSED && c.state != TIME_WAIT && c.state < NOTES).count() + asleep
    })
}
