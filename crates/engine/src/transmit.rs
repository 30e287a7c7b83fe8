//! What goes out: packets of no connection, then control segments, ACKs and data.

use base::Instant;
use state::{LaneMem, TxBatch, TxFrame};

use crate::outbox;

pub(crate) fn poll(mem: &mut LaneMem<'_>, _now: Instant, out: &mut TxBatch) -> usize {
    outbox::poll(mem, out)
}

pub(crate) fn requeue(mem: &mut LaneMem<'_>, packets: &[TxFrame]) {
    for packet in packets.iter().rev() {
        outbox::requeue(mem, packet);
    }
}

pub(crate) fn pending(mem: &LaneMem<'_>) -> bool {
    !outbox::is_empty(mem)
}
