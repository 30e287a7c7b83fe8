//! Connections that nobody has accepted yet, on their way from a lane that stops to listen to another one.

use std::collections::BTreeSet;

use base::LaneId;
use control::netlink::kernel_has_tcp;
use control::proto::{FlowEnds, Proto, Reply, Rule};
use control::steer::{Flow, LocalEnd, SteerError, SteerLane, Steering};
use rustix::io::Errno;
use rustix::net::sockopt::socket_cookie;
use sys::fds::Fd;

use crate::children::has_socket;
use crate::client::Refusal;
use crate::orders::Order;
use crate::rules::{End, Slot, steer_lane};
use crate::session::{ClientId, LaneHandle, RegionHandle, RegionId, Session};

/// A TCP connection as the steering knows it.
pub(crate) fn flow_of(ends: &FlowEnds) -> Flow {
    let local = LocalEnd { proto: Proto::Tcp, addr: ends.local, port: ends.local_port };
    Flow { local, remote: ends.remote, remote_port: ends.remote_port }
}

impl Session {
    /// Has the segments of `flows`, which came in at the end of `rule`, come to lane `to` of the region from now on, and its process look. After an
    /// error some may be steered there; who asked has them steered back, which is asked for by the lane of `rule` itself as `to`.
    pub(crate) fn hand_on(
        &mut self,
        (from, rule): (Slot, &Rule),
        to: LaneId,
        flows: &[FlowEnds],
    ) -> Result<(), Refusal> {
        self.check_flows(RegionId(rule.region), flows)?;
        // Other ports are not the listener's to give away.
        if flows.iter().any(|flow| flow.local_port != rule.port || !rule.addr.covers(flow.local)) {
            return Err(Refusal::new(Errno::ACCESS, "hand on: a connection of another end"));
        }
        if to == rule.lane {
            return match self.giver_mut(rule).and_then(|giver| giver.heir) {
                Some(heir) => self.steer(from, heir, flows, Steering::keep),
                None => Ok(()),
            };
        }
        let heir = self.tell_heir(from, rule, to)?;
        if let Some(giver) = self.giver_mut(rule) {
            giver.heir = Some(heir);
        }
        self.steer(from, heir, flows, Steering::hand_on)
    }

    fn giver_mut(&mut self, rule: &Rule) -> Option<&mut LaneHandle> {
        self.regions.get_mut(&RegionId(rule.region))?.lanes.get_mut(&rule.lane)
    }

    /// Has the process of lane `to`, which gets connections from the lane of `from`, look; gives its slot.
    fn tell_heir(&mut self, from: Slot, rule: &Rule, to: LaneId) -> Result<Slot, Refusal> {
        let gone = || Refusal::new(Errno::NOENT, "hand on: the lane has no process");
        let home = self.regions.get(&RegionId(rule.region)).ok_or_else(gone)?;
        let heir = home.lanes.get(&to).filter(|heir| !heir.orphan && heir.slot != from).ok_or_else(gone)?;
        let client = self.clients.get(&heir.owner).ok_or_else(gone)?;
        // Before anything is steered there: the process may be ending. Who asks holds its lane, so it looks after the connections have come.
        client.send(&Reply::Look { lane: to }, &[]).map_err(|errno| {
            Refusal::new(errno, format!("telling process {} of connections: {errno}", client.pid))
        })?;
        let slot = heir.slot;
        self.mirror.count_notice();
        Ok(slot)
    }

    /// Has the segments of `flows`, which the lane of `from` gives to that of `to`, come to one of the two, as `way` says. Those that another lane took stay there.
    fn steer(
        &mut self,
        from: Slot,
        to: Slot,
        flows: &[FlowEnds],
        way: impl Fn(&Steering, Flow, SteerLane, SteerLane) -> Result<(), SteerError>,
    ) -> Result<(), Refusal> {
        let (giver, heir) = (steer_lane(from)?, steer_lane(to)?);
        let Some(steering) = self.devices.steering() else { return Ok(()) };
        flows.iter().try_for_each(|flow| {
            way(steering, flow_of(flow), giver, heir)
                .map_err(|e| Refusal::new(Errno::NOBUFS, format!("hand on: {e}")))
        })
    }

