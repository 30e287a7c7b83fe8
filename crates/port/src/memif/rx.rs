//! Receiving: packets are copied out of the wire's buffers into frames, and the buffers given back at once.

use base::FrameIdx;
use base::limits::{CHAIN_FRAMES, FRAME_BYTES, FRAME_HEADROOM, SUPER_FRAME_BYTES};
use region::Frames;
use state::{CsumState, RxBatch, RxFrame};
use sys::memif::{Descriptor, NEXT, Role};

use super::MemifPort;
use super::ring::{Run, told_by};
use crate::PortError;

/// Largest packet with its Ethernet header and a VLAN tag.
pub(super) const PACKET_BYTES_MAX: usize = SUPER_FRAME_BYTES + 18;
const _: () = assert!(PACKET_BYTES_MAX <= (CHAIN_FRAMES - 1) * FRAME_BYTES + FRAME_BYTES - FRAME_HEADROOM);

/// What became of one packet on the ring.
enum Taken {
    Packet(RxFrame),
    /// It made no sense.
    Nonsense,
    /// There are no frames for it now.
    Later,
}

/// A chain of frames as it is being filled.
struct Chain {
    last: FrameIdx,
    /// First byte of the last frame's cell that is still free.
    end: usize,
    bytes: usize,
}

impl MemifPort {
    pub(super) fn receive(
        &mut self,
        frames: &mut Frames<'_>,
        batch: &mut RxBatch,
    ) -> Result<usize, PortError> {
        let mut run = self.arrived()?;
        let mut got = 0;
        let first = run.next;
        while batch.room() > 0 && run.left > 0 {
            let before = run;
            match self.take(frames, &mut run) {
                Taken::Packet(packet) => {
                    self.stats.rx_packets += 1;
                    self.stats.rx_bytes += u64::from(packet.len);
                    batch.push(packet);
                    got += 1;
                }
                Taken::Nonsense => self.stats.rx_dropped += 1,
                Taken::Later => {
                    run = before;
                    break;
                }
            }
        }
        if run.next != first {
            self.give_back(first, run.next);
        }
        Ok(got)
    }

    /// Takes one packet from the front of `run`.
    #[inline]
    fn take(&self, frames: &mut Frames<'_>, run: &mut Run) -> Taken {
        let Some(slot) = run.step() else { return Taken::Nonsense };
        let first = self.incoming.ring.get(slot);
        let Some(head) = frames.alloc() else { return Taken::Later };
        let len = first.length as usize;
        if first.flags & NEXT != 0 || len > FRAME_BYTES - FRAME_HEADROOM {
            return self.take_long(frames, run, head, first);
        }
        let to = frames.cell_mut(head).get_mut(FRAME_HEADROOM..FRAME_HEADROOM + len);
        let window = self.regions.get(usize::from(first.region));
        let copied = match (window, to) {
            (Some(window), Some(to)) => len > 0 && window.read(first.offset as usize, to),
            (None, _) | (_, None) => false,
        };
        if !copied {
            frames.release(head);
            return Taken::Nonsense;
        }
        if let Some(meta) = frames.meta_mut(head) {
            meta.len = len as u16;
        }
        Taken::Packet(self.packet(head, len, first.metadata))
    }

    /// [`MemifPort::take`] for a packet that needs more descriptors or frames: the rest of what begins with `first`.
    #[inline(never)]
    fn take_long(&self, frames: &mut Frames<'_>, run: &mut Run, head: FrameIdx, first: Descriptor) -> Taken {
        let mut chain = Chain { last: head, end: FRAME_HEADROOM, bytes: 0 };
        let mut sane = true;
        let mut descriptor = first;
        loop {
            if sane {
                match self.copy_out(frames, &mut chain, descriptor) {
                    Ok(()) => {}
                    Err(Taken::Later) => {
                        frames.release_chain(head);
                        return Taken::Later;
                    }
                    Err(Taken::Nonsense | Taken::Packet(_)) => sane = false,
                }
            }
            if descriptor.flags & NEXT == 0 {
                break;
            }
            // A packet without an end: it will not come, for a sender shows whole packets only.
            let Some(slot) = run.step() else {
                sane = false;
                break;
            };
            descriptor = self.incoming.ring.get(slot);
        }
        if !sane || chain.bytes == 0 {
            frames.release_chain(head);
            return Taken::Nonsense;
        }
        Taken::Packet(self.packet(head, chain.bytes, first.metadata))
    }

    /// What the batch is told of a received packet.
    #[inline]
    pub(super) fn packet(&self, head: FrameIdx, len: usize, metadata: u32) -> RxFrame {
        let len = len as u32;
        let (gso_size, csum) = if self.offloads { told_by(metadata, len) } else { (0, CsumState::Unknown) };
        let (port, local_peer) = (self.setup.port, self.setup.local_peer);
        RxFrame { head, len, gso_size, port, local_peer, csum }
    }

    /// Copies what `descriptor` names to the end of `chain`.
    #[inline]
    fn copy_out(
        &self,
        frames: &mut Frames<'_>,
        chain: &mut Chain,
        descriptor: Descriptor,
    ) -> Result<(), Taken> {
        let window = self.regions.get(usize::from(descriptor.region)).ok_or(Taken::Nonsense)?;
        let (mut at, mut left) = (descriptor.offset as usize, descriptor.length as usize);
        if chain.bytes + left > PACKET_BYTES_MAX || !window.holds(at, left) {
            return Err(Taken::Nonsense);
        }
        chain.bytes += left;
        while left > 0 {
            if chain.end == FRAME_BYTES {
                chain.grow(frames).ok_or(Taken::Later)?;
            }
            let part = left.min(FRAME_BYTES - chain.end);
            let room = frames.cell_mut(chain.last).get_mut(chain.end..chain.end + part);
            if room.is_none_or(|room| !window.read(at, room)) {
                return Err(Taken::Nonsense);
            }
            if let Some(meta) = frames.meta_mut(chain.last) {
                meta.len += part as u16;
            }
            chain.end += part;
            at += part;
            left -= part;
        }
        Ok(())
    }

    /// Gives the places `first..next` back to the sender.
    fn give_back(&self, first: u16, next: u16) {
        let ring = &self.incoming.ring;
        match self.role {
            Role::Server => ring.set_tail(next),
            Role::Client => {
                let mut slot = first;
                while slot != next {
                    // The whole descriptor, whatever the server made of it.
                    let buffers = &self.incoming.buffers;
                    let (offset, length) = (buffers.at(slot), buffers.bytes);
                    ring.put(slot, Descriptor { flags: 0, region: 0, length, offset, metadata: 0 });
                    slot = slot.wrapping_add(1);
                }
                ring.set_head(next.wrapping_add(ring.size()));
            }
        }
    }
}

impl Chain {
    /// Adds an empty frame.
    fn grow(&mut self, frames: &mut Frames<'_>) -> Option<()> {
        let frame = frames.alloc()?;
        if let Some(meta) = frames.meta_mut(frame) {
            meta.offset = 0;
        }
        if let Some(meta) = frames.meta_mut(self.last) {
            meta.next = frame;
        }
        (self.last, self.end) = (frame, 0);
        Some(())
    }
}
