//! One end of a wire, as it stands in messages.

use base::LaneId;

use super::ProtoError;
use super::codec::{Reader, Writer};

/// One end of a wire to another lane of this host. Its fds, as `port::memif` wants them, come with the message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WireEnd {
    /// Number of the wire.
    pub wire: u32,
    /// The lane whose end it is.
    pub lane: LaneId,
    /// Its index among the lane's ports.
    pub port: u8,
    /// Is it the end of the lane that asked for it?
    pub asked: bool,
    /// Process at the other end.
    pub peer_pid: u32,
    /// The device whose addresses are ours on the wire; 0: both ends are in one network namespace.
    pub ifindex: u32,
    /// Descriptors of each ring, as a power of two.
    pub log2_ring: u8,
    /// Bytes of one buffer.
    pub buffer_bytes: u32,
}

impl WireEnd {
    pub(crate) fn encode(&self, w: &mut Writer<'_>) {
        w.u32(self.wire).u16(self.lane.0).u8(self.port).u8(u8::from(self.asked));
        w.u32(self.peer_pid).u32(self.ifindex).u8(self.log2_ring).u32(self.buffer_bytes);
    }

    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, ProtoError> {
        Ok(Self {
            wire: r.u32()?,
            lane: LaneId(r.u16()?),
            port: r.u8()?,
            asked: r.bool()?,
            peer_pid: r.u32()?,
            ifindex: r.u32()?,
            log2_ring: r.u8()?,
            buffer_bytes: r.u32()?,
        })
    }
}
