//! AF_PACKET sockets: raw frames of one interface, super-frames and checksum state in a [`VnetHeader`] in front.
//!
//! [`VnetHeader`]: crate::messages::VnetHeader

use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

use crate::fds::Fd;
use crate::{Result, raw, sockopt};

const PACKET_STATISTICS: i32 = 6;
const PACKET_VNET_HDR: i32 = 15;
const PACKET_QDISC_BYPASS: i32 = 20;
const PACKET_IGNORE_OUTGOING: i32 = 23;

/// Makes a raw packet socket that receives nothing yet. Needs CAP_NET_RAW. CLOEXEC, not blocking.
///
/// # Errors
/// EPERM, EMFILE and the like.
pub fn socket() -> Result<Fd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    // Protocol 0: no packet comes in before `bind` names one, so a filter attached before sees every packet.
    socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None).map(Fd::from)
}

/// Puts a [`VnetHeader`](crate::messages::VnetHeader) in front of every packet, both ways.
///
/// # Errors
/// What setsockopt gives.
pub fn set_vnet_header(fd: &impl AsFd) -> Result<()> {
    sockopt::set(fd, libc::SOL_PACKET, PACKET_VNET_HDR, &1_i32)
}

/// Does not receive what this machine sends out of the interface.
///
/// # Errors
/// What setsockopt gives.
pub fn set_ignore_outgoing(fd: &impl AsFd) -> Result<()> {
    sockopt::set(fd, libc::SOL_PACKET, PACKET_IGNORE_OUTGOING, &1_i32)
}

/// Sends straight to the driver, past the queueing discipline: a full device queue then loses packets.
///
/// # Errors
/// What setsockopt gives.
pub fn set_qdisc_bypass(fd: &impl AsFd, on: bool) -> Result<()> {
    sockopt::set(fd, libc::SOL_PACKET, PACKET_QDISC_BYPASS, &i32::from(on))
}

/// Sets the receive buffer, bytes: beyond the system's limit with CAP_NET_ADMIN, else up to it.
///
/// # Errors
/// What setsockopt gives.
pub fn set_receive_buffer(fd: &impl AsFd, bytes: i32) -> Result<()> {
    set_buffer(fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, bytes)
}

/// Sets the send buffer, bytes: beyond the system's limit with CAP_NET_ADMIN, else up to it.
///
/// # Errors
/// What setsockopt gives.
pub fn set_send_buffer(fd: &impl AsFd, bytes: i32) -> Result<()> {
    set_buffer(fd, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, bytes)
}

fn set_buffer(fd: &impl AsFd, forced: i32, plain: i32, bytes: i32) -> Result<()> {
    sockopt::set(fd, libc::SOL_SOCKET, forced, &bytes)
        .or_else(|_| sockopt::set(fd, libc::SOL_SOCKET, plain, &bytes))
}

/// Receives only what the eBPF socket filter `program` passes.
///
/// # Errors
/// EINVAL when `program` is no socket filter.
pub fn attach_filter(fd: &impl AsFd, program: BorrowedFd<'_>) -> Result<()> {
    sockopt::set(fd, libc::SOL_SOCKET, libc::SO_ATTACH_BPF, &program.as_raw_fd())
}

/// Begins to receive every packet of interface `ifindex`, as a tap that runs before TCX ingress.
///
/// # Errors
/// ENODEV, ENETDOWN when the interface is down.
pub fn bind(fd: &impl AsFd, ifindex: u32) -> Result<()> {
    bind_protocol(fd, ifindex, libc::ETH_P_ALL as u16)
}

/// Sends by interface `ifindex`, and receives nothing.
///
/// # Errors
/// ENODEV, ENETDOWN when the interface is down.
pub fn bind_to_send(fd: &impl AsFd, ifindex: u32) -> Result<()> {
    bind_protocol(fd, ifindex, 0)
}

fn bind_protocol(fd: &impl AsFd, ifindex: u32, protocol: u16) -> Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: protocol.to_be(),
        sll_ifindex: ifindex as i32,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let at = core::ptr::from_ref(&address) as usize;
    let args = [fd.as_fd().as_raw_fd() as usize, at, size_of::<libc::sockaddr_ll>(), 0, 0, 0];
    // SAFETY: the kernel reads one live sockaddr_ll.
    unsafe { raw::syscall(libc::SYS_bind, args) }.map(|_| ())
}

/// Packets dropped for want of buffer since the last call (PACKET_STATISTICS clears itself).
///
/// # Errors
/// What getsockopt gives.
pub fn take_drops(fd: &impl AsFd) -> Result<u32> {
    let mut counts = [0_u32; 2];
    sockopt::get(fd, libc::SOL_PACKET, PACKET_STATISTICS, &mut counts)?;
    let [_packets, drops] = counts;
    Ok(drops)
}
