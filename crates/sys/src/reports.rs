//! Whether a kernel socket's calls fail by what routers say (IP_RECVERR of ip(7), IPV6_RECVERR of ipv6(7)).

use std::os::fd::AsFd;

use crate::{Result, sockopt};

/// Turns it `on` or off, for an IPv6 socket if `v6`.
///
/// # Errors
/// What setsockopt gives.
pub fn set_told(fd: &impl AsFd, v6: bool, on: bool) -> Result<()> {
    let (level, name) =
        if v6 { (libc::IPPROTO_IPV6, libc::IPV6_RECVERR) } else { (libc::IPPROTO_IP, libc::IP_RECVERR) };
    sockopt::set(fd, level, name, &i32::from(on))
}
