//! Relocatable shared memory: everything is reached by index from wherever the region is mapped.
//!
//! This crate knows how memory is shared, not what it means: `state` says what is in a region.
#![no_std]

mod carve;
mod frames;
mod plain;
mod table;

pub use carve::{CarveError, Carver, Layout, TableAt};
pub use frames::{FrameArea, FrameLane, FrameMeta, Frames};
pub use plain::Plain;
pub use table::Table;
