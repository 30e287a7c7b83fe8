//! Signed segments (RFC 2385, RFC 5925): which are let in, and how those that go out are signed.
//!
//! A socket with a key for a peer takes nothing from it but what is signed with that key, and one without takes nothing that MD5 signs; what is refused is
//! dropped in silence, and counted as in Linux. That comes before anything else is made of a segment, a RST included.

use ::state::{DropReason, Endpoint, FlowKey, KeyRow, LaneMem, Piece, TcbHot, TxBatch};
use base::{FrameIdx, Idx, Instant, SeqNum};
use region::Frames;
use wire::tcp_options::{SIGNATURE_AT, signature_at};
use wire::{Sign, TcpFlags, TcpSegment, tcp};

use super::ao::{self, Context};
use super::ao_keys;
use super::ao_socket::{self, Count};
use super::conn::cold_of;
use super::keys::{self, Owner, is_ao};
use super::md5;
use super::segment::{Parsed, Seg};
use super::table::{self, Whose};
use super::{State, group, listen};
use crate::ipv4::Packet;
use crate::packet::each_piece;

/// Bytes of the longest signature.
const LONGEST: usize = 20;

/// May the segment in `packet` go further? If not, it is counted.
#[cold]
#[inline(never)]
pub(super) fn admits(
    mem: &mut LaneMem<'_>,
    now: Instant,
    packet: &Packet,
    parsed: &Parsed,
    found: Whose,
) -> bool {
    let owner = owner_of(mem, &parsed.seg, found);
    let (reason, key) = judge(mem, packet, parsed, (found, owner));
    let noted = match (reason, key) {
        (None, Some(key)) => Some(ao_socket::Found::Good(key)),
        (Some(_), Some(key)) => Some(ao_socket::Found::Bad(key)),
        (Some(DropReason::TcpAoKeyNotFound), None) => Some(ao_socket::Found::Other(Count::NoKey)),
        (Some(DropReason::TcpAoNotFound), None) => Some(ao_socket::Found::Other(Count::Unsigned)),
        _ => None,
    };
    if let Some((owner, noted)) = owner.zip(noted) {
        ao_socket::count(mem, owner, noted);
    }
    if let Some(reason) = reason {
        mem.counters.drop_packet(reason);
        return false;
    }
    if let (Sign::Ao { next_key_id, .. }, Whose::Of(at)) = (parsed.seg.options.sign, found) {
        ao_keys::follow(mem, now, at, next_key_id);
    }
    true
}

/// Why the segment is not taken, and the key of TCP-AO that it names, if its owner has that.
fn judge(
    mem: &LaneMem<'_>,
    packet: &Packet,
    parsed: &Parsed,
    (found, owner): (Whose, Option<Owner>),
) -> (Option<DropReason>, Option<Idx<KeyRow>>) {
    let (seg, peer) = (&parsed.seg, parsed.seg.key.remote);
    let required = || owner.is_some_and(|owner| ao_socket::is_required(mem, owner));
    let has = |kind: fn(u8) -> bool| owner.and_then(|o| keys::find(mem, o, peer, |row| kind(row.kind)));
    let (by_md5, by_ao) = (has(|kind| kind == keys::MD5), has(is_ao));
    let reason = match seg.options.sign {
        Sign::Bad => Some(DropReason::TcpAuthBad),
        Sign::None if by_ao.is_some() || required() => Some(DropReason::TcpAoNotFound),
        Sign::None => by_md5.map(|_| DropReason::TcpMd5NotFound),
        Sign::Md5 => match by_md5.and_then(|key| mem.keys.get(key)) {
            None => Some(DropReason::TcpMd5Unexpected),
            Some(row) => {
                (!is_signed_by(mem, packet, parsed, (found, row))).then_some(DropReason::TcpMd5Failure)
            }
        },
        Sign::Ao { .. } if by_ao.is_none() && by_md5.is_some() => Some(DropReason::TcpMd5NotFound),
        // RFC 5925 7.3: without a key it is as if it were not signed, unless that is not wanted.
        Sign::Ao { .. } if by_ao.is_none() && required() => Some(DropReason::TcpAoKeyNotFound),
        Sign::Ao { .. } if by_ao.is_none() => {
            (mem.globals.keys.strict != 0).then_some(DropReason::TcpAoUnexpected)
        }
        Sign::Ao { key_id, mac_len, .. } => {
            let wanted = |row: &KeyRow| is_ao(row.kind) && row.recv_id == key_id;
            let key = owner.and_then(|owner| keys::find(mem, owner, peer, wanted));
            let Some(row) = key.and_then(|key| mem.keys.get(key)) else {
                return (Some(DropReason::TcpAoKeyNotFound), None);
            };
            let good = row.mac_len == mac_len && is_signed_by(mem, packet, parsed, (found, row));
            return ((!good).then_some(DropReason::TcpAoFailure), key);
        }
    };
    (reason, None)
}

