//! Sending: sendmmsg straight out of the frames. The kernel copies, so a frame is free again when the call returns.

use base::limits::BATCH_FRAMES;
use region::Frames;
use rustix::io::Errno;
use state::TxFrame;

use super::PacketPort;
use crate::PortError;

impl PacketPort {
    pub(super) fn transmit(
        &mut self,
        frames: &mut Frames<'_>,
        packets: &[TxFrame],
    ) -> Result<usize, PortError> {
        let mut taken = 0;
        for group in packets.chunks(BATCH_FRAMES) {
            let sent = self.send_group(frames, group, taken == 0)?;
            taken += sent;
            if sent < group.len() {
                break;
            }
        }
        Ok(taken)
    }

    /// Sends up to [`BATCH_FRAMES`] packets; gives how many are done with. Only the `first` group reports a dead
    /// device, as an error would hide what was taken before.
    fn send_group(
        &mut self,
        frames: &mut Frames<'_>,
        group: &[TxFrame],
        first: bool,
    ) -> Result<usize, PortError> {
        for (index, packet) in group.iter().enumerate() {
            self.egress.fill(frames, index, packet);
        }
        let mut done = 0;
        while done < group.len() {
            self.stats.syscalls += 1;
            match self.egress.messages.send(&self.fd, done, group.len() - done) {
                Ok(0) | Err(Errno::AGAIN | Errno::NOBUFS) => break,
                Err(Errno::INTR) => {}
                Ok(sent) => {
                    for packet in group.iter().skip(done).take(sent) {
                        self.stats.tx_packets += 1;
                        self.stats.tx_bytes += u64::from(packet.bytes());
                        frames.release(packet.head);
                    }
                    done += sent;
                }
                Err(errno) => {
                    if let Some(error) = PortError::of(errno) {
                        return if first && done == 0 { Err(error) } else { Ok(done) };
                    }
                    // The kernel refuses this packet for what it is (EMSGSIZE, EINVAL): offering it again is in vain.
                    if let Some(packet) = group.get(done) {
                        frames.release(packet.head);
                    }
                    self.stats.tx_dropped += 1;
                    done += 1;
                }
            }
        }
        Ok(done)
    }
}
