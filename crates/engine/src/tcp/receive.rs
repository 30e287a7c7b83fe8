//! What arrives: in order into the receive queue, out of order beside it, and FIN (RFC 9293 3.10.7.4, seventh and eighth
//! step; RFC 2018 3 for the runs that are reported).
//!
//! Invariant: the frames from `ooo_head` on are ascending by `seq` and apart from each other; all lie above RCV.NXT.

use ::state::{DropReason, RCV_SACKS, Ready, SeqRange, TcbHot};
use base::limits::FRAME_BYTES;
use base::{FrameIdx, Instant, SeqNum};
use region::{FrameMeta, Frames};

use super::conn::{Conn, Fate};
use super::segment::Seg;
use super::{Cause, DELAYED_ACK, OWES_TWICE, RESERVE_FRAMES, State, flag};

/// Payloads up to this are copied behind the one before, so that they do not pin a frame each, bytes.
pub(super) const COMPACT_MAX: u16 = 512;
/// Unread bytes that a connection may hold while frames are short.
const SHARE_BYTES: u32 = 16 * 1024;
/// Segments acknowledged at once at the start and after a gap (Linux's TCP_MAX_QUICKACKS).
pub(super) const QUICK_ACKS: u8 = 16;

impl Conn<'_, '_> {
    /// Takes the payload and the FIN of an acceptable segment.
    pub(super) fn process_data(&mut self, seg: &mut Seg) -> Fate {
        self.process_urgent(seg);
        if seg.len > 0 {
            let fate = self.process_payload(seg);
            if fate != Fate::Keep {
                return fate;
            }
        }
        if seg.flags.is_fin() {
            self.note_fin(seg.data_end());
        }
        if self.any(flag::FIN_AHEAD) && self.cold.fin_seq == self.hot.rcv.nxt {
            return self.on_fin();
        }
        Fate::Keep
    }

    fn process_payload(&mut self, seg: &mut Seg) -> Fate {
        if !self.state().may_receive() {
            // What follows the peer's FIN is ignored (RFC 9293 3.10.7.4, seventh step).
            return Fate::Keep;
        }
        let end = seg.data_end();
        if end.at_or_before(self.hot.rcv.nxt) {
            self.drop_packet(DropReason::TcpDuplicate);
            self.note_came_twice(SeqRange { left: seg.seq, right: end });
            self.quick();
            self.ack_now();
            return Fate::Keep;
        }
        if self.any(flag::SHUT_READ) && self.state() != State::Established {
            // RFC 1122 4.2.2.13, RFC 2525 2.17: the program has closed, nobody will read this; the peer must hear of it.
            self.drop_packet(DropReason::TcpAfterClose);
            return Fate::Reset(crate::errors::SockError::Reset);
        }
        if self.must_refuse() {
            self.drop_packet(DropReason::OutOfFrames);
            return Fate::Keep;
        }
        if seg.seq.before(self.hot.rcv.nxt) {
            self.note_came_twice(SeqRange { left: seg.seq, right: self.hot.rcv.nxt });
        }
        let head = self.clip(seg);
        if head.is_none() {
            self.drop_packet(DropReason::TcpRcvBufFull);
            self.ack_now();
            return Fate::Keep;
        }
        let first = self.frames.meta(head).map_or(self.hot.rcv.nxt, |m| SeqNum(m.seq));
        if first == self.hot.rcv.nxt {
            let had_gap = !self.hot.ooo_head.is_none();
            self.deliver(head);
            if had_gap {
                self.join_out_of_order();
            }
            self.schedule_ack(had_gap, seg.gso_size != 0);
        } else {
            self.queue_out_of_order(head);
            self.quick();
            self.owe_duplicate();
            self.ack_now();
        }
        Fate::Keep
    }

