//! What belongs to the IP layer of a lane as a whole.

use base::Instant;
use region::plain;

use crate::{HopGlobals, Outbox, ReassemblyGlobals, UdpGlobals};

plain! {
    /// One row a lane; [`IpGlobals::EMPTY`] to begin with.
    #[derive(Debug)]
    pub struct IpGlobals {
        /// When ICMP error tokens were last filled up.
        pub icmp_filled_at: Instant,
        /// When we last defended an own address.
        pub arp_defended_at: Instant,
        /// Tokens for ICMP errors we send, a thousandth each (RFC 1812 4.3.2.8).
        pub icmp_milli_tokens: u32,
        /// The identification of the next IPv4 packet that may be fragmented (RFC 6864).
        pub next_id: u32,
        /// Own addresses that somebody else claimed (RFC 5227 2.4).
        pub arp_conflicts: u32,
        /// Odd: datagrams come before connections in the next batch to send; they take turns.
        pub turn: u32,
        /// All hops.
        pub hops: HopGlobals,
        /// All reassemblies.
        pub reassemblies: ReassemblyGlobals,
        /// All UDP sockets.
        pub udp: UdpGlobals,
        /// Packets of no connection.
        pub outbox: Outbox,
    }
}

impl IpGlobals {
    /// A lane that has neither sent nor received anything.
    pub const EMPTY: Self = Self {
        icmp_filled_at: Instant(0),
        arp_defended_at: Instant(0),
        icmp_milli_tokens: 0,
        next_id: 0,
        arp_conflicts: 0,
        turn: 0,
        hops: HopGlobals::EMPTY,
        reassemblies: ReassemblyGlobals::EMPTY,
        udp: UdpGlobals::EMPTY,
        outbox: Outbox::EMPTY,
    };
}
