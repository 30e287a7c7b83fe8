//! The control socket of a wire to another program: a UNIX SEQPACKET socket at a path that both know, on which the server
//! listens. It stays open while the wire is in use; its end is the wire's.

use std::os::fd::{AsFd, BorrowedFd};

use region::FrameArea;
use rustix::io::Errno;
use sys::fds::{self, Fd};
use sys::memif::{Ring, Role, WireShape};

use super::handshake::{End, Handshake, Out, Step};
use super::proto::{MESSAGE_BYTES, Message};
use super::{MemifError, MemifParts, MemifPort, ServedParts};
use crate::PortSetup;

/// Messages taken in one call.
const MESSAGES_MAX: usize = 64;

/// Whom to connect to, and as what.
#[derive(Clone, Debug)]
pub struct MemifSpec {
    /// The server listens, the client connects and owns the memory.
    pub role: Role,
    /// Path of the socket; one that begins with `@` is abstract.
    pub path: String,
    /// Number of the interface at that socket.
    pub id: u32,
    /// Shared secret, at most 24 bytes; empty: none.
    pub secret: String,
    /// As client: the rings and buffers to make.
    pub shape: WireShape,
}

/// A wire to another kind of program, ready for packets.
#[derive(Debug)]
pub enum Wire {
    /// On our memory.
    Client(MemifParts),
    /// On the peer's memory.
    Server(ServedParts),
}

impl Wire {
    /// A port on this end. It completes checksums and takes no super-segments.
    ///
    /// # Errors
    /// [`MemifError`].
    pub fn into_port(self, area: FrameArea, setup: PortSetup) -> Result<MemifPort, MemifError> {
        match self {
            Self::Client(parts) => Ok(MemifPort::from_parts(parts, area, setup)?.plain()),
            Self::Server(parts) => MemifPort::serving(parts, setup),
        }
    }

    /// Makes it ready for the first packet; gives what [`Connection`] keeps of it.
    fn begin(&self) -> Result<Ending, MemifError> {
        let (rings, to_server, to_client) = match self {
            Self::Client(parts) => {
                // Servers empty the rings at CONNECT: our buffers are posted only now.
                parts.reset()?;
                (parts.rings()?, &parts.to_server, &parts.to_client)
            }
            Self::Server(parts) => (parts.begin()?, &parts.to_server.event, &parts.to_client.event),
        };
        Ok(Ending { rings, events: [to_server.duplicate()?, to_client.duplicate()?] })
    }
}

/// What it takes to end a wire for its port.
struct Ending {
    rings: [Ring; 2],
    events: [Fd; 2],
}

impl Ending {
    fn end(self) {
        for ring in &self.rings {
            ring.close();
        }
        for event in &self.events {
            // It is an eventfd, or nobody waits on it.
            let _ = fds::event_signal(event);
        }
    }
}

/// What [`Connection::advance`] found.
#[derive(Debug)]
pub enum News {
    /// Nothing new.
    None,
    /// A peer is there.
    Up(Wire),
    /// The peer is gone, or was sent away, for this reason: the wire's port gives errors from now on. A server waits for the next
    /// one, and a client tries again, at the next call.
    Down(String),
}

/// The control socket of one wire.
pub struct Connection {
    spec: MemifSpec,
    listener: Option<Fd>,
    peer: Option<(Fd, Handshake)>,
    ending: Option<Ending>,
}

impl Connection {
    /// Listens, as server; as client, the first [`Connection::advance`] connects.
    ///
    /// # Errors
    /// What [`fds::listen_path`] gives.
    pub fn open(spec: MemifSpec) -> Result<Self, Errno> {
        let listener = match spec.role {
            Role::Server => Some(fds::listen_path(&spec.path)?),
            Role::Client => None,
        };
        Ok(Self { spec, listener, peer: None, ending: None })
    }

