//! A device with AF_XDP: an XSK on each of its receive queues for each lane of one region, AF_PACKET sockets for lanes of others.
//!
//! The kernel fills frames of the memory that the first socket of a queue registered, a region's. So one region at a time has the queues: that of the
//! first lane that opens while they are free, until the region ends. The sockets of a lane that ended are kept for the next lane with its number: packets may wait in
//! their rings, whose frames are found only there (`port::xdp::settle`). What the XDP program finds for a lane without a socket on the packet's queue
//! goes on to the lane's packet socket, and the TCX program drops it for the kernel, as on devices without XDP.

use std::collections::BTreeMap;
use std::fmt;
use std::os::fd::AsFd;

use base::LaneId;
use control::proto::{DeviceKind, LaneDevice, device_flags};
use control::steer::{SteerError, SteerLane, Steering};
use control::tables::{Link, LinkKind};
use port::packet::PacketSpec;
use port::xdp::{XdpRefused, XdpSockets, XdpSpec};
use rustix::io::Errno;
use sys::bpf::XdpMode;
use sys::fds::Fd;

use crate::devices::Seat;
use crate::regions::RegionMemory;
use crate::session::RegionId;

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
    /// The region that has the queues.
    holder: Option<Holder>,
    /// Does the driver read and write frames itself, as far as a lane found out?
    zero_copy: Option<bool>,
    /// Lanes with packet sockets.
    others: u16,
}

/// A region that has the queues of a device.
struct Holder {
    region: RegionId,
    /// Its lanes with AF_XDP sockets.
    lanes: u16,
    /// Its first sockets, with which others share memory and rings.
    base: XdpSockets,
    /// All fds of lanes that ended, as they were handed out.
    ended: BTreeMap<LaneId, Vec<Fd>>,
}

/// Can lanes of a program share the queues of `link`? Before Linux 6.15 two sockets of one queue that receive at the same time in generic mode may be given the
/// same frame (CVE-2025-37920); in the driver's mode packets of a queue are handled one after the other.
pub fn can_share_queues(link: &Link) -> bool {
    can_share(link.kind != LinkKind::Veth)
}

fn can_share(native: bool) -> bool {
    native || sys::kernel::version(&sys::kernel::release()).is_some_and(|version| version >= (6, 15))
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
        Ok(Self { native, queues, holder: None, zero_copy: None, others: 0 })
    }

    /// The sockets of the lane at `seat`, whose description goes into `row`.
    pub(crate) fn open(
        &mut self,
        row: &mut LaneDevice,
        (seat, lane): (Seat, SteerLane),
        memory: &RegionMemory,
        steering: &mut Steering,
    ) -> Result<Vec<Fd>, OpenError> {
        match self.open_queues(row, seat, memory) {
            Ok(Some(fds)) => {
                let mut sockets = (0..self.queues).zip(&fds);
                let set =
                    sockets.try_for_each(|(queue, fd)| steering.set_socket(row.ifindex, queue, lane, fd));
                return match set {
                    Ok(()) => Ok(fds),
                    Err(error) => {
                        self.close(row, (seat, lane), fds, steering);
                        Err(error.into())
                    }
                };
            }
            Ok(None) => {}
            // Another program's, or those of a region that has just ended.
            Err(OpenError::Xdp(XdpRefused { queue, errno: Errno::BUSY })) => log::warn!(
                "interface {}: another AF_XDP socket has queue {queue}; the lane gets a packet socket",
                row.ifindex
            ),
            Err(error) => return Err(error),
        }
        steering.attach_packet_beside(row.ifindex)?;
        let fd = open_filtered(row.ifindex, lane, steering)?;
        self.others += 1;
        Ok(vec![fd])
    }

    /// AF_XDP sockets for the lane at `seat`. `None`: another region has the queues, or lanes cannot share them.
    fn open_queues(
        &mut self,
        row: &mut LaneDevice,
        seat: Seat,
        memory: &RegionMemory,
    ) -> Result<Option<Vec<Fd>>, OpenError> {
        let native = self.native;
        let spec = XdpSpec {
            ifindex: row.ifindex,
            queues: u32::from(self.queues),
            mtu: u16::try_from(row.mtu).unwrap_or(u16::MAX),
            zero_copy: native,
            busy_poll: false,
        };
        let (holder, used_before) = match &mut self.holder {
            Some(holder) if holder.region != seat.region => return Ok(None),
            Some(holder) => match holder.ended.remove(&seat.lane) {
                Some(fds) => (holder, Some(fds)),
                // Not even after the first lane: that one may come back, to the sockets it had.
                None if holder.is_used() && !can_share(native) => return Ok(None),
                None => (holder, None),
            },
            free => {
                let base = memory.with_frames(|cells| Ok(port::xdp::open(&spec, cells)))?;
                let base = base.map_err(OpenError::Xdp)?;
                let holder = Holder { region: seat.region, lanes: 0, base, ended: BTreeMap::new() };
                (free.insert(holder), None)
            }
        };
        let zero_copy = holder.base.fds.first().is_some_and(|fd| sys::xsk::is_zero_copy(fd).unwrap_or(false));
        row.kind = DeviceKind::Xdp;
        row.queues = self.queues;
        row.flags |= flags_of(native, zero_copy, &holder.base);
        let fds = match used_before {
            Some(fds) => {
                row.flags |= device_flags::XDP_USED_BEFORE;
                fds
            }
            None => holder.sockets(&spec)?,
        };
        holder.lanes += 1;
        self.zero_copy = Some(zero_copy);
        Ok(Some(fds))
    }

    /// The lane at `seat`, with `row` and `fds`, is done.
    pub(crate) fn close(
        &mut self,
        row: &LaneDevice,
        (seat, lane): (Seat, SteerLane),
        fds: Vec<Fd>,
        steering: &mut Steering,
    ) {
        if row.kind != DeviceKind::Xdp {
            self.others = self.others.saturating_sub(1);
            return;
        }
        for queue in 0..row.queues {
            // One that was not entered is as good.
            let _ = steering.clear_socket(row.ifindex, queue, lane);
        }
        if let Some(holder) = self.holder.as_mut().filter(|holder| holder.region == seat.region) {
            holder.lanes = holder.lanes.saturating_sub(1);
            holder.ended.insert(seat.lane, fds);
        }
    }

    /// `region` is no more.
    pub(crate) fn forget(&mut self, region: RegionId) {
        self.holder = self.holder.take().filter(|holder| holder.region != region);
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
        let lanes = match (self.holder.as_ref().map_or(0, |holder| holder.lanes), self.others) {
            (0 | 1, 0) => String::new(),
            (lanes, 0) => format!(" for {lanes} lanes"),
            (0, others) => format!(" that no lane has, packet sockets for {others}"),
            (1, others) => format!(" for one lane, packet sockets for {others} more"),
            (lanes, others) => format!(" for {lanes} lanes, packet sockets for {others} more"),
        };
        format!("xdp port {place}, {queues}{lanes}, addresses shared with the kernel")
    }
}

