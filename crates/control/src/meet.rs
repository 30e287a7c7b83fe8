//! Letters between the keepers of one host, over a SEQPACKET socket; file descriptors go beside them by SCM_RIGHTS.
//!
//! A keeper tells every other one where programs of its own listen through lanes, and sends the other end of each wire that it makes to
//! one of those programs. No letter is answered. The encoding is that of [`crate::proto`], as strict.

use base::limits::KEEPER_MESSAGE_BYTES;
use base::{IpAddress, LaneId, Port};

use crate::proto::codec::{Reader, Writer};
use crate::proto::{MessageBuffer, ProtoError, WireEnd};

/// Version of these letters. Keepers of different versions do not meet.
pub const VERSION: u16 = 1;

/// A network namespace, by the file behind /proc/PID/ns/net.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
pub struct NamespaceId {
    /// Device of the file.
    pub device: u64,
    /// Number of the file.
    pub inode: u64,
}

/// A lane of another keeper.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct FarLane {
    /// Region number at that keeper.
    pub region: u32,
    /// Lane in that region.
    pub lane: LaneId,
}

/// What one keeper tells another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Letter {
    /// Ends what each side says at first, with one fd: the keeper's network namespace.
    Hello {
        /// [`VERSION`].
        version: u16,
        /// Random number of the keeper.
        keeper: u64,
        /// Its network namespace.
        namespace: NamespaceId,
    },
    /// TCP connections to (`addr`, `port`) can come to `lane` by a wire, or no longer.
    Listens {
        /// The lane.
        lane: FarLane,
        /// Address; [`IpAddress::ANY`]: any of the namespace.
        addr: IpAddress,
        /// Port.
        port: Port,
        /// Its process.
        pid: u32,
        /// Does it listen?
        on: bool,
    },
    /// The keeper's namespace has `addr` on its device `ifindex`, or no longer.
    Address {
        /// Device.
        ifindex: u32,
        /// Address.
        addr: IpAddress,
        /// Is it there?
        on: bool,
    },
    /// A wire to `lane`, with the fds of its other end. [`WireEnd::wire`] is the sender's number; port and lane are for the receiver
    /// to fill in.
    Wire {
        /// The lane it leads to.
        lane: FarLane,
        /// The end.
        end: WireEnd,
    },
    /// A wire is no more: one side's lane is gone, or cannot take it.
    Part {
        /// Number that its maker gave it.
        wire: u32,
        /// Did the receiver of this letter make it?
        yours: bool,
    },
}

impl Letter {
    /// Writes the letter into `out`; returns its length.
    ///
    /// # Errors
    /// [`ProtoError::TooLong`], which no letter is.
    pub fn encode(&self, out: &mut MessageBuffer) -> Result<usize, ProtoError> {
        let mut w = Writer::new(out);
        match self {
            Self::Hello { version, keeper, namespace } => {
                w.u8(1).u16(*version).u64(*keeper).u64(namespace.device).u64(namespace.inode);
            }
            Self::Listens { lane, addr, port, pid, on } => {
                lane.encode(w.u8(2));
                w.bytes(&addr.0).u16(port.0).u32(*pid).u8(u8::from(*on));
            }
            Self::Address { ifindex, addr, on } => {
                w.u8(3).u32(*ifindex).bytes(&addr.0).u8(u8::from(*on));
            }
            Self::Wire { lane, end } => {
                lane.encode(w.u8(4));
                end.encode(&mut w);
            }
            Self::Part { wire, yours } => {
                w.u8(5).u32(*wire).u8(u8::from(*yours));
            }
        }
        w.finish()
    }

    /// Reads one whole letter.
    ///
    /// # Errors
    /// Whatever is wrong with it first.
    pub fn decode(bytes: &[u8]) -> Result<Self, ProtoError> {
        let mut r = Reader::new(bytes);
        let letter = match r.u8()? {
            1 => Self::Hello {
                version: r.u16()?,
                keeper: r.u64()?,
                namespace: NamespaceId { device: r.u64()?, inode: r.u64()? },
            },
            2 => Self::Listens {
                lane: FarLane::decode(&mut r)?,
                addr: IpAddress(r.array()?),
                port: Port(r.u16()?),
                pid: r.u32()?,
                on: r.bool()?,
            },
            3 => Self::Address { ifindex: r.u32()?, addr: IpAddress(r.array()?), on: r.bool()? },
            4 => Self::Wire { lane: FarLane::decode(&mut r)?, end: WireEnd::decode(&mut r)? },
            5 => Self::Part { wire: r.u32()?, yours: r.bool()? },
            other => return Err(ProtoError::UnknownKind(other)),
        };
        r.finish(letter)
    }
}

impl FarLane {
    fn encode(self, w: &mut Writer<'_>) {
        w.u32(self.region).u16(self.lane.0);
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, ProtoError> {
        Ok(Self { region: r.u32()?, lane: LaneId(r.u16()?) })
    }
}

const _: () = assert!(KEEPER_MESSAGE_BYTES >= 128);

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn letters_survive_the_way_and_cut_ones_are_refused() {
        let addr = IpAddress::from_v4(Ipv4Addr::LOCALHOST);
        let lane = FarLane { region: 7, lane: LaneId(3) };
        let end =
            WireEnd { wire: 9, port: 17, lane: LaneId(1), peer_pid: 77, log2_ring: 9, ..WireEnd::default() };
        for letter in [
            Letter::Hello {
                version: VERSION,
                keeper: u64::MAX - 5,
                namespace: NamespaceId { device: 4, inode: 4_026_531_840 },
            },
            Letter::Listens { lane, addr, port: Port(80), pid: 12, on: true },
            Letter::Address { ifindex: 2, addr, on: false },
            Letter::Wire { lane, end },
            Letter::Part { wire: 9, yours: true },
        ] {
            let mut buffer = [0; KEEPER_MESSAGE_BYTES];
            let len = letter.encode(&mut buffer).expect("room");
            assert_eq!(Letter::decode(&buffer[..len]), Ok(letter));
            for cut in 0..len {
                assert!(Letter::decode(&buffer[..cut]).is_err());
            }
            assert_eq!(Letter::decode(&buffer[..=len]), Err(ProtoError::Surplus));
        }
        assert_eq!(Letter::decode(&[99]), Err(ProtoError::UnknownKind(99)));
    }
}
