//! How fast data is delivered (draft-ietf-ccwg-bbr 4.1): for connections whose algorithm wants to know. These take the general way in and out;
//! the others do not come by here.
//!
//! Instead of a record for each segment there are marks at some places of the stream, a dozen in flight; what is acknowledged up to the next one
//! is measured by the one before it. A late measurement gives a lower rate, and the filter of BBR takes the highest.

use ::state::{RATE_MARKS, Rate, RateMark};
use base::{Idx, SeqNum};

use super::congestion::Algorithm;
use super::conn::Conn;
use super::{bbr, cc_flag, flag, rtt};

/// Marks in one flight, about.
const MARKS_A_FLIGHT: u32 = 12;

impl Conn<'_, '_> {
    /// Does its algorithm set a pace?
    #[inline]
    pub(super) fn is_paced(&self) -> bool {
        self.cold.cc_flags & cc_flag::PACED != 0
    }

    fn rate(&mut self) -> Option<&mut Rate> {
        if !self.is_paced() {
            return None;
        }
        self.rates.get_mut(Idx::new(self.at.raw()))
    }

    /// The connection uses an algorithm that paces, or does not any more.
    #[inline]
    pub(super) fn choose_pace(&mut self) {
        let paces = Algorithm::chosen(self.cold.options.congestion, self.tcp.congestion) == Algorithm::Bbr;
        if paces != self.is_paced() && (self.state().is_synchronized() || self.hot.snd.cwnd != 0) {
            self.change_pace();
        }
    }

    #[inline(never)]
    fn change_pace(&mut self) {
        self.cold.cc_flags ^= cc_flag::PACED;
        let (now, una) = (self.now, self.hot.snd.una);
        if let Some(rate) = self.rate() {
            *rate = Rate { top: una, ..Rate::default() };
            bbr::begin(&mut rate.bbr, now);
        }
        self.choose_way();
    }

    /// New data from `start` on, `len` bytes of it, was sent.
    pub(super) fn note_rate_sent(&mut self, start: SeqNum, len: u32) {
        if !self.is_paced() || len == 0 {
            return;
        }
        let clock = rtt::clock_us(self.now);
        let before = start.since(self.hot.snd.una).saturating_sub(self.sacked_bytes());
        let (idle, apart) = (self.unsent() == 0, (self.hot.snd.cwnd / MARKS_A_FLIGHT).max(self.mss()));
        let Some(rate) = self.rate() else { return };
        if before == 0 {
            (rate.first_sent_us, rate.delivered_us) = (clock, clock);
        }
        let count = (rate.count as usize).min(RATE_MARKS);
        let last = rate.marks.get(count.wrapping_sub(1));
        if count < RATE_MARKS && last.is_none_or(|m| start.since(m.start) >= apart) {
            let mark = RateMark {
                start,
                sent_us: clock,
                first_sent_us: rate.first_sent_us,
                delivered: rate.delivered,
                delivered_us: rate.delivered_us,
                in_flight: before.saturating_add(len),
                lost: rate.lost,
                app_limited: rate.app_limited,
            };
            if let Some(slot) = rate.marks.get_mut(count) {
                *slot = mark;
                rate.count = count as u32 + 1;
            }
        }
        if idle {
            // The program has given no more: what arrives until this is through says how much it sends.
            rate.app_limited = rate.delivered.wrapping_add(before.saturating_add(len)) | 1;
        }
    }

    /// `len` bytes were sent again.
    pub(super) fn note_rate_lost(&mut self, len: u32) {
        if let Some(rate) = self.rate() {
            rate.lost = rate.lost.wrapping_add(len);
        }
    }

    /// An ACK reported `delivered` more bytes.
    pub(super) fn rate_ack(&mut self, delivered: u32) {
        if !self.is_paced() || delivered == 0 {
            return;
        }
        let (now, clock, mss, cwnd) = (self.now, rtt::clock_us(self.now), self.mss(), self.hot.snd.cwnd);
        let pipe = if self.any(flag::RECOVERY) {
            self.pipe()
        } else {
            self.flight().saturating_sub(self.sacked_bytes())
        };
        let una = self.hot.snd.una;
        let top = self.sacked_runs().last().map_or(una, |r| r.right.later(una));
        let (min_rtt_us, srtt_us) = (self.cold.loss.min_rtt_us, self.hot.rtt.srtt_us8 >> 3);
        let Some(rate) = self.rate() else { return };
        rate.delivered = rate.delivered.wrapping_add(delivered);
        rate.delivered_us = clock;
        rate.waiting = rate.waiting.saturating_add(delivered);
        rate.top = rate.top.later(top);
        if rate.app_limited != 0 && (rate.delivered.wrapping_sub(rate.app_limited) as i32) >= 0 {
            rate.app_limited = 0;
        }
        if let Some(mark) = take_mark(rate) {
            rate.first_sent_us = mark.sent_us;
            let (sent, came) =
                (mark.sent_us.wrapping_sub(mark.first_sent_us), clock.wrapping_sub(mark.delivered_us));
            let interval = sent.max(came);
            let bytes = u64::from(rate.delivered.wrapping_sub(mark.delivered)) * 1_000_000;
            // Section 4.1.2.3: a shorter time than a round trip tells nothing.
            let bw = if interval < min_rtt_us { None } else { bytes.checked_div(interval.into()) };
            let sample = bbr::Sample {
                now,
                rtt_us: clock.wrapping_sub(mark.sent_us),
                bw: bw.unwrap_or(0),
                delivered: (mark.delivered, rate.delivered),
                in_flight: mark.in_flight,
                lost: rate.lost.wrapping_sub(mark.lost),
                lost_now: rate.lost.wrapping_sub(core::mem::replace(&mut rate.lost_before, rate.lost)),
                app_limited: mark.app_limited != 0,
                pipe,
                mss,
                cwnd,
            };
            let acked = core::mem::take(&mut rate.waiting);
            bbr::on_sample(&mut rate.bbr, &sample, acked);
            let before = if rate.pace == 0 { bbr::first_pace(cwnd, srtt_us) } else { rate.pace };
            rate.pace = bbr::pace(&rate.bbr, before);
        }
        self.hot.snd.cwnd = match self.rate() {
            Some(rate) => bbr::window(&mut rate.bbr, cwnd, delivered, mss),
            None => cwnd,
        };
    }

    /// A timeout: when it is over the window is what it was (draft-ietf-ccwg-bbr 5.6.4.4).
    pub(super) fn keep_window_for_later(&mut self) {
        let cwnd = self.hot.snd.cwnd;
        if let Some(rate) = self.rate() {
            rate.bbr.prior_cwnd = rate.bbr.prior_cwnd.max(cwnd);
        }
    }
}

/// The last mark of which the first byte is delivered; it and those before it go.
fn take_mark(rate: &mut Rate) -> Option<RateMark> {
    let count = (rate.count as usize).min(RATE_MARKS);
    let top = rate.top;
    let passed = rate.marks.iter().take(count).take_while(|m| m.start.before(top)).count();
    let mark = rate.marks.get(passed.checked_sub(1)?).copied();
    rate.marks.copy_within(passed..count, 0);
    rate.count = (count - passed) as u32;
    mark
}
