//! The table of connections: found by their four numbers, made, ended, and their rows given back.

use ::state::dormant::{DORMANT, HALF_OPEN, NAMELESS};
use ::state::{
    Dormant, DropReason, FlowKey, LaneMem, Ready, SeqRange, SockKind, SockRef, TcbCold, TcbHot, TcbQueue,
};
use base::hash::flow_hash;
use base::{FrameIdx, Idx, Instant, SeqNum};
use siphasher::sip::SipHasher13;

use super::conn::{Conn, Fate, cold_of, conn};
use super::keys::{self, Owner};
use super::{
    Cause, State, TIME_WAIT, fast_open, flag, frozen, half_open, handle, hibernate, last_words, listen,
    reset, time_wait, unwire, usual_out,
};
use crate::errors::SockError;
use crate::events;
use crate::hop::{self, HopMac};

/// The hash under which the flow table holds `key`.
#[inline]
pub(super) fn hash_of(mem: &LaneMem<'_>, key: &FlowKey) -> u32 {
    let ports = u32::from(key.local_port.0) << 16 | u32::from(key.remote_port.0);
    flow_hash(mem.globals.key, key.local.0, key.remote.0, ports)
}

/// What the flow table has for `key`: a row, or with [`DORMANT`] that of a hibernating connection.
#[inline]
pub(super) fn value_of(mem: &LaneMem<'_>, key: &FlowKey) -> Option<u32> {
    value_at(mem, hash_of(mem, key), key)
}

/// [`value_of`] of a key with this `hash`.
#[inline]
pub(super) fn value_at(mem: &LaneMem<'_>, hash: u32, key: &FlowKey) -> Option<u32> {
    mem.flows.find(hash, |value| {
        if value & DORMANT == 0 {
            mem.hot.get(Idx::new(value)).is_some_and(|t| t.key == *key)
        } else {
            mem.dormant.get(Idx::new(value & !DORMANT)).is_some_and(|row| frozen::matches(row, key))
        }
    })
}

/// The connection with these four numbers, unless it hibernates.
pub(super) fn find(mem: &LaneMem<'_>, key: &FlowKey) -> Option<Idx<TcbHot>> {
    value_of(mem, key).filter(|value| value & DORMANT == 0).map(Idx::new)
}

/// Whose segment with these four numbers is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Whose {
    /// That of this connection, which was woken if it slept.
    Of(Idx<TcbHot>),
    /// That of this connection, which is half open and has a small row.
    HalfOpen(Idx<Dormant>),
    /// That of a hibernating connection, for which no row can be had.
    NoRow,
    /// Nobody's.
    Nobody,
}

/// Finds, and wakes, the connection with these four numbers. Waking may put others to sleep: find rows again afterwards.
#[inline]
pub(super) fn find_awake(mem: &mut LaneMem<'_>, now: Instant, key: &FlowKey) -> Whose {
    match value_of(mem, key) {
        None => Whose::Nobody,
        Some(value) if value & DORMANT == 0 => Whose::Of(Idx::new(value)),
        Some(value) => {
            let from = Idx::new(value & !DORMANT);
            if mem.dormant.get(from).is_some_and(|row| row.handle == HALF_OPEN) {
                return Whose::HalfOpen(from);
            }
            hibernate::wake(mem, now, from).map_or(Whose::NoRow, Whose::Of)
        }
    }
}

/// A free row, counted as used from now on. `None`: all are in use, and no connection in them is idle.
pub(super) fn take_row(mem: &mut LaneMem<'_>, now: Instant) -> Option<Idx<TcbHot>> {
    if mem.globals.tcp.free.is_none() {
        hibernate::reclaim(mem, now);
    }
    if mem.globals.tcp.free.is_none() {
        evict_time_wait(mem);
    }
    let at = mem.globals.tcp.free.some()?;
    mem.hot.get(at).filter(|t| t.flags & flag::HELD == 0)?;
    let next = core::mem::take(&mut mem.cold.get_mut(cold_of(at))?.passive.next);
    mem.globals.tcp.free = next;
    // The next connection finds its row loaded.
    mem.hot.prefetch_lines(next, 0, 3);
    mem.cold.prefetch_lines(cold_of(next), 0, 4);
    mem.globals.tcp.used = mem.globals.tcp.used.saturating_add(1);
    usual_out::forget_front(mem, at);
    Some(at)
}

