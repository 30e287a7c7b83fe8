//! Connections that move from one lane of a region to another, with all they have: rows, queued frames, scoreboard, timers, events.
//!
//! A group of flows moves as a whole or not at all: first all that it needs at the new lane is counted and set aside, then nothing can fail. Where
//! a program holds the name of a connection, its old row stays as a note of where it went, until it was asked for (`take_moved`).

use ::state::dormant::HALF_OPEN;
use ::state::ports::PORT_WIRE;
use ::state::{Dormant, FlowKey, FrameQueue, Hop, LaneMem, Listener, SockKind, SockRef, TcbHot};
use base::{FrameIdx, Idx, Instant, IpAddress, LaneId};
use region::{Directory, Frames, Group};

use super::conn::{Ring, cold_of, conn};
use super::keys::{self, Owner};
use super::table::Whose;
use super::{State, board, cc_flag, fast_open, flag, frozen, group, half_open, hibernate, listen, table};
use crate::errors::MoveError;
use crate::hop::{self, HopMac};
use crate::hop_names;
use crate::types::RouteTo;
use crate::{events, signals};

/// `TcbHot::state` of a row that is a note; [`State::from_raw`] takes it for CLOSED.
const MOVED: u8 = 0x80;
/// Queues of a listener, in either of which a connection is nobody's but the lane's.
const QUEUED: u32 = flag::IN_SYN_QUEUE | flag::IN_ACCEPT_QUEUE;

/// What the connections of a group need at their new lane.
#[derive(Default)]
struct Needs {
    rows: u32,
    /// Those of them that hibernate, and are woken to move.
    asleep: u32,
    boards: u32,
    /// Keys that sign segments.
    keys: u32,
    /// Frames that somebody besides the connection has: they are copied.
    copies: u32,
}

/// Moves every connection of `group` from `from` to `to`. Gives their number.
pub(crate) fn move_group(
    from: &mut LaneMem<'_>,
    to: &mut LaneMem<'_>,
    now: Instant,
    directory: Directory,
    group: Group,
) -> Result<u32, MoveError> {
    let is_in = |key: &FlowKey| directory.group_of(key.local_port, key.remote, key.remote_port) == group;
    let lane = to.frames.lane().map(|lane| lane.id()).ok_or(MoveError::NoLane)?;
    let mut needs = Needs::default();
    for at in rows(from).filter(|at| is_live(from, *at, is_in)) {
        count(from, to, at, &mut needs)?;
    }
    for row in sleepers(from, is_in) {
        count_sleeper(from, to, row, &mut needs)?;
    }
    let mut spare = set_aside(from, to, &needs)?;
    wake_all(from, now, is_in);
    let mut moved = 0;
    for at in rows(from) {
        if is_live(from, at, is_in) {
            moved += u32::from(move_one(from, to, now, at, (lane, &mut spare)));
        }
    }
    to.frames.release_chain(spare);
    Ok(moved)
}

/// Moves connection `at`, whatever its group. False: it stays.
pub(super) fn move_single(
    from: &mut LaneMem<'_>,
    to: &mut LaneMem<'_>,
    (now, lane): (Instant, LaneId),
    at: Idx<TcbHot>,
) -> bool {
    let mut needs = Needs::default();
    if count(from, to, at, &mut needs).is_err() {
        return false;
    }
    let Ok(mut spare) = set_aside(from, to, &needs) else { return false };
    let moved = move_one(from, to, now, at, (lane, &mut spare));
    to.frames.release_chain(spare);
    moved
}

/// Has this lane room for the name `key` of a connection of another lane? One that is here in TIME-WAIT ends for it: that the peer has opened another one
/// shows that it is done with this.
pub(crate) fn make_way(mem: &mut LaneMem<'_>, now: Instant, key: &FlowKey) -> bool {
    match table::find_awake(mem, now, key) {
        Whose::Nobody => true,
        Whose::NoRow | Whose::HalfOpen(_) => false,
        Whose::Of(at) => {
            let over = mem.hot.get(at).is_some_and(|hot| State::from_raw(hot.state) == State::TimeWait);
            if over {
                table::end(mem, at, None);
            }
            over
        }
    }
}

fn rows(mem: &LaneMem<'_>) -> impl Iterator<Item = Idx<TcbHot>> + use<> {
    (0..mem.hot.len()).map(Idx::new)
}

