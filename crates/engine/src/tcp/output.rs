//! What is sent and when (RFC 9293 3.8.6, RFC 5681 3): control segments, ACKs, data new and again.

use ::state::{LaneMem, SeqRange, TcbHot, TxBatch};
use base::limits::SUPER_SEGMENT_BYTES;
use base::{FrameIdx, Idx, Instant};
use wire::TcpFlags;

use super::conn::{Conn, Ring, conn, pop_ring};
use super::header::{Cut, Stop};
use super::{RETRY, State, auth, cc_flag, ecn, flag, rtt, table, time_wait, usual_out, usual_syn};

/// How long a corked partial segment is held back at most (Linux's TCP_CORK).
const CORK_MAX: base::Duration = base::Duration::from_millis(200);

/// Has any connection something to send?
#[inline]
pub(crate) fn pending(mem: &LaneMem<'_>) -> bool {
    mem.globals.tcp.rings.iter().any(|r| r.head != r.tail)
}

/// Fills `out`: control segments, then ACKs, then data, one super-segment a connection in turn.
#[inline]
pub(crate) fn poll(mem: &mut LaneMem<'_>, now: Instant, out: &mut TxBatch) {
    let [control, acks, _] = &mem.globals.tcp.rings;
    let only_data = control.head == control.tail && acks.head == acks.tail;
    if only_data || (poll_ring(mem, now, out, Ring::Control) && poll_ring(mem, now, out, Ring::Ack)) {
        poll_data(mem, now, out);
    }
}

/// Sends for every connection that is in `ring` now. False: nothing more goes out.
fn poll_ring(mem: &mut LaneMem<'_>, now: Instant, out: &mut TxBatch, ring: Ring) -> bool {
    let Some(queued) = mem.globals.tcp.rings.get(ring.index()) else { return false };
    for _ in 0..queued.tail.wrapping_sub(queued.head) {
        if out.room() == 0 {
            return false;
        }
        let Some(at) = pop_ring(mem, ring) else { break };
        let usual = match ring {
            Ring::Control => usual_syn::emit(mem, now, at, out),
            Ring::Ack => usual_out::emit_ack(mem, now, at, out),
            Ring::Data => false,
        };
        if !usual && !emit(mem, now, at, out, ring) {
            return false;
        }
        if ring == Ring::Ack {
            time_wait::rest(mem, now, at);
        }
    }
    true
}

/// Sends data as long as there is room for it.
fn poll_data(mem: &mut LaneMem<'_>, now: Instant, out: &mut TxBatch) {
    while out.room() > 0 {
        let Some(at) = pop_ring(mem, Ring::Data) else { return };
        match usual_out::emit(mem, now, at, out) {
            Some(true) => {
                if let Some(mut c) = conn(mem, now, at) {
                    c.enqueue(Ring::Data);
                }
            }
            Some(false) => {}
            None => {
                if !emit(mem, now, at, out, Ring::Data) {
                    return;
                }
            }
        }
    }
}

/// Sends what connection `at`, just taken out of `ring`, has for it. False: nothing more goes out.
fn emit(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>, out: &mut TxBatch, ring: Ring) -> bool {
    let first = out.items().len();
    let goes_on = emit_unsigned(mem, now, at, out, ring);
    if mem.globals.keys.used != 0 {
        auth::sign_sent(mem, at, out, first);
    }
    goes_on
}

/// [`emit`], with zeros where signatures belong.
#[inline(always)]
fn emit_unsigned(
    mem: &mut LaneMem<'_>,
    now: Instant,
    at: Idx<TcbHot>,
    out: &mut TxBatch,
    ring: Ring,
) -> bool {
    let Some(mut c) = conn(mem, now, at) else { return true };
    let done = match ring {
        Ring::Control => c.emit_control(out),
        Ring::Ack => c.emit_ack(out),
        Ring::Data => c.emit_data(out),
    };
    c.arm();
    match done {
        Ok(true) => c.enqueue(ring),
        Ok(false) => {}
        Err(Stop::Batch) => {
            c.enqueue(ring);
            return false;
        }
        Err(Stop::Hop) => table::wait_for_hop(mem, now, at),
        Err(Stop::Frames) => {
            c.retry_later(ring);
            mem.counters.drop_packet(::state::DropReason::OutOfFrames);
            return false;
        }
    }
    true
}

