//! What an acceptable acknowledgment does (RFC 9293 3.10.7.4, fifth step): frees, measures, grows, and moves states.

use ::state::{DropReason, Ready, TcbHot};
use base::{Duration, Instant, SeqNum};

use super::conn::{Conn, Fate, Ring};
use super::rack::note_rtt;
use super::segment::Seg;
use super::{Cause, FIN_WAIT_2, State, TIME_WAIT, cc_flag, flag, rtt, tune};

/// Least time to a tail loss probe.
const TAIL_PROBE_MIN: Duration = Duration::from_millis(5);
/// The same when one segment is in flight (RFC 8985 7.2, TLP.max_ack_delay; Linux's tcp_rto_min).
const TAIL_PROBE_LONE: Duration = Duration::from_millis(200);

/// What an ACK field is worth.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum AckWorth {
    /// Nothing: drop the segment.
    Bad,
    /// Old, or the same again: the rest of the segment counts.
    Old,
    /// It acknowledges something new.
    New,
}

/// [`Conn::update_window`].
#[inline]
pub(super) fn update_window(hot: &mut TcbHot, seq: SeqNum, ack: SeqNum, window: u16) -> bool {
    let window = u32::from(window) << hot.snd_shift.min(14);
    let snd = &mut hot.snd;
    let older = seq.before(snd.wl1) && !ack.after(snd.una);
    if older || ack.before(snd.una) {
        return false;
    }
    snd.wl1 = seq;
    let changed = snd.wnd != window;
    snd.wnd = window;
    snd.wnd_max = snd.wnd_max.max(window);
    changed
}

/// Starts the retransmission timer after `backoff` timeouts in a row, or the tail loss probe's when that comes first (RFC
/// 8985 7.2).
#[inline(always)]
pub(super) fn start_timer(hot: &mut TcbHot, now: Instant, backoff: u8) {
    let mut wait = rtt::rto(&hot.rtt, backoff);
    let srtt = hot.rtt.srtt_us8 >> 3;
    let probing = flag::SACK | flag::RECOVERY | flag::STALLED | flag::TAIL_PROBED;
    if hot.flags & probing == flag::SACK && srtt != 0 {
        // A lone segment may wait for a delayed ACK.
        let lone = hot.snd.nxt.since(hot.snd.una) <= u32::from(hot.mss.max(1));
        let more = if lone { TAIL_PROBE_LONE } else { TAIL_PROBE_MIN };
        wait = wait.min(Duration(2000 * u64::from(srtt) + more.0));
        hot.flags |= flag::TAIL_PROBE;
    }
    hot.rexmit_at = now.plus(wait);
}

impl Conn<'_, '_> {
    /// RFC 5961 5.2: SEG.ACK must lie between SND.UNA - MAX.SND.WND and SND.NXT.
    #[inline]
    pub(super) fn ack_worth(&self, ack: SeqNum) -> AckWorth {
        let snd = &self.hot.snd;
        if ack.after(snd.nxt) || ack.before(snd.una.minus(snd.wnd_max)) {
            AckWorth::Bad
        } else if ack.after(snd.una) {
            AckWorth::New
        } else {
            AckWorth::Old
        }
    }

    /// Takes over SEG.WND if the segment is not older than the one the window came from (RFC 9293 3.10.7.4; SND.WL2 is not
    /// kept, as no older ACK than SND.UNA counts). A segment that acknowledges something new is the newest whatever its
    /// SEG.SEQ, as for a retransmission; without its window the old one would count from the new SND.UNA on, and the edge
    /// move beyond what the peer announced. True: the window changed.
    #[inline]
    pub(super) fn update_window(&mut self, seg: &Seg) -> bool {
        update_window(self.hot, seg.seq, seg.ack, seg.window)
    }

