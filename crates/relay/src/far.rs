//! Sockets on the far side, by libc's calls: those are what the preload library takes over. (rustix makes its system calls itself.)

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use rustix::io::Errno;

/// Most bytes of a socket address.
const ADDRESS_MAX: usize = size_of::<libc::sockaddr_storage>();

/// A socket address as the calls pass it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address(pub(crate) Vec<u8>);

/// A TCP socket of this process.
#[derive(Debug)]
pub(crate) struct Far(OwnedFd);

fn checked(result: libc::c_int) -> Result<libc::c_int, Errno> {
    if result < 0 { Err(last()) } else { Ok(result) }
}

fn counted(result: libc::ssize_t) -> Result<usize, Errno> {
    usize::try_from(result).map_err(|_| last())
}

fn last() -> Errno {
    Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(Errno::IO)
}

type NameCall = unsafe extern "C" fn(libc::c_int, *mut libc::sockaddr, *mut libc::socklen_t) -> libc::c_int;

impl Far {
    /// A new socket, non-blocking.
    pub(crate) fn new(family: i32) -> Result<Self, Errno> {
        let kind = libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: no memory involved.
        let fd = checked(unsafe { libc::socket(family, kind, libc::IPPROTO_TCP) })?;
        // SAFETY: just opened, and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    pub(crate) fn bind(&self, address: &Address) -> Result<(), Errno> {
        let Address(bytes) = address;
        // SAFETY: the address is read only, for its length.
        checked(unsafe { libc::bind(self.fd(), bytes.as_ptr().cast(), bytes.len() as u32) }).map(drop)
    }

    pub(crate) fn listen(&self, backlog: i32) -> Result<(), Errno> {
        // SAFETY: no memory involved.
        checked(unsafe { libc::listen(self.fd(), backlog) }).map(drop)
    }

    pub(crate) fn connect(&self, address: &Address) -> Result<(), Errno> {
        let Address(bytes) = address;
        // SAFETY: the address is read only, for its length.
        checked(unsafe { libc::connect(self.fd(), bytes.as_ptr().cast(), bytes.len() as u32) }).map(drop)
    }

    /// The next connection, non-blocking, and its peer.
    pub(crate) fn accept(&self) -> Result<(Self, Address), Errno> {
        let mut bytes = vec![0_u8; ADDRESS_MAX];
        let mut length = ADDRESS_MAX as libc::socklen_t;
        let flags = libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: `bytes` is writable for `length`.
        let fd =
            checked(unsafe { libc::accept4(self.fd(), bytes.as_mut_ptr().cast(), &raw mut length, flags) })?;
        bytes.truncate(length as usize);
        // SAFETY: just opened, and nobody else's.
        Ok((Self(unsafe { OwnedFd::from_raw_fd(fd) }), Address(bytes)))
    }

    fn name(&self, call: NameCall) -> Result<Address, Errno> {
        let mut bytes = vec![0_u8; ADDRESS_MAX];
        let mut length = ADDRESS_MAX as libc::socklen_t;
        // SAFETY: `bytes` is writable for `length`; `call` is getsockname or getpeername.
        checked(unsafe { call(self.fd(), bytes.as_mut_ptr().cast(), &raw mut length) })?;
        bytes.truncate(length as usize);
        Ok(Address(bytes))
    }

    pub(crate) fn local(&self) -> Result<Address, Errno> {
        self.name(libc::getsockname)
    }

    pub(crate) fn peer(&self) -> Result<Address, Errno> {
        self.name(libc::getpeername)
    }

    pub(crate) fn set_option(&self, level: i32, name: i32, value: &[u8]) -> Result<(), Errno> {
        // SAFETY: the value is read only, for its length.
        checked(unsafe {
            libc::setsockopt(self.fd(), level, name, value.as_ptr().cast(), value.len() as u32)
        })
        .map(drop)
    }

    /// Reads an option into `value`; gives how much of it was written.
    pub(crate) fn option(&self, level: i32, name: i32, value: &mut [u8]) -> Result<usize, Errno> {
        let mut length = value.len() as libc::socklen_t;
        // SAFETY: `value` is writable for `length`.
        checked(unsafe {
            libc::getsockopt(self.fd(), level, name, value.as_mut_ptr().cast(), &raw mut length)
        })?;
        Ok((length as usize).min(value.len()))
    }

    /// The pending error, taken.
    pub(crate) fn error(&self) -> Option<Errno> {
        let mut value = [0_u8; 4];
        let read = self.option(libc::SOL_SOCKET, libc::SO_ERROR, &mut value);
        let number = if read.is_ok() { i32::from_ne_bytes(value) } else { 0 };
        (number != 0).then(|| Errno::from_raw_os_error(number))
    }

    pub(crate) fn receive(&self, into: &mut [u8]) -> Result<usize, Errno> {
        // SAFETY: `into` is writable for its length.
        counted(unsafe { libc::recv(self.fd(), into.as_mut_ptr().cast(), into.len(), libc::MSG_DONTWAIT) })
    }

    pub(crate) fn send(&self, from: &[u8]) -> Result<usize, Errno> {
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: `from` is only read.
        counted(unsafe { libc::send(self.fd(), from.as_ptr().cast(), from.len(), flags) })
    }

    pub(crate) fn shutdown(&self, how: i32) -> Result<(), Errno> {
        // SAFETY: no memory involved.
        checked(unsafe { libc::shutdown(self.fd(), how) }).map(drop)
    }

    /// Closes with a reset.
    pub(crate) fn abort(self) {
        let linger = [1_i32, 0].map(i32::to_ne_bytes).concat();
        // What cannot be reset is closed.
        let _ = self.set_option(libc::SOL_SOCKET, libc::SO_LINGER, &linger);
    }
}

/// An epoll set by libc's calls, in which far sockets may be.
#[derive(Debug)]
pub(crate) struct Watch(OwnedFd);

impl Watch {
    pub(crate) fn new() -> Result<Self, Errno> {
        // SAFETY: no memory involved.
        let fd = checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: just opened, and nobody else's.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Events of `fd` come under `key`; `edges`: each change once, in either direction.
    pub(crate) fn add(&self, fd: RawFd, key: u64, edges: bool) -> Result<(), Errno> {
        let all = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        let events = if edges { all } else { libc::EPOLLIN };
        let mut event = libc::epoll_event { events: events as u32, u64: key };
        // SAFETY: the event is alive during the call.
        checked(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) })
            .map(drop)
    }

    /// Puts the keys of what happened into `keys` with their events; waits for something if `wait`.
    pub(crate) fn wait(&self, keys: &mut Vec<(u64, u32)>, wait: bool) -> Result<(), Errno> {
        const EVENTS: usize = 64;
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; EVENTS];
        let limit = if wait { -1 } else { 0 };
        // SAFETY: `events` is writable for EVENTS entries.
        let got = checked(unsafe {
            libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), EVENTS as i32, limit)
        })?;
        keys.extend(events.iter().take(got as usize).map(|event| (event.u64, event.events)));
        Ok(())
    }

    /// No more events of `fd`.
    pub(crate) fn remove(&self, fd: RawFd) {
        let mut event = libc::epoll_event { events: 0, u64: 0 };
        // SAFETY: the event is alive during the call. What is not in the set needs no removing.
        unsafe { libc::epoll_ctl(self.0.as_raw_fd(), libc::EPOLL_CTL_DEL, fd, &raw mut event) };
    }
}
