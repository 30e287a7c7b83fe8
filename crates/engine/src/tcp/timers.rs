//! What time does: retransmission (RFC 6298), persist (RFC 9293 3.8.6.1), tail loss probe (RFC 8985 7), delayed ACK,
//! keepalive (RFC 9293 3.8.4), and the ends of states that may not last.
//!
//! Each connection has one entry in the wheel, armed for its earliest deadline or before it.

use ::state::{LaneMem, Ready, TcbHot, TcpOptions, Usual};
use base::{Duration, Idx, Instant};

use super::conn::{Conn, Fate, Ring, conn};
use super::{RESERVE_FRAMES, RETRY, State, entrust, fast_open, flag, hibernate, rtt, table};
use crate::errors::SockError;
use crate::hop_names;

/// Timers looked at in one call, at most.
const BUDGET: u32 = 4096;
/// Retransmissions of data until the connection is given up (Linux's tcp_retries2).
const RETRIES: u8 = 15;
/// From this timeout in a row on the next hop is asked for again (Linux's tcp_retries1).
const DOUBTS_HOP: u8 = 3;
/// The same when no program holds the connection (Linux's tcp_orphan_retries).
const ORPHAN_RETRIES: u8 = 8;
/// SYN retransmissions (Linux's tcp_syn_retries).
const SYN_RETRIES: u8 = 6;
/// SYN,ACK retransmissions (Linux's tcp_synack_retries).
const SYN_ACK_RETRIES: u8 = 5;
/// Idle time until the first keepalive probe, s (RFC 9293 3.8.4).
const KEEP_IDLE_S: u32 = 7200;
/// Time between keepalive probes, s.
const KEEP_INTERVAL_S: u32 = 75;
/// Keepalive probes without an answer.
const KEEP_PROBES: u8 = 9;

/// When [`handle_timers`] has something to do next.
pub(crate) fn deadline(mem: &LaneMem<'_>) -> Instant {
    mem.wheel.next_deadline().min(hibernate::deadline(mem))
}

/// Does what is due, up to a limit.
#[inline]
pub(crate) fn handle_timers(mem: &mut LaneMem<'_>, now: Instant) {
    let mut budget = BUDGET;
    while let Some(row) = mem.wheel.expire(now, &mut budget) {
        if let Some(next) = mem.wheel.behind(row) {
            mem.hot.prefetch_lines(Idx::new(next), 0, 3);
            mem.cold.prefetch_lines(Idx::new(next), 0, 2);
        }
        fired(mem, now, Idx::new(row));
    }
    hibernate::handle_timers(mem, now);
}

/// The timer of connection `at` has fired.
#[inline(never)]
fn fired(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>) {
    let Some(mut c) = conn(mem, now, at) else { return };
    c.hot.armed_at = Instant::NEVER;
    if c.state() == State::Closed {
        if entrust::is_mark(mem, at) {
            entrust::forget_mark(mem, at);
        }
        return;
    }
    let before = c.cold.loss.backoff;
    let fate = c.on_timer();
    c.arm();
    c.arm_path();
    let in_doubt = c.cold.loss.backoff > before.max(DOUBTS_HOP - 1);
    if matches!(fate, Fate::Dead(_)) && c.cold.fast != 0 {
        fast_open::unanswered(mem, now, at);
    }
    if in_doubt && matches!(fate, Fate::Keep) {
        hop_names::doubt(mem, now, at);
    }
    table::settle(mem, now, at, fate);
}

/// `set`, or `usual` when it is 0.
fn or_default(set: u32, usual: u32) -> u32 {
    if set == 0 { usual } else { set }
}

/// How many timeouts of a SYN,ACK fit into `seconds`, and one more: what TCP_DEFER_ACCEPT means by them (Linux's secs_to_retrans).
#[must_use]
pub fn syn_ack_timeouts(seconds: u32) -> u8 {
    let (mut count, mut wait_s, mut period_s) = (u8::from(seconds > 0), 1_u32, 1_u32);
    while seconds > period_s && count < u8::MAX {
        count += 1;
        wait_s = (wait_s * 2).min(rtt::RTO_MAX_US / 1_000_000);
        period_s = period_s.saturating_add(wait_s);
    }
    count
}

