//! Connections in SYN-RECEIVED of a listener, in the small rows of connections that hibernate (RFC 4987 3.5): 92 bytes and 16 for the timer, so that
//! a flood of SYNs fills no table of connections. What answers a SYN or says nothing is done from the small row; the ACK that completes the
//! handshake, and whatever asks for an ACK, makes the whole row first. The listener's options are those it has then, as in Linux.
//!
//! Left out: lanes without such rows, signed connections, those with TCP_USER_TIMEOUT, and SYNs that fast open looks at; these have
//! whole rows from the SYN on (`listen::open_row`).
//!
//! Invariant: rows with the handle [`HALF_OPEN`], and no others, are in the list `Listener::half_open` of a listener in use; each has its timer.

use ::state::dormant::{DORMANT, HALF_OPEN};
use ::state::{Dormant, DropReason, FlowKey, LaneMem, Listener, TcbHot, TcpOptions};
use base::{Duration, FrameIdx, Idx, Instant, MacAddr, SeqNum};
use wire::tcp_options::TcpOptions as Offered;
use wire::{Sign, TcpFlags, TcpHeader, Timestamps};

use super::congestion::Algorithm;
use super::conn::{Conn, conn};
use super::frozen::{self, kept, key_of};
use super::handshake::{mss_default, mss_local, rcv_buf, rcv_shift};
use super::header::{Way, label_of, ttl};
use super::listen::Overflow;
use super::segment::Seg;
use super::timers::syn_ack_retries;
use super::{MSS_MIN, RETRY, cookie, ecn, flag, hibernate, input, listen, reset, rtt, table};
use crate::hop::{self, HopMac};
use crate::outbox;

/// Bits of [`Dormant::flags`] besides those of [`kept`] that say the same here.
mod bit {
    /// Windows are scaled.
    pub(crate) const SCALE: u8 = 4;
    /// ECN is agreed on.
    pub(crate) const ECN: u8 = 8;
    /// The round-trip time is measured from `Dormant::since` on.
    pub(crate) const TIMED: u8 = 16;
    /// Its SYN,ACK could not be sent yet.
    pub(crate) const UNSENT: u8 = 32;
    /// The peer has our SYN,ACK and waits to send (TCP_DEFER_ACCEPT).
    pub(crate) const ANSWERED: u8 = 128;
}
const _: () = assert!(
    (kept::TIMESTAMPS | kept::SACK | kept::IPV6)
        & (bit::SCALE | bit::ECN | bit::TIMED | bit::UNSENT | bit::ANSWERED)
        == 0
);
/// What an ECN-setup SYN has (RFC 3168 6.1.1).
const ECN_SETUP: TcpFlags = TcpFlags(TcpFlags::ECE.0 | TcpFlags::CWR.0);

/// May so many small rows be half open? The others are for connections that hibernate and for TIME-WAIT.
const fn most(rows: u32) -> u32 {
    rows / 4
}

/// Takes the SYN `seg` for `listener` into a small row and answers it, with our number `iss` and the offset of our timestamps. False, and nothing
/// was done: it has to be a whole row.
pub(super) fn open(
    mem: &mut LaneMem<'_>,
    now: Instant,
    listener: Idx<Listener>,
    seg: &Seg,
    (iss, ts_offset): (SeqNum, u32),
) -> bool {
    if mem.globals.dormant.half_open >= most(mem.dormant.len()) || seg.options.sign != Sign::None {
        return false;
    }
    let Some(mut row) = mem
        .listeners
        .get(listener)
        .filter(|l| l.options.user_timeout_ms == 0)
        .and_then(|l| row_for(mem, (listener, &l.options), seg, (iss, ts_offset)))
    else {
        return false;
    };
    let Some(hop) = listen::hop_of(mem, now, seg) else { return false };
    let to = u16::try_from(hop.raw()).ok().and_then(|raw| {
        row.hop = raw;
        enter(mem, row, &seg.key)
    });
    let Some(to) = to else {
        hop::release(mem, hop);
        return false;
    };
    answer(mem, now, to);
    true
}

