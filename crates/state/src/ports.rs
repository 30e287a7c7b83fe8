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
/// Flag: a wire to another lane of this host: what one end sends comes out at the other in order, or the wire is gone.
pub const PORT_WIRE: u32 = 8;
/// Flag: both ends of the wire are in one network namespace, so that packets go between its own addresses, those of
/// 127.0.0.0/8 included, and between no others.
pub const PORT_LOOPBACK: u32 = 16;
/// Bits of a wire's flags: the port of the device beside it, plus one; 0: there is none.
const PORT_BESIDE: u32 = 0xff00;

plain! {
    /// One port of the lane, as its lane described it.
    #[derive(Debug)]
    pub struct PortInfo {
        /// Local addresses; the first `addr_count` are in use.
        pub addrs: [IpAddress; PORT_ADDRESSES],
        /// Number of local addresses.
        pub addr_count: u32,
        /// `PORT_*`.
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

/// The flags of a wire that say: the port numbered `device` leads beside it to the same network namespace.
#[must_use]
pub const fn port_beside(device: u8) -> u32 {
    ((device as u32 + 1) << PORT_BESIDE.trailing_zeros()) & PORT_BESIDE
}

impl PortInfo {
    /// The port of the device beside this wire; `None`: there is none.
    #[must_use]
    pub fn device_beside(&self) -> Option<u8> {
        let plus_one = (self.flags & PORT_BESIDE) >> PORT_BESIDE.trailing_zeros();
        u8::try_from(plus_one.checked_sub(1)?).ok()
    }
}
