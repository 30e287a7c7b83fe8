//! Keys that sign segments, in a table of their own: each has an owner, a listener or a connection, and is for peers whose addresses begin alike.
//! Which key of its owner is for a peer: the one with the longest such beginning, as in Linux.
//!
//! Most lanes have none; then nobody looks here.

use ::state::{KEY_BUCKETS, KEY_BYTES, KeyRow, LaneMem, Listener, OF_LISTENER, SockKind, SockRef, TcbHot};
use base::{Idx, Instant, IpAddress};
use wire::Sign;

use super::conn::{Conn, conn};
use super::{ao, handle, listen};
use crate::errors::KeyError;
use crate::types::KeyPeer;

/// [`KeyRow::kind`] of a key that signs with MD5 (RFC 2385).
pub(super) const MD5: u8 = 1;
/// The same, TCP-AO with HMAC-SHA-1 (RFC 5926).
pub(super) const SHA1: u8 = 2;
/// The same, TCP-AO with AES-128-CMAC (RFC 5926).
pub(super) const AES_CMAC: u8 = 3;
/// Not a key: what a socket that uses TCP-AO has one of; see [`super::ao_socket`].
pub(super) const AO_SOCKET: u8 = 4;
/// Bit of [`KeyRow::flags`]: only the option of the signature is signed, not the others.
pub(super) const PLAIN_OPTIONS: u8 = 1;
/// The same: what is sent is signed with this key (RFC 5925 3.3, current_key).
pub(super) const CURRENT: u8 = 2;
/// The same: the peer is asked to sign with this key (rnext_key).
pub(super) const NEXT: u8 = 4;
/// The same of a row of [`AO_SOCKET`]: nothing is taken that TCP-AO does not sign.
pub(super) const REQUIRED: u8 = 8;
/// The same: ICMP errors are heard.
pub(super) const HEARS_ICMP: u8 = 16;
/// `OutOfOrder::sign` of a connection that uses TCP-AO; the rest is the length of its signatures.
const SIGN_AO: u8 = 0x40;
/// Bits of [`IpAddress`] in front of an IPv4 address.
const MAPPED_BITS: u8 = 96;

/// Algorithms of TCP-AO (RFC 5926).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AoAlgorithm {
    /// HMAC-SHA-1, with KDF_HMAC_SHA1.
    HmacSha1,
    /// AES-128-CMAC, with KDF_AES_128_CMAC.
    AesCmac,
}

impl AoAlgorithm {
    /// The master key that it uses of `key`, perhaps in `room`: RFC 5926 3.1.1.2 makes 16 bytes of one that AES-128-CMAC shall use.
    #[must_use]
    pub fn master<'k>(self, key: &'k [u8], room: &'k mut [u8; 16]) -> &'k [u8] {
        match self {
            Self::HmacSha1 => key,
            Self::AesCmac => ao::shortened(key, room).unwrap_or(&[]),
        }
    }
}

/// Is [`KeyRow::kind`] one of TCP-AO?
pub(super) const fn is_ao(kind: u8) -> bool {
    matches!(kind, SHA1 | AES_CMAC)
}

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
    #[must_use]
    pub fn covers(&self, addr: IpAddress) -> bool {
        let apart = u128::from_be_bytes(self.addr.0) ^ u128::from_be_bytes(addr.0);
        let alike = match self.prefix {
            0 => true,
            bits => apart >> (128 - u32::from(bits.min(128))) == 0,
        };
        alike && (self.prefix >= MAPPED_BITS || !addr.is_v4())
    }
}

pub(super) fn peer_of(row: &KeyRow) -> KeyPeer {
    KeyPeer { addr: row.peer, prefix: row.prefix }
}

/// The key itself.
pub(super) fn bytes(row: &KeyRow) -> &[u8] {
    row.key.get(..usize::from(row.key_len)).unwrap_or(&row.key)
}

/// How segments are signed by `row`.
pub(super) const fn sign_of(row: &KeyRow) -> Sign {
    match row.kind {
        MD5 => Sign::Md5,
        SHA1 | AES_CMAC => Sign::Ao { key_id: row.send_id, next_key_id: row.recv_id, mac_len: row.mac_len },
        _ => Sign::None,
    }
}

