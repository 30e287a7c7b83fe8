//! Receiving: descriptors out of the receive ring, empty frames into the fill ring.

use base::FrameIdx;
use base::limits::{CHAIN_FRAMES, FRAME_BYTES};
use region::Frames;
use state::{CsumState, RxBatch, RxFrame};
use sys::xsk::{self, Descriptor};

use super::XdpPort;
use crate::chain;

impl XdpPort {
    pub(super) fn receive(&mut self, frames: &mut Frames<'_>, batch: &mut RxBatch) -> usize {
        self.reap(frames);
        let ready = self.rings.rx.ready();
        let mut taken = 0;
        let mut packets = 0;
        while taken < ready && batch.room() > 0 {
            let Some(parts) = self.parts_of_next(taken, ready) else { break };
            if let Some(packet) = self.link(frames, taken, parts) {
                self.stats.rx_packets += 1;
                self.stats.rx_bytes += u64::from(packet.len);
                batch.push(packet);
                packets += 1;
            } else {
                self.stats.rx_dropped += 1;
            }
            taken += parts;
        }
        self.rings.rx.consume(taken);
        self.refill(frames);
        packets
    }

    /// Descriptors of the packet that begins `from` places into the ring. `None` when its end is not there yet.
    fn parts_of_next(&self, from: u32, ready: u32) -> Option<u32> {
        let last = (from..ready).find(|at| self.rings.rx.get(*at).options & xsk::CONTINUED == 0)?;
        Some(last - from + 1)
    }

    /// The packet of `parts` descriptors as a chain of frames.
    fn link(&self, frames: &mut Frames<'_>, from: u32, parts: u32) -> Option<RxFrame> {
        let mut head = FrameIdx::NONE;
        let mut last = FrameIdx::NONE;
        let mut len = 0_u32;
        for at in from..from + parts {
            let Descriptor { address, len: bytes, .. } = self.rings.rx.get(at);
            let frame = frames.at_address(address);
            let offset = (address % FRAME_BYTES as u64) as usize;
            let bytes = bytes as usize;
            // Whoever shares the ring could have written anything into it: a frame that is not ours to hold, twice.
            if frame.is_none()
                || offset + bytes > FRAME_BYTES
                || frames.meta(frame).is_none_or(|m| m.refs != 1)
            {
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
        if parts as usize > CHAIN_FRAMES && !chain::close_up(frames, head) {
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

    /// Brings the fill ring to its level.
    fn refill(&mut self, frames: &mut Frames<'_>) {
        let room = self.memory.fill.room();
        let want = (room + self.fill_level).saturating_sub(super::SIZES.fill);
        let mut put = 0;
        while put < want {
            let Some(frame) = frames.alloc() else { break };
            self.memory.fill.put(put, frames.address(frame));
            put += 1;
        }
        self.memory.fill.submit(put);
        if put > 0 && self.memory.fill.needs_wakeup() {
            self.stats.syscalls += 1;
            // It only hurries the driver; what is wrong with the device shows when we send or poll.
            let _ = xsk::kick_rx(&self.socket.fd);
        }
    }
}
