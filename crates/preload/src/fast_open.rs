//! TCP Fast Open (tcp(7)): listeners, TCP_FASTOPEN_CONNECT and MSG_FASTOPEN.
//!
//! Number, keys and checks are those of the kernel socket beside a listener. So lanes and kernel take one another's cookies, but where the key
//! is the namespace's and the program is not root's: then the lanes of a region have one of their own.

use engine::Engine;
use sys::fast_open::KEY_BYTES;

use crate::errno::{Errno, Outcome, of_send};
use crate::object::Handle;
use crate::sock::{Seat, Sock, flag};
use crate::sysctl::text_of;
use crate::user::Parts;
use crate::view::Visit;
use crate::{connect, home, stream};

/// Where the kernel says what is done of fast open in this network namespace.
const SYSCTL: &str = "/proc/sys/net/ipv4/tcp_fastopen";
/// Where root reads the keys of listeners that have none of their own.
const SYSCTL_KEY: &str = "/proc/sys/net/ipv4/tcp_fastopen_key";
/// The kernel's usual answer: as a client.
const USUAL: u16 = 1;
/// Its bit for clients.
const CLIENT: u16 = 1;
/// Bytes that go with a SYN, at most: what any MTU lets through.
const FIRST_BYTES_MAX: usize = u16::MAX as usize;

/// net.ipv4.tcp_fastopen.
fn ways() -> u16 {
    text_of(SYSCTL, &mut [0; 16]).and_then(|text| text.parse().ok()).unwrap_or(USUAL)
}

/// The keys of the network namespace, as the kernel writes them, or none: they are for root to read.
fn namespace_keys() -> Vec<[u8; KEY_BYTES]> {
    let mut room = [0; 128];
    let keys = text_of(SYSCTL_KEY, &mut room).unwrap_or("").split(',').map_while(key_of);
    keys.filter(|key| *key != [0; KEY_BYTES]).take(2).collect()
}

/// A key of four words in hexadecimal digits.
fn key_of(text: &str) -> Option<[u8; KEY_BYTES]> {
    let mut key = [0; KEY_BYTES];
    let mut words = text.split('-');
    for to in key.as_chunks_mut::<4>().0 {
        *to = u32::from_str_radix(words.next()?, 16).ok()?.to_le_bytes();
    }
    Some(key).filter(|_| words.next().is_none())
}

/// Tells a new lane what is done of fast open.
pub(crate) fn begin(engine: &mut Engine<'_>) {
    engine.set_fast_open(ways());
}

/// Gives the lane's listener at `seat` what the kernel's, `fd`, has.
pub(crate) fn at_listener(seat: Seat, fd: i32) {
    let kernel = home::borrow(&fd);
    let max = sys::fast_open::max(&kernel).unwrap_or(0);
    if max == 0 {
        // Then nobody has a cookie of it.
        seat.view.enter(|session| session.engine(|engine| engine.tcp_set_fast_open(seat.name, 0, &[])));
        return;
    }
    let (own, count) = sys::fast_open::keys(&kernel).unwrap_or_default();
    let keys = if count > 0 { own.into_iter().take(count).collect() } else { namespace_keys() };
    seat.view.enter(|session| session.engine(|engine| engine.tcp_set_fast_open(seat.name, max, &keys)));
}

/// What the kernel answers to a change of option `name` of an open connection.
pub(crate) fn refusal(name: i32, value: &[u8]) -> Option<Errno> {
    let number = value.first_chunk::<4>().map(|bytes| i32::from_ne_bytes(*bytes));
    match name {
        libc::TCP_FASTOPEN | libc::TCP_FASTOPEN_NO_COOKIE => Some(Errno(libc::EINVAL)),
        libc::TCP_FASTOPEN_CONNECT if matches!(number, Some(0 | 1)) && ways() & CLIENT == 0 => {
            Some(Errno(libc::EOPNOTSUPP))
        }
        libc::TCP_FASTOPEN_CONNECT => Some(Errno(libc::EINVAL)),
        libc::TCP_FASTOPEN_KEY if value.len() != 16 && value.len() != 32 => Some(Errno(libc::EINVAL)),
        _ => None,
    }
}

/// A write to a connection of which [`flag::FAST_FIRST`] says that its SYN waits for it; or one with MSG_FASTOPEN to any other.
pub(crate) fn send(sock: &Handle<Sock>, seat: Seat, parts: &Parts<'_>, flags: i32) -> Outcome<usize> {
    let nonblocking = stream::is_nonblocking(sock, flags);
    let rest = flags & !libc::MSG_FASTOPEN;
    if !sock.has(flag::FAST_FIRST) {
        if !sock.has(flag::CONNECTING) {
            return Err(Errno(libc::EISCONN));
        }
        connect::again(sock, seat)?;
        return stream::send(sock, seat, parts, rest);
    }
    sock.put(flag::FAST_FIRST, false);
    let mut first = Vec::new();
    for part in parts.sources(0) {
        let room = FIRST_BYTES_MAX - first.len();
        first.extend_from_slice(part.get(..part.len().min(room)).unwrap_or(&[]));
    }
    let put = |engine: &mut Engine<'_>| engine.tcp_send(seat.name, &first, false).map_err(of_send);
    let done = match stream::look(seat, Visit::putting(sock), put, false) {
        Ok(n) => n,
        Err(Errno(libc::EAGAIN)) => 0,
        Err(errno) => return Err(errno),
    };
    sock.put(flag::CONNECTING, true);
    if nonblocking {
        return if done == 0 && !first.is_empty() { Err(Errno(libc::EINPROGRESS)) } else { Ok(done) };
    }
    match connect::finish(sock, seat) {
        Ok(()) if done < parts.bytes() => stream::send_from(sock, seat, parts, rest, done),
        Ok(()) => Ok(done),
        // SO_SNDTIMEO ran out: what is in the SYN was sent.
        Err(Errno(libc::EINPROGRESS)) if done > 0 => Ok(done),
        Err(errno) => Err(errno),
    }
}

/// A call with MSG_FASTOPEN whose socket has just begun to connect: the first write, if the SYN waits for it, else one after the handshake.
pub(crate) fn send_first(sock: &Handle<Sock>, seat: Seat, parts: &Parts<'_>, flags: i32) -> Outcome<usize> {
    if sock.has(flag::FAST_FIRST) {
        return send(sock, seat, parts, flags);
    }
    if stream::is_nonblocking(sock, flags) {
        sock.put(flag::CONNECTING, true);
        return Err(Errno(libc::EINPROGRESS));
    }
    connect::finish(sock, seat)?;
    stream::send(sock, seat, parts, flags & !libc::MSG_FASTOPEN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_four_words_of_hexadecimal_digits() {
        let key = [1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0xef, 0xbe, 0xad, 0xde];
        assert_eq!(key_of("00000001-00000002-00000003-deadbeef"), Some(key));
        for wrong in ["", "1-2-3", "1-2-3-4-5", "1-2-3-x", "1-2-3-100000000"] {
            assert_eq!(key_of(wrong), None, "{wrong}");
        }
    }
}
