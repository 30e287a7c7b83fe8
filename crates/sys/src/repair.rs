//! Connections that the kernel goes on with where somebody else stopped (tcp(7), TCP_REPAIR).
//!
//! A socket in repair mode says nothing to its peer: not when it is made, not when it is closed. Needs CAP_NET_ADMIN.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::os::fd::AsFd;

use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto};

use crate::fds::Fd;
use crate::sockopt::KernelPlain;
use crate::{Errno, Result, sockopt};

const TCP: i32 = libc::IPPROTO_TCP;
// include/uapi/linux/tcp.h; the C library's header does not have all of them.
const REPAIR: i32 = 19;
const REPAIR_QUEUE: i32 = 20;
const QUEUE_SEQ: i32 = 21;
const REPAIR_OPTIONS: i32 = 22;
const TIMESTAMP: i32 = 24;
const REPAIR_WINDOW: i32 = 29;
const REPAIR_ON: i32 = 1;
/// Back to work, with a window probe, so that the peer says what it has.
const REPAIR_OFF: i32 = 0;
const RECV_QUEUE: i32 = 1;
const SEND_QUEUE: i32 = 2;
// Options of a SYN (RFC 9293 3.2, RFC 7323, RFC 2018).
const OPTION_MSS: u32 = 2;
const OPTION_WINDOW: u32 = 3;
const OPTION_SACK: u32 = 4;
const OPTION_TIMESTAMPS: u32 = 8;
/// Unlocks the sizes of both buffers, so that they go on growing by themselves (SO_BUF_LOCK, Linux 5.16).
const SO_BUF_LOCK: i32 = 72;
/// What TCP_MAXSEG takes.
const MSS_ASKED_MIN: i32 = 88;
const MSS_ASKED_MAX: i32 = 32_767;
/// What a buffer needs beside its bytes, in the kernel's count.
const OVERHEAD: u32 = 64 * 1024;
/// Largest buffer asked for, bytes.
const BUFFER_MAX: u32 = 64 << 20;

/// `struct tcp_repair_opt`.
#[derive(Clone, Copy)]
#[repr(C)]
struct RepairOption {
    code: u32,
    value: u32,
}
// SAFETY: two words.
unsafe impl KernelPlain for RepairOption {}

/// `struct tcp_repair_window`.
#[derive(Clone, Copy)]
#[repr(C)]
struct RepairWindow {
    snd_wl1: u32,
    snd_wnd: u32,
    max_window: u32,
    rcv_wnd: u32,
    rcv_wup: u32,
}
// SAFETY: five words.
unsafe impl KernelPlain for RepairWindow {}

/// Where a connection stopped. Sequence numbers do not count FINs.
#[derive(Clone, Copy, Debug)]
pub struct Stopped {
    /// Its own end.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
    /// SND.UNA.
    pub snd_una: u32,
    /// RCV.NXT.
    pub rcv_nxt: u32,
    /// Bytes received and not read.
    pub unread_bytes: u32,
    /// Bytes sent and not acknowledged.
    pub unacked_bytes: u32,
    /// Bytes that wait to be sent.
    pub unsent_bytes: u32,
    /// SND.WL1.
    pub snd_wl1: u32,
    /// SND.WND.
    pub snd_wnd: u32,
    /// The largest that ever was.
    pub snd_wnd_max: u32,
    /// RCV.WND as announced.
    pub rcv_wnd: u32,
    /// MSS the peer announced.
    pub mss: u16,
    /// Scales of the peer's windows and of its own, if windows are scaled.
    pub scales: Option<(u8, u8)>,
    /// SACK is in use.
    pub sack: bool,
    /// TSval now, if timestamps are in use.
    pub timestamp: Option<u32>,
}

/// A connection in repair mode. Dropped, it is gone without a trace.
#[derive(Debug)]
pub struct Repaired {
    socket: Fd,
}

/// A socket like `end` in family.
fn socket_for(end: &SocketAddr) -> Result<Fd> {
    let family = if end.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(Fd::from(rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?))
}

