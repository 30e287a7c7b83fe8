//! BBR, version 3 (draft-ietf-ccwg-bbr): a model of the path - how much arrives at most, how long a round trip takes at least, how much may
//! be in flight before data is lost - and the pace and the window that follow from it.

use ::state::Bbr;
use base::{Duration, Instant};

/// BBR.MinRTTFilterLen.
const MIN_RTT_LASTS: Duration = Duration::from_secs(10);
/// BBR.ProbeRTTInterval.
const PROBE_RTT_EVERY: Duration = Duration::from_secs(5);
/// BBR.ProbeRTTDuration.
const PROBE_RTT_LASTS: Duration = Duration::from_millis(200);
/// Least window, segments (BBR.MinPipeCwnd).
const LEAST_SEGMENTS: u32 = 4;
/// Lost segments in a round that may end Startup (BBR.StartupFullLossCnt).
const STARTUP_LOSSES: u32 = 6;
/// Rounds without growth that end Startup.
const FULL_ROUNDS: u8 = 3;
/// Losses that may be the path's own, where no queue is seen: one byte in so many.
const RANDOM_LOSS: u32 = 8;
/// Nothing is known.
const NONE: u32 = u32::MAX;

/// Bits of [`Bbr::flags`].
mod bit {
    /// The path has been full (full_bw_reached).
    pub(super) const FULL: u8 = 1;
    /// Data was lost in this round.
    pub(super) const LOSS: u8 = 1 << 1;
    /// bw_probe_samples: what arrives tells of the probe.
    pub(super) const SAMPLES: u8 = 1 << 2;
    /// probe_rtt_round_done.
    pub(super) const ROUND_DONE: u8 = 1 << 3;
    /// A probe has ended; with the next round so does the cycle of the filter.
    pub(super) const STOPPING: u8 = 1 << 4;
}

/// Where the state machine is (section 5.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum State {
    Startup,
    Drain,
    Down,
    Cruise,
    Refill,
    Up,
    ProbeRtt,
}

impl State {
    pub(super) const fn of(raw: u8) -> Self {
        match raw {
            1 => Self::Drain,
            2 => Self::Down,
            3 => Self::Cruise,
            4 => Self::Refill,
            5 => Self::Up,
            6 => Self::ProbeRtt,
            _ => Self::Startup,
        }
    }

    /// Gains of pace and window, percent (section 5.1.1).
    const fn gains(self) -> (u64, u64) {
        match self {
            Self::Startup => (277, 200),
            Self::Drain => (50, 200),
            Self::Down => (90, 200),
            Self::Cruise | Self::Refill => (100, 200),
            Self::Up => (125, 225),
            Self::ProbeRtt => (100, 50),
        }
    }

    /// Is more sent than is known to fit?
    const fn probes(self) -> bool {
        matches!(self, Self::Startup | Self::Refill | Self::Up)
    }
}

/// What an ACK tells (section 4.1.1: rate sample).
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) now: Instant,
    /// Round-trip time, us.
    pub(super) rtt_us: u32,
    /// Bytes a second; 0: not known.
    pub(super) bw: u64,
    /// Delivered when what is acknowledged was sent, and now, bytes, wrapping.
    pub(super) delivered: (u32, u32),
    /// In flight when it was sent, bytes.
    pub(super) in_flight: u32,
    /// Lost since then, bytes.
    pub(super) lost: u32,
    /// Lost since the last sample, bytes.
    pub(super) lost_now: u32,
    /// The program held back.
    pub(super) app_limited: bool,
    /// Bytes now believed to be in flight.
    pub(super) pipe: u32,
    pub(super) mss: u32,
    pub(super) cwnd: u32,
}

fn percent(value: u64, by: u64) -> u64 {
    value.saturating_mul(by) / 100
}

fn to_u32(value: u64) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Is `a` not before `b`? Counts wrap.
fn reached(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) >= 0
}

/// BBR begins.
pub(super) fn begin(bbr: &mut Bbr, now: Instant) {
    *bbr = Bbr {
        bw_short: u64::MAX,
        min_rtt_us: NONE,
        probe_min_us: NONE,
        in_flight_long: NONE,
        in_flight_short: NONE,
        min_rtt_at: now,
        probe_min_at: now,
        cycle_at: now,
        ..Bbr::default()
    };
}

