//! What lanes need to go on when the keeper of their run dies: the attached steering, and the ports they have taken. The service holds copies of these
//! fds, until the run is over; only that, it does nothing with them.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd};

use control::steer::Steering;
use rustix::io::Errno;
use sys::fds::{FDS_MAX, Fd};

use super::letters::{self, Heard, Letter};
use crate::session::Session;

/// The key of the attached programs.
const STEERING: &str = "steering";
/// Fds that are held for one run at most: ports of as many blocks as lanes can have in a namespace.
const HELD_MAX: usize = 65_536;

/// What the service holds for one run.
#[derive(Default)]
pub(super) struct Held {
    fds: BTreeMap<String, Vec<Fd>>,
    count: usize,
}

impl Held {
    /// Takes in what the run's keeper says. False: it is gone.
    pub(super) fn hear(&mut self, link: &Fd) -> bool {
        loop {
            match letters::receive(link) {
                Heard::Nothing => return true,
                Heard::End => return false,
                Heard::Strange => {}
                Heard::Letter(letter, with) => self.take(*letter, with),
            }
        }
    }

    fn take(&mut self, letter: Letter, with: Vec<Fd>) {
        match letter {
            Letter::Keep { key } if self.count + with.len() <= HELD_MAX => {
                self.count += with.len();
                self.fds.entry(key).or_default().extend(with);
            }
            Letter::Forget { key } => {
                let gone = self.fds.remove(&key).unwrap_or_default();
                self.count = self.count.saturating_sub(gone.len());
            }
            // Not for the depot.
            _ => {}
        }
    }

    /// Do lanes go on with it?
    pub(super) fn is_enough(&self) -> bool {
        self.fds.contains_key(STEERING)
    }
}

/// The service, as the keeper of a run sees it: what it was given.
pub(super) struct Depot {
    link: Fd,
    given: BTreeSet<String>,
}

impl Depot {
    pub(super) fn new(link: Fd) -> Self {
        Self { link, given: BTreeSet::new() }
    }

    pub(super) fn poll_fd(&self) -> BorrowedFd<'_> {
        self.link.as_fd()
    }

    pub(super) fn is_gone(&self) -> bool {
        matches!(letters::receive(&self.link), Heard::End)
    }

    /// Has the service hold what is there now, and no more. `None`: it is gone.
    pub(super) fn keep(mut self, session: &Session) -> Option<Self> {
        if session.can_outlive() {
            self.give(session).ok()?;
        }
        Some(self)
    }

    fn give(&mut self, session: &Session) -> Result<(), Errno> {
        let steering = session.devices.steering.iter();
        let attachments: Vec<BorrowedFd<'_>> = steering.flat_map(Steering::attachments).collect();
        self.put(STEERING, &attachments)?;
        // Programs are attached, never detached, while the run goes on; those that came later, with the others.
        let count = format!("{STEERING} {}", attachments.len());
        self.put(&count, &attachments)?;
        let mut wanted = BTreeSet::from([STEERING.to_owned(), count]);
        for (end, slot, sockets) in session.rules.blocks() {
            let key = format!("{} {} {}", slot.0, end.addr(), end.port().0);
            let sockets: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
            self.put(&key, &sockets)?;
            wanted.insert(key);
        }
        let gone: Vec<String> = self.given.difference(&wanted).cloned().collect();
        for key in gone {
            self.given.remove(&key);
            letters::send(&self.link, &Letter::Forget { key }, &[])?;
        }
        Ok(())
    }

    /// Gives `fds`, unless they were given already.
    fn put(&mut self, key: &str, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        if !self.given.insert(key.to_owned()) {
            return Ok(());
        }
        let letter = Letter::Keep { key: key.to_owned() };
        if fds.is_empty() {
            return letters::send(&self.link, &letter, &[]);
        }
        fds.chunks(FDS_MAX).try_for_each(|chunk| letters::send(&self.link, &letter, chunk))
    }
}
