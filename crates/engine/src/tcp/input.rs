//! A segment comes in: whose it is, and the checks and steps of RFC 9293 3.10.7.4 in their order, the usual case first.

use ::state::{DropReason, LaneMem, Ready, SeqRange, TcbHot};
use base::{Duration, Idx, Instant};
use wire::{Sign, TcpFlags};

use super::ack::AckWorth;
use super::conn::{Conn, Fate, Ring, conn};
use super::segment::{self, Seg};
use super::table::{self, Whose};
use super::{State, auth, entrust, fast_open, flag, half_open, handshake, listen, reset, tune, unwire};
use crate::away;
use crate::errors::SockError;
use crate::ipv4::Packet;

/// After so long an idle time TS.Recent says nothing any more (RFC 7323 5.5).
const PAWS_IDLE: Duration = Duration::from_secs(24 * 24 * 3600);
/// Least time between two ACKs of a connection for segments without data that are old or outside the window (Linux's tcp_invalid_ratelimit).
const QUIET_EVERY_MS: u32 = 500;
/// ACKs of one lane a second for these.
const DUPLICATES_A_SECOND: u32 = 10_000;

/// Takes the TCP segment in `packet`.
pub(crate) fn input(mem: &mut LaneMem<'_>, now: Instant, packet: &Packet) {
    let Some(parsed) = segment::parse(mem, packet) else { return };
    let found = table::find_awake(mem, now, &parsed.seg.key);
    if found == Whose::Nobody && away::hand_over(mem, packet, &parsed.seg.key) {
        return;
    }
    mem.counters.tcp.segments_in = mem.counters.tcp.segments_in.wrapping_add(1);
    let watched = mem.globals.keys.used != 0 || parsed.seg.options.sign != Sign::None;
    if watched && !auth::admits(mem, now, packet, &parsed, found) {
        mem.frames.release_chain(packet.head);
        return;
    }
    let mut seg = parsed.strip(&mut mem.frames, packet);
    take(mem, now, found, &mut seg);
    mem.frames.release_chain(seg.head);
}

/// Takes `seg`, whose headers are off, as that of the connection that was `found`.
#[inline]
pub(super) fn take(mem: &mut LaneMem<'_>, now: Instant, found: Whose, seg: &mut Seg) {
    match found {
        Whose::Of(at)
            if strays(mem, mem.hot.get(at).map(|hot| hot.port), seg) && !unwire::takes(mem, now, at, seg) =>
        {
            if !listen::replaces_time_wait(mem, now, at, seg) {
                mem.counters.drop_packet(DropReason::IpSourceBad);
            }
        }
        Whose::Of(at) => for_connection(mem, now, at, seg),
        Whose::HalfOpen(at) if strays(mem, mem.dormant.get(at).map(|row| row.port), seg) => {
            mem.counters.drop_packet(DropReason::IpSourceBad);
        }
        Whose::HalfOpen(at) => half_open::segment(mem, now, at, seg),
        Whose::Nobody => listen::segment(mem, now, seg),
        Whose::NoRow => mem.counters.drop_packet(DropReason::TcpNoTcb),
    }
}

/// Came it by a wire that is not the connection's, which has this `port`, or beside the connection's wire? Who holds the other end of a wire speaks for nobody
/// else.
#[inline]
fn strays(mem: &LaneMem<'_>, port: Option<u8>, seg: &Seg) -> bool {
    let port = port.unwrap_or(seg.port);
    port != seg.port && (unwire::is_wire(mem, port) || unwire::is_wire(mem, seg.port))
}

pub(super) fn for_connection(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>, seg: &mut Seg) {
    let Some(hot) = mem.hot.get(at) else { return };
    let state = State::from_raw(hot.state);
    if hot.flags & flag::KEEPALIVE != 0
        && let Some(mut c) = conn(mem, now, at)
    {
        c.heard();
    }
    match state {
        State::SynSent => return handshake::syn_sent(mem, now, at, seg),
        State::SynRcvd => {
            if listen::holds_back(mem, now, at, seg) {
                return;
            }
        }
        State::TimeWait => {
            if listen::reuses_time_wait(mem, now, at, seg) {
                return;
            }
        }
        State::Closed if entrust::is_mark(mem, at) => {
            mem.counters.drop_packet(DropReason::TcpEntrusted);
            return;
        }
        State::Closed | State::Listen => {
            reset::of_segment(mem, now, seg, DropReason::TcpNoSocket);
            return;
        }
        State::Established
        | State::FinWait1
        | State::FinWait2
        | State::CloseWait
        | State::Closing
        | State::LastAck => {}
    }
    let Some(mut c) = conn(mem, now, at) else { return };
    if state == State::Established
        && let Some(worth) = c.is_predicted(seg)
    {
        c.take_predicted(seg, worth);
        if tune::is_due(c.hot, c.cold) {
            tune::look(mem, now, at, echo_of(seg));
        }
        return;
    }
    let opening = c.state() == State::SynRcvd;
    let fate = c.process(seg);
    let opened = opening && c.state().is_synchronized();
    let passive = c.any(flag::IN_SYN_QUEUE);
    if opened && !passive {
        c.notify(Ready::OUT);
    }
    c.arm();
    let tunes = tune::is_due(c.hot, c.cold);
    if opening && c.cold.fast != 0 {
        fast_open::after_segment(mem, now, at, opened, fate);
    }
    if tunes {
        tune::look(mem, now, at, echo_of(seg));
    }
    if fate == Fate::Refuse {
        reset::of_segment(mem, now, seg, DropReason::TcpAckBad);
        return;
    }
    if opened && passive && matches!(fate, Fate::Keep | Fate::TimeWait) {
        table::settle(mem, now, at, Fate::Accept);
    }
    table::settle(mem, now, at, fate);
}

