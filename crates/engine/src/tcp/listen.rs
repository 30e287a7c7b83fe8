//! Listeners: SYNs that come in, connections on their way to the program (RFC 9293 3.10.1, 3.10.7.2), and SYNs for
//! connections in TIME-WAIT (RFC 6191, RFC 1122 4.2.2.13).

use ::state::{
    DropReason, Endpoint, Hop, LISTEN_BUCKETS, LaneMem, Listener, Ready, SockKind, SockRef, TcbHot, TcbQueue,
    TcpOptions,
};
use base::limits::BACKLOG_MAX;
use base::{Idx, Instant, Port};
use wire::{Sign, TcpFlags};

use super::conn::{Fate, Ring, cold_of, conn};
use super::keys::{self, Owner};
use super::segment::Seg;
use super::{
    Cause, State, cookie, fast_open, flag, group, half_open, handshake, hibernate, reset, table, unwire,
};
use crate::errors::{AcceptError, ListenError};
use crate::types::Accepted;
use crate::{events, hop, hop_names};

/// The listener that `s` names.
pub(crate) fn lookup(mem: &LaneMem<'_>, s: SockRef) -> Option<Idx<Listener>> {
    if s.kind() != Some(SockKind::Listener) {
        return None;
    }
    let at = Idx::new(s.row());
    let row = mem.listeners.get(at)?;
    (row.used != 0 && row.generation == s.generation).then_some(at)
}

fn name_of(mem: &LaneMem<'_>, at: Idx<Listener>) -> SockRef {
    SockRef::new(SockKind::Listener, at.raw(), mem.listeners.get(at).map_or(0, |l| l.generation))
}

/// Readiness: IN while there is a connection to accept.
pub(crate) fn ready(mem: &LaneMem<'_>, s: SockRef) -> Ready {
    match lookup(mem, s).and_then(|at| mem.listeners.get(at)) {
        Some(row) if row.accept_queue.len > 0 => Ready::IN,
        Some(_) => Ready::NONE,
        None => Ready::ERR | Ready::HUP,
    }
}

/// The first listener of the bucket of `port`.
fn bucket<'m>(mem: &'m mut LaneMem<'_>, port: Port) -> Option<&'m mut Idx<Listener>> {
    mem.globals.tcp.listen_buckets.get_mut(usize::from(port.0) % LISTEN_BUCKETS)
}

