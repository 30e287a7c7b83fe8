//! Counters, with the kernel's own of packets it had no buffer for.

use super::PacketPort;
use crate::PortStats;

impl PacketPort {
    pub(super) fn counted(&self) -> PortStats {
        // The kernel clears its counter when it is read.
        let fresh = sys::packet::take_drops(&self.fd).unwrap_or(0);
        self.kernel_drops.set(self.kernel_drops.get() + u64::from(fresh));
        PortStats { rx_dropped: self.stats.rx_dropped + self.kernel_drops.get(), ..self.stats }
    }
}
