//! Idle connections hibernate: an open connection with nothing queued, nothing in flight and no timer but keepalive leaves its
//! TCB row for a row of [`Dormant`], and comes back with the next segment or call. The peer cannot tell.
//!
//! Invariant: a name leads to the same connection before, during and after. A TCB row has the generation of the name with its own
//! number only while that very connection is in it; all others are found by their handle.
//! Invariant: hibernating takes nothing back: no window offered is made smaller, and what the peer offered is used at most.
//!
//! IPv6 connections do not hibernate; they keep their rows. What is in TIME-WAIT sleeps in such rows, too: `time_wait`; and what is not open yet is
//! in them: `half_open`.

use ::state::dormant::{DORMANT, FOREIGN, HALF_OPEN, NAMELESS};
use ::state::{Dormant, EventRow, LaneMem, OptionSet, SockKind, SockRef, TcbCold, TcbHot};
use base::{Duration, FrameIdx, Idx, Instant};

use super::conn::{Conn, cold_of, conn};
use super::frozen::{freeze, is_idle, kept, thaw};
use super::timers::keep_idle;
use super::{RETRY, State, flag, half_open, handle, table, time_wait, unwire, verbs};

/// TCB rows looked at when one is wanted and none is free.
const RECLAIM_ROWS: u32 = 32;
/// TCB rows looked at by one step of the sweep.
const SWEEP_ROWS: u32 = 1024;
/// Timers of hibernating connections looked at in one call, at most.
const BUDGET: u32 = 1024;
/// Can connections of this lane hibernate?
#[inline]
pub(super) fn is_on(mem: &LaneMem<'_>) -> bool {
    !mem.dormant.is_empty()
}

/// A row of options equal to these, with one reference more. `None`: too many different ones.
fn share_options(mem: &mut LaneMem<'_>, hot: &TcbHot, cold: &TcbCold) -> Option<u16> {
    // What has grown begins anew: a window that was offered stays so, and there are not as many sets as sizes.
    let tcp = &mem.globals.tcp;
    let rcv_buf = if cold.options.rcv_buf_bytes == 0 { tcp.rcv_buf_bytes } else { hot.rcv_buf };
    let snd_buf = if cold.options.snd_buf_bytes == 0 { tcp.snd_buf_bytes } else { hot.snd_buf };
    let mut free = None;
    for (n, set) in (0..).zip(mem.option_sets.rows_mut()) {
        if set.refs == 0 {
            free = free.or(Some(n));
        } else if set.rcv_buf == rcv_buf && set.snd_buf == snd_buf && set.options == cold.options {
            set.refs = set.refs.saturating_add(1);
            return Some(n);
        }
    }
    let n: u16 = free?;
    *mem.option_sets.get_mut(Idx::new(u32::from(n)))? =
        OptionSet { options: cold.options, rcv_buf, snd_buf, refs: 1 };
    Some(n)
}

/// Puts connection `at` to sleep. False, and nothing changed: it has something to do, or there is no room.
pub(super) fn hibernate(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>) -> bool {
    let (Some(hot), Some(cold)) = (mem.hot.get(at), mem.cold.get(cold_of(at))) else { return false };
    let (hot, cold) = (*hot, *cold);
    let Some(&event) = mem.events.get(Idx::new(at.raw())) else { return false };
    if !is_idle(&hot, &cold)
        || unwire::is_under_way(mem, at)
        || event.listed != 0
        || event.ready != 0
        || event.signals != 0
    {
        return false;
    }
    let Some((mut row, to)) = place(mem, now, at, (&hot, &cold)) else { return false };
    row.queue = event.queue;
    row.token = [event.token as u32, (event.token >> 32) as u32];
    if let Some(handle) = mem.handles.get_mut(Idx::new(row.handle)) {
        handle.place = DORMANT | to.raw();
    }
    if let Some(slot) = mem.dormant.get_mut(to) {
        *slot = row;
    }
    if row.flags & kept::KEEPALIVE != 0 {
        mem.dormant_wheel
            .arm_anew(to.raw(), cold.heard_at.plus(keep_idle(&cold.options, &mem.globals.tcp.usual)));
    }
    vacate(mem, at);
    mem.counters.tcp.hibernated = mem.counters.tcp.hibernated.wrapping_add(1);
    count(mem);
    true
}

