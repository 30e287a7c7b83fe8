//! The table of next hops: find or make one, who holds it, its MAC, asking for it, and ageing.
//!
//! On a port whose address belongs to Corelane alone the engine asks by ARP (RFC 826) or neighbour discovery (RFC 4861); on any
//! other the lane asks the kernel ([`poll_unresolved`], [`resolved`]). Packets wait at their hop, few, for a short time (RFC 1122 2.3.2.2).
//! Invariant: a hop on the idle list has `refs` 0, no packet waits there, and it is in no other list but its bucket.

use base::hash::flow_hash;
use base::limits::HOP_WAITING;
use base::{Duration, FrameIdx, Idx, Instant, IpAddress, MacAddr};
use state::hop::{
    HOP_ASKING, HOP_BUCKETS, HOP_CHANGED, HOP_FAILED, HOP_FREE, HOP_IDLE, HOP_IN_ASK_QUEUE, HOP_KNOWN,
};
use state::ports::PORT_OWN_ADDRESS;
use state::{Hop, LaneMem};

use crate::types::{HopKey, RouteTo};
use crate::{arp, hop_names, nd, outbox, tcp};

/// How long a MAC is used before it is asked for again (RFC 1122 2.3.2.1 asks for ageing, in the order of a minute).
pub(crate) const FRESH_FOR: Duration = Duration::from_secs(60);
/// The same for IPv6 (RFC 4861 10: REACHABLE_TIME).
const FRESH_FOR_V6: Duration = Duration::from_secs(30);
/// A MAC that is in doubt is asked for again after this (RFC 4861 10: DELAY_FIRST_PROBE_TIME).
const DOUBT_FOR: Duration = Duration::from_secs(5);
/// Time between two questions for the same MAC; one a second at most (RFC 1122 2.3.2.1).
pub(crate) const ASK_EVERY: Duration = Duration::from_secs(1);
/// Questions without an answer until the hop counts as unreachable.
pub(crate) const ASK_TRIES: u8 = 3;
/// Questions to the known MAC alone, before everybody is asked (RFC 1122 2.3.2.1, unicast poll).
pub(crate) const ASK_KNOWN_TRIES: u8 = 2;
/// Least time between two scans of the table.
const SCAN_EVERY: Duration = Duration::from_millis(100);

/// What is known of a hop's MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HopMac {
    /// This one.
    Known(MacAddr),
    /// It is being asked for.
    Asking,
    /// Nobody answers.
    Failed,
}

/// Finds or makes the hop of `route` and takes a reference. `None`: every row is referenced.
pub(crate) fn for_route(mem: &mut LaneMem<'_>, now: Instant, route: &RouteTo) -> Option<Idx<Hop>> {
    let at = find_or_make(mem, route.port, route.next_hop, MacAddr::default())?;
    retain(mem, at);
    match route.mac {
        Some(mac) => know(mem, now, at, mac),
        None => ask_if_unknown(mem, now, at),
    }
    Some(at)
}

/// One more who holds `at`.
pub(crate) fn retain(mem: &mut LaneMem<'_>, at: Idx<Hop>) {
    let Some(hop) = mem.hops.get_mut(at) else { return };
    hop.refs = hop.refs.saturating_add(1);
    if hop.flags & HOP_IDLE != 0 {
        unlink_idle(mem, at);
        watch(mem, at);
    }
}

/// One less who holds `at`. Nobody left: the row stays as a cache until it is needed for another.
pub(crate) fn release(mem: &mut LaneMem<'_>, at: Idx<Hop>) {
    let Some(hop) = mem.hops.get_mut(at) else { return };
    hop.refs = hop.refs.saturating_sub(1);
    if hop.refs == 0 && hop.flags & HOP_IDLE == 0 {
        link_idle(mem, at);
    }
}

/// What is known of the MAC of `at`.
pub(crate) fn mac(mem: &LaneMem<'_>, at: Idx<Hop>) -> HopMac {
    match mem.hops.get(at) {
        Some(hop) if hop.state == HOP_KNOWN => HopMac::Known(hop.mac),
        Some(hop) if hop.state == HOP_ASKING => HopMac::Asking,
        _ => HopMac::Failed,
    }
}

