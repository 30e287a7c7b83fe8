//! The first looks at a received usual segment (see `wire::usual`): is it whole, good and for us, and which row does it most likely
//! belong to? A batch goes through them in stages, so that the memory of one packet's connection is loaded while others are looked at.
//!
//! Of a connection whose last segment was found good, the next one is known by what its headers have in common with that one's
//! ([`Seen`]), without a hash and without a look at the port's addresses. A port that changes has all of these forgotten.

use ::state::dormant::DORMANT;
use ::state::{CsumState, FlowKey, LaneMem, RxFrame, SEEN, Seen};
use base::{Idx, IpAddress};
use wire::{Sum, Usual, eth, usual};

use super::table;
use crate::ipv4;

/// The row that most likely belongs to the segment in `rx`, a usual one for us, whole in one frame and with good checksums. `None`: it
/// is none, or cannot be told so early.
#[inline(always)]
pub(crate) fn verify_alone(mem: &mut LaneMem<'_>, rx: &RxFrame) -> Option<u32> {
    match verify_again(mem, rx, mem.frames.data(rx.head)) {
        Some(row) => Some(row),
        None => verify_new(mem, rx),
    }
}

/// [`verify_alone`] of a connection that was not seen lately.
#[inline(never)]
fn verify_new(mem: &mut LaneMem<'_>, rx: &RxFrame) -> Option<u32> {
    let hash = verify(mem, rx, mem.frames.data(rx.head))?;
    mem.flows.candidate(hash).filter(|row| row & DORMANT == 0).inspect(|row| note(mem, rx, *row))
}

/// [`verify_alone`] of a connection that was seen lately. `data` is the first frame of `rx`.
#[inline(always)]
pub(crate) fn verify_again(mem: &LaneMem<'_>, rx: &RxFrame, data: &[u8]) -> Option<u32> {
    let port = u32::from(rx.port) + 1;
    let seen = mem.seen.get(place_of(data)?).filter(|seen| seen.port == port)?;
    let segment = Usual::like(data, &seen.common, seen.ip_sum)?;
    let known = is_whole(mem, rx, data, &segment)
        && (rx.csum != CsumState::Unknown
            || has_good_sum(rx, data, segment.pseudo_like(seen.pseudo_sum), &segment));
    known.then_some(seen.row)
}

/// Does `rx` hold a usual segment for us, whole in one frame and with good checksums? Gives the hash of its connection, and
/// has the hash's bucket loaded. `data` is the first frame of `rx`.
#[inline(always)]
pub(crate) fn verify(mem: &LaneMem<'_>, rx: &RxFrame, data: &[u8]) -> Option<u32> {
    let segment = Usual::parse(data)?;
    if !is_whole(mem, rx, data, &segment) || !is_for_us(mem, rx, &segment) {
        return None;
    }
    let hash = table::hash_of(mem, &key_of(&segment));
    mem.flows.prefetch(hash);
    let good = rx.csum != CsumState::Unknown || has_good_sum(rx, data, segment.pseudo(), &segment);
    good.then_some(hash)
}

/// Where in [`Seen`] rows the connection of the segment with these `bytes` is: by its ports.
#[inline(always)]
fn place_of(bytes: &[u8]) -> Option<Idx<Seen>> {
    const _: () = assert!(SEEN.is_power_of_two());
    let head = bytes.first_chunk::<{ usual::HEADER_LEN }>()?;
    let (from, to) = (u16::from_be_bytes([head[34], head[35]]), u16::from_be_bytes([head[36], head[37]]));
    Some(Idx::new(u32::from(from.wrapping_add(to)) % SEEN))
}

/// Segments of a connection before the next one is to be known: what short connections have is less work to look at.
const MISSES: u32 = 3;

/// The segment in `rx` was found good and is most likely of the connection `row`: its next one may be known by it.
#[inline(always)]
fn note(mem: &mut LaneMem<'_>, rx: &RxFrame, row: u32) {
    let place = place_of(mem.frames.data(rx.head));
    let Some(slot) = place.and_then(|place| mem.seen.get_mut(place)) else { return };
    if slot.row != row {
        (slot.row, slot.missed, slot.port) = (row, 1, 0);
    } else if slot.missed < MISSES {
        slot.missed += 1;
    } else {
        remember(mem, rx, row);
    }
}

/// [`note`] of a connection that has had some segments: the next one is known by it.
#[inline(never)]
fn remember(mem: &mut LaneMem<'_>, rx: &RxFrame, row: u32) {
    let data = mem.frames.data(rx.head);
    let (Some(segment), Some(place)) = (Usual::again(data), place_of(data)) else { return };
    let (ip_sum, pseudo_sum) = segment.common_sums();
    let port = u32::from(rx.port) + 1;
    let seen = Seen { common: segment.common(), ip_sum, pseudo_sum, port, row, missed: 0 };
    if let Some(slot) = mem.seen.get_mut(place) {
        *slot = seen;
    }
}

