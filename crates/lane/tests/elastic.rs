//! After a peak the memory of free frames goes back to the kernel, without anybody asking for it.
#![allow(clippy::unwrap_used)]

use base::{Duration, Instant, LaneId};
use lane::Lane;
use region::{Owner, Region, RegionShape};
use state::{LAYOUT_VERSION, LaneMem, LaneShape};

/// 4 KiB pages that the process has of shared memory.
fn shared_pages() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(2).unwrap().parse().unwrap()
}

#[test]
fn a_lane_gives_the_memory_of_a_peak_back() {
    let shape = LaneShape::for_socks(4);
    let region_shape = RegionShape { lanes: 1, lane_bytes: shape.lane_bytes(), frames: 32_768 };
    let bytes = Region::bytes_needed(&region_shape);
    let memory = sys::memory::memfd("lane-test", bytes, false).unwrap();
    let words = sys::memory::map_shared(&memory.fd, bytes).unwrap();
    let before = shared_pages();
    let region = Region::format(words, &region_shape, LAYOUT_VERSION, [1, 2]).unwrap();
    Region::make_elastic(words);
    let mut now = Instant(1_000_000_000);
    let mut guard = region.lane(LaneId(0)).unwrap().try_lock(Owner { pid: 1, tid: 1 }).unwrap();
    LaneMem::format(&mut guard, &shape, [3, 4], now).unwrap();
    drop(guard);
    assert!(shared_pages() < before + 1000, "128 MiB of frames cost nothing before they are used");
    let lane = Lane::new(region, LaneId(0), vec![], None).unwrap();
    lane.enter(now).unwrap().engine(|engine| {
        let frames = &mut engine.mem().frames;
        let all: Vec<_> = (0..20_000).map(|_| frames.alloc().unwrap()).collect();
        for frame in all {
            frames.cell_mut(frame).fill(7);
            frames.release(frame);
        }
    });
    let peak = shared_pages();
    assert!(peak > before + 20_000);
    // As long as the lane wants to be woken it is; then it sleeps for good.
    let mut turns = 0;
    loop {
        let mut session = lane.enter(now).unwrap();
        session.step();
        let due = session.deadline();
        drop(session);
        turns += 1;
        assert!(turns < 500, "the lane never sleeps");
        if due == Instant::NEVER {
            break;
        }
        now = due.max(now.plus(Duration::from_micros(1)));
    }
    let after = shared_pages();
    assert!(after < before + 4_000, "{before} pages before, {peak} at the peak, {after} after {turns} turns");
    assert!(turns < 80 && now < Instant(120_000_000_000), "{turns} turns until {now:?}");
}