impl Conn<'_, '_> {
    /// No frame was free: tries again after a pause, by the timer of delayed ACKs or of retransmission.
    fn retry_later(&mut self, ring: Ring) {
        if ring == Ring::Ack {
            self.hot.ack_at = self.hot.ack_at.min(self.now.plus(RETRY));
            self.arm();
        } else if self.hot.rexmit_at == Instant::NEVER {
            self.set(flag::PERSIST);
            self.hot.rexmit_at = self.now.plus(RETRY);
            self.arm();
        }
    }

    fn emit_control(&mut self, out: &mut TxBatch) -> Result<bool, Stop> {
        let state = self.state();
        if self.any(flag::SEND_SYN) && matches!(state, State::SynSent | State::SynRcvd) {
            let first = state == State::SynSent;
            let flags = if first { TcpFlags::SYN } else { TcpFlags::SYN | TcpFlags::ACK };
            let flags = flags | ecn::of_syn(self.cold, self.tcp, first);
            self.send_syn(out, flags)?;
            if self.cold.loss.backoff == 0 && !self.any(flag::TIMING) {
                self.time(self.cold.iss.plus(1));
            }
            self.wait_for_an_answer();
            self.arm_early();
        }
        self.clear(flag::SEND_SYN);
        if self.any(flag::SEND_PROBE) && state.is_synchronized() {
            self.emit_probe(out)?;
        }
        self.clear(flag::SEND_PROBE);
        Ok(false)
    }

    /// Sends the SYN or SYN,ACK with control bits `flags`, and what goes with it.
    fn send_syn(&mut self, out: &mut TxBatch, flags: TcpFlags) -> Result<(), Stop> {
        let mut cut = Cut { seq: self.cold.iss, len: 0, flags, from: FrameIdx::NONE };
        if self.cold.fast != 0 {
            cut = self.with_first_data(cut);
        }
        let sent = self.send_any(out, &cut)?;
        if self.cold.fast != 0 {
            self.first_syn_sent(&sent);
        }
        Ok(())
    }

    /// What makes the peer answer: the last segment again, what the window lets out, or nothing but a header.
    fn emit_probe(&mut self, out: &mut TxBatch) -> Result<(), Stop> {
        if self.flight() > 0 {
            if !self.any(flag::TAIL_PROBED) || self.any(flag::RECOVERY) || self.state() == State::TimeWait {
                return Ok(());
            }
            if let Some(cut) = self.next_new() {
                let sent = self.send_segment(out, &cut)?;
                self.advance(sent.len, sent.flags, sent.next);
                return Ok(());
            }
            let end = self.hot.snd.end.earlier(self.hot.snd.nxt);
            let len = end.since(self.hot.snd.una).min(self.mss());
            self.note_probe(self.hot.snd.nxt);
            return self.retransmit(out, end.minus(len), len);
        }
        if self.hot.snd.wnd > 0 && self.unsent() > 0 {
            return self.force_partial(out);
        }
        // RFC 9293 3.8.4, 3.8.6.1: a sequence number that the peer has already makes it answer with its window.
        let empty = |seq| Cut { seq, len: 0, flags: TcpFlags::ACK, from: FrameIdx::NONE };
        let una = self.hot.snd.una;
        if self.probe_tells_of_urgent() {
            // As Linux: a number that the peer does not have yet, so that it looks at the urgent pointer.
            self.send_segment(out, &empty(una))?;
        }
        self.send_segment(out, &empty(una.minus(1))).map(|_| ())
    }

