//! Frames: allocated once, freed once, moved between lanes in batches.
#![allow(clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::AtomicU64;

use base::{Duration, FrameIdx, Instant, LaneId, Rng};
use proptest::prelude::*;
use region::{FrameLane, Layout, Owner, POOL_BATCH, Region, RegionShape, TableAt};

fn region(frames: u32) -> Region {
    let shape = RegionShape { lanes: 2, lane_bytes: 4096, frames };
    let words = (0..Region::bytes_needed(&shape) / 8).map(|_| AtomicU64::new(0)).collect::<Vec<_>>();
    Region::format(words.leak(), &shape, 1, [1, 2]).unwrap()
}

fn stock(high: u32) -> FrameLane {
    FrameLane { head: FrameIdx::NONE, free: 0, high, failed: 0 }
}

#[derive(Debug, Clone)]
enum Step {
    Alloc(bool),
    Retain(usize),
    Release(usize, bool),
    /// Releases a frame that is not allocated.
    ReleaseFree(u32),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any::<bool>().prop_map(Step::Alloc),
        1 => (0..500usize).prop_map(Step::Retain),
        4 => ((0..500usize), any::<bool>()).prop_map(|(n, l)| Step::Release(n, l)),
        1 => (0..400u32).prop_map(Step::ReleaseFree),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn two_lanes_share_frames_as_a_set(frames in 1..300u32, high in 0..200u32, steps in prop::collection::vec(step(), 1..600)) {
        let area = region(frames).frame_area();
        let mut stocks = [stock(high), stock(high)];
        let mut owned: BTreeMap<u32, u16> = BTreeMap::new();
        for step in steps {
            match step {
                Step::Alloc(lane) => {
                    let mut view = area.frames(&mut stocks[usize::from(lane)]);
                    if let Some(frame) = view.alloc() {
                        prop_assert!(frame.0 < frames);
                        prop_assert!(owned.insert(frame.0, 1).is_none(), "given out twice");
                        prop_assert_eq!(view.meta(frame).unwrap().refs, 1);
                        prop_assert!(view.data(frame).is_empty());
                    } else {
                        // Nothing in this stock, nothing in the pool: the rest is owned or in the other stock.
                        let other = stocks[usize::from(!lane)].free as usize;
                        prop_assert_eq!(owned.len() + other, frames as usize);
                    }
                }
                Step::Retain(n) => {
                    let Some((frame, refs)) = owned.iter_mut().nth(n) else { continue };
                    area.frames(&mut stocks[0]).retain(FrameIdx(*frame));
                    *refs += 1;
                }
                Step::Release(n, lane) => {
                    let Some((&frame, refs)) = owned.iter_mut().nth(n) else { continue };
                    area.frames(&mut stocks[usize::from(lane)]).release(FrameIdx(frame));
                    *refs -= 1;
                    if *refs == 0 {
                        owned.remove(&frame);
                    }
                }
                Step::ReleaseFree(frame) => {
                    if !owned.contains_key(&frame) {
                        area.frames(&mut stocks[0]).release(FrameIdx(frame));
                    }
                }
            }
            prop_assert!(stocks.iter().all(|s| s.free <= high.max(POOL_BATCH)));
        }
        for (frame, refs) in owned {
            for _ in 0..refs {
                area.frames(&mut stocks[1]).release(FrameIdx(frame));
            }
        }
        let all: BTreeSet<_> = (0..2)
            .flat_map(|lane| {
                let mut view = area.frames(&mut stocks[lane]);
                std::iter::from_fn(move || view.alloc()).map(|f| f.0).collect::<Vec<_>>()
            })
            .collect();
        prop_assert_eq!(all.len(), frames as usize, "every frame came back, once");
    }
}

#[test]
fn a_chain_is_released_whole_and_a_looping_one_ends() {
    let area = region(8).frame_area();
    let mut stock = stock(100);
    let mut frames = area.frames(&mut stock);
    let chain: Vec<_> = (0..8).map(|_| frames.alloc().unwrap()).collect();
    assert_eq!(frames.alloc(), None);
    for pair in chain.windows(2) {
        frames.meta_mut(pair[0]).unwrap().next = pair[1];
    }
    frames.release_chain(chain[0]);
    assert_eq!(frames.free(), 8);
    let (a, b) = (frames.alloc().unwrap(), frames.alloc().unwrap());
    frames.meta_mut(a).unwrap().next = b;
    frames.meta_mut(b).unwrap().next = a;
    frames.release_chain(a);
    assert_eq!(frames.free(), 8);
}

