//! UDP sockets: the POSIX verbs over the engine's.

use base::{IpAddress, Port};
use engine::{UdpBindError, UdpConnectError, UdpOptions, UdpRecvError, UdpSendError, UdpTo};
use state::{Endpoint, SockRef};

use crate::address::Named;
use crate::errno::{self, AGAIN, Errno, Outcome};
use crate::fds::{Object, UdpSock};
use crate::machine::Machine;
use crate::world::Attempt;

/// Longest datagram.
const DATAGRAM_BYTES: usize = 65_535;

/// A fresh socket.
pub(crate) const fn fresh() -> UdpSock {
    let options = UdpOptions {
        dont_fragment: false,
        no_checksum: false,
        reuse_port: false,
        tos: 0,
        ttl: 0,
        segment: 0,
        merges: false,
        device: None,
        recv_bytes: 0,
        send_bytes: 0,
    };
    UdpSock { name: None, options }
}

/// Is `fd` a UDP socket?
pub(crate) fn is_udp(machine: &Machine, fd: i32) -> bool {
    machine.fds.get(fd).is_some_and(|entry| matches!(entry.object, Object::Udp(_)))
}

fn udp(machine: &mut Machine, fd: i32) -> Outcome<&mut UdpSock> {
    match &mut machine.entry(fd)?.object {
        Object::Udp(sock) => Ok(sock),
        Object::Tcp(_) | Object::Epoll(_) | Object::PipeRead(_) | Object::PipeWrite(_) => {
            Err(Errno(libc::ENOTSOCK))
        }
    }
}

/// `bind`.
pub(crate) fn bind(machine: &mut Machine, fd: i32, to: Endpoint) -> Outcome<i32> {
    let port = if to.port == Port(0) { machine.pick_port() } else { to.port };
    machine.stack.own_address(to.addr);
    let sock = udp(machine, fd)?;
    if sock.name.is_some() {
        return Err(Errno(libc::EINVAL));
    }
    let (local, options) = (Endpoint { addr: to.addr, port }, sock.options);
    let made = machine.stack.with(|engine| engine.udp_bind(local, &options))?;
    let name = made.map_err(|error| {
        Errno(match error {
            UdpBindError::Invalid => libc::EINVAL,
            UdpBindError::InUse => libc::EADDRINUSE,
            UdpBindError::NoRoom => libc::ENOBUFS,
        })
    })?;
    udp(machine, fd)?.name = Some(name);
    machine.subscribe(name, fd)?;
    Ok(0)
}

/// The socket's name; binds it if it is not.
fn bound(machine: &mut Machine, fd: i32) -> Outcome<SockRef> {
    if udp(machine, fd)?.name.is_none() {
        bind(machine, fd, Endpoint { addr: IpAddress::ANY, port: Port(0) })?;
    }
    udp(machine, fd)?.name.ok_or(Errno(libc::EINVAL))
}

/// `connect`.
pub(crate) fn connect(machine: &mut Machine, fd: i32, to: Named) -> Outcome<i32> {
    let name = bound(machine, fd)?;
    let remote = match to {
        Named::End(remote) => remote,
        Named::Unspecified => {
            machine.stack.with(|engine| engine.udp_disconnect(name, IpAddress::ANY))?;
            return Ok(0);
        }
    };
    let own = own_address(machine, name, remote.addr)?;
    let route = machine.stack.route(remote.addr);
    machine.stack.with(|engine| engine.udp_connect(name, own, remote, &route))?.map(|()| 0).map_err(|error| {
        Errno(match error {
            UdpConnectError::Invalid => libc::EINVAL,
            UdpConnectError::NoRoom => libc::ENOBUFS,
            UdpConnectError::Gone => libc::EBADF,
        })
    })
}

fn own_address(machine: &mut Machine, name: SockRef, remote: IpAddress) -> Outcome<IpAddress> {
    let named = machine.stack.with(|engine| engine.names(name))?.map(|(local, _)| local.addr);
    let own = machine.stack.own_for(remote);
    Ok(named.filter(|addr| !addr.is_any()).unwrap_or(own))
}

/// `sendto`; `to` is `None` on a connected socket.
pub(crate) fn send(
    machine: &mut Machine,
    fd: i32,
    data: &[u8],
    to: Option<Endpoint>,
    flags: i32,
) -> Attempt<usize> {
    match send_now(machine, fd, data, to) {
        Err(AGAIN) if !machine.is_nonblocking(fd, flags) => Attempt::Wait { timeout: None, then: Err(AGAIN) },
        done => Attempt::Done(done),
    }
}

fn send_now(machine: &mut Machine, fd: i32, data: &[u8], to: Option<Endpoint>) -> Outcome<usize> {
    let name = bound(machine, fd)?;
    let towards = to.map_or(IpAddress::from_v4(machine.stack.flags.local), |to| to.addr);
    let local = own_address(machine, name, towards)?;
    let to = to.map(|remote| UdpTo { remote, local, route: machine.stack.route(remote.addr) });
    machine.stack.with(|engine| engine.udp_send_to(name, data, to.as_ref()))?.map_err(|error| match error {
        UdpSendError::WouldBlock => AGAIN,
        UdpSendError::NotConnected => Errno(libc::EDESTADDRREQ),
        UdpSendError::Pipe => Errno(libc::EPIPE),
        UdpSendError::MessageSize => Errno(libc::EMSGSIZE),
        UdpSendError::Invalid => Errno(libc::EINVAL),
        UdpSendError::NoRoom | UdpSendError::NoFrames => Errno(libc::ENOBUFS),
        UdpSendError::Failed(error) => errno::of_sock(error),
        UdpSendError::Gone => Errno(libc::EBADF),
    })
}

/// What one `recvfrom` gives.
pub(crate) struct Received {
    pub(crate) bytes: Vec<u8>,
    /// Bytes of the datagram before it was cut.
    pub(crate) len: usize,
    pub(crate) from: Endpoint,
}

/// `recvfrom`.
pub(crate) fn recv(machine: &mut Machine, fd: i32, room: usize, flags: i32) -> Attempt<Received> {
    match recv_now(machine, fd, room, flags & libc::MSG_PEEK != 0) {
        Err(AGAIN) if !machine.is_nonblocking(fd, flags) => Attempt::Wait { timeout: None, then: Err(AGAIN) },
        done => Attempt::Done(done),
    }
}

fn recv_now(machine: &mut Machine, fd: i32, room: usize, peek: bool) -> Outcome<Received> {
    let name = bound(machine, fd)?;
    let mut bytes = vec![0; room.min(DATAGRAM_BYTES)];
    match machine.stack.with(|engine| engine.udp_recv_from(name, &mut bytes, peek))? {
        Ok(datagram) => {
            bytes.truncate(datagram.copied);
            Ok(Received { bytes, len: datagram.len as usize, from: datagram.from })
        }
        Err(UdpRecvError::Shut) => {
            let nobody = Endpoint { addr: IpAddress::ANY, port: Port(0) };
            Ok(Received { bytes: Vec::new(), len: 0, from: nobody })
        }
        Err(UdpRecvError::WouldBlock) => Err(AGAIN),
        Err(UdpRecvError::Failed(error)) => Err(errno::of_sock(error)),
        Err(UdpRecvError::Gone) => Err(Errno(libc::EBADF)),
    }
}
