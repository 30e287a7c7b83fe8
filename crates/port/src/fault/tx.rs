//! Faults of sent packets.

use region::Frames;
use state::TxFrame;

use super::{Fate, FaultPort};
use crate::split::complete_checksum;
use crate::{Port, PortError};

/// Packets that wait for the inner port before no more are taken.
const QUEUED_MAX: usize = 256;
/// Polls that a late packet waits for another to overtake it.
const LATE_POLLS_MAX: u32 = 8;

impl<P: Port> FaultPort<P> {
    pub(super) fn transmit(
        &mut self,
        frames: &mut Frames<'_>,
        packets: &[TxFrame],
    ) -> Result<usize, PortError> {
        self.flush(frames)?;
        let mut taken = 0;
        for packet in packets {
            if self.queued_tx.len() >= QUEUED_MAX {
                break;
            }
            for piece in packet.pieces() {
                frames.retain(piece.frame);
            }
            self.transmit_one(frames, *packet);
            taken += 1;
        }
        self.flush(frames)?;
        Ok(taken)
    }

    fn transmit_one(&mut self, frames: &mut Frames<'_>, mut packet: TxFrame) {
        match self.fate(self.spec.tx) {
            Fate::Pass => self.queued_tx.push_back(packet),
            Fate::Drop => self.lose(frames, &packet),
            Fate::Duplicate => {
                self.counts.duplicated += 1;
                frames.retain(packet.head);
                for piece in packet.pieces() {
                    frames.retain(piece.frame);
                }
                self.queued_tx.extend([packet, packet]);
            }
            Fate::Reorder => {
                self.counts.reordered += 1;
                let earlier = self.late_tx.replace(packet);
                self.queued_tx.extend(earlier);
                return;
            }
            Fate::Corrupt => {
                // The payload belongs to the sender, who may send it again, so a bit of the headers is changed. Who
                // cuts a super-segment writes new checksums, so there the damage would not be seen: it is lost.
                let transport = usize::from(packet.csum_start);
                if packet.gso_size != 0 || transport == 0 {
                    self.lose(frames, &packet);
                } else {
                    complete_checksum(frames, &mut packet);
                    let data = frames.data_mut(packet.head);
                    let room = data.len().saturating_sub(transport);
                    let at = transport + self.rng.below(room as u64) as usize;
                    let bit = 1_u8 << self.rng.below(8);
                    if let Some(byte) = data.get_mut(at) {
                        *byte ^= bit;
                    }
                    self.counts.corrupted += 1;
                    self.queued_tx.push_back(packet);
                }
            }
        }
        self.queued_tx.extend(self.late_tx.take());
    }

    fn lose(&mut self, frames: &mut Frames<'_>, packet: &TxFrame) {
        self.counts.dropped += 1;
        frames.release(packet.head);
        release_payload(frames, packet);
    }

    /// Counts the polls that a late packet has waited, and lets it go when no other comes to overtake it.
    pub(super) fn age_late(&mut self) {
        match self.late_tx {
            Some(_) if self.late_polls < LATE_POLLS_MAX => self.late_polls += 1,
            Some(_) | None => {
                self.queued_tx.extend(self.late_tx.take());
                self.late_polls = 0;
            }
        }
    }

    /// Offers what waits to the inner port.
    pub(super) fn flush(&mut self, frames: &mut Frames<'_>) -> Result<(), PortError> {
        if self.queued_tx.is_empty() {
            return Ok(());
        }
        let sent = self.inner.tx(frames, self.queued_tx.make_contiguous())?;
        for packet in self.queued_tx.drain(..sent.min(self.queued_tx.len())) {
            release_payload(frames, &packet);
        }
        Ok(())
    }
}

/// Gives up the reference to each piece's frame.
pub(super) fn release_payload(frames: &mut Frames<'_>, packet: &TxFrame) {
    for piece in packet.pieces() {
        frames.release(piece.frame);
    }
}
