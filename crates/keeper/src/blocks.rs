//! Blocks of local ports for connections that go out: reserved with kernel sockets, one rule for all of them.

use base::Port;
use control::proto::Rule;
use control::steer::BLOCK_PORTS;
use rustix::io::Errno;
use sys::fds::Fd;

use crate::client::Refusal;
use crate::rules;

/// What Linux takes unless told otherwise.
const DEFAULT_RANGE: (u16, u16) = (32_768, 60_999);
/// Multiplier that spreads the first block looked at (2^32 divided by the golden ratio).
const SPREAD: u32 = 0x9e37_79b1;

/// Every port of a block, each bound by one of the sockets.
pub(crate) struct Block {
    pub(crate) first: Port,
    pub(crate) sockets: Vec<Fd>,
}

/// Reserves a block for `rule`, whose port says nothing: of the ports that the kernel would give to connections that go out, one where
/// all ports are free. `own`: the kernel does not know the address. `turn` says where to begin to look.
pub(crate) fn reserve(rule: &Rule, turn: u32, own: bool) -> Result<Block, Refusal> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let range = range.ok().and_then(|text| range_of(&text)).unwrap_or(DEFAULT_RANGE);
    let kept = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_reserved_ports").unwrap_or_default();
    let starts = starts(range, &kept);
    let count = u32::try_from(starts.len()).unwrap_or(u32::MAX);
    let begin = ((u64::from(turn.wrapping_mul(SPREAD)) * u64::from(count)) >> 32) as usize;
    let (late, early) = starts.split_at_checked(begin).unwrap_or((&starts, &[]));
    let mut last = Errno::ADDRINUSE;
    for &first in early.iter().chain(late) {
        match take(rule, first, own) {
            Ok(sockets) => return Ok(Block { first: Port(first), sockets }),
            Err(Errno::ADDRINUSE) => {}
            Err(errno) => {
                last = errno;
                break;
            }
        }
    }
    Err(Refusal::new(last, format!("taking {BLOCK_PORTS} ports at once: {last}")))
}

/// All ports of the block that begins with `first`, or none.
fn take(rule: &Rule, first: u16, own: bool) -> Result<Vec<Fd>, Errno> {
    let ports = first..=first.saturating_add(BLOCK_PORTS - 1);
    ports.map(|port| rules::bind(rule.proto, (rule.addr, Port(port)), own)).collect()
}

/// The two numbers of `ip_local_port_range`.
fn range_of(text: &str) -> Option<(u16, u16)> {
    let mut words = text.split_whitespace();
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

/// First ports of the blocks that lie in `range` and hold none of the ports that `kept` (`8080,9000-9010`) keeps for others.
fn starts(range: (u16, u16), kept: &str) -> Vec<u16> {
    let kept: Vec<(u16, u16)> = kept.trim().split(',').filter_map(span_of).collect();
    let last_of = |first: u16| first.saturating_add(BLOCK_PORTS - 1);
    let free = |first: &u16| !kept.iter().any(|(from, to)| *from <= last_of(*first) && *first <= *to);
    let all = (0..=u16::MAX / BLOCK_PORTS).map(|block| block * BLOCK_PORTS);
    all.filter(|first| *first >= range.0.max(1024) && last_of(*first) <= range.1).filter(free).collect()
}

fn span_of(text: &str) -> Option<(u16, u16)> {
    let (from, to) = text.split_once('-').unwrap_or((text, text));
    Some((from.trim().parse().ok()?, to.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::{IpAddress, LaneId};
    use control::proto::Proto;
    use std::net::{Ipv4Addr, TcpListener};
    use std::time::{Duration, Instant};

    #[test]
    fn blocks_lie_in_the_range_and_spare_kept_ports() {
        assert_eq!(starts((32_768, 33_000), ""), [32_768, 32_832, 32_896]);
        assert_eq!(starts((32_767, 32_959), "32900-32910,40000"), [32_768, 32_832]);
        assert_eq!(starts((0, 1151), "1087"), [1088]);
        assert_eq!(starts((2000, 2010), ""), [0_u16; 0]);
        assert_eq!(starts((65_000, 65_535), "").last(), Some(&65_472));
        assert_eq!(range_of("32768\t60999\n"), Some((32_768, 60_999)));
        assert_eq!(range_of("none"), None);
    }

    #[test]
    fn every_port_of_a_block_is_taken_and_blocks_do_not_overlap() {
        // An address that no other test binds ports of.
        let here = Ipv4Addr::new(127, 77, 0, 1);
        let addr = IpAddress::from_v4(here);
        let rule = Rule { region: 1, lane: LaneId(0), proto: Proto::Tcp, addr, port: Port(0) };
        let one = reserve(&rule, 7, false).expect("a block");
        assert_eq!((one.first.0 % BLOCK_PORTS, one.sockets.len()), (0, usize::from(BLOCK_PORTS)));
        for port in one.first.0..one.first.0 + BLOCK_PORTS {
            assert!(TcpListener::bind((here, port)).is_err(), "{port}");
        }
        let two = reserve(&rule, 7, false).expect("another block");
        assert_ne!(one.first, two.first);
        let first = one.first.0;
        drop(one);
        // A child that another test has forked holds copies of the sockets until it executes its program.
        let until = Instant::now() + Duration::from_secs(30);
        while let Err(error) = TcpListener::bind((here, first)) {
            assert!(Instant::now() < until, "port {first} is still taken: {error}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