/// Is `at` a connection that can still get segments?
fn is_live(mem: &LaneMem<'_>, at: Idx<TcbHot>, is_in: impl Fn(&FlowKey) -> bool) -> bool {
    mem.hot.get(at).is_some_and(|t| {
        t.flags & flag::HELD != 0 && State::from_raw(t.state) != State::Closed && is_in(&t.key)
    })
}

/// Adds what `at` needs.
fn count(from: &LaneMem<'_>, to: &LaneMem<'_>, at: Idx<TcbHot>, needs: &mut Needs) -> Result<(), MoveError> {
    let (Some(hot), Some(cold)) = (from.hot.get(at), from.cold.get(cold_of(at))) else {
        return Err(MoveError::NoRoom);
    };
    check_port(from, to, (hot.port, hot.hop))?;
    if hot.flags & QUEUED != 0 && twin(from, to, cold.passive.listener, &hot.key).is_none() {
        return Err(MoveError::NoListener);
    }
    if table::value_of(to, &hot.key).is_some() {
        return Err(MoveError::NameTaken);
    }
    needs.rows += 1;
    needs.boards += u32::from(!cold.board.is_none());
    needs.keys += keys::count(from, Owner::of(at));
    for head in [hot.rcv_queue.head, hot.snd_queue.head, hot.ooo_head] {
        needs.copies += chain(&from.frames, head).filter(|f| is_shared(&from.frames, *f)).count() as u32;
    }
    Ok(())
}

/// Rows of hibernating connections in the group.
fn sleepers<'m>(
    mem: &'m LaneMem<'_>,
    is_in: impl Fn(&FlowKey) -> bool + 'm,
) -> impl Iterator<Item = Idx<Dormant>> + 'm {
    let rows = (0..mem.globals.dormant.fresh.min(mem.dormant.len())).map(Idx::new);
    let awaited = |at: &Idx<Dormant>| mem.dormant.get(*at).is_some_and(|row| row.handle != u32::MAX);
    rows.filter(awaited).filter(move |at| mem.dormant.get(*at).is_some_and(|row| is_in(&frozen::key_of(row))))
}

/// Adds what hibernating or half-open connection `at` needs. It has no frames and no scoreboard.
fn count_sleeper(
    from: &LaneMem<'_>,
    to: &LaneMem<'_>,
    at: Idx<Dormant>,
    needs: &mut Needs,
) -> Result<(), MoveError> {
    let row = from.dormant.get(at).ok_or(MoveError::NoRoom)?;
    check_port(from, to, (row.port, Idx::new(u32::from(row.hop))))?;
    let key = frozen::key_of(row);
    if row.handle == HALF_OPEN && twin(from, to, half_open::listener_of(row), &key).is_none() {
        return Err(MoveError::NoListener);
    }
    if table::value_of(to, &key).is_some() {
        return Err(MoveError::NameTaken);
    }
    needs.rows += 1;
    needs.asleep += 1;
    Ok(())
}

fn wake_all(mem: &mut LaneMem<'_>, now: Instant, is_in: impl Fn(&FlowKey) -> bool) {
    for raw in 0..mem.globals.dormant.fresh.min(mem.dormant.len()) {
        let at = Idx::new(raw);
        if mem.dormant.get(at).is_some_and(|row| row.handle != u32::MAX && is_in(&frozen::key_of(row))) {
            hibernate::wake(mem, now, at);
        }
    }
}

/// Has `to` the port of a connection, too, and is it no wire?
fn check_port(from: &LaneMem<'_>, to: &LaneMem<'_>, (port, hop): (u8, Idx<Hop>)) -> Result<(), MoveError> {
    let port = Idx::new(u32::from(port));
    let (Some(here), Some(there)) = (from.ports.get(port), to.ports.get(port)) else {
        return Err(MoveError::OtherPorts);
    };
    let same = here.mac == there.mac && (here.flags | there.flags) & PORT_WIRE == 0;
    if same && from.hops.get(hop).is_some() { Ok(()) } else { Err(MoveError::OtherPorts) }
}

/// The listener of `to` at the local end of `listener` of `from`, for a connection between the ends of `key`.
fn twin(from: &LaneMem<'_>, to: &LaneMem<'_>, at: Idx<Listener>, key: &FlowKey) -> Option<Idx<Listener>> {
    group::of_group(to, from.listeners.get(at)?.local, key)
}