    /// Has the processes of `lanes`, a bit each, of a region in which client `id` has a lane, look.
    pub(crate) fn rouse(&mut self, id: ClientId, region: RegionId, lanes: u64) -> Result<(), Refusal> {
        let refused = || Refusal::new(Errno::ACCESS, "rouse: the process has no lane there");
        let home = self.regions.get(&region).filter(|home| home.lanes.values().any(|lane| lane.owner == id));
        home.ok_or_else(refused)?;
        let asked = |lane: LaneId| lanes.checked_shr(u32::from(lane.0)).is_some_and(|bits| bits & 1 != 0);
        self.call(region, |owner, lane| owner != id && asked(lane));
        Ok(())
    }

    /// Has the processes of those lanes of `region` look for which `which` says so.
    pub(crate) fn call(&mut self, region: RegionId, which: impl Fn(ClientId, LaneId) -> bool) {
        let lanes = self.regions.get(&region).into_iter().flat_map(|home| &home.lanes);
        for (&lane, handle) in lanes.filter(|(lane, handle)| !handle.orphan && which(handle.owner, **lane)) {
            if let Some(client) = self.clients.get(&handle.owner) {
                // One that is ending needs not look.
                let _ = client.send(&Reply::Look { lane }, &[]);
            }
        }
        self.mirror.count_notice();
    }

    /// Has the segments of `flow` come to the lane of `slot`, which gets it from another lane.
    pub(crate) fn fetch(&mut self, slot: Slot, flow: FlowEnds) -> Result<(), Refusal> {
        let has_slot = |home: &&RegionHandle| home.lanes.values().any(|lane| lane.slot == slot);
        let family = self.regions.values().find(has_slot).into_iter().flat_map(|home| home.lanes.values());
        let ours: Vec<_> = family.filter_map(|lane| steer_lane(lane.slot).ok()).collect();
        let Some(steering) = self.devices.steering() else { return Ok(()) };
        if steering.is_elsewhere(&flow_of(&flow), |lane| ours.contains(&lane)) {
            return Err(Refusal::new(Errno::ACCESS, "fetch: another program has the connection's end"));
        }
        // It went off its wire another way: its peer opened it anew by a device, and the kernel took that.
        if kernel_has_tcp((flow.local, flow.local_port), (flow.remote, flow.remote_port)).unwrap_or(false) {
            return Err(Refusal::new(Errno::EXIST, "fetch: the kernel has a connection between these ends"));
        }
        let lane = steer_lane(slot)?;
        steering.fetch(flow_of(&flow), lane).map_err(|e| Refusal::new(Errno::NOBUFS, format!("fetch: {e}")))
    }

    /// A program closed its listener at the end of `rule` although connections wait at it: if another process has the kernel's listener, too, the
    /// steward looks for one that takes them.
    pub(crate) fn leave_listener(&mut self, id: ClientId, rule: &Rule) -> Result<(), Refusal> {
        let nobody = || Refusal::new(Errno::NOENT, "leave: no other process has the listener");
        let client = self.clients.get_mut(&id).ok_or_else(nobody)?;
        let (pid, left) = (client.pid, client.left.take());
        // Two closed at once: it is not known which sockets those were.
        let inodes = left.filter(|(end, _)| *end == End::of(rule)).map(|(_, inodes)| inodes);
        if inodes.is_some_and(|inodes| !self.others_have(&inodes, pid))
            || !self.ensure_steward(RegionId(rule.region))
        {
            return Err(nobody());
        }
        let home = self.regions.get(&RegionId(rule.region)).ok_or_else(nobody)?;
        let steward = home.steward.as_ref().ok_or_else(nobody)?;
        let order = Order::Leave { lane: rule.lane, addr: rule.addr, port: rule.port };
        steward.send(&order, &[]).map_err(|_| nobody())
    }

    /// Has any process but `pid` one of the kernel's sockets with these numbers? It need not be a client yet: a new worker waits for its first
    /// connection before it needs a lane.
    pub(crate) fn others_have(&self, inodes: &BTreeSet<u64>, pid: u32) -> bool {
        let clients = self.clients.values().map(|client| client.pid).collect();
        !inodes.is_empty() && has_socket(inodes, (self.family(), &self.steward_pids(), &clients), pid)
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