/// What stands for connection `at` with these rows while it sleeps, and the row for it, to which its flow leads from now on. `None`, and
/// nothing changed: it cannot.
pub(super) fn place(
    mem: &mut LaneMem<'_>,
    now: Instant,
    at: Idx<TcbHot>,
    (hot, cold): (&TcbHot, &TcbCold),
) -> Option<(Dormant, Idx<Dormant>)> {
    let mut row = freeze(hot, cold, now)?;
    row.options = share_options(mem, hot, cold)?;
    let Some(to) = take_row(mem) else {
        drop_options(mem, row.options);
        return None;
    };
    let hash = table::hash_of(mem, &hot.key);
    if !mem.flows.replace(hash, |value| value == at.raw(), DORMANT | to.raw()) {
        drop_options(mem, row.options);
        give_row(mem, to);
        return None;
    }
    Some((row, to))
}

/// Tells how many hibernate; those in TIME-WAIT or half open are none of them.
pub(super) fn count(mem: &mut LaneMem<'_>) {
    let globals = &mem.globals.dormant;
    let others = globals.waiting.saturating_add(globals.half_open);
    mem.counters.tcp.dormant = u64::from(globals.used.saturating_sub(others));
}

/// Empties row `at`, whose connection went to sleep.
pub(super) fn vacate(mem: &mut LaneMem<'_>, at: Idx<TcbHot>) {
    mem.wheel.cancel(at.raw());
    if let Some(event) = mem.events.get_mut(Idx::new(at.raw())) {
        *event = EventRow { next: u32::MAX, prev: u32::MAX, ..EventRow::default() };
    }
    if let Some(hot) = mem.hot.get_mut(at) {
        hot.state = State::Closed as u8;
        hot.flags &= flag::RINGS;
        hot.hop = Idx::NONE;
        (hot.rcv_queue.tail, hot.snd_queue.tail) = (FrameIdx::NONE, FrameIdx::NONE);
    }
    table::give_row(mem, at);
}

pub(super) fn take_row(mem: &mut LaneMem<'_>) -> Option<Idx<Dormant>> {
    let globals = &mem.globals.dormant;
    if globals.free.is_none() && globals.fresh >= mem.dormant.len() {
        time_wait::evict(mem);
    }
    let globals = &mut mem.globals.dormant;
    let at = match globals.free.some() {
        Some(free) => {
            let row = mem.dormant.get(free).filter(|row| row.handle == u32::MAX)?;
            globals.free = Idx::new(row.token[0]);
            free
        }
        None => {
            let fresh = Idx::new(globals.fresh);
            mem.dormant.get(fresh)?;
            globals.fresh = globals.fresh.saturating_add(1);
            fresh
        }
    };
    globals.used = globals.used.saturating_add(1);
    Some(at)
}

pub(super) fn give_row(mem: &mut LaneMem<'_>, at: Idx<Dormant>) {
    let globals = &mut mem.globals.dormant;
    let Some(row) = mem.dormant.get_mut(at) else { return };
    row.handle = u32::MAX;
    row.token[0] = core::mem::replace(&mut globals.free, at).raw();
    globals.used = globals.used.saturating_sub(1);
    count(mem);
}

pub(super) fn drop_options(mem: &mut LaneMem<'_>, options: u16) {
    if let Some(set) = mem.option_sets.get_mut(Idx::new(u32::from(options))) {
        set.refs = set.refs.saturating_sub(1);
    }
}

