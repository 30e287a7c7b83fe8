//! Frames posted for the kernel to receive into, and the chains made of what arrived.
//!
//! No frame stays posted between calls: a process that forks or dies between two calls takes no frame with it, and
//! several processes of a family can poll the same lane in turn, each with its own port on the same socket.

use base::FrameIdx;
use base::limits::{CHAIN_FRAMES, FRAME_BYTES, FRAME_HEADROOM};
use region::{FrameArea, Frames};
use state::{CsumState, RxFrame};
use sys::messages::{Messages, VnetHeader};

use crate::chain::{append, spill};
use crate::{PortSetup, vnet};

/// Room for packet bytes in the first frame of a chain.
pub(crate) const HEAD_ROOM: usize = FRAME_BYTES - FRAME_HEADROOM;
/// A narrow message has one frame, and this much private memory in case a super-frame comes.
const OVERFLOW_BYTES: usize = 65_535 + 18 - HEAD_ROOM;
const _: () = assert!(HEAD_ROOM + (CHAIN_FRAMES - 1) * FRAME_BYTES >= 65_535 + 18);

/// How many frames are posted a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    /// One: right for packets up to [`HEAD_ROOM`]; a longer one is copied once more.
    Narrow,
    /// A whole chain: right for super-frames.
    Wide,
}

#[derive(Clone, Copy)]
struct Posted {
    frames: [FrameIdx; CHAIN_FRAMES],
    count: usize,
}

/// The messages of one port and the frames posted in them.
pub(crate) struct Intake {
    pub(crate) messages: Messages,
    posted: Box<[Posted]>,
}

impl Intake {
    pub(crate) fn new(area: FrameArea, messages: usize) -> Self {
        let none = Posted { frames: [FrameIdx::NONE; CHAIN_FRAMES], count: 0 };
        Self {
            messages: Messages::new(area.cells(), messages, CHAIN_FRAMES),
            posted: vec![none; messages].into(),
        }
    }

    /// Posts frames in message `index`. False when there are no free frames; nothing is posted then.
    pub(crate) fn post(&mut self, frames: &mut Frames<'_>, index: usize, width: Width) -> bool {
        let Some(posted) = self.posted.get_mut(index) else { return false };
        let want = match width {
            Width::Narrow => 1,
            Width::Wide => CHAIN_FRAMES,
        };
        posted.count = 0;
        self.messages.begin(index, VnetHeader::default());
        for (at, slot) in posted.frames.iter_mut().enumerate().take(want) {
            let Some(frame) = frames.alloc() else { break };
            *slot = frame;
            posted.count = at + 1;
            let skip = if at == 0 { FRAME_HEADROOM } else { 0 };
            self.messages.push_span(index, frames.address(frame) + skip as u64, FRAME_BYTES - skip);
        }
        if posted.count == 0 {
            return false;
        }
        if posted.count < CHAIN_FRAMES {
            self.messages.push_overflow(index, OVERFLOW_BYTES);
        }
        true
    }

    /// Gives the frames of message `index`, which received nothing, back.
    pub(crate) fn withdraw(&mut self, frames: &mut Frames<'_>, index: usize) {
        let Some(posted) = self.posted.get_mut(index) else { return };
        for frame in posted.frames.iter().take(posted.count) {
            frames.release(*frame);
        }
        posted.count = 0;
    }

    /// The packet that arrived in message `index` as a chain; unused frames go back. `None`: the packet is lost, for
    /// want of frames or because it was cut short.
    pub(crate) fn collect(
        &mut self,
        frames: &mut Frames<'_>,
        index: usize,
        setup: &PortSetup,
    ) -> Option<RxFrame> {
        let arrived = self.messages.arrived(index).filter(|a| !a.truncated && a.bytes > 0);
        let Some(arrived) = arrived else {
            self.withdraw(frames, index);
            return None;
        };
        let posted = self.posted.get_mut(index)?;
        let mut left = arrived.bytes;
        let mut last = FrameIdx::NONE;
        for (at, frame) in posted.frames.iter().copied().enumerate().take(posted.count) {
            if left == 0 {
                frames.release(frame);
                continue;
            }
            let skip = if at == 0 { FRAME_HEADROOM } else { 0 };
            let used = left.min(FRAME_BYTES - skip);
            left -= used;
            append(frames, last, frame, skip, used);
            last = frame;
        }
        posted.count = 0;
        let head = posted.frames.first().copied()?;
        if left > 0 && !spill(frames, last, self.messages.overflow(index).get(..left)?) {
            frames.release_chain(head);
            return None;
        }
        let mut packet = RxFrame {
            head,
            len: arrived.bytes as u32,
            gso_size: 0,
            port: setup.port,
            local_peer: setup.local_peer,
            csum: CsumState::Unknown,
        };
        vnet::note_received(&arrived.header, &mut packet);
        Some(packet)
    }
}
