//! Proportional rate reduction (RFC 9937): how much goes out in recovery for what arrives.

use ::state::Prr;

/// Recovery begins with `flight` bytes out, those reported before not counted.
pub(super) fn begin(prr: &mut Prr, flight: u32) {
    *prr = Prr { flight: flight.max(1), delivered: 0, out: 0 };
}

/// What an ACK in recovery said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ack {
    /// DeliveredData: bytes newly acknowledged or reported.
    pub(super) delivered: u32,
    /// Bytes believed to be out, after it.
    pub(super) pipe: u32,
    /// safeACK: SND.UNA went on, and nothing more was found lost.
    pub(super) safe: bool,
}

/// Gives the congestion window after `ack`, bytes.
pub(super) fn window(prr: &mut Prr, ack: &Ack, ssthresh: u32, mss: u32) -> u32 {
    prr.delivered = prr.delivered.saturating_add(ack.delivered);
    let mut count = if ack.pipe > ssthresh {
        // Proportional: so that at the end of the round trip `ssthresh` is out.
        let due = (u64::from(prr.delivered) * u64::from(ssthresh)).div_ceil(u64::from(prr.flight.max(1)));
        due.saturating_sub(u64::from(prr.out)).min(u64::from(u32::MAX)) as u32
    } else {
        // Conservative bound: as much as arrives; one segment more while recovery goes on well (slow start bound).
        let bound = prr.delivered.saturating_sub(prr.out).max(ack.delivered);
        let bound = bound.saturating_add(if ack.safe { mss } else { 0 });
        bound.min(ssthresh - ack.pipe)
    };
    if prr.out == 0 && count == 0 {
        count = mss; // the fast retransmit itself
    }
    ack.pipe.saturating_add(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MSS: u32 = 1000;

    /// The example of RFC 6937 4: one loss in a window of 20, ssthresh 10; one ACK for each segment that arrives.
    #[test]
    fn one_segment_goes_out_for_two_that_arrive() {
        let mut prr = Prr::default();
        begin(&mut prr, 20 * MSS);
        // 19 segments are still out, three were reported.
        let mut pipe = 17 * MSS;
        let mut sent = 0;
        for n in 0..17 {
            let ack = Ack { delivered: if n == 0 { 3 * MSS } else { MSS }, pipe, safe: false };
            let cwnd = window(&mut prr, &ack, 10 * MSS, MSS);
            let room = cwnd.saturating_sub(pipe) / MSS * MSS;
            prr.out += room;
            sent += room;
            pipe = pipe + room - MSS;
        }
        assert!((9 * MSS..=11 * MSS).contains(&sent), "{sent}");
        assert!((8 * MSS..=11 * MSS).contains(&pipe), "{pipe}");
    }

    #[test]
    fn when_most_of_the_window_was_lost_what_arrives_goes_out_and_one_more_when_it_goes_well() {
        let mut prr = Prr::default();
        begin(&mut prr, 20 * MSS);
        // The first ACK: 4 are left in the network.
        let first = window(&mut prr, &Ack { delivered: MSS, pipe: 4 * MSS, safe: false }, 10 * MSS, MSS);
        assert_eq!(first, 5 * MSS);
        prr.out += MSS;
        let safe = window(&mut prr, &Ack { delivered: MSS, pipe: 4 * MSS, safe: true }, 10 * MSS, MSS);
        assert_eq!(safe, 6 * MSS, "slow start bound");
        prr.out += 2 * MSS;
        let most = window(&mut prr, &Ack { delivered: 9 * MSS, pipe: 9 * MSS, safe: true }, 10 * MSS, MSS);
        assert_eq!(most, 10 * MSS, "never above ssthresh");
    }

    #[test]
    fn the_first_retransmission_always_goes_out() {
        let mut prr = Prr::default();
        begin(&mut prr, 100 * MSS);
        assert_eq!(
            window(&mut prr, &Ack { delivered: 0, pipe: 98 * MSS, safe: false }, 50 * MSS, MSS),
            99 * MSS
        );
    }
}
