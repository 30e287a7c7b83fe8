//! Connections that stay open over exec.
//!
//! Just before exec the connections that the next image gets move to this process's own lane, if they are on the lane of the process it was forked
//! from; each descriptor becomes a UNIX socket whose abstract name says what it stands for; and the connection to the keeper stays open, so
//! that the lane stays this process's. The next image finds the names among its descriptors and goes on with the lane; what it did not get is closed.
//!
//! Where the next image will not have this library, where this process has no lane to be had or listens on its own, and where stdio uses the
//! descriptor, the connection goes over to the kernel instead ([`entrust`]). Left out: connections that came by a wire, to such an image. Options that
//! `getsockopt` shows are the defaults afterwards; what they did to the connection stays.

use core::sync::atomic::{AtomicU32, Ordering};
use std::os::fd::{AsRawFd, RawFd};
use std::sync::MutexGuard;

use base::LaneId;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use state::{SockKind, SockRef};

use crate::interpose::real;
use crate::object::Handle;
use crate::reason::Reason;
use crate::sock::{Seat, Sock, State, flag};
use crate::table::{self, Entry};
use crate::view::View;
use crate::{entrust, family, home};

/// Names of this kind begin so.
const PREFIX: &str = "corelane-carried";
/// Tries for a name that nobody has.
const NAMES: u32 = 64;
/// What of a socket's flags the next image goes on with.
const KEPT: u32 = flag::NONBLOCK | flag::V6 | flag::V6ONLY | flag::ZEROCOPY;

/// Servers whose network process forbids itself all but a few system calls (seccomp(2)) and would be killed at its first use of a lane.
const CONFINED: [&str; 4] = ["sshd", "sshd-session", "sshd-auth", "vsftpd"];

/// Is this one of them?
pub(crate) fn confines_itself() -> bool {
    let program = std::fs::read_link("/proc/self/exe");
    let name = program.ok().and_then(|path| Some(path.file_name()?.to_str()?.to_owned()));
    name.is_some_and(|name| CONFINED.contains(&name.trim_end_matches(" (deleted)")))
}

/// What a descriptor stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mark {
    /// The connection to the keeper.
    pub(crate) link: RawFd,
    /// Region number at the keeper.
    pub(crate) region: u32,
    pub(crate) lane: LaneId,
    row: u32,
    generation: u32,
    flags: u32,
}

impl Mark {
    fn name(&self, number: u32) -> String {
        let Self { link, region, lane, row, generation, flags } = self;
        let pid = sys::process::pid();
        format!("{PREFIX}/{link}/{region}/{}/{row}/{generation}/{flags}/{pid}/{number}", lane.0)
    }

    fn parse(name: &[u8]) -> Option<Self> {
        let mut words = core::str::from_utf8(name).ok()?.strip_prefix(PREFIX)?.strip_prefix('/')?.split('/');
        let mark = Self {
            link: words.next()?.parse().ok()?,
            region: words.next()?.parse().ok()?,
            lane: LaneId(words.next()?.parse().ok()?),
            row: words.next()?.parse().ok()?,
            generation: words.next()?.parse().ok()?,
            flags: words.next()?.parse().ok()?,
        };
        (words.count() == 2).then_some(mark)
    }

    /// What `fd` stands for, if it is such a socket.
    pub(crate) fn of(fd: i32) -> Option<Self> {
        let address = rustix::net::getsockname(home::borrow(&fd)).ok()?;
        Self::parse(SocketAddrUnix::try_from(address).ok()?.abstract_name()?)
    }

    fn socket(&self) -> SockRef {
        SockRef::new(SockKind::Tcp, self.row, self.generation)
    }
}

/// Everything is ready for exec. Dropped when exec failed.
pub(crate) struct Passage {
    link: RawFd,
    _gates: Vec<MutexGuard<'static, ()>>,
}

impl Drop for Passage {
    fn drop(&mut self) {
        set_cloexec(self.link, true);
    }
}

fn set_cloexec(fd: RawFd, on: bool) {
    let flags = if on { rustix::io::FdFlags::CLOEXEC } else { rustix::io::FdFlags::empty() };
    // The descriptor is open.
    let _ = rustix::io::fcntl_setfd(home::borrow(&fd), flags);
}

/// Does `fd` stay open over exec?
pub(crate) fn stays_open(fd: i32) -> bool {
    rustix::io::fcntl_getfd(home::borrow(&fd)).is_ok_and(|f| !f.contains(rustix::io::FdFlags::CLOEXEC))
}

/// The descriptors that stay open over exec and are lanes' connections.
fn staying() -> Vec<(i32, Handle<Sock>)> {
    let all = (0..=table::highest()).filter_map(|fd| Some((fd, table::sock_as_is(fd)?)));
    all.filter(|(fd, sock)| sock.stream().is_some() && stays_open(*fd)).collect()
}

