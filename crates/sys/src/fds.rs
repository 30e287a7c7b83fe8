//! Owned file descriptors, messages that carry them between processes (SCM_RIGHTS over SEQPACKET), and eventfds.

use core::mem::MaybeUninit;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType,
};

use crate::Result;

/// Most descriptors in one message.
pub const FDS_MAX: usize = 64;

/// An open file descriptor, closed when dropped by the system call itself.
///
/// Not `std::os::fd::OwnedFd`: its drop calls libc's `close`, which the preload library interposes.
#[derive(Debug)]
pub struct Fd {
    raw: RawFd,
}

impl Fd {
    /// Takes over `raw`.
    ///
    /// # Safety
    /// `raw` is open and nobody else closes it.
    #[must_use]
    pub const unsafe fn from_raw(raw: RawFd) -> Self {
        Self { raw }
    }

    /// The number, which the caller must close from now on.
    #[must_use]
    pub fn into_raw(self) -> RawFd {
        let raw = self.raw;
        core::mem::forget(self);
        raw
    }

    /// Another descriptor for the same open file. CLOEXEC.
    ///
    /// # Errors
    /// EMFILE when the process has too many.
    pub fn duplicate(&self) -> Result<Self> {
        duplicate(self)
    }

    /// The same open file by a number of at least `least`, where the process's limit has room for that. Linux closes the files of a process that was killed from the
    /// highest number down.
    #[must_use]
    pub fn numbered_from(self, least: i32) -> Self {
        rustix::io::fcntl_dupfd_cloexec(&self, least).map(Self::from).unwrap_or(self)
    }
}

/// Another descriptor for the open file behind `fd`. CLOEXEC.
///
/// # Errors
/// EMFILE when the process has too many.
pub fn duplicate(fd: &impl AsFd) -> Result<Fd> {
    rustix::io::fcntl_dupfd_cloexec(fd, 0).map(Fd::from)
}

impl Drop for Fd {
    fn drop(&mut self) {
        // SAFETY: this value owns the descriptor and is going away.
        unsafe { rustix::io::close(self.raw) }
    }
}

impl AsFd for Fd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open for as long as `self` lives.
        unsafe { BorrowedFd::borrow_raw(self.raw) }
    }
}

impl AsRawFd for Fd {
    fn as_raw_fd(&self) -> RawFd {
        self.raw
    }
}

impl From<OwnedFd> for Fd {
    fn from(fd: OwnedFd) -> Self {
        Self { raw: fd.into_raw_fd() }
    }
}

impl From<Fd> for OwnedFd {
    /// For `std` types, outside the preload library only.
    fn from(fd: Fd) -> Self {
        // SAFETY: `into_raw` gave the ownership away.
        unsafe { Self::from_raw_fd(fd.into_raw()) }
    }
}

/// What [`recv`] got.
#[derive(Debug, Default)]
pub struct Received {
    /// Bytes of the message; 0: the other end is closed.
    pub bytes: usize,
    /// Descriptors that came with it, in order. CLOEXEC.
    pub fds: Vec<Fd>,
    /// Was the message longer than the buffer, or did it carry more than [`FDS_MAX`] descriptors?
    pub truncated: bool,
}

/// Sends one message with `fds` attached. No SIGPIPE.
///
/// # Errors
/// EINVAL for more than [`FDS_MAX`] fds; else what sendmsg gives (EAGAIN, EPIPE, EMSGSIZE ...).
pub fn send(socket: &impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
    if fds.len() > FDS_MAX {
        return Err(Errno::INVAL);
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(Errno::INVAL);
    }
    let parts = [IoSlice::new(bytes)];
    loop {
        match rustix::net::sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
}

/// Receives one message and its descriptors into `buffer`.
///
/// # Errors
/// What recvmsg gives (EAGAIN, ECONNRESET ...).
pub fn recv(socket: &impl AsFd, buffer: &mut [u8]) -> Result<Received> {
    recv_with(socket, buffer, RecvFlags::CMSG_CLOEXEC)
}

/// [`recv`] that does not wait, whatever the socket is set to.
///
/// # Errors
/// EAGAIN when there is no message; else as [`recv`].
pub fn recv_now(socket: &impl AsFd, buffer: &mut [u8]) -> Result<Received> {
    recv_with(socket, buffer, RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT)
}

fn recv_with(socket: &impl AsFd, buffer: &mut [u8], flags: RecvFlags) -> Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut parts = [IoSliceMut::new(buffer)];
    let message = loop {
        match rustix::net::recvmsg(socket, &mut parts, &mut control, flags) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut fds = Vec::new();
    for part in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = part {
            fds.extend(rights.map(Fd::from));
        }
    }
    let cut = ReturnFlags::TRUNC | ReturnFlags::CTRUNC;
    Ok(Received { bytes: message.bytes, fds, truncated: message.flags.intersects(cut) })
}

