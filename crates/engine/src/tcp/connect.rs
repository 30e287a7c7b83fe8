//! Active open (RFC 9293 3.10.1).

use ::state::dormant::{DORMANT, NAMELESS};
use ::state::ports::PORT_WIRE;
use ::state::{Endpoint, FlowKey, LaneMem, SockRef, TcpOptions};
use base::{Idx, Instant, SeqNum};

use super::conn::conn;
use super::{Cause, State, flag, table, time_wait};
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
    // One that is gone has no MTU.
    let port = mem.ports.get(Idx::new(u32::from(route.port))).filter(|port| port.mtu != 0);
    let port = port.ok_or(ConnectError::Invalid)?;
    let mtu = route.mtu_from(port.mtu);
    let fits =
        local.addr.is_unicast() && remote.addr.is_unicast() && local.addr.is_v4() == remote.addr.is_v4();
    if !fits || local.port.0 == 0 || remote.port.0 == 0 {
        return Err(ConnectError::Invalid);
    }
    let key =
        FlowKey { local: local.addr, remote: remote.addr, local_port: local.port, remote_port: remote.port };
    let wire = port.flags & PORT_WIRE != 0;
    // Its bucket is on its way while the numbers are made.
    let hash = table::hash_of(mem, &key);
    mem.flows.prefetch(hash);
    let (iss, ts_offset) = table::initial_numbers(mem, now, &key);
    let above = match table::value_at(mem, hash, &key) {
        Some(old) => Some(replace(mem, old, wire).ok_or(ConnectError::InUse)?),
        None => None,
    };
    let hop = hop::for_route(mem, now, route).ok_or(ConnectError::NoRoom)?;
    if hop::mac(mem, hop) == HopMac::Failed {
        hop::release(mem, hop);
        return Err(ConnectError::HostUnreachable);
    }
    let Some(at) = table::make(mem, now, &key, hash) else {
        hop::release(mem, hop);
        return Err(ConnectError::NoRoom);
    };
    let iss = above.filter(|a| !iss.after(*a)).unwrap_or(iss);
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

/// Ends the connection in TIME-WAIT to which the flow table's value `old` leads, for a new one over a wire, and gives the number above which that must begin.
///
/// RFC 9293 3.4.3 keeps TIME-WAIT against segments that are still under way. On a wire nothing is: it keeps the order, so what
/// the old connection sent is through before the new SYN. (Linux does so on its loopback device: net.ipv4.tcp_tw_reuse 2.) Not before it has acknowledged
/// the peer's FIN: in LAST-ACK the peer would take the SYN for an old one.
fn replace(mem: &mut LaneMem<'_>, old: u32, wire: bool) -> Option<SeqNum> {
    let nxt;
    if old & DORMANT == 0 {
        let at = Idx::new(old);
        let row = mem.hot.get(at).filter(|row| wire && State::from_raw(row.state) == State::TimeWait)?;
        if row.flags & flag::ACK_NOW != 0 {
            return None;
        }
        nxt = row.snd.nxt;
        table::end(mem, at, None);
    } else {
        let at = Idx::new(old & !DORMANT);
        nxt = mem.dormant.get(at).filter(|row| wire && row.handle == NAMELESS)?.snd_nxt;
        time_wait::end(mem, at);
    }
    let above = nxt.plus(65_537);
    mem.counters.tcp.time_wait_reused = mem.counters.tcp.time_wait_reused.wrapping_add(1);
    Some(above)
}
