//! Which groups of flows move from a hot lane to a cool one, and moving them.
//!
//! The decision is a function of what was counted, without clock or lanes; `Rebalancer` gathers the counts and does the moving. A flow
//! that is most of its lane's load is an elephant: no move makes it lighter, so it is reported, its group stays, and others make room for it.

use base::hash::FLOW_SLOTS;
use base::{Instant, LaneId};
use engine::{Load, MoveError};
use region::Group;
use state::FlowKey;

use crate::{Lane, Poisoned, Session};

/// When groups move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// A lane is hot from this much above the mean on, in thousandths of it.
    pub above_mean: u64,
    /// Fewer packets than this in a period are no reason to move anything.
    pub packets_min: u64,
    /// Moves in one period, at most.
    pub moves_max: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self { above_mean: 200, packets_min: 1000, moves_max: 8 }
    }
}

/// One group is to move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Its slot.
    pub slot: u8,
    /// Lane that has it, by position.
    pub from: usize,
    /// Lane that gets it.
    pub to: usize,
}

/// A flow that is most of its lane's load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Elephant {
    /// Its lane, by position.
    pub lane: usize,
    /// The flow.
    pub flow: FlowKey,
    /// Its part of the lane's packets, in thousandths.
    pub share: u64,
}

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Groups to move, in order.
    pub moves: Vec<Move>,
    /// Flows to report.
    pub elephants: Vec<Elephant>,
}

/// Decides from the load of each lane in one period. `slot_of` gives the slot of a flow.
#[must_use]
pub fn plan(policy: &Policy, loads: &[Load], slot_of: impl Fn(&FlowKey) -> u8) -> Plan {
    let mut slots: Vec<[u64; FLOW_SLOTS]> = loads.iter().map(|load| load.slots).collect();
    let mut sums: Vec<u64> = slots.iter().map(|slots| slots.iter().sum()).collect();
    let total: u64 = sums.iter().sum();
    let mut plan = Plan::default();
    if total < policy.packets_min || loads.len() < 2 {
        return plan;
    }
    let mut pinned = vec![None; loads.len()];
    for (lane, (load, sum)) in loads.iter().zip(&sums).enumerate() {
        let Some((flow, packets)) = load.elephant.filter(|_| *sum > 0) else { continue };
        plan.elephants.push(Elephant { lane, flow, share: packets.saturating_mul(1000) / sum });
        if let Some(pin) = pinned.get_mut(lane) {
            *pin = Some(slot_of(&flow));
        }
    }
    let mean = total / loads.len() as u64;
    let hot = mean.saturating_add(mean.saturating_mul(policy.above_mean) / 1000);
    while plan.moves.len() < policy.moves_max {
        let Some(next) = best_move(&slots, &sums, &pinned, hot) else { break };
        let slot = usize::from(next.slot);
        let packets = slots.get_mut(next.from).and_then(|s| s.get_mut(slot)).map_or(0, core::mem::take);
        if let Some(to) = slots.get_mut(next.to).and_then(|s| s.get_mut(slot)) {
            *to += packets;
        }
        for (lane, gives) in [(next.from, true), (next.to, false)] {
            let Some(sum) = sums.get_mut(lane) else { continue };
            *sum = if gives { sum.saturating_sub(packets) } else { *sum + packets };
        }
        plan.moves.push(next);
    }
    plan
}

/// The move from the hottest lane to the coolest that brings them closest together. `None`: the hottest is not above `hot`, or no group of
/// it is lighter than what lies between the two.
fn best_move(slots: &[[u64; FLOW_SLOTS]], sums: &[u64], pinned: &[Option<u8>], hot: u64) -> Option<Move> {
    let (from, most) = sums.iter().copied().enumerate().max_by_key(|(_, sum)| *sum)?;
    let (to, least) = sums.iter().copied().enumerate().min_by_key(|(_, sum)| *sum)?;
    if most <= hot {
        return None;
    }
    let gap = most - least;
    let stays = pinned.get(from).copied().flatten();
    let candidates = (0_u8..)
        .zip(slots.get(from)?)
        .filter(|(slot, packets)| Some(*slot) != stays && **packets > 0 && **packets < gap);
    let (slot, _) = candidates.min_by_key(|(_, packets)| (gap / 2).abs_diff(**packets))?;
    Some(Move { slot, from, to })
}

