//! The frames that no lane has, and how their number follows the load: frames are taken from the region's reserve as they are first
//! needed, and the memory of those that stayed free for long goes back to the kernel.
//!
//! Three sources, in this order: the pool of free frames; the pool of free frames whose cells have no memory any more; frames
//! that were never used. Cells without memory read as zero and get new memory when they are written.
//!
//! Invariant: a cell's memory is given back only while its frame is in the hands of one lane, and only in regions whose maker said
//! that no device has the cells registered: an AF_XDP UMEM keeps the pages it was registered with.

use core::sync::atomic::AtomicU64;
use core::sync::atomic::Ordering::{AcqRel, Relaxed};

use base::limits::FRAME_BYTES;
use base::{Duration, FrameIdx, Instant};

use crate::frames::POOL_BATCH;
use crate::pool::{Mark, Pool};
use crate::{FrameArea, FrameLane, FrameMeta, Frames};

/// Free frames that keep their memory whatever happens.
const KEPT: u64 = 1024;
/// How long frames must be free until their memory is given back.
const PERIOD: Duration = Duration::from_secs(10);
/// Pause between two steps while there is more to give back.
const PAUSE: Duration = Duration::from_millis(100);
/// Frames of one step: so many system calls at most.
const STEP: u32 = 512;
/// How often it is looked whether there is something to watch.
const LOOK: Duration = Duration::from_secs(1);

/// The words of the header that all lanes share.
#[derive(Clone, Copy)]
pub(crate) struct Shared {
    /// Head of the pool.
    pub(crate) pool: &'static AtomicU64,
    /// Frames in the pool, about.
    pub(crate) spare: &'static AtomicU64,
    /// The least of that since the last step.
    pub(crate) low: &'static AtomicU64,
    /// When the next step is due; 0: nobody waits for one.
    pub(crate) trim_at: &'static AtomicU64,
    /// Head of the pool of frames without memory.
    pub(crate) bare: &'static AtomicU64,
    /// Frames in that pool, about.
    pub(crate) bare_spare: &'static AtomicU64,
    /// Frames from here on were never used.
    pub(crate) fresh: &'static AtomicU64,
    /// 1: memory may be given back.
    pub(crate) elastic: &'static AtomicU64,
}

impl Shared {
    /// Has every frame been taken?
    #[inline]
    pub(crate) fn is_empty(&self, count: u32) -> bool {
        let empty = |head: &AtomicU64| head.load(Relaxed) as u32 == u32::MAX;
        empty(self.pool) && empty(self.bare) && self.fresh.load(Relaxed) >= u64::from(count)
    }

    fn put(&self, links: &'static [AtomicU64], first: u32, len: u32) {
        Pool { head: self.pool, links }.push(first, len);
        self.spare.fetch_add(u64::from(len), Relaxed);
    }

    fn take(&self, links: &'static [AtomicU64]) -> Option<(u32, u32)> {
        let taken = Pool { head: self.pool, links }.pop()?;
        let before = self.spare.fetch_sub(u64::from(taken.1), Relaxed);
        self.low.fetch_min(before.saturating_sub(u64::from(taken.1)), Relaxed);
        Some(taken)
    }

    fn put_bare(&self, links: &'static [AtomicU64], first: u32, len: u32) {
        Pool { head: self.bare, links }.push(first, len);
        self.bare_spare.fetch_add(u64::from(len), Relaxed);
    }

    fn take_bare(&self, links: &'static [AtomicU64]) -> Option<(u32, u32)> {
        let taken = Pool { head: self.bare, links }.pop()?;
        self.bare_spare.fetch_sub(u64::from(taken.1), Relaxed);
        Some(taken)
    }

    /// Frames of `count` that no lane has, about.
    fn left(&self, count: u32) -> u64 {
        let unused = u64::from(count).saturating_sub(self.fresh.load(Relaxed));
        let pools = self.spare.load(Relaxed).saturating_add(self.bare_spare.load(Relaxed));
        pools.saturating_add(unused)
    }
}

/// When to come back to [`Frames::trim`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TrimAgain {
    /// Worth waking up for: frames are free that may not be needed. [`Instant::NEVER`]: nothing is waited for.
    pub due: Instant,
    /// Else, when there is something to do anyhow.
    pub look: Instant,
}

impl FrameArea {
    /// Puts every frame with this area's mark back into the pool and gives their number. Nothing may name those frames any
    /// more.
    pub(crate) fn reclaim(&self) -> u32 {
        let mut stock = FrameLane { head: FrameIdx::NONE, free: 0, high: POOL_BATCH, failed: 0 };
        let mut frames = self.frames(&mut stock);
        while frames.next_mail().is_some() {}
        let mut found = 0;
        let used = frames.ever_used() as usize;
        for (raw, link) in (0..).zip(self.links).take(used) {
            if self.mark != Mark::NONE && self.mark.is_on(link) {
                found += 1;
                let next = frames.stock.head;
                let Some(meta) = frames.meta_mut(FrameIdx(raw)) else { break };
                *meta = FrameMeta { next, offset: 0, len: 0, refs: 0, flags: 0, seq: 0 };
                frames.stock.head = FrameIdx(raw);
                frames.stock.free += 1;
                if frames.stock.free == POOL_BATCH {
                    frames.give_back();
                }
            }
        }
        if frames.stock.free > 0 {
            frames.give_back();
        }
        found
    }
}

