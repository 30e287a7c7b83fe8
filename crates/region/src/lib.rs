//! Relocatable shared memory: everything is reached by index from wherever the region is mapped.
//!
//! This crate knows how memory is shared, not what it means: `state` says what is in a region.
#![no_std]

mod carve;
mod flow;
mod frames;
mod lane;
mod lock;
mod plain;
mod pool;
mod region;
mod ring;
mod table;
mod wheel;
mod word;

pub use carve::{CarveError, Carver, Layout, TableAt};
pub use flow::{FLOW_CAPACITY_MAX, FlowBucket, FlowFull, FlowHead, FlowTable};
pub use frames::{FrameArea, FrameLane, FrameMeta, Frames, POOL_BATCH};
pub use lane::{Busy, LaneGuard, LaneRef, LaneSignals};
pub use lock::{Holding, Owner};
pub use plain::Plain;
pub use region::{Region, RegionError, RegionShape};
pub use ring::{Full, MPSC_VALUE_MAX, Mpsc, Spsc};
pub use table::Table;
pub use wheel::{Timer, WHEEL_TICK_NS, Wheel, WheelHead};
pub use word::Word;
