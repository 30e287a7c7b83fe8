//! Connections of lanes that go over to the kernel, because a lane cannot follow where the program takes them.
//!
//! The keeper makes the kernel's socket (TCP_REPAIR), which takes the place of every descriptor of the connection in this process; peer and program see
//! nothing of it. Left out: connections whose handshake is not complete, those that are over, and those that came by a wire. Other processes that
//! were forked with the connection find it closed.

use core::ffi::{c_int, c_void};
use std::os::fd::AsRawFd;

use engine::Algorithm;
use libc::{msghdr, socklen_t};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use state::TcpOptions;
use sys::fds::Fd;

use crate::errno::{self, Errno, Outcome};
use crate::interpose::real;
use crate::object::Handle;
use crate::reason::Reason;
use crate::sock::{Sock, State, flag};
use crate::{adopt, epoll, explain, family, home, hub, info, owner, table};

/// A message goes out on a kernel socket: what is sent with it is the kernel's from now on.
///
/// # Safety
/// `message` is null or as for `sendmsg`.
pub(crate) unsafe fn sending(message: *const msghdr) {
    if table::highest() < 0 {
        return;
    }
    // SAFETY: the caller's promise.
    unsafe { adopt::each_right(message, |fd| descriptor(fd, Reason::SentOn)) };
}

/// What `fd` stands for is used past us from now on: a lane's connection goes over to the kernel.
pub(crate) fn descriptor(fd: c_int, why: Reason) {
    if let Some(sock) = table::sock(fd)
        && !to_kernel(&sock, why)
    {
        home::complain(&format!(
            "descriptor {fd} is a connection that cannot be handed over to the kernel: whoever is to go on with it has nothing of it"
        ));
    }
}

/// `fd` may become `to`: at the numbers of standard input and output the C library's stdio uses it, here or in the program executed next.
pub(crate) fn to_number(fd: c_int, to: c_int) {
    if (0..=libc::STDERR_FILENO).contains(&to) && fd != to {
        descriptor(fd, Reason::Stdio);
    }
}

/// Makes `sock`, if it is a lane's connection, one of the kernel's. False: it is a lane's still.
pub(crate) fn to_kernel(sock: &Handle<Sock>, why: Reason) -> bool {
    let mut inner = sock.inner();
    let Some(seat) = sock.stream() else { return true };
    // The kernel would number what is sent with MSG_ZEROCOPY anew.
    if !inner.sends.is_unused() {
        return false;
    }
    let Some(socket) = home::entrust(seat, sock.has(flag::V6)) else { return false };
    set_options(&socket, &inner.options);
    set_times(&socket, sock);
    if sock.has(flag::ZEROCOPY) {
        set(&socket, libc::SOL_SOCKET, libc::SO_ZEROCOPY, &1_i32);
    }
    if !sock.has(flag::NONBLOCK) {
        let blocking = rustix::fs::OFlags::RDWR;
        let _ = rustix::fs::fcntl_setfl(&socket, blocking);
    }
    for fd in descriptors_of(sock) {
        put(&socket, fd);
        // By the program's descriptor, which is what the kernel's signals name.
        owner::hand_over(sock, seat, fd);
    }
    sock.become_state(State::Kernel);
    sock.seat.set(None);
    sock.put(flag::PLACEHOLDER | flag::DEFERRED | flag::SUBSCRIBED | flag::CONNECTING, false);
    inner.reason = why;
    drop(inner);
    hub::take_watches(sock).into_iter().for_each(epoll::watch_in_kernel);
    // Whoever waits for it on the lane looks again.
    hub::wake_all();
    family::let_go(seat.view, seat.name);
    explain::entrusted();
    true
}

