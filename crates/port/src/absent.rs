//! No port: in the place of one that a process does not have, so that the others keep their numbers.

use std::os::fd::BorrowedFd;

use region::Frames;
use rustix::io::Errno;
use state::{RxBatch, TxFrame};

use crate::{Port, PortCaps, PortError, PortStats};

/// Receives nothing, sends nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct AbsentPort;

impl Port for AbsentPort {
    fn rx(&mut self, _frames: &mut Frames<'_>, _batch: &mut RxBatch) -> Result<usize, PortError> {
        Ok(0)
    }

    fn tx(&mut self, _frames: &mut Frames<'_>, _packets: &[TxFrame]) -> Result<usize, PortError> {
        Err(PortError::Device(Errno::NODEV.raw_os_error()))
    }

    fn release(&mut self, _frames: &mut Frames<'_>) {}

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn packets_wait(&self) -> Option<bool> {
        Some(false)
    }

    fn caps(&self) -> PortCaps {
        PortCaps { mtu: 0, super_segment_max: 0, local_peer: false, own_address: false }
    }

    fn stats(&self) -> PortStats {
        PortStats::default()
    }
}
