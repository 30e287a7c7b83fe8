//! What programs ask of connections, besides reading and writing: readiness, errors, options, the ends of a connection.

use ::state::{Endpoint, LaneMem, Ready, SockKind, SockRef, TcbCold, TcbHot, TcpOptions};
use base::{Idx, Instant};
use region::Frames;

use super::conn::{Conn, Fate, cold_of, conn};
use super::fast_open::bit;
use super::receive::QUICK_ACKS;
use super::{
    Algorithm, Cause, State, cc_flag, ecn, flag, handle, hibernate, listen, lookup, pace, report, table,
    urgent, window,
};
use crate::errors::{ShutdownError, SockError};
use crate::events;
use crate::types::{CongestionInfo, How, Phase, TcpInfo};

/// Readiness as Linux's tcp_poll gives it.
pub(crate) fn ready(mem: &LaneMem<'_>, s: SockRef) -> Ready {
    handle::view(mem, s, |hot, cold| ready_by(mem, s, (hot, cold))).unwrap_or(Ready::ERR | Ready::HUP)
}

/// [`ready`] of a connection with these rows.
#[inline]
fn ready_by(mem: &LaneMem<'_>, s: SockRef, (hot, cold): (&TcbHot, &TcbCold)) -> Ready {
    let hole = if cold.ooo.urgent & urgent::bit::MARK != 0 { hole_at_mark(mem, s) } else { 0 };
    ready_of(hot, cold, &mem.frames, hole)
}

/// [`Engine::set_event_queue`](crate::Engine::set_event_queue) of a connection.
pub(crate) fn subscribe(mem: &mut LaneMem<'_>, now: Instant, s: SockRef, queue: u16, token: u64) -> bool {
    let Ok(at) = handle::awake(mem, now, s) else { return false };
    let (Some(hot), Some(cold)) = (mem.hot.get(at), mem.cold.get(cold_of(at))) else { return false };
    let ready = ready_by(mem, s, (hot, cold));
    events::subscribe_row(mem, (at.raw(), s), queue, token, ready)
}

/// Bytes at the front of what is unread that are no data: the urgent one, once it is next.
#[cold]
fn hole_at_mark(mem: &LaneMem<'_>, s: SockRef) -> u32 {
    u32::from(urgent::mark_of(mem, s) == Some(0))
}

/// `hole`: bytes at the front of what is unread that are no data.
fn ready_of(hot: &TcbHot, cold: &TcbCold, frames: &Frames<'_>, hole: u32) -> Ready {
    let state = State::from_raw(hot.state);
    let closed = state == State::Closed;
    let no_read = closed || hot.flags & (flag::FIN_RCVD | flag::SHUT_READ) != 0;
    let no_send = closed || hot.flags & flag::FIN_QUEUED != 0;
    let mut ready = Ready::NONE;
    if closed || (no_read && no_send) {
        ready |= Ready::HUP;
    }
    if no_read {
        ready |= Ready::IN | Ready::RDHUP;
    }
    let opening = state == State::SynSent || state == State::SynRcvd;
    if opening && cold.fast & bit::DEFERRED != 0 {
        // As Linux: so that the program writes what the SYN waits for.
        ready |= Ready::OUT;
    }
    if !opening || cold.fast & bit::EARLY != 0 {
        if hot.rcv_bytes >= cold.options.rcv_low_bytes.clamp(1, hot.rcv_buf.max(2) / 2).saturating_add(hole) {
            ready |= Ready::IN;
        }
        if cold.ooo.urgent & urgent::bit::HERE != 0 {
            ready |= Ready::PRI;
        }
        if no_send || window::has_room(hot, cold, frames) {
            ready |= Ready::OUT;
        }
    }
    if report::has_error(cold) {
        ready |= Ready::ERR;
    }
    ready
}

/// SO_ERROR.
pub(crate) fn take_error(mem: &mut LaneMem<'_>, s: SockRef) -> Option<SockError> {
    let at = lookup(mem, s)?;
    let cold = mem.cold.get_mut(cold_of(at))?;
    report::take_any_error(cold)
}

/// [`Engine::shutdown`](crate::Engine::shutdown).
pub(crate) fn shutdown(
    mem: &mut LaneMem<'_>,
    now: Instant,
    s: SockRef,
    how: How,
) -> Result<(), ShutdownError> {
    if listen::lookup(mem, s).is_some() {
        return Err(ShutdownError::NotConnected);
    }
    let at = handle::awake(mem, now, s).map_err(|_| ShutdownError::Gone)?;
    let mut c = conn(mem, now, at).ok_or(ShutdownError::Gone)?;
    match c.state() {
        State::Closed | State::Listen => return Err(ShutdownError::NotConnected),
        State::SynSent => {
            table::settle(mem, now, at, Fate::Dead(SockError::Reset));
            return Ok(());
        }
        _ => {}
    }
    if matches!(how, How::Read | How::Both) {
        c.set(flag::SHUT_READ);
        c.notify(Ready::IN | Ready::RDHUP);
    }
    if matches!(how, How::Write | How::Both) && !c.any(flag::FIN_QUEUED) {
        c.queue_fin();
        c.notify(Ready::OUT);
    }
    if c.any(flag::SHUT_READ) && c.any(flag::FIN_QUEUED) {
        c.notify(Ready::HUP);
    }
    c.arm();
    Ok(())
}