/// The listeners of the bucket of `port`.
#[inline]
pub(super) fn in_bucket<'m>(
    mem: &'m LaneMem<'_>,
    port: Port,
) -> impl Iterator<Item = (Idx<Listener>, &'m Listener)> + 'm {
    let first = mem.globals.tcp.listen_buckets.get(usize::from(port.0) % LISTEN_BUCKETS);
    let mut next = first.copied().unwrap_or(Idx::NONE);
    let each = move || {
        let at = next;
        let row = mem.listeners.get(at)?;
        next = row.next;
        Some((at, row))
    };
    core::iter::from_fn(each).take(mem.listeners.len() as usize)
}

/// The listener at exactly `local`, or else the one at any address of its family and that port, or at any of either.
pub(super) fn find(mem: &LaneMem<'_>, local: Endpoint) -> Option<Idx<Listener>> {
    let (mut any, mut family) = (None, None);
    for (at, row) in in_bucket(mem, local.port) {
        if row.local == local {
            return Some(at);
        }
        if row.local.port == local.port && row.local.addr.covers(local.addr) {
            *(if row.local.addr.is_any() { &mut any } else { &mut family }) = Some(at);
        }
    }
    family.or(any)
}

/// The listener at exactly `local`, or one of them.
pub(super) fn at_exactly(mem: &LaneMem<'_>, local: Endpoint) -> Option<Idx<Listener>> {
    find(mem, local).filter(|at| mem.listeners.get(*at).is_some_and(|row| row.local == local))
}

/// [`Engine::tcp_listen`](crate::Engine::tcp_listen).
pub(crate) fn open(
    mem: &mut LaneMem<'_>,
    local: Endpoint,
    backlog: u32,
    opts: &TcpOptions,
) -> Result<SockRef, ListenError> {
    if local.port.0 == 0 {
        return Err(ListenError::Invalid);
    }
    let taken = at_exactly(mem, local).and_then(|at| mem.listeners.get(at));
    if taken.is_some_and(|row| !(row.options.reuses_port() && opts.reuses_port())) {
        return Err(ListenError::InUse);
    }
    let at = mem.globals.tcp.free_listener;
    let first = bucket(mem, local.port).copied().unwrap_or(Idx::NONE);
    let row = mem.listeners.get_mut(at).ok_or(ListenError::NoRoom)?;
    mem.globals.tcp.free_listener = row.next;
    let generation = row.generation;
    *row = Listener { local, used: 1, generation, next: first, options: *opts, ..Listener::default() };
    row.backlog = backlog.min(BACKLOG_MAX);
    if let Some(slot) = bucket(mem, local.port) {
        *slot = at;
    }
    Ok(name_of(mem, at))
}

/// [`Engine::tcp_set_backlog`](crate::Engine::tcp_set_backlog).
pub(crate) fn set_backlog(mem: &mut LaneMem<'_>, s: SockRef, backlog: u32) -> bool {
    let Some(row) = lookup(mem, s).and_then(|at| mem.listeners.get_mut(at)) else { return false };
    row.backlog = backlog.min(BACKLOG_MAX);
    true
}

/// [`Engine::tcp_accept`](crate::Engine::tcp_accept).
pub(crate) fn accept(mem: &mut LaneMem<'_>, s: SockRef) -> Result<Accepted, AcceptError> {
    let at = lookup(mem, s).ok_or(AcceptError::Gone)?;
    let queue = mem.listeners.get(at).map(|l| l.accept_queue).ok_or(AcceptError::Gone)?;
    let oldest = queue.head.some().ok_or(AcceptError::WouldBlock)?;
    leave_queues(mem, oldest);
    let key = mem.hot.get(oldest).map(|t| t.key).ok_or(AcceptError::WouldBlock)?;
    Ok(Accepted {
        sock: table::name_of(mem, oldest),
        local: Endpoint { addr: key.local, port: key.local_port },
        remote: Endpoint { addr: key.remote, port: key.remote_port },
    })
}

/// Gives the listener up, with every connection that was not accepted.
pub(crate) fn close(mem: &mut LaneMem<'_>, now: Instant, s: SockRef) {
    let Some(at) = lookup(mem, s) else { return };
    events::forget(mem, s);
    if let Some(other) = group::sibling(mem, at) {
        group::hand_over(mem, at, other);
    }
    half_open::reset_all(mem, at);
    for _ in 0..mem.hot.len() {
        let Some(row) = mem.listeners.get(at) else { break };
        let Some(each) = row.syn_queue.head.some().or(row.accept_queue.head.some()) else { break };
        drop_waiting(mem, now, each, Fate::Reset(crate::SockError::Aborted));
    }
    if mem.globals.keys.used != 0 {
        keys::forget(mem, Owner::of_listener(at));
    }
    let Some(row) = mem.listeners.get_mut(at) else { return };
    let (port, next) = (row.local.port, row.next);
    let generation = row.generation.wrapping_add(1);
    *row = Listener { generation, next: mem.globals.tcp.free_listener, ..Listener::default() };
    mem.globals.tcp.free_listener = at;
    unlink(mem, port, at, next);
}

/// Ends connection `at`, which waits at a listener, by `fate` unless it is over already.
pub(super) fn drop_waiting(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>, fate: Fate) {
    leave_queues(mem, at);
    let Some(mut c) = conn(mem, now, at) else { return };
    c.set(flag::ORPHAN);
    let fate = if c.state() == State::Closed { Fate::Closed } else { fate };
    table::settle(mem, now, at, fate);
}

/// Takes `at`, whose successor is `next`, out of the bucket of `port`.
fn unlink(mem: &mut LaneMem<'_>, port: Port, at: Idx<Listener>, next: Idx<Listener>) {
    let Some(first) = bucket(mem, port) else { return };
    if *first == at {
        *first = next;
        return;
    }
    let mut before = *first;
    for _ in 0..mem.listeners.len() {
        let Some(row) = mem.listeners.get_mut(before) else { return };
        if row.next == at {
            row.next = next;
            return;
        }
        before = row.next;
    }
}

/// The queue of its listener in which connection `at` is, and that listener.
fn queue_of<'m>(mem: &'m mut LaneMem<'_>, at: Idx<TcbHot>, flags: u32) -> Option<&'m mut TcbQueue> {
    let passive = mem.cold.get(cold_of(at))?.passive;
    let row = mem.listeners.get_mut(passive.listener).filter(|l| l.generation == passive.generation)?;
    Some(if flags & flag::IN_SYN_QUEUE != 0 { &mut row.syn_queue } else { &mut row.accept_queue })
}

/// Takes connection `at` out of the queue of its listener.
pub(super) fn leave_queues(mem: &mut LaneMem<'_>, at: Idx<TcbHot>) {
    let both = flag::IN_SYN_QUEUE | flag::IN_ACCEPT_QUEUE;
    let Some(hot) = mem.hot.get_mut(at) else { return };
    let flags = hot.flags & both;
    hot.flags &= !both;
    if flags == 0 {
        return;
    }
    let Some(mut queue) = queue_of(mem, at, flags).copied() else { return };
    table::remove(mem, &mut queue, at);
    if let Some(slot) = queue_of(mem, at, flags) {
        *slot = queue;
    }
}

fn join_queue(mem: &mut LaneMem<'_>, at: Idx<TcbHot>, which: u32) {
    let Some(mut queue) = queue_of(mem, at, which).copied() else { return };
    table::append(mem, &mut queue, at);
    if let Some(slot) = queue_of(mem, at, which) {
        *slot = queue;
    }
    if let Some(hot) = mem.hot.get_mut(at) {
        hot.flags |= which;
    }
}

/// Connection `at`, from another lane's listener, joins queue `which` (0: none) of `listener`.
pub(super) fn join_from_twin(
    mem: &mut LaneMem<'_>,
    at: Idx<TcbHot>,
    listener: Option<Idx<Listener>>,
    which: u32,
) {
    let Some(listener) = listener.filter(|_| which != 0) else { return };
    let Some(generation) = mem.listeners.get(listener).map(|row| row.generation) else { return };
    let Some(cold) = mem.cold.get_mut(cold_of(at)) else { return };
    (cold.passive.listener, cold.passive.generation) = (listener, generation);
    join_queue(mem, at, which);
    if which & flag::IN_ACCEPT_QUEUE != 0 {
        let name = name_of(mem, listener);
        events::notify(mem, name, Ready::IN);
    }
}

/// The handshake of `at` is complete.
pub(super) fn to_accept_queue(mem: &mut LaneMem<'_>, _now: Instant, at: Idx<TcbHot>) {
    leave_queues(mem, at);
    hop_names::prefer(mem, at);
    join_queue(mem, at, flag::IN_ACCEPT_QUEUE);
    mem.counters.tcp.passive_opens = mem.counters.tcp.passive_opens.wrapping_add(1);
    let Some(listener) = mem.cold.get(cold_of(at)).map(|c| c.passive.listener) else { return };
    let name = name_of(mem, listener);
    events::notify(mem, name, Ready::IN);
}

/// Does `seg`, which completes the handshake of `at`, in SYN-RECEIVED, not open it all the same? Either the listener wants data first
/// (TCP_DEFER_ACCEPT), and it only shows that the peer is there, or the accept queue is full ([`Overflow`]). As in Linux its timestamp counts.
pub(super) fn holds_back(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>, seg: &Seg) -> bool {
    let Some(mut c) = conn(mem, now, at).filter(|c| c.any(flag::IN_SYN_QUEUE) && c.completes(seg)) else {
        return false;
    };
    c.note_timestamp(seg);
    let bare = seg.flags.without(TcpFlags::PSH) == TcpFlags::ACK && seg.len == 0 && seg.seq == c.hot.rcv.nxt;
    if bare && c.cold.loss.backoff < c.cold.options.defer_accept {
        c.cold.loss.probes = 1;
        return true;
    }
    let listener = c.cold.passive.listener;
    let Some(overflow) = overflow_by(mem, now, listener, seg) else { return false };
    if overflow == Overflow::Reset {
        table::settle(mem, now, at, Fate::Closed);
    }
    true
}

/// Is there room in the accept queue of `listener`?
#[inline]
pub(super) fn has_room_at(mem: &LaneMem<'_>, listener: Idx<Listener>) -> bool {
    mem.listeners.get(listener).is_none_or(has_room)
}

/// What is done with a segment that completes a handshake while the accept queue is full.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Overflow {
    /// It is dropped: the peer sends it, or data, again (net.ipv4.tcp_abort_on_overflow 0).
    Waits,
    /// It was answered with a RST, and the connection is to end (1).
    Reset,
}

