//! Sending: descriptors into the transmit ring; super-segments by the companion socket, or cut in software.
//!
//! Frames come back out of the completion ring to whichever lane looks there, so only frames go into the ring that nobody else needs: the
//! headers', and copies of payload that does not fit behind them.

use base::FrameIdx;
use base::limits::{CHAIN_FRAMES, FRAME_BYTES};
use region::{Frames, Note};
use rustix::io::Errno;
use state::{Piece, TxFrame};
use sys::xsk::{self, Descriptor, TX_METADATA_BYTES, TxMetadata};

use super::XdpPort;
use crate::PortError;
use crate::chain::join;
use crate::split::{Splitter, complete_checksum};

/// Calls that one [`XdpPort::kick`] makes at most: each sends at least 32 packets.
const KICKS_MAX: u32 = 8;

/// What came of one packet.
enum Sent {
    /// Gone or lost; its head is accounted for.
    Yes,
    /// There is no room for it now.
    Later,
}

impl XdpPort {
    pub(super) fn transmit(
        &mut self,
        frames: &mut Frames<'_>,
        packets: &[TxFrame],
    ) -> Result<usize, PortError> {
        self.recover_sending(frames);
        let mut taken = 0;
        for packet in packets {
            let is_super = packet.gso_size > 0 && packet.payload_bytes > u32::from(packet.gso_size);
            let sent = match (is_super, self.companion.is_some()) {
                (true, true) => self.send_super(frames, packet, taken == 0)?,
                (true, false) => self.send_split(frames, packet),
                (false, _) => self.send_one(frames, packet),
            };
            match sent {
                Sent::Yes => taken += 1,
                Sent::Later => break,
            }
        }
        match self.kick() {
            Err(error) if taken == 0 => return Err(error),
            Ok(()) | Err(_) => {}
        }
        self.serve_common(frames);
        Ok(taken)
    }

    /// Takes back what one who died was about to send, and did not.
    pub(super) fn recover_sending(&mut self, frames: &mut Frames<'_>) {
        let Some(note) = self.sending.read() else { return };
        let tx = &self.first.rings.tx;
        self.take_back(frames, note, tx.position(), |index| tx.at(index).address);
        self.sending.clear();
    }

    /// Puts one packet, no longer than the MTU, into the ring.
    fn send_one(&mut self, frames: &mut Frames<'_>, packet: &TxFrame) -> Sent {
        let parts = 1 + u32::from(packet.payload_pieces);
        if self.first.rings.tx.room() < parts {
            return Sent::Later;
        }
        let mut packet = *packet;
        // One copy of a short payload costs less than the page and the second completion that a second part costs.
        let joined = join(frames, &mut packet);
        if (!joined && !self.scatter) || !own(frames, &mut packet) {
            self.stats.tx_dropped += 1;
            frames.release(packet.head);
            return Sent::Yes;
        }
        let mut options = 0;
        if packet.csum_start != 0 {
            if self.completes_checksums && put_metadata(frames, &packet) {
                options = xsk::HAS_METADATA;
            } else {
                complete_checksum(frames, &mut packet);
            }
        }
        self.put(frames, &packet, options);
        self.stats.tx_packets += 1;
        self.stats.tx_bytes += u64::from(packet.bytes());
        Sent::Yes
    }

    /// Writes the descriptors of `packet`; its frames belong to the ring from now on.
    fn put(&mut self, frames: &mut Frames<'_>, packet: &TxFrame, options: u32) {
        let offset = frames.meta(packet.head).map_or(0, |m| m.offset);
        let head = Descriptor {
            address: frames.address(packet.head) + u64::from(offset),
            len: u32::from(packet.header_bytes),
            options,
        };
        let tx = &self.first.rings.tx;
        let mut parts = 0;
        let mut last = head;
        for piece in packet.pieces() {
            last.options |= xsk::CONTINUED;
            tx.put(u32::from(parts), last);
            parts += 1;
            let address = frames.address(piece.frame) + u64::from(piece.offset);
            last = Descriptor { address, len: u32::from(piece.len), options: 0 };
        }
        tx.put(u32::from(parts), last);
        parts += 1;
        self.sending.write(Note { queue: 0, first: tx.position(), count: parts });
        let device = self.setup.port;
        frames.give_to_kernel(packet.head, device);
        packet.pieces().iter().for_each(|piece| frames.give_to_kernel(piece.frame, device));
        tx.submit(u32::from(parts));
        self.sending.clear();
    }

