//! What goes on without this process, or begins before it: what waits at a listener that it closes goes to another process of the family; after exec it
//! goes on with what the image before had.

use base::LaneId;
use control::proto::{FLOWS_MAX, FlowEnds, FlowList, Request};
use core::sync::atomic::Ordering;
use lane::Lane;
use state::{Endpoint, FlowKey, SockRef};
use sys::fds::Fd;

use super::{Answer, Home, home, rule, tables, way};
use crate::exec::Mark;
use crate::ports::Devices;
use crate::sock::Seat;
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

/// Moves the connection `seat`, on a lane of the process this one was forked from, to `own`; gives its name there.
pub(crate) fn fetch(seat: Seat, own: &View) -> Option<SockRef> {
    let mut home = home();
    seat.view.move_to(own, seat.name, |flow| {
        let local = Endpoint { addr: flow.local, port: flow.local_port };
        let request = Request::Fetch { rule: rule(own, local), flows: FlowList::of(&[ends_of(flow)]) };
        matches!(home.ask(&request, &[]), Ok(Answer::Done))
    })
}

impl Home {
    /// Goes on, after exec, with what the image before this one had.
    fn resume(&mut self, mark: &Mark) -> Option<&'static View> {
        // SAFETY: the image before left it open for us, and nobody else knows of it.
        let link = unsafe { Fd::from_raw(mark.link) };
        self.greet(Some(link), way()?).ok()?;
        let Ok(Answer::Number(id, fds)) = self.ask(&Request::Enter { region: mark.region }, &[]) else {
            return None;
        };
        let region = self.take_region(id, &fds)?;
        let resume = Request::Resume { region: mark.region, lane: mark.lane };
        let Ok(Answer::Lane(lane, devices, fds)) = self.ask(&resume, &[]) else { return None };
        // Threads of that image slept when they ended.
        region.lane(lane)?.signals().sleepers.store(0, Ordering::Release);
        let devices = Devices::new(region, tables(), &devices, fds);
        self.own = View::open(mark.region, lane, devices);
        self.own
    }
}

/// Goes on, after exec, with the lane of `mark`.
pub(crate) fn resume(mark: &Mark) -> Option<&'static View> {
    home().resume(mark)
}

const fn ends_of(flow: &FlowKey) -> FlowEnds {
    FlowEnds {
        local: flow.local,
        local_port: flow.local_port,
        remote: flow.remote,
        remote_port: flow.remote_port,
    }
}
