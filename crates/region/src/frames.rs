//! The frame area (also the AF_XDP UMEM), one record per frame beside it, and each lane's stock of free frames.
//!
//! Invariant: a frame index has one owner at a time: a lane's free stock, the shared pool, a queue of one lane's
//! tables, a batch in flight, or the kernel's rings. Only the owner touches the frame's bytes and record. What
//! lanes read of one another's frames, the links of the pool, are atomic words beside the records.
//! Invariant: a free frame has `refs` 0, so neither a double release nor a corrupted free list can give a frame out twice.
//! Invariant: between any two stores of an operation each frame is owned at most once: a death loses at most a batch.
//! Invariant: a frame is marked with a lane only while the lane has it: marked after it came out of the pool, unmarked before
//! it goes back, or to the kernel ([`crate::SharedRings`]). So what a dead lane has, wherever it is lost, is found again by its mark. Frames change lanes through the
//! pool, or through a mailbox, and are unmarked meanwhile.

use core::marker::PhantomData;
use core::sync::atomic::{AtomicU64, Ordering, compiler_fence};

use base::FrameIdx;
use base::limits::{FRAME_BYTES, FRAME_HEADROOM};

use crate::elastic::Shared;
use crate::lent::STAND_IN;
use crate::pool::Mark;
use crate::{LaneRef, plain};

plain! {
    /// What is known of one frame: 16 bytes.
    #[derive(Debug)]
    pub struct FrameMeta {
        /// Next frame of the same chain or queue.
        pub next: FrameIdx,
        /// First byte in use.
        pub offset: u16,
        /// Bytes in use.
        pub len: u16,
        /// Owners; the frame is free when it reaches 0.
        pub refs: u16,
        /// For the owner's use, except bit 11: the bytes are another lane's, which lends them.
        pub flags: u16,
        /// For the owner's use: the engine keeps the sequence number of the first byte here.
        pub seq: u32,
    }
}
const _: () = assert!(size_of::<FrameMeta>() == 16);

plain! {
    /// One lane's stock of free frames; lies in the lane's own tables.
    #[derive(Debug)]
    pub struct FrameLane {
        /// First free frame.
        pub head: FrameIdx,
        /// Number of free frames in the stock.
        pub free: u32,
        /// Above this many, a batch goes back to the shared pool.
        pub high: u32,
        /// Allocations that found neither stock nor pool filled.
        pub failed: u32,
    }
}

/// Frames moved between a lane's stock and the shared pool in one step.
pub const POOL_BATCH: u32 = 64;

/// The frame area of one mapping of the region. Cheap to copy.
#[derive(Clone, Copy)]
pub struct FrameArea {
    metas: *mut FrameMeta,
    bytes: *mut u8,
    count: u32,
    pub(crate) shared: Shared,
    pub(crate) links: &'static [AtomicU64],
    /// The lane with whose mark frames are taken.
    pub(crate) mark: Mark,
    /// That lane, which hands frames to others of its region.
    pub(crate) lane: Option<LaneRef>,
}

// SAFETY: the pointers name shared memory for the life of the process; who may touch which frame is the
// ownership rule of this module, independent of threads.
unsafe impl Send for FrameArea {}
// SAFETY: as for Send.
unsafe impl Sync for FrameArea {}

impl FrameArea {
    /// The frame area with one frame for each word of `links`, whose records begin at `metas` and whose cells at
    /// `bytes`. `shared` and `links` are the shared pool's.
    ///
    /// # Safety
    /// Both point to shared memory for that many records and cells, the cells on an 8-byte bound, that stays mapped
    /// for the life of the process.
    #[must_use]
    pub(crate) unsafe fn new(
        metas: *mut FrameMeta,
        bytes: *mut u8,
        shared: Shared,
        links: &'static [AtomicU64],
    ) -> Self {
        Self {
            metas,
            bytes,
            count: u32::try_from(links.len()).unwrap_or(u32::MAX),
            shared,
            links,
            mark: Mark::NONE,
            lane: None,
        }
    }

    /// The same area for the holder of `lane`.
    #[must_use]
    pub(crate) fn of_lane(self, lane: LaneRef) -> Self {
        Self { mark: Mark::of(lane.id()), lane: Some(lane), ..self }
    }