/// Who is at the other end of a UNIX socket, as the kernel saw it at connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerCred {
    /// Process.
    pub pid: u32,
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// The credentials of the other end (SO_PEERCRED).
///
/// # Errors
/// What getsockopt gives.
pub fn peer_cred(socket: &impl AsFd) -> Result<PeerCred> {
    let cred = rustix::net::sockopt::socket_peercred(socket)?;
    Ok(PeerCred { pid: cred.pid.as_raw_pid() as u32, uid: cred.uid.as_raw(), gid: cred.gid.as_raw() })
}

/// A descriptor for the process at the other end, as it was at connect (SO_PEERPIDFD; Linux 6.5). CLOEXEC.
///
/// # Errors
/// What getsockopt gives; ESRCH when the process is gone.
pub fn peer_pidfd(socket: &impl AsFd) -> Result<Fd> {
    let mut number: i32 = -1;
    crate::sockopt::get(socket, libc::SOL_SOCKET, libc::SO_PEERPIDFD, &mut number)?;
    if number < 0 {
        return Err(Errno::SRCH);
    }
    // SAFETY: the kernel has just opened it for us; nobody else owns it.
    Ok(unsafe { Fd::from_raw(number) })
}

/// A connected pair of SEQPACKET sockets. CLOEXEC, blocking.
///
/// # Errors
/// EMFILE and the like.
pub fn pair() -> Result<(Fd, Fd)> {
    let (a, b) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    Ok((Fd::from(a), Fd::from(b)))
}

/// A listening SEQPACKET socket with the abstract name `name`. CLOEXEC, not blocking.
///
/// # Errors
/// EADDRINUSE when the name is taken; ENAMETOOLONG.
pub fn listen_abstract(name: &[u8]) -> Result<Fd> {
    let address = SocketAddrUnix::new_abstract_name(name)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let fd = Fd::from(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?);
    rustix::net::bind(&fd, &address)?;
    rustix::net::listen(&fd, 128)?;
    Ok(fd)
}

/// The next connection of `listener`. CLOEXEC, blocking.
///
/// # Errors
/// EAGAIN when there is none.
pub fn accept(listener: &impl AsFd) -> Result<Fd> {
    rustix::net::accept_with(listener, SocketFlags::CLOEXEC).map(Fd::from)
}

/// A connection to the listener with the abstract name `name`. CLOEXEC, blocking.
///
/// # Errors
/// ECONNREFUSED when nobody listens.
pub fn connect_abstract(name: &[u8]) -> Result<Fd> {
    let address = SocketAddrUnix::new_abstract_name(name)?;
    let fd =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let fd = Fd::from(fd);
    rustix::net::connect(&fd, &address)?;
    Ok(fd)
}

/// The address that `path` names; one that begins with `@` is abstract.
fn unix_address(path: &str) -> Result<SocketAddrUnix> {
    match path.strip_prefix('@') {
        Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes()),
        None => SocketAddrUnix::new(path),
    }
}

fn seqpacket() -> Result<Fd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).map(Fd::from)
}

/// A listening SEQPACKET socket at `path`, or, after `@`, with an abstract name. A socket file on which nobody listens any more is
/// replaced. CLOEXEC, not blocking.
///
/// # Errors
/// EADDRINUSE while somebody listens there, or the file is no socket; else what bind gives.
pub fn listen_path(path: &str) -> Result<Fd> {
    let address = unix_address(path)?;
    let fd = seqpacket()?;
    match rustix::net::bind(&fd, &address) {
        Err(Errno::ADDRINUSE) if connect_path(path).err() == Some(Errno::CONNREFUSED) => {
            remove_path(path)?;
            rustix::net::bind(&fd, &address)?;
        }
        done => done?,
    }
    rustix::net::listen(&fd, 128)?;
    Ok(fd)
}

/// Removes the file of a socket that listened at `path`; an abstract name goes by itself.
///
/// # Errors
/// What unlink gives.
pub fn remove_path(path: &str) -> Result<()> {
    if path.starts_with('@') { Ok(()) } else { rustix::fs::unlink(path) }
}

