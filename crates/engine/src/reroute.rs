//! Other routes: connections that live go by them from then on.
//!
//! A connection stays on the device that it goes by; one that routes lead to another device, or nowhere, stays as it is.

use base::{Idx, Instant, IpAddress};
use state::hop::HOP_IN_ASK_QUEUE;
use state::{Dormant, Hop, LaneMem};

use crate::hop::{self, HopMac};
use crate::types::RouteTo;
use crate::{hop_names, tcp, udp};

/// The way to an address from a port, by the routes that there are now. `None`: they lead elsewhere, or nowhere.
pub(crate) trait Way: FnMut(u8, IpAddress) -> Option<RouteTo> {}
impl<F: FnMut(u8, IpAddress) -> Option<RouteTo>> Way for F {}

/// The routes are those with this number: has every connection go by them, unless it does. `number` is not 0.
pub(crate) fn follow(mem: &mut LaneMem<'_>, now: Instant, number: u64, mut way: impl Way) {
    let before = core::mem::replace(&mut mem.ip.hops.routes, number);
    if before == number || before == 0 {
        return;
    }
    forget_names(mem);
    for raw in 0..mem.hot.len() {
        let at = Idx::new(raw);
        let Some((by, peer)) =
            mem.hot.get(at).filter(|hot| tcp::is_open(hot)).map(|hot| (hot.hop, hot.key.remote))
        else {
            continue;
        };
        if let Some((hop, route)) = other(mem, now, by, peer, &mut way) {
            tcp::unwire::go_by(mem, now, at, hop, &route);
        }
    }
    for raw in 0..mem.globals.dormant.fresh.min(mem.dormant.len()) {
        let at = Idx::<Dormant>::new(raw);
        let Some((by, peer)) = tcp::way_of_small(mem, at) else { continue };
        if let Some((hop, _)) = other(mem, now, by, peer, &mut way) {
            tcp::go_by_small(mem, at, hop);
        }
    }
    udp::reroute(mem, now, way);
}

/// The hop, referenced, by which `peer` is reached now, if that is not `by`.
pub(crate) fn other(
    mem: &mut LaneMem<'_>,
    now: Instant,
    by: Idx<Hop>,
    peer: IpAddress,
    way: &mut impl Way,
) -> Option<(Idx<Hop>, RouteTo)> {
    let old = *mem.hops.get(by)?;
    if !hop_names::has_routes(mem, old.port) {
        return None;
    }
    let route = way(old.port, peer)?;
    // One that is known by its MAC alone works without what the kernel does not know.
    let same = if old.is_by_mac() { route.mac.is_none() } else { old.addr == route.next_hop };
    if same || route.port != old.port {
        return None;
    }
    let new = hop::for_route(mem, now, &route)?;
    if hop::mac(mem, new) == HopMac::Failed {
        hop::release(mem, new);
        return None;
    }
    Some((new, route))
}

/// What was found to be behind a MAC is so no longer: it is asked for again.
fn forget_names(mem: &mut LaneMem<'_>) {
    let rows = mem.ip.hops.fresh.min(mem.hops.len());
    for raw in 0..rows {
        let Some(hop) = mem.hops.get_mut(Idx::new(raw)) else { return };
        if hop.is_by_mac() && hop.flags & HOP_IN_ASK_QUEUE == 0 {
            (hop.named, hop.peer) = (Idx::NONE, IpAddress::ANY);
        }
    }
}