/// The program sets an option that a lane does not have: the connection becomes the kernel's, and has it there. What the kernel does not take
/// either, it says of a socket made for that, and the connection stays.
pub(crate) fn with_option(sock: &Handle<Sock>, (level, name): (c_int, c_int), value: &[u8]) -> Outcome<()> {
    let give = |fd: c_int| {
        // SAFETY: the option's value, and its size.
        let result =
            unsafe { real::setsockopt(fd, level, name, value.as_ptr().cast(), value.len() as socklen_t) };
        if result == 0 { Ok(()) } else { Err(errno::last()) }
    };
    let domain = if sock.has(flag::V6) { AddressFamily::INET6 } else { AddressFamily::INET };
    let trial = rustix::net::socket_with(domain, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    give(trial.map_err(|errno| Errno(errno.raw_os_error()))?.as_raw_fd())?;
    if !to_kernel(sock, Reason::Option) {
        return Err(Errno(libc::ENOPROTOOPT));
    }
    match descriptors_of(sock).next() {
        Some(fd) => give(fd),
        None => Err(Errno(libc::EBADF)),
    }
}

/// The descriptors of this process that stand for `sock`.
fn descriptors_of(sock: &Handle<Sock>) -> impl Iterator<Item = c_int> {
    let is = |fd: &c_int| table::sock_as_is(*fd).is_some_and(|other| other.address() == sock.address());
    (0..=table::highest()).filter(is)
}

/// Puts `socket` in the place of `fd`.
fn put(socket: &Fd, fd: c_int) {
    // SAFETY: no memory involved.
    let flags = unsafe { real::fcntl(fd, libc::F_GETFD, 0) };
    let cloexec = if flags & libc::FD_CLOEXEC != 0 { libc::O_CLOEXEC } else { 0 };
    // SAFETY: both are open; `fd` stands for the same connection before and after.
    unsafe { real::dup3(socket.as_raw_fd(), fd, cloexec) };
}

fn set<T>(socket: &Fd, level: c_int, name: c_int, value: &T) {
    let at = core::ptr::from_ref(value).cast::<c_void>();
    // The lane took it, so the program was told that it is set; what the kernel does not take is not worth the connection.
    // SAFETY: a live value, and its size.
    let _ = unsafe { real::setsockopt(socket.as_raw_fd(), level, name, at, size_of::<T>() as socklen_t) };
}

/// What the program set, and is not the default.
fn set_options(socket: &Fd, options: &TcpOptions) {
    const TCP: c_int = libc::IPPROTO_TCP;
    const SOCKET: c_int = libc::SOL_SOCKET;
    let ints = [
        (TCP, libc::TCP_NODELAY, u32::from(options.nodelay)),
        (TCP, libc::TCP_CORK, u32::from(options.cork)),
        (SOCKET, libc::SO_KEEPALIVE, u32::from(options.keepalive)),
        (TCP, libc::TCP_KEEPIDLE, u32::from(options.keep_idle_s)),
        (TCP, libc::TCP_KEEPINTVL, u32::from(options.keep_interval_s)),
        (TCP, libc::TCP_KEEPCNT, u32::from(options.keep_probes)),
        (TCP, libc::TCP_USER_TIMEOUT, options.user_timeout_ms),
        (TCP, libc::TCP_NOTSENT_LOWAT, options.notsent_low_bytes),
        (SOCKET, libc::SO_RCVBUF, options.rcv_buf_bytes),
        (SOCKET, libc::SO_SNDBUF, options.snd_buf_bytes),
        (SOCKET, libc::SO_RCVLOWAT, options.rcv_low_bytes),
        (libc::IPPROTO_IP, libc::IP_TTL, u32::from(options.ttl)),
        (libc::IPPROTO_IP, libc::IP_TOS, u32::from(options.tos)),
    ];
    for (level, name, value) in ints.iter().filter(|(_, _, value)| *value != 0) {
        set(socket, *level, *name, value);
    }
    let rate = options.max_pacing_rate();
    if rate != u64::MAX {
        set(socket, SOCKET, libc::SO_MAX_PACING_RATE, &rate);
    }
    if options.linger != 0 {
        let linger = libc::linger { l_onoff: 1, l_linger: c_int::from(options.linger_s) };
        set(socket, SOCKET, libc::SO_LINGER, &linger);
    }
    if let Some(chosen) = Algorithm::from_raw(options.congestion) {
        set(socket, TCP, libc::TCP_CONGESTION, &info::name_of(chosen));
    }
}

/// SO_RCVTIMEO and SO_SNDTIMEO.
fn set_times(socket: &Fd, sock: &Sock) {
    let times = [(libc::SO_RCVTIMEO, sock.rcv_timeout_ns()), (libc::SO_SNDTIMEO, sock.snd_timeout_ns())];
    for (name, ns) in times.into_iter().filter(|(_, ns)| *ns != 0) {
        let time = libc::timeval {
            tv_sec: (ns / 1_000_000_000) as libc::time_t,
            tv_usec: (ns % 1_000_000_000 / 1_000) as libc::suseconds_t,
        };
        set(socket, libc::SOL_SOCKET, name, &time);
    }
}