#[test]
fn a_corrupted_stock_gives_no_frame_out_twice() {
    for head in [FrameIdx(0), FrameIdx(199), FrameIdx(200), FrameIdx(u32::MAX - 1)] {
        let area = region(200).frame_area();
        let mut stock = stock(100);
        let mut used = BTreeSet::new();
        for _ in 0..3 {
            used.insert(area.frames(&mut stock).alloc().unwrap().0);
        }
        let taken = *used.first().unwrap();
        stock.head = FrameIdx(taken);
        let next = area.frames(&mut stock).alloc().unwrap();
        assert!(used.insert(next.0));
        stock.head = head;
        while let Some(frame) = area.frames(&mut stock).alloc() {
            assert!(used.insert(frame.0));
        }
        assert!(used.len() > 3 && stock.failed == 1);
    }
}

#[test]
fn a_frame_with_more_owners_than_can_be_counted_is_never_free_again() {
    let area = region(1).frame_area();
    let mut stock = stock(100);
    let mut frames = area.frames(&mut stock);
    let frame = frames.alloc().unwrap();
    for _ in 0..70_000 {
        frames.retain(frame);
    }
    for _ in 0..69_999 {
        frames.release(frame);
    }
    assert_eq!(frames.alloc(), None, "two owners are left");
}

#[test]
fn bytes_are_copied_between_cells_and_within_one_or_not_at_all() {
    let mut stock = stock(64);
    let region = region(8);
    let area = region.frame_area();
    let mut frames = area.frames(&mut stock);
    let (a, b) = (frames.alloc().unwrap(), frames.alloc().unwrap());
    frames.cell_mut(a)[..4].copy_from_slice(b"abcd");
    assert!(frames.copy((a, 1), (b, 4093), 3));
    assert_eq!(frames.cell(b)[4093..], *b"bcd");
    assert!(frames.copy((a, 0), (a, 1), 4));
    assert_eq!(frames.cell(a)[..5], *b"aabcd");
    assert!(!frames.copy((a, 0), (b, 4093), 4));
    assert!(!frames.copy((a, 4096), (b, 0), 1));
    assert!(!frames.copy((a, usize::MAX), (b, 0), 1));
    assert!(!frames.copy((a, 0), (FrameIdx::NONE, 0), 1));
}

#[test]
fn offsets_outside_the_cell_give_no_bytes() {
    let area = region(4).frame_area();
    let mut stock = stock(100);
    let mut frames = area.frames(&mut stock);
    let frame = frames.alloc().unwrap();
    for (offset, len) in [(4096, 1), (u16::MAX, u16::MAX), (4000, 97)] {
        let meta = frames.meta_mut(frame).unwrap();
        (meta.offset, meta.len) = (offset, len);
        assert!(frames.data(frame).is_empty());
        assert!(frames.data_mut(frame).is_empty());
    }
    assert!(frames.cell(FrameIdx(4)).is_empty());
    assert!(frames.meta(FrameIdx::NONE).is_none());
    assert_eq!(frames.at_address(frames.address(frame) + 4095), frame);
    assert_eq!(frames.at_address(4 * 4096), FrameIdx::NONE);
    assert_eq!(frames.at_address(u64::MAX), FrameIdx::NONE);
}

fn stock_place() -> TableAt<FrameLane> {
    Layout::new().table(1)
}

