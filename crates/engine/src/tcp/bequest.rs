//! Connections that nobody has accepted yet go from a listener that closes to its twin on another lane, as a kernel's stay for the other processes
//! that have the listener.

use ::state::{FlowKey, LaneMem, Listener, SockRef, TcbCold, TcbHot, TcbQueue};
use base::{Idx, Instant, LaneId};

use super::conn::cold_of;
use super::{flag, frozen, group, half_open, hibernate, listen, travel};

/// Calls `each` with the ends of every connection in the queues of `listener`: half open, and waiting to be accepted.
pub(crate) fn flows(mem: &LaneMem<'_>, listener: Idx<Listener>, mut each: impl FnMut(&FlowKey)) {
    for queue in queues(mem, listener) {
        for at in members(mem, queue) {
            if let Some(hot) = mem.hot.get(at) {
                each(&hot.key);
            }
        }
    }
    half_open::members(mem, listener).for_each(|(_, key)| each(&key));
}

/// Calls `each` with the ends of every connection that waits at `listener` to be accepted, oldest first.
pub(crate) fn unaccepted(mem: &LaneMem<'_>, listener: Idx<Listener>, mut each: impl FnMut(&FlowKey)) {
    let queue = mem.listeners.get(listener).map_or_else(Default::default, |row| row.accept_queue);
    members(mem, queue).filter_map(|at| mem.hot.get(at)).for_each(|hot| each(&hot.key));
}

/// Moves those connections in the queues of `listener` that are of `which` to the listener of `to` at the same local end. Those that cannot be moved,
/// because `to` has no room or they came by a wire, stay. Gives the number moved.
pub(crate) fn hand_on(
    from: &mut LaneMem<'_>,
    to: &mut LaneMem<'_>,
    (now, lane): (Instant, LaneId),
    listener: Idx<Listener>,
    which: impl Fn(&FlowKey) -> bool,
) -> u32 {
    let mut moved = hand_half_open_on(from, to, now, listener, &which);
    for queue in queues(from, listener) {
        let mut next = queue.head;
        for _ in 0..queue.len {
            let Some(at) = next.some() else { break };
            // Read before the row is given up.
            next = from.cold.get(cold_of(at)).map_or(Idx::NONE, |cold| cold.passive.next);
            if from.hot.get(at).is_some_and(|hot| which(&hot.key)) {
                moved += u32::from(travel::move_single(from, to, (now, lane), at));
            }
        }
    }
    moved
}

/// [`hand_on`] for those in small rows; one for which `to` has no small row gets a whole one here, for the rest to move.
fn hand_half_open_on(
    from: &mut LaneMem<'_>,
    to: &mut LaneMem<'_>,
    now: Instant,
    listener: Idx<Listener>,
    which: impl Fn(&FlowKey) -> bool,
) -> u32 {
    let mut moved = 0;
    let mut next = from.listeners.get(listener).map_or(Idx::NONE, |row| row.half_open.head);
    for _ in 0..from.dormant.len() {
        let Some(row) = from.dormant.get(next) else { break };
        let (at, key) = (next, frozen::key_of(row));
        // Read before the row is given up.
        next = Idx::new(row.token[0]);
        if which(&key) {
            let went = travel::move_half_open(from, to, now, at);
            moved += u32::from(went);
            if !went {
                hibernate::wake(from, now, at);
            }
        }
    }
    moved
}

fn queues(mem: &LaneMem<'_>, listener: Idx<Listener>) -> [TcbQueue; 2] {
    mem.listeners.get(listener).map_or_else(Default::default, |row| [row.accept_queue, row.syn_queue])
}

fn members<'m>(mem: &'m LaneMem<'_>, queue: TcbQueue) -> impl Iterator<Item = Idx<TcbHot>> + 'm {
    let mut at = queue.head;
    let next = move || {
        let this = at.some()?;
        at = mem.cold.get(cold_of(this)).map_or(Idx::NONE, |cold: &TcbCold| cold.passive.next);
        Some(this)
    };
    core::iter::from_fn(next).take(queue.len as usize)
}

/// Is there a listener at exactly `local` that goes on listening?
pub(crate) fn has_twin(to: &LaneMem<'_>, local: ::state::Endpoint) -> bool {
    group::members(to, local).next().is_some()
}

/// [`Engine::tcp_begin_close`](crate::Engine::tcp_begin_close).
pub(crate) fn begin_close(mem: &mut LaneMem<'_>, s: SockRef) {
    if let Some(row) = listen::lookup(mem, s).and_then(|at| mem.listeners.get_mut(at)) {
        row.closing = 1;
    }
}

/// [`Engine::tcp_has_sibling`](crate::Engine::tcp_has_sibling).
pub(crate) fn has_sibling(mem: &LaneMem<'_>, s: SockRef) -> bool {
    listen::lookup(mem, s).is_some_and(|at| group::sibling(mem, at).is_some())
}

/// [`Engine::tcp_close_if_idle`](crate::Engine::tcp_close_if_idle).
pub(crate) fn close_if_idle(mem: &mut LaneMem<'_>, now: Instant, s: SockRef) -> bool {
    let row = listen::lookup(mem, s).and_then(|at| mem.listeners.get(at));
    let idle =
        row.is_none_or(|row| row.accept_queue.len == 0 && row.half_open_count() == 0) || has_sibling(mem, s);
    if idle {
        listen::close(mem, now, s);
    }
    idle
}

/// Is connection `s` in a queue of a listener?
pub(crate) fn is_waiting(mem: &LaneMem<'_>, s: SockRef) -> bool {
    super::lookup(mem, s)
        .and_then(|at| mem.hot.get(at))
        .is_some_and(|hot| hot.flags & (flag::IN_SYN_QUEUE | flag::IN_ACCEPT_QUEUE) != 0)
}
