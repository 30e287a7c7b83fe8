//! What is lost, and what to send again: SACK-based recovery (RFC 6675), NewReno for peers without SACK (RFC 6582),
//! limited transmit (RFC 3042), and recovery after a timeout.

use ::state::SeqRange;
use base::SeqNum;

use super::conn::{Conn, Ring};
use super::flag;

/// Duplicate ACKs that mean a loss (RFC 5681 3.2, RFC 6675 2).
const DUP_THRESH: u32 = 3;

impl Conn<'_, '_> {
    /// Everything before this that the peer has not reported is lost (RFC 6675 4, IsLost): more than two segments' worth of
    /// bytes, or three runs, above it were reported.
    fn lost_edge_by_sack(&self) -> SeqNum {
        let enough = (DUP_THRESH - 1) * self.mss();
        let (mut bytes, mut runs) = (0_u32, 0);
        for run in self.sacked_runs().iter().rev() {
            bytes = bytes.saturating_add(run.right.since(run.left));
            runs += 1;
            if bytes > enough || runs >= DUP_THRESH {
                return run.left;
            }
        }
        self.hot.snd.una
    }

    /// Bytes that are believed to be in flight (RFC 6675 4, SetPipe).
    pub(super) fn pipe(&self) -> u32 {
        let (una, nxt) = (self.hot.snd.una, self.hot.snd.nxt);
        let lost = self.cold.loss.lost_edge.later(una);
        let resent = self.cold.loss.high_rxt.later(una);
        if self.any(flag::SACK) || self.any(flag::LOSS) {
            return self.unsacked(lost, nxt).saturating_add(self.unsacked(una, resent));
        }
        // Without SACK each duplicate ACK stands for one segment that has left the network (RFC 6582 3.2).
        let left = u32::from(self.hot.dup_acks).saturating_mul(self.mss());
        let unsent_again = if resent.before(lost) { lost.since(resent) } else { 0 };
        nxt.since(una).saturating_sub(left).saturating_sub(unsent_again)
    }

    /// A duplicate ACK, or one with news in its SACK blocks, came.
    pub(super) fn on_dup_ack(&mut self) {
        if self.any(flag::RECOVERY) {
            if self.any(flag::SACK) {
                self.cold.loss.lost_edge = self.cold.loss.lost_edge.later(self.lost_edge_by_sack());
            }
            self.enqueue(Ring::Data);
            return;
        }
        let mut edge = if self.any(flag::SACK) { self.lost_edge_by_sack() } else { self.hot.snd.una };
        if self.any(flag::TAIL_PROBED)
            && let Some(run) = self.sacked_runs().last()
        {
            // RFC 8985 7.3: the probe has come through, long after what is missing before it was sent.
            edge = run.left;
        }
        if u32::from(self.hot.dup_acks) >= DUP_THRESH || edge.after(self.hot.snd.una) {
            self.enter_recovery(edge);
        } else if self.unsent() > 0 {
            // RFC 3042: the first two duplicate ACKs each let one new segment out.
            self.enqueue(Ring::Data);
        }
    }

    /// Fast retransmit: the segment at SND.UNA is lost, and so is what `edge` says (RFC 6675 5, step 4).
    fn enter_recovery(&mut self, edge: SeqNum) {
        // RFC 6582 3.2, RFC 6675 5.1: after a timeout, duplicate ACKs below the recovery point say nothing new.
        if self.hot.snd.una.before(self.cold.loss.recover)
            && self.cold.loss.recover.at_or_before(self.hot.snd.nxt)
        {
            return;
        }
        self.halve_threshold();
        self.hot.snd.cwnd = self.hot.snd.ssthresh;
        self.begin_recovery(edge.later(self.hot.snd.una.plus(self.mss())));
        self.counters.tcp.recoveries = self.counters.tcp.recoveries.wrapping_add(1);
    }

    /// A timeout: everything in flight that was not reported is lost (RFC 6298 5.4, RFC 5681 3.1).
    pub(super) fn enter_loss(&mut self, first: bool) {
        if first {
            self.halve_threshold();
        }
        // RFC 2018 8: a peer that reports what begins at SND.UNA has thrown reported data away.
        if self.sacked_runs().first().is_some_and(|r| r.left.at_or_before(self.hot.snd.una)) {
            self.drop_board();
        }
        self.hot.snd.cwnd = self.mss();
        self.set(flag::LOSS);
        self.begin_recovery(self.hot.snd.nxt);
    }

    /// Everything in flight was dropped on the way, though not by congestion: it goes again.
    pub(super) fn resend_all(&mut self) {
        if self.flight() > 0 {
            self.drop_board();
            self.begin_recovery(self.hot.snd.nxt);
        }
    }

