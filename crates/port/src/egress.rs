//! Packets to send, laid out as messages for the kernel.

use base::limits::CHAIN_FRAMES;
use region::{FrameArea, Frames};
use state::TxFrame;
use sys::messages::{Messages, VnetHeader};

use crate::vnet;

/// Parts of one message: the headers and every piece of payload.
const PARTS: usize = 1 + CHAIN_FRAMES;

/// The messages one port sends with.
pub(crate) struct Egress {
    pub(crate) messages: Messages,
}

impl Egress {
    pub(crate) fn new(area: FrameArea, messages: usize) -> Self {
        Self { messages: Messages::new(area.cells(), messages, PARTS) }
    }

    /// Lays `packet` out as message `index`. A packet that names bytes that are no frame's becomes a message without
    /// any, which the kernel refuses.
    pub(crate) fn fill(&mut self, frames: &Frames<'_>, index: usize, packet: &TxFrame) {
        if !self.lay_out(frames, index, packet) {
            self.messages.begin(index, VnetHeader::default());
        }
    }

    fn lay_out(&mut self, frames: &Frames<'_>, index: usize, packet: &TxFrame) -> bool {
        let Some(meta) = frames.meta(packet.head) else { return false };
        let (offset, len) = (meta.offset, usize::from(meta.len));
        let header = vnet::of_packet(packet, frames.data(packet.head));
        let at = frames.address(packet.head) + u64::from(offset);
        if !self.messages.begin(index, header) || !self.messages.push_span(index, at, len) {
            return false;
        }
        packet.pieces().iter().all(|piece| {
            let at = frames.address(piece.frame) + u64::from(piece.offset);
            self.messages.push_span(index, at, usize::from(piece.len))
        })
    }
}
