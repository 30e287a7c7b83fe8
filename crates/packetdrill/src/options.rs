//! `getsockopt` and `setsockopt`.

use base::Duration;
use engine::{Algorithm, TcpInfo};
use state::TcpOptions;

use crate::conn;
use crate::datagrams;
use crate::errno::{self, Errno, Outcome};
use crate::fast_open;
use crate::fds::{Object, Role, TcpSock};
use crate::info;
use crate::machine::Machine;

const TCP: i32 = libc::IPPROTO_TCP;
const SOCKET: i32 = libc::SOL_SOCKET;
const IP: i32 = libc::IPPROTO_IP;
const IPV6: i32 = libc::IPPROTO_IPV6;
/// linux/tcp.h; libc has no names for them.
const TCP_FASTOPEN_KEY: i32 = 33;
const TCP_FASTOPEN_NO_COOKIE: i32 = 34;
/// Bytes of a name of a congestion control (TCP_CA_NAME_MAX).
const NAME_BYTES: usize = 16;
/// Send buffer that is told when none was set, bytes.
const SND_BUF: u32 = 65_536;

/// The value of an option as the program gave it.
#[derive(Clone, Copy)]
struct Value<'a>(&'a [u8]);

impl Value<'_> {
    fn int(self) -> Outcome<i32> {
        self.0.first_chunk::<4>().map(|b| i32::from_ne_bytes(*b)).ok_or(Errno(libc::EINVAL))
    }

    fn within(self, least: i32, most: i32) -> Outcome<u32> {
        let n = self.int()?;
        if n < least || n > most { Err(Errno(libc::EINVAL)) } else { Ok(n as u32) }
    }

    fn on(self) -> Outcome<u8> {
        Ok(u8::from(self.int()? != 0))
    }

    /// A `timeval`; `None`: no limit.
    fn time(self) -> Outcome<Option<Duration>> {
        let halves = self.0.first_chunk::<16>().ok_or(Errno(libc::EINVAL))?;
        let [a0, a1, a2, a3, a4, a5, a6, a7, b @ ..] = *halves;
        let s = i64::from_ne_bytes([a0, a1, a2, a3, a4, a5, a6, a7]);
        let us = u64::try_from(i64::from_ne_bytes(b)).ok().filter(|us| *us < 1_000_000);
        let us = us.ok_or(Errno(libc::EDOM))?;
        let time =
            Duration(Duration::from_secs(s.max(0) as u64).0.saturating_add(Duration::from_micros(us).0));
        Ok((time != Duration::ZERO).then_some(time))
    }
}

/// `setsockopt`.
pub(crate) fn set(machine: &mut Machine, fd: i32, level: i32, name: i32, value: &[u8]) -> Outcome<i32> {
    if let Object::Udp(sock) = &mut machine.entry(fd)?.object {
        let mut options = sock.options;
        set_udp(&mut options, level, name, Value(value))?;
        sock.options = options;
        let named = sock.name;
        if let Some(named) = named {
            machine.stack.with(|engine| engine.set_udp_options(named, &options))?;
        }
        return Ok(0);
    }
    let sock = conn::tcp(machine, fd)?;
    let before = sock.options;
    if set_tcp(sock, level, name, Value(value))? {
        let (named, options) = (sock.name(), sock.options);
        if let Some(named) = named.filter(|_| options != before) {
            machine.stack.with(|engine| engine.set_tcp_options(named, &options))?;
        }
        fast_open::tell(machine, fd)?;
        return Ok(0);
    }
    if is_harmless(level, name) { Ok(0) } else { Err(Errno(libc::ENOPROTOOPT)) }
}

