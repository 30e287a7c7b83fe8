//! `getsockopt` and `setsockopt`.
//!
//! Before a socket is a lane's, the kernel socket takes (and checks) every option, and those a lane knows are kept
//! beside it; a listener's go to the connections it makes. A lane's connection answers from the engine.

use core::ffi::{c_int, c_void};

use base::Duration;
use engine::Algorithm;
use libc::{linger, socklen_t, timeval};
use state::TcpOptions;

use super::harmless::is_harmless;
use crate::errno::{self, Errno, Outcome};
use crate::interpose::plain;
use crate::object::Handle;
use crate::sock::{Seat, Sock, State, flag};
use crate::{ao, deferred, entrust, fast_open, info, keys, stream, sysctl, table, user};

pub(super) const TCP: c_int = libc::IPPROTO_TCP;
pub(super) const SOCKET: c_int = libc::SOL_SOCKET;
pub(super) const IP: c_int = libc::IPPROTO_IP;
pub(super) const IPV6: c_int = libc::IPPROTO_IPV6;

/// What became of an option.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Set {
    /// A lane's connection has it now.
    Done,
    /// The same, and its value is to be remembered as it was given.
    Noted,
    /// It changes nothing for a lane's connection.
    Harmless,
    /// A lane does not have it.
    Unknown,
}

/// The value of an option as the program gave it.
struct Value<'a> {
    bytes: &'a [u8],
}

impl Value<'_> {
    fn int(&self) -> Outcome<c_int> {
        let bytes = self.bytes.first_chunk::<4>().ok_or(Errno(libc::EINVAL))?;
        Ok(c_int::from_ne_bytes(*bytes))
    }

    fn number(&self) -> Outcome<u32> {
        u32::try_from(self.int()?).map_err(|_| Errno(libc::EINVAL))
    }

    fn within(&self, least: c_int, most: c_int) -> Outcome<c_int> {
        Some(self.int()?).filter(|n| (least..=most).contains(n)).ok_or(Errno(libc::EINVAL))
    }

    fn on(&self) -> Outcome<u8> {
        Ok(u8::from(self.int()? != 0))
    }

    fn pair(&self) -> Outcome<(i64, i64)> {
        let halves = self.bytes.first_chunk::<16>().ok_or(Errno(libc::EINVAL))?;
        let [a0, a1, a2, a3, a4, a5, a6, a7, b @ ..] = *halves;
        Ok((i64::from_ne_bytes([a0, a1, a2, a3, a4, a5, a6, a7]), i64::from_ne_bytes(b)))
    }

    /// A `timeval` as ns; 0 for none.
    fn time_ns(&self) -> Outcome<u64> {
        let (s, us) = self.pair()?;
        if !(0..1_000_000).contains(&us) {
            return Err(Errno(libc::EDOM));
        }
        let s = u64::try_from(s).unwrap_or(0);
        Ok(Duration::from_secs(s).0.saturating_add(us as u64 * 1_000))
    }

    /// SO_MAX_PACING_RATE: 64 bits, or 32 of which all ones mean no limit.
    fn pacing_rate(&self) -> Outcome<u64> {
        let short = self.int()? as u32;
        let long = self.bytes.first_chunk::<8>().map(|bytes| u64::from_ne_bytes(*bytes));
        Ok(long.unwrap_or(if short == u32::MAX { u64::MAX } else { short.into() }))
    }

    fn linger(&self) -> Outcome<(u8, u16)> {
        let (on, seconds) = self.bytes.split_at_checked(4).ok_or(Errno(libc::EINVAL))?;
        let on = Value { bytes: on }.on()?;
        Ok((on, Value { bytes: seconds }.int()?.clamp(0, i32::from(u16::MAX)) as u16))
    }
}

/// Linux doubles what is asked for, for bookkeeping; both sides of the interface see the doubled value.
fn buffer_bytes(value: &Value<'_>) -> Outcome<u32> {
    Ok(value.int()?.max(0) as u32)
}

/// TCP_CONGESTION, with the kernel's errors.
fn algorithm(value: &Value<'_>) -> Outcome<Algorithm> {
    if value.bytes.is_empty() {
        return Err(Errno(libc::EINVAL));
    }
    info::algorithm_named(value.bytes).ok_or(Errno(libc::ENOENT))
}

