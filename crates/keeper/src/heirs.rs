//! Who gets the connections that nobody accepted before their process died: another lane of the region that listens at the same end.

use std::sync::atomic::Ordering;

use base::LaneId;
use control::proto::{FLOWS_MAX, FlowEnds, FlowList, Proto, Rule};
use lane::Lane;
use region::Region;
use state::{Endpoint, SockRef};

use crate::desk::Desk;
use crate::orders::Report;

/// Hands what waits at `listener` of `from` on to the first other lane that takes it.
pub(crate) fn hand_on(
    (region, id): (Region, LaneId),
    from: &Lane,
    (listener, local): (SockRef, Endpoint),
    desk: &Desk,
) {
    let lanes = region.shape().lanes;
    for to in (1..lanes).map(|step| LaneId((id.0 + step) % lanes)) {
        let usable = region.lane(to).filter(|lane| {
            let signals = lane.signals();
            signals.ready.load(Ordering::Acquire) != 0 && signals.poisoned.load(Ordering::Acquire) == 0
        });
        // Without ports: what is to be sent there is sent by its own process.
        let heir = usable.and_then(|_| Lane::new(region, to, Vec::new(), None));
        let Some(heir) = heir else { continue };
        let rule = Rule { region: 0, lane: id, proto: Proto::Tcp, addr: local.addr, port: local.port };
        let moved = lane::hand_on(from, &heir, listener, sys::clock::now(), |flows| {
            flows.chunks(FLOWS_MAX).all(|flows| {
                let ends: Vec<FlowEnds> = flows
                    .iter()
                    .map(|flow| FlowEnds {
                        local: flow.local,
                        local_port: flow.local_port,
                        remote: flow.remote,
                        remote_port: flow.remote_port,
                    })
                    .collect();
                desk.ask(&Report::HandOn { rule, to, flows: FlowList::of(&ends) })
            })
        });
        if moved.is_ok_and(|moved| moved > 0) {
            return;
        }
    }
}
