//! AF_XDP: received packets are put into frames by the kernel or the driver, packets to send are taken from them. The
//! keeper opens the socket ([`open`]), attaches the program and enters the socket in its map; whoever it hands the fds
//! to makes an [`XdpPort`] of them.
//!
//! The first [`Port::rx`] gives the kernel frames to receive into: nothing comes in before. Frames that lie in the
//! rings belong to the socket, not to a process, so they survive the death of the one that put them there.

mod open;
mod rx;
mod stats;
mod tx;

use std::os::fd::{AsFd, BorrowedFd};

use base::limits::{SUPER_SEGMENT_BYTES, XDP_RING_ENTRIES};
use region::{FrameArea, Frames};
use state::{RxBatch, TxFrame};
use sys::Errno;
use sys::fds::Fd;
use sys::xsk::{self, MemoryRings, RingSizes, Rings};

use crate::chain::HEADROOM_MTU;
use crate::egress::Egress;
use crate::{Port, PortCaps, PortError, PortSetup, PortStats};
pub use open::{XdpSocket, XdpSpec, open, open_companion};

const SIZES: RingSizes = RingSizes {
    rx: XDP_RING_ENTRIES,
    tx: XDP_RING_ENTRIES,
    fill: XDP_RING_ENTRIES,
    completion: XDP_RING_ENTRIES,
};

/// The fds and properties of one AF_XDP socket, as the keeper hands them out.
#[derive(Debug)]
pub struct XdpParts {
    /// The socket.
    pub socket: XdpSocket,
    /// A packet socket of the same device, made by [`open_companion`], on which super-segments leave; `None`: they are
    /// cut in software.
    pub companion: Option<Fd>,
}

/// An AF_XDP socket as a port.
pub struct XdpPort {
    socket: XdpSocket,
    rings: Rings,
    memory: MemoryRings,
    companion: Option<(Fd, Egress)>,
    setup: PortSetup,
    /// Frames kept in the fill ring.
    fill_level: u32,
    stats: PortStats,
}

impl XdpPort {
    /// A port on the sockets of `parts`, with its frames in `area`, which is the memory [`open`] registered.
    ///
    /// # Errors
    /// ENOMEM when the rings cannot be mapped.
    pub fn from_parts(parts: XdpParts, area: FrameArea, setup: PortSetup) -> Result<Self, Errno> {
        let fd = &parts.socket.fd;
        Ok(Self {
            rings: xsk::map_rings(fd, &SIZES)?,
            memory: xsk::map_memory_rings(fd, &SIZES)?,
            companion: parts.companion.map(|fd| (fd, Egress::new(area, 1))),
            setup,
            fill_level: SIZES.fill.min(area.count() / 4),
            stats: PortStats::default(),
            socket: parts.socket,
        })
    }
}

impl Port for XdpPort {
    fn rx(&mut self, frames: &mut Frames<'_>, batch: &mut RxBatch) -> Result<usize, PortError> {
        Ok(self.receive(frames, batch))
    }

    fn tx(&mut self, frames: &mut Frames<'_>, packets: &[TxFrame]) -> Result<usize, PortError> {
        self.transmit(frames, packets)
    }

    fn release(&mut self, frames: &mut Frames<'_>) {
        // What the kernel still holds belongs to the socket, on which others may go on.
        self.reap(frames);
    }

    fn packets_wait(&self) -> Option<bool> {
        Some(self.rings.rx.ready() > 0)
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket.fd.as_fd())
    }

    fn caps(&self) -> PortCaps {
        let caps = self.setup.caps(SUPER_SEGMENT_BYTES as u32);
        PortCaps { mtu: caps.mtu.min(HEADROOM_MTU), ..caps }
    }

    fn stats(&self) -> PortStats {
        self.counted()
    }
}
