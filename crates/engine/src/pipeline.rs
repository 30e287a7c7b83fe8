//! From a batch of frames, the clock and the control plane into the protocols.

use base::{Idx, Instant, MacAddr};
use state::{Hop, LaneMem, RxBatch};

use crate::types::HopKey;

pub(crate) fn handle_frames(mem: &mut LaneMem<'_>, _now: Instant, batch: &mut RxBatch) {
    for rx in batch.items() {
        mem.counters.rx_packets = mem.counters.rx_packets.wrapping_add(1);
        mem.counters.rx_bytes = mem.counters.rx_bytes.wrapping_add(u64::from(rx.len));
        mem.frames.release_chain(rx.head);
    }
    batch.clear();
}

pub(crate) fn handle_timers(_mem: &mut LaneMem<'_>, _now: Instant) {}

pub(crate) fn handle_hop(
    _mem: &mut LaneMem<'_>,
    _now: Instant,
    _hop: Idx<Hop>,
    _key: &HopKey,
    _mac: Option<MacAddr>,
) {
}

pub(crate) fn next_deadline(_mem: &LaneMem<'_>) -> Instant {
    Instant::NEVER
}

pub(crate) fn poll_unresolved(_mem: &mut LaneMem<'_>, _now: Instant) -> Option<(Idx<Hop>, HopKey)> {
    None
}
