//! One connection in the hands of the code that works on it: its own rows, and what it shares with the lane.

use ::state::{
    Congestion, Counters, DropReason, Hop, LaneMem, PortInfo, Rate, Ready, Scoreboard, TcbCold, TcbHot,
    TcpGlobals, TxRing, Urgent,
};
use base::{Duration, Idx, Instant, SeqNum};
use region::{Frames, Table, Wheel};

use super::{Cause, State, flag, rtt, window};
use crate::errors::SockError;
use crate::events::Notifier;

/// What is to become of a connection after a step; the caller, who has all tables, sees to it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[must_use]
pub(crate) enum Fate {
    /// It goes on.
    Keep,
    /// The handshake of a passive open is complete: to the accept queue.
    Accept,
    /// It has just entered TIME-WAIT.
    TimeWait,
    /// It goes on; the segment is answered with a RST.
    Refuse,
    /// It is over without an error: nothing more is sent.
    Closed,
    /// It is over; the program is told why.
    Dead(SockError),
    /// It is over; the peer gets a RST, the program is told why.
    Reset(SockError),
}

/// Which ring of connections that have something to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ring {
    /// SYNs, probes.
    Control,
    /// ACKs without data.
    Ack,
    /// Data, new or again, and FIN.
    Data,
}

impl Ring {
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Control => 0,
            Self::Ack => 1,
            Self::Data => 2,
        }
    }

    pub(crate) const fn flag(self) -> u32 {
        match self {
            Self::Control => flag::RING_CONTROL,
            Self::Ack => flag::RING_ACK,
            Self::Data => flag::RING_DATA,
        }
    }
}

/// A connection, and the parts of the lane that its code touches.
pub(crate) struct Conn<'c, 'a> {
    pub(crate) at: Idx<TcbHot>,
    pub(crate) now: Instant,
    pub(crate) hot: &'c mut TcbHot,
    pub(crate) cold: &'c mut TcbCold,
    pub(crate) frames: &'c mut Frames<'a>,
    pub(crate) counters: &'c mut Counters,
    pub(crate) tcp: &'c mut TcpGlobals,
    pub(crate) rings: &'c mut Table<'a, u32>,
    pub(crate) wheel: &'c mut Wheel<'a>,
    pub(crate) cc: &'c mut Table<'a, Congestion>,
    pub(crate) rates: &'c mut Table<'a, Rate>,
    pub(crate) urgent: &'c mut Table<'a, Urgent>,
    pub(crate) boards: &'c mut Table<'a, Scoreboard>,
    pub(crate) events: Notifier<'c, 'a>,
    pub(crate) ports: &'c Table<'a, PortInfo>,
    pub(crate) hops: &'c Table<'a, Hop>,
}

/// The row of the cold table that belongs to `at`.
pub(crate) const fn cold_of(at: Idx<TcbHot>) -> Idx<TcbCold> {
    Idx::new(at.raw())
}

/// Takes connection `at` into hand.
#[inline]
pub(crate) fn conn<'c, 'a>(mem: &'c mut LaneMem<'a>, now: Instant, at: Idx<TcbHot>) -> Option<Conn<'c, 'a>> {
    Some(Conn {
        at,
        now,
        hot: mem.hot.get_mut(at)?,
        cold: mem.cold.get_mut(cold_of(at))?,
        frames: &mut mem.frames,
        counters: mem.counters,
        tcp: &mut mem.globals.tcp,
        rings: &mut mem.rings,
        wheel: &mut mem.wheel,
        cc: &mut mem.cc,
        rates: &mut mem.rates,
        urgent: &mut mem.urgent,
        boards: &mut mem.boards,
        events: Notifier { rows: &mut mem.events, lists: &mut mem.globals.events, signals: &mut mem.signals },
        ports: &mem.ports,
        hops: &mem.hops,
    })
}

impl Conn<'_, '_> {
    /// The state.
    #[inline]
    pub(crate) fn state(&self) -> State {
        State::from_raw(self.hot.state)
    }

    /// Goes to the state that `cause` leads to; stays where it is if the cause is not legal here.
    pub(crate) fn go(&mut self, cause: Cause) -> State {
        let state = self.state();
        let next = state.after(cause).unwrap_or(state);
        self.hot.state = next as u8;
        next
    }

    /// Is any of `flags` set?
    #[inline]
    pub(crate) fn any(&self, flags: u32) -> bool {
        self.hot.flags & flags != 0
    }

    #[inline]
    pub(crate) fn set(&mut self, flags: u32) {
        self.hot.flags |= flags;
    }

    #[inline]
    pub(crate) fn clear(&mut self, flags: u32) {
        self.hot.flags &= !flags;
    }

    /// Counts a dropped segment.
    pub(crate) fn drop_packet(&mut self, reason: DropReason) {
        self.counters.drop_packet(reason);
    }

    /// Tells whoever waits for events of this socket.
    #[inline]
    pub(crate) fn notify(&mut self, ready: Ready) {
        self.events.notify(self.at.raw(), ready);
    }

    /// Puts the connection into `ring`, once.
    #[inline]
    pub(crate) fn enqueue(&mut self, ring: Ring) {
        if self.any(ring.flag()) {
            return;
        }
        self.set(ring.flag());
        push_ring(self.tcp, self.rings, ring, self.at);
    }

    /// An ACK is to go out with the next transmission.
    #[inline]
    pub(crate) fn ack_now(&mut self) {
        self.set(flag::ACK_NOW);
        self.enqueue(Ring::Ack);
    }

