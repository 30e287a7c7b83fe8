//! What becomes of a dead program's sockets, as Linux does it at process exit.

use engine_state::{CLOSED, TIME_WAIT};
use lane::Session;
use state::{SockKind, SockRef};

/// States of a connection as its row numbers them (RFC 9293 3.3.2; the engine's `State`).
mod engine_state {
    pub(super) const CLOSED: u8 = 0;
    pub(super) const TIME_WAIT: u8 = 10;
}

/// Every socket that a program still has in the lane, hibernating connections included.
fn open_sockets(session: &mut Session<'_>) -> Vec<SockRef> {
    session.engine(|engine| {
        let mem = engine.mem();
        let listeners = mem.listeners.rows().iter().enumerate();
        let listeners = listeners.map(|(row, l)| SockRef::new(SockKind::Listener, row as u32, l.generation));
        // Where connections hibernate each has a handle; else its row gives the name.
        let rows = mem.hot.rows().iter().map(|c| c.generation);
        let handles = mem.handles.rows().iter().map(|h| h.generation);
        let handles = handles.take(mem.globals.dormant.fresh_handle as usize);
        let rows = rows.take(if mem.handles.is_empty() { usize::MAX } else { 0 });
        let connections = rows.chain(handles).enumerate();
        let connections = connections.map(|(row, g)| SockRef::new(SockKind::Tcp, row as u32, g));
        let udp = mem.udp_socks.rows().iter().enumerate();
        let udp = udp.map(|(row, u)| SockRef::new(SockKind::Udp, row as u32, u.generation));
        let all: Vec<SockRef> = listeners.chain(connections).chain(udp).collect();
        all.into_iter().filter(|&sock| engine.exists(sock)).collect()
    })
}

/// Closes every socket: a connection with unread data is reset, any other sends what is queued and then its FIN.
pub(crate) fn close_all(session: &mut Session<'_>) {
    let open = open_sockets(session);
    session.engine(|engine| open.into_iter().for_each(|sock| engine.close(sock)));
}

/// Resets every connection and closes every listener; gives how many there were.
pub(crate) fn abort_all(session: &mut Session<'_>) -> u32 {
    let open = open_sockets(session);
    let count = open.len() as u32;
    session.engine(|engine| open.into_iter().for_each(|sock| engine.abort(sock)));
    count
}

/// Connections that still have something to say or to hear. One in TIME-WAIT has not: the kernel answers for it.
pub(crate) fn unfinished(session: &mut Session<'_>) -> usize {
    session.engine(|engine| {
        let asleep = engine.mem().globals.dormant.used as usize;
        let connections = engine.mem().hot.rows().iter();
        connections.filter(|c| c.state != CLOSED && c.state != TIME_WAIT).count() + asleep
    })
}
