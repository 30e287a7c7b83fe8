//! What goes out: packets of no connection by turns with those of connections, of which what a port did not take comes first,
//! then control segments, ACKs and data.
//!
//! Invariant: of the packets in the table of those not taken, the first `lent` were given out by the last [`poll`]; their
//! payload stays retained until the next one, because the port reads it in between.

use base::limits::BATCH_FRAMES;
use base::{Idx, Instant};
use state::{DropReason, LaneMem, TxBatch, TxFrame};

use crate::{outbox, tcp};

/// Rows of the table of packets that were not taken.
const ROWS: u32 = BATCH_FRAMES as u32;
const _: () = assert!(ROWS.is_power_of_two());

#[inline]
pub(crate) fn poll(mem: &mut LaneMem<'_>, now: Instant, out: &mut TxBatch) -> usize {
    let before = out.room();
    settle(mem);
    if outbox::is_empty(mem) && mem.globals.tcp.requeued_len == 0 {
        tcp::poll(mem, now, out);
    } else {
        poll_all(mem, now, out);
    }
    before - out.room()
}

/// [`poll`] when connections are not all that have something.
#[inline(never)]
fn poll_all(mem: &mut LaneMem<'_>, now: Instant, out: &mut TxBatch) {
    // A port that is slow takes only the first packets of a batch, so who comes first takes turns: else datagrams starve
    // connections, or the other way round.
    mem.ip.turn = mem.ip.turn.wrapping_add(1);
    if mem.ip.turn % 2 == 1 {
        outbox::poll(mem, out, out.room().div_ceil(2));
    }
    give_again(mem, out);
    tcp::poll(mem, now, out);
    outbox::poll(mem, out, out.room());
}

pub(crate) fn requeue(mem: &mut LaneMem<'_>, packets: &[TxFrame]) {
    for packet in packets {
        if !outbox::owns(mem, packet) {
            packet.pieces().iter().for_each(|p| mem.frames.retain(p.frame));
        }
    }
    settle_lent(mem);
    for packet in packets.iter().rev() {
        if !outbox::requeue(mem, packet) {
            push_front(mem, packet);
        }
    }
}

pub(crate) fn pending(mem: &LaneMem<'_>) -> bool {
    !outbox::is_empty(mem) || tcp::pending(mem) || mem.globals.tcp.requeued_len > mem.globals.tcp.lent
}

/// Releases what the last poll gave out and kept: the ports have read it by now.
#[inline]
pub(crate) fn settle(mem: &mut LaneMem<'_>) {
    if mem.globals.tcp.lent != 0 {
        settle_lent(mem);
    }
    if !mem.ip.outbox.given_out.is_none() {
        outbox::release_given_out(mem);
    }
}

/// Releases what the last poll gave out again.
#[inline(never)]
fn settle_lent(mem: &mut LaneMem<'_>) {
    let tcp = &mut mem.globals.tcp;
    let (first, lent) = (tcp.requeued_head, core::mem::take(&mut tcp.lent).min(ROWS));
    tcp.requeued_head = first.wrapping_add(lent);
    tcp.requeued_len = tcp.requeued_len.saturating_sub(lent);
    for at in 0..lent {
        let Some(packet) = mem.requeued.get(Idx::new(first.wrapping_add(at) % ROWS)) else { continue };
        packet.pieces().iter().for_each(|p| mem.frames.release(p.frame));
    }
}

/// Gives out what a port did not take, oldest first.
fn give_again(mem: &mut LaneMem<'_>, out: &mut TxBatch) {
    let tcp = &mut mem.globals.tcp;
    while tcp.lent < tcp.requeued_len.min(ROWS) {
        let at = tcp.requeued_head.wrapping_add(tcp.lent) % ROWS;
        let Some(packet) = mem.requeued.get(Idx::new(at)) else { return };
        if !out.push(*packet) {
            return;
        }
        tcp.lent += 1;
    }
}

/// Keeps `packet`, whose payload is retained, in front of the others.
fn push_front(mem: &mut LaneMem<'_>, packet: &TxFrame) {
    let tcp = &mut mem.globals.tcp;
    let at = tcp.requeued_head.wrapping_sub(1);
    let slot = mem.requeued.get_mut(Idx::new(at % ROWS)).filter(|_| tcp.requeued_len < ROWS);
    match slot {
        Some(slot) => {
            *slot = *packet;
            tcp.requeued_head = at;
            tcp.requeued_len += 1;
        }
        None => {
            // Lost, as in a full queue of a router; TCP sends it again.
            packet.pieces().iter().for_each(|p| mem.frames.release(p.frame));
            mem.frames.release(packet.head);
            mem.counters.drop_packet(DropReason::OutboxFull);
        }
    }
}