/// Idle time until the first keepalive probe.
pub(super) fn keep_idle(options: &TcpOptions, usual: &Usual) -> Duration {
    let usual = or_default(usual.keep_idle_s, KEEP_IDLE_S);
    Duration::from_secs(u64::from(or_default(options.keep_idle_s.into(), usual)))
}

/// SYN,ACK retransmissions of a connection with these options.
pub(super) fn syn_ack_retries(options: &TcpOptions, usual: &Usual) -> u32 {
    let usual = or_default(usual.syn_ack_retries.into(), SYN_ACK_RETRIES.into());
    or_default(u32::from(options.syn_retries), usual)
}

impl Conn<'_, '_> {
    pub(super) fn on_timer(&mut self) -> Fate {
        if self.hot.ack_at <= self.now {
            self.hot.ack_at = Instant::NEVER;
            self.counters.tcp.delayed_acks = self.counters.tcp.delayed_acks.wrapping_add(1);
            self.ack_now();
        }
        if self.any(flag::SPECIAL) {
            self.pace_on();
        }
        if self.cold.path != 0 {
            self.age_path();
        }
        if self.hot.rexmit_at <= self.now {
            self.hot.rexmit_at = Instant::NEVER;
            let fate = self.on_rexmit_timer();
            if fate != Fate::Keep {
                return fate;
            }
        }
        if self.any(flag::IDLE_TIMER) && self.cold.idle_at <= self.now {
            self.cold.idle_at = Instant::NEVER;
            self.clear(flag::IDLE_TIMER);
            return self.on_idle_timer();
        }
        Fate::Keep
    }

    fn on_rexmit_timer(&mut self) -> Fate {
        match self.state() {
            State::Closed | State::Listen => Fate::Keep,
            State::SynSent | State::SynRcvd => self.on_syn_timeout(),
            State::TimeWait => Fate::Closed,
            State::Established
            | State::FinWait1
            | State::FinWait2
            | State::CloseWait
            | State::Closing
            | State::LastAck => {
                if self.on_reorder_timer() {
                    Fate::Keep
                } else if self.any(flag::PERSIST) {
                    self.on_persist()
                } else if self.any(flag::TAIL_PROBE) {
                    self.on_tail_probe()
                } else if self.flight() > 0 {
                    self.on_timeout()
                } else {
                    Fate::Keep
                }
            }
        }
    }

    fn on_syn_timeout(&mut self) -> Fate {
        let first = self.state() == State::SynSent;
        let (options, usual) = (&self.cold.options, &self.tcp.usual);
        let most = if first {
            let usual = or_default(usual.syn_retries.into(), SYN_RETRIES.into());
            or_default(u32::from(options.syn_retries), usual)
        } else {
            syn_ack_retries(options, usual)
        };
        if u32::from(self.cold.loss.backoff) >= most || self.is_past_user_timeout() {
            self.counters.tcp.aborts_on_timeout = self.counters.tcp.aborts_on_timeout.wrapping_add(1);
            return Fate::Dead(SockError::TimedOut);
        }
        let answered = self.cold.loss.probes != 0 && !first;
        self.note_timeout();
        if answered && self.cold.loss.backoff < self.cold.options.defer_accept {
            // The peer has our SYN,ACK and only waits to send (TCP_DEFER_ACCEPT): nothing to repeat.
            self.wait_for_an_answer();
            return Fate::Keep;
        }
        // Karn (RFC 6298 3); and RFC 6298 5.7: the RTO after a lost SYN starts from its initial value again.
        self.clear(flag::TIMING);
        self.set(flag::SEND_SYN);
        self.enqueue(Ring::Control);
        self.wait_for_an_answer();
        Fate::Keep
    }

