//! The MTU of the path when routers are silent (RFC 4821 and RFC 8899, as TCP can do them), and one that grows again (RFC 1191 6.3, RFC 8201 4).
//!
//! Full segments that time out again and again are taken for a black hole: the MSS comes down to a base that nearly every path carries, and by
//! half with each further timeout. Then it is searched upward, by halves, with segments of new data that are longer than the MSS. One of them that is lost
//! says nothing of congestion. While it searches a connection takes the general way; the others do not come by here.
//!
//! What a search or an ICMP error found is forgotten after some minutes, and the full size tried again.

use ::state::{PathProbe, TxBatch};
use base::{Duration, Instant, SeqNum};
use wire::TcpFlags;

use super::conn::{Conn, Ring};
use super::header::{Cut, Stop};
use super::{TIMESTAMPS_BYTES, flag};

/// Bits of [`TcbCold::path`](::state::TcbCold).
pub(super) mod bit {
    /// The MSS is one that a search found, or that a black hole left.
    pub(crate) const PROBED: u8 = 1;
    /// Longer segments are to be tried.
    pub(crate) const SEARCHING: u8 = 2;
    /// `PathProbe::at` counts.
    pub(crate) const AGES: u8 = 4;
    /// The data of a probe that was lost go again.
    pub(crate) const RESENDING: u8 = 8;
}

/// Timeouts in a row that mean a black hole (RFC 8899 5.1.2, MAX_PROBES).
const TIMEOUTS: u8 = 3;
/// Segments up to this get through everywhere: half of what every IPv4 host takes (RFC 1122 3.3.2).
const SHORTEST: u16 = 256;
/// Segments that must follow a probe, so that its loss is noticed without a timeout (RFC 4821 7.4).
const FOLLOWING: u32 = 4;
/// Segments of congestion window that a probe needs (RFC 4821 7.4; Linux has the same).
const WINDOW_SEGMENTS: u32 = 11;
/// How long a path MTU that a router told counts (RFC 8201 4: ten minutes; Linux's mtu_expires).
const TOLD: Duration = Duration::from_secs(600);
/// Pause until what cannot be now is tried again.
const LATER: Duration = Duration::from_secs(1);

impl Conn<'_, '_> {
    fn path(&self, bits: u8) -> bool {
        self.cold.path & bits != 0
    }

    /// Is a longer segment to be tried?
    pub(super) fn searches_path(&self) -> bool {
        self.path(bit::SEARCHING)
    }

    fn probe_row(&mut self) -> Option<&mut PathProbe> {
        self.window().map(|w| &mut w.row.path)
    }

    /// The largest payload that both ends' links take.
    pub(super) fn mss_of_links(&self) -> u16 {
        let stamps = if self.any(flag::TIMESTAMPS) { TIMESTAMPS_BYTES } else { 0 };
        let options = stamps + self.sign().len_bytes() as u16;
        self.cold.mss_peer.min(self.cold.mss_local).saturating_sub(options).max(1)
    }

    /// The search is on from the start (net.ipv4.tcp_mtu_probing 2): the first segments are of the base size.
    pub(super) fn search_from_start(&mut self) {
        let low = self.hot.mss.min(self.tcp.path.base_mss);
        self.search_between(low, self.hot.mss);
    }

    /// The path takes `low` bytes of payload, and perhaps `high`.
    fn search_between(&mut self, low: u16, high: u16) {
        let again_at = self.now.plus(Duration::from_secs(self.tcp.path.interval_s.into()));
        self.hot.mss = low.max(1);
        if let Some(row) = self.probe_row() {
            *row = PathProbe { at: again_at, low, high, ..PathProbe::default() };
            self.cold.path = bit::PROBED | bit::SEARCHING | bit::AGES;
        }
        self.choose_way();
        self.arm_path();
    }

    /// One more timeout in a row, and nothing was acknowledged. RFC 4821 7.7: what is too long for the path may be all that is wrong.
    pub(super) fn suspect_black_hole(&mut self) {
        let path = self.tcp.path;
        if path.when == 0 || self.cold.loss.backoff < TIMEOUTS {
            return;
        }
        let (mss, probed) = (self.hot.mss, self.path(bit::PROBED));
        let low = if probed { path.base_mss.min(mss / 2) } else { path.base_mss };
        let mut low = low.max(path.floor_mss).max(super::MSS_MIN);
        // What is on its way may be shorter than the base, and still too long.
        while self.flight() <= u32::from(low) && low / 2 >= SHORTEST.max(path.floor_mss) {
            low /= 2;
        }
        // Segments that were short enough did not vanish for their length.
        if low >= mss || self.flight() <= u32::from(low) {
            return;
        }
        let high = if probed { self.probe_row().map_or(mss, |row| row.high) } else { mss };
        self.counters.tcp.black_holes = self.counters.tcp.black_holes.wrapping_add(1);
        self.search_between(low, high);
    }

