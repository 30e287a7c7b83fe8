//! The ports of a lane from what the keeper hands out: a description and fds for each device.

use control::proto::{DeviceKind, LaneDevice, device_flags};
use port::packet::PacketPort;
use port::tap::TapPort;
use port::{Port, PortSetup};
use region::Region;
use sys::fds::Fd;

use crate::LanePort;

/// Why a device could not be opened in this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenError {
    /// The keeper sent fewer fds than the description says.
    MissingFd,
    /// This library does not know the kind of device.
    UnknownKind,
}

impl core::fmt::Display for OpenError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::MissingFd => "the keeper sent a device without its descriptors",
            Self::UnknownKind => "the keeper sent a kind of device that this library does not know",
        })
    }
}

impl std::error::Error for OpenError {}

/// Opens the device number `at` of a lane of `region`; takes its fds from the front of `fds`.
///
/// # Errors
/// [`OpenError`].
pub fn open_device(
    region: Region,
    at: u8,
    device: &LaneDevice,
    fds: &mut impl Iterator<Item = Fd>,
) -> Result<LanePort, OpenError> {
    let has = |flag: u32| device.flags & flag != 0;
    let setup = PortSetup {
        port: at,
        mtu: u16::try_from(device.mtu).unwrap_or(u16::MAX),
        local_peer: has(device_flags::UNFINISHED_CHECKSUMS),
        own_address: has(device_flags::OWN_ADDRESS),
    };
    let mut own = fds.take(usize::from(device.fds));
    let fd = own.next().ok_or(OpenError::MissingFd)?;
    let area = region.frame_area();
    let port: Box<dyn Port + Send> = match device.kind {
        DeviceKind::Packet => Box::new(PacketPort::from_fd(fd, area, setup)),
        DeviceKind::Tap => Box::new(TapPort::from_fd(fd, area, setup)),
        DeviceKind::Xdp => return Err(OpenError::UnknownKind),
    };
    Ok(LanePort { port, ifindex: device.ifindex, mac: device.mac })
}