#[test]
fn lanes_in_two_threads_trade_frames_through_the_pool_without_mixing_them_up() {
    const FRAMES: u32 = 400;
    let region = region(FRAMES);
    // Each lane frees what the other one allocated, so that batches go round through the pool.
    let (to_b, from_a) = std::sync::mpsc::sync_channel::<FrameIdx>(64);
    let (to_a, from_b) = std::sync::mpsc::sync_channel::<FrameIdx>(64);
    let run = move |lane: u16,
                    give: std::sync::mpsc::SyncSender<FrameIdx>,
                    take: std::sync::mpsc::Receiver<FrameIdx>| {
        let mut guard =
            region.lane(LaneId(lane)).unwrap().try_lock(Owner { pid: 1, tid: 1 + u32::from(lane) }).unwrap();
        let area = guard.region().frame_area();
        let mut carver = guard.carver();
        let stock = carver.one(stock_place()).unwrap();
        *stock = self::stock(70);
        let mut frames = area.frames(stock);
        let mut rng = Rng::new(u64::from(lane));
        let stamp = |frame: FrameIdx, by: u16| (u64::from(by) << 32 | u64::from(frame.0)).to_le_bytes();
        for _ in 0..20_000 {
            if rng.chance_ppm(500_000) {
                if let Some(frame) = frames.alloc() {
                    frames.cell_mut(frame)[..8].copy_from_slice(&stamp(frame, lane));
                    if let Err(full) = give.try_send(frame) {
                        let (std::sync::mpsc::TrySendError::Full(frame)
                        | std::sync::mpsc::TrySendError::Disconnected(frame)) = full;
                        frames.release(frame);
                    }
                }
            } else if let Ok(frame) = take.try_recv() {
                assert_eq!(frames.cell(frame)[..8], stamp(frame, 1 - lane), "somebody else wrote to it");
                frames.release(frame);
            }
        }
        drop(give);
        for frame in take {
            frames.release(frame);
        }
        assert!(frames.free() <= 70);
    };
    let a = std::thread::spawn(move || run(0, to_b, from_b));
    let b = std::thread::spawn(move || run(1, to_a, from_a));
    a.join().unwrap();
    b.join().unwrap();
    let mut all = BTreeSet::new();
    for lane in 0..2 {
        let mut guard = region.lane(LaneId(lane)).unwrap().try_lock(Owner { pid: 1, tid: 1 }).unwrap();
        let mut carver = guard.carver();
        let area = region.frame_area();
        let mut frames = area.frames(carver.one(stock_place()).unwrap());
        while let Some(frame) = frames.alloc() {
            assert!(all.insert(frame.0));
        }
    }
    assert_eq!(all.len(), FRAMES as usize);
    assert_eq!(region.frames_offset() % 4096, 0);
}

#[test]
fn what_a_dead_lane_took_is_found_again_and_nothing_else() {
    const FRAMES: u32 = 1000;
    let region = region(FRAMES);
    let me = Owner { pid: 1, tid: 1 };
    let take = |lane: u16, count: usize| {
        let mut guard = region.lane(LaneId(lane)).unwrap().try_lock(me).unwrap();
        let area = guard.frame_area();
        let mut carver = guard.carver();
        let stock = carver.one(stock_place()).unwrap();
        *stock = self::stock(64);
        let mut frames = area.frames(stock);
        let taken: Vec<_> = (0..count).map_while(|_| frames.alloc()).collect();
        // Some go back: through the stock into the pool, where they lose their mark.
        for frame in taken.iter().skip(10).step_by(2) {
            frames.release(*frame);
        }
        let kept: BTreeSet<_> =
            taken.iter().take(10).chain(taken.iter().skip(11).step_by(2)).map(|f| f.0).collect();
        (kept, frames.free())
    };
    let (mine, my_stock) = take(0, 300);
    for _ in 0..20 {
        // The process dies and nobody gives anything back; the lane is made anew.
        let (theirs, stocked) = take(1, 500);
        let mut guard = region.lane(LaneId(1)).unwrap().try_lock(me).unwrap();
        assert_eq!(guard.reclaim_frames() as usize, theirs.len() + stocked as usize);
        assert_eq!(guard.reclaim_frames(), 0);
        assert!(mine.is_disjoint(&theirs));
    }
    let mut guard = region.lane(LaneId(0)).unwrap().try_lock(me).unwrap();
    assert_eq!(guard.reclaim_frames() as usize, mine.len() + my_stock as usize);
    let mut stock = stock(FRAMES);
    let area = region.frame_area();
    let mut frames = area.frames(&mut stock);
    let all: BTreeSet<_> = std::iter::from_fn(|| frames.alloc()).map(|f| f.0).collect();
    assert_eq!(all.len(), FRAMES as usize);
}

