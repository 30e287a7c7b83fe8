//! Keys that sign segments, in a table of their own: each has an owner, a listener or a connection, and is for peers whose addresses begin alike.
//! Which key of its owner is for a peer: the one with the longest such beginning, as in Linux.
//!
//! Most lanes have none; then nobody looks here.

use ::state::{KEY_BUCKETS, KEY_BYTES, KeyRow, LaneMem, Listener, OF_LISTENER, SockKind, SockRef, TcbHot};
use base::{Idx, Instant, IpAddress};
use wire::Sign;

use super::conn::{Conn, conn};
use super::{handle, listen};
use crate::errors::KeyError;
use crate::types::KeyPeer;

/// [`KeyRow::kind`] of a key that signs with MD5 (RFC 2385).
pub(super) const MD5: u8 = 1;
/// Bits of [`IpAddress`] in front of an IPv4 address.
const MAPPED_BITS: u8 = 96;

/// Who has keys.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Owner(u32);

impl Owner {
    pub(super) const fn of(at: Idx<TcbHot>) -> Self {
        Self(at.raw())
    }

    pub(super) const fn of_listener(at: Idx<Listener>) -> Self {
        Self(at.raw() | OF_LISTENER)
    }

    const fn bucket(self) -> usize {
        self.0 as usize % KEY_BUCKETS
    }
}

impl KeyPeer {
    /// Is it `addr`, or one of many that `addr` is among? A key for IPv6 addresses is for none of IPv4, however many it is for.
    fn covers(&self, addr: IpAddress) -> bool {
        let apart = u128::from_be_bytes(self.addr.0) ^ u128::from_be_bytes(addr.0);
        let alike = match self.prefix {
            0 => true,
            bits => apart >> (128 - u32::from(bits.min(128))) == 0,
        };
        alike && (self.prefix >= MAPPED_BITS || !addr.is_v4())
    }
}

fn peer_of(row: &KeyRow) -> KeyPeer {
    KeyPeer { addr: row.peer, prefix: row.prefix }
}

/// The key itself.
pub(super) fn bytes(row: &KeyRow) -> &[u8] {
    row.key.get(..usize::from(row.key_len)).unwrap_or(&row.key)
}

/// How segments are signed by a key of `kind`.
pub(super) const fn sign_of(kind: u8) -> Sign {
    match kind {
        MD5 => Sign::Md5,
        _ => Sign::None,
    }
}

/// The keys of `owner`.
fn all<'m>(mem: &'m LaneMem<'_>, owner: Owner) -> impl Iterator<Item = Idx<KeyRow>> + 'm {
    let mut at = mem.globals.keys.buckets.get(owner.bucket()).copied().unwrap_or(Idx::NONE);
    let next = move || {
        let this = at.some()?;
        at = mem.keys.get(this)?.next;
        Some(this)
    };
    let own =
        move |at: &Idx<KeyRow>| mem.keys.get(*at).is_some_and(|row| row.kind != 0 && row.owner == owner.0);
    core::iter::from_fn(next).take(mem.keys.len() as usize).filter(own)
}

/// The key of `owner` for `peer`.
#[inline]
pub(super) fn find(mem: &LaneMem<'_>, owner: Owner, peer: IpAddress) -> Option<Idx<KeyRow>> {
    if mem.globals.keys.used == 0 { None } else { find_any(mem, owner, peer) }
}

#[cold]
#[inline(never)]
fn find_any(mem: &LaneMem<'_>, owner: Owner, peer: IpAddress) -> Option<Idx<KeyRow>> {
    let fits = all(mem, owner).filter(|at| mem.keys.get(*at).is_some_and(|row| peer_of(row).covers(peer)));
    fits.max_by_key(|at| mem.keys.get(*at).map(|row| row.prefix))
}

/// Keys of `owner`.
pub(super) fn count(mem: &LaneMem<'_>, owner: Owner) -> u32 {
    if mem.globals.keys.used == 0 { 0 } else { all(mem, owner).count() as u32 }
}

