//! What the kernel keeps of TCP Fast Open at a socket (tcp(7)).

use std::os::fd::AsFd;

use crate::{Result, sockopt};

/// Bytes of a key.
pub const KEY_BYTES: usize = 16;

/// Connections of the listener whose program may have them before their handshake is complete; 0: none (TCP_FASTOPEN).
///
/// # Errors
/// What getsockopt gives.
pub fn max(fd: &impl AsFd) -> Result<u32> {
    let mut value = 0_u32;
    sockopt::get(fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, &mut value)?;
    Ok(value)
}

/// Sets that number.
///
/// # Errors
/// What setsockopt gives.
pub fn set_max(fd: &impl AsFd, max: u32) -> Result<()> {
    sockopt::set(fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN, &max)
}

/// The keys that were set for the socket's cookies: the first of up to two, and their number; 0: those of its network namespace count
/// (TCP_FASTOPEN_KEY).
///
/// # Errors
/// What getsockopt gives.
pub fn keys(fd: &impl AsFd) -> Result<([[u8; KEY_BYTES]; 2], usize)> {
    let mut keys = [[0_u8; KEY_BYTES]; 2];
    let bytes = sockopt::get(fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_KEY, &mut keys)?;
    Ok((keys, (bytes / KEY_BYTES).min(2)))
}

/// Gives the socket a key of its own, and with `backup` a second one that is still good.
///
/// # Errors
/// What setsockopt gives.
pub fn set_keys(fd: &impl AsFd, key: [u8; KEY_BYTES], backup: Option<[u8; KEY_BYTES]>) -> Result<()> {
    match backup {
        Some(backup) => sockopt::set(fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_KEY, &[key, backup]),
        None => sockopt::set(fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_KEY, &key),
    }
}

/// `connect` uses fast open from now on (TCP_FASTOPEN_CONNECT).
///
/// # Errors
/// What setsockopt gives.
pub fn set_connect(fd: &impl AsFd, on: bool) -> Result<()> {
    sockopt::set(fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_CONNECT, &u32::from(on))
}

/// Data in SYNs need no cookie (TCP_FASTOPEN_NO_COOKIE).
///
/// # Errors
/// What setsockopt gives.
pub fn set_no_cookie(fd: &impl AsFd, on: bool) -> Result<()> {
    sockopt::set(fd, libc::IPPROTO_TCP, libc::TCP_FASTOPEN_NO_COOKIE, &u32::from(on))
}
