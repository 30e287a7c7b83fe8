//! Segments for connections that are being opened (RFC 9293 3.10.7.3 and the SYN-RECEIVED parts of 3.10.7.4), and what
//! the SYNs' options agree on.

use ::state::{DropReason, LaneMem, Ready, TcbHot, TcpGlobals, TcpOptions, Usual};
use base::{Duration, Idx, Instant, IpAddress, SeqNum};
use wire::Sign;
use wire::tcp_options::TcpOptions as Offered;

use super::conn::{Conn, Fate, Ring, conn};
use super::rack::note_rtt;
use super::receive::QUICK_ACKS;
use super::segment::Seg;
use super::{
    Cause, MSS_DEFAULT, MSS_DEFAULT_V6, MSS_MIN, State, TIMESTAMPS_BYTES, cc_flag, fast_open, flag,
    headers_to, reset, rtt, table, unwire, window,
};
use crate::errors::SockError;

/// Until the SYN goes again that something of an earlier connection has answered (Linux: TCP_TIMEOUT_MIN, 2 ticks).
const ASK_AGAIN: Duration = Duration::from_millis(2);

/// Receive buffer of a connection with `options`, bytes, when it is `usual` without any.
pub(super) fn rcv_buf(options: &TcpOptions, usual: u32) -> u32 {
    if options.rcv_buf_bytes == 0 { usual } else { options.rcv_buf_bytes.clamp(2048, 1 << 30) }
}

/// The shift of the windows that a connection with `options` announces: for the largest buffer it may come to have, as Linux with twice
/// as much, which it keeps for overhead.
pub(super) fn rcv_shift(options: &TcpOptions, tcp: &TcpGlobals) -> u8 {
    let most = tcp.rcv_buf_max.max(tcp.rcv_buf_bytes).saturating_mul(2);
    window::shift_for(rcv_buf(options, most))
}

/// MSS of a peer at `remote` that names none.
pub(super) const fn mss_default(remote: base::IpAddress) -> u16 {
    if remote.is_v4() { MSS_DEFAULT } else { MSS_DEFAULT_V6 }
}

/// The MSS that a connection with `options` announces to `remote` by a device with this MTU.
pub(super) fn mss_local(options: &TcpOptions, mtu: u16, remote: IpAddress) -> u16 {
    let fits = mtu.saturating_sub(headers_to(remote)).max(MSS_MIN);
    if options.mss_max == 0 { fits } else { fits.min(options.mss_max.max(MSS_MIN)) }
}

/// Of the options of a SYN only those stay that the lane's connections use, whoever offers them (as Linux).
pub(super) fn keep_usual(usual: &Usual, options: &mut Offered) {
    options.sack_permitted &= usual.no_sack == 0;
    options.timestamps = options.timestamps.filter(|_| usual.no_timestamps == 0);
    options.window_scale = options.window_scale.filter(|_| usual.no_window_scaling == 0);
}

impl Conn<'_, '_> {
    /// Takes over the program's options.
    pub(super) fn apply_options(&mut self, options: &TcpOptions) {
        let keepalive = self.any(flag::KEEPALIVE);
        // The ECN field of the TOS is not the program's.
        let ecn = self.cold.options.tos & super::ecn::CE;
        self.cold.options = *options;
        let usual = &self.tcp.usual;
        self.cold.options.ttl = super::header::ttl(options.ttl, usual, self.hot.key.remote);
        if options.notsent_low_bytes == 0 {
            self.cold.options.notsent_low_bytes = usual.notsent_low_bytes;
        }
        self.cold.options.tos = super::ecn::without(options.tos) | ecn;
        self.choose_algorithm();
        if options.pacing_limit != 0 || self.any(flag::SPECIAL) {
            self.choose_way();
        }
        self.clear(flag::NODELAY | flag::CORK | flag::KEEPALIVE);
        self.set(if options.nodelay != 0 { flag::NODELAY } else { 0 });
        self.set(if options.cork != 0 { flag::CORK } else { 0 });
        self.set(if options.keepalive != 0 { flag::KEEPALIVE } else { 0 });
        // What has grown stays.
        let rcv = self.hot.rcv_buf.max(self.tcp.rcv_buf_bytes);
        let snd = self.hot.snd_buf.max(self.tcp.snd_buf_bytes);
        self.hot.rcv_buf = rcv_buf(options, rcv);
        self.hot.snd_buf =
            if options.snd_buf_bytes == 0 { snd } else { options.snd_buf_bytes.clamp(2048, 1 << 30) };
        if self.any(flag::KEEPALIVE) && !keepalive {
            self.cold.heard_at = self.now;
            self.start_keepalive();
        }
    }