impl Conn<'_, '_> {
    /// The program sends no more: a FIN follows what is queued.
    fn queue_fin(&mut self) {
        self.set(flag::FIN_QUEUED);
        self.clear(flag::CORK);
        // Before our SYN is acknowledged the FIN waits (RFC 9293 3.10.4, SYN-RECEIVED: queued until ESTABLISHED).
        if self.state() != State::SynRcvd {
            self.go(Cause::Close);
            self.kick();
        }
    }
}

/// [`Engine::close`](crate::Engine::close) of a connection.
pub(crate) fn close(mem: &mut LaneMem<'_>, now: Instant, s: SockRef) {
    match handle::awake(mem, now, s) {
        Ok(at) => close_row(mem, now, at),
        Err(Some(asleep)) => hibernate::close_later(mem, now, asleep),
        Err(None) => {}
    }
}

/// The program closes connection `at`.
pub(super) fn close_row(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>) {
    let Some(mut c) = conn(mem, now, at) else { return };
    let unread = c.hot.rcv_bytes > 0;
    let hard = c.cold.options.linger != 0 && c.cold.options.linger_s == 0;
    let fate = match c.state() {
        State::Closed | State::TimeWait | State::Listen => Fate::Keep,
        State::SynSent => Fate::Closed,
        // RFC 2525 2.17, RFC 1122 4.2.2.13: data that nobody will read is lost, and the peer must hear of it.
        _ if unread || hard => {
            c.counters.tcp.aborts_on_close = c.counters.tcp.aborts_on_close.wrapping_add(1);
            Fate::Reset(SockError::Aborted)
        }
        _ => {
            if !c.any(flag::FIN_QUEUED) {
                c.queue_fin();
            }
            if c.state() == State::FinWait2 {
                c.start_fin_wait_2();
                c.arm();
            }
            Fate::Keep
        }
    };
    table::settle(mem, now, at, fate);
    table::orphan(mem, now, at);
}

/// [`Engine::abort`](crate::Engine::abort) of a connection.
pub(crate) fn abort(mem: &mut LaneMem<'_>, now: Instant, s: SockRef) {
    let at = match handle::awake(mem, now, s) {
        Ok(at) => at,
        Err(Some(asleep)) => return hibernate::close_later(mem, now, asleep),
        Err(None) => return,
    };
    let state = mem.hot.get(at).map_or(State::Closed, |t| State::from_raw(t.state));
    table::settle(mem, now, at, fate_of_aborted(state));
    table::orphan(mem, now, at);
}

/// What becomes of a connection in `state` that is aborted (RFC 9293 3.10.5).
pub(super) const fn fate_of_aborted(state: State) -> Fate {
    match state {
        State::Closed => Fate::Keep,
        State::SynSent | State::TimeWait | State::Listen => Fate::Closed,
        State::SynRcvd
        | State::Established
        | State::FinWait1
        | State::FinWait2
        | State::CloseWait
        | State::Closing
        | State::LastAck => Fate::Reset(SockError::Aborted),
    }
}

/// [`Engine::set_tcp_options`](crate::Engine::set_tcp_options).
pub(crate) fn set_options(mem: &mut LaneMem<'_>, now: Instant, s: SockRef, opts: &TcpOptions) -> bool {
    if let Some(row) = listen::lookup(mem, s).and_then(|at| mem.listeners.get_mut(at)) {
        row.options = *opts;
        return true;
    }
    let Some(mut c) = handle::awake(mem, now, s).ok().and_then(|at| conn(mem, now, at)) else { return false };
    c.apply_options(opts);
    // The window must not shrink below what was announced with a larger buffer, nor the shift change.
    c.hot.rcv_buf =
        c.hot.rcv_buf.max(c.hot.rcv_bytes.saturating_add(c.rcv_wnd()).min(c.hot.rcv_buf.max(2048)));
    c.kick();
    true
}

/// [`Engine::tcp_set_quick_ack`](crate::Engine::tcp_set_quick_ack).
pub(crate) fn set_quick_ack(mem: &mut LaneMem<'_>, now: Instant, s: SockRef, on: bool) -> bool {
    let Some(mut c) = handle::awake(mem, now, s).ok().and_then(|at| conn(mem, now, at)) else { return false };
    c.hot.quick_acks = if on { QUICK_ACKS } else { 0 };
    if on && c.hot.ack_at != Instant::NEVER {
        c.ack_now();
    }
    true
}

/// [`Engine::tcp_options`](crate::Engine::tcp_options).
pub(crate) fn options(mem: &LaneMem<'_>, s: SockRef) -> Option<TcpOptions> {
    match s.kind()? {
        SockKind::Listener => mem.listeners.get(listen::lookup(mem, s)?).map(|l| l.options),
        SockKind::Tcp => handle::view(mem, s, |hot, cold| TcpOptions {
            rcv_buf_bytes: hot.rcv_buf,
            snd_buf_bytes: hot.snd_buf,
            tos: ecn::without(cold.options.tos),
            ..cold.options
        }),
        SockKind::Udp => None,
    }
}

