//! Ports from what the keeper hands out for a lane.

use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use base::LaneId;
use control::proto::{DeviceKind, DeviceList, LaneDevice, device_flags};
use control::tables::Tables;
use lane::{Lane, LanePort};
use port::PortSetup;
use region::Region;
use sys::fds::Fd;

use crate::table;

/// One device and the descriptors of it.
struct Device {
    device: LaneDevice,
    fds: Vec<RawFd>,
}

/// The devices of one lane.
pub(crate) struct Devices {
    region: Region,
    tables: Option<Tables>,
    list: Vec<Device>,
}

impl Devices {
    /// Takes over `fds`, in the order of `devices`. They stay open as long as the process.
    pub(crate) fn new(region: Region, tables: Option<Tables>, devices: &DeviceList, fds: Vec<Fd>) -> Self {
        let mut fds = fds.into_iter().map(|fd| table::keep(fd).into_raw());
        let mut take = |device: &LaneDevice| Device {
            device: *device,
            fds: fds.by_ref().take(usize::from(device.fds)).collect(),
        };
        let list = devices.as_slice().iter().map(&mut take).collect();
        Self { region, tables, list }
    }

    /// A lane with new ports on these devices. `again`: on copies of the descriptors, because the first lane has them.
    pub(crate) fn make_lane(&self, id: LaneId, again: bool) -> Option<Lane> {
        let mut ports = Vec::new();
        for (at, device) in (0..).zip(&self.list) {
            ports.push(self.make_port(at, device, again)?);
        }
        Lane::new(self.region, id, ports, self.tables)
    }

    fn make_port(&self, at: u8, from: &Device, again: bool) -> Option<LanePort> {
        let device = &from.device;
        let has = |flag: u32| device.flags & flag != 0;
        let setup = PortSetup {
            port: at,
            mtu: device.mtu.min(u32::from(u16::MAX)) as u16,
            local_peer: has(device_flags::UNFINISHED_CHECKSUMS),
            own_address: has(device_flags::OWN_ADDRESS),
        };
        let fd = owned(*from.fds.first()?, again)?;
        let area = self.region.frame_area();
        let port: Box<dyn port::Port + Send> = match device.kind {
            DeviceKind::Packet => Box::new(port::packet::PacketPort::from_fd(fd, area, setup)),
            DeviceKind::Tap => Box::new(port::tap::TapPort::from_fd(fd, area, setup)),
            DeviceKind::Xdp => return None,
        };
        Some(LanePort { port, ifindex: device.ifindex, mac: device.mac })
    }
}

/// `raw`, or a copy of it.
fn owned(raw: RawFd, copy: bool) -> Option<Fd> {
    if !copy {
        // SAFETY: `Devices::new` kept it open, and the first lane becomes its only owner.
        return Some(unsafe { Fd::from_raw(raw) });
    }
    // SAFETY: the first lane owns it and is never dropped.
    let fd = unsafe { BorrowedFd::borrow_raw(raw) };
    let copy = table::keep(sys::fds::duplicate(&fd).ok()?);
    debug_assert!(copy.as_raw_fd() != raw);
    Some(copy)
}
