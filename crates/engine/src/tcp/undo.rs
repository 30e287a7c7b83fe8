//! False alarms: reports of what came twice (RFC 2883), recoveries and timeouts that were not needed (Eifel: RFC 3522, RFC 4015), and
//! what a tail loss probe has shown (RFC 8985 7.4).

use ::state::{RackState, SeqRange};
use base::SeqNum;

use super::conn::{Conn, Ring};
use super::flag;
use super::segment::Seg;

/// Bits of [`RackState::flags`].
mod bit {
    /// There is a recovery to be undone.
    pub(super) const UNDO: u32 = 1;
    /// `undo_stamp` counts.
    pub(super) const STAMPED: u32 = 1 << 1;
    /// A tail loss probe that was sent before is under way.
    pub(super) const PROBE: u32 = 1 << 2;
    /// The ACK in hand reports what came twice.
    pub(super) const TWICE: u32 = 1 << 3;
    /// All that was sent again came twice.
    pub(super) const ALL_TWICE: u32 = 1 << 4;
}

/// `range` is sent again, with the timestamp `stamp`.
pub(super) fn note_resent(rack: &mut RackState, range: SeqRange, stamp: u32) {
    rack.resent_top = rack.resent_top.later(range.right);
    if rack.flags & bit::UNDO != 0 {
        rack.undo_bytes = rack.undo_bytes.saturating_add(range.right.since(range.left));
        if rack.flags & bit::STAMPED == 0 {
            // An ACK of what an earlier recovery sent again tells nothing of this one, so only what covers `range` counts.
            rack.undo_una = rack.undo_una.later(range.left);
            rack.undo_stamp = stamp;
            rack.flags |= bit::STAMPED;
        }
    }
}

impl Conn<'_, '_> {
    /// Takes the first block of `seg` if it reports what came twice (RFC 2883 4). True: it does.
    pub(super) fn note_twice(&mut self, seg: &Seg) -> bool {
        let blocks = seg.options.sack.as_slice();
        let Some(first) = blocks.first().filter(|b| b.left.before(b.right)) else { return false };
        let inside =
            |b: &wire::SackBlock| first.left.at_or_after(b.left) && first.right.at_or_before(b.right);
        if !first.right.at_or_before(seg.ack) && !blocks.get(1).is_some_and(inside) {
            return false;
        }
        self.counters.tcp.twice_in = self.counters.tcp.twice_in.wrapping_add(1);
        // What the network doubled, or an attacker made up, is not ours to learn from.
        let ours = first.right.since(first.left) <= self.hot.snd.wnd_max && self.cold.loss.retransmits > 0;
        let mut probed = false;
        if let Some(board) = self.boards.get_mut(self.cold.board).filter(|_| ours) {
            let rack = &mut board.rack;
            rack.flags |= bit::TWICE;
            probed = rack.flags & bit::PROBE != 0;
            if rack.undo_bytes > 0 && first.right.after(rack.undo_una) {
                rack.undo_bytes = rack.undo_bytes.saturating_sub(first.right.since(first.left));
                let all = rack.undo_bytes == 0 && rack.flags & bit::UNDO != 0;
                rack.flags |= if all { bit::ALL_TWICE } else { 0 };
            }
        }
        if ours && !probed {
            self.widen_reorder_window();
        }
        true
    }

    /// A recovery or the first timeout of one begins: what it takes to undo it.
    pub(super) fn prepare_undo(&mut self) {
        if !self.any(flag::SACK | flag::TIMESTAMPS) || !self.ensure_board() {
            return;
        }
        let (una, cwnd, ssthresh) = (self.hot.snd.una, self.hot.snd.cwnd, self.hot.snd.ssthresh);
        // What was sent again before may still be reported to have come twice, which says nothing of this recovery.
        let under_way = self.resent_before(self.hot.snd.nxt);
        let Some(board) = self.boards.get_mut(self.cold.board) else { return };
        let rack = &mut board.rack;
        rack.flags = rack.flags & !(bit::PROBE | bit::STAMPED | bit::ALL_TWICE) | bit::UNDO;
        let forgotten = if una.before(rack.forgotten_until) { rack.undo_bytes } else { 0 };
        (rack.undo_una, rack.undo_bytes) = (una, under_way.saturating_add(forgotten));
        (rack.undo_cwnd, rack.undo_ssthresh) = (cwnd, ssthresh);
    }

    /// Does `seg`, the first to acknowledge what was sent again, answer the first transmission of it (RFC 3522 3.2)? Its timestamp tells.
    pub(super) fn answers_original(&self, seg: &Seg) -> bool {
        let (Some(board), Some(ts)) = (self.boards.get(self.cold.board), seg.options.timestamps) else {
            return false;
        };
        let rack = &board.rack;
        let both = bit::UNDO | bit::STAMPED;
        rack.flags & both == both
            && self.any(flag::TIMESTAMPS)
            && ts.echo != 0
            && (ts.echo.wrapping_sub(rack.undo_stamp) as i32) < 0
            && self.hot.snd.una.after(rack.undo_una)
    }

