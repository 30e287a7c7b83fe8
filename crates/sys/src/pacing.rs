//! How fast a socket may send at most (SO_MAX_PACING_RATE, socket(7)).

use std::os::fd::AsFd;

use crate::{Result, sockopt};

/// Sets the limit, bytes a second; `u64::MAX`: none.
///
/// # Errors
/// What setsockopt gives.
pub fn set_max(fd: &impl AsFd, bytes_a_second: u64) -> Result<()> {
    sockopt::set(fd, libc::SOL_SOCKET, libc::SO_MAX_PACING_RATE, &bytes_a_second)
}