    /// Sends a longer segment than the path is known to take, if it is time to. `None`: nothing is to be tried now. RFC 4821 7.4: of new data, with enough
    /// behind it; while there is no room for it, nothing else takes the room.
    pub(super) fn probe_path(&mut self, out: &mut TxBatch) -> Result<Option<bool>, Stop> {
        let Some(size) = self.next_probe() else { return Ok(None) };
        let (mss, len) = (self.hot.mss, u32::from(size));
        let needed = len + FOLLOWING * u32::from(mss);
        let edge = self.snd_edge();
        let room = if edge.after(self.hot.snd.nxt) { edge.since(self.hot.snd.nxt) } else { 0 };
        if self.unsent() < needed || room < needed || self.hot.snd.cwnd < WINDOW_SEGMENTS * u32::from(mss) {
            return Ok(None);
        }
        if self.cwnd_room() < len {
            return if self.flight() > 0 { Ok(Some(false)) } else { Ok(None) };
        }
        let start = self.hot.snd.nxt;
        let cut = Cut { seq: start, len, flags: TcpFlags::ACK, from: self.hot.snd_cursor };
        self.hot.mss = size;
        let sent = self.send_segment(out, &cut);
        if let Ok(sent) = sent {
            self.advance(sent.len, sent.flags, sent.next);
        }
        self.hot.mss = mss;
        let whole = sent?.len == len;
        self.cold.path &= !bit::RESENDING;
        if let Some(row) = self.probe_row() {
            // A segment of more pieces than a packet has room for was cut: another time, with other data.
            (row.start, row.size) = (start, if whole { size } else { 0 });
        }
        self.counters.tcp.path_probes = self.counters.tcp.path_probes.wrapping_add(u64::from(whole));
        Ok(Some(true))
    }

    /// Payload of the next probe, if nothing is amiss and none is on its way.
    fn next_probe(&mut self) -> Option<u16> {
        let amiss = self.any(flag::RECOVERY | flag::STALLED | flag::PERSIST | flag::FIN_SENT)
            || self.hot.dup_acks != 0
            || !self.hot.ooo_head.is_none()
            || self.cold.acks_owed != 0
            || self.sacked_bytes() != 0;
        let threshold = self.tcp.path.threshold.max(1);
        let row = *self.probe_row()?;
        if amiss || row.size != 0 {
            return None;
        }
        if row.high < row.low.saturating_add(threshold) {
            self.cold.path &= !bit::SEARCHING;
            self.choose_way();
            return None;
        }
        Some((row.low + (row.high - row.low) / 2).max(row.low + 1))
    }

    /// SND.UNA went on: a probe that it has passed came through.
    pub(super) fn note_path_acked(&mut self) {
        if !self.path(bit::SEARCHING) {
            return;
        }
        let una = self.hot.snd.una;
        let Some(row) = self.probe_row() else { return };
        if row.size == 0 || una.before(row.start.plus(row.size.into())) {
            return;
        }
        row.low = core::mem::take(&mut row.size);
        let low = row.low;
        self.hot.mss = low;
    }

    /// What was not reported before `edge` is lost. Is that a probe, and nothing else? Then it is no sign of congestion (RFC 4821 7.5, RFC 8899 3): its
    /// data go again, in segments that the path takes.
    pub(super) fn takes_for_probe(&mut self, edge: SeqNum) -> bool {
        if !self.path(bit::SEARCHING) {
            return false;
        }
        let una = self.hot.snd.una;
        let Some(row) = self.probe_row().filter(|row| row.size != 0 && row.start == una) else {
            return false;
        };
        let end = row.start.plus(row.size.into());
        if edge.after(end) && self.unsacked(end, edge) > 0 {
            return false;
        }
        self.forget_probe(true);
        self.cold.path |= bit::RESENDING;
        self.resend_until(end);
        self.cold.loss.recover = end;
        true
    }

    /// The probe on its way, if there is one, counts no more; it `failed`, or it is not known.
    pub(super) fn forget_probe(&mut self, failed: bool) {
        if self.path(bit::SEARCHING)
            && let Some(row) = self.probe_row()
        {
            let size = core::mem::take(&mut row.size);
            if size != 0 && failed {
                (row.high, row.lost) = (size - 1, size);
            }
        }
    }

    /// Are the bytes from `seq` on those of a probe that was lost?
    pub(super) fn is_of_lost_probe(&mut self, seq: SeqNum) -> bool {
        self.path(bit::RESENDING)
            && self
                .probe_row()
                .is_some_and(|row| seq.at_or_after(row.start) && seq.before(row.start.plus(row.lost.into())))
    }

    /// A router said that segments of more than `mss` bytes are too long.
    pub(super) fn note_path_told(&mut self, mss: u16) {
        let at = self.now.plus(TOLD);
        let probed = self.path(bit::PROBED);
        let Some(row) = self.probe_row() else { return };
        if probed {
            (row.high, row.low) = (row.high.min(mss), row.low.min(mss));
            row.size = if row.size > mss { 0 } else { row.size };
        } else {
            *row = PathProbe::default();
        }
        row.at = at;
        self.cold.path |= bit::AGES;
        self.arm_path();
    }

    /// Sees that the timer runs out when what is known of the path gets old. Does nothing for who knows nothing.
    pub(super) fn arm_path(&mut self) {
        if !self.path(bit::AGES) {
            return;
        }
        let at = self.probe_row().map_or(Instant::NEVER, |row| row.at);
        if at < self.hot.armed_at {
            self.hot.armed_at = at;
            self.wheel.arm(self.at.raw(), at);
        }
    }

    /// The timer ran out: forgets what is too old, and tries the full size again (RFC 1191 6.3, RFC 8201 4); after a black hole, with probes.
    pub(super) fn age_path(&mut self) {
        let now = self.now;
        let busy = self.any(flag::RECOVERY | flag::STALLED);
        let Some(row) = self.probe_row().filter(|row| row.at <= now) else { return };
        if busy {
            row.at = now.plus(LATER);
            return;
        }
        let full = self.mss_of_links();
        if self.path(bit::PROBED) {
            let mss = self.hot.mss;
            self.search_between(mss, full.max(mss));
        } else {
            self.cold.path = 0;
            self.hot.mss = full;
        }
        self.enqueue(Ring::Data);
    }
}
