//! Sending UDP datagrams: copied into frames, with headers, by way of hop and outbox; fragmented when the path is
//! narrower and the socket allows it.

use base::limits::FRAME_BYTES;
use base::{FrameIdx, Idx, Instant, IpAddress, MacAddr, Port};
use state::udp::{UDP_CONNECTED, UDP_DONT_FRAGMENT, UDP_NO_CHECKSUM, UDP_SHUT_SEND, UDP_WANTS_ROOM};
use state::{DropReason, Endpoint, Hop, LaneMem, SockRef, UdpSock};
use wire::udp::{CHECKSUM_OFFSET, HEADER_LEN};
use wire::{IpProtocol, Sum, UdpHeader};

use crate::errors::SockError;
use crate::ip::{HEADERS_MAX, Out};
use crate::outbox::{self, Note};
use crate::udp_types::{UdpSendError, UdpTo};
use crate::{hop, ipv4, ipv6, packet, udp};

/// Longest payload over IPv6, whose length field does not count its header. Over IPv4 it does.
const PAYLOAD_MAX: usize = u16::MAX as usize - HEADER_LEN;
/// Most datagrams that are sent in one go (Linux's UDP_MAX_SEGMENTS).
const SEGMENTS_MAX: usize = 128;

/// Where a datagram goes and what its headers say.
struct Plan {
    hop: Idx<Hop>,
    port: u8,
    mtu: u16,
    mac: MacAddr,
    out: Out,
    /// Ours and the other end's.
    ports: (Port, Port),
    checksum: bool,
}

/// Sends `data` to `to`, or to the remote end of a connected socket, as one datagram or cut into several. Gives the bytes that went.
pub(crate) fn send(
    mem: &mut LaneMem<'_>,
    now: Instant,
    s: SockRef,
    data: &[u8],
    to: Option<&UdpTo>,
) -> Result<usize, UdpSendError> {
    let at = udp::lookup(mem, s).ok_or(UdpSendError::Gone)?;
    let row = mem.udp_socks.get_mut(at).ok_or(UdpSendError::Gone)?;
    if let Some(error) = SockError::from_raw(core::mem::take(&mut row.error) as u8) {
        return Err(UdpSendError::Failed(error));
    }
    if row.flags & UDP_SHUT_SEND != 0 {
        return Err(UdpSendError::Pipe);
    }
    if data.len() > PAYLOAD_MAX {
        return Err(UdpSendError::MessageSize);
    }
    let segment = usize::from(row.segment);
    let several = segment > 0 && data.len() > segment;
    if several && (row.flags & UDP_NO_CHECKSUM != 0 || data.len() > segment * SEGMENTS_MAX) {
        return Err(UdpSendError::Invalid);
    }
    let count = if several { data.len().div_ceil(segment) } else { 1 };
    if row.send_held >= row.send_max || !outbox::has_room(mem, count as u32) {
        if let Some(row) = mem.udp_socks.get_mut(at) {
            row.flags |= UDP_WANTS_ROOM;
        }
        return Err(UdpSendError::WouldBlock);
    }
    let plan = plan(mem, now, at, data.len(), to)?;
    let result = if several {
        transmit_each(mem, now, at, &plan, data.chunks(segment))
    } else {
        transmit(mem, now, at, &plan, data).map(|()| data.len())
    };
    hop::release(mem, plan.hop);
    result
}

