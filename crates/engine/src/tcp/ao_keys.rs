//! Keys of TCP-AO (RFC 5925 3, 7.5.2): how they are set and removed, and which of a connection's are in use.

use ::state::{KEY_BYTES, KeyRow, LaneMem, SockRef, TcbHot};
use base::{Idx, Instant};

use super::conn::conn;
use super::keys::{
    AES_CMAC, AoAlgorithm, CURRENT, MD5, NEXT, Owner, PLAIN_OPTIONS, SHA1, add, find, has, is_ao, meets,
    owner_named, peer_of, row_of, settle, take_out,
};
use super::{State, ao_socket, auth, lookup};
use crate::errors::KeyError;
use crate::types::{AoKey, KeyPeer};

/// What a signature by TCP-AO may have, bytes: so that all options of a SYN have room beside it.
const MAC_LENS: core::ops::RangeInclusive<u8> = 4..=16;

/// [`Engine::tcp_add_ao_key`](crate::Engine::tcp_add_ao_key).
pub(crate) fn add_ao(
    mem: &mut LaneMem<'_>,
    now: Instant,
    s: SockRef,
    key: &AoKey<'_>,
) -> Result<(), KeyError> {
    if key.key.len() > KEY_BYTES || key.peer.prefix > 128 || !MAC_LENS.contains(&key.mac_len) {
        return Err(KeyError::Invalid);
    }
    let (owner, at) = owner_named(mem, now, s)?;
    let ao = has(mem, owner, |row| is_ao(row.kind));
    if let Some(hot) = at.and_then(|at| mem.hot.get(at))
        && !ao
        && State::from_raw(hot.state) != State::SynSent
    {
        return Err(KeyError::Invalid);
    }
    if has(mem, owner, |row| row.kind == MD5 && meets(row, key.peer)) {
        return Err(KeyError::OtherKind);
    }
    let clashes = |row: &KeyRow| row.send_id == key.send_id || row.recv_id == key.recv_id;
    // RFC 5925 3.1: for one peer no two keys have the same number.
    if has(mem, owner, |row| is_ao(row.kind) && meets(row, key.peer) && clashes(row)) {
        return Err(KeyError::Exists);
    }
    let first = at.and_then(|at| mem.hot.get(at)).is_some_and(|hot| key.peer.covers(hot.key.remote))
        && !has(mem, owner, |row| row.flags & CURRENT != 0);
    let kind = match key.algorithm {
        AoAlgorithm::HmacSha1 => SHA1,
        AoAlgorithm::AesCmac => AES_CMAC,
    };
    let mut room = [0; 16];
    let bytes = key.algorithm.master(key.key, &mut room);
    let row = KeyRow {
        flags: if key.covers_options { 0 } else { PLAIN_OPTIONS } | if first { CURRENT | NEXT } else { 0 },
        send_id: key.send_id,
        recv_id: key.recv_id,
        mac_len: key.mac_len,
        ..row_of(key.peer, kind, bytes)
    };
    if !ao_socket::begin(mem, owner) || !add(mem, owner, &row) {
        return Err(KeyError::NoRoom);
    }
    if let Some(at) = at {
        settle(mem, now, at);
    }
    Ok(())
}

/// [`Engine::tcp_remove_ao_key`](crate::Engine::tcp_remove_ao_key).
pub(crate) fn remove_ao(
    mem: &mut LaneMem<'_>,
    s: SockRef,
    peer: KeyPeer,
    (send_id, recv_id): (u8, u8),
) -> Result<(), KeyError> {
    let (owner, _) = owner_named(mem, Instant(0), s)?;
    let same = |row: &KeyRow| {
        is_ao(row.kind) && peer_of(row) == peer && (row.send_id, row.recv_id) == (send_id, recv_id)
    };
    if has(mem, owner, |row| same(row) && row.flags & (CURRENT | NEXT) != 0) {
        return Err(KeyError::InUse);
    }
    if take_out(mem, owner, same) == 0 { Err(KeyError::NoSuchKey) } else { Ok(()) }
}

