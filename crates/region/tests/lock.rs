//! The lane lock: taking, deferring, taking over.

#![allow(clippy::unwrap_used)]
use std::sync::atomic::{AtomicU64, Ordering};

use base::LaneId;
use region::{Busy, Layout, Owner, Region, RegionError, RegionShape};

const SHAPE: RegionShape = RegionShape { lanes: 2, lane_bytes: 8192, frames: 100 };
const ME: Owner = Owner { pid: 10, tid: 11 };
const OTHER: Owner = Owner { pid: 20, tid: 21 };

fn words() -> &'static [AtomicU64] {
    let words = Region::bytes_needed(&SHAPE) / 8;
    Box::leak((0..words).map(|_| AtomicU64::new(0)).collect::<Vec<_>>().into_boxed_slice())
}

fn region() -> Region {
    Region::format(words(), &SHAPE, 7, [1, 2]).unwrap()
}

#[test]
fn a_formatted_region_opens_with_the_same_shape_and_key() {
    let words = words();
    assert_eq!(Region::open(words, 7).err(), Some(RegionError::NotARegion));
    Region::format(words, &SHAPE, 7, [1, 2]).unwrap();
    let opened = Region::open(words, 7).unwrap();
    assert_eq!(opened.shape(), SHAPE);
    assert_eq!(opened.key(), [1, 2]);
    assert_eq!(Region::open(words, 8).err(), Some(RegionError::Version(7)));
    assert_eq!(Region::open(&words[..1000], 7).err(), Some(RegionError::TooSmall));
}

#[test]
fn a_region_whose_header_is_corrupted_is_refused_or_harmless() {
    for at in 0..16 {
        for value in [0, 1, u64::MAX, 1 << 63, 0x1001] {
            let words = words();
            Region::format(words, &SHAPE, 7, [1, 2]).unwrap();
            words[at].store(value, Ordering::Relaxed);
            if let Ok(region) = Region::open(words, 7) {
                assert!(Region::bytes_needed(&region.shape()) <= words.len() as u64 * 8);
            }
        }
    }
}

#[test]
fn shapes_outside_the_limits_are_refused() {
    for shape in [
        RegionShape { lanes: 0, ..SHAPE },
        RegionShape { lanes: base::limits::LANES as u16 + 1, ..SHAPE },
        RegionShape { lane_bytes: 100, ..SHAPE },
        RegionShape { lane_bytes: !4095, ..SHAPE },
        RegionShape { frames: u32::MAX, ..SHAPE },
    ] {
        assert_eq!(Region::format(words(), &shape, 7, [1, 2]).err(), Some(RegionError::Shape));
        assert_eq!(Region::bytes_needed(&shape), u64::MAX);
    }
}

#[test]
fn one_owner_at_a_time_holds_a_lane() {
    let region = region();
    let lane = region.lane(LaneId(0)).unwrap();
    let guard = lane.try_lock(ME).unwrap();
    assert_eq!(lane.holder(), Some(ME));
    assert!(lane.try_lock(OTHER).is_none());
    assert!(region.lane(LaneId(1)).unwrap().try_lock(OTHER).is_some(), "lanes are apart");
    assert!(guard.unlock(|_| panic!("nobody waits")).is_ok());
    assert_eq!(lane.holder(), None);
    drop(lane.try_lock(OTHER).unwrap());
    assert_eq!(lane.holder(), None);
    assert!(region.lane(LaneId(2)).is_none());
}

#[test]
fn two_holdings_by_the_same_owner_are_told_apart() {
    let lane = region().lane(LaneId(0)).unwrap();
    let guard = lane.try_lock(ME).unwrap();
    let first = lane.holding();
    assert_eq!(first, lane.holding());
    drop(guard);
    let _guard = lane.try_lock(ME).unwrap();
    assert_ne!(first, lane.holding());
}

#[test]
fn a_request_deferred_to_the_holder_comes_up_when_it_unlocks() {
    let lane = region().lane(LaneId(0)).unwrap();
    let guard = lane.try_lock(ME).unwrap();
    assert!(lane.lock_or_defer(OTHER, 5).unwrap().is_none());
    assert!(lane.lock_or_defer(OTHER, 6).unwrap().is_none());
    let mut guard = guard.unlock(|_| ()).unwrap_err();
    assert_eq!((guard.next_request(), guard.next_request(), guard.next_request()), (Some(5), Some(6), None));
    assert!(guard.unlock(|_| ()).is_ok());
    let mut guard = lane.lock_or_defer(OTHER, 7).unwrap().unwrap();
    assert_eq!(guard.next_request(), None, "who got the lock does its own request");
    assert!(guard.unlock(|_| ()).is_ok());
}

#[test]
fn a_full_queue_says_busy_and_works_again_when_drained() {
    let lane = region().lane(LaneId(0)).unwrap();
    let mut guard = lane.try_lock(ME).unwrap();
    let mut queued = 0;
    while let Ok(None) = lane.lock_or_defer(OTHER, queued) {
        queued += 1;
    }
    assert_eq!(queued, 256);
    assert!(matches!(lane.lock_or_defer(OTHER, 0), Err(Busy)));
    assert!(matches!(lane.lock_or_defer(OTHER, 1 << 63), Err(Busy)));
    assert_eq!((0..queued).filter(|n| guard.next_request() == Some(*n)).count(), 256);
    assert!(lane.lock_or_defer(OTHER, 1).unwrap().is_none());
}

