//! A lane in the hands of who holds the home; what waits at a listener that closes, and where it goes.

use core::sync::atomic::Ordering;

use base::limits::LANES;
use base::{Instant, LaneId};
use engine::{Leaver, Stopped};
use lane::{Lane, Session, Way, twins};
use region::LaneRef;
use state::{Endpoint, FlowKey, SockRef};

use super::{View, Visit, Wakes};
use crate::home::{self, Bequest};
use crate::sock::Sock;

/// Times that what waits at a listener is handed on before it closes, if more has come meanwhile.
const HANDS: u32 = 4;
/// Event queues of a lane: one for each member of a family.
const QUEUES: u16 = 63;

impl View {
    /// [`View::enter`] for a caller that holds the home: neighbours are asked for when the lane is entered next.
    pub(super) fn enter_at_home<R>(&self, f: impl FnOnce(&mut Session<'_>) -> R) -> Option<R> {
        let mut wakes = Wakes::new();
        let lane = self.lane();
        let gate = self.close_gate();
        let entered = lane.enter(sys::clock::now()).ok().map(|mut session| {
            let result = f(&mut session);
            self.tell(&mut session, &mut wakes);
            self.leave(lane, &mut session, false, &mut wakes);
            drop(session);
            result
        });
        drop(gate);
        wakes.send();
        entered
    }

    /// Runs `f`, which takes the lane itself, while no other thread does; what came in meanwhile is told. The caller holds the home.
    fn beside<R>(&self, f: impl FnOnce(&'static Lane, Instant) -> R) -> R {
        let gate = self.close_gate();
        let result = f(self.lane(), sys::clock::now());
        drop(gate);
        self.enter_at_home(|_| ());
        result
    }

    /// Resets every connection of the lane: the peers hear of it at once. The caller holds the home.
    pub(super) fn reset_all(&self) {
        // The steward may have died with the keeper, and held the lane.
        self.lane().outlast_holder(sys::clock::now());
        let reset = |session: &mut Session<'_>| {
            lane::abort_all(session);
        };
        if self.enter_at_home(reset).is_none() {
            // Not trusted any more, because a steward died with it; for this it is good enough.
            self.lane().lane_ref().signals().poisoned.store(0, Ordering::Release);
            self.enter_at_home(reset);
        }
    }

    /// Resets the connections of those lanes of the region whose processes are gone: their steward, which would, may be gone as the keeper is.
    pub(super) fn reset_orphans(&self) {
        let region = self.lane().lane_ref().region();
        let is_orphan = |lane: &LaneRef| {
            let pid = lane.signals().owner_pid.load(Ordering::Acquire);
            lane.id() != self.id && pid != 0 && sys::process::is_gone(pid, pid)
        };
        let all = (0..LANES as u16).map_while(|id| region.lane(LaneId(id)));
        // A device of ours sends what one of that process's would have sent.
        let open = |lane: LaneRef| self.devices.lane_without_wires(lane.id(), true);
        let orphans: Vec<Lane> =
            all.filter(is_orphan).filter(|lane| !lane::is_cut(lane)).filter_map(open).collect();
        lane::cut_all(&orphans);
        // Their descriptors are on record as ours until the process ends.
        core::mem::forget(orphans);
    }

    /// Does a connection wait at `listener`, half open or to be accepted, once what has come is let in? The caller holds the home.
    pub(crate) fn has_waiting(&self, listener: SockRef) -> bool {
        let waits = |session: &mut Session<'_>| {
            session.step();
            let mut waiting = false;
            session.engine(|engine| engine.waiting_flows(listener, |_| waiting = true));
            waiting
        };
        self.enter_at_home(waits).unwrap_or(false)
    }

    /// Closes `listener`, once what waits at it has gone elsewhere. False: what still waits there nobody takes.
    pub(super) fn end_listener(&self, listener: SockRef, sock: &Sock) -> bool {
        // First, so that nobody is sent here any more, by the steering or by another process that closes its listener.
        let names = self.enter_as(Visit::taking(sock), |session, _| {
            session.engine(|engine| {
                engine.tcp_begin_close(listener);
                engine.names(listener)
            })
        });
        let Some(Some((local, _))) = names else { return false };
        home::unlisten(self, local, sock.inner().inode);
        // Another listener of this process at the same end takes over what waits here.
        if self.has_sibling(listener) && self.close_if_idle(listener, sock) {
            return true;
        }
        for _ in 0..HANDS {
            match home::bequeath(self, listener, local) {
                Bequest::Left => return true,
                Bequest::Refused => return false,
                Bequest::Done => {}
            }
            // What came in since the look is seen by this one.
            if self.close_if_idle(listener, sock) {
                return true;
            }
        }
        false
    }

    fn has_sibling(&self, listener: SockRef) -> bool {
        let asked = |session: &mut Session<'_>| session.engine(|engine| engine.tcp_has_sibling(listener));
        self.enter(asked) == Some(true)
    }

    fn close_if_idle(&self, listener: SockRef, sock: &Sock) -> bool {
        let close = |session: &mut Session<'_>| session.engine(|engine| engine.tcp_close_if_idle(listener));
        self.enter_as(Visit::closing(sock), |session, _| close(session)) == Some(true)
    }