/// max_bw.
fn max_bw(bbr: &Bbr) -> u64 {
    let [current, before] = bbr.max_bw;
    current.max(before)
}

/// bw: what the path is taken to carry, bytes a second.
pub(super) fn bw(bbr: &Bbr) -> u64 {
    max_bw(bbr).min(bbr.bw_short)
}

/// `by` percent of what is under way at rate `rate` (section 5.6.4.2), bytes. Before anything was measured: everything.
fn bdp(bbr: &Bbr, rate: u64, by: u64) -> u32 {
    if bbr.min_rtt_us == NONE || rate == 0 {
        return NONE;
    }
    to_u32(percent(rate.saturating_mul(bbr.min_rtt_us.into()) / 1_000_000, by))
}

/// inflight_longterm, with room for others (section 5.3.3.2).
fn with_headroom(bbr: &Bbr, mss: u32) -> u32 {
    if bbr.in_flight_long == NONE {
        return NONE;
    }
    to_u32(percent(bbr.in_flight_long.into(), 85)).max(LEAST_SEGMENTS * mss)
}

fn go(bbr: &mut Bbr, state: State) {
    bbr.state = state as u8;
}

fn start_down(bbr: &mut Bbr, s: &Sample) {
    // Section 5.3.3.5.3: two to three seconds, drawn so that flows do not probe together.
    let draw = (s.now.0 >> 8).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44;
    bbr.wait_us = 2_000_000 + (draw as u32 % 1_000_000);
    bbr.rounds = draw as u32 & 1;
    bbr.cycle_at = s.now;
    bbr.round_end = s.delivered.1;
    bbr.flags = bbr.flags & !bit::SAMPLES | bit::STOPPING;
    go(bbr, State::Down);
}

fn start_refill(bbr: &mut Bbr, s: &Sample) {
    (bbr.bw_short, bbr.in_flight_short) = (u64::MAX, NONE);
    (bbr.up_rounds, bbr.up_acked) = (0, 0);
    bbr.round_end = s.delivered.1;
    bbr.flags &= !bit::STOPPING;
    go(bbr, State::Refill);
}

/// inflight_longterm grows twice as fast each round (section 5.3.3.6).
fn raise_slope(bbr: &mut Bbr, s: &Sample) {
    bbr.up_count = (s.cwnd >> bbr.up_rounds.min(30)).max(s.mss);
    bbr.up_rounds = bbr.up_rounds.saturating_add(1).min(30);
}

fn start_up(bbr: &mut Bbr, s: &Sample) {
    bbr.cycle_at = s.now;
    bbr.round_end = s.delivered.1;
    bbr.flags |= bit::SAMPLES;
    raise_slope(bbr, s);
    go(bbr, State::Up);
}

/// Takes a sample; `acked` bytes were delivered since the one before.
pub(super) fn on_sample(bbr: &mut Bbr, s: &Sample, acked: u32) {
    let (then, delivered) = s.delivered;
    let round = reached(then, bbr.round_end);
    if round {
        bbr.round_end = delivered;
        bbr.rounds = bbr.rounds.saturating_add(1);
        if bbr.flags & bit::STOPPING != 0 {
            // AdvanceMaxBwFilter.
            bbr.flags &= !bit::STOPPING;
            let [current, _] = bbr.max_bw;
            bbr.max_bw = [0, current];
        }
    }
    let arrived = delivered.wrapping_sub(then);
    bbr.bw_latest = bbr.bw_latest.max(s.bw);
    bbr.in_flight_latest = bbr.in_flight_latest.max(arrived);
    if s.bw >= max_bw(bbr) || !s.app_limited {
        let [current, _] = &mut bbr.max_bw;
        *current = (*current).max(s.bw);
    }
    if s.rtt_us > 0 && (bbr.round_rtt_us == 0 || s.rtt_us < bbr.round_rtt_us) {
        bbr.round_rtt_us = s.rtt_us;
    }
    if s.lost_now > 0 {
        bbr.flags |= bit::LOSS;
    }
    let loss_round = reached(then, bbr.loss_round_end);
    if loss_round {
        bbr.loss_round_end = delivered;
        lower_bounds(bbr, s);
    }
    note_aggregation(bbr, s, acked);
    check_full(bbr, s, round, loss_round);
    cycle(bbr, s, round, acked);
    note_rtt(bbr, s);
    probe_rtt(bbr, s, round);
    if loss_round {
        bbr.round_rtt_us = 0;
        (bbr.bw_latest, bbr.in_flight_latest) = (s.bw, arrived);
        bbr.flags &= !bit::LOSS;
    }
}