    /// Numbers and MSS of a connection that is about to send its SYN.
    pub(super) fn start(&mut self, iss: SeqNum, ts_offset: u32, mtu: u16) {
        self.number(iss, ts_offset, mtu);
        self.set(flag::SEND_SYN);
        self.enqueue(Ring::Control);
    }

    /// The same for one whose SYN was sent before it had its rows.
    pub(super) fn number(&mut self, iss: SeqNum, ts_offset: u32, mtu: u16) {
        self.cold.iss = iss;
        self.cold.ts_offset = ts_offset;
        self.cold.snd_small = iss;
        self.cold.loss.recover = iss;
        let snd = &mut self.hot.snd;
        snd.una = iss;
        snd.nxt = iss.plus(1);
        snd.end = iss.plus(1);
        self.cold.mss_local = mss_local(&self.cold.options, mtu, self.hot.key.remote);
        self.cold.mss_peer = mss_default(self.hot.key.remote);
        self.hot.rcv_shift = rcv_shift(&self.cold.options, self.tcp);
    }

    /// The peer's SYN is here: takes over its number, its window and what its options say.
    pub(super) fn take_syn(&mut self, seg: &Seg) {
        self.cold.irs = seg.seq;
        self.hot.rcv.nxt = seg.seq.plus(1);
        self.hot.rcv.edge = self.hot.rcv.nxt;
        self.hot.rcv.ack_sent = self.hot.rcv.nxt;
        self.cold.tune_at = self.hot.rcv.nxt.plus(super::tune::FIRST);
        // RFC 7323 2.2: the window of a SYN is not scaled.
        self.hot.snd.wnd = u32::from(seg.window);
        self.hot.snd.wnd_max = self.hot.snd.wnd;
        self.hot.snd.wl1 = seg.seq;
        self.agree(&seg.options);
        self.agree_on_ecn(seg);
        if self.tcp.path.when == 2 {
            self.search_from_start();
        }
        self.start_congestion();
        self.hot.quick_acks = QUICK_ACKS;
    }

    fn agree(&mut self, offered: &Offered) {
        self.cold.mss_peer = offered.mss.unwrap_or(mss_default(self.hot.key.remote)).max(MSS_MIN);
        let mut mss =
            self.cold.mss_peer.min(self.cold.mss_local).saturating_sub(self.sign().len_bytes() as u16);
        if let Some(ts) = offered.timestamps.filter(|_| self.tcp.usual.no_timestamps == 0) {
            self.set(flag::TIMESTAMPS);
            self.hot.rcv.ts_recent = ts.value;
            self.cold.ts_recent_at = self.now;
            // RFC 6691 3: the MSS option does not count options, so they come off here.
            mss = mss.saturating_sub(TIMESTAMPS_BYTES);
        }
        let sack = offered.sack_permitted && self.tcp.usual.no_sack == 0;
        self.set(if sack { flag::SACK } else { 0 });
        match offered.window_scale.filter(|_| self.tcp.usual.no_window_scaling == 0) {
            Some(shift) => {
                self.cold.cc_flags |= cc_flag::WINDOW_SCALE;
                self.hot.snd_shift = shift.min(14);
            }
            None => {
                self.hot.snd_shift = 0;
                self.hot.rcv_shift = 0;
            }
        }
        self.hot.mss = mss.max(1);
    }

    /// The handshake is complete: our SYN was acknowledged by `ack`.
    pub(super) fn open_up(&mut self, ack: SeqNum, cause: Cause) {
        self.go(cause);
        if self.any(flag::FIN_QUEUED) {
            self.go(Cause::Close);
        }
        if self.any(flag::TIMING) && ack.at_or_after(self.hot.rtt.timed_seq) {
            let us = rtt::clock_us(self.now).wrapping_sub(self.hot.rtt.timed_at_us);
            rtt::sample(&mut self.hot.rtt, us);
            note_rtt(self.cold, us);
        }
        self.clear(flag::TIMING | flag::SEND_SYN | flag::STALLED);
        // RFC 5681 3.1: a SYN or SYN,ACK that was lost lowers the initial window to one segment.
        if self.cold.loss.backoff > 1 {
            self.hot.snd.cwnd = self.mss();
        }
        self.cold.loss.backoff = 0;
        self.cold.loss.probes = 0;
        self.hot.snd.una = ack;
        self.hot.rexmit_at = Instant::NEVER;
        self.hot.sent_at = self.now;
        self.cold.heard_at = self.now;
        self.start_keepalive();
        if self.cold.fast != 0 {
            self.count_data_after_syn();
        }
        if self.has_data() {
            self.enqueue(Ring::Data);
        }
    }
}

