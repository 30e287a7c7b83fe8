//! What waits at a listener that closes, and where it goes.

use lane::Lane;
use state::{FlowKey, SockRef};

use super::View;

impl View {
    /// Does a connection wait at `listener`, half open or to be accepted, once what has come is let in? The caller holds the home.
    pub(crate) fn has_waiting(&self, listener: SockRef) -> bool {
        let _gate = self.close_gate();
        let Ok(mut session) = self.lane().enter(sys::clock::now()) else { return false };
        session.step();
        let mut waiting = false;
        session.engine(|engine| engine.waiting_flows(listener, |_| waiting = true));
        waiting
    }

    /// Nobody in this process is told of `listener` any more. The caller holds the home.
    pub(crate) fn leave_listener(&self, listener: SockRef) {
        let _gate = self.close_gate();
        if let Ok(mut session) = self.lane().enter(sys::clock::now()) {
            session.engine(|engine| engine.set_event_queue(listener, 0, 0));
        }
    }

    /// Hands the connections that wait at `listener` on to lane `to`; as [`lane::hand_on`]. The caller holds the home.
    pub(crate) fn hand_on(&self, to: &Lane, listener: SockRef, steer: impl FnMut(&[FlowKey]) -> bool) -> u32 {
        let _gate = self.close_gate();
        lane::hand_on(self.lane(), to, listener, sys::clock::now(), steer).unwrap_or(0)
    }
}