/// Sees that `to` has room for `needs`, and takes the frames for copies, as one chain.
fn set_aside(from: &LaneMem<'_>, to: &mut LaneMem<'_>, needs: &Needs) -> Result<FrameIdx, MoveError> {
    let rows = to.hot.len().saturating_sub(to.globals.tcp.used);
    if board::spare(to, needs.boards) < needs.boards {
        return Err(MoveError::NoRoom);
    }
    let own = from.hot.len().saturating_sub(from.globals.tcp.used);
    if needs.rows > rows
        || needs.keys > keys::room(to)
        || needs.asleep > own
        || hop::unreferenced(to) < hop::referenced(from).min(needs.rows)
    {
        return Err(MoveError::NoRoom);
    }
    let mut spare = FrameIdx::NONE;
    for _ in 0..needs.copies {
        let Some(frame) = to.frames.alloc() else {
            to.frames.release_chain(spare);
            return Err(MoveError::NoRoom);
        };
        if let Some(meta) = to.frames.meta_mut(frame) {
            meta.next = spare;
        }
        spare = frame;
    }
    Ok(spare)
}

/// The frames of a queue.
fn chain<'f>(frames: &'f Frames<'_>, head: FrameIdx) -> impl Iterator<Item = FrameIdx> + use<'f> {
    let mut at = head;
    let next = move || {
        let frame = at;
        at = frames.meta(frame)?.next;
        Some(frame)
    };
    core::iter::from_fn(next).take(frames.count() as usize)
}

fn is_shared(frames: &Frames<'_>, frame: FrameIdx) -> bool {
    frames.meta(frame).is_some_and(|m| m.refs > 1)
}

/// Moves `at`. False: it could not be, which [`count`] and [`set_aside`] have ruled out; it stays.
fn move_one(
    from: &mut LaneMem<'_>,
    to: &mut LaneMem<'_>,
    now: Instant,
    at: Idx<TcbHot>,
    (lane, spare): (LaneId, &mut FrameIdx),
) -> bool {
    let (Some(hot), Some(cold)) = (from.hot.get(at).copied(), from.cold.get(cold_of(at)).copied()) else {
        return false;
    };
    let Some(hop) = same_hop(from, to, now, (hot.hop, hot.key.remote)) else { return false };
    let Some(new) = table::make(to, now, &hot.key, table::hash_of(to, &hot.key)) else {
        hop::release(to, hop);
        return false;
    };
    let listener = twin(from, to, cold.passive.listener, &hot.key);
    let queued = hot.flags & (QUEUED | flag::IN_TIME_WAIT);
    if let (Some(h), Some(c)) = (to.hot.get_mut(new), to.cold.get_mut(cold_of(new))) {
        let keep = h.flags & flag::RINGS;
        let (generation, armed_at) = (h.generation, h.armed_at);
        *h = TcbHot { hop, generation, armed_at, ..hot };
        h.flags = hot.flags & !(flag::RINGS | flag::WAITS_FOR_HOP | QUEUED | flag::IN_TIME_WAIT) | keep;
        let (passive, board, handle) = (c.passive, c.board, c.handle);
        *c = cold;
        (c.passive, c.board, c.handle) = (passive, board, handle);
        c.fast &= !fast_open::bit::COUNTED;
    }
    fast_open::uncount(from, at);
    if cold.cc_flags & (cc_flag::ROW | cc_flag::READING) != 0
        && let (Some(old), Some(row)) = (from.cc.get(Idx::new(at.raw())), to.cc.get_mut(Idx::new(new.raw())))
    {
        *row = *old;
    }
    if cold.cc_flags & cc_flag::PACED != 0
        && let (Some(old), Some(row)) =
            (from.rates.get(Idx::new(at.raw())), to.rates.get_mut(Idx::new(new.raw())))
    {
        *row = *old;
    }
    if cold.ooo.urgent != 0
        && let (Some(old), Some(row)) =
            (from.urgent.get(Idx::new(at.raw())), to.urgent.get_mut(Idx::new(new.raw())))
    {
        *row = *old;
    }
    if let Some(board) = from.boards.get(cold.board)
        && let Some(mut c) = conn(to, now, new)
    {
        c.take_board_over(board);
    }
    if from.globals.keys.used != 0 {
        keys::hand_on((from, at), (to, new));
    }
    move_queues(from, to, (at, new), spare);
    listen::join_from_twin(to, new, listener, queued & QUEUED);
    if queued & flag::IN_TIME_WAIT != 0 {
        table::enter_time_wait(to, now, new);
    }
    let name = table::name_of(to, new);
    let (queue, token, ready) = events::taken_from(from, at.raw());
    if queue != 0 {
        events::subscribe(to, name, queue, token, ready);
    }
    signals::hand_on((from, at.raw()), (to, new.raw()));
    wake_up(to, now, new);
    leave(from, at, (lane, name));
    true
}