/// After a round with losses the short-term bounds come down (section 5.5.10.3).
fn lower_bounds(bbr: &mut Bbr, s: &Sample) {
    if bbr.flags & bit::LOSS == 0 || State::of(bbr.state).probes() || is_random(bbr, s) {
        return;
    }
    if bbr.bw_short == u64::MAX {
        bbr.bw_short = max_bw(bbr);
    }
    if bbr.in_flight_short == NONE {
        bbr.in_flight_short = s.cwnd;
    }
    bbr.bw_short = bbr.bw_latest.max(percent(bbr.bw_short, 70));
    bbr.in_flight_short = bbr.in_flight_latest.max(to_u32(percent(bbr.in_flight_short.into(), 70)));
}

/// extra_acked: how much more arrives at once than the path carries in that time (section 5.5.9).
fn note_aggregation(bbr: &mut Bbr, s: &Sample, acked: u32) {
    let clock = s.now.as_micros() as u32;
    let elapsed = clock.wrapping_sub(bbr.extra_us);
    let expected = to_u32(bw(bbr).saturating_mul(elapsed.into()) / 1_000_000);
    if bbr.extra_delivered <= expected {
        (bbr.extra_delivered, bbr.extra_us) = (0, clock);
    }
    let expected = if bbr.extra_delivered == 0 { 0 } else { expected };
    bbr.extra_delivered = bbr.extra_delivered.saturating_add(acked);
    let extra = bbr.extra_delivered.saturating_sub(expected).min(s.cwnd);
    let [now, before] = &mut bbr.extra_acked;
    if bbr.rounds.is_multiple_of(5) && *now < extra {
        *before = *now;
    }
    *now = (*now).max(extra);
}

/// Has the path been filled (section 5.3.1.2), and the queue drained?
fn check_full(bbr: &mut Bbr, s: &Sample, round: bool, loss_round: bool) {
    if bbr.flags & bit::FULL == 0 && round && !s.app_limited {
        if s.bw >= percent(bbr.full_bw, 125) {
            (bbr.full_bw, bbr.full_count) = (s.bw, 0);
        } else {
            bbr.full_count = bbr.full_count.saturating_add(1);
            if bbr.full_count >= FULL_ROUNDS {
                bbr.flags |= bit::FULL;
            }
        }
    }
    // Section 5.3.1.3: so does a round with many losses.
    let many = s.lost >= STARTUP_LOSSES * s.mss && too_many_lost(bbr, s);
    if bbr.flags & bit::FULL == 0 && loss_round && many {
        bbr.flags |= bit::FULL;
        bbr.in_flight_long = bdp(bbr, max_bw(bbr), 100).max(bbr.in_flight_latest);
    }
    if State::of(bbr.state) == State::Startup && bbr.flags & bit::FULL != 0 {
        go(bbr, State::Drain);
    }
    if State::of(bbr.state) == State::Drain && s.pipe <= bdp(bbr, max_bw(bbr), 100) {
        start_down(bbr, s);
    }
}

/// More than 2 % of what was in flight (BBR.LossThresh), and not the path's own doing.
fn too_many_lost(bbr: &Bbr, s: &Sample) -> bool {
    u64::from(s.lost) * 50 > u64::from(s.in_flight) && !is_random(bbr, s)
}

/// Do losses say nothing of congestion? A full queue makes round trips longer, and a queue too short for that, or a policer, drops far more
/// of what is beyond its rate.
fn is_random(bbr: &Bbr, s: &Sample) -> bool {
    let queued = bbr.min_rtt_us == NONE
        || bbr.round_rtt_us == 0
        || bbr.round_rtt_us > bbr.min_rtt_us + bbr.min_rtt_us / 16;
    !queued && s.lost.saturating_mul(RANDOM_LOSS) <= s.in_flight
}

