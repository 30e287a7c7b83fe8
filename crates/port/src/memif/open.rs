//! Making a port of one end of a wire.

use std::sync::Arc;

use region::FrameArea;
use rustix::io::Errno;
use sys::memif::{MemifParts, Ring, Role, Way};
use sys::window::Window;

use super::{Buffers, Channel, MemifPort};
use crate::{PortSetup, PortStats};

/// Why an end of a wire cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemifError {
    /// The shape that was told is not one that a wire can have.
    Shape,
    /// The memory cannot be mapped: it is smaller than the shape says, or could shrink; with the errno.
    Memory(i32),
    /// There is no ring where one should be.
    NoRing,
}

impl core::fmt::Display for MemifError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Shape => f.write_str("the wire has an impossible shape"),
            Self::Memory(errno) => write!(f, "the wire's memory cannot be mapped (errno {errno})"),
            Self::NoRing => f.write_str("the wire's memory holds no rings"),
        }
    }
}

impl std::error::Error for MemifError {}

impl From<Errno> for MemifError {
    fn from(errno: Errno) -> Self {
        Self::Memory(errno.raw_os_error())
    }
}

impl MemifPort {
    /// A port on one end of a wire that [`super::pair`] made, here or in another process, with its frames in `area`.
    ///
    /// # Errors
    /// [`MemifError`].
    pub fn from_parts(parts: MemifParts, _area: FrameArea, setup: PortSetup) -> Result<Self, MemifError> {
        let shape = parts.shape;
        if !shape.is_valid() {
            return Err(MemifError::Shape);
        }
        let memory = Arc::new(Window::map(&parts.memory, 0, shape.bytes())?);
        let ring = |way| {
            let ring = Ring::over(Arc::clone(&memory), shape.ring_at(way) as usize, shape.log2_ring)?;
            if ring.is_ring() { Ok(ring) } else { Err(MemifError::NoRing) }
        };
        let channel = |way, event| {
            Ok::<_, MemifError>(Channel { ring: ring(way)?, event, buffers: Buffers::of(&shape, way) })
        };
        let to_server = channel(Way::ToServer, parts.to_server)?;
        let to_client = channel(Way::ToClient, parts.to_client)?;
        let (incoming, outgoing) = match parts.role {
            Role::Client => (to_client, to_server),
            Role::Server => (to_server, to_client),
        };
        Ok(Self {
            role: parts.role,
            regions: vec![memory],
            incoming,
            outgoing,
            offloads: true,
            setup,
            stats: PortStats::default(),
        })
    }
}
