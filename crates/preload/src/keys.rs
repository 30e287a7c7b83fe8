//! Keys that sign segments (TCP_MD5SIG and TCP_MD5SIG_EXT, tcp(7); RFC 2385).
//!
//! The kernel socket has each key too, as long as there is one: it checks what the program gives, and connections that it carries are signed like those of
//! lanes. A listener with keys is marked, so that a process which is handed it leaves it to the kernel: keys cannot be read back.

use core::ffi::{c_int, c_void};

use base::IpAddress;
use engine::{Engine, KeyError, KeyPeer};
use libc::{AF_INET, AF_INET6, socklen_t};
use state::{KEY_BYTES, SockRef};
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::errno::{Errno, Outcome};
use crate::interpose::real;
use crate::object::Handle;
use crate::sock::{Inner, Seat, Sock, flag};
use crate::{ao, stream};

/// TCP_MD5SIG_EXT.
const MD5_EXT: c_int = 32;
/// TCP_MD5SIG_FLAG_PREFIX.
const WITH_PREFIX: u8 = 1;
/// TCP_MD5SIG_FLAG_IFINDEX.
const WITH_DEVICE: u8 = 2;
/// Bytes of `struct tcp_md5sig`: an address of 128, flags, prefix, length of the key, device, key.
const STRUCT_BYTES: usize = 136 + KEY_BYTES;
/// Where the length of the key is in it.
const LENGTH_AT: usize = 130;
/// SO_SELECT_ERR_QUEUE, which changes nothing for TCP and can be read: the mark of a socket with keys.
const MARK: c_int = 45;

/// One key of a socket.
#[derive(Clone)]
pub(crate) struct Key {
    peer: KeyPeer,
    bytes: Vec<u8>,
}

/// A key as the program gave it; without bytes it removes one.
struct Given {
    key: Key,
    /// It is for the peers behind one virtual routing domain, which no lane belongs to.
    in_domain: bool,
}

/// Is it one of the options for keys?
pub(crate) const fn is_key(level: c_int, name: c_int) -> bool {
    level == libc::IPPROTO_TCP && matches!(name, libc::TCP_MD5SIG | MD5_EXT)
}

/// What `struct tcp_md5sig` in `value` says, with the kernel's errors.
fn parse(v6: bool, name: c_int, value: &[u8]) -> Outcome<Given> {
    let invalid = Errno(libc::EINVAL);
    let value = value.first_chunk::<STRUCT_BYTES>().ok_or(invalid)?;
    let [f0, f1, _, _, a0, a1, a2, a3, rest @ ..] = value;
    let (flags, prefix) = (value[128], value[129]);
    let family = c_int::from(u16::from_ne_bytes([*f0, *f1]));
    let addr = match (v6, family) {
        (false, AF_INET) => IpAddress::mapped(Ipv4Addr::new(*a0, *a1, *a2, *a3)),
        (true, AF_INET6) => {
            let octets: [u8; 16] = *rest.first_chunk().ok_or(invalid)?;
            IpAddress::from_v6(Ipv6Addr::from_octets(octets))
        }
        _ => return Err(invalid),
    };
    let bits = if addr.is_v4() { 32 } else { 128 };
    let extended = name == MD5_EXT;
    let prefix = if extended && flags & WITH_PREFIX != 0 { prefix } else { bits };
    if prefix > bits {
        return Err(invalid);
    }
    let device = i32::from_ne_bytes([value[132], value[133], value[134], value[135]]);
    let in_domain = extended && flags & WITH_DEVICE != 0 && device != 0;
    let len = usize::from(u16::from_ne_bytes([value[LENGTH_AT], value[LENGTH_AT + 1]]));
    let key = value.get(STRUCT_BYTES - KEY_BYTES..).and_then(|key| key.get(..len)).ok_or(invalid)?;
    let peer = KeyPeer { addr, prefix: prefix + 128 - bits };
    Ok(Given { key: Key { peer, bytes: key.to_vec() }, in_domain })
}

/// Keeps `key` in the place of the one for the same peers; one without bytes takes that away.
fn keep(keys: &mut Vec<Key>, key: &Key) {
    for old in keys.iter_mut().filter(|old| old.peer == key.peer) {
        old.bytes.fill(0);
    }
    keys.retain(|old| old.peer != key.peer);
    if !key.bytes.is_empty() {
        keys.push(key.clone());
    }
}

pub(crate) fn errno_of(error: KeyError) -> Errno {
    Errno(match error {
        KeyError::Invalid => libc::EINVAL,
        KeyError::NoSuchKey => libc::ENOENT,
        KeyError::NoRoom => libc::ENOMEM,
        KeyError::Exists => libc::EEXIST,
        KeyError::InUse => libc::EBUSY,
        KeyError::OtherKind => libc::EKEYREJECTED,
        KeyError::Gone => libc::EBADF,
    })
}

fn set(engine: &mut Engine<'_>, name: SockRef, key: &Key) -> Outcome<()> {
    engine.tcp_set_md5_key(name, key.peer, &key.bytes).map_err(errno_of)
}

/// Gives `name`, a listener or a connection to `remote` just made, every key of `inner`. False: there was no room for them.
pub(crate) fn give_all(
    engine: &mut Engine<'_>,
    name: SockRef,
    inner: &Inner,
    remote: Option<IpAddress>,
) -> bool {
    inner.keys.iter().all(|key| set(engine, name, key).is_ok()) && ao::give_all(engine, name, inner, remote)
}

/// Has `inner` a key for peers that are `wanted`?
pub(crate) fn any(inner: &Inner, wanted: impl Fn(KeyPeer) -> bool) -> bool {
    inner.keys.iter().any(|key| wanted(key.peer))
}

