//! Sending: each packet takes its time on the cable.

use base::Duration;
use region::Frames;
use state::{CsumState, TxFrame};

use super::{Cable, Flying, WirePort, lock};
use crate::chain;
use crate::split::complete_checksum;

const ETHERNET_BYTES: u32 = 14;

impl WirePort {
    pub(super) fn transmit(&mut self, frames: &mut Frames<'_>, packets: &[TxFrame]) -> usize {
        let mut cable = lock(&self.cable);
        let mut taken = 0;
        for packet in packets {
            let queued = cable.ways.get(self.sends_on).map_or(0, |way| way.flying.len());
            if queued >= cable.spec.queue_packets {
                break;
            }
            taken += 1;
            let is_super = packet.gso_size > 0 && packet.payload_bytes > u32::from(packet.gso_size);
            let largest = u32::from(self.setup.mtu) + ETHERNET_BYTES;
            if (is_super && !self.offloads) || (!is_super && packet.bytes() > largest) {
                self.stats.tx_dropped += 1;
            } else {
                let flying = self.copy(frames, packet, is_super);
                self.stats.tx_packets += 1;
                self.stats.tx_bytes += u64::from(packet.bytes());
                cable.send(self.sends_on, flying);
            }
            frames.release(packet.head);
        }
        taken
    }

    /// `packet` as the other end will see it.
    fn copy(&self, frames: &mut Frames<'_>, packet: &TxFrame, is_super: bool) -> Flying {
        let mut packet = *packet;
        if !self.offloads {
            complete_checksum(frames, &mut packet);
        }
        let mut bytes = Vec::with_capacity(packet.bytes() as usize);
        chain::read_tx(frames, &packet, &mut bytes);
        let csum = if packet.csum_start != 0 { CsumState::Unfinished } else { CsumState::Unknown };
        let gso_size = if is_super { packet.gso_size } else { 0 };
        Flying { arrives: base::Instant(0), bytes, gso_size, csum }
    }
}

impl Cable {
    fn send(&mut self, way: usize, mut packet: Flying) {
        let bits = packet.bytes.len() as u64 * 8;
        let time =
            Duration(bits.saturating_mul(1_000_000_000).checked_div(self.spec.bits_per_second).unwrap_or(0));
        let Some(way) = self.ways.get_mut(way) else { return };
        way.free_at = way.free_at.max(self.now).plus(time);
        packet.arrives = way.free_at.plus(self.spec.delay);
        way.flying.push_back(packet);
    }
}
