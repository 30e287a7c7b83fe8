//! A memif device: the control socket to a VPP, DPDK or other program, whose wire one lane at a time has.

use base::Duration;
use port::memif::{Connection, MemifSpec, News, WireShape};
use rustix::io::Errno;
use sys::fds::Fd;
use sys::poll::{PollFd, PollFlags, poll};

use crate::error::StartError;
use crate::settings::MemifDevice;

/// How long the peer may take to appear when the keeper starts.
const PATIENCE: Duration = Duration::from_secs(15);
/// Time between two attempts of a client to connect.
const RETRY: Duration = Duration::from_millis(20);
/// First of the interface numbers of such devices, of which the kernel knows nothing; its own ones stay far below.
pub(crate) const FIRST_IFINDEX: u32 = 0x7000_0000;

/// The control socket, and the wire while no lane has it.
pub(crate) struct MemifLink {
    path: String,
    connection: Connection,
    free: Option<Vec<Fd>>,
}

impl MemifLink {
    /// Waits for the peer.
    pub(crate) fn open(device: &MemifDevice) -> Result<Self, StartError> {
        let what = || format!("memif device `{}`", device.path());
        let spec = MemifSpec {
            role: device.role,
            path: device.path().to_owned(),
            id: device.id,
            secret: device.secret.clone(),
            shape: WireShape::default(),
        };
        let failed = |errno: Errno| StartError::new(what(), errno, "give a path that this user may use");
        let connection = Connection::open(spec).map_err(failed)?;
        let mut link = Self { path: device.path().to_owned(), connection, free: None };
        let deadline = sys::clock::now().plus(PATIENCE);
        let mut why = "nobody is there".to_owned();
        while link.free.is_none() {
            let left = deadline.since(sys::clock::now());
            if left.0 == 0 {
                let fix = "start the peer, with the other role and the same id and secret";
                return Err(StartError::new(what(), why, fix));
            }
            if let Some(news) = link.advance().map_err(failed)? {
                why = news;
            }
            let fds = link.connection.poll_fd();
            let mut polled: Vec<PollFd<'_>> =
                fds.into_iter().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
            match poll(&mut polled, Some(left.min(RETRY))) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(failed(errno)),
            }
        }
        Ok(link)
    }

    /// What to poll.
    pub(crate) fn poll_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        self.connection.poll_fd()
    }

    /// Handles what the peer says. When it went away: why.
    fn advance(&mut self) -> Result<Option<String>, Errno> {
        match self.connection.advance()? {
            News::None => Ok(None),
            News::Up(wire) => {
                self.free = Some(wire.into_fds()?);
                Ok(None)
            }
            News::Down(why) => {
                self.free = None;
                Ok(Some(why))
            }
        }
    }

    /// Notices the peer's end, after which the lane's port gives errors, and lets the next peer in.
    pub(crate) fn serve(&mut self) {
        match self.advance() {
            Ok(None) => {}
            Ok(Some(why)) => log::warn!("memif {}: {why}", self.path),
            Err(errno) => log::warn!("memif {}: {errno}", self.path),
        }
    }

    /// The wire, for a lane; `None` when another lane has it, or no peer is there.
    pub(crate) fn take(&mut self) -> Option<Vec<Fd>> {
        self.free.take()
    }

    /// A lane gives its wire back; it is of no use once the peer has gone.
    pub(crate) fn give_back(&mut self, fds: Vec<Fd>) {
        if self.connection.is_up() && !fds.is_empty() && self.free.is_none() {
            self.free = Some(fds);
        }
    }
}
