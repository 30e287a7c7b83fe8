//! Losses found by time (RFC 8985): a segment is lost when one sent later has arrived and the reordering window has passed since.
//!
//! No time is kept for what was sent once. It went out in sequence order, so whatever of it lies below a reported run was sent before that run, and the
//! time at which the run was first reported bounds the deadline of RFC 8985 6.2 step 5 from above: late by no more than the two
//! transmissions were apart. What was sent again has times of its own (`resent`). All of it is in the scoreboard, so a connection with
//! nothing amiss does nothing here.

use ::state::{RackState, Resent, SeqRange, TcbCold};
use base::{Duration, Instant, SeqNum};

use super::conn::{Conn, Ring};
use super::recovery::DUP_THRESH;
use super::segment::Seg;
use super::{flag, resent, rtt, undo};

/// Bit of `TcbCold::reo_memory`: the path was seen to reorder.
const SEEN: u8 = 0x80;
/// Recoveries for which a widened reordering window lasts (RFC 8985 6.2.4).
const PERSIST: u8 = 16;
/// Round trips after which the least round-trip time is measured anew.
const MIN_RTT_ROUNDS: u8 = 250;

/// Takes a round-trip time for the least one (RFC 8985 6.2 step 1).
#[inline]
pub(super) fn note_rtt(cold: &mut TcbCold, us: u32) {
    let loss = &mut cold.loss;
    let age = loss.min_rtt_age;
    if us <= loss.min_rtt_us || loss.min_rtt_us == 0 || age >= MIN_RTT_ROUNDS {
        loss.min_rtt_us = us.max(1);
        loss.min_rtt_age = 0;
    } else {
        loss.min_rtt_age = age + 1;
    }
}

/// What was first sent before `mark` was overtaken by a retransmission at `clock`.
fn note_mark(rack: &mut RackState, mark: SeqNum, clock: u32) {
    if rack.mark_us == 0 {
        (rack.mark, rack.mark_us) = (mark, clock | 1);
    } else {
        (rack.next_mark, rack.next_mark_us) = (mark, clock | 1);
    }
}

/// What is lost by now, and when more may be.
struct Verdict {
    /// Everything before this that was not reported, and not sent again, is lost.
    edge: SeqNum,
    /// The first number of what was sent again and is lost again.
    again: Option<SeqNum>,
    /// Until something else may be lost, us.
    wait_us: Option<u32>,
}

impl Verdict {
    fn wait(&mut self, us: u32) {
        self.wait_us = Some(self.wait_us.map_or(us, |w| w.min(us)));
    }
}

impl Conn<'_, '_> {
    /// How old the timestamp is that `seg` echoes, ms (RFC 7323 4.1).
    fn echo_age_ms(&self, seg: &Seg) -> Option<u32> {
        let ts = seg.options.timestamps.filter(|ts| ts.echo != 0 && self.any(flag::TIMESTAMPS))?;
        Some(self.timestamp_clock().wrapping_sub(ts.echo)).filter(|ms| *ms < u32::MAX / 2)
    }

    /// `piece` was delivered, as `seg` is the first to report (RFC 8985 6.2, steps 2 to 4).
    pub(super) fn delivered(&mut self, piece: SeqRange, seg: &Seg) {
        let clock = rtt::clock_us(self.now);
        // Only what is acknowledged in order has its timestamp echoed (RFC 7323 4.3).
        let in_order = piece.right.at_or_before(seg.ack);
        let echo_age = self.echo_age_ms(seg).filter(|_| in_order);
        let min_rtt = self.cold.loss.min_rtt_us;
        let Some(board) = self.boards.get_mut(self.cold.board) else { return };
        let (mut latest, mut again): (Option<Resent>, bool) = (None, false);
        for e in resent::list(board) {
            if e.left.at_or_after(piece.right) || e.right.at_or_before(piece.left) {
                continue;
            }
            again = true;
            // Step 2: too early an answer is one to the first transmission.
            let age = clock.wrapping_sub(e.at_us);
            let answers_first = age < min_rtt || echo_age.is_some_and(|ms| ms > age / 1000 + 1);
            if !answers_first && latest.is_none_or(|l| e.at_us.wrapping_sub(l.at_us) as i32 >= 0) {
                latest = Some(Resent { right: e.right.earlier(piece.right), ..*e });
            }
        }
        resent::cut(board, piece);
        if let Some(e) = latest {
            board.rack.rtt_us = clock.wrapping_sub(e.at_us).max(1);
            resent::pass(board, e.at_us, e.right, clock);
            note_mark(&mut board.rack, e.mark, clock);
        } else if !again {
            // Step 3: sent once, and later ones came before it.
            if piece.right.at_or_before(board.rack.fack) && piece.left.at_or_after(board.rack.resent_top) {
                self.cold.reo_memory |= SEEN;
                self.counters.tcp.reordered = self.counters.tcp.reordered.wrapping_add(1);
            }
            resent::pass_by_original(board, piece.right, clock);
        }
    }