/// False: no option of ours.
fn set_tcp(sock: &mut TcpSock, level: i32, name: i32, value: Value<'_>) -> Outcome<bool> {
    let o: &mut TcpOptions = &mut sock.options;
    match (level, name) {
        (SOCKET, libc::SO_KEEPALIVE) => o.keepalive = value.on()?,
        (SOCKET, libc::SO_LINGER) => {
            let (on, seconds) = value.0.split_at_checked(4).ok_or(Errno(libc::EINVAL))?;
            o.linger = Value(on).on()?;
            o.linger_s = Value(seconds).int()?.clamp(0, i32::from(u16::MAX)) as u16;
        }
        (SOCKET, libc::SO_RCVBUF | libc::SO_RCVBUFFORCE) => o.rcv_buf_bytes = value.int()?.max(0) as u32,
        (SOCKET, libc::SO_SNDBUF | libc::SO_SNDBUFFORCE) => o.snd_buf_bytes = value.int()?.max(0) as u32,
        (SOCKET, libc::SO_RCVLOWAT) => o.rcv_low_bytes = value.within(0, i32::MAX)?.max(1),
        (SOCKET, libc::SO_OOBINLINE) => o.set_urgent_inline(value.on()? != 0),
        (SOCKET, libc::SO_RCVTIMEO) => sock.rcv_timeout = value.time()?,
        (SOCKET, libc::SO_SNDTIMEO) => sock.snd_timeout = value.time()?,
        (TCP, libc::TCP_NODELAY) => o.nodelay = value.on()?,
        (TCP, libc::TCP_CORK) => o.cork = value.on()?,
        (TCP, libc::TCP_CONGESTION) => {
            let end = value.0.iter().position(|b| *b == 0).unwrap_or(value.0.len());
            let named = Algorithm::from_name(value.0.get(..end).unwrap_or(&[]));
            o.congestion = named.ok_or(Errno(libc::ENOENT))? as u8;
        }
        (TCP, libc::TCP_KEEPIDLE) => o.keep_idle_s = value.within(1, 32_767)? as u16,
        (TCP, libc::TCP_KEEPINTVL) => o.keep_interval_s = value.within(1, 32_767)? as u16,
        (TCP, libc::TCP_KEEPCNT) => o.keep_probes = value.within(1, 127)? as u8,
        (TCP, libc::TCP_USER_TIMEOUT) => o.user_timeout_ms = value.within(0, i32::MAX)?,
        (TCP, libc::TCP_NOTSENT_LOWAT) => o.notsent_low_bytes = value.int()? as u32,
        (TCP, libc::TCP_DEFER_ACCEPT) => {
            o.defer_accept = engine::syn_ack_timeouts(value.int()?.max(0) as u32)
        }
        (TCP, libc::TCP_SYNCNT) => o.syn_retries = value.within(1, 127)? as u8,
        // Linux: TCP_MIN_MSS to MAX_TCP_WINDOW.
        (TCP, libc::TCP_MAXSEG) => o.mss_max = value.within(88, 32_767)? as u16,
        (TCP, libc::TCP_FASTOPEN) => sock.fast.max = value.within(0, i32::MAX)?,
        (TCP, TCP_FASTOPEN_KEY) => sock.fast.set_keys(value.0)?,
        (TCP, libc::TCP_FASTOPEN_CONNECT) => sock.fast.connect = value.on()? != 0,
        (TCP, TCP_FASTOPEN_NO_COOKIE) => o.fast_open_bare = value.on()?,
        (IP, libc::IP_TTL) => o.ttl = value.within(1, 255)? as u8,
        (IP, libc::IP_TOS) => o.tos = value.int()? as u8,
        (IP, libc::IP_RECVERR) | (IPV6, libc::IPV6_RECVERR) => o.set_tells_errors(value.on()? != 0),
        _ => return Ok(false),
    }
    Ok(true)
}

fn set_udp(options: &mut engine::UdpOptions, level: i32, name: i32, value: Value<'_>) -> Outcome<()> {
    match (level, name) {
        (SOCKET, libc::SO_NO_CHECK) => options.no_checksum = value.on()? != 0,
        (SOCKET, libc::SO_REUSEPORT) => options.reuse_port = value.on()? != 0,
        (SOCKET, libc::SO_RCVBUF) => options.recv_bytes = value.int()?.max(0) as u32,
        (SOCKET, libc::SO_SNDBUF) => options.send_bytes = value.int()?.max(0) as u32,
        (IP, libc::IP_TTL) => options.ttl = value.within(1, 255)? as u8,
        (IP, libc::IP_TOS) => options.tos = value.int()? as u8,
        (IP, libc::IP_MTU_DISCOVER) => options.dont_fragment = value.int()? == libc::IP_PMTUDISC_DO,
        _ if is_harmless(level, name) => {}
        _ => return Err(Errno(libc::ENOPROTOOPT)),
    }
    Ok(())
}

