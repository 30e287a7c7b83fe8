//! `sockaddr` to [`Endpoint`] and back, as bytes.

use core::net::{Ipv4Addr, Ipv6Addr};

use base::{IpAddress, Port};
use state::Endpoint;

use crate::errno::{Errno, Outcome};

/// Bytes of `struct sockaddr_in`.
const V4_BYTES: usize = 16;
/// Bytes of `struct sockaddr_in6`.
const V6_BYTES: usize = 28;

/// What a `sockaddr` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Named {
    /// An address and a port.
    End(Endpoint),
    /// AF_UNSPEC.
    Unspecified,
}

/// Reads a `sockaddr`.
pub(crate) fn read(bytes: &[u8]) -> Outcome<Named> {
    const INVALID: Errno = Errno(libc::EINVAL);
    let family = bytes.first_chunk::<2>().ok_or(INVALID)?;
    match i32::from(u16::from_ne_bytes(*family)) {
        libc::AF_UNSPEC => Ok(Named::Unspecified),
        libc::AF_INET => {
            let [_, _, p, q, a, b, c, d] = *bytes.first_chunk::<8>().ok_or(INVALID)?;
            let port = Port(u16::from_be_bytes([p, q]));
            let addr = Ipv4Addr::new(a, b, c, d);
            let addr = if addr.is_unspecified() { IpAddress::ANY } else { IpAddress::from_v4(addr) };
            Ok(Named::End(Endpoint { addr, port }))
        }
        libc::AF_INET6 => {
            let [_, _, p, q, _, _, _, _, addr @ ..] = *bytes.first_chunk::<24>().ok_or(INVALID)?;
            let addr = Ipv6Addr::from_octets(addr);
            let port = Port(u16::from_be_bytes([p, q]));
            let addr = if addr.is_unspecified() { IpAddress::ANY } else { IpAddress::from_v6(addr) };
            Ok(Named::End(Endpoint { addr, port }))
        }
        _ => Err(Errno(libc::EAFNOSUPPORT)),
    }
}

/// The `sockaddr` of `end`, in the form of AF_INET6 if `v6`.
pub(crate) fn write(end: Endpoint, v6: bool) -> Vec<u8> {
    let family = if v6 { libc::AF_INET6 } else { libc::AF_INET };
    let mut bytes = (family as u16).to_ne_bytes().to_vec();
    bytes.extend_from_slice(&end.port.0.to_be_bytes());
    if v6 {
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&end.addr.0);
        bytes.resize(V6_BYTES, 0);
    } else {
        bytes.extend_from_slice(&end.addr.as_v4().unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
        bytes.resize(V4_BYTES, 0);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_comes_back_as_it_was_written_in_both_forms() {
        let end = Endpoint { addr: IpAddress::from_v4(Ipv4Addr::new(192, 0, 2, 1)), port: Port(8080) };
        for v6 in [false, true] {
            assert_eq!(read(&write(end, v6)), Ok(Named::End(end)));
        }
        assert_eq!(read(&[0; 16]), Ok(Named::Unspecified));
        assert_eq!(read(&[2]), Err(Errno(libc::EINVAL)));
        assert_eq!(read(&[2, 0, 1]), Err(Errno(libc::EINVAL)));
    }
}