/// Keys for which there is still room.
pub(super) fn room(mem: &LaneMem<'_>) -> u32 {
    mem.keys.len().saturating_sub(mem.globals.keys.used)
}

/// Adds a key of `owner`. False: there is no room.
fn add(mem: &mut LaneMem<'_>, owner: Owner, peer: KeyPeer, kind: u8, key: &[u8]) -> bool {
    let keys = &mut mem.globals.keys;
    let (free, fresh) = (keys.free.some(), keys.fresh);
    let at = free.unwrap_or(Idx::new(fresh));
    let Some(first) = keys.buckets.get_mut(owner.bucket()) else { return false };
    let Some(row) = mem.keys.get_mut(at) else { return false };
    match free {
        Some(_) => keys.free = row.next,
        None => keys.fresh = fresh + 1,
    }
    keys.used += 1;
    let mut bytes = [0; KEY_BYTES];
    let key_len = key.len().min(KEY_BYTES);
    for (to, from) in bytes.iter_mut().zip(key) {
        *to = *from;
    }
    let next = core::mem::replace(first, at);
    *row = KeyRow {
        peer: peer.addr,
        owner: owner.0,
        next,
        prefix: peer.prefix.min(128),
        kind,
        key_len: key_len as u8,
        room: 0,
        key: bytes,
    };
    true
}

/// Takes the keys of `owner` that `goes` names out, and leaves nothing of them in their rows. Gives their number.
fn take_out(mem: &mut LaneMem<'_>, owner: Owner, goes: impl Fn(&KeyRow) -> bool) -> u32 {
    let mut before: Option<Idx<KeyRow>> = None;
    let mut at = mem.globals.keys.buckets.get(owner.bucket()).copied().unwrap_or(Idx::NONE);
    let mut gone = 0;
    for _ in 0..mem.keys.len() {
        let Some(row) = mem.keys.get_mut(at) else { break };
        let next = row.next;
        if row.owner != owner.0 || !goes(row) {
            (before, at) = (Some(at), next);
            continue;
        }
        *row = KeyRow {
            peer: IpAddress::ANY,
            owner: 0,
            next: core::mem::replace(&mut mem.globals.keys.free, at),
            prefix: 0,
            kind: 0,
            key_len: 0,
            room: 0,
            key: [0; KEY_BYTES],
        };
        mem.globals.keys.used = mem.globals.keys.used.saturating_sub(1);
        gone += 1;
        let link = match before {
            Some(before) => mem.keys.get_mut(before).map(|row| &mut row.next),
            None => mem.globals.keys.buckets.get_mut(owner.bucket()),
        };
        if let Some(link) = link {
            *link = next;
        }
        at = next;
    }
    gone
}

/// `owner` is no more.
#[cold]
pub(super) fn forget(mem: &mut LaneMem<'_>, owner: Owner) {
    take_out(mem, owner, |_| true);
}

/// Connection `to` gets a copy of the key `from`, for its peer alone. False: there is no room.
#[cold]
pub(super) fn inherit(mem: &mut LaneMem<'_>, from: Idx<KeyRow>, to: Idx<TcbHot>) -> bool {
    let (Some(row), Some(hot)) = (mem.keys.get(from).copied(), mem.hot.get(to)) else { return false };
    let peer = KeyPeer { addr: hot.key.remote, prefix: 128 };
    add(mem, Owner::of(to), peer, row.kind, bytes(&row))
}