/// Whose keys `seg` is to be signed with.
fn owner_of(mem: &LaneMem<'_>, seg: &Seg, found: Whose) -> Option<Owner> {
    match found {
        // What opens a new connection is for the listener, as it is when the old one is gone.
        Whose::Of(at) => {
            let listener = if opens_anew(mem, seg, at) { listener_of(mem, &seg.key) } else { None };
            Some(listener.unwrap_or(Owner::of(at)))
        }
        Whose::Nobody => listener_of(mem, &seg.key).or_else(|| listener_at_source(mem, seg)),
        // What is signed has a whole row from the SYN on.
        Whose::NoRow | Whose::HalfOpen(_) => None,
    }
}

/// Is `seg` a SYN for connection `at` in TIME-WAIT?
fn opens_anew(mem: &LaneMem<'_>, seg: &Seg, at: Idx<TcbHot>) -> bool {
    let waits = mem.hot.get(at).is_some_and(|hot| State::from_raw(hot.state) == State::TimeWait);
    waits && seg.flags.without(TcpFlags::PSH) == TcpFlags::SYN
}

fn listener_of(mem: &LaneMem<'_>, key: &FlowKey) -> Option<Owner> {
    group::of_flow(mem, key).map(Owner::of_listener)
}

/// As Linux: who is asked by a signed segment for a connection it does not have can sign its answer if it listens at the port that the peer
/// uses: of two ends that both listen at one port, each knows the other's key.
fn listener_at_source(mem: &LaneMem<'_>, seg: &Seg) -> Option<Owner> {
    let at = Endpoint { addr: seg.key.local, port: seg.key.remote_port };
    if seg.options.sign == Sign::Md5 { listen::find(mem, at).map(Owner::of_listener) } else { None }
}

/// Does connection `at`, to which `seg` came, know the numbers of both ends?
fn knows_numbers(mem: &LaneMem<'_>, seg: &Seg, at: Idx<TcbHot>) -> bool {
    let asks = mem.hot.get(at).is_some_and(|hot| State::from_raw(hot.state) == State::SynSent);
    !asks && !opens_anew(mem, seg, at)
}

/// What of a connection's numbers goes into a signature by TCP-AO.
#[derive(Clone, Copy)]
struct Numbers {
    /// ISNs of sender and receiver.
    isn: (SeqNum, SeqNum),
    /// Extension of the sequence number.
    sne: u32,
}

/// Those of a segment that comes in.
fn numbers_in(mem: &LaneMem<'_>, seg: &Seg, found: Whose) -> Numbers {
    let acks = if seg.flags.is_ack() { seg.ack.minus(1) } else { SeqNum(0) };
    if seg.flags.is_syn() {
        return Numbers { isn: (seg.seq, acks), sne: 0 };
    }
    match found {
        Whose::Of(at) if knows_numbers(mem, seg, at) => match mem.cold.get(cold_of(at)) {
            Some(cold) => {
                Numbers { isn: (cold.irs, cold.iss), sne: ao::sne(cold.irs, cold.bytes_in, seg.seq) }
            }
            None => Numbers { isn: (seg.seq.minus(1), acks), sne: 0 },
        },
        // What completes a handshake by cookie, or nothing at all.
        Whose::Of(_) | Whose::HalfOpen(_) | Whose::Nobody | Whose::NoRow => {
            Numbers { isn: (seg.seq.minus(1), acks), sne: 0 }
        }
    }
}

/// Those of a segment that connection `at` sends.
fn numbers_out(mem: &LaneMem<'_>, at: Idx<TcbHot>, header: &[u8]) -> Option<Numbers> {
    let (cold, segment) = (mem.cold.get(cold_of(at))?, TcpSegment::parse(header).ok()?);
    let flags = segment.flags();
    let first = flags.is_syn() && !flags.is_ack();
    let isn = (cold.iss, if first { SeqNum(0) } else { cold.irs });
    Some(Numbers { isn, sne: ao::sne(cold.iss, cold.bytes_out, segment.seq()) })
}

/// Those of an answer to `seg` that no connection makes.
fn numbers_of_answer(seg: &Seg, header: &[u8]) -> Option<Numbers> {
    let segment = TcpSegment::parse(header).ok()?;
    let theirs = if seg.flags.is_syn() { seg.seq } else { seg.seq.minus(1) };
    let ours = if segment.flags().is_syn() { segment.seq() } else { segment.seq().minus(1) };
    Some(Numbers { isn: (ours, theirs), sne: 0 })
}

/// A signature on its way.
#[allow(clippy::large_enum_variant, reason = "it lives on the stack for one segment, and there is no heap")]
enum Signature {
    Md5(md5::Signature),
    Ao(ao::Signature),
}

