//! The netlink socket: bytes to the kernel and from the kernel alone. What the bytes mean is known elsewhere.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;
use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use crate::Result;
use crate::fds::Fd;

/// Bytes of a buffer that holds any message the kernel sends to a reader with such a buffer.
pub const BUFFER_BYTES: usize = 64 * 1024;

/// A netlink socket in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct NetlinkSocket {
    fd: Fd,
}

impl NetlinkSocket {
    /// Opens a blocking NETLINK_ROUTE socket for requests; an answer that does not come within `timeout_ms` is EAGAIN.
    ///
    /// # Errors
    /// EMFILE and the like.
    pub fn open(timeout_ms: u64) -> Result<Self> {
        Self::ask_in(timeout_ms, None)
    }

    /// [`NetlinkSocket::open`] for questions about sockets (NETLINK_SOCK_DIAG, sock_diag(7)).
    ///
    /// # Errors
    /// As [`NetlinkSocket::open`]; EPROTONOSUPPORT where the kernel has none.
    pub fn open_diag(timeout_ms: u64) -> Result<Self> {
        Self::ask_in(timeout_ms, Some(SOCK_DIAG))
    }

    fn ask_in(timeout_ms: u64, family: Option<Protocol>) -> Result<Self> {
        let socket = Self::new(SocketFlags::CLOEXEC, family, 0)?;
        let timeout = std::time::Duration::from_millis(timeout_ms);
        sockopt::set_socket_timeout(&socket.fd, sockopt::Timeout::Recv, Some(timeout))?;
        Ok(socket)
    }

    /// Opens a non-blocking NETLINK_ROUTE socket that hears the multicast groups whose RTMGRP bits are set in `groups`.
    ///
    /// # Errors
    /// EMFILE and the like.
    pub fn listen(groups: u32) -> Result<Self> {
        Self::new(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None, groups)
    }

    fn new(flags: SocketFlags, family: Option<Protocol>, groups: u32) -> Result<Self> {
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, family)?;
        let fd = Fd::from(fd);
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self { fd })
    }

    /// Room for messages that were not read yet, bytes. Above the system's limit only with CAP_NET_ADMIN; then silently less.
    ///
    /// # Errors
    /// EBADF.
    pub fn set_receive_buffer(&self, bytes: usize) -> Result<()> {
        match sockopt::set_socket_recv_buffer_size_force(&self.fd, bytes) {
            Err(Errno::PERM) => sockopt::set_socket_recv_buffer_size(&self.fd, bytes),
            other => other,
        }
    }

    /// Sends one datagram to the kernel.
    ///
    /// # Errors
    /// What sendto gives.
    pub fn send(&self, bytes: &[u8]) -> Result<()> {
        rustix::net::sendto(&self.fd, bytes, SendFlags::empty(), &SocketAddrNetlink::new(0, 0)).map(drop)
    }

    /// The next datagram of the kernel. Datagrams of other processes are dropped unread.
    ///
    /// # Errors
    /// EAGAIN when there is none, ENOBUFS when the kernel had to drop some, EMSGSIZE when `buffer` was too short.
    pub fn receive<'a>(&self, buffer: &'a mut [u8]) -> Result<&'a [u8]> {
        let bytes = loop {
            let (_, bytes, from) = match rustix::net::recvfrom(&self.fd, &mut *buffer, RecvFlags::TRUNC) {
                Err(Errno::INTR) => continue,
                other => other?,
            };
            let sender = from.and_then(|address| SocketAddrNetlink::try_from(address).ok());
            if sender.is_some_and(|address| address.pid() == 0) {
                break bytes;
            }
        };
        buffer.get(..bytes).ok_or(Errno::MSGSIZE)
    }
}

impl AsFd for NetlinkSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_without_news_would_block() {
        let socket = NetlinkSocket::listen(1).unwrap();
        socket.set_receive_buffer(1 << 20).unwrap();
        assert_eq!(socket.receive(&mut [0; 64]), Err(Errno::AGAIN));
    }

    #[test]
    fn the_kernel_answers_and_a_short_buffer_is_an_error() {
        let socket = NetlinkSocket::open(1000).unwrap();
        // nlmsghdr: length, RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, sequence, port; then one rtgenmsg byte, padded.
        let request = [20, 0, 0, 0, 18, 0, 1, 3, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        socket.send(&request).unwrap();
        assert_eq!(socket.receive(&mut [0; 16]), Err(Errno::MSGSIZE));
        let other = NetlinkSocket::open(1000).unwrap();
        other.send(&request).unwrap();
        let mut buffer = vec![0; BUFFER_BYTES];
        assert!(other.receive(&mut buffer).unwrap().len() > 100);
    }
}