fn apply(
    sock: &Sock,
    options: &mut TcpOptions,
    level: c_int,
    name: c_int,
    value: &Value<'_>,
) -> Outcome<Set> {
    match (level, name) {
        (SOCKET, libc::SO_KEEPALIVE) => options.keepalive = value.on()?,
        (SOCKET, libc::SO_LINGER) => (options.linger, options.linger_s) = value.linger()?,
        (SOCKET, libc::SO_RCVBUF | libc::SO_RCVBUFFORCE) => options.rcv_buf_bytes = buffer_bytes(value)?,
        (SOCKET, libc::SO_SNDBUF | libc::SO_SNDBUFFORCE) => options.snd_buf_bytes = buffer_bytes(value)?,
        (SOCKET, libc::SO_RCVLOWAT) => options.rcv_low_bytes = value.number()?,
        (SOCKET, libc::SO_MAX_PACING_RATE) => options.set_max_pacing_rate(value.pacing_rate()?),
        (SOCKET, libc::SO_OOBINLINE) => options.set_urgent_inline(value.on()? != 0),
        (SOCKET, libc::SO_ZEROCOPY) => sock.put(flag::ZEROCOPY, value.within(0, 1)? != 0),
        (SOCKET, libc::SO_RCVTIMEO) => sock.set_rcv_timeout_ns(value.time_ns()?),
        (SOCKET, libc::SO_SNDTIMEO) => sock.set_snd_timeout_ns(value.time_ns()?),
        (TCP, libc::TCP_NODELAY) => options.nodelay = value.on()?,
        (TCP, libc::TCP_CORK) => options.cork = value.on()?,
        // The limits are Linux's: MAX_TCP_KEEPIDLE and its like, TCP_MIN_MSS, MAX_TCP_WINDOW.
        (TCP, libc::TCP_KEEPIDLE) => options.keep_idle_s = value.within(1, 32_767)? as u16,
        (TCP, libc::TCP_KEEPINTVL) => options.keep_interval_s = value.within(1, 32_767)? as u16,
        (TCP, libc::TCP_KEEPCNT) => options.keep_probes = value.within(1, 127)? as u8,
        (TCP, libc::TCP_NOTSENT_LOWAT) => options.notsent_low_bytes = value.int()? as u32,
        (TCP, libc::TCP_DEFER_ACCEPT) => {
            options.defer_accept = engine::syn_ack_timeouts(value.int()?.max(0) as u32);
        }
        (TCP, libc::TCP_USER_TIMEOUT) => options.user_timeout_ms = value.number()?,
        (TCP, libc::TCP_CONGESTION) => options.congestion = algorithm(value)? as u8,
        (TCP, libc::TCP_FASTOPEN_CONNECT) => sock.put(flag::FAST_CONNECT, value.on()? != 0),
        (TCP, libc::TCP_FASTOPEN_NO_COOKIE) => options.fast_open_bare = value.on()?,
        (TCP, libc::TCP_SYNCNT) => options.syn_retries = value.within(1, 127)? as u8,
        (TCP, libc::TCP_MAXSEG) if value.int()? == 0 => options.mss_max = 0,
        (TCP, libc::TCP_MAXSEG) => options.mss_max = value.within(88, 32_767)? as u16,
        (IP, libc::IP_TTL) => options.ttl = value.number()?.min(255) as u8,
        (IP, libc::IP_TOS) => options.tos = value.int()? as u8,
        (IPV6, libc::IPV6_V6ONLY) => sock.put(flag::V6ONLY, value.on()? != 0),
        // ipv6(7): -1 is the default. The two low bits are the stack's (ECN).
        (IPV6, libc::IPV6_TCLASS) => match value.int()? {
            -1 => options.tos = 0,
            class @ 0..=255 => options.tos = (class as u8) & !3,
            _ => return Err(Errno(libc::EINVAL)),
        },
        (IPV6, libc::IPV6_UNICAST_HOPS) => match value.int()? {
            -1 => options.ttl = 0,
            hops @ 0..=255 => options.ttl = hops as u8,
            _ => return Err(Errno(libc::EINVAL)),
        },
        (IP, libc::IP_RECVERR) | (IPV6, libc::IPV6_RECVERR) => {
            options.set_tells_errors(value.on()? != 0);
            return Ok(Set::Noted);
        }
        _ => return Ok(if is_harmless(level, name) { Set::Harmless } else { Set::Unknown }),
    }
    Ok(Set::Done)
}