impl Signature {
    /// Begins with a segment from `src` to `dst` of `len` bytes with the header `header`.
    fn begin(
        key: &KeyRow,
        (src, dst): (Endpoint, Endpoint),
        numbers: &Numbers,
        (header, len): (&[u8], u32),
    ) -> Option<Self> {
        if !is_ao(key.kind) {
            return Some(Self::Md5(md5::Signature::begin(src.addr, dst.addr, header, len)));
        }
        let (src_isn, dst_isn) = numbers.isn;
        let context = Context { src: (src.addr, src.port), dst: (dst.addr, dst.port), src_isn, dst_isn };
        let place = signature_at(header.get(tcp::HEADER_LEN..)?)?;
        ao::Signature::begin(key, &context, numbers.sne, (header, len), place).map(Self::Ao)
    }

    fn add(&mut self, data: &[u8]) {
        match self {
            Self::Md5(signature) => signature.add(data),
            Self::Ao(signature) => signature.add(data),
        }
    }

    /// The signature by `key`, and how many bytes of it count.
    fn end(self, key: &KeyRow) -> ([u8; LONGEST], usize) {
        match self {
            Self::Md5(signature) => {
                let mut out = [0; LONGEST];
                out.iter_mut().zip(signature.end(keys::bytes(key))).for_each(|(to, from)| *to = from);
                (out, md5::LEN)
            }
            Self::Ao(signature) => (signature.end(), usize::from(key.mac_len).min(LONGEST)),
        }
    }
}

/// Our end and the peer's.
fn ends(flow: &FlowKey) -> (Endpoint, Endpoint) {
    let local = Endpoint { addr: flow.local, port: flow.local_port };
    (local, Endpoint { addr: flow.remote, port: flow.remote_port })
}

/// Is the segment in `packet` signed with `key`?
fn is_signed_by(mem: &LaneMem<'_>, packet: &Packet, parsed: &Parsed, (found, key): (Whose, &KeyRow)) -> bool {
    let (frames, seg) = (&mem.frames, &parsed.seg);
    let data = frames.data(packet.head).get(usize::from(packet.l4_offset)..).unwrap_or(&[]);
    let Some(header) = data.get(..usize::from(parsed.header_bytes)) else { return false };
    let options = header.get(tcp::HEADER_LEN..).unwrap_or(&[]);
    let given = signature_at(options).and_then(|at| options.get(at)).unwrap_or(&[]);
    let (local, remote) = ends(&seg.key);
    let numbers = numbers_in(mem, seg, found);
    let begun = Signature::begin(key, (remote, local), &numbers, (header, packet.l4_bytes));
    let Some(mut signature) = begun else { return false };
    let (skip, len) = (usize::from(packet.l4_offset) + header.len(), seg.len as usize);
    let done = each_piece(frames, packet.head, skip, len, |bytes| signature.add(bytes));
    let (wanted, wanted_len) = signature.end(key);
    done == len && is_same(given, wanted.get(..wanted_len).unwrap_or(&wanted))
}

/// Are they the same? Takes as long for one wrong byte as for all.
fn is_same(given: &[u8], wanted: &[u8]) -> bool {
    given.len() == wanted.len() && given.iter().zip(wanted).fold(0, |apart, (a, b)| apart | (a ^ b)) == 0
}

/// Signs the packets of `out` from number `first` on, which are of connection `at`.
#[cold]
#[inline(never)]
pub(super) fn sign_sent(mem: &mut LaneMem<'_>, at: Idx<TcbHot>, out: &TxBatch, first: usize) {
    let (Some(hot), Some(cold)) = (mem.hot.get(at), mem.cold.get(cold_of(at))) else { return };
    if cold.ooo.sign == 0 {
        return;
    }
    let flow = hot.key;
    let Some(row) = key_of(mem, at).and_then(|key| mem.keys.get(key)).copied() else { return };
    let next = ao_keys::next_id(mem, at).unwrap_or(row.recv_id);
    for packet in out.items().get(first..).unwrap_or(&[]) {
        name_keys(&mut mem.frames, packet.head, packet.csum_start, (&row, next));
        let header = header_of(&mem.frames, packet.head, packet.csum_start);
        if let Some(numbers) = numbers_out(mem, at, header) {
            sign(&mut mem.frames, (packet.head, packet.csum_start), packet.pieces(), &flow, (&row, &numbers));
        }
    }
}

/// Signs the segment in `head`, which has no data, with `key`; it answers `seg`, and is no connection's.
pub(super) fn sign_answer(mem: &mut LaneMem<'_>, head: FrameIdx, tcp_at: u16, seg: &Seg, key: Idx<KeyRow>) {
    let Some(row) = mem.keys.get(key).copied() else { return };
    let next = match seg.options.sign {
        Sign::Ao { key_id, .. } => key_id,
        Sign::None | Sign::Md5 | Sign::Bad => 0,
    };
    name_keys(&mut mem.frames, head, tcp_at, (&row, next));
    if let Some(numbers) = numbers_of_answer(seg, header_of(&mem.frames, head, tcp_at)) {
        sign(&mut mem.frames, (head, tcp_at), &[], &seg.key, (&row, &numbers));
    }
}