/// What a kernel does to cells whose memory is given back; notes how much.
fn forget(cells: &'static [AtomicU64], given: &mut usize) -> bool {
    assert!(cells.len().is_multiple_of(512), "whole pages");
    cells.iter().for_each(|word| word.store(0, std::sync::atomic::Ordering::Relaxed));
    *given += cells.len() / 512;
    true
}

/// A region of 8192 elastic frames, of which `used` were in use for a moment.
fn after_a_peak(used: usize) -> (Region, FrameLane) {
    let shape = RegionShape { lanes: 1, lane_bytes: 4096, frames: 8192 };
    let words = (0..Region::bytes_needed(&shape) / 8).map(|_| AtomicU64::new(0)).collect::<Vec<_>>().leak();
    let region = Region::format(words, &shape, 1, [1, 2]).unwrap();
    Region::make_elastic(words);
    let mut stock = stock(64);
    let area = region.frame_area();
    let mut frames = area.frames(&mut stock);
    assert_eq!(frames.ever_used(), 0, "a new region has touched no frame");
    let all: Vec<_> = (0..used).map(|_| frames.alloc().unwrap()).collect();
    for frame in all {
        frames.cell_mut(frame).fill(7);
        frames.release(frame);
    }
    (region, stock)
}

#[test]
fn memory_of_frames_that_stay_free_goes_back_in_steps_and_comes_again_on_demand() {
    let (region, mut stock) = after_a_peak(6000);
    let area = region.frame_area();
    let mut frames = area.frames(&mut stock);
    assert_eq!(frames.ever_used(), 6016, "whole batches, no more than needed");
    let (mut given, mut now) = (0, Instant(1_000_000_000));
    let first = frames.trim(now, |cells| forget(cells, &mut given));
    assert_eq!((first.due, given), (now.plus(Duration::from_secs(10)), 0), "nothing at once");
    let mut steps = 0;
    while steps < 1000 {
        let again = frames.trim(now, |cells| forget(cells, &mut given));
        if given > 0 {
            steps += 1;
        }
        if again.due >= now.plus(Duration::from_secs(9)) && given > 0 {
            break;
        }
        now = again.due;
    }
    assert!((4700..=5000).contains(&given), "all but about 1024 of 6000: {given}");
    assert!((9..=12).contains(&steps), "512 a step at most: {steps} steps");
    // Nobody is woken again for what stays.
    for _ in 0..3 {
        now = now.plus(Duration::from_secs(11));
        frames.trim(now, |cells| forget(cells, &mut given));
    }
    assert_eq!(frames.trim(now, |_| panic!("there is nothing to give")).due, Instant::NEVER);
    let all: BTreeSet<_> = std::iter::from_fn(|| frames.alloc()).map(|f| f.0).collect();
    assert_eq!(all.len(), 8192, "every frame is there again, once");
}

#[test]
fn frames_that_were_needed_in_between_keep_their_memory() {
    let (region, mut stock) = after_a_peak(6000);
    let area = region.frame_area();
    let mut frames = area.frames(&mut stock);
    let mut now = Instant(1_000_000_000);
    for _ in 0..20 {
        frames.trim(now, |_| panic!("these frames are needed now and then"));
        let burst: Vec<_> = (0..5500).map(|_| frames.alloc().unwrap()).collect();
        burst.into_iter().for_each(|frame| frames.release(frame));
        now = now.plus(Duration::from_secs(4));
    }
}

#[test]
fn frames_that_a_device_registered_keep_their_memory() {
    let region = region(8192);
    let mut stock = stock(64);
    let area = region.frame_area();
    let mut frames = area.frames(&mut stock);
    let all: Vec<_> = (0..6000).map(|_| frames.alloc().unwrap()).collect();
    all.into_iter().for_each(|frame| frames.release(frame));
    for s in 0..100 {
        let again = frames.trim(Instant(s * 1_000_000_000), |_| panic!("not elastic"));
        assert_eq!((again.due, again.look), (Instant::NEVER, Instant::NEVER));
    }
}

#[test]
fn frames_whose_memory_cannot_be_given_back_stay_in_the_pool() {
    let (region, mut stock) = after_a_peak(6000);
    let area = region.frame_area();
    let mut frames = area.frames(&mut stock);
    for s in 0..100 {
        frames.trim(Instant(s * 1_000_000_000), |_| false);
    }
    assert_eq!(std::iter::from_fn(|| frames.alloc()).count(), 8192);
}
