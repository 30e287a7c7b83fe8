//! TIME-WAIT of connections that no program holds any more, in the small rows of connections that hibernate: 92 bytes, and 16 for the timer. A segment
//! wakes one like any other; it sleeps again once its answer is out. The oldest end early when there are too many.
//!
//! Left out: lanes without such rows, IPv6, and what `frozen` cannot hold; these keep their TCB rows (`table::enter_time_wait`).
//!
//! Invariant: rows with the handle [`NAMELESS`], and no others, are in the list that begins at `DormantGlobals::waiting_head`.

use ::state::dormant::{DORMANT, NAMELESS};
use ::state::{Dormant, LaneMem, TcbHot};
use base::{Idx, Instant};

use super::conn::{cold_of, conn};
use super::frozen::{kept, key_of, only_waits};
use super::{flag, handle, hibernate, table};

/// Connection `at` entered TIME-WAIT, an ACK of it went out, or its program gave it up: it sleeps if it has nothing to do but to wait for the end of TIME-WAIT.
#[inline]
pub(super) fn rest(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>) {
    let waits = mem.hot.get(at).is_some_and(|hot| hot.flags & flag::IN_TIME_WAIT != 0);
    if waits && hibernate::is_on(mem) {
        sleep(mem, now, at);
    }
}

#[inline(never)]
fn sleep(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>) {
    let (Some(hot), Some(cold)) = (mem.hot.get(at).copied(), mem.cold.get(cold_of(at)).copied()) else {
        return;
    };
    // A small row has no keys.
    if !only_waits(&hot, &cold) || cold.ooo.sign != 0 {
        return;
    }
    if mem.globals.dormant.waiting >= mem.dormant.len().div_ceil(2) {
        evict(mem);
    }
    let Some((mut row, to)) = hibernate::place(mem, now, at, (&hot, &cold)) else { return };
    row.handle = NAMELESS;
    row.flags = row.flags & !kept::KEEPALIVE | kept::TIME_WAIT;
    if let Some(slot) = mem.dormant.get_mut(to) {
        *slot = row;
    }
    append(mem, to);
    mem.dormant_wheel.arm_anew(to.raw(), hot.rexmit_at);
    table::leave_time_wait(mem, at);
    handle::free(mem, cold.handle);
    if let Some(hot) = mem.hot.get_mut(at) {
        hot.rexmit_at = Instant::NEVER;
        hot.armed_at = Instant::NEVER;
    }
    hibernate::vacate(mem, at);
    hibernate::count(mem);
}

/// The connection of `from` was thawed into row `at`: the rest of its waking.
pub(super) fn wake(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>, from: Idx<Dormant>) {
    let due = mem.dormant_wheel.deadline(from.raw());
    release(mem, from);
    if let Some(mut c) = conn(mem, now, at) {
        c.hot.rexmit_at = due.unwrap_or(now);
        c.arm();
    }
    table::enter_time_wait(mem, now, at);
}

/// TIME-WAIT of the sleeping connection `at` is over.
pub(super) fn end(mem: &mut LaneMem<'_>, at: Idx<Dormant>) {
    let Some(row) = mem.dormant.get(at).copied().filter(|row| row.handle == NAMELESS) else { return };
    let hash = table::hash_of(mem, &key_of(&row));
    mem.flows.remove(hash, |value| value == DORMANT | at.raw());
    crate::hop::release(mem, Idx::new(u32::from(row.hop)));
    release(mem, at);
    table::count_open(mem);
}

/// Ends the TIME-WAIT that has slept longest.
pub(super) fn evict(mem: &mut LaneMem<'_>) {
    end(mem, mem.globals.dormant.waiting_head);
}

/// Gives the small row `at` up.
fn release(mem: &mut LaneMem<'_>, at: Idx<Dormant>) {
    mem.dormant_wheel.cancel(at.raw());
    remove(mem, at);
    if let Some(options) = mem.dormant.get(at).map(|row| row.options) {
        hibernate::drop_options(mem, options);
    }
    hibernate::give_row(mem, at);
}

fn append(mem: &mut LaneMem<'_>, at: Idx<Dormant>) {
    let globals = &mut mem.globals.dormant;
    let before = core::mem::replace(&mut globals.waiting_tail, at);
    globals.waiting = globals.waiting.saturating_add(1);
    if let Some(row) = mem.dormant.get_mut(at) {
        row.token = [Idx::<Dormant>::NONE.raw(), before.raw()];
    }
    match mem.dormant.get_mut(before) {
        Some(row) => row.token[0] = at.raw(),
        None => mem.globals.dormant.waiting_head = at,
    }
}

fn remove(mem: &mut LaneMem<'_>, at: Idx<Dormant>) {
    let Some([next, before]) = mem.dormant.get(at).map(|row| row.token.map(Idx::<Dormant>::new)) else {
        return;
    };
    match mem.dormant.get_mut(before) {
        Some(row) => row.token[0] = next.raw(),
        None => mem.globals.dormant.waiting_head = next,
    }
    match mem.dormant.get_mut(next) {
        Some(row) => row.token[1] = before.raw(),
        None => mem.globals.dormant.waiting_tail = before,
    }
    let globals = &mut mem.globals.dormant;
    globals.waiting = globals.waiting.saturating_sub(1);
}
