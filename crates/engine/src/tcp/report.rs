//! ICMP errors about segments of ours (RFC 1122 4.2.3.9, RFC 1191, RFC 5927 4).

use ::state::{DropReason, FlowKey, LaneMem, Ready, TcbCold};
use base::{Instant, SeqNum};
use wire::Sign;

use super::ao_socket::{self, Count, Found};
use super::conn::{Conn, Fate, conn};
use super::keys::Owner;
use super::{State, TIMESTAMPS_BYTES, flag, headers_to, table};
use crate::errors::SockError;
use crate::icmp::{Fault, Report};

/// Smallest MTU of a path that is believed, bytes (Linux's min_pmtu): a forged error must not cut data to crumbs.
const PATH_MTU_MIN: u16 = 552;
/// The same over IPv6 (RFC 8201 4: a node must not go below it, whatever it is told).
const PATH_MTU_MIN_V6: u16 = wire::ipv6::MTU_MIN as u16;
/// MTUs to try when the router does not say (RFC 1191 7), descending.
const PLATEAUS: [u16; 6] = [32_000, 17_914, 8166, 4352, 1492, 1006];

/// Takes an error about a segment of ours.
pub(crate) fn handle_report(mem: &mut LaneMem<'_>, now: Instant, report: &Report) {
    let Some(at) = table::find(mem, &report.key()) else { return };
    let Some(c) = conn(mem, now, at) else { return };
    // RFC 5927 4.1: the quoted sequence number must be of something that is in flight.
    let quoted = SeqNum(report.word);
    if quoted.before(c.hot.snd.una) || quoted.at_or_after(c.hot.snd.nxt) {
        return;
    }
    // RFC 5925 7.8: who can forge nothing else must not end or slow a signed connection by an error message; while it is being opened it may, as in Linux.
    if matches!(c.sign(), Sign::Ao { .. }) && c.state().is_synchronized() && !ao_socket::hears_icmp(mem, at) {
        ao_socket::count(mem, Owner::of(at), Found::Other(Count::Icmp));
        mem.counters.drop_packet(DropReason::IcmpIgnored);
        return;
    }
    let Some(mut c) = conn(mem, now, at) else { return };
    let error = match report.fault {
        Fault::TooBig(mtu) => {
            c.path_is_narrower(mtu);
            c.arm();
            return;
        }
        Fault::Soft(error) | Fault::Hard(error) => error,
    };
    match c.state() {
        // As in Linux, an attempt to connect ends, whichever error it is.
        State::SynSent => table::settle(mem, now, at, Fate::Dead(error)),
        State::SynRcvd if !c.any(flag::IN_SYN_QUEUE) && !c.is_early() => {
            table::settle(mem, now, at, Fate::Dead(error));
        }
        // What a listener's SYN has made is nobody's yet; it ends when its SYN,ACK was repeated in vain.
        State::SynRcvd if c.any(flag::IN_SYN_QUEUE) => {}
        // RFC 1122 4.2.3.9, RFC 5927 5.2: an open connection goes on trying, whichever error it is.
        State::SynRcvd
        | State::Established
        | State::FinWait1
        | State::FinWait2
        | State::CloseWait
        | State::Closing
        | State::LastAck => c.hear_of(error),
        State::Closed | State::Listen | State::TimeWait => {}
    }
}

/// Does this lane have the connection `key`, awake or not?
pub(crate) fn knows(mem: &LaneMem<'_>, key: &FlowKey) -> bool {
    table::value_of(mem, key).is_some()
}

/// [`TcbCold::error`] holds what ends calls in its low half, and in its high half what was heard of a way that may open again.
const SOFT_SHIFT: u32 = 4;
const HARD_MASK: u8 = (1 << SOFT_SHIFT) - 1;
const _: () = assert!(SockError::from_raw(HARD_MASK).is_none());

/// Is there an error that ends the next call?
pub(super) const fn has_error(cold: &TcbCold) -> bool {
    cold.error & HARD_MASK != 0
}

/// The error that ends this call.
pub(super) fn take_error(cold: &mut TcbCold) -> Option<SockError> {
    let error = SockError::from_raw(cold.error & HARD_MASK);
    cold.error &= !HARD_MASK;
    error
}

/// What SO_ERROR tells: the same, or else what was heard of the way (as in Linux).
pub(super) fn take_any_error(cold: &mut TcbCold) -> Option<SockError> {
    take_error(cold).or_else(|| SockError::from_raw(core::mem::take(&mut cold.error) >> SOFT_SHIFT))
}

impl Conn<'_, '_> {
    /// What was sent last may not have arrived, says a router. The program hears of it by SO_ERROR, at once if it set IP_RECVERR, or when the
    /// connection is given up.
    fn hear_of(&mut self, error: SockError) {
        if self.cold.options.tells_errors() {
            self.cold.error = self.cold.error & !HARD_MASK | error as u8;
            self.notify(Ready::IN | Ready::OUT | Ready::ERR);
            return;
        }
        self.cold.error = self.cold.error & HARD_MASK | (error as u8) << SOFT_SHIFT;
        if !self.any(flag::STALLED) {
            // The next ACK is looked at, whether it is news that the way is open.
            self.set(flag::STALLED);
            self.cold.loss.stalled_at = self.now;
        }
    }

    /// The peer has answered: what was heard of the way is history.
    pub(super) fn forget_report(&mut self) {
        self.cold.error &= HARD_MASK;
    }

    /// Why a connection whose peer answers no more ends: what was heard of the way to it, if anything was.
    pub(super) const fn silence(&self) -> SockError {
        match SockError::from_raw(self.cold.error >> SOFT_SHIFT) {
            Some(heard) => heard,
            None => SockError::TimedOut,
        }
    }

    /// A router dropped a segment as too long for a link of `mtu` bytes (RFC 1191 3, RFC 8201 4): smaller ones from now on.
    fn path_is_narrower(&mut self, mtu: u16) {
        let options = if self.any(flag::TIMESTAMPS) { TIMESTAMPS_BYTES } else { 0 };
        let headers = headers_to(self.hot.key.remote) + options + self.sign().len_bytes() as u16;
        let least = if self.hot.key.remote.is_v4() { PATH_MTU_MIN } else { PATH_MTU_MIN_V6 };
        let sent = self.hot.mss.saturating_add(headers);
        let mtu = if mtu == 0 { PLATEAUS.into_iter().find(|p| *p < sent).unwrap_or(0) } else { mtu };
        let mss = mtu.max(least) - headers;
        if mss >= self.hot.mss || !self.state().is_synchronized() {
            return;
        }
        self.hot.mss = mss;
        self.note_path_told(mss);
        // RFC 1191 6.5: that is no congestion, so what was dropped goes again without a smaller window.
        self.resend_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plateaus_leave_room_for_headers() {
        const { assert!(PATH_MTU_MIN > crate::tcp::HEADERS_V4 + TIMESTAMPS_BYTES) };
        const { assert!(PATH_MTU_MIN_V6 > crate::tcp::HEADERS_V6 + TIMESTAMPS_BYTES) };
        assert!(PLATEAUS.iter().all(|p| *p > PATH_MTU_MIN));
        assert!(PLATEAUS.is_sorted_by(|a, b| a > b));
    }
}