    /// One more timeout in a row.
    fn note_timeout(&mut self) {
        if self.cold.loss.backoff == 0 && self.cold.loss.probes == 0 {
            // As in Linux a user timeout counts from the first SYN of an attempt to connect, else from when something is sent again.
            let connects = self.state() == State::SynSent;
            let waited = if connects { rtt::rto(&self.hot.rtt, 0) } else { Duration(0) };
            self.cold.loss.stalled_at = Instant(self.now.0.saturating_sub(waited.0));
        }
        self.cold.loss.backoff = self.cold.loss.backoff.saturating_add(1);
        self.set(flag::STALLED);
        self.counters.tcp.timeouts = self.counters.tcp.timeouts.wrapping_add(1);
    }

    /// Starts the timer for what was sent, again after a timeout.
    pub(super) fn wait_for_an_answer(&mut self) {
        self.hot.rexmit_at = self.now.plus(rtt::rto(&self.hot.rtt, self.cold.loss.backoff));
        self.heed_user_timeout();
    }

    /// RFC 9293 3.8.3: after a timeout the timer runs out no later than the program's own.
    pub(super) fn heed_user_timeout(&mut self) {
        let limit = Duration::from_millis(self.cold.options.user_timeout_ms.into());
        if limit.0 != 0 && self.cold.loss.backoff > 0 {
            let end = self.cold.loss.stalled_at.plus(limit).max(self.now);
            self.hot.rexmit_at = self.hot.rexmit_at.min(end);
        }
    }

    /// TCP_USER_TIMEOUT (RFC 5482): nothing was acknowledged for longer than the program accepts.
    fn is_past_user_timeout(&self) -> bool {
        let limit = u64::from(self.cold.options.user_timeout_ms);
        limit != 0
            && self.any(flag::STALLED)
            && self.now.since(self.cold.loss.stalled_at) >= Duration::from_millis(limit)
    }

    /// Timeouts in a row after which the connection is given up.
    fn retries(&self) -> u32 {
        let usual = &self.tcp.usual;
        let (usual, own) = if self.any(flag::ORPHAN) {
            (usual.orphan_retries, ORPHAN_RETRIES)
        } else {
            (usual.retries, RETRIES)
        };
        or_default(usual.into(), own.into())
    }

    /// The retransmission timer ran out (RFC 6298 5.4 to 5.6).
    fn on_timeout(&mut self) -> Fate {
        if u32::from(self.cold.loss.backoff) >= self.retries() || self.is_past_user_timeout() {
            self.counters.tcp.aborts_on_timeout = self.counters.tcp.aborts_on_timeout.wrapping_add(1);
            return Fate::Dead(self.silence());
        }
        let first = self.cold.loss.backoff == 0;
        self.note_timeout();
        self.forget_probe(true);
        self.suspect_black_hole();
        self.enter_loss(first);
        self.wait_for_an_answer();
        Fate::Keep
    }

    /// Nothing may be sent for want of window, cork or frames: probes or pushes.
    fn on_persist(&mut self) -> Fate {
        self.clear(flag::PERSIST);
        if !self.has_data() {
            return Fate::Keep;
        }
        if self.hot.snd.wnd == 0 {
            if u32::from(self.cold.loss.probes) >= self.retries() || self.is_past_user_timeout() {
                self.counters.tcp.aborts_on_timeout = self.counters.tcp.aborts_on_timeout.wrapping_add(1);
                return Fate::Dead(self.silence());
            }
            self.note_timeout();
            self.cold.loss.probes = self.cold.loss.probes.saturating_add(1);
            self.counters.tcp.window_probes = self.counters.tcp.window_probes.wrapping_add(1);
            self.set(flag::PERSIST);
            self.wait_for_an_answer();
        }
        self.probe();
        self.enqueue(Ring::Data);
        Fate::Keep
    }

