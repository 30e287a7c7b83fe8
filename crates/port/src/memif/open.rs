//! Making a port of one end of a wire.

use std::sync::Arc;

use region::FrameArea;
use rustix::io::Errno;
use sys::fds::Fd;
use sys::memif::{MemifParts, Ring, Role, Way};
use sys::window::Window;

use super::lend::Ledger;
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

/// One ring of a client's memory, as the client named it.
#[derive(Debug)]
pub struct RingPart {
    /// Number of the region it lies in.
    pub region: usize,
    /// Where, bytes from the region's start.
    pub offset: usize,
    /// Descriptors, as a power of two.
    pub log2_size: u32,
    /// Its eventfd.
    pub event: Fd,
}

/// What a client showed its server.
#[derive(Debug)]
pub struct ServedParts {
    /// Its memory, with the size of each region.
    pub regions: Vec<(Fd, u64)>,
    /// The ring of its packets.
    pub to_server: RingPart,
    /// The ring of its empty buffers.
    pub to_client: RingPart,
}

impl ServedParts {
    /// The regions, mapped.
    fn map(&self) -> Result<Vec<Arc<Window>>, MemifError> {
        let windows = self.regions.iter().map(|(fd, bytes)| Window::map(fd, 0, *bytes).map(Arc::new));
        Ok(windows.collect::<Result<_, Errno>>()?)
    }

    /// Empties the rings before the first packet, and says that the server polls.
    ///
    /// # Errors
    /// [`MemifError`] when what the client showed makes no sense.
    pub(super) fn begin(&self) -> Result<[Ring; 2], MemifError> {
        let windows = self.map()?;
        let rings = [self.to_server.over(&windows)?, self.to_client.over(&windows)?];
        for ring in &rings {
            ring.rewind();
        }
        let [to_server, _] = &rings;
        to_server.mask(true);
        Ok(rings)
    }
}

impl RingPart {
    fn over(&self, windows: &[Arc<Window>]) -> Result<Ring, MemifError> {
        let window = windows.get(self.region).ok_or(MemifError::NoRing)?;
        let ring = Ring::over(Arc::clone(window), self.offset, self.log2_size);
        ring.ok().filter(Ring::is_ring).ok_or(MemifError::NoRing)
    }
}

impl MemifPort {
    /// A port on one end of a wire that [`super::pair`] made, here or in another process.
    ///
    /// # Errors
    /// [`MemifError`].
    pub fn from_parts(parts: MemifParts, area: FrameArea, setup: PortSetup) -> Result<Self, MemifError> {
        let shape = parts.shape;
        if !shape.is_valid() {
            return Err(MemifError::Shape);
        }
        let mut regions = vec![Arc::new(Window::map(&parts.memory, 0, shape.bytes())?)];
        let mut lent = None;
        match (parts.role, &parts.lent) {
            (Role::Client, Some((_, ledger))) => lent = Some(Ledger::over(ledger, &shape, area)?),
            (Role::Server, Some((lending, region))) => {
                regions.push(Arc::new(Window::map(region, lending.offset, lending.bytes)?));
            }
            (Role::Client | Role::Server, None) => {}
        }
        let [to_server, to_client] = parts.rings()?;
        if !to_server.is_ring() || !to_client.is_ring() {
            return Err(MemifError::NoRing);
        }
        let channel = |ring, event, way| Channel { ring, event, buffers: Buffers::of(&shape, way) };
        let to_server = channel(to_server, parts.to_server, Way::ToServer);
        let to_client = channel(to_client, parts.to_client, Way::ToClient);
        let port = Self::new(parts.role, regions, (to_server, to_client), setup);
        Ok(Self { lent, ..port })
    }

    /// A port on the memory of a client whom [`super::Connection`] served.
    ///
    /// # Errors
    /// [`MemifError`].
    pub fn serving(parts: ServedParts, setup: PortSetup) -> Result<Self, MemifError> {
        let regions = parts.map()?;
        let channel = |part: RingPart| {
            let ring = part.over(&regions)?;
            Ok::<_, MemifError>(Channel { ring, event: part.event, buffers: Buffers::NONE })
        };
        let channels = (channel(parts.to_server)?, channel(parts.to_client)?);
        Ok(Self::new(Role::Server, regions, channels, setup).plain())
    }

    /// The same wire, whose peer is another kind of program: checksums are completed, super-segments refused.
    #[must_use]
    pub fn plain(self) -> Self {
        Self { offloads: false, ..self }
    }

    fn new(
        role: Role,
        regions: Vec<Arc<Window>>,
        (to_server, to_client): (Channel, Channel),
        setup: PortSetup,
    ) -> Self {
        let (incoming, outgoing) = match role {
            Role::Client => (to_client, to_server),
            Role::Server => (to_server, to_client),
        };
        Self {
            role,
            regions,
            incoming,
            outgoing,
            offloads: true,
            lent: None,
            setup,
            stats: PortStats::default(),
        }
    }
}
