//! The form in which a connection hibernates: an idle connection's rows into one row of [`Dormant`], and back.

use ::state::{Dormant, FlowKey, OptionSet, RcvSeq, RttState, SndSeq, TcbCold, TcbHot};
use base::{Duration, Idx, Instant, IpAddress, SeqNum};
use core::net::Ipv4Addr;

use super::congestion::initial_window;
use super::fast_open::bit;
use super::tune::FIRST;
use super::{State, flag, rtt};

/// Units of [`Dormant::since`], as a shift of ns.
pub(super) const SINCE_SHIFT: u32 = 24;

/// Bits of [`Dormant::flags`].
pub(super) mod kept {
    pub(crate) const TIMESTAMPS: u8 = 1;
    pub(crate) const SACK: u8 = 2;
    /// The data of its SYN were taken.
    pub(crate) const SYN_DATA: u8 = 4;
    pub(crate) const KEEPALIVE: u8 = 8;
    /// The program has closed it; there was no row to say so to the peer.
    pub(crate) const CLOSED: u8 = 16;
    /// It is in TIME-WAIT, and no program holds it.
    pub(crate) const TIME_WAIT: u8 = 32;
    /// In SYN-RECEIVED over IPv6.
    pub(crate) const IPV6: u8 = 64;
    pub(crate) const ALL: [(u8, u32); 3] = [
        (TIMESTAMPS, super::flag::TIMESTAMPS),
        (SACK, super::flag::SACK),
        (KEEPALIVE, super::flag::KEEPALIVE),
    ];
}

/// What flags an idle connection may have.
const IDLE_FLAGS: u32 = flag::HELD
    | flag::TIMESTAMPS
    | flag::SACK
    | flag::NODELAY
    | flag::CORK
    | flag::KEEPALIVE
    | flag::IDLE_TIMER
    | flag::TAIL_PROBED;

/// What flags a connection in TIME-WAIT has that no program holds.
const TIME_WAIT_FLAGS: u32 =
    flag::ORPHAN | flag::SHUT_READ | flag::FIN_QUEUED | flag::FIN_SENT | flag::FIN_RCVD;

/// Is `row` the connection of `key`?
#[inline]
pub(super) fn matches(row: &Dormant, key: &FlowKey) -> bool {
    let [.., a, b, c, d] = key.local.0;
    let [.., e, f, g, h] = key.remote.0;
    row.local_port == key.local_port
        && row.remote_port == key.remote_port
        && row.local == u32::from_be_bytes([a, b, c, d])
        && row.remote == u32::from_be_bytes([e, f, g, h])
        && row.handle != u32::MAX
        && if row.flags & kept::IPV6 == 0 {
            key.local.as_v4().is_some() && key.remote.as_v4().is_some()
        } else {
            upper_of(row) == [key.local, key.remote].map(upper)
        }
}

/// `addr` without its last four bytes.
const fn upper(addr: IpAddress) -> u128 {
    u128::from_be_bytes(addr.0) >> 32
}

/// What [`set_upper`] has put into `row`.
fn upper_of(row: &Dormant) -> [u128; 2] {
    let join = |count: [u16; 3], high: u32, low: u16| {
        u128::from(high) << 64 | u128::from(low) << 48 | u128::from(long(count))
    };
    [join(row.bytes_in, row.srtt_us8, row.wnd_max), join(row.bytes_out, row.var_us4, row.cwnd)]
}

/// The last four bytes of an address.
pub(super) fn low(addr: IpAddress) -> u32 {
    u128::from_be_bytes(addr.0) as u32
}

/// Puts the ends of `key`, which are IPv6 addresses, into `row`, that has no other use for these fields.
pub(super) fn set_upper(row: &mut Dormant, key: &FlowKey) {
    let [local, remote] = [key.local, key.remote].map(upper);
    (row.bytes_in, row.wnd_max, row.srtt_us8) =
        (short(local as u64), (local >> 48) as u16, (local >> 64) as u32);
    (row.bytes_out, row.cwnd, row.var_us4) =
        (short(remote as u64), (remote >> 48) as u16, (remote >> 64) as u32);
}

pub(super) fn key_of(row: &Dormant) -> FlowKey {
    if row.flags & kept::IPV6 != 0 {
        let [local, remote] = upper_of(row);
        let join = |upper: u128, low: u32| IpAddress((upper << 32 | u128::from(low)).to_be_bytes());
        return FlowKey {
            local: join(local, row.local),
            remote: join(remote, row.remote),
            local_port: row.local_port,
            remote_port: row.remote_port,
        };
    }
    FlowKey {
        local: IpAddress::from_v4(Ipv4Addr::from_bits(row.local)),
        remote: IpAddress::from_v4(Ipv4Addr::from_bits(row.remote)),
        local_port: row.local_port,
        remote_port: row.remote_port,
    }
}

