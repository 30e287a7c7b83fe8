//! What all sockets of a queue have in common: empty frames into the fill ring, sent ones out of the completion ring. Whichever lane of the
//! region comes by does it for all.

use base::limits::FRAME_BYTES;
use base::{Duration, FrameIdx};
use region::{FrameLane, Frames, LaneRef, Note, Owner, POOL_BATCH, RingsGuard};
use rustix::io::Errno;
use sys::fds::{self, Fd};
use sys::xsk;

use super::{Queue, XdpParts, XdpPort, XdpSockets};
use crate::PortSetup;

/// Frames put into a fill ring at once; what a note can say.
const BATCH: u32 = 64;
/// Rounds for others who ask meanwhile. Each is asked for by somebody, so this is never reached but by a region that somebody scribbles in.
const ROUNDS: u32 = 256;
/// Waits of [`XdpPort::settle`] for a lane that has the rings, each of a millisecond.
const WAITS: u32 = 100;

impl XdpPort {
    /// Serves the common rings if there is something to do. If another lane has them just now, that one does it.
    #[inline]
    pub(super) fn serve_common(&mut self, frames: &mut Frames<'_>) {
        if !self.is_due() {
            return;
        }
        let Some(mut held) = self.enter(frames) else { return };
        for _ in 0..ROUNDS {
            self.serve(&held, frames);
            match held.leave() {
                Some(again) => held = again,
                None => return,
            }
        }
    }

    fn enter(&self, frames: &Frames<'_>) -> Option<RingsGuard> {
        let me =
            frames.holder().unwrap_or_else(|| Owner { pid: sys::process::pid(), tid: sys::process::tid() });
        self.common.enter(me, |owner| sys::process::is_gone(owner.pid, owner.tid))
    }

    fn is_due(&self) -> bool {
        self.first.memory.completion.ready() > 0 || self.queues().any(|queue| self.missing(queue) > 0)
    }

    /// Frames by which the fill ring is below its level.
    fn missing(&self, queue: &Queue) -> u32 {
        (queue.memory.fill.room() + self.fill_level).saturating_sub(super::SIZES.fill)
    }

    fn serve(&mut self, held: &RingsGuard, frames: &mut Frames<'_>) {
        self.recover(held, frames);
        self.reap(frames);
        for at in 0..=self.further.len() {
            self.refill(at, held, frames);
        }
    }

    /// Takes back what one who died was about to put into a fill ring, and did not.
    fn recover(&self, held: &RingsGuard, frames: &mut Frames<'_>) {
        let Some(note) = held.note().read() else { return };
        let fill = &self.queue(usize::from(note.queue)).memory.fill;
        self.take_back(frames, note, fill.position(), |index| fill.at(index));
        held.note().clear();
    }

    /// Frees the frames that `note` names and the ring, at `position`, has not got. Those that are not marked as the kernel's are the dead one's still.
    pub(super) fn take_back(
        &self,
        frames: &mut Frames<'_>,
        note: Note,
        position: u32,
        address: impl Fn(u32) -> u64,
    ) {
        if note.first != position {
            return;
        }
        for at in 0..u32::from(note.count) {
            self.free(frames, address(position.wrapping_add(at)));
        }
    }

    /// Frees the frame at `address`, if it is the kernel's.
    fn free(&self, frames: &mut Frames<'_>, address: u64) {
        let frame = frames.at_address(address);
        if frames.take_from_kernel(frame, self.setup.port) {
            frames.release(frame);
        }
    }

    /// Frees the frames of packets that were sent, by whomever.
    fn reap(&self, frames: &mut Frames<'_>) {
        let completion = &self.first.memory.completion;
        for _ in 0..completion.ready() {
            let frame = frames.at_address(completion.get(0));
            // It is this lane's before the ring forgets it: a death in between leaves it to be found by its mark.
            let is_ours = frames.take_from_kernel(frame, self.setup.port);
            completion.consume(1);
            if is_ours {
                frames.release(frame);
            }
        }
    }

    /// Brings the fill ring of the queue at `at` to its level.
    fn refill(&mut self, at: usize, held: &RingsGuard, frames: &mut Frames<'_>) {
        let Queue { fd, memory, .. } = self.queue(at);
        let fill = &memory.fill;
        let mut left = self.missing(self.queue(at));
        let mut filled = false;
        while left > 0 {
            let mut put = 0;
            while put < left.min(BATCH) {
                let Some(frame) = frames.alloc() else { break };
                fill.put(put, frames.address(frame));
                put += 1;
            }
            if put == 0 {
                break;
            }
            let first = fill.position();
            held.note().write(Note { queue: at as u8, first, count: put as u8 });
            for place in 0..put {
                let frame = FrameIdx((fill.at(first.wrapping_add(place)) / FRAME_BYTES as u64) as u32);
                frames.give_to_kernel(frame, self.setup.port);
            }
            fill.submit(put);
            held.note().clear();
            (left, filled) = (left - put, true);
        }
        if filled && fill.needs_wakeup() {
            // It only hurries the driver; what is wrong with the device shows when we send or poll.
            let _ = xsk::kick_rx(fd);
            self.stats.syscalls += 1;
        }
    }

    /// Everything that an earlier holder of the lane left in rings gets the lane's mark, or stays the kernel's.
    fn settle(&mut self, frames: &mut Frames<'_>) -> Result<(), Errno> {
        self.recover_sending(frames);
        // What waits to be sent goes now. What is wrong with the device shows when the lane sends.
        let _ = self.kick();
        for queue in core::iter::once(&self.first).chain(&self.further) {
            let rx = &queue.rings.rx;
            for _ in 0..rx.ready() {
                self.free(frames, rx.get(0).address);
                rx.consume(1);
            }
        }
        let mut waits = 0;
        let held = loop {
            match self.enter(frames) {
                Some(held) => break held,
                None if waits < WAITS => waits += 1,
                None => return Err(Errno::BUSY),
            }
            let _ = sys::poll::poll(&mut [], Some(Duration::from_millis(1)));
        };
        self.recover(&held, frames);
        self.reap(frames);
        Ok(())
    }
}

/// What is to be done before `lane`, which the caller holds, is formatted and its frames reclaimed, when it gets AF_XDP sockets on its device number `device` that it
/// had before: those in which an earlier holder left something get the lane's mark, and the rings forget them. Else a frame could be in use anew while a
/// ring still names it.
///
/// # Errors
/// As [`XdpPort::from_parts`]; EBUSY when a lane has the common rings and does not go on (a stopped process).
pub fn settle(sockets: &[Fd], lane: LaneRef, device: u8) -> Result<(), Errno> {
    let fds: Result<Vec<Fd>, Errno> = sockets.iter().map(fds::duplicate).collect();
    let sockets = XdpSockets { fds: fds?, any: None, scatter: false, completes_checksums: false };
    let setup = PortSetup { port: device, mtu: 0, local_peer: false, own_address: false };
    let mut port = XdpPort::from_parts(XdpParts { sockets, companion: None }, lane, setup)?;
    let area = lane.frame_area();
    // What gets into this stock is reclaimed by its mark, like all the lane had.
    let mut stock = FrameLane { head: FrameIdx::NONE, free: 0, high: u32::MAX - POOL_BATCH, failed: 0 };
    port.settle(&mut area.frames(&mut stock))
}