/// TSecr of `seg`.
fn echo_of(seg: &Seg) -> Option<u32> {
    seg.options.timestamps.map(|ts| ts.echo)
}

impl Conn<'_, '_> {
    /// Header prediction: is it an ordinary segment of an open connection, in order, with nothing unusual about it? Then what
    /// its ACK field is worth.
    #[inline]
    pub(super) fn is_predicted(&self, seg: &Seg) -> Option<AckWorth> {
        let usual = seg.flags.without(TcpFlags::PSH) == TcpFlags::ACK
            && seg.seq == self.hot.rcv.nxt
            && self.hot.ooo_head.is_none()
            && !self.any(flag::RECOVERY | flag::FIN_AHEAD)
            && seg.options.sack.is_empty()
            && seg.ecn != super::ecn::CE
            && !self.any(flag::SPECIAL)
            && seg.len <= self.rcv_wnd()
            && self.cold.board.is_none()
            && !self.must_refuse();
        if !usual {
            return None;
        }
        let worth = self.ack_worth(seg.ack);
        if worth == AckWorth::Bad
            || seg.ack.before(self.hot.snd.una)
            || (worth == AckWorth::Old && seg.len == 0)
        {
            return None;
        }
        if self.any(flag::TIMESTAMPS) {
            let ts = seg.options.timestamps?;
            if (ts.value.wrapping_sub(self.hot.rcv.ts_recent) as i32) < 0 {
                return None;
            }
        }
        Some(worth)
    }

    /// Takes a segment that header prediction found ordinary.
    #[inline]
    pub(super) fn take_predicted(&mut self, seg: &mut Seg, worth: AckWorth) {
        self.note_timestamp(seg);
        self.counters.tcp.predicted = self.counters.tcp.predicted.wrapping_add(1);
        let opened = self.update_window(seg);
        if worth == AckWorth::New {
            // No FIN of ours is out in ESTABLISHED, so this cannot end the connection.
            let _ = self.acknowledge(seg);
        } else if opened {
            self.window_opened();
        }
        if seg.len > 0 {
            self.deliver_payload(seg);
        }
        self.arm();
    }

    /// The peer is alive: kept for keepalive.
    #[inline]
    pub(super) fn heard(&mut self) {
        self.cold.heard_at = self.now;
        self.cold.loss.keep_probes = 0;
    }

    /// All of the payload is new, in order and in the window.
    #[inline]
    fn deliver_payload(&mut self, seg: &mut Seg) {
        let head = seg.take_payload();
        self.deliver(head);
        self.schedule_ack(false, seg.gso_size != 0);
    }

    /// RFC 7323 4.3: TS.Recent follows the segment that holds Last.ACK.sent.
    #[inline]
    pub(super) fn note_timestamp(&mut self, seg: &Seg) {
        if let Some(ts) = seg.options.timestamps
            && self.any(flag::TIMESTAMPS)
            && seg.seq.at_or_before(self.hot.rcv.ack_sent)
            && (ts.value.wrapping_sub(self.hot.rcv.ts_recent) as i32) >= 0
        {
            self.hot.rcv.ts_recent = ts.value;
            self.cold.ts_recent_at = self.now;
        }
    }

    /// The steps of RFC 9293 3.10.7.4 for every state from SYN-RECEIVED on.
    fn process(&mut self, seg: &mut Seg) -> Fate {
        if let Some(fate) = self.first_checks(seg) {
            return fate;
        }
        self.note_timestamp(seg);
        if !seg.flags.is_ack() {
            self.drop_packet(DropReason::TcpFlagsBad);
            return Fate::Keep;
        }
        if self.state() == State::SynRcvd {
            if !self.syn_rcvd_ack(seg) {
                // RFC 9293 3.10.7.4, fifth step: an unacceptable ACK in SYN-RECEIVED is answered with a RST.
                return Fate::Refuse;
            }
        } else if self.ack_worth(seg.ack) == AckWorth::Bad {
            self.challenge(DropReason::TcpAckBad);
            return Fate::Keep;
        }
        self.note_ecn(seg);
        let fate = self.process_ack(seg);
        if fate != Fate::Keep && fate != Fate::TimeWait {
            return fate;
        }
        match self.process_data(seg) {
            Fate::Keep => fate,
            other => other,
        }
    }

