//! Signed segments (RFC 2385): which are let in, and how those that go out are signed.
//!
//! A socket with a key for a peer takes nothing from it but what is signed with that key, and one without takes nothing signed; what is refused is
//! dropped in silence, and counted as in Linux. That comes before anything else is made of a segment, a RST included.

use ::state::{DropReason, Endpoint, FlowKey, KeyRow, LaneMem, Piece, TcbHot, TxBatch};
use base::{FrameIdx, Idx};
use region::Frames;
use wire::tcp_options::{SIGNATURE_AT, signature_at};
use wire::{Sign, TcpFlags, tcp};

use super::conn::cold_of;
use super::keys::{self, Owner};
use super::md5::{self, Signature};
use super::segment::{Parsed, Seg};
use super::table::{self, Whose};
use super::{State, listen};
use crate::ipv4::Packet;
use crate::packet::each_piece;

/// May the segment in `packet` go further? If not, it is counted.
#[cold]
#[inline(never)]
pub(super) fn admits(mem: &mut LaneMem<'_>, packet: &Packet, parsed: &Parsed, found: Whose) -> bool {
    let refused = judge(mem, packet, parsed, found);
    if let Some(reason) = refused {
        mem.counters.drop_packet(reason);
    }
    refused.is_none()
}

fn judge(mem: &LaneMem<'_>, packet: &Packet, parsed: &Parsed, found: Whose) -> Option<DropReason> {
    let seg = &parsed.seg;
    let key = owner_of(mem, seg, found).and_then(|owner| keys::find(mem, owner, seg.key.remote));
    match (seg.options.sign, key.and_then(|at| mem.keys.get(at))) {
        (Sign::Bad, _) => Some(DropReason::TcpAuthBad),
        (Sign::None, None) => None,
        // RFC 5925 7.3: without a key it is as if it were not signed.
        (Sign::Ao { .. }, None) => None,
        (Sign::None | Sign::Ao { .. }, Some(_)) => Some(DropReason::TcpMd5NotFound),
        (Sign::Md5, None) => Some(DropReason::TcpMd5Unexpected),
        (Sign::Md5, Some(row)) => {
            (!is_signed_by(&mem.frames, packet, parsed, row)).then_some(DropReason::TcpMd5Failure)
        }
    }
}

/// Whose keys `seg` is to be signed with.
fn owner_of(mem: &LaneMem<'_>, seg: &Seg, found: Whose) -> Option<Owner> {
    match found {
        // What opens a new connection is for the listener, as it is when the old one is gone.
        Whose::Of(at) => {
            let waits = mem.hot.get(at).is_some_and(|hot| State::from_raw(hot.state) == State::TimeWait);
            let opens = waits && seg.flags.without(TcpFlags::PSH) == TcpFlags::SYN;
            let listener = if opens { listener_of(mem, &seg.key) } else { None };
            Some(listener.unwrap_or(Owner::of(at)))
        }
        Whose::Nobody => listener_of(mem, &seg.key).or_else(|| listener_at_source(mem, seg)),
        Whose::NoRow => None,
    }
}

fn listener_of(mem: &LaneMem<'_>, key: &FlowKey) -> Option<Owner> {
    listen::find(mem, Endpoint { addr: key.local, port: key.local_port }).map(Owner::of_listener)
}

/// As Linux: who is asked by a signed segment for a connection it does not have can sign its answer if it listens at the port that the peer
/// uses: of two ends that both listen at one port, each knows the other's key.
fn listener_at_source(mem: &LaneMem<'_>, seg: &Seg) -> Option<Owner> {
    let at = Endpoint { addr: seg.key.local, port: seg.key.remote_port };
    if seg.options.sign == Sign::Md5 { listen::find(mem, at).map(Owner::of_listener) } else { None }
}

/// Is the segment in `packet` signed with `key`?
fn is_signed_by(frames: &Frames<'_>, packet: &Packet, parsed: &Parsed, key: &KeyRow) -> bool {
    let data = frames.data(packet.head).get(usize::from(packet.l4_offset)..).unwrap_or(&[]);
    let Some(header) = data.get(..usize::from(parsed.header_bytes)) else { return false };
    let options = header.get(tcp::HEADER_LEN..).unwrap_or(&[]);
    let given = signature_at(options).and_then(|at| options.get(at)).unwrap_or(&[]);
    let (src, dst) = md5::inwards(&parsed.seg.key);
    let mut signature = Signature::begin(src, dst, header, packet.l4_bytes);
    let skip = usize::from(packet.l4_offset) + header.len();
    let len = parsed.seg.len as usize;
    let done = each_piece(frames, packet.head, skip, len, |bytes| signature.add(bytes));
    done == len && is_same(given, &signature.end(keys::bytes(key)))
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
    let Some(row) = keys::find(mem, Owner::of(at), hot.key.remote).and_then(|key| mem.keys.get(key)) else {
        return;
    };
    for packet in out.items().get(first..).unwrap_or(&[]) {
        sign(&mut mem.frames, (packet.head, packet.csum_start), packet.pieces(), &hot.key, row);
    }
}

/// Signs the segment in `head`, which is no connection's and has no data, with `key`.
pub(super) fn sign_alone(
    mem: &mut LaneMem<'_>,
    head: FrameIdx,
    tcp_at: u16,
    flow: &FlowKey,
    key: Idx<KeyRow>,
) {
    if let Some(row) = mem.keys.get(key) {
        sign(&mut mem.frames, (head, tcp_at), &[], flow, row);
    }
}

/// Writes the signature of the segment whose TCP header begins at `tcp_at` in `head`, and whose data are `pieces`, to its place.
fn sign(
    frames: &mut Frames<'_>,
    (head, tcp_at): (FrameIdx, u16),
    pieces: &[Piece],
    flow: &FlowKey,
    key: &KeyRow,
) {
    let header = frames.data(head).get(usize::from(tcp_at)..).unwrap_or(&[]);
    let data: u32 = pieces.iter().map(|piece| u32::from(piece.len)).sum();
    let (src, dst) = md5::outwards(flow);
    let mut signature = Signature::begin(src, dst, header, header.len() as u32 + data);
    for piece in pieces {
        let (from, len) = (usize::from(piece.offset), usize::from(piece.len));
        signature.add(frames.cell(piece.frame).get(from..from + len).unwrap_or(&[]));
    }
    let signature = signature.end(keys::bytes(key));
    let at = usize::from(tcp_at) + tcp::HEADER_LEN + SIGNATURE_AT;
    if let Some(place) = frames.data_mut(head).get_mut(at..at + md5::LEN) {
        place.copy_from_slice(&signature);
    }
}

/// The key with which `seg`, which was let in, is answered when no connection answers it.
pub(super) fn key_of_answer(mem: &LaneMem<'_>, seg: &Seg) -> Option<Idx<KeyRow>> {
    if seg.options.sign != Sign::Md5 {
        return None;
    }
    let found = table::find(mem, &seg.key).map_or(Whose::Nobody, Whose::Of);
    keys::find(mem, owner_of(mem, seg, found)?, seg.key.remote)
}

/// The key with which connection `at` signs.
pub(super) fn key_of(mem: &LaneMem<'_>, at: Idx<TcbHot>) -> Option<Idx<KeyRow>> {
    keys::find(mem, Owner::of(at), mem.hot.get(at)?.key.remote)
}

/// How `key` signs.
pub(super) fn sign_by(mem: &LaneMem<'_>, key: Option<Idx<KeyRow>>) -> Sign {
    key.and_then(|key| mem.keys.get(key)).map_or(Sign::None, |row| keys::sign_of(row.kind))
}