/// Why a group did not move.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stayed {
    /// One of the two lanes is poisoned.
    Poisoned,
    /// The engine refused.
    Refused(MoveError),
}

impl From<Poisoned> for Stayed {
    fn from(_: Poisoned) -> Self {
        Self::Poisoned
    }
}

/// Moves `group` with its connections from one lane to another of the region, and gives their number. Takes both locks, the lower number first:
/// the caller holds neither.
///
/// # Errors
/// [`Stayed`]: nothing moved.
pub fn move_group(from: &Lane, to: &Lane, group: Group, now: Instant) -> Result<u32, Stayed> {
    if from.lane_ref().id() == to.lane_ref().id() {
        return Err(Stayed::Refused(MoveError::NoLane));
    }
    let (mut giver, mut taker) = enter_both(from, to, now)?;
    let moved = giver.engine(|giver| taker.engine(|taker| Some(giver.move_group(taker, group))));
    moved.ok_or(Stayed::Poisoned)?.map_err(Stayed::Refused)
}

/// Takes two lanes of a region, the lower number first, so that nobody waits for each other. The caller holds neither.
pub(crate) fn enter_both<'a>(
    from: &'a Lane,
    to: &'a Lane,
    now: Instant,
) -> Result<(Session<'a>, Session<'a>), Poisoned> {
    if from.lane_ref().id().0 < to.lane_ref().id().0 {
        let giver = from.enter(now)?;
        Ok((giver, to.enter(now)?))
    } else {
        let taker = to.enter(now)?;
        Ok((from.enter(now)?, taker))
    }
}

/// What a rebalancer did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Groups that moved.
    pub groups: u64,
    /// Connections that moved with them.
    pub connections: u64,
    /// Groups that had to stay.
    pub stayed: u64,
    /// Elephants seen, once for each period.
    pub elephants: u64,
}

/// Moves groups between the lanes of one region, a period at a time.
#[derive(Debug, Default)]
pub struct Rebalancer {
    policy: Policy,
    moved: Moved,
}

impl Rebalancer {
    /// With this policy.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self { policy, moved: Moved::default() }
    }

    /// A period is over: looks at what each lane received since the last time, moves groups, and gives the plan for whoever reports. Holds no
    /// lane when it returns, and none while it decides.
    pub fn run(&mut self, lanes: &[&Lane], now: Instant) -> Plan {
        let mut loads = Vec::with_capacity(lanes.len());
        for lane in lanes {
            let load = lane.enter(now).ok().map(|mut session| session.engine(|e| Some(e.take_load())));
            loads.push(load.flatten().unwrap_or(Load { slots: [0; FLOW_SLOTS], elephant: None }));
        }
        let Some(directory) = lanes.first().and_then(|lane| lane.lane_ref().region().directory()) else {
            return Plan::default();
        };
        let plan = plan(&self.policy, &loads, |flow| directory.slot(flow.remote, flow.remote_port));
        for step in &plan.moves {
            let (Some(from), Some(to)) = (lanes.get(step.from), lanes.get(step.to)) else { continue };
            let group = Group::Slot(step.slot);
            let owner = directory.lane_of(group).unwrap_or(LaneId(u16::MAX));
            if owner != from.lane_ref().id() {
                continue; // late packets of a group that moved meanwhile
            }
            match move_group(from, to, group, now) {
                Ok(connections) => {
                    self.moved.groups += 1;
                    self.moved.connections += u64::from(connections);
                }
                Err(_) => self.moved.stayed += 1,
            }
        }
        self.moved.elephants += plan.elephants.len() as u64;
        plan
    }

    /// What it did so far.
    #[must_use]
    pub fn moved(&self) -> Moved {
        self.moved
    }
}

impl core::fmt::Display for Elephant {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let FlowKey { local, remote, local_port, remote_port } = self.flow;
        write!(
            f,
            "{remote}:{} -> {local}:{} is {}.{} % of lane {}",
            remote_port.0,
            local_port.0,
            self.share / 10,
            self.share % 10,
            self.lane
        )
    }
}