    /// Bytes sent and not acknowledged, SYN and FIN counted.
    #[inline]
    pub(crate) fn flight(&self) -> u32 {
        self.hot.snd.nxt.since(self.hot.snd.una)
    }

    /// Bytes queued and not yet sent.
    #[inline]
    pub(crate) fn unsent(&self) -> u32 {
        if self.any(flag::FIN_SENT) { 0 } else { self.hot.snd.end.since(self.hot.snd.nxt) }
    }

    /// Bytes in the send buffer.
    #[inline]
    pub(crate) fn queued(&self) -> u32 {
        window::queued(self.hot)
    }

    /// Is a FIN still to be sent?
    #[inline]
    pub(crate) fn fin_pending(&self) -> bool {
        self.hot.flags & (flag::FIN_QUEUED | flag::FIN_SENT) == flag::FIN_QUEUED
    }

    /// Has our FIN been acknowledged?
    #[inline]
    pub(crate) fn fin_acked(&self) -> bool {
        self.any(flag::FIN_SENT) && self.hot.snd.una == self.hot.snd.nxt
    }

    /// Largest payload of one segment, bytes, never 0.
    #[inline]
    pub(crate) fn mss(&self) -> u32 {
        u32::from(self.hot.mss.max(1))
    }

    /// Is there anything that [`Ring::Data`] is for?
    #[inline]
    pub(crate) fn has_data(&self) -> bool {
        self.hot.snd.end.after(self.hot.snd.nxt) || self.fin_pending() || self.any(flag::RECOVERY)
    }

    /// Bytes of the window as last announced that are still open.
    #[inline]
    pub(crate) fn rcv_wnd(&self) -> u32 {
        window::rcv_wnd(self.hot)
    }

    /// Makes sure that the wheel fires at the earliest deadline or before it.
    #[inline]
    pub(crate) fn arm(&mut self) {
        arm(self.hot, self.cold, self.wheel, self.at);
    }

    /// [`arm_early`].
    pub(crate) fn arm_early(&mut self) {
        arm_early(self.hot, self.wheel, self.at, self.now);
    }

    /// One past the last sequence number that data occupies.
    pub(crate) fn data_end(&self) -> SeqNum {
        if self.any(flag::FIN_SENT) { self.hot.snd.end } else { self.hot.snd.nxt }
    }
}

/// Makes sure that the wheel fires at the earliest deadline of connection `at` or before it.
#[inline(always)]
pub(crate) fn arm(hot: &mut TcbHot, cold: &TcbCold, wheel: &mut Wheel<'_>, at: Idx<TcbHot>) {
    let mut due = hot.rexmit_at.min(hot.ack_at);
    if hot.flags & flag::IDLE_TIMER != 0 {
        due = due.min(cold.idle_at);
    }
    // Lazily: an entry that fires too early is armed again then, which is cheaper than moving it at each segment.
    if due < hot.armed_at {
        hot.armed_at = due;
        wheel.arm(at.raw(), due);
    }
}

/// A SYN of connection `at` went out: has the wheel fire as early as a timer of the data that will follow can be due, so that these need not move
/// the entry. If nothing has come by then the entry is armed anew, once.
#[inline]
pub(crate) fn arm_early(hot: &mut TcbHot, wheel: &mut Wheel<'_>, at: Idx<TcbHot>, now: Instant) {
    let early = now.plus(Duration::from_micros(u64::from(rtt::RTO_MIN_US)));
    if early < hot.armed_at && early < hot.rexmit_at {
        hot.armed_at = early;
        wheel.arm(at.raw(), early);
    }
}

/// Appends `at` to `ring`.
#[inline]
pub(crate) fn push_ring(tcp: &mut TcpGlobals, rings: &mut Table<'_, u32>, ring: Ring, at: Idx<TcbHot>) {
    let slots = rings.len() / 3;
    let Some(TxRing { tail, .. }) = tcp.rings.get_mut(ring.index()) else { return };
    let slot = ring.index() as u32 * slots + (*tail & slots.wrapping_sub(1));
    *tail = tail.wrapping_add(1);
    if let Some(entry) = rings.get_mut(Idx::new(slot)) {
        *entry = at.raw();
    }
}

/// Takes the first connection out of `ring`.
pub(crate) fn pop_ring(mem: &mut LaneMem<'_>, ring: Ring) -> Option<Idx<TcbHot>> {
    let slots = mem.rings.len() / 3;
    let TxRing { head, tail } = mem.globals.tcp.rings.get_mut(ring.index())?;
    if head == tail {
        return None;
    }
    if tail.wrapping_sub(*head) > slots {
        *head = tail.wrapping_sub(slots); // corrupted: no ring is that full
    }
    let slot = ring.index() as u32 * slots + (*head & slots.wrapping_sub(1));
    *head = head.wrapping_add(1);
    let at = Idx::new(*mem.rings.get(Idx::new(slot))?);
    mem.hot.get_mut(at)?.flags &= !ring.flag();
    Some(at)
}

/// Takes connection `at`, which has nothing more for `ring`, out of it if it is the first one there.
#[inline]
pub(crate) fn leave_front(mem: &mut LaneMem<'_>, ring: Ring, at: Idx<TcbHot>) {
    let slots = mem.rings.len() / 3;
    let Some(TxRing { head, tail }) = mem.globals.tcp.rings.get_mut(ring.index()) else { return };
    let slot = ring.index() as u32 * slots + (*head & slots.wrapping_sub(1));
    if head != tail && mem.rings.get(Idx::new(slot)) == Some(&at.raw()) {
        *head = head.wrapping_add(1);
        if let Some(hot) = mem.hot.get_mut(at) {
            hot.flags &= !ring.flag();
        }
    }
}
