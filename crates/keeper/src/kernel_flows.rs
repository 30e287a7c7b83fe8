//! TCP connections that the kernel itself has: when a listener becomes a lane's, those it accepted before stay with it.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use base::{IpAddress, Port};
use control::proto::Proto;
use control::steer::LocalEnd;

// States of /proc/net/tcp (include/net/tcp_states.h).
const TIME_WAIT: u8 = 0x06;
const CLOSE: u8 = 0x07;
const LISTEN: u8 = 0x0a;

/// The local ends of the kernel's connections of either family in the network namespace of this
/// thread. Those in TIME-WAIT have nothing to lose and are left out.
///
/// # Errors
/// EMFILE and the like.
pub(crate) fn local_ends() -> io::Result<HashSet<LocalEnd>> {
    let mut found = HashSet::new();
    for file in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        let text = match std::fs::read_to_string(file) {
            // Without IPv6 in the kernel the second is missing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            other => other?,
        };
        found.extend(text.lines().skip(1).filter_map(parse));
    }
    Ok(found)
}

/// Reads one line: `sl local_address rem_address st ...`, addresses as hex words in the machine's byte order.
fn parse(line: &str) -> Option<LocalEnd> {
    let mut words = line.split_whitespace().skip(1);
    let (addr, port) = end(words.next()?)?;
    let state = u8::from_str_radix(words.nth(1)?, 16).ok()?;
    let alive = !matches!(state, TIME_WAIT | CLOSE | LISTEN);
    alive.then_some(LocalEnd { proto: Proto::Tcp, addr, port })
}

fn end(text: &str) -> Option<(IpAddress, Port)> {
    let (addr, port) = text.split_once(':')?;
    let port = Port(u16::from_str_radix(port, 16).ok()?);
    let word = |at: usize| u32::from_str_radix(addr.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    match addr.len() {
        8 => Some((IpAddress::from_v4(Ipv4Addr::from(word(0)?)), port)),
        32 => {
            let mut octets = [0; 16];
            for (at, chunk) in octets.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(at)?);
            }
            Some((IpAddress::from_v6(Ipv6Addr::from(octets)), port))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_read_in_either_family_and_a_listener_is_not() {
        let addr = IpAddress::from_v4(Ipv4Addr::new(10, 99, 0, 1));
        let end = LocalEnd { proto: Proto::Tcp, addr, port: Port(8080) };
        let v4 = "   1: 0100630A:1F90 0200630A:9C40 01 00000000:00000000 00:00000000 00000000     0";
        let v6 = "   1: 0000000000000000FFFF00000100630A:1F90 0000000000000000FFFF00000200630A:9C40 03 0:0";
        assert_eq!(parse(v4), Some(end));
        assert_eq!(parse(v6), Some(end));
        assert_eq!(parse(&v4.replace(" 01 ", " 06 ")), None);
        assert_eq!(parse("   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000"), None);
    }
}