    /// Number of frames.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count
    }

    /// How often any lane changed the shared pool, wrapping: the one line of a region that more than one lane writes while flows stay where they are.
    #[must_use]
    pub fn pool_changes(&self) -> u32 {
        (self.shared.pool.load(Ordering::Relaxed) >> 32) as u32
    }

    /// Start of the frame area in this mapping, for UMEM registration.
    #[must_use]
    pub fn base(&self) -> *mut u8 {
        self.bytes
    }

    /// The cells as shared words: the window in which system calls and AF_XDP name frames by
    /// [`Frames::address`]. Only a frame's owner looks at its bytes.
    #[must_use]
    pub fn cells(&self) -> &'static [AtomicU64] {
        let words = self.count as usize * (FRAME_BYTES / size_of::<AtomicU64>());
        // SAFETY: `new` was promised that many bytes, aligned, for the life of the process; atomics may be shared.
        unsafe { core::slice::from_raw_parts(self.bytes.cast::<AtomicU64>(), words) }
    }

    /// This area with `stock` as the place to allocate from and free to.
    ///
    /// Which frames the holder may then touch is the ownership rule of this module, across lanes and processes: the borrow
    /// checker sees to it within one view only. So one view at a time for a lane, from its own stock, under its lock.
    pub fn frames<'a>(&'a self, stock: &'a mut FrameLane) -> Frames<'a> {
        Frames { area: self, stock, kind: PhantomData }
    }
}

/// What is stored before this is stored first: so that a death in between loses the frames in hand, and not the stock
/// behind them. (For another process to see, after death, the order of the instructions is enough.)
#[inline]
fn in_order() {
    compiler_fence(Ordering::Release);
}

/// The frames as one lane sees them: allocate, release, read and write the ones it owns.
pub struct Frames<'a> {
    pub(crate) area: &'a FrameArea,
    pub(crate) stock: &'a mut FrameLane,
    kind: PhantomData<&'a mut [u8]>,
}

