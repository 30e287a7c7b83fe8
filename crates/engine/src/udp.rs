//! UDP sockets (RFC 768, RFC 1122 4.1): bind, connect, close, who takes a datagram, readiness. Receiving and sending
//! are in `udp_recv` and `udp_send`.
//!
//! Invariant: an open socket is in the bucket of its local port and nowhere else; `recv_held` is the bytes of all
//! cells its queue holds, `send_held` those of its datagrams in outbox and hops.

use base::limits::FRAME_BYTES;
use base::{Idx, Instant, IpAddress, Port};
use state::udp::{
    UDP_BUCKETS, UDP_CONNECTED, UDP_DONT_FRAGMENT, UDP_MERGES, UDP_NO_CHECKSUM, UDP_OPEN, UDP_REUSE_PORT,
    UDP_SHUT_RECV, UDP_SHUT_SEND, UDP_WANTS_ROOM,
};
use state::{Endpoint, LaneMem, Ready, SockKind, SockRef, UdpSock};

use crate::errors::{ShutdownError, SockError};
use crate::icmp::{Fault, Report};
use crate::types::{How, RouteTo};
use crate::udp_types::{UdpBindError, UdpConnectError, UdpOptions};
use crate::{events, hop, ipv4, reroute, udp_recv};

/// Receive and send buffer of a socket whose options name none, bytes (Linux's rmem_default).
const BUFFER_DEFAULT: u32 = 212_992;
/// Smallest path MTU that an ICMP error is believed for, bytes (as Linux's min_pmtu).
const MTU_MIN: u16 = 552;
/// `bound_port` of a socket that takes datagrams from every port of the lane.
pub(crate) const ANY_PORT: u8 = 0xff;

/// The row that `s` names.
pub(crate) fn lookup(mem: &LaneMem<'_>, s: SockRef) -> Option<Idx<UdpSock>> {
    if s.kind() != Some(SockKind::Udp) {
        return None;
    }
    let at = Idx::new(s.row());
    let row = mem.udp_socks.get(at)?;
    (row.flags & UDP_OPEN != 0 && row.generation == s.generation).then_some(at)
}

/// The name of row `at`.
pub(crate) fn name(mem: &LaneMem<'_>, at: Idx<UdpSock>) -> SockRef {
    mem.udp_socks.get(at).map_or(SockRef::NONE, |row| SockRef::new(SockKind::Udp, at.raw(), row.generation))
}

fn bucket(port: Port) -> usize {
    usize::from(port.0) % UDP_BUCKETS
}

/// Opens a socket at `local`; the port must be given, the address may be ANY.
pub(crate) fn bind(
    mem: &mut LaneMem<'_>,
    local: Endpoint,
    opts: &UdpOptions,
) -> Result<SockRef, UdpBindError> {
    if local.port == Port(0) {
        return Err(UdpBindError::Invalid);
    }
    if is_taken(mem, local, opts) {
        return Err(UdpBindError::InUse);
    }
    let at = take_row(mem).ok_or(UdpBindError::NoRoom)?;
    let slot = mem.ip.udp.buckets.get_mut(bucket(local.port)).ok_or(UdpBindError::NoRoom)?;
    let chain = core::mem::replace(slot, at);
    let row = mem.udp_socks.get_mut(at).ok_or(UdpBindError::NoRoom)?;
    let generation = row.generation.wrapping_add(1);
    *row = UdpSock { local, generation, chain, flags: UDP_OPEN, ..UdpSock::EMPTY };
    apply(row, opts);
    mem.ip.udp.open = mem.ip.udp.open.saturating_add(1);
    Ok(name(mem, at))
}

fn take_row(mem: &mut LaneMem<'_>) -> Option<Idx<UdpSock>> {
    if let Some(at) = mem.ip.udp.free.some() {
        mem.ip.udp.free = mem.udp_socks.get(at)?.chain;
        return Some(at);
    }
    if mem.ip.udp.fresh >= mem.udp_socks.len() {
        return None;
    }
    mem.ip.udp.fresh = mem.ip.udp.fresh.saturating_add(1);
    Some(Idx::new(mem.ip.udp.fresh - 1))
}

/// Does another socket of this lane stand in the way of `local`?
fn is_taken(mem: &LaneMem<'_>, local: Endpoint, opts: &UdpOptions) -> bool {
    each_at(mem, local.port, |row| {
        let same = row.local.addr.covers(local.addr) || local.addr.covers(row.local.addr);
        same && !(opts.reuse_port && row.flags & UDP_REUSE_PORT != 0)
    })
}