/// Moves the half-open connection `at`, which has a small row and gets one there. False: it stays.
pub(super) fn move_half_open(
    from: &mut LaneMem<'_>,
    to: &mut LaneMem<'_>,
    now: Instant,
    at: Idx<Dormant>,
) -> bool {
    let Some(row) = from.dormant.get(at).copied() else { return false };
    let hop = Idx::new(u32::from(row.hop));
    let key = frozen::key_of(&row);
    if table::value_of(to, &key).is_some() || check_port(from, to, (row.port, hop)).is_err() {
        return false;
    }
    let Some(listener) = twin(from, to, half_open::listener_of(&row), &key) else { return false };
    let Some(hop) = same_hop(from, to, now, (hop, key.remote)) else { return false };
    let moved = half_open::hand_on(from, to, at, (listener, hop));
    if !moved {
        hop::release(to, hop);
    }
    moved
}

/// The hop `old` of `from`, by which `peer` is reached, found or made in `to`.
fn same_hop(
    from: &LaneMem<'_>,
    to: &mut LaneMem<'_>,
    now: Instant,
    (old, peer): (Idx<Hop>, IpAddress),
) -> Option<Idx<Hop>> {
    let row = from.hops.get(old)?;
    let (port, addr, mac) = (row.port, row.addr, row.mac);
    if row.is_by_mac() {
        return hop_names::for_source(to, now, (port, mac), peer);
    }
    let local_mac = from.ports.get(Idx::new(port.into()))?.mac;
    let mac = match hop::mac(from, old) {
        HopMac::Known(mac) => Some(mac),
        HopMac::Asking | HopMac::Failed => None,
    };
    hop::for_route(to, now, &RouteTo { port, next_hop: addr, local_mac, mac, mtu: 0 })
}

/// Takes the queues of `old` over for `new`: frames that nobody else has change hands, others are copied.
fn move_queues(
    from: &mut LaneMem<'_>,
    to: &mut LaneMem<'_>,
    (old, new): (Idx<TcbHot>, Idx<TcbHot>),
    spare: &mut FrameIdx,
) {
    let (Some(gone), Some(lost)) = (from.hot.get_mut(old), from.cold.get_mut(cold_of(old))) else { return };
    let none = FrameQueue { head: FrameIdx::NONE, tail: FrameIdx::NONE };
    let mut cursor = core::mem::replace(&mut gone.snd_cursor, FrameIdx::NONE);
    let ooo = FrameQueue {
        head: core::mem::replace(&mut gone.ooo_head, FrameIdx::NONE),
        tail: core::mem::replace(&mut lost.ooo.tail, FrameIdx::NONE),
    };
    let rcv = core::mem::replace(&mut gone.rcv_queue, none);
    let snd = core::mem::replace(&mut gone.snd_queue, none);
    let mut frames = (&mut from.frames, &mut to.frames);
    let mut none = FrameIdx::NONE;
    let rcv = move_queue(&mut frames, rcv, (spare, &mut none));
    let ooo = move_queue(&mut frames, ooo, (spare, &mut none));
    let snd = move_queue(&mut frames, snd, (spare, &mut cursor));
    let (Some(hot), Some(cold)) = (to.hot.get_mut(new), to.cold.get_mut(cold_of(new))) else { return };
    hot.rcv_queue = rcv;
    hot.snd_queue = snd;
    hot.snd_cursor = cursor;
    hot.ooo_head = ooo.head;
    cold.ooo.tail = ooo.tail;
}

/// One queue of [`move_queues`]; `cursor` names one of its frames and follows it.
fn move_queue(
    (from, to): &mut (&mut Frames<'_>, &mut Frames<'_>),
    queue: FrameQueue,
    (spare, cursor): (&mut FrameIdx, &mut FrameIdx),
) -> FrameQueue {
    let mut out = FrameQueue { head: FrameIdx::NONE, tail: FrameIdx::NONE };
    let mut at = queue.head;
    for _ in 0..from.count() {
        let Some(&meta) = from.meta(at) else { break };
        let mut frame = at;
        if meta.refs == 1 {
            to.adopt(at);
        } else {
            // Set aside for this; a connection never has more such frames than were counted.
            frame = *spare;
            *spare = to.meta(frame).map_or(FrameIdx::NONE, |m| m.next);
            let offset = usize::from(meta.offset);
            to.copy((at, offset), (frame, offset), usize::from(meta.len));
            if let Some(m) = to.meta_mut(frame) {
                *m = region::FrameMeta { refs: 1, next: meta.next, ..meta };
            }
            from.release(at);
        }
        if *cursor == at {
            *cursor = frame;
        }
        match to.meta_mut(out.tail) {
            Some(last) => last.next = frame,
            None => out.head = frame,
        }
        out.tail = frame;
        at = meta.next;
    }
    out
}