/// A queue of no frames.
fn is_empty(queue: ::state::FrameQueue) -> bool {
    queue.head.is_none()
}

/// Has the connection in these rows nothing to do but to wait?
pub(super) fn is_idle(hot: &TcbHot, cold: &TcbCold) -> bool {
    let snd = &hot.snd;
    hot.flags & flag::HELD != 0
        && hot.flags & !IDLE_FLAGS == 0
        && (hot.flags & flag::IDLE_TIMER == 0 || hot.flags & flag::KEEPALIVE != 0)
        && hot.state == State::Established as u8
        && hot.rexmit_at == Instant::NEVER
        && hot.ack_at == Instant::NEVER
        && snd.una == snd.nxt
        && snd.nxt == snd.end
        && is_empty(hot.snd_queue)
        && is_empty(hot.rcv_queue)
        && hot.rcv_bytes == 0
        && hot.ooo_head.is_none()
        && hot.rcv.ack_sent == hot.rcv.nxt
        && cold.board.is_none()
        && cold.loss.keep_probes == 0
        && cold.acks_owed == 0
        && cold.error == 0
        && cold.path == 0
}

/// Has the connection in these rows, which nobody holds, nothing to do but to wait for the end of TIME-WAIT?
pub(super) fn only_waits(hot: &TcbHot, cold: &TcbCold) -> bool {
    const BUSY: u32 = flag::ACK_NOW | flag::SEND_PROBE | flag::WAITS_FOR_HOP;
    hot.flags & (BUSY | flag::IN_TIME_WAIT) == flag::IN_TIME_WAIT
        && hot.state == State::TimeWait as u8
        && hot.rexmit_at != Instant::NEVER
        && hot.snd.una == hot.snd.nxt
        && is_empty(hot.snd_queue)
        && is_empty(hot.rcv_queue)
        && hot.ooo_head.is_none()
        && hot.rcv.ack_sent == hot.rcv.nxt
        && cold.board.is_none()
        && cold.acks_owed == 0
        && cold.path == 0
}

/// The lower 48 bits of a count.
fn short(count: u64) -> [u16; 3] {
    [count as u16, (count >> 16) as u16, (count >> 32) as u16]
}

fn long([a, b, c]: [u16; 3]) -> u64 {
    u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32
}

fn to_u16(value: u32) -> u16 {
    u16::try_from(value).unwrap_or(u16::MAX)
}

/// Everything of an idle connection but its options, or `None` when it does not fit.
pub(super) fn freeze(hot: &TcbHot, cold: &TcbCold, now: Instant) -> Option<Dormant> {
    let (local, remote) = (hot.key.local.as_v4()?, hot.key.remote.as_v4()?);
    let (snd_shift, rcv_shift) = (hot.snd_shift.min(14), hot.rcv_shift.min(14));
    let mss = u32::from(hot.mss.max(1));
    // The peer's window loses what its shift cuts off, unless nothing would be left; ours gains it.
    let snd_wnd = u16::try_from(hot.snd.wnd >> snd_shift).ok().filter(|w| *w != 0 || hot.snd.wnd == 0)?;
    let rcv_wnd = if hot.rcv.edge.before(hot.rcv.nxt) { 0 } else { hot.rcv.edge.since(hot.rcv.nxt) };
    let rcv_wnd = u16::try_from(rcv_wnd.div_ceil(1 << rcv_shift)).ok()?;
    // RFC 5681 4.1 counts from the last transmission; a row remembers one time only, so the rule is applied here.
    let rested = now.since(hot.sent_at) > rtt::rto(&hot.rtt, 0);
    let most = if rested { initial_window(mss) } else { u32::MAX };
    let mut flags = 0;
    for (bit, flag) in kept::ALL {
        flags |= if hot.flags & flag == 0 { 0 } else { bit };
    }
    flags |= if cold.fast & bit::SYN_DATA == 0 { 0 } else { kept::SYN_DATA };
    Some(Dormant {
        handle: cold.handle,
        local: local.to_bits(),
        remote: remote.to_bits(),
        local_port: hot.key.local_port,
        remote_port: hot.key.remote_port,
        token: [0; 2],
        since: (now.0 >> SINCE_SHIFT) as u32,
        rcv_nxt: hot.rcv.nxt,
        ts_recent: hot.rcv.ts_recent,
        snd_nxt: hot.snd.nxt,
        ts_offset: cold.ts_offset,
        srtt_us8: hot.rtt.srtt_us8,
        var_us4: hot.rtt.var_us4,
        bytes_in: short(cold.bytes_in),
        bytes_out: short(cold.bytes_out),
        rcv_wnd,
        snd_wnd,
        wnd_max: to_u16(hot.snd.wnd_max.div_ceil(1 << snd_shift)),
        cwnd: to_u16(hot.snd.cwnd.min(most) / mss).max(1),
        ssthresh: to_u16(hot.snd.ssthresh / mss),
        mss: hot.mss,
        mss_peer: cold.mss_peer,
        mss_local: cold.mss_local,
        hop: u16::try_from(hot.hop.raw()).ok()?,
        options: 0,
        retransmits: to_u16(cold.loss.retransmits),
        shifts: snd_shift | rcv_shift << 4,
        port: hot.port,
        flags,
        quick_acks: hot.quick_acks,
        queue: 0,
        spare: 0,
    })
}

