//! The functions that packetdrill calls. Each gets `userdata` first; failures are -1 and errno. `fcntl` and `ioctl` are variadic there with at most one further argument of one machine word, which on the
//! architectures Linux runs us on is passed as a fixed one would be.

use core::ffi::{c_int, c_long, c_longlong, c_short, c_uint, c_ulong, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

use base::Duration;
use libc::{epoll_event, iovec, msghdr, pollfd, size_t, sockaddr, socklen_t, ssize_t, timeval};
use state::Endpoint;

use crate::address::{self, Named};
use crate::errno::{Errno, Outcome};
use crate::world::World;
use crate::{conn, datagrams, epoll, options, raw, verbs};

use crate::interface::Userdata;

/// Calls `body` with the world behind `userdata`; an unwind ends here and is EIO.
fn enter<T>(userdata: Userdata, body: impl FnOnce(&World) -> Outcome<T>) -> Outcome<T> {
    // SAFETY: null, or what `packetdrill_interface_init` made and `free` has not taken back.
    let Some(world) = (unsafe { userdata.cast::<World>().as_ref() }) else { return Err(Errno(libc::EBADF)) };
    catch_unwind(AssertUnwindSafe(|| body(world))).unwrap_or(Err(Errno(libc::EIO)))
}

fn small(outcome: Outcome<i32>) -> c_int {
    outcome.unwrap_or_else(|errno| {
        raw::set_errno(errno.0);
        -1
    })
}

fn count(outcome: Outcome<usize>) -> ssize_t {
    match outcome {
        Ok(n) => ssize_t::try_from(n).unwrap_or(ssize_t::MAX),
        Err(errno) => {
            raw::set_errno(errno.0);
            -1
        }
    }
}

/// # Safety
/// `at` is null or names `len` bytes.
unsafe fn named(at: *const sockaddr, len: socklen_t) -> Outcome<Named> {
    // SAFETY: the caller's promise.
    address::read(unsafe { raw::slice(at.cast::<u8>(), len as usize) })
}

/// # Safety
/// `at` and `len` are null or as `accept` takes them.
unsafe fn tell_name(end: Endpoint, v6: bool, at: *mut sockaddr, len: *mut socklen_t) {
    let bytes = address::write(end, v6);
    // SAFETY: the caller's promise.
    let Some(room) = (unsafe { raw::load(len) }) else { return };
    // SAFETY: the caller's promise: `room` bytes are at `at`.
    unsafe { raw::fill(at.cast(), room as usize, &bytes) };
    // SAFETY: the caller's promise.
    unsafe { raw::store(len, bytes.len() as socklen_t) };
}

pub(crate) unsafe extern "C" fn free(userdata: Userdata) {
    if !userdata.is_null() {
        // SAFETY: made by `packetdrill_interface_init`, and given back once.
        drop(unsafe { Box::from_raw(userdata.cast::<World>()) });
    }
}

pub(crate) unsafe extern "C" fn socket(ud: Userdata, domain: c_int, kind: c_int, protocol: c_int) -> c_int {
    small(enter(ud, |world| world.at_once(|m| verbs::socket(m, domain, kind, protocol))))
}

pub(crate) unsafe extern "C" fn bind(ud: Userdata, fd: c_int, at: *const sockaddr, len: socklen_t) -> c_int {
    // SAFETY: the C caller's promise.
    let to = unsafe { named(at, len) };
    small(enter(ud, |world| world.at_once(|m| verbs::bind(m, fd, to?))))
}

pub(crate) unsafe extern "C" fn listen(ud: Userdata, fd: c_int, backlog: c_int) -> c_int {
    small(enter(ud, |world| world.at_once(|m| conn::listen(m, fd, backlog))))
}

pub(crate) unsafe extern "C" fn accept(
    ud: Userdata,
    fd: c_int,
    at: *mut sockaddr,
    len: *mut socklen_t,
) -> c_int {
    let accepted = enter(ud, |world| {
        let (made, remote) = world.blocking(|m| conn::accept(m, fd))?;
        let v6 = world.at_once(|m| Ok(m.entry(made)?.v6))?;
        Ok((made, remote, v6))
    });
    small(accepted.map(|(made, remote, v6)| {
        // SAFETY: the C caller's promise.
        unsafe { tell_name(remote, v6, at, len) };
        made
    }))
}

pub(crate) unsafe extern "C" fn connect(
    ud: Userdata,
    fd: c_int,
    at: *const sockaddr,
    len: socklen_t,
) -> c_int {
    // SAFETY: the C caller's promise.
    let to = unsafe { named(at, len) };
    small(enter(ud, |world| {
        let to = to?;
        world.blocking(|m| verbs::connect(m, fd, to))
    }))
}

/// What `read` and its like come to: as many bytes as there are, up to `room`.
fn read_bytes(world: &World, fd: i32, room: usize, flags: i32) -> Outcome<Vec<u8>> {
    let mut bytes = vec![0; room];
    let mut done = 0;
    let got = world.blocking(|m| verbs::read(m, fd, &mut bytes, flags, &mut done))?;
    // MSG_TRUNC: bytes that were thrown away are counted too.
    bytes.truncate(got);
    Ok(bytes)
}

pub(crate) unsafe extern "C" fn read(ud: Userdata, fd: c_int, at: *mut c_void, len: size_t) -> ssize_t {
    // SAFETY: the C caller's promise.
    unsafe { recv(ud, fd, at, len, 0) }
}

pub(crate) unsafe extern "C" fn recv(
    ud: Userdata,
    fd: c_int,
    at: *mut c_void,
    len: size_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: the C caller's promise.
    unsafe { recvfrom(ud, fd, at, len, flags, core::ptr::null_mut(), core::ptr::null_mut()) }
}

pub(crate) unsafe extern "C" fn recvfrom(
    ud: Userdata,
    fd: c_int,
    at: *mut c_void,
    len: size_t,
    flags: c_int,
    from: *mut sockaddr,
    from_len: *mut socklen_t,
) -> ssize_t {
    let part = [iovec { iov_base: at, iov_len: len }];
    // SAFETY: the C caller's promise.
    count(enter(ud, |world| unsafe { receive(world, fd, &part, flags, (from, from_len)) }).map(|r| r.len))
}

pub(crate) unsafe extern "C" fn readv(ud: Userdata, fd: c_int, at: *const iovec, parts: c_int) -> ssize_t {
    // SAFETY: the C caller's promise.
    let list = unsafe { raw::slice(at, parts.max(0) as usize) };
    let nobody = (core::ptr::null_mut(), core::ptr::null_mut());
    // SAFETY: the C caller's promise.
    count(enter(ud, |world| unsafe { receive(world, fd, list, 0, nobody) }).map(|r| r.len))
}

/// What was received: the number for the caller, and was a datagram cut.
struct Got {
    len: usize,
    cut: bool,
}

/// # Safety
/// The parts of `list` may be written, and the address as `recvfrom` takes it.
unsafe fn receive(
    world: &World,
    fd: i32,
    list: &[iovec],
    flags: i32,
    from: (*mut sockaddr, *mut socklen_t),
) -> Outcome<Got> {
    let room = raw::room(list);
    if world.at_once(|m| Ok(datagrams::is_udp(m, fd)))? {
        let got = world.blocking(|m| datagrams::recv(m, fd, room, flags))?;
        let v6 = world.at_once(|m| Ok(m.entry(fd)?.v6))?;
        // SAFETY: the caller's promise.
        unsafe { raw::scatter(list, &got.bytes) };
        // SAFETY: the caller's promise.
        unsafe { tell_name(got.from, v6, from.0, from.1) };
        let cut = got.len > got.bytes.len();
        let len = if flags & libc::MSG_TRUNC != 0 { got.len } else { got.bytes.len() };
        return Ok(Got { len, cut });
    }
    let bytes = read_bytes(world, fd, room, flags)?;
    if flags & libc::MSG_TRUNC == 0 || flags & libc::MSG_PEEK != 0 {
        // SAFETY: the caller's promise.
        unsafe { raw::scatter(list, &bytes) };
    }
    // SAFETY: the caller's promise. A connection tells no address.
    unsafe { raw::store(from.1, 0) };
    Ok(Got { len: bytes.len(), cut: false })
}

pub(crate) unsafe extern "C" fn recvmsg(ud: Userdata, fd: c_int, at: *mut msghdr, flags: c_int) -> ssize_t {
    // SAFETY: the C caller's promise.
    let Some(mut message) = (unsafe { raw::load(at) }) else {
        raw::set_errno(libc::EFAULT);
        return -1;
    };
    // SAFETY: the C caller's promise.
    let list = unsafe { raw::slice(message.msg_iov, message.msg_iovlen) };
    let mut name_len = message.msg_namelen;
    let from = (message.msg_name.cast::<sockaddr>(), &raw mut name_len);
    // SAFETY: the C caller's promise.
    let got = enter(ud, |world| unsafe { receive(world, fd, list, flags, from) });
    count(got.map(|got| {
        message.msg_flags = if got.cut { libc::MSG_TRUNC } else { 0 };
        message.msg_flags |= if got.len > 0 { flags & libc::MSG_OOB } else { 0 };
        message.msg_controllen = 0;
        message.msg_namelen = name_len;
        // SAFETY: the C caller's promise.
        unsafe { raw::store(at, message) };
        got.len
    }))
}

fn send_bytes(ud: Userdata, fd: i32, data: &[u8], flags: i32, to: Outcome<Option<Named>>) -> ssize_t {
    count(enter(ud, |world| {
        let to = match to? {
            Some(Named::End(end)) => Some(end),
            Some(Named::Unspecified) | None => None,
        };
        let mut done = 0;
        world.blocking(|m| verbs::send_to(m, fd, data, flags, to, &mut done))
    }))
}

pub(crate) unsafe extern "C" fn write(ud: Userdata, fd: c_int, at: *const c_void, len: size_t) -> ssize_t {
    // SAFETY: the C caller's promise.
    unsafe { send(ud, fd, at, len, 0) }
}

pub(crate) unsafe extern "C" fn send(
    ud: Userdata,
    fd: c_int,
    at: *const c_void,
    len: size_t,
    flags: c_int,
) -> ssize_t {
    // SAFETY: the C caller's promise.
    send_bytes(ud, fd, unsafe { raw::slice(at.cast::<u8>(), len) }, flags, Ok(None))
}

pub(crate) unsafe extern "C" fn sendto(
    ud: Userdata,
    fd: c_int,
    at: *const c_void,
    len: size_t,
    flags: c_int,
    to: *const sockaddr,
    to_len: socklen_t,
) -> ssize_t {
    // SAFETY: the C caller's promise.
    let to = if to.is_null() { Ok(None) } else { unsafe { named(to, to_len) }.map(Some) };
    // SAFETY: the C caller's promise.
    send_bytes(ud, fd, unsafe { raw::slice(at.cast::<u8>(), len) }, flags, to)
}

pub(crate) unsafe extern "C" fn writev(ud: Userdata, fd: c_int, at: *const iovec, parts: c_int) -> ssize_t {
    // SAFETY: the C caller's promise.
    let list = unsafe { raw::slice(at, parts.max(0) as usize) };
    // SAFETY: the C caller's promise.
    send_bytes(ud, fd, &unsafe { raw::gather(list) }, 0, Ok(None))
}

pub(crate) unsafe extern "C" fn sendmsg(ud: Userdata, fd: c_int, at: *const msghdr, flags: c_int) -> ssize_t {
    // SAFETY: the C caller's promise.
    let Some(message) = (unsafe { raw::load(at) }) else {
        raw::set_errno(libc::EFAULT);
        return -1;
    };
    let to = if message.msg_name.is_null() {
        Ok(None)
    } else {
        // SAFETY: the C caller's promise.
        unsafe { named(message.msg_name.cast(), message.msg_namelen) }.map(Some)
    };
    // SAFETY: the C caller's promise.
    let list = unsafe { raw::slice(message.msg_iov, message.msg_iovlen) };
    // SAFETY: the C caller's promise.
    send_bytes(ud, fd, &unsafe { raw::gather(list) }, flags, to)
}

pub(crate) unsafe extern "C" fn fcntl(ud: Userdata, fd: c_int, command: c_int, arg: c_long) -> c_int {
    small(enter(ud, |world| world.at_once(|m| verbs::fcntl(m, fd, command, arg as i32))))
}

pub(crate) unsafe extern "C" fn ioctl(ud: Userdata, fd: c_int, request: c_ulong, arg: *mut c_void) -> c_int {
    // packetdrill hands the request over as an int.
    let request = request & 0xffff_ffff;
    if request == libc::FIONBIO {
        // SAFETY: FIONBIO takes an int.
        let on = unsafe { raw::load(arg.cast::<c_int>()) }.unwrap_or(0) != 0;
        let flags = if on { libc::O_NONBLOCK } else { 0 };
        return small(enter(ud, |world| world.at_once(|m| verbs::fcntl(m, fd, libc::F_SETFL, flags))));
    }
    small(enter(ud, |world| world.at_once(|m| verbs::ioctl(m, fd, request))).map(|n| {
        // SAFETY: the requests that are answered take an int.
        unsafe { raw::store(arg.cast::<c_uint>(), n) };
        0
    }))
}

pub(crate) unsafe extern "C" fn close(ud: Userdata, fd: c_int) -> c_int {
    small(enter(ud, |world| world.at_once(|m| m.close(fd))))
}

pub(crate) unsafe extern "C" fn shutdown(ud: Userdata, fd: c_int, how: c_int) -> c_int {
    small(enter(ud, |world| world.at_once(|m| conn::shutdown(m, fd, how))))
}

pub(crate) unsafe extern "C" fn getsockopt(
    ud: Userdata,
    fd: c_int,
    level: c_int,
    name: c_int,
    at: *mut c_void,
    len: *mut socklen_t,
) -> c_int {
    small(enter(ud, |world| world.at_once(|m| options::get(m, fd, level, name))).map(|value| {
        // SAFETY: the C caller's promise.
        let room = unsafe { raw::load(len) }.unwrap_or(0) as usize;
        // SAFETY: the C caller's promise.
        unsafe { raw::fill(at.cast(), room, &value) };
        // SAFETY: the C caller's promise.
        unsafe { raw::store(len, value.len().min(room) as socklen_t) };
        0
    }))
}

pub(crate) unsafe extern "C" fn setsockopt(
    ud: Userdata,
    fd: c_int,
    level: c_int,
    name: c_int,
    at: *const c_void,
    len: socklen_t,
) -> c_int {
    // SAFETY: the C caller's promise.
    let value = unsafe { raw::slice(at.cast::<u8>(), len as usize) };
    small(enter(ud, |world| world.at_once(|m| options::set(m, fd, level, name, value))))
}

pub(crate) unsafe extern "C" fn poll(
    ud: Userdata,
    at: *mut pollfd,
    rows: c_ulong,
    timeout_ms: c_int,
) -> c_int {
    // SAFETY: the C caller's promise.
    let list = unsafe { raw::slice(at, rows as usize) };
    let asked: Vec<(i32, c_short)> = list.iter().map(|row| (row.fd, row.events)).collect();
    let told = enter(ud, |world| world.blocking(|m| verbs::poll(m, &asked, timeout_ms)));
    small(told.map(|told| {
        for (n, bits) in told.iter().enumerate() {
            let (fd, events) = asked.get(n).copied().unwrap_or_default();
            // SAFETY: one of the rows that were given.
            unsafe { raw::store(at.wrapping_add(n), pollfd { fd, events, revents: *bits }) };
        }
        told.iter().filter(|bits| **bits != 0).count() as c_int
    }))
}

pub(crate) unsafe extern "C" fn netdev_send(ud: Userdata, at: *const c_void, len: size_t) -> c_int {
    // SAFETY: the C caller's promise.
    let packet = unsafe { raw::slice(at.cast::<u8>(), len) };
    small(enter(ud, |world| world.at_once(|m| m.stack.inject(packet).map(|()| 0))))
}

pub(crate) unsafe extern "C" fn netdev_receive(
    ud: Userdata,
    at: *mut c_void,
    len: *mut size_t,
    time_us: *mut c_longlong,
) -> c_int {
    let packet = enter(ud, |world| Ok(world.receive()));
    small(packet.and_then(|packet| {
        // SAFETY: the C caller's promise.
        let room = unsafe { raw::load(len) }.ok_or(Errno(libc::EFAULT))?;
        let (bytes, when) = match packet {
            Some(packet) => (packet.bytes, packet.at),
            None => (Vec::new(), enter(ud, |world| Ok(world.read_clock()))?),
        };
        // SAFETY: the C caller's promise.
        unsafe { raw::fill(at.cast(), room, &bytes) };
        // SAFETY: the C caller's promise.
        unsafe { raw::store(len, bytes.len().min(room)) };
        // SAFETY: the C caller's promise.
        unsafe { raw::store(time_us, when.as_micros() as c_longlong) };
        Ok(0)
    }))
}

pub(crate) unsafe extern "C" fn usleep(ud: Userdata, us: c_uint) -> c_int {
    let passed = enter(ud, |world| {
        world.pass(Duration::from_micros(u64::from(us)));
        Ok(0)
    });
    small(passed)
}

pub(crate) unsafe extern "C" fn gettimeofday(ud: Userdata, at: *mut timeval, _zone: *mut c_void) -> c_int {
    small(enter(ud, |world| Ok(world.read_clock())).map(|now| {
        let us = now.as_micros();
        let value = timeval { tv_sec: (us / 1_000_000) as _, tv_usec: (us % 1_000_000) as _ };
        // SAFETY: the C caller's promise.
        unsafe { raw::store(at, value) };
        0
    }))
}

pub(crate) unsafe extern "C" fn epoll_create(ud: Userdata, size: c_int) -> c_int {
    small(enter(ud, |world| world.at_once(|m| verbs::epoll_create(m, size))))
}

pub(crate) unsafe extern "C" fn epoll_ctl(
    ud: Userdata,
    set: c_int,
    op: c_int,
    fd: c_int,
    event: *mut epoll_event,
) -> c_int {
    // SAFETY: the C caller's promise.
    let event = unsafe { raw::load(event) }.map(|event| (event.events, event.u64));
    small(enter(ud, |world| world.at_once(|m| epoll::control(m, set, op, fd, event))))
}

pub(crate) unsafe extern "C" fn epoll_wait(
    ud: Userdata,
    set: c_int,
    at: *mut epoll_event,
    most: c_int,
    timeout_ms: c_int,
) -> c_int {
    let most = most.max(0) as usize;
    let told = enter(ud, |world| world.blocking(|m| epoll::wait(m, set, most, timeout_ms)));
    small(told.map(|told| {
        for (n, (events, u64)) in told.iter().copied().enumerate() {
            // SAFETY: the C caller's promise: room for `most` events.
            unsafe { raw::store(at.wrapping_add(n), epoll_event { events, u64 }) };
        }
        told.len() as c_int
    }))
}

pub(crate) unsafe extern "C" fn pipe(ud: Userdata, at: *mut c_int) -> c_int {
    small(enter(ud, |world| world.at_once(|m| Ok(verbs::pipe(m)))).map(|[from, to]| {
        // SAFETY: the C caller's promise: room for two.
        unsafe { raw::store(at, from) };
        // SAFETY: as above.
        unsafe { raw::store(at.wrapping_add(1), to) };
        0
    }))
}

pub(crate) unsafe extern "C" fn splice(
    ud: Userdata,
    from: c_int,
    _from_at: *mut c_longlong,
    to: c_int,
    _to_at: *mut c_longlong,
    len: size_t,
    flags: c_uint,
) -> ssize_t {
    // packetdrill hands over the addresses of its offsets, which mean nothing for pipes and sockets.
    count(enter(ud, |world| world.blocking(|m| verbs::splice(m, from, to, len, flags))))
}
