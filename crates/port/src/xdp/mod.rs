//! AF_XDP: received packets are put into frames by the kernel or the driver, packets to send are taken from them. The
//! keeper opens a socket for each queue of the device ([`open`]), attaches the program and enters the sockets in its map; whoever it hands the fds
//! to makes an [`XdpPort`] of them. The sockets share the region's frames (XDP_SHARED_UMEM).
//!
//! Further lanes of the region get sockets on the same queues ([`share`]). Each lane receives and sends by rings of its own; the fill and the
//! completion ring of a queue are common to all its sockets, and served by whichever lane comes by (`shared`, `region::SharedRings`).
//!
//! The first [`Port::rx`] gives the kernel frames to receive into: nothing comes in before. Frames that lie in the rings are the kernel's, not a
//! process's or lane's, so they survive the death of the one that put them there. What such a one left half done, the lane's next holder finds
//! ([`settle`]).

mod open;
mod rx;
mod shared;
mod stats;
mod tx;

use std::os::fd::{AsFd, BorrowedFd};

use base::limits::{SUPER_SEGMENT_BYTES, XDP_RING_ENTRIES};
use region::{Frames, LaneRef, NoteRef, SharedRings};
use state::{RxBatch, TxFrame};
use sys::Errno;
use sys::fds::Fd;
use sys::xsk::{self, MemoryRings, RingSizes, Rings};

use crate::chain::HEADROOM_MTU;
use crate::egress::Egress;
use crate::{Port, PortCaps, PortError, PortSetup, PortStats};

pub use open::{XdpRefused, XdpSockets, XdpSpec, open, open_companion, share};
pub use shared::settle;

const SIZES: RingSizes = RingSizes {
    rx: XDP_RING_ENTRIES,
    tx: XDP_RING_ENTRIES,
    fill: XDP_RING_ENTRIES,
    completion: XDP_RING_ENTRIES,
};

/// Frames in a fill ring at least: two of the longest packets, and some.
const FILL_MIN: u32 = 64;

/// The fds and properties of the AF_XDP sockets of a device, as the keeper hands them out.
#[derive(Debug)]
pub struct XdpParts {
    /// The sockets.
    pub sockets: XdpSockets,
    /// A packet socket of the same device, made by [`open_companion`], on which super-segments leave; `None`: they are
    /// cut in software.
    pub companion: Option<Fd>,
}

/// One socket with its rings.
struct Queue {
    fd: Fd,
    rings: Rings,
    memory: MemoryRings,
    /// Packets received by it.
    received: u64,
}

/// AF_XDP sockets on the queues of a device as a port. It receives by all of them, and sends by the first, so that one call sends a batch.
pub struct XdpPort {
    /// That of the device's first queue.
    first: Queue,
    further: Vec<Queue>,
    any: Option<Fd>,
    scatter: bool,
    completes_checksums: bool,
    companion: Option<(Fd, Egress)>,
    setup: PortSetup,
    common: SharedRings,
    /// What is being put into the transmit ring.
    sending: NoteRef,
    /// Frames kept in each fill ring.
    fill_level: u32,
    /// Where the next batch begins: each queue comes first in its turn.
    turn: usize,
    stats: PortStats,
}

impl Queue {
    fn map(fd: Fd) -> Result<Self, Errno> {
        let (rings, memory) = (xsk::map_rings(&fd, &SIZES)?, xsk::map_memory_rings(&fd, &SIZES)?);
        Ok(Self { fd, rings, memory, received: 0 })
    }
}

/// Frames that are kept in the fill ring of each of `queues` sockets, of `frames` in all: a quarter among them.
fn fill_level(frames: u32, queues: usize) -> u32 {
    let share = frames / 4 / u32::try_from(queues.max(1)).unwrap_or(u32::MAX);
    share.clamp(FILL_MIN.min(frames / 4), SIZES.fill)
}

impl XdpPort {
    /// A port of `lane` on the sockets of `parts`; the region's frames are the memory that [`open`] registered.
    ///
    /// # Errors
    /// ENOMEM when the rings cannot be mapped; EBADF without a socket; ENODEV for a port number beyond `limits::DEVICES`.
    pub fn from_parts(parts: XdpParts, lane: LaneRef, setup: PortSetup) -> Result<Self, Errno> {
        let area = lane.frame_area();
        let XdpSockets { fds, any, scatter, completes_checksums } = parts.sockets;
        let fill_level = fill_level(area.count(), fds.len());
        let mut queues = fds.into_iter().map(Queue::map);
        Ok(Self {
            first: queues.next().ok_or(Errno::BADF)??,
            further: queues.collect::<Result<_, _>>()?,
            any,
            scatter,
            completes_checksums,
            companion: parts.companion.map(|fd| (fd, Egress::new(area, 1))),
            setup,
            common: lane.region().rings(setup.port).ok_or(Errno::NODEV)?,
            sending: lane.sending(setup.port).ok_or(Errno::NODEV)?,
            fill_level,
            turn: 0,
            stats: PortStats::default(),
        })
    }

    fn queues(&self) -> impl Iterator<Item = &Queue> {
        core::iter::once(&self.first).chain(&self.further)
    }

    /// Packets received by each queue since the port was made.
    pub fn received_by_queue(&self) -> impl Iterator<Item = u64> {
        self.queues().map(|queue| queue.received)
    }

    fn queue_mut(&mut self, at: usize) -> &mut Queue {
        at.checked_sub(1).and_then(|at| self.further.get_mut(at)).unwrap_or(&mut self.first)
    }

    fn queue(&self, at: usize) -> &Queue {
        at.checked_sub(1).and_then(|at| self.further.get(at)).unwrap_or(&self.first)
    }
}

impl Port for XdpPort {
    fn rx(&mut self, frames: &mut Frames<'_>, batch: &mut RxBatch) -> Result<usize, PortError> {
        Ok(self.receive(frames, batch))
    }

    fn tx(&mut self, frames: &mut Frames<'_>, packets: &[TxFrame]) -> Result<usize, PortError> {
        self.transmit(frames, packets)
    }

    fn sends_later(&self) -> bool {
        self.first.rings.tx.room() < SIZES.tx
    }

    fn release(&mut self, frames: &mut Frames<'_>) {
        // What the kernel still holds belongs to the socket, on which others may go on.
        self.serve_common(frames);
    }

    fn packets_wait(&self) -> Option<bool> {
        Some(self.queues().any(|queue| queue.rings.rx.ready() > 0))
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.any.as_ref().unwrap_or(&self.first.fd).as_fd())
    }

    fn caps(&self) -> PortCaps {
        let caps = self.setup.caps(SUPER_SEGMENT_BYTES as u32);
        PortCaps { mtu: caps.mtu.min(HEADROOM_MTU), ..caps }
    }

    fn stats(&self) -> PortStats {
        self.counted()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_queues_of_a_device_share_a_quarter_of_the_frames() {
        assert_eq!([1, 4, 16].map(|queues| fill_level(65_536, queues)), [2048, 2048, 1024]);
        assert_eq!([1, 4, 16].map(|queues| fill_level(2048, queues)), [512, 128, 64]);
        assert_eq!([1, 4].map(|queues| fill_level(128, queues)), [32, 32]);
    }
}