/// A segment for a connection in SYN-SENT.
pub(super) fn syn_sent(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>, seg: &mut Seg) {
    let Some(mut c) = conn(mem, now, at) else { return };
    let (una, nxt) = (c.hot.snd.una, c.hot.snd.nxt);
    let acks = seg.flags.is_ack();
    if acks && (seg.ack.at_or_before(una) || seg.ack.after(nxt)) {
        c.asks_again_soon();
        reset::of_segment(mem, now, seg, DropReason::TcpAckBad);
        return;
    }
    if seg.flags.is_rst() {
        // RFC 5961 3.2: only a RST that acknowledges our SYN counts.
        if !acks {
            c.drop_packet(DropReason::TcpRstBad);
        } else if !unwire::syn_goes_over(mem, now, at) {
            table::settle(mem, now, at, Fate::Dead(SockError::Refused));
        }
        return;
    }
    if !seg.flags.is_syn() {
        c.drop_packet(DropReason::TcpFlagsBad);
        return;
    }
    if acks && c.cold.fast != 0 {
        return fast_open::on_syn_ack(mem, now, at, seg);
    }
    if c.sign() == Sign::Md5 {
        seg.options.timestamps = None; // nothing was offered
    }
    c.take_syn(seg);
    if acks {
        c.answered(seg);
    } else {
        // Both ends have sent a SYN (RFC 9293 3.5, figure 7).
        c.go(Cause::RecvSyn);
        c.cold.loss.backoff = 0;
        c.set(flag::SEND_SYN);
        c.enqueue(Ring::Control);
    }
    c.arm();
}

impl Conn<'_, '_> {
    /// Something of an earlier connection between the same ends answered our SYN. Our RST ends it (RFC 9293 3.5.2), and the SYN goes again right after, not only
    /// after a second. Once, so that nobody makes us send many.
    fn asks_again_soon(&mut self) {
        if self.cold.loss.backoff == 0 {
            self.hot.rexmit_at = self.hot.rexmit_at.min(self.now.plus(ASK_AGAIN));
            self.arm();
        }
    }

    /// Our SYN was answered by the SYN,ACK `seg`.
    #[inline]
    pub(super) fn answered(&mut self, seg: &Seg) {
        self.open_up(seg.ack, Cause::RecvSynAck);
        self.hot.rcv.edge = self.hot.rcv.nxt.plus(self.hot.rcv_buf.min(65_535));
        self.ack_now();
        self.notify(Ready::OUT);
    }

    /// Is SEG.ACK acceptable in SYN-RECEIVED (RFC 9293 3.10.7.4, fifth step)?
    pub(super) fn acks_syn(&self, seg: &Seg) -> bool {
        seg.ack.after(self.hot.snd.una) && seg.ack.at_or_before(self.hot.snd.nxt)
    }

    /// The ACK step of a segment for a connection in SYN-RECEIVED. `Ok`: it completes the handshake; the rest of the segment
    /// is to be looked at.
    pub(super) fn syn_rcvd_ack(&mut self, seg: &Seg) -> bool {
        if !self.acks_syn(seg) {
            return false;
        }
        self.take_ack_of_syn(seg.seq, seg.ack, seg.window);
        true
    }

    /// Our SYN,ACK was acknowledged, by a segment with these fields.
    pub(super) fn take_ack_of_syn(&mut self, seq: SeqNum, ack: SeqNum, window: u16) {
        self.open_up(ack, Cause::RecvAckOfSyn);
        self.hot.snd.wl1 = seq;
        self.hot.snd.wnd = u32::from(window) << self.hot.snd_shift.min(14);
        self.hot.snd.wnd_max = self.hot.snd.wnd.max(self.hot.snd.wnd_max);
    }

    /// The peer's SYN again: our SYN,ACK was lost, or both ends opened at once.
    pub(super) fn repeated_syn(&mut self) {
        self.set(flag::SEND_SYN);
        self.enqueue(Ring::Control);
    }

    /// Is this the state of one end after both have sent a SYN?
    pub(super) fn is_simultaneous_open(&self) -> bool {
        self.state() == State::SynRcvd && !self.any(flag::IN_SYN_QUEUE) && !self.is_early()
    }
}
