//! Sending at a pace (draft-ietf-ccwg-bbr 4.2 and 5.6.3): for connections whose algorithm wants it, and for those of which the program says how fast they
//! may be (SO_MAX_PACING_RATE). These take the general way out; the others do not come by here.
//!
//! A program's limit makes any algorithm send at a pace, as on Linux: that of its window and round-trip time, and no more than the limit. Payload
//! is what counts, whether it is new or sent again.

use ::state::TcbHot;
use base::{Duration, Idx, Instant};

use super::conn::Conn;
use super::flag;

/// What may go out at once: as much as in this time, us (section 5.6.3).
const QUANTUM_US: u64 = 1000;
/// Later than so much, a pace is not caught up with.
const LATE: Duration = Duration::from_millis(2);
/// Segments at the start of a connection that a program's limit does not hold back (Linux's sch_fq and internal pacing do the same).
const FREE_SEGMENTS: u64 = 10;
/// In slow start the pace is so many percent of a window in a round trip (Linux's tcp_pacing_ss_ratio) ...
const SLOW_START_PERCENT: u64 = 200;
/// ... and later so many (tcp_pacing_ca_ratio).
const PERCENT: u64 = 120;

/// The pace of an algorithm that has none of its own, bytes a second; `u64::MAX`: the round-trip time is not known.
pub(super) fn of_window(hot: &TcbHot) -> u64 {
    let srtt_us = u64::from(hot.rtt.srtt_us8 >> 3);
    let percent = if hot.snd.cwnd < hot.snd.ssthresh / 2 { SLOW_START_PERCENT } else { PERCENT };
    let window = u64::from(hot.snd.cwnd.max(hot.snd.nxt.since(hot.snd.una)));
    (window * percent * (1_000_000 / 100)).checked_div(srtt_us).unwrap_or(u64::MAX)
}

impl Conn<'_, '_> {
    /// Has the program set a limit?
    pub(super) fn has_pacing_limit(&self) -> bool {
        self.cold.options.pacing_limit != 0
    }

    /// Bytes a second; 0: there is no pace. A limit of 0 is none, as on Linux.
    fn pace(&self) -> u64 {
        let most = self.cold.options.max_pacing_rate();
        let own = if self.is_paced() {
            let rate = self.rates.get(Idx::new(self.at.raw()));
            rate.map(|r| r.pace).filter(|pace| *pace != 0).unwrap_or(u64::MAX)
        } else if self.has_pacing_limit() {
            of_window(self.hot)
        } else {
            return 0;
        };
        let pace = own.min(most);
        if pace == u64::MAX { 0 } else { pace }
    }

    /// `len` bytes of payload were sent, new or again.
    pub(super) fn note_paced(&mut self, len: u32) {
        let free = !self.is_paced()
            && self.cold.bytes_out.saturating_add(u64::from(len)) < FREE_SEGMENTS * u64::from(self.mss());
        let (pace, now) = (self.pace(), self.now);
        if free || pace == 0 {
            return;
        }
        let ns = u64::from(len) * 1_000_000_000 / pace;
        if let Some(w) = self.window() {
            let from = w.row.next_at.max(Instant(now.0.saturating_sub(LATE.0)));
            w.row.next_at = from.plus(Duration(ns));
        }
    }

    /// Must what is to be sent wait for its time? Then the timer sees to it.
    pub(super) fn waits_for_pace(&mut self) -> bool {
        let now = self.now;
        if self.pace() == 0 {
            return false;
        }
        let next = self.window().map_or(now, |w| w.row.next_at);
        if next <= now {
            return false;
        }
        if next < self.hot.armed_at {
            self.hot.armed_at = next;
            self.wheel.arm(self.at.raw(), next);
        }
        true
    }

    /// The timer ran out: sends on, if it was for the pace.
    pub(super) fn pace_on(&mut self) {
        if (self.is_paced() || self.has_pacing_limit()) && self.has_data() && !self.waits_for_pace() {
            self.kick();
        }
    }

    /// Bytes that may go out at once.
    pub(super) fn pace_quantum(&self) -> u32 {
        let pace = self.pace();
        if pace == 0 {
            return u32::MAX;
        }
        let bytes = pace.saturating_mul(QUANTUM_US) / 1_000_000;
        (bytes.min(u64::from(u32::MAX)) as u32).max(2 * self.mss())
    }

    /// `len` bytes of payload go out: what only connections on the general way need to know.
    pub(super) fn note_special_sent(&mut self, len: u32) {
        if self.any(flag::SPECIAL) && len > 0 {
            self.note_paced(len);
        }
    }
}