pub(crate) unsafe fn setsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *const c_void,
    len: socklen_t,
) -> c_int {
    // SAFETY: the C caller's promise.
    let by_kernel = || unsafe { plain::setsockopt(fd, level, name, value, len) };
    let Some(sock) = table::sock_as_is(fd) else { return by_kernel() };
    // SAFETY: the C caller's promise.
    let value = Value { bytes: unsafe { user::slice(value.cast(), len as usize) } };
    match (sock.state(), sock.seat.get()) {
        (State::Kernel, _) => by_kernel(),
        (State::Stream, Some(seat)) => {
            errno::small(set_on_stream(&sock, seat, level, name, &value).map(|()| 0))
        }
        (State::Undecided | State::Listening | State::Stream, seat) => {
            let mut result = if !sock.has(flag::DEFERRED) {
                by_kernel()
            } else if deferred::note(&sock, level, name, value.bytes) {
                0
            } else {
                match deferred::make(&sock, fd) {
                    Ok(()) => by_kernel(),
                    Err(errno) => errno::small(Err(errno)),
                }
            };
            if result != 0 && (level, name) == (TCP, libc::TCP_CONGESTION) && algorithm(&value).is_ok() {
                // The kernel does not have it, or not for this user; a lane does.
                result = 0;
            }
            if ao::is_option(level, name) {
                let said = if result == 0 { Ok(()) } else { Err(errno::last()) };
                result = errno::small(ao::set_before(&sock, fd, name, value.bytes, said).map(|()| 0));
            } else if result == 0 && keys::is_key(level, name) {
                result = errno::small(keys::set_before(&sock, fd, name, value.bytes).map(|()| 0));
            } else if result == 0 {
                set_before(&sock, seat, level, name, &value);
                let fast = level == TCP && matches!(name, libc::TCP_FASTOPEN | libc::TCP_FASTOPEN_KEY);
                if let Some(seat) = seat.filter(|_| fast) {
                    fast_open::at_listener(seat, fd);
                }
            }
            result
        }
    }
}

fn set_on_stream(
    sock: &Handle<Sock>,
    seat: Seat,
    level: c_int,
    name: c_int,
    value: &Value<'_>,
) -> Outcome<()> {
    if (level, name) == (TCP, libc::TCP_QUICKACK) {
        let on = value.int()? & 1 != 0;
        stream::with(sock, seat, |engine| engine.tcp_set_quick_ack(seat.name, on))?;
        return Ok(());
    }
    if keys::is_key(level, name) {
        return keys::set_on_stream(sock, seat, name, value.bytes);
    }
    if ao::is_option(level, name) {
        return ao::set_on_stream(sock, seat, name, value.bytes);
    }
    if let Some(errno) = fast_open::refusal(name, value.bytes).filter(|_| level == TCP) {
        return Err(errno);
    }
    let mut inner = sock.inner();
    let mut options = inner.options;
    match apply(sock, &mut options, level, name, value)? {
        set @ (Set::Done | Set::Noted) => {
            inner.options = options;
            if set == Set::Noted {
                let _ = deferred::remember(&mut inner, level, name, value.bytes);
            }
            drop(inner);
            stream::with(sock, seat, |engine| engine.set_tcp_options(seat.name, &options))?;
            Ok(())
        }
        Set::Harmless => {
            let _ = deferred::remember(&mut inner, level, name, value.bytes);
            Ok(())
        }
        Set::Unknown => {
            drop(inner);
            entrust::with_option(sock, (level, name), value.bytes)
        }
    }
}