    /// Steps one to four: timestamps, sequence numbers, RST, SYN. `Some`: the segment goes no further.
    fn first_checks(&mut self, seg: &mut Seg) -> Option<Fate> {
        if self.state() == State::SynRcvd
            && seg.flags.is_syn()
            && seg.seq == self.cold.irs
            && !seg.flags.is_rst()
        {
            return self.syn_again(seg);
        }
        // RFC 7323 5.3, R1: PAWS, before the sequence numbers are looked at.
        if self.is_old_timestamp(seg) {
            self.drop_packet(DropReason::TcpPaws);
            self.answer_old(seg.space() == 0);
            return Some(Fate::Keep);
        }
        // RFC 9293 3.10.7.4, first step; as Linux, an ACK at the very edge of the window counts.
        if !self.is_in_window(seg) {
            self.out_of_window(seg);
            return Some(Fate::Keep);
        }
        if seg.flags.is_rst() {
            return Some(self.on_rst(seg));
        }
        if seg.flags.is_syn() {
            // RFC 5961 4.2: whatever its number, a SYN is answered with a challenge ACK.
            self.challenge(DropReason::TcpFlagsBad);
            return Some(Fate::Keep);
        }
        None
    }

    fn is_in_window(&self, seg: &Seg) -> bool {
        seg.end().at_or_after(self.hot.rcv.ack_sent) && seg.seq.at_or_before(self.hot.rcv.edge)
    }

    /// Does `seg`, in SYN-RECEIVED, acknowledge our SYN and pass every check in front of that?
    pub(super) fn completes(&self, seg: &Seg) -> bool {
        let is_ack = seg.flags.is_ack() && !seg.flags.intersects(TcpFlags::RST | TcpFlags::SYN);
        is_ack && self.acks_syn(seg) && self.is_in_window(seg) && !self.is_old_timestamp(seg)
    }

    /// A SYN with the number we know in SYN-RECEIVED.
    fn syn_again(&mut self, seg: &mut Seg) -> Option<Fate> {
        if seg.flags.is_ack() && self.is_simultaneous_open() {
            // Both ends have opened: this SYN,ACK acknowledges our SYN. What is left of it is an ACK.
            seg.flags = seg.flags.without(TcpFlags::SYN);
            seg.seq = seg.seq.plus(1);
            self.ack_now();
            return None;
        }
        self.repeated_syn();
        Some(Fate::Keep)
    }

    fn is_old_timestamp(&self, seg: &Seg) -> bool {
        if !self.any(flag::TIMESTAMPS) || seg.flags.is_rst() {
            return false;
        }
        // A segment without the option is let through, as Linux does: middleboxes strip it (RFC 7323 3.2 says: SHOULD
        // drop).
        let Some(ts) = seg.options.timestamps else { return false };
        (ts.value.wrapping_sub(self.hot.rcv.ts_recent) as i32) < 0
            && self.now.since(self.cold.ts_recent_at) < PAWS_IDLE
    }

    fn out_of_window(&mut self, seg: &Seg) {
        self.drop_packet(DropReason::TcpOutOfWindow);
        if seg.len > 0 && seg.data_end().at_or_before(self.hot.rcv.nxt) {
            self.note_came_twice(SeqRange { left: seg.seq, right: seg.data_end() });
        }
        if seg.flags.is_rst() {
            return;
        }
        if seg.flags.is_syn() {
            self.challenge(DropReason::TcpFlagsBad);
            return;
        }
        let quiet = seg.space() == 0;
        self.answer_old(quiet);
    }

    /// Says by an ACK what is expected instead of a segment that is old or outside the window. If that was `quiet`, without data, not too often: the answer may be as old to the peer, which would
    /// answer it, and so on for ever.
    fn answer_old(&mut self, quiet: bool) {
        if quiet {
            let (ms, last) = (self.now.as_millis_u32().max(1), self.cold.answered_ms);
            let soon = last != 0 && ms.wrapping_sub(last) < QUIET_EVERY_MS;
            if soon || !reset::allow(&mut self.tcp.duplicates, self.now, DUPLICATES_A_SECOND) {
                return;
            }
            self.cold.answered_ms = ms;
        }
        self.ack_now();
    }

    /// RFC 5961 3.2: only a RST at exactly RCV.NXT ends the connection; another in the window is answered with a challenge
    /// ACK, so that a blind attacker has to guess one number out of 2^32.
    fn on_rst(&mut self, seg: &Seg) -> Fate {
        if seg.seq != self.hot.rcv.nxt {
            self.challenge(DropReason::TcpRstBad);
            return Fate::Keep;
        }
        match self.state() {
            // RFC 9293 3.10.7.4, second step: a passive open goes back to LISTEN in silence.
            State::SynRcvd if !self.is_early() => Fate::Dead(SockError::Refused),
            State::CloseWait => Fate::Dead(SockError::Pipe),
            State::Closing | State::LastAck | State::TimeWait => Fate::Closed,
            State::Closed
            | State::Listen
            | State::SynSent
            | State::SynRcvd
            | State::Established
            | State::FinWait1
            | State::FinWait2 => Fate::Dead(SockError::Reset),
        }
    }

    /// Data may go out now: for code that changed windows, options or the queue.
    pub(super) fn kick(&mut self) {
        if self.has_data() {
            self.enqueue(Ring::Data);
        }
    }
}
