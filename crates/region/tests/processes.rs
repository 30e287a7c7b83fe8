//! One region in several mappings and processes, and what is left of it when a process is killed at any instruction.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use base::{FrameIdx, Idx, LaneId};
use region::{FrameLane, LaneGuard, LaneRef, Layout, Owner, POOL_BATCH, Region, RegionShape, TableAt};

const SHAPE: RegionShape = RegionShape { lanes: 2, lane_bytes: 4096, frames: 256 };
const VERSION: u32 = 3;
const STEWARD: Owner = Owner { pid: 7, tid: 7 };

/// Shared memory of the size of the region, as a file descriptor.
fn memory() -> i32 {
    // SAFETY: a valid name; the descriptor is this test's.
    let fd = unsafe { libc::memfd_create(c"region-test".as_ptr(), libc::MFD_CLOEXEC) };
    let bytes = libc::off_t::try_from(Region::bytes_needed(&SHAPE)).unwrap();
    // SAFETY: a descriptor of ours.
    let sized = unsafe { libc::ftruncate(fd, bytes) };
    assert_eq!(sized, 0);
    fd
}

/// Maps it, wherever the kernel likes.
fn map(fd: i32) -> &'static [AtomicU64] {
    let bytes = usize::try_from(Region::bytes_needed(&SHAPE)).unwrap();
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: no address is asked for, so nothing is replaced.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, libc::MAP_SHARED, fd, 0) };
    assert_ne!(at, libc::MAP_FAILED);
    // SAFETY: mapped, never unmapped, and zeroed by the kernel.
    unsafe { std::slice::from_raw_parts(at.cast::<AtomicU64>(), bytes / 8) }
}

/// What the lanes of these tests hold.
#[derive(Clone, Copy)]
struct Places {
    stock: TableAt<FrameLane>,
    counters: TableAt<u64>,
}

fn places() -> Places {
    let mut layout = Layout::new();
    Places { stock: layout.table(1), counters: layout.table(2) }
}

fn counters(guard: &mut LaneGuard, change: impl FnOnce(&mut [u64])) {
    let mut carver = guard.carver();
    change(carver.table(places().counters).unwrap().into_rows());
}

fn me() -> Owner {
    // SAFETY: no preconditions.
    let pid = unsafe { libc::getpid() };
    // SAFETY: no preconditions.
    let tid = unsafe { libc::gettid() };
    Owner { pid: u32::try_from(pid).unwrap(), tid: u32::try_from(tid).unwrap() }
}

fn futex(word: &AtomicU32, operation: i32, value: u32) {
    let limit = libc::timespec { tv_sec: 5, tv_nsec: 0 };
    // SAFETY: the word and the time limit outlive the call.
    unsafe { libc::syscall(libc::SYS_futex, word.as_ptr(), operation, value, &limit) };
}

fn lock(lane: LaneRef) -> LaneGuard {
    lane.lock(me(), |word, seen| futex(word, libc::FUTEX_WAIT, seen))
}

fn unlock(mut guard: LaneGuard) {
    while let Err(mut back) = guard.unlock(|word| futex(word, libc::FUTEX_WAKE, 1)) {
        while let Some(request) = back.next_request() {
            counters(&mut back, |c| c[1] += request);
        }
        guard = back;
    }
}

/// Runs `work` in a child process, which must not allocate, because another thread may hold the allocator.
fn fork(work: impl FnOnce()) -> i32 {
    // SAFETY: the child only runs `work`, without allocating, and exits.
    let pid = unsafe { libc::fork() };
    assert!(pid >= 0);
    if pid == 0 {
        work();
        // SAFETY: ends the child without running what belongs to the parent.
        unsafe { libc::_exit(0) };
    }
    pid
}

fn wait(pid: i32) -> i32 {
    let mut status = 0;
    // SAFETY: a child of ours and a place for its status.
    let waited = unsafe { libc::waitpid(pid, &mut status, 0) };
    assert_eq!(waited, pid);
    status
}

fn ptrace(request: u32, pid: i32) {
    // SAFETY: requests on a stopped child of ours, without data.
    let done = unsafe { libc::ptrace(request, pid, 0, 0) };
    assert_eq!(done, 0, "ptrace is not allowed here");
}

/// Runs `work` in a child one instruction at a time, and calls `look` before each and at the end. Gives their number.
fn in_steps(work: impl FnOnce(), look: impl Fn()) -> u32 {
    let pid = fork(|| {
        // SAFETY: asks to be traced by the parent.
        unsafe { libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0) };
        // SAFETY: stops until the parent goes on.
        unsafe { libc::raise(libc::SIGSTOP) };
        work();
    });
    let mut steps = 0;
    let mut status = wait(pid);
    assert!(libc::WIFSTOPPED(status));
    loop {
        look();
        if libc::WIFEXITED(status) {
            assert_eq!(libc::WEXITSTATUS(status), 0);
            return steps;
        }
        ptrace(libc::PTRACE_SINGLESTEP, pid);
        status = wait(pid);
        assert!(libc::WIFEXITED(status) || libc::WSTOPSIG(status) == libc::SIGTRAP);
        steps += 1;
    }
}