/// The kernel socket took the option: keeps it for the lane's connection that this socket may become or make.
fn set_before(sock: &Handle<Sock>, seat: Option<Seat>, level: c_int, name: c_int, value: &Value<'_>) {
    let mut inner = sock.inner();
    let mut options = inner.options;
    match apply(sock, &mut options, level, name, value) {
        Ok(set @ (Set::Done | Set::Noted)) => {
            inner.options = options;
            if set == Set::Noted && !sock.has(flag::DEFERRED) {
                let _ = deferred::remember(&mut inner, level, name, value.bytes);
            }
            drop(inner);
            if let Some(seat) = seat {
                let _ = stream::with(sock, seat, |engine| engine.set_tcp_options(seat.name, &options));
            }
        }
        // The kernel has an algorithm that a lane has not.
        Err(_) if (level, name) == (TCP, libc::TCP_CONGESTION) => inner.foreign_option = true,
        Ok(Set::Unknown) => inner.foreign_option = true,
        // Before the kernel socket is made it was noted for that already.
        Ok(Set::Harmless) if !sock.has(flag::DEFERRED) => {
            let _ = deferred::remember(&mut inner, level, name, value.bytes);
        }
        Ok(Set::Harmless) | Err(_) => {}
    }
}

pub(crate) unsafe fn getsockopt(
    fd: c_int,
    level: c_int,
    name: c_int,
    value: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    let sock = table::sock(fd);
    if let Some(sock) = sock.as_ref().filter(|_| ao::is_option(level, name)) {
        // SAFETY: the C caller's promise.
        return unsafe { ao::get(sock, fd, name, value, len) };
    }
    if (level, name) == (TCP, libc::TCP_CONGESTION)
        && let Some(chosen) = sock.as_ref().and_then(chosen_before)
    {
        // SAFETY: the C caller's promise.
        return errno::small(unsafe { answer(value, len, &info::name_of(chosen)) });
    }
    let of = sock.and_then(|sock| Some((sock.stream()?, sock)));
    let Some((seat, sock)) = of else {
        // SAFETY: the C caller's promise.
        return unsafe { plain::getsockopt(fd, level, name, value, len) };
    };
    let mut bytes = [0_u8; info::ANSWER_BYTES];
    let answered = get_from_stream(&sock, seat, (level, name), &mut bytes);
    if answered == Err(UNKNOWN)
        && let Some(untouched) = deferred::untouched(sock.has(flag::V6))
    {
        // SAFETY: the C caller's promise.
        return unsafe { plain::getsockopt(untouched, level, name, value, len) };
    }
    errno::small(answered.and_then(|mut used| {
        if (level, name) == (SOCKET, libc::SO_MAX_PACING_RATE) {
            // SAFETY: the C caller's promise.
            used = shorten(&mut bytes, unsafe { user::load(len) }.unwrap_or(0) as usize);
        }
        // SAFETY: the C caller's promise.
        unsafe { answer(value, len, bytes.get(..used).unwrap_or(&[])) }
    }))
}

fn long(bytes: &mut [u8; info::ANSWER_BYTES], number: u64) -> usize {
    info::put(bytes, &[number.to_ne_bytes()])
}

/// SO_MAX_PACING_RATE for a program with `room` bytes: in less than eight the kernel puts a number of 32 bits.
fn shorten(bytes: &mut [u8; info::ANSWER_BYTES], room: usize) -> usize {
    let rate = bytes.first_chunk::<8>().map_or(u64::MAX, |bytes| u64::from_ne_bytes(*bytes));
    if room >= size_of::<u64>() {
        return size_of::<u64>();
    }
    info::put(bytes, &[u32::try_from(rate).unwrap_or(u32::MAX).to_ne_bytes()])
}

/// Answers with `bytes`.
///
/// # Safety
/// `value` and `len` are as for `getsockopt`.
unsafe fn answer(value: *mut c_void, len: *mut socklen_t, bytes: &[u8]) -> Outcome<c_int> {
    // SAFETY: the caller's promise.
    let room = unsafe { user::load(len) }.ok_or(Errno(libc::EFAULT))? as usize;
    // SAFETY: `room` bytes are at `value`.
    unsafe { user::fill(value.cast(), room, bytes) };
    // SAFETY: as above.
    unsafe { user::store(len, bytes.len().min(room) as socklen_t) };
    Ok(0)
}

