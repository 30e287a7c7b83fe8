//! Putting fragmented packets together (RFC 791 3.2, RFC 815, RFC 1122 3.3.2; RFC 8200 4.5, RFC 5722).
//!
//! Each fragment is copied to its place and its frame released: a packet never holds more frames than its size needs,
//! and all packets together no more than `REASSEMBLY_FRAMES`; the oldest goes first.
//! Invariant: rows that are not free are in one bucket and on the list by age; `frames_held` is the sum of `frames_used`.

use base::hash::flow_hash;
use base::limits::{CHAIN_FRAMES, FRAME_BYTES, FRAME_HEADROOM, REASSEMBLY_FRAMES};
use base::{Duration, FrameIdx, Idx, Instant, MacAddr};
use state::reassembly::{
    REASSEMBLY_BUCKETS, REASSEMBLY_FREE, REASSEMBLY_MAP_WORDS, REASSEMBLY_OPEN, REASSEMBLY_POISONED,
};
use state::{CsumState, DropReason, LaneMem, Reassembly};
use wire::{IpProtocol, Ipv4Header};

use crate::ipv4::{HEADERS, Packet};
use crate::{ip, ipv6, packet};

/// How long a packet may take to arrive. RFC 1122 3.3.2 has 60 to 120 s; Linux's 30 s bound what an attacker can hold.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(30);
/// Cell offset of the first payload byte in a packet's first frame.
const FIRST_AT: usize = FRAME_HEADROOM + HEADERS;
/// Payload bytes in a packet's first frame.
const FIRST_BYTES: usize = FRAME_BYTES - FIRST_AT;
/// Payload bytes of the largest packet.
const PAYLOAD_MAX: u32 = (wire::ipv4::PACKET_LEN_MAX - wire::ipv4::HEADER_LEN) as u32;
/// The same over IPv6, whose length field does not count its header.
pub(crate) const PAYLOAD_MAX_V6: u32 = u16::MAX as u32;
const _: () = assert!(FIRST_BYTES + (CHAIN_FRAMES - 1) * FRAME_BYTES >= PAYLOAD_MAX_V6 as usize);
const _: () = assert!(FRAME_HEADROOM + HEADERS >= ipv6::HEADERS);
const _: () = assert!(FIRST_BYTES + (CHAIN_FRAMES - 1) * FRAME_BYTES >= PAYLOAD_MAX as usize);
const _: () = assert!(REASSEMBLY_FRAMES as usize >= 2 * CHAIN_FRAMES);

/// What became of one fragment.
enum Outcome {
    /// Its bytes were new and are in their place.
    Stored,
    /// All its bytes had come before.
    Duplicate,
    /// It contradicts what came before.
    Overlap,
    /// It makes no sense.
    Bad,
    /// There is no frame for it.
    NoFrames,
}

/// The place of a fragment's payload in its packet.
#[derive(Clone, Copy)]
pub(crate) struct Span {
    pub(crate) from: u32,
    pub(crate) to: u32,
    pub(crate) last: bool,
}

/// What of a fragment's headers counts for its packet.
#[derive(Clone, Copy)]
pub(crate) struct Facts {
    pub(crate) id: u32,
    pub(crate) ttl: u8,
    pub(crate) tos: u8,
    /// Type of the first header of the fragmentable part.
    pub(crate) next_header: u8,
    pub(crate) dst_mac: MacAddr,
}

/// Takes the fragment `part` with the IPv4 header `head`; gives the whole packet when this was the last one missing.
pub(crate) fn input(
    mem: &mut LaneMem<'_>,
    now: Instant,
    part: &Packet,
    head: &Ipv4Header,
    dst_mac: MacAddr,
) -> Option<Packet> {
    let from = u32::from(head.fragment_offset);
    let span = Span { from, to: from + part.l4_bytes, last: !head.more_fragments };
    let facts = Facts {
        id: u32::from(head.ident),
        ttl: head.ttl,
        tos: head.traffic_class,
        next_header: part.protocol.0,
        dst_mac,
    };
    take(mem, now, part, (&facts, span, PAYLOAD_MAX))
}

