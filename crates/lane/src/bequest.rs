//! A listener that closes hands the connections that wait at it on to another lane that listens at the same end.

use base::Instant;
use state::{FlowKey, SockRef};

use crate::lane::{Lane, Poisoned};
use crate::rebalance::enter_both;
use crate::session::Session;

/// Where segments of connections are to come from now on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// To the lane that gets the connections, whose process is told to look.
    There,
    /// To the lane that has them, as before: they cannot go.
    Back,
}

/// Rounds of looking for connections that came meanwhile.
const ROUNDS: usize = 8;
/// Steps of a round, when the ports go on giving full batches.
const STEPS: usize = 64;

/// Moves the connections that wait at `listener` of `from`, half open or to be accepted, to the listener of `to` at the same local end, and gives their
/// number. `steer` has the segments of some of them go a [`Way`]; it is called while both lanes are held, so no segment finds a lane without its
/// connection. False from it: they stay, as do those that `to` has no room for, and all that stay are steered back. New connections must not
/// come to `listener` any more.
///
/// What waits in the ports of `to` goes on waiting. The caller holds neither lane.
///
/// # Errors
/// [`Poisoned`], one of the two.
pub fn hand_on(
    from: &Lane,
    to: &Lane,
    listener: SockRef,
    now: Instant,
    mut steer: impl FnMut(Way, &[FlowKey]) -> bool,
) -> Result<u32, Poisoned> {
    let Some((mut giver, mut taker)) = enter_twins(from, to, listener, now)? else { return Ok(0) };
    let (mut known, mut refused) = (Vec::<FlowKey>::new(), Vec::new());
    for _ in 0..ROUNDS {
        // What came while the listener was open, or before `steer` had its effect.
        let_in(&mut giver);
        let mut fresh = Vec::new();
        giver.engine(|giver| {
            giver.waiting_flows(listener, |flow| {
                if !known.contains(flow) {
                    fresh.push(*flow);
                }
            });
            // Whoever takes them off their wires has their segments come here.
            fresh.retain(|flow| giver.wire_of(flow).is_none());
        });
        fresh.retain(|flow| taker.engine(|taker| taker.make_way(flow)));
        if fresh.is_empty() {
            break;
        }
        if !steer(Way::There, &fresh) {
            refused = fresh;
            break;
        }
        known.append(&mut fresh);
    }
    let moved = giver
        .engine(|giver| taker.engine(|taker| giver.hand_on(taker, listener, |flow| known.contains(flow))));
    known.append(&mut refused);
    steer_back(&mut giver, listener, &known, steer);
    Ok(moved)
}

/// Has the segments of those of `flows` that still wait at `listener` come to their lane again: some may be steered to another one already.
pub(crate) fn steer_back(
    giver: &mut Session<'_>,
    listener: SockRef,
    flows: &[FlowKey],
    mut steer: impl FnMut(Way, &[FlowKey]) -> bool,
) {
    let mut left = Vec::new();
    giver.engine(|giver| {
        giver.waiting_flows(listener, |flow| left.extend(flows.contains(flow).then_some(*flow)));
    });
    if !left.is_empty() {
        // Without a keeper nobody steers, and the lane's connections are over.
        let _ = steer(Way::Back, &left);
    }
}

/// Moves connection `name` of `from` to lane `to`, and gives its name there. `steer` has its segments go a [`Way`]; it is called while both lanes
/// are held. False from it: it stays, as does a connection that came by a wire or that `to` has no room for. The caller holds neither lane.
///
/// # Errors
/// [`Poisoned`], one of the two.
pub fn fetch(
    from: &Lane,
    to: &Lane,
    name: SockRef,
    now: Instant,
    mut steer: impl FnMut(Way, &FlowKey) -> bool,
) -> Result<Option<SockRef>, Poisoned> {
    let (mut giver, mut taker) = enter_both(from, to, now)?;
    let Some((local, remote)) = giver.engine(|giver| giver.names(name)) else { return Ok(None) };
    let key =
        FlowKey { local: local.addr, local_port: local.port, remote: remote.addr, remote_port: remote.port };
    let by_wire = giver.engine(|giver| giver.wire_of(&key).is_some());
    if by_wire || !taker.engine(|taker| taker.make_way(&key)) {
        return Ok(None);
    }
    let moved = if steer(Way::There, &key) {
        // What came before `steer` had its effect.
        let_in(&mut giver);
        giver.engine(|giver| taker.engine(|taker| giver.move_connection(taker, name)))
    } else {
        None
    };
    if moved.is_none() {
        // Without a keeper nobody steers, and the lane's connections are over.
        let _ = steer(Way::Back, &key);
    }
    Ok(moved)
}

/// Takes both lanes, of which `to` must listen where `listener` of `from` does; `None`: it does not.
pub(crate) fn enter_twins<'a>(
    from: &'a Lane,
    to: &'a Lane,
    listener: SockRef,
    now: Instant,
) -> Result<Option<(Session<'a>, Session<'a>)>, Poisoned> {
    let (mut giver, mut taker) = enter_both(from, to, now)?;
    // Sent by its own process, which is told to look.
    taker.gather();
    let local = giver.engine(|giver| giver.names(listener)).map(|(local, _)| local);
    let listens = local.is_some_and(|local| taker.engine(|taker| taker.listens_at(local)));
    Ok(listens.then_some((giver, taker)))
}

/// Lets in what has come to the ports of `giver`.
pub(crate) fn let_in(giver: &mut Session<'_>) {
    for _ in 0..STEPS {
        if !giver.step().more {
            break;
        }
    }
}
