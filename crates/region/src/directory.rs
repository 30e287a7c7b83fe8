//! Which lane of a region has which flows, for frames that come to another one: written when ports are taken and when flows move, read only
//! where a lane has no connection for what came in.
//!
//! A flow belongs to a group: the block of its local port if a lane has that block, else the slot of its remote end. A group belongs to a lane.

use core::mem::size_of;
use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use base::hash::{FLOW_SLOTS, PORT_BLOCKS, block_of, slot_of};
use base::{IpAddress, LaneId, Port};

/// What belongs to one lane as a whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Group {
    /// Flows whose remote end has this slot.
    Slot(u8),
    /// Flows whose local port lies in this block.
    Block(u16),
}

/// The shared words; each 0 at first.
#[repr(C)]
pub(crate) struct Rows {
    seed: AtomicU32,
    /// Not 0: some group has a lane.
    open: AtomicU32,
    spare: [AtomicU64; 7],
    /// Lane of each slot, plus 1.
    slots: [AtomicU8; FLOW_SLOTS],
    /// Lane of each block, plus 1.
    blocks: [AtomicU8; PORT_BLOCKS],
}
/// Bytes of the directory.
pub(crate) const DIRECTORY_BYTES: usize = size_of::<Rows>();
const _: () = assert!(DIRECTORY_BYTES.is_multiple_of(8));

/// The directory of a region. Cheap to copy.
#[derive(Clone, Copy)]
pub struct Directory {
    rows: &'static Rows,
}

impl Directory {
    /// `None`: too few words.
    pub(crate) fn new(words: &'static [AtomicU64]) -> Option<Self> {
        if words.len() * 8 < DIRECTORY_BYTES {
            return None;
        }
        // SAFETY: long enough, aligned to 8 as AtomicU64 is, and every bit pattern of atomics is a value.
        Some(Self { rows: unsafe { &*words.as_ptr().cast::<Rows>() } })
    }

    /// Sets what slots are computed with: the steering's seed, so that both mean the same slots. For a region that is being made.
    pub fn set_seed(&self, seed: u32) {
        self.rows.seed.store(seed, Ordering::Relaxed);
    }

    /// Does any group have a lane? If not, every lane takes what comes to it.
    #[inline]
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.rows.open.load(Ordering::Relaxed) != 0
    }

    fn row(&self, group: Group) -> Option<&'static AtomicU8> {
        match group {
            Group::Slot(slot) => self.rows.slots.get(usize::from(slot)),
            Group::Block(block) => self.rows.blocks.get(usize::from(block)),
        }
    }

    /// The lane of `group`.
    #[must_use]
    pub fn lane_of(&self, group: Group) -> Option<LaneId> {
        let raw = self.row(group)?.load(Ordering::Acquire);
        raw.checked_sub(1).map(|lane| LaneId(lane.into()))
    }

    /// `group` belongs to `lane` from now on; `None`: to whoever it comes to.
    pub fn give(&self, group: Group, lane: Option<LaneId>) {
        let raw = lane.and_then(|lane| u8::try_from(lane.0 + 1).ok()).unwrap_or(0);
        if let Some(row) = self.row(group) {
            row.store(raw, Ordering::Release);
        }
        if raw != 0 {
            self.rows.open.store(1, Ordering::Relaxed);
        }
    }

    /// Shares all slots among the first `lanes` lanes, in turn.
    pub fn share(&self, lanes: u16) {
        for slot in 0..FLOW_SLOTS as u8 {
            self.give(Group::Slot(slot), Some(LaneId(u16::from(slot) % lanes.max(1))));
        }
    }

    /// The slot of a remote end.
    #[inline]
    #[must_use]
    pub fn slot(&self, remote: IpAddress, remote_port: Port) -> u8 {
        slot_of(self.rows.seed.load(Ordering::Relaxed), remote, remote_port.0)
    }

    /// The group of a flow.
    #[must_use]
    pub fn group_of(&self, local_port: Port, remote: IpAddress, remote_port: Port) -> Group {
        let block = Group::Block(block_of(local_port.0));
        match self.lane_of(block) {
            Some(_) => block,
            None => Group::Slot(self.slot(remote, remote_port)),
        }
    }
}
