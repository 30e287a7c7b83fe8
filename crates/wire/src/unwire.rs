//! The frame by which one end of a wire between two lanes says that it would have a connection go by the device beside the wire from now on. Ours alone,
//! under the EtherType that IEEE 802 (clause 9.2.4) leaves for local use; it goes by wires only.

use base::{IpAddress, MacAddr, Port};

use crate::bytes::{TooShort, array, be16, put, put16, room};

/// Bytes of the frame behind the Ethernet header.
pub const FRAME_LEN: usize = 46;
/// What the first byte is.
const VERSION: u8 = 1;

/// Why bytes are no such frame.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnwireError {
    /// Fewer than 46 bytes.
    Truncated,
    /// Another version's.
    UnknownVersion,
}

/// What it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnwireHeader {
    /// Ethernet address of the sender's device.
    pub mac: MacAddr,
    /// Largest IP packet of that device, bytes.
    pub mtu: u16,
    /// The connection's address at the sender.
    pub local: IpAddress,
    /// Its address at the receiver.
    pub remote: IpAddress,
    /// Its port at the sender.
    pub local_port: Port,
    /// Its port at the receiver.
    pub remote_port: Port,
}

impl UnwireHeader {
    /// The frame at the front of `bytes`, which begin behind the Ethernet header.
    ///
    /// # Errors
    /// [`UnwireError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, UnwireError> {
        let Some(bytes) = bytes.first_chunk::<FRAME_LEN>() else { return Err(UnwireError::Truncated) };
        if bytes[0] != VERSION {
            return Err(UnwireError::UnknownVersion);
        }
        Ok(Self {
            mac: MacAddr(array::<2, 6, _>(bytes)),
            mtu: be16::<8, _>(bytes),
            local: IpAddress(array::<10, 16, _>(bytes)),
            remote: IpAddress(array::<26, 16, _>(bytes)),
            local_port: Port(be16::<42, _>(bytes)),
            remote_port: Port(be16::<44, _>(bytes)),
        })
    }

    /// Writes the frame to the front of `out`; returns its length.
    ///
    /// # Errors
    /// `out` is too short.
    pub fn emit(&self, out: &mut [u8]) -> Result<usize, TooShort> {
        let out = room::<FRAME_LEN>(out)?;
        put::<0, 2, _>(out, [VERSION, 0]);
        put::<2, 6, _>(out, self.mac.0);
        put16::<8, _>(out, self.mtu);
        put::<10, 16, _>(out, self.local.0);
        put::<26, 16, _>(out, self.remote.0);
        put16::<42, _>(out, self.local_port.0);
        put16::<44, _>(out, self.remote_port.0);
        Ok(FRAME_LEN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_survives_the_way_and_cut_or_foreign_ones_are_refused() {
        let header = UnwireHeader {
            mac: MacAddr([1, 2, 3, 4, 5, 6]),
            mtu: 1500,
            local: IpAddress([7; 16]),
            remote: IpAddress([9; 16]),
            local_port: Port(80),
            remote_port: Port(40_000),
        };
        let mut bytes = [0xff; FRAME_LEN + 3];
        assert_eq!(header.emit(&mut bytes), Ok(FRAME_LEN));
        assert_eq!(UnwireHeader::parse(&bytes), Ok(header), "what follows is padding");
        for cut in 0..FRAME_LEN {
            assert_eq!(UnwireHeader::parse(&bytes[..cut]), Err(UnwireError::Truncated));
            assert!(header.emit(&mut [0; FRAME_LEN][..cut]).is_err());
        }
        bytes[0] = 2;
        assert_eq!(UnwireHeader::parse(&bytes), Err(UnwireError::UnknownVersion));
    }
}
