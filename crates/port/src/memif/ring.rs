//! What both directions share: the places of a ring that are this end's to work on, sleeping, and what the metadata
//! word of a descriptor means between lanes.

use rustix::io::Errno;
use state::CsumState;
use sys::fds;
use sys::memif::{Ring, Role};

use super::MemifPort;
use crate::PortError;

/// A run of places in a ring that belong to this end now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The first place, as a free-running index.
    pub(super) next: u16,
    /// Places from there on.
    pub(super) left: u16,
}

impl Run {
    /// Goes one place on; `None` at the end.
    #[inline]
    pub(super) fn step(&mut self) -> Option<u16> {
        self.left = self.left.checked_sub(1)?;
        let slot = self.next;
        self.next = slot.wrapping_add(1);
        Some(slot)
    }
}

/// The places `from..to` of `ring`; `None` when they are more than it has, which only a peer that writes nonsense makes so.
#[inline]
fn between(ring: &Ring, from: u16, to: u16) -> Option<Run> {
    let left = to.wrapping_sub(from);
    (left <= ring.size()).then_some(Run { next: from, left })
}

/// The low half of the metadata word is the size of a super-segment's payload parts.
const GSO_SIZE: u32 = 0xffff;
/// The checksum field holds the pseudo-header's sum only.
const UNFINISHED: u32 = 1 << 16;

/// The metadata word, between lanes, of a packet's first descriptor.
pub(super) fn metadata_of(gso_size: u16, unfinished: bool) -> u32 {
    u32::from(gso_size) | if unfinished { UNFINISHED } else { 0 }
}

/// What that word says of a packet of `bytes` bytes.
pub(super) fn told_by(metadata: u32, bytes: u32) -> (u16, CsumState) {
    let csum = if metadata & UNFINISHED != 0 { CsumState::Unfinished } else { CsumState::Unknown };
    let gso_size = (metadata & GSO_SIZE) as u16;
    (if u32::from(gso_size) < bytes { gso_size } else { 0 }, csum)
}

impl MemifPort {
    /// The descriptors of packets that came in.
    ///
    /// # Errors
    /// When the wire is closed, or the peer's index makes no sense.
    pub(super) fn arrived(&self) -> Result<Run, PortError> {
        let ring = &self.incoming.ring;
        let run = match (self.role, &self.lent) {
            (Role::Server, _) => between(ring, ring.tail(), ring.head()),
            (Role::Client, Some(ledger)) => {
                between(ring, ledger.taken(), ring.tail()).filter(|run| run.left <= ledger.posted())
            }
            // All places are always posted: the oldest lies a whole ring before the newest.
            (Role::Client, None) => between(ring, ring.head().wrapping_sub(ring.size()), ring.tail()),
        };
        match run {
            // A packet that was sent before the end came is still a packet.
            Some(run) if run.left > 0 || !ring.is_closed() => Ok(run),
            Some(_) => Err(PortError::Device(Errno::PIPE.raw_os_error())),
            None => Err(self.nonsense()),
        }
    }

    /// The places that packets can be sent in.
    ///
    /// # Errors
    /// As [`MemifPort::arrived`].
    pub(super) fn vacant(&self) -> Result<Run, PortError> {
        let ring = &self.outgoing.ring;
        self.still_open(ring)?;
        let run = match self.role {
            Role::Client => between(ring, ring.head(), ring.tail().wrapping_add(ring.size())),
            Role::Server => between(ring, ring.tail(), ring.head()),
        };
        run.ok_or_else(|| self.nonsense())
    }

    /// # Errors
    /// When the wire has ended.
    pub(super) fn still_open(&self, ring: &Ring) -> Result<(), PortError> {
        if ring.is_closed() { Err(PortError::Device(Errno::PIPE.raw_os_error())) } else { Ok(()) }
    }

    /// Ends the wire for both ends, which get errors from now on once they have received what was sent before.
    pub fn hang_up(&self) {
        self.incoming.ring.close();
        self.outgoing.ring.close();
        for event in [&self.incoming.event, &self.outgoing.event] {
            // As in `show`.
            let _ = fds::event_signal(event);
        }
    }

    /// Closes a wire whose peer writes nonsense.
    #[cold]
    pub(super) fn nonsense(&self) -> PortError {
        self.hang_up();
        PortError::Device(Errno::PROTO.raw_os_error())
    }

    /// Shows the peer what was sent before place `next`, and wakes it if it sleeps.
    pub(super) fn show(&mut self, next: u16) {
        let ring = &self.outgoing.ring;
        match self.role {
            Role::Client => ring.set_head(next),
            Role::Server => ring.set_tail(next),
        }
        if ring.wants_signal() {
            self.stats.syscalls += 1;
            // It fails only for an fd that is no eventfd: the peer, who made it, then sleeps on nothing.
            let _ = fds::event_signal(&self.outgoing.event);
        }
    }

    /// Asks for a signal at the next packet. True: there is a packet already.
    pub(super) fn watch(&mut self) -> bool {
        let ring = &self.incoming.ring;
        if !ring.is_masked() {
            self.clear_event();
        }
        self.incoming.ring.mask(false);
        self.arrived().is_ok_and(|run| run.left > 0)
    }

    /// Takes the signal back; with `last`, none is wanted from now on, else others that sleep are told what there is.
    pub(super) fn unwatch(&mut self, last: bool) {
        self.clear_event();
        self.incoming.ring.mask(last);
        if !last && self.arrived().is_ok_and(|run| run.left > 0) {
            self.stats.syscalls += 1;
            // As in `show`.
            let _ = fds::event_signal(&self.incoming.event);
        }
    }

    fn clear_event(&mut self) {
        self.stats.syscalls += 1;
        // As in `show`.
        let _ = fds::event_clear(&self.incoming.event);
    }
}
