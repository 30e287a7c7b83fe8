//! Calls on any kind of descriptor.

use base::Duration;
use state::{Endpoint, Ready};

use crate::address::Named;
use crate::conn;
use crate::datagrams;
use crate::errno::{AGAIN, Errno, Outcome};
use crate::fast_open;
use crate::fds::{Entry, Object, Role};
use crate::machine::Machine;
use crate::pipes::Pipe;
use crate::world::Attempt;

/// `socket`.
pub(crate) fn socket(machine: &mut Machine, domain: i32, kind: i32, protocol: i32) -> Outcome<i32> {
    if domain != libc::AF_INET && domain != libc::AF_INET6 {
        return Err(Errno(libc::EAFNOSUPPORT));
    }
    let nonblocking = kind & libc::SOCK_NONBLOCK != 0;
    let object = match (kind & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC), protocol) {
        (libc::SOCK_STREAM, 0 | libc::IPPROTO_TCP) => Object::Tcp(conn::fresh(machine)),
        (libc::SOCK_DGRAM, 0 | libc::IPPROTO_UDP) => Object::Udp(datagrams::fresh()),
        (libc::SOCK_STREAM | libc::SOCK_DGRAM, _) => return Err(Errno(libc::EPROTONOSUPPORT)),
        _ => return Err(Errno(libc::ESOCKTNOSUPPORT)),
    };
    Ok(machine.fds.add(Entry { object, nonblocking, v6: domain == libc::AF_INET6 }))
}

/// `bind`.
pub(crate) fn bind(machine: &mut Machine, fd: i32, to: Named) -> Outcome<i32> {
    let Named::End(to) = to else { return Err(Errno(libc::EAFNOSUPPORT)) };
    if datagrams::is_udp(machine, fd) {
        datagrams::bind(machine, fd, to)
    } else {
        conn::bind(machine, fd, to)
    }
}

/// `connect`.
pub(crate) fn connect(machine: &mut Machine, fd: i32, to: Named) -> Attempt<i32> {
    if datagrams::is_udp(machine, fd) {
        return Attempt::Done(datagrams::connect(machine, fd, to));
    }
    conn::connect(machine, fd, to)
}

/// `epoll_create`.
pub(crate) fn epoll_create(machine: &mut Machine, size: i32) -> Outcome<i32> {
    if size <= 0 {
        return Err(Errno(libc::EINVAL));
    }
    let object = Object::Epoll(crate::epoll::EpollSet::default());
    Ok(machine.fds.add(Entry { object, nonblocking: false, v6: false }))
}

/// `pipe`: the end to read from, the end to write to.
pub(crate) fn pipe(machine: &mut Machine) -> [i32; 2] {
    let at = machine.pipes.len();
    machine.pipes.push(Pipe::open());
    [Object::PipeRead(at), Object::PipeWrite(at)]
        .map(|object| machine.fds.add(Entry { object, nonblocking: false, v6: false }))
}

/// `read`, `recv` and their like on TCP sockets and pipes, into `buf`; `done` bytes were filled by earlier attempts.
pub(crate) fn read(
    machine: &mut Machine,
    fd: i32,
    buf: &mut [u8],
    flags: i32,
    done: &mut usize,
) -> Attempt<usize> {
    let at = match machine.entry(fd).map(|entry| &entry.object) {
        Ok(Object::PipeRead(at)) => *at,
        Ok(Object::PipeWrite(_)) => return Attempt::Done(Err(Errno(libc::EBADF))),
        Ok(Object::Epoll(_)) => return Attempt::Done(Err(Errno(libc::EINVAL))),
        Ok(Object::Tcp(_) | Object::Udp(_)) => return conn::recv(machine, fd, buf, flags, done),
        Err(errno) => return Attempt::Done(Err(errno)),
    };
    let got = machine.pipe(at).and_then(|pipe| pipe.read(buf.len()));
    match got {
        Err(AGAIN) if !machine.is_nonblocking(fd, 0) => Attempt::Wait { timeout: None, then: Err(AGAIN) },
        got => Attempt::Done(got.map(|bytes| {
            for (to, from) in buf.iter_mut().zip(&bytes) {
                *to = *from;
            }
            bytes.len()
        })),
    }
}

