//! RST segments: for segments that belong to no connection, and for connections that end at once (RFC 9293 3.5.2); and the
//! limits on answers that anybody can provoke (RFC 5961 7).

use ::state::hop::HOP_KNOWN;
use ::state::{DropReason, FlowKey, KeyRow, LaneMem, RateLimit, TcbHot};
use base::{Duration, Idx, Instant, SeqNum};
use wire::{TcpFlags, TcpHeader, TcpOptions, tcp};

use super::conn::cold_of;
use super::header::{Way, header_frame, label_of, ttl, write};
use super::segment::Seg;
use super::{State, auth};
use crate::ip;
use crate::outbox::{self, Note};

/// Challenge ACKs of one lane a second (Linux's tcp_challenge_ack_limit).
pub(super) const CHALLENGES_A_SECOND: u32 = 1000;
/// RSTs of one lane a second for segments to no connection.
const RESETS_A_SECOND: u32 = 1000;

/// Counts one more of what `limit` limits; false: there were `most` in this second.
pub(super) fn allow(limit: &mut RateLimit, now: Instant, most: u32) -> bool {
    if now.since(limit.since) >= Duration::from_secs(1) {
        limit.since = now;
        limit.count = 0;
    }
    limit.count = limit.count.saturating_add(1);
    limit.count <= most
}

/// Answers a segment that no connection takes (RFC 9293 3.10.7.1). The segment is dropped and counted.
pub(super) fn of_segment(mem: &mut LaneMem<'_>, now: Instant, seg: &Seg, reason: DropReason) {
    mem.counters.drop_packet(reason);
    if seg.flags.is_rst() || seg.src_mac.is_multicast() {
        return;
    }
    if !allow(&mut mem.globals.tcp.resets, now, RESETS_A_SECOND) {
        mem.counters.drop_packet(DropReason::TcpResetLimited);
        return;
    }
    let (flags, seq, ack) = if seg.flags.is_ack() {
        (TcpFlags::RST, seg.ack, SeqNum(0))
    } else {
        (TcpFlags::RST | TcpFlags::ACK, SeqNum(0), seg.end())
    };
    let Some(mac) = mem.ports.get(Idx::new(u32::from(seg.port))).map(|p| p.mac) else { return };
    let ttl = ttl(0, &mem.globals.tcp.usual, seg.key.remote);
    let way = Way { from_mac: mac, to_mac: seg.src_mac, ttl, tos: 0, label: 0 };
    let key = auth::key_of_answer(mem, seg);
    push(mem, seg.port, &way, &seg.key, ((flags, seq, ack), key.map(|key| (key, Of::Answer(seg)))));
}

/// Resets the peer of connection `at`, if it has heard of the connection.
pub(super) fn of_connection(mem: &mut LaneMem<'_>, at: Idx<TcbHot>) {
    let next = mem.hot.get(at).map(|hot| hot.snd.nxt);
    next.into_iter().for_each(|seq| of_connection_at(mem, at, seq));
}

/// [`of_connection`] for a lane that will not be there when the peer answers. It takes an RST only with exactly the number that it expects next, and answers another
/// with a challenge ACK, to which nobody would have anything to say (RFC 5961 3.2). What is on its way may be lost with the lane's ports, so the peer may
/// expect what it acknowledged last: an RST for either.
pub(super) fn of_connection_for_good(mem: &mut LaneMem<'_>, at: Idx<TcbHot>) {
    of_connection(mem, at);
    let acknowledged = mem.hot.get(at).filter(|hot| hot.snd.una != hot.snd.nxt).map(|hot| hot.snd.una);
    acknowledged.into_iter().for_each(|seq| of_connection_at(mem, at, seq));
}

fn of_connection_at(mem: &mut LaneMem<'_>, at: Idx<TcbHot>, seq: SeqNum) {
    let (Some(hot), Some(cold)) = (mem.hot.get(at), mem.cold.get(cold_of(at))) else { return };
    let (hot, options, label) = (*hot, cold.options, label_of(cold.iss));
    let Some(to) = mem.hops.get(hot.hop).filter(|h| h.state == HOP_KNOWN).map(|h| h.mac) else { return };
    let Some(mac) = mem.ports.get(Idx::new(u32::from(hot.port))).map(|p| p.mac) else { return };
    let way = Way { from_mac: mac, to_mac: to, ttl: options.ttl, tos: options.tos, label };
    // As `half_open::tell`.
    let numbers = match State::from_raw(hot.state) {
        State::SynRcvd => (TcpFlags::RST, seq, SeqNum(0)),
        _ => (TcpFlags::RST | TcpFlags::ACK, seq, hot.rcv.nxt),
    };
    let key = auth::key_of(mem, at);
    push(mem, hot.port, &way, &hot.key, (numbers, key.map(|key| (key, Of::Conn(at)))));
}

/// What a RST has besides its ends: control bits, SEG.SEQ, SEG.ACK; and what signs it.
pub(super) type Rest<'s> = ((TcpFlags, SeqNum, SeqNum), Option<(Idx<KeyRow>, Of<'s>)>);

/// Whose RST it is.
#[derive(Clone, Copy)]
pub(super) enum Of<'s> {
    /// A connection's.
    Conn(Idx<TcbHot>),
    /// The answer to a segment.
    Answer(&'s Seg),
}

pub(super) fn push(mem: &mut LaneMem<'_>, port: u8, way: &Way, key: &FlowKey, rest: Rest<'_>) {
    let ((flags, seq, ack), signer) = rest;
    let Some(head) = header_frame(&mut mem.frames) else {
        mem.counters.drop_packet(DropReason::OutOfFrames);
        return;
    };
    let header = TcpHeader {
        src_port: key.local_port,
        dst_port: key.remote_port,
        seq,
        ack,
        flags,
        window: 0,
        urgent: 0,
    };
    let options = TcpOptions { sign: auth::sign_by(mem, signer.map(|by| by.0)), ..TcpOptions::NONE };
    if write(&mut mem.frames, head, way, key, (&header, &options), 0) == 0 {
        mem.frames.release(head);
        return;
    }
    let tcp_at = ip::headers(key.remote) as u16;
    match signer {
        None => {}
        Some((signer, Of::Conn(at))) => auth::sign_reset(mem, head, tcp_at, at, signer),
        Some((signer, Of::Answer(seg))) => auth::sign_answer(mem, head, tcp_at, seg, signer),
    }
    let note = Note { csum_start: tcp_at, csum_offset: tcp::CHECKSUM_OFFSET as u16, ..Note::plain(port) };
    if outbox::push(mem, head, &note) {
        mem.counters.tcp.resets_out = mem.counters.tcp.resets_out.wrapping_add(1);
    } else {
        mem.counters.drop_packet(DropReason::OutboxFull);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_lets_so_many_through_in_each_second() {
        let mut limit = RateLimit::default();
        let passed = (0..50).filter(|_| allow(&mut limit, Instant(5), 10)).count();
        assert_eq!(passed, 10);
        assert!(allow(&mut limit, Instant(1_100_000_000), 10));
    }
}