/// Is `test` true of any open socket with the local port `port`?
fn each_at(mem: &LaneMem<'_>, port: Port, mut test: impl FnMut(&UdpSock) -> bool) -> bool {
    let mut at = mem.ip.udp.buckets.get(bucket(port)).copied().unwrap_or_default();
    for _ in 0..mem.udp_socks.len() {
        let Some(row) = mem.udp_socks.get(at) else { return false };
        if row.local.port == port && test(row) {
            return true;
        }
        at = row.chain;
    }
    false
}

/// Writes `opts` into the row.
fn apply(row: &mut UdpSock, opts: &UdpOptions) {
    let bits = [
        (opts.dont_fragment, UDP_DONT_FRAGMENT),
        (opts.no_checksum, UDP_NO_CHECKSUM),
        (opts.reuse_port, UDP_REUSE_PORT),
        (opts.merges, UDP_MERGES),
    ];
    for (on, bit) in bits {
        row.flags = if on { row.flags | bit } else { row.flags & !bit };
    }
    row.segment = opts.segment;
    row.tos = opts.tos;
    row.ttl = if opts.ttl == 0 { ipv4::DEFAULT_TTL } else { opts.ttl };
    row.bound_port = opts.device.unwrap_or(ANY_PORT);
    row.recv_max =
        if opts.recv_bytes == 0 { BUFFER_DEFAULT } else { opts.recv_bytes.max(FRAME_BYTES as u32) };
    row.send_max = if opts.send_bytes == 0 { BUFFER_DEFAULT } else { opts.send_bytes };
}

/// Replaces the options. False: no such socket.
pub(crate) fn set_options(mem: &mut LaneMem<'_>, s: SockRef, opts: &UdpOptions) -> bool {
    let Some(row) = lookup(mem, s).and_then(|at| mem.udp_socks.get_mut(at)) else { return false };
    apply(row, opts);
    true
}

/// The options.
pub(crate) fn options(mem: &LaneMem<'_>, s: SockRef) -> Option<UdpOptions> {
    let row = mem.udp_socks.get(lookup(mem, s)?)?;
    Some(UdpOptions {
        dont_fragment: row.flags & UDP_DONT_FRAGMENT != 0,
        no_checksum: row.flags & UDP_NO_CHECKSUM != 0,
        reuse_port: row.flags & UDP_REUSE_PORT != 0,
        tos: row.tos,
        ttl: row.ttl,
        segment: row.segment,
        merges: row.flags & UDP_MERGES != 0,
        device: (row.bound_port != ANY_PORT).then_some(row.bound_port),
        recv_bytes: row.recv_max,
        send_bytes: row.send_max,
    })
}

/// Fixes the remote end: only datagrams from there are taken from now on, and `local` is the source of those sent.
pub(crate) fn connect(
    mem: &mut LaneMem<'_>,
    now: Instant,
    s: SockRef,
    (local, remote): (IpAddress, Endpoint),
    route: &RouteTo,
) -> Result<(), UdpConnectError> {
    let at = lookup(mem, s).ok_or(UdpConnectError::Gone)?;
    let fits = remote.addr.is_unicast() && local.is_unicast() && remote.addr.is_v4() == local.is_v4();
    if remote.port == Port(0) || !fits {
        return Err(UdpConnectError::Invalid);
    }
    let mtu = ipv4::port_info(mem, route.port).ok_or(UdpConnectError::Invalid)?.mtu;
    let hop = hop::for_route(mem, now, route).ok_or(UdpConnectError::NoRoom)?;
    let row = mem.udp_socks.get_mut(at).ok_or(UdpConnectError::Gone)?;
    let before = core::mem::replace(&mut row.hop, hop);
    row.local.addr = local;
    row.remote = remote;
    row.out_port = route.port;
    row.mtu = route.mtu_from(mtu);
    row.flags |= UDP_CONNECTED;
    hop::release(mem, before);
    Ok(())
}

/// Takes the remote end away again (connect to AF_UNSPEC); `local` is the address bound to before. False: no such socket.
pub(crate) fn disconnect(mem: &mut LaneMem<'_>, s: SockRef, local: IpAddress) -> bool {
    let Some(row) = lookup(mem, s).and_then(|at| mem.udp_socks.get_mut(at)) else { return false };
    row.flags &= !UDP_CONNECTED;
    row.remote = Endpoint { addr: IpAddress::ANY, port: Port(0) };
    row.local.addr = local;
    let hop = core::mem::take(&mut row.hop);
    hop::release(mem, hop);
    true
}

