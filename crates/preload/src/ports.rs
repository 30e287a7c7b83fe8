//! Ports from what the keeper hands out for a lane.

use std::os::fd::{BorrowedFd, RawFd};

use base::LaneId;
use control::proto::{DeviceList, LaneDevice, WireEnd};
use control::tables::Tables;
use lane::{Lane, LanePort};
use port::fault::FaultSpec;
use region::Region;
use sys::fds::Fd;

use crate::table;
use crate::wires::Wires;

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
    /// Wires that the lane got since it was made.
    pub(crate) wires: Wires,
    /// A bad network, for tests (`CORELANE_FAULT`).
    faults: Option<FaultSpec>,
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
        let faults = std::env::var("CORELANE_FAULT").ok().and_then(|text| lane::parse_faults(&text).ok());
        Self { region, tables, list, wires: Wires::new(), faults }
    }

    /// A lane with new ports on these devices. `again`: on copies of the descriptors, because the first lane has them.
    pub(crate) fn make_lane(&self, id: LaneId, again: bool) -> Option<Lane> {
        let lane = self.lane_without_wires(id, again)?;
        for (at, port) in self.wires.again(self.region) {
            lane.place_port(at, port);
        }
        Some(lane)
    }

    /// [`Devices::make_lane`] without the wires, which lead to one lane of the region alone.
    pub(crate) fn lane_without_wires(&self, id: LaneId, again: bool) -> Option<Lane> {
        let mut ports = Vec::new();
        for (at, device) in (0..).zip(&self.list) {
            ports.push(self.make_port(id, at, device, again)?);
        }
        Lane::new(self.region, id, ports, self.tables)
    }

    /// A port on a wire that the lane gets.
    pub(crate) fn add_wire(&self, end: &WireEnd, fds: Vec<Fd>) -> Option<LanePort> {
        self.wires.add(self.region, end, fds)
    }

    fn make_port(&self, id: LaneId, at: u8, from: &Device, again: bool) -> Option<LanePort> {
        let mut fds = Vec::new();
        for &raw in &from.fds {
            fds.push(owned(raw, again)?);
        }
        let port = lane::open_device(self.region.lane(id)?, at, &from.device, &mut fds.into_iter()).ok()?;
        Some(match self.faults {
            Some(spec) => port.with_faults(spec),
            None => port,
        })
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
    Some(table::keep(sys::fds::duplicate(&fd).ok()?))
}
