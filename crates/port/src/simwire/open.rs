//! Making a cable.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use base::Instant;

use super::{Cable, Way, WireClock, WirePort, WireSpec};
use crate::{PortSetup, PortStats};

/// A cable with its two ends and its clock, which stands at 0.
#[must_use]
pub fn pair(spec: WireSpec, setups: [PortSetup; 2]) -> (WirePort, WirePort, WireClock) {
    let way = || Way { free_at: Instant(0), flying: VecDeque::new() };
    let cable = Arc::new(Mutex::new(Cable { spec, now: Instant(0), ways: [way(), way()] }));
    let [near, far] = setups;
    let end = |sends_on, setup| WirePort {
        cable: Arc::clone(&cable),
        sends_on,
        setup,
        offloads: spec.offloads,
        stats: PortStats::default(),
    };
    (end(0, near), end(1, far), WireClock { cable: Arc::clone(&cable) })
}
