//! Counters.

use super::TapPort;
use crate::PortStats;

impl TapPort {
    pub(super) fn counted(&self) -> PortStats {
        self.stats
    }
}
