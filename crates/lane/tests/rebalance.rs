//! The policy of the rebalancer, on virtual load.
#![allow(clippy::unwrap_used)]

mod two_lanes;

use base::hash::FLOW_SLOTS;
use base::{LaneId, Rng};
use engine::Load;
use lane::Lane;
use lane::rebalance::{Moved, Policy, Rebalancer, plan};
use state::FlowKey;
use two_lanes::{NOW, flow, lanes, syn};

fn slot_of(flow: &FlowKey) -> u8 {
    (flow.remote_port.0 % 64) as u8
}

/// The load of each lane, when each slot brings `weights` and belongs to the lane `owner` says.
fn loads(weights: &[u64; FLOW_SLOTS], owner: &[usize; FLOW_SLOTS], lanes: usize) -> Vec<Load> {
    let mut loads = vec![Load { slots: [0; FLOW_SLOTS], elephant: None }; lanes];
    for (slot, (weight, lane)) in weights.iter().zip(owner).enumerate() {
        loads[*lane].slots[slot] = *weight;
    }
    loads
}

fn sum(load: &Load) -> u64 {
    load.slots.iter().sum()
}

/// Runs periods of a steady load until nothing moves; gives the lanes' loads and the number of moves.
fn settle(weights: &[u64; FLOW_SLOTS], owner: &mut [usize; FLOW_SLOTS], lanes: usize) -> (Vec<u64>, usize) {
    let mut moves = 0;
    for _ in 0..100 {
        let now = loads(weights, owner, lanes);
        let plan = plan(&Policy::default(), &now, slot_of);
        if plan.moves.is_empty() {
            return (now.iter().map(sum).collect(), moves);
        }
        for step in plan.moves {
            assert_eq!(owner[usize::from(step.slot)], step.from);
            owner[usize::from(step.slot)] = step.to;
            moves += 1;
        }
    }
    unreachable!("groups bounce between lanes");
}

#[test]
fn any_steady_load_comes_to_rest_and_no_lane_stays_hot_that_could_give() {
    let mut rng = Rng::new(1);
    for _ in 0..500 {
        let lanes = 2 + rng.below(7) as usize;
        let heavy = 1 + rng.below(5000);
        let mut weights = [0; FLOW_SLOTS];
        let mut owner = [0; FLOW_SLOTS];
        for slot in 0..FLOW_SLOTS {
            weights[slot] = 100 + rng.below(heavy);
            // Anything from even to all on one lane.
            owner[slot] = rng.below(lanes as u64).min(rng.below(lanes as u64)) as usize;
        }
        let (sums, moves) = settle(&weights, &mut owner, lanes);
        let mean = sums.iter().sum::<u64>() / lanes as u64;
        let most = *sums.iter().max().unwrap();
        // The heaviest group bounds how even it can be.
        let heaviest = *weights.iter().max().unwrap();
        assert!(most <= (mean + mean / 5).max(mean + heaviest), "{sums:?} of mean {mean}");
        assert!(moves <= FLOW_SLOTS * 2, "{moves} moves");
    }
}

#[test]
fn even_lanes_and_idle_lanes_are_left_alone() {
    let owner: [usize; FLOW_SLOTS] = std::array::from_fn(|slot| slot % 4);
    assert!(plan(&Policy::default(), &loads(&[1000; FLOW_SLOTS], &owner, 4), slot_of).moves.is_empty());
    let few = plan(&Policy::default(), &loads(&[3; FLOW_SLOTS], &[0; FLOW_SLOTS], 4), slot_of);
    assert!(few.moves.is_empty(), "a few packets are no load");
    assert!(
        plan(&Policy::default(), &loads(&[1000; FLOW_SLOTS], &[0; FLOW_SLOTS], 1), slot_of).moves.is_empty()
    );
}

#[test]
fn an_elephant_is_reported_and_not_bounced_and_the_others_make_room() {
    let mut weights = [100; FLOW_SLOTS];
    weights[7] = 100_000;
    let mut owner: [usize; FLOW_SLOTS] = std::array::from_fn(|slot| slot % 2);
    for period in 0..20 {
        let mut now = loads(&weights, &owner, 2);
        now[1].elephant = Some((flow(7), 99_900));
        let plan = plan(&Policy::default(), &now, slot_of);
        assert_eq!(plan.elephants.len(), 1, "period {period}");
        let line = format!("10.0.0.2:7 -> 10.0.0.1:80 is {} % of lane 1", share(&now[1]));
        assert_eq!(plan.elephants[0].to_string(), line);
        for step in plan.moves {
            assert!(step.slot != 7, "the elephant stays");
            owner[usize::from(step.slot)] = step.to;
        }
    }
    assert_eq!(
        owner.iter().filter(|lane| **lane == 1).count(),
        1,
        "only the elephant's group is left with it"
    );
}

fn share(load: &Load) -> String {
    let thousandths = 99_900 * 1000 / sum(load);
    format!("{}.{}", thousandths / 10, thousandths % 10)
}

#[test]
fn the_rebalancer_moves_groups_with_their_connections_until_both_lanes_have_their_part() {
    let [hot, cool] = lanes();
    let directory = hot.lane_ref().region().directory().unwrap();
    directory.share(1);
    hot.enter(NOW).unwrap().engine(|e| (0..200).for_each(|n| syn(e, 10_000 + n)));
    let mut rebalancer = Rebalancer::new(Policy { packets_min: 100, moves_max: 64, ..Policy::default() });
    let plan = rebalancer.run(&[&hot, &cool], NOW);
    assert!(plan.elephants.is_empty(), "no flow has more than one packet");
    let open = |lane: &Lane| lane.enter(NOW).unwrap().engine(|e| e.counters().tcp.open);
    let (left, gone) = (open(&hot), open(&cool));
    assert_eq!(left + gone, 200, "no connection is lost");
    assert!((80..=120).contains(&gone), "{gone} moved");
    let Moved { groups, connections, stayed, elephants } = rebalancer.moved();
    assert_eq!((groups, connections, stayed, elephants), (plan.moves.len() as u64, gone, 0, 0));
    for step in &plan.moves {
        assert_eq!(directory.lane_of(region::Group::Slot(step.slot)), Some(LaneId(1)));
    }
    // The same again comes to rest: what comes to the old lane is handed over, and both have as much as the other.
    hot.enter(NOW).unwrap().engine(|e| (0..200).for_each(|n| syn(e, 10_000 + n)));
    cool.enter(NOW).unwrap().step();
    assert_eq!(cool.enter(NOW).unwrap().engine(|e| e.counters().handed_in), gone.min(128));
    assert_eq!(open(&hot) + open(&cool), 200);
}
