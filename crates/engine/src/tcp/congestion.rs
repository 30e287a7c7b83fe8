//! How much may be in flight (RFC 5681): the algorithms, which of them a connection uses, and what each does when data is acknowledged or
//! lost. Initial window: RFC 6928.

use ::state::{Congestion as Row, TcbCold, TcbHot, TcpGlobals};
use base::{Duration, Idx, Instant};
use region::Table;
use wire::TcpFlags;

use super::conn::Conn;
use super::segment::Seg;
use super::{cc_flag, cubic, dctcp, flag, prr, rtt, slow_start};

/// Largest congestion window, bytes; a slow start threshold of this size is none.
pub(super) const CWND_MAX: u32 = 1 << 30;

/// An algorithm of congestion control.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Algorithm {
    /// CUBIC (RFC 9438), with HyStart++ (RFC 9406).
    Cubic = 1,
    /// NewReno (RFC 5681, RFC 6582), with HyStart++.
    Reno = 2,
    /// BBR, version 3 (draft-ietf-ccwg-bbr), paced.
    Bbr = 3,
    /// DCTCP (RFC 8257), for networks whose switches mark early; NewReno when the peer does not speak ECN.
    Dctcp = 4,
}

impl Algorithm {
    /// All of them, the default first.
    pub const ALL: [Self; 4] = [Self::Cubic, Self::Reno, Self::Bbr, Self::Dctcp];

    /// The one with this number in a region; 0 and nonsense: none.
    #[must_use]
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            1 => Some(Self::Cubic),
            2 => Some(Self::Reno),
            3 => Some(Self::Bbr),
            4 => Some(Self::Dctcp),
            _ => None,
        }
    }

    /// The name that Linux has for it (TCP_CONGESTION).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cubic => "cubic",
            Self::Reno => "reno",
            Self::Bbr => "bbr",
            Self::Dctcp => "dctcp",
        }
    }

    /// The one with this name.
    #[must_use]
    pub fn from_name(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.name().as_bytes() == name)
    }

    /// The one that a connection with `chosen` in its options uses on a lane with `usual` as its default.
    #[must_use]
    pub const fn chosen(chosen: u8, usual: u8) -> Self {
        match (Self::from_raw(chosen), Self::from_raw(usual)) {
            (Some(own), _) => own,
            (None, Some(usual)) => usual,
            (None, None) => Self::Cubic,
        }
    }
}

/// RFC 5681 4.1: is a congestion window of `hot` no longer known to fit the path, after an idle time of more than an RTO?
#[inline(always)]
pub(super) fn starts_again(hot: &TcbHot, now: Instant) -> bool {
    hot.snd.nxt == hot.snd.una
        && hot.snd.cwnd > initial_window(u32::from(hot.mss))
        && now.since(hot.sent_at) > rtt::rto(&hot.rtt, 0)
}

/// Initial window for segments of `mss` bytes (RFC 6928 2).
pub(super) fn initial_window(mss: u32) -> u32 {
    (10 * mss).min(14_600.max(2 * mss))
}

/// By how much a window of `cwnd` bytes grows when `acked` bytes were acknowledged in congestion avoidance: by one segment for each window
/// acknowledged, in bytes (RFC 5681 3.1). `rest`: what was acknowledged since it last grew.
///
/// Only whole segments go out of a window, and after halvings it has a part of one in it: what a round trip can acknowledge is less than
/// `cwnd` then. With that part counted a window of 2.5 segments would need five round trips to grow four times.
fn one_a_window(rest: &mut u32, acked: u32, cwnd: u32, mss: u32) -> u32 {
    let window = (cwnd - cwnd % mss).max(mss);
    let sum = rest.saturating_add(acked);
    *rest = if sum >= window { sum - window } else { sum };
    if sum >= window { mss } else { 0 }
}

/// Is the congestion window what limits a connection of which `flight` bytes were out? A window that was not used says nothing about the
/// path (RFC 7661 4.1): it grows only while it limits.
#[inline]
pub(super) fn limits(hot: &TcbHot, flight: u32) -> bool {
    u64::from(flight) * 2 >= u64::from(hot.snd.cwnd)
}

/// A connection's window, and its row of [`Row`]s.
pub(super) struct Window<'w> {
    hot: &'w mut TcbHot,
    cold: &'w mut TcbCold,
    pub(super) row: &'w mut Row,
    now: Instant,
}

