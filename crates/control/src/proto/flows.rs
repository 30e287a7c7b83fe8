//! Flows, as they stand in messages.

use base::{IpAddress, Port};

use super::ProtoError;
use super::codec::{Reader, Writer};

/// Flows of one message at most.
pub const FLOWS_MAX: usize = 64;

/// Both ends of a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FlowEnds {
    /// Local address.
    pub local: IpAddress,
    /// Local port.
    pub local_port: Port,
    /// Remote address.
    pub remote: IpAddress,
    /// Remote port.
    pub remote_port: Port,
}

/// Some flows, at most [`FLOWS_MAX`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowList {
    count: u8,
    rows: [FlowEnds; FLOWS_MAX],
}

impl FlowList {
    /// The first of `flows`, as many as there is room for.
    #[must_use]
    pub fn of(flows: &[FlowEnds]) -> Self {
        let mut list = Self { count: 0, rows: [FlowEnds::default(); FLOWS_MAX] };
        for (row, flow) in list.rows.iter_mut().zip(flows) {
            *row = *flow;
            list.count += 1;
        }
        list
    }

    /// The flows.
    #[must_use]
    pub fn as_slice(&self) -> &[FlowEnds] {
        self.rows.get(..usize::from(self.count)).unwrap_or(&[])
    }

    pub(super) fn encode(&self, w: &mut Writer<'_>) {
        w.u8(self.count);
        for flow in self.as_slice() {
            w.bytes(&flow.local.0).u16(flow.local_port.0).bytes(&flow.remote.0).u16(flow.remote_port.0);
        }
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, ProtoError> {
        let count = r.u8()?;
        if usize::from(count) > FLOWS_MAX {
            return Err(ProtoError::BadValue);
        }
        let mut list = Self { count, rows: [FlowEnds::default(); FLOWS_MAX] };
        for row in list.rows.iter_mut().take(usize::from(count)) {
            *row = FlowEnds {
                local: IpAddress(r.array()?),
                local_port: Port(r.u16()?),
                remote: IpAddress(r.array()?),
                remote_port: Port(r.u16()?),
            };
        }
        Ok(list)
    }
}
