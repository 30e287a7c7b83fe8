//! What a socket that uses TCP-AO is told and counts beside its keys (Linux's TCP_AO_INFO): a row of its own in the table of keys, made with the first
//! of them, which connections inherit like these.

use ::state::{KeyRow, LaneMem, SockRef, TcbHot};
use base::{Idx, Instant};

use super::keys::{
    self, AES_CMAC, AO_SOCKET, AoAlgorithm, CURRENT, FREE, HEARS_ICMP, MD5, NEXT, Owner, PLAIN_OPTIONS,
    REQUIRED, has, is_ao, owner_named, peer_of,
};
use super::{listen, lookup};
use crate::errors::KeyError;
use crate::types::{AoCounters, AoKey, AoKeyState, AoSocket};
use ::state::SockKind;

/// What of a socket's counters is not in [`KeyRow::good`] and [`KeyRow::bad`], and where in [`KeyRow::key`].
#[derive(Clone, Copy)]
pub(super) enum Count {
    NoKey = 0,
    Unsigned = 8,
    Icmp = 16,
}

/// What was found out of a segment that came.
#[derive(Clone, Copy)]
pub(super) enum Found {
    /// It is signed rightly with this key.
    Good(Idx<KeyRow>),
    /// It names this key and is signed wrongly.
    Bad(Idx<KeyRow>),
    /// Something else is to be counted.
    Other(Count),
}

/// The row of `owner`, if it uses TCP-AO.
pub(super) fn row(mem: &LaneMem<'_>, owner: Owner) -> Option<Idx<KeyRow>> {
    if mem.globals.keys.used == 0 {
        return None;
    }
    keys::all(mem, owner).find(|at| mem.keys.get(*at).is_some_and(|row| row.kind == AO_SOCKET))
}

/// Makes the row of `owner` if there is none. False: there is no room.
pub(super) fn begin(mem: &mut LaneMem<'_>, owner: Owner) -> bool {
    row(mem, owner).is_some() || keys::add(mem, owner, &KeyRow { kind: AO_SOCKET, ..FREE })
}

fn flags(mem: &LaneMem<'_>, owner: Owner) -> u8 {
    row(mem, owner).and_then(|at| mem.keys.get(at)).map_or(0, |row| row.flags)
}

/// Does `owner` take nothing that is not signed by TCP-AO?
pub(super) fn is_required(mem: &LaneMem<'_>, owner: Owner) -> bool {
    flags(mem, owner) & REQUIRED != 0
}

/// Does connection `at` hear ICMP errors although it is signed?
#[cold]
pub(super) fn hears_icmp(mem: &LaneMem<'_>, at: Idx<TcbHot>) -> bool {
    flags(mem, Owner::of(at)) & HEARS_ICMP != 0
}

/// Counts what was `found` for `owner`.
#[cold]
pub(super) fn count(mem: &mut LaneMem<'_>, owner: Owner, found: Found) {
    let of = row(mem, owner);
    let (key, good) = match found {
        Found::Good(key) => (Some(key), true),
        Found::Bad(key) => (Some(key), false),
        Found::Other(what) => {
            if let Some(row) = of.and_then(|at| mem.keys.get_mut(at)) {
                let was = load(row, what);
                store(row, what, was.wrapping_add(1));
            }
            return;
        }
    };
    for at in [of, key].into_iter().flatten() {
        if let Some(row) = mem.keys.get_mut(at) {
            let counter = if good { &mut row.good } else { &mut row.bad };
            *counter = counter.wrapping_add(1);
        }
    }
}

fn load(row: &KeyRow, what: Count) -> u64 {
    let bytes = row.key.get(what as usize..).and_then(|bytes| bytes.first_chunk::<8>());
    bytes.map_or(0, |bytes| u64::from_ne_bytes(*bytes))
}

fn store(row: &mut KeyRow, what: Count, value: u64) {
    if let Some(place) = row.key.get_mut(what as usize..what as usize + 8) {
        place.copy_from_slice(&value.to_ne_bytes());
    }
}

/// The owner that `s` names.
fn owner_of(mem: &LaneMem<'_>, s: SockRef) -> Option<Owner> {
    match s.kind()? {
        SockKind::Listener => listen::lookup(mem, s).map(Owner::of_listener),
        SockKind::Tcp => lookup(mem, s).map(Owner::of),
        SockKind::Udp => None,
    }
}

/// [`Engine::tcp_ao`](crate::Engine::tcp_ao).
pub(crate) fn get(mem: &LaneMem<'_>, s: SockRef) -> Option<AoSocket> {
    let owner = owner_of(mem, s)?;
    let row = mem.keys.get(row(mem, owner)?)?;
    let of = |flag: u8| keys::all(mem, owner).filter_map(|at| mem.keys.get(at)).find(|k| k.flags & flag != 0);
    Some(AoSocket {
        required: row.flags & REQUIRED != 0,
        hears_icmp: row.flags & HEARS_ICMP != 0,
        current: of(CURRENT).map(|key| key.send_id),
        next: of(NEXT).map(|key| key.recv_id),
        counters: AoCounters {
            good: row.good,
            bad: row.bad,
            no_key: load(row, Count::NoKey),
            unsigned: load(row, Count::Unsigned),
            icmp: load(row, Count::Icmp),
        },
    })
}

/// [`Engine::tcp_set_ao`](crate::Engine::tcp_set_ao).
pub(crate) fn set(
    mem: &mut LaneMem<'_>,
    now: Instant,
    s: SockRef,
    (required, hears_icmp): (bool, bool),
    counters: Option<AoCounters>,
) -> Result<(), KeyError> {
    let (owner, at) = owner_named(mem, now, s)?;
    if row(mem, owner).is_none() && at.is_some() {
        return Err(KeyError::Invalid);
    }
    if required && has(mem, owner, |row| row.kind == MD5) {
        return Err(KeyError::OtherKind);
    }
    if !begin(mem, owner) {
        return Err(KeyError::NoRoom);
    }
    if let Some(row) = row(mem, owner).and_then(|at| mem.keys.get_mut(at)) {
        row.flags = if required { REQUIRED } else { 0 } | if hears_icmp { HEARS_ICMP } else { 0 };
        if let Some(new) = counters {
            (row.good, row.bad) = (new.good, new.bad);
            store(row, Count::NoKey, new.no_key);
            store(row, Count::Unsigned, new.unsigned);
            store(row, Count::Icmp, new.icmp);
        }
    }
    Ok(())
}

/// [`Engine::tcp_each_ao_key`](crate::Engine::tcp_each_ao_key).
pub(crate) fn each_key(mem: &LaneMem<'_>, s: SockRef, mut take: impl FnMut(&AoKeyState<'_>)) {
    let Some(owner) = owner_of(mem, s) else { return };
    for at in keys::all(mem, owner) {
        let Some(row) = mem.keys.get(at).filter(|row| is_ao(row.kind)) else { continue };
        let key = AoKey {
            peer: peer_of(row),
            send_id: row.send_id,
            recv_id: row.recv_id,
            algorithm: if row.kind == AES_CMAC { AoAlgorithm::AesCmac } else { AoAlgorithm::HmacSha1 },
            mac_len: row.mac_len,
            covers_options: row.flags & PLAIN_OPTIONS == 0,
            key: keys::bytes(row),
        };
        let (is_current, is_next) = (row.flags & CURRENT != 0, row.flags & NEXT != 0);
        take(&AoKeyState { key, is_current, is_next, good: row.good, bad: row.bad });
    }
}
