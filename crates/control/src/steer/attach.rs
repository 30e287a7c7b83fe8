//! What is attached to devices: the XDP program with its map of AF_XDP sockets, the TCX program, or both.

use super::program::Kind;
use super::{STEER_LANES, SteerError, SteerLane, Steering, kernel};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use sys::bpf::{Attachment, Map, MapKind, XdpMode};

/// What is attached to one device. The links and programs live as long as this.
#[derive(Debug)]
pub(super) struct Device {
    attachment: Attachment,
    /// The TCX program of a device with XDP some of whose lanes have packet sockets.
    beside: Option<Attachment>,
    /// AF_XDP sockets at queue * STEER_LANES + lane; only with XDP.
    sockets: Option<Map>,
}

impl Steering {
    /// Attaches the XDP program to a device with `queues` receive queues. Its sockets come by [`Steering::set_socket`].
    ///
    /// # Errors
    /// [`SteerError::Device`] when it is attached; what the kernel says (EBUSY: somebody else's XDP program, EOPNOTSUPP: no native mode).
    pub fn attach_xdp(&mut self, ifindex: u32, mode: XdpMode, queues: u16) -> Result<(), SteerError> {
        if self.devices.contains_key(&ifindex) {
            return Err(SteerError::Device);
        }
        let entries = u32::from(queues.max(1)) * u32::from(STEER_LANES);
        let sockets = Map::create(MapKind::Xsk, 4, 4, entries, "corelane_xsks");
        let sockets = sockets.map_err(kernel("making the map of AF_XDP sockets"))?;
        let program = self.load(&Kind::Xdp(&sockets))?;
        let attachment = Attachment::xdp(&program, ifindex, mode);
        let attachment = attachment.map_err(kernel("attaching the XDP program"))?;
        self.devices.insert(ifindex, Device { attachment, beside: None, sockets: Some(sockets) });
        Ok(())
    }

    /// Attaches the TCX program to a device whose lanes use AF_PACKET sockets. The sockets must be bound to ETH_P_ALL: those of a single
    /// protocol come after TCX and see nothing.
    ///
    /// # Errors
    /// [`SteerError::Device`] when it is attached; what the kernel says (EINVAL: older than 6.6).
    pub fn attach_packet(&mut self, ifindex: u32) -> Result<(), SteerError> {
        if self.devices.contains_key(&ifindex) {
            return Err(SteerError::Device);
        }
        let attachment = self.tcx(ifindex)?;
        self.devices.insert(ifindex, Device { attachment, beside: None, sockets: None });
        Ok(())
    }

    /// Attaches the TCX program, too, to a device with the XDP program: what that redirects to no socket, because the lane has none, goes by the lane's
    /// AF_PACKET socket, as with [`Steering::attach_packet`]. Once is enough.
    ///
    /// # Errors
    /// [`SteerError::Device`] when the device has no XDP program of ours; else as [`Steering::attach_packet`].
    pub fn attach_packet_beside(&mut self, ifindex: u32) -> Result<(), SteerError> {
        let device = self.devices.get(&ifindex).filter(|device| device.sockets.is_some());
        if device.ok_or(SteerError::Device)?.beside.is_some() {
            return Ok(());
        }
        let attachment = self.tcx(ifindex)?;
        if let Some(device) = self.devices.get_mut(&ifindex) {
            device.beside = Some(attachment);
        }
        Ok(())
    }

    fn tcx(&mut self, ifindex: u32) -> Result<Attachment, SteerError> {
        let program = match self.tcx.take() {
            Some(program) => program,
            None => self.load(&Kind::TcxIngress)?,
        };
        let attachment = Attachment::tcx_ingress(&program, ifindex);
        self.tcx = Some(program);
        attachment.map_err(kernel("attaching the TCX program"))
    }

    /// Detaches a device; it is then as before.
    ///
    /// # Errors
    /// [`SteerError::Device`] when it is not attached.
    pub fn detach(&mut self, ifindex: u32) -> Result<(), SteerError> {
        self.devices.remove(&ifindex).map(drop).ok_or(SteerError::Device)
    }

    /// What keeps the programs attached: they stay as long as any copy of these is open, with the rules of the maps as they are.
    pub fn attachments(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        let each = self.devices.values();
        each.flat_map(|device| core::iter::once(&device.attachment).chain(&device.beside)).map(AsFd::as_fd)
    }

    /// Makes `socket`, an AF_XDP socket bound to `queue` of the device, the one of `lane`.
    ///
    /// # Errors
    /// [`SteerError::Device`] when the device has no XDP program of ours; E2BIG for a queue it has not.
    pub fn set_socket(
        &mut self,
        ifindex: u32,
        queue: u16,
        lane: SteerLane,
        socket: &impl AsFd,
    ) -> Result<(), SteerError> {
        let sockets = self.sockets(ifindex)?;
        let value = socket.as_fd().as_raw_fd().to_ne_bytes();
        sockets.update(&socket_key(queue, lane), &value).map_err(kernel("entering an AF_XDP socket"))
    }

    /// Takes the socket of `lane` out; its packets go to the kernel. The kernel does this by itself when the socket is closed.
    ///
    /// # Errors
    /// [`SteerError::Device`]; ENOENT when there is none.
    pub fn clear_socket(&mut self, ifindex: u32, queue: u16, lane: SteerLane) -> Result<(), SteerError> {
        let sockets = self.sockets(ifindex)?;
        sockets.delete(&socket_key(queue, lane)).map_err(kernel("removing an AF_XDP socket"))
    }

    fn sockets(&self, ifindex: u32) -> Result<&Map, SteerError> {
        self.devices.get(&ifindex).and_then(|device| device.sockets.as_ref()).ok_or(SteerError::Device)
    }
}

/// Where the socket of `lane` for a queue is in the map; the XDP program computes the same.
pub(super) fn socket_key(queue: u16, lane: SteerLane) -> [u8; 4] {
    (u32::from(queue) * u32::from(STEER_LANES) + u32::from(lane.number())).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lane_has_a_place_of_its_own_for_each_queue() {
        let lanes = || (0..STEER_LANES).filter_map(SteerLane::new);
        let keys: Vec<u32> = (0..64)
            .flat_map(|queue| lanes().map(move |lane| u32::from_ne_bytes(socket_key(queue, lane))))
            .collect();
        assert_eq!(keys, (0..64 * u32::from(STEER_LANES)).collect::<Vec<_>>());
        let last = SteerLane::new(STEER_LANES - 1).expect("a lane");
        assert_eq!(u32::from_ne_bytes(socket_key(u16::MAX, last)), (1 << 16) * u32::from(STEER_LANES) - 1);
    }
}
