//! Listeners of one lane at the same end (socket(7), SO_REUSEPORT): which of them gets a connection, and what becomes of those that wait at one that
//! closes.

use ::state::{Endpoint, FlowKey, LaneMem, Listener, TcbHot};
use base::{Idx, Instant};

use super::{fast_open, flag, half_open, listen, table};

/// The listener for a connection between the ends of `key`.
#[inline]
pub(super) fn of_flow(mem: &LaneMem<'_>, key: &FlowKey) -> Option<Idx<Listener>> {
    let at = listen::find(mem, Endpoint { addr: key.local, port: key.local_port })?;
    let row = mem.listeners.get(at)?;
    if row.options.reuses_port() { Some(of_group(mem, row.local, key).unwrap_or(at)) } else { Some(at) }
}

/// The one among the listeners at exactly `local` (SO_REUSEPORT) that takes a connection between the ends of `key`: always the same as long as
/// they stay.
#[cold]
pub(super) fn of_group(mem: &LaneMem<'_>, local: Endpoint, key: &FlowKey) -> Option<Idx<Listener>> {
    let count = members(mem, local).count() as u64;
    // The upper bits: the lower ones choose the bucket, and others of the same hash the lane.
    let turn = (u64::from(table::hash_of(mem, key).wrapping_mul(SPREAD)) * count) >> 32;
    members(mem, local).nth(turn as usize)
}

/// Golden ratio, as in Fibonacci hashing.
const SPREAD: u32 = 0x9e37_79b9;

/// The listeners at exactly `local` that go on listening.
pub(super) fn members<'m>(mem: &'m LaneMem<'_>, local: Endpoint) -> impl Iterator<Item = Idx<Listener>> + 'm {
    let all = listen::in_bucket(mem, local.port);
    all.filter(move |(_, row)| row.local == local && row.closing == 0).map(|(at, _)| at)
}

/// When `at`, or another of its group, last sent a SYN cookie: the handshake may end at another one than it began at, after one came or went.
pub(super) fn cookie_at(mem: &LaneMem<'_>, at: Idx<Listener>) -> Instant {
    match mem.listeners.get(at) {
        None => Instant(0),
        Some(row) if !row.options.reuses_port() => row.cookie_at,
        Some(row) => {
            let all = members(mem, row.local).filter_map(|at| mem.listeners.get(at));
            all.map(|row| row.cookie_at).max().unwrap_or(row.cookie_at)
        }
    }
}

/// Another listener of the group of `at` in this lane, which takes over what waits at it when it closes.
pub(super) fn sibling(mem: &LaneMem<'_>, at: Idx<Listener>) -> Option<Idx<Listener>> {
    let row = mem.listeners.get(at).filter(|row| row.options.reuses_port())?;
    members(mem, row.local).find(|other| *other != at)
}

/// What waits at listener `from` waits at `to`, of the same lane, from now on.
#[cold]
pub(super) fn hand_over(mem: &mut LaneMem<'_>, from: Idx<Listener>, to: Idx<Listener>) {
    hand_half_open_over(mem, from, to);
    for which in [flag::IN_SYN_QUEUE, flag::IN_ACCEPT_QUEUE] {
        for _ in 0..mem.hot.len() {
            let Some(each) = first_of(mem, from, which) else { break };
            // A connection that its program has already is not counted with its next listener.
            fast_open::uncount(mem, each);
            listen::leave_queues(mem, each);
            listen::join_from_twin(mem, each, Some(to), which);
        }
    }
}

fn first_of(mem: &LaneMem<'_>, listener: Idx<Listener>, which: u32) -> Option<Idx<TcbHot>> {
    let row = mem.listeners.get(listener)?;
    let queue = if which == flag::IN_SYN_QUEUE { row.syn_queue } else { row.accept_queue };
    queue.head.some()
}

/// [`hand_over`] for those in small rows.
fn hand_half_open_over(mem: &mut LaneMem<'_>, from: Idx<Listener>, to: Idx<Listener>) {
    let Ok(options) = u16::try_from(to.raw()) else { return };
    for _ in 0..mem.dormant.len() {
        let Some(at) = mem.listeners.get(from).and_then(|row| row.half_open.head.some()) else { break };
        half_open::remove(mem, at);
        let Some(row) = mem.dormant.get_mut(at) else { break };
        row.options = options;
        half_open::append(mem, at);
    }
}