    /// The listeners at which connections wait to be accepted.
    pub(crate) fn unaccepted(&self) -> Vec<(SockRef, Endpoint)> {
        self.enter(twins::unaccepted).unwrap_or_default()
    }

    /// As [`View::unaccepted`], for a caller that holds the home.
    pub(crate) fn unaccepted_at_home(&self) -> Vec<(SockRef, Endpoint)> {
        self.enter_at_home(twins::unaccepted).unwrap_or_default()
    }

    /// Nobody in this process is told of `listener` any more. The caller holds the home.
    pub(crate) fn leave_listener(&self, listener: SockRef) {
        self.enter_at_home(|session| session.engine(|engine| engine.set_event_queue(listener, 0, 0)));
    }

    /// Has connection `name` gone to the lane of another process? It is not to be asked for again.
    pub(crate) fn has_moved(&self, name: SockRef) -> bool {
        self.enter(|session| session.engine(|engine| engine.take_moved(name))).flatten().is_some()
    }

    /// Moves connection `name` to lane `own` of this process; as [`lane::fetch`]. The caller holds the home.
    pub(crate) fn move_to(
        &self,
        own: &Self,
        name: SockRef,
        steer: impl FnMut(Way, &FlowKey) -> bool,
    ) -> Option<SockRef> {
        let gates = (self.close_gate(), own.close_gate());
        let moved = lane::fetch(self.lane(), own.lane(), name, sys::clock::now(), steer).ok().flatten();
        drop(gates);
        // What came in meanwhile is told.
        self.enter_at_home(|_| ());
        own.enter_at_home(|_| ());
        moved
    }

    /// Hands connection `name` over to the kernel; as [`lane::entrust`], with the device the connection goes by. The caller holds the home.
    pub(crate) fn entrust<R>(
        &self,
        name: SockRef,
        take: impl FnOnce(&Stopped, &[u8], u32) -> Option<R>,
    ) -> Option<R> {
        self.beside(|lane, now| {
            let port = lane.enter(now).ok()?.engine(|engine| engine.port_of(name))?;
            let scope = lane.device_at(port).unwrap_or(0);
            lane::entrust(lane, name, now, |at, bytes| take(at, bytes, scope)).ok().flatten()
        })
    }

    /// The four numbers of connection `name`. The caller holds the home.
    pub(crate) fn flow_of(&self, name: SockRef) -> Option<FlowKey> {
        let (local, remote) =
            self.enter_at_home(|session| session.engine(|engine| engine.names(name))).flatten()?;
        let (local_port, remote_port) = (local.port, remote.port);
        Some(FlowKey { local: local.addr, remote: remote.addr, local_port, remote_port })
    }

    /// The connections that wait at `listener`, oldest first of those that were not accepted: at most `most`. The caller holds the home.
    pub(crate) fn waiting_at(&self, listener: SockRef, most: u32) -> Vec<FlowKey> {
        let mut flows = Vec::new();
        self.enter_at_home(|session| {
            session.engine(|engine| engine.unaccepted_flows(listener, |flow| flows.push(*flow)))
        });
        flows.truncate(most as usize);
        flows
    }

    /// Has those of `flows` that go by a wire go by a device; as [`lane::unwire`]. The caller holds the home.
    pub(crate) fn unwire(&self, flows: &[FlowKey], pin: impl FnMut(&[FlowKey]) -> bool) {
        // A poisoned lane's connections are lost anyhow.
        let _ = self.beside(|lane, _| lane::unwire(lane, flows, pin));
    }

    /// Does as the peer of `leaver` asked; as [`Session::follow_off_wire`]. The caller holds the home.
    pub(crate) fn follow(&self, leaver: &Leaver, pin: impl FnOnce(&[FlowKey]) -> bool) {
        self.enter_at_home(|session| session.follow_off_wire(leaver, pin));
    }

    /// Begins with a lane that another image of this process had: closes every connection that is not in `kept`, and forgets what was to be told
    /// that image.
    pub(crate) fn clear(&self, kept: &[SockRef]) {
        let gate = self.close_gate();
        if let Ok(mut session) = self.lane().enter(sys::clock::now()) {
            let open = lane::open_sockets(&mut session);
            session.engine(|engine| {
                for sock in open {
                    engine.set_event_queue(sock, 0, 0);
                    if !kept.contains(&sock) {
                        engine.close(sock);
                    }
                }
                for queue in 0..=QUEUES {
                    while engine.poll_event(queue).is_some() {}
                }
            });
        }
        drop(gate);
    }

    /// Hands the connections that wait at `listener` on to lane `to`; as [`lane::hand_on`]. The caller holds the home.
    pub(crate) fn hand_on(
        &self,
        to: &Lane,
        listener: SockRef,
        steer: impl FnMut(Way, &[FlowKey]) -> bool,
    ) -> u32 {
        self.beside(|lane, now| lane::hand_on(lane, to, listener, now, steer).unwrap_or(0))
    }

    /// Hands the oldest `most` connections that wait at `listener` to be accepted to lane `to`; as [`twins::share_out`]. The caller holds the home.
    pub(crate) fn share_out(
        &self,
        to: &Lane,
        listener: SockRef,
        most: u32,
        steer: impl FnMut(Way, &[FlowKey]) -> bool,
    ) -> u32 {
        self.beside(|lane, now| twins::share_out(lane, to, listener, (now, most), steer).unwrap_or(0))
    }
}
