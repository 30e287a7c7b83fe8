//! The devices of a lane, as they stand in messages.

use base::MacAddr;
use base::limits::DEVICES;

use super::ProtoError;
use super::codec::{Reader, Writer};

/// How a port was chosen for a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Hash)]
#[repr(u8)]
pub enum DeviceKind {
    /// AF_XDP; the fds: a socket for each queue, for more than one queue an epoll set of them, and the socket of [`device_flags::GSO_SOCKET`].
    #[default]
    Xdp = 1,
    /// AF_PACKET; one fd: the packet socket.
    Packet = 2,
    /// TAP; one fd: the tun file. The device's address belongs to Corelane alone.
    Tap = 3,
    /// memif; the fds that `port::memif::Wire::into_fds` gives. The address belongs to Corelane alone.
    Memif = 4,
}

/// Flags of a [`LaneDevice`].
pub mod device_flags {
    /// AF_XDP in native mode (generic mode without it).
    pub const XDP_NATIVE: u32 = 1;
    /// AF_XDP zero-copy.
    pub const XDP_ZEROCOPY: u32 = 1 << 1;
    /// AF_XDP with XDP_USE_SG: frames may come as chains.
    pub const XDP_MULTI_BUFFER: u32 = 1 << 2;
    /// Another fd follows: an AF_PACKET socket with PACKET_VNET_HDR for sending super-frames.
    pub const GSO_SOCKET: u32 = 1 << 3;
    /// The peer may leave checksums unfinished (veth, virtio).
    pub const UNFINISHED_CHECKSUMS: u32 = 1 << 4;
    /// Answer ARP and ICMP echo here: the address is not the kernel's.
    pub const OWN_ADDRESS: u32 = 1 << 5;
    /// The kernel completes checksums of what AF_XDP sends; a packet to send then lies in one frame.
    pub const XDP_TX_CHECKSUM: u32 = 1 << 7;
    /// The lane had these AF_XDP sockets before: what is in their rings has to be settled before it is formatted.
    pub const XDP_USED_BEFORE: u32 = 1 << 8;
}

/// One device of a lane, as handed out by the keeper.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LaneDevice {
    /// Interface index.
    pub ifindex: u32,
    /// Which back-end the fds are for.
    pub kind: DeviceKind,
    /// Bits of [`device_flags`].
    pub flags: u32,
    /// MTU in bytes, without the link header.
    pub mtu: u32,
    /// Receive queues of the device, from the first one on, on which the lane has an AF_XDP socket.
    pub queues: u16,
    /// Ethernet address of the device.
    pub mac: MacAddr,
    /// How many of the message's fds are this device's; they come in the order of the devices.
    pub fds: u8,
}

/// The devices of a lane, at most `limits::DEVICES`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DeviceList {
    count: u8,
    rows: [LaneDevice; DEVICES],
}

impl DeviceList {
    /// No device.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `device`; gives it back when the list is full.
    ///
    /// # Errors
    /// The device itself, when `limits::DEVICES` are in the list.
    pub fn push(&mut self, device: LaneDevice) -> Result<(), LaneDevice> {
        match self.rows.get_mut(usize::from(self.count)) {
            Some(row) => {
                *row = device;
                self.count += 1;
                Ok(())
            }
            None => Err(device),
        }
    }

    /// The devices in order.
    #[must_use]
    pub fn as_slice(&self) -> &[LaneDevice] {
        self.rows.get(..usize::from(self.count)).unwrap_or(&[])
    }
}

impl LaneDevice {
    pub(super) fn encode(&self, w: &mut Writer<'_>) {
        w.u32(self.ifindex).u8(self.kind as u8).u32(self.flags).u32(self.mtu);
        w.u16(self.queues).bytes(&self.mac.0).u8(self.fds);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, ProtoError> {
        let ifindex = r.u32()?;
        let kind = match r.u8()? {
            1 => DeviceKind::Xdp,
            2 => DeviceKind::Packet,
            3 => DeviceKind::Tap,
            4 => DeviceKind::Memif,
            _ => return Err(ProtoError::BadValue),
        };
        let (flags, mtu, queues) = (r.u32()?, r.u32()?, r.u16()?);
        Ok(Self { ifindex, kind, flags, mtu, queues, mac: MacAddr(r.array()?), fds: r.u8()? })
    }
}

impl DeviceList {
    pub(super) fn encode(&self, w: &mut Writer<'_>) {
        w.u8(self.count);
        self.as_slice().iter().for_each(|device| device.encode(w));
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, ProtoError> {
        let mut list = Self::new();
        for _ in 0..r.u8()? {
            list.push(LaneDevice::decode(r)?).map_err(|_| ProtoError::BadValue)?;
        }
        Ok(list)
    }
}