    fn begin_recovery(&mut self, lost_edge: SeqNum) {
        let loss = &mut self.cold.loss;
        loss.recover = self.hot.snd.nxt;
        loss.high_rxt = self.hot.snd.una;
        loss.head_mark = self.hot.snd.nxt;
        loss.lost_edge = lost_edge.earlier(self.hot.snd.nxt);
        // Karn's rule (RFC 6298 3): what was sent twice is not timed.
        self.clear(flag::TIMING | flag::TAIL_PROBE | flag::TAIL_PROBED);
        self.set(flag::RECOVERY);
        self.enqueue(Ring::Data);
    }

    /// `acked` new bytes were acknowledged during recovery, when `flight` bytes were out.
    pub(super) fn recovery_ack(&mut self, acked: u32, flight: u32) {
        let una = self.hot.snd.una;
        if una.at_or_after(self.cold.loss.recover) {
            if !self.any(flag::LOSS) {
                // RFC 6582 3.2 step 3, option 1: no burst at the end.
                let flight = self.flight();
                self.hot.snd.cwnd = self
                    .hot
                    .snd
                    .ssthresh
                    .min(flight.saturating_add(2 * self.mss()).max(self.hot.snd.ssthresh / 2));
            }
            self.clear(flag::RECOVERY | flag::LOSS);
            self.hot.dup_acks = 0;
            return;
        }
        let mss = self.mss();
        let loss = &mut self.cold.loss;
        loss.high_rxt = loss.high_rxt.later(una);
        loss.lost_edge = loss.lost_edge.later(una);
        // What is at SND.UNA now may have been sent again just before: only what is sent from now on tells.
        loss.head_mark = self.hot.snd.nxt;
        if self.any(flag::LOSS) {
            self.grow_window(acked, flight.max(self.hot.snd.cwnd));
        } else if self.any(flag::SACK) {
            let edge = self.lost_edge_by_sack();
            self.cold.loss.lost_edge = self.cold.loss.lost_edge.later(edge);
        } else {
            // RFC 6582 3.2 step 3: a partial ACK shows that the next segment is lost too.
            let segments = (acked / mss).min(255) as u8;
            self.hot.dup_acks = self.hot.dup_acks.saturating_sub(segments);
            self.cold.loss.high_rxt = una;
            self.cold.loss.lost_edge = una.plus(mss).earlier(self.hot.snd.nxt);
        }
        self.enqueue(Ring::Data);
    }

    /// What to send again next, and how much of it the congestion window allows (RFC 6675 4, NextSeg rules 1 and 3).
    pub(super) fn next_lost(&self) -> Option<SeqRange> {
        if !self.any(flag::RECOVERY) {
            return None;
        }
        let from = self.cold.loss.high_rxt.later(self.hot.snd.una);
        let data_end = self.data_end().earlier(self.hot.snd.end);
        let first = !self.cold.loss.high_rxt.after(self.hot.snd.una);
        if self.head_is_lost_again() {
            let len = self.mss();
            return self.hole(self.hot.snd.una, self.hot.snd.una.plus(len).earlier(data_end));
        }
        let hole = self.hole(from, self.cold.loss.lost_edge.earlier(data_end)).or_else(|| {
            // Rule 3: nothing is known to be lost, nothing new may go, but there are holes below what was reported.
            let top = self.sacked_runs().last().map(|r| r.left)?;
            if self.unsent() > 0 { None } else { self.hole(from, top.earlier(data_end)) }
        })?;
        let room = self.hot.snd.cwnd.saturating_sub(self.pipe());
        let mss = self.mss();
        // The first retransmission goes out whatever the window says (RFC 6675 5, step 4.3).
        let room = if first { room.max(mss) } else { room };
        let len = hole.right.since(hole.left);
        let len = if len <= room { len } else { room - room % mss };
        (len > 0).then_some(SeqRange { left: hole.left, right: hole.left.plus(len) })
    }

    /// Was the retransmission of what is at SND.UNA lost too? Data that was first sent after it has been reported. RFC 6675
    /// leaves this to the timeout; the test is that of RFC 8985's idea in sequence numbers instead of times.
    fn head_is_lost_again(&self) -> bool {
        let loss = &self.cold.loss;
        if !loss.high_rxt.after(self.hot.snd.una) || loss.head_mark == self.hot.snd.nxt {
            return false;
        }
        let above = |r: &SeqRange| {
            let left = r.left.later(loss.head_mark);
            if left.before(r.right) { r.right.since(left) } else { 0 }
        };
        let bytes = self.sacked_runs().iter().map(above).fold(0, u32::saturating_add);
        bytes > (DUP_THRESH - 1) * self.mss()
    }

    /// Is our FIN the only thing that is lost?
    pub(super) fn fin_is_lost(&self) -> bool {
        self.any(flag::RECOVERY)
            && self.any(flag::FIN_SENT)
            && self.cold.loss.lost_edge.after(self.hot.snd.end)
            && self.cold.loss.high_rxt.at_or_before(self.hot.snd.end)
            && self.hole(self.cold.loss.high_rxt.later(self.hot.snd.una), self.hot.snd.end).is_none()
    }
}