/// The next hop that the lane shall resolve through the kernel.
pub(crate) fn poll_unresolved(mem: &mut LaneMem<'_>) -> Option<(Idx<Hop>, HopKey)> {
    let at = mem.ip.hops.ask_head.some()?;
    let hop = mem.hops.get_mut(at)?;
    let key = HopKey::of(hop);
    hop.flags &= !HOP_IN_ASK_QUEUE;
    mem.ip.hops.ask_head = core::mem::take(&mut hop.ask_next);
    if mem.ip.hops.ask_head.is_none() {
        mem.ip.hops.ask_tail = Idx::NONE;
    }
    Some((at, key))
}

/// Rows that somebody holds.
pub(crate) fn referenced(mem: &LaneMem<'_>) -> u32 {
    mem.hops.rows().iter().filter(|hop| hop.refs > 0).count() as u32
}

/// Rows that nobody holds: those that [`for_route`] and [`hop_names::for_source`] can take.
pub(crate) fn unreferenced(mem: &LaneMem<'_>) -> u32 {
    mem.hops.len().saturating_sub(referenced(mem))
}

/// The next hop whose MAC became known, or whose asking failed.
#[inline]
pub(crate) fn poll_changed(mem: &mut LaneMem<'_>) -> Option<Idx<Hop>> {
    let at = mem.ip.hops.changed.some()?;
    let hop = mem.hops.get_mut(at)?;
    hop.flags &= !HOP_CHANGED;
    mem.ip.hops.changed = core::mem::take(&mut hop.changed_next);
    Some(at)
}

/// The answer to [`poll_unresolved`]; `None`: unreachable. An answer for a row that means something else by now is ignored.
pub(crate) fn resolved(
    mem: &mut LaneMem<'_>,
    now: Instant,
    at: Idx<Hop>,
    key: &HopKey,
    mac: Option<MacAddr>,
) {
    let Some(hop) = mem.hops.get(at) else { return };
    if hop.state == HOP_FREE || hop.generation != key.generation {
        return;
    }
    match mac {
        Some(mac) => know(mem, now, at, mac),
        None => fail(mem, now, at),
    }
}

/// The hop with this address, if there is one.
#[inline]
pub(crate) fn find(mem: &LaneMem<'_>, port: u8, addr: IpAddress) -> Option<Idx<Hop>> {
    lookup(mem, port, addr, MacAddr::default())
}

/// The MAC of `at` is `mac`: its packets go.
pub(crate) fn know(mem: &mut LaneMem<'_>, now: Instant, at: Idx<Hop>, mac: MacAddr) {
    let Some(hop) = mem.hops.get_mut(at) else { return };
    let same = hop.state == HOP_KNOWN && hop.mac == mac;
    hop.mac = mac;
    hop.state = HOP_KNOWN;
    hop.tries = 0;
    hop.confirmed_at = now;
    watch(mem, at);
    if !same {
        tcp::usual_out::ways_changed(mem);
        hop_names::follow(mem, at, mac);
        changed(mem, at);
        flush_waiting(mem, at, Some(mac));
    }
}

/// Nobody answers for `at`: its packets are dropped. A MAC that was known stays in use, and is asked for again later:
/// whether the peer is there is for the transports to find out, and they may be the only ones who hear of it.
fn fail(mem: &mut LaneMem<'_>, now: Instant, at: Idx<Hop>) {
    let Some(hop) = mem.hops.get_mut(at) else { return };
    hop.tries = 0;
    hop.confirmed_at = now;
    if hop.state == HOP_KNOWN {
        watch(mem, at);
        return;
    }
    hop.state = HOP_FAILED;
    changed(mem, at);
    flush_waiting(mem, at, None);
}

/// Sends the annotated packet `head` to `at`, or keeps it there until the MAC is known. False: it was dropped.
pub(crate) fn send(mem: &mut LaneMem<'_>, now: Instant, at: Idx<Hop>, head: FrameIdx) -> bool {
    match mac(mem, at) {
        HopMac::Known(mac) => {
            set_destination(mem, head, mac);
            outbox::push_annotated(mem, head)
        }
        HopMac::Asking => {
            wait(mem, at, head);
            true
        }
        HopMac::Failed => {
            ask_if_unknown(mem, now, at);
            wait(mem, at, head);
            true
        }
    }
}

