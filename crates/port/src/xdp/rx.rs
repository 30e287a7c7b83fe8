//! Receiving: descriptors out of the receive rings.

use core::ops::Range;

use base::FrameIdx;
use base::limits::{CHAIN_FRAMES, FRAME_BYTES};
use region::Frames;
use state::{CsumState, RxBatch, RxFrame};
use sys::xsk::{self, Consumer, Descriptor};

use super::XdpPort;
use crate::chain;

impl XdpPort {
    pub(super) fn receive(&mut self, frames: &mut Frames<'_>, batch: &mut RxBatch) -> usize {
        let queues = 1 + self.further.len();
        let begin = self.turn % queues;
        self.turn = begin + 1;
        let packets = (0..queues).map(|at| self.receive_by((begin + at) % queues, frames, batch)).sum();
        // What the kernel used of each fill ring is made up for.
        self.serve_common(frames);
        packets
    }

    fn receive_by(&mut self, at: usize, frames: &mut Frames<'_>, batch: &mut RxBatch) -> usize {
        let rx = &self.queue(at).rings.rx;
        let ready = rx.ready();
        let mut taken = 0;
        let (mut packets, mut bytes, mut dropped) = (0, 0, 0);
        while taken < ready && batch.room() > 0 {
            let Some(parts) = parts_of_next(rx, taken, ready) else { break };
            if let Some(packet) = self.link(rx, frames, taken..taken + parts) {
                bytes += u64::from(packet.len);
                batch.push(packet);
                packets += 1;
            } else {
                dropped += 1;
            }
            taken += parts;
        }
        rx.consume(taken);
        self.queue_mut(at).received += packets as u64;
        self.stats.rx_packets += packets as u64;
        self.stats.rx_bytes += bytes;
        self.stats.rx_dropped += dropped;
        packets
    }

    /// The packet of the descriptors at `places` as a chain of frames.
    fn link(
        &self,
        rx: &Consumer<Descriptor>,
        frames: &mut Frames<'_>,
        places: Range<u32>,
    ) -> Option<RxFrame> {
        let parts = places.len();
        let mut head = FrameIdx::NONE;
        let mut last = FrameIdx::NONE;
        let mut len = 0_u32;
        for at in places {
            let Descriptor { address, len: bytes, .. } = rx.get(at);
            let frame = frames.at_address(address);
            let offset = (address % FRAME_BYTES as u64) as usize;
            let bytes = bytes as usize;
            // Whoever shares the ring could have written anything into it; and who died in this very loop has taken the frame already.
            if offset + bytes > FRAME_BYTES || !frames.take_from_kernel(frame, self.setup.port) {
                frames.release_chain(head);
                return None;
            }
            chain::append(frames, last, frame, offset, bytes);
            if head.is_none() {
                head = frame;
            }
            last = frame;
            len += bytes as u32;
        }
        // The kernel leaves headroom in each frame, so that a packet near 64 KiB takes one more than a chain has.
        if parts > CHAIN_FRAMES && !chain::close_up(frames, head) {
            frames.release_chain(head);
            return None;
        }
        Some(RxFrame {
            head,
            len,
            // Neither is told by AF_XDP: an unfinished checksum is recognised by the engine, for `local_peer`.
            gso_size: 0,
            csum: CsumState::Unknown,
            port: self.setup.port,
            local_peer: self.setup.local_peer,
        })
    }
}

/// Descriptors of the packet that begins `from` places into the ring. `None` when its end is not there yet.
fn parts_of_next(rx: &Consumer<Descriptor>, from: u32, ready: u32) -> Option<u32> {
    let last = (from..ready).find(|at| rx.get(*at).options & xsk::CONTINUED == 0)?;
    Some(last - from + 1)
}
