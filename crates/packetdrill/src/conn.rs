//! TCP sockets: the POSIX verbs over the engine's.

use base::{IpAddress, Port};
use engine::{AcceptError, ConnectError, Engine, How, ListenError, ShutdownError, State};
use state::{Endpoint, SockRef, TcpOptions};

use crate::address::Named;
use crate::errno::{self, AGAIN, Errno, Outcome};
use crate::fast_open::{self, FastOpen};
use crate::fds::{Entry, Object, Role, TcpSock};
use crate::machine::Machine;
use crate::world::Attempt;

/// A fresh socket.
pub(crate) fn fresh(machine: &Machine) -> TcpSock {
    let flags = &machine.stack.flags;
    let options =
        TcpOptions { rcv_buf_bytes: flags.rcv_buf, snd_buf_bytes: flags.snd_buf, ..TcpOptions::default() };
    let fast = FastOpen::default();
    TcpSock { role: Role::Fresh, options, bound: None, fast, rcv_timeout: None, snd_timeout: None }
}

/// The TCP socket `fd`.
pub(crate) fn tcp(machine: &mut Machine, fd: i32) -> Outcome<&mut TcpSock> {
    match &mut machine.entry(fd)?.object {
        Object::Tcp(sock) => Ok(sock),
        Object::Udp(_) => Err(Errno(libc::EOPNOTSUPP)),
        Object::Epoll(_) | Object::PipeRead(_) | Object::PipeWrite(_) => Err(Errno(libc::ENOTSOCK)),
    }
}

/// The name of connection `fd`; `otherwise` if it is none.
fn stream(machine: &mut Machine, fd: i32, otherwise: i32) -> Outcome<SockRef> {
    match tcp(machine, fd)?.role {
        Role::Stream { name, .. } => Ok(name),
        Role::Fresh | Role::Listener(_) => Err(Errno(otherwise)),
    }
}

/// `bind`.
pub(crate) fn bind(machine: &mut Machine, fd: i32, to: Endpoint) -> Outcome<i32> {
    let port = if to.port == Port(0) { machine.pick_port() } else { to.port };
    machine.stack.own_address(to.addr);
    let sock = tcp(machine, fd)?;
    if sock.bound.is_some() || sock.role != Role::Fresh {
        return Err(Errno(libc::EINVAL));
    }
    sock.bound = Some(Endpoint { addr: to.addr, port });
    Ok(0)
}

/// `listen`.
pub(crate) fn listen(machine: &mut Machine, fd: i32, backlog: i32) -> Outcome<i32> {
    let picked = machine.pick_port();
    let sock = tcp(machine, fd)?;
    let local = sock.bound.unwrap_or(Endpoint { addr: IpAddress::ANY, port: picked });
    let (role, options) = (sock.role, sock.options);
    let backlog = backlog.max(0) as u32;
    match role {
        Role::Stream { .. } => return Err(Errno(libc::EINVAL)),
        Role::Listener(name) => {
            machine.stack.with(|engine| engine.tcp_set_backlog(name, backlog))?;
        }
        Role::Fresh => {
            let made = machine.stack.with(|engine| engine.tcp_listen(local, backlog, &options))?;
            let name = made.map_err(|error| {
                Errno(match error {
                    ListenError::Invalid => libc::EINVAL,
                    ListenError::InUse => libc::EADDRINUSE,
                    ListenError::NoRoom => libc::ENOBUFS,
                })
            })?;
            tcp(machine, fd)?.role = Role::Listener(name);
            machine.subscribe(name, fd)?;
            fast_open::tell(machine, fd)?;
        }
    }
    Ok(0)
}

/// `accept`: the new descriptor, and the peer.
pub(crate) fn accept(machine: &mut Machine, fd: i32) -> Attempt<(i32, Endpoint)> {
    match accept_now(machine, fd) {
        Err(AGAIN) if !machine.is_nonblocking(fd, 0) => {
            let timeout = tcp(machine, fd).ok().and_then(|sock| sock.rcv_timeout);
            Attempt::Wait { timeout, then: Err(AGAIN) }
        }
        done => Attempt::Done(done),
    }
}

fn accept_now(machine: &mut Machine, fd: i32) -> Outcome<(i32, Endpoint)> {
    let Role::Listener(listener) = tcp(machine, fd)?.role else { return Err(Errno(libc::EINVAL)) };
    let accepted = machine.stack.with(|engine| engine.tcp_accept(listener))?.map_err(|error| {
        Errno(match error {
            AcceptError::WouldBlock => libc::EAGAIN,
            AcceptError::Gone => libc::EINVAL,
        })
    })?;
    let name = accepted.sock;
    let options = machine.stack.with(|engine| engine.tcp_options(name))?.unwrap_or_default();
    let v6 = machine.entry(fd)?.v6;
    let listener = tcp(machine, fd)?;
    let role = Role::Stream { name, connecting: false };
    let sock = TcpSock { role, options, bound: Some(accepted.local), ..listener.clone() };
    let made = machine.fds.add(Entry { object: Object::Tcp(sock), nonblocking: false, v6 });
    machine.subscribe(name, made)?;
    Ok((made, accepted.remote))
}