/// Options that change nothing here, or only what happens by itself.
fn is_harmless(level: i32, name: i32) -> bool {
    match level {
        SOCKET => matches!(
            name,
            libc::SO_REUSEADDR
                | libc::SO_REUSEPORT
                | libc::SO_PRIORITY
                | libc::SO_BROADCAST
                | libc::SO_INCOMING_CPU
                | libc::SO_BUSY_POLL
                | libc::SO_TIMESTAMP
                | libc::SO_NO_CHECK
                | libc::SO_MARK
        ),
        TCP => matches!(
            name,
            libc::TCP_QUICKACK
                | libc::TCP_DEFER_ACCEPT
                | libc::TCP_LINGER2
                | libc::TCP_THIN_LINEAR_TIMEOUTS
                | libc::TCP_THIN_DUPACK
        ),
        IP => matches!(name, libc::IP_BIND_ADDRESS_NO_PORT | libc::IP_MTU_DISCOVER),
        IPV6 => matches!(
            name,
            libc::IPV6_V6ONLY | libc::IPV6_TCLASS | libc::IPV6_UNICAST_HOPS | libc::IPV6_MTU_DISCOVER
        ),
        _ => false,
    }
}

/// `getsockopt`: the value, which the caller cuts to its room.
pub(crate) fn get(machine: &mut Machine, fd: i32, level: i32, name: i32) -> Outcome<Vec<u8>> {
    let v6 = machine.entry(fd)?.v6;
    let domain = if v6 { libc::AF_INET6 } else { libc::AF_INET } as u32;
    let is_udp = datagrams::is_udp(machine, fd);
    let word = |n: u32| Ok(n.to_ne_bytes().to_vec());
    match (level, name) {
        (SOCKET, libc::SO_DOMAIN) => return word(domain),
        (SOCKET, libc::SO_TYPE) if is_udp => return word(libc::SOCK_DGRAM as u32),
        (SOCKET, libc::SO_PROTOCOL) if is_udp => return word(libc::IPPROTO_UDP as u32),
        (SOCKET, libc::SO_TYPE) => return word(libc::SOCK_STREAM as u32),
        (SOCKET, libc::SO_PROTOCOL) => return word(TCP as u32),
        (SOCKET, libc::SO_ERROR) => {
            let named = match &machine.entry(fd)?.object {
                Object::Tcp(sock) => sock.name(),
                Object::Udp(sock) => sock.name,
                Object::Epoll(_) | Object::PipeRead(_) | Object::PipeWrite(_) => {
                    return Err(Errno(libc::ENOTSOCK));
                }
            };
            let Some(named) = named else { return word(0) };
            let error = machine.stack.with(|engine| engine.take_error(named))?;
            return word(error.map_or(0, |error| errno::of_sock(error).0 as u32));
        }
        _ if is_udp => return if is_harmless(level, name) { word(0) } else { Err(Errno(libc::ENOPROTOOPT)) },
        _ => {}
    }
    let sock = conn::tcp(machine, fd)?.clone();
    match (level, name) {
        (TCP, libc::TCP_INFO) => Ok(tcp_info(machine, &sock)?.map_or_else(idle_info, |i| info::tcp_info(&i))),
        (TCP, libc::TCP_MAXSEG) => word(tcp_info(machine, &sock)?.map_or(536, |i| u32::from(i.snd_mss))),
        (TCP, libc::TCP_CONGESTION) => {
            let chosen = Algorithm::chosen(sock.options.congestion, 0);
            let used = tcp_info(machine, &sock)?.map_or(chosen, |info| info.congestion.algorithm);
            let mut name = used.name().as_bytes().to_vec();
            name.resize(NAME_BYTES, 0);
            Ok(name)
        }
        (TCP, TCP_FASTOPEN_KEY) => Ok(sock.fast.keys()),
        (SOCKET, libc::SO_RCVTIMEO) => Ok(timeval(sock.rcv_timeout)),
        (SOCKET, libc::SO_SNDTIMEO) => Ok(timeval(sock.snd_timeout)),
        (SOCKET, libc::SO_LINGER) => {
            let (on, seconds) = (u32::from(sock.options.linger), u32::from(sock.options.linger_s));
            Ok([on.to_ne_bytes(), seconds.to_ne_bytes()].concat())
        }
        _ => word(number(&sock, level, name)?),
    }
}