/// The option for a connection of a lane.
pub(crate) fn set_on_stream(sock: &Handle<Sock>, seat: Seat, name: c_int, value: &[u8]) -> Outcome<()> {
    let given = parse(sock.has(flag::V6), name, value)?;
    if given.in_domain {
        return Err(Errno(libc::EINVAL)); // as for a device of no such domain
    }
    stream::with(sock, seat, |engine| set(engine, seat.name, &given.key))??;
    keep(&mut sock.inner().keys, &given.key);
    Ok(())
}

/// The kernel socket `fd` took the option: so do the listeners of lanes beside it, or the connection that it will be.
pub(crate) fn set_before(sock: &Handle<Sock>, fd: c_int, name: c_int, value: &[u8]) -> Outcome<()> {
    // The kernel has checked it.
    let Ok(given) = parse(sock.has(flag::V6), name, value) else { return Ok(()) };
    if given.in_domain {
        sock.inner().foreign_option = true;
        return Ok(());
    }
    if !given.key.bytes.is_empty() && ao::forbids_md5(&sock.inner(), given.key.peer) {
        take_back(fd, name, value);
        return Err(Errno(libc::EKEYREJECTED));
    }
    for seat in [sock.seat.get(), sock.older.get()].into_iter().flatten() {
        let done = stream::with(sock, seat, |engine| set(engine, seat.name, &given.key))?;
        if done == Err(Errno(libc::ENOMEM)) {
            take_back(fd, name, value);
            return Err(Errno(libc::ENOMEM));
        }
    }
    keep(&mut sock.inner().keys, &given.key);
    mark(fd);
    Ok(())
}

/// Takes the key in `value`, for which a lane has no room, from the kernel socket again.
fn take_back(fd: c_int, name: c_int, value: &[u8]) {
    let mut value = value.to_vec();
    if let Some(len) = value.get_mut(LENGTH_AT..LENGTH_AT + 2) {
        len.fill(0);
    }
    // SAFETY: so many live bytes.
    unsafe { real::setsockopt(fd, libc::IPPROTO_TCP, name, value.as_ptr().cast(), value.len() as socklen_t) };
}

pub(crate) fn mark(fd: c_int) {
    let on: c_int = 1;
    // SAFETY: one live int.
    unsafe { real::setsockopt(fd, libc::SOL_SOCKET, MARK, (&raw const on).cast::<c_void>(), 4) };
}

/// The option by which a process that is handed a listener finds out that it has keys: 1.
pub(crate) const fn mark_of_keys() -> (c_int, c_int) {
    (libc::SOL_SOCKET, MARK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(family: c_int, addr: &[u8], (flags, prefix): (u8, u8), key: &[u8]) -> Vec<u8> {
        let mut value = vec![0; STRUCT_BYTES];
        value[..2].copy_from_slice(&(family as u16).to_ne_bytes());
        let at = if family == AF_INET { 4 } else { 8 };
        value[at..at + addr.len()].copy_from_slice(addr);
        (value[128], value[129]) = (flags, prefix);
        value[LENGTH_AT..LENGTH_AT + 2].copy_from_slice(&(key.len() as u16).to_ne_bytes());
        value[136..136 + key.len()].copy_from_slice(key);
        value
    }

    #[test]
    fn the_kernels_struct_is_read_as_the_kernel_reads_it() {
        let of =
            |v6, name, value: &[u8]| parse(v6, name, value).map(|g| (g.key.peer, g.key.bytes, g.in_domain));
        let ten = IpAddress::mapped(Ipv4Addr::new(10, 0, 0, 0));
        let net = value(AF_INET, &[10, 0, 0, 0], (WITH_PREFIX, 8), b"key");
        assert_eq!(
            of(false, MD5_EXT, &net),
            Ok((KeyPeer { addr: ten, prefix: 104 }, b"key".to_vec(), false))
        );
        // The old option has no prefixes.
        assert_eq!(of(false, libc::TCP_MD5SIG, &net).map(|g| g.0.prefix), Ok(128));
        let mapped = value(AF_INET6, &ten.0, (WITH_PREFIX, 8), b"key");
        assert_eq!(of(true, MD5_EXT, &mapped).map(|g| g.0), Ok(KeyPeer { addr: ten, prefix: 104 }));
        let wrong = [
            (false, value(AF_INET6, &ten.0, (0, 0), b"k")),
            (true, value(AF_INET, &[1, 1, 1, 1], (0, 0), b"k")),
            (false, value(AF_INET, &[1, 1, 1, 1], (WITH_PREFIX, 33), b"k")),
            (true, value(AF_INET6, &ten.0, (WITH_PREFIX, 33), b"k")),
            (false, net[..STRUCT_BYTES - 1].to_vec()),
        ];
        for (v6, value) in wrong {
            assert_eq!(of(v6, MD5_EXT, &value), Err(Errno(libc::EINVAL)));
        }
        let mut long = net;
        long[LENGTH_AT] = 81;
        assert_eq!(of(false, MD5_EXT, &long), Err(Errno(libc::EINVAL)));
    }

    #[test]
    fn the_last_key_for_a_peer_is_kept() {
        let key = |bits, bytes: &[u8]| Key {
            peer: KeyPeer { addr: IpAddress::ANY_V4, prefix: bits },
            bytes: bytes.to_vec(),
        };
        let mut keys = Vec::new();
        for each in [key(96, b"a"), key(100, b"b"), key(96, b"c"), key(100, b"")] {
            keep(&mut keys, &each);
        }
        assert_eq!(keys.iter().map(|k| k.bytes.as_slice()).collect::<Vec<_>>(), [b"c"]);
    }
}