/// The window of connection `at`; its row begins when this is first called. `None`: a corrupted region has no such row.
pub(super) fn window<'w>(
    (hot, cold): (&'w mut TcbHot, &'w mut TcbCold),
    table: &'w mut Table<'_, Row>,
    tcp: &TcpGlobals,
    at: Idx<TcbHot>,
    now: Instant,
) -> Option<Window<'w>> {
    let row = table.get_mut(Idx::new(at.raw()))?;
    if cold.cc_flags & cc_flag::ROW == 0 {
        cold.cc_flags |= cc_flag::ROW;
        cold.cc = Algorithm::chosen(cold.options.congestion, tcp.congestion) as u8;
        *row = Row { limited: hot.snd.una, reduced: hot.snd.una, reading: row.reading, ..Row::default() };
        row.arrival.since = now;
        (row.arrival.from, row.arrival.to) = (hot.snd.una, hot.snd.nxt);
        slow_start::begin(&mut row.slow, hot);
        dctcp::begin(&mut row.dctcp, hot);
    }
    Some(Window { hot, cold, row, now })
}

impl Window<'_> {
    fn algorithm(&self) -> Algorithm {
        Algorithm::from_raw(self.cold.cc).unwrap_or(Algorithm::Cubic)
    }

    fn mss(&self) -> u32 {
        u32::from(self.hot.mss.max(1))
    }

    /// `acked` bytes were acknowledged, `rtt_us` after they were sent if that is known. SND.UNA is behind them already.
    pub(super) fn grow(&mut self, acked: u32, rtt_us: Option<u32>) {
        self.measure();
        if self.algorithm() == Algorithm::Bbr {
            return; // `rate` sees to its window
        }
        let mut acked = acked;
        if self.hot.snd.cwnd < self.hot.snd.ssthresh {
            // An ACK stands for up to a whole super-segment here, so it counts with all its bytes (RFC 3465 2.1; RFC 9438
            // and Linux do the same).
            let more = slow_start::grow(&mut self.row.slow, self.hot, acked, rtt_us);
            let more = more.min(self.hot.snd.ssthresh.saturating_sub(self.hot.snd.cwnd));
            self.add(more);
            if self.hot.snd.cwnd < self.hot.snd.ssthresh {
                return;
            }
            acked = acked.saturating_sub(more);
        }
        // RFC 3168 6.1.2: no growth while the peer goes on to echo.
        let echoed = self.is_reduced() && self.algorithm() != Algorithm::Dctcp;
        if !self.may_grow(acked) || echoed {
            return;
        }
        let cwnd = self.hot.snd.cwnd;
        let more = match self.algorithm() {
            Algorithm::Cubic => {
                let rtt = Duration::from_micros(u64::from(self.hot.rtt.srtt_us8 >> 3));
                let windows = (cwnd, self.mss());
                cubic::grow(&mut self.row.cubic, self.now, rtt, windows, acked, &mut self.row.rest)
            }
            Algorithm::Bbr => 0,
            Algorithm::Reno | Algorithm::Dctcp => {
                let mss = self.mss();
                one_a_window(&mut self.row.rest, acked, cwnd, mss)
            }
        };
        self.add(more);
    }

    /// Was the window reduced for an echo within the last round trip?
    pub(super) fn is_reduced(&mut self) -> bool {
        if self.cold.cc_flags & cc_flag::REDUCED != 0 && self.hot.snd.una.at_or_after(self.row.reduced) {
            self.cold.cc_flags &= !cc_flag::REDUCED;
        }
        self.cold.cc_flags & cc_flag::REDUCED != 0
    }

    /// The peer echoed a mark when `flight` bytes were out: the window comes down, but never below two segments.
    pub(super) fn reduce_for_mark(&mut self, flight: u32) {
        if self.algorithm() == Algorithm::Dctcp {
            let cwnd = dctcp::reduced(&self.row.dctcp, self.hot.snd.cwnd);
            self.hot.snd.ssthresh = cwnd.max(2 * self.mss());
        } else {
            self.lower_threshold(flight);
        }
        self.hot.snd.cwnd = self.hot.snd.ssthresh.min(self.hot.snd.cwnd);
        self.row.reduced = self.hot.snd.nxt;
        self.cold.cc_flags |= cc_flag::REDUCED;
    }

    fn add(&mut self, more: u32) {
        self.hot.snd.cwnd = self.hot.snd.cwnd.saturating_add(more).min(CWND_MAX);
    }

    /// Did the congestion window hold data back when the last `acked` bytes were out? If not, congestion avoidance stops, and CUBIC's time
    /// with it (RFC 9438 5.8).
    fn may_grow(&mut self, acked: u32) -> bool {
        let una = self.hot.snd.una;
        let limited = una.minus(acked).at_or_before(self.row.limited);
        if !limited && una.since(self.row.limited) > self.hot.snd.cwnd {
            self.row.cubic.epoch = Instant(0);
            self.row.limited = una.minus(acked.saturating_add(1));
        }
        limited
    }

    /// How much arrives: what was acknowledged in about a round trip.
    fn measure(&mut self) {
        let (una, arrival) = (self.hot.snd.una, &mut self.row.arrival);
        if una.before(arrival.to) {
            return;
        }
        let us = self.now.since(arrival.since).as_micros();
        let arrived = u64::from(una.since(arrival.from)) * 1_000_000;
        arrival.rate = arrived.checked_div(us).unwrap_or(arrival.rate);
        (arrival.since, arrival.from, arrival.to) = (self.now, una, self.hot.snd.nxt);
    }

    /// Data was lost, or the path says that it is congested, with `flight` bytes out: the slow start threshold (RFC 5681 3.1, equation 4;
    /// RFC 9438 4.6).
    fn lower_threshold(&mut self, flight: u32) {
        let (cwnd, mss) = (self.hot.snd.cwnd, self.mss());
        // What is reported has left the network, and in recovery new data goes out for it: there may be far more between SND.UNA and
        // SND.NXT than the window ever allowed (RFC 9438 4.6 has a limit for this).
        let flight = flight.min(cwnd);
        self.row.rest = 0;
        let threshold = match self.algorithm() {
            Algorithm::Cubic => {
                cubic::reduce(&mut self.row.cubic, cwnd.min(flight.saturating_add(mss)));
                cubic::beta(flight)
            }
            Algorithm::Reno | Algorithm::Dctcp => flight / 2,
            Algorithm::Bbr => self.hot.snd.ssthresh,
        };
        self.hot.snd.ssthresh = threshold.max(2 * mss);
    }

    /// The last reduction was for nothing.
    fn undo(&mut self, cwnd_before: u32, ssthresh_before: u32) {
        self.hot.snd.cwnd = self.hot.snd.cwnd.max(cwnd_before);
        self.hot.snd.ssthresh = self.hot.snd.ssthresh.max(ssthresh_before);
        match self.algorithm() {
            Algorithm::Cubic => cubic::undo(&mut self.row.cubic),
            Algorithm::Reno | Algorithm::Bbr | Algorithm::Dctcp => {}
        }
    }
}

