//! Receiving: recvmmsg straight into chains of frames.

use base::limits::BATCH_FRAMES;
use region::Frames;
use rustix::io::Errno;
use state::RxBatch;

use super::PacketPort;
use crate::PortError;
use crate::intake::{HEAD_ROOM, Width};

/// Messages posted when nothing is known of the traffic.
const POST_MIN: usize = 4;
/// Wide messages posted at most in one call: 272 frames.
pub(super) const WIDE_MAX: usize = 16;
/// Calls with packets but without a super-frame after which messages are posted narrow again.
const WIDE_CALLS: u32 = 64;

/// How much to post, learnt from what came last: posting costs time, and frames that others may need.
pub(super) struct Appetite {
    messages: usize,
    wide_left: u32,
}

impl Appetite {
    pub(super) const fn new() -> Self {
        Self { messages: POST_MIN, wide_left: 0 }
    }

    fn width(&self) -> Width {
        if self.wide_left > 0 { Width::Wide } else { Width::Narrow }
    }

    fn messages(&self) -> usize {
        match self.width() {
            Width::Narrow => self.messages,
            Width::Wide => self.messages.min(WIDE_MAX),
        }
    }

    /// `posted` messages brought `got` packets, the longest of `longest` bytes.
    fn learn(&mut self, posted: usize, got: usize, longest: u32) {
        self.messages = if got >= posted {
            (posted * 2).min(BATCH_FRAMES)
        } else {
            // Down in steps, so that a short pause in a burst does not cost the next one extra calls.
            self.messages.saturating_sub(1).max(got + 1).max(POST_MIN)
        };
        if longest as usize > HEAD_ROOM {
            self.wide_left = WIDE_CALLS;
        } else if got > 0 {
            self.wide_left = self.wide_left.saturating_sub(1);
        }
    }
}

impl PacketPort {
    pub(super) fn receive(
        &mut self,
        frames: &mut Frames<'_>,
        batch: &mut RxBatch,
    ) -> Result<usize, PortError> {
        let before = batch.room();
        loop {
            let want = self.appetite.messages().min(batch.room());
            let width = self.appetite.width();
            let mut posted = 0;
            while posted < want && self.intake.post(frames, posted, width) {
                posted += 1;
            }
            if posted == 0 {
                break;
            }
            match self.take(frames, batch, posted) {
                Ok(got) if got == posted => {}
                // What came before the error is handed over; the next call reports it.
                Err(error) if batch.room() == before => return Err(error),
                Ok(_) | Err(_) => break,
            }
        }
        Ok(before - batch.room())
    }

    /// One call into the first `posted` messages; gives how many packets arrived.
    pub(super) fn take(
        &mut self,
        frames: &mut Frames<'_>,
        batch: &mut RxBatch,
        posted: usize,
    ) -> Result<usize, PortError> {
        self.stats.syscalls += 1;
        let result = self.intake.messages.receive(&self.fd, posted);
        let got = result.unwrap_or(0);
        let mut longest = 0;
        for index in 0..got {
            let Some(packet) = self.intake.collect(frames, index, &self.setup) else {
                self.stats.rx_dropped += 1;
                continue;
            };
            longest = longest.max(packet.len);
            self.stats.rx_packets += 1;
            self.stats.rx_bytes += u64::from(packet.len);
            batch.push(packet);
        }
        for index in got..posted {
            self.intake.withdraw(frames, index);
        }
        self.appetite.learn(posted, got, longest);
        match result {
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => Ok(got),
            Err(errno) => PortError::of(errno).map_or(Ok(0), Err),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_posts_more_under_load_and_whole_chains_while_super_frames_come() {
        let mut appetite = Appetite::new();
        for _ in 0..10 {
            let posted = appetite.messages();
            appetite.learn(posted, posted, 60);
        }
        assert_eq!((appetite.messages(), appetite.width()), (BATCH_FRAMES, Width::Narrow));
        appetite.learn(BATCH_FRAMES, 3, 60_000);
        assert_eq!((appetite.messages(), appetite.width()), (WIDE_MAX, Width::Wide));
        for _ in 0..WIDE_CALLS {
            appetite.learn(WIDE_MAX, 1, 60);
            appetite.learn(WIDE_MAX, 0, 0);
        }
        assert_eq!((appetite.messages(), appetite.width()), (POST_MIN, Width::Narrow));
    }
}
