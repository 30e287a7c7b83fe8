//! The end of a steward whose keeper is gone: with the keeper went the steering of packets, so no connection of its lanes can go on. Their peers
//! hear so at once, and do not wait for something that never comes.

use base::Duration;
use std::sync::atomic::Ordering;

use super::Care;

/// How long a lane may be held by somebody else, who ends its connections then.
const CUT_MAX: Duration = Duration::from_secs(1);
const LOOK: Duration = Duration::from_millis(1);

/// Resets every connection of these lanes.
pub(super) fn all(mut cares: Vec<Care>) {
    let until = sys::clock::now().plus(CUT_MAX);
    loop {
        cares.retain_mut(|care| !care.cut());
        if cares.is_empty() || sys::clock::now() >= until {
            return;
        }
        if sys::poll::poll(&mut [], Some(LOOK)).is_err() {
            return;
        }
    }
}

impl Care {
    /// True: nothing is left to do here.
    fn cut(&mut self) -> bool {
        let signals = self.lane.lane_ref().signals();
        if signals.ready.load(Ordering::Acquire) == 0 {
            return true;
        }
        self.inherit();
        // Who poisoned it may have told nobody: one that panicked, or found its holder dead.
        let poisoned = signals.poisoned.swap(0, Ordering::AcqRel);
        let session = self.lane.try_enter(sys::clock::now());
        let Some(mut session) = session.ok().flatten() else {
            signals.poisoned.fetch_max(poisoned, Ordering::AcqRel);
            return false;
        };
        lane::abort_all(&mut session);
        // While the lane is still ours: its program finds its connections gone, and uses the kernel from now on.
        self.lane.lane_ref().signals().poisoned.store(1, Ordering::Release);
        true
    }
}