impl Repaired {
    /// Makes the connection, and takes its bytes from `bytes`, which calls with a buffer and its place: first those not read, then those not acknowledged.
    ///
    /// # Errors
    /// EPERM without CAP_NET_ADMIN, EADDRNOTAVAIL when the local address is not the kernel's or the kernel has the connection, ENETUNREACH; what `bytes` gives.
    pub fn make(stopped: &Stopped, mut bytes: impl FnMut(&mut [u8], u64) -> Result<usize>) -> Result<Self> {
        let socket = socket_for(&stopped.local)?;
        sockopt::set(&socket, TCP, REPAIR, &REPAIR_ON)?;
        let made = Self { socket };
        // In repair mode whoever else has the port is no hindrance.
        rustix::net::bind(&made.socket, &stopped.local)?;
        made.set_sequence(SEND_QUEUE, stopped.snd_una)?;
        made.set_sequence(RECV_QUEUE, stopped.rcv_nxt.wrapping_sub(stopped.unread_bytes))?;
        // The size of segments is worked out when it connects, from this, and not again when the peer's MSS is set.
        let mss = i32::from(stopped.mss).clamp(MSS_ASKED_MIN, MSS_ASKED_MAX);
        sockopt::set(&made.socket, TCP, libc::TCP_MAXSEG, &mss)?;
        rustix::net::connect(&made.socket, &stopped.remote)?;
        sockopt::set(&made.socket, TCP, libc::TCP_MAXSEG, &0_i32)?;
        made.set_options(stopped)?;
        made.make_room(stopped)?;
        made.fill(RECV_QUEUE, (0, stopped.unread_bytes), &mut bytes)?;
        made.fill(SEND_QUEUE, (stopped.unread_bytes.into(), stopped.unacked_bytes), &mut bytes)?;
        let window = RepairWindow {
            snd_wl1: stopped.snd_wl1,
            snd_wnd: stopped.snd_wnd,
            max_window: stopped.snd_wnd_max.max(stopped.snd_wnd),
            rcv_wnd: stopped.rcv_wnd,
            rcv_wup: stopped.rcv_nxt,
        };
        sockopt::set(&made.socket, TCP, REPAIR_WINDOW, &window)?;
        Ok(made)
    }

    fn set_sequence(&self, queue: i32, seq: u32) -> Result<()> {
        sockopt::set(&self.socket, TCP, REPAIR_QUEUE, &queue)?;
        sockopt::set(&self.socket, TCP, QUEUE_SEQ, &seq)
    }

    fn set_options(&self, stopped: &Stopped) -> Result<()> {
        let set =
            |code, value| sockopt::set(&self.socket, TCP, REPAIR_OPTIONS, &RepairOption { code, value });
        set(OPTION_MSS, u32::from(stopped.mss))?;
        if let Some((peers, own)) = stopped.scales {
            set(OPTION_WINDOW, u32::from(peers) | u32::from(own) << 16)?;
        }
        if stopped.sack {
            set(OPTION_SACK, 0)?;
        }
        if let Some(now) = stopped.timestamp {
            set(OPTION_TIMESTAMPS, 0)?;
            // An odd number would mean that the clock counts microseconds.
            sockopt::set(&self.socket, TCP, TIMESTAMP, &(now.wrapping_add(1) & !1))?;
        }
        Ok(())
    }

    /// Buffers that hold what the connection has. They grow with it afterwards as those of any other.
    fn make_room(&self, stopped: &Stopped) -> Result<()> {
        let queued = stopped.unacked_bytes.saturating_add(stopped.unsent_bytes);
        let each = [(libc::SO_RCVBUFFORCE, stopped.unread_bytes), (libc::SO_SNDBUFFORCE, queued)];
        for (option, bytes) in each.into_iter().filter(|(_, bytes)| *bytes > 0) {
            // The kernel doubles it.
            let wanted = bytes.saturating_mul(2).saturating_add(OVERHEAD).min(BUFFER_MAX);
            sockopt::set(&self.socket, libc::SOL_SOCKET, option, &wanted)?;
        }
        sockopt::set(&self.socket, libc::SOL_SOCKET, SO_BUF_LOCK, &0_u32)
    }

