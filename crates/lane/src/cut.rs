//! The end of lanes whose packets nobody steers to them any more, their keeper being gone: their peers hear so at once, from whoever is left.

use core::sync::atomic::Ordering;

use base::{Duration, Instant};
use region::LaneRef;

use crate::abort_all;
use crate::lane::Lane;

/// What `poisoned` of a lane's signals says once its connections are over and each peer was told. Any other value but 0 may mean that nobody was: a
/// holder panicked, or was found dead by somebody who only wanted the lane.
pub const TOLD: u32 = 2;

/// How long lanes may be held by somebody else, who ends their connections or is ending himself.
const CUT_MAX: Duration = Duration::from_secs(1);
/// Time between two looks.
const LOOK: Duration = Duration::from_millis(1);

/// Resets every connection of these lanes, also of one whose holder died, and says so in their signals: no program uses them any more. Waits for at most
/// 1 s while others hold some: one that was killed holds its lane until it is gone.
pub fn cut_all(lanes: &[Lane]) {
    let until = sys::clock::now().plus(CUT_MAX);
    let mut left: Vec<&Lane> = lanes.iter().collect();
    loop {
        let now = sys::clock::now();
        left.retain(|lane| !lane.cut(now));
        if left.is_empty() || now >= until || sys::poll::poll(&mut [], Some(LOOK)).is_err() {
            return;
        }
    }
}

/// Is nothing left to be done by [`cut_all`]?
#[must_use]
pub fn is_cut(lane: &LaneRef) -> bool {
    let signals = lane.signals();
    signals.ready.load(Ordering::Acquire) == 0 || signals.poisoned.load(Ordering::Acquire) == TOLD
}

impl Lane {
    /// [`cut_all`] of one lane, unless somebody holds it who is not gone: false, and nothing has changed.
    #[must_use]
    pub fn cut(&self, now: Instant) -> bool {
        let lane = self.lane_ref();
        if is_cut(&lane) {
            return true;
        }
        let dead = lane.holder().filter(|owner| sys::process::is_gone(owner.pid, owner.tid));
        let signals = lane.signals();
        let poisoned = signals.poisoned.swap(0, Ordering::AcqRel);
        let session = match dead {
            Some(owner) => self.take_over(owner, now),
            None => self.try_enter(now).ok().flatten(),
        };
        let Some(mut session) = session else {
            signals.poisoned.fetch_max(poisoned, Ordering::AcqRel);
            return false;
        };
        abort_all(&mut session);
        // While the lane is still ours: its program finds its connections gone, and uses the kernel from now on.
        signals.poisoned.store(TOLD, Ordering::Release);
        true
    }
}
