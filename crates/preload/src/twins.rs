//! Processes that accept at the same listener, each on its own lane: a thread that sleeps for a connection says so, and one that sleeps for something else
//! while connections wait at its lane hands them to who does ([`lane::twins`]).

use core::sync::atomic::{AtomicU32, Ordering};

use region::LaneRef;

use crate::home;
use crate::view::View;

/// Listeners on lanes that this process, or one it was forked from, ever had: with none there is nothing to do here.
static LISTENERS: AtomicU32 = AtomicU32::new(0);

/// A listener got a seat on this process's lane.
pub(crate) fn begin() {
    LISTENERS.fetch_add(1, Ordering::Relaxed);
}

/// Does this process listen on a lane at all?
pub(crate) fn concern_us() -> bool {
    LISTENERS.load(Ordering::Relaxed) != 0
}

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
        let left = signals.left_at.load(Ordering::SeqCst);
        if left != 0 && signals.left_at.swap(0, Ordering::SeqCst) != 0 {
            home::rouse(own, left);
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
