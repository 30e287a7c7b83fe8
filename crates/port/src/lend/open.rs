//! Making a wire of four cells of the region.

use base::{FrameIdx, LaneId};
use region::{LENT_MAX, Region, Shelf};

use super::LendPort;
use crate::{PortSetup, PortStats};

/// One end of a lending wire. Plain numbers: another process that maps the region makes the same port of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LendParts {
    /// Cells of the shelves: what this end sends, its places that come back, what the peer sends, the peer's places.
    pub shelves: [FrameIdx; 4],
    /// The peer's lane.
    pub peer: LaneId,
}

/// The region has too few free frames, or no such lanes, for the wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NoFrames;

impl core::fmt::Display for NoFrames {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("a wire between lanes of a region needs four free frames and the two lanes: make the region larger")
    }
}

impl std::error::Error for NoFrames {}

/// A wire between two lanes of `region`; the first end is for `lanes.0`. Its four frames are the wire's for as long as the region lasts.
///
/// # Errors
/// [`NoFrames`].
pub fn pair(region: Region, lanes: (LaneId, LaneId)) -> Result<(LendParts, LendParts), NoFrames> {
    if region.lane(lanes.0).is_none() || region.lane(lanes.1).is_none() {
        return Err(NoFrames);
    }
    let [out, out_back, back, back_back] = region.frame_area().take_shelves().ok_or(NoFrames)?;
    let near = LendParts { shelves: [out, out_back, back, back_back], peer: lanes.1 };
    let far = LendParts { shelves: [back, back_back, out, out_back], peer: lanes.0 };
    Ok((near, far))
}

impl LendPort {
    /// The port of one end, in any process that maps the region. Each end has one port, once.
    ///
    /// # Errors
    /// [`NoFrames`] when `parts` are of another region.
    pub fn from_parts(parts: LendParts, region: Region, setup: PortSetup) -> Result<Self, NoFrames> {
        let area = region.frame_area();
        let shelf = |cell| Shelf::at(&area, cell).ok_or(NoFrames);
        let [outgoing, returned, incoming, giving] = parts.shelves;
        Ok(Self {
            outgoing: shelf(outgoing)?,
            sent: 0,
            sent_taken: 0,
            returned: shelf(returned)?,
            returned_taken: 0,
            incoming: shelf(incoming)?,
            received: 0,
            received_shown: 0,
            giving: (giving, shelf(giving)?),
            lent: Box::new([FrameIdx::NONE; LENT_MAX]),
            free: (0..=u8::MAX).rev().collect(),
            peer: region.lane(parts.peer).ok_or(NoFrames)?,
            refused: 0,
            setup,
            stats: PortStats::default(),
        })
    }
}
const _: () = assert!(LENT_MAX == 1 << u8::BITS);