/// The algorithm that was chosen for a socket which is no lane's stream yet: the kernel need not have it.
fn chosen_before(sock: &Handle<Sock>) -> Option<Algorithm> {
    match sock.state() {
        State::Undecided | State::Listening => Algorithm::from_raw(sock.inner().options.congestion),
        State::Kernel | State::Stream => None,
    }
}

/// What [`get_from_stream`] says of an option that a lane does not have. A connection of a lane never had it set, so the answer is that of a socket
/// which was not touched.
const UNKNOWN: Errno = Errno(libc::ENOPROTOOPT);

/// `own`, or where the program set nothing what the setting `name` of the network namespace says, which is `usual` if it cannot be read.
fn or_set(own: u16, name: &str, usual: u32) -> u32 {
    if own == 0 { sysctl::number(name).unwrap_or(usual) } else { own.into() }
}

/// Puts the value into `bytes` and gives its length.
fn get_from_stream(
    sock: &Handle<Sock>,
    seat: Seat,
    which: (c_int, c_int),
    bytes: &mut [u8; info::ANSWER_BYTES],
) -> Outcome<usize> {
    let options = sock.inner().options;
    let or = |n: u32, default: u32| if n == 0 { default } else { n };
    let number = match which {
        (SOCKET, libc::SO_ERROR) => stream::take_error(sock, seat) as u32,
        (SOCKET, libc::SO_TYPE) => libc::SOCK_STREAM as u32,
        (SOCKET, libc::SO_PROTOCOL) => TCP as u32,
        (SOCKET, libc::SO_DOMAIN) if sock.has(flag::V6) => libc::AF_INET6 as u32,
        (SOCKET, libc::SO_DOMAIN) => libc::AF_INET as u32,
        (SOCKET, libc::SO_ACCEPTCONN) => 0,
        (SOCKET, libc::SO_KEEPALIVE) => u32::from(options.keepalive),
        (SOCKET, libc::SO_RCVBUF | libc::SO_SNDBUF) => buffer(sock, seat, which.1 == libc::SO_RCVBUF)?,
        (SOCKET, libc::SO_RCVLOWAT) => or(options.rcv_low_bytes, 1),
        (SOCKET, libc::SO_OOBINLINE) => u32::from(options.is_urgent_inline()),
        (SOCKET, libc::SO_ZEROCOPY) => u32::from(sock.has(flag::ZEROCOPY)),
        (SOCKET, libc::SO_SNDLOWAT | libc::SO_REUSEADDR) => 1,
        (SOCKET, libc::SO_LINGER) => {
            let value =
                linger { l_onoff: c_int::from(options.linger), l_linger: c_int::from(options.linger_s) };
            return Ok(info::put(bytes, &[value.l_onoff.to_ne_bytes(), value.l_linger.to_ne_bytes()]));
        }
        (SOCKET, libc::SO_MAX_PACING_RATE) => return Ok(long(bytes, options.max_pacing_rate())),
        (SOCKET, libc::SO_RCVTIMEO) => return Ok(time(bytes, sock.rcv_timeout_ns())),
        (SOCKET, libc::SO_SNDTIMEO) => return Ok(time(bytes, sock.snd_timeout_ns())),
        (TCP, libc::TCP_NODELAY) => u32::from(options.nodelay),
        (TCP, libc::TCP_CORK) => u32::from(options.cork),
        (TCP, libc::TCP_QUICKACK) => 1,
        (TCP, libc::TCP_KEEPIDLE) => or_set(options.keep_idle_s, "tcp_keepalive_time", 7200),
        (TCP, libc::TCP_KEEPINTVL) => or_set(options.keep_interval_s, "tcp_keepalive_intvl", 75),
        (TCP, libc::TCP_KEEPCNT) => or_set(options.keep_probes.into(), "tcp_keepalive_probes", 9),
        (TCP, libc::TCP_USER_TIMEOUT) => options.user_timeout_ms,
        (TCP, libc::TCP_NOTSENT_LOWAT) => options.notsent_low_bytes,
        (TCP, libc::TCP_DEFER_ACCEPT) => seconds_of(options.defer_accept),
        (TCP, libc::TCP_FASTOPEN_CONNECT) => u32::from(sock.has(flag::FAST_CONNECT)),
        (TCP, libc::TCP_FASTOPEN_NO_COOKIE) => u32::from(options.fast_open_bare),
        (TCP, libc::TCP_SYNCNT) => or_set(options.syn_retries.into(), "tcp_syn_retries", 6),
        (TCP, libc::TCP_MAXSEG) => {
            let info = stream::with(sock, seat, |engine| engine.tcp_info(seat.name))?;
            info.map_or(536, |info| u32::from(info.snd_mss))
        }
        (TCP, libc::TCP_INFO) => {
            let info = stream::with(sock, seat, |engine| engine.tcp_info(seat.name))?;
            return Ok(info.map_or(0, |info| info::tcp_info(&info, bytes)));
        }
        (TCP, libc::TCP_CONGESTION) => {
            let info = stream::with(sock, seat, |engine| engine.tcp_info(seat.name))?;
            return Ok(info.map_or(0, |info| info::put(bytes, &[info::name_of(info.congestion.algorithm)])));
        }
        (IP, libc::IP_TTL) => or_set(options.ttl.into(), "ip_default_ttl", 64),
        (IP, libc::IP_TOS) => u32::from(options.tos),
        (IPV6, libc::IPV6_V6ONLY) => u32::from(sock.has(flag::V6ONLY)),
        (IPV6, libc::IPV6_TCLASS) => u32::from(options.tos),
        (IPV6, libc::IPV6_UNICAST_HOPS) => or(u32::from(options.ttl), or(u32::from(sysctl::hop_limit()), 64)),
        (SOCKET, libc::SO_COOKIE) => return Ok(info::put(bytes, &[cookie_of(seat).to_ne_bytes()])),
        (IP, libc::IP_MTU) | (IPV6, libc::IPV6_MTU) => mtu(sock, seat)?,
        (level, name) => {
            let set = deferred::noted(&sock.inner(), level, name);
            set.filter(|_| is_harmless(level, name)).ok_or(UNKNOWN)? as u32
        }
    };
    Ok(info::put(bytes, &[number.to_ne_bytes()]))
}

