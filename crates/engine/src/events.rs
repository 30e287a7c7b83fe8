//! Event queues: which sockets have something to tell, each once, in the order in which they became ready.
//!
//! Rows are numbered TCP connections first, then listeners, then UDP sockets.

use base::Idx;
use region::Table;
use state::{Event, EventGlobals, EventQueue, EventRow, LaneMem, Ready, SignalRow, SockKind, SockRef};

use crate::signals;

/// What reporting readiness touches.
pub(crate) struct Notifier<'c, 'a> {
    /// One row a socket.
    pub(crate) rows: &'c mut Table<'a, EventRow>,
    /// The lists.
    pub(crate) lists: &'c mut EventGlobals,
    /// Who gets signals.
    pub(crate) signals: &'c mut Table<'a, SignalRow>,
}

impl Notifier<'_, '_> {
    /// `ready` became true at the socket of row `at`.
    #[inline]
    pub(crate) fn notify(&mut self, at: u32, ready: Ready) {
        let Some(row) = self.rows.get(Idx::new(at)) else { return };
        if row.signals != 0 {
            signals::raise(self.signals, self.lists, (at, row.signals), ready);
        }
        self.queue(at, ready);
    }

    /// The event of it, if somebody wants to hear of it.
    #[inline]
    fn queue(&mut self, at: u32, ready: Ready) {
        let ready = ready.0 & !Ready::ALARM.0;
        let Some(row) = self.rows.get_mut(Idx::new(at)) else { return };
        if row.queue == 0 || ready == 0 {
            return;
        }
        row.ready |= ready;
        if row.listed != 0 {
            return;
        }
        let Some(list) = self.lists.queues.get_mut(usize::from(row.queue)) else { return };
        row.listed = 1;
        row.next = u32::MAX;
        row.prev = list.tail;
        let before = core::mem::replace(&mut list.tail, at);
        if list.head == u32::MAX {
            list.head = at;
        }
        if let Some(last) = self.rows.get_mut(Idx::new(before)) {
            last.next = at;
        }
    }

    /// Takes row `at` off its list.
    fn unlist(&mut self, at: u32) {
        let Some(row) = self.rows.get_mut(Idx::new(at)) else { return };
        row.ready = 0;
        if row.listed == 0 {
            return;
        }
        row.listed = 0;
        let (queue, next, prev) = (row.queue, row.next, row.prev);
        row.next = u32::MAX;
        row.prev = u32::MAX;
        if let Some(before) = self.rows.get_mut(Idx::new(prev)) {
            before.next = next;
        }
        if let Some(after) = self.rows.get_mut(Idx::new(next)) {
            after.prev = prev;
        }
        let Some(list) = self.lists.queues.get_mut(usize::from(queue)) else { return };
        if list.head == at {
            list.head = next;
        }
        if list.tail == at {
            list.tail = prev;
        }
    }

    /// The socket of row `at` is gone, or nobody wants to hear of it.
    pub(crate) fn forget(&mut self, at: u32) {
        self.unlist(at);
        if let Some(row) = self.rows.get_mut(Idx::new(at)) {
            row.queue = 0;
            row.token = 0;
        }
    }
}

/// The notifier over `mem`.
pub(crate) fn notifier<'c, 'a>(mem: &'c mut LaneMem<'a>) -> Notifier<'c, 'a> {
    Notifier { rows: &mut mem.events, lists: &mut mem.globals.events, signals: &mut mem.signals }
}

/// The row of `s`.
pub(crate) fn row_of(mem: &LaneMem<'_>, s: SockRef) -> Option<u32> {
    let (before, len) = match s.kind()? {
        SockKind::Tcp => return crate::tcp::lookup(mem, s).map(Idx::raw),
        SockKind::Listener => (mem.hot.len(), mem.listeners.len()),
        SockKind::Udp => (mem.hot.len().saturating_add(mem.listeners.len()), mem.udp_socks.len()),
    };
    (s.row() < len).then(|| before.saturating_add(s.row()))
}

/// `ready` became true at `s`.
pub(crate) fn notify(mem: &mut LaneMem<'_>, s: SockRef, ready: Ready) {
    if let Some(at) = row_of(mem, s) {
        notifier(mem).notify(at, ready);
    }
}

/// `s` is gone.
pub(crate) fn forget(mem: &mut LaneMem<'_>, s: SockRef) {
    if let Some(at) = row_of(mem, s) {
        forget_row(mem, at);
    }
}

/// The connection of row `at` is gone.
pub(crate) fn forget_row(mem: &mut LaneMem<'_>, at: u32) {
    signals::forget(mem, at);
    notifier(mem).forget(at);
}

/// Has events of `s`, whose readiness is `ready`, go to `queue` with `token`; 0: to nobody. False: no such queue.
pub(crate) fn subscribe(mem: &mut LaneMem<'_>, s: SockRef, queue: u16, token: u64, ready: Ready) -> bool {
    row_of(mem, s).is_some_and(|at| subscribe_row(mem, (at, s), queue, token, ready))
}

/// [`subscribe`] of the socket `s`, whose row is `at`.
pub(crate) fn subscribe_row(
    mem: &mut LaneMem<'_>,
    (at, s): (u32, SockRef),
    queue: u16,
    token: u64,
    ready: Ready,
) -> bool {
    if usize::from(queue) >= mem.globals.events.queues.len() {
        return false;
    }
    let mut to = notifier(mem);
    to.forget(at);
    let Some(row) = to.rows.get_mut(Idx::new(at)) else { return false };
    row.name = s;
    row.queue = queue as u8;
    row.token = token;
    to.queue(at, ready);
    true
}

/// Where events of row `at` go, with which token, and what was gathered for it.
pub(crate) fn taken_from(mem: &LaneMem<'_>, at: u32) -> (u16, u64, Ready) {
    let row = mem.events.get(Idx::new(at));
    row.map_or((0, 0, Ready::NONE), |row| (u16::from(row.queue), row.token, Ready(row.ready)))
}

/// The oldest event of `queue`.
pub(crate) fn poll(mem: &mut LaneMem<'_>, queue: u16) -> Option<Event> {
    let at = mem.globals.events.queues.get(usize::from(queue))?.head;
    let row = mem.events.get(Idx::new(at))?;
    let event = Event { sock: row.name, token: row.token, ready: Ready(row.ready) };
    notifier(mem).unlist(at);
    let list = mem.globals.events.queues.get_mut(usize::from(queue))?;
    if list.head == at {
        // The row did not know of the list: in a corrupted region it would come again without end.
        *list = EventQueue { head: u32::MAX, tail: u32::MAX };
    }
    Some(event)
}
