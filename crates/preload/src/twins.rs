//! Processes that accept at the same listener, each on its own lane: a thread that sleeps for a connection says so, and one that sleeps for something else
//! while connections wait at its lane hands them to who does ([`lane::twins`]).

use core::sync::atomic::Ordering;

use region::LaneRef;

use crate::home;
use crate::view::View;

fn own() -> Option<&'static View> {
    View::in_mask(View::in_use()).find(|view| view.is_own())
}

/// A thread that sleeps until a connection comes, for as long as this lives.
pub(crate) struct Accepter(LaneRef);

impl Accepter {
    /// What was left at other lanes is asked for: it comes as an event.
    pub(crate) fn begin() -> Option<Self> {
        let own = own()?;
        let lane = own.lane().lane_ref();
        let signals = lane.signals();
        signals.accepters.fetch_add(1, Ordering::SeqCst);
        if signals.left_at.load(Ordering::SeqCst) != 0 {
            home::rouse(own, signals.left_at.swap(0, Ordering::SeqCst));
        }
        Some(Self(lane))
    }
}

impl Drop for Accepter {
    fn drop(&mut self) {
        self.0.signals().accepters.fetch_sub(1, Ordering::SeqCst);
    }
}

/// This thread is about to sleep for something else than a connection: if no other thread of this process will, those that wait go to processes
/// that accept.
pub(crate) fn offer() {
    let Some(own) = own() else { return };
    let lane = own.lane().lane_ref();
    if lane.signals().accepters.load(Ordering::SeqCst) != 0
        || lane::twins::others(lane.region(), lane.id()).next().is_none()
    {
        return;
    }
    for (listener, local) in own.unaccepted() {
        home::offer(own, listener, local);
    }
}
