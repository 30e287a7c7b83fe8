//! What the keeper of a run allows its programs, on top of what every keeper checks: who runs them is not whose privileges serve them.

use std::net::IpAddr;

use base::IpAddress;
use control::proto::{FlowEnds, RegionWish, Rule};
use control::steer::SteerLane;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sys::fds::Fd;

use super::policy::{Network, PortRange, user_name};
use crate::bequest::flow_of;
use crate::client::Refusal;
use crate::meeting::namespace_of_fd;
use crate::rules::{is_loopback, steer_lane};
use crate::session::{ClientId, RegionId, Session};

/// Limits of one run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Guard {
    /// Whose run it is.
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// The rule that allows it, and its file.
    pub(super) rule: String,
    pub(super) addresses: Option<Vec<Network>>,
    pub(super) ports: Option<Vec<PortRange>>,
    pub(super) lanes: Option<u16>,
    /// Bytes of all regions.
    pub(super) memory: Option<u64>,
}

impl Guard {
    /// The user.
    pub(crate) fn uid(&self) -> u32 {
        self.uid
    }

    /// The user's primary group.
    pub(crate) fn gid(&self) -> u32 {
        self.gid
    }

    /// May packets for `addr` come to lanes?
    pub(crate) fn has_address(&self, addr: IpAddress) -> bool {
        let ip = addr.as_v4().map_or(IpAddr::V6(addr.as_v6()), IpAddr::V4);
        is_loopback(addr) || self.addresses.as_ref().is_none_or(|all| all.iter().any(|n| n.contains(ip)))
    }

    fn has_port(&self, port: u16) -> bool {
        // 0: the kernel or the keeper chooses one of those for connections that go out.
        port == 0 || self.ports.as_ref().is_none_or(|all| all.iter().any(|range| range.contains(port)))
    }

    fn refusal(&self, text: &str) -> Refusal {
        Refusal::new(Errno::ACCESS, format!("{text} (rule {})", self.rule))
    }

    /// May lanes have the end of `rule`? Any address means those that are allowed.
    fn check_end(&self, rule: &Rule) -> Result<(), Refusal> {
        if !rule.addr.is_wild() && !self.has_address(rule.addr) {
            return Err(self.refusal(&format!("address {} is not among the allowed ones", rule.addr)));
        }
        if !self.has_port(rule.port.0) {
            return Err(self.refusal(&format!("port {} is not among the allowed ones", rule.port.0)));
        }
        Ok(())
    }

    /// Is a process of user `uid` one of the run? Programs that root runs may change their user.
    pub(crate) fn check_user(&self, uid: u32) -> Result<(), Refusal> {
        if self.uid == 0 || uid == self.uid {
            return Ok(());
        }
        let text = format!("user {} is not {}, whose run it is", user_name(uid), user_name(self.uid));
        Err(self.refusal(&text))
    }
}

/// Is `socket` of this process's network namespace? A port of another one gives no right to packets here.
pub(crate) fn check_namespace(socket: &Fd) -> Result<(), Refusal> {
    let theirs = sys::namespace::of_socket(socket).ok().and_then(|net| namespace_of_fd(&net));
    let ours = sys::namespace::current_net().ok().and_then(|net| namespace_of_fd(&net));
    if theirs.is_some() && theirs == ours {
        return Ok(());
    }
    Err(Refusal::new(Errno::ACCESS, "the socket is of another network namespace than its keeper"))
}

impl Session {
    /// What the region may be: `wish` with no more lanes than are allowed, and how many bytes are left for it.
    pub(crate) fn allowed_region(&self, wish: &RegionWish) -> (RegionWish, Option<u64>) {
        let Some(guard) = self.guard() else { return (*wish, None) };
        let lanes = guard.lanes.map_or(wish.lanes, |most| wish.lanes.min(most));
        let used: u64 = self.regions.values().map(|region| region.memory.bytes).sum();
        (RegionWish { lanes, ..*wish }, guard.memory.map(|most| most.saturating_sub(used)))
    }

    /// May lanes have the end of `rule`?
    pub(crate) fn check_end(&self, rule: &Rule) -> Result<(), Refusal> {
        self.guard().map_or(Ok(()), |guard| guard.check_end(rule))
    }

    /// Is there a lane left for the run?
    pub(crate) fn check_lanes(&self) -> Result<(), Refusal> {
        let Some((guard, most)) = self.guard().and_then(|guard| Some((guard, guard.lanes?))) else {
            return Ok(());
        };
        let used = self.regions.values().map(|region| region.lanes.len()).sum::<usize>();
        if used < usize::from(most) {
            Ok(())
        } else {
            Err(guard.refusal(&format!("all {most} lanes are in use")))
        }
    }

    /// Are `flows` connections of lanes of `region`? Else a program could have the packets of others steered to itself.
    pub(crate) fn check_flows(&mut self, region: RegionId, flows: &[FlowEnds]) -> Result<(), Refusal> {
        let Some(uid) = self.guard().map(Guard::uid).filter(|uid| *uid != 0) else { return Ok(()) };
        let home = self.regions.get(&region).into_iter().flat_map(|home| home.lanes.values());
        let lanes: Vec<SteerLane> = home.filter_map(|lane| steer_lane(lane.slot).ok()).collect();
        let Some(steering) = self.devices.steering() else { return Ok(()) };
        let own = |flow: &FlowEnds| steering.may_be_of(&flow_of(flow), |lane| lanes.contains(&lane));
        if flows.iter().all(own) {
            return Ok(());
        }
        let text = format!("a connection that is not of a lane of user {}", user_name(uid));
        Err(Refusal::new(Errno::ACCESS, text))
    }

    /// Keeps a refusal for `explain`.
    pub(crate) fn note_refusal(&mut self, id: ClientId, text: &str) {
        /// Different refusals that are kept of one process.
        const REFUSALS_MAX: usize = 16;
        let Some(client) = self.clients.get_mut(&id) else { return };
        if client.refusals.len() < REFUSALS_MAX && !client.refusals.iter().any(|known| known == text) {
            client.refusals.push(text.to_owned());
        }
    }
}