/// A connection to the SEQPACKET listener at `path`, or, after `@`, with an abstract name. CLOEXEC, not blocking.
///
/// # Errors
/// ENOENT, ECONNREFUSED when nobody listens; EAGAIN when too many wait there.
pub fn connect_path(path: &str) -> Result<Fd> {
    let fd = seqpacket()?;
    rustix::net::connect(&fd, &unix_address(path)?)?;
    Ok(fd)
}

/// [`accept`], not blocking.
///
/// # Errors
/// EAGAIN when there is none.
pub fn accept_nonblocking(listener: &impl AsFd) -> Result<Fd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::accept_with(listener, flags).map(Fd::from)
}

/// An eventfd with count 0. CLOEXEC, not blocking.
///
/// # Errors
/// EMFILE and the like.
pub fn event() -> Result<Fd> {
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map(Fd::from)
}

/// A new, empty file at `path`, to write; one that exists is emptied. Only its owner may read it. CLOEXEC.
///
/// # Errors
/// What open gives.
pub fn create_file(path: &str) -> Result<Fd> {
    use rustix::fs::{Mode, OFlags, open};
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    open(path, flags, Mode::RUSR | Mode::WUSR).map(Fd::from)
}

/// Adds 1 to an eventfd: it polls readable. A full counter is as good as signalled.
///
/// # Errors
/// EBADF, EINVAL when it is no eventfd.
pub fn event_signal(fd: &impl AsFd) -> Result<()> {
    match rustix::io::write(fd, &1_u64.to_ne_bytes()) {
        Ok(_) | Err(Errno::AGAIN) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Takes the count of an eventfd and sets it to 0.
///
/// # Errors
/// EBADF, EINVAL when it is no eventfd.
pub fn event_clear(fd: &impl AsFd) -> Result<u64> {
    let mut count = [0_u8; 8];
    match rustix::io::read(fd, &mut count) {
        Ok(_) => Ok(u64::from_ne_bytes(count)),
        Err(Errno::AGAIN) => Ok(0),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_carries_bytes_and_descriptors() {
        let (a, b) = pair().unwrap();
        let events: Vec<Fd> = (0..FDS_MAX).map(|_| event().unwrap()).collect();
        let borrowed: Vec<BorrowedFd<'_>> = events.iter().map(AsFd::as_fd).collect();
        send(&a, b"hello", &borrowed).unwrap();
        let mut buffer = [0; 64];
        let got = recv(&b, &mut buffer).unwrap();
        assert_eq!((got.bytes, got.fds.len(), got.truncated), (5, FDS_MAX, false));
        event_signal(got.fds.last().unwrap()).unwrap();
        assert_eq!(event_clear(events.last().unwrap()).unwrap(), 1);
        assert_eq!(event_clear(&events[0]).unwrap(), 0);
        let flags = rustix::io::fcntl_getfd(&got.fds[0]).unwrap();
        assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    }

    #[test]
    fn too_many_descriptors_are_refused_and_a_long_message_is_said_to_be_cut() {
        let (a, b) = pair().unwrap();
        let event = event().unwrap();
        let many = vec![event.as_fd(); FDS_MAX + 1];
        assert_eq!(send(&a, b"x", &many), Err(Errno::INVAL));
        send(&a, b"longer than four", &[]).unwrap();
        let got = recv(&b, &mut [0; 4]).unwrap();
        assert_eq!((got.bytes, got.truncated), (4, true));
    }

    #[test]
    fn a_closed_end_is_seen_and_a_peer_is_known() {
        let name = format!("corelane-sys-test-{}", std::process::id());
        let listener = listen_abstract(name.as_bytes()).unwrap();
        let client = connect_abstract(name.as_bytes()).unwrap();
        let server = accept(&listener).unwrap();
        assert_eq!(peer_cred(&server).unwrap().pid, std::process::id());
        drop(client);
        assert_eq!(recv(&server, &mut [0; 4]).unwrap().bytes, 0);
        assert_eq!(send(&server, b"x", &[]), Err(Errno::PIPE));
    }

    #[test]
    fn a_dropped_descriptor_is_closed() {
        let (a, b) = pair().unwrap();
        let raw = a.as_raw_fd();
        let copy = a.duplicate().unwrap();
        assert_ne!(copy.as_raw_fd(), raw);
        drop((a, copy));
        assert_eq!(recv(&b, &mut [0; 1]).unwrap().bytes, 0);
    }
}
