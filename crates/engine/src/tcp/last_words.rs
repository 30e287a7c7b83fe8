//! The end of connections in two steps, for a lane that may be killed between them: first the peers are told, by RST (RFC 9293 3.5.2), and nothing changes; once
//! that has left, the connections go. Whoever takes the lane over after a death in between finds them all, and tells them again.

use ::state::dormant::{DORMANT, HALF_OPEN};
use ::state::{FlowKey, LaneMem, SockRef, TcbHot};
use base::{FrameIdx, Idx, Instant};

use super::conn::Fate;
use super::verbs::fate_of_aborted;
use super::{State, flag, half_open, handle, hibernate, listen, reset, table};
use crate::errors::SockError;

/// What an aborted connection comes to when its peer was told before.
fn fate_of_told(state: State) -> Fate {
    match fate_of_aborted(state) {
        Fate::Reset(error) => Fate::Dead(error),
        other => other,
    }
}

fn state_of(mem: &LaneMem<'_>, at: Idx<TcbHot>) -> State {
    mem.hot.get(at).map_or(State::Closed, |t| State::from_raw(t.state))
}

fn tell_row(mem: &mut LaneMem<'_>, at: Idx<TcbHot>) {
    if matches!(fate_of_aborted(state_of(mem, at)), Fate::Reset(_)) {
        reset::of_connection_for_good(mem, at);
    }
}

/// [`Engine::tell_reset`](crate::Engine::tell_reset).
pub(crate) fn tell(mem: &mut LaneMem<'_>, now: Instant, s: SockRef) {
    if let Ok(at) = handle::awake(mem, now, s) {
        tell_row(mem, at);
    }
}

/// [`Engine::end_told`](crate::Engine::end_told).
pub(crate) fn end(mem: &mut LaneMem<'_>, now: Instant, s: SockRef) {
    let at = match handle::awake(mem, now, s) {
        Ok(at) => at,
        Err(Some(asleep)) => return hibernate::close_later(mem, now, asleep),
        Err(None) => return,
    };
    let fate = fate_of_told(state_of(mem, at));
    table::settle(mem, now, at, fate);
    table::orphan(mem, now, at);
}

/// [`Engine::fail_told`](crate::Engine::fail_told).
pub(crate) fn fail(mem: &mut LaneMem<'_>, now: Instant, s: SockRef) -> bool {
    let Ok(at) = handle::awake(mem, now, s) else { return false };
    if !matches!(fate_of_aborted(state_of(mem, at)), Fate::Reset(_)) {
        return false;
    }
    table::settle(mem, now, at, Fate::Dead(SockError::Reset));
    discard_unread(mem, at);
    true
}

/// Gives up what the program has not read.
pub(super) fn discard_unread(mem: &mut LaneMem<'_>, at: Idx<TcbHot>) {
    let Some(hot) = mem.hot.get_mut(at) else { return };
    mem.frames.release_chain(hot.rcv_queue.head);
    hot.rcv_queue.head = FrameIdx::NONE;
    hot.rcv_queue.tail = FrameIdx::NONE;
    hot.rcv_bytes = 0;
}

/// The row of a connection that waits at a listener.
enum Waits {
    HalfOpen(Idx<::state::Dormant>),
    Whole(Idx<TcbHot>),
}

fn waiting(mem: &LaneMem<'_>, key: &FlowKey) -> Option<Waits> {
    let value = table::value_of(mem, key)?;
    if value & DORMANT == 0 {
        let at = Idx::new(value);
        let queued = flag::IN_SYN_QUEUE | flag::IN_ACCEPT_QUEUE;
        return mem.hot.get(at).filter(|hot| hot.flags & queued != 0).map(|_| Waits::Whole(at));
    }
    let at = Idx::new(value & !DORMANT);
    mem.dormant.get(at).filter(|row| row.handle == HALF_OPEN).map(|_| Waits::HalfOpen(at))
}

/// [`Engine::tell_waiting`](crate::Engine::tell_waiting).
pub(crate) fn tell_waiting(mem: &mut LaneMem<'_>, key: &FlowKey) {
    match waiting(mem, key) {
        Some(Waits::HalfOpen(at)) => half_open::tell(mem, at),
        Some(Waits::Whole(at)) => tell_row(mem, at),
        None => {}
    }
}

/// [`Engine::end_waiting`](crate::Engine::end_waiting).
pub(crate) fn end_waiting(mem: &mut LaneMem<'_>, now: Instant, key: &FlowKey) {
    match waiting(mem, key) {
        Some(Waits::HalfOpen(at)) => half_open::end(mem, at),
        Some(Waits::Whole(at)) => listen::drop_waiting(mem, now, at, Fate::Dead(SockError::Aborted)),
        None => {}
    }
}

/// Was `at` closed by its program, and has it still something to say or to hear?
fn is_closed(mem: &LaneMem<'_>, at: Idx<TcbHot>) -> bool {
    let closed = flag::HELD | flag::ORPHAN;
    let over =
        |hot: &TcbHot| matches!(State::from_raw(hot.state), State::Closed | State::TimeWait | State::Listen);
    mem.hot.get(at).is_some_and(|hot| hot.flags & closed == closed && !over(hot))
}

/// [`Engine::tell_closed`](crate::Engine::tell_closed).
pub(crate) fn tell_closed(mem: &mut LaneMem<'_>, most: u32) -> u32 {
    each_closed(mem, most, tell_row)
}

/// [`Engine::end_closed`](crate::Engine::end_closed).
pub(crate) fn end_closed(mem: &mut LaneMem<'_>, now: Instant, most: u32) -> u32 {
    each_closed(mem, most, |mem, at| {
        let fate = fate_of_told(state_of(mem, at));
        table::settle(mem, now, at, fate);
    })
}

/// Calls `each` for the first `most` of them; gives how many there were.
fn each_closed(mem: &mut LaneMem<'_>, most: u32, mut each: impl FnMut(&mut LaneMem<'_>, Idx<TcbHot>)) -> u32 {
    let mut count = 0;
    for raw in 0..mem.hot.len() {
        if count == most {
            break;
        }
        let at = Idx::new(raw);
        if is_closed(mem, at) {
            each(mem, at);
            count += 1;
        }
    }
    count
}