/// What is done with `seg`, which completes a handshake of `listener`, if there is no room in the accept queue.
pub(super) fn overflow_by(
    mem: &mut LaneMem<'_>,
    now: Instant,
    listener: Idx<Listener>,
    seg: &Seg,
) -> Option<Overflow> {
    if has_room_at(mem, listener) {
        return None;
    }
    overflow(mem, listener);
    if mem.globals.tcp.usual.resets_overflow == 0 {
        mem.counters.drop_packet(DropReason::TcpBacklogFull);
        return Some(Overflow::Waits);
    }
    reset::of_segment(mem, now, seg, DropReason::TcpBacklogFull);
    Some(Overflow::Reset)
}

fn overflow(mem: &mut LaneMem<'_>, listener: Idx<Listener>) {
    if let Some(row) = mem.listeners.get_mut(listener) {
        row.overflows = row.overflows.saturating_add(1);
    }
    mem.counters.tcp.listen_overflows = mem.counters.tcp.listen_overflows.wrapping_add(1);
}

/// As Linux: one connection more than the backlog waits.
const fn has_room(listener: &Listener) -> bool {
    listener.accept_queue.len <= listener.backlog
}

/// A segment that belongs to no connection (RFC 9293 3.10.7.1, 3.10.7.2).
pub(super) fn segment(mem: &mut LaneMem<'_>, now: Instant, seg: &mut Seg) {
    let Some(listener) = group::of_flow(mem, &seg.key) else {
        let opens = seg.flags.is_syn() && !seg.flags.is_ack();
        if mem.globals.tcp.leaves != 0 && opens && !unwire::is_wire(mem, seg.port) {
            mem.counters.drop_packet(DropReason::TcpNoSocket);
        } else {
            reset::of_segment(mem, now, seg, DropReason::TcpNoSocket);
        }
        return;
    };
    if seg.flags.is_rst() {
        mem.counters.drop_packet(DropReason::TcpFlagsBad);
    } else if seg.flags.is_ack() {
        if !cookie::accept(mem, now, listener, seg) {
            reset::of_segment(mem, now, seg, DropReason::TcpAckBad);
        }
    } else if seg.flags.is_syn()
        && !seg.flags.is_fin()
        && seg.key.remote.is_unicast()
        && seg.key.remote_port.0 != 0
    {
        on_syn(mem, now, listener, seg, None);
    } else {
        mem.counters.drop_packet(DropReason::TcpFlagsBad);
    }
}

