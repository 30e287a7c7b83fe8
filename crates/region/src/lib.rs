//! Relocatable shared memory: everything is reached by index from wherever the region is mapped.
//!
//! This crate knows how memory is shared, not what it means: `state` says what is in a region.
#![no_std]

#[cfg(all(test, loom))]
extern crate std;

mod carve;
mod directory;
mod elastic;
mod flow;
mod frames;
mod handover;
mod kept;
mod lane;
mod lent;
mod list;
mod lock;
mod mailbox;
mod plain;
mod pool;
mod region;
mod ring;
mod rings;
mod seqlock;
mod table;
mod wheel;
mod word;

#[cfg(all(test, loom))]
mod loom_tests;

pub use carve::{CarveError, Carver, Layout, TableAt};
pub use directory::{Directory, Group};
pub use elastic::TrimAgain;
pub use flow::{FLOW_CAPACITY_MAX, FlowBucket, FlowFull, FlowHead, FlowTable};
pub use frames::{FrameArea, FrameLane, FrameMeta, Frames, POOL_BATCH};
pub use handover::NotPosted;
pub use kept::{Carved, Kept};
pub use lane::{Busy, LaneGuard, LaneRef, LaneSignals};
pub use lent::{LENT_MAX, Shelf};
pub use list::{FreeList, Linked, Links, List};
pub use lock::{Holding, Owner};
pub use mailbox::{Mail, NOTE_BITS};
pub use plain::Plain;
pub use region::{Region, RegionError, RegionShape};
pub use ring::{Full, MPSC_VALUE_MAX, Mpsc, Spsc};
pub use rings::{Note, NoteRef, RingsGuard, SharedRings};
pub use seqlock::Seqlock;
pub use table::Table;
pub use wheel::{Timer, WHEEL_TICK_NS, Wheel, WheelHead};
pub use word::Word;