/// inflight_longterm follows what was tried (section 5.5.10.2).
fn upper_bounds(bbr: &mut Bbr, s: &Sample, round: bool, acked: u32) {
    if too_many_lost(bbr, s) {
        if bbr.flags & bit::SAMPLES != 0 {
            bbr.flags &= !bit::SAMPLES;
            if !s.app_limited {
                let target = bdp(bbr, bw(bbr), 100).min(s.cwnd);
                bbr.in_flight_long = s.in_flight.max(to_u32(percent(target.into(), 70)));
            }
            if State::of(bbr.state) == State::Up {
                start_down(bbr, s);
            }
        }
        return;
    }
    if bbr.in_flight_long == NONE {
        return;
    }
    bbr.in_flight_long = bbr.in_flight_long.max(s.in_flight);
    if State::of(bbr.state) != State::Up || s.cwnd < bbr.in_flight_long {
        return;
    }
    bbr.up_acked = bbr.up_acked.saturating_add(acked);
    if let Some(steps) = bbr.up_acked.checked_div(bbr.up_count)
        && steps > 0
    {
        bbr.up_acked -= steps * bbr.up_count;
        bbr.in_flight_long = bbr.in_flight_long.saturating_add(steps.saturating_mul(s.mss));
    }
    if round {
        raise_slope(bbr, s);
    }
}

/// The cycle of probing for bandwidth (section 5.3.3).
fn cycle(bbr: &mut Bbr, s: &Sample, round: bool, acked: u32) {
    if bbr.flags & bit::FULL == 0 {
        return;
    }
    upper_bounds(bbr, s, round, acked);
    let elapsed = s.now.since(bbr.cycle_at).as_micros();
    // Section 5.3.3.5: as often as Reno would have lost something, too.
    let full = bdp(bbr, bw(bbr), 100);
    let reno_rounds = (full.min(s.cwnd) / s.mss.max(1)).min(63);
    let due = elapsed >= u64::from(bbr.wait_us) || bbr.rounds >= reno_rounds.max(2);
    match State::of(bbr.state) {
        State::Down if due => start_refill(bbr, s),
        State::Down => {
            if s.pipe <= with_headroom(bbr, s.mss) && s.pipe <= full {
                go(bbr, State::Cruise);
            }
        }
        State::Cruise if due => start_refill(bbr, s),
        State::Refill if round => start_up(bbr, s),
        State::Up => {
            let seen = elapsed > u64::from(bbr.min_rtt_us) && s.pipe >= bdp(bbr, max_bw(bbr), 125);
            if seen {
                start_down(bbr, s);
            }
        }
        State::Startup | State::Drain | State::Cruise | State::Refill | State::ProbeRtt => {}
    }
}

/// min_rtt (section 5.3.4.3).
fn note_rtt(bbr: &mut Bbr, s: &Sample) {
    let due = s.now.since(bbr.probe_min_at) > PROBE_RTT_EVERY;
    if s.rtt_us > 0 && s.rtt_us <= bbr.probe_min_us {
        (bbr.probe_min_us, bbr.probe_min_at) = (s.rtt_us, s.now);
    } else if due && State::of(bbr.state) != State::ProbeRtt && bbr.probe_min_us != NONE {
        // Section 5.3.4.2: time to look at the path without a queue.
        bbr.prior_cwnd = s.cwnd;
        bbr.probe_done_at = Instant(0);
        (bbr.probe_min_us, bbr.probe_min_at) = (s.rtt_us.max(1), s.now);
        bbr.round_end = s.delivered.1;
        go(bbr, State::ProbeRtt);
    }
    if bbr.probe_min_us < bbr.min_rtt_us || s.now.since(bbr.min_rtt_at) > MIN_RTT_LASTS {
        (bbr.min_rtt_us, bbr.min_rtt_at) = (bbr.probe_min_us, bbr.probe_min_at);
    }
}

