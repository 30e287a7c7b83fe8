//! Usual segments of a batch (see `wire::usual`) in stages: verified and hashed, their rows fetched, then processed by header
//! prediction. A segment that any stage finds unusual takes the way of all others.

use ::state::dormant::DORMANT;
use ::state::{CsumState, FlowKey, LaneMem, RxFrame};
use base::{Idx, Instant, IpAddress};
use region::Frames;
use wire::{Sum, TcpOptions, Usual, eth, usual};

use super::conn::conn;
use super::segment::Seg;
use super::{State, flag, table};
use crate::ipv4;

/// Does `rx` hold a usual segment for us, whole in one frame and with good checksums? Gives the hash of its connection, and
/// has the hash's bucket loaded.
#[inline]
pub(crate) fn verify(mem: &LaneMem<'_>, rx: &RxFrame) -> Option<u32> {
    let data = mem.frames.data(rx.head);
    let segment = Usual::parse(data)?;
    let info = ipv4::port_info(mem, rx.port)?;
    let total = eth::HEADER_LEN + usize::from(segment.total_len());
    if rx.len as usize != total || data.len() != total || segment.dst_mac() != info.mac {
        return None;
    }
    if !ipv4::is_local(info, IpAddress::from_v4(segment.dst())) {
        return None;
    }
    if rx.csum == CsumState::Unknown {
        let payload = data.get(usual::HEADER_LEN..).unwrap_or(&[]);
        let unfinished = || rx.local_peer && segment.checksum() == segment.pseudo().fold();
        if !segment.sum().plus(Sum::of(payload)).is_valid() && !unfinished() {
            return None;
        }
    }
    let hash = table::hash_of(mem, &key_of(&segment));
    mem.flows.prefetch(hash);
    Some(hash)
}

/// The row that most likely belongs to `hash`, on its way into the cache.
#[inline]
pub(crate) fn fetch(mem: &LaneMem<'_>, hash: u32) -> Option<u32> {
    let row = mem.flows.candidate(hash)?;
    if row & DORMANT != 0 {
        mem.dormant.prefetch_lines(Idx::new(row & !DORMANT), 0, 2);
        return None;
    }
    mem.hot.prefetch_lines(Idx::new(row), 0, 3);
    mem.cold.prefetch_lines(Idx::new(row), 0, 1);
    Some(row)
}

/// Takes the segment in `rx`, which [`verify`] found usual, if it is an ordinary one of the open connection `row`. False: it
/// was not touched.
#[inline]
pub(crate) fn input(mem: &mut LaneMem<'_>, now: Instant, rx: &RxFrame, row: u32) -> bool {
    let Some(segment) = Usual::again(mem.frames.data(rx.head)) else { return false };
    let mut seg = Seg {
        key: key_of(&segment),
        seq: segment.seq(),
        ack: segment.ack(),
        flags: segment.flags(),
        window: segment.window(),
        port: rx.port,
        gso_size: rx.gso_size,
        len: rx.len - usual::HEADER_LEN as u32,
        head: rx.head,
        src_mac: segment.src_mac(),
        options: TcpOptions { timestamps: Some(segment.timestamps()), ..TcpOptions::NONE },
    };
    let Some(mut c) = conn(mem, now, Idx::new(row)) else { return false };
    if c.state() != State::Established || c.hot.key != seg.key || !c.any(flag::TIMESTAMPS) {
        return false;
    }
    let Some(worth) = c.is_predicted(&seg) else { return false };
    if c.any(flag::KEEPALIVE) {
        c.heard();
    }
    strip(c.frames, &mut seg);
    c.counters.tcp.segments_in = c.counters.tcp.segments_in.wrapping_add(1);
    c.take_predicted(&mut seg, worth);
    true
}

/// Takes the headers off.
#[inline]
fn strip(frames: &mut Frames<'_>, seg: &mut Seg) {
    if seg.len == 0 {
        frames.release(core::mem::take(&mut seg.head));
    } else if let Some(meta) = frames.meta_mut(seg.head) {
        meta.offset = meta.offset.saturating_add(usual::HEADER_LEN as u16);
        meta.len = meta.len.saturating_sub(usual::HEADER_LEN as u16);
    }
}

/// The connection's four numbers, seen from our side.
#[inline]
fn key_of(segment: &Usual<'_>) -> FlowKey {
    FlowKey {
        local: IpAddress::from_v4(segment.dst()),
        remote: IpAddress::from_v4(segment.src()),
        local_port: segment.dst_port(),
        remote_port: segment.src_port(),
    }
}