fn number(sock: &TcpSock, level: i32, name: i32) -> Outcome<u32> {
    let o = &sock.options;
    let or = |n: u32, default: u32| if n == 0 { default } else { n };
    Ok(match (level, name) {
        (SOCKET, libc::SO_ACCEPTCONN) => u32::from(matches!(sock.role, Role::Listener(_))),
        (SOCKET, libc::SO_KEEPALIVE) => u32::from(o.keepalive),
        (SOCKET, libc::SO_OOBINLINE) => u32::from(o.is_urgent_inline()),
        // Linux doubles what is asked for, for bookkeeping.
        (SOCKET, libc::SO_RCVBUF) => o.rcv_buf_bytes.saturating_mul(2),
        (SOCKET, libc::SO_SNDBUF) => or(o.snd_buf_bytes, SND_BUF).saturating_mul(2),
        (SOCKET, libc::SO_RCVLOWAT) => or(o.rcv_low_bytes, 1),
        (SOCKET, libc::SO_SNDLOWAT | libc::SO_REUSEADDR) | (TCP, libc::TCP_QUICKACK) => 1,
        (TCP, libc::TCP_NODELAY) => u32::from(o.nodelay),
        (TCP, libc::TCP_CORK) => u32::from(o.cork),
        (TCP, libc::TCP_KEEPIDLE) => or(u32::from(o.keep_idle_s), 7200),
        (TCP, libc::TCP_KEEPINTVL) => or(u32::from(o.keep_interval_s), 75),
        (TCP, libc::TCP_KEEPCNT) => or(u32::from(o.keep_probes), 9),
        (TCP, libc::TCP_USER_TIMEOUT) => o.user_timeout_ms,
        (TCP, libc::TCP_FASTOPEN) => sock.fast.max,
        (TCP, libc::TCP_FASTOPEN_CONNECT) => u32::from(sock.fast.connect),
        (TCP, TCP_FASTOPEN_NO_COOKIE) => u32::from(o.fast_open_bare),
        (TCP, libc::TCP_SYNCNT) => or(u32::from(o.syn_retries), 6),
        (IP, libc::IP_TTL) => or(u32::from(o.ttl), 64),
        (IP, libc::IP_TOS) => u32::from(o.tos),
        (level, name) if is_harmless(level, name) => 0,
        _ => return Err(Errno(libc::ENOPROTOOPT)),
    })
}

fn tcp_info(machine: &mut Machine, sock: &TcpSock) -> Outcome<Option<TcpInfo>> {
    match sock.role {
        Role::Stream { name, .. } => machine.stack.with(|engine| engine.tcp_info(name)),
        Role::Fresh | Role::Listener(_) => Ok(None),
    }
}

/// TCP_INFO of a socket without a connection: closed, and nothing else.
fn idle_info() -> Vec<u8> {
    const CLOSED: u8 = 7;
    let mut bytes = vec![0; size_of::<libc::tcp_info>()];
    if let Some(state) = bytes.first_mut() {
        *state = CLOSED;
    }
    bytes
}

fn timeval(time: Option<Duration>) -> Vec<u8> {
    let us = time.unwrap_or(Duration::ZERO).as_micros();
    [(us / 1_000_000).to_ne_bytes(), (us % 1_000_000).to_ne_bytes()].concat()
}