/// While the path is looked at without a queue.
fn probe_rtt(bbr: &mut Bbr, s: &Sample, round: bool) {
    if State::of(bbr.state) != State::ProbeRtt {
        return;
    }
    if bbr.probe_done_at == Instant(0) {
        if s.pipe <= probe_rtt_window(bbr, s.mss) {
            bbr.probe_done_at = s.now.plus(PROBE_RTT_LASTS);
            bbr.flags &= !bit::ROUND_DONE;
            bbr.round_end = s.delivered.1;
        }
        return;
    }
    if round {
        bbr.flags |= bit::ROUND_DONE;
    }
    if bbr.flags & bit::ROUND_DONE != 0 && s.now >= bbr.probe_done_at {
        bbr.probe_min_at = s.now;
        if bbr.flags & bit::FULL == 0 {
            go(bbr, State::Startup);
        } else {
            start_down(bbr, s);
            go(bbr, State::Cruise);
        }
    }
}

fn probe_rtt_window(bbr: &Bbr, mss: u32) -> u32 {
    bdp(bbr, bw(bbr), 50).max(LEAST_SEGMENTS * mss)
}

/// The pace before anything is known of the path but a round-trip time (section 5.6.2): Startup's gain on a window in it.
pub(super) fn first_pace(cwnd: u32, srtt_us: u32) -> u64 {
    let (gain, _) = State::Startup.gains();
    let srtt_us = if srtt_us == 0 { 1000 } else { srtt_us };
    percent(u64::from(cwnd) * 1_000_000 / u64::from(srtt_us), gain)
}

/// The pace, bytes a second, when it is `pace` now (section 5.6.2): one percent below what the gain says, so that queues drain.
pub(super) fn pace(bbr: &Bbr, pace: u64) -> u64 {
    let (gain, _) = State::of(bbr.state).gains();
    let rate = percent(percent(bw(bbr), gain), 99);
    if rate == 0 || (bbr.flags & bit::FULL == 0 && rate < pace) { pace } else { rate }
}