/// Gives `row`, the connection of `key`, a place, and joins it to its listener's. `None`: there is none.
fn enter(mem: &mut LaneMem<'_>, row: Dormant, key: &FlowKey) -> Option<Idx<Dormant>> {
    let to = hibernate::take_row(mem)?;
    let hash = table::hash_of(mem, key);
    if mem.flows.insert(hash, DORMANT | to.raw()).is_err() {
        hibernate::give_row(mem, to);
        return None;
    }
    if let Some(slot) = mem.dormant.get_mut(to) {
        *slot = row;
    }
    mem.dormant_wheel.arm_anew(to.raw(), Instant::NEVER);
    append(mem, to);
    hibernate::count(mem);
    table::count_open(mem);
    Some(to)
}

/// The row for the SYN `seg`. `None`: there is no such port, or none can name the listener.
fn row_for(
    mem: &LaneMem<'_>,
    (listener, settings): (Idx<Listener>, &TcpOptions),
    seg: &Seg,
    (iss, ts_offset): (SeqNum, u32),
) -> Option<Dormant> {
    let mtu = mem.ports.get(Idx::new(u32::from(seg.port)))?.mtu;
    let (tcp, offered, remote) = (&mem.globals.tcp, &seg.options, seg.key.remote);
    let algorithm = Algorithm::chosen(settings.congestion, tcp.congestion);
    let mut flags = bit::UNSENT;
    flags |= if offered.timestamps.is_some() { kept::TIMESTAMPS } else { 0 };
    flags |= if offered.sack_permitted { kept::SACK } else { 0 };
    flags |= if offered.window_scale.is_some() { bit::SCALE } else { 0 };
    flags |= if ecn::accepts(tcp, algorithm, seg) { bit::ECN } else { 0 };
    let ours = rcv_shift(settings, tcp);
    let mut row = Dormant {
        handle: HALF_OPEN,
        local: frozen::low(seg.key.local),
        remote: frozen::low(remote),
        local_port: seg.key.local_port,
        remote_port: seg.key.remote_port,
        rcv_nxt: seg.seq.plus(1),
        ts_recent: offered.timestamps.map_or(0, |ts| ts.value),
        snd_nxt: iss.plus(1),
        ts_offset,
        rcv_wnd: rcv_buf(settings, tcp.rcv_buf_bytes).min(u32::from(u16::MAX)) as u16,
        snd_wnd: seg.window,
        mss_peer: offered.mss.unwrap_or(mss_default(remote)).max(MSS_MIN),
        mss_local: mss_local(settings, mtu, remote),
        options: u16::try_from(listener.raw()).ok()?,
        shifts: offered.window_scale.map_or(0, |theirs| theirs.min(14) | ours.min(14) << 4),
        port: seg.port,
        flags,
        ..Dormant::default()
    };
    if remote.as_v4().is_none() || seg.key.local.as_v4().is_none() {
        row.flags |= kept::IPV6;
        frozen::set_upper(&mut row, &seg.key);
    }
    Some(row)
}

/// The listener of `row`.
pub(super) fn listener_of(row: &Dormant) -> Idx<Listener> {
    Idx::new(u32::from(row.options))
}

/// Timeouts of `row` in a row.
fn backoff(row: &Dormant) -> u8 {
    row.retransmits.min(u16::from(u8::MAX)) as u8
}

/// How long the SYN,ACK of `row` waits for an answer.
fn wait_of(row: &Dormant) -> Duration {
    rtt::rto(&::state::RttState::default(), backoff(row))
}

/// Sends the SYN,ACK of `at`, first or again, and has it sent once more if nothing comes.
fn answer(mem: &mut LaneMem<'_>, now: Instant, at: Idx<Dormant>) {
    let Some(row) = mem.dormant.get(at).copied() else { return };
    let sent = send(mem, now, &row);
    let Some(row) = mem.dormant.get_mut(at) else { return };
    let mut pause = RETRY;
    if sent {
        pause = wait_of(row);
        row.flags &= !bit::UNSENT;
        if row.retransmits == 0 && row.flags & bit::TIMED == 0 {
            row.flags |= bit::TIMED;
            row.since = rtt::clock_us(now);
        }
    } else {
        row.flags |= bit::UNSENT;
    }
    mem.dormant_wheel.arm(at.raw(), now.plus(pause));
}