    /// Cuts a super-segment and puts all its packets into the ring.
    fn send_split(&mut self, frames: &mut Frames<'_>, packet: &TxFrame) -> Sent {
        let segments = packet.payload_bytes.div_ceil(u32::from(packet.gso_size));
        if self.first.rings.tx.room() < segments * 3 {
            return Sent::Later;
        }
        if let Some(mut splitter) = Splitter::new(frames, packet) {
            while let Some(part) = splitter.next(frames) {
                // There is room for each, so each is taken.
                self.send_one(frames, &part);
            }
            // Out of frames: the rest is lost, as on a wire.
            self.stats.tx_dropped += u64::from(!splitter.is_done());
        } else {
            self.stats.tx_dropped += 1;
        }
        frames.release(packet.head);
        Sent::Yes
    }

    /// Sends a super-segment on the companion socket, after everything that is in the ring.
    fn send_super(
        &mut self,
        frames: &mut Frames<'_>,
        packet: &TxFrame,
        first: bool,
    ) -> Result<Sent, PortError> {
        self.kick()?;
        let Some((fd, egress)) = &mut self.companion else { return Ok(Sent::Later) };
        egress.fill(frames, 0, packet);
        self.stats.syscalls += 1;
        match egress.messages.send(fd, 0, 1) {
            Ok(_) => {
                self.stats.tx_packets += 1;
                self.stats.tx_bytes += u64::from(packet.bytes());
            }
            Err(Errno::AGAIN | Errno::NOBUFS | Errno::INTR) => return Ok(Sent::Later),
            Err(errno) => match PortError::of(errno) {
                Some(error) if first => return Err(error),
                Some(_) => return Ok(Sent::Later),
                None => self.stats.tx_dropped += 1,
            },
        }
        frames.release(packet.head);
        Ok(Sent::Yes)
    }

    /// Makes the kernel send what is in the ring, as far as it can now.
    pub(super) fn kick(&mut self) -> Result<(), PortError> {
        for _ in 0..KICKS_MAX {
            if self.first.rings.tx.room() == super::SIZES.tx || !self.first.rings.tx.needs_wakeup() {
                return Ok(());
            }
            self.stats.syscalls += 1;
            match xsk::kick_tx(&self.first.fd) {
                Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
                // The device is busy: what is left goes with the next call.
                Err(Errno::BUSY | Errno::NOBUFS) => return Ok(()),
                Err(errno) => return PortError::of(errno).map_or(Ok(()), Err),
            }
        }
        Ok(())
    }
}

/// Makes every frame of `packet` its own: nobody else needs them when the packet was sent. False when the frames run out; the packet is as before, then.
fn own(frames: &mut Frames<'_>, packet: &mut TxFrame) -> bool {
    let mut copies = [Piece::default(); CHAIN_FRAMES];
    let mut count = 0;
    for (piece, copy) in packet.pieces().iter().filter(|piece| piece.len > 0).zip(&mut copies) {
        let Some(frame) = frames.alloc() else { break };
        *copy = Piece { frame, offset: 0, len: piece.len };
        count += 1;
        frames.copy((piece.frame, usize::from(piece.offset)), (frame, 0), usize::from(piece.len));
    }
    let wanted = packet.pieces().iter().filter(|piece| piece.len > 0).count();
    let head = if count == wanted { own_head(frames, packet.head) } else { None };
    let copies = copies.get(..count).unwrap_or(&[]);
    let Some(head) = head else {
        copies.iter().for_each(|copy| frames.release(copy.frame));
        return false;
    };
    packet.head = head;
    (packet.payload_pieces, packet.payload_bytes) = (0, 0);
    copies.iter().all(|copy| packet.push_piece(*copy))
}

/// `head`, or a copy in its place when it has other owners, too.
fn own_head(frames: &mut Frames<'_>, head: FrameIdx) -> Option<FrameIdx> {
    let meta = *frames.meta(head)?;
    if meta.refs == 1 {
        return Some(head);
    }
    let copy = frames.alloc_at(meta.offset, meta.len, meta.seq)?;
    frames.copy((head, 0), (copy, 0), FRAME_BYTES);
    frames.release(head);
    Some(copy)
}

/// Writes the request to complete the checksum in front of the packet. False when there is no room.
fn put_metadata(frames: &mut Frames<'_>, packet: &TxFrame) -> bool {
    let offset = frames.meta(packet.head).map_or(0, |m| usize::from(m.offset));
    let Some(start) = offset.checked_sub(TX_METADATA_BYTES) else { return false };
    let Some(room) = frames.cell_mut(packet.head).get_mut(start..offset) else { return false };
    let request = TxMetadata { csum_start: packet.csum_start, csum_offset: packet.csum_offset };
    room.copy_from_slice(&request.to_bytes());
    true
}
