//! What goes out: packets of no connection, then control segments, ACKs and data.

use base::Instant;
use state::{LaneMem, TxBatch, TxFrame};

pub(crate) fn poll(_mem: &mut LaneMem<'_>, _now: Instant, _out: &mut TxBatch) -> usize {
    0
}

pub(crate) fn requeue(_mem: &mut LaneMem<'_>, _packets: &[TxFrame]) {}

pub(crate) fn pending(_mem: &LaneMem<'_>) -> bool {
    false
}