fn set_destination(mem: &mut LaneMem<'_>, head: FrameIdx, mac: MacAddr) {
    if let Some(dst) = mem.frames.data_mut(head).first_chunk_mut::<6>() {
        *dst = mac.0;
    }
}

/// Queues `head` at the hop `at`; the oldest goes when there are too many.
fn wait(mem: &mut LaneMem<'_>, at: Idx<Hop>, head: FrameIdx) {
    // RFC 1122 2.3.2.2: keep at least the latest packet for each unresolved address.
    if mem.hops.get(at).is_some_and(|h| h.waiting >= HOP_WAITING)
        && let Some(oldest) = take_waiting(mem, at)
    {
        outbox::discard(mem, oldest);
    }
    if let Some(meta) = mem.frames.meta_mut(head) {
        meta.seq = FrameIdx::NONE.0;
    }
    let Some(hop) = mem.hops.get_mut(at) else {
        outbox::discard(mem, head);
        return;
    };
    let first = hop.waiting_head.is_none() || hop.waiting == 0;
    match mem.frames.meta_mut(hop.waiting_tail) {
        Some(meta) if !first => meta.seq = head.0,
        _ => hop.waiting_head = head,
    }
    hop.waiting_tail = head;
    hop.waiting = hop.waiting.saturating_add(1);
    if first {
        retain(mem, at);
    }
}

/// The packet that waits longest at `at`. The last one gives the reference up that the waiting ones had.
fn take_waiting(mem: &mut LaneMem<'_>, at: Idx<Hop>) -> Option<FrameIdx> {
    let hop = mem.hops.get_mut(at)?;
    if hop.waiting == 0 {
        return None;
    }
    let head = hop.waiting_head.some()?;
    hop.waiting -= 1;
    hop.waiting_head = mem.frames.meta(head).map_or(FrameIdx::NONE, |m| FrameIdx(m.seq));
    if hop.waiting == 0 || hop.waiting_head.is_none() {
        hop.waiting = 0;
        hop.waiting_head = FrameIdx::NONE;
        hop.waiting_tail = FrameIdx::NONE;
        release(mem, at);
    }
    Some(head)
}

fn flush_waiting(mem: &mut LaneMem<'_>, at: Idx<Hop>, mac: Option<MacAddr>) {
    while let Some(head) = take_waiting(mem, at) {
        match mac {
            Some(mac) => {
                set_destination(mem, head, mac);
                outbox::push_annotated(mem, head);
            }
            None => outbox::undeliverable(mem, head),
        }
    }
}

/// Starts asking for the MAC of `at`, unless it is known or being asked for.
pub(crate) fn ask_if_unknown(mem: &mut LaneMem<'_>, now: Instant, at: Idx<Hop>) {
    let Some(hop) = mem.hops.get_mut(at) else { return };
    match hop.state {
        HOP_KNOWN | HOP_ASKING => return,
        _ => {}
    }
    hop.state = HOP_ASKING;
    hop.tries = 0;
    ask(mem, now, at);
}

/// Asks once for the MAC of `at`: by ARP where the address is ours alone, else through the lane.
pub(crate) fn ask(mem: &mut LaneMem<'_>, now: Instant, at: Idx<Hop>) {
    let Some(hop) = mem.hops.get_mut(at) else { return };
    hop.tries = hop.tries.saturating_add(1);
    hop.asked_at = now;
    let known = (hop.state == HOP_KNOWN && hop.tries <= ASK_KNOWN_TRIES).then_some(hop.mac);
    let (port, addr) = (hop.port, hop.addr);
    watch(mem, at);
    let own = mem.ports.rows().get(port as usize).is_some_and(|p| p.flags & PORT_OWN_ADDRESS != 0);
    if own {
        if addr.is_v4() {
            arp::ask(mem, port, addr, known);
        } else {
            nd::ask(mem, port, addr, known);
        }
        return;
    }
    queue(mem, at);
}

/// Has the lane look at `at`.
pub(crate) fn queue(mem: &mut LaneMem<'_>, at: Idx<Hop>) {
    let Some(hop) = mem.hops.get_mut(at) else { return };
    if hop.flags & HOP_IN_ASK_QUEUE != 0 {
        return;
    }
    hop.flags |= HOP_IN_ASK_QUEUE;
    hop.ask_next = Idx::NONE;
    let tail = core::mem::replace(&mut mem.ip.hops.ask_tail, at);
    match mem.hops.get_mut(tail) {
        Some(last) => last.ask_next = at,
        None => mem.ip.hops.ask_head = at,
    }
}

