//! The memory that native lanes lie in.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use region::{Region, RegionShape};
use rustix::io::Errno;
use state::{LAYOUT_VERSION, LaneShape};
use sys::fds::Fd;
use sys::memory::{map_anonymous, map_shared, memfd, size};

use super::StartError;

/// How much memory to make.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Lanes, one a thread.
    pub lanes: u16,
    /// Connections of each lane, those in TIME-WAIT included.
    pub sockets: u32,
    /// Frames of 4 KiB that all lanes share: what is sent and not acknowledged, and received and not read, lies in them.
    pub frames: u32,
}

/// A region. Cheap to clone; the memory stays until the process ends.
#[derive(Clone)]
pub struct Memory {
    region: Region,
    fd: Option<Arc<Fd>>,
}

impl Memory {
    /// Memory that only this process and its forks see.
    ///
    /// # Errors
    /// [`StartError::System`] and [`StartError::Region`].
    pub fn anonymous(shape: Shape) -> Result<Self, StartError> {
        let shape = region_shape(shape);
        let words = map_anonymous(Region::bytes_needed(&shape)).map_err(system)?;
        Self::format(words, &shape, None)
    }

    /// Memory that other processes can open with the help of [`Memory::fd`]; on huge pages if `huge` and there are enough.
    /// Whoever has it can read and change all of it: only for programs that trust one another.
    ///
    /// # Errors
    /// As [`Memory::anonymous`].
    pub fn shared(shape: Shape, huge: bool) -> Result<Self, StartError> {
        let shape = region_shape(shape);
        let made = memfd("corelane-native", Region::bytes_needed(&shape), huge).map_err(system)?;
        let words = map_shared(&made.fd, made.bytes).map_err(system)?;
        Self::format(words, &shape, Some(Arc::new(made.fd)))
    }

    /// The memory behind `fd`, which [`Memory::shared`] made in another process.
    ///
    /// # Errors
    /// As [`Memory::anonymous`].
    pub fn open(fd: Fd) -> Result<Self, StartError> {
        let bytes = size(&fd).map_err(system)?;
        let words = map_shared(&fd, bytes).map_err(system)?;
        let region = Region::open(words, LAYOUT_VERSION).map_err(StartError::Region)?;
        Ok(Self { region, fd: Some(Arc::new(fd)) })
    }

    /// What [`Memory::open`] needs in another process; `None` for anonymous memory.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().map(|fd| fd.as_fd())
    }

    /// The region.
    #[must_use]
    pub fn region(&self) -> Region {
        self.region
    }

    fn format(
        words: &'static [std::sync::atomic::AtomicU64],
        shape: &RegionShape,
        fd: Option<Arc<Fd>>,
    ) -> Result<Self, StartError> {
        let region = Region::format(words, shape, LAYOUT_VERSION, secret()?).map_err(StartError::Region)?;
        Ok(Self { region, fd })
    }
}

fn region_shape(shape: Shape) -> RegionShape {
    let lane_bytes = LaneShape::for_socks(shape.sockets).lane_bytes();
    RegionShape { lanes: shape.lanes, lane_bytes, frames: shape.frames }
}

/// 128 bits that peers must not guess.
pub(super) fn secret() -> Result<[u64; 2], StartError> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty()).map_err(system)?;
    let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
    Ok([u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes(rest)])
}

fn system(errno: Errno) -> StartError {
    StartError::System(errno.raw_os_error())
}