/// [`Engine::names`](crate::Engine::names).
pub(crate) fn names(mem: &LaneMem<'_>, s: SockRef) -> Option<(Endpoint, Endpoint)> {
    if let Some(at) = listen::lookup(mem, s) {
        return mem.listeners.get(at).map(|l| (l.local, Endpoint::default()));
    }
    let key = handle::view(mem, s, |hot, _| hot.key)?;
    Some((
        Endpoint { addr: key.local, port: key.local_port },
        Endpoint { addr: key.remote, port: key.remote_port },
    ))
}

/// [`Engine::tcp_info`](crate::Engine::tcp_info).
pub(crate) fn info(mem: &LaneMem<'_>, s: SockRef) -> Option<TcpInfo> {
    let mut info = handle::view(mem, s, info_of)?;
    let at = lookup(mem, s);
    let cold = at.and_then(|at| mem.cold.get(cold_of(at)));
    let chosen = handle::view(mem, s, |_, cold| cold.options.congestion)?;
    info.congestion.algorithm = Algorithm::chosen(chosen, mem.globals.tcp.congestion);
    if let (Some(at), Some(cold)) = (at, cold)
        && cold.cc_flags & cc_flag::ROW != 0
        && let Some(row) = mem.cc.get(Idx::new(at.raw()))
    {
        info.congestion.delivery_rate = row.arrival.rate;
        let una = mem.hot.get(at).map_or(row.reduced, |hot| hot.snd.una);
        if info.congestion.phase == Phase::Reduced && una.at_or_after(row.reduced) {
            info.congestion.phase = Phase::Open;
        }
        info.congestion.algorithm = Algorithm::from_raw(cold.cc).unwrap_or(info.congestion.algorithm);
    }
    if let (Some(at), Some(cold)) = (at, cold)
        && cold.cc_flags & cc_flag::PACED != 0
        && let Some(rate) = mem.rates.get(Idx::new(at.raw()))
    {
        info.congestion.delivery_rate = super::bbr::bw(&rate.bbr);
        let own = if rate.pace == 0 { u64::MAX } else { rate.pace };
        info.congestion.pacing_rate = own.min(info.congestion.max_pacing_rate);
    }
    Some(info)
}

fn phase_of(hot: &TcbHot, cold: &TcbCold) -> Phase {
    if hot.flags & flag::LOSS != 0 {
        Phase::Loss
    } else if hot.flags & flag::RECOVERY != 0 {
        Phase::Recovery
    } else if cold.cc_flags & cc_flag::REDUCED != 0 {
        Phase::Reduced
    } else if hot.dup_acks > 0 || !cold.board.is_none() {
        Phase::Disorder
    } else {
        Phase::Open
    }
}

fn info_of(hot: &TcbHot, cold: &TcbCold) -> TcpInfo {
    let fin_sent = hot.flags & flag::FIN_SENT != 0;
    let data_nxt = if fin_sent { hot.snd.end } else { hot.snd.nxt };
    let window = if hot.rcv.edge.before(hot.rcv.nxt) { 0 } else { hot.rcv.edge.since(hot.rcv.nxt) };
    TcpInfo {
        state: State::from_raw(hot.state),
        timestamps: hot.flags & flag::TIMESTAMPS != 0,
        sack: hot.flags & flag::SACK != 0,
        syn_data: cold.fast & bit::SYN_DATA != 0 && hot.state != State::SynSent as u8,
        snd_shift: hot.snd_shift,
        rcv_shift: hot.rcv_shift,
        backoff: cold.loss.backoff,
        recovering: hot.flags & flag::RECOVERY != 0,
        congestion: CongestionInfo {
            algorithm: Algorithm::Cubic,
            phase: phase_of(hot, cold),
            ecn: cold.options.tos & ecn::CE != 0,
            delivery_rate: 0,
            pacing_rate: pace::of_window(hot).min(cold.options.max_pacing_rate()),
            max_pacing_rate: cold.options.max_pacing_rate(),
        },
        rto_us: hot.rtt.rto_us,
        rtt_us: hot.rtt.srtt_us8 >> 3,
        rtt_var_us: hot.rtt.var_us4 >> 2,
        snd_mss: hot.mss,
        rcv_mss: cold.mss_local,
        cwnd_bytes: hot.snd.cwnd,
        ssthresh_bytes: hot.snd.ssthresh,
        snd_wnd_bytes: hot.snd.wnd,
        rcv_wnd_bytes: window,
        unacked_bytes: data_nxt.since(hot.snd.una).min(i32::MAX as u32),
        unsent_bytes: if fin_sent || hot.snd.end.before(data_nxt) { 0 } else { hot.snd.end.since(data_nxt) },
        unread_bytes: hot.rcv_bytes,
        retransmits: cold.loss.retransmits,
        bytes_in: cold.bytes_in,
        bytes_out: cold.bytes_out,
    }
}
