//! Receiving from the socket's ring: usual packets are copied out of it, longer ones come by recvmmsg in their turn.

use base::FrameIdx;
use base::limits::FRAME_HEADROOM;
use region::Frames;
use rustix::io::Errno;
use state::{CsumState, RxBatch, RxFrame};
use sys::packet_ring::{InSlot, PacketRing};

use super::PacketPort;
use super::rx::WIDE_MAX;
use crate::intake::Width;
use crate::{PortError, chain, vnet};

/// One in so many looks at an empty ring asks for the socket's error, which only the kernel tells: the device may be gone.
const ERROR_LOOKS: u32 = 64;

impl PacketPort {
    pub(super) fn receive_ring(
        &mut self,
        frames: &mut Frames<'_>,
        batch: &mut RxBatch,
    ) -> Result<usize, PortError> {
        let before = batch.room();
        let Some(ring) = self.ring.take() else { return Ok(0) };
        let reads = ring.read_as(sys::process::pid);
        while reads
            && batch.room() > 0
            && let Some(packet) = ring.peek(0)
        {
            let goes_on = if packet.queued {
                self.take_queued(&ring, frames, batch)
            } else {
                self.take_slot(&ring, &packet, frames, batch)
            };
            if !goes_on {
                break;
            }
        }
        self.ring = Some(ring);
        let got = before - batch.room();
        if got == 0 { self.look_for_error() } else { Ok(got) }
    }

    /// A packet that is in its slot. False: there is no frame for it.
    fn take_slot(
        &mut self,
        ring: &PacketRing,
        packet: &InSlot,
        frames: &mut Frames<'_>,
        batch: &mut RxBatch,
    ) -> bool {
        let Some(frame) = frames.alloc() else { return false };
        let room = frames.cell_mut(frame).get_mut(FRAME_HEADROOM..FRAME_HEADROOM + packet.bytes);
        let copied = room.is_some_and(|room| ring.copy(packet, room));
        ring.release();
        if !copied {
            // Longer than the slot, and no room for it in the queue.
            frames.release(frame);
            self.stats.rx_dropped += 1;
            return true;
        }
        chain::append(frames, FrameIdx::NONE, frame, FRAME_HEADROOM, packet.bytes);
        let mut received = RxFrame {
            head: frame,
            len: packet.bytes as u32,
            gso_size: 0,
            port: self.setup.port,
            local_peer: self.setup.local_peer,
            csum: CsumState::Unknown,
        };
        vnet::note_received(&packet.header, &mut received);
        self.stats.rx_packets += 1;
        self.stats.rx_bytes += packet.bytes as u64;
        batch.push(received);
        true
    }

    /// The packets at the front that are in the socket's queue. False: no frames, or nothing came.
    fn take_queued(&mut self, ring: &PacketRing, frames: &mut Frames<'_>, batch: &mut RxBatch) -> bool {
        let most = WIDE_MAX.min(batch.room()) as u32;
        let want = (0..most).take_while(|at| ring.peek(*at).is_some_and(|p| p.queued)).count();
        let mut posted = 0;
        while posted < want && self.intake.post(frames, posted, Width::Wide) {
            posted += 1;
        }
        if posted == 0 {
            return false;
        }
        // An error of the device that waited in the socket comes first: then nothing was taken.
        let before = self.stats.rx_packets + self.stats.rx_dropped;
        let error = self.take(frames, batch, posted).is_err();
        let gone = self.stats.rx_packets + self.stats.rx_dropped - before;
        // Who shares the socket may have taken them: slots without their packets are passed over.
        let done = if error { gone } else { gone.max(1) };
        for _ in 0..done {
            ring.release();
        }
        done > 0
    }

    fn look_for_error(&mut self) -> Result<usize, PortError> {
        let look = self.idle;
        self.idle = look.wrapping_add(1);
        if !look.is_multiple_of(ERROR_LOOKS) {
            return Ok(0);
        }
        self.stats.syscalls += 1;
        match rustix::net::sockopt::socket_error(&self.fd) {
            Ok(Err(errno)) => PortError::of(errno).map_or(Ok(0), Err),
            Ok(Ok(())) | Err(Errno::INTR) => Ok(0),
            Err(errno) => PortError::of(errno).map_or(Ok(0), Err),
        }
    }
}
