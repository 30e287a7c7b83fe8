//! Faults of received packets.

use base::limits::FRAME_HEADROOM;
use region::Frames;
use state::{CsumState, RxBatch, RxFrame};

use super::{Fate, FaultPort};
use crate::{Port, PortError, chain};

/// Damage begins behind the Ethernet header: what a switch would have thrown away does not come.
const ETHERNET_BYTES: u64 = 14;
const _: () = assert!(FRAME_HEADROOM >= ETHERNET_BYTES as usize);

impl<P: Port> FaultPort<P> {
    pub(super) fn receive(
        &mut self,
        frames: &mut Frames<'_>,
        batch: &mut RxBatch,
    ) -> Result<usize, PortError> {
        let before = batch.room();
        let overtaken = self.late_rx.take();
        let mut clean = RxBatch::new();
        let result = self.inner.rx(frames, &mut clean);
        for packet in clean.items() {
            self.receive_one(frames, batch, *packet);
        }
        // One packet at most waits over a call, so nothing waits for ever on a quiet line that is polled.
        if let Some(packet) = overtaken {
            push(frames, batch, packet);
        }
        match result {
            Err(error) if batch.room() == before => Err(error),
            Ok(_) | Err(_) => Ok(before - batch.room()),
        }
    }

    fn receive_one(&mut self, frames: &mut Frames<'_>, batch: &mut RxBatch, packet: RxFrame) {
        match self.fate(self.spec.rx) {
            Fate::Pass => push(frames, batch, packet),
            Fate::Drop => {
                self.counts.dropped += 1;
                frames.release_chain(packet.head);
            }
            Fate::Duplicate => {
                self.counts.duplicated += 1;
                let mut bytes = Vec::new();
                chain::read(frames, packet.head, &mut bytes);
                let copy = chain::of_bytes(frames, &bytes);
                push(frames, batch, packet);
                if let Some(head) = copy {
                    push(frames, batch, RxFrame { head, ..packet });
                }
            }
            Fate::Reorder => {
                self.counts.reordered += 1;
                if let Some(earlier) = self.late_rx.replace(packet) {
                    push(frames, batch, earlier);
                }
                return;
            }
            Fate::Corrupt => {
                let data = frames.data_mut(packet.head);
                let room = (data.len() as u64).saturating_sub(ETHERNET_BYTES);
                let at = ETHERNET_BYTES + self.rng.below(room);
                let bit = 1_u8 << self.rng.below(8);
                match data.get_mut(at as usize) {
                    Some(byte) if packet.csum == CsumState::Unknown => {
                        *byte ^= bit;
                        self.counts.corrupted += 1;
                        push(frames, batch, packet);
                    }
                    Some(_) | None => {
                        self.counts.dropped += 1;
                        frames.release_chain(packet.head);
                    }
                }
            }
        }
        if let Some(late) = self.late_rx.take() {
            push(frames, batch, late);
        }
    }
}

/// Hands `packet` over; when the batch has no room left (a doubled packet took it), it is lost.
fn push(frames: &mut Frames<'_>, batch: &mut RxBatch, packet: RxFrame) {
    if !batch.push(packet) {
        frames.release_chain(packet.head);
    }
}