/// Gives row `at`, which nobody has any more, back.
pub(super) fn give_row(mem: &mut LaneMem<'_>, at: Idx<TcbHot>) {
    let Some(cold) = mem.cold.get_mut(cold_of(at)) else { return };
    cold.passive.next = core::mem::replace(&mut mem.globals.tcp.free, at);
    mem.globals.tcp.used = mem.globals.tcp.used.saturating_sub(1);
}

pub(super) fn count_open(mem: &mut LaneMem<'_>) {
    mem.counters.tcp.open = u64::from(mem.globals.tcp.used) + u64::from(mem.globals.dormant.used);
}

/// A new row for `key`, whose [`hash_of`] is `hash`, found by it from now on; in state CLOSED. `None`: no row is free.
pub(super) fn make(mem: &mut LaneMem<'_>, now: Instant, key: &FlowKey, hash: u32) -> Option<Idx<TcbHot>> {
    let made = take_row(mem, now).and_then(|at| fill_row(mem, at, key, hash));
    if made.is_none() {
        mem.counters.tcp.table_full = mem.counters.tcp.table_full.wrapping_add(1);
    }
    made
}

/// Makes row `at` that of a new connection. `None`: there is no name or no flow entry left; the row is given back.
fn fill_row(mem: &mut LaneMem<'_>, at: Idx<TcbHot>, key: &FlowKey, hash: u32) -> Option<Idx<TcbHot>> {
    let own = mem.hot.get(at).map_or(0, |t| t.generation);
    let named = if hibernate::is_on(mem) { handle::take(mem, at) } else { Some((at.raw(), own)) };
    let Some((handle, generation)) = named.filter(|_| mem.flows.insert(hash, at.raw()).is_ok()) else {
        if let Some((handle, _)) = named {
            handle::free(mem, handle);
        }
        give_row(mem, at);
        return None;
    };
    let hot = mem.hot.get_mut(at)?;
    let cold = mem.cold.get_mut(cold_of(at))?;
    let never = Instant::NEVER;
    *hot = TcbHot {
        key: *key,
        flags: hot.flags & flag::RINGS | flag::HELD,
        generation,
        rexmit_at: never,
        ack_at: never,
        armed_at: never,
        ..TcbHot::default()
    };
    *cold = TcbCold { idle_at: never, handle, ..TcbCold::default() };
    count_open(mem);
    Some(at)
}

/// The name of connection `at`.
pub(super) fn name_of(mem: &LaneMem<'_>, at: Idx<TcbHot>) -> SockRef {
    if hibernate::is_on(mem) {
        return handle::name_of(mem, at);
    }
    let generation = mem.hot.get(at).map_or(0, |t| t.generation);
    SockRef::new(SockKind::Tcp, at.raw(), generation)
}

/// Port `port` is gone for good: its connections end with a reset, and nothing is sent for them. Gives their number.
pub(crate) fn drop_port(mem: &mut LaneMem<'_>, now: Instant, port: u8) -> u32 {
    let mut ended = 0;
    unwire::drop_port(mem, now, port);
    for raw in 0..mem.hot.len() {
        let at = Idx::new(raw);
        let Some(hot) = mem.hot.get(at) else { break };
        let (state, flags) = (State::from_raw(hot.state), hot.flags);
        if hot.port != port || flags & flag::HELD == 0 || state == State::Closed {
            continue;
        }
        let fate = match state {
            State::TimeWait => Fate::Closed,
            State::SynSent => Fate::Dead(SockError::Refused),
            _ => Fate::Dead(SockError::Reset),
        };
        settle(mem, now, at, fate);
        ended += 1;
    }
    for raw in 0..mem.globals.dormant.fresh.min(mem.dormant.len()) {
        let at = Idx::new(raw);
        let Some(row) = mem.dormant.get(at) else { break };
        let by = mem.hops.get(Idx::new(u32::from(row.hop))).map(|hop| hop.port);
        // One for which no row can be had fails when it is used.
        if row.handle == u32::MAX || by != Some(port) {
            continue;
        }
        if row.handle == NAMELESS {
            time_wait::end(mem, at);
            ended += 1;
        } else if row.handle == HALF_OPEN {
            half_open::end(mem, at);
            ended += 1;
        } else if let Some(awake) = hibernate::wake(mem, now, at) {
            settle(mem, now, awake, Fate::Dead(SockError::Reset));
            ended += 1;
        }
    }
    ended
}

