//! The end of the first slow start, before packets are lost: HyStart++ (RFC 9406).

use ::state::{SlowStart, TcbHot};

use super::congestion::CWND_MAX;

/// MIN_RTT_THRESH and MAX_RTT_THRESH, us.
const THRESHOLD_US: (u32, u32) = (4_000, 16_000);
/// MIN_RTT_DIVISOR.
const DIVISOR: u32 = 8;
/// N_RTT_SAMPLE.
const SAMPLES: u16 = 8;
/// CSS_GROWTH_DIVISOR.
const CAREFUL_DIVISOR: u32 = 4;
/// CSS_ROUNDS.
const CAREFUL_ROUNDS: u8 = 5;
/// What a round-trip time may be wrong by, us: timestamps count ms (RFC 7323 5.4). Less of a difference is none.
const CLOCK_US: u32 = 1_000;
/// No round-trip time.
const NONE: u32 = u32::MAX;

/// Slow start begins (RFC 9406 4.2).
pub(super) fn begin(slow: &mut SlowStart, hot: &TcbHot) {
    *slow = SlowStart {
        round_end: hot.snd.nxt,
        last_min_us: NONE,
        min_us: NONE,
        base_us: NONE,
        ..SlowStart::default()
    };
}

/// `acked` bytes were acknowledged in slow start, `rtt_us` after they were sent if that is known. Gives how many the window grows by; the slow
/// start threshold may come down to the window.
///
/// RFC 9406 4.2 counts at most 8 segments of one ACK unless sending is paced. Here and in Linux an ACK stands for up to a whole
/// super-segment, so all of its bytes count.
pub(super) fn grow(slow: &mut SlowStart, hot: &mut TcbHot, acked: u32, rtt_us: Option<u32>) -> u32 {
    // RFC 9406 4.3: for the first slow start only, before anything was lost.
    if hot.snd.ssthresh < CWND_MAX {
        return acked;
    }
    if let Some(us) = rtt_us {
        slow.min_us = slow.min_us.min(us);
        slow.samples = slow.samples.saturating_add(1);
    }
    if slow.samples >= SAMPLES {
        if slow.careful == 0 {
            let (least, most) = THRESHOLD_US;
            let more = (slow.last_min_us / DIVISOR).clamp(least, most);
            if slow.last_min_us != NONE && slow.min_us >= slow.last_min_us.saturating_add(more) {
                slow.base_us = slow.min_us;
                slow.careful = 1;
                slow.careful_rounds = 0;
            }
        } else if slow.min_us.saturating_add(CLOCK_US) < slow.base_us {
            // The delay was no sign of a queue.
            slow.base_us = NONE;
            slow.careful = 0;
        }
    }
    // RFC 9406 4.2: the round ends with the ACK of what was sent last when it began.
    if hot.snd.una.at_or_after(slow.round_end) {
        slow.last_min_us = slow.min_us;
        slow.min_us = NONE;
        slow.samples = 0;
        slow.round_end = hot.snd.nxt;
        if slow.careful != 0 {
            slow.careful_rounds = slow.careful_rounds.saturating_add(1);
            if slow.careful_rounds >= CAREFUL_ROUNDS {
                hot.snd.ssthresh = hot.snd.cwnd;
                return 0;
            }
        }
    }
    if slow.careful == 0 { acked } else { acked / CAREFUL_DIVISOR }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::SeqNum;

    const MSS: u32 = 1000;

    /// About one round (two segments of it are the next one's): the window is sent and acknowledged segment by segment, each after `rtt_us`.
    fn round(slow: &mut SlowStart, hot: &mut TcbHot, rtt_us: u32) {
        let count = hot.snd.cwnd / MSS;
        hot.snd.nxt = hot.snd.una.plus(count * MSS);
        for _ in 0..count {
            hot.snd.una = hot.snd.una.plus(MSS);
            let more = grow(slow, hot, MSS, Some(rtt_us));
            hot.snd.cwnd += more;
            // The window is always full.
            hot.snd.nxt = hot.snd.una.plus(hot.snd.cwnd);
        }
    }

    fn fresh() -> (SlowStart, TcbHot) {
        let mut hot = TcbHot::default();
        hot.snd.una = SeqNum(7);
        hot.snd.nxt = SeqNum(7);
        hot.snd.cwnd = 20 * MSS;
        hot.snd.ssthresh = CWND_MAX;
        let mut slow = SlowStart::default();
        begin(&mut slow, &hot);
        (slow, hot)
    }

    #[test]
    fn the_window_doubles_while_the_delay_stays() {
        let (mut slow, mut hot) = fresh();
        for n in 1..=5 {
            round(&mut slow, &mut hot, 40_000);
            assert_eq!(hot.snd.cwnd, (20 << n) * MSS);
        }
        assert_eq!((slow.careful, hot.snd.ssthresh), (0, CWND_MAX));
    }

    #[test]
    fn slow_start_ends_five_careful_rounds_after_the_delay_grew_by_an_eighth() {
        let (mut slow, mut hot) = fresh();
        round(&mut slow, &mut hot, 40_000);
        round(&mut slow, &mut hot, 44_900);
        round(&mut slow, &mut hot, 44_900);
        assert_eq!(slow.careful, 0, "less than an eighth is no sign");
        round(&mut slow, &mut hot, 51_000);
        round(&mut slow, &mut hot, 51_000);
        assert_eq!(slow.careful, 1);
        let mut rounds = 0;
        while hot.snd.ssthresh == CWND_MAX {
            round(&mut slow, &mut hot, 51_000);
            rounds += 1;
        }
        assert!((4..=6).contains(&rounds), "{rounds}");
        assert!(hot.snd.ssthresh <= hot.snd.cwnd);
    }

    #[test]
    fn a_delay_that_goes_away_ends_the_care() {
        let (mut slow, mut hot) = fresh();
        round(&mut slow, &mut hot, 40_000);
        round(&mut slow, &mut hot, 60_000);
        assert_eq!(slow.careful, 1);
        round(&mut slow, &mut hot, 40_000);
        assert_eq!(slow.careful, 0);
    }
}
