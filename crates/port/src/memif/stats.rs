//! Counters.

use super::MemifPort;
use crate::PortStats;

impl MemifPort {
    pub(super) fn counted(&self) -> PortStats {
        self.stats
    }
}
