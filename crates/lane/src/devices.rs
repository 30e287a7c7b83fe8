//! The ports of a lane from what the keeper hands out: a description and fds for each device.

use base::limits::SUPER_SEGMENT_BYTES;
use base::{IpAddress, MacAddr};
use control::proto::{DeviceKind, LaneDevice, WireEnd, device_flags};
use engine::RouteTo;
use port::absent::AbsentPort;
use port::fault::{FaultPort, FaultSpec, Rates};
use port::memif::{MemifError, MemifParts, MemifPort, Role, WireShape};
use port::packet::PacketPort;
use port::tap::TapPort;
use port::xdp::{XdpParts, XdpPort, XdpSockets};
use port::{Port, PortSetup};
use region::{LaneRef, Region};
use sys::fds::Fd;

use crate::{LanePort, Wire};

/// Why a device could not be opened in this process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpenError {
    /// The keeper sent fewer fds than the description says.
    MissingFd,
    /// The kernel refused to map the rings of an AF_XDP socket, with this errno.
    Rings(i32),
    /// The wire cannot be used.
    Wire(MemifError),
}

impl core::fmt::Display for OpenError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::MissingFd => f.write_str("the keeper sent a device without its descriptors"),
            Self::Rings(errno) => {
                write!(f, "the rings of the AF_XDP socket cannot be mapped (errno {errno})")
            }
            Self::Wire(error) => write!(f, "the wire cannot be used: {error}"),
        }
    }
}

impl std::error::Error for OpenError {}

/// Opens the device number `at` of `lane`; takes its fds from the front of `fds`.
///
/// # Errors
/// [`OpenError`].
pub fn open_device(
    lane: LaneRef,
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
    let area = lane.frame_area();
    let port: Box<dyn Port + Send> = match device.kind {
        DeviceKind::Packet => Box::new(PacketPort::from_fd(fd, area, setup)),
        DeviceKind::Tap => Box::new(TapPort::from_fd(fd, area, setup)),
        DeviceKind::Memif => {
            let port = MemifPort::from_fds(core::iter::once(fd).chain(own), area, setup);
            Box::new(port.map_err(OpenError::Wire)?)
        }
        DeviceKind::Xdp => {
            let mut further = || own.next().ok_or(OpenError::MissingFd);
            let mut fds = vec![fd];
            for _ in 1..device.queues {
                fds.push(further()?);
            }
            let any = if device.queues > 1 { Some(further()?) } else { None };
            let companion = if has(device_flags::GSO_SOCKET) { Some(further()?) } else { None };
            let sockets = XdpSockets {
                fds,
                any,
                scatter: has(device_flags::XDP_MULTI_BUFFER),
                completes_checksums: has(device_flags::XDP_TX_CHECKSUM),
            };
            let parts = XdpParts { sockets, companion };
            let port = XdpPort::from_parts(parts, lane, setup);
            Box::new(port.map_err(|errno| OpenError::Rings(errno.raw_os_error()))?)
        }
    };
    Ok(LanePort { port, ifindex: device.ifindex, mac: device.mac, wire: None })
}

/// What is to be done before `lane`, which the caller holds, is formatted: its `devices` may come with AF_XDP sockets that it had before, and their rings may name
/// frames that were its. `fds` are those of the devices.
///
/// # Errors
/// [`OpenError`].
pub fn settle_devices(lane: LaneRef, devices: &[LaneDevice], fds: &[Fd]) -> Result<(), OpenError> {
    let mut rest = fds;
    for (at, device) in (0..).zip(devices) {
        let (own, others) = rest.split_at_checked(usize::from(device.fds)).ok_or(OpenError::MissingFd)?;
        rest = others;
        if device.kind == DeviceKind::Xdp && device.flags & device_flags::XDP_USED_BEFORE != 0 {
            let sockets = own.get(..usize::from(device.queues)).ok_or(OpenError::MissingFd)?;
            port::xdp::settle(sockets, lane, at).map_err(|errno| OpenError::Rings(errno.raw_os_error()))?;
        }
    }
    Ok(())
}

/// MTU of a wire: a full segment with timestamps is the longest super-frame.
const WIRE_MTU: u16 = SUPER_SEGMENT_BYTES as u16 + 52;
/// Ethernet addresses of the two ends of every wire: who asked for it, and the other. Nobody else is on it.
const WIRE_MACS: [MacAddr; 2] = [MacAddr([0x02, 0xc1, 0x77, 0, 0, 1]), MacAddr([0x02, 0xc1, 0x77, 0, 0, 2])];