    /// Everything from `from` to `to` was delivered, as `seg` says: what was not reported before is news.
    pub(super) fn delivered_between(&mut self, mut from: SeqNum, to: SeqNum, seg: &Seg) {
        for _ in 0..=::state::BOARD_RANGES {
            let Some(piece) = self.hole(from, to) else { break };
            self.delivered(piece, seg);
            from = piece.right;
        }
    }

    /// How much later than another a segment may come before it is lost, us (RFC 8985 6.2 step 4).
    fn reorder_window_us(&self) -> u32 {
        let seen = self.cold.reo_memory & SEEN != 0;
        let enough = self.sacked_bytes() > (DUP_THRESH - 1) * self.mss()
            || self.sacked_runs().len() >= DUP_THRESH as usize
            || u32::from(self.hot.dup_acks) >= DUP_THRESH;
        if !seen && (self.any(flag::RECOVERY) || enough) {
            return 0;
        }
        let srtt = self.hot.rtt.srtt_us8 >> 3;
        let least = if self.cold.loss.min_rtt_us == 0 { srtt } else { self.cold.loss.min_rtt_us };
        (least / 4).saturating_mul(u32::from(self.cold.reo_extra) + 1).min(srtt)
    }

    /// What is lost by now (RFC 8985 6.2 step 5). What was sent again and is lost again is forgotten, so that it goes another time.
    fn judge(&mut self) -> Verdict {
        let window = self.reorder_window_us();
        let clock = rtt::clock_us(self.now);
        let una = self.hot.snd.una;
        let lost_edge = if self.any(flag::RECOVERY) { self.cold.loss.lost_edge.later(una) } else { una };
        let sent_us = self.now.since(self.hot.sent_at).as_micros();
        let mut verdict = Verdict { edge: una, again: None, wait_us: None };
        let Some(board) = self.boards.get_mut(self.cold.board) else { return verdict };
        let rtt = board.rack.rtt_us;
        // Everything that was sent once is older than this.
        let all_late = rtt != 0 && sent_us >= u64::from(rtt) + u64::from(window);
        let mut oldest = 0;
        let runs = board.ranges.iter().zip(&board.since_us).take(board.count as usize);
        for (run, since) in runs.rev() {
            oldest = oldest.max(clock.wrapping_sub(*since));
            if oldest >= window || all_late {
                verdict.edge = run.left;
                break;
            }
            if run.left.after(lost_edge) {
                verdict.wait(window - oldest);
            }
        }
        for _ in 0..2 {
            let rack = &mut board.rack;
            let age = clock.wrapping_sub(rack.mark_us);
            if rack.mark_us == 0 {
                break;
            }
            if age < window && !all_late {
                verdict.wait(window - age);
                break;
            }
            verdict.edge = verdict.edge.later(rack.mark);
            (rack.mark, rack.mark_us) = (rack.next_mark, rack.next_mark_us);
            rack.next_mark_us = 0;
        }
        resent::retain(board, |e| {
            let (age, passed) = (clock.wrapping_sub(e.at_us), clock.wrapping_sub(e.passed_us));
            if e.passed_us == 0 {
                return true;
            }
            if passed < window && (rtt == 0 || age < rtt.saturating_add(window)) {
                verdict.wait(window - passed);
                return true;
            }
            verdict.again = Some(verdict.again.map_or(e.left, |a| a.earlier(e.left)));
            false
        });
        verdict
    }

