//! Listeners that a living program closed although connections waited there.

use std::sync::atomic::Ordering;

use base::LaneId;
use lane::twins;
use region::Region;

use super::{Care, HEIRS_WAIT};
use crate::desk::Desk;
use crate::{closing, heirs};

impl Care {
    /// Finds the listeners that the program left to an earlier steward.
    pub(super) fn find_left(&mut self) {
        let now = sys::clock::now();
        if self.lane.lane_ref().signals().ready.load(Ordering::Acquire) == 0 {
            self.inherits_left = false;
            return;
        }
        let Ok(Some(mut session)) = self.lane.try_enter(now) else { return };
        self.inherits_left = false;
        let left = twins::listeners(&mut session).into_iter().filter(|(_, row)| row.closing != 0);
        self.left.extend(left.map(|(_, row)| (row.local, now.plus(HEIRS_WAIT))));
    }

    /// Hands what waits at the listeners that the program left on, and closes those at which nothing waits, or has for too long.
    pub(super) fn see_left_off(&mut self, (region, id): (Region, LaneId), desk: &Desk) {
        let now = sys::clock::now();
        for (listener, local) in closing::listeners_with_waiting(&self.lane, now) {
            if self.left.iter().any(|(end, _)| *end == local) {
                heirs::hand_on((region, id), &self.lane, (listener, local), desk);
            }
        }
        let Ok(Some(mut session)) = self.lane.try_enter(now) else { return };
        self.left.retain(|(end, until)| !closing::close_listener(&mut session, *end, now >= *until));
    }
}
