//! What a native lane is made of, and what can go wrong.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use base::{Duration, LaneId, MacAddr};
use port::lend::{LendParts, LendPort, NoFrames};
use port::memif::{MemifError, MemifParts, MemifPort};
use port::{Port, PortSetup};
use region::RegionError;
use state::TcpOptions;

use super::Memory;

/// What [`Native::wait`](super::Native::wait) does when there is nothing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Polls on: the lowest latency, and a whole core.
    Spin,
    /// Sleeps at once until a port has something, or a timer.
    Sleep,
    /// Polls on for so long, then sleeps.
    SpinThenSleep(Duration),
}

/// One port of the lane, and what lies behind it.
pub struct Link {
    /// The port. Its index in [`Config::links`] is the number it was made with ([`port::PortSetup::port`]).
    pub port: Box<dyn Port + Send>,
    /// Our Ethernet address there.
    pub mac: MacAddr,
    /// Our address there.
    pub addr: Ipv4Addr,
    /// Length of the prefix that is reached through this port without a gateway.
    pub prefix: u8,
    /// The way to everywhere else.
    pub gateway: Option<Ipv4Addr>,
    /// Ethernet address of the one neighbour, on a wire that has one. Otherwise ARP finds neighbours, if the port says that the
    /// address is its own ([`port::PortCaps::own_address`]).
    pub peer: Option<MacAddr>,
}

impl Link {
    /// A wire to a single neighbour with Ethernet address `peer`.
    #[must_use]
    pub fn wire(port: Box<dyn Port + Send>, (mac, addr): (MacAddr, Ipv4Addr), peer: MacAddr) -> Self {
        Self { port, mac, addr, prefix: 0, gateway: None, peer: Some(peer) }
    }

    /// One end of a memif wire to another lane, as the first link of a lane in `memory`: from `addr` to `peer`, with Ethernet
    /// addresses made of these. The other end does the same with the two addresses changed over.
    ///
    /// # Errors
    /// What [`MemifPort::from_parts`] gives.
    pub fn memif(
        parts: MemifParts,
        memory: &Memory,
        addr: Ipv4Addr,
        peer: Ipv4Addr,
    ) -> Result<Self, MemifError> {
        Self::memif_of_mtu(parts, memory, (addr, peer), MEMIF_MTU)
    }

    /// As [`Link::memif`], from the first of `ends` to the second, in packets of at most `mtu` bytes.
    ///
    /// # Errors
    /// What [`MemifPort::from_parts`] gives.
    pub fn memif_of_mtu(
        parts: MemifParts,
        memory: &Memory,
        (addr, peer): (Ipv4Addr, Ipv4Addr),
        mtu: u16,
    ) -> Result<Self, MemifError> {
        let port = MemifPort::from_parts(parts, memory.region().frame_area(), wire_setup(mtu))?;
        Ok(Self::wire(Box::new(port), (mac_of(addr), addr), mac_of(peer)))
    }

    /// One end of a lending wire to another lane of the same `memory`, as the first link of a lane: frames are not copied but read where
    /// they are, with [`Native::send_with`](super::Native::send_with) and [`Native::recv_with`](super::Native::recv_with) from end to end.
    /// Both ends trust one another with all of the memory. It cannot be slept on: a lane that has one polls.
    ///
    /// # Errors
    /// What [`LendPort::from_parts`] gives.
    pub fn lend(parts: LendParts, memory: &Memory, addr: Ipv4Addr, peer: Ipv4Addr) -> Result<Self, NoFrames> {
        let port = LendPort::from_parts(parts, memory.region(), wire_setup(LEND_MTU))?;
        Ok(Self::wire(Box::new(port), (mac_of(addr), addr), mac_of(peer)))
    }
}

/// Largest packet of a memif wire: the largest of IPv4 that rings take whole, bytes.
pub const MEMIF_MTU: u16 = 65_520;