    /// Puts `len` bytes, which begin at `from`, into a queue.
    fn fill(
        &self,
        queue: i32,
        (from, len): (u64, u32),
        bytes: &mut impl FnMut(&mut [u8], u64) -> Result<usize>,
    ) -> Result<()> {
        sockopt::set(&self.socket, TCP, REPAIR_QUEUE, &queue)?;
        send_all(&self.socket, (from, len), bytes)
    }

    /// The peer has closed its direction: tells the kernel's connection, by a segment with FIN as the peer sent it. Needs CAP_NET_RAW.
    ///
    /// # Errors
    /// EPERM and what sendto gives; ETIMEDOUT: the connection has not taken it.
    pub fn close_for_peer(&self, stopped: &Stopped) -> Result<()> {
        let (local, remote) = (plain(stopped.local), plain(stopped.remote));
        let packet = fin(stopped, local, remote);
        let (family, level, option) = match local {
            SocketAddr::V4(_) => (AddressFamily::INET, libc::IPPROTO_IP, libc::IP_HDRINCL),
            SocketAddr::V6(_) => (AddressFamily::INET6, libc::IPPROTO_IPV6, libc::IPV6_HDRINCL),
        };
        let protocol = Some(ipproto::RAW);
        let raw =
            Fd::from(rustix::net::socket_with(family, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?);
        sockopt::set(&raw, level, option, &1_i32)?;
        // A raw socket's address has no port.
        let mut to = local;
        to.set_port(0);
        for _ in 0..FIN_TRIES {
            rustix::net::sendto(&raw, &packet, SendFlags::empty(), &to)?;
            if has_peers_fin(&self.socket)? {
                return Ok(());
            }
            let pause = rustix::time::Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
            let _ = rustix::thread::nanosleep(&pause);
        }
        Err(Errno::TIMEDOUT)
    }

    /// The connection is at work again: it sends a window probe, then what waited, `bytes` of which are as in [`Repaired::make`] behind the others.
    /// `closed`: it has closed its direction, too.
    ///
    /// # Errors
    /// What the kernel says; the connection is lost then.
    pub fn release(
        self,
        stopped: &Stopped,
        closed: bool,
        mut bytes: impl FnMut(&mut [u8], u64) -> Result<usize>,
    ) -> Result<Fd> {
        sockopt::set(&self.socket, TCP, REPAIR, &REPAIR_OFF)?;
        let from = u64::from(stopped.unread_bytes) + u64::from(stopped.unacked_bytes);
        send_all(&self.socket, (from, stopped.unsent_bytes), &mut bytes)?;
        if closed {
            rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write)?;
        }
        Ok(self.socket)
    }
}

fn send_all(
    socket: &Fd,
    (from, len): (u64, u32),
    bytes: &mut impl FnMut(&mut [u8], u64) -> Result<usize>,
) -> Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    let mut done = 0_u64;
    while done < u64::from(len) {
        let want = buffer.len().min((u64::from(len) - done) as usize);
        let piece = buffer.get_mut(..want).ok_or(Errno::INVAL)?;
        let got = bytes(piece, from + done)?;
        let piece = piece.get(..got).filter(|piece| !piece.is_empty()).ok_or(Errno::NODATA)?;
        done += rustix::net::send(socket, piece, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)? as u64;
    }
    Ok(())
}

/// How often a FIN is tried; it does not leave the machine, and the first comes through unless a filter is in its way.
const FIN_TRIES: u32 = 20;

/// Has the connection its peer's FIN? (`tcpi_state`: CLOSE-WAIT, CLOSING, LAST-ACK, TIME-WAIT, or closed.)
fn has_peers_fin(socket: &impl AsFd) -> Result<bool> {
    let mut info = [0_u8; 8];
    sockopt::get(socket, TCP, libc::TCP_INFO, &mut info)?;
    Ok(matches!(info[0], 6..=9 | 11))
}

