//! Segments of flows that another lane of the region has: handed over by its mailbox, whole, as they came (DESIGN.md, "Lane <-> queue").
//!
//! The directory of the region says which lane has a flow. It is asked only where this lane has no connection for a segment.

use base::LaneId;
use state::{CsumState, DropReason, FlowKey, LaneMem, RxBatch, RxFrame};

use crate::ipv4::Packet;

/// Lanes that one segment may be handed on by: flows move meanwhile, but not so often.
const HOPS_MAX: u32 = 4;
/// Where `FrameMeta::flags` of a chain's first frame counts the lanes it was handed on by; other uses of the flags lie beside it.
const HOPS_SHIFT: u32 = 12;
const HOPS_MASK: u16 = 7 << HOPS_SHIFT;

// The note of a chain: the port it came by, whether that port's peer may be on this machine, the lanes it was handed on by, and the
// payload size of the segments merged in it.
const LOCAL_PEER: u32 = 1 << 8;
const NOTE_HOPS_SHIFT: u32 = 9;
const NOTE_HOPS_MASK: u32 = 7;
const NOTE_GSO_SHIFT: u32 = 12;
const _: () = assert!(NOTE_GSO_SHIFT + u16::BITS <= region::NOTE_BITS);

/// Hands `packet`, a TCP segment of flow `key` for which this lane has no connection, to the lane that the flow belongs to. True: it is gone
/// (perhaps dropped, and counted). False: it is for this lane to answer.
pub(crate) fn hand_over(mem: &mut LaneMem<'_>, packet: &Packet, key: &FlowKey) -> bool {
    let Some(to) = owner(mem, key) else { return false };
    let Some(meta) = mem.frames.meta_mut(packet.head) else { return false };
    let hops = u32::from(meta.flags & HOPS_MASK) >> HOPS_SHIFT;
    if hops >= HOPS_MAX {
        return false;
    }
    meta.seq = u32::from(packet.l4_offset) + packet.l4_bytes;
    let local_peer = if packet.local_peer { LOCAL_PEER } else { 0 };
    let note = u32::from(packet.port) | local_peer | (hops + 1) << NOTE_HOPS_SHIFT;
    let note = note | u32::from(packet.gso_size) << NOTE_GSO_SHIFT;
    match mem.frames.hand_over(to, packet.head, note) {
        Ok(wake) => {
            mem.counters.handed_out = mem.counters.handed_out.wrapping_add(1);
            if wake {
                mem.globals.load.rung |= 1 << to.0;
            }
        }
        Err(_) => {
            mem.frames.release_chain(packet.head);
            mem.counters.drop_packet(DropReason::LaneMailFull);
        }
    }
    true
}

/// Does flow `key` belong to another lane?
pub(crate) fn is_elsewhere(mem: &LaneMem<'_>, key: &FlowKey) -> bool {
    owner(mem, key).is_some()
}

/// The other lane that flow `key` belongs to.
fn owner(mem: &LaneMem<'_>, key: &FlowKey) -> Option<LaneId> {
    let lane = mem.frames.lane()?;
    let directory = lane.region().directory().filter(|d| d.is_open())?;
    let group = directory.group_of(key.local_port, key.remote, key.remote_port);
    directory.lane_of(group).filter(|to| *to != lane.id())
}

/// Moves what other lanes handed to this one to `batch`, as far as there is room. Gives the number of packets.
pub(crate) fn receive(mem: &mut LaneMem<'_>, batch: &mut RxBatch) -> usize {
    let mut taken = 0;
    while batch.room() > 0
        && let Some(mail) = mem.frames.next_mail()
    {
        let hops = (mail.note >> NOTE_HOPS_SHIFT & NOTE_HOPS_MASK).min(HOPS_MAX) as u16;
        let Some(meta) = mem.frames.meta_mut(mail.head) else { continue };
        let (len, gso_size) = (meta.seq, (mail.note >> NOTE_GSO_SHIFT) as u16);
        meta.flags = hops << HOPS_SHIFT;
        batch.push(RxFrame {
            head: mail.head,
            len,
            gso_size,
            port: mail.note as u8,
            local_peer: mail.note & LOCAL_PEER != 0,
            // The lane it came to has looked.
            csum: CsumState::Verified,
        });
        taken += 1;
    }
    mem.counters.handed_in = mem.counters.handed_in.wrapping_add(taken as u64);
    taken
}