/// Largest packet of a lending wire: 15 whole frames of payload behind the headers of IPv4 and TCP with timestamps, so that frames are
/// not cut.
const LEND_MTU: u16 = 15 * base::limits::FRAME_BYTES as u16 + 52;

/// The setup of a port to another lane of this machine.
fn wire_setup(mtu: u16) -> PortSetup {
    PortSetup { port: 0, mtu, local_peer: true, own_address: true }
}

/// A locally administered Ethernet address (IEEE 802, bit 1 of the first byte) that holds `addr`.
fn mac_of(addr: Ipv4Addr) -> MacAddr {
    let [a, b, c, d] = addr.octets();
    MacAddr([2, 0, a, b, c, d])
}

/// How to make a [`Native`](super::Native).
pub struct Config {
    /// Where the lane's tables and frames lie.
    pub memory: Memory,
    /// Which lane of that memory.
    pub lane: LaneId,
    /// Connections it can hold, those in TIME-WAIT included; no more than the memory was made for.
    pub sockets: u32,
    /// Its ports.
    pub links: Vec<Link>,
    /// Options of the sockets it makes.
    pub options: TcpOptions,
    /// Local ports of connections that it opens (RFC 6335 6 calls 49152 to 65535 dynamic; Linux's choice is the default here).
    pub local_ports: RangeInclusive<u16>,
    /// What waiting does.
    pub wait: Wait,
}

impl Config {
    /// Lane 0 of `memory` for `sockets` connections over `links`, without Nagle's algorithm, sleeping after 50 us.
    #[must_use]
    pub fn new(memory: Memory, sockets: u32, links: Vec<Link>) -> Self {
        Self {
            memory,
            lane: LaneId(0),
            sockets,
            links,
            options: TcpOptions { nodelay: 1, ..TcpOptions::default() },
            local_ports: 32_768..=60_999,
            wait: Wait::SpinThenSleep(Duration::from_micros(50)),
        }
    }
}

/// Why there is no native lane.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StartError {
    /// The system gave no memory or no random numbers; the errno.
    System(i32),
    /// The memory is no region, or the shape is impossible.
    Region(RegionError),
    /// The region has no lane of that number.
    NoLane,
    /// A living thread holds the lane.
    Taken,
    /// The lane's part of the memory is too small for that many sockets.
    TooSmall,
    /// More links than a lane has ports.
    TooManyLinks,
    /// The range of local ports is empty or holds port 0.
    LocalPorts,
}

impl core::fmt::Display for StartError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::System(errno) => {
                write!(f, "no memory or random numbers (errno {errno}): free some, or ask for less")
            }
            Self::Region(error) => write!(f, "the memory cannot hold the lane: {error}"),
            Self::NoLane => f.write_str("the region has no lane of that number: make it with more lanes"),
            Self::Taken => f.write_str("a living thread holds that lane: give each thread its own"),
            Self::TooSmall => f.write_str("too many sockets for the lane: make the memory for as many"),
            Self::TooManyLinks => {
                write!(f, "a lane has at most {} ports", base::limits::DEVICES)
            }
            Self::LocalPorts => f.write_str("the range of local ports is empty or holds port 0"),
        }
    }
}

impl std::error::Error for StartError {}

/// Why no connection is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnectError {
    /// The address or port cannot be connected to.
    Invalid,
    /// No link leads there.
    NoRoute,
    /// Every local port has a connection to that end already.
    NoPort,
    /// All sockets of the lane are in use.
    NoRoom,
    /// The neighbour does not answer.
    HostUnreachable,
}

impl core::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Invalid => "the address or port cannot be connected to",
            Self::NoRoute => "no link of the lane leads there",
            Self::NoPort => "every local port has a connection to that end already",
            Self::NoRoom => "all sockets of the lane are in use",
            Self::HostUnreachable => "the neighbour does not answer",
        })
    }
}

impl std::error::Error for ConnectError {}
