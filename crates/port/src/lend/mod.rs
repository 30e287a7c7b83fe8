//! A wire between two lanes of one region that carries no bytes: the sender lends its frames, the receiver reads them where they are, and
//! says when it is done. Only headers and small payloads are copied.
//!
//! Both ends trust one another as all do who share a region. What is lent stays unchanged until it comes back: a retransmission of
//! bytes that are still lent is a copy.

mod open;
mod rx;
mod stats;
mod tx;

use std::os::fd::BorrowedFd;

use base::FrameIdx;
use region::{Frames, LENT_MAX, LaneRef, Shelf};
use rustix::io::Errno;
use state::{RxBatch, TxFrame};

use crate::{Port, PortCaps, PortError, PortSetup, PortStats};
pub use open::{LendParts, NoFrames, pair};

/// Payloads up to this are copied, bytes: as cheap as lending, and the frame is free at once.
const COPY_MAX: u16 = 512;

/// One end of a lending wire.
pub struct LendPort {
    /// Descriptors of what we send, and how much of it the peer has taken as far as we know.
    outgoing: Shelf,
    sent: u64,
    sent_taken: u64,
    /// Places of ours that came back.
    returned: Shelf,
    returned_taken: u64,
    /// Descriptors of what the peer sends.
    incoming: Shelf,
    received: u64,
    received_shown: u64,
    /// The cell of the shelf, and the shelf, of the peer's places that we give back.
    giving: (FrameIdx, Shelf),
    /// What is lent, by place, and the places that are free.
    lent: Box<[FrameIdx; LENT_MAX]>,
    free: Vec<u8>,
    /// The peer's lane, whose holder may die; and how often we had to wait for it.
    peer: LaneRef,
    refused: u32,
    setup: PortSetup,
    stats: PortStats,
}

/// One word on a shelf of descriptors: what the packet that begins here is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Header {
    /// Words that follow.
    pieces: u8,
    /// The checksum field holds the pseudo-header's sum only.
    unfinished: bool,
    /// The receiver may keep payload frames; else it copies.
    keep: bool,
    gso_size: u16,
}

impl Header {
    fn word(self) -> u64 {
        u64::from(self.pieces)
            | u64::from(self.unfinished) << 8
            | u64::from(self.keep) << 9
            | u64::from(self.gso_size) << 16
    }

    fn of(word: u64) -> Self {
        Self {
            pieces: word as u8,
            unfinished: word & 1 << 8 != 0,
            keep: word & 1 << 9 != 0,
            gso_size: (word >> 16) as u16,
        }
    }
}

/// One word: bytes that are lent, and the place to give back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Span {
    frame: FrameIdx,
    offset: u16,
    /// 1 to 4096.
    len: u16,
    place: u8,
}

impl Span {
    fn word(self) -> u64 {
        u64::from(self.frame.0)
            | u64::from(self.offset & 0xfff) << 32
            | u64::from(self.len.wrapping_sub(1) & 0xfff) << 44
            | u64::from(self.place) << 56
    }

    fn of(word: u64) -> Self {
        Self {
            frame: FrameIdx(word as u32),
            offset: (word >> 32) as u16 & 0xfff,
            len: ((word >> 44) as u16 & 0xfff) + 1,
            place: (word >> 56) as u8,
        }
    }
}

impl LendPort {
    /// What the wire gives when one of its ends is gone.
    fn gone() -> PortError {
        PortError::Device(Errno::PIPE.raw_os_error())
    }
}

impl Port for LendPort {
    fn rx(&mut self, frames: &mut Frames<'_>, batch: &mut RxBatch) -> Result<usize, PortError> {
        self.take_returned(frames);
        self.receive(frames, batch)
    }

    fn tx(&mut self, frames: &mut Frames<'_>, packets: &[TxFrame]) -> Result<usize, PortError> {
        self.take_returned(frames);
        self.transmit(frames, packets)
    }

    /// Ends the wire: what the peer still reads stays lent.
    fn release(&mut self, frames: &mut Frames<'_>) {
        self.take_returned(frames);
        self.outgoing.close();
        self.incoming.close();
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn caps(&self) -> PortCaps {
        PortCaps {
            mtu: self.setup.mtu,
            super_segment_max: 0,
            local_peer: self.setup.local_peer,
            own_address: self.setup.own_address,
        }
    }

    fn stats(&self) -> PortStats {
        self.counted()
    }
}

#[cfg(test)]
mod tests {
    use super::{Header, Span};
    use base::FrameIdx;

    #[test]
    fn words_give_back_what_they_were_made_of() {
        let header = Header { pieces: 17, unfinished: true, keep: false, gso_size: 61_440 };
        assert_eq!(Header::of(header.word()), header);
        for (offset, len) in [(0, 4096), (4095, 1), (256, 66)] {
            let span = Span { frame: FrameIdx(0xffff_fffe), offset, len, place: 255 };
            assert_eq!(Span::of(span.word()), span);
        }
    }
}
