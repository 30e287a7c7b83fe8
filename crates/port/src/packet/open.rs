//! Opening the socket: the privileged part.

use std::os::fd::BorrowedFd;

use base::limits::{PORT_RECEIVE_BUFFER_BYTES, PORT_SEND_BUFFER_BYTES};
use rustix::io::Errno;
use sys::fds::Fd;
use sys::packet;

/// Which packets a socket is for.
#[derive(Clone, Copy, Debug)]
pub struct PacketSpec<'a> {
    /// Number of the interface, which is up.
    pub ifindex: u32,
    /// The eBPF socket filter that passes the lane's packets; `None`: every packet.
    pub filter: Option<BorrowedFd<'a>>,
    /// Receive into a ring of memory that the port maps: no system call a batch, but 2 MiB a socket. For a port that sends only it is
    /// waste.
    pub ring: bool,
    /// Send past the queueing discipline: cheaper, but a full device queue loses packets instead of saying so.
    pub qdisc_bypass: bool,
}

/// Opens a packet socket on one interface. Needs CAP_NET_RAW, and CAP_NET_ADMIN for its large buffers.
///
/// # Errors
/// EPERM; ENODEV or ENETDOWN for the interface; EINVAL when the filter is none.
pub fn open(spec: &PacketSpec<'_>) -> Result<Fd, Errno> {
    let fd = packet::socket()?;
    packet::set_vnet_header(&fd)?;
    if spec.ring {
        sys::packet_ring::make(&fd)?;
    }
    packet::set_ignore_outgoing(&fd)?;
    packet::set_qdisc_bypass(&fd, spec.qdisc_bypass)?;
    packet::set_receive_buffer(&fd, PORT_RECEIVE_BUFFER_BYTES)?;
    packet::set_send_buffer(&fd, PORT_SEND_BUFFER_BYTES)?;
    if let Some(filter) = spec.filter {
        packet::attach_filter(&fd, filter)?;
    }
    // Last, so that no packet comes in that the filter would have kept out.
    packet::bind(&fd, spec.ifindex)?;
    Ok(fd)
}