    /// Numbers the frames of the payload, and cuts off what lies before RCV.NXT or behind the window.
    fn clip(&mut self, seg: &mut Seg) -> FrameIdx {
        let (from, to) = (self.hot.rcv.nxt, self.hot.rcv.edge);
        let mut at = seg.take_payload();
        let (mut head, mut last) = (FrameIdx::NONE, FrameIdx::NONE);
        let mut seq = seg.seq;
        let mut left = seg.len;
        for _ in 0..self.frames.count() {
            let Some(meta) = self.frames.meta_mut(at) else { break };
            let next = core::mem::replace(&mut meta.next, FrameIdx::NONE);
            meta.len = u32::from(meta.len).min(left) as u16;
            meta.seq = seq.0;
            left -= u32::from(meta.len);
            seq = seq.plus(u32::from(meta.len));
            if keep(meta, from, to) {
                match self.frames.meta_mut(last) {
                    Some(before) => before.next = at,
                    None => head = at,
                }
                last = at;
            } else {
                self.frames.release(at);
            }
            at = next;
        }
        head
    }

    /// Appends the chain `head`, which begins at RCV.NXT, to the receive queue.
    pub(super) fn deliver(&mut self, head: FrameIdx) {
        let mut at = head;
        let before = self.hot.rcv.nxt;
        for _ in 0..self.frames.count() {
            let Some(meta) = self.frames.meta_mut(at) else { break };
            let next = core::mem::replace(&mut meta.next, FrameIdx::NONE);
            let len = meta.len;
            self.hot.rcv.nxt = self.hot.rcv.nxt.plus(u32::from(len));
            let small = len <= COMPACT_MAX || self.frames.is_short(RESERVE_FRAMES);
            if !small || !self.compact(at, len) {
                self.link(at);
            }
            at = next;
        }
        let got = self.hot.rcv.nxt.since(before);
        self.hot.rcv_bytes = self.hot.rcv_bytes.saturating_add(got);
        self.cold.bytes_in = self.cold.bytes_in.wrapping_add(u64::from(got));
        if self.hot.rcv_bytes >= self.cold.options.rcv_low_bytes.min(self.hot.rcv_buf / 2) {
            self.notify(Ready::IN);
        }
    }

    fn link(&mut self, at: FrameIdx) {
        let before = core::mem::replace(&mut self.hot.rcv_queue.tail, at);
        match self.frames.meta_mut(before) {
            Some(last) if !self.hot.rcv_queue.head.is_none() => last.next = at,
            _ => self.hot.rcv_queue.head = at,
        }
    }

    /// Copies the `len` bytes of frame `at` behind the last unread byte and releases it. False: there is no room.
    fn compact(&mut self, at: FrameIdx, len: u16) -> bool {
        let tail = self.hot.rcv_queue.tail;
        let Some(meta) = self.frames.meta(tail) else { return false };
        let end = usize::from(meta.offset) + usize::from(meta.len);
        let len_bytes = usize::from(len);
        if self.hot.rcv_queue.head.is_none() || meta.refs != 1 || end + len_bytes > FRAME_BYTES {
            return false;
        }
        let offset = self.frames.meta(at).map_or(0, |m| usize::from(m.offset));
        if !self.frames.copy((at, offset), (tail, end), len_bytes) {
            return false;
        }
        if let Some(meta) = self.frames.meta_mut(tail) {
            meta.len += len;
        }
        self.frames.release(at);
        self.counters.tcp.compacted = self.counters.tcp.compacted.wrapping_add(1);
        true
    }

    /// Must the payload be dropped, because frames are short and this connection holds its share already? Then what the lane
    /// has left goes on to be there for those whose program reads.
    #[inline]
    pub(super) fn must_refuse(&self) -> bool {
        must_refuse(self.hot, self.frames)
    }

    /// When to acknowledge data that came in order (RFC 9293 3.8.6.3, RFC 5681 4.2).
    #[inline]
    pub(super) fn schedule_ack(&mut self, filled_gap: bool, merged: bool) {
        if ack_is_due(self.hot, self.now, filled_gap || merged) {
            self.ack_now();
        }
    }

    /// What came twice is reported with the next ACK (RFC 2883 4), in the last place of the runs.
    pub(super) fn note_came_twice(&mut self, range: SeqRange) {
        if !self.any(flag::SACK) || self.owes_twice() {
            return;
        }
        let ooo = &mut self.cold.ooo;
        if let Some(last) = ooo.runs.last_mut() {
            *last = range;
            ooo.run_count = ooo.run_count.min(RCV_SACKS as u8 - 1);
            ooo.fresh = ooo.fresh.min(ooo.run_count);
            self.cold.acks_owed |= OWES_TWICE;
        }
    }