impl Frames<'_> {
    /// Gives a batch from the lane to the shared pool.
    pub(crate) fn put_batch(&self, first: u32, len: u32) {
        self.area.shared.put(self.area.links, first, len);
    }

    /// A batch that no lane has: its first frame and its length.
    pub(crate) fn take_batch(&mut self) -> Option<(u32, u32)> {
        let (shared, links) = (self.area.shared, self.area.links);
        shared.take(links).or_else(|| shared.take_bare(links)).or_else(|| self.take_fresh())
    }

    /// A batch of frames that were never used.
    fn take_fresh(&mut self) -> Option<(u32, u32)> {
        let count = u64::from(self.count());
        // The short batch first: as long as the reserve is not empty, a whole batch is there.
        let whole = u64::from(POOL_BATCH);
        let after = |next: u64| if next == 0 { (count - 1) % whole + 1 } else { next + whole };
        let more = |next: u64| (next < count).then(|| after(next).min(count));
        let first = self.area.shared.fresh.fetch_update(AcqRel, Relaxed, more).ok()?;
        let len = (after(first).min(count) - first) as u32;
        let first = first as u32;
        for raw in first..first + len {
            let next = if raw + 1 < first + len { FrameIdx(raw + 1) } else { FrameIdx::NONE };
            // Its record is zero, or somebody took it through a corrupted stock: then it is not free.
            self.meta_mut(FrameIdx(raw))?.next = next;
        }
        Some((first, len))
    }

    /// Frames of the region that were ever used.
    #[must_use]
    pub fn ever_used(&self) -> u32 {
        self.area.shared.fresh.load(Relaxed).min(u64::from(self.count())) as u32
    }

    /// Frames that are free, about: in this lane's stock, and with no lane.
    #[must_use]
    pub fn left(&self) -> u32 {
        let all = self.area.shared.left(self.count()).saturating_add(u64::from(self.free()));
        all.min(u64::from(self.count())) as u32
    }

    /// Gives the memory of frames back that were free for a while. `give_back` is called with the words of cells, whole pages, and
    /// says whether their memory is gone.
    pub fn trim(&mut self, now: Instant, give_back: impl FnMut(&'static [AtomicU64]) -> bool) -> TrimAgain {
        let shared = self.area.shared;
        let never = TrimAgain { due: Instant::NEVER, look: now.plus(LOOK) };
        if shared.elastic.load(Relaxed) == 0 {
            return TrimAgain { due: Instant::NEVER, look: Instant::NEVER };
        }
        let spare = shared.spare.load(Relaxed).min(u64::from(self.count()));
        let at = shared.trim_at.load(Relaxed);
        if spare <= KEPT {
            if at != 0 {
                shared.trim_at.store(0, Relaxed);
            }
            return never;
        }
        // Not a moment that somebody scribbled there, ages away.
        if at != 0 && now.0 < at && at <= now.plus(PERIOD).0 {
            return TrimAgain { due: Instant(at), look: Instant(at) };
        }
        let next = now.plus(PERIOD);
        if shared.trim_at.compare_exchange(at, next.0, AcqRel, Relaxed).is_err() {
            return never; // another lane does it
        }
        let low = shared.low.swap(spare, Relaxed).min(spare);
        let surplus = if at == 0 { 0 } else { low.saturating_sub(KEPT) };
        let done = self.give_back_cells(surplus.min(u64::from(STEP)) as u32, give_back);
        let mut due = next;
        if done > 0 && surplus > u64::from(done) {
            due = now.plus(PAUSE);
            shared.low.store(low - u64::from(done), Relaxed);
            shared.trim_at.store(due.0, Relaxed);
        }
        TrimAgain { due, look: due }
    }

    /// Gives the memory of about `want` frames of the pool back; gives their number.
    fn give_back_cells(&mut self, want: u32, mut give_back: impl FnMut(&'static [AtomicU64]) -> bool) -> u32 {
        let mut done = 0;
        while done < want {
            let Some((first, len)) = self.area.shared.take(self.area.links) else { break };
            self.mark_batch(first, len, self.area.mark);
            let gone = self.empty_batch(first, len, &mut give_back);
            self.mark_batch(first, len, crate::pool::Mark::NONE);
            if !gone {
                self.put_batch(first, len);
                break;
            }
            self.area.shared.put_bare(self.area.links, first, len);
            done += len;
        }
        done
    }

    fn mark_batch(&self, first: u32, len: u32, mark: crate::pool::Mark) {
        let mut at = FrameIdx(first);
        for _ in 0..len {
            self.mark(at, mark);
            at = self.meta(at).map_or(FrameIdx::NONE, |m| m.next);
        }
    }

    /// Gives the memory of the cells of a batch back, neighbours together. True: it is all gone.
    fn empty_batch(
        &self,
        first: u32,
        len: u32,
        give_back: &mut impl FnMut(&'static [AtomicU64]) -> bool,
    ) -> bool {
        let mut batch = [0; POOL_BATCH as usize];
        let mut at = FrameIdx(first);
        let mut count = 0;
        for slot in batch.iter_mut().take(len as usize) {
            let Some(meta) = self.meta(at) else { break };
            *slot = at.0;
            count += 1;
            at = meta.next;
        }
        let Some(batch) = batch.get_mut(..count) else { return false };
        batch.sort_unstable();
        let cells = self.area.cells();
        let words = FRAME_BYTES / size_of::<AtomicU64>();
        batch.chunk_by(|a, b| a + 1 == *b).all(|run| {
            let from = run.first().map_or(0, |raw| *raw as usize * words);
            cells.get(from..from + run.len() * words).is_some_and(&mut *give_back)
        })
    }
}
