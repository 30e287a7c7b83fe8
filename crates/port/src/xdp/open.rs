//! Opening and binding the sockets: the privileged part.

use core::sync::atomic::AtomicU64;

use base::limits::{FRAME_BYTES, FRAME_HEADROOM, PORT_SEND_BUFFER_BYTES, XDP_RING_ENTRIES};
use rustix::io::Errno;
use sys::fds::Fd;
use sys::{packet, xsk};

use super::SIZES;

/// Micro-seconds that a call may poll the driver for, with [`XdpSpec::busy_poll`].
const BUSY_POLL_MICROS: i32 = 20;
/// Packets it may take from the driver in one go.
const BUSY_POLL_BUDGET: i32 = 64;

/// Largest IP packet that fits into one frame with its Ethernet header and VLAN tag.
const JOINED_BYTES_MAX: usize = FRAME_BYTES - FRAME_HEADROOM - 18;

/// Which packets a socket is for, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpSpec {
    /// Number of the interface, which is up.
    pub ifindex: u32,
    /// Its queue; the program can give the socket packets of this one only.
    pub queue: u32,
    /// Its MTU, bytes.
    pub mtu: u16,
    /// Try zero-copy before copying: right where the XDP program runs in the driver.
    pub zero_copy: bool,
    /// Let calls run the driver's receive loop: right for real cards under load.
    pub busy_poll: bool,
}

/// A bound AF_XDP socket and what it can do.
#[derive(Debug)]
pub struct XdpSocket {
    /// The socket.
    pub fd: Fd,
    /// May a packet to send lie in several frames?
    pub scatter: bool,
    /// Does the kernel complete checksums? Then a packet to send lies in one frame.
    pub completes_checksums: bool,
}

/// Opens an AF_XDP socket whose packets lie in `cells`, a region's frames. Needs CAP_NET_RAW, and CAP_NET_ADMIN for its
/// large send buffer and for busy polling.
///
/// # Errors
/// EPERM; EBUSY while another socket has the queue (for about 20 ms after it was closed, too); ENODEV, ENETDOWN;
/// EOPNOTSUPP, EINVAL when kernel or driver have no AF_XDP.
pub fn open(spec: &XdpSpec, cells: &[AtomicU64]) -> Result<XdpSocket, Errno> {
    let zero_copy = [xsk::ZERO_COPY | xsk::SCATTER, xsk::ZERO_COPY];
    let copy = [xsk::COPY | xsk::SCATTER, xsk::COPY];
    let wanted = if spec.zero_copy { zero_copy.as_slice() } else { &[] };
    let mut last = Errno::OPNOTSUPP;
    for flags in wanted.iter().chain(&copy) {
        match bound(spec, cells, *flags) {
            Ok(socket) => return Ok(socket),
            // The next way will do no better.
            Err(errno @ (Errno::PERM | Errno::BUSY | Errno::NODEV | Errno::NETDOWN)) => return Err(errno),
            Err(errno) => last = errno,
        }
    }
    Err(last)
}

/// A failed bind leaves a socket that cannot be bound again in every kernel, so each try has its own.
fn bound(spec: &XdpSpec, cells: &[AtomicU64], flags: u16) -> Result<XdpSocket, Errno> {
    let fd = xsk::socket()?;
    // In zero-copy mode a driver that does not know the metadata would send the checksum unfinished. And with metadata
    // the kernel wants room for it in front of every part of a packet, which payload does not have.
    let metadata = flags & xsk::COPY != 0 && usize::from(spec.mtu) <= JOINED_BYTES_MAX;
    let completes_checksums = metadata && xsk::register_memory(&fd, cells, FRAME_BYTES as u32, true).is_ok();
    if !completes_checksums {
        xsk::register_memory(&fd, cells, FRAME_BYTES as u32, false)?;
    }
    xsk::make_memory_rings(&fd, &SIZES)?;
    xsk::make_rings(&fd, &SIZES)?;
    packet::set_send_buffer(&fd, PORT_SEND_BUFFER_BYTES)?;
    xsk::bind(&fd, spec.ifindex, spec.queue, flags | xsk::NEED_WAKEUP, None)?;
    // Without it one call sends 32 packets, which the caller sees and repeats.
    let _ = xsk::set_tx_budget(&fd, XDP_RING_ENTRIES);
    if spec.busy_poll {
        xsk::set_busy_poll(&fd, BUSY_POLL_MICROS, BUSY_POLL_BUDGET)?;
    }
    let scatter = flags & xsk::SCATTER != 0 && !completes_checksums;
    Ok(XdpSocket { fd, scatter, completes_checksums })
}

/// Opens a packet socket that only sends, for the super-segments of an [`XdpPort`](super::XdpPort).
///
/// # Errors
/// EPERM, ENODEV, ENETDOWN.
pub fn open_companion(ifindex: u32) -> Result<Fd, Errno> {
    let fd = packet::socket()?;
    packet::set_vnet_header(&fd)?;
    packet::set_qdisc_bypass(&fd, true)?;
    packet::set_send_buffer(&fd, PORT_SEND_BUFFER_BYTES)?;
    packet::bind_to_send(&fd, ifindex)?;
    Ok(fd)
}