/// Opens an end of a wire as a port of a lane of `region`; takes its fds from the front of `fds`.
///
/// # Errors
/// [`OpenError`].
pub fn open_wire(
    region: Region,
    end: &WireEnd,
    fds: &mut impl Iterator<Item = Fd>,
) -> Result<LanePort, OpenError> {
    let shape = WireShape { log2_ring: u32::from(end.log2_ring), buffer_bytes: end.buffer_bytes };
    let role = if end.asked { Role::Client } else { Role::Server };
    let parts = MemifParts::from_fds(role, shape, fds).ok_or(OpenError::MissingFd)?;
    let setup = PortSetup { port: end.port, mtu: WIRE_MTU, local_peer: true, own_address: false };
    let port = MemifPort::from_parts(parts, region.frame_area(), setup).map_err(OpenError::Wire)?;
    let [asker, listener] = WIRE_MACS;
    let (mac, peer) = if end.asked { (asker, listener) } else { (listener, asker) };
    let wire = Some(Wire { peer, ifindex: end.ifindex });
    Ok(LanePort { port: Box::new(port), ifindex: 0, mac, wire })
}

/// The way over the wire at index `port`, which the lane asked for, to `remote`.
#[must_use]
pub fn wire_route(port: u8, remote: IpAddress) -> RouteTo {
    let [local_mac, peer] = WIRE_MACS;
    RouteTo { port, next_hop: remote, local_mac, mac: Some(peer), mtu: 0 }
}

/// Interface index of [`LanePort::absent`]: no device has it.
const ABSENT: u32 = u32::MAX;

impl LanePort {
    /// In the place of a port that this process does not have, or has no more.
    #[must_use]
    pub(crate) fn absent() -> Self {
        Self { port: Box::new(AbsentPort), ifindex: ABSENT, mac: MacAddr::default(), wire: None }
    }

    /// Is it [`LanePort::absent`]?
    pub(crate) fn is_absent(&self) -> bool {
        self.ifindex == ABSENT
    }

    /// The same device behind a bad network.
    #[must_use]
    pub fn with_faults(self, spec: FaultSpec) -> Self {
        Self { port: Box::new(FaultPort::new(self.port, spec)), ..self }
    }
}

/// Reads `drop=PPM,duplicate=PPM,reorder=PPM,corrupt=PPM,seed=N` (each optional; rates in a million packets, both ways).
///
/// # Errors
/// Says which part is wrong.
pub fn parse_faults(text: &str) -> Result<FaultSpec, String> {
    let mut rates = Rates::default();
    let mut seed = 1;
    for part in text.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let wrong = || {
            format!(
                "`{part}`: expected drop, duplicate, reorder or corrupt =PPM (at most 1000000), or seed=N"
            )
        };
        let (key, value) = part.split_once('=').ok_or_else(wrong)?;
        let number: u64 = value.parse().map_err(|_| wrong())?;
        let ppm = u32::try_from(number).ok().filter(|n| *n <= 1_000_000).ok_or_else(wrong);
        match key {
            "drop" => rates.drop_ppm = ppm?,
            "duplicate" => rates.duplicate_ppm = ppm?,
            "reorder" => rates.reorder_ppm = ppm?,
            "corrupt" => rates.corrupt_ppm = ppm?,
            "seed" => seed = number,
            _ => return Err(wrong()),
        }
    }
    Ok(FaultSpec { seed, rx: rates, tx: rates })
}

#[cfg(test)]
mod tests {
    use super::parse_faults;

    #[test]
    fn faults_are_read_from_text() {
        let spec = parse_faults("drop=10000, reorder=5,seed=77").expect("a good text");
        assert_eq!(
            (spec.rx.drop_ppm, spec.tx.reorder_ppm, spec.rx.corrupt_ppm, spec.seed),
            (10_000, 5, 0, 77)
        );
    }

    #[test]
    fn a_wrong_fault_is_named() {
        for text in ["drop=1000001", "loss=3", "drop", "drop=x"] {
            assert!(parse_faults(text).is_err_and(|e| e.contains(text)), "{text}");
        }
    }
}