    /// What polls readable when [`Connection::advance`] has something to do. A client without a server has nothing to wait for: call
    /// again from time to time.
    #[must_use]
    pub fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        let peer = self.peer.as_ref().map(|(fd, _)| fd);
        peer.or(self.listener.as_ref()).map(AsFd::as_fd)
    }

    /// Is a wire up?
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.ending.is_some()
    }

    /// Goes on with the handshake, or notices the end of the peer. Does not block.
    ///
    /// # Errors
    /// What connect and accept give, other than that nobody is there.
    pub fn advance(&mut self) -> Result<News, Errno> {
        if self.peer.is_none() && !self.meet()? {
            return Ok(News::None);
        }
        for _ in 0..MESSAGES_MAX {
            let Some((socket, handshake)) = &mut self.peer else { break };
            let mut bytes = [0; MESSAGE_BYTES];
            let got = match fds::recv(socket, &mut bytes) {
                Err(Errno::AGAIN) => return Ok(News::None),
                Err(errno) => {
                    return Ok(
                        self.part(&format!("the control socket fails (errno {})", errno.raw_os_error()))
                    );
                }
                Ok(got) if got.bytes == 0 => return Ok(self.part("the peer closed its control socket")),
                Ok(got) => got,
            };
            let message = if got.truncated { &[] } else { bytes.get(..got.bytes).unwrap_or(&[]) };
            let step = handshake.handle(&self.spec, message, got.fds);
            match step {
                Ok(Step::Silence) => {}
                Ok(Step::Answer(out)) => {
                    if let Some(down) = self.send(&out) {
                        return Ok(down);
                    }
                }
                Ok(Step::Up(wire, out)) => return Ok(self.establish(wire, out)),
                Err(End::Theirs(why)) => return Ok(self.part(&format!("the peer ended it: {why}"))),
                Err(End::Ours(why)) => return Ok(self.dismiss(why)),
            }
        }
        Ok(News::None)
    }

    /// Finds a peer; false when there is none.
    fn meet(&mut self) -> Result<bool, Errno> {
        let met = match &self.listener {
            Some(listener) => fds::accept_nonblocking(listener),
            None => fds::connect_path(&self.spec.path),
        };
        let socket = match met {
            Ok(socket) => socket,
            Err(Errno::AGAIN | Errno::NOENT | Errno::CONNREFUSED | Errno::CONNABORTED | Errno::INTR) => {
                return Ok(false);
            }
            Err(errno) => return Err(errno),
        };
        let (handshake, first) = Handshake::new(&self.spec);
        self.peer = Some((socket, handshake));
        Ok(first.is_none_or(|out| self.send(&out).is_none()))
    }

    fn send(&mut self, out: &Out) -> Option<News> {
        let (socket, _) = self.peer.as_ref()?;
        let fd: Vec<BorrowedFd<'_>> = out.fd.iter().map(AsFd::as_fd).collect();
        match fds::send(socket, &out.bytes, &fd) {
            Ok(()) => None,
            Err(errno) => {
                Some(self.part(&format!("the peer does not listen (errno {})", errno.raw_os_error())))
            }
        }
    }

    fn establish(&mut self, wire: Wire, out: Option<Out>) -> News {
        match wire.begin() {
            Ok(ending) => self.ending = Some(ending),
            Err(error) => return self.dismiss(&error.to_string()),
        }
        match out.and_then(|out| self.send(&out)) {
            Some(down) => down,
            None => News::Up(wire),
        }
    }

    /// Sends the peer away.
    fn dismiss(&mut self, why: &str) -> News {
        let message = Message::Disconnect { code: 0, text: why.to_owned() };
        // A peer that cannot be told finds the socket closed.
        let _ = self.send(&Out { bytes: message.encode(), fd: None });
        self.part(why)
    }

    /// The end of this peer.
    fn part(&mut self, why: &str) -> News {
        self.peer = None;
        if let Some(ending) = self.ending.take() {
            ending.end();
        }
        News::Down(why.to_owned())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if self.peer.is_some() {
            self.dismiss("the interface is closed");
        }
        if self.listener.is_some() {
            // Somebody may have removed it.
            let _ = fds::remove_path(&self.spec.path);
        }
    }
}