/// The new lane sees to the connection's timers, and to whatever it may have to send.
fn wake_up(to: &mut LaneMem<'_>, now: Instant, new: Idx<TcbHot>) {
    let Some(mut c) = conn(to, now, new) else { return };
    if c.any(flag::SEND_SYN | flag::SEND_PROBE) {
        c.enqueue(Ring::Control);
    }
    if c.any(flag::ACK_NOW) {
        c.enqueue(Ring::Ack);
    }
    c.kick();
    c.arm();
    c.arm_path();
}

/// The old lane forgets `at`, but for a note of where it went if a program has its name.
fn leave(from: &mut LaneMem<'_>, at: Idx<TcbHot>, (lane, name): (LaneId, SockRef)) {
    let Some(flags) = from.hot.get(at).map(|t| t.flags) else { return };
    table::forget(from, at);
    listen::leave_queues(from, at);
    if let Some(mut c) = conn(from, Instant(0), at) {
        c.drop_board();
        c.hot.armed_at = Instant::NEVER;
        c.hot.rexmit_at = Instant::NEVER;
        c.hot.ack_at = Instant::NEVER;
        c.hot.rcv_bytes = 0;
        c.hot.state = State::Closed as u8;
        c.hot.flags &= flag::RINGS | flag::HELD;
    }
    if flags & (QUEUED | flag::ORPHAN) != 0 {
        table::free(from, at);
        return;
    }
    events::forget_row(from, at.raw());
    let (Some(hot), Some(cold)) = (from.hot.get_mut(at), from.cold.get_mut(cold_of(at))) else { return };
    hot.state = MOVED;
    // No verb finds it any more.
    hot.flags |= flag::ORPHAN;
    cold.passive.listener = Idx::new(u32::from(lane.0));
    cold.passive.next = Idx::new(name.row());
    cold.passive.generation = name.generation;
}

/// Moves connection `s`, which a program holds. `None`: it stays. Its old row is a note of where it went.
pub(crate) fn move_held(
    from: &mut LaneMem<'_>,
    to: &mut LaneMem<'_>,
    (now, lane): (Instant, LaneId),
    s: SockRef,
) -> Option<SockRef> {
    let at = super::lookup(from, s).filter(|at| is_live(from, *at, |_| true))?;
    if !move_single(from, to, (now, lane), at) {
        return None;
    }
    note_at(from, s).and_then(|at| note(from, at)).map(|(_, name)| name)
}

/// Where `s` went, if it moved; the note is given up, so the caller now uses the name given.
pub(crate) fn take_moved(mem: &mut LaneMem<'_>, s: SockRef) -> Option<(LaneId, SockRef)> {
    let at = note_at(mem, s)?;
    let went = note(mem, at)?;
    table::free(mem, at);
    Some(went)
}

/// The row that `s` had, if it is a note.
fn note_at(mem: &LaneMem<'_>, s: SockRef) -> Option<Idx<TcbHot>> {
    if s.kind() != Some(SockKind::Tcp) {
        return None;
    }
    let at = if hibernate::is_on(mem) {
        let handle = mem.handles.get(Idx::new(s.row())).filter(|h| h.generation == s.generation)?;
        let at = Idx::new(handle.place);
        mem.cold.get(cold_of(at)).filter(|cold| cold.handle == s.row())?;
        at
    } else {
        let at = Idx::new(s.row());
        mem.hot.get(at).filter(|t| t.generation == s.generation)?;
        at
    };
    mem.hot.get(at).filter(|t| t.state == MOVED && t.flags & flag::HELD != 0)?;
    Some(at)
}

/// What the note in row `at` says.
fn note(mem: &LaneMem<'_>, at: Idx<TcbHot>) -> Option<(LaneId, SockRef)> {
    let passive = mem.cold.get(cold_of(at))?.passive;
    let lane = LaneId(u16::try_from(passive.listener.raw()).ok()?);
    Some((lane, SockRef::new(SockKind::Tcp, passive.next.raw(), passive.generation)))
}

const _: () = assert!(matches!(State::from_raw(MOVED), State::Closed));
