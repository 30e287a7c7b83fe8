//! What a lane's engine knows of each of its ports.

use base::{IpAddress, MacAddr};
use region::plain;

/// Local addresses of one port.
pub const PORT_ADDRESSES: usize = 8;

/// Flag: the port is in use.
pub const PORT_UP: u32 = 1;
/// Flag: its addresses belong to Corelane alone, so the engine answers ARP and ICMP for them.
pub const PORT_OWN_ADDRESS: u32 = 2;
/// Flag: a peer on this machine may leave checksums unfinished.
pub const PORT_LOCAL_PEER: u32 = 4;

plain! {
    /// One port of the lane, as its lane described it.
    #[derive(Debug)]
    pub struct PortInfo {
        /// Local addresses; the first `addr_count` are in use.
        pub addrs: [IpAddress; PORT_ADDRESSES],
        /// Number of local addresses.
        pub addr_count: u32,
        /// `PORT_UP`, `PORT_OWN_ADDRESS`, `PORT_LOCAL_PEER`.
        pub flags: u32,
        /// Largest super-segment it takes, payload bytes; 0: none.
        pub super_segment_max: u32,
        /// Own Ethernet address.
        pub mac: MacAddr,
        /// Largest IP packet, bytes.
        pub mtu: u16,
    }
}
const _: () = assert!(size_of::<PortInfo>() == 16 * PORT_ADDRESSES + 20);