    /// The whole ACK step for a segment that header prediction did not take.
    pub(super) fn process_ack(&mut self, seg: &Seg) -> Fate {
        let before =
            (self.hot.snd.una, self.sacked_bytes(), self.cold.loss.lost_edge, self.any(flag::RECOVERY));
        self.on_echo(seg);
        let fate = self.take_ack(seg);
        if self.hot.flags & (flag::RECOVERY | flag::LOSS) == flag::RECOVERY {
            let (una, reported, lost_edge, recovering) = before;
            let acked = self.hot.snd.una.since(una);
            let delivered = if self.any(flag::SACK) {
                acked.saturating_add(self.sacked_bytes()).saturating_sub(reported)
            } else if acked > 0 {
                acked
            } else {
                self.mss() // RFC 9937 6: a duplicate ACK without SACK stands for one segment
            };
            let safe = recovering && acked > 0 && self.cold.loss.lost_edge == lost_edge;
            self.congestion_in_recovery(delivered, (!recovering, safe));
        }
        if self.cold.cc_flags & cc_flag::PACED != 0 {
            let (una, reported, ..) = before;
            let acked = self.hot.snd.una.since(una);
            self.rate_ack(acked.saturating_add(self.sacked_bytes()).saturating_sub(reported));
        }
        self.count_marks(seg, self.hot.snd.una.since(before.0));
        if self.any(flag::SPECIAL) {
            self.note_path_acked();
        }
        fate
    }

    fn take_ack(&mut self, seg: &Seg) -> Fate {
        let news = self.any(flag::SACK) && !seg.options.sack.is_empty() && self.update_board(seg);
        let window_changed = self.update_window(seg);
        if self.ack_worth(seg.ack) == AckWorth::New {
            let fate = self.acknowledge(seg);
            if news && fate == Fate::Keep && !self.any(flag::RECOVERY) {
                self.on_dup_ack();
            }
            if fate == Fate::Keep && (!self.cold.board.is_none() || self.any(flag::RECOVERY)) {
                self.after_ack(seg, false);
            }
            return fate;
        }
        // RFC 5681 2: a duplicate ACK has no data, no SYN or FIN, the same window, and something is in flight.
        let duplicate =
            seg.ack == self.hot.snd.una && seg.space() == 0 && !window_changed && self.flight() > 0;
        if duplicate || news {
            self.hot.dup_acks = self.hot.dup_acks.saturating_add(1);
            self.on_dup_ack();
        } else if window_changed {
            self.window_opened();
        }
        if !self.cold.board.is_none() {
            self.after_ack(seg, duplicate && !news);
        }
        if self.any(flag::STALLED) {
            // RFC 1122 4.2.2.17: a peer that answers probes of its closed window is alive. The program's own timeout goes on, as in Linux.
            self.cold.loss.probes = 0;
            if self.hot.snd.wnd > 0 {
                self.cold.loss.stalled_at = self.now;
            }
            if seg.space() == 0 {
                self.forget_report();
            }
        }
        Fate::Keep
    }

    /// SND.WND changed without new acknowledgments.
    pub(super) fn window_opened(&mut self) {
        if self.any(flag::PERSIST) && self.hot.snd.wnd > 0 {
            self.clear(flag::PERSIST);
            self.hot.rexmit_at = Instant::NEVER;
        }
        if self.has_data() {
            self.enqueue(Ring::Data);
        }
    }

    /// SEG.ACK acknowledges something new.
    #[inline]
    pub(super) fn acknowledge(&mut self, seg: &Seg) -> Fate {
        let ack = seg.ack;
        let acked = ack.since(self.hot.snd.una);
        let flight = self.flight();
        self.measure(seg);
        if !self.cold.board.is_none() {
            self.delivered_between(self.hot.snd.una, ack, seg);
        }
        self.trim_acked(ack);
        self.hot.snd.una = ack;
        self.urgent_acked();
        if self.any(flag::STALLED) {
            self.alive_again();
        }
        if !self.cold.board.is_none() {
            self.trim_board();
        }
        if self.any(flag::RECOVERY) {
            if self.answers_original(seg) {
                self.undo_recovery();
            } else {
                self.recovery_ack(acked, flight);
            }
        } else {
            self.hot.dup_acks = 0;
            self.grow_window(acked, flight, self.echo_of(seg));
        }
        self.clear(flag::TAIL_PROBED);
        self.restart_timer();
        if self.any(flag::WANTS_ROOM) {
            tune::expand_send(self.hot, self.cold, self.tcp, self.frames);
            if self.has_room() {
                self.clear(flag::WANTS_ROOM);
                self.notify(Ready::OUT);
            }
        }
        if self.has_data() {
            self.enqueue(Ring::Data);
        }
        if self.fin_acked() { self.on_fin_acked() } else { Fate::Keep }
    }

