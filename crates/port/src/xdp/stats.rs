//! Counters, with the kernel's own of packets it had no frame or no place in the ring for.

use super::XdpPort;
use crate::PortStats;

impl XdpPort {
    pub(super) fn counted(&self) -> PortStats {
        let kernel: u64 = self.queues().map(|queue| sys::xsk::drops(&queue.fd).unwrap_or(0)).sum();
        PortStats { rx_dropped: self.stats.rx_dropped + kernel, ..self.stats }
    }
}
