//! Receiving: headers are copied, payload frames get stand-ins.

use base::FrameIdx;
use base::limits::{CHAIN_FRAMES, FRAME_BYTES, FRAME_HEADROOM};
use region::{Frames, LENT_MAX};
use state::{CsumState, RxBatch, RxFrame};

use super::{COPY_MAX, Header, LendPort, Span};
use crate::{PortError, chain};

/// A chain as it is being made.
struct Chain {
    head: FrameIdx,
    last: FrameIdx,
    /// May bytes be copied behind those of the last frame?
    open: bool,
    bytes: u32,
}

impl LendPort {
    pub(super) fn receive(
        &mut self,
        frames: &mut Frames<'_>,
        batch: &mut RxBatch,
    ) -> Result<usize, PortError> {
        let first = self.received;
        let mut got = 0;
        while batch.room() > 0 {
            if self.received == self.received_shown {
                self.received_shown = self.incoming.shown();
                let ahead = self.received_shown.wrapping_sub(self.received);
                if ahead == 0 || ahead > LENT_MAX as u64 {
                    self.received_shown = self.received;
                    break;
                }
            }
            let header = Header::of(self.incoming.get(self.received));
            let words = 1 + u64::from(header.pieces);
            if words > self.received_shown.wrapping_sub(self.received) {
                // Nonsense: whole packets are shown only.
                self.received = self.received_shown;
                self.stats.rx_dropped += 1;
                break;
            }
            match self.packet(frames, header) {
                Some(packet) => {
                    self.stats.rx_packets += 1;
                    self.stats.rx_bytes += u64::from(packet.len);
                    batch.push(packet);
                    got += 1;
                }
                None => self.stats.rx_dropped += 1,
            }
            self.received = self.received.wrapping_add(words);
        }
        if self.received != first {
            self.incoming.taken(self.received);
        } else if self.incoming.is_closed() {
            return Err(Self::gone());
        }
        Ok(got)
    }

    /// The packet at the front, in frames of this lane. `None`: it makes no sense, or there are no frames; its places are given back.
    fn packet(&self, frames: &mut Frames<'_>, header: Header) -> Option<RxFrame> {
        let mut chain = Chain { head: FrameIdx::NONE, last: FrameIdx::NONE, open: false, bytes: 0 };
        let mut whole = true;
        // One frame for each piece must not make a longer chain than a packet may be.
        let may_keep = header.keep && usize::from(header.pieces) <= CHAIN_FRAMES;
        for at in 1..=u64::from(header.pieces) {
            let span = Span::of(self.incoming.get(self.received.wrapping_add(at)));
            let keep = may_keep && at > 1 && span.len > COPY_MAX;
            let taken = whole
                && if keep { self.keep(frames, &mut chain, span) } else { copy(frames, &mut chain, span) };
            if !(taken && keep) {
                self.giving.1.push(u64::from(span.place));
            }
            whole = taken;
        }
        if !whole || chain.bytes == 0 {
            frames.release_chain(chain.head);
            return None;
        }
        let csum = if header.unfinished { CsumState::Unfinished } else { CsumState::Unknown };
        let (port, local_peer) = (self.setup.port, self.setup.local_peer);
        let gso_size = if u32::from(header.gso_size) < chain.bytes { header.gso_size } else { 0 };
        Some(RxFrame { head: chain.head, len: chain.bytes, gso_size, port, local_peer, csum })
    }

    /// Adds a stand-in for `span` to `chain`.
    fn keep(&self, frames: &mut Frames<'_>, chain: &mut Chain, span: Span) -> bool {
        let place = u32::from(span.place);
        let Some(frame) = frames.borrow(span.frame, (span.offset, span.len), self.giving.0, place) else {
            return false;
        };
        chain.link(frames, frame, usize::from(span.offset), span.len);
        chain.open = false;
        true
    }
}

/// Adds a copy of `span` to `chain`, without gaps, so that a packet of many short spans becomes no longer chain than one of few.
fn copy(frames: &mut Frames<'_>, chain: &mut Chain, span: Span) -> bool {
    let (mut from, mut left) = (usize::from(span.offset), usize::from(span.len));
    while left > 0 {
        let end = frames.meta(chain.last).map_or(FRAME_BYTES, |m| usize::from(m.offset) + usize::from(m.len));
        if !chain.open || end >= FRAME_BYTES {
            let Some(frame) = frames.alloc() else { return false };
            let at = if chain.head.is_none() { FRAME_HEADROOM } else { 0 };
            chain.link(frames, frame, at, 0);
            chain.open = true;
            continue;
        }
        let part = left.min(FRAME_BYTES - end);
        if !frames.copy((span.frame, from), (chain.last, end), part) {
            return false;
        }
        if let Some(meta) = frames.meta_mut(chain.last) {
            meta.len += part as u16;
        }
        chain.bytes += part as u32;
        (from, left) = (from + part, left - part);
    }
    true
}

impl Chain {
    fn link(&mut self, frames: &mut Frames<'_>, frame: FrameIdx, offset: usize, len: u16) {
        chain::append(frames, self.last, frame, offset, usize::from(len));
        if self.head.is_none() {
            self.head = frame;
        }
        self.last = frame;
        self.bytes += u32::from(len);
    }
}