/// The rows of the connection that `row` stands for, with `set` as its options.
pub(super) fn thaw(row: &Dormant, set: &OptionSet, now: Instant) -> (TcbHot, TcbCold) {
    let (snd_shift, rcv_shift) = (row.shifts & 15, row.shifts >> 4);
    let mss = u32::from(row.mss.max(1));
    let nxt = row.snd_nxt;
    let since = (now.0 >> SINCE_SHIFT) as u32;
    let slept = Duration(u64::from(since.wrapping_sub(row.since)) << SINCE_SHIFT);
    let since = Instant(now.0.saturating_sub(slept.0));
    let mut flags = flag::HELD;
    for (bit, flag) in kept::ALL {
        flags |= if row.flags & bit == 0 { 0 } else { flag };
    }
    flags |= if set.options.nodelay == 0 { 0 } else { flag::NODELAY };
    flags |= if set.options.cork == 0 { 0 } else { flag::CORK };
    let mut rtt = RttState { srtt_us8: row.srtt_us8, var_us4: row.var_us4, ..RttState::default() };
    rtt::set_timeout(&mut rtt);
    let ssthresh = if row.ssthresh == u16::MAX { 1 << 30 } else { u32::from(row.ssthresh) * mss };
    let mut hot = TcbHot {
        key: key_of(row),
        state: State::Established as u8,
        port: row.port,
        snd_shift,
        rcv_shift,
        flags,
        rcv: RcvSeq {
            nxt: row.rcv_nxt,
            edge: row.rcv_nxt.plus(u32::from(row.rcv_wnd) << rcv_shift.min(14)),
            ts_recent: row.ts_recent,
            ack_sent: row.rcv_nxt,
        },
        mss: row.mss,
        dup_acks: 0,
        quick_acks: row.quick_acks,
        snd: SndSeq {
            una: nxt,
            nxt,
            end: nxt,
            wnd: u32::from(row.snd_wnd) << snd_shift.min(14),
            wl1: row.rcv_nxt,
            wnd_max: u32::from(row.wnd_max) << snd_shift.min(14),
            cwnd: u32::from(row.cwnd) * mss,
            ssthresh,
        },
        rcv_buf: set.rcv_buf,
        snd_buf: set.snd_buf,
        rtt,
        rexmit_at: Instant::NEVER,
        ack_at: Instant::NEVER,
        armed_at: Instant::NEVER,
        hop: Idx::new(u32::from(row.hop)),
        sent_at: since,
        ..TcbHot::default()
    };
    if row.flags & kept::TIME_WAIT != 0 {
        hot.state = State::TimeWait as u8;
        hot.flags |= TIME_WAIT_FLAGS;
        hot.snd.end = nxt.minus(1);
    }
    (hot, thaw_cold(row, set, since))
}

fn thaw_cold(row: &Dormant, set: &OptionSet, since: Instant) -> TcbCold {
    let nxt = row.snd_nxt;
    let mut cold = TcbCold {
        bytes_in: long(row.bytes_in),
        bytes_out: long(row.bytes_out),
        ts_recent_at: since,
        heard_at: since,
        ts_offset: row.ts_offset,
        snd_small: nxt,
        mss_peer: row.mss_peer,
        mss_local: row.mss_local,
        options: set.options,
        idle_at: Instant::NEVER,
        tune_at: row.rcv_nxt.plus(FIRST),
        iss: before_data(nxt, row.bytes_out),
        irs: before_data(row.rcv_nxt, row.bytes_in),
        handle: row.handle,
        fast: if row.flags & kept::SYN_DATA == 0 { 0 } else { bit::SYN_DATA },
        ..TcbCold::default()
    };
    let loss = &mut cold.loss;
    (loss.recover, loss.high_rxt, loss.lost_edge) = (nxt, nxt, nxt);
    loss.retransmits = u32::from(row.retransmits);
    cold
}

/// The number of the SYN, `bytes` of data before `nxt`.
fn before_data(nxt: SeqNum, bytes: [u16; 3]) -> SeqNum {
    nxt.minus(long(bytes) as u32).minus(1)
}