/// The keys of connection `old` of `from` become those of `new` of `to`, which has room for them.
#[cold]
pub(super) fn hand_on(
    (from, old): (&mut LaneMem<'_>, Idx<TcbHot>),
    (to, new): (&mut LaneMem<'_>, Idx<TcbHot>),
) {
    for at in all(from, Owner::of(old)) {
        if let Some(row) = from.keys.get(at) {
            add(to, Owner::of(new), peer_of(row), row.kind, bytes(row));
        }
    }
    forget(from, Owner::of(old));
}

/// [`Engine::tcp_set_md5_key`](crate::Engine::tcp_set_md5_key).
pub(crate) fn set_md5(
    mem: &mut LaneMem<'_>,
    now: Instant,
    s: SockRef,
    peer: KeyPeer,
    key: &[u8],
) -> Result<(), KeyError> {
    if key.len() > KEY_BYTES || peer.prefix > 128 {
        return Err(KeyError::Invalid);
    }
    let (owner, at) = match s.kind() {
        Some(SockKind::Listener) => (Owner::of_listener(listen::lookup(mem, s).ok_or(KeyError::Gone)?), None),
        Some(SockKind::Tcp) => {
            let at = handle::awake(mem, now, s).map_err(|_| KeyError::Gone)?;
            (Owner::of(at), Some(at))
        }
        Some(SockKind::Udp) | None => return Err(KeyError::Gone),
    };
    let same = |row: &KeyRow| row.kind == MD5 && peer_of(row) == peer;
    let known = all(mem, owner).find(|at| mem.keys.get(*at).is_some_and(same));
    if key.is_empty() {
        if take_out(mem, owner, same) == 0 {
            return Err(KeyError::NoSuchKey);
        }
    } else {
        if known.is_none() && room(mem) == 0 {
            return Err(KeyError::NoRoom);
        }
        take_out(mem, owner, same);
        if !add(mem, owner, peer, MD5, key) {
            return Err(KeyError::NoRoom);
        }
    }
    if let Some(at) = at {
        settle(mem, now, at);
    }
    Ok(())
}

/// The keys of connection `at` have changed: its segments are signed accordingly from now on.
fn settle(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>) {
    let Some(peer) = mem.hot.get(at).map(|hot| hot.key.remote) else { return };
    let kind = find(mem, Owner::of(at), peer).and_then(|key| mem.keys.get(key)).map_or(0, |row| row.kind);
    if let Some(mut c) = conn(mem, now, at) {
        c.sign_with(kind);
    }
}

impl Conn<'_, '_> {
    /// How its segments are signed.
    #[inline]
    pub(super) fn sign(&self) -> Sign {
        let kind = self.cold.ooo.sign;
        if kind == 0 { Sign::None } else { sign_of(kind) }
    }

    /// Its segments are signed by a key of `kind` from now on; 0: not at all.
    #[cold]
    pub(super) fn sign_with(&mut self, kind: u8) {
        let before = self.sign().len_bytes() as u16;
        self.cold.ooo.sign = kind;
        if self.hot.mss != 0 {
            let whole = self.hot.mss.saturating_add(before);
            self.hot.mss = whole.saturating_sub(self.sign().len_bytes() as u16).max(1);
        }
        self.choose_way();
    }
}

#[cfg(test)]
mod tests {
    use core::net::Ipv4Addr;

    use super::*;

    #[test]
    fn a_key_is_for_addresses_that_begin_alike_and_for_those_of_its_family() {
        let v4 = |a, b, c, d| IpAddress::from_v4(Ipv4Addr::new(a, b, c, d));
        let net = KeyPeer { addr: v4(10, 1, 0, 0), prefix: 96 + 16 };
        assert!(net.covers(v4(10, 1, 200, 3)) && !net.covers(v4(10, 2, 0, 1)));
        let all_v4 = KeyPeer { addr: IpAddress::ANY_V4, prefix: 96 };
        let all_v6 = KeyPeer { addr: IpAddress::ANY, prefix: 0 };
        let six = IpAddress::from_v6(core::net::Ipv6Addr::LOCALHOST);
        assert!(all_v4.covers(v4(1, 2, 3, 4)) && !all_v4.covers(six));
        assert!(all_v6.covers(six) && !all_v6.covers(v4(1, 2, 3, 4)));
        assert!(KeyPeer { addr: six, prefix: 128 }.covers(six));
    }
}
