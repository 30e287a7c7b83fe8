//! Listeners.

use base::{Idx, Instant};
use state::{Endpoint, LaneMem, Listener, Ready, SockKind, SockRef, TcpOptions};

use crate::errors::{AcceptError, ListenError};
use crate::types::Accepted;

pub(crate) fn lookup(mem: &LaneMem<'_>, s: SockRef) -> Option<Idx<Listener>> {
    if s.kind() != Some(SockKind::Listener) {
        return None;
    }
    let at = Idx::new(s.row());
    let row = mem.listeners.get(at)?;
    (row.used != 0 && row.generation == s.generation).then_some(at)
}

pub(crate) fn ready(mem: &LaneMem<'_>, s: SockRef) -> Ready {
    match lookup(mem, s).and_then(|at| mem.listeners.get(at)) {
        Some(row) if row.accept_queue.len > 0 => Ready::IN,
        Some(_) => Ready::NONE,
        None => Ready::ERR | Ready::HUP,
    }
}

pub(crate) fn open(
    _mem: &mut LaneMem<'_>,
    _local: Endpoint,
    _backlog: u32,
    _opts: &TcpOptions,
) -> Result<SockRef, ListenError> {
    Err(ListenError::NoRoom)
}

pub(crate) fn set_backlog(_mem: &mut LaneMem<'_>, _s: SockRef, _backlog: u32) -> bool {
    false
}

pub(crate) fn accept(_mem: &mut LaneMem<'_>, _s: SockRef) -> Result<Accepted, AcceptError> {
    Err(AcceptError::Gone)
}

pub(crate) fn close(_mem: &mut LaneMem<'_>, _now: Instant, _s: SockRef) {}