    /// TSecr of `seg`.
    #[inline]
    fn echo_of(&self, seg: &Seg) -> Option<u32> {
        if self.any(flag::TIMESTAMPS) { seg.options.timestamps.map(|ts| ts.echo) } else { None }
    }

    /// A round-trip time from what `seg` acknowledges, if there is a clean one.
    #[inline]
    fn measure(&mut self, seg: &Seg) {
        if self.any(flag::TIMING) {
            if seg.ack.at_or_after(self.hot.rtt.timed_seq) {
                self.clear(flag::TIMING);
                let us = rtt::clock_us(self.now).wrapping_sub(self.hot.rtt.timed_at_us);
                rtt::sample(&mut self.hot.rtt, us);
                note_rtt(self.cold, us);
            }
        } else if self.any(flag::RECOVERY | flag::STALLED)
            && self.any(flag::TIMESTAMPS)
            && let Some(ts) = seg.options.timestamps
            && let Some(us) = rtt::echoed_us(self.now, self.cold.ts_offset, ts.echo)
        {
            // RFC 7323 4.1: the echo tells which transmission was acknowledged, so retransmissions can be measured too.
            rtt::sample(&mut self.hot.rtt, us);
        }
    }

    /// The peer has answered after timeouts or probes.
    fn alive_again(&mut self) {
        self.clear(flag::STALLED);
        self.forget_report();
        self.cold.loss.backoff = 0;
        self.cold.loss.probes = 0;
        self.cold.loss.keep_probes = 0;
    }

    /// RFC 6298 5.2, 5.3: with each new acknowledgment the timer starts anew, or stops when all is acknowledged.
    #[inline]
    pub(super) fn restart_timer(&mut self) {
        self.clear(flag::PERSIST | flag::TAIL_PROBE);
        if self.hot.snd.una == self.hot.snd.nxt {
            self.hot.rexmit_at = Instant::NEVER;
            return;
        }
        self.start_timer();
    }

    /// Starts the retransmission timer, or the tail loss probe's when that comes first (RFC 8985 7.2).
    pub(super) fn start_timer(&mut self) {
        let backoff = if self.any(flag::STALLED) { self.cold.loss.backoff } else { 0 };
        start_timer(self.hot, self.now, backoff);
        if backoff > 0 {
            self.heed_user_timeout();
        }
        if !self.cold.board.is_none() {
            self.keep_reorder_timer();
        }
    }

    /// Our FIN was acknowledged.
    pub(super) fn on_fin_acked(&mut self) -> Fate {
        match self.go(Cause::AckOfFin) {
            State::FinWait2 => {
                if self.any(flag::ORPHAN) {
                    self.start_fin_wait_2();
                }
                Fate::Keep
            }
            State::TimeWait => self.start_time_wait(),
            State::Closed => {
                // `end` makes CLOSED of it; the row must still look open until then.
                self.hot.state = State::LastAck as u8;
                Fate::Closed
            }
            _ => Fate::Keep,
        }
    }

    /// An orphan waits for the peer's FIN for a limited time.
    pub(super) fn start_fin_wait_2(&mut self) {
        let seconds = u64::from(self.tcp.usual.fin_timeout_s);
        let wait = if seconds == 0 { FIN_WAIT_2 } else { Duration::from_secs(seconds) };
        self.cold.idle_at = self.now.plus(wait);
        self.set(flag::IDLE_TIMER);
    }

    /// TIME-WAIT begins, or begins again (RFC 9293 3.10.7.4: each retransmitted FIN restarts it).
    pub(super) fn start_time_wait(&mut self) -> Fate {
        self.clear(flag::PERSIST | flag::TAIL_PROBE | flag::IDLE_TIMER | flag::RECOVERY | flag::LOSS);
        self.hot.rexmit_at = self.now.plus(TIME_WAIT);
        self.hot.ack_at = Instant::NEVER;
        Fate::TimeWait
    }

    /// Answers a segment that may be forged with the right numbers (RFC 5961 7: not too often).
    pub(super) fn challenge(&mut self, reason: DropReason) {
        self.drop_packet(reason);
        if super::reset::allow(&mut self.tcp.challenges, self.now, super::reset::CHALLENGES_A_SECOND) {
            self.counters.tcp.challenge_acks = self.counters.tcp.challenge_acks.wrapping_add(1);
            self.ack_now();
        }
    }
}
