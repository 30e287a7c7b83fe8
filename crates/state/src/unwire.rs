//! Connections on their way from a wire to the device beside it, and those that have just come off one: a few of a lane at a time.

use base::{Idx, MacAddr, SeqNum};
use region::plain;

use crate::TcbHot;

/// Such connections of one lane that are remembered at a time.
pub const UNWIRES: usize = 64;

plain! {
    /// One of them.
    #[derive(Debug, Default)]
    pub struct Unwire {
        /// The connection's row.
        pub row: Idx<TcbHot>,
        /// Its ISS, which tells it from another one that gets the row.
        pub iss: SeqNum,
        /// Ethernet address of the peer's device.
        pub mac: MacAddr,
        /// Largest IP packet of the peer's device, bytes.
        pub mtu: u16,
        /// How far it is, as the engine numbers it; 0: nothing is here.
        pub stage: u8,
        /// The port besides its own whose segments it takes.
        pub port: u8,
        /// Room.
        pub spare: u16,
    }
}

plain! {
    /// All of them.
    #[derive(Debug)]
    pub struct Unwires {
        /// Rows.
        pub rows: [Unwire; UNWIRES],
        /// Rows that were ever used: the first ones.
        pub used: u32,
        /// Rows of connections whose peer asks, and whose lane does not know it yet.
        pub told: u32,
        /// The row that gives way next when all are in use.
        pub turn: u32,
        /// Room.
        pub spare: u32,
    }
}

impl Unwires {
    /// None.
    pub const NONE: Self = Self {
        rows: [Unwire {
            row: Idx::NONE,
            iss: SeqNum(0),
            mac: MacAddr([0; 6]),
            mtu: 0,
            stage: 0,
            port: 0,
            spare: 0,
        }; UNWIRES],
        used: 0,
        told: 0,
        turn: 0,
        spare: 0,
    };
}

const _: () = assert!(size_of::<Unwire>() == 20);
const _: () = assert!(size_of::<Unwires>() == 20 * UNWIRES + 16);