/// Wakes the connection of `row`. `None`: no TCB row can be had; it sleeps on.
pub(super) fn wake(mem: &mut LaneMem<'_>, now: Instant, from: Idx<Dormant>) -> Option<Idx<TcbHot>> {
    let row = *mem.dormant.get(from).filter(|row| row.handle != u32::MAX)?;
    if row.handle == HALF_OPEN {
        return half_open::wake(mem, now, from);
    }
    let Some(at) = table::take_row(mem, now) else {
        mem.counters.tcp.table_full = mem.counters.tcp.table_full.wrapping_add(1);
        return None;
    };
    if row.handle == NAMELESS && mem.dormant.get(from).is_none_or(|now| now.handle != NAMELESS) {
        // Whoever made room for it took its own row.
        table::give_row(mem, at);
        return None;
    }
    let set = mem.option_sets.get(Idx::new(u32::from(row.options))).copied().unwrap_or_default();
    let (mut hot, mut cold) = thaw(&row, &set, now);
    let mut generation = 0;
    if row.handle == NAMELESS {
        // What has a row has a handle, though nobody knows it.
        let Some((handle, own)) = handle::take(mem, at) else {
            table::give_row(mem, at);
            return None;
        };
        (cold.handle, hot.generation) = (handle, own);
    } else {
        if let Some(handle) = mem.handles.get_mut(Idx::new(row.handle)) {
            handle.place = at.raw();
            generation = handle.generation;
        }
        hot.generation = if row.handle == at.raw() { generation } else { FOREIGN };
    }
    let hash = table::hash_of(mem, &hot.key);
    mem.flows.replace(hash, |value| value == DORMANT | from.raw(), at.raw());
    if let Some(slot) = mem.hot.get_mut(at) {
        hot.flags |= slot.flags & flag::RINGS;
        *slot = hot;
    }
    if let Some(slot) = mem.cold.get_mut(cold_of(at)) {
        *slot = cold;
    }
    if row.handle == NAMELESS {
        time_wait::wake(mem, now, at, from);
        return Some(at);
    }
    if let Some(slot) = mem.events.get_mut(Idx::new(at.raw())) {
        let name = SockRef::new(SockKind::Tcp, row.handle, generation);
        let token = u64::from(row.token[0]) | u64::from(row.token[1]) << 32;
        *slot =
            EventRow { name, token, queue: row.queue, next: u32::MAX, prev: u32::MAX, ..EventRow::default() };
    }
    let due =
        mem.dormant_wheel.deadline(from.raw()).filter(|_| row.flags & (kept::KEEPALIVE | kept::CLOSED) != 0);
    if let Some(due) = due {
        mem.dormant_wheel.cancel(from.raw());
        keep_alive(mem, now, at, due);
    }
    drop_options(mem, row.options);
    give_row(mem, from);
    mem.counters.tcp.woken = mem.counters.tcp.woken.wrapping_add(1);
    if row.flags & kept::CLOSED != 0 {
        verbs::close_row(mem, now, at);
    }
    Some(at)
}

/// Goes on with the keepalive timer of `at`, which would have run out at `due`.
fn keep_alive(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>, due: Instant) {
    let Some(mut c) = conn(mem, now, at) else { return };
    if c.any(flag::KEEPALIVE) {
        c.cold.heard_at = Instant(due.0.saturating_sub(keep_idle(&c.cold.options, &c.tcp.usual).0));
        c.cold.idle_at = due;
        c.set(flag::IDLE_TIMER);
        c.arm();
    }
}

/// The program closed the connection of `row`, and no TCB row could be had: as soon as there is one.
pub(super) fn close_later(mem: &mut LaneMem<'_>, now: Instant, at: Idx<Dormant>) {
    let Some(row) = mem.dormant.get_mut(at) else { return };
    row.queue = 0;
    if row.flags & kept::KEEPALIVE == 0 {
        mem.dormant_wheel.arm_anew(at.raw(), now.plus(RETRY));
    } else {
        mem.dormant_wheel.arm(at.raw(), now.plus(RETRY));
    }
    row.flags = row.flags & !kept::KEEPALIVE | kept::CLOSED;
}

/// Puts idle connections to sleep until `most` did or each row was looked at; gives their number.
pub(crate) fn hibernate_idle(mem: &mut LaneMem<'_>, now: Instant, most: u32) -> u32 {
    if !is_on(mem) {
        return 0;
    }
    let mut done = 0;
    for raw in 0..mem.hot.len() {
        if done == most {
            break;
        }
        done += u32::from(hibernate(mem, now, Idx::new(raw)));
    }
    done
}

