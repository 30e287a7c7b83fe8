//! How much may be in flight: slow start and congestion avoidance (RFC 5681), initial window (RFC 6928).

use ::state::{TcbCold, TcbHot};

use super::conn::Conn;
use super::{flag, rtt};

/// Largest congestion window, bytes.
const CWND_MAX: u32 = 1 << 30;

/// Initial window for segments of `mss` bytes (RFC 6928 2).
pub(super) fn initial_window(mss: u32) -> u32 {
    (10 * mss).min(14_600.max(2 * mss))
}

/// `acked` bytes were acknowledged when `flight` bytes were out (RFC 5681 3.1).
#[inline]
pub(super) fn grow_window(hot: &mut TcbHot, cold: &mut TcbCold, acked: u32, flight: u32) {
    let cwnd = hot.snd.cwnd;
    // A window that was not used says nothing about the path (RFC 7661 4.1): it grows only while it limits.
    if u64::from(flight) * 2 < u64::from(cwnd) {
        return;
    }
    if cwnd < hot.snd.ssthresh {
        // An ACK stands for up to a whole super-segment here, so it counts with all its bytes (RFC 3465 2.1; RFC 9438
        // and Linux do the same).
        hot.snd.cwnd = cwnd.saturating_add(acked).min(CWND_MAX);
        return;
    }
    // Congestion avoidance: one segment for each window acknowledged (RFC 5681 3.1, byte counting).
    let sum = cold.loss.acked.saturating_add(acked);
    if sum >= cwnd {
        cold.loss.acked = sum - cwnd;
        hot.snd.cwnd = cwnd.saturating_add(u32::from(hot.mss.max(1))).min(CWND_MAX);
    } else {
        cold.loss.acked = sum;
    }
}

impl Conn<'_, '_> {
    /// The connection may send from now on.
    pub(super) fn start_congestion(&mut self) {
        self.hot.snd.cwnd = initial_window(self.mss());
        self.hot.snd.ssthresh = CWND_MAX;
    }

    /// `acked` bytes were acknowledged when `flight` bytes were out (RFC 5681 3.1).
    #[inline]
    pub(super) fn grow_window(&mut self, acked: u32, flight: u32) {
        grow_window(self.hot, self.cold, acked, flight);
    }

    /// Half of what is in flight (RFC 5681 3.1, equation 4).
    pub(super) fn halve_threshold(&mut self) {
        let mss = self.mss();
        self.hot.snd.ssthresh = (self.flight() / 2).max(2 * mss);
    }

    /// A loss that the window must answer, found without a timeout (RFC 5681 3.2).
    pub(super) fn on_loss_event(&mut self) {
        self.halve_threshold();
        self.hot.snd.cwnd = self.hot.snd.ssthresh;
    }

    /// A retransmission timeout, the `first` in a row or a later one (RFC 5681 3.1).
    pub(super) fn on_rto(&mut self, first: bool) {
        if first {
            self.halve_threshold();
        }
        self.hot.snd.cwnd = self.mss();
    }

    /// `acked` new bytes were acknowledged in recovery, when `flight` bytes were out; the recovery goes on.
    pub(super) fn on_recovery_ack(&mut self, acked: u32, flight: u32) {
        if self.any(flag::LOSS) {
            self.grow_window(acked, flight.max(self.hot.snd.cwnd));
        }
    }

    /// A recovery that began without a timeout is over (RFC 6582 3.2 step 3, option 1: no burst).
    pub(super) fn on_recovery_end(&mut self) {
        let few = self.flight().saturating_add(2 * self.mss());
        self.hot.snd.cwnd = self.hot.snd.ssthresh.min(few.max(self.hot.snd.ssthresh / 2));
    }

    /// Nothing was lost: the window is at least what it was before the alarm (RFC 4015 3.2).
    pub(super) fn undo(&mut self, cwnd_before: u32, ssthresh_before: u32) {
        self.hot.snd.cwnd = self.hot.snd.cwnd.max(cwnd_before);
        self.hot.snd.ssthresh = self.hot.snd.ssthresh.max(ssthresh_before);
    }

    /// RFC 5681 4.1: after an idle time of more than an RTO the window is no longer known to fit the path.
    #[inline]
    pub(super) fn restart_after_idle(&mut self) {
        if self.flight() == 0
            && self.hot.snd.cwnd > initial_window(self.mss())
            && self.now.since(self.hot.sent_at) > rtt::rto(&self.hot.rtt, 0)
            && !self.any(flag::RECOVERY)
        {
            self.hot.snd.cwnd = initial_window(self.mss());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::initial_window;

    #[test]
    fn the_initial_window_is_that_of_rfc_6928() {
        assert_eq!(initial_window(1448), 14_480);
        assert_eq!(initial_window(8960), 17_920);
        assert_eq!(initial_window(536), 5360);
    }
}
