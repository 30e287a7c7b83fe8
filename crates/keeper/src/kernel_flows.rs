//! TCP connections that the kernel itself has: when a listener becomes a lane's, those it accepted before stay with it.

use std::collections::HashSet;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};

use base::{IpAddress, Port};
use control::proto::Proto;
use control::steer::{Flow, LocalEnd};

// States of /proc/net/tcp (include/net/tcp_states.h).
const TIME_WAIT: u8 = 0x06;
const CLOSE: u8 = 0x07;
const LISTEN: u8 = 0x0a;

/// What the kernel has.
#[derive(Default)]
pub(crate) struct KernelFlows {
    /// Its connections.
    pub(crate) flows: HashSet<Flow>,
    /// The local ends of those that are not in TIME-WAIT: these have nothing to lose.
    pub(crate) local_ends: HashSet<LocalEnd>,
}

/// The kernel's connections of either family in the network namespace of this thread.
///
/// # Errors
/// EMFILE and the like.
pub(crate) fn look() -> io::Result<KernelFlows> {
    let mut found = KernelFlows::default();
    for file in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        let text = match std::fs::read_to_string(file) {
            // Without IPv6 in the kernel the second is missing.
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            other => other?,
        };
        for (flow, state) in text.lines().skip(1).filter_map(parse) {
            if state != TIME_WAIT {
                found.local_ends.insert(flow.local);
            }
            found.flows.insert(flow);
        }
    }
    Ok(found)
}

/// Reads one line: `sl local_address rem_address st ...`, addresses as hex words in the machine's byte order.
/// Gives the connection and its state.
fn parse(line: &str) -> Option<(Flow, u8)> {
    let mut words = line.split_whitespace().skip(1);
    let (addr, port) = end(words.next()?)?;
    let (remote, remote_port) = end(words.next()?)?;
    let state = u8::from_str_radix(words.next()?, 16).ok()?;
    let local = LocalEnd { proto: Proto::Tcp, addr, port };
    (!matches!(state, CLOSE | LISTEN)).then_some((Flow { local, remote, remote_port }, state))
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
        let remote = IpAddress::from_v4(Ipv4Addr::new(10, 99, 0, 2));
        let local = LocalEnd { proto: Proto::Tcp, addr, port: Port(8080) };
        let flow = Flow { local, remote, remote_port: Port(0x9c40) };
        let v4 = "   1: 0100630A:1F90 0200630A:9C40 01 00000000:00000000 00:00000000 00000000     0";
        let v6 = "   1: 0000000000000000FFFF00000100630A:1F90 0000000000000000FFFF00000200630A:9C40 03 0:0";
        assert_eq!(parse(v4), Some((flow, 1)));
        assert_eq!(parse(v6), Some((flow, 3)));
        assert_eq!(parse(&v4.replace(" 01 ", " 06 ")), Some((flow, TIME_WAIT)));
        assert_eq!(parse("   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000"), None);
    }
}
