//! TAP with IFF_VNET_HDR: frames to and from this machine's own stack, super-frames and checksum state both ways.

mod open;
mod rx;
mod stats;
mod tx;

use std::os::fd::{AsFd, BorrowedFd};

use base::limits::SUPER_SEGMENT_BYTES;
use region::{FrameArea, Frames};
use state::{RxBatch, TxFrame};
use sys::fds::Fd;

use crate::egress::Egress;
use crate::intake::{Intake, Width};
use crate::{Port, PortCaps, PortError, PortSetup, PortStats};
pub use open::open;

/// A TAP device as a port.
pub struct TapPort {
    fd: Fd,
    setup: PortSetup,
    intake: Intake,
    egress: Egress,
    width: Width,
    stats: PortStats,
}

impl TapPort {
    /// A port on `fd`, which [`open`] made here or in another process, with its frames in `area`.
    #[must_use]
    pub fn from_fd(fd: Fd, area: FrameArea, setup: PortSetup) -> Self {
        Self {
            fd,
            setup,
            intake: Intake::new(area, 1),
            egress: Egress::new(area, 1),
            width: Width::Narrow,
            stats: PortStats::default(),
        }
    }
}

impl Port for TapPort {
    fn rx(&mut self, frames: &mut Frames<'_>, batch: &mut RxBatch) -> Result<usize, PortError> {
        self.receive(frames, batch)
    }

    fn tx(&mut self, frames: &mut Frames<'_>, packets: &[TxFrame]) -> Result<usize, PortError> {
        self.transmit(frames, packets)
    }

    fn release(&mut self, _frames: &mut Frames<'_>) {
        // Nothing stays posted between calls, and the kernel copies what it sends.
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }

    fn caps(&self) -> PortCaps {
        self.setup.caps(SUPER_SEGMENT_BYTES as u32)
    }

    fn stats(&self) -> PortStats {
        self.counted()
    }
}
