//! Receiving what has arrived by now.

use region::Frames;
use state::{RxBatch, RxFrame};

use super::{WirePort, lock};
use crate::chain;

impl WirePort {
    pub(super) fn receive(&mut self, frames: &mut Frames<'_>, batch: &mut RxBatch) -> usize {
        let mut cable = lock(&self.cable);
        let now = cable.now;
        let Some(way) = cable.ways.get_mut(1 - self.sends_on) else { return 0 };
        let mut got = 0;
        while batch.room() > 0 && way.flying.front().is_some_and(|f| f.arrives <= now) {
            let Some(packet) = way.flying.pop_front() else { break };
            let Some(head) = chain::of_bytes(frames, &packet.bytes) else {
                self.stats.rx_dropped += 1;
                continue;
            };
            self.stats.rx_packets += 1;
            self.stats.rx_bytes += packet.bytes.len() as u64;
            batch.push(RxFrame {
                head,
                len: packet.bytes.len() as u32,
                gso_size: packet.gso_size,
                port: self.setup.port,
                local_peer: self.setup.local_peer,
                csum: packet.csum,
            });
            got += 1;
        }
        got
    }
}
