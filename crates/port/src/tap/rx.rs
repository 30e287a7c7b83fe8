//! Receiving: one readv a packet, straight into a chain of frames.

use region::Frames;
use rustix::io::Errno;
use state::RxBatch;

use super::TapPort;
use crate::PortError;
use crate::intake::{HEAD_ROOM, Width};

impl TapPort {
    pub(super) fn receive(
        &mut self,
        frames: &mut Frames<'_>,
        batch: &mut RxBatch,
    ) -> Result<usize, PortError> {
        let before = batch.room();
        while batch.room() > 0 && self.intake.post(frames, 0, self.width) {
            self.stats.syscalls += 1;
            match self.intake.messages.read(&self.fd, 0) {
                Ok(()) => {}
                Err(errno) => {
                    self.intake.withdraw(frames, 0);
                    let failed = !matches!(errno, Errno::AGAIN | Errno::INTR) && batch.room() == before;
                    return match PortError::of(errno).filter(|_| failed) {
                        Some(error) => Err(error),
                        None => Ok(before - batch.room()),
                    };
                }
            }
            let Some(packet) = self.intake.collect(frames, 0, &self.setup) else {
                self.stats.rx_dropped += 1;
                continue;
            };
            // A super-frame rarely comes alone.
            self.width = if packet.len as usize > HEAD_ROOM { Width::Wide } else { Width::Narrow };
            self.stats.rx_packets += 1;
            self.stats.rx_bytes += u64::from(packet.len);
            batch.push(packet);
        }
        Ok(before - batch.room())
    }
}