/// Where packets of `row` go. `None`: not known.
fn way_of(mem: &LaneMem<'_>, row: &Dormant) -> Option<Way> {
    let HopMac::Known(to_mac) = hop::mac(mem, Idx::new(u32::from(row.hop))) else { return None };
    let settings = &mem.listeners.get(listener_of(row))?.options;
    let from_mac = mem.ports.get(Idx::new(u32::from(row.port)))?.mac;
    let ttl = ttl(settings.ttl, &mem.globals.tcp.usual, key_of(row).remote);
    let tos = ecn::without(settings.tos);
    Some(Way { from_mac, to_mac, ttl, tos, label: label_of(row.snd_nxt.minus(1)) })
}

/// Sends the SYN,ACK of `row`. False: nothing went out.
fn send(mem: &mut LaneMem<'_>, now: Instant, row: &Dormant) -> bool {
    let Some(way) = way_of(mem, row) else {
        hop::ask_if_unknown(mem, now, Idx::new(u32::from(row.hop)));
        return false;
    };
    let is = |bit: u8| row.flags & bit != 0;
    let key = key_of(row);
    let stamps = Timestamps { value: now.as_millis_u32().wrapping_add(row.ts_offset), echo: row.ts_recent };
    let options = Offered {
        mss: Some(row.mss_local),
        timestamps: is(kept::TIMESTAMPS).then_some(stamps),
        sack_permitted: is(kept::SACK),
        window_scale: is(bit::SCALE).then_some(row.shifts >> 4),
        ..Offered::NONE
    };
    let ecn = if is(bit::ECN) { TcpFlags::ECE } else { TcpFlags::NONE };
    let header = TcpHeader {
        src_port: key.local_port,
        dst_port: key.remote_port,
        seq: row.snd_nxt.minus(1),
        ack: row.rcv_nxt,
        flags: TcpFlags::SYN | TcpFlags::ACK | ecn,
        window: row.rcv_wnd,
        urgent: 0,
    };
    let made = cookie::segment(mem, (row.port, &key), &way, (&header, &options), None);
    let sent = made.is_some_and(|(head, note)| outbox::push_early(mem, head, &note));
    mem.counters.tcp.segments_out = mem.counters.tcp.segments_out.wrapping_add(u64::from(sent));
    sent
}

/// A segment for the half-open connection `at`.
pub(super) fn segment(mem: &mut LaneMem<'_>, now: Instant, at: Idx<Dormant>, seg: &mut Seg) {
    let Some(row) = mem.dormant.get(at).copied() else { return };
    let ends = seg.flags.is_rst();
    if seg.flags.is_syn() && !ends && seg.seq.plus(1) == row.rcv_nxt {
        // The peer's SYN again: our SYN,ACK was lost.
        return answer(mem, now, at);
    }
    let acks = seg.flags.is_ack() && !ends && !seg.flags.is_syn();
    let in_window =
        seg.end().at_or_after(row.rcv_nxt) && seg.seq.at_or_before(row.rcv_nxt.plus(u32::from(row.rcv_wnd)));
    let stamp = seg.options.timestamps.filter(|_| row.flags & kept::TIMESTAMPS != 0);
    let old = stamp.is_some_and(|ts| (ts.value.wrapping_sub(row.ts_recent) as i32) < 0);
    let acceptable = in_window && !old && !ends && !seg.flags.is_syn();
    if let Some(ts) = stamp.filter(|_| acceptable && seg.seq.at_or_before(row.rcv_nxt))
        && let Some(row) = mem.dormant.get_mut(at)
    {
        // RFC 7323 4.3.
        row.ts_recent = ts.value;
    }
    let opens = acceptable && acks && seg.ack == row.snd_nxt;
    if opens && defers(mem, at, seg) {
        return;
    }
    if opens && let Some(overflow) = listen::overflow_by(mem, now, listener_of(&row), seg) {
        if overflow == Overflow::Reset {
            end(mem, at);
        }
        return;
    }
    // What follows is all of RFC 9293 3.10.7.4 that is not answered with an ACK.
    if ends && !in_window {
        mem.counters.drop_packet(DropReason::TcpOutOfWindow);
    } else if ends && seg.seq == row.rcv_nxt {
        end(mem, at);
    } else if acceptable && !acks {
        mem.counters.drop_packet(DropReason::TcpFlagsBad);
    } else if acceptable && seg.ack != row.snd_nxt {
        reset::of_segment(mem, now, seg, DropReason::TcpAckBad);
    } else {
        match whole(mem, now, at) {
            Some(to) => input::for_connection(mem, now, to, seg),
            None => mem.counters.drop_packet(DropReason::TcpNoTcb),
        }
    }
}

