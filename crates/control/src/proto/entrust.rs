//! A connection that the kernel is to go on with, as it stands in a message.

use base::{IpAddress, Port};

use super::ProtoError;
use super::codec::{Reader, Writer};

/// Where a connection of a lane stopped (tcp(7), TCP_REPAIR). Sequence numbers do not count FINs. Its own end stands in the rule beside it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stopped {
    /// Remote address.
    pub remote: IpAddress,
    /// Remote port.
    pub remote_port: Port,
    /// Device of a link-local address; else 0.
    pub scope: u32,
    /// The program's socket is one of IPv6, whatever the address.
    pub v6: bool,
    /// SND.UNA.
    pub snd_una: u32,
    /// RCV.NXT.
    pub rcv_nxt: u32,
    /// Bytes received and not read; they are the first in the memory beside the message.
    pub unread_bytes: u32,
    /// Bytes sent and not acknowledged; they follow.
    pub unacked_bytes: u32,
    /// Bytes that wait to be sent; they are the last.
    pub unsent_bytes: u32,
    /// SND.WL1.
    pub snd_wl1: u32,
    /// SND.WND.
    pub snd_wnd: u32,
    /// The largest that ever was.
    pub snd_wnd_max: u32,
    /// RCV.WND as announced.
    pub rcv_wnd: u32,
    /// MSS the peer announced.
    pub mss: u16,
    /// Scales of the peer's windows and of ours, if windows are scaled.
    pub scales: Option<(u8, u8)>,
    /// SACK is in use.
    pub sack: bool,
    /// TSval now, if timestamps are in use.
    pub timestamp: Option<u32>,
    /// The program has closed its direction.
    pub fin_sent: bool,
    /// The peer has.
    pub fin_received: bool,
}

impl Stopped {
    pub(super) fn encode(&self, w: &mut Writer<'_>) {
        w.bytes(&self.remote.0).u16(self.remote_port.0).u32(self.scope).u8(u8::from(self.v6));
        for word in [
            self.snd_una,
            self.rcv_nxt,
            self.unread_bytes,
            self.unacked_bytes,
            self.unsent_bytes,
            self.snd_wl1,
            self.snd_wnd,
            self.snd_wnd_max,
            self.rcv_wnd,
        ] {
            w.u32(word);
        }
        let (peers, own) = self.scales.unwrap_or_default();
        w.u16(self.mss).u8(u8::from(self.scales.is_some())).u8(peers).u8(own).u8(u8::from(self.sack));
        w.u8(u8::from(self.timestamp.is_some())).u32(self.timestamp.unwrap_or_default());
        w.u8(u8::from(self.fin_sent)).u8(u8::from(self.fin_received));
    }

    pub(super) fn decode(r: &mut Reader<'_>) -> Result<Self, ProtoError> {
        let mut stopped = Self {
            remote: IpAddress(r.array()?),
            remote_port: Port(r.u16()?),
            scope: r.u32()?,
            v6: r.bool()?,
            ..Self::default()
        };
        for word in [
            &mut stopped.snd_una,
            &mut stopped.rcv_nxt,
            &mut stopped.unread_bytes,
            &mut stopped.unacked_bytes,
            &mut stopped.unsent_bytes,
            &mut stopped.snd_wl1,
            &mut stopped.snd_wnd,
            &mut stopped.snd_wnd_max,
            &mut stopped.rcv_wnd,
        ] {
            *word = r.u32()?;
        }
        stopped.mss = r.u16()?;
        let scaled = r.bool()?;
        let scales = (r.u8()?, r.u8()?);
        // RFC 7323 2.3.
        if scales.0 > 14 || scales.1 > 14 || (!scaled && scales != (0, 0)) {
            return Err(ProtoError::BadValue);
        }
        stopped.scales = scaled.then_some(scales);
        stopped.sack = r.bool()?;
        let (stamped, stamp) = (r.bool()?, r.u32()?);
        if !stamped && stamp != 0 {
            return Err(ProtoError::BadValue);
        }
        stopped.timestamp = stamped.then_some(stamp);
        (stopped.fin_sent, stopped.fin_received) = (r.bool()?, r.bool()?);
        Ok(stopped)
    }
}
