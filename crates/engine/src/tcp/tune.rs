//! Buffers that grow with what is read and sent, between the limits in `TcpGlobals` (Linux's tcp_rmem and tcp_wmem). A buffer is a limit and no
//! memory: what nobody uses costs nothing.
//!
//! The receive buffer (after Fisk and Feng, "Dynamic right-sizing", 2001): twice what the program reads in a round trip, so that the window never is
//! what limits the sender, however fast it is. A program that does not read, or a slow path, lets it stay. How long a round trip is, the receiver
//! knows from timestamps; without them, from how long it takes until data behind the window it announced comes, which is one when the window limits.
//!
//! The send buffer: twice what may be in flight, that and what goes next.
//!
//! Between two programs of one host more in flight than the processor's caches hold makes both slower, and no round trip there is so long that it would be needed: a receiver that a near peer
//! sends to stops at [`NEAR`].
//!
//! Neither grows while frames are short, nor when the program has set a size.

use ::state::{LaneMem, Reading, TcbCold, TcbHot, TcpGlobals};
use base::{Idx, Instant};
use region::Frames;

use super::congestion::initial_window;
use super::conn::cold_of;
use super::{cc_flag, rtt};

/// Bytes after which a connection is first looked at.
pub(super) const FIRST: u32 = 16 * 1024;
/// Looks at a connection in each window of data.
const LOOKS: u32 = 8;
/// A clock of ms tells shorter round trips badly, us.
const COARSE_US: u32 = 2000;
/// Window for a peer next to us, bytes, and for each microsecond of a longer round trip: 130 Gb/s.
const NEAR: u32 = 256 * 1024;
const NEAR_US: u32 = 16 * 1024;
/// The next look is so far away that there is none.
const NEVER: u32 = 1 << 30;
/// Nothing is known.
const NONE: u32 = u32::MAX;

/// Is [`look`] due?
#[inline(always)]
pub(super) fn is_due(hot: &TcbHot, cold: &TcbCold) -> bool {
    hot.rcv.nxt.at_or_after(cold.tune_at)
}

/// Connection `at` has received up to where it is to be looked at, last a segment with TSecr `echo`, if it has timestamps.
#[cold]
pub(super) fn look(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>, echo: Option<u32>) {
    let (Some(hot), Some(cold)) = (mem.hot.get_mut(at), mem.cold.get_mut(cold_of(at))) else { return };
    let Some(row) = mem.cc.get_mut(Idx::new(at.raw())) else { return };
    let most = mem.globals.tcp.rcv_buf_max;
    if cold.options.rcv_buf_bytes != 0 || hot.rcv_buf >= most {
        cold.tune_at = hot.rcv.nxt.plus(NEVER);
        return;
    }
    let mss = u32::from(hot.mss.max(1));
    cold.tune_at = hot.rcv.nxt.plus((hot.rcv_buf / LOOKS).max(mss));
    if cold.cc_flags & cc_flag::READING == 0 {
        cold.cc_flags |= cc_flag::READING;
        row.reading = begin(hot, now);
        return;
    }
    let rtt_us = echo.and_then(|echo| rtt::echoed_us(now, cold.ts_offset, echo));
    let Some(read) = measure(&mut row.reading, hot, now, rtt_us) else { return };
    // While its packets take no longer: a path may change.
    let most = if rtt_us.is_some_and(|us| us <= COARSE_US) { most.min(near(hot)) } else { most };
    // With an eighth of the frames left there is no telling whose they should be.
    if !mem.frames.is_short(u32::MAX) {
        hot.rcv_buf = wanted(&mut row.reading, read, mss).min(most).max(hot.rcv_buf);
    }
}

/// The most that is of use between two ends that are as near as the handshake, which waited in no queue, took.
fn near(hot: &TcbHot) -> u32 {
    match hot.rtt.srtt_us8 >> 3 {
        0 => u32::MAX,
        us => us.saturating_mul(NEAR_US).max(NEAR),
    }
}

/// The first measurement begins.
fn begin(hot: &TcbHot, now: Instant) -> Reading {
    let clock = rtt::clock_us(now);
    Reading {
        since_us: clock,
        from: hot.rcv.nxt.minus(hot.rcv_bytes),
        rtt_us: NONE,
        edge: hot.rcv.edge,
        edge_us: clock,
        most: initial_window(u32::from(hot.mss.max(1))),
    }
}

/// The bytes that the program has read in a round trip, once one is over. `rtt_us`: what the latest segment's timestamp says of it.
fn measure(reading: &mut Reading, hot: &TcbHot, now: Instant, rtt_us: Option<u32>) -> Option<u32> {
    let clock = rtt::clock_us(now);
    let srtt_us = hot.rtt.srtt_us8 >> 3;
    let seen = match rtt_us {
        Some(us) if us <= COARSE_US && srtt_us > 0 => us.min(srtt_us),
        Some(us) => us,
        None if hot.rcv.nxt.at_or_after(reading.edge) => {
            let took = clock.wrapping_sub(reading.edge_us);
            (reading.edge, reading.edge_us) = (hot.rcv.edge, clock);
            took.max(1)
        }
        None => NONE,
    };
    // A segment that its sender was late to send makes the round trip too long: it may become shorter at once, longer a little at a time.
    let longer = if rtt_us.is_none() || reading.rtt_us == NONE { 0 } else { reading.rtt_us / 8 + 1 };
    reading.rtt_us = seen.min(reading.rtt_us.saturating_add(longer));
    let elapsed = clock.wrapping_sub(reading.since_us);
    if reading.rtt_us == NONE || elapsed < reading.rtt_us.max(1) {
        return None;
    }
    let upto = hot.rcv.nxt.minus(hot.rcv_bytes);
    let bytes = u64::from(upto.since(reading.from)) * u64::from(reading.rtt_us);
    (reading.since_us, reading.from) = (clock, upto);
    bytes.checked_div(elapsed.into()).map(|bytes| bytes as u32)
}