    fn emit_ack(&mut self, out: &mut TxBatch) -> Result<bool, Stop> {
        if !self.any(flag::ACK_NOW) || matches!(self.state(), State::Closed | State::Listen | State::SynSent)
        {
            return Ok(false);
        }
        // Data that goes out now carries the ACK.
        if self.any(flag::RING_DATA) {
            let _ = self.emit_data(out);
        }
        let cut = Cut { seq: self.hot.snd.nxt, len: 0, flags: TcpFlags::ACK, from: FrameIdx::NONE };
        if self.owes_twice() {
            self.send_any(out, &cut)?;
            self.cold.acks_owed = self.cold.acks_owed.saturating_sub(1);
        }
        if let Some((ack, marked)) = self.take_prior_ack() {
            self.send_prior_ack(out, ack, marked)?;
        }
        let due = self.cold.acks_owed.saturating_add(u8::from(self.any(flag::ACK_NOW)));
        for left in (0..due).rev() {
            self.send_segment(out, &cut)?;
            self.cold.acks_owed = left;
        }
        Ok(false)
    }

    /// Acknowledges what came before `ack`, with ECE if it was `marked` (RFC 8257 3.2).
    fn send_prior_ack(&mut self, out: &mut TxBatch, ack: base::SeqNum, marked: bool) -> Result<(), Stop> {
        let (nxt, flags, owed) = (self.hot.rcv.nxt, self.cold.cc_flags, self.hot.flags & flag::ACK_NOW);
        self.hot.rcv.nxt = ack;
        self.cold.cc_flags = flags & !cc_flag::ECE | if marked { cc_flag::ECE } else { 0 };
        let cut = Cut { seq: self.hot.snd.nxt, len: 0, flags: TcpFlags::ACK, from: FrameIdx::NONE };
        let sent = self.send_segment(out, &cut);
        self.hot.rcv.nxt = nxt;
        self.cold.cc_flags = flags;
        self.set(owed);
        sent.map(|_| ())
    }

    /// Sends one segment of data, if it may. True: there may be more.
    fn emit_data(&mut self, out: &mut TxBatch) -> Result<bool, Stop> {
        let open = self.state().is_synchronized() && self.state() != State::TimeWait;
        let early = || self.state() == State::SynRcvd && self.is_early() && self.unsent() > 0;
        if !open && !early() {
            return Ok(false);
        }
        if self.any(flag::SPECIAL) && self.waits_for_pace() {
            return Ok(false);
        }
        if let Some(range) = self.next_lost() {
            let len = range.right.since(range.left).min(self.segment_max());
            return self.retransmit(out, range.left, len).map(|()| true);
        }
        if self.fin_is_lost() {
            return self.retransmit(out, self.hot.snd.end, 0).map(|()| true);
        }
        if self.any(flag::SPECIAL)
            && self.searches_path()
            && let Some(more) = self.probe_path(out)?
        {
            return Ok(more);
        }
        let Some(cut) = self.next_new() else { return Ok(false) };
        let sent = self.send_segment(out, &cut)?;
        if self.cold.bytes_in > 0 {
            // The two ends talk in turns, so the next data will carry the ACK (Linux's ping-pong mode).
            self.hot.quick_acks = 0;
        }
        self.advance(sent.len, sent.flags, sent.next);
        Ok(self.has_data())
    }