/// Does what `fate` says for connection `at`.
#[inline]
pub(super) fn settle(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>, fate: Fate) {
    if !matches!(fate, Fate::Keep | Fate::Refuse) {
        settle_now(mem, now, at, fate);
    }
}

#[inline(never)]
fn settle_now(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>, fate: Fate) {
    match fate {
        Fate::Keep | Fate::Refuse => {}
        Fate::Accept => listen::to_accept_queue(mem, now, at),
        Fate::TimeWait => {
            enter_time_wait(mem, now, at);
            // After CLOSING there is nothing to answer.
            time_wait::rest(mem, now, at);
        }
        Fate::Closed => end(mem, at, None),
        Fate::Dead(error) => end(mem, at, Some(error)),
        Fate::Reset(error) => {
            reset::of_connection(mem, at);
            end(mem, at, Some(error));
        }
    }
}

/// The connection is over: it leaves the flow table and gives up what it holds, except data that can still be read. Its
/// row goes on until the program closes it.
pub(super) fn end(mem: &mut LaneMem<'_>, at: Idx<TcbHot>, error: Option<SockError>) {
    let Some(hot) = mem.hot.get(at) else { return };
    let (state, flags) = (State::from_raw(hot.state), hot.flags);
    if state == State::SynRcvd {
        fast_open::uncount(mem, at);
    }
    if state != State::Closed {
        forget(mem, at);
        if error.is_some() && state.is_synchronized() {
            mem.counters.tcp.resets = mem.counters.tcp.resets.wrapping_add(1);
        }
    }
    if let Some(mut c) = conn(mem, Instant(0), at) {
        c.hot.armed_at = Instant::NEVER;
        c.give_up(error);
    }
    if flags & flag::IN_SYN_QUEUE != 0 {
        listen::leave_queues(mem, at);
        free(mem, at);
    } else if flags & flag::ORPHAN != 0 {
        free(mem, at);
    }
}

/// Takes `at`, which is not closed, out of all tables that name it but listeners' queues, rings and events.
pub(super) fn forget(mem: &mut LaneMem<'_>, at: Idx<TcbHot>) {
    let Some(key) = mem.hot.get(at).map(|t| t.key) else { return };
    let hash = hash_of(mem, &key);
    mem.flows.remove(hash, |row| row == at.raw());
    leave_hop(mem, at);
    leave_time_wait(mem, at);
    mem.wheel.cancel(at.raw());
}

impl Conn<'_, '_> {
    /// Goes to CLOSED, and gives up timers, the send buffer and what came out of order.
    fn give_up(&mut self, error: Option<SockError>) {
        if self.state() == State::TimeWait {
            self.go(Cause::TimeWaitOver);
        } else {
            self.go(Cause::Abort);
        }
        self.hot.rexmit_at = Instant::NEVER;
        self.hot.ack_at = Instant::NEVER;
        self.cold.idle_at = Instant::NEVER;
        self.clear(
            flag::IDLE_TIMER
                | flag::RECOVERY
                | flag::LOSS
                | flag::ACK_NOW
                | flag::SEND_SYN
                | flag::SEND_PROBE,
        );
        self.frames.release_chain(self.hot.snd_queue.head);
        self.hot.snd_queue.head = FrameIdx::NONE;
        self.hot.snd_queue.tail = FrameIdx::NONE;
        self.hot.snd_cursor = FrameIdx::NONE;
        self.hot.snd.end = self.hot.snd.una;
        self.hot.snd.nxt = self.hot.snd.una;
        self.drop_out_of_order();
        self.drop_board();
        if let Some(error) = error {
            self.cold.error = error as u8;
            self.notify(Ready::IN | Ready::OUT | Ready::RDHUP | Ready::HUP | Ready::ERR);
        } else {
            self.notify(Ready::IN | Ready::OUT | Ready::RDHUP | Ready::HUP);
        }
    }

    /// Gives up every run received out of order.
    pub(super) fn drop_out_of_order(&mut self) {
        self.frames.release_chain(self.hot.ooo_head);
        self.hot.ooo_head = FrameIdx::NONE;
        self.cold.ooo.tail = FrameIdx::NONE;
        self.cold.ooo.bytes = 0;
        self.cold.ooo.frames = 0;
        self.cold.ooo.run_count = 0;
        self.cold.acks_owed &= !super::OWES_TWICE;
        self.cold.ooo.fresh = 0;
        self.cold.ooo.runs.fill(SeqRange::default());
    }
}