/// A region in shared memory, seen from here.
struct World {
    words: &'static [AtomicU64],
    region: Region,
}

impl World {
    fn new() -> Self {
        let words = map(memory());
        Self { words, region: Region::format(words, &SHAPE, VERSION, [1, 2]).unwrap() }
    }

    /// Formats it again.
    fn reset(&self) {
        for word in self.tables() {
            word.store(0, Ordering::Relaxed);
        }
        Region::format(self.words, &SHAPE, VERSION, [1, 2]).unwrap();
        for lane in [0, 1] {
            let mut guard = self.lane(lane).try_lock(STEWARD).unwrap();
            let mut carver = guard.carver();
            *carver.one(places().stock).unwrap() =
                FrameLane { head: FrameIdx::NONE, free: 0, high: POOL_BATCH, failed: 0 };
        }
    }

    fn lane(&self, id: u16) -> LaneRef {
        self.region.lane(LaneId(id)).unwrap()
    }

    /// The guard of lane `id` for the steward, taken over if its holder died.
    fn take(&self, id: u16) -> LaneGuard {
        let lane = self.lane(id);
        match lane.holder() {
            Some(dead) => lane.take_over(dead, STEWARD).unwrap(),
            None => lane.try_lock(STEWARD).unwrap(),
        }
    }

    /// The words in front of the frames: all that is not payload.
    fn tables(&self) -> &[AtomicU64] {
        &self.words[..usize::try_from(self.region.frames_offset() / 8).unwrap()]
    }

