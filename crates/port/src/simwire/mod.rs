//! A cable between two ports in one process, in virtual time: nothing moves until the caller moves the clock, and
//! the same calls give the same packets.

mod open;
mod rx;
mod stats;
mod tx;

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base::limits::SUPER_SEGMENT_BYTES;
use base::{Duration, Instant};
use region::Frames;
use state::{CsumState, RxBatch, TxFrame};

use crate::{Port, PortCaps, PortError, PortSetup, PortStats};
pub use open::pair;

/// What the cable is like, the same both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WireSpec {
    /// Time from the end of a packet's transmission to its arrival.
    pub delay: Duration,
    /// Bits a second, Ethernet headers included; 0: no limit.
    pub bits_per_second: u64,
    /// Packets on the cable and in the sender's queue before the port takes no more.
    pub queue_packets: usize,
    /// Like veth: super-segments go over whole and checksums unfinished. Else like a plain network card.
    pub offloads: bool,
}

/// One packet on its way.
struct Flying {
    arrives: Instant,
    bytes: Vec<u8>,
    gso_size: u16,
    csum: CsumState,
}

/// One direction.
struct Way {
    /// When the sender's transmitter is free again.
    free_at: Instant,
    flying: VecDeque<Flying>,
}

struct Cable {
    spec: WireSpec,
    now: Instant,
    ways: [Way; 2],
}

/// Moves the clock of a cable.
#[derive(Clone)]
pub struct WireClock {
    cable: Arc<Mutex<Cable>>,
}

impl WireClock {
    /// The time is `now`; it does not go back.
    pub fn set(&self, now: Instant) {
        let mut cable = lock(&self.cable);
        cable.now = cable.now.max(now);
    }

    /// When the next packet arrives at either end; [`Instant::NEVER`]: none is on its way. May lie in the past, if
    /// nobody has received it.
    #[must_use]
    pub fn next_arrival(&self) -> Instant {
        let cable = lock(&self.cable);
        let first = |way: &Way| way.flying.front().map_or(Instant::NEVER, |f| f.arrives);
        let [a, b] = &cable.ways;
        first(a).min(first(b))
    }
}

/// One end of the cable.
pub struct WirePort {
    cable: Arc<Mutex<Cable>>,
    /// Which of the two ways it sends on; it receives on the other.
    sends_on: usize,
    setup: PortSetup,
    offloads: bool,
    stats: PortStats,
}

/// A cable whose holder panicked is as good as before: each change to it is one push or one pop.
fn lock(cable: &Mutex<Cable>) -> MutexGuard<'_, Cable> {
    cable.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Port for WirePort {
    fn rx(&mut self, frames: &mut Frames<'_>, batch: &mut RxBatch) -> Result<usize, PortError> {
        Ok(self.receive(frames, batch))
    }

    fn tx(&mut self, frames: &mut Frames<'_>, packets: &[TxFrame]) -> Result<usize, PortError> {
        Ok(self.transmit(frames, packets))
    }

    fn release(&mut self, _frames: &mut Frames<'_>) {
        // What is on the cable is copied.
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn caps(&self) -> PortCaps {
        PortCaps {
            mtu: self.setup.mtu,
            super_segment_max: if self.offloads { SUPER_SEGMENT_BYTES as u32 } else { 0 },
            local_peer: self.setup.local_peer,
            own_address: self.setup.own_address,
        }
    }

    fn stats(&self) -> PortStats {
        self.counted()
    }
}