/// Bytes of a segment that timestamps take (RFC 7323 3.2, with padding).
const TIMESTAMPS: u32 = 12;

/// The path's MTU, as the segments' size has it.
fn mtu(sock: &Handle<Sock>, seat: Seat) -> Outcome<u32> {
    let info = stream::with(sock, seat, |engine| engine.tcp_info(seat.name))?;
    let headers = if sock.inner().remote.addr.is_v4() { 40 } else { 60 };
    Ok(info.map_or(0, |i| u32::from(i.snd_mss) + headers + if i.timestamps { TIMESTAMPS } else { 0 }))
}

/// SO_RCVBUF or SO_SNDBUF of a connection at this moment, doubled as Linux does.
fn buffer(sock: &Handle<Sock>, seat: Seat, receives: bool) -> Outcome<u32> {
    let now = stream::with(sock, seat, |engine| engine.tcp_options(seat.name))?.unwrap_or_default();
    let bytes = if receives { now.rcv_buf_bytes } else { now.snd_buf_bytes };
    Ok(bytes.saturating_mul(2))
}

/// A number that no other connection of a lane has: region, lane, row, and how often that was used.
fn cookie_of(seat: Seat) -> u64 {
    let place = u64::from(seat.view.region) << 48 | u64::from(seat.view.id.0) << 40;
    1 << 63 | place ^ u64::from(seat.name.row()) << 20 ^ u64::from(seat.name.generation)
}

/// Seconds that so many timeouts of a SYN,ACK take (Linux's retrans_to_secs).
fn seconds_of(timeouts: u8) -> u32 {
    (0..timeouts).map(|n| (1_u32 << n.min(7)).min(120)).sum()
}

fn time(bytes: &mut [u8; info::ANSWER_BYTES], ns: u64) -> usize {
    let us = Duration(ns).as_micros();
    let value = timeval { tv_sec: (us / 1_000_000) as _, tv_usec: (us % 1_000_000) as _ };
    info::put(bytes, &[value.tv_sec.to_ne_bytes(), value.tv_usec.to_ne_bytes()])
}
