//! Frames handed from lane to lane, and the directory that says which lane has a flow.
#![allow(clippy::unwrap_used, missing_docs)]

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};

use base::hash::{FLOW_SLOTS, PORT_BLOCKS};
use base::{FrameIdx, IpAddress, LaneId, Port};
use region::{FrameLane, Frames, Group, LaneGuard, Mail, NotPosted, Owner, POOL_BATCH, Region, RegionShape};

const FRAMES: u32 = 512;

fn region(lanes: u16) -> Region {
    let shape = RegionShape { lanes, lane_bytes: 4096, frames: FRAMES };
    let words = Region::bytes_needed(&shape) / 8;
    let words: Vec<AtomicU64> = (0..words).map(|_| AtomicU64::new(0)).collect();
    Region::format(words.leak(), &shape, 1, [3, 4]).unwrap()
}

fn lock(region: Region, lane: u16) -> LaneGuard {
    region.lane(LaneId(lane)).unwrap().try_lock(Owner { pid: 1, tid: u32::from(lane) + 1 }).unwrap()
}

fn stock() -> FrameLane {
    FrameLane { head: FrameIdx::NONE, free: 0, high: 4 * POOL_BATCH, failed: 0 }
}

fn chain(frames: &mut Frames<'_>, len: usize) -> FrameIdx {
    let mut head = FrameIdx::NONE;
    for _ in 0..len {
        let frame = frames.alloc().unwrap();
        frames.meta_mut(frame).unwrap().next = head;
        head = frame;
    }
    head
}

fn free(frames: &mut Frames<'_>) -> usize {
    let all: Vec<FrameIdx> = std::iter::from_fn(|| frames.alloc()).collect();
    all.iter().for_each(|frame| frames.release(*frame));
    all.len()
}

#[test]
fn a_chain_arrives_whole_and_is_its_receivers() {
    let region = region(3);
    let (guards, mut stocks) = ([0, 1].map(|n| lock(region, n)), [stock(), stock()]);
    let [from, to] = &mut stocks;
    let from_area = guards[0].frame_area();
    let mut from = from_area.frames(from);
    let head = chain(&mut from, 3);
    from.cell_mut(head)[0] = 77;
    assert_eq!(from.hand_over(LaneId(1), head, 0x7fff_fffe), Ok(false));
    assert!(region.lane(LaneId(1)).unwrap().has_mail());
    let to_area = guards[1].frame_area();
    let mut to = to_area.frames(to);
    assert_eq!(to.next_mail(), Some(Mail { head, note: 0x7fff_fffe }));
    assert_eq!((to.next_mail(), to.cell(head)[0]), (None, 77));
    to.release_chain(head);
    assert_eq!(free(&mut from), FRAMES as usize - to.free() as usize);
}

#[test]
fn what_cannot_be_handed_over_stays() {
    let region = region(2);
    let guard = lock(region, 0);
    let mut own = stock();
    let area = guard.frame_area();
    let mut frames = area.frames(&mut own);
    let head = chain(&mut frames, 2);
    assert_eq!(frames.hand_over(LaneId(2), head, 0), Err(NotPosted), "there is no lane 2");
    frames.retain(head);
    assert_eq!(frames.hand_over(LaneId(1), head, 0), Err(NotPosted), "somebody else has it too");
    frames.release(head);
    let long = chain(&mut frames, 18);
    assert_eq!(frames.hand_over(LaneId(1), long, 0), Err(NotPosted), "longer than a packet");
    frames.release_chain(long);
    let mut posted = 0;
    loop {
        let next = chain(&mut frames, 1);
        if frames.hand_over(LaneId(1), next, 0).is_err() {
            frames.release_chain(next);
            break;
        }
        posted += 1;
    }
    assert_eq!(posted, 128, "the mailbox is bounded");
    frames.release_chain(head);
    assert_eq!(free(&mut frames), FRAMES as usize - posted);
    // A lane that begins anew finds no old mail, and the frames are free.
    let mut other = lock(region, 1);
    assert_eq!(other.reclaim_frames() as usize, posted);
    assert_eq!(free(&mut frames), FRAMES as usize);
}

#[test]
fn a_lane_that_sleeps_is_to_be_woken() {
    let region = region(2);
    let guard = lock(region, 0);
    let mut own = stock();
    let area = guard.frame_area();
    let mut frames = area.frames(&mut own);
    let signals = region.lane(LaneId(1)).unwrap().signals();
    signals.sleepers.fetch_add(1, Ordering::SeqCst);
    let head = chain(&mut frames, 1);
    assert_eq!(frames.hand_over(LaneId(1), head, 0), Ok(true));
    assert_eq!(signals.wake_seq.load(Ordering::SeqCst), 1);
}

#[test]
fn flows_are_found_by_their_block_or_else_by_their_slot() {
    let directory = region(4).directory().unwrap();
    let remote = IpAddress::from_v4(Ipv4Addr::new(10, 0, 0, 9));
    directory.set_seed(99);
    assert!(!directory.is_open());
    let slot = directory.slot(remote, Port(5000));
    assert!(usize::from(slot) < FLOW_SLOTS);
    assert_eq!(directory.group_of(Port(80), remote, Port(5000)), Group::Slot(slot));
    assert_eq!(directory.lane_of(Group::Slot(slot)), None);
    directory.share(3);
    assert!(directory.is_open());
    assert_eq!(directory.lane_of(Group::Slot(slot)), Some(LaneId(u16::from(slot) % 3)));
    directory.give(Group::Block(625), Some(LaneId(3)));
    assert_eq!(directory.group_of(Port(40_000), remote, Port(5000)), Group::Block(625));
    assert_eq!(directory.group_of(Port(39_999), remote, Port(5000)), Group::Slot(slot));
    directory.give(Group::Block(625), None);
    assert_eq!(directory.group_of(Port(40_000), remote, Port(5000)), Group::Slot(slot));
    assert_eq!(directory.lane_of(Group::Block(PORT_BLOCKS as u16)), None);
    let counts = (0..=u16::MAX).fold([0u32; FLOW_SLOTS], |mut counts, port| {
        counts[usize::from(directory.slot(remote, Port(port)))] += 1;
        counts
    });
    assert!(counts.iter().all(|n| (700..1400).contains(n)), "{counts:?}");
}