/// Makes ready for an exec that would keep connections open; `knows_us` tells whether the next image will have this library. `None`: there is
/// none that goes on with a lane.
pub(crate) fn prepare(knows_us: impl FnOnce() -> bool) -> Option<Passage> {
    let staying = staying();
    if staying.is_empty() {
        return None;
    }
    let own = if knows_us() { own_lane() } else { None };
    let link = home::link();
    let mut marked: Vec<(u64, i32)> = Vec::new();
    for (fd, sock) in &staying {
        let seat = own.and_then(|own| bring(sock.stream()?, sock, own));
        let Some(seat) = seat else {
            entrust::descriptor(*fd, Reason::Execed);
            continue;
        };
        let first = marked.iter().find(|(address, _)| *address == sock.address()).map(|(_, first)| *first);
        let done = match first {
            Some(first) => replace(first, *fd),
            None => mark(*fd, sock, seat, link),
        };
        if done {
            sock.put(flag::ODD_FD, true);
            marked.push((sock.address(), *fd));
        }
    }
    if marked.is_empty() {
        return None;
    }
    // No thread is inside a lane when it ends.
    let gates = View::in_mask(u32::MAX).map(View::close_gate).collect();
    set_cloexec(link, false);
    Some(Passage { link, _gates: gates })
}

/// The lane that goes on, unless this process listens on it.
fn own_lane() -> Option<&'static View> {
    let listens = |fd| {
        table::sock_as_is(fd).is_some_and(|sock| {
            sock.state() == State::Listening && sock.seat.get().is_some_and(|seat| seat.view.is_own())
        })
    };
    if (0..=table::highest()).any(listens) {
        return None;
    }
    home::lane_if_any()
}

/// The seat of `sock` on lane `own`; it moves there if it is the parent's.
fn bring(seat: Seat, sock: &Handle<Sock>, own: &'static View) -> Option<Seat> {
    if seat.view.is_own() {
        return (seat.view.number() == own.number()).then_some(seat);
    }
    let name = home::fetch(seat, own)?;
    let new = Seat { view: own, name };
    sock.seat.set(Some(new));
    own.subscribe(new, sock.object());
    if family::let_go(seat.view, seat.name) {
        let _ = seat.view.has_moved(seat.name);
    }
    Some(new)
}

/// Makes `fd` a socket whose name says what it stands for.
fn mark(fd: i32, sock: &Sock, seat: Seat, link: RawFd) -> bool {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let name = seat.name;
    let mark = Mark {
        link,
        region: seat.view.region,
        lane: seat.view.id,
        row: name.row(),
        generation: name.generation,
        flags: sock.those_of(KEPT),
    };
    let made = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let Ok(made) = made else { return false };
    let bound = (0..NAMES).any(|_| {
        let name = mark.name(NUMBER.fetch_add(1, Ordering::Relaxed));
        SocketAddrUnix::new_abstract_name(name.as_bytes())
            .is_ok_and(|address| rustix::net::bind(&made, &address).is_ok())
    });
    bound && replace(made.as_raw_fd(), fd)
}

/// Puts `with` in the place of the program's `fd`, which stands for the same.
fn replace(with: RawFd, fd: i32) -> bool {
    // SAFETY: no memory involved; both are open.
    (unsafe { real::dup2(with, fd) }) >= 0
}

/// Goes on with the lane and the connections that the image before this one left in `fds`.
pub(crate) fn resume(fds: &[i32]) {
    let marks: Vec<(i32, Mark)> = fds.iter().filter_map(|&fd| Some((fd, Mark::of(fd)?))).collect();
    let Some((_, first)) = marks.first() else { return };
    let Some(view) = home::resume(first) else {
        home::complain("connections that came over exec are lost: the keeper did not give their lane back");
        return;
    };
    let kept: Vec<SockRef> = marks.iter().map(|(_, mark)| mark.socket()).collect();
    view.clear(&kept);
    let mut taken: Vec<(SockRef, Handle<Sock>)> = Vec::new();
    for (fd, mark) in marks {
        let name = mark.socket();
        let known = taken.iter().find(|(other, _)| *other == name).map(|(_, sock)| sock.clone());
        let sock = known.unwrap_or_else(|| {
            let sock = Sock::new(State::Stream, mark.flags & KEPT | flag::PLACEHOLDER | flag::ODD_FD);
            let seat = Seat { view, name };
            sock.seat.set(Some(seat));
            if let Some(Some((local, remote))) = view.enter(|session| session.engine(|e| e.names(name))) {
                let mut inner = sock.inner();
                (inner.local, inner.remote) = (local, remote);
            }
            view.subscribe(seat, sock.object());
            taken.push((name, sock.clone()));
            sock
        });
        drop(table::replace(fd, Entry::Sock(sock)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_back_from_its_name() {
        let mark = Mark { link: 900, region: 2, lane: LaneId(15), row: 7, generation: 1 << 20, flags: 5 };
        let name = mark.name(3);
        assert!(name.len() < 107, "{name}");
        assert_eq!(Mark::parse(name.as_bytes()), Some(mark));
        assert_eq!(Mark::parse(b"corelane-carried/1/2/3"), None);
        assert_eq!(Mark::parse(b"other"), None);
    }
}
