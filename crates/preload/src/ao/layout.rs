//! The structures of linux/tcp.h for TCP-AO, with the kernel's checks of them: one that is too short is EINVAL, and bytes behind it that are not zero
//! are E2BIG.

use core::ffi::c_int;
use std::net::{Ipv4Addr, Ipv6Addr};

use base::IpAddress;
use engine::{AoAlgorithm, AoCounters, AoKeyState, AoSocket, KeyPeer};
use libc::{AF_INET, AF_INET6};
use state::KEY_BYTES;

use super::{ADD, DEL, INFO, Key};
use crate::errno::{Errno, Outcome};

const INVALID: Errno = Errno(libc::EINVAL);
/// Bytes of `struct tcp_ao_add`, `tcp_ao_del`, `tcp_ao_info_opt` and `tcp_ao_getsockopt`.
const ADD_BYTES: usize = 288;
const DEL_BYTES: usize = 144;
pub(super) const INFO_BYTES: usize = 48;
pub(super) const GET_BYTES: usize = 304;
/// Where `tcp_ao_getsockopt` has the number of keys.
pub(super) const COUNT_AT: usize = 272;
/// Bytes of an address in all of them.
const ADDRESS_BYTES: usize = 128;
/// TCP_AO_KEYF_IFINDEX.
const OF_DEVICE: u8 = 1;
/// TCP_AO_KEYF_EXCLUDE_OPT.
const PLAIN_OPTIONS: u8 = 2;
/// Longest signature that has room in a SYN beside what Linux puts there.
const MAC_MOST: u8 = 16;
/// Bytes of a signature if the program does not say (RFC 5926 3.2).
const MAC_USUAL: u8 = 12;
/// The shortest one that a lane makes.
const MAC_LEAST: u8 = 4;

/// What a program wants.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Command {
    Add {
        key: Key,
        current: bool,
        next: bool,
    },
    Remove {
        which: Which,
        current: Option<u8>,
        next: Option<u8>,
        at_listener: bool,
    },
    Tell {
        current: Option<u8>,
        next: Option<u8>,
        required: bool,
        hears_icmp: bool,
        counters: Option<AoCounters>,
    },
}

impl Command {
    /// Does it choose keys that are to be used?
    pub(super) const fn chooses(&self) -> bool {
        match self {
            Self::Add { current, next, .. } => *current || *next,
            Self::Remove { current, next, .. } | Self::Tell { current, next, .. } => {
                current.is_some() || next.is_some()
            }
        }
    }
}

/// What names one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Which {
    pub(super) peer: KeyPeer,
    pub(super) send_id: u8,
    pub(super) recv_id: u8,
}

/// Why there is no [`Command`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refusal {
    /// The kernel says so, too.
    Wrong(Errno),
    /// The kernel may have it, and a lane has not.
    Foreign(Errno),
}

impl From<Errno> for Refusal {
    fn from(errno: Errno) -> Self {
        Self::Wrong(errno)
    }
}