/// The buffer for a program that has `read` so many bytes in a round trip.
fn wanted(reading: &mut Reading, read: u32, mss: u32) -> u32 {
    let before = reading.most;
    if read <= before {
        return 0;
    }
    reading.most = read;
    let twice = 2 * u64::from(read) + 16 * u64::from(mss);
    // The sender becomes faster: it will be faster yet by the time the window reaches it.
    let ahead = twice.saturating_mul((read - before).into()).saturating_mul(2) / u64::from(before.max(1));
    u32::try_from(twice.saturating_add(ahead)).unwrap_or(u32::MAX)
}

/// The program waits for room to send: the buffer follows the congestion window, as far as the peer's lets that be used.
#[inline]
pub(super) fn expand_send(hot: &mut TcbHot, cold: &TcbCold, tcp: &TcpGlobals, frames: &Frames<'_>) {
    let wanted = hot.snd.cwnd.min(hot.snd.wnd_max).saturating_mul(2).min(tcp.snd_buf_max);
    if wanted > hot.snd_buf && cold.options.snd_buf_bytes == 0 && !frames.is_short(u32::MAX) {
        hot.snd_buf = wanted;
    }
}

#[cfg(test)]
mod tests {
    use base::{Duration, SeqNum};

    use super::*;

    /// A connection that has received and read everything up to `nxt`.
    fn at(nxt: u32, window: u32) -> TcbHot {
        let mut hot = TcbHot { mss: 1448, rcv_buf: window, ..TcbHot::default() };
        hot.rcv.nxt = SeqNum(nxt);
        hot.rcv.edge = SeqNum(nxt.wrapping_add(window));
        hot
    }

    fn ms(n: u64) -> Instant {
        Instant(0).plus(Duration::from_millis(1000 + n))
    }

    #[test]
    fn what_is_read_in_a_round_trip_is_measured_by_the_shortest_echo() {
        let mut reading = begin(&at(u32::MAX - 10_000, 65_536), ms(0));
        assert_eq!(measure(&mut reading, &at(10_000, 65_536), ms(50), Some(3_000_000)), None);
        assert_eq!(measure(&mut reading, &at(30_000, 65_536), ms(90), Some(100_000)), None);
        // 125 ms for 50 001 bytes, of which a round trip is 100.
        assert_eq!(measure(&mut reading, &at(40_000, 65_536), ms(125), Some(100_000)), Some(40_000));
        // After a rest the echo is old.
        assert_eq!(measure(&mut reading, &at(41_000, 65_536), ms(5125), Some(5_000_000)), Some(22));
    }

    #[test]
    fn a_near_peer_gets_no_more_than_is_of_use() {
        let after_us = |us: u32| {
            let mut hot = at(0, 65_536);
            hot.rtt.srtt_us8 = us << 3;
            near(&hot)
        };
        assert_eq!([0, 1, 16, 100, 1_000_000].map(after_us), [u32::MAX, NEAR, NEAR, 1_638_400, u32::MAX]);
    }

    #[test]
    fn bytes_that_are_not_read_do_not_count() {
        let mut reading = begin(&at(0, 65_536), ms(0));
        let hot = TcbHot { rcv_bytes: 30_000, ..at(40_000, 65_536) };
        assert_eq!(measure(&mut reading, &hot, ms(100), Some(100_000)), Some(10_000));
    }

    #[test]
    fn without_timestamps_a_round_trip_ends_when_data_behind_the_window_comes() {
        let mut reading = begin(&at(0, 65_536), ms(0));
        assert_eq!(measure(&mut reading, &at(60_000, 65_536), ms(90), None), None);
        assert_eq!(measure(&mut reading, &at(65_536, 65_536), ms(100), None), Some(65_536));
        // It stays known.
        assert_eq!(measure(&mut reading, &at(70_000, 65_536), ms(199), None), None);
        assert_eq!(measure(&mut reading, &at(80_000, 65_536), ms(200), None), Some(14_464));
    }

    #[test]
    fn the_buffer_is_ahead_of_a_sender_that_doubles_its_rate_and_stays_for_a_steady_one() {
        let mut reading = Reading { most: 14_480, ..begin(&at(0, 65_536), ms(0)) };
        assert!(wanted(&mut reading, 28_960, 1448) >= 4 * 28_960);
        assert_eq!(wanted(&mut reading, 28_960, 1448), 0);
        assert!((80_000..90_000).contains(&wanted(&mut reading, 29_500, 1448)));
        assert_eq!(wanted(&mut reading, u32::MAX, 1448), u32::MAX);
    }
}