/// Gives the row of `at`, which is closed, back.
pub(super) fn free(mem: &mut LaneMem<'_>, at: Idx<TcbHot>) {
    events::forget_row(mem, at.raw());
    let Some(hot) = mem.hot.get_mut(at) else { return };
    if hot.flags & flag::HELD == 0 {
        return;
    }
    let special = hot.flags & flag::SPECIAL != 0;
    last_words::discard_unread(mem, at);
    let Some(hot) = mem.hot.get_mut(at) else { return };
    hot.state = State::Closed as u8;
    hot.flags &= flag::RINGS;
    hot.generation = hot.generation.wrapping_add(2);
    if special && mem.globals.keys.used != 0 {
        keys::forget(mem, Owner::of(at));
    }
    if hibernate::is_on(mem) {
        let handle = mem.cold.get(cold_of(at)).map_or(u32::MAX, |c| c.handle);
        handle::free(mem, handle);
    }
    give_row(mem, at);
    count_open(mem);
}

/// The program gives `at` up: its row is freed if the connection is over, else when it is.
pub(super) fn orphan(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>) {
    events::forget_row(mem, at.raw());
    let Some(hot) = mem.hot.get_mut(at) else { return };
    hot.flags |= flag::ORPHAN | flag::SHUT_READ;
    match State::from_raw(hot.state) {
        State::Closed => free(mem, at),
        State::TimeWait => {
            enter_time_wait(mem, now, at);
            time_wait::rest(mem, now, at);
        }
        _ => {}
    }
}

/// Notes that `at`, in TIME-WAIT, has only its time to wait for, if nobody holds it. There may be as many of those as half
/// of all rows; the oldest go first.
pub(super) fn enter_time_wait(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>) {
    let Some(mut c) = conn(mem, now, at) else { return };
    if !c.any(flag::ORPHAN) || c.any(flag::IN_TIME_WAIT) {
        return;
    }
    if c.hot.rexmit_at == Instant::NEVER {
        c.hot.rexmit_at = now.plus(TIME_WAIT);
        c.arm();
    }
    c.set(flag::IN_TIME_WAIT);
    let mut queue = mem.globals.tcp.time_wait;
    append(mem, &mut queue, at);
    mem.globals.tcp.time_wait = queue;
    if queue.len > mem.hot.len() / 2 {
        evict_time_wait(mem);
    }
}

/// Ends the oldest TIME-WAIT that nobody holds.
fn evict_time_wait(mem: &mut LaneMem<'_>) {
    if let Some(at) = mem.globals.tcp.time_wait.head.some() {
        end(mem, at, None);
    }
}

pub(super) fn leave_time_wait(mem: &mut LaneMem<'_>, at: Idx<TcbHot>) {
    let Some(hot) = mem.hot.get_mut(at) else { return };
    if hot.flags & flag::IN_TIME_WAIT == 0 {
        return;
    }
    hot.flags &= !flag::IN_TIME_WAIT;
    let mut queue = mem.globals.tcp.time_wait;
    remove(mem, &mut queue, at);
    mem.globals.tcp.time_wait = queue;
}

/// Appends `at` to `queue`.
pub(super) fn append(mem: &mut LaneMem<'_>, queue: &mut TcbQueue, at: Idx<TcbHot>) {
    let before = core::mem::replace(&mut queue.tail, at);
    if let Some(cold) = mem.cold.get_mut(cold_of(at)) {
        cold.passive.prev = before;
        cold.passive.next = Idx::NONE;
    }
    match mem.cold.get_mut(cold_of(before)) {
        Some(last) if queue.len > 0 => last.passive.next = at,
        _ => queue.head = at,
    }
    queue.len = queue.len.saturating_add(1);
}

/// Takes `at`, which is in `queue`, out of it.
pub(super) fn remove(mem: &mut LaneMem<'_>, queue: &mut TcbQueue, at: Idx<TcbHot>) {
    let Some(cold) = mem.cold.get_mut(cold_of(at)) else { return };
    let next = core::mem::take(&mut cold.passive.next);
    let prev = core::mem::take(&mut cold.passive.prev);
    match mem.cold.get_mut(cold_of(prev)) {
        Some(before) => before.passive.next = next,
        None => queue.head = next,
    }
    match mem.cold.get_mut(cold_of(next)) {
        Some(after) => after.passive.prev = prev,
        None => queue.tail = prev,
    }
    queue.len = queue.len.saturating_sub(1);
}

