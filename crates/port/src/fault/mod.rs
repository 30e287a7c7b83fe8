//! A bad network around any port: packets lost, doubled, out of order and damaged, the same ones for the same seed.

mod rx;
mod tx;

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;

use base::Rng;
use region::Frames;
use state::{RxBatch, RxFrame, TxFrame};

use crate::{Port, PortCaps, PortError, PortStats};

/// How often each thing happens to a packet, in a million.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// It is lost.
    pub drop_ppm: u32,
    /// It comes twice.
    pub duplicate_ppm: u32,
    /// It comes after the packet behind it.
    pub reorder_ppm: u32,
    /// One bit of it is wrong. A packet whose checksum is unfinished or already verified is lost instead, as no
    /// receiver could tell.
    pub corrupt_ppm: u32,
}

/// What to do to the packets of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultSpec {
    /// Fixes every choice.
    pub seed: u64,
    /// To received packets.
    pub rx: Rates,
    /// To sent packets.
    pub tx: Rates,
}

/// What happened to packets so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultCounts {
    /// Lost, those included that could not be damaged or doubled visibly.
    pub dropped: u64,
    /// Doubled.
    pub duplicated: u64,
    /// Put behind the next one.
    pub reordered: u64,
    /// Damaged.
    pub corrupted: u64,
}

/// A port with a bad network in front of it.
pub struct FaultPort<P> {
    inner: P,
    spec: FaultSpec,
    rng: Rng,
    counts: FaultCounts,
    /// A received packet that waits for the next one to overtake it.
    late_rx: Option<RxFrame>,
    /// Packets to send that the inner port has not taken; their payload is retained.
    queued_tx: VecDeque<TxFrame>,
    /// A packet to send that waits for the next one to overtake it.
    late_tx: Option<TxFrame>,
    late_polls: u32,
}

/// What happens to one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Pass,
    Drop,
    Duplicate,
    Reorder,
    Corrupt,
}

impl<P: Port> FaultPort<P> {
    /// `inner` with the faults of `spec`.
    pub fn new(inner: P, spec: FaultSpec) -> Self {
        Self {
            inner,
            spec,
            rng: Rng::new(spec.seed),
            counts: FaultCounts::default(),
            late_rx: None,
            queued_tx: VecDeque::new(),
            late_tx: None,
            late_polls: 0,
        }
    }

    /// What happened so far.
    pub fn counts(&self) -> FaultCounts {
        self.counts
    }

    /// The port inside.
    pub fn inner(&self) -> &P {
        &self.inner
    }

    fn fate(&mut self, rates: Rates) -> Fate {
        let choices = [
            (rates.drop_ppm, Fate::Drop),
            (rates.duplicate_ppm, Fate::Duplicate),
            (rates.reorder_ppm, Fate::Reorder),
            (rates.corrupt_ppm, Fate::Corrupt),
        ];
        // Every packet draws the same number of times, so that one rate does not change what another one hits.
        let mut fate = Fate::Pass;
        for (ppm, choice) in choices {
            if self.rng.chance_ppm(ppm) && fate == Fate::Pass {
                fate = choice;
            }
        }
        fate
    }
}

impl<P: Port> Port for FaultPort<P> {
    fn rx(&mut self, frames: &mut Frames<'_>, batch: &mut RxBatch) -> Result<usize, PortError> {
        self.age_late();
        self.flush(frames)?;
        self.receive(frames, batch)
    }

    fn tx(&mut self, frames: &mut Frames<'_>, packets: &[TxFrame]) -> Result<usize, PortError> {
        self.transmit(frames, packets)
    }

    fn sends_later(&self) -> bool {
        !self.queued_tx.is_empty() || self.inner.sends_later()
    }

    fn release(&mut self, frames: &mut Frames<'_>) {
        if let Some(packet) = self.late_rx.take() {
            frames.release_chain(packet.head);
        }
        for packet in self.late_tx.take().into_iter().chain(self.queued_tx.drain(..)) {
            frames.release(packet.head);
            tx::release_payload(frames, &packet);
        }
        self.inner.release(frames);
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.inner.poll_fd()
    }

    fn arm(&mut self) -> bool {
        self.inner.arm()
    }

    fn disarm(&mut self, last: bool) {
        self.inner.disarm(last);
    }

    fn caps(&self) -> PortCaps {
        self.inner.caps()
    }

    fn stats(&self) -> PortStats {
        self.inner.stats()
    }
}