    /// Is there a report of what came twice to be made?
    #[inline]
    pub(super) fn owes_twice(&self) -> bool {
        self.cold.acks_owed & OWES_TWICE != 0
    }

    /// The peer is in recovery: it needs each ACK at once for a while.
    fn quick(&mut self) {
        self.hot.quick_acks = QUICK_ACKS;
    }

    /// A peer without SACK counts duplicate ACKs, so it gets one for each segment, up to the three that matter.
    fn owe_duplicate(&mut self) {
        if !self.any(flag::SACK) && self.any(flag::ACK_NOW) {
            self.cold.acks_owed = self.cold.acks_owed.saturating_add(1).min(3);
        }
    }

    /// Queues the chain `head`, all of it above RCV.NXT.
    fn queue_out_of_order(&mut self, head: FrameIdx) {
        self.counters.tcp.out_of_order = self.counters.tcp.out_of_order.wrapping_add(1);
        // Frames out of order can pile up without anybody being able to read them: not when frames are short.
        let too_many = self.cold.ooo.frames > self.hot.rcv_buf / 1024 + 64;
        if too_many || self.frames.is_short(RESERVE_FRAMES) {
            self.drop_packet(DropReason::TcpOutOfOrderFull);
            self.frames.release_chain(head);
            return;
        }
        let mut at = head;
        let mut hint = FrameIdx::NONE;
        let mut run: Option<SeqRange> = None;
        for _ in 0..self.frames.count() {
            let Some(meta) = self.frames.meta_mut(at) else { break };
            let next = core::mem::replace(&mut meta.next, FrameIdx::NONE);
            let (left, right) = span(meta);
            run = Some(SeqRange { left: run.map_or(left, |r| r.left), right });
            hint = self.insert_out_of_order(at, hint);
            at = next;
        }
        if let Some(run) = run {
            self.report(run);
        }
    }

    /// Puts frame `at` into its place, looking from `hint` on; what is there already is cut off or released. Gives a hint for
    /// the next frame.
    fn insert_out_of_order(&mut self, at: FrameIdx, hint: FrameIdx) -> FrameIdx {
        let Some((mut left, right)) = self.frames.meta(at).map(span) else { return hint };
        // The frame behind which it belongs. Most come behind the last one.
        let mut before = hint;
        let tail = self.cold.ooo.tail;
        if self.frames.meta(tail).is_some_and(|m| SeqNum(m.seq).at_or_before(left))
            && !self.hot.ooo_head.is_none()
        {
            before = tail;
        }
        for _ in 0..self.frames.count() {
            let next = self.after_out_of_order(before);
            match self.frames.meta(next) {
                Some(m) if SeqNum(m.seq).at_or_before(left) => before = next,
                _ => break,
            }
        }
        if let Some(end) = self.frames.meta(before).map(|m| span(m).1)
            && end.after(left)
        {
            if end.at_or_after(right) {
                self.frames.release(at);
                self.note_came_twice(SeqRange { left, right });
                return before;
            }
            self.cut_front(at, end.since(left));
            left = end;
        }
        // What the new frame covers goes; what it reaches into stays, and the new one ends there.
        for _ in 0..self.frames.count() {
            let next = self.after_out_of_order(before);
            let Some(meta) = self.frames.meta(next) else { break };
            let (next_left, next_right) = span(meta);
            if next_left.at_or_after(right) {
                break;
            }
            if next_right.after(right) {
                if let Some(m) = self.frames.meta_mut(at) {
                    m.len = next_left.since(left) as u16;
                }
                break;
            }
            self.unlink_out_of_order(before, next);
        }
        self.link_out_of_order(before, at);
        at
    }

    /// The frame behind `before` in the out-of-order queue; the first one for none.
    fn after_out_of_order(&self, before: FrameIdx) -> FrameIdx {
        self.frames.meta(before).map_or(self.hot.ooo_head, |m| m.next)
    }