/// The keys of `owner`.
pub(super) fn all<'m>(mem: &'m LaneMem<'_>, owner: Owner) -> impl Iterator<Item = Idx<KeyRow>> + 'm {
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

/// The key of `owner` for `peer` that is `wanted`.
#[inline]
pub(super) fn find(
    mem: &LaneMem<'_>,
    owner: Owner,
    peer: IpAddress,
    wanted: impl Fn(&KeyRow) -> bool,
) -> Option<Idx<KeyRow>> {
    if mem.globals.keys.used == 0 { None } else { find_any(mem, owner, peer, wanted) }
}

#[cold]
#[inline(never)]
fn find_any(
    mem: &LaneMem<'_>,
    owner: Owner,
    peer: IpAddress,
    wanted: impl Fn(&KeyRow) -> bool,
) -> Option<Idx<KeyRow>> {
    let fits =
        |at: &Idx<KeyRow>| mem.keys.get(*at).is_some_and(|row| peer_of(row).covers(peer) && wanted(row));
    all(mem, owner).filter(fits).max_by_key(|at| mem.keys.get(*at).map(|row| row.prefix))
}

/// The key with which `owner`, a connection, signs what it sends to `peer`; or a listener by MD5.
pub(super) fn signer(mem: &LaneMem<'_>, owner: Owner, peer: IpAddress) -> Option<Idx<KeyRow>> {
    find(mem, owner, peer, |row| row.flags & CURRENT != 0)
        .or_else(|| find(mem, owner, peer, |row| row.kind == MD5))
}

/// The key with which `owner` answers a segment of `peer` that was signed as `sign` says, and let in (RFC 5925 7.5.1): the one that it asks for.
pub(super) fn find_answering(
    mem: &LaneMem<'_>,
    owner: Owner,
    peer: IpAddress,
    sign: Sign,
) -> Option<Idx<KeyRow>> {
    match sign {
        Sign::None | Sign::Bad => None,
        Sign::Md5 => find(mem, owner, peer, |row| row.kind == MD5),
        Sign::Ao { key_id, next_key_id, .. } => {
            find(mem, owner, peer, |row| is_ao(row.kind) && row.send_id == next_key_id)
                .or_else(|| find(mem, owner, peer, |row| is_ao(row.kind) && row.recv_id == key_id))
        }
    }
}

/// Keys of `owner`.
pub(super) fn count(mem: &LaneMem<'_>, owner: Owner) -> u32 {
    if mem.globals.keys.used == 0 { 0 } else { all(mem, owner).count() as u32 }
}

/// Keys for which there is still room.
pub(super) fn room(mem: &LaneMem<'_>) -> u32 {
    mem.keys.len().saturating_sub(mem.globals.keys.used)
}

/// Adds a key of `owner`, as `key` says but for owner and links. False: there is no room.
pub(super) fn add(mem: &mut LaneMem<'_>, owner: Owner, key: &KeyRow) -> bool {
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
    let next = core::mem::replace(first, at);
    *row = KeyRow { owner: owner.0, next, ..*key };
    true
}

/// A key of no owner yet.
pub(super) fn row_of(peer: KeyPeer, kind: u8, key: &[u8]) -> KeyRow {
    let mut bytes = [0; KEY_BYTES];
    bytes.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    let key_len = key.len().min(KEY_BYTES) as u8;
    KeyRow { peer: peer.addr, prefix: peer.prefix.min(128), kind, key_len, key: bytes, ..FREE }
}

/// A row that is in use for nothing.
pub(super) const FREE: KeyRow = KeyRow {
    peer: IpAddress::ANY,
    owner: 0,
    next: Idx::NONE,
    prefix: 0,
    kind: 0,
    key_len: 0,
    flags: 0,
    send_id: 0,
    recv_id: 0,
    mac_len: 0,
    room: 0,
    key: [0; KEY_BYTES],
    good: 0,
    bad: 0,
};

/// Takes the keys of `owner` that `goes` names out, and leaves nothing of them in their rows. Gives their number.
pub(super) fn take_out(mem: &mut LaneMem<'_>, owner: Owner, goes: impl Fn(&KeyRow) -> bool) -> u32 {
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
        *row = KeyRow { next: core::mem::replace(&mut mem.globals.keys.free, at), ..FREE };
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

/// How many keys of `listener` a connection from `peer` inherits whose SYN is signed as `sign` says.
pub(super) fn heritage(mem: &LaneMem<'_>, listener: Owner, peer: IpAddress, sign: Sign) -> u32 {
    match sign {
        Sign::None | Sign::Bad => 0,
        Sign::Md5 => u32::from(find(mem, listener, peer, |row| row.kind == MD5).is_some()),
        Sign::Ao { .. } => {
            let fits = |at: &Idx<KeyRow>| {
                mem.keys
                    .get(*at)
                    .is_some_and(|row| row.kind == AO_SOCKET || is_ao(row.kind) && peer_of(row).covers(peer))
            };
            if mem.globals.keys.used == 0 { 0 } else { all(mem, listener).filter(fits).count() as u32 }
        }
    }
}

/// Connection `to`, whose SYN was signed as `sign` says, gets the keys of `listener` that are for its peer; there is room for them. As in Linux an
/// MD5 key is one for that peer alone then, and of TCP-AO's the SYN says which are in use.
#[cold]
pub(super) fn inherit(mem: &mut LaneMem<'_>, now: Instant, listener: Owner, to: Idx<TcbHot>, sign: Sign) {
    let Some(peer) = mem.hot.get(to).map(|hot| hot.key.remote) else { return };
    match sign {
        Sign::None | Sign::Bad => return,
        Sign::Md5 => {
            let key =
                find(mem, listener, peer, |row| row.kind == MD5).and_then(|key| mem.keys.get(key)).copied();
            if let Some(row) = key {
                add(mem, Owner::of(to), &KeyRow { peer, prefix: 128, ..row });
            }
        }
        Sign::Ao { key_id, .. } => {
            let answers = find_answering(mem, listener, peer, sign);
            let mut next = mem.globals.keys.buckets.get(listener.bucket()).copied().unwrap_or(Idx::NONE);
            for _ in 0..mem.keys.len() {
                let (at, Some(row)) = (next, mem.keys.get(next).copied()) else { break };
                next = row.next;
                if row.owner == listener.0 && row.kind == AO_SOCKET {
                    let fresh = KeyRow { flags: row.flags, kind: AO_SOCKET, ..FREE };
                    add(mem, Owner::of(to), &fresh);
                    continue;
                }
                if row.owner != listener.0 || !is_ao(row.kind) || !peer_of(&row).covers(peer) {
                    continue;
                }
                let mut flags = row.flags & PLAIN_OPTIONS;
                flags |= if Some(at) == answers { CURRENT } else { 0 };
                flags |= if row.recv_id == key_id { NEXT } else { 0 };
                add(mem, Owner::of(to), &KeyRow { flags, good: 0, bad: 0, ..row });
            }
        }
    }
    settle(mem, now, to);
}

/// The keys of connection `old` of `from` become those of `new` of `to`, which has room for them.
#[cold]
pub(super) fn hand_on(
    (from, old): (&mut LaneMem<'_>, Idx<TcbHot>),
    (to, new): (&mut LaneMem<'_>, Idx<TcbHot>),
) {
    for at in all(from, Owner::of(old)) {
        if let Some(row) = from.keys.get(at) {
            add(to, Owner::of(new), row);
        }
    }
    forget(from, Owner::of(old));
}

/// The owner that `s` names, and its row if it is a connection.
pub(super) fn owner_named(
    mem: &mut LaneMem<'_>,
    now: Instant,
    s: SockRef,
) -> Result<(Owner, Option<Idx<TcbHot>>), KeyError> {
    match s.kind() {
        Some(SockKind::Listener) => {
            let at = listen::lookup(mem, s).ok_or(KeyError::Gone)?;
            Ok((Owner::of_listener(at), None))
        }
        Some(SockKind::Tcp) => {
            let at = handle::awake(mem, now, s).map_err(|_| KeyError::Gone)?;
            Ok((Owner::of(at), Some(at)))
        }
        Some(SockKind::Udp) | None => Err(KeyError::Gone),
    }
}

/// Has `owner` a key that is `wanted`?
pub(super) fn has(mem: &LaneMem<'_>, owner: Owner, wanted: impl Fn(&KeyRow) -> bool) -> bool {
    all(mem, owner).any(|at| mem.keys.get(at).is_some_and(&wanted))
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
    let (owner, at) = owner_named(mem, now, s)?;
    let same = |row: &KeyRow| row.kind == MD5 && peer_of(row) == peer;
    let known = has(mem, owner, same);
    if key.is_empty() {
        if take_out(mem, owner, same) == 0 {
            return Err(KeyError::NoSuchKey);
        }
    } else {
        let required = |row: &KeyRow| row.kind == AO_SOCKET && row.flags & REQUIRED != 0;
        if has(mem, owner, |row| is_ao(row.kind) && meets(row, peer) || required(row)) {
            return Err(KeyError::OtherKind);
        }
        if !known && room(mem) == 0 {
            return Err(KeyError::NoRoom);
        }
        take_out(mem, owner, same);
        if !add(mem, owner, &row_of(peer, MD5, key)) {
            return Err(KeyError::NoRoom);
        }
    }
    if let Some(at) = at {
        settle(mem, now, at);
    }
    Ok(())
}

/// Is `row` for a peer that `peer` is for, too?
pub(super) fn meets(row: &KeyRow, peer: KeyPeer) -> bool {
    peer_of(row).covers(peer.addr) || peer.covers(row.peer)
}

/// The keys of connection `at` have changed: its segments are signed accordingly from now on.
pub(super) fn settle(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>) {
    let Some(peer) = mem.hot.get(at).map(|hot| hot.key.remote) else { return };
    let key = signer(mem, Owner::of(at), peer).and_then(|key| mem.keys.get(key));
    let sign = key.map_or(Sign::None, sign_of);
    if let Some(mut c) = conn(mem, now, at) {
        c.sign_with(sign);
    }
}

impl Conn<'_, '_> {
    /// How its segments are signed; which keys TCP-AO uses is filled in when they are.
    #[inline]
    pub(super) fn sign(&self) -> Sign {
        match self.cold.ooo.sign {
            0 => Sign::None,
            MD5 => Sign::Md5,
            ao => Sign::Ao { key_id: 0, next_key_id: 0, mac_len: ao & !SIGN_AO },
        }
    }

    /// Its segments are signed so from now on.
    #[cold]
    fn sign_with(&mut self, sign: Sign) {
        let before = self.sign().len_bytes() as u16;
        self.cold.ooo.sign = match sign {
            Sign::None | Sign::Bad => 0,
            Sign::Md5 => MD5,
            Sign::Ao { mac_len, .. } => SIGN_AO | mac_len,
        };
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