impl Conn<'_, '_> {
    /// The window, with its row.
    pub(super) fn window(&mut self) -> Option<Window<'_>> {
        window((self.hot, self.cold), self.cc, self.tcp, self.at, self.now)
    }

    /// The connection may send from now on.
    pub(super) fn start_congestion(&mut self) {
        self.hot.snd.cwnd = initial_window(self.mss());
        self.hot.snd.ssthresh = CWND_MAX;
        self.choose_pace();
    }

    /// The program has chosen another algorithm: the window stays, what the old one remembered goes.
    pub(super) fn choose_algorithm(&mut self) {
        self.choose_pace();
        // Also of who has sent nothing yet: it may have marks to echo.
        self.choose_way();
        if self.cold.cc_flags & cc_flag::ROW == 0 {
            return;
        }
        let chosen = Algorithm::chosen(self.cold.options.congestion, self.tcp.congestion);
        if self.cold.cc != chosen as u8
            && let Some(w) = self.window()
        {
            w.row.cubic = ::state::Cubic::default();
            w.row.rest = 0;
            w.cold.cc = chosen as u8;
        }
    }

    /// `acked` bytes were acknowledged when `flight` bytes were out (RFC 5681 3.1). `echo`: TSecr, if the segment had one.
    #[inline]
    pub(super) fn grow_window(&mut self, acked: u32, flight: u32, echo: Option<u32>) {
        if limits(self.hot, flight) {
            let rtt_us = echo.and_then(|echo| rtt::echoed_us(self.now, self.cold.ts_offset, echo));
            if let Some(mut w) = self.window() {
                w.grow(acked, rtt_us);
            }
        }
    }

    /// Data waits for the congestion window.
    pub(super) fn note_limited(&mut self) {
        let nxt = self.hot.snd.nxt;
        if let Some(w) = self.window() {
            w.row.limited = nxt;
        }
    }

    /// A loss that the window must answer, found without a timeout: the threshold comes down, and the window to it in recovery (RFC 9937).
    pub(super) fn on_loss_event(&mut self) {
        let flight = self.flight();
        let reported = self.sacked_bytes();
        if let Some(mut w) = self.window() {
            w.lower_threshold(flight);
            prr::begin(&mut w.row.prr, flight.saturating_sub(reported));
        }
        self.announce_reduction();
    }

    /// A retransmission timeout, the `first` in a row or a later one (RFC 5681 3.1).
    pub(super) fn on_rto(&mut self, first: bool) {
        let flight = self.flight();
        let recovering = self.any(flag::RECOVERY);
        if first && let Some(mut w) = self.window() {
            if recovering {
                // The window was on its way to the threshold, from below too.
                w.hot.snd.cwnd = w.hot.snd.cwnd.max(w.hot.snd.ssthresh);
            }
            w.lower_threshold(flight);
            self.announce_reduction();
            self.keep_window_for_later();
        }
        self.hot.snd.cwnd = self.mss();
    }

    /// An ACK in fast recovery reported `delivered` more bytes (RFC 9937 6.2). `first`: it began the recovery. `safe`: SND.UNA went on, and
    /// nothing more was found lost.
    pub(super) fn congestion_in_recovery(&mut self, delivered: u32, (first, safe): (bool, bool)) {
        let (pipe, mss, ssthresh) = (self.pipe(), self.mss(), self.hot.snd.ssthresh);
        let paced = self.cold.cc_flags & cc_flag::PACED != 0;
        if delivered > 0
            && !paced
            && let Some(w) = self.window()
        {
            if first {
                // RecoverFS counts what that ACK reports.
                w.row.prr.flight = w.row.prr.flight.saturating_add(delivered);
            }
            w.hot.snd.cwnd = prr::window(&mut w.row.prr, &prr::Ack { delivered, pipe, safe }, ssthresh, mss);
        }
    }

    /// DCTCP counts what `seg`, which acknowledged `acked` bytes, says of marks.
    pub(super) fn count_marks(&mut self, seg: &Seg, acked: u32) {
        if self.any(flag::SPECIAL)
            && self.uses_ecn()
            && let Some(w) = self.window()
            && w.algorithm() == Algorithm::Dctcp
        {
            dctcp::on_ack(&mut w.row.dctcp, w.hot, acked, seg.flags.intersects(TcpFlags::ECE));
        }
    }

    /// `len` bytes were sent in fast recovery (prr_out).
    pub(super) fn note_recovery_sent(&mut self, len: u32) {
        if self.any(flag::RECOVERY)
            && !self.any(flag::LOSS)
            && let Some(w) = self.window()
        {
            w.row.prr.out = w.row.prr.out.saturating_add(len);
        }
    }

    /// `acked` new bytes were acknowledged in recovery, when `flight` bytes were out; the recovery goes on.
    pub(super) fn on_recovery_ack(&mut self, acked: u32, flight: u32) {
        if self.any(flag::LOSS) {
            self.grow_window(acked, flight.max(self.hot.snd.cwnd), None);
        }
    }

    /// A recovery that began without a timeout is over (RFC 9937 6.2: the window is the threshold).
    pub(super) fn on_recovery_end(&mut self) {
        if self.cold.cc_flags & cc_flag::PACED == 0 {
            self.hot.snd.cwnd = self.hot.snd.ssthresh;
        }
    }

    /// Nothing was lost: the window is at least what it was before the alarm (RFC 4015 3.2, RFC 9438 4.9).
    pub(super) fn undo(&mut self, cwnd_before: u32, ssthresh_before: u32) {
        if let Some(mut w) = self.window() {
            w.undo(cwnd_before, ssthresh_before);
        }
    }

    /// RFC 5681 4.1: begins anew after an idle time, see [`starts_again`].
    #[inline]
    pub(super) fn restart_after_idle(&mut self) {
        if self.tcp.usual.keeps_window == 0
            && starts_again(self.hot, self.now)
            && !self.any(flag::RECOVERY)
            && self.cold.cc_flags & cc_flag::PACED == 0
        {
            self.hot.snd.cwnd = initial_window(self.mss());
            if self.cold.cc_flags & cc_flag::ROW != 0
                && let Some(w) = self.window()
            {
                w.row.cubic.epoch = Instant(0);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Algorithm, initial_window, one_a_window};

    #[test]
    fn a_window_grows_by_a_segment_a_round_trip_whole_or_not() {
        for start in [2000, 2500, 2999, 5000, 5750] {
            let (mut cwnd, mut rest) = (start, 0);
            for round in 1..=20 {
                for _ in 0..cwnd / 1000 {
                    cwnd += one_a_window(&mut rest, 1000, cwnd, 1000);
                }
                assert_eq!(cwnd, start + round * 1000, "from {start}");
            }
        }
        assert_eq!(one_a_window(&mut 0, 999, 500, 1000), 0, "a window of less than a segment counts as one");
    }

    #[test]
    fn the_initial_window_is_that_of_rfc_6928() {
        assert_eq!(initial_window(1448), 14_480);
        assert_eq!(initial_window(8960), 17_920);
        assert_eq!(initial_window(536), 5360);
    }

    #[test]
    fn every_algorithm_is_found_by_name_and_number() {
        for a in Algorithm::ALL {
            assert_eq!(Algorithm::from_name(a.name().as_bytes()), Some(a));
            assert_eq!(Algorithm::from_raw(a as u8), Some(a));
            assert_eq!(Algorithm::chosen(a as u8, 0), a);
            assert_eq!(Algorithm::chosen(0, a as u8), a);
        }
        assert_eq!(Algorithm::from_name(b"vegas"), None);
        assert_eq!(Algorithm::chosen(0, 0), Algorithm::Cubic);
    }
}