/// A SYN for `listener`. `above`: our numbers must begin above this one.
fn on_syn(
    mem: &mut LaneMem<'_>,
    now: Instant,
    listener: Idx<Listener>,
    seg: &mut Seg,
    above: Option<base::SeqNum>,
) {
    // As Linux: no SYN is taken while the accept queue is full.
    if !may_accept(mem, listener) {
        return;
    }
    handshake::keep_usual(&mem.globals.tcp.usual, &mut seg.options);
    // As Linux: who was in TIME-WAIT is no flood.
    if above.is_none() && cookie::refuses(mem, listener) {
        return;
    }
    if above.is_none() && cookie::is_due(mem, listener) {
        return cookie::send(mem, now, listener, seg);
    }
    if seg.options.sign == Sign::Md5 && seg.options.sack_permitted {
        // As Linux: beside a signature there is room for timestamps or for SACK blocks.
        seg.options.timestamps = None;
    }
    let (iss, ts_offset) = table::initial_numbers(mem, now, &seg.key);
    let iss = above.filter(|a| !iss.after(*a)).unwrap_or(iss);
    let fast = seg.options.sign == Sign::None
        && (seg.len > 0 || seg.options.fast_open().is_some())
        && mem.listeners.get(listener).is_some_and(|row| row.fast_max > 0);
    if !fast && hibernate::is_on(mem) && half_open::open(mem, now, listener, seg, (iss, ts_offset)) {
        return;
    }
    let Some(at) = open_row(mem, now, listener, seg, (iss, ts_offset)) else { return };
    if let Some(mut c) = conn(mem, now, at) {
        c.set(flag::SEND_SYN);
        c.enqueue(Ring::Control);
    }
    if fast {
        fast_open::on_syn(mem, now, (listener, at), seg);
    }
}

/// Is there room in the accept queue of `listener`? If not, it is counted.
pub(super) fn may_accept(mem: &mut LaneMem<'_>, listener: Idx<Listener>) -> bool {
    let Some(row) = mem.listeners.get(listener) else { return false };
    let room = has_room(row);
    if !room {
        overflow(mem, listener);
        mem.counters.drop_packet(DropReason::TcpBacklogFull);
    }
    room
}

/// The next hop for who sent the SYN `seg`.
pub(super) fn hop_of(mem: &mut LaneMem<'_>, now: Instant, seg: &Seg) -> Option<Idx<Hop>> {
    hop_names::for_source(mem, now, (seg.port, seg.src_mac), seg.key.remote)
}

