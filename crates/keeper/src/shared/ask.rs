//! `corelane run` asks the service for a keeper.

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;

use base::Duration;
use sys::Errno;
use sys::fds::{self, Fd};
use sys::poll::{PollFd, PollFlags, poll};

use super::letters::{self, Heard, Letter, Plea, Versions};
use crate::error::StartError;
use crate::settings::{PortChoice, RegionSizes, Spin};

/// Longest wait for the answer: attaching to many devices takes a while.
const ANSWER_WAIT: Duration = Duration::from_secs(20);

/// What a run wants.
#[derive(Clone, Debug)]
pub struct Wish {
    /// Devices, as the user wrote them; empty: every usable one.
    pub devices: Vec<String>,
    /// Kind of port.
    pub port: PortChoice,
    /// Sizes of each process's region.
    pub sizes: RegionSizes,
    /// How long threads spin.
    pub spin: Spin,
    /// The user and group under which the command will run, if not the caller's.
    pub identity: Option<(u32, u32)>,
}

/// The keeper of one run, on the run's side.
#[derive(Debug)]
pub struct SharedKeeper {
    /// Closed by either end: the run, or its keeper, is over.
    link: Fd,
    /// Its abstract socket.
    pub(crate) name: String,
    /// The secret of the run.
    pub(crate) token: String,
    /// The rule that allows it.
    pub(crate) rule: String,
    /// Its process.
    pub(crate) pid: u32,
}

impl SharedKeeper {
    /// Readable once the keeper is gone.
    pub(crate) fn poll_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }

    /// Has it gone, and do lanes go on without it?
    pub(crate) fn end(&self) -> Option<bool> {
        match letters::receive(&self.link) {
            Heard::Letter(letter, _) => match *letter {
                Letter::Lost { kept } => Some(kept),
                _ => None,
            },
            Heard::End => Some(false),
            Heard::Strange | Heard::Nothing => None,
        }
    }
}

/// What came of asking.
#[derive(Debug)]
pub enum Asked {
    /// It serves the run.
    Served(SharedKeeper),
    /// It does not: what failed, why, what to do.
    Refused(StartError),
    /// There is no service.
    Absent(String),
}

/// Asks the service at `socket` for a keeper.
#[must_use]
pub fn ask(socket: &Path, wish: &Wish) -> Asked {
    let path = socket.display().to_string();
    let link = match fds::connect_path(&path) {
        Ok(link) => link,
        Err(Errno::NOENT | Errno::CONNREFUSED) => return Asked::Absent(format!("nothing listens at {path}")),
        Err(errno) => {
            return Asked::Refused(StartError::new(
                format!("the shared keeper at {path}"),
                errno,
                "check the permissions of the socket and of its folder",
            ));
        }
    };
    let plea = Plea {
        versions: Versions::ours(),
        devices: wish.devices.clone(),
        port: wish.port.to_string(),
        sockets: wish.sizes.sockets,
        frames: wish.sizes.frames,
        huge_pages: wish.sizes.huge_pages.to_string(),
        spin: wish.spin.to_string(),
        identity: wish.identity,
    };
    let what = || format!("the shared keeper at {path}");
    let silent = || {
        let fix = "look at its messages (`journalctl -u corelane-keeper`), or use --keeper private";
        Asked::Refused(StartError::new(what(), "it does not answer", fix))
    };
    if letters::send(&link, &Letter::Run(plea), &[]).is_err() {
        return silent();
    }
    let mut polled = [PollFd::from_borrowed_fd(link.as_fd(), PollFlags::IN)];
    if !poll(&mut polled, Some(ANSWER_WAIT)).is_ok_and(|ready| ready > 0) {
        return silent();
    }
    match letters::receive(&link) {
        Heard::Letter(letter, _) => match *letter {
            Letter::Welcome { name, token, rule, keeper_pid } => {
                Asked::Served(SharedKeeper { link, name, token, rule, pid: keeper_pid })
            }
            Letter::Refused { what: failed, why, fix } => {
                Asked::Refused(StartError::new(format!("{}: {failed}", what()), why, fix))
            }
            Letter::Run(_)
            | Letter::Start { .. }
            | Letter::Here { .. }
            | Letter::Keep { .. }
            | Letter::Forget { .. }
            | Letter::Lost { .. } => silent(),
        },
        Heard::Strange => Asked::Refused(StartError::new(
            what(),
            "it answers in a way that this version does not know",
            "install the same version of corelane for both",
        )),
        Heard::Nothing | Heard::End => silent(),
    }
}