/// TCP_DEFER_ACCEPT, as in `listen::holds_back`, for a small row that `seg` would open.
fn defers(mem: &mut LaneMem<'_>, at: Idx<Dormant>, seg: &Seg) -> bool {
    let Some(row) = mem.dormant.get_mut(at) else { return false };
    let Some(listener) = mem.listeners.get(listener_of(row)) else { return false };
    let bare = seg.flags.without(TcpFlags::PSH) == TcpFlags::ACK && seg.len == 0;
    let waits = bare && seg.seq == row.rcv_nxt && backoff(row) < listener.options.defer_accept;
    row.flags |= if waits { bit::ANSWERED } else { 0 };
    waits
}

/// The timer of half-open connection `at` has run out (`Conn::on_syn_timeout`).
pub(super) fn timeout(mem: &mut LaneMem<'_>, now: Instant, at: Idx<Dormant>) {
    let Some(row) = mem.dormant.get_mut(at) else { return };
    if row.flags & bit::UNSENT != 0 {
        return answer(mem, now, at);
    }
    let settings = mem.listeners.get(listener_of(row)).map(|l| l.options).unwrap_or_default();
    if u32::from(backoff(row)) >= syn_ack_retries(&settings, &mem.globals.tcp.usual) {
        mem.counters.tcp.aborts_on_timeout = mem.counters.tcp.aborts_on_timeout.wrapping_add(1);
        return end(mem, at);
    }
    row.retransmits = row.retransmits.saturating_add(1);
    mem.counters.tcp.timeouts = mem.counters.tcp.timeouts.wrapping_add(1);
    if row.flags & bit::ANSWERED != 0 && backoff(row) < settings.defer_accept {
        let due = now.plus(wait_of(row));
        mem.dormant_wheel.arm(at.raw(), due);
        return;
    }
    // Karn (RFC 6298 3).
    row.flags &= !bit::TIMED;
    answer(mem, now, at);
}

/// Makes the whole row of half-open connection `from`. `None`: none can be had; the small one stays.
pub(super) fn wake(mem: &mut LaneMem<'_>, now: Instant, from: Idx<Dormant>) -> Option<Idx<TcbHot>> {
    let at = whole(mem, now, from)?;
    conn(mem, now, at)?.arm();
    Some(at)
}

/// [`wake`] for who goes on with a segment, which arms the timer.
fn whole(mem: &mut LaneMem<'_>, now: Instant, from: Idx<Dormant>) -> Option<Idx<TcbHot>> {
    let row = *mem.dormant.get(from).filter(|row| row.handle == HALF_OPEN)?;
    let key = key_of(&row);
    let hash = table::hash_of(mem, &key);
    let value = DORMANT | from.raw();
    mem.flows.remove(hash, |v| v == value);
    let Some(at) = table::make(mem, now, &key, hash) else {
        if mem.flows.insert(hash, value).is_err() {
            release(mem, from);
        }
        return None;
    };
    let due = mem.dormant_wheel.deadline(from.raw());
    take_out(mem, from);
    let by = (listener_of(&row), Idx::new(u32::from(row.hop)));
    listen::fill_row(mem, now, at, by, &syn_of(&row, key), (row.snd_nxt.minus(1), row.ts_offset));
    conn(mem, now, at)?.take_over(&row, due.unwrap_or(now));
    Some(at)
}