/// The segment in `rx` was of no open connection in the row that was thought to be its own.
#[inline(never)]
pub(crate) fn forget(mem: &mut LaneMem<'_>, rx: &RxFrame) {
    let place = place_of(mem.frames.data(rx.head));
    if let Some(slot) = place.and_then(|place| mem.seen.get_mut(place)) {
        slot.port = 0;
    }
}

/// A port is another one now: whatever came by it is looked at anew.
pub(crate) fn forget_all(mem: &mut LaneMem<'_>) {
    mem.seen.rows_mut().iter_mut().for_each(|seen| seen.port = 0);
}

/// Is `segment`, which begins with the bytes `data`, all that is in `rx`?
#[inline(always)]
fn is_whole(mem: &LaneMem<'_>, rx: &RxFrame, data: &[u8], segment: &Usual<'_>) -> bool {
    let total = eth::HEADER_LEN + usize::from(segment.total_len());
    rx.len as usize == total
        && data.len() == total
        && mem.frames.meta(rx.head).is_some_and(|meta| meta.next.is_none())
}

/// Is the checksum of the `segment` in `rx` right, whose bytes are `data` and whose pseudo-header has the sum `pseudo`?
#[inline(always)]
fn has_good_sum(rx: &RxFrame, data: &[u8], pseudo: Sum, segment: &Usual<'_>) -> bool {
    is_intact(rx, Sum::of(data.get(usual::TCP_AT..).unwrap_or(&[])), pseudo, segment.checksum())
}

/// Does the checksum of the segment in `rx`, whose bytes have the sum `tcp`, say that it is as it was sent? A peer on this machine may leave
/// its `field` unfinished, which holds just the sum of the `pseudo`-header then.
#[inline(always)]
pub(super) fn is_intact(rx: &RxFrame, tcp: Sum, pseudo: Sum, field: u16) -> bool {
    pseudo.plus(tcp).is_valid() || (rx.local_peer && field == pseudo.fold())
}

/// Is the segment in `rx` addressed to this lane's end of the port it came by?
#[inline(always)]
fn is_for_us(mem: &LaneMem<'_>, rx: &RxFrame, segment: &Usual<'_>) -> bool {
    let Some(info) = ipv4::port_info(mem, rx.port).filter(|info| segment.dst_mac() == info.mac) else {
        return false;
    };
    let local = IpAddress::mapped(segment.dst());
    let first = info.addr_count > 0 && info.addrs.first() == Some(&local);
    first || ipv4::is_for_us(info, segment.src(), segment.dst())
}

/// Has the bucket loaded in which the connection of the segment in `rx` is looked up, if it is no usual one but one of TCP.
pub(crate) fn expect(mem: &LaneMem<'_>, rx: &RxFrame) {
    let Some(ends) = usual::Ends::of(mem.frames.data(rx.head)) else { return };
    let (remote_port, local_port) = ends.ports();
    let (local, remote) = (IpAddress::mapped(ends.dst()), IpAddress::mapped(ends.src()));
    mem.flows.prefetch(table::hash_of(mem, &FlowKey { local, remote, local_port, remote_port }));
}

/// The row that most likely belongs to `hash`, that of the segment in `rx`, on its way into the cache.
#[inline]
pub(crate) fn find(mem: &mut LaneMem<'_>, rx: &RxFrame, hash: u32) -> Option<u32> {
    let row = mem.flows.candidate(hash)?;
    if row & DORMANT != 0 {
        mem.dormant.prefetch_lines(Idx::new(row & !DORMANT), 0, 2);
        return None;
    }
    note(mem, rx, row);
    fetch(mem, row);
    Some(row)
}

/// Has `row` loaded.
#[inline]
pub(crate) fn fetch(mem: &LaneMem<'_>, row: u32) {
    mem.hot.prefetch_lines(Idx::new(row), 0, 3);
    mem.cold.prefetch_lines(Idx::new(row), 0, 2);
    mem.events.prefetch(Idx::new(row));
}

/// What the connection of `row`, which was fetched, has queued is on its way into the cache: its segment will likely free
/// the first frame, and the answer to it will be written there.
#[inline(always)]
pub(crate) fn fetch_queued(mem: &LaneMem<'_>, row: u32) {
    if let Some(hot) = mem.hot.get(Idx::new(row)) {
        mem.frames.prefetch(hot.snd_queue.head);
    }
}

/// The connection's four numbers, seen from our side.
#[inline]
pub(super) fn key_of(segment: &Usual<'_>) -> FlowKey {
    FlowKey {
        local: IpAddress::mapped(segment.dst()),
        remote: IpAddress::mapped(segment.src()),
        local_port: segment.dst_port(),
        remote_port: segment.src_port(),
    }
}
