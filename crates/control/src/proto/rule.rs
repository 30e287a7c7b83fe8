//! What packets belong to a lane.

use base::{IpAddress, LaneId, Port};

use super::ProtoError;
use super::codec::{Reader, Writer};

/// Transport protocol of a rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Proto {
    /// Protocol number 6.
    Tcp = 6,
    /// Protocol number 17.
    Udp = 17,
}

/// Packets of `proto` to (`addr`, `port`) belong to `lane` of `region`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Rule {
    /// Region number from [`super::Reply::Region`].
    pub region: u32,
    /// Lane in that region.
    pub lane: LaneId,
    /// Transport protocol.
    pub proto: Proto,
    /// Local address; [`IpAddress::ANY`] means every local address of the region's devices.
    pub addr: IpAddress,
    /// Local port. 0 only in [`super::Request::TakePort`]: the keeper chooses.
    pub port: Port,
}

impl Rule {
    pub(super) fn encode(&self, w: &mut Writer<'_>) {
        w.u32(self.region).u16(self.lane.0).u8(self.proto as u8).bytes(&self.addr.0).u16(self.port.0);
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, ProtoError> {
        let (region, lane) = (r.u32()?, LaneId(r.u16()?));
        let proto = Proto::from_number(r.u8()?).ok_or(ProtoError::BadValue)?;
        Ok(Self { region, lane, proto, addr: IpAddress(r.array()?), port: Port(r.u16()?) })
    }
}

impl Proto {
    /// The protocol with this IP protocol number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }
}
