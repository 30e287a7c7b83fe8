//! DCTCP, the sender's part (RFC 8257 3.3): the window comes down by half of the share of bytes that were marked.

use ::state::{Dctcp, TcbHot};

/// DCTCP.Alpha of one.
const ONE: u32 = 1 << 20;
/// g is 1/16 (RFC 8257 4.2).
const GAIN_SHIFT: u32 = 4;

/// The connection begins: alpha is one, so that the first mark halves the window.
pub(super) fn begin(dctcp: &mut Dctcp, hot: &TcbHot) {
    *dctcp = Dctcp { alpha: ONE, window_end: hot.snd.nxt, ..Dctcp::default() };
}

/// `acked` bytes were acknowledged by an ACK with or without ECE.
pub(super) fn on_ack(dctcp: &mut Dctcp, hot: &TcbHot, acked: u32, echoed: bool) {
    dctcp.acked = dctcp.acked.saturating_add(acked);
    if echoed {
        dctcp.marked = dctcp.marked.saturating_add(acked);
    }
    if hot.snd.una.at_or_before(dctcp.window_end) || dctcp.acked == 0 {
        return;
    }
    // RFC 8257 3.3, steps 5 to 8.
    let share = u64::from(dctcp.marked) * u64::from(ONE) / u64::from(dctcp.acked);
    let kept = dctcp.alpha - (dctcp.alpha >> GAIN_SHIFT);
    dctcp.alpha = kept.saturating_add((share >> GAIN_SHIFT) as u32).min(ONE);
    if dctcp.marked == 0 && dctcp.alpha < 1 << GAIN_SHIFT {
        dctcp.alpha = 0; // what the shift leaves over would never go
    }
    (dctcp.acked, dctcp.marked, dctcp.window_end) = (0, 0, hot.snd.nxt);
}

/// The window after a round trip with marks (RFC 8257 3.3, step 9).
pub(super) fn reduced(dctcp: &Dctcp, cwnd: u32) -> u32 {
    let cut = u64::from(cwnd) * u64::from(dctcp.alpha) / u64::from(2 * ONE);
    cwnd.saturating_sub(cut as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::SeqNum;

    /// Windows of 100 segments of which `marked` are marked.
    fn windows(dctcp: &mut Dctcp, marked: u32, count: u32) {
        let mut hot = TcbHot::default();
        hot.snd.una = dctcp.window_end;
        for _ in 0..count {
            hot.snd.nxt = hot.snd.una.plus(101_000);
            for n in 0..101 {
                hot.snd.una = hot.snd.una.plus(1000);
                on_ack(dctcp, &hot, 1000, n < marked);
            }
        }
    }

    #[test]
    fn alpha_follows_the_share_of_marked_bytes_with_a_gain_of_a_sixteenth() {
        let mut hot = TcbHot::default();
        hot.snd.nxt = SeqNum(77);
        let mut dctcp = Dctcp::default();
        begin(&mut dctcp, &hot);
        assert_eq!(reduced(&dctcp, 100_000), 50_000, "the first mark halves the window");
        windows(&mut dctcp, 0, 1);
        let first = f64::from(dctcp.alpha) / f64::from(ONE);
        assert!((first - 15.0 / 16.0).abs() < 1e-3, "{first}");
        windows(&mut dctcp, 20, 400);
        let alpha = f64::from(dctcp.alpha) / f64::from(ONE);
        assert!((alpha - 0.2).abs() < 0.01, "{alpha}");
        let left = reduced(&dctcp, 100_000);
        assert!(left.abs_diff(90_000) < 600, "{left}");
        windows(&mut dctcp, 0, 400);
        assert_eq!(dctcp.alpha, 0);
    }
}