/// An IPv4 address instead of the IPv6 one that stands for it.
fn plain(end: SocketAddr) -> SocketAddr {
    match end.ip().to_canonical() {
        IpAddr::V4(v4) => SocketAddr::new(v4.into(), end.port()),
        IpAddr::V6(_) => end,
    }
}

/// The segment.
fn fin(stopped: &Stopped, local: SocketAddr, remote: SocketAddr) -> Vec<u8> {
    let shift = stopped.scales.map_or(0, |(peers, _)| u32::from(peers));
    let window = u16::try_from(stopped.snd_wnd >> shift.min(14)).unwrap_or(u16::MAX);
    let mut tcp = Vec::with_capacity(20);
    tcp.extend(remote.port().to_be_bytes());
    tcp.extend(local.port().to_be_bytes());
    tcp.extend(stopped.rcv_nxt.to_be_bytes());
    tcp.extend(stopped.snd_una.to_be_bytes());
    // Five words of header; FIN and ACK.
    tcp.extend([0x50, 0x11]);
    tcp.extend(window.to_be_bytes());
    tcp.extend([0; 4]);
    let (head, pseudo) = match (remote.ip(), local.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            // Identification, total length and checksum are the kernel's to fill in.
            let mut head = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0];
            head.extend(from.octets());
            head.extend(to.octets());
            (head, [&from.octets()[..], &to.octets()[..], &[0, 6, 0, 20]].concat())
        }
        (from, to) => {
            let octets = |ip: IpAddr| match ip {
                IpAddr::V6(v6) => v6.octets(),
                IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            };
            let ends = [octets(from), octets(to)].concat();
            (
                [&[0x60, 0, 0, 0, 0, 20, 6, 64][..], &ends].concat(),
                [&ends[..], &[0, 0, 0, 20, 0, 0, 0, 6]].concat(),
            )
        }
    };
    let sum = checksum([&pseudo[..], &tcp[..]].concat().as_slice()).to_be_bytes();
    tcp.splice(16..18, sum);
    [head, tcp].concat()
}

