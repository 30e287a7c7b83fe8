//! Peers whose keeper was killed: the lanes' connections to them are asked whether they are still there.

use std::sync::atomic::Ordering;

use base::{Duration, IpAddress};
use sys::poll::poll;

use super::Care;

/// Looks at a lane that somebody holds, and the time between two.
const TRIES: u32 = 64;
const LOOK: Duration = Duration::from_millis(1);

impl Care {
    /// Has the lane's connections to `peer` asked whether they are still there.
    pub(super) fn probe(&mut self, peer: IpAddress) {
        for _ in 0..TRIES {
            let signals = self.lane.lane_ref().signals();
            if signals.ready.load(Ordering::Acquire) == 0 || self.lane.is_poisoned() {
                return;
            }
            if let Ok(Some(mut session)) = self.lane.try_enter(sys::clock::now()) {
                session.engine(|engine| engine.probe_peer(peer));
                session.flush();
                drop(session);
                self.ours_ns = signals.last_held_ns.load(Ordering::Acquire);
                return;
            }
            // Somebody works there, or stopped there; it is tried again later, too.
            let _ = poll(&mut [], Some(LOOK));
        }
    }
}