/// `connect`.
pub(crate) fn connect(machine: &mut Machine, fd: i32, to: Named) -> Attempt<i32> {
    let remote = match to {
        Named::End(remote) => remote,
        Named::Unspecified => return Attempt::Done(disconnect(machine, fd)),
    };
    let nonblocking = machine.is_nonblocking(fd, 0);
    let sock = match tcp(machine, fd) {
        Ok(sock) => sock,
        Err(errno) => return Attempt::Done(Err(errno)),
    };
    let (role, timeout) = (sock.role, sock.snd_timeout);
    match role {
        Role::Listener(_) => Attempt::Done(Err(Errno(libc::EISCONN))),
        Role::Fresh => {
            let fast = tcp(machine, fd).is_ok_and(|sock| sock.fast.connect);
            match begin(machine, fd, remote, fast) {
                Err(errno) => return Attempt::Done(Err(errno)),
                // The SYN waits for the first write.
                Ok(true) => return Attempt::Done(Ok(0)),
                Ok(false) => {}
            }
            if nonblocking {
                return Attempt::Done(Err(Errno(libc::EINPROGRESS)));
            }
            Attempt::Wait { timeout, then: Err(Errno(libc::EINPROGRESS)) }
        }
        Role::Stream { connecting: false, .. } => Attempt::Done(Err(Errno(libc::EISCONN))),
        Role::Stream { name, connecting: true } => match finish(machine, fd, name) {
            Err(AGAIN) if nonblocking => Attempt::Done(Err(Errno(libc::EALREADY))),
            Err(AGAIN) => Attempt::Wait { timeout, then: Err(Errno(libc::EINPROGRESS)) },
            done => Attempt::Done(done),
        },
    }
}

/// Begins a connection, if `fast` with fast open. True: its SYN waits for the first write, which goes with it.
pub(crate) fn begin(machine: &mut Machine, fd: i32, remote: Endpoint, fast: bool) -> Outcome<bool> {
    let picked = machine.pick_port();
    let own = machine.stack.own_for(remote.addr);
    let route = machine.stack.route(remote.addr);
    let sock = tcp(machine, fd)?;
    let mut local = sock.bound.unwrap_or(Endpoint { addr: own, port: picked });
    if local.addr.is_any() {
        local.addr = own;
    }
    let options = sock.options;
    let made = machine.stack.with(|engine| match fast {
        true => engine.tcp_connect_fast(local, remote, &route, &options),
        false => engine.tcp_connect(local, remote, &route, &options).map(|name| (name, false)),
    })?;
    let (name, waits) = made.map_err(|error| {
        Errno(match error {
            ConnectError::Invalid => libc::EINVAL,
            ConnectError::InUse => libc::EADDRNOTAVAIL,
            ConnectError::NoRoom => libc::ENOBUFS,
            ConnectError::HostUnreachable => libc::EHOSTUNREACH,
        })
    })?;
    let sock = tcp(machine, fd)?;
    sock.role = Role::Stream { name, connecting: !waits };
    sock.bound = Some(local);
    machine.subscribe(name, fd).map(|()| waits)
}

/// How the attempt to connect ended; EAGAIN: not yet.
fn finish(machine: &mut Machine, fd: i32, name: SockRef) -> Outcome<i32> {
    let (state, error) = machine
        .stack
        .with(|engine| (engine.tcp_info(name).map(|info| info.state), engine.take_error(name)))?;
    if let Some(error) = error {
        // As on Linux: the socket may be used for another attempt.
        machine.stack.with(|engine| engine.close(name))?;
        tcp(machine, fd)?.role = Role::Fresh;
        return Err(errno::of_sock(error));
    }
    match state {
        Some(State::SynSent | State::SynRcvd) => Err(AGAIN),
        Some(_) => {
            tcp(machine, fd)?.role = Role::Stream { name, connecting: false };
            Ok(0)
        }
        None => Err(Errno(libc::ECONNABORTED)),
    }
}

/// `connect` with AF_UNSPEC.
fn disconnect(machine: &mut Machine, fd: i32) -> Outcome<i32> {
    if let Some(name) = tcp(machine, fd)?.name() {
        machine.stack.with(|engine| engine.abort(name))?;
    }
    let sock = tcp(machine, fd)?;
    sock.role = Role::Fresh;
    Ok(0)
}

