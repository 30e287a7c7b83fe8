//! Writes what goes through any port to a pcapng file (draft-ietf-opsawg-pcapng), for Wireshark and tcpdump.
//!
//! A super-frame is one packet in the file, and a checksum that its sender left unfinished looks wrong there. Leaves
//! out: name resolution, statistics blocks, more than one interface a file.

mod file;

use std::os::fd::BorrowedFd;

use region::Frames;
use state::{RxBatch, TxFrame};

use crate::{Port, PortCaps, PortError, PortStats, chain};
pub use file::{CaptureFile, Direction};

/// A port whose packets are also written to a file.
pub struct CapturePort<P> {
    inner: P,
    file: CaptureFile,
    /// ns since 1970, or since the start of a simulation.
    clock: fn() -> u64,
    bytes: Vec<u8>,
}

impl<P: Port> CapturePort<P> {
    /// `inner`, captured to `file` with times of `clock` (ns; [`sys::clock::wall_ns`] outside simulations).
    pub fn new(inner: P, file: CaptureFile, clock: fn() -> u64) -> Self {
        Self { inner, file, clock, bytes: Vec::new() }
    }

    /// The file: how much it holds, whether it could be written.
    pub fn file(&self) -> &CaptureFile {
        &self.file
    }
}

impl<P: Port> Port for CapturePort<P> {
    fn rx(&mut self, frames: &mut Frames<'_>, batch: &mut RxBatch) -> Result<usize, PortError> {
        let before = batch.items().len();
        let got = self.inner.rx(frames, batch)?;
        let now = (self.clock)();
        for packet in batch.items().iter().skip(before) {
            self.bytes.clear();
            chain::read(frames, packet.head, &mut self.bytes);
            self.file.packet(Direction::Received, now, &self.bytes);
        }
        if got == 0 {
            // A pause: whoever looks at the file now sees everything.
            self.file.flush();
        }
        Ok(got)
    }

    fn tx(&mut self, frames: &mut Frames<'_>, packets: &[TxFrame]) -> Result<usize, PortError> {
        let now = (self.clock)();
        // Read before they are sent: the port may change headers when it does, and frees them.
        let marks: Vec<usize> = packets.iter().map(|packet| self.read(frames, packet)).collect();
        let sent = self.inner.tx(frames, packets);
        let mut from = 0;
        for end in marks.iter().take(*sent.as_ref().unwrap_or(&0)) {
            self.file.packet(Direction::Sent, now, self.bytes.get(from..*end).unwrap_or(&[]));
            from = *end;
        }
        self.bytes.clear();
        sent
    }

    fn sends_later(&self) -> bool {
        self.inner.sends_later()
    }

    fn release(&mut self, frames: &mut Frames<'_>) {
        self.file.flush();
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

impl<P> CapturePort<P> {
    /// Appends a packet to send to the buffer; gives where it ends.
    fn read(&mut self, frames: &Frames<'_>, packet: &TxFrame) -> usize {
        chain::read_tx(frames, packet, &mut self.bytes);
        self.bytes.len()
    }
}
