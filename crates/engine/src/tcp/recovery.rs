//! What to send again, and when that is over: recovery with SACK (RFC 6675, its losses found by `rack`), NewReno for peers without
//! SACK (RFC 6582), limited transmit (RFC 3042), and recovery after a timeout.

use ::state::SeqRange;
use base::SeqNum;

use super::conn::{Conn, Ring};
use super::flag;

/// Duplicate ACKs that mean a loss (RFC 5681 3.2, RFC 6675 2).
pub(super) const DUP_THRESH: u32 = 3;

impl Conn<'_, '_> {
    /// Bytes that are believed to be in flight (RFC 6675 4, SetPipe).
    pub(super) fn pipe(&self) -> u32 {
        let (una, nxt) = (self.hot.snd.una, self.hot.snd.nxt);
        let lost = self.cold.loss.lost_edge.later(una);
        let resent = self.cold.loss.high_rxt.later(una);
        if self.any(flag::SACK) && !self.cold.board.is_none() {
            return self.unsacked(lost, nxt).saturating_add(self.resent_before(lost));
        }
        if self.any(flag::SACK | flag::LOSS) {
            return self.unsacked(lost, nxt).saturating_add(self.unsacked(una, resent));
        }
        // Without SACK each duplicate ACK stands for one segment that has left the network (RFC 6582 3.2).
        let left = u32::from(self.hot.dup_acks).saturating_mul(self.mss());
        let unsent_again = if resent.before(lost) { lost.since(resent) } else { 0 };
        nxt.since(una).saturating_sub(left).saturating_sub(unsent_again)
    }

    /// A duplicate ACK, or one with news in its SACK blocks, came. With SACK, time decides what is lost (`rack`).
    pub(super) fn on_dup_ack(&mut self) {
        if self.any(flag::RECOVERY) {
            self.enqueue(Ring::Data);
            return;
        }
        let blind = !self.any(flag::SACK) || self.cold.board.is_none();
        if blind && u32::from(self.hot.dup_acks) >= DUP_THRESH {
            self.enter_recovery(self.hot.snd.una.plus(self.mss()));
        } else if self.unsent() > 0 {
            // RFC 3042: the first two duplicate ACKs each let one new segment out.
            self.enqueue(Ring::Data);
        }
    }

    /// Fast retransmit: what is not reported before `edge` is lost (RFC 6675 5, step 4).
    pub(super) fn enter_recovery(&mut self, edge: SeqNum) {
        // RFC 6582 3.2, RFC 6675 5.1: after a timeout, duplicate ACKs below the recovery point say nothing new.
        if self.hot.snd.una.before(self.cold.loss.recover)
            && self.cold.loss.recover.at_or_before(self.hot.snd.nxt)
        {
            return;
        }
        if self.takes_for_probe(edge) {
            return;
        }
        self.prepare_undo();
        self.on_loss_event();
        self.begin_recovery(edge);
        self.counters.tcp.recoveries = self.counters.tcp.recoveries.wrapping_add(1);
    }

    /// A timeout: everything in flight that was not reported is lost (RFC 6298 5.4, RFC 5681 3.1).
    pub(super) fn enter_loss(&mut self, first: bool) {
        if first && !self.any(flag::RECOVERY) {
            self.prepare_undo();
        }
        self.on_rto(first);
        // RFC 2018 8: a peer that reports what begins at SND.UNA has thrown reported data away.
        if self.sacked_runs().first().is_some_and(|r| r.left.at_or_before(self.hot.snd.una)) {
            self.forget_reports();
        }
        self.forget_resent();
        self.set(flag::LOSS);
        self.begin_recovery(self.hot.snd.nxt);
    }

    /// Everything in flight was dropped on the way, though not by congestion: it goes again.
    pub(super) fn resend_all(&mut self) {
        if self.flight() > 0 {
            self.forget_reports();
            self.resend_until(self.hot.snd.nxt);
        }
    }

    /// What is not reported before `edge` was dropped on the way, though not by congestion: it goes again, in the window that there is.
    pub(super) fn resend_until(&mut self, edge: SeqNum) {
        // As after a timeout, but without one: no rate reduction, and no threshold to come down to.
        self.set(flag::LOSS);
        self.begin_recovery(edge);
    }

    fn begin_recovery(&mut self, lost_edge: SeqNum) {
        let loss = &mut self.cold.loss;
        loss.recover = self.hot.snd.nxt;
        loss.high_rxt = self.hot.snd.una;
        loss.lost_edge = lost_edge.earlier(self.hot.snd.nxt);
        self.clear(flag::TAIL_PROBE | flag::TAIL_PROBED);
        self.set(flag::RECOVERY);
        self.enqueue(Ring::Data);
    }

    /// `acked` new bytes were acknowledged during recovery, when `flight` bytes were out.
    pub(super) fn recovery_ack(&mut self, acked: u32, flight: u32) {
        let una = self.hot.snd.una;
        if una.at_or_after(self.cold.loss.recover) {
            if !self.any(flag::LOSS) {
                self.on_recovery_end();
            }
            self.clear(flag::RECOVERY | flag::LOSS);
            self.hot.dup_acks = 0;
            self.narrow_reorder_window();
            self.await_undo();
            return;
        }
        let mss = self.mss();
        let loss = &mut self.cold.loss;
        loss.high_rxt = loss.high_rxt.later(una);
        loss.lost_edge = loss.lost_edge.later(una);
        self.on_recovery_ack(acked, flight);
        if !self.any(flag::LOSS | flag::SACK) {
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
        let hole = self.next_hole(from, self.cold.loss.lost_edge.earlier(data_end)).or_else(|| {
            // Rule 3: nothing is known to be lost, nothing new may go, but there are holes below what was reported.
            let top = self.sacked_runs().last().map(|r| r.left)?;
            if self.unsent() > 0 { None } else { self.next_hole(from, top.earlier(data_end)) }
        })?;
        let room = self.hot.snd.cwnd.saturating_sub(self.pipe());
        let mss = self.mss();
        // The first retransmission goes out whatever the window says (RFC 6675 5, step 4.3).
        let room = if first { room.max(mss) } else { room };
        let len = hole.right.since(hole.left);
        let len = if len <= room { len } else { room - room % mss };
        (len > 0).then_some(SeqRange { left: hole.left, right: hole.left.plus(len) })
    }

    /// Is our FIN the only thing that is lost?
    pub(super) fn fin_is_lost(&self) -> bool {
        self.any(flag::RECOVERY)
            && self.any(flag::FIN_SENT)
            && self.cold.loss.lost_edge.after(self.hot.snd.end)
            && self.cold.loss.high_rxt.at_or_before(self.hot.snd.end)
            && self.next_hole(self.cold.loss.high_rxt.later(self.hot.snd.una), self.hot.snd.end).is_none()
    }
}