    /// Sends bytes again that are lost: `len` from `seq` on.
    fn retransmit(&mut self, out: &mut TxBatch, seq: base::SeqNum, len: u32) -> Result<(), Stop> {
        let end = seq.plus(len);
        let mut flags = TcpFlags::ACK;
        if end == self.hot.snd.end {
            flags = flags | TcpFlags::PSH;
            if self.any(flag::FIN_SENT) {
                flags = flags | TcpFlags::FIN;
            }
        }
        let sent = self.send_segment(out, &Cut { seq, len, flags, from: self.frame_at(seq) })?;
        let space = sent.len + u32::from(sent.flags.is_fin());
        // At least one, so that a queue that has lost its bytes cannot keep us here.
        let range = SeqRange { left: seq, right: seq.plus(space.max(1)) };
        if self.any(flag::RECOVERY) {
            self.cold.loss.high_rxt = self.cold.loss.high_rxt.later(range.right);
        }
        self.note_resent(range);
        self.note_recovery_sent(space);
        if !self.is_of_lost_probe(seq) {
            self.note_rate_lost(space);
        }
        self.note_special_sent(sent.len);
        self.cold.loss.retransmits = self.cold.loss.retransmits.saturating_add(1);
        self.counters.tcp.retransmits = self.counters.tcp.retransmits.wrapping_add(1);
        // Karn's rule (RFC 6298 3): what was sent twice is not timed.
        self.clear(flag::TIMING);
        if seq == self.hot.snd.una || self.hot.rexmit_at == Instant::NEVER {
            self.clear(flag::PERSIST | flag::TAIL_PROBE);
            self.start_timer();
        }
        Ok(())
    }

    /// Largest payload to be handed to the port at once.
    fn segment_max(&self) -> u32 {
        let mss = u32::from(self.payload_max_now());
        if self.cold.ooo.sign != 0 {
            // Each segment has a signature of its own, which no device makes.
            return mss;
        }
        let port = self.ports.get(Idx::new(u32::from(self.hot.port))).map_or(0, |p| p.super_segment_max);
        let most = port.min(SUPER_SEGMENT_BYTES as u32);
        if self.is_urging() {
            return mss;
        }
        let most = if self.any(flag::SPECIAL) { most.min(self.pace_quantum()) } else { most };
        if most >= 2 * mss { most - most % mss } else { mss }
    }

    /// Bytes that the congestion window lets out.
    pub(super) fn cwnd_room(&self) -> u32 {
        let cwnd = self.hot.snd.cwnd;
        if self.any(flag::RECOVERY) {
            return cwnd.saturating_sub(self.pipe());
        }
        // RFC 3042 (and 6675 for SACK): what duplicate ACKs report has left the network.
        let left = if self.hot.dup_acks == 0 { 0 } else { u32::from(self.hot.dup_acks.min(2)) * self.mss() };
        cwnd.saturating_add(left.max(self.sacked_bytes())).saturating_sub(self.flight())
    }

    /// The next new segment, if windows, Nagle's algorithm and cork let one out.
    fn next_new(&mut self) -> Option<Cut> {
        let unsent = self.unsent();
        let fin = self.fin_pending();
        if unsent == 0 && !fin {
            return None;
        }
        self.restart_after_idle();
        let nxt = self.hot.snd.nxt;
        let edge = self.snd_edge();
        let wnd_room = if edge.after(nxt) { edge.since(nxt) } else { 0 };
        if wnd_room == 0 {
            if self.flight() == 0 {
                self.start_persist();
            }
            return None;
        }
        let cwnd_room = self.cwnd_room();
        if cwnd_room < unsent.min(wnd_room) {
            self.note_limited();
        }
        let room = wnd_room.min(cwnd_room);
        let len = self.fitting(unsent, room, fin)?;
        let mut flags = TcpFlags::ACK;
        if len == unsent {
            flags = flags | if len > 0 { TcpFlags::PSH } else { TcpFlags::NONE };
            flags = flags | if fin { TcpFlags::FIN } else { TcpFlags::NONE };
        }
        Some(Cut { seq: nxt, len, flags, from: self.hot.snd_cursor })
    }

