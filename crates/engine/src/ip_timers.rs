//! The timers of the IP layer: hops and reassemblies.

use base::Instant;
use state::LaneMem;

use crate::{hop, reassembly};

/// Does everything of the IP layer that is due.
#[inline]
pub(crate) fn handle(mem: &mut LaneMem<'_>, now: Instant) {
    if now >= mem.ip.hops.deadline {
        hop::handle_timers(mem, now);
    }
    reassembly::handle_timers(mem, now);
}

/// When [`handle`] must be called next.
pub(crate) fn deadline(mem: &LaneMem<'_>) -> Instant {
    mem.ip.hops.deadline.min(reassembly::deadline(mem))
}
