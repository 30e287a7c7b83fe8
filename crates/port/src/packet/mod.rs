//! AF_PACKET with PACKET_VNET_HDR: super-frames and checksum state both ways, on every device, without a program on
//! it. The keeper opens the socket ([`open`]); whoever it hands the fd to makes a [`PacketPort`] of it.
//!
//! Which packets come in is decided by the eBPF socket filter given to [`open`]. That the kernel's own stack does not
//! see them too is the business of a TCX program on the device, which runs after this tap.

mod open;
mod ring;
mod rx;
mod stats;
mod tx;

use core::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd};

use base::limits::{BATCH_FRAMES, SUPER_SEGMENT_BYTES};
use region::{FrameArea, Frames};
use state::{RxBatch, TxFrame};
use sys::fds::Fd;
use sys::packet_ring::PacketRing;

use crate::egress::Egress;
use crate::intake::Intake;
use crate::{Port, PortCaps, PortError, PortSetup, PortStats};
pub use open::{PacketSpec, open};
use rx::Appetite;

/// An AF_PACKET socket as a port.
pub struct PacketPort {
    fd: Fd,
    /// Where packets come in, if the socket has a ring.
    ring: Option<PacketRing>,
    /// Looks at the ring that found nothing.
    idle: u32,
    setup: PortSetup,
    intake: Intake,
    egress: Egress,
    appetite: Appetite,
    stats: PortStats,
    kernel_drops: Cell<u64>,
}

impl PacketPort {
    /// A port on `fd`, which [`open`] made here or in another process, with its frames in `area`.
    #[must_use]
    pub fn from_fd(fd: Fd, area: FrameArea, setup: PortSetup) -> Self {
        Self {
            ring: PacketRing::map(&fd).ok(),
            idle: 0,
            fd,
            setup,
            intake: Intake::new(area, BATCH_FRAMES),
            egress: Egress::new(area, BATCH_FRAMES),
            appetite: Appetite::new(),
            stats: PortStats::default(),
            kernel_drops: Cell::new(0),
        }
    }
}

impl Port for PacketPort {
    fn rx(&mut self, frames: &mut Frames<'_>, batch: &mut RxBatch) -> Result<usize, PortError> {
        if self.ring.is_some() { self.receive_ring(frames, batch) } else { self.receive(frames, batch) }
    }

    fn tx(&mut self, frames: &mut Frames<'_>, packets: &[TxFrame]) -> Result<usize, PortError> {
        self.transmit(frames, packets)
    }

    fn release(&mut self, _frames: &mut Frames<'_>) {
        // Nothing stays posted between calls, and the kernel copies what it sends.
    }

    fn packets_wait(&self) -> Option<bool> {
        self.ring.as_ref().map(PacketRing::has_packet)
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