/// `shutdown`.
pub(crate) fn shutdown(machine: &mut Machine, fd: i32, how: i32) -> Outcome<i32> {
    let how = match how {
        libc::SHUT_RD => How::Read,
        libc::SHUT_WR => How::Write,
        libc::SHUT_RDWR => How::Both,
        _ => return Err(Errno(libc::EINVAL)),
    };
    if let Role::Listener(name) = tcp(machine, fd)?.role {
        // Linux: a listener stops listening, and the socket may listen again.
        machine.stack.with(|engine| engine.close(name))?;
        tcp(machine, fd)?.role = Role::Fresh;
        return Ok(0);
    }
    let name = stream(machine, fd, libc::ENOTCONN)?;
    machine.stack.with(|engine| engine.shutdown(name, how))?.map(|()| 0).map_err(|error| {
        Errno(match error {
            ShutdownError::NotConnected | ShutdownError::Gone => libc::ENOTCONN,
        })
    })
}

/// `send` of all of `data`, of which `done` bytes were taken by earlier attempts.
pub(crate) fn send(
    machine: &mut Machine,
    fd: i32,
    data: &[u8],
    flags: i32,
    done: &mut usize,
) -> Attempt<usize> {
    let more = flags & libc::MSG_MORE != 0;
    let urgent = flags & libc::MSG_OOB != 0;
    let name = match stream(machine, fd, libc::EPIPE) {
        Ok(name) => name,
        Err(errno) => return Attempt::Done(Err(errno)),
    };
    loop {
        let rest = data.get(*done..).unwrap_or(&[]);
        let write = |engine: &mut Engine<'_>| match urgent {
            true => engine.tcp_send_urgent(name, rest, more),
            false => engine.tcp_send(name, rest, more),
        };
        let sent = match machine.stack.with(write) {
            Ok(sent) => sent.map_err(errno::of_send),
            Err(errno) => Err(errno),
        };
        match sent {
            Ok(n) => *done += n,
            Err(AGAIN) => {}
            Err(errno) if *done == 0 => return Attempt::Done(Err(errno)),
            Err(_) => return Attempt::Done(Ok(*done)),
        }
        if *done >= data.len() {
            return Attempt::Done(Ok(*done));
        }
        if sent == Err(AGAIN) || sent == Ok(0) {
            let so_far = if *done == 0 { Err(AGAIN) } else { Ok(*done) };
            if machine.is_nonblocking(fd, flags) {
                return Attempt::Done(so_far);
            }
            let timeout = tcp(machine, fd).ok().and_then(|sock| sock.snd_timeout);
            return Attempt::Wait { timeout, then: so_far };
        }
    }
}

/// `recv` into `buf`, of which `done` bytes were filled by earlier attempts (MSG_WAITALL).
pub(crate) fn recv(
    machine: &mut Machine,
    fd: i32,
    buf: &mut [u8],
    flags: i32,
    done: &mut usize,
) -> Attempt<usize> {
    if *done > 0 && is_at_mark(machine, fd) {
        return Attempt::Done(Ok(*done));
    }
    let got = recv_now(machine, fd, buf.get_mut(*done..).unwrap_or(&mut []), flags);
    let all = flags & libc::MSG_WAITALL != 0 && flags & libc::MSG_PEEK == 0;
    match got {
        Ok(n) => {
            *done += n;
            if n == 0 || !all || *done >= buf.len() {
                return Attempt::Done(Ok(*done));
            }
        }
        Err(AGAIN) => {}
        Err(errno) if *done == 0 => return Attempt::Done(Err(errno)),
        Err(_) => return Attempt::Done(Ok(*done)),
    }
    let so_far = if *done == 0 { Err(AGAIN) } else { Ok(*done) };
    // Urgent data are not waited for.
    if machine.is_nonblocking(fd, flags) || flags & libc::MSG_OOB != 0 {
        return Attempt::Done(so_far);
    }
    let timeout = tcp(machine, fd).ok().and_then(|sock| sock.rcv_timeout);
    Attempt::Wait { timeout, then: so_far }
}

/// Is the urgent byte the next one?
fn is_at_mark(machine: &mut Machine, fd: i32) -> bool {
    let name = stream(machine, fd, libc::ENOTCONN);
    name.is_ok_and(|name| machine.stack.with(|engine| engine.tcp_at_mark(name)) == Ok(true))
}

fn recv_now(machine: &mut Machine, fd: i32, buf: &mut [u8], flags: i32) -> Outcome<usize> {
    let name = stream(machine, fd, libc::ENOTCONN)?;
    let peek = flags & libc::MSG_PEEK != 0;
    if flags & libc::MSG_OOB != 0 {
        let byte = machine.stack.with(|engine| engine.tcp_recv_urgent(name, peek))?;
        let Some(byte) = byte.map_err(errno::of_urgent)? else { return Ok(0) };
        let Some(to) = buf.first_mut() else { return Ok(0) };
        *to = byte;
        return Ok(1);
    }
    let got = if flags & libc::MSG_TRUNC != 0 && !peek {
        let len = buf.len();
        machine.stack.with(|engine| engine.tcp_recv_skip(name, len))?
    } else {
        machine.stack.with(|engine| engine.tcp_recv(name, buf, peek))?
    };
    got.map_err(errno::of_recv)
}