/// Has connected sockets go by the routes that there are now, as [`reroute::follow`] has connections.
pub(crate) fn reroute(mem: &mut LaneMem<'_>, now: Instant, mut way: impl reroute::Way) {
    for raw in 0..mem.udp_socks.len() {
        let at = Idx::new(raw);
        let connected = |row: &&UdpSock| row.flags & UDP_CONNECTED != 0;
        let Some((by, peer)) = mem.udp_socks.get(at).filter(connected).map(|row| (row.hop, row.remote.addr))
        else {
            continue;
        };
        let Some((hop, route)) = reroute::other(mem, now, by, peer, &mut way) else { continue };
        let own = ipv4::port_info(mem, route.port).map_or(route.mtu, |port| port.mtu);
        let Some(row) = mem.udp_socks.get_mut(at) else { return };
        row.hop = hop;
        row.mtu = route.mtu_from(own);
        hop::release(mem, by);
    }
}

/// Closes `s`: what was not read is thrown away, what is on its way out goes.
pub(crate) fn close(mem: &mut LaneMem<'_>, s: SockRef) {
    let Some(at) = lookup(mem, s) else { return };
    events::forget(mem, s);
    udp_recv::drop_queue(mem, at);
    let Some(row) = mem.udp_socks.get_mut(at) else { return };
    let (port, chain, hop) = (row.local.port, row.chain, core::mem::take(&mut row.hop));
    row.flags = 0;
    hop::release(mem, hop);
    unlink(mem, bucket(port), at, chain);
    let free = core::mem::replace(&mut mem.ip.udp.free, at);
    if let Some(row) = mem.udp_socks.get_mut(at) {
        row.chain = free;
    }
    mem.ip.udp.open = mem.ip.udp.open.saturating_sub(1);
}

fn unlink(mem: &mut LaneMem<'_>, index: usize, at: Idx<UdpSock>, chain: Idx<UdpSock>) {
    let Some(slot) = mem.ip.udp.buckets.get_mut(index) else { return };
    if *slot == at {
        *slot = chain;
        return;
    }
    let mut before = *slot;
    for _ in 0..mem.udp_socks.len() {
        let Some(row) = mem.udp_socks.get_mut(before) else { return };
        if row.chain == at {
            row.chain = chain;
            return;
        }
        before = row.chain;
    }
}

/// The two ends of a received datagram.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    /// Ours.
    pub(crate) local: Endpoint,
    /// The sender's.
    pub(crate) remote: Endpoint,
    /// The lane's port it came by.
    pub(crate) port: u8,
}

/// How well `row` fits a datagram; `None`: not at all. A connected socket before one with an address before any.
fn fit(row: &UdpSock, ends: &Ends) -> Option<u8> {
    if row.bound_port != ANY_PORT && row.bound_port != ends.port {
        return None;
    }
    let mut score = u8::from(row.bound_port != ANY_PORT);
    if !row.local.addr.covers(ends.local.addr) {
        return None;
    }
    if !row.local.addr.is_wild() {
        score += 2;
    }
    if row.flags & UDP_CONNECTED != 0 {
        if row.remote != ends.remote {
            return None;
        }
        score += 4;
    }
    Some(score)
}

/// The socket that takes a datagram between `ends`. Of several that fit equally well (SO_REUSEPORT) the sender's
/// address chooses, always the same one.
pub(crate) fn find(mem: &LaneMem<'_>, ends: &Ends) -> Option<Idx<UdpSock>> {
    let mut best = None;
    let mut equals = 0;
    each_at(mem, ends.local.port, |row| {
        match fit(row, ends) {
            Some(score) if best.is_none_or(|b| score > b) => {
                best = Some(score);
                equals = 1;
            }
            Some(score) if best == Some(score) => equals += 1,
            _ => {}
        }
        false
    });
    let best = best?;
    let ports = u32::from(ends.local.port.0) << 16 | u32::from(ends.remote.port.0);
    let hash = base::hash::flow_hash(mem.globals.key, ends.local.addr.0, ends.remote.addr.0, ports);
    let mut skip = if equals > 1 { hash % equals } else { 0 };
    let mut at = *mem.ip.udp.buckets.get(bucket(ends.local.port))?;
    for _ in 0..mem.udp_socks.len() {
        let row = mem.udp_socks.get(at)?;
        if row.local.port == ends.local.port && fit(row, ends) == Some(best) {
            if skip == 0 {
                return Some(at);
            }
            skip -= 1;
        }
        at = row.chain;
    }
    None
}