/// Sends `parts`, a datagram each, of which none is fragmented. Without frames for all it sends as many as it can.
fn transmit_each<'d>(
    mem: &mut LaneMem<'_>,
    now: Instant,
    at: Idx<UdpSock>,
    plan: &Plan,
    parts: impl Iterator<Item = &'d [u8]>,
) -> Result<usize, UdpSendError> {
    let mut done = 0;
    for part in parts {
        if HEADER_LEN + part.len() + plan.out.ip_bytes() > usize::from(plan.mtu) {
            return Err(UdpSendError::MessageSize);
        }
        match transmit(mem, now, at, plan, part) {
            Ok(()) => done += part.len(),
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// Finds the way; takes a reference to its hop.
fn plan(
    mem: &mut LaneMem<'_>,
    now: Instant,
    at: Idx<UdpSock>,
    len: usize,
    to: Option<&UdpTo>,
) -> Result<Plan, UdpSendError> {
    let row = *mem.udp_socks.get(at).ok_or(UdpSendError::Gone)?;
    let (remote, local, port, mtu) = match to {
        Some(to) => {
            let local = if row.local.addr.is_wild() { to.local } else { row.local.addr };
            (to.remote, local, to.route.port, to.route.mtu)
        }
        None if row.flags & UDP_CONNECTED != 0 => (row.remote, row.local.addr, row.out_port, row.mtu),
        None => return Err(UdpSendError::NotConnected),
    };
    let (src, dst) = ends(local, remote).ok_or(UdpSendError::Invalid)?;
    if dst.is_v4() && len > PAYLOAD_MAX - wire::ipv4::HEADER_LEN {
        return Err(UdpSendError::MessageSize);
    }
    let ports = u32::from(row.local.port.0) << 16 | u32::from(remote.port.0);
    let label = if dst.is_v4() { 0 } else { ipv6::flow_label(mem, src, dst, ports) };
    let info = ipv4::port_info(mem, port).ok_or(UdpSendError::Invalid)?;
    let (mac, port_mtu) = (info.mac, info.mtu);
    let hop = match to {
        Some(to) => hop::for_route(mem, now, &to.route).ok_or(UdpSendError::NoRoom)?,
        None => {
            hop::retain(mem, row.hop);
            row.hop
        }
    };
    let dont_fragment = row.flags & UDP_DONT_FRAGMENT != 0;
    Ok(Plan {
        hop,
        port,
        mtu: if mtu == 0 { port_mtu } else { mtu.min(port_mtu) },
        mac,
        out: Out { src, dst, protocol: IpProtocol::UDP, tos: row.tos, ttl: row.ttl, dont_fragment, label },
        ports: (row.local.port, remote.port),
        // RFC 8200 8.1: over IPv6 there is no datagram without checksum.
        checksum: row.flags & UDP_NO_CHECKSUM == 0 || !dst.is_v4(),
    })
}

fn ends(local: IpAddress, remote: Endpoint) -> Option<(IpAddress, IpAddress)> {
    let fits = !local.is_wild() && !remote.addr.is_wild() && local.is_v4() == remote.addr.is_v4();
    (fits && remote.port.0 != 0).then_some((local, remote.addr))
}

fn transmit(
    mem: &mut LaneMem<'_>,
    now: Instant,
    at: Idx<UdpSock>,
    plan: &Plan,
    data: &[u8],
) -> Result<(), UdpSendError> {
    let l4 = HEADER_LEN + data.len();
    let fits = l4 + plan.out.ip_bytes() <= usize::from(plan.mtu);
    if !fits && plan.out.dont_fragment {
        return Err(UdpSendError::MessageSize);
    }
    let head = build(mem, plan, data, fits).ok_or(UdpSendError::NoFrames)?;
    // RFC 6864 4.1: a datagram sent whole could still be cut by a router, so it has an identification unless DF is set.
    let header = plan.out.header(mem, l4 as u16);
    header.emit(mem, head, (plan.mac, MacAddr::default()));
    let generation = mem.udp_socks.get(at).map_or(0, |row| row.generation);
    let held = l4 as u32;
    let (csum_start, csum_offset) =
        if fits && plan.checksum { (plan.out.headers() as u16, CHECKSUM_OFFSET as u16) } else { (0, 0) };
    let note = Note { port: plan.port, csum_start, csum_offset, gso_size: 0, sock: at, generation, held };
    if let Some(row) = mem.udp_socks.get_mut(at) {
        row.send_held = row.send_held.saturating_add(held);
    }
    if fits {
        outbox::annotate(mem, head, &note);
        hop::send(mem, now, plan.hop, head);
    } else {
        let mut first = true;
        let done = header.fragment(mem, head, plan.mtu, &note, |mem, part| {
            first = false;
            hop::send(mem, now, plan.hop, part);
        });
        if !done {
            if first {
                udp::sent(mem, at, generation, held);
            }
            mem.counters.drop_packet(DropReason::OutboxFull);
            return Err(UdpSendError::NoFrames);
        }
    }
    mem.counters.udp_out = mem.counters.udp_out.wrapping_add(1);
    Ok(())
}

/// The datagram in a chain of frames, with room for Ethernet and IP header in front. The checksum is left to the port
/// when the packet `fits` the link, and computed when it will be cut.
fn build(mem: &mut LaneMem<'_>, plan: &Plan, data: &[u8], fits: bool) -> Option<FrameIdx> {
    let headers = plan.out.headers();
    let front = headers + HEADER_LEN;
    let take = data.len().min(packet::FRESH_BYTES - HEADERS_MAX - HEADER_LEN);
    let (first, mut rest) = data.split_at_checked(take)?;
    let head = packet::fresh(&mut mem.frames, front + take)?;
    let pseudo = plan.out.pseudo((HEADER_LEN + data.len()) as u32);
    let (src_port, dst_port) = plan.ports;
    write_first(mem, head, plan, &UdpHeader { src_port, dst_port, payload_len: data.len() as u16 }, first)?;
    if plan.checksum {
        let field = mem.frames.data_mut(head).get_mut(headers..)?;
        if fits {
            let at = field.get_mut(CHECKSUM_OFFSET..)?.first_chunk_mut::<2>()?;
            *at = pseudo.fold().to_be_bytes();
        } else {
            let header = Sum::of(field.get(..HEADER_LEN)?);
            wire::udp::set_checksum(field, pseudo.plus(header).plus_bytes(data).finish()).ok()?;
        }
    }
    let mut last = head;
    while !rest.is_empty() {
        let (part, behind) = rest.split_at(rest.len().min(FRAME_BYTES));
        let Some(frame) = packet::fresh_rest(&mut mem.frames, part.len()) else {
            mem.frames.release_chain(head);
            return None;
        };
        mem.frames.data_mut(frame).get_mut(..part.len())?.copy_from_slice(part);
        mem.frames.meta_mut(last)?.next = frame;
        last = frame;
        rest = behind;
    }
    Some(head)
}

/// Writes the header `udp`, checksum 0, and the payload `first` behind it.
fn write_first(
    mem: &mut LaneMem<'_>,
    head: FrameIdx,
    plan: &Plan,
    udp: &UdpHeader,
    first: &[u8],
) -> Option<()> {
    let datagram = mem.frames.data_mut(head).get_mut(plan.out.headers()..)?;
    udp.emit(datagram).ok()?;
    datagram.get_mut(HEADER_LEN..)?.copy_from_slice(first);
    Some(())
}