fn changed(mem: &mut LaneMem<'_>, at: Idx<Hop>) {
    let Some(hop) = mem.hops.get_mut(at) else { return };
    if hop.flags & HOP_CHANGED == 0 {
        hop.flags |= HOP_CHANGED;
        hop.changed_next = core::mem::replace(&mut mem.ip.hops.changed, at);
    }
}

fn fresh_for(hop: &Hop) -> Duration {
    if hop.addr.is_v4() { FRESH_FOR } else { FRESH_FOR_V6 }
}

/// The MAC of `at`, if one is known, may be wrong: it is used for a little longer, and then asked for again.
pub(crate) fn suspect(mem: &mut LaneMem<'_>, now: Instant, at: Idx<Hop>) {
    let Some(hop) = mem.hops.get_mut(at) else { return };
    let left = Duration(fresh_for(hop).0 - DOUBT_FOR.0);
    hop.confirmed_at = hop.confirmed_at.min(Instant(now.0.saturating_sub(left.0)));
    watch(mem, at);
}

/// When `hop` must be looked at next.
fn due(hop: &Hop) -> Instant {
    match hop.state {
        HOP_ASKING => hop.asked_at.plus(ASK_EVERY),
        HOP_KNOWN if hop.tries > 0 => hop.asked_at.plus(ASK_EVERY),
        HOP_KNOWN if hop.refs > 0 && !hop.is_by_mac() => hop.confirmed_at.plus(fresh_for(hop)),
        _ => Instant::NEVER,
    }
}

/// Makes sure that the next scan is not later than `at` needs it.
fn watch(mem: &mut LaneMem<'_>, at: Idx<Hop>) {
    let due = mem.hops.get(at).map_or(Instant::NEVER, due);
    mem.ip.hops.deadline = mem.ip.hops.deadline.min(due);
}

/// Asks again, gives up, and asks anew for what has become old.
pub(crate) fn handle_timers(mem: &mut LaneMem<'_>, now: Instant) {
    mem.ip.hops.deadline = Instant::NEVER;
    let rows = mem.ip.hops.fresh.min(mem.hops.len());
    for raw in 0..rows {
        let at = Idx::new(raw);
        let Some(hop) = mem.hops.get(at) else { return };
        if due(hop) <= now {
            let known = hop.state == HOP_KNOWN;
            let tries = if known { ASK_TRIES + ASK_KNOWN_TRIES } else { ASK_TRIES };
            if hop.tries >= tries { fail(mem, now, at) } else { ask(mem, now, at) }
        }
        watch(mem, at);
    }
    mem.ip.hops.deadline = mem.ip.hops.deadline.max(now.plus(SCAN_EVERY));
}

