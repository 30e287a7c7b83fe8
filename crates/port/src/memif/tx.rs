//! Sending: packets are copied out of the frames into the wire's buffers.

use region::Frames;
use state::TxFrame;
use sys::memif::{Descriptor, NEXT, Role};
use sys::window::Window;

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
struct Buffer<'a> {
    slot: u16,
    descriptor: Descriptor,
    window: &'a Window,
    /// Where the next byte goes.
    at: usize,
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
        let (mut taken, mut sent, mut bytes) = (0, 0, 0);
        for packet in packets {
            let before = run;
            match self.put(frames, packet, &mut run) {
                Ok(()) => {
                    sent += 1;
                    bytes += u64::from(packet.bytes());
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
        self.stats.tx_packets += sent;
        self.stats.tx_bytes += bytes;
        if run.next != first {
            self.show(run.next);
        }
        Ok(taken)
    }

    /// Copies one packet into the places at the front of `run`.
    #[inline]
    fn put(&self, frames: &mut Frames<'_>, packet: &TxFrame, run: &mut Run) -> Result<(), Unsent> {
        let is_super = packet.gso_size > 0 && packet.payload_bytes > u32::from(packet.gso_size);
        let metadata = if self.offloads {
            metadata_of(if is_super { packet.gso_size } else { 0 }, packet.csum_start != 0)
        } else {
            if is_super {
                return Err(Unsent::Bad);
            }
            if packet.csum_start != 0 {
                complete_checksum(frames, &mut { *packet });
            }
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
    fn copy_in<'a>(&'a self, run: &mut Run, buffer: &mut Buffer<'a>, bytes: &[u8]) -> Result<(), Unsent> {
        if bytes.len() <= buffer.room { buffer.fill(bytes) } else { self.copy_on(run, buffer, bytes) }
    }

    /// [`MemifPort::copy_in`] for what needs more buffers.
    #[inline(never)]
    fn copy_on<'a>(&'a self, run: &mut Run, buffer: &mut Buffer<'a>, mut bytes: &[u8]) -> Result<(), Unsent> {
        while !bytes.is_empty() {
            if buffer.room == 0 {
                let next = self.open(run, 0)?;
                buffer.descriptor.flags = NEXT;
                self.outgoing.ring.put(buffer.slot, buffer.descriptor);
                *buffer = next;
            }
            let (part, rest) = bytes.split_at(bytes.len().min(buffer.room));
            buffer.fill(part)?;
            bytes = rest;
        }
        Ok(())
    }

    /// The buffer of the next place of `run`, empty.
    #[inline]
    fn open(&self, run: &mut Run, metadata: u32) -> Result<Buffer<'_>, Unsent> {
        let slot = run.step().ok_or(Unsent::Later)?;
        let (region, offset, room) = match self.role {
            Role::Client => {
                let buffers = &self.outgoing.buffers;
                (0, buffers.at(slot), buffers.bytes as usize)
            }
            Role::Server => {
                let posted = self.outgoing.ring.get(slot);
                (posted.region, posted.offset, posted.length as usize)
            }
        };
        let window = self.regions.get(usize::from(region)).ok_or(Unsent::Nonsense)?;
        if room == 0 {
            return Err(Unsent::Nonsense);
        }
        let descriptor = Descriptor { flags: 0, region, length: 0, offset, metadata };
        Ok(Buffer { slot, descriptor, window, at: offset as usize, room })
    }
}

impl Buffer<'_> {
    /// Adds `bytes`, for which there is room.
    #[inline]
    fn fill(&mut self, bytes: &[u8]) -> Result<(), Unsent> {
        if !self.window.write(self.at, bytes) {
            return Err(Unsent::Nonsense);
        }
        self.descriptor.length += bytes.len() as u32;
        self.at += bytes.len();
        self.room -= bytes.len();
        Ok(())
    }
}