/// Signs the RST in `head` of connection `at`.
pub(super) fn sign_reset(
    mem: &mut LaneMem<'_>,
    head: FrameIdx,
    tcp_at: u16,
    at: Idx<TcbHot>,
    key: Idx<KeyRow>,
) {
    let (Some(row), Some(flow)) = (mem.keys.get(key).copied(), mem.hot.get(at).map(|hot| hot.key)) else {
        return;
    };
    let next = ao_keys::next_id(mem, at).unwrap_or(row.recv_id);
    name_keys(&mut mem.frames, head, tcp_at, (&row, next));
    if let Some(numbers) = numbers_out(mem, at, header_of(&mem.frames, head, tcp_at)) {
        sign(&mut mem.frames, (head, tcp_at), &[], &flow, (&row, &numbers));
    }
}

fn header_of<'f>(frames: &'f Frames<'_>, head: FrameIdx, tcp_at: u16) -> &'f [u8] {
    frames.data(head).get(usize::from(tcp_at)..).unwrap_or(&[])
}

/// Writes which key signs the segment in `head`, and which one the peer shall take (RFC 5925 2.2), to their places.
fn name_keys(frames: &mut Frames<'_>, head: FrameIdx, tcp_at: u16, (key, next): (&KeyRow, u8)) {
    let at = usize::from(tcp_at) + tcp::HEADER_LEN + SIGNATURE_AT - 2;
    if is_ao(key.kind)
        && let Some(place) = frames.data_mut(head).get_mut(at..at + 2)
    {
        place.copy_from_slice(&[key.send_id, next]);
    }
}

/// Writes the signature of the segment whose TCP header begins at `tcp_at` in `head`, and whose data are `pieces`, to its place.
fn sign(
    frames: &mut Frames<'_>,
    (head, tcp_at): (FrameIdx, u16),
    pieces: &[Piece],
    flow: &FlowKey,
    (key, numbers): (&KeyRow, &Numbers),
) {
    let header = header_of(frames, head, tcp_at);
    let data: u32 = pieces.iter().map(|piece| u32::from(piece.len)).sum();
    let len = header.len() as u32 + data;
    let Some(mut signature) = Signature::begin(key, ends(flow), numbers, (header, len)) else { return };
    for piece in pieces {
        let (from, len) = (usize::from(piece.offset), usize::from(piece.len));
        signature.add(frames.cell(piece.frame).get(from..from + len).unwrap_or(&[]));
    }
    let (signature, len) = signature.end(key);
    let at = usize::from(tcp_at) + tcp::HEADER_LEN + SIGNATURE_AT;
    if let (Some(place), Some(signature)) =
        (frames.data_mut(head).get_mut(at..at + len), signature.get(..len))
    {
        place.copy_from_slice(signature);
    }
}

/// The key with which `seg`, which was let in, is answered when no connection answers it.
pub(super) fn key_of_answer(mem: &LaneMem<'_>, seg: &Seg) -> Option<Idx<KeyRow>> {
    if seg.options.sign == Sign::None {
        return None;
    }
    let found = table::find(mem, &seg.key).map_or(Whose::Nobody, Whose::Of);
    let owner = owner_of(mem, seg, found)?;
    keys::find_answering(mem, owner, seg.key.remote, seg.options.sign)
}

/// The key with which connection `at` signs.
pub(super) fn key_of(mem: &LaneMem<'_>, at: Idx<TcbHot>) -> Option<Idx<KeyRow>> {
    keys::signer(mem, Owner::of(at), mem.hot.get(at)?.key.remote)
}

/// How `key` signs.
pub(super) fn sign_by(mem: &LaneMem<'_>, key: Option<Idx<KeyRow>>) -> Sign {
    key.and_then(|key| mem.keys.get(key)).map_or(Sign::None, keys::sign_of)
}

/// A segment without a signature is none for connection `at`, whose segments are signed: counts it.
#[cold]
pub(super) fn refuse_unsigned(mem: &mut LaneMem<'_>, at: Idx<TcbHot>) {
    let md5 = mem.cold.get(cold_of(at)).is_some_and(|cold| cold.ooo.sign == keys::MD5);
    if !md5 {
        ao_socket::count(mem, Owner::of(at), ao_socket::Found::Other(Count::Unsigned));
    }
    mem.counters.drop_packet(if md5 { DropReason::TcpMd5NotFound } else { DropReason::TcpAoNotFound });
}
