//! A listener that this process closes: what waits at it goes to another process of the family that has the listener, too.

use base::LaneId;
use control::proto::{FLOWS_MAX, FlowEnds, FlowList, Request};
use core::sync::atomic::Ordering;
use lane::Lane;
use state::{Endpoint, FlowKey, SockRef};

use super::{Answer, home, rule};
use crate::view::View;

/// Hands the connections that wait at `listener`, whose rule is gone already, on to the other lanes of the region that listen at `local`. True: there
/// is none yet that takes them, and the listener is left to the steward, who waits for one.
pub(crate) fn bequeath(view: &View, listener: SockRef, local: Endpoint) -> bool {
    let mut home = home();
    let Some((_, region)) = home.region else { return false };
    let lanes = region.shape().lanes;
    for step in 1..lanes {
        if !view.has_waiting(listener) {
            return false;
        }
        let to = LaneId((view.id.0 + step) % lanes);
        let usable = region.lane(to).filter(|lane| {
            let signals = lane.signals();
            signals.ready.load(Ordering::Acquire) != 0 && signals.poisoned.load(Ordering::Acquire) == 0
        });
        // Without ports: what is to be sent there is sent by its own process.
        let heir = usable.and_then(|_| Lane::new(region, to, Vec::new(), None));
        let Some(heir) = heir else { continue };
        view.hand_on(&heir, listener, |flows| {
            flows.chunks(FLOWS_MAX).all(|flows| {
                let ends: Vec<FlowEnds> = flows.iter().map(ends_of).collect();
                let request = Request::HandOn { rule: rule(view, local), to, flows: FlowList::of(&ends) };
                matches!(home.ask(&request, &[]), Ok(Answer::Done))
            })
        });
    }
    view.has_waiting(listener) && {
        view.leave_listener(listener);
        matches!(home.ask(&Request::Leave(rule(view, local)), &[]), Ok(Answer::Done))
    }
}

const fn ends_of(flow: &FlowKey) -> FlowEnds {
    FlowEnds {
        local: flow.local,
        local_port: flow.local_port,
        remote: flow.remote,
        remote_port: flow.remote_port,
    }
}
