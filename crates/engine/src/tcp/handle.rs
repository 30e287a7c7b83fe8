//! Names of connections in a lane whose connections may hibernate: from a name to the row, awake or asleep, and back.

use ::state::dormant::{DORMANT, FOREIGN, FREE_HANDLE, LAST};
use ::state::{Dormant, LaneMem, SockKind, SockRef, TcbCold, TcbHot};
use base::{Idx, Instant};

use super::conn::cold_of;
use super::frozen::{SINCE_SHIFT, kept, thaw};
use super::{flag, hibernate};

/// Where the connection is that `s` names.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Awake(Idx<TcbHot>),
    Asleep(Idx<Dormant>),
}

/// Where the connection is whose name does not lead to its own row.
pub(super) fn place_of(mem: &LaneMem<'_>, s: SockRef) -> Option<Place> {
    if s.kind() != Some(SockKind::Tcp) {
        return None;
    }
    let handle = mem.handles.get(Idx::new(s.row())).filter(|h| h.generation == s.generation)?;
    if handle.place & DORMANT != 0 {
        let at = Idx::new(handle.place & !DORMANT);
        let row = mem.dormant.get(at)?;
        return (row.handle == s.row() && row.flags & kept::CLOSED == 0).then_some(Place::Asleep(at));
    }
    let at = Idx::new(handle.place);
    let (hot, cold) = (mem.hot.get(at)?, mem.cold.get(cold_of(at))?);
    let held = hot.flags & (flag::HELD | flag::ORPHAN) == flag::HELD;
    (held && cold.handle == s.row()).then_some(Place::Awake(at))
}

/// The awake connection whose name `s` does not lead to its own row.
#[inline(never)]
pub(super) fn awake_elsewhere(mem: &LaneMem<'_>, s: SockRef) -> Option<Idx<TcbHot>> {
    match place_of(mem, s)? {
        Place::Awake(at) => Some(at),
        Place::Asleep(_) => None,
    }
}

/// A handle for a connection that begins in row `at`, and the generation for that row. `None`: there is none left.
pub(super) fn take(mem: &mut LaneMem<'_>, at: Idx<TcbHot>) -> Option<(u32, u32)> {
    let own = mem.handles.get_mut(Idx::new(at.raw()))?;
    if own.place & (FREE_HANDLE | DORMANT) == FREE_HANDLE {
        own.place = at.raw();
        return Some((at.raw(), own.generation));
    }
    let globals = &mut mem.globals.dormant;
    let raw = if globals.free_handle == LAST {
        let fresh = globals.fresh_handle;
        let row = mem.handles.get_mut(Idx::new(fresh))?;
        globals.fresh_handle = fresh.saturating_add(1);
        // Whatever an earlier owner of the lane left: even.
        row.generation = (row.generation & !1).wrapping_add(2);
        fresh
    } else {
        let free = globals.free_handle;
        let row =
            mem.handles.get(Idx::new(free)).filter(|h| h.place & (FREE_HANDLE | DORMANT) == FREE_HANDLE)?;
        globals.free_handle = row.place & LAST;
        free
    };
    mem.handles.get_mut(Idx::new(raw))?.place = at.raw();
    Some((raw, FOREIGN))
}

/// The connection with `handle` is over.
pub(super) fn free(mem: &mut LaneMem<'_>, handle: u32) {
    let rows = mem.hot.len();
    let Some(row) = mem.handles.get_mut(Idx::new(handle)) else { return };
    if row.place & (FREE_HANDLE | DORMANT) == FREE_HANDLE {
        return;
    }
    row.generation = row.generation.wrapping_add(2);
    let free = &mut mem.globals.dormant.free_handle;
    // One that belongs to a TCB row is found there and needs no list.
    let next = if handle < rows { LAST } else { core::mem::replace(free, handle) };
    row.place = FREE_HANDLE | next & LAST;
}

/// The name of awake connection `at` in a lane with handles.
pub(super) fn name_of(mem: &LaneMem<'_>, at: Idx<TcbHot>) -> SockRef {
    let handle = mem.cold.get(cold_of(at)).map_or(u32::MAX, |c| c.handle);
    let generation = mem.handles.get(Idx::new(handle)).map_or(FOREIGN, |h| h.generation);
    SockRef::new(SockKind::Tcp, handle, generation)
}

/// Shows `look` the rows of the connection that `s` names, without waking it.
pub(super) fn view<R>(mem: &LaneMem<'_>, s: SockRef, look: impl FnOnce(&TcbHot, &TcbCold) -> R) -> Option<R> {
    let thawed;
    let (hot, cold) = match super::lookup(mem, s) {
        Some(at) => (mem.hot.get(at)?, mem.cold.get(cold_of(at))?),
        None => {
            thawed = asleep(mem, s)?;
            (&thawed.0, &thawed.1)
        }
    };
    Some(look(hot, cold))
}

/// The rows of the connection that `s` names, which sleeps.
#[cold]
fn asleep(mem: &LaneMem<'_>, s: SockRef) -> Option<(TcbHot, TcbCold)> {
    let Place::Asleep(at) = place_of(mem, s)? else { return None };
    let row = mem.dormant.get(at)?;
    let set = mem.option_sets.get(Idx::new(u32::from(row.options)))?;
    Some(thaw(row, set, Instant(u64::from(row.since) << SINCE_SHIFT)))
}

/// The connection that `s` names, woken if it sleeps. `Err(Some)`: it sleeps, and no TCB row can be had.
pub(super) fn awake(
    mem: &mut LaneMem<'_>,
    now: Instant,
    s: SockRef,
) -> Result<Idx<TcbHot>, Option<Idx<Dormant>>> {
    match super::lookup(mem, s) {
        Some(at) => Ok(at),
        None => match place_of(mem, s) {
            Some(Place::Asleep(from)) => hibernate::wake(mem, now, from).ok_or(Some(from)),
            Some(Place::Awake(_)) | None => Err(None),
        },
    }
}