/// Gives `flag` to the one AO key of connection `at` for its peer that is `wanted`, and takes it from the others. False: there is none.
fn pass(mem: &mut LaneMem<'_>, at: Idx<TcbHot>, flag: u8, wanted: impl Fn(&KeyRow) -> bool) -> bool {
    let (owner, Some(peer)) = (Owner::of(at), mem.hot.get(at).map(|hot| hot.key.remote)) else {
        return false;
    };
    let Some(new) = find(mem, owner, peer, |row| is_ao(row.kind) && wanted(row)) else { return false };
    if let Some(old) = find(mem, owner, peer, |row| row.flags & flag != 0)
        && let Some(row) = mem.keys.get_mut(old)
    {
        row.flags &= !flag;
    }
    if let Some(row) = mem.keys.get_mut(new) {
        row.flags |= flag;
    }
    true
}

/// [`Engine::tcp_use_ao_keys`](crate::Engine::tcp_use_ao_keys).
pub(crate) fn use_ao(
    mem: &mut LaneMem<'_>,
    now: Instant,
    s: SockRef,
    current: Option<u8>,
    next: Option<u8>,
) -> Result<(), KeyError> {
    let (_, at) = owner_named(mem, now, s)?;
    let at = at.ok_or(KeyError::Invalid)?;
    let peer = mem.hot.get(at).map(|hot| hot.key.remote).ok_or(KeyError::Gone)?;
    let known = |wanted: &dyn Fn(&KeyRow) -> bool| {
        find(mem, Owner::of(at), peer, |row| is_ao(row.kind) && wanted(row)).is_some()
    };
    if current.is_some_and(|id| !known(&|row| row.send_id == id))
        || next.is_some_and(|id| !known(&|row| row.recv_id == id))
    {
        return Err(KeyError::NoSuchKey);
    }
    if let Some(id) = next
        && !pass(mem, at, NEXT, |row| row.recv_id == id)
    {
        return Err(KeyError::NoSuchKey);
    }
    if let Some(id) = current
        && !pass(mem, at, CURRENT, |row| row.send_id == id)
    {
        return Err(KeyError::NoSuchKey);
    }
    settle(mem, now, at);
    if let Some(mut c) = conn(mem, now, at).filter(|c| c.state().is_synchronized()) {
        c.ack_now(); // the peer hears of it
    }
    Ok(())
}

/// The peer of connection `at` asks for the key `id` (RFC 5925 7.5.2.1): what is sent is signed with it from now on, if there is one.
pub(super) fn follow(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>, id: u8) {
    let current = auth::key_of(mem, at).and_then(|key| mem.keys.get(key));
    if current.is_some_and(|row| is_ao(row.kind) && row.send_id != id)
        && pass(mem, at, CURRENT, |row| row.send_id == id)
    {
        settle(mem, now, at);
    }
}

/// The RecvID of the key that the peer of connection `at` is asked to sign with.
pub(super) fn next_id(mem: &LaneMem<'_>, at: Idx<TcbHot>) -> Option<u8> {
    let key = find(mem, Owner::of(at), mem.hot.get(at)?.key.remote, |row| row.flags & NEXT != 0)?;
    mem.keys.get(key).map(|row| row.recv_id)
}

/// [`Engine::tcp_ao_keys`](crate::Engine::tcp_ao_keys).
pub(crate) fn ao_in_use(mem: &LaneMem<'_>, s: SockRef) -> Option<(u8, u8)> {
    let at = lookup(mem, s)?;
    let current = auth::key_of(mem, at).and_then(|key| mem.keys.get(key)).filter(|row| is_ao(row.kind))?;
    Some((current.send_id, next_id(mem, at).unwrap_or(current.recv_id)))
}
