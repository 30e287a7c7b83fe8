//! Counters.

use super::WirePort;
use crate::PortStats;

impl WirePort {
    pub(super) fn counted(&self) -> PortStats {
        self.stats
    }
}