#[test]
fn a_guard_dropped_with_requests_leaves_them_to_the_next_holder() {
    let lane = region().lane(LaneId(0)).unwrap();
    let guard = lane.try_lock(ME).unwrap();
    assert!(lane.lock_or_defer(OTHER, 5).unwrap().is_none());
    drop(guard);
    let guard = lane.try_lock(OTHER).unwrap();
    let mut guard = guard.unlock(|_| ()).unwrap_err();
    assert_eq!(guard.next_request(), Some(5));
    assert!(guard.unlock(|_| ()).is_ok());
}

#[test]
fn the_lock_of_a_dead_owner_is_taken_over_and_its_late_unlock_does_nothing() {
    let lane = region().lane(LaneId(0)).unwrap();
    let dead = lane.try_lock(OTHER).unwrap();
    assert!(lane.take_over(ME, ME).is_none());
    let guard = lane.take_over(OTHER, ME).unwrap();
    assert!(lane.take_over(OTHER, ME).is_none());
    assert_eq!(lane.holder(), Some(ME));
    assert_eq!(lane.signals().take_overs.load(Ordering::Relaxed), 1);
    assert!(dead.unlock(|_| ()).is_ok());
    assert_eq!(lane.holder(), Some(ME));
    assert!(guard.unlock(|_| ()).is_ok());
}

#[test]
fn whoever_waits_is_woken_by_the_unlock() {
    let lane = region().lane(LaneId(0)).unwrap();
    let guard = lane.try_lock(ME).unwrap();
    let (asleep, sleeps) = std::sync::mpsc::channel();
    let (wake, woken) = std::sync::mpsc::channel();
    let waiter = std::thread::spawn(move || {
        let guard = lane.lock(OTHER, |word, seen| {
            assert_eq!(word.load(Ordering::Relaxed), seen);
            asleep.send(()).unwrap();
            woken.recv().unwrap();
            assert_ne!(word.load(Ordering::Relaxed), seen);
        });
        assert_eq!(lane.holder(), Some(OTHER));
        guard.unlock(|_| ()).is_ok()
    });
    sleeps.recv().unwrap();
    assert!(guard.unlock(|_| wake.send(()).unwrap()).is_ok());
    assert!(waiter.join().unwrap());
}

#[test]
fn threads_under_the_lock_never_meet_and_lose_no_request() {
    let region = region();
    let mut layout = Layout::new();
    let at = layout.table::<u64>(2);
    let threads: Vec<_> = (0..4u32)
        .map(|n| {
            std::thread::spawn(move || {
                let lane = region.lane(LaneId(0)).unwrap();
                let me = Owner { pid: 1, tid: n + 1 };
                for round in 0..2000 {
                    let got = if round % 2 == 0 {
                        Some(lane.lock(me, |_, _| std::thread::yield_now()))
                    } else {
                        match lane.lock_or_defer(me, 1) {
                            Ok(got) => got,
                            Err(Busy) => Some(lane.lock(me, |_, _| std::thread::yield_now())),
                        }
                    };
                    let Some(mut guard) = got else { continue };
                    let mut add = 1;
                    loop {
                        let mut carver = guard.carver();
                        let mut table = carver.table(at).unwrap();
                        let counter = table.get_mut(base::Idx::new(0)).unwrap();
                        *counter += add;
                        match guard.unlock(|_| ()) {
                            Ok(()) => break,
                            Err(back) => guard = back,
                        }
                        add = 0;
                        while let Some(request) = guard.next_request() {
                            add += request;
                        }
                    }
                }
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    let mut guard = region.lane(LaneId(0)).unwrap().try_lock(ME).unwrap();
    assert_eq!(guard.next_request(), None);
    assert_eq!(guard.carver().table(at).unwrap().get(base::Idx::new(0)), Some(&8000));
}

#[test]
fn a_corrupted_control_block_neither_panics_nor_hangs() {
    let mut rng = base::Rng::new(1);
    for round in 0..200 {
        let words = words();
        let region = Region::format(words, &SHAPE, 7, [1, 2]).unwrap();
        // The control block of lane 0 is the second page; some words stay small, so that ring positions stay near.
        for word in &words[512..1024] {
            let value = rng.next_u64();
            word.store(if round % 2 == 0 { value } else { value % 300 }, Ordering::Relaxed);
        }
        let lane = region.lane(LaneId(0)).unwrap();
        for request in 0..300 {
            if let Ok(Some(mut guard)) = lane.lock_or_defer(ME, request) {
                while guard.next_request().is_some() {}
                drop(guard);
            }
        }
        let holder = lane.holder();
        if let Some(mut guard) = holder.map_or_else(|| lane.try_lock(ME), |dead| lane.take_over(dead, ME)) {
            let mut left = 0;
            while guard.next_request().is_some() {
                left += 1;
                assert!(left <= 256);
            }
            let guard = guard.unlock(|_| ()).err();
            drop(guard);
            assert_eq!(lane.holder(), None);
        }
    }
}
