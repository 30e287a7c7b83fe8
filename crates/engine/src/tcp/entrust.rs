//! Connections that leave for the kernel, which goes on with them by TCP_REPAIR: what it has to know, and what stays here.
//!
//! For a while the row stays as a mark: segments that came before the steering changed are dropped in silence, and their peer sends them
//! again, to the kernel. Left out: connections whose handshake is not complete, and those that are over or in TIME-WAIT, those that came by a wire, of which the kernel has no end, and signed ones. What came out of order
//! is given up: the peer sends it again, as it may have to after any SACK (RFC 2018 8).

use ::state::ports::PORT_WIRE;
use ::state::{Endpoint, FrameQueue, LaneMem, SockRef, TcbCold, TcbHot};
use base::{Duration, FrameIdx, Idx, Instant};

use super::conn::{cold_of, conn};
use super::{MSS_DEFAULT, MSS_DEFAULT_V6, State, cc_flag, flag, handle, header, table};
use crate::events;
use crate::types::Stopped;

/// `TcbHot::state` of a row that is a mark; [`State::from_raw`] takes it for CLOSED.
pub(super) const ENTRUSTED: u8 = 0x81;
/// How long a mark stays: longer than a packet waits in a port.
const MARK: Duration = Duration::from_millis(1000);

/// May connection `at` leave in its state?
pub(super) const fn may_leave(state: State) -> bool {
    match state {
        State::Closed | State::Listen | State::SynSent | State::SynRcvd | State::TimeWait => false,
        State::Established
        | State::FinWait1
        | State::FinWait2
        | State::CloseWait
        | State::Closing
        | State::LastAck => true,
    }
}

/// [`Engine::tcp_stopped`](crate::Engine::tcp_stopped).
pub(crate) fn stopped(mem: &mut LaneMem<'_>, now: Instant, s: SockRef) -> Option<Stopped> {
    let at = handle::awake(mem, now, s).ok()?;
    let (hot, cold) = (mem.hot.get(at)?, mem.cold.get(cold_of(at))?);
    let by_wire = mem.ports.get(Idx::new(hot.port.into())).is_none_or(|port| port.flags & PORT_WIRE != 0);
    // The kernel's socket would not have its keys.
    let signed = cold.ooo.sign != 0;
    (may_leave(State::from_raw(hot.state)) && !by_wire && !signed).then(|| describe(now, hot, cold))
}

fn describe(now: Instant, hot: &TcbHot, cold: &TcbCold) -> Stopped {
    let any = |flags: u32| hot.flags & flags != 0;
    // A FIN counts one; the kernel is told of it apart.
    let rcv_nxt = if any(flag::FIN_RCVD) { hot.rcv.nxt.minus(1) } else { hot.rcv.nxt };
    let within = |seq: base::SeqNum| if seq.after(hot.snd.end) { hot.snd.end } else { seq };
    let usual = if hot.key.remote.is_v4() { MSS_DEFAULT } else { MSS_DEFAULT_V6 };
    Stopped {
        local: Endpoint { addr: hot.key.local, port: hot.key.local_port },
        remote: Endpoint { addr: hot.key.remote, port: hot.key.remote_port },
        snd_una: within(hot.snd.una),
        snd_nxt: within(hot.snd.nxt),
        snd_end: hot.snd.end,
        snd_wl1: hot.snd.wl1,
        snd_wnd_bytes: hot.snd.wnd,
        snd_wnd_max_bytes: hot.snd.wnd_max.max(hot.snd.wnd),
        rcv_nxt,
        rcv_wnd_bytes: if hot.rcv.edge.before(rcv_nxt) { 0 } else { hot.rcv.edge.since(rcv_nxt) },
        unread_bytes: hot.rcv_bytes,
        mss: if cold.mss_peer == 0 { usual } else { cold.mss_peer },
        scales: (cold.cc_flags & cc_flag::WINDOW_SCALE != 0).then_some((hot.snd_shift, hot.rcv_shift)),
        sack: any(flag::SACK),
        timestamp: any(flag::TIMESTAMPS).then(|| header::timestamp_clock(now, cold)),
        fin_sent: any(flag::FIN_QUEUED | flag::FIN_SENT),
        fin_received: any(flag::FIN_RCVD),
    }
}

/// [`Engine::tcp_copy_all`](crate::Engine::tcp_copy_all).
pub(crate) fn copy_all(mem: &LaneMem<'_>, s: SockRef, mut take: impl FnMut(&[u8])) {
    let Some(hot) = super::lookup(mem, s).and_then(|at| mem.hot.get(at)) else { return };
    for queue in [hot.rcv_queue, hot.snd_queue] {
        let mut at = queue.head;
        for _ in 0..mem.frames.count() {
            let Some(meta) = mem.frames.meta(at) else { break };
            take(mem.frames.data(at));
            at = meta.next;
        }
    }
}

/// [`Engine::tcp_entrust`](crate::Engine::tcp_entrust).
pub(crate) fn entrust(mem: &mut LaneMem<'_>, now: Instant, s: SockRef) -> bool {
    let Some(at) = super::lookup(mem, s) else { return false };
    let signed = mem.cold.get(cold_of(at)).is_none_or(|cold| cold.ooo.sign != 0);
    if signed || !mem.hot.get(at).is_some_and(|hot| may_leave(State::from_raw(hot.state))) {
        return false;
    }
    events::forget_row(mem, at.raw());
    table::leave_hop(mem, at);
    mem.wheel.cancel(at.raw());
    let Some(mut c) = conn(mem, now, at) else { return false };
    c.drop_board();
    c.drop_out_of_order();
    let none = FrameQueue { head: FrameIdx::NONE, tail: FrameIdx::NONE };
    for queue in
        [core::mem::replace(&mut c.hot.rcv_queue, none), core::mem::replace(&mut c.hot.snd_queue, none)]
    {
        c.frames.release_chain(queue.head);
    }
    c.hot.snd_cursor = FrameIdx::NONE;
    c.hot.rcv_bytes = 0;
    c.hot.state = ENTRUSTED;
    // No verb finds it any more.
    c.hot.flags = c.hot.flags & flag::RINGS | flag::HELD | flag::ORPHAN;
    c.hot.ack_at = Instant::NEVER;
    c.cold.idle_at = Instant::NEVER;
    c.hot.armed_at = Instant::NEVER;
    c.hot.rexmit_at = now.plus(MARK);
    c.arm();
    true
}

/// Is row `at` a mark?
pub(super) fn is_mark(mem: &LaneMem<'_>, at: Idx<TcbHot>) -> bool {
    mem.hot.get(at).is_some_and(|hot| hot.state == ENTRUSTED && hot.flags & flag::HELD != 0)
}

/// The time of mark `at` is over.
pub(super) fn forget_mark(mem: &mut LaneMem<'_>, at: Idx<TcbHot>) {
    table::forget(mem, at);
    table::free(mem, at);
}

const _: () = assert!(matches!(State::from_raw(ENTRUSTED), State::Closed));
