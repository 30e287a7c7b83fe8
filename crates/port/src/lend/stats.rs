//! Counters.

use super::LendPort;
use crate::PortStats;

impl LendPort {
    pub(super) fn counted(&self) -> PortStats {
        self.stats
    }
}
