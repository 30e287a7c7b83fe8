//! memif (version 2.0): packets through memory that two processes share, without the kernel. The peer is another lane of this
//! host, introduced by the keeper, or a VPP or DPDK program.
//!
//! The peer is not trusted with anything but its own packets: descriptors are read once and checked, buffers are only copied
//! from and to, and what makes no sense costs a packet, or closes the wire.

mod control;
mod hand_over;
mod handshake;
mod lend;
mod open;
mod proto;
mod ring;
mod rx;
mod stats;
mod tx;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use base::limits::SUPER_SEGMENT_BYTES;
use region::Frames;
use state::{RxBatch, TxFrame};
use sys::fds::Fd;
pub use sys::memif::{Lending, MemifParts, Role, WireShape, pair, pair_lending};
use sys::memif::{Ring, Way};
use sys::window::Window;

use self::lend::Ledger;
use crate::chain::HEADROOM_MTU;
use crate::{Port, PortCaps, PortError, PortSetup, PortStats};
pub use control::{Connection, MemifSpec, News, Wire};
pub use open::{MemifError, RingPart, ServedParts};

/// One direction of a wire as this end sees it.
struct Channel {
    ring: Ring,
    event: Fd,
    /// The client's own buffers, one a place of the ring: where the first begins in region 0, bytes from one to the next,
    /// and bytes of one.
    buffers: Buffers,
}

#[derive(Clone, Copy)]
struct Buffers {
    first: u32,
    stride: u32,
    bytes: u32,
    mask: u16,
}

impl Buffers {
    /// Those of a server, which has none of its own.
    const NONE: Self = Self { first: 0, stride: 0, bytes: 0, mask: 0 };

    fn of(shape: &WireShape, way: Way) -> Self {
        let mask = (shape.ring_size() - 1) as u16;
        Self { first: shape.buffer_at(way, 0), stride: shape.stride(), bytes: shape.buffer_bytes, mask }
    }

    /// Where the buffer of `slot` begins.
    #[inline]
    fn at(&self, slot: u16) -> u32 {
        self.first + u32::from(slot & self.mask) * self.stride
    }
}

/// One end of a memif wire as a port.
pub struct MemifPort {
    role: Role,
    /// Memory that descriptors name by number.
    regions: Vec<Arc<Window>>,
    incoming: Channel,
    outgoing: Channel,
    /// As a client that lends its frames: which are lent.
    lent: Option<Ledger>,
    /// Is the peer a lane like this one, which takes unfinished checksums and super-segments?
    offloads: bool,
    setup: PortSetup,
    stats: PortStats,
}

impl Port for MemifPort {
    fn rx(&mut self, frames: &mut Frames<'_>, batch: &mut RxBatch) -> Result<usize, PortError> {
        if self.lent.is_some() { self.receive_lent(frames, batch) } else { self.receive(frames, batch) }
    }

    fn tx(&mut self, frames: &mut Frames<'_>, packets: &[TxFrame]) -> Result<usize, PortError> {
        if self.lent.is_some() { self.transmit_lent(frames, packets) } else { self.transmit(frames, packets) }
    }

    fn release(&mut self, frames: &mut Frames<'_>) {
        // What is lent belongs to the wire, on which others may go on.
        self.reap(frames);
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.incoming.event.as_fd())
    }

    fn packets_wait(&self) -> Option<bool> {
        Some(self.arrived().is_ok_and(|run| run.left > 0))
    }

    fn arm(&mut self) -> bool {
        self.watch()
    }

    fn disarm(&mut self, last: bool) {
        self.unwatch(last);
    }

    fn caps(&self) -> PortCaps {
        PortCaps {
            mtu: if self.lent.is_some() { self.setup.mtu.min(HEADROOM_MTU) } else { self.setup.mtu },
            super_segment_max: if self.offloads { SUPER_SEGMENT_BYTES as u32 } else { 0 },
            local_peer: self.setup.local_peer,
            own_address: self.setup.own_address,
        }
    }

    fn stats(&self) -> PortStats {
        self.counted()
    }
}