    /// Nothing was lost: windows are as before, and what is in flight is taken to be in flight (RFC 4015 3).
    pub(super) fn undo_recovery(&mut self) {
        let (una, nxt) = (self.hot.snd.una, self.hot.snd.nxt);
        let Some(board) = self.boards.get_mut(self.cold.board) else { return };
        let (cwnd, ssthresh) = (board.rack.undo_cwnd, board.rack.undo_ssthresh);
        board.rack.flags &= !(bit::UNDO | bit::STAMPED | bit::ALL_TWICE);
        board.resent_count = 0;
        board.rack.forgotten_until = nxt;
        let loss = &mut self.cold.loss;
        (loss.recover, loss.high_rxt, loss.lost_edge) = (una, una, una);
        self.clear(flag::RECOVERY | flag::LOSS);
        self.hot.dup_acks = 0;
        self.undo(cwnd, ssthresh);
        self.counters.tcp.undone = self.counters.tcp.undone.wrapping_add(1);
        self.enqueue(Ring::Data);
    }

    /// The recovery is over: reports that all of it came twice still count for a round trip.
    pub(super) fn await_undo(&mut self) {
        let nxt = self.hot.snd.nxt;
        let lasts = self.any(flag::SACK) && (self.flight() > 0 || self.has_data());
        if let Some(board) = self.boards.get_mut(self.cold.board) {
            board.rack.undo_until = nxt.plus(1);
            if !lasts {
                board.rack.flags &= !(bit::UNDO | bit::STAMPED);
            }
        }
    }

    /// A tail loss probe sends again what ends at `end`.
    pub(super) fn note_probe(&mut self, end: SeqNum) {
        let stamp = self.timestamp_clock();
        if self.ensure_board()
            && let Some(board) = self.boards.get_mut(self.cold.board)
        {
            board.rack.flags |= bit::PROBE;
            (board.rack.probe_end, board.rack.probe_stamp) = (end, stamp);
        }
    }

    /// What the ACK `seg` says of the probe (RFC 8985 7.4.2). `dry`: it acknowledges nothing new and reports nothing.
    fn judge_probe(&mut self, seg: &Seg, dry: bool) {
        let timestamps = self.any(flag::TIMESTAMPS);
        let idle = self.flight() == 0;
        let Some(board) = self.boards.get_mut(self.cold.board) else { return };
        let rack = &mut board.rack;
        if rack.flags & bit::PROBE == 0 || seg.ack.before(rack.probe_end) {
            return;
        }
        let repaired = if rack.flags & bit::TWICE != 0 || dry {
            false
        } else if let Some(ts) = seg.options.timestamps.filter(|_| timestamps) {
            // Better than waiting for later ACKs: the echo tells which of the two came first.
            (ts.echo.wrapping_sub(rack.probe_stamp) as i32) >= 0
        } else if seg.ack.after(rack.probe_end) {
            true
        } else if idle {
            false
        } else {
            return;
        };
        rack.flags &= !bit::PROBE;
        if repaired && !self.any(flag::RECOVERY) {
            // The probe repaired a loss that nothing else has shown: it was congestion all the same.
            self.on_loss_event();
            self.on_recovery_end();
            self.counters.tcp.loss_probe_repairs = self.counters.tcp.loss_probe_repairs.wrapping_add(1);
        }
    }

    /// The last step of every ACK while there is a scoreboard. `dry`: it acknowledges nothing new and reports nothing.
    pub(super) fn after_ack(&mut self, seg: &Seg, dry: bool) {
        self.judge_probe(seg, dry);
        let all_twice = self.boards.get(self.cold.board).is_some_and(|b| b.rack.flags & bit::ALL_TWICE != 0);
        if all_twice {
            self.undo_recovery();
        }
        if self.any(flag::SACK) {
            self.find_losses();
        }
        let una = self.hot.snd.una;
        let top = self.sacked_runs().last().map_or(una, |r| r.right);
        let recovering = self.any(flag::RECOVERY);
        let Some(board) = self.boards.get_mut(self.cold.board) else { return };
        let rack = &mut board.rack;
        rack.fack = rack.fack.later(top).later(una);
        rack.flags &= !bit::TWICE;
        if !recovering && una.at_or_after(rack.undo_until) {
            rack.flags &= !(bit::UNDO | bit::STAMPED);
        }
        let round = una.before(rack.twice_round);
        if !recovering && board.count == 0 && rack.flags & (bit::UNDO | bit::PROBE) == 0 && !round {
            self.drop_board();
        }
    }
}
