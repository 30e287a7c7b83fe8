//! A device with AF_XDP: an XSK on each of its receive queues for one lane, AF_PACKET sockets for the others.
//!
//! The kernel fills frames of the memory that the first socket of a queue registered, a region's, and the queue's fill and completion rings have one user. So
//! one lane at a time has the queues: the first that opens while they are free. What the XDP program finds for a lane without a socket on the packet's queue goes
//! on to the lane's packet socket, and the TCX program drops it for the kernel, as on devices without XDP.

use std::fmt;
use std::os::fd::AsFd;

use control::proto::{DeviceKind, LaneDevice, device_flags};
use control::steer::{SteerError, SteerLane, Steering};
use control::tables::{Link, LinkKind};
use port::packet::PacketSpec;
use port::xdp::{XdpRefused, XdpSockets, XdpSpec};
use rustix::io::Errno;
use sys::bpf::XdpMode;
use sys::fds::Fd;

use crate::regions::RegionMemory;

/// Why a lane has no socket on a device.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// No AF_XDP socket.
    Xdp(XdpRefused),
    /// The steering cannot be told.
    Steer(SteerError),
    /// Another call failed.
    Kernel(Errno),
}

impl OpenError {
    /// For the one who asked.
    pub(crate) fn errno(&self) -> Errno {
        match self {
            Self::Xdp(refused) => refused.errno,
            Self::Steer(_) => Errno::NODEV,
            Self::Kernel(errno) => *errno,
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Xdp(refused) => write!(f, "{refused}"),
            Self::Steer(error) => write!(f, "{error}"),
            Self::Kernel(errno) => write!(f, "{errno}"),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<Errno> for OpenError {
    fn from(errno: Errno) -> Self {
        Self::Kernel(errno)
    }
}

impl From<SteerError> for OpenError {
    fn from(error: SteerError) -> Self {
        Self::Steer(error)
    }
}

/// The AF_XDP side of a device.
pub(crate) struct XdpDevice {
    /// The program is in the driver, not in front of the stack.
    native: bool,
    /// Receive queues when it was attached.
    queues: u16,
    /// A lane has the queues.
    taken: bool,
    /// Does the driver read and write frames itself, as far as a lane found out?
    zero_copy: Option<bool>,
    /// Lanes with packet sockets.
    others: u16,
}

impl XdpDevice {
    /// Attaches the XDP program: in the driver if it can, else in front of the stack.
    pub(crate) fn attach(steering: &mut Steering, link: &Link) -> Result<Self, SteerError> {
        let queues = link.rx_queues.max(1);
        // On veth the driver's mode would turn the peer's segmentation offload off.
        let native =
            link.kind != LinkKind::Veth && steering.attach_xdp(link.ifindex, XdpMode::Native, queues).is_ok();
        if !native {
            steering.attach_xdp(link.ifindex, XdpMode::Generic, queues)?;
        }
        Ok(Self { native, queues, taken: false, zero_copy: None, others: 0 })
    }

    /// The sockets of a lane, whose description goes into `row`.
    pub(crate) fn open(
        &mut self,
        row: &mut LaneDevice,
        lane: SteerLane,
        memory: &RegionMemory,
        steering: &mut Steering,
    ) -> Result<Vec<Fd>, OpenError> {
        if !self.taken {
            match self.open_queues(row, lane, memory, steering) {
                // Another program's, or those of a lane that has just ended.
                Err(OpenError::Xdp(XdpRefused { queue, errno: Errno::BUSY })) => log::warn!(
                    "interface {}: another AF_XDP socket has queue {queue}; the lane gets a packet socket",
                    row.ifindex
                ),
                opened => return opened,
            }
        }
        steering.attach_packet_beside(row.ifindex)?;
        let fd = open_filtered(row.ifindex, lane, steering)?;
        self.others += 1;
        Ok(vec![fd])
    }

    fn open_queues(
        &mut self,
        row: &mut LaneDevice,
        lane: SteerLane,
        memory: &RegionMemory,
        steering: &mut Steering,
    ) -> Result<Vec<Fd>, OpenError> {
        let spec = XdpSpec {
            ifindex: row.ifindex,
            queues: u32::from(self.queues),
            mtu: u16::try_from(row.mtu).unwrap_or(u16::MAX),
            zero_copy: self.native,
            busy_poll: false,
        };
        let sockets = memory.with_frames(|cells| Ok(port::xdp::open(&spec, cells)))?;
        let sockets = sockets.map_err(OpenError::Xdp)?;
        let companion = port::xdp::open_companion(row.ifindex)?;
        for (queue, fd) in (0..self.queues).zip(&sockets.fds) {
            steering.set_socket(row.ifindex, queue, lane, fd)?;
        }
        let zero_copy = sockets.fds.first().is_some_and(|fd| sys::xsk::is_zero_copy(fd).unwrap_or(false));
        (self.taken, self.zero_copy) = (true, Some(zero_copy));
        row.kind = DeviceKind::Xdp;
        row.queues = self.queues;
        row.flags |= flags_of(self.native, zero_copy, &sockets);
        Ok(sockets.fds.into_iter().chain(sockets.any).chain([companion]).collect())
    }

    /// The lane with `row` is done.
    pub(crate) fn close(&mut self, row: &LaneDevice, lane: SteerLane, steering: &mut Steering) {
        if row.kind != DeviceKind::Xdp {
            self.others = self.others.saturating_sub(1);
            return;
        }
        self.taken = false;
        for queue in 0..row.queues {
            // The kernel takes a closed socket out by itself; this is only sooner.
            let _ = steering.clear_socket(row.ifindex, queue, lane);
        }
    }

    /// For `explain` and `--verbose`.
    pub(crate) fn describe(&self) -> String {
        let place = match (self.native, self.zero_copy) {
            (false, _) => "in generic mode",
            (true, None) => "in the driver",
            (true, Some(true)) => "in the driver, zero-copy",
            (true, Some(false)) => "in the driver, which copies",
        };
        let queues = if self.queues == 1 { "1 queue".to_owned() } else { format!("{} queues", self.queues) };
        let others = match (self.others, self.taken) {
            (0, _) => String::new(),
            (others, true) => format!(" for one lane, packet sockets for {others} more"),
            (others, false) => format!(" that no lane has, packet sockets for {others}"),
        };
        format!("xdp port {place}, {queues}{others}, addresses shared with the kernel")
    }
}

fn flags_of(native: bool, zero_copy: bool, sockets: &XdpSockets) -> u32 {
    let flag = |on: bool, flag: u32| if on { flag } else { 0 };
    flag(native, device_flags::XDP_NATIVE)
        | flag(zero_copy, device_flags::XDP_ZEROCOPY)
        | flag(sockets.scatter, device_flags::XDP_MULTI_BUFFER)
        | flag(sockets.completes_checksums, device_flags::XDP_TX_CHECKSUM)
        | device_flags::GSO_SOCKET
}

/// A packet socket of `lane`, which receives what is steered to the lane and no more.
pub(crate) fn open_filtered(ifindex: u32, lane: SteerLane, steering: &Steering) -> Result<Fd, OpenError> {
    let filter = steering.filter_program(lane)?;
    let spec = PacketSpec { ifindex, filter: Some(filter.as_fd()), ring: true, qdisc_bypass: false };
    let fd = port::packet::open(&spec)?;
    sys::bpf::lock_filter(&fd)?;
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_description_says_who_has_the_queues() {
        let device =
            |queues, taken, others| XdpDevice { native: true, queues, taken, zero_copy: None, others };
        let says = |device: &XdpDevice, text: &str| {
            assert!(device.describe().contains(text), "{}", device.describe())
        };
        says(&device(1, true, 0), "in the driver, 1 queue, addresses");
        says(&device(4, true, 2), "4 queues for one lane, packet sockets for 2 more,");
        says(&device(4, false, 2), "4 queues that no lane has, packet sockets for 2,");
        says(
            &XdpDevice { zero_copy: Some(true), ..device(4, true, 0) },
            "in the driver, zero-copy, 4 queues,",
        );
        says(
            &XdpDevice { zero_copy: Some(false), ..device(4, true, 0) },
            "in the driver, which copies, 4 queues,",
        );
    }

    #[test]
    fn what_the_kernel_refuses_is_said_in_words() {
        let refused = |errno| OpenError::Xdp(XdpRefused { queue: 3, errno });
        assert_eq!(refused(Errno::OPNOTSUPP).to_string(), "the driver has no AF_XDP on queue 3");
        assert_eq!(
            refused(Errno::NOBUFS).to_string(),
            "its AF_XDP memory is more than may be locked (ulimit -l)"
        );
        assert_eq!(
            (refused(Errno::BUSY).errno(), OpenError::from(Errno::PERM).errno()),
            (Errno::BUSY, Errno::PERM)
        );
    }
}