impl Holder {
    /// Has a lane its first sockets, or had them?
    fn is_used(&self) -> bool {
        self.lanes > 0 || !self.ended.is_empty()
    }

    /// Sockets for another lane: on each queue, what polls for all of them, and the companion.
    fn sockets(&self, spec: &XdpSpec) -> Result<Vec<Fd>, OpenError> {
        // The first ones are a lane's too, which has copies.
        let sockets = if !self.is_used() {
            let copy = |fd: &Fd| sys::fds::duplicate(fd);
            XdpSockets {
                fds: self.base.fds.iter().map(copy).collect::<Result<_, _>>()?,
                any: self.base.any.as_ref().map(copy).transpose()?,
                ..self.base
            }
        } else {
            port::xdp::share(spec, &self.base).map_err(OpenError::Xdp)?
        };
        let companion = port::xdp::open_companion(spec.ifindex)?;
        Ok(sockets.fds.into_iter().chain(sockets.any).chain([companion]).collect())
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
        let device = |queues, lanes: Option<u16>, others| {
            let base = XdpSockets { fds: Vec::new(), any: None, scatter: false, completes_checksums: false };
            let of = |lanes| Holder { region: RegionId(1), lanes, base, ended: BTreeMap::new() };
            XdpDevice { native: true, queues, holder: lanes.map(of), zero_copy: None, others }
        };
        let says = |device: &XdpDevice, text: &str| {
            assert!(device.describe().contains(text), "{}", device.describe())
        };
        says(&device(1, Some(1), 0), "in the driver, 1 queue, addresses");
        says(&device(4, Some(1), 2), "4 queues for one lane, packet sockets for 2 more,");
        says(&device(4, Some(3), 0), "4 queues for 3 lanes, addresses");
        says(&device(4, Some(3), 2), "4 queues for 3 lanes, packet sockets for 2 more,");
        says(&device(4, Some(0), 2), "4 queues that no lane has, packet sockets for 2,");
        says(&device(4, None, 2), "4 queues that no lane has, packet sockets for 2,");
        says(
            &XdpDevice { zero_copy: Some(true), ..device(4, Some(1), 0) },
            "in the driver, zero-copy, 4 queues,",
        );
        says(
            &XdpDevice { zero_copy: Some(false), ..device(4, Some(1), 0) },
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
