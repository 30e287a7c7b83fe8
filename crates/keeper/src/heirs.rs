//! Who gets the connections that nobody accepted: those of a dead process, and those of one that does something else. Another lane of the region that
//! listens at the same end.

use base::LaneId;
use control::proto::{Proto, Rule};

use lane::{Lane, Leaver, Way, twins};
use region::Region;
use state::{Endpoint, FlowKey, SockRef};

use crate::closing;
use crate::desk::Desk;
use crate::orders::Report;

/// Has the keeper steer `flows`, which came in at `local` of lane `id`, to lane `to`, or back.
fn steer((id, local): (LaneId, Endpoint), (way, to): (Way, LaneId), flows: &[FlowKey], desk: &Desk) -> bool {
    let to = match way {
        Way::There => to,
        Way::Back => id,
    };
    let rule = Rule { region: 0, lane: id, proto: Proto::Tcp, addr: local.addr, port: local.port };
    twins::lists(flows).all(|flows| desk.ask(&Report::HandOn { rule, to, flows }))
}

/// Has the keeper steer those segments of `flows` that come by a device to lane `id`.
fn pin(id: LaneId, flows: &[FlowKey], desk: &Desk) -> bool {
    let Some(first) = flows.first() else { return true };
    let rule = Rule { region: 0, lane: id, proto: Proto::Tcp, addr: first.local, port: first.local_port };
    twins::lists(flows).all(|flows| desk.ask(&Report::Fetch { rule, flows }))
}

/// The peer of a connection on `lane` would have it go by a device instead of a wire.
pub(crate) fn follow(id: LaneId, lane: &Lane, leaver: &Leaver, desk: &Desk) {
    if let Ok(mut session) = lane.enter(sys::clock::now()) {
        session.follow_off_wire(leaver, |flows| pin(id, flows, desk));
    }
}

/// Has what waits at `listener` of `lane`, at most `most` connections, go by a device if it goes by a wire.
fn unwire(lane: &Lane, (listener, most): (SockRef, u32), desk: &Desk) {
    let mut flows = Vec::new();
    if let Ok(Some(mut session)) = lane.try_enter(sys::clock::now()) {
        session.gather();
        session.engine(|engine| engine.unaccepted_flows(listener, |flow| flows.push(*flow)));
    }
    flows.truncate(most as usize);
    // A poisoned lane's connections are reset by whoever finds it so.
    let _ = lane::unwire(lane, &flows, |flows| pin(lane.lane_ref().id(), flows, desk));
}

/// Hands what waits at `listener` of `from` on to the first other lane that takes it.
pub(crate) fn hand_on(
    (region, id): (Region, LaneId),
    from: &Lane,
    (listener, local): (SockRef, Endpoint),
    desk: &Desk,
) {
    for to in twins::others(region, id) {
        let Some(heir) = twins::without_ports(to) else { continue };
        unwire(from, (listener, u32::MAX), desk);
        let moved = lane::hand_on(from, &heir, listener, sys::clock::now(), |way, flows| {
            steer((id, local), (way, to.id()), flows, desk)
        });
        if moved.is_ok_and(|moved| moved > 0) {
            return;
        }
    }
}

/// Hands what waits at `listener` of `from` to be accepted to the lanes whose processes accept there.
pub(crate) fn offer(from: &Lane, (listener, local): (SockRef, Endpoint), desk: &Desk) {
    let id = from.lane_ref().id();
    let left = || closing::listeners_with_unaccepted(from, sys::clock::now()).contains(&(listener, local));
    twins::offer(from.lane_ref(), left, |heir, to, most| {
        unwire(from, (listener, most), desk);
        let now = sys::clock::now();
        // A poisoned lane's connections are reset by whoever finds it so.
        let _ = twins::share_out(from, heir, listener, (now, most), |way, flows| {
            steer((id, local), (way, to), flows, desk)
        });
    });
}