/// The SYN that `row` was made of, as far as it still matters.
fn syn_of(row: &Dormant, key: FlowKey) -> Seg {
    let is = |bit: u8| row.flags & bit != 0;
    let options = Offered {
        mss: Some(row.mss_peer),
        timestamps: is(kept::TIMESTAMPS).then_some(Timestamps { value: row.ts_recent, echo: 0 }),
        sack_permitted: is(kept::SACK),
        window_scale: is(bit::SCALE).then_some(row.shifts & 15),
        ..Offered::NONE
    };
    Seg {
        key,
        seq: row.rcv_nxt.minus(1),
        ack: SeqNum(0),
        flags: TcpFlags::SYN | if is(bit::ECN) { ECN_SETUP } else { TcpFlags::NONE },
        window: row.snd_wnd,
        urgent: 0,
        ecn: 0,
        port: row.port,
        gso_size: 0,
        len: 0,
        head: FrameIdx::NONE,
        src_mac: MacAddr::default(),
        options,
    }
}

impl Conn<'_, '_> {
    /// What `row` knows besides the SYN: what we said, and what has happened since; its timer runs out at `due`.
    fn take_over(&mut self, row: &Dormant, due: Instant) {
        // What was announced stays, whatever the listener's options are now.
        self.cold.mss_local = row.mss_local;
        self.hot.rcv_shift = row.shifts >> 4;
        self.hot.rcv.edge = row.rcv_nxt.plus(u32::from(row.rcv_wnd));
        self.hot.rexmit_at = due;
        self.cold.loss.backoff = backoff(row);
        self.cold.loss.probes = u8::from(row.flags & bit::ANSWERED != 0);
        self.cold.loss.stalled_at = self.now;
        self.set(if row.retransmits > 0 { flag::STALLED } else { 0 });
        if row.flags & bit::TIMED != 0 {
            self.set(flag::TIMING);
            self.hot.rtt.timed_seq = row.snd_nxt;
            self.hot.rtt.timed_at_us = row.since;
        }
    }
}

/// Half-open connection `at` is over; nobody is told.
pub(super) fn end(mem: &mut LaneMem<'_>, at: Idx<Dormant>) {
    let Some(row) = mem.dormant.get(at).copied().filter(|row| row.handle == HALF_OPEN) else { return };
    let hash = table::hash_of(mem, &key_of(&row));
    mem.flows.remove(hash, |value| value == DORMANT | at.raw());
    release(mem, at);
}

/// Resets every half-open connection of `listener`, which closes.
pub(super) fn reset_all(mem: &mut LaneMem<'_>, listener: Idx<Listener>) {
    for _ in 0..mem.dormant.len() {
        let Some(at) = mem.listeners.get(listener).and_then(|l| l.half_open.head.some()) else { break };
        if mem.dormant.get(at).is_none() {
            break;
        }
        tell(mem, at);
        end(mem, at);
    }
}

/// Tells the peer of half-open connection `at` that it is reset, if it has our SYN. One that has not, and would take an RST with an ACK for a refusal, drops one without
/// (RFC 9293 3.10.7.3) and sends its SYN again, to whoever listens then.
pub(super) fn tell(mem: &mut LaneMem<'_>, at: Idx<Dormant>) {
    let Some(row) = mem.dormant.get(at).copied() else { return };
    if let Some(way) = way_of(mem, &row) {
        let numbers = (TcpFlags::RST, row.snd_nxt, SeqNum(0));
        reset::push(mem, row.port, &way, &key_of(&row), (numbers, None));
    }
}