    /// How many of `unsent` bytes go into the next segment when `room` are allowed. `None`: better wait.
    fn fitting(&mut self, unsent: u32, room: u32, fin: bool) -> Option<u32> {
        let mss = u32::from(self.payload_max_now());
        let len = unsent.min(room).min(self.segment_max());
        if len < unsent {
            if len >= mss {
                return Some(len - len % mss);
            }
            // RFC 9293 3.8.6.2.1: a partial segment cut by the window only if it is half of the largest window ever seen.
            if len > 0 && len >= self.hot.snd.wnd_max / 2 {
                return Some(len);
            }
            if self.flight() == 0 {
                self.start_persist();
            }
            return None;
        }
        let partial = if len < mss { len } else { len % mss };
        if partial == 0 || fin || self.is_urging() {
            return Some(len);
        }
        // RFC 9293 3.7.4 (Nagle), in Minshall's form: a partial segment waits while an earlier partial one is out.
        let small = self.cold.snd_small;
        let small_out = small.after(self.hot.snd.una) && small.at_or_before(self.hot.snd.nxt);
        if self.any(flag::CORK) || (!self.any(flag::NODELAY) && small_out) {
            if len > partial {
                return Some(len - partial);
            }
            if self.flight() == 0 && self.hot.rexmit_at == Instant::NEVER {
                self.set(flag::PERSIST);
                self.hot.rexmit_at = self.now.plus(CORK_MAX);
            }
            return None;
        }
        Some(len)
    }

    /// `len` new bytes, and the FIN if it is among `flags`, were sent; the next byte lies in `next`.
    pub(super) fn advance(&mut self, len: u32, flags: TcpFlags, next: FrameIdx) {
        self.note_rate_sent(self.hot.snd.nxt, len);
        self.note_special_sent(len);
        let end = self.hot.snd.nxt.plus(len);
        let mss = self.mss();
        if len < mss || (len > mss && !len.is_multiple_of(mss)) {
            self.cold.snd_small = end;
        }
        self.hot.snd_cursor = if end == self.hot.snd.end { FrameIdx::NONE } else { next };
        self.cold.bytes_out = self.cold.bytes_out.wrapping_add(u64::from(len));
        if flags.is_fin() {
            self.set(flag::FIN_SENT);
        }
        self.hot.snd.nxt = end.plus(u32::from(flags.is_fin()));
        if !self.any(flag::TIMING | flag::RECOVERY) {
            self.time(self.hot.snd.nxt);
        }
        self.hot.sent_at = self.now;
        self.note_recovery_sent(len);
        if self.hot.rexmit_at == Instant::NEVER
            || self.any(flag::PERSIST)
            || !self.any(flag::RECOVERY | flag::STALLED)
        {
            self.clear(flag::PERSIST | flag::TAIL_PROBE);
            self.start_timer();
        }
    }

    /// Begins to measure the round-trip time of what ends at `end`.
    fn time(&mut self, end: base::SeqNum) {
        self.set(flag::TIMING);
        self.hot.rtt.timed_seq = end;
        self.hot.rtt.timed_at_us = rtt::clock_us(self.now);
    }

    /// The window does not let out what must go: probes it after a while (RFC 9293 3.8.6.1).
    fn start_persist(&mut self) {
        if self.hot.rexmit_at == Instant::NEVER {
            self.set(flag::PERSIST);
            self.hot.rexmit_at = self.now.plus(rtt::rto(&self.hot.rtt, self.cold.loss.backoff));
        }
    }

    /// A corked or window-limited partial segment has waited long enough: sends what the window allows (RFC 9293
    /// 3.8.6.2.1, rule 4).
    fn force_partial(&mut self, out: &mut TxBatch) -> Result<(), Stop> {
        let len = self.unsent().min(self.hot.snd.wnd).min(self.mss());
        let whole = len == self.unsent();
        let flags = if whole { TcpFlags::ACK | TcpFlags::PSH } else { TcpFlags::ACK };
        let flags = if whole && self.fin_pending() { flags | TcpFlags::FIN } else { flags };
        let cut = Cut { seq: self.hot.snd.nxt, len, flags, from: self.hot.snd_cursor };
        let sent = self.send_segment(out, &cut)?;
        self.advance(sent.len, sent.flags, sent.next);
        Ok(())
    }
}