/// Takes the fragment `part` of a packet of at most `most` payload bytes; gives the whole packet when this was the last one missing.
pub(crate) fn take(
    mem: &mut LaneMem<'_>,
    now: Instant,
    part: &Packet,
    (facts, span, most): (&Facts, Span, u32),
) -> Option<Packet> {
    // RFC 791 3.2: all fragments but the last are multiples of 8 bytes; and no packet is longer than 65535.
    let fits = span.to <= most && span.to > span.from && (span.last || span.to.is_multiple_of(8));
    let outcome = if fits { store(mem, now, part, facts, span) } else { (Idx::NONE, Outcome::Bad) };
    mem.frames.release_chain(part.head);
    let (at, outcome) = outcome;
    match outcome {
        Outcome::Stored => finish(mem, at, part.local_peer),
        Outcome::Duplicate => None,
        Outcome::Overlap => {
            // RFC 5722 3 (for IPv6; the attack is the same): a packet with overlapping fragments is dropped whole,
            // with those of its fragments that are still to come.
            mem.counters.drop_packet(DropReason::IpFragmentBad);
            empty(mem, at);
            if let Some(row) = mem.reassemblies.get_mut(at) {
                row.state = REASSEMBLY_POISONED;
            }
            None
        }
        Outcome::Bad => {
            mem.counters.drop_packet(DropReason::IpFragmentBad);
            None
        }
        Outcome::NoFrames => {
            mem.counters.drop_packet(DropReason::IpReassemblyFull);
            None
        }
    }
}

fn store(
    mem: &mut LaneMem<'_>,
    now: Instant,
    part: &Packet,
    facts: &Facts,
    span: Span,
) -> (Idx<Reassembly>, Outcome) {
    let Some(at) = find(mem, part, facts.id).or_else(|| open(mem, now, part, facts)) else {
        return (Idx::NONE, Outcome::NoFrames);
    };
    let Some(row) = mem.reassemblies.get_mut(at) else { return (at, Outcome::NoFrames) };
    if row.state == REASSEMBLY_POISONED {
        return (at, Outcome::Bad);
    }
    let outcome = claim(row, span);
    if !matches!(outcome, Outcome::Stored) {
        return (at, outcome);
    }
    row.ecn_seen |= 1 << facts.tos.rem_euclid(4);
    if span.from == 0 {
        row.tos = facts.tos;
        row.ttl = facts.ttl;
        row.next_header = facts.next_header;
    }
    if copy_in(mem, at, part, span) {
        return (at, Outcome::Stored);
    }
    close(mem, at);
    (Idx::NONE, Outcome::NoFrames)
}

/// Marks the blocks of `span` as received, if it agrees with what came before.
fn claim(row: &mut Reassembly, span: Span) -> Outcome {
    let too_long = row.total != u32::MAX && (span.to > row.total || (span.last && span.to != row.total));
    if too_long || (span.last && row.end > span.to) {
        return Outcome::Overlap;
    }
    let (first, end) = (span.from / 8, span.to.div_ceil(8));
    let seen = (first..end).filter(|&block| is_marked(&row.map, block)).count() as u32;
    if seen == end - first {
        return Outcome::Duplicate;
    }
    if seen != 0 {
        return Outcome::Overlap;
    }
    for block in first..end {
        if let Some(word) = row.map.get_mut(block as usize / 64) {
            *word |= 1 << (block % 64);
        }
    }
    if span.last {
        row.total = span.to;
    }
    row.end = row.end.max(span.to);
    row.have += span.to - span.from;
    Outcome::Stored
}

fn is_marked(map: &[u64; REASSEMBLY_MAP_WORDS], block: u32) -> bool {
    map.get(block as usize / 64).is_some_and(|word| word >> (block % 64) & 1 == 1)
}

/// The frame and the byte in its cell where payload byte `offset` belongs, and how many fit there.
const fn place(offset: usize) -> (usize, usize, usize) {
    if offset < FIRST_BYTES {
        return (0, FIRST_AT + offset, FIRST_BYTES - offset);
    }
    let behind = offset - FIRST_BYTES;
    let at = behind % FRAME_BYTES;
    (1 + behind / FRAME_BYTES, at, FRAME_BYTES - at)
}

