//! The usual segment that completes the handshake of a listener's connection, with the first data or without: taken in one go. What is unusual
//! about one takes the way of all segments.

use ::state::{LaneMem, RxFrame, TcbCold, TcbHot};
use base::{Idx, Instant};

use super::conn::{Fate, cold_of, conn};
use super::usual::{Facts, strip};
use super::{State, flag, listen, table, tune, window};

/// Takes the segment of `facts`, which is in `rx`, if it is the usual one that opens connection `at`. False: it was not touched.
#[inline(always)]
pub(super) fn take(
    mem: &mut LaneMem<'_>,
    now: Instant,
    at: Idx<TcbHot>,
    (facts, rx): (&Facts, &RxFrame),
) -> bool {
    let (Some(hot), Some(cold)) = (mem.hot.get(at), mem.cold.get(cold_of(at))) else { return false };
    if !is_usual(hot, cold, facts) || !listen::has_room_at(mem, cold.passive.listener) {
        return false;
    }
    if facts.len == 0 {
        mem.frames.release(rx.head);
    } else {
        strip(&mut mem.frames, rx.head);
    }
    let Some(mut c) = conn(mem, now, at) else { return false };
    c.counters.tcp.segments_in = c.counters.tcp.segments_in.wrapping_add(1);
    // RFC 7323 4.3: TS.Recent follows the segment that holds Last.ACK.sent.
    if facts.seq.at_or_before(c.hot.rcv.ack_sent) {
        c.hot.rcv.ts_recent = facts.stamps.value;
        c.cold.ts_recent_at = now;
    }
    c.take_ack_of_syn(facts.seq, facts.ack, facts.window);
    if facts.len > 0 {
        c.deliver(rx.head);
        c.schedule_ack(false, rx.gso_size != 0);
    }
    c.arm();
    if tune::is_due(c.hot, c.cold) {
        tune::look(mem, now, at, Some(facts.stamps.echo));
    }
    table::settle(mem, now, at, Fate::Accept);
    true
}

/// Is it the next segment of a peer that has our SYN,ACK, which was sent once, and is nothing unusual about the two ends?
#[inline(always)]
fn is_usual(hot: &TcbHot, cold: &TcbCold, facts: &Facts) -> bool {
    const NEEDED: u32 = flag::TIMESTAMPS | flag::IN_SYN_QUEUE;
    const UNUSUAL: u32 = flag::RECOVERY
        | flag::STALLED
        | flag::FIN_AHEAD
        | flag::FIN_QUEUED
        | flag::SHUT_READ
        | flag::ORPHAN
        | flag::SPECIAL;
    hot.state == State::SynRcvd as u8
        && hot.flags & (NEEDED | UNUSUAL) == NEEDED
        && !facts.fin
        && facts.seq == hot.rcv.nxt
        && facts.ack == hot.snd.nxt
        && facts.ack.after(hot.snd.una)
        && facts.len <= window::rcv_wnd(hot)
        && (facts.stamps.value.wrapping_sub(hot.rcv.ts_recent) as i32) >= 0
        && hot.ooo_head.is_none()
        && cold.board.is_none()
        && cold.fast == 0
        // TCP_DEFER_ACCEPT waits for data.
        && (facts.len > 0 || cold.options.defer_accept == 0)
}
