//! Connections that nobody has accepted yet, on their way from a lane that stops to listen to another one.

use base::LaneId;
use control::proto::{FlowEnds, Proto, Reply, Rule};
use control::steer::{Flow, LocalEnd};
use rustix::io::Errno;
use rustix::net::sockopt::socket_cookie;
use sys::fds::Fd;

use crate::client::Refusal;
use crate::orders::Order;
use crate::rules::{Slot, steer_lane};
use crate::session::{ClientId, RegionId, Session};

impl Session {
    /// Has the segments of `flows`, which came in at the end of `rule`, come to lane `to` of the region from now on, and its process look.
    pub(crate) fn hand_on(
        &mut self,
        (from, rule): (Slot, &Rule),
        to: LaneId,
        flows: &[FlowEnds],
    ) -> Result<(), Refusal> {
        let gone = || Refusal::new(Errno::NOENT, "hand on: the lane has no process");
        let home = self.regions.get(&RegionId(rule.region)).ok_or_else(gone)?;
        let heir = home.lanes.get(&to).filter(|heir| !heir.orphan && heir.slot != from).ok_or_else(gone)?;
        let client = self.clients.get(&heir.owner).ok_or_else(gone)?;
        for flow in flows {
            // Other ports are not the listener's to give away.
            if flow.local_port != rule.port || !rule.addr.covers(flow.local) {
                return Err(Refusal::new(Errno::ACCESS, "hand on: a connection of another end"));
            }
            let local = LocalEnd { proto: Proto::Tcp, addr: flow.local, port: flow.local_port };
            let flow = Flow { local, remote: flow.remote, remote_port: flow.remote_port };
            if let Some(steering) = self.devices.steering() {
                let lane = steer_lane(heir.slot)?;
                steering.pin(flow, lane).map_err(|e| Refusal::new(Errno::NOBUFS, format!("hand on: {e}")))?;
            }
        }
        client.send(&Reply::Look { lane: to }, &[]).map_err(|errno| {
            Refusal::new(errno, format!("telling process {} of connections: {errno}", client.pid))
        })?;
        self.mirror.count_notice();
        Ok(())
    }

    /// A program closed its listener at the end of `rule` although connections wait at it: its steward looks for somebody who takes them.
    pub(crate) fn leave_listener(&mut self, rule: &Rule) -> Result<(), Refusal> {
        let nobody = || Refusal::new(Errno::NOENT, "leave: there is no other process");
        if self.clients.len() < 2 || !self.ensure_steward(RegionId(rule.region)) {
            return Err(nobody());
        }
        let home = self.regions.get(&RegionId(rule.region)).ok_or_else(nobody)?;
        let steward = home.steward.as_ref().ok_or_else(nobody)?;
        let order = Order::Leave { lane: rule.lane, addr: rule.addr, port: rule.port };
        steward.send(&order, &[]).map_err(|_| nobody())
    }

    /// The region of a lane that listens on the kernel's listener `fds` carries, if it is of the same user.
    pub(crate) fn join(&self, id: ClientId, fds: &[Fd]) -> Result<RegionId, Refusal> {
        let none = || Refusal::new(Errno::NOENT, "join: no lane listens there");
        let cookie = fds.first().and_then(|fd| socket_cookie(fd).ok()).ok_or_else(none)?;
        let slots = self.rules.listeners_on(|socket| socket_cookie(socket) == Ok(cookie));
        let uid = self.clients.get(&id).map(|client| client.uid);
        let found = self.regions.iter().find(|(_, home)| {
            Some(home.uid) == uid && home.lanes.values().any(|lane| slots.contains(&lane.slot))
        });
        found.map(|(&region, _)| region).ok_or_else(none)
    }
}