/// Copies the payload of `part` to its place. False: no frame.
fn copy_in(mem: &mut LaneMem<'_>, at: Idx<Reassembly>, part: &Packet, span: Span) -> bool {
    let (mut offset, end) = (span.from as usize, span.to as usize);
    while offset < end {
        let (slot, cell_at, room) = place(offset);
        let take = room.min(end - offset);
        let Some(frame) = slot_frame(mem, at, slot) else { return false };
        let from = (part.head, usize::from(part.l4_offset) + offset - span.from as usize);
        if !packet::copy_chain(&mut mem.frames, from, (frame, cell_at), take) {
            return false;
        }
        offset += take;
    }
    true
}

/// Frame number `slot` of the packet, made if it is not there yet.
fn slot_frame(mem: &mut LaneMem<'_>, at: Idx<Reassembly>, slot: usize) -> Option<FrameIdx> {
    if let Some(frame) = mem.reassemblies.get(at)?.frames.get(slot)?.some() {
        return Some(frame);
    }
    // The oldest packets make room, never this one: what is asked for last is the likeliest to be wanted.
    while mem.ip.reassemblies.frames_held >= REASSEMBLY_FRAMES {
        let oldest = mem.ip.reassemblies.oldest;
        if oldest == at || oldest.is_none() {
            return None;
        }
        mem.counters.drop_packet(DropReason::IpReassemblyFull);
        close(mem, oldest);
    }
    let frame = mem.frames.alloc()?;
    mem.ip.reassemblies.frames_held += 1;
    let row = mem.reassemblies.get_mut(at)?;
    row.frames_used += 1;
    *row.frames.get_mut(slot)? = frame;
    Some(frame)
}

/// The whole packet, if nothing is missing any more.
fn finish(mem: &mut LaneMem<'_>, at: Idx<Reassembly>, local_peer: bool) -> Option<Packet> {
    let row = mem.reassemblies.get(at)?;
    if row.have != row.total {
        return None;
    }
    let Some(tos) = joined_tos(row) else {
        mem.counters.drop_packet(DropReason::IpFragmentBad);
        close(mem, at);
        return None;
    };
    let total = row.total;
    let (src, dst, port, src_mac, protocol) = (row.src, row.dst, row.port, row.src_mac, row.next_header);
    let head = take_chain(mem, at, total, tos);
    close(mem, at);
    let head = head?;
    Some(Packet {
        head,
        port,
        src,
        dst,
        src_mac,
        protocol: IpProtocol(protocol),
        l4_offset: ip::headers(dst) as u16,
        l4_bytes: total,
        tos,
        csum: CsumState::Unknown,
        gso_size: 0,
        local_peer,
    })
}

/// The TOS of the whole packet. `None`: its fragments' ECN fields contradict each other.
fn joined_tos(row: &Reassembly) -> Option<u8> {
    const NOT_ECT: u8 = 1 << 0;
    const CE: u8 = 1 << 3;
    // RFC 3168 5.3: one fragment with CE marks the packet; CE together with Not-ECT is dropped.
    if row.ecn_seen & CE == 0 {
        return Some(row.tos);
    }
    if row.ecn_seen & NOT_ECT != 0 {
        return None;
    }
    Some(row.tos | 3)
}

/// Makes a chain with headers of the row's frames and takes them out of the row.
fn take_chain(mem: &mut LaneMem<'_>, at: Idx<Reassembly>, total: u32, tos: u8) -> Option<FrameIdx> {
    let row = mem.reassemblies.get_mut(at)?;
    let frames = row.frames;
    let head = *frames.first()?;
    let macs = (row.src_mac, row.dst_mac);
    let header = ip::header_of(row, total, tos);
    let headers = ip::headers(row.dst);
    mem.ip.reassemblies.frames_held =
        mem.ip.reassemblies.frames_held.saturating_sub(u32::from(row.frames_used));
    row.frames_used = 0;
    row.frames.fill(FrameIdx::NONE);
    let mut left = total as usize;
    for (slot, frame) in frames.iter().enumerate().take_while(|(_, f)| !f.is_none()) {
        let next = frames.get(slot + 1).copied().unwrap_or(FrameIdx::NONE);
        let (room, offset, extra) =
            if slot == 0 { (FIRST_BYTES, FIRST_AT - headers, headers) } else { (FRAME_BYTES, 0, 0) };
        let take = left.min(room);
        left -= take;
        if let Some(meta) = mem.frames.meta_mut(*frame) {
            meta.offset = offset as u16;
            meta.len = (take + extra) as u16;
            meta.next = next;
        }
    }
    header.emit(mem, head, macs);
    Some(head)
}

