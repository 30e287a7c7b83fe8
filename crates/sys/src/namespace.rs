//! Network namespaces without names: one lives as long as an fd, a thread or a process is in it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use crate::fds::Fd;
use crate::{Result, raw};

/// include/uapi/linux/sockios.h.
const SIOCGSKNS: usize = 0x894C;

/// Moves the calling thread (not its siblings) into a new network namespace and gives an fd of it.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN in the user namespace.
pub fn enter_new_net() -> io::Result<OwnedFd> {
    // SAFETY: NEWNET does not touch the fd table, which is what can hurt other threads.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    current_net()
}

/// An fd of the calling thread's network namespace.
///
/// # Errors
/// That of opening /proc/thread-self/ns/net.
pub fn current_net() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// An fd of the network namespace of `socket`.
///
/// # Errors
/// EPERM without CAP_NET_ADMIN there; ENOTTY when it is no socket.
pub fn of_socket(socket: &impl AsFd) -> Result<Fd> {
    let args = [socket.as_fd().as_raw_fd() as usize, SIOCGSKNS, 0, 0, 0, 0];
    // SAFETY: the operation takes no argument, and gives a new descriptor.
    let number = unsafe { raw::syscall(libc::SYS_ioctl, args) }?;
    let number = i32::try_from(number).map_err(|_| Errno::BADF)?;
    // SAFETY: the kernel has just opened it for us; nobody else owns it.
    Ok(unsafe { Fd::from_raw(number) })
}

/// Moves the calling thread into the network namespace `net`.
///
/// # Errors
/// EPERM without CAP_SYS_ADMIN there, EINVAL when `net` is no network namespace.
pub fn enter_net(net: &impl AsFd) -> io::Result<()> {
    Ok(move_into_link_name_space(net.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// Moves the whole process into a new user namespace in which the caller is root, and a new network namespace.
///
/// # Errors
/// EINVAL when the process has several threads, EPERM or ENOSPC when user namespaces are not allowed.
pub fn enter_new_user_and_net() -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    // SAFETY: NEWUSER and NEWNET do not touch the fd table, which is what can hurt other threads.
    unsafe { unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNET) }?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}
