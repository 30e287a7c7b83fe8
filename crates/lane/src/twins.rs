//! Lanes of a region whose processes listen at the same end, and connections that wait at one while another would take them: as a kernel's accept queue
//! serves whoever accepts first.
//!
//! A thread that is about to sleep until a connection comes counts itself in its lane's `accepters`, then looks whether another lane left some
//! (`left_at`) and has that lane's process look again. A process that does something else while connections wait at its lane looks for accepters, hands
//! connections on, and leaves a note with every other lane for the rest. So one of the two sees the other. For a process that cannot look,
//! because it computes, its steward does.

use core::sync::atomic::Ordering;

use base::{Instant, LaneId};
use control::proto::{FLOWS_MAX, FlowEnds, FlowList};
use region::{LaneRef, Region};
use state::{Endpoint, FlowKey, Listener, SockKind, SockRef};

use crate::bequest::{Way, enter_twins, let_in, steer_back};
use crate::lane::{Lane, Poisoned};
use crate::session::Session;

/// The other lanes of `region` that a process uses, from the one after `id` on.
pub fn others(region: Region, id: LaneId) -> impl Iterator<Item = LaneRef> {
    let lanes = region.shape().lanes;
    let after = (1..lanes).map(move |step| LaneId((id.0 + step) % lanes));
    after.filter_map(move |id| region.lane(id)).filter(|lane| {
        let signals = lane.signals();
        signals.ready.load(Ordering::Acquire) != 0 && signals.poisoned.load(Ordering::Acquire) == 0
    })
}

/// The lane `of` another process, without ports: what is to be sent there is sent by that process.
#[must_use]
pub fn without_ports(of: LaneRef) -> Option<Lane> {
    Lane::new(of.region(), of.id(), Vec::new(), None)
}

/// The listeners of a lane.
#[must_use]
pub fn listeners(session: &mut Session<'_>) -> Vec<(SockRef, Listener)> {
    session.engine(|engine| {
        let rows = engine.mem().listeners.rows().iter().enumerate();
        let used = rows.filter(|(_, row)| row.used != 0);
        used.map(|(at, row)| (SockRef::new(SockKind::Listener, at as u32, row.generation), *row)).collect()
    })
}

/// The listeners of a lane at which connections wait to be accepted, with their ends.
#[must_use]
pub fn unaccepted(session: &mut Session<'_>) -> Vec<(SockRef, Endpoint)> {
    let all = listeners(session).into_iter();
    all.filter(|(_, row)| row.accept_queue.len > 0).map(|(name, row)| (name, row.local)).collect()
}

/// `flows` as the keeper is told of them, a list for each message.
pub fn lists(flows: &[FlowKey]) -> impl Iterator<Item = FlowList> {
    flows.chunks(FLOWS_MAX).map(|flows| {
        let ends: Vec<FlowEnds> = flows.iter().map(ends_of).collect();
        FlowList::of(&ends)
    })
}

/// A connection as the keeper is told of it.
#[must_use]
pub const fn ends_of(flow: &FlowKey) -> FlowEnds {
    FlowEnds {
        local: flow.local,
        local_port: flow.local_port,
        remote: flow.remote,
        remote_port: flow.remote_port,
    }
}

/// Tells every other lane that connections wait at lane `id`, whose process does not accept.
fn leave_notes(region: Region, id: LaneId) {
    for lane in others(region, id) {
        lane.signals().left_at.fetch_or(1 << id.0, Ordering::SeqCst);
    }
}

/// Hands connections that wait at a listener of `from` to be accepted to the lanes whose processes accept at the same end, and leaves notes
/// for the rest. `share` moves at most so many to that lane, see [`share_out`]; `left` says whether any still wait.
pub fn offer(from: LaneRef, left: impl Fn() -> bool, mut share: impl FnMut(&Lane, LaneId, u32)) {
    for noted in [false, true] {
        for to in others(from.region(), from.id()) {
            let most = to.signals().accepters.load(Ordering::SeqCst);
            if most > 0
                && let Some(lane) = without_ports(to)
            {
                share(&lane, to.id(), most);
            }
        }
        if noted || !left() {
            break;
        }
        leave_notes(from.region(), from.id());
    }
}

/// Moves the oldest `most` connections that wait at `listener` of `from` to be accepted to the listener of `to` at the same local end, and gives their
/// number. `steer` has their segments go a [`Way`]; it is called while both lanes are held. False from it: they stay, as do those that `to` has no room
/// for, and are steered back; so do those that go by a wire ([`unwire`](crate::unwire)). `listener` goes on listening. The caller holds neither lane.
///
/// # Errors
/// [`Poisoned`], one of the two.
pub fn share_out(
    from: &Lane,
    to: &Lane,
    listener: SockRef,
    (now, most): (Instant, u32),
    mut steer: impl FnMut(Way, &[FlowKey]) -> bool,
) -> Result<u32, Poisoned> {
    let Some((mut giver, mut taker)) = enter_twins(from, to, listener, now)? else { return Ok(0) };
    let mut oldest = Vec::new();
    giver.engine(|giver| {
        giver.unaccepted_flows(listener, |flow| oldest.push(*flow));
        // Whoever takes them off their wires has their segments come here.
        oldest.retain(|flow| giver.wire_of(flow).is_none());
    });
    oldest.truncate(most as usize);
    oldest.retain(|flow| taker.engine(|taker| taker.make_way(flow)));
    if oldest.is_empty() {
        return Ok(0);
    }
    let mut moved = 0;
    if steer(Way::There, &oldest) {
        // What came before `steer` had its effect.
        let_in(&mut giver);
        let is_one = |flow: &FlowKey| oldest.contains(flow);
        moved = giver.engine(|giver| taker.engine(|taker| giver.hand_on(taker, listener, is_one)));
    }
    steer_back(&mut giver, listener, &oldest, steer);
    Ok(moved)
}