/// The next TCB row of the search for idle connections.
fn next_row(mem: &mut LaneMem<'_>) -> Idx<TcbHot> {
    let hand = &mut mem.globals.dormant.hand;
    let at = if *hand < mem.hot.len() { *hand } else { 0 };
    *hand = at + 1;
    Idx::new(at)
}

/// TCB rows are short: puts some idle connections to sleep.
pub(super) fn reclaim(mem: &mut LaneMem<'_>, now: Instant) {
    if !is_on(mem) {
        return;
    }
    for _ in 0..RECLAIM_ROWS.min(mem.hot.len()) {
        let at = next_row(mem);
        hibernate(mem, now, at);
    }
}

/// How long after one step of the sweep the next one comes. `None`: no sweep: too few rows are in use to care.
fn sweep_pause(mem: &LaneMem<'_>) -> Option<Duration> {
    let (rows, idle_ms) = (mem.hot.len(), mem.globals.dormant.idle_ms);
    if !is_on(mem) || idle_ms == 0 || mem.globals.tcp.used < rows / 4 {
        return None;
    }
    let steps = u64::from(rows.div_ceil(SWEEP_ROWS));
    Some(Duration(Duration::from_millis(u64::from(idle_ms)).0 / steps.max(1)))
}

/// When [`handle_timers`] has something to do next.
pub(super) fn deadline(mem: &LaneMem<'_>) -> Instant {
    if !is_on(mem) {
        return Instant::NEVER;
    }
    let sweep = if sweep_pause(mem).is_some() { mem.globals.dormant.sweep_at } else { Instant::NEVER };
    sweep.min(mem.dormant_wheel.next_deadline())
}

/// Timers of connections in small rows, and the sweep for idle ones.
#[inline]
pub(super) fn handle_timers(mem: &mut LaneMem<'_>, now: Instant) {
    if is_on(mem) {
        expire(mem, now);
    }
}

fn expire(mem: &mut LaneMem<'_>, now: Instant) {
    let mut budget = BUDGET;
    while let Some(raw) = mem.dormant_wheel.expire(now, &mut budget) {
        let from = Idx::new(raw);
        match mem.dormant.get(from).map(|row| row.handle) {
            Some(NAMELESS) => {
                time_wait::end(mem, from);
                continue;
            }
            Some(HALF_OPEN) => {
                half_open::timeout(mem, now, from);
                continue;
            }
            Some(_) | None => {}
        }
        let closed = mem.dormant.get(from).is_some_and(|row| row.flags & kept::CLOSED != 0);
        let Some(at) = wake(mem, now, from) else {
            mem.dormant_wheel.arm(raw, now.plus(RETRY));
            break;
        };
        let Some(mut c) = conn(mem, now, at).filter(|_| !closed) else { continue };
        c.keepalive_is_due();
        let fate = c.on_timer();
        c.arm();
        table::settle(mem, now, at, fate);
    }
    sweep(mem, now);
}

/// Puts connections to sleep that had no traffic since the sweep last came by.
fn sweep(mem: &mut LaneMem<'_>, now: Instant) {
    let Some(pause) = sweep_pause(mem) else { return };
    if now < mem.globals.dormant.sweep_at {
        return;
    }
    mem.globals.dormant.sweep_at = now.plus(pause);
    for _ in 0..SWEEP_ROWS.min(mem.hot.len()) {
        let at = next_row(mem);
        let Some(hot) = mem.hot.get(at).filter(|t| t.state == State::Established as u8) else { continue };
        let mark = hot.rcv.nxt.0.wrapping_add(hot.snd.nxt.0);
        let Some(cold) = mem.cold.get_mut(cold_of(at)) else { continue };
        if core::mem::replace(&mut cold.sweep_mark, mark) == mark {
            hibernate(mem, now, at);
        }
    }
}

impl Conn<'_, '_> {
    /// The keepalive timer of a connection that was just woken for it has run out.
    fn keepalive_is_due(&mut self) {
        if self.any(flag::KEEPALIVE) {
            self.cold.idle_at = self.now;
            self.cold.heard_at =
                Instant(self.now.0.saturating_sub(keep_idle(&self.cold.options, &self.tcp.usual).0));
            self.set(flag::IDLE_TIMER);
        }
    }
}
