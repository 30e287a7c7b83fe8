//! Active open (RFC 9293 3.10.1).

use ::state::{Endpoint, FlowKey, LaneMem, SockRef, TcpOptions};
use base::{Idx, Instant};

use super::conn::conn;
use super::{Cause, table};
use crate::errors::ConnectError;
use crate::hop::{self, HopMac};
use crate::types::RouteTo;

/// The two ends of a connection to be.
pub(crate) struct Ends {
    pub(crate) local: Endpoint,
    pub(crate) remote: Endpoint,
}

/// [`Engine::tcp_connect`](crate::Engine::tcp_connect).
pub(crate) fn open(
    mem: &mut LaneMem<'_>,
    now: Instant,
    ends: &Ends,
    route: &RouteTo,
    opts: &TcpOptions,
) -> Result<SockRef, ConnectError> {
    let Ends { local, remote } = *ends;
    let port = mem.ports.get(Idx::new(u32::from(route.port))).ok_or(ConnectError::Invalid)?;
    let mtu = if route.mtu == 0 { port.mtu } else { port.mtu.min(route.mtu) };
    let group = |e: Endpoint| e.addr.as_v4().is_none_or(|a| a.is_multicast() || a.is_broadcast());
    if group(local) || group(remote) || local.port.0 == 0 || remote.port.0 == 0 {
        return Err(ConnectError::Invalid);
    }
    let key =
        FlowKey { local: local.addr, remote: remote.addr, local_port: local.port, remote_port: remote.port };
    if table::find(mem, &key).is_some() {
        return Err(ConnectError::InUse);
    }
    let hop = hop::for_route(mem, now, route).ok_or(ConnectError::NoRoom)?;
    if hop::mac(mem, hop) == HopMac::Failed {
        hop::release(mem, hop);
        return Err(ConnectError::HostUnreachable);
    }
    let Some(at) = table::make(mem, &key) else {
        hop::release(mem, hop);
        return Err(ConnectError::NoRoom);
    };
    let (iss, ts_offset) = table::initial_numbers(mem, now, &key);
    mem.counters.tcp.active_opens = mem.counters.tcp.active_opens.wrapping_add(1);
    if let Some(mut c) = conn(mem, now, at) {
        c.hot.hop = hop;
        c.hot.port = route.port;
        c.go(Cause::ActiveOpen);
        c.apply_options(opts);
        c.start(iss, ts_offset, mtu);
    }
    Ok(table::name_of(mem, at))
}
