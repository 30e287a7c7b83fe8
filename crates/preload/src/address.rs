//! `sockaddr` to [`Endpoint`] and back.

use core::net::{Ipv4Addr, Ipv6Addr};

use base::{IpAddress, Port};
use libc::{sockaddr, sockaddr_in, sockaddr_in6, socklen_t};
use state::Endpoint;

use crate::errno::{self, Outcome};
use crate::interpose::real;
use crate::user;

/// What a `sockaddr` of the program says.
pub(crate) enum Named {
    /// An AF_INET endpoint.
    V4(Endpoint),
    /// An AF_INET6 endpoint, a mapped IPv4 one perhaps, and its scope id (0: none).
    V6(Endpoint, u32),
    /// Another family, or too short.
    Other,
}

/// Reads `len` bytes of address at `at`.
///
/// # Safety
/// `at` is null or names `len` bytes.
pub(crate) unsafe fn read(at: *const sockaddr, len: socklen_t) -> Named {
    let len = len as usize;
    if at.is_null() || len < size_of::<libc::sa_family_t>() {
        return Named::Other;
    }
    // SAFETY: long enough for the family.
    let family = unsafe { user::load(at.cast::<libc::sa_family_t>()) };
    match family.map(i32::from) {
        Some(libc::AF_INET) if len >= size_of::<sockaddr_in>() => {
            // SAFETY: long enough for this family's form.
            let Some(a) = (unsafe { user::load(at.cast::<sockaddr_in>()) }) else { return Named::Other };
            let addr = IpAddress::from_v4(Ipv4Addr::from(u32::from_be(a.sin_addr.s_addr)));
            Named::V4(Endpoint { addr, port: Port(u16::from_be(a.sin_port)) })
        }
        // The scope id is optional (RFC 2133's shorter form).
        Some(libc::AF_INET6) if len >= size_of::<sockaddr_in6>() - 4 => {
            let mut a = [0_u8; 28];
            // SAFETY: `len` bytes are there, and no more than the form has are taken.
            let bytes = unsafe { user::slice(at.cast::<u8>(), len.min(28)) };
            for (to, from) in a.iter_mut().zip(bytes) {
                *to = *from;
            }
            let [_, _, p, q, _, _, _, _, addr @ .., s, t, u, v] = a;
            let ip = Ipv6Addr::from_octets(addr);
            let end = Endpoint { addr: IpAddress::from_v6(ip), port: Port(u16::from_be_bytes([p, q])) };
            Named::V6(end, u32::from_ne_bytes([s, t, u, v]))
        }
        _ => Named::Other,
    }
}

/// Writes `end` where the program wants it, cut to its room, as an IPv6 address if `v6` says so, with that scope id if it is link-local; its
/// real length comes back in `len`.
///
/// # Safety
/// `at` and `len` are null or as `getpeername` takes them.
pub(crate) unsafe fn write(end: Endpoint, v6: Option<u32>, at: *mut sockaddr, len: *mut socklen_t) {
    // SAFETY: the caller's promise.
    let Some(room) = (unsafe { user::load(len) }) else { return };
    if at.is_null() {
        return;
    }
    let mut bytes = [0_u8; size_of::<sockaddr_in6>()];
    let used = encode(end, v6, &mut bytes);
    // SAFETY: the caller's promise: `room` bytes are at `at`.
    unsafe { user::fill(at.cast(), room as usize, bytes.get(..used).unwrap_or(&[])) };
    // SAFETY: the caller's promise.
    unsafe { user::store(len, used as socklen_t) };
}