impl Frames<'_> {
    /// The same frames for a shorter time.
    pub fn reborrow(&mut self) -> Frames<'_> {
        Frames { area: self.area, stock: self.stock, kind: PhantomData }
    }

    /// Number of frames in the region.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.area.count
    }

    /// Free frames in this lane's stock (not counting the shared pool).
    #[must_use]
    pub fn free(&self) -> u32 {
        self.stock.free
    }

    /// Are fewer than `reserve` frames left (no more than an eighth of all count), as far as this lane can see: a short
    /// stock and an empty pool?
    #[inline]
    #[must_use]
    pub fn is_short(&self, reserve: u32) -> bool {
        self.stock.free < reserve
            && self.area.shared.is_empty(self.area.count)
            && self.stock.free < reserve.min(self.area.count / 8)
    }

    /// A free frame with `refs` 1, empty, its offset at the headroom. `None` when stock and pool are empty.
    #[inline]
    pub fn alloc(&mut self) -> Option<FrameIdx> {
        self.alloc_at(FRAME_HEADROOM as u16, 0, 0)
    }

    /// [`Frames::alloc`] of a frame whose `len` bytes in use begin at `offset`, the first with sequence number `seq`.
    #[inline(always)]
    pub fn alloc_at(&mut self, offset: u16, len: u16, seq: u32) -> Option<FrameIdx> {
        match self.take(offset, len, seq) {
            Some(frame) => Some(frame),
            None => self.take_refilled(offset, len, seq),
        }
    }

    /// The first frame of the stock.
    // The record is made where it stays: a copy of one just made elsewhere waits for it to be written.
    #[inline(always)]
    fn take(&mut self, offset: u16, len: u16, seq: u32) -> Option<FrameIdx> {
        let frame = self.stock.head;
        if frame.0 >= self.area.count {
            return None;
        }
        let at = self.area.metas.wrapping_add(frame.0 as usize);
        // SAFETY: in bounds; a frame of this lane's stock is this lane's, and `&mut self` makes this the only view.
        let meta = unsafe { &mut *at };
        if meta.refs != 0 {
            return None; // a corrupted stock: its frames are somebody's
        }
        self.stock.head = meta.next;
        self.stock.free = self.stock.free.saturating_sub(1);
        in_order();
        *meta = FrameMeta { next: FrameIdx::NONE, offset, len, refs: 1, flags: 0, seq };
        Some(frame)
    }

    #[cold]
    #[inline(never)]
    fn take_refilled(&mut self, offset: u16, len: u16, seq: u32) -> Option<FrameIdx> {
        self.stock.head = FrameIdx::NONE;
        self.stock.free = 0;
        let found = if self.refill() { self.take(offset, len, seq) } else { None };
        if found.is_none() {
            self.stock.failed = self.stock.failed.saturating_add(1);
        }
        found
    }

    /// One more owner of `frame`.
    pub fn retain(&mut self, frame: FrameIdx) {
        if let Some(meta) = self.meta_mut(frame) {
            meta.refs = meta.refs.saturating_add(1); // stays there: see `release`
        }
    }

    /// One owner less; the last one frees the frame. The chain behind it is not touched.
    #[inline]
    pub fn release(&mut self, frame: FrameIdx) {
        let head = self.stock.head;
        match self.meta_mut(frame) {
            Some(meta) if meta.refs == 1 && meta.flags & STAND_IN == 0 => {
                meta.refs = 0;
                meta.next = head;
            }
            Some(_) => return self.release_shared(frame),
            None => return,
        }
        in_order();
        self.stock.head = frame;
        self.stock.free = self.stock.free.saturating_add(1);
        if self.stock.free > self.stock.high {
            self.give_back();
        }
    }

    /// [`Frames::release`] of a frame that has other owners too, is a stand-in, or is free.
    #[inline(never)]
    fn release_shared(&mut self, frame: FrameIdx) {
        let Some(meta) = self.meta_mut(frame) else { return };
        match meta.refs {
            0 => {}        // already free: a corrupted or double release must not make a loop of the free list
            u16::MAX => {} // more owners than could be counted: lost rather than freed too early
            1 => {
                meta.flags = 0;
                self.report(frame);
                self.release(frame);
            }
            _ => meta.refs -= 1,
        }
    }

    /// [`Frames::release`] for `head` and every frame behind it.
    pub fn release_chain(&mut self, head: FrameIdx) {
        let mut at = head;
        let mut left = self.area.count;
        while let Some(meta) = self.meta(at) {
            let next = meta.next;
            self.release(at);
            at = next;
            left = left.saturating_sub(1);
            if left == 0 {
                return; // a corrupted chain with a loop
            }
        }
    }

    /// The record of `frame`.
    #[inline]
    #[must_use]
    pub fn meta(&self, frame: FrameIdx) -> Option<&FrameMeta> {
        if frame.0 >= self.area.count {
            return None;
        }
        // SAFETY: in bounds; the frame's owner is this lane, and `&self` keeps this view from writing.
        Some(unsafe { &*self.area.metas.wrapping_add(frame.0 as usize) })
    }

    /// The record of `frame`, to change it.
    #[inline]
    #[must_use]
    pub fn meta_mut(&mut self, frame: FrameIdx) -> Option<&mut FrameMeta> {
        if frame.0 >= self.area.count {
            return None;
        }
        // SAFETY: in bounds; the frame's owner is this lane, and `&mut self` makes this the only view.
        Some(unsafe { &mut *self.area.metas.wrapping_add(frame.0 as usize) })
    }

    /// Starts to load the record of `frame`, and where in its cell headers lie, into the cache.
    #[inline]
    pub fn prefetch(&self, frame: FrameIdx) {
        #[cfg(target_arch = "x86_64")]
        if frame.0 < self.area.count {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let at = frame.0 as usize;
            let headers: *const i8 = self.area.bytes.wrapping_add(at * FRAME_BYTES + FRAME_HEADROOM).cast();
            // SAFETY: a prefetch changes nothing and cannot fault, wherever it points.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.area.metas.wrapping_add(at).cast()) };
            // SAFETY: as above.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(headers) };
            // SAFETY: as above.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(headers.wrapping_add(base::CACHE_LINE)) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = frame;
    }

    /// All bytes of the cell of `frame`.
    #[inline]
    #[must_use]
    pub fn cell(&self, frame: FrameIdx) -> &[u8] {
        if frame.0 >= self.area.count {
            return &[];
        }
        // SAFETY: in bounds; owned by this lane; `&self` keeps this view from writing.
        unsafe {
            core::slice::from_raw_parts(
                self.area.bytes.wrapping_add(frame.0 as usize * FRAME_BYTES),
                FRAME_BYTES,
            )
        }
    }

    /// All bytes of the cell of `frame`, to write them.
    #[inline]
    #[must_use]
    pub fn cell_mut(&mut self, frame: FrameIdx) -> &mut [u8] {
        if frame.0 >= self.area.count {
            return &mut [];
        }
        // SAFETY: in bounds; owned by this lane; `&mut self` makes this the only view.
        unsafe {
            core::slice::from_raw_parts_mut(
                self.area.bytes.wrapping_add(frame.0 as usize * FRAME_BYTES),
                FRAME_BYTES,
            )
        }
    }

    /// The bytes in use of `frame`: `offset .. offset + len`.
    #[inline]
    #[must_use]
    pub fn data(&self, frame: FrameIdx) -> &[u8] {
        let Some(meta) = self.meta(frame) else { return &[] };
        let (from, len) = (meta.offset as usize, meta.len as usize);
        if meta.flags & STAND_IN != 0 {
            return self.lent_data(frame, from, len);
        }
        if from + len > FRAME_BYTES {
            return &[];
        }
        let at = self.area.bytes.wrapping_add(frame.0 as usize * FRAME_BYTES + from);
        // SAFETY: in bounds: there is a record of this frame, and the bytes lie inside its cell; owned by this lane, and `&self`
        // keeps it from being written.
        unsafe { core::slice::from_raw_parts(at, len) }
    }

    /// The bytes of the cell of `frame` from byte `from` on, to write them: those before may be lent to another lane.
    #[inline]
    #[must_use]
    pub fn room_mut(&mut self, frame: FrameIdx, from: usize) -> &mut [u8] {
        if frame.0 >= self.area.count || from > FRAME_BYTES {
            return &mut [];
        }
        let at = self.area.bytes.wrapping_add(frame.0 as usize * FRAME_BYTES + from);
        // SAFETY: in bounds; owned by this lane, which lent none of these bytes; `&mut self` makes this the only view.
        unsafe { core::slice::from_raw_parts_mut(at, FRAME_BYTES - from) }
    }

    /// The bytes in use of `frame`, to write them. None for what another lane lends.
    #[inline]
    #[must_use]
    pub fn data_mut(&mut self, frame: FrameIdx) -> &mut [u8] {
        let Some(meta) = self.meta(frame).filter(|m| m.flags & STAND_IN == 0) else { return &mut [] };
        let (from, len) = (meta.offset as usize, meta.len as usize);
        self.cell_mut(frame).get_mut(from..from + len).unwrap_or(&mut [])
    }

    /// Copies `len` bytes at `from_offset` of one cell to `to_offset` of another, or of the same. False, and nothing
    /// copied, when they do not lie inside the cells, or the bytes to be written would be another lane's.
    #[inline]
    pub fn copy(
        &mut self,
        (from, from_offset): (FrameIdx, usize),
        (to, to_offset): (FrameIdx, usize),
        len: usize,
    ) -> bool {
        let is_stand_in = |frame| self.meta(frame).is_some_and(|m| m.flags & STAND_IN != 0);
        if is_stand_in(to) {
            return false;
        }
        let from = if is_stand_in(from) { self.origin_of(from) } else { from };
        let Some(source) = self.cell(from).get(from_offset..).and_then(|b| b.get(..len)) else {
            return false;
        };
        let source = source.as_ptr();
        let Some(target) = self.room_mut(to, to_offset).get_mut(..len) else {
            return false;
        };
        // SAFETY: both spans were just found inside cells that this lane owns; `copy` allows them to overlap.
        unsafe { core::ptr::copy(source, target.as_mut_ptr(), len) };
        true
    }

    /// Byte offset of the cell of `frame` in the frame area (an AF_XDP descriptor's address).
    #[must_use]
    pub fn address(&self, frame: FrameIdx) -> u64 {
        u64::from(frame.0) * FRAME_BYTES as u64
    }

    /// The frame whose cell holds byte `address` of the frame area.
    #[must_use]
    pub fn at_address(&self, address: u64) -> FrameIdx {
        match u32::try_from(address / FRAME_BYTES as u64) {
            Ok(raw) if raw < self.area.count => FrameIdx(raw),
            _ => FrameIdx::NONE,
        }
    }

    /// Takes a batch from the shared pool into the stock, which is empty.
    fn refill(&mut self) -> bool {
        let Some((first, len)) = self.take_batch() else { return false };
        let mut at = FrameIdx(first);
        for _ in 0..len {
            self.mark(at, self.area.mark);
            at = self.meta(at).map_or(FrameIdx::NONE, |m| m.next);
        }
        self.stock.head = FrameIdx(first);
        self.stock.free = len;
        true
    }

    pub(crate) fn mark(&self, frame: FrameIdx, mark: Mark) {
        if let Some(link) = self.area.links.get(frame.0 as usize) {
            mark.put(link);
        }
    }

    /// Moves the whole stock to the shared pool.
    pub(crate) fn empty_stock(&mut self) {
        while self.stock.free > 0 && !self.stock.head.is_none() {
            self.give_back();
        }
    }

    /// Moves a batch from the stock to the shared pool.
    #[cold]
    #[inline(never)]
    pub(crate) fn give_back(&mut self) {
        let top = self.stock.head;
        let mut last = top;
        let mut taken = 1;
        while taken < POOL_BATCH {
            let Some(next) = self.meta(last).and_then(|m| m.next.some()) else { break };
            last = next;
            taken += 1;
        }
        self.stock.head = self.meta(last).map_or(FrameIdx::NONE, |m| m.next);
        self.stock.free = self.stock.free.saturating_sub(taken);
        in_order();
        if let Some(meta) = self.meta_mut(last) {
            meta.next = FrameIdx::NONE;
        }
        let mut at = top;
        for _ in 0..taken {
            self.mark(at, Mark::NONE);
            at = self.meta(at).map_or(FrameIdx::NONE, |m| m.next);
        }
        self.put_batch(top.0, taken);
    }
}
