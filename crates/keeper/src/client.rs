//! One connection of a process of the family: who is at the other end, and messages whole or not at all.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::os::fd::{AsFd, BorrowedFd};

use base::limits::KEEPER_MESSAGE_BYTES;
use control::proto::Reply;
use rustix::fs::OFlags;
use rustix::io::Errno;
use sys::fds::{self, Fd, Received};

use crate::meeting::namespace_of;
use crate::rules::End;

/// One connected process.
pub(crate) struct Client {
    socket: Fd,
    /// Polls readable once the process is dead.
    pidfd: Fd,
    /// Its process id, as the kernel saw it when it connected.
    pub(crate) pid: u32,
    /// Its user then.
    pub(crate) uid: u32,
    /// Did it show the token?
    pub(crate) welcome: bool,
    /// May it ask for the description without the token: root, or the user whose keeper this is?
    pub(crate) may_look: bool,
    /// What it last said about its sockets.
    pub(crate) reasons: String,
    /// What the policy refused it, for `explain`.
    pub(crate) refusals: Vec<String>,
    /// The listener it gave back last, and the kernel's sockets behind it.
    pub(crate) left: Option<(End, BTreeSet<u64>)>,
    /// Is it in the keeper's network namespace? `None`: nobody asked yet.
    inside: Cell<Option<bool>>,
}

/// A message that arrived.
pub(crate) struct Incoming {
    pub(crate) bytes: Vec<u8>,
    pub(crate) fds: Vec<Fd>,
}

impl Client {
    /// The process behind a new connection; `owner` is the user whose run it is, if that is not ours.
    pub(crate) fn new(socket: Fd, owner: Option<u32>) -> Result<Self, Errno> {
        let cred = fds::peer_cred(&socket)?;
        let pidfd = sys::process::open(cred.pid)?;
        // The keeper never waits for a program: one that does not read its answers is dropped.
        let flags = rustix::fs::fcntl_getfl(&socket)?;
        rustix::fs::fcntl_setfl(&socket, flags | OFlags::NONBLOCK)?;
        Ok(Self {
            socket,
            pidfd,
            pid: cred.pid,
            uid: cred.uid,
            welcome: false,
            may_look: cred.uid == 0
                || Some(cred.uid) == owner
                || cred.uid == rustix::process::geteuid().as_raw(),
            reasons: String::new(),
            refusals: Vec::new(),
            left: None,
            inside: Cell::new(None),
        })
    }

    /// What to poll: the messages, and the death of the process.
    pub(crate) fn poll_fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.socket.as_fd(), self.pidfd.as_fd()]
    }

    /// Is it in the keeper's network namespace, as it was when this was first asked? One that cannot be looked at is not.
    pub(crate) fn is_inside(&self) -> bool {
        let look = || {
            let theirs = namespace_of(&format!("/proc/{}/ns/net", self.pid));
            theirs.is_some() && theirs == namespace_of("/proc/self/ns/net")
        };
        let inside = self.inside.get().unwrap_or_else(look);
        self.inside.set(Some(inside));
        inside
    }

    /// Is the process dead?
    pub(crate) fn is_dead(&self) -> bool {
        !sys::process::alive(&self.pidfd).unwrap_or(false)
    }

    /// The next message. `Ok(None)`: none yet. An error: the connection is over.
    pub(crate) fn receive(&self) -> Result<Option<Incoming>, Errno> {
        let mut buffer = vec![0; KEEPER_MESSAGE_BYTES];
        match fds::recv(&self.socket, &mut buffer) {
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(errno),
            Ok(Received { bytes: 0, .. }) => Err(Errno::CONNRESET),
            Ok(Received { truncated: true, .. }) => Err(Errno::MSGSIZE),
            Ok(got) => {
                buffer.truncate(got.bytes);
                Ok(Some(Incoming { bytes: buffer, fds: got.fds }))
            }
        }
    }

    /// Sends `reply` with `fds`. An error: the connection is over.
    pub(crate) fn send(&self, reply: &Reply<'_>, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let mut buffer = [0; KEEPER_MESSAGE_BYTES];
        let bytes = reply.encode(&mut buffer).map_err(|_| Errno::MSGSIZE)?;
        fds::send(&self.socket, buffer.get(..bytes).unwrap_or(&[]), fds)
    }
}

/// Why a request is refused: the errno for the caller, and words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) errno: Errno,
    pub(crate) text: String,
}

impl Refusal {
    pub(crate) fn new(errno: Errno, text: impl Into<String>) -> Self {
        Self { errno, text: text.into() }
    }
}