fn encode(end: Endpoint, v6: Option<u32>, bytes: &mut [u8; size_of::<sockaddr_in6>()]) -> usize {
    let port = end.port.0.to_be_bytes();
    let scope = v6.filter(|_| end.addr.as_v6().is_unicast_link_local()).unwrap_or(0).to_ne_bytes();
    let v6 = v6.is_some();
    let (family, addr): (i32, &[u8]) = if v6 { (libc::AF_INET6, &end.addr.0) } else { (libc::AF_INET, &[]) };
    let v4 = end.addr.as_v4().unwrap_or(Ipv4Addr::UNSPECIFIED).octets();
    let (start, addr) = if v6 { (8, addr) } else { (4, v4.as_slice()) };
    let family = (family as libc::sa_family_t).to_ne_bytes();
    // The scope id is behind what an IPv4 address has, and cut off with it.
    let pieces: [(usize, &[u8]); 4] = [(0, &family), (2, &port), (start, addr), (24, &scope)];
    for (from, piece) in pieces {
        if let Some(to) = bytes.get_mut(from..from + piece.len()) {
            to.copy_from_slice(piece);
        }
    }
    if v6 { size_of::<sockaddr_in6>() } else { size_of::<sockaddr_in>() }
}

/// Where the kernel's listener `fd` listens; at any address: of which families. `None`: it is of another family.
pub(crate) fn of_listener(fd: i32) -> Outcome<Option<Endpoint>> {
    Ok(match of_kernel(fd)? {
        Named::V4(end) if end.addr.is_any() => Some(Endpoint { addr: IpAddress::ANY_V4, ..end }),
        Named::V6(end, _) if end.addr.is_any() && is_v6_only(fd) => {
            Some(Endpoint { addr: IpAddress::ANY_V6, ..end })
        }
        Named::V4(end) | Named::V6(end, _) => Some(end),
        Named::Other => None,
    })
}

/// IPV6_V6ONLY, which the program may not have set but the system (net.ipv6.bindv6only).
fn is_v6_only(fd: i32) -> bool {
    let (mut on, mut len) = (0_i32, size_of::<i32>() as socklen_t);
    let at: *mut i32 = &raw mut on;
    // SAFETY: `at` names an int, as `len` says.
    let result =
        unsafe { real::getsockopt(fd, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, at.cast(), &raw mut len) };
    result == 0 && on != 0
}

/// The address the kernel socket `fd` is bound to.
pub(crate) fn of_kernel(fd: i32) -> Outcome<Named> {
    let mut storage = core::mem::MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut len = size_of::<libc::sockaddr_storage>() as socklen_t;
    let at = storage.as_mut_ptr().cast::<sockaddr>();
    // SAFETY: `at` has `len` bytes of room.
    errno::check(unsafe { real::getsockname(fd, at, &raw mut len) })?;
    // SAFETY: zeroed, and the kernel wrote `len` of its bytes.
    Ok(unsafe { read(at, len) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back_as_it_was_written_in_both_families() {
        let addr = IpAddress::from_v4(Ipv4Addr::new(10, 1, 2, 3));
        let end = Endpoint { addr, port: Port(0x1234) };
        let near = Endpoint { addr: IpAddress::from_v6("fe80::7".parse().expect("an address")), ..end };
        for (end, v6) in [(end, None), (end, Some(0)), (near, Some(5))] {
            let mut bytes = [0xaa_u8; size_of::<sockaddr_in6>()];
            let mut len = bytes.len() as socklen_t;
            // SAFETY: the room is what `len` says.
            unsafe { write(end, v6, bytes.as_mut_ptr().cast(), &raw mut len) };
            // SAFETY: as above.
            let got = match unsafe { read(bytes.as_ptr().cast(), len) } {
                Named::V4(got) => (got, None),
                Named::V6(got, scope) => (got, Some(scope)),
                Named::Other => panic!("no address"),
            };
            assert_eq!(got, (end, v6));
        }
    }

    #[test]
    fn a_short_room_gets_the_beginning_and_the_full_length() {
        let mut bytes = [0xaa_u8; 4];
        let mut len = 3;
        // SAFETY: the room is what `len` says.
        unsafe { write(Endpoint::default(), None, bytes.as_mut_ptr().cast(), &raw mut len) };
        assert_eq!((len, bytes[0], bytes[3]), (16, libc::AF_INET as u8, 0xaa));
    }
}