fn bucket(mem: &LaneMem<'_>, part: &Packet, ident: u32) -> usize {
    let ports = ident << 8 | u32::from(part.protocol.0);
    flow_hash(mem.globals.key, part.dst.0, part.src.0, ports) as usize % REASSEMBLY_BUCKETS
}

/// RFC 791 3.2: fragments belong together when identification, source, destination and protocol agree.
fn find(mem: &LaneMem<'_>, part: &Packet, ident: u32) -> Option<Idx<Reassembly>> {
    let mut at = *mem.ip.reassemblies.buckets.get(bucket(mem, part, ident))?;
    for _ in 0..mem.reassemblies.len() {
        let row = mem.reassemblies.get(at)?;
        if row.id == ident
            && (row.src, row.dst) == (part.src, part.dst)
            && (row.protocol, row.port) == (part.protocol.0, part.port)
        {
            return Some(at);
        }
        at = row.chain;
    }
    None
}

/// A row for the packet that `part` belongs to; the oldest one's if none is free.
fn open(mem: &mut LaneMem<'_>, now: Instant, part: &Packet, facts: &Facts) -> Option<Idx<Reassembly>> {
    if mem.ip.reassemblies.free.is_none() && mem.ip.reassemblies.fresh >= mem.reassemblies.len() {
        mem.counters.drop_packet(DropReason::IpReassemblyFull);
        close(mem, mem.ip.reassemblies.oldest);
    }
    let at = match mem.ip.reassemblies.free.some() {
        Some(at) => {
            mem.ip.reassemblies.free = mem.reassemblies.get(at)?.chain;
            at
        }
        None if mem.ip.reassemblies.fresh < mem.reassemblies.len() => {
            mem.ip.reassemblies.fresh += 1;
            Idx::new(mem.ip.reassemblies.fresh - 1)
        }
        None => return None,
    };
    let index = bucket(mem, part, facts.id);
    let chain = core::mem::replace(mem.ip.reassemblies.buckets.get_mut(index)?, at);
    let older = core::mem::replace(&mut mem.ip.reassemblies.newest, at);
    match mem.reassemblies.get_mut(older) {
        Some(row) => row.newer = at,
        None => mem.ip.reassemblies.oldest = at,
    }
    *mem.reassemblies.get_mut(at)? = Reassembly {
        started_at: now,
        src: part.src,
        dst: part.dst,
        id: facts.id,
        protocol: part.protocol.0,
        next_header: facts.next_header,
        port: part.port,
        state: REASSEMBLY_OPEN,
        src_mac: part.src_mac,
        dst_mac: facts.dst_mac,
        ttl: facts.ttl,
        tos: facts.tos,
        chain,
        older,
        ..Reassembly::EMPTY
    };
    Some(at)
}

/// Releases the frames of `at`.
fn empty(mem: &mut LaneMem<'_>, at: Idx<Reassembly>) {
    let Some(row) = mem.reassemblies.get_mut(at) else { return };
    let frames = core::mem::replace(&mut row.frames, [FrameIdx::NONE; CHAIN_FRAMES]);
    mem.ip.reassemblies.frames_held =
        mem.ip.reassemblies.frames_held.saturating_sub(u32::from(row.frames_used));
    row.frames_used = 0;
    for frame in frames.iter().filter_map(|f| f.some()) {
        mem.frames.release(frame);
    }
}