/// The window after `acked` more bytes were delivered (section 5.6.4).
pub(super) fn window(bbr: &mut Bbr, cwnd: u32, acked: u32, mss: u32) -> u32 {
    let least = LEAST_SEGMENTS * mss;
    let state = State::of(bbr.state);
    let (_, gain) = state.gains();
    let [extra, before] = bbr.extra_acked;
    // Section 5.6.4.2: room for what one timer lets out at once.
    let quantum = to_u32(bw(bbr) / 1000).max(2 * mss);
    let most = bdp(bbr, bw(bbr), gain).saturating_add(extra.max(before)).saturating_add(3 * quantum);
    let grown = cwnd.saturating_add(acked);
    let mut to = if bbr.flags & bit::FULL != 0 { grown.min(most) } else { grown.min(most.max(cwnd)) };
    if state == State::ProbeRtt {
        to = to.min(probe_rtt_window(bbr, mss));
    } else if bbr.prior_cwnd > 0 {
        to = to.max(core::mem::take(&mut bbr.prior_cwnd));
    }
    let cap = match state {
        State::Down | State::Refill | State::Up => bbr.in_flight_long,
        State::Cruise | State::ProbeRtt => with_headroom(bbr, mss),
        State::Startup | State::Drain => NONE,
    };
    to.min(cap).min(bbr.in_flight_short).max(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1448;

    /// A path of `rate` bytes a second and `rtt_us`, with a queue behind it, that BBR sends over, a step a quarter of a round trip.
    struct Path {
        bbr: Bbr,
        now: Instant,
        rate: u64,
        rtt_us: u32,
        cwnd: u32,
        pace: u64,
        delivered: u32,
        queue: u32,
        states: [bool; 7],
    }

    impl Path {
        fn new(rate: u64, rtt_us: u32) -> Self {
            let mut bbr = Bbr::default();
            let now = Instant(1_000_000_000);
            begin(&mut bbr, now);
            Self {
                bbr,
                now,
                rate,
                rtt_us,
                cwnd: 10 * MSS,
                pace: 0,
                delivered: 1,
                queue: 0,
                states: [false; 7],
            }
        }

        /// One round trip with `lost` bytes of the flight lost.
        fn round(&mut self, lost: u32) {
            let full = (self.rate * u64::from(self.rtt_us) / 1_000_000) as u32;
            let paced = (self.pace * u64::from(self.rtt_us) / 1_000_000) as u32;
            let sent = if self.pace == 0 { self.cwnd } else { paced.max(4 * MSS) };
            let flight = (self.queue + sent).min(self.cwnd);
            let carried = flight.min(full);
            self.queue = flight - carried;
            let rtt_us = self.rtt_us + (u64::from(self.queue) * 1_000_000 / self.rate) as u32;
            self.now = self.now.plus(Duration::from_micros(u64::from(self.rtt_us)));
            let then = self.delivered;
            self.delivered = self.delivered.wrapping_add(carried);
            let s = Sample {
                now: self.now,
                rtt_us,
                bw: u64::from(carried) * 1_000_000 / u64::from(self.rtt_us),
                delivered: (then, self.delivered),
                in_flight: flight,
                lost,
                lost_now: lost,
                app_limited: false,
                pipe: flight,
                mss: MSS,
                cwnd: self.cwnd,
            };
            on_sample(&mut self.bbr, &s, carried);
            self.pace = pace(&self.bbr, self.pace);
            self.cwnd = window(&mut self.bbr, self.cwnd, carried, MSS);
            if let Some(seen) = self.states.get_mut(usize::from(self.bbr.state)) {
                *seen = true;
            }
        }
    }

    #[test]
    fn the_model_finds_what_the_path_carries_and_goes_through_every_state() {
        let mut path = Path::new(12_500_000, 40_000);
        for _ in 0..400 {
            path.round(0);
        }
        let found = bw(&path.bbr);
        assert!(found > 12_000_000 && found <= 12_500_000, "{found}");
        assert_eq!(path.bbr.min_rtt_us, 40_000);
        assert_eq!(
            path.states,
            [true, true, true, true, true, true, false],
            "the queue is empty often enough"
        );
        // The path becomes longer: no queue must hide that.
        path.rtt_us = 45_000;
        for _ in 0..300 {
            path.round(0);
        }
        assert!(path.states.iter().all(|seen| *seen), "{:?}", path.states);
        assert_eq!(path.bbr.min_rtt_us, 45_000);
        assert!(path.pace < 16_000_000, "{}", path.pace);
    }

    #[test]
    fn startup_ends_when_three_rounds_bring_no_more() {
        let mut path = Path::new(12_500_000, 40_000);
        let mut rounds = 0;
        while State::of(path.bbr.state) == State::Startup {
            path.round(0);
            rounds += 1;
            assert!(rounds < 30);
        }
        // Ten segments of 345 double until the path is full, then three rounds.
        assert!((7..=12).contains(&rounds), "{rounds}");
    }

    #[test]
    fn a_probe_that_loses_more_than_two_percent_bounds_what_is_in_flight() {
        let mut path = Path::new(12_500_000, 40_000);
        while State::of(path.bbr.state) != State::Up {
            path.round(0);
        }
        assert_eq!(path.bbr.in_flight_long, NONE);
        let flight = path.cwnd;
        path.round(flight / 20);
        assert_eq!(State::of(path.bbr.state), State::Down);
        assert!(path.bbr.in_flight_long <= flight && path.bbr.in_flight_long > flight / 3);
        assert!(path.cwnd <= path.bbr.in_flight_long);
    }

    /// A path on which BBR cruises.
    fn cruising() -> Path {
        let mut path = Path::new(12_500_000, 40_000);
        while State::of(path.bbr.state) != State::Cruise {
            path.round(0);
        }
        path
    }

    #[test]
    fn losses_while_cruising_with_a_queue_lower_the_short_bounds_until_the_next_probe() {
        let mut path = cruising();
        path.rtt_us += 4_000;
        path.round(0);
        path.round(MSS);
        assert!(path.bbr.bw_short < u64::MAX && path.bbr.in_flight_short < NONE);
        while State::of(path.bbr.state) != State::Refill {
            path.round(0);
        }
        assert_eq!((path.bbr.bw_short, path.bbr.in_flight_short), (u64::MAX, NONE));
    }

    #[test]
    fn losses_while_cruising_without_a_queue_are_the_path_s_own_unless_they_are_many() {
        let mut path = cruising();
        let flight = path.cwnd.min(12_500_000 / 25);
        path.round(flight / 16);
        assert_eq!((path.bbr.bw_short, path.bbr.in_flight_short), (u64::MAX, NONE));
        path.round(flight / 4);
        path.round(flight / 4);
        assert!(path.bbr.bw_short < u64::MAX && path.bbr.in_flight_short < NONE);
    }
}
