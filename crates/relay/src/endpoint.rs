//! One socket of the program: what it has, what it is, and the table of all.

use std::collections::{HashMap, VecDeque};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use sys::fds::Fd;

use crate::far::{Address, Far};
use crate::target::{Inode, own_inode};

/// Ended sockets whose names and errors can still be asked for.
const ENDED_MAX: usize = 4096;

/// A call that waits for a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    /// Names the call.
    pub(crate) id: u64,
    pub(crate) tid: u32,
    /// Where the peer's address goes, and its length; 0: nowhere.
    pub(crate) address: [u64; 2],
    /// SOCK_NONBLOCK, SOCK_CLOEXEC.
    pub(crate) flags: i32,
}

/// How far a socket has come.
#[derive(Debug)]
pub(crate) enum State {
    /// Neither listens nor connects.
    Fresh,
    Listening(Listening),
    /// The handshake is on its way.
    Connecting(Connecting),
    /// Bytes move.
    Streaming,
    /// Nothing moves any more; the program may still have it.
    Ended,
}

/// Of a listening socket.
#[derive(Debug, Default)]
pub(crate) struct Listening {
    /// Connections taken off the far listener and not yet given to the program.
    pub(crate) ready: VecDeque<(Far, Address)>,
    /// Threads that wait in accept.
    pub(crate) waiting: VecDeque<Waiting>,
    /// Bytes in the program's socket that make it readable.
    pub(crate) marks: usize,
}

/// Of a socket that connects.
#[derive(Debug)]
pub(crate) struct Connecting {
    /// The thread that waits for it; `None`: the program's socket is non-blocking and not writable meanwhile.
    pub(crate) waiting: Option<u64>,
    /// Bytes in the near socket that keep the program's from being writable, and how much it may hold otherwise.
    pub(crate) stuffed: Option<(usize, usize)>,
}

/// One direction.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// Read on one side, and not yet taken by the other.
    pub(crate) pending: VecDeque<u8>,
    /// The one side has no more.
    pub(crate) ended: bool,
    /// The other side was told so.
    pub(crate) told: bool,
}

/// What can still be asked of a connection that has ended.
#[derive(Debug)]
pub(crate) struct Last {
    pub(crate) local: Address,
    pub(crate) peer: Address,
    /// TCP_INFO.
    pub(crate) info: Vec<u8>,
}

/// Longest TCP_INFO that is kept.
const INFO_MAX: usize = 512;

/// A socket of the program.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) inode: Inode,
    /// `None`: the program's end shows what a closed or reset connection shows.
    pub(crate) near: Option<Fd>,
    pub(crate) far: Option<Far>,
    pub(crate) family: i32,
    pub(crate) state: State,
    /// Its connection came about while the call that asked for it was interrupted.
    pub(crate) unreported: bool,
    /// What SO_ERROR gives next.
    pub(crate) error: Option<Errno>,
    /// From the program.
    pub(crate) up: Flow,
    /// To the program.
    pub(crate) down: Flow,
    /// Bytes from the program until one that is ours: it stands for the end, and is left unread until then.
    pub(crate) until_mark: Option<usize>,
    /// Thread and descriptor where the program last used it.
    pub(crate) seen: (u32, i32),
    /// When far is gone.
    pub(crate) last: Option<Last>,
}

