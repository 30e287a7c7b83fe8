//! Sending: packets are copied out of the frames into the wire's buffers.

use region::Frames;
use state::TxFrame;
use sys::memif::{Descriptor, NEXT, Role};

use super::MemifPort;
use super::ring::{Run, metadata_of};
use crate::PortError;
use crate::split::complete_checksum;

/// Why a packet is not on the ring.
enum Unsent {
    /// There is no room for it now.
    Later,
    /// It names bytes that are no frame's.
    Bad,
    /// The peer posted a buffer that is none.
    Nonsense,
}

/// The buffer that is being filled.
#[derive(Clone, Copy)]
struct Buffer {
    slot: u16,
    descriptor: Descriptor,
    /// Bytes there is still room for.
    room: usize,
}

impl MemifPort {
    pub(super) fn transmit(
        &mut self,
        frames: &mut Frames<'_>,
        packets: &[TxFrame],
    ) -> Result<usize, PortError> {
        let mut run = self.vacant()?;
        let first = run.next;
        let mut taken = 0;
        for packet in packets {
            let before = run;
            match self.put(frames, *packet, &mut run) {
                Ok(()) => {
                    self.stats.tx_packets += 1;
                    self.stats.tx_bytes += u64::from(packet.bytes());
                }
                Err(Unsent::Later) if before.left < self.outgoing.ring.size() => {
                    run = before;
                    break;
                }
                // Also what is longer than all buffers together.
                Err(Unsent::Later | Unsent::Bad) => {
                    run = before;
                    self.stats.tx_dropped += 1;
                }
                Err(Unsent::Nonsense) => return Err(self.nonsense()),
            }
            frames.release(packet.head);
            taken += 1;
        }
        if run.next != first {
            self.show(run.next);
        }
        Ok(taken)
    }

    /// Copies one packet into the places at the front of `run`.
    fn put(&self, frames: &mut Frames<'_>, mut packet: TxFrame, run: &mut Run) -> Result<(), Unsent> {
        let is_super = packet.gso_size > 0 && packet.payload_bytes > u32::from(packet.gso_size);
        let metadata = if self.offloads {
            metadata_of(if is_super { packet.gso_size } else { 0 }, packet.csum_start != 0)
        } else {
            if is_super {
                return Err(Unsent::Bad);
            }
            complete_checksum(frames, &mut packet);
            0
        };
        let mut buffer = self.open(run, metadata)?;
        self.copy_in(run, &mut buffer, frames.data(packet.head))?;
        for piece in packet.pieces() {
            let from = usize::from(piece.offset);
            let bytes = frames.cell(piece.frame).get(from..from + usize::from(piece.len));
            self.copy_in(run, &mut buffer, bytes.ok_or(Unsent::Bad)?)?;
        }
        if buffer.descriptor.length == 0 {
            return Err(Unsent::Bad);
        }
        self.outgoing.ring.put(buffer.slot, buffer.descriptor);
        Ok(())
    }

    /// Adds `bytes` to the packet whose last buffer is `buffer`.
    #[inline]
    fn copy_in(&self, run: &mut Run, buffer: &mut Buffer, mut bytes: &[u8]) -> Result<(), Unsent> {
        while !bytes.is_empty() {
            if buffer.room == 0 {
                let next = self.open(run, 0)?;
                buffer.descriptor.flags = NEXT;
                self.outgoing.ring.put(buffer.slot, buffer.descriptor);
                *buffer = next;
            }
            let (part, rest) = bytes.split_at(bytes.len().min(buffer.room));
            let at = buffer.descriptor.offset as usize + buffer.descriptor.length as usize;
            let window = self.regions.get(usize::from(buffer.descriptor.region)).ok_or(Unsent::Nonsense)?;
            if !window.write(at, part) {
                return Err(Unsent::Nonsense);
            }
            buffer.descriptor.length += part.len() as u32;
            buffer.room -= part.len();
            bytes = rest;
        }
        Ok(())
    }

    /// The buffer of the next place of `run`, empty.
    #[inline]
    fn open(&self, run: &mut Run, metadata: u32) -> Result<Buffer, Unsent> {
        let slot = run.step().ok_or(Unsent::Later)?;
        let (region, offset, room) = match self.role {
            Role::Client => (0, self.shape.buffer_at(self.way_out(), slot), self.shape.buffer_bytes as usize),
            Role::Server => {
                let posted = self.outgoing.ring.get(slot);
                (posted.region, posted.offset, posted.length as usize)
            }
        };
        if room == 0 {
            return Err(Unsent::Nonsense);
        }
        Ok(Buffer { slot, descriptor: Descriptor { flags: 0, region, length: 0, offset, metadata }, room })
    }
}
