//! Urgent data of the kernel's sockets (tcp(7), sockatmark(3)).

use std::os::fd::{AsFd, AsRawFd};

use crate::{Result, raw};

/// SIOCATMARK.
const SIOCATMARK: usize = 0x8905;

/// Is the next byte to be read the urgent one?
///
/// # Errors
/// What ioctl gives.
pub fn at_mark(fd: &impl AsFd) -> Result<bool> {
    let mut mark: libc::c_int = 0;
    let at = (&raw mut mark).expose_provenance();
    // SAFETY: SIOCATMARK writes one int, which lives here.
    unsafe { raw::syscall(libc::SYS_ioctl, [fd.as_fd().as_raw_fd() as usize, SIOCATMARK, at, 0, 0, 0]) }?;
    Ok(mark != 0)
}