/// A new endpoint and the program's end of it.
pub(crate) fn new(far: Far, family: i32, nonblocking: bool) -> Result<(Endpoint, Fd), Errno> {
    let (near, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    if nonblocking {
        rustix::io::ioctl_fionbio(&theirs, true)?;
    }
    let inode = own_inode(&theirs).ok_or(Errno::BADF)?;
    let endpoint = Endpoint {
        inode,
        near: Some(Fd::from(near)),
        far: Some(far),
        family,
        state: State::Fresh,
        unreported: false,
        error: None,
        up: Flow::default(),
        down: Flow::default(),
        until_mark: None,
        seen: (0, -1),
        last: None,
    };
    Ok((endpoint, Fd::from(theirs)))
}

impl Endpoint {
    /// Lets go of far, keeping what can still be asked for.
    pub(crate) fn take_far(&mut self) -> Option<Far> {
        let far = self.far.take()?;
        if self.near.is_some()
            && let (Ok(local), Ok(peer)) = (far.local(), far.peer())
        {
            let mut info = vec![0; INFO_MAX];
            let used = far.option(libc::IPPROTO_TCP, libc::TCP_INFO, &mut info).unwrap_or(0);
            info.truncate(used);
            self.last = Some(Last { local, peer, info });
        }
        self.state = State::Ended;
        Some(far)
    }
}

/// All of them.
#[derive(Default)]
pub(crate) struct Table {
    /// And whether it has ended.
    slots: Vec<Option<(Endpoint, bool)>>,
    free: Vec<usize>,
    by_inode: HashMap<Inode, usize>,
    /// Slots of the ended, oldest first.
    ended: VecDeque<(usize, Inode)>,
    /// How many are not ended.
    alive: usize,
}

impl Table {
    pub(crate) fn insert(&mut self, endpoint: Endpoint) -> usize {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        // Its number is free again, so whoever had it is gone.
        if let Some(old) = self.by_inode.insert(endpoint.inode, slot) {
            self.remove_slot(old);
        }
        self.alive += 1;
        self.slots[slot] = Some((endpoint, false));
        slot
    }

    pub(crate) fn slot_of(&self, inode: Inode) -> Option<usize> {
        self.by_inode.get(&inode).copied()
    }

    pub(crate) fn get(&mut self, slot: usize) -> Option<&mut Endpoint> {
        self.slots.get_mut(slot)?.as_mut().map(|(endpoint, _)| endpoint)
    }

    /// How many may still have something to move.
    pub(crate) fn alive(&self) -> usize {
        self.alive
    }

    pub(crate) fn slots(&self) -> std::ops::Range<usize> {
        0..self.slots.len()
    }

    /// The program's end is closed, and nothing is owed to the network.
    pub(crate) fn remove(&mut self, slot: usize) {
        let Some((endpoint, _)) = self.slots.get(slot).and_then(Option::as_ref) else { return };
        if self.by_inode.get(&endpoint.inode) == Some(&slot) {
            self.by_inode.remove(&endpoint.inode);
        }
        self.remove_slot(slot);
    }

    fn remove_slot(&mut self, slot: usize) {
        if let Some(place) = self.slots.get_mut(slot)
            && let Some((_, ended)) = place.take()
        {
            self.alive -= usize::from(!ended);
            self.free.push(slot);
        }
    }

    /// Near and far are both gone; names and error are kept for a while.
    pub(crate) fn has_ended(&mut self, slot: usize) {
        let Some((endpoint, ended)) = self.slots.get_mut(slot).and_then(Option::as_mut) else { return };
        if std::mem::replace(ended, true) {
            return;
        }
        self.alive -= 1;
        self.ended.push_back((slot, endpoint.inode));
        if self.ended.len() > ENDED_MAX
            && let Some((old, inode)) = self.ended.pop_front()
            && self.slot_of(inode) == Some(old)
        {
            self.remove(old);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Endpoint {
        new(Far::new(libc::AF_INET).unwrap(), libc::AF_INET, false).unwrap().0
    }

    #[test]
    fn those_that_have_ended_are_found_and_not_waited_for() {
        let mut table = Table::default();
        let (one, other) = (some(), some());
        let inodes = [one.inode, other.inode];
        let slots = [table.insert(one), table.insert(other)];
        assert_eq!(table.alive(), 2);
        table.has_ended(slots[0]);
        table.has_ended(slots[0]);
        assert_eq!((table.alive(), table.slot_of(inodes[0])), (1, Some(slots[0])));
        let gone = table.get(slots[1]).unwrap();
        (gone.near, gone.far) = (None, None);
        table.remove(slots[1]);
        assert_eq!((table.alive(), table.slot_of(inodes[1])), (0, None));
        table.remove(slots[0]);
        assert_eq!(table.alive(), 0);
    }
}
