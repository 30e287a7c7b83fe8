//! Sources and sinks of frames, one folder a back-end, with the same files in each: open rx tx stats.
//!
//! Back-ends: [`packet`] (AF_PACKET with virtio_net_hdr), [`tap`], [`xdp`], [`memif`] (memory shared with another program), [`lend`] (frames lent to another
//! lane of the same region), [`simwire`]
//! (no device at all). Around any of them: [`fault`], [`capture`]. For those without offloads: [`split`]. What they share: [`vnet`] (checksum and super-frame state in
//! front of a packet) and the posting of frames to receive into.

use std::os::fd::BorrowedFd;

use region::Frames;
use rustix::io::Errno;
use state::{RxBatch, TxFrame};

pub mod absent;
pub mod capture;
pub mod chain;
mod egress;
pub mod fault;
mod intake;
pub mod lend;
pub mod memif;
pub mod packet;
pub mod simwire;
pub mod split;
pub mod tap;
pub mod vnet;
pub mod xdp;

/// What a port can take off the engine's hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortCaps {
    /// Largest packet on the wire without its Ethernet header, bytes.
    pub mtu: u16,
    /// Largest super-segment (payload bytes) it takes in one [`TxFrame`]; 0: none, the engine sends at most the MSS.
    pub super_segment_max: u32,
    /// Does a peer on this machine possibly leave checksums unfinished?
    pub local_peer: bool,
    /// Does the address of this device belong to Corelane alone, so that the engine answers ARP and ICMP?
    pub own_address: bool,
}

/// What a back-end is told about its device when it is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortSetup {
    /// Its index among the lane's ports; goes into [`state::RxFrame::port`].
    pub port: u8,
    /// Largest packet on the wire without its Ethernet header, bytes.
    pub mtu: u16,
    /// As [`PortCaps::local_peer`].
    pub local_peer: bool,
    /// As [`PortCaps::own_address`].
    pub own_address: bool,
}

impl PortSetup {
    /// The abilities of a port on this device that takes super-segments of up to `super_segment_max` bytes.
    pub(crate) const fn caps(&self, super_segment_max: u32) -> PortCaps {
        PortCaps {
            mtu: self.mtu,
            super_segment_max,
            local_peer: self.local_peer,
            own_address: self.own_address,
        }
    }
}

/// Packets and losses of one port since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortStats {
    /// Packets received (a super-frame counts once).
    pub rx_packets: u64,
    /// Bytes received, Ethernet headers included.
    pub rx_bytes: u64,
    /// Packets that arrived and were lost for want of frames or ring space.
    pub rx_dropped: u64,
    /// Packets sent (a super-frame counts once).
    pub tx_packets: u64,
    /// Bytes sent, Ethernet headers included.
    pub tx_bytes: u64,
    /// Packets the device or kernel refused for good.
    pub tx_dropped: u64,
    /// System calls made for data.
    pub syscalls: u64,
}

/// Why a port stopped working.
#[derive(Debug)]
pub enum PortError {
    /// The device is gone or down; the errno of the call that said so.
    Device(i32),
}

impl PortError {
    /// Does `errno` say that the device itself is gone or down?
    pub(crate) fn of(errno: Errno) -> Option<Self> {
        match errno {
            Errno::NETDOWN | Errno::NODEV | Errno::NXIO | Errno::BADF | Errno::BADFD | Errno::IO => {
                Some(Self::Device(errno.raw_os_error()))
            }
            _ => None,
        }
    }
}

impl core::fmt::Display for PortError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let Self::Device(errno) = self;
        write!(f, "the device is gone or down: {}", Errno::from_raw_os_error(*errno))
    }
}

impl std::error::Error for PortError {}

/// A source and sink of frames. One lane holds it at a time.
pub trait Port {
    /// Receives into `batch` as many packets as it has room for, without blocking. Gives the number added. The
    /// packets' chains then belong to the batch's owner.
    ///
    /// # Errors
    /// [`PortError`] when the device is gone.
    fn rx(&mut self, frames: &mut Frames<'_>, batch: &mut RxBatch) -> Result<usize, PortError>;

    /// Sends `packets` in order, without blocking, in as few system calls as it can. Gives how many were taken from the front: those
    /// are sent or lost for good, and their head references released; the caller offers the others again later.
    ///
    /// # Errors
    /// [`PortError`] when the device is gone.
    fn tx(&mut self, frames: &mut Frames<'_>, packets: &[TxFrame]) -> Result<usize, PortError>;

    /// Does something that [`Port::tx`] took still wait for the kernel to take it? That goes with the next call, be it one without packets.
    fn sends_later(&self) -> bool {
        false
    }

    /// Gives back every frame the port holds between calls. Called before it is dropped; it may go on working.
    fn release(&mut self, frames: &mut Frames<'_>);

    /// Has [`Port::rx`] something, as far as memory shows? `None`: only the fd tells.
    fn packets_wait(&self) -> Option<bool> {
        None
    }

    /// The fd that polls readable when [`Port::rx`] has something.
    fn poll_fd(&self) -> Option<BorrowedFd<'_>>;

    /// To be called before a sleep on [`Port::poll_fd`]: a port whose sender signals on demand only asks for it here. True: there is
    /// something to receive already, so do not sleep.
    fn arm(&mut self) -> bool {
        false
    }

    /// After the sleep, however it ended. `last`: nobody else sleeps on this port, so that no signal is wanted until the next
    /// [`Port::arm`]; otherwise the others are signalled when there is something to receive.
    fn disarm(&mut self, last: bool) {
        let _ = last;
    }

    /// What it can do.
    fn caps(&self) -> PortCaps;

    /// Its counters.
    fn stats(&self) -> PortStats;
}

/// So that middleware can stand around a port whose back-end was chosen at run time.
impl<P: Port + ?Sized> Port for Box<P> {
    fn rx(&mut self, frames: &mut Frames<'_>, batch: &mut RxBatch) -> Result<usize, PortError> {
        (**self).rx(frames, batch)
    }

    fn tx(&mut self, frames: &mut Frames<'_>, packets: &[TxFrame]) -> Result<usize, PortError> {
        (**self).tx(frames, packets)
    }

    fn sends_later(&self) -> bool {
        (**self).sends_later()
    }

    fn release(&mut self, frames: &mut Frames<'_>) {
        (**self).release(frames);
    }

    fn packets_wait(&self) -> Option<bool> {
        (**self).packets_wait()
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        (**self).poll_fd()
    }

    fn arm(&mut self) -> bool {
        (**self).arm()
    }

    fn disarm(&mut self, last: bool) {
        (**self).disarm(last);
    }

    fn caps(&self) -> PortCaps {
        (**self).caps()
    }

    fn stats(&self) -> PortStats {
        (**self).stats()
    }
}
