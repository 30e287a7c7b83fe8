//! Next hops of those who came to us: at first the Ethernet address that their packets have as source, then the neighbour that routes give.
//!
//! A connection that a peer opens begins with a hop known by its MAC only, so that no SYN waits for a route. The lane is asked once which neighbour that is
//! ([`name`]): later connections, and this one from its accept queue on, have the hop of that neighbour, which follows it to another MAC like any hop. On
//! ports whose address belongs to Corelane alone, and on wires, nobody knows routes: there it stays as it is.
//! Invariant: a row's `named` counts only while its generation is the one noted; it is a guess, and holds no reference.

use base::{Idx, Instant, IpAddress, MacAddr};
use state::hop::{HOP_IN_ASK_QUEUE, HOP_KNOWN, HOP_ONE_PEER};
use state::ports::{PORT_OWN_ADDRESS, PORT_WIRE};
use state::{Hop, LaneMem, TcbHot};

use crate::hop::{self, ASK_EVERY};
use crate::tcp;
use crate::types::HopKey;

/// Finds or makes the hop of `peer`, whose packets come through `port` from `mac`, and takes a reference. `None`: every row
/// is referenced.
pub(crate) fn for_source(
    mem: &mut LaneMem<'_>,
    now: Instant,
    (port, mac): (u8, MacAddr),
    peer: IpAddress,
) -> Option<Idx<Hop>> {
    let at = hop::find_or_make(mem, port, IpAddress::ANY, mac)?;
    if let Some(named) = named_for(mem, at, peer) {
        hop::retain(mem, named);
        return Some(named);
    }
    hop::retain(mem, at);
    let hop = mem.hops.get_mut(at)?;
    if hop.state != HOP_KNOWN {
        (hop.mac, hop.state) = (mac, HOP_KNOWN);
    }
    hop.confirmed_at = now;
    if has_routes(mem, port) {
        ask_name(mem, now, at, peer);
    }
    Some(at)
}

/// Do routes of the kernel's say what is reached through `port`?
#[inline]
pub(crate) fn has_routes(mem: &LaneMem<'_>, port: u8) -> bool {
    let nobody = PORT_OWN_ADDRESS | PORT_WIRE;
    mem.ports.get(Idx::new(u32::from(port))).is_some_and(|port| port.flags & nobody == 0)
}

/// The hop that was found for `peer`, who is reached by `at`.
#[inline]
fn named_for(mem: &LaneMem<'_>, at: Idx<Hop>, peer: IpAddress) -> Option<Idx<Hop>> {
    let hop = mem.hops.get(at)?;
    let named = hop.named.some()?;
    let to = mem.hops.get(named)?;
    if hop.flags & HOP_ONE_PEER != 0 && to.addr != peer {
        // Of several addresses behind one MAC each has its own.
        return hop::find(mem, hop.port, peer).filter(|&other| is_known(mem, other));
    }
    let same = to.generation == hop.named_generation && to.port == hop.port && !to.is_by_mac();
    (same && to.state == HOP_KNOWN).then_some(named)
}

fn is_known(mem: &LaneMem<'_>, at: Idx<Hop>) -> bool {
    mem.hops.get(at).is_some_and(|hop| hop.state == HOP_KNOWN)
}

/// Asks the lane, now and then, which neighbour `at` is for `peer`.
fn ask_name(mem: &mut LaneMem<'_>, now: Instant, at: Idx<Hop>, peer: IpAddress) {
    let Some(hop) = mem.hops.get_mut(at) else { return };
    let asked = !hop.peer.is_any() && now < hop.asked_at.plus(ASK_EVERY);
    if asked || hop.flags & HOP_IN_ASK_QUEUE != 0 {
        return;
    }
    (hop.peer, hop.asked_at) = (peer, now);
    hop::queue(mem, at);
}

/// The answer: packets to the peer in `key` go by the neighbour `next_hop`, whose MAC is `mac`.
pub(crate) fn name(
    mem: &mut LaneMem<'_>,
    now: Instant,
    (at, key): (Idx<Hop>, &HopKey),
    next_hop: IpAddress,
    mac: MacAddr,
) {
    let asked = |mem: &LaneMem<'_>| {
        mem.hops.get(at).is_some_and(|hop| hop.generation == key.generation && hop.is_by_mac())
    };
    if !asked(mem) || next_hop.is_any() {
        return;
    }
    let Some(named) = hop::find_or_make(mem, key.port, next_hop, MacAddr::default()) else { return };
    hop::know(mem, now, named, mac);
    // The row that was taken for it may have been this one.
    if !asked(mem) {
        return;
    }
    let generation = mem.hops.get(named).map_or(0, |hop| hop.generation);
    let Some(hop) = mem.hops.get_mut(at) else { return };
    (hop.named, hop.named_generation) = (named, generation);
    let one = next_hop == key.addr;
    hop.flags = if one { hop.flags | HOP_ONE_PEER } else { hop.flags & !HOP_ONE_PEER };
    // Those who came before the answer go with the gateway; a peer on the link is not all that this MAC may be.
    let to = if one { hop.key_mac } else { mac };
    if hop.mac != to {
        hop.mac = to;
        tcp::usual_out::ways_changed(mem);
    }
}

/// The MAC of `at` is `mac` now: that of the hops that stand for it is so, too.
pub(crate) fn follow(mem: &mut LaneMem<'_>, at: Idx<Hop>, mac: MacAddr) {
    let Some(generation) = mem.hops.get(at).map(|hop| hop.generation) else { return };
    let rows = mem.ip.hops.fresh.min(mem.hops.len());
    for raw in 0..rows {
        let Some(hop) = mem.hops.get_mut(Idx::new(raw)) else { return };
        let stands_for = hop.is_by_mac() && hop.named == at && hop.named_generation == generation;
        if stands_for && hop.flags & HOP_ONE_PEER == 0 {
            hop.mac = mac;
        }
    }
}

/// Connection `at` gets the hop that was found for its peer since it began, if there is one.
pub(crate) fn prefer(mem: &mut LaneMem<'_>, at: Idx<TcbHot>) {
    let Some(hot) = mem.hot.get(at) else { return };
    if let Some(new) = named_for(mem, hot.hop, hot.key.remote) {
        tcp::unwire::change_hop(mem, at, new);
    }
}

/// Nothing comes back from the peer of connection `at`: its next hop may have gone elsewhere, and is asked for (RFC 1122 2.3.2.1, advice from a higher layer).
pub(crate) fn doubt(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>) {
    prefer(mem, at);
    let Some((by, peer)) = mem.hot.get(at).map(|hot| (hot.hop, hot.key.remote)) else { return };
    let Some(hop) = mem.hops.get(by) else { return };
    if hop.is_by_mac() {
        if has_routes(mem, hop.port) {
            ask_name(mem, now, by, peer);
        }
    } else if hop.state == HOP_KNOWN && hop.tries == 0 && now >= hop.confirmed_at.plus(ASK_EVERY) {
        hop::ask(mem, now, by);
    }
}

/// Every hop whose MAC is known, and the MAC.
pub(crate) fn known(mem: &LaneMem<'_>) -> impl Iterator<Item = (Idx<Hop>, HopKey, MacAddr)> {
    let rows = mem.ip.hops.fresh.min(mem.hops.len());
    let all = (0..rows).map(Idx::new).zip(mem.hops.rows());
    all.filter(|(_, hop)| hop.state == HOP_KNOWN).map(|(at, hop)| (at, HopKey::of(hop), hop.mac))
}