    /// Looks for losses and sets the timer for those that are not sure yet (RFC 8985 6.2 step 5, 6.3).
    pub(super) fn find_losses(&mut self) {
        let verdict = self.judge();
        let edge = verdict.edge.earlier(self.hot.snd.nxt);
        if self.any(flag::RECOVERY) {
            self.cold.loss.lost_edge = self.cold.loss.lost_edge.later(edge);
            if let Some(left) = verdict.again.filter(|left| left.before(self.cold.loss.lost_edge)) {
                self.cold.loss.high_rxt = self.cold.loss.high_rxt.earlier(left);
                self.counters.tcp.lost_again = self.counters.tcp.lost_again.wrapping_add(1);
            }
            self.enqueue(Ring::Data);
        } else if self.next_hole(self.hot.snd.una, edge).is_some() {
            self.enter_recovery(edge);
        }
        let at = verdict.wait_us.map_or(Instant::NEVER, |us| self.now.plus(Duration::from_micros(us.into())));
        let Some(board) = self.boards.get_mut(self.cold.board) else { return };
        let old = core::mem::replace(&mut board.rack.reorder_at, at);
        if old != Instant::NEVER && self.hot.rexmit_at == old {
            self.restart_timer();
        } else {
            self.keep_reorder_timer();
        }
    }

    /// The reordering timer comes before the others.
    pub(super) fn keep_reorder_timer(&mut self) {
        let at = self.boards.get(self.cold.board).map_or(Instant::NEVER, |b| b.rack.reorder_at);
        if self.flight() > 0 {
            self.hot.rexmit_at = self.hot.rexmit_at.min(at);
        }
    }

    /// Was it the reordering timer that ran out? Then what is missing is lost (RFC 8985 6.3).
    pub(super) fn on_reorder_timer(&mut self) -> bool {
        let now = self.now;
        let Some(board) = self.boards.get_mut(self.cold.board).filter(|b| b.rack.reorder_at <= now) else {
            return false;
        };
        board.rack.reorder_at = Instant::NEVER;
        // With nothing in flight it was another timer, which must not be lost.
        if self.flight() == 0 {
            return false;
        }
        self.restart_timer();
        self.find_losses();
        true
    }

    /// A report that something came twice widens the reordering window, once a round trip (RFC 8985 6.2.4).
    pub(super) fn widen_reorder_window(&mut self) {
        let (una, nxt) = (self.hot.snd.una, self.hot.snd.nxt);
        if self.flight() > 0 && self.ensure_board() {
            let Some(board) = self.boards.get_mut(self.cold.board) else { return };
            if una.before(board.rack.twice_round) {
                return;
            }
            board.rack.twice_round = nxt;
        }
        self.cold.reo_extra = self.cold.reo_extra.saturating_add(1);
        self.cold.reo_memory = self.cold.reo_memory & SEEN | PERSIST;
    }

    /// A recovery is over: after a number of them the reordering window is as it was.
    pub(super) fn narrow_reorder_window(&mut self) {
        let left = (self.cold.reo_memory & !SEEN).saturating_sub(1);
        self.cold.reo_memory = self.cold.reo_memory & SEEN | left;
        if left == 0 {
            self.cold.reo_extra = 0;
        }
    }

    /// `range` was sent again.
    pub(super) fn note_resent(&mut self, range: SeqRange) {
        let (at_us, mark, stamp) = (rtt::clock_us(self.now), self.hot.snd.nxt, self.timestamp_clock());
        let sack = self.any(flag::SACK);
        let Some(board) = self.boards.get_mut(self.cold.board) else { return };
        undo::note_resent(&mut board.rack, range, stamp);
        if sack {
            let entry = Resent { left: range.left, right: range.right, mark, at_us, passed_us: 0 };
            resent::insert(board, entry);
        }
    }
}
