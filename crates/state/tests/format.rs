//! A lane's span is formatted and carved again, and every table has the rows that the shape says.

use std::sync::atomic::AtomicU64;

use base::{FrameIdx, Instant, LaneId};
use region::{Owner, Region, RegionShape};
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
