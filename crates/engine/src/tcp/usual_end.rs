//! The usual end of a connection that its program has closed: the segments without payload that acknowledge our FIN, and the peer's
//! FIN after ours, taken in one go. What is unusual about one takes the way of all segments.
//!
//! Nobody has the connection's name any more and it sends no data again. So what the general way learns from such a segment for
//! later, a round-trip time and a window, is left out.

use ::state::{LaneMem, TcbCold, TcbHot};
use base::{Idx, Instant};

use super::ack::update_window;
use super::conn::{Conn, Fate, cold_of, conn};
use super::queue::trim_acked;
use super::usual::Facts;
use super::{State, flag, table};

/// Takes the segment of `facts`, whose frame its caller gives up, if it is one of the usual end of connection `at`. False: it was not touched.
#[inline(always)]
pub(super) fn take(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>, facts: &Facts) -> bool {
    let (Some(hot), Some(cold)) = (mem.hot.get(at), mem.cold.get(cold_of(at))) else { return false };
    if !is_usual(hot, cold, facts) {
        return false;
    }
    match State::from_raw(hot.state) {
        State::LastAck if !facts.fin => table::end(mem, at, None),
        State::FinWait1 => wait(mem, now, at, facts),
        State::FinWait2 if facts.fin => wait(mem, now, at, facts),
        State::Closed
        | State::Listen
        | State::SynSent
        | State::SynRcvd
        | State::Established
        | State::FinWait2
        | State::CloseWait
        | State::Closing
        | State::LastAck
        | State::TimeWait => return false,
    }
    mem.counters.tcp.segments_in = mem.counters.tcp.segments_in.wrapping_add(1);
    true
}

/// Does the segment acknowledge all that was sent, our FIN too, and is it the next one of a peer about which nothing is unusual?
#[inline(always)]
fn is_usual(hot: &TcbHot, cold: &TcbCold, facts: &Facts) -> bool {
    const NEEDED: u32 = flag::TIMESTAMPS | flag::ORPHAN | flag::FIN_SENT;
    const UNUSUAL: u32 = flag::RECOVERY | flag::STALLED | flag::FIN_AHEAD | flag::SPECIAL;
    hot.flags & (NEEDED | UNUSUAL) == NEEDED
        && facts.len == 0
        && facts.seq == hot.rcv.nxt
        && facts.ack == hot.snd.nxt
        && (facts.stamps.value.wrapping_sub(hot.rcv.ts_recent) as i32) >= 0
        && hot.ooo_head.is_none()
        && cold.board.is_none()
}

/// The segment of a connection in FIN-WAIT-1 or FIN-WAIT-2, to FIN-WAIT-2 or TIME-WAIT.
fn wait(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>, facts: &Facts) {
    let Some(mut c) = conn(mem, now, at) else { return };
    let mut fate = Fate::Keep;
    // RFC 7323 4.3: TS.Recent follows the segment that holds Last.ACK.sent.
    if facts.seq.at_or_before(c.hot.rcv.ack_sent) {
        c.hot.rcv.ts_recent = facts.stamps.value;
        c.cold.ts_recent_at = now;
    }
    update_window(c.hot, facts.seq, facts.ack, facts.window);
    if facts.ack != c.hot.snd.una {
        fate = c.all_acked();
    }
    if facts.fin {
        c.cold.fin_seq = c.hot.rcv.nxt;
        fate = c.on_fin();
    }
    c.arm();
    table::settle(mem, now, at, fate);
}

impl Conn<'_, '_> {
    /// All that was sent is acknowledged, the FIN with it (as `Conn::acknowledge`, for who sends no more).
    #[inline(always)]
    fn all_acked(&mut self) -> Fate {
        let end = self.hot.snd.nxt;
        trim_acked(self.hot, self.frames, end);
        self.hot.snd.una = end;
        self.hot.dup_acks = 0;
        self.clear(flag::TIMING | flag::TAIL_PROBED | flag::PERSIST | flag::TAIL_PROBE);
        self.hot.rexmit_at = Instant::NEVER;
        self.on_fin_acked()
    }
}