/// Notes that `at` waits until the MAC of its next hop is known, and has it asked for again if nobody answered.
pub(super) fn wait_for_hop(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>) {
    let Some(hop) = mem.hot.get(at).map(|t| t.hop) else { return };
    hop::ask_if_unknown(mem, now, hop);
    let Some(hot) = mem.hot.get_mut(at) else { return };
    let queued = flag::WAITS_FOR_HOP | flag::IN_SYN_QUEUE | flag::IN_ACCEPT_QUEUE | flag::IN_TIME_WAIT;
    if hot.flags & queued != 0 {
        return;
    }
    let Some(row) = mem.hops.get_mut(hot.hop) else { return };
    hot.flags |= flag::WAITS_FOR_HOP;
    let next = core::mem::replace(&mut row.tcp_waiting, at.raw());
    if let Some(cold) = mem.cold.get_mut(cold_of(at)) {
        cold.passive.next = Idx::new(next);
    }
}

/// Gives the next hop of `at` up.
pub(super) fn leave_hop(mem: &mut LaneMem<'_>, at: Idx<TcbHot>) {
    let Some(hot) = mem.hot.get_mut(at) else { return };
    let hop = core::mem::take(&mut hot.hop);
    if hot.flags & flag::WAITS_FOR_HOP != 0 {
        hot.flags &= !flag::WAITS_FOR_HOP;
        let mut each =
            mem.hops.get_mut(hop).map_or(u32::MAX, |h| core::mem::replace(&mut h.tcp_waiting, u32::MAX));
        for _ in 0..mem.cold.len() {
            let Some(cold) = mem.cold.get_mut(Idx::new(each)) else { break };
            let next = core::mem::take(&mut cold.passive.next).raw();
            if each != at.raw()
                && let Some(row) = mem.hops.get_mut(hop)
            {
                cold.passive.next = Idx::new(core::mem::replace(&mut row.tcp_waiting, each));
            }
            each = next;
        }
    }
    hop::release(mem, hop);
}

/// The MAC of `hop` became known, or asking for it failed: goes on with those who waited.
pub(crate) fn hop_changed(mem: &mut LaneMem<'_>, now: Instant, hop: Idx<::state::Hop>) {
    let found = hop::mac(mem, hop);
    if found == HopMac::Asking {
        return;
    }
    let mut each =
        mem.hops.get_mut(hop).map_or(u32::MAX, |h| core::mem::replace(&mut h.tcp_waiting, u32::MAX));
    for _ in 0..mem.cold.len() {
        let at = Idx::new(each);
        let Some(mut c) = conn(mem, now, at) else { break };
        each = core::mem::take(&mut c.cold.passive.next).raw();
        c.clear(flag::WAITS_FOR_HOP);
        // RFC 1122 4.2.3.9: an unreachable destination ends only the attempt to connect; otherwise retransmission goes on.
        if found == HopMac::Failed && c.state() == State::SynSent {
            mem.counters.drop_packet(DropReason::Unreachable);
            settle(mem, now, at, Fate::Dead(SockError::HostUnreachable));
            continue;
        }
        c.go_on();
    }
}

/// Initial sequence number and timestamp offset of a connection (RFC 6528 3): a keyed hash of the four numbers, plus, for
/// the sequence number, a clock of 4 us.
pub(super) fn initial_numbers(mem: &LaneMem<'_>, now: Instant, key: &FlowKey) -> (SeqNum, u32) {
    let [k0, k1] = mem.globals.tcp.isn_key;
    let mut name = [0; 36];
    let (addrs, ports) = name.split_at_mut(32);
    addrs.copy_from_slice([key.local.0, key.remote.0].as_flattened());
    ports.copy_from_slice(&(u32::from(key.local_port.0) << 16 | u32::from(key.remote_port.0)).to_be_bytes());
    let hash = SipHasher13::new_with_keys(k0, k1).hash(&name);
    let clock = (now.as_micros() >> 2) as u32;
    (SeqNum((hash as u32).wrapping_add(clock)), (hash >> 32) as u32)
}