/// The half-open connections of `listener`, oldest first.
pub(super) fn members<'m>(
    mem: &'m LaneMem<'_>,
    listener: Idx<Listener>,
) -> impl Iterator<Item = (Idx<Dormant>, FlowKey)> + 'm {
    let queue = mem.listeners.get(listener).map(|l| l.half_open).unwrap_or_default();
    let mut at = queue.head;
    let next = move || {
        let this = at.some()?;
        let row = mem.dormant.get(this)?;
        at = Idx::new(row.token[0]);
        Some((this, key_of(row)))
    };
    core::iter::from_fn(next).take(queue.len as usize)
}

/// Half-open connection `at` of `from` becomes one of `listener` of `to`, with next hop `hop` there. False: `to` has no room for it in a small row.
pub(super) fn hand_on(
    from: &mut LaneMem<'_>,
    to: &mut LaneMem<'_>,
    at: Idx<Dormant>,
    (listener, hop): (Idx<Listener>, Idx<::state::Hop>),
) -> bool {
    let Some(row) = from.dormant.get(at).copied().filter(|row| row.handle == HALF_OPEN) else { return false };
    let (Ok(options), Ok(hop)) = (u16::try_from(listener.raw()), u16::try_from(hop.raw())) else {
        return false;
    };
    let room = to.globals.dormant.half_open < most(to.dormant.len());
    let Some(new) = room.then(|| enter(to, Dormant { options, hop, ..row }, &key_of(&row))).flatten() else {
        return false;
    };
    to.dormant_wheel.arm(new.raw(), from.dormant_wheel.deadline(at.raw()).unwrap_or(Instant(0)));
    end(from, at);
    true
}

/// Gives the small row `at` up, and its next hop.
fn release(mem: &mut LaneMem<'_>, at: Idx<Dormant>) {
    let Some(hop) = mem.dormant.get(at).map(|row| Idx::new(u32::from(row.hop))) else { return };
    hop::release(mem, hop);
    take_out(mem, at);
}

/// Gives the small row `at` up.
fn take_out(mem: &mut LaneMem<'_>, at: Idx<Dormant>) {
    mem.dormant_wheel.cancel(at.raw());
    remove(mem, at);
    hibernate::give_row(mem, at);
    table::count_open(mem);
}

/// Half-open connection `at` joins the queue of its listener.
pub(super) fn append(mem: &mut LaneMem<'_>, at: Idx<Dormant>) {
    let Some(listener) = mem.dormant.get(at).map(listener_of) else { return };
    let Some(mut queue) = mem.listeners.get(listener).map(|l| l.half_open) else { return };
    let before = core::mem::replace(&mut queue.tail, at);
    queue.len = queue.len.saturating_add(1);
    if let Some(row) = mem.dormant.get_mut(at) {
        row.token = [Idx::<Dormant>::NONE.raw(), before.raw()];
    }
    match mem.dormant.get_mut(before) {
        Some(row) => row.token[0] = at.raw(),
        None => queue.head = at,
    }
    if let Some(row) = mem.listeners.get_mut(listener) {
        row.half_open = queue;
    }
    let globals = &mut mem.globals.dormant;
    globals.half_open = globals.half_open.saturating_add(1);
}

/// Half-open connection `at` leaves it.
pub(super) fn remove(mem: &mut LaneMem<'_>, at: Idx<Dormant>) {
    let Some(row) = mem.dormant.get(at).copied() else { return };
    let listener = listener_of(&row);
    let [next, before] = row.token.map(Idx::<Dormant>::new);
    let Some(mut queue) = mem.listeners.get(listener).map(|l| l.half_open) else { return };
    match mem.dormant.get_mut(before) {
        Some(row) => row.token[0] = next.raw(),
        None => queue.head = next,
    }
    match mem.dormant.get_mut(next) {
        Some(row) => row.token[1] = before.raw(),
        None => queue.tail = before,
    }
    queue.len = queue.len.saturating_sub(1);
    if let Some(row) = mem.listeners.get_mut(listener) {
        row.half_open = queue;
    }
    let globals = &mut mem.globals.dormant;
    globals.half_open = globals.half_open.saturating_sub(1);
}
