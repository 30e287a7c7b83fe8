//! What every other crate shares: newtypes for wire values, indices and times, limits, the table hash, a PRNG.
//!
//! No clock, no I/O, no heap. Nothing here knows of a packet format or of the region's layout.
#![no_std]
#![forbid(unsafe_code)]

pub mod hash;
mod ids;
pub mod limits;
mod rand;
mod seq;
mod time;

pub use ids::{FrameIdx, Idx, IpAddress, LaneId, MacAddr, Port};
pub use rand::Rng;
pub use seq::SeqNum;
pub use time::{Duration, Instant};

/// Bytes in one cache line of every machine Corelane runs on.
pub const CACHE_LINE: usize = 64;