/// `write`, `send` and their like on TCP sockets and pipes; `done` bytes were taken by earlier attempts.
pub(crate) fn write(
    machine: &mut Machine,
    fd: i32,
    data: &[u8],
    flags: i32,
    done: &mut usize,
) -> Attempt<usize> {
    let at = match machine.entry(fd).map(|entry| &entry.object) {
        Ok(Object::PipeWrite(at)) => *at,
        Ok(Object::PipeRead(_)) => return Attempt::Done(Err(Errno(libc::EBADF))),
        Ok(Object::Epoll(_)) => return Attempt::Done(Err(Errno(libc::EINVAL))),
        Ok(Object::Tcp(_) | Object::Udp(_)) => return conn::send(machine, fd, data, flags, done),
        Err(errno) => return Attempt::Done(Err(errno)),
    };
    let rest = data.get(*done..).unwrap_or(&[]);
    match machine.pipe(at).and_then(|pipe| pipe.write(rest)) {
        Ok(n) => *done += n,
        Err(AGAIN) => {}
        Err(errno) => return Attempt::Done(Err(errno)),
    }
    if *done >= data.len() {
        return Attempt::Done(Ok(*done));
    }
    let so_far = if *done == 0 { Err(AGAIN) } else { Ok(*done) };
    if machine.is_nonblocking(fd, 0) {
        return Attempt::Done(so_far);
    }
    Attempt::Wait { timeout: None, then: so_far }
}

/// `sendto` of a datagram or on a connection.
pub(crate) fn send_to(
    machine: &mut Machine,
    fd: i32,
    data: &[u8],
    flags: i32,
    to: Option<Endpoint>,
    done: &mut usize,
) -> Attempt<usize> {
    if datagrams::is_udp(machine, fd) {
        return datagrams::send(machine, fd, data, to, flags);
    }
    if flags & libc::MSG_FASTOPEN != 0 && conn::tcp(machine, fd).is_ok_and(|sock| sock.role == Role::Fresh) {
        return fast_open::send(machine, fd, data, flags, to, done);
    }
    write(machine, fd, data, flags, done)
}

/// What `poll` tells of `fd`.
pub(crate) fn ready(machine: &mut Machine, fd: i32) -> u32 {
    let name = match machine.fds.get(fd).map(|entry| &entry.object) {
        Some(Object::Tcp(sock)) => match sock.role {
            // A socket that was never connected: Linux says it hung up, and that one may write.
            Role::Fresh => return (Ready::HUP | Ready::OUT).0,
            Role::Listener(name) | Role::Stream { name, .. } => name,
        },
        Some(Object::Udp(sock)) => match sock.name {
            Some(name) => name,
            None => return Ready::OUT.0,
        },
        Some(Object::Epoll(_)) => return 0,
        Some(Object::PipeRead(at)) => {
            let pipe = machine.pipes.get(*at);
            let bytes = pipe.is_some_and(|p| !p.is_empty());
            let ended = pipe.is_none_or(|p| p.writers == 0);
            let bit = |on: bool, bit: Ready| if on { bit.0 } else { 0 };
            return bit(bytes, Ready::IN) | bit(ended, Ready::HUP);
        }
        Some(Object::PipeWrite(at)) => {
            let room = machine.pipes.get(*at).is_some_and(|p| p.room() > 0);
            return if room { Ready::OUT.0 } else { 0 };
        }
        None => return libc::POLLNVAL as u32,
    };
    let ready = machine.stack.with(|engine| engine.ready(name).0).unwrap_or(Ready::ERR.0);
    // The kernel tells the names for ordinary data along (POLLRDNORM, POLLWRNORM); who does not ask does not see them.
    let normal = |bit: Ready, more: u32| if ready & bit.0 != 0 { more } else { 0 };
    ready | normal(Ready::IN, libc::EPOLLRDNORM as u32) | normal(Ready::OUT, libc::EPOLLWRNORM as u32)
}

/// `poll` of (descriptor, events); gives what each is ready for.
pub(crate) fn poll(machine: &mut Machine, fds: &[(i32, i16)], timeout_ms: i32) -> Attempt<Vec<i16>> {
    const ALWAYS: u32 = (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) as u32;
    let told: Vec<i16> = fds
        .iter()
        .map(|(fd, events)| match fd {
            0.. => (ready(machine, *fd) & (u32::from(*events as u16) | ALWAYS)) as i16,
            _ => 0,
        })
        .collect();
    if told.iter().any(|bits| *bits != 0) {
        return Attempt::Done(Ok(told));
    }
    match u64::try_from(timeout_ms) {
        Ok(0) => Attempt::Done(Ok(told)),
        Ok(ms) => Attempt::Wait { timeout: Some(Duration::from_millis(ms)), then: Ok(told) },
        Err(_) => Attempt::Wait { timeout: None, then: Ok(told) },
    }
}