    /// Has a segment sent that makes the peer answer.
    pub(super) fn probe(&mut self) {
        self.set(flag::SEND_PROBE);
        self.enqueue(Ring::Control);
    }

    /// RFC 8985 7.3: sends the last segment again, so that its SACK shows whether the tail is lost.
    fn on_tail_probe(&mut self) -> Fate {
        self.clear(flag::TAIL_PROBE);
        self.set(flag::TAIL_PROBED);
        if self.flight() == 0 {
            return Fate::Keep;
        }
        self.counters.tcp.loss_probes = self.counters.tcp.loss_probes.wrapping_add(1);
        self.probe();
        self.hot.rexmit_at = self.now.plus(rtt::rto(&self.hot.rtt, 0));
        Fate::Keep
    }

    fn on_idle_timer(&mut self) -> Fate {
        if self.state() == State::FinWait2 && self.any(flag::ORPHAN) {
            return Fate::Closed;
        }
        if self.any(flag::WANTS_ROOM) && self.queued() == 0 {
            return self.on_frames_timer();
        }
        if self.any(flag::KEEPALIVE) && self.state().is_synchronized() {
            self.on_keepalive()
        } else {
            Fate::Keep
        }
    }

    /// The program could not queue for want of frames: tells it when there are some.
    fn on_frames_timer(&mut self) -> Fate {
        if self.frames.is_short(RESERVE_FRAMES) {
            self.wait_for_frames();
        } else {
            self.clear(flag::WANTS_ROOM);
            self.notify(Ready::OUT);
            self.start_keepalive();
        }
        Fate::Keep
    }

    /// Looks again for frames after a pause.
    pub(super) fn wait_for_frames(&mut self) {
        self.cold.idle_at = self.now.plus(RETRY);
        self.set(flag::IDLE_TIMER);
    }

    /// Starts the keepalive timer if the program wants it.
    pub(super) fn start_keepalive(&mut self) {
        if !self.any(flag::KEEPALIVE) || !self.state().is_synchronized() || self.state() == State::TimeWait {
            return;
        }
        self.cold.idle_at = self.now.plus(keep_idle(&self.cold.options, &self.tcp.usual));
        self.set(flag::IDLE_TIMER);
        self.arm();
    }

    fn on_keepalive(&mut self) -> Fate {
        let (options, usual) = (&self.cold.options, &self.tcp.usual);
        let idle = keep_idle(options, usual);
        let interval = or_default(usual.keep_interval_s.into(), KEEP_INTERVAL_S);
        let interval = Duration::from_secs(u64::from(or_default(options.keep_interval_s.into(), interval)));
        let most = or_default(u32::from(usual.keep_probes), u32::from(KEEP_PROBES));
        let most = or_default(u32::from(options.keep_probes), most);
        let limit = Duration::from_millis(options.user_timeout_ms.into());
        self.set(flag::IDLE_TIMER);
        let quiet = self.now.since(self.cold.heard_at);
        if quiet < idle {
            self.cold.idle_at = self.cold.heard_at.plus(idle);
            return Fate::Keep;
        }
        if self.flight() > 0 || self.has_data() {
            // The retransmission and persist timers look after the peer now.
            self.cold.idle_at = self.now.plus(idle);
            return Fate::Keep;
        }
        // RFC 5482 4.2: a user timeout counts in place of the number of probes, as in Linux.
        let probes = u32::from(self.cold.loss.keep_probes);
        let silent = if limit.0 == 0 { probes >= most } else { probes > 0 && quiet >= limit };
        if silent {
            self.counters.tcp.aborts_on_timeout = self.counters.tcp.aborts_on_timeout.wrapping_add(1);
            return Fate::Reset(self.silence());
        }
        self.cold.loss.keep_probes = self.cold.loss.keep_probes.saturating_add(1);
        self.counters.tcp.keepalives = self.counters.tcp.keepalives.wrapping_add(1);
        self.probe();
        self.cold.idle_at = self.now.plus(interval);
        Fate::Keep
    }
}