/// The `N` bytes of a structure in `value`, whatever came after it being zero.
fn whole<const N: usize>(value: &[u8]) -> Outcome<&[u8; N]> {
    let (head, rest) = value.split_first_chunk::<N>().ok_or(INVALID)?;
    if rest.iter().all(|byte| *byte == 0) { Ok(head) } else { Err(Errno(libc::E2BIG)) }
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).copied().unwrap_or([0; N])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(number(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_ne_bytes(number(bytes, at))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_ne_bytes(number(bytes, at))
}

fn byte(bytes: &[u8], at: usize) -> u8 {
    bytes.get(at).copied().unwrap_or(0)
}

/// Family and address at the beginning of `bytes`; a port is EINVAL.
fn address(bytes: &[u8]) -> Outcome<(c_int, IpAddress)> {
    let family = c_int::from(u16_at(bytes, 0));
    let addr = match family {
        AF_INET => IpAddress::mapped(Ipv4Addr::from_octets(number(bytes, 4))),
        AF_INET6 => IpAddress::from_v6(Ipv6Addr::from_octets(number(bytes, 8))),
        _ => return Err(INVALID),
    };
    if u16_at(bytes, 2) == 0 { Ok((family, addr)) } else { Err(INVALID) }
}

/// Those whose addresses begin with the first `prefix` bits of `addr`. The rest of it has to be zero, and without a prefix all of it.
fn peers(addr: IpAddress, family: c_int, prefix: u8) -> Outcome<KeyPeer> {
    let bits = if addr.is_v4() { 32 } else { 128 };
    if prefix > bits {
        return Err(INVALID);
    }
    let any = if family == AF_INET { IpAddress::ANY_V4 } else { IpAddress::ANY };
    let none = addr == any || addr == IpAddress::ANY_V4;
    if none != (prefix == 0) || (prefix == 0 && addr != any) {
        return Err(INVALID);
    }
    let prefix = prefix + 128 - bits;
    let rest = u128::from_be_bytes(addr.0).checked_shl(prefix.into()).unwrap_or(0);
    if rest == 0 { Ok(KeyPeer { addr, prefix }) } else { Err(INVALID) }
}

/// Which devices a key is for: `flags` and `device` as they stand there.
fn devices(flags: u8, device: u32, known: u8) -> Outcome<bool> {
    if flags & !known != 0 || (device != 0 && flags & OF_DEVICE == 0) {
        return Err(INVALID);
    }
    Ok(flags & OF_DEVICE != 0)
}

/// What the program gave to option `name`.
pub(super) fn parse(v6: bool, name: c_int, value: &[u8]) -> Result<Command, Refusal> {
    match name {
        ADD => add(v6, value),
        DEL => remove(v6, value),
        INFO => tell(value),
        _ => Err(Refusal::Wrong(Errno(libc::ENOPROTOOPT))),
    }
}

fn of_family(v6: bool, bytes: &[u8]) -> Outcome<(c_int, IpAddress)> {
    let (family, addr) = address(bytes)?;
    if (family == AF_INET6) == v6 { Ok((family, addr)) } else { Err(INVALID) }
}

fn add(v6: bool, value: &[u8]) -> Result<Command, Refusal> {
    let value = whole::<ADD_BYTES>(value)?;
    let (switches, key_len, flags) = (u32_at(value, 196), usize::from(byte(value, 207)), byte(value, 206));
    if key_len > KEY_BYTES || switches & !3 != 0 || u16_at(value, 200) != 0 {
        return Err(INVALID.into());
    }
    let (family, addr) = of_family(v6, value)?;
    let peer = peers(addr, family, byte(value, 202))?;
    if devices(flags, u32_at(value, 192), OF_DEVICE | PLAIN_OPTIONS)? {
        return Err(Refusal::Foreign(INVALID));
    }
    let name = value.get(ADDRESS_BYTES..192).unwrap_or(&[]);
    let name = name.split(|byte| *byte == 0).next().unwrap_or(&[]);
    let algorithm = match name {
        b"hmac(sha1)" => AoAlgorithm::HmacSha1,
        b"cmac(aes128)" => AoAlgorithm::AesCmac,
        _ => return Err(Refusal::Foreign(Errno(libc::ENOENT))),
    };
    let mac_len = match byte(value, 205) {
        0 => MAC_USUAL,
        MAC_LEAST..=MAC_MOST => byte(value, 205),
        1..MAC_LEAST => return Err(Refusal::Foreign(INVALID)),
        _ => return Err(Errno(libc::EMSGSIZE).into()),
    };
    let key = Key {
        which: Which { peer, send_id: byte(value, 203), recv_id: byte(value, 204) },
        algorithm,
        mac_len,
        covers_options: flags & PLAIN_OPTIONS == 0,
        bytes: algorithm.master(value.get(208..208 + key_len).unwrap_or(&[]), &mut [0; 16]).to_vec(),
    };
    Ok(Command::Add { key, current: switches & 1 != 0, next: switches & 2 != 0 })
}

/// The numbers of keys to be used, as `switches` say that they are given.
const fn chosen(switches: u32, current: u8, next: u8) -> (Option<u8>, Option<u8>) {
    let current = if switches & 1 != 0 { Some(current) } else { None };
    (current, if switches & 2 != 0 { Some(next) } else { None })
}

fn remove(v6: bool, value: &[u8]) -> Result<Command, Refusal> {
    let value = whole::<DEL_BYTES>(value)?;
    let switches = u32_at(value, 132);
    if switches & !7 != 0 || u16_at(value, 136) != 0 {
        return Err(INVALID.into());
    }
    if devices(byte(value, 143), u32_at(value, 128), OF_DEVICE)? {
        return Err(Refusal::Foreign(Errno(libc::ENOENT)));
    }
    let (_, addr) = of_family(v6, value)?;
    let bits = if addr.is_v4() { 32 } else { 128 };
    let prefix = byte(value, 138);
    if prefix > bits {
        return Err(Errno(libc::ENOENT).into());
    }
    let peer = KeyPeer { addr, prefix: prefix + 128 - bits };
    let which = Which { peer, send_id: byte(value, 139), recv_id: byte(value, 140) };
    let (current, next) = chosen(switches, byte(value, 141), byte(value, 142));
    Ok(Command::Remove { which, current, next, at_listener: switches & 4 != 0 })
}

fn tell(value: &[u8]) -> Result<Command, Refusal> {
    let value = whole::<INFO_BYTES>(value)?;
    let switches = u32_at(value, 0);
    if switches & !31 != 0 || u16_at(value, 4) != 0 {
        return Err(INVALID.into());
    }
    let (current, next) = chosen(switches, byte(value, 6), byte(value, 7));
    let counters = AoCounters {
        good: u64_at(value, 8),
        bad: u64_at(value, 16),
        no_key: u64_at(value, 24),
        unsigned: u64_at(value, 32),
        icmp: u64_at(value, 40),
    };
    let counters = (switches & 8 != 0).then_some(counters);
    Ok(Command::Tell { current, next, required: switches & 4 != 0, hears_icmp: switches & 16 != 0, counters })
}

/// Is what the program put into the place of a `tcp_ao_info_opt`, which may be shorter or longer, as the kernel wants it?
pub(super) fn check_info(given: &[u8]) -> Outcome<()> {
    let (head, rest) = given.split_at(given.len().min(INFO_BYTES));
    if rest.iter().any(|byte| *byte != 0) {
        return Err(Errno(libc::E2BIG));
    }
    if given.is_empty() || u32_at(&padded(head), 0) & !31 != 0 || u16_at(&padded(head), 4) != 0 {
        return Err(INVALID);
    }
    Ok(())
}

fn padded(given: &[u8]) -> [u8; GET_BYTES] {
    let mut bytes = [0; GET_BYTES];
    bytes.iter_mut().zip(given).for_each(|(to, from)| *to = *from);
    bytes
}

/// `tcp_ao_info_opt` of a socket.
pub(super) fn info(of: &AoSocket) -> [u8; INFO_BYTES] {
    let mut bytes = [0; INFO_BYTES];
    let switch = |on: bool, bit: u32| if on { bit } else { 0 };
    let switches = switch(of.current.is_some(), 1)
        | switch(of.next.is_some(), 2)
        | switch(of.required, 4)
        | switch(of.hears_icmp, 16);
    let AoCounters { good, bad, no_key, unsigned, icmp } = of.counters;
    put(&mut bytes, 0, &switches.to_ne_bytes());
    put(&mut bytes, 6, &[of.current.unwrap_or(0), of.next.unwrap_or(0)]);
    for (n, counter) in [good, bad, no_key, unsigned, icmp].into_iter().enumerate() {
        put(&mut bytes, 8 + n * 8, &counter.to_ne_bytes());
    }
    bytes
}

fn put(to: &mut [u8], at: usize, bytes: &[u8]) {
    to.iter_mut().skip(at).zip(bytes).for_each(|(to, from)| *to = *from);
}

/// The keys that a program asks for, of how many it has room for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Select {
    wanted: Wanted,
    /// Structures that there is room for.
    pub(super) room: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wanted {
    All,
    InUse { current: bool, next: bool },
    These(Which),
}

impl Select {
    /// What the first `tcp_ao_getsockopt` says, of which `given` are the bytes that the program has.
    pub(super) fn parse(given: &[u8]) -> Outcome<Self> {
        if given.iter().skip(GET_BYTES).any(|byte| *byte != 0) {
            return Err(Errno(libc::E2BIG));
        }
        let value = padded(given);
        let (switches, prefix) = (u16_at(&value, 276), byte(&value, 280));
        if u64_at(&value, 288) != 0 || u64_at(&value, 296) != 0 || switches & !7 != 0 {
            return Err(INVALID);
        }
        let of_device = devices(byte(&value, 282), u32_at(&value, 284), OF_DEVICE)?;
        let (current, next, all) = (switches & 1 != 0, switches & 2 != 0, switches & 4 != 0);
        if all && (current || next) {
            return Err(INVALID);
        }
        let room = u32_at(&value, COUNT_AT) as usize;
        let (send_id, recv_id) = (byte(&value, 278), byte(&value, 279));
        let family = c_int::from(u16_at(&value, 0));
        if !matches!(family, AF_INET | AF_INET6) && !(family == 0 && (all || current || next)) {
            return Err(Errno(libc::EAFNOSUPPORT));
        }
        if all || current || next {
            let plain = family == 0 && prefix == 0 && send_id == 0 && recv_id == 0;
            let wanted = if all { Wanted::All } else { Wanted::InUse { current, next } };
            return if plain { Ok(Self { wanted, room }) } else { Err(INVALID) };
        }
        let (family, addr) = address(&value)?;
        let peer = peers(addr, family, prefix)?;
        // No lane has a key for one device.
        let room = if of_device && u32_at(&value, 284) != 0 { 0 } else { room };
        Ok(Self { wanted: Wanted::These(Which { peer, send_id, recv_id }), room })
    }

    /// Is `key` among them?
    pub(super) fn takes(&self, key: &AoKeyState<'_>) -> bool {
        match self.wanted {
            Wanted::All => true,
            Wanted::InUse { current, next } => (current && key.is_current) || (next && key.is_next),
            Wanted::These(which) => {
                let same = (key.key.send_id, key.key.recv_id) == (which.send_id, which.recv_id);
                let apart = u128::from_be_bytes(key.key.peer.addr.0) ^ u128::from_be_bytes(which.peer.addr.0);
                let alike = apart.checked_shr(128 - u32::from(which.peer.prefix)).unwrap_or(0) == 0;
                let any = |peer: KeyPeer| peer.prefix == 0 || peer.addr == IpAddress::ANY_V4;
                let family = key.key.peer.addr.is_v4() == which.peer.addr.is_v4();
                same && family && (alike || any(key.key.peer) || any(which.peer))
            }
        }
    }
}

/// `tcp_ao_getsockopt` of one key.
pub(super) fn key(of: &AoKeyState<'_>) -> [u8; GET_BYTES] {
    let mut bytes = [0; GET_BYTES];
    let (family, bits) = if of.key.peer.addr.is_v4() { (AF_INET, 96) } else { (AF_INET6, 0) };
    put(&mut bytes, 0, &(family as u16).to_ne_bytes());
    match of.key.peer.addr.as_v4() {
        Some(v4) => put(&mut bytes, 4, &v4.octets()),
        None => put(&mut bytes, 8, &of.key.peer.addr.0),
    }
    let name: &[u8] = match of.key.algorithm {
        AoAlgorithm::HmacSha1 => b"hmac(sha1)",
        AoAlgorithm::AesCmac => b"cmac(aes)",
    };
    put(&mut bytes, ADDRESS_BYTES, name);
    put(&mut bytes, 192, of.key.key);
    let switches = u16::from(of.is_current) | u16::from(of.is_next) << 1;
    put(&mut bytes, 276, &switches.to_ne_bytes());
    let flags = if of.key.covers_options { 0 } else { PLAIN_OPTIONS };
    let prefix = of.key.peer.prefix.saturating_sub(bits);
    let numbers = [of.key.send_id, of.key.recv_id, prefix, of.key.mac_len, flags, of.key.key.len() as u8];
    put(&mut bytes, 278, &numbers);
    put(&mut bytes, 288, &of.good.to_ne_bytes());
    put(&mut bytes, 296, &of.bad.to_ne_bytes());
    bytes
}

#[cfg(test)]
#[allow(clippy::panic, reason = "tests stop at what they do not expect")]
mod tests {
    use super::*;

    fn adding(family: c_int, addr: &[u8], prefix: u8) -> Vec<u8> {
        let mut value = vec![0; ADD_BYTES];
        put(&mut value, 0, &(family as u16).to_ne_bytes());
        put(&mut value, if family == AF_INET { 4 } else { 8 }, addr);
        put(&mut value, ADDRESS_BYTES, b"hmac(sha1)");
        put(&mut value, 202, &[prefix, 1, 2, 0, PLAIN_OPTIONS, 3]);
        put(&mut value, 208, b"key");
        value
    }

    #[test]
    fn a_key_is_read_and_told_again() {
        let Ok(Command::Add { key: read, current: false, next: false }) =
            parse(false, ADD, &adding(AF_INET, &[10, 1, 0, 0], 16))
        else {
            panic!("no key")
        };
        assert_eq!((read.which.peer.prefix, read.mac_len, read.covers_options), (112, 12, false));
        let told =
            key(&AoKeyState { key: read.for_engine(), is_current: true, is_next: false, good: 7, bad: 8 });
        assert_eq!(told[..8], adding(AF_INET, &[10, 1, 0, 0], 16)[..8]);
        assert_eq!(told[192..195], *b"key");
        assert_eq!(told[276..284], [1, 0, 1, 2, 16, 12, PLAIN_OPTIONS, 3]);
        assert_eq!((told[288], told[296]), (7, 8));
        // An IPv4 address in an IPv6 socket is one of IPv4.
        let mapped = IpAddress::mapped(Ipv4Addr::new(10, 1, 2, 3));
        let wide = parse(true, ADD, &adding(AF_INET6, &mapped.0, 32));
        assert!(matches!(wide, Ok(Command::Add { key, .. }) if key.which.peer.prefix == 128));
    }

    #[test]
    fn addresses_fit_their_prefixes() {
        let wrong = Err(Refusal::Wrong(INVALID));
        for (v6, family, addr, prefix) in [
            (false, AF_INET, &[10, 1, 0, 0][..], 8),
            (false, AF_INET, &[10, 0, 0, 0], 0),
            (false, AF_INET, &[0, 0, 0, 0], 8),
            (false, AF_INET, &[10, 0, 0, 0], 33),
            (false, AF_INET6, &[1; 16], 128),
            (true, AF_INET6, &[0; 16], 1),
            (true, AF_INET6, &[1; 16], 129),
        ] {
            assert_eq!(parse(v6, ADD, &adding(family, addr, prefix)), wrong, "{addr:?}/{prefix}");
        }
        for (v6, family, addr) in [(false, AF_INET, &[0; 4][..]), (true, AF_INET6, &[0; 16])] {
            let all = parse(v6, ADD, &adding(family, addr, 0));
            let prefix = if v6 { 0 } else { 96 };
            assert!(matches!(all, Ok(Command::Add { key, .. }) if key.which.peer.prefix == prefix));
        }
    }

    #[test]
    fn what_a_lane_has_not_is_the_kernels() {
        let mut value = adding(AF_INET, &[10, 0, 0, 1], 32);
        put(&mut value, ADDRESS_BYTES, b"hmac(sha256)");
        assert_eq!(parse(false, ADD, &value), Err(Refusal::Foreign(Errno(libc::ENOENT))));
        let mut value = adding(AF_INET, &[10, 0, 0, 1], 32);
        put(&mut value, 205, &[3]);
        assert_eq!(parse(false, ADD, &value), Err(Refusal::Foreign(INVALID)));
        put(&mut value, 205, &[17, OF_DEVICE]);
        assert_eq!(parse(false, ADD, &value), Err(Refusal::Foreign(INVALID)));
    }
}
