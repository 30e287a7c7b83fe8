//! A lane's span is formatted and carved again, and every table has the rows that the shape says.

use std::sync::atomic::AtomicU64;

use base::{FrameIdx, Instant, LaneId};
use region::{CarveError, Carved, Carver, FrameArea, Kept, Owner, Region, RegionShape};
use state::{LAYOUT_VERSION, LaneMem, LaneShape};

#[allow(clippy::unwrap_used, reason = "a test")]
fn region(lane: &LaneShape, frames: u32) -> Region {
    let shape = RegionShape { lanes: 1, lane_bytes: lane.lane_bytes(), frames };
    let words = (Region::bytes_needed(&shape) / 8) as usize;
    let memory: &'static [AtomicU64] = Vec::leak((0..words).map(|_| AtomicU64::new(0)).collect());
    Region::format(memory, &shape, LAYOUT_VERSION, [1, 2]).unwrap()
}

#[test]
fn a_formatted_lane_carves_into_the_tables_of_its_shape() {
    let shape = LaneShape { reassemblies: 3, ..LaneShape::for_socks(100) };
    let region = region(&shape, 256);
    let mut guard = region.lane(LaneId(0)).unwrap().try_lock(Owner { pid: 1, tid: 1 }).unwrap();
    LaneMem::format(&mut guard, &shape, [3, 4], Instant(5)).unwrap();
    let area = region.frame_area();
    let mut mem = LaneMem::carve(guard.carver(), &area).unwrap();
    assert_eq!((mem.hot.len(), mem.cold.len(), mem.reassemblies.len()), (100, 100, 3));
    assert_eq!(mem.rings.len(), 3 * 128);
    assert_eq!(mem.flows.capacity(), 100);
    assert_eq!(mem.globals.key, [1, 2]);
    assert_eq!(mem.globals.shape, shape);
    let frames: Vec<_> = (0..256).map(|_| mem.frames.alloc().unwrap()).collect();
    assert_eq!(mem.frames.alloc(), None);
    assert!(mem.frames.is_short(1));
    let mut sorted: Vec<_> = frames.iter().map(|f| f.0).collect();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..256).collect::<Vec<_>>());
    assert!(!frames.contains(&FrameIdx::NONE));
}

#[test]
fn an_unformatted_span_is_refused_or_empty() {
    let shape = LaneShape::for_socks(8);
    let region = region(&shape, 64);
    let mut guard = region.lane(LaneId(0)).unwrap().try_lock(Owner { pid: 1, tid: 1 }).unwrap();
    assert!(LaneMem::carve(guard.carver(), &region.frame_area()).is_err());
}

struct Tables;

impl Carved for Tables {
    type Of<'a> = LaneMem<'a>;

    fn carve<'a>(carver: Carver<'a>, area: &'a FrameArea) -> Result<LaneMem<'a>, CarveError> {
        LaneMem::carve(carver, area)
    }
}

#[test]
fn tables_kept_between_holdings_are_found_anew_when_the_lane_was_formatted_or_is_another_one() {
    let (large, small) = (LaneShape::for_socks(100), LaneShape::for_socks(8));
    let (region, other) = (region(&large, 64), region(&small, 64));
    let mut kept = Kept::<Tables>::default();
    let owner = Owner { pid: 1, tid: 1 };
    for (region, shape) in [(&region, &large), (&region, &small), (&other, &small)] {
        let lane = region.lane(LaneId(0)).unwrap();
        let area = lane.frame_area();
        let mut guard = lane.try_lock(owner).unwrap();
        LaneMem::format(&mut guard, shape, [3, 4], Instant(5)).unwrap();
        let mem = kept.open(&mut guard, &area).unwrap();
        assert_eq!(mem.hot.len(), shape.socks);
        mem.globals.shape.socks = shape.socks + 1;
        drop(guard);
        // Held again, it is what it was.
        let mut guard = lane.try_lock(owner).unwrap();
        assert_eq!(kept.open(&mut guard, &area).unwrap().globals.shape.socks, shape.socks + 1);
        assert_eq!(LaneMem::carve(guard.carver(), &area).unwrap().globals.shape.socks, shape.socks + 1);
    }
}

#[test]
fn a_lane_that_was_never_formatted_has_no_tables_to_keep() {
    let shape = LaneShape::for_socks(8);
    let region = region(&shape, 64);
    let mut guard = region.lane(LaneId(0)).unwrap().try_lock(Owner { pid: 1, tid: 1 }).unwrap();
    assert!(Kept::<Tables>::default().open(&mut guard, &region.frame_area()).is_err());
}