    fn link_out_of_order(&mut self, before: FrameIdx, at: FrameIdx) {
        let next = self.after_out_of_order(before);
        let len = self.frames.meta_mut(at).map_or(0, |m| {
            m.next = next;
            u32::from(m.len)
        });
        match self.frames.meta_mut(before) {
            Some(m) => m.next = at,
            None => self.hot.ooo_head = at,
        }
        if next.is_none() {
            self.cold.ooo.tail = at;
        }
        self.cold.ooo.bytes = self.cold.ooo.bytes.saturating_add(len);
        self.cold.ooo.frames = self.cold.ooo.frames.saturating_add(1);
    }

    fn unlink_out_of_order(&mut self, before: FrameIdx, at: FrameIdx) {
        let (next, len) = self.frames.meta(at).map_or((FrameIdx::NONE, 0), |m| (m.next, u32::from(m.len)));
        match self.frames.meta_mut(before) {
            Some(m) => m.next = next,
            None => self.hot.ooo_head = next,
        }
        if next.is_none() {
            self.cold.ooo.tail = before;
        }
        self.cold.ooo.bytes = self.cold.ooo.bytes.saturating_sub(len);
        self.cold.ooo.frames = self.cold.ooo.frames.saturating_sub(1);
        self.frames.release(at);
    }

    fn cut_front(&mut self, at: FrameIdx, bytes: u32) {
        if let Some(m) = self.frames.meta_mut(at) {
            let n = bytes.min(u32::from(m.len)) as u16;
            m.offset = m.offset.saturating_add(n);
            m.len -= n;
            m.seq = SeqNum(m.seq).plus(u32::from(n)).0;
        }
    }

    /// RCV.NXT has reached what came out of order: delivers as much as follows.
    fn join_out_of_order(&mut self) {
        for _ in 0..self.frames.count() {
            let head = self.hot.ooo_head;
            let Some((left, right)) = self.frames.meta(head).map(span) else { break };
            if left.after(self.hot.rcv.nxt) {
                break;
            }
            let (next, len) =
                self.frames.meta(head).map_or((FrameIdx::NONE, 0), |m| (m.next, u32::from(m.len)));
            self.hot.ooo_head = next;
            if next.is_none() {
                self.cold.ooo.tail = FrameIdx::NONE;
            }
            self.cold.ooo.bytes = self.cold.ooo.bytes.saturating_sub(len);
            self.cold.ooo.frames = self.cold.ooo.frames.saturating_sub(1);
            if right.at_or_before(self.hot.rcv.nxt) {
                self.frames.release(head);
                continue;
            }
            self.cut_front(head, self.hot.rcv.nxt.since(left));
            if let Some(m) = self.frames.meta_mut(head) {
                m.next = FrameIdx::NONE;
            }
            self.deliver(head);
        }
        self.forget_runs();
    }

    /// Notes that `run` was received, as the first to be reported (RFC 2018 4).
    fn report(&mut self, mut run: SeqRange) {
        let twice = self.owes_twice();
        let ooo = &mut self.cold.ooo;
        let old = ooo.runs;
        let count = usize::from(ooo.run_count).min(RCV_SACKS);
        let most = RCV_SACKS - usize::from(twice);
        let mut kept = [SeqRange::default(); RCV_SACKS];
        let mut n = 1;
        let mut fresh = usize::from(ooo.fresh) + 1;
        for (i, r) in old.iter().take(count).enumerate() {
            if r.left.at_or_before(run.right) && run.left.at_or_before(r.right) {
                run.left = run.left.earlier(r.left);
                run.right = run.right.later(r.right);
                fresh -= usize::from(i < usize::from(ooo.fresh));
            } else if let Some(slot) = kept.get_mut(n).filter(|_| n < most) {
                *slot = *r;
                n += 1;
            }
        }
        if let Some(first) = kept.first_mut() {
            *first = run;
        }
        if twice {
            kept[RCV_SACKS - 1] = old[RCV_SACKS - 1];
        }
        ooo.runs = kept;
        ooo.run_count = n as u8;
        ooo.fresh = fresh.clamp(1, n) as u8;
    }