/// Releases the frames of `at` and frees the row.
fn close(mem: &mut LaneMem<'_>, at: Idx<Reassembly>) {
    empty(mem, at);
    let Some(row) = mem.reassemblies.get(at) else { return };
    let (chain, older, newer) = (row.chain, row.older, row.newer);
    let ports = row.id << 8 | u32::from(row.protocol);
    let index = flow_hash(mem.globals.key, row.dst.0, row.src.0, ports) as usize % REASSEMBLY_BUCKETS;
    match mem.reassemblies.get_mut(older) {
        Some(row) => row.newer = newer,
        None => mem.ip.reassemblies.oldest = newer,
    }
    match mem.reassemblies.get_mut(newer) {
        Some(row) => row.older = older,
        None => mem.ip.reassemblies.newest = older,
    }
    unlink_bucket(mem, index, at, chain);
    let free = core::mem::replace(&mut mem.ip.reassemblies.free, at);
    if let Some(row) = mem.reassemblies.get_mut(at) {
        row.state = REASSEMBLY_FREE;
        row.chain = free;
    }
}

fn unlink_bucket(mem: &mut LaneMem<'_>, index: usize, at: Idx<Reassembly>, chain: Idx<Reassembly>) {
    let Some(slot) = mem.ip.reassemblies.buckets.get_mut(index) else { return };
    if *slot == at {
        *slot = chain;
        return;
    }
    let mut before = *slot;
    for _ in 0..mem.reassemblies.len() {
        let Some(row) = mem.reassemblies.get_mut(before) else { return };
        if row.chain == at {
            row.chain = chain;
            return;
        }
        before = row.chain;
    }
}

/// When the oldest packet's time is over.
pub(crate) fn deadline(mem: &LaneMem<'_>) -> Instant {
    mem.reassemblies
        .get(mem.ip.reassemblies.oldest)
        .map_or(Instant::NEVER, |row| row.started_at.plus(TIMEOUT))
}

/// Gives up on packets whose time is over.
#[inline]
pub(crate) fn handle_timers(mem: &mut LaneMem<'_>, now: Instant) {
    if !mem.ip.reassemblies.oldest.is_none() {
        expire(mem, now);
    }
}

fn expire(mem: &mut LaneMem<'_>, now: Instant) {
    for _ in 0..mem.reassemblies.len() {
        if deadline(mem) > now {
            return;
        }
        let at = mem.ip.reassemblies.oldest;
        if mem.reassemblies.get(at).is_some_and(|row| row.state == REASSEMBLY_OPEN) {
            mem.counters.drop_packet(DropReason::IpReassemblyTimeout);
            report(mem, now, at);
        }
        close(mem, at);
    }
}

/// RFC 1122 3.3.2: tell the sender when time runs out, but only if the first fragment has come.
fn report(mem: &mut LaneMem<'_>, now: Instant, at: Idx<Reassembly>) {
    let Some(row) = mem.reassemblies.get(at) else { return };
    if !is_marked(&row.map, 0) {
        return;
    }
    let run = (0..row.end.div_ceil(8)).take_while(|&block| is_marked(&row.map, block)).count() * 8;
    let len = run.min(FIRST_BYTES).min(row.end as usize) as u32;
    let mut quoted = Packet {
        head: FrameIdx::NONE,
        port: row.port,
        src: row.src,
        dst: row.dst,
        src_mac: row.src_mac,
        protocol: IpProtocol(row.next_header),
        l4_offset: ip::headers(row.dst) as u16,
        l4_bytes: len,
        tos: row.tos,
        csum: CsumState::Unknown,
        gso_size: 0,
        local_peer: false,
    };
    let tos = row.tos;
    // Only what lies in the first frame is quoted: the others are released before.
    if let Some(row) = mem.reassemblies.get_mut(at) {
        let rest = row.frames.iter_mut().skip(1).filter(|f| !f.is_none());
        let mut released = 0;
        for frame in rest {
            mem.frames.release(core::mem::take(frame));
            released += 1;
        }
        row.frames_used = row.frames_used.saturating_sub(released);
        mem.ip.reassemblies.frames_held = mem.ip.reassemblies.frames_held.saturating_sub(u32::from(released));
    }
    if let Some(head) = take_chain(mem, at, len, tos) {
        quoted.head = head;
        ip::reassembly_time_over(mem, now, &quoted);
        mem.frames.release_chain(head);
    }
}