/// An ICMP error about a datagram of ours. RFC 1122 4.1.3.3: pass it up; as on Linux, only what is final, and only to
/// a connected socket, because nobody else could tell which datagram is meant.
pub(crate) fn handle_report(mem: &mut LaneMem<'_>, report: &Report) {
    let ends = Ends { local: report.local, remote: report.remote, port: ANY_PORT };
    let Some(at) = find(mem, &ends) else { return };
    let Some(row) = mem.udp_socks.get_mut(at).filter(|r| r.flags & UDP_CONNECTED != 0) else { return };
    let error = match report.fault {
        Fault::Hard(error) => error,
        Fault::TooBig(mtu) => {
            // RFC 8201 4: never below the least MTU of IPv6.
            let least = if report.remote.addr.is_v4() { MTU_MIN } else { wire::ipv6::MTU_MIN as u16 };
            row.mtu = row.mtu.min(mtu.max(least));
            if row.flags & UDP_DONT_FRAGMENT == 0 {
                return;
            }
            SockError::MessageSize
        }
        Fault::Soft(_) => return,
    };
    row.error = error as u16;
    let s = name(mem, at);
    events::notify(mem, s, Ready::ERR | Ready::IN | Ready::OUT);
}

/// `held` bytes of the socket `at` left the outbox or were dropped.
pub(crate) fn sent(mem: &mut LaneMem<'_>, at: Idx<UdpSock>, generation: u32, held: u32) {
    let Some(row) = mem.udp_socks.get_mut(at) else { return };
    if row.generation != generation || row.flags & UDP_OPEN == 0 {
        return;
    }
    row.send_held = row.send_held.saturating_sub(held);
    if row.flags & UDP_WANTS_ROOM != 0 && row.send_held <= row.send_max / 2 {
        row.flags &= !UDP_WANTS_ROOM;
        let s = name(mem, at);
        events::notify(mem, s, Ready::OUT);
    }
}

/// Readiness as Linux's `datagram_poll` gives it.
pub(crate) fn ready(mem: &LaneMem<'_>, s: SockRef) -> Ready {
    let Some(row) = lookup(mem, s).and_then(|at| mem.udp_socks.get(at)) else {
        return Ready::ERR | Ready::HUP;
    };
    let shut_recv = row.flags & UDP_SHUT_RECV != 0;
    let mut ready = Ready::NONE;
    if row.error != 0 {
        ready |= Ready::ERR;
    }
    if shut_recv {
        ready |= Ready::RDHUP | Ready::IN;
        if row.flags & UDP_SHUT_SEND != 0 {
            ready |= Ready::HUP;
        }
    }
    if row.recv_count > 0 {
        ready |= Ready::IN;
    }
    if row.send_held < row.send_max {
        ready |= Ready::OUT;
    }
    ready
}

/// SO_ERROR: the error that waits, told once.
pub(crate) fn take_error(mem: &mut LaneMem<'_>, s: SockRef) -> Option<SockError> {
    let at = lookup(mem, s)?;
    let row = mem.udp_socks.get_mut(at)?;
    SockError::from_raw(core::mem::take(&mut row.error) as u8)
}

/// Both ends; the remote one is all zero when not connected.
pub(crate) fn names(mem: &LaneMem<'_>, s: SockRef) -> Option<(Endpoint, Endpoint)> {
    let row = mem.udp_socks.get(lookup(mem, s)?)?;
    Some((row.local, row.remote))
}

/// Shuts one direction or both. A socket that is not connected is shut too, and the caller told, as on Linux.
pub(crate) fn shutdown(mem: &mut LaneMem<'_>, s: SockRef, how: How) -> Result<(), ShutdownError> {
    let at = lookup(mem, s).ok_or(ShutdownError::Gone)?;
    let row = mem.udp_socks.get_mut(at).ok_or(ShutdownError::Gone)?;
    row.flags |= match how {
        How::Read => UDP_SHUT_RECV,
        How::Write => UDP_SHUT_SEND,
        How::Both => UDP_SHUT_RECV | UDP_SHUT_SEND,
    };
    let connected = row.flags & UDP_CONNECTED != 0;
    let ready = ready(mem, s);
    events::notify(mem, s, ready);
    if connected { Ok(()) } else { Err(ShutdownError::NotConnected) }
}
