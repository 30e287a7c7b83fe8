//! Connections that are to go where the wire they go by does not lead, to another lane or to the kernel, go over to the device beside it first
//! (`engine`'s `unwire`): here is who asks, and waits; and what the lane at the other end does.

use base::Duration;
use engine::{Leaver, Unwired};
use state::FlowKey;

use crate::lane::{Lane, Poisoned};
use crate::resolve;
use crate::session::Session;

/// How long the peer has: its steward answers for it when it computes, or is stopped.
const PATIENCE: Duration = Duration::from_millis(500);
/// After this the peer is asked again.
const AGAIN: Duration = Duration::from_millis(10);
/// Longest sleep before looking at the wires, which wake nobody here.
const LOOK: Duration = Duration::from_micros(500);

impl Session<'_> {
    /// The device beside the wire at index `wire`, by its index among the ports; `None`: the lane has none, or the wire stays inside one network namespace.
    fn device_beside(&self, wire: u8) -> Option<u8> {
        let ports = self.ports();
        resolve::device_beside(ports, ports.get(usize::from(wire))?)
    }

    /// The device to which connection `flow` can go over from its wire.
    fn device_for(&mut self, flow: &FlowKey) -> Option<u8> {
        let wire = self.engine(|engine| engine.wire_of(flow))?;
        self.device_beside(wire)
    }

    /// Goes over to the device, as the peer of `leaver` asked. `pin` has the segments of the connection that come by the device come to this lane. False: there
    /// is no device, `pin` says so, or it goes by the wire no more.
    pub fn follow_off_wire(&mut self, leaver: &Leaver, pin: impl FnOnce(&[FlowKey]) -> bool) -> bool {
        if self.engine(|engine| engine.wire_of(&leaver.flow)) != Some(leaver.wire) {
            return false;
        }
        let device = self.device_beside(leaver.wire).filter(|_| pin(&[leaver.flow]));
        device.is_some_and(|device| self.engine(|engine| engine.follow_off_wire(leaver, device)))
    }
}

/// Has those of `flows` that go by a wire to another network namespace go by the device beside it. `pin` has the segments of some that come by the device come
/// to `lane`; it is called while that is held, so none of them goes over, and on to another lane, meanwhile. False from it: nothing is changed. Waits until their peers follow; those whose peer does not in time stay where they are. The
/// caller does not hold the lane.
///
/// # Errors
/// [`Poisoned`].
pub fn unwire(
    lane: &Lane,
    flows: &[FlowKey],
    mut pin: impl FnMut(&[FlowKey]) -> bool,
) -> Result<(), Poisoned> {
    let mut session = lane.enter(sys::clock::now())?;
    session.gather();
    let mut left: Vec<FlowKey> =
        flows.iter().filter(|flow| session.device_for(flow).is_some()).copied().collect();
    if left.is_empty() || !pin(&left) {
        return Ok(());
    }
    drop(session);
    let begun = sys::clock::now();
    let (until, mut ask_at) = (begun.plus(PATIENCE), begun);
    loop {
        let now = sys::clock::now();
        let mut session = lane.enter(now)?;
        session.step();
        left.retain(|flow| match session.device_for(flow) {
            Some(device) if now >= ask_at => {
                session.engine(|engine| engine.ask_off_wire(flow, device)) == Unwired::Asked
            }
            Some(_) => true,
            None => false,
        });
        if now >= ask_at {
            ask_at = now.plus(AGAIN);
        }
        // Its peer may wait for us to do the same.
        for leaver in &session.take_leavers() {
            session.follow_off_wire(leaver, &mut pin);
        }
        drop(session);
        if left.is_empty() || now >= until {
            // What came by the wires before is taken.
            lane.enter(sys::clock::now())?.step();
            return Ok(());
        }
        lane.doze(LOOK.min(until.since(now)));
    }
}