    /// Forgets runs that RCV.NXT has passed.
    fn forget_runs(&mut self) {
        let nxt = self.hot.rcv.nxt;
        let ooo = &mut self.cold.ooo;
        let old = ooo.runs;
        let count = usize::from(ooo.run_count).min(RCV_SACKS);
        let mut n = 0;
        for r in old.iter().take(count).filter(|r| r.left.after(nxt)) {
            if let Some(slot) = ooo.runs.get_mut(n) {
                *slot = *r;
                n += 1;
            }
        }
        ooo.run_count = if self.hot.ooo_head.is_none() { 0 } else { n as u8 };
        ooo.fresh = ooo.fresh.min(ooo.run_count);
    }

    /// The peer's FIN is at `seq`, which may still be ahead.
    fn note_fin(&mut self, seq: SeqNum) {
        if self.any(flag::FIN_RCVD) {
            // Our ACK of it got lost (RFC 9293 3.10.7.4, eighth step).
            if self.state() == State::TimeWait {
                let _ = self.start_time_wait();
            }
            self.ack_now();
        } else if seq.at_or_after(self.hot.rcv.nxt) {
            self.cold.fin_seq = seq;
            self.set(flag::FIN_AHEAD);
            if seq.after(self.hot.rcv.nxt) {
                self.ack_now();
            }
        }
    }

    /// The peer's FIN is in order (RFC 9293 3.10.7.4, eighth step).
    pub(super) fn on_fin(&mut self) -> Fate {
        self.clear(flag::FIN_AHEAD);
        self.set(flag::FIN_RCVD);
        self.hot.rcv.nxt = self.hot.rcv.nxt.plus(1);
        self.drop_out_of_order();
        self.ack_now();
        let state = self.go(Cause::RecvFin);
        let hup = if state == State::CloseWait { Ready::NONE } else { Ready::HUP };
        self.notify(Ready::IN | Ready::RDHUP | hup);
        if state == State::TimeWait { self.start_time_wait() } else { Fate::Keep }
    }
}

/// [`Conn::must_refuse`].
#[inline]
pub(super) fn must_refuse(hot: &TcbHot, frames: &Frames<'_>) -> bool {
    let unread = hot.rcv_bytes;
    unread > 0
        && frames.is_short(RESERVE_FRAMES)
        && (unread > SHARE_BYTES || frames.is_short(RESERVE_FRAMES / 4))
}

/// Is data that came in order to be acknowledged now? Else the delayed ACK is started (RFC 9293 3.8.6.3, RFC 5681 4.2).
#[inline]
pub(super) fn ack_is_due(hot: &mut TcbHot, now: Instant, at_once: bool) -> bool {
    let unacknowledged = hot.rcv.nxt.since(hot.rcv.ack_sent);
    // RFC 5681 4.2: at once when a gap was filled, and at least for every second full segment.
    if at_once || unacknowledged > u32::from(hot.mss.max(1)) {
        return true;
    }
    if hot.quick_acks > 0 {
        hot.quick_acks -= 1;
        return true;
    }
    if hot.ack_at == Instant::NEVER {
        hot.ack_at = now.plus(DELAYED_ACK);
    }
    false
}

/// The sequence numbers of a frame of payload.
fn span(meta: &FrameMeta) -> (SeqNum, SeqNum) {
    (SeqNum(meta.seq), SeqNum(meta.seq).plus(u32::from(meta.len)))
}

/// Cuts a frame down to what lies in `from .. to`; false: nothing does.
fn keep(meta: &mut FrameMeta, from: SeqNum, to: SeqNum) -> bool {
    let (left, right) = span(meta);
    if meta.len == 0 || right.at_or_before(from) || left.at_or_after(to) {
        return false;
    }
    if left.before(from) {
        let n = from.since(left) as u16;
        meta.offset = meta.offset.saturating_add(n);
        meta.len -= n;
        meta.seq = from.0;
    }
    if right.after(to) {
        meta.len = to.since(SeqNum(meta.seq)) as u16;
    }
    meta.len > 0
}