/// RFC 1071, of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.as_chunks::<2>().0.iter();
    let mut sum: u32 = words.map(|word| u32::from(u16::from_be_bytes(*word))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A socket address in the form that a socket of the family wants: `v6`, an IPv6 one, whichever the address.
#[must_use]
pub fn address(ip: IpAddr, port: u16, v6: bool, scope: u32) -> SocketAddr {
    match ip {
        IpAddr::V4(v4) if v6 => SocketAddr::V6(SocketAddrV6::new(v4.to_ipv6_mapped(), port, 0, 0)),
        IpAddr::V4(_) => SocketAddr::new(ip, port),
        IpAddr::V6(v6) => {
            let scope = if v6.is_unicast_link_local() { scope } else { 0 };
            SocketAddr::V6(SocketAddrV6::new(v6, port, 0, scope))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    use super::*;

    fn sequence(fd: &impl AsFd, queue: i32) -> u32 {
        let mut seq = 0_u32;
        sockopt::set(fd, TCP, REPAIR_QUEUE, &queue).unwrap();
        sockopt::get(fd, TCP, QUEUE_SEQ, &mut seq).unwrap();
        seq
    }

    /// Stops one of the kernel's own connections, in silence: nothing unread, `unacked` not acknowledged.
    fn stop(stream: TcpStream, unacked: u32) -> Stopped {
        let (local, remote) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
        sockopt::set(&stream, TCP, REPAIR, &REPAIR_ON).unwrap();
        let (rcv_nxt, snd_end) = (sequence(&stream, RECV_QUEUE), sequence(&stream, SEND_QUEUE));
        let (mut words, mut info, mut clock) = ([0_u32; 5], [0_u8; 20], 0_u32);
        sockopt::get(&stream, TCP, REPAIR_WINDOW, &mut words).unwrap();
        sockopt::get(&stream, TCP, libc::TCP_INFO, &mut info).unwrap();
        sockopt::get(&stream, TCP, TIMESTAMP, &mut clock).unwrap();
        // Closed in repair mode, it says nothing.
        drop(stream);
        Stopped {
            local,
            remote,
            snd_una: snd_end.wrapping_sub(unacked),
            rcv_nxt,
            unread_bytes: 0,
            unacked_bytes: unacked,
            unsent_bytes: 0,
            snd_wl1: words[0],
            snd_wnd: words[1],
            snd_wnd_max: words[2],
            rcv_wnd: words[3].wrapping_sub(rcv_nxt.wrapping_sub(words[4])),
            mss: 65_483,
            scales: Some((info[6] & 15, info[6] >> 4)),
            sack: true,
            timestamp: Some(clock),
        }
    }

    fn pair(address: &str) -> Option<(TcpStream, TcpStream)> {
        let listener = TcpListener::bind(address).ok()?;
        let near = TcpStream::connect(listener.local_addr().ok()?).ok()?;
        let far = listener.accept().ok()?.0;
        far.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
        // Without CAP_NET_ADMIN there is nothing to see.
        sockopt::set(&near, TCP, REPAIR, &REPAIR_ON).ok()?;
        sockopt::set(&near, TCP, REPAIR, &-1_i32).ok()?;
        Some((near, far))
    }

    #[test]
    fn a_connection_goes_on_with_unread_unacknowledged_and_unsent_bytes_and_a_fin() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Some((mut near, mut far)) = pair(address) else { return };
            near.write_all(b"before ").unwrap();
            far.write_all(b"not read, ").unwrap();
            let mut read = [0; 10];
            near.read_exact(&mut read).unwrap();
            far.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(near.read(&mut read).unwrap(), 0);
            // The peer has the first seven bytes; they come again and are taken for what they are.
            let stopped = stop(near, 7);
            let rcv_nxt = stopped.rcv_nxt.wrapping_sub(1);
            let stopped = Stopped { rcv_nxt, unread_bytes: 10, unsent_bytes: 6, ..stopped };
            let kept = b"not read, before after ";
            let bytes = |to: &mut [u8], at: u64| {
                let from = &kept[at as usize..];
                to.copy_from_slice(&from[..to.len()]);
                Ok(to.len())
            };
            let made = Repaired::make(&stopped, bytes).unwrap();
            made.close_for_peer(&stopped).unwrap();
            let socket = made.release(&stopped, true, bytes).unwrap();
            let mut got = String::new();
            far.read_to_string(&mut got).unwrap();
            assert_eq!(got, "before after ");
            let mut info = [0_u8; 20];
            sockopt::get(&socket, TCP, libc::TCP_INFO, &mut info).unwrap();
            let mss = u32::from_ne_bytes([info[16], info[17], info[18], info[19]]);
            assert!(mss > 32_000, "{mss}");
            let mut unread = [0; 20];
            assert_eq!(rustix::io::read(&socket, &mut unread), Ok(10));
            assert_eq!(&unread[..10], b"not read, ");
            assert_eq!(rustix::io::read(&socket, &mut unread), Ok(0), "the peer's FIN");
        }
    }

    #[test]
    fn a_connection_that_is_not_released_is_gone_without_a_word() {
        let Some((near, mut far)) = pair("127.0.0.1:0") else { return };
        let stopped = stop(near, 0);
        let none = |_: &mut [u8], _: u64| Ok(0);
        drop(Repaired::make(&stopped, none).unwrap());
        let socket = Repaired::make(&stopped, none).unwrap().release(&stopped, false, none).unwrap();
        far.write_all(b"as ever").unwrap();
        let mut got = [0; 7];
        let mut poll = [rustix::event::PollFd::new(&socket, rustix::event::PollFlags::IN)];
        let limit = rustix::time::Timespec { tv_sec: 20, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut poll, Some(&limit)), Ok(1));
        assert_eq!(rustix::io::read(&socket, &mut got), Ok(7));
        assert_eq!(&got, b"as ever");
    }
}
