//! Sending: one writev a packet, straight out of the frames. The kernel copies.

use region::Frames;
use rustix::io::Errno;
use state::TxFrame;

use super::TapPort;
use crate::PortError;

impl TapPort {
    pub(super) fn transmit(
        &mut self,
        frames: &mut Frames<'_>,
        packets: &[TxFrame],
    ) -> Result<usize, PortError> {
        for (taken, packet) in packets.iter().enumerate() {
            self.egress.fill(frames, 0, packet);
            match self.write() {
                Ok(()) => {
                    self.stats.tx_packets += 1;
                    self.stats.tx_bytes += u64::from(packet.bytes());
                }
                Err(Errno::AGAIN | Errno::NOBUFS | Errno::NOMEM) => return Ok(taken),
                Err(errno) => match PortError::of(errno) {
                    Some(error) if taken == 0 => return Err(error),
                    Some(_) => return Ok(taken),
                    None => self.stats.tx_dropped += 1,
                },
            }
            frames.release(packet.head);
        }
        Ok(packets.len())
    }

    fn write(&mut self) -> Result<(), Errno> {
        loop {
            self.stats.syscalls += 1;
            match self.egress.messages.write(&self.fd, 0) {
                Err(Errno::INTR) => {}
                done => return done,
            }
        }
    }
}
