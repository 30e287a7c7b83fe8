//! Who gets signals when something happens to a socket (fcntl(2): F_SETOWN, F_SETSIG, O_ASYNC), and what is to be signalled.
//!
//! Whoever lets packets in finds here what to send before it leaves the lane, so each happening is signalled once, by one of them. Few sockets
//! have such a row, and only their events touch it. Left out: how a signal is sent.

use base::Idx;
use region::Table;
use state::{EventGlobals, LaneMem, Ready, SignalRow, Signals, SockRef};

use crate::engine::Engine;
use crate::events;

/// Something happened that somebody is to be told of by a signal.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Raised {
    /// Who, and how.
    pub to: Signals,
    /// What became ready.
    pub ready: Ready,
}

impl Engine<'_> {
    /// Has `to` told by signals what happens to `s`; the default: nobody. False: no such socket, or no room (`limits::SIGNAL_ROWS`).
    pub fn set_signals(&mut self, s: SockRef, to: &Signals) -> bool {
        let Some(at) = events::row_of(&self.mem, s) else { return false };
        set(&mut self.mem, at, to)
    }

    /// Who is told.
    #[must_use]
    pub fn signals(&self, s: SockRef) -> Signals {
        let row = events::row_of(&self.mem, s).and_then(|at| row_of(&self.mem, at));
        row.and_then(|row| self.mem.signals.get(row)).map_or(Signals::default(), |row| row.to)
    }

    /// Is there something to signal?
    #[must_use]
    #[inline]
    pub fn signals_pending(&self) -> bool {
        self.mem.globals.events.raised != 0
    }

    /// Something to signal. Who cannot be told from another process of that number is left to the process numbered `me` that named it.
    pub fn poll_signal(&mut self, me: u32) -> Option<Raised> {
        let used = self.mem.globals.events.signals_used;
        for row in self.mem.signals.rows_mut().iter_mut().take(used as usize) {
            if row.at != 0 && row.raised != 0 && (row.to.identity != 0 || row.to.named_by == me) {
                let ready = Ready(core::mem::take(&mut row.raised));
                return Some(Raised { to: row.to, ready });
            }
        }
        let left = self.mem.signals.rows().iter().take(used as usize).any(|row| row.raised != 0);
        self.mem.globals.events.raised = u32::from(left);
        None
    }
}

/// `ready` became true at the socket of event row `at`, whose row of signals is `number` - 1.
#[cold]
pub(crate) fn raise(
    signals: &mut Table<'_, SignalRow>,
    lists: &mut EventGlobals,
    (at, number): (u32, u16),
    ready: Ready,
) {
    let row = signals.get_mut(Idx::new(u32::from(number) - 1)).filter(|row| row.at == at + 1);
    let Some(row) = row else { return };
    // Of the end of both directions its FIN told, or what is told now is an error.
    let ended = Ready::HUP | Ready::OUT;
    if ready.has(ended) && !ready.any(Ready::ERR) {
        return;
    }
    let wanted = if row.to.async_fd == 0 { Ready::ALARM.0 } else { u32::MAX };
    if row.to.owner != 0 && ready.0 & wanted != 0 {
        row.raised |= ready.0 & wanted;
        lists.raised = 1;
    }
}

/// Does what the program itself wants of `s`, which is nothing to tell it of by signals.
pub(crate) fn quietly<R>(mem: &mut LaneMem<'_>, s: SockRef, f: impl FnOnce(&mut LaneMem<'_>) -> R) -> R {
    let find = |mem: &LaneMem<'_>| events::row_of(mem, s).and_then(|at| row_of(mem, at));
    let before = find(mem).and_then(|row| mem.signals.get(row)).map(|row| row.raised);
    let done = f(mem);
    if let Some(before) = before
        && let Some(row) = find(mem).and_then(|row| mem.signals.get_mut(row))
    {
        row.raised = before;
    }
    done
}

/// The row of signals of event row `at`.
fn row_of(mem: &LaneMem<'_>, at: u32) -> Option<Idx<SignalRow>> {
    let number = mem.events.get(Idx::new(at))?.signals.checked_sub(1)?;
    let row = Idx::new(u32::from(number));
    mem.signals.get(row).filter(|row| row.at == at + 1).map(|_| row)
}

fn set(mem: &mut LaneMem<'_>, at: u32, to: &Signals) -> bool {
    if *to == Signals::default() {
        forget(mem, at);
        return true;
    }
    let Some(row) = row_of(mem, at).or_else(|| take_row(mem, at)) else { return false };
    if let Some(row) = mem.signals.get_mut(row) {
        row.to = *to;
    }
    true
}

fn take_row(mem: &mut LaneMem<'_>, at: u32) -> Option<Idx<SignalRow>> {
    let used = mem.globals.events.signals_used;
    let free = mem.signals.rows().iter().take(used as usize).position(|row| row.at == 0);
    let number = free.map_or(used, |free| free as u32);
    *mem.signals.get_mut(Idx::new(number))? = SignalRow { at: at + 1, ..SignalRow::default() };
    mem.globals.events.signals_used = used.max(number + 1);
    mem.events.get_mut(Idx::new(at))?.signals = number as u16 + 1;
    Some(Idx::new(number))
}

/// The socket of event row `at` is gone: nobody is told of it any more.
#[inline]
pub(crate) fn forget(mem: &mut LaneMem<'_>, at: u32) {
    if mem.events.get(Idx::new(at)).is_some_and(|row| row.signals != 0) {
        let row = row_of(mem, at);
        if let Some(row) = row.and_then(|row| mem.signals.get_mut(row)) {
            *row = SignalRow::default();
        }
        if let Some(event) = mem.events.get_mut(Idx::new(at)) {
            event.signals = 0;
        }
    }
}

/// [`forget`] of `s`, which its program gives up.
pub(crate) fn forget_sock(mem: &mut LaneMem<'_>, s: SockRef) {
    if mem.globals.events.signals_used != 0
        && let Some(at) = events::row_of(mem, s)
    {
        forget(mem, at);
    }
}

/// The socket of event row `old` is at `new` of another lane now. Where there is no room, nobody is told any more.
pub(crate) fn hand_on((from, old): (&mut LaneMem<'_>, u32), (to, new): (&mut LaneMem<'_>, u32)) {
    let Some(row) = row_of(from, old).and_then(|row| from.signals.get(row)).copied() else { return };
    forget(from, old);
    if let Some(at) = take_row(to, new)
        && let Some(there) = to.signals.get_mut(at)
    {
        (there.to, there.raised) = (row.to, row.raised);
        to.globals.events.raised |= u32::from(row.raised != 0);
    }
}
