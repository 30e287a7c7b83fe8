//! Keys that sign segments at a kernel socket (TCP_MD5SIG, tcp(7)).

use core::net::IpAddr;
use std::os::fd::AsFd;

use crate::{Result, sockopt};

/// Bytes of a key, at most.
pub const KEY_BYTES: usize = 80;

/// Bytes of `struct tcp_md5sig` of linux/tcp.h in front of the key: an address of 128 bytes, flags, prefix, length of the key, device.
const HEAD_BYTES: usize = 136;
/// Where the length of the key is.
const LENGTH_AT: usize = 130;

/// Segments from and to `peer`, which is of the socket's family, are signed with `key`, of which more than [`KEY_BYTES`] do not count; an empty one
/// removes the key.
///
/// # Errors
/// What setsockopt gives.
pub fn set_key(fd: &impl AsFd, peer: IpAddr, key: &[u8]) -> Result<()> {
    let (family, at, octets) = match peer {
        IpAddr::V4(v4) => (libc::AF_INET, 4, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6, 8, v6.octets().to_vec()),
    };
    let key = key.get(..KEY_BYTES).unwrap_or(key);
    let addr = (family as u16).to_ne_bytes().into_iter().chain([0; 6]).take(at).chain(octets);
    let mut option = [0_u8; HEAD_BYTES + KEY_BYTES];
    let (head, room) = option.split_at_mut(HEAD_BYTES);
    head.iter_mut().zip(addr).for_each(|(to, from)| *to = from);
    let len = (key.len() as u16).to_ne_bytes();
    head.iter_mut().skip(LENGTH_AT).zip(len).for_each(|(to, from)| *to = from);
    room.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    sockopt::set(fd, libc::IPPROTO_TCP, libc::TCP_MD5SIG, &option)
}