    /// Runs `work` in a child, after `prepare`, and before each of its instructions calls `check` with a copy of the
    /// region as it would be if the child were killed there.
    fn kill_everywhere(&self, prepare: impl Fn(), work: impl Fn(), check: impl Fn(&World)) {
        self.reset();
        prepare();
        let copy = World::new();
        let steps = in_steps(work, || {
            for (to, from) in copy.tables().iter().zip(self.tables()) {
                to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            check(&copy);
        });
        assert!(steps > 20, "the work takes more instructions than that");
    }
}

#[test]
fn two_mappings_at_different_addresses_are_one_region() {
    let fd = memory();
    let (here, there) = (map(fd), map(fd));
    assert_ne!(here.as_ptr(), there.as_ptr());
    let a = Region::format(here, &SHAPE, VERSION, [1, 2]).unwrap();
    let b = Region::open(there, VERSION).unwrap();
    let (lane_a, lane_b) = (a.lane(LaneId(1)).unwrap(), b.lane(LaneId(1)).unwrap());

    let mut guard = lane_a.try_lock(me()).unwrap();
    assert!(lane_b.try_lock(me()).is_none());
    counters(&mut guard, |c| c[0] = 42);
    let area = a.frame_area();
    let frame = {
        let mut carver = guard.carver();
        let mut frames = area.frames(carver.one(places().stock).unwrap());
        let frame = frames.alloc().unwrap();
        frames.cell_mut(frame)[256..261].copy_from_slice(b"hello");
        frames.meta_mut(frame).unwrap().len = 5;
        frame
    };
    assert!(lane_b.lock_or_defer(STEWARD, 9).unwrap().is_none());
    let mut guard = guard.unlock(|_| ()).unwrap_err();
    assert_eq!(guard.next_request(), Some(9));
    unlock(guard);

    let mut guard = lane_b.try_lock(me()).unwrap();
    counters(&mut guard, |c| assert_eq!(c[0], 42));
    let mut carver = guard.carver();
    let area = b.frame_area();
    let mut frames = area.frames(carver.one(places().stock).unwrap());
    assert_eq!(frames.data(frame), b"hello");
    frames.release(frame);
    assert_eq!(frames.alloc(), Some(frame));
}

#[test]
fn processes_with_their_own_mappings_take_turns_under_the_lock() {
    const TURNS: u32 = 3000;
    let fd = memory();
    let region = Region::format(map(fd), &SHAPE, VERSION, [1, 2]).unwrap();
    let turns = |region: Region| {
        let lane = region.lane(LaneId(0)).unwrap();
        for turn in 0..TURNS {
            if turn % 3 == 0
                && matches!(lane.lock_or_defer(me(), 1).map(|got| got.map(unlock_counting)), Ok(None))
            {
                continue;
            }
            if turn % 3 != 0 {
                let mut guard = lock(lane);
                counters(&mut guard, |c| c[0] += 1);
                unlock(guard);
            }
        }
    };
    let children = [0, 1].map(|_| fork(|| turns(Region::open(map(fd), VERSION).unwrap())));
    turns(region);
    for child in children {
        assert_eq!(wait(child), 0);
    }
    let mut guard = lock(region.lane(LaneId(0)).unwrap());
    counters(&mut guard, |c| {
        assert_eq!(c[0], u64::from(3 * TURNS * 2 / 3));
        assert_eq!(c[1], u64::from(3 * TURNS / 3));
    });
}

/// Does the deferred request of the caller itself, and unlocks.
fn unlock_counting(mut guard: LaneGuard) {
    counters(&mut guard, |c| c[1] += 1);
    unlock(guard);
}

#[test]
fn a_holder_killed_anywhere_leaves_a_lock_that_can_be_taken() {
    let world = World::new();
    world.kill_everywhere(
        || (),
        || {
            let mut guard = lock(world.lane(0));
            counters(&mut guard, |c| c[0] += 1);
            unlock(guard);
        },
        |world| {
            let mut guard = world.take(0);
            counters(&mut guard, |c| assert!(c[0] <= 1));
            unlock(guard);
            assert_eq!(world.lane(0).holder(), None);
        },
    );
}

#[test]
fn a_producer_killed_anywhere_leaves_a_ring_that_carries_everything() {
    let world = World::new();
    let holder = Owner { pid: 1, tid: 1 };
    world.kill_everywhere(
        || {
            std::mem::forget(world.lane(0).try_lock(holder));
            assert!(world.lane(0).lock_or_defer(STEWARD, 1).unwrap().is_none());
        },
        || drop(world.lane(0).lock_or_defer(STEWARD, 2)),
        |world| {
            let mut guard = world.take(0);
            let mut queued = 0;
            while let Ok(None) = world.lane(0).lock_or_defer(STEWARD, 100 + queued) {
                queued += 1;
            }
            assert!(queued >= 254);
            assert_eq!(guard.next_request(), Some(1));
            let second = guard.next_request();
            assert!(second == Some(2) || second == Some(100));
            let rest = std::iter::from_fn(|| guard.next_request()).count() as u64;
            assert_eq!(rest + u64::from(second == Some(100)), queued);
            unlock(guard);
        },
    );
}

#[test]
fn a_consumer_killed_anywhere_loses_at_most_the_request_in_its_hands() {
    let world = World::new();
    world.kill_everywhere(
        || {
            let guard = world.lane(0).try_lock(STEWARD).unwrap();
            for request in 0..4 {
                assert!(world.lane(0).lock_or_defer(me(), request).unwrap().is_none());
            }
            drop(guard);
        },
        || {
            let mut guard = world.lane(0).try_lock(me()).unwrap();
            assert_eq!(guard.next_request(), Some(0));
            assert_eq!(guard.next_request(), Some(1));
        },
        |world| {
            let mut guard = world.take(0);
            let left: Vec<_> = std::iter::from_fn(|| guard.next_request()).collect();
            assert!([&[0, 1, 2, 3][..], &[1, 2, 3], &[2, 3]].contains(&&left[..]), "{left:?}");
            drop(guard);
            for round in 0..3 {
                let mut guard = world.lane(0).try_lock(STEWARD).unwrap();
                for request in 0..256 {
                    assert!(world.lane(0).lock_or_defer(me(), round * 1000 + request).unwrap().is_none());
                }
                assert!(world.lane(0).lock_or_defer(me(), 0).is_err());
                assert_eq!(std::iter::from_fn(|| guard.next_request()).count(), 256);
            }
        },
    );
}

/// All frames that both lanes can allocate, the stock of lane 0 first.
fn allocatable(world: &World) -> usize {
    let mut all = BTreeSet::new();
    for lane in [0, 1] {
        let mut guard = world.take(lane);
        let area = guard.frame_area();
        let mut carver = guard.carver();
        let mut frames = area.frames(carver.one(places().stock).unwrap());
        while let Some(frame) = frames.alloc() {
            assert!(all.insert(frame.0), "given out twice");
        }
    }
    // Both lanes are given up: what they have goes back, and nothing else.
    let reclaimed: u32 = [0, 1].map(|lane| world.take(lane).reclaim_frames()).iter().sum();
    assert!(reclaimed as usize >= all.len());
    let mut stock = FrameLane { head: FrameIdx::NONE, free: 0, high: SHAPE.frames, failed: 0 };
    let area = world.region.frame_area();
    let mut frames = area.frames(&mut stock);
    let again: BTreeSet<_> = std::iter::from_fn(|| frames.alloc()).map(|f| f.0).collect();
    assert_eq!(again.len(), reclaimed as usize, "each once");
    all.len()
}

fn with_frames(guard: &mut LaneGuard, change: impl FnOnce(region::Frames<'_>)) {
    let area = guard.frame_area();
    let mut carver = guard.carver();
    change(area.frames(carver.one(places().stock).unwrap()));
}

#[test]
fn a_lane_killed_while_it_refills_its_stock_loses_at_most_one_batch() {
    let world = World::new();
    world.kill_everywhere(
        || (),
        || {
            let mut guard = lock(world.lane(0));
            with_frames(&mut guard, |mut frames| assert!(frames.alloc().is_some()));
            unlock(guard);
        },
        |world| assert!(allocatable(world) >= (SHAPE.frames - POOL_BATCH) as usize),
    );
}

#[test]
fn a_lane_killed_while_it_gives_frames_back_loses_at_most_one_batch() {
    let world = World::new();
    let last = AtomicU32::new(0);
    world.kill_everywhere(
        || {
            let mut guard = world.lane(0).try_lock(STEWARD).unwrap();
            with_frames(&mut guard, |mut frames| {
                let taken: Vec<_> = (0..=POOL_BATCH).map(|_| frames.alloc().unwrap()).collect();
                for frame in &taken[1..] {
                    frames.release(*frame);
                }
                last.store(taken[0].0, Ordering::Relaxed);
            });
        },
        || {
            let mut guard = lock(world.lane(0));
            let last = FrameIdx(last.load(Ordering::Relaxed));
            with_frames(&mut guard, |mut frames| frames.release(last));
            unlock(guard);
        },
        |world| assert!(allocatable(world) >= (SHAPE.frames - POOL_BATCH - 1) as usize),
    );
}

/// Makes the stock of lane 0 three batches less one frame, which is given.
fn fill_stock(world: &World, high: u32) -> FrameIdx {
    let mut guard = world.lane(0).try_lock(STEWARD).unwrap();
    let area = guard.frame_area();
    let mut carver = guard.carver();
    let stock = carver.one(places().stock).unwrap();
    stock.high = high;
    let mut frames = area.frames(stock);
    let taken: Vec<_> = (0..3 * POOL_BATCH).map(|_| frames.alloc().unwrap()).collect();
    for frame in &taken[1..] {
        frames.release(*frame);
    }
    assert_eq!(frames.free(), 3 * POOL_BATCH - 1);
    taken[0]
}

#[test]
fn a_lane_killed_while_it_takes_a_frame_from_its_stock_keeps_the_others() {
    let world = World::new();
    world.kill_everywhere(
        || _ = fill_stock(&world, 3 * POOL_BATCH),
        || {
            let mut guard = lock(world.lane(0));
            with_frames(&mut guard, |mut frames| assert!(frames.alloc().is_some()));
            unlock(guard);
        },
        |world| assert!(allocatable(world) >= SHAPE.frames as usize - 2),
    );
}

#[test]
fn a_lane_killed_while_it_gives_back_some_of_its_stock_keeps_the_others() {
    let world = World::new();
    let last = AtomicU32::new(0);
    world.kill_everywhere(
        || last.store(fill_stock(&world, 3 * POOL_BATCH - 1).0, Ordering::Relaxed),
        || {
            let mut guard = lock(world.lane(0));
            let last = FrameIdx(last.load(Ordering::Relaxed));
            with_frames(&mut guard, |mut frames| frames.release(last));
            unlock(guard);
        },
        |world| assert!(allocatable(world) >= (SHAPE.frames - POOL_BATCH - 1) as usize),
    );
}

#[test]
fn rows_are_found_by_the_same_index_in_every_mapping() {
    let fd = memory();
    let a = Region::format(map(fd), &SHAPE, VERSION, [1, 2]).unwrap();
    let b = Region::open(map(fd), VERSION).unwrap();
    let at = Layout::new().table::<Idx<u64>>(16);
    let mut guard = a.lane(LaneId(0)).unwrap().try_lock(me()).unwrap();
    for (n, row) in guard.carver().table(at).unwrap().rows_mut().iter_mut().enumerate() {
        *row = Idx::new((n as u32 + 5) % 16);
    }
    drop(guard);
    let mut guard = b.lane(LaneId(0)).unwrap().try_lock(me()).unwrap();
    let mut carver = guard.carver();
    let table = carver.table(at).unwrap();
    let mut row = Idx::new(0);
    for _ in 0..16 {
        row = Idx::new(table.get(row).unwrap().raw());
    }
    assert_eq!(row.raw(), 0);
}