/// A whole row for a half-open connection of `listener`, that of the SYN `seg`, with our number `iss` and the offset of our timestamps. `None`: there
/// is no room for it.
pub(super) fn open_row(
    mem: &mut LaneMem<'_>,
    now: Instant,
    listener: Idx<Listener>,
    seg: &Seg,
    (iss, ts_offset): (base::SeqNum, u32),
) -> Option<Idx<TcbHot>> {
    let owner = Owner::of_listener(listener);
    let inherits = keys::heritage(mem, owner, seg.key.remote, seg.options.sign);
    if inherits > keys::room(mem) {
        mem.counters.drop_packet(DropReason::TcpNoTcb);
        return None;
    }
    let Some(hop) = hop_of(mem, now, seg) else {
        mem.counters.drop_packet(DropReason::TcpNoHop);
        return None;
    };
    let Some(at) = table::make(mem, now, &seg.key, table::hash_of(mem, &seg.key)) else {
        hop::release(mem, hop);
        mem.counters.drop_packet(DropReason::TcpNoTcb);
        return None;
    };
    if inherits > 0 {
        keys::inherit(mem, now, owner, at, seg.options.sign);
    }
    fill_row(mem, now, at, (listener, hop), seg, (iss, ts_offset));
    Some(at)
}

/// Makes the new row `at` that of [`open_row`].
pub(super) fn fill_row(
    mem: &mut LaneMem<'_>,
    now: Instant,
    at: Idx<TcbHot>,
    (listener, hop): (Idx<Listener>, Idx<Hop>),
    seg: &Seg,
    (iss, ts_offset): (base::SeqNum, u32),
) {
    let Some((options, generation)) = mem.listeners.get(listener).map(|row| (row.options, row.generation))
    else {
        return;
    };
    let mtu = mem.ports.get(Idx::new(u32::from(seg.port))).map_or(0, |p| p.mtu);
    let Some(mut c) = conn(mem, now, at) else { return };
    c.hot.hop = hop;
    c.hot.port = seg.port;
    c.cold.passive.listener = listener;
    c.cold.passive.generation = generation;
    c.go(Cause::PassiveOpen);
    c.go(Cause::RecvSyn);
    c.apply_options(&options);
    c.number(iss, ts_offset, mtu);
    c.take_syn(seg);
    join_queue(mem, at, flag::IN_SYN_QUEUE);
}

/// A SYN for connection `at` in TIME-WAIT opens a new connection if it cannot be an old duplicate (RFC 6191 2, RFC 1122
/// 4.2.2.13). True: it did.
pub(super) fn reuses_time_wait(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>, seg: &mut Seg) -> bool {
    let Some(hot) = mem.hot.get(at) else { return false };
    let newer_time = hot.flags & flag::TIMESTAMPS != 0
        && seg.options.timestamps.is_some_and(|t| (t.value.wrapping_sub(hot.rcv.ts_recent) as i32) > 0);
    (seg.seq.after(hot.rcv.nxt) || newer_time) && opens_again(mem, now, at, seg)
}

/// A SYN came by another way, one of the two a wire, than connection `at`. If that is in TIME-WAIT a new one opens. True: it did.
///
/// TIME-WAIT keeps old duplicates from the next connection between the same ends (RFC 9293 3.6.1). Here they cannot reach it: they come
/// by the old way, and what comes by another way than a connection's own is not its. So no numbers are compared; by the other way they
/// are those of another stack, with clocks of its own.
pub(super) fn replaces_time_wait(
    mem: &mut LaneMem<'_>,
    now: Instant,
    at: Idx<TcbHot>,
    seg: &mut Seg,
) -> bool {
    let waits = mem.hot.get(at).is_some_and(|hot| State::from_raw(hot.state) == State::TimeWait);
    waits && opens_again(mem, now, at, seg)
}

/// Ends connection `at`, which is in TIME-WAIT, for the one that `seg` opens. False: it opens none.
fn opens_again(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>, seg: &mut Seg) -> bool {
    let only_syn = seg.flags.is_syn() && !seg.flags.intersects(TcpFlags::RST | TcpFlags::ACK | TcpFlags::FIN);
    let Some(hot) = mem.hot.get(at).filter(|_| only_syn) else { return false };
    // A connection that a program still holds keeps its row, but gives its numbers up.
    let (above, Some(listener)) = (hot.snd.nxt.plus(65_537), group::of_flow(mem, &seg.key)) else {
        return false;
    };
    table::end(mem, at, None);
    mem.counters.tcp.time_wait_reused = mem.counters.tcp.time_wait_reused.wrapping_add(1);
    on_syn(mem, now, listener, seg, Some(above));
    true
}