/// `fcntl`.
pub(crate) fn fcntl(machine: &mut Machine, fd: i32, command: i32, arg: i32) -> Outcome<i32> {
    let entry = machine.entry(fd)?;
    match command {
        libc::F_GETFL => Ok(libc::O_RDWR | if entry.nonblocking { libc::O_NONBLOCK } else { 0 }),
        libc::F_SETFL => {
            entry.nonblocking = arg & libc::O_NONBLOCK != 0;
            Ok(0)
        }
        libc::F_GETFD | libc::F_SETFD => Ok(0),
        _ => Err(Errno(libc::EINVAL)),
    }
}

/// `ioctl` that tells a number.
pub(crate) fn ioctl(machine: &mut Machine, fd: i32, request: u64) -> Outcome<u32> {
    const SIOCOUTQNSD: u64 = 0x894b;
    const SIOCATMARK: u64 = 0x8905;
    let name = match &machine.entry(fd)?.object {
        Object::Tcp(sock) => sock.name(),
        Object::Udp(sock) => sock.name,
        Object::Epoll(_) | Object::PipeRead(_) | Object::PipeWrite(_) => return Err(Errno(libc::ENOTTY)),
    };
    let is_udp = datagrams::is_udp(machine, fd);
    let Some(name) = name else { return Ok(0) };
    machine.stack.with(|engine| match request {
        libc::FIONREAD if is_udp => Ok(engine.udp_next_len(name).unwrap_or(0)),
        libc::FIONREAD => Ok(engine.unread_bytes(name)),
        libc::TIOCOUTQ => Ok(engine.unacked_bytes(name)),
        SIOCOUTQNSD => Ok(engine.unsent_bytes(name)),
        SIOCATMARK => Ok(engine.tcp_at_mark(name).into()),
        _ => Err(Errno(libc::ENOTTY)),
    })?
}

/// `splice` between a pipe and a TCP socket.
pub(crate) fn splice(machine: &mut Machine, from: i32, to: i32, len: usize, flags: u32) -> Attempt<usize> {
    let nonblocking = flags & libc::SPLICE_F_NONBLOCK != 0;
    match splice_now(machine, from, to, len) {
        Err(AGAIN) if !nonblocking && !machine.is_nonblocking(from, 0) && !machine.is_nonblocking(to, 0) => {
            Attempt::Wait { timeout: None, then: Err(AGAIN) }
        }
        done => Attempt::Done(done),
    }
}

fn splice_now(machine: &mut Machine, from: i32, to: i32, len: usize) -> Outcome<usize> {
    let object = |machine: &mut Machine, fd: i32| {
        machine.entry(fd).map(|entry| match &entry.object {
            Object::PipeRead(at) => (Some(*at), None),
            Object::PipeWrite(at) => (None, Some(*at)),
            Object::Tcp(_) | Object::Udp(_) | Object::Epoll(_) => (None, None),
        })
    };
    let done = |attempt: Attempt<usize>| match attempt {
        Attempt::Done(outcome) | Attempt::Wait { then: outcome, .. } => outcome,
    };
    match (object(machine, from)?, object(machine, to)?) {
        ((Some(pipe), None), (None, None)) => {
            let data = machine.pipe(pipe)?.front(len);
            if data.is_empty() {
                return if machine.pipe(pipe)?.writers > 0 { Err(AGAIN) } else { Ok(0) };
            }
            let sent = done(write(machine, to, &data, libc::MSG_DONTWAIT, &mut 0))?;
            machine.pipe(pipe)?.take(sent);
            Ok(sent)
        }
        ((None, None), (None, Some(pipe))) => {
            let mut data = vec![0; len.min(machine.pipe(pipe)?.room())];
            if data.is_empty() {
                return Err(AGAIN);
            }
            let got = done(read(machine, from, &mut data, libc::MSG_DONTWAIT, &mut 0))?;
            machine.pipe(pipe)?.write(data.get(..got).unwrap_or(&[]))
        }
        _ => Err(Errno(libc::EINVAL)),
    }
}