fn bucket(mem: &LaneMem<'_>, port: u8, addr: IpAddress, mac: MacAddr) -> usize {
    let [a, b, c, d, e, f] = mac.0;
    let mac = [a, b, c, d, e, f, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    flow_hash(mem.globals.key, addr.0, mac, u32::from(port)) as usize % HOP_BUCKETS
}

fn is_named(hop: &Hop, port: u8, addr: IpAddress, mac: MacAddr) -> bool {
    hop.port == port && hop.addr == addr && (!addr.is_any() || hop.key_mac == mac)
}

fn lookup(mem: &LaneMem<'_>, port: u8, addr: IpAddress, mac: MacAddr) -> Option<Idx<Hop>> {
    let mut at = *mem.ip.hops.buckets.get(bucket(mem, port, addr, mac))?;
    for _ in 0..mem.hops.len() {
        let hop = mem.hops.get(at)?;
        if is_named(hop, port, addr, mac) {
            return Some(at);
        }
        at = hop.chain;
    }
    None
}

pub(crate) fn find_or_make(
    mem: &mut LaneMem<'_>,
    port: u8,
    addr: IpAddress,
    mac: MacAddr,
) -> Option<Idx<Hop>> {
    if let Some(at) = lookup(mem, port, addr, mac) {
        return Some(at);
    }
    let at = take_row(mem)?;
    let index = bucket(mem, port, addr, mac);
    let slot = mem.ip.hops.buckets.get_mut(index)?;
    let chain = core::mem::replace(slot, at);
    let hop = mem.hops.get_mut(at)?;
    let generation = hop.generation.wrapping_add(1);
    *hop = Hop { port, addr, mac, key_mac: mac, generation, chain, state: HOP_FAILED, ..Hop::EMPTY };
    tcp::usual_out::ways_changed(mem);
    link_idle(mem, at);
    Some(at)
}

/// A row that means nothing to anybody: never used, or the one unreferenced for longest.
fn take_row(mem: &mut LaneMem<'_>) -> Option<Idx<Hop>> {
    if mem.ip.hops.fresh < mem.hops.len() {
        let at = Idx::new(mem.ip.hops.fresh);
        mem.ip.hops.fresh += 1;
        return Some(at);
    }
    let at = mem.ip.hops.idle_oldest.some()?;
    unlink_idle(mem, at);
    unlink_bucket(mem, at);
    unlink_asking(mem, at);
    Some(at)
}

fn unlink_bucket(mem: &mut LaneMem<'_>, at: Idx<Hop>) {
    let Some(hop) = mem.hops.get(at) else { return };
    let (index, chain) = (bucket(mem, hop.port, hop.addr, bucket_mac(hop)), hop.chain);
    let Some(slot) = mem.ip.hops.buckets.get_mut(index) else { return };
    if *slot == at {
        *slot = chain;
        return;
    }
    let mut before = *slot;
    for _ in 0..mem.hops.len() {
        let Some(hop) = mem.hops.get_mut(before) else { return };
        if hop.chain == at {
            hop.chain = chain;
            return;
        }
        before = hop.chain;
    }
}

/// The MAC that takes part in the name: that of a hop without address only.
fn bucket_mac(hop: &Hop) -> MacAddr {
    if hop.is_by_mac() { hop.key_mac } else { MacAddr::default() }
}

/// Takes `at` off the lists of hops to resolve and of changed ones.
fn unlink_asking(mem: &mut LaneMem<'_>, at: Idx<Hop>) {
    let flags = mem.hops.get(at).map_or(0, |h| h.flags);
    if flags & HOP_IN_ASK_QUEUE != 0 {
        let mut keep = Idx::NONE;
        let mut each = core::mem::take(&mut mem.ip.hops.ask_head);
        mem.ip.hops.ask_tail = Idx::NONE;
        while let Some(hop) = mem.hops.get_mut(each) {
            let next = core::mem::take(&mut hop.ask_next);
            if each != at {
                match mem.hops.get_mut(keep) {
                    Some(last) => last.ask_next = each,
                    None => mem.ip.hops.ask_head = each,
                }
                mem.ip.hops.ask_tail = each;
                keep = each;
            }
            each = next;
        }
    }
    if flags & HOP_CHANGED != 0 {
        let mut each = core::mem::take(&mut mem.ip.hops.changed);
        while let Some(hop) = mem.hops.get_mut(each) {
            let next = core::mem::take(&mut hop.changed_next);
            if each != at {
                hop.changed_next = core::mem::replace(&mut mem.ip.hops.changed, each);
            }
            each = next;
        }
    }
}

fn link_idle(mem: &mut LaneMem<'_>, at: Idx<Hop>) {
    let older = core::mem::replace(&mut mem.ip.hops.idle_newest, at);
    if let Some(hop) = mem.hops.get_mut(at) {
        hop.flags |= HOP_IDLE;
        hop.older = older;
        hop.newer = Idx::NONE;
    }
    match mem.hops.get_mut(older) {
        Some(before) => before.newer = at,
        None => mem.ip.hops.idle_oldest = at,
    }
}

fn unlink_idle(mem: &mut LaneMem<'_>, at: Idx<Hop>) {
    let Some(hop) = mem.hops.get_mut(at) else { return };
    let (older, newer) = (hop.older, hop.newer);
    hop.flags &= !HOP_IDLE;
    hop.older = Idx::NONE;
    hop.newer = Idx::NONE;
    match mem.hops.get_mut(older) {
        Some(row) => row.newer = newer,
        None => mem.ip.hops.idle_oldest = newer,
    }
    match mem.hops.get_mut(newer) {
        Some(row) => row.older = older,
        None => mem.ip.hops.idle_newest = older,
    }
}
