//! Descriptors: the smallest free number from 3 on, as a fresh process would be given.

use base::Duration;
use state::{Endpoint, SockRef, TcpOptions};

use crate::epoll::EpollSet;
use crate::fast_open::FastOpen;

/// The first number.
const FIRST: i32 = 3;

/// What a TCP socket is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// Neither listening nor connected.
    Fresh,
    /// A listener.
    Listener(SockRef),
    /// A connection; `connecting` until `connect` has told how it ended.
    Stream { name: SockRef, connecting: bool },
}

/// A TCP socket.
#[derive(Clone, Debug)]
pub(crate) struct TcpSock {
    pub(crate) role: Role,
    pub(crate) options: TcpOptions,
    pub(crate) bound: Option<Endpoint>,
    pub(crate) fast: FastOpen,
    /// SO_RCVTIMEO and SO_SNDTIMEO; `None`: no limit.
    pub(crate) rcv_timeout: Option<Duration>,
    pub(crate) snd_timeout: Option<Duration>,
}

impl TcpSock {
    /// Its name in the engine.
    pub(crate) const fn name(&self) -> Option<SockRef> {
        match self.role {
            Role::Fresh => None,
            Role::Listener(name) | Role::Stream { name, .. } => Some(name),
        }
    }
}

/// A UDP socket.
#[derive(Clone, Debug)]
pub(crate) struct UdpSock {
    pub(crate) name: Option<SockRef>,
    pub(crate) options: engine::UdpOptions,
}

/// What a descriptor stands for.
pub(crate) enum Object {
    Tcp(TcpSock),
    Udp(UdpSock),
    Epoll(EpollSet),
    PipeRead(usize),
    PipeWrite(usize),
}

/// One descriptor.
pub(crate) struct Entry {
    pub(crate) object: Object,
    pub(crate) nonblocking: bool,
    /// AF_INET6: addresses are told in that form.
    pub(crate) v6: bool,
}

/// All of them.
#[derive(Default)]
pub(crate) struct Fds {
    rows: Vec<Option<Entry>>,
}

fn row(fd: i32) -> Option<usize> {
    usize::try_from(fd.checked_sub(FIRST)?).ok()
}

impl Fds {
    /// Gives `entry` the smallest free number.
    pub(crate) fn add(&mut self, entry: Entry) -> i32 {
        let at = self.rows.iter().position(Option::is_none).unwrap_or(self.rows.len());
        match self.rows.get_mut(at) {
            Some(free) => *free = Some(entry),
            None => self.rows.push(Some(entry)),
        }
        FIRST + at as i32
    }

    pub(crate) fn get(&self, fd: i32) -> Option<&Entry> {
        self.rows.get(row(fd)?)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, fd: i32) -> Option<&mut Entry> {
        self.rows.get_mut(row(fd)?)?.as_mut()
    }

    pub(crate) fn remove(&mut self, fd: i32) -> Option<Entry> {
        self.rows.get_mut(row(fd)?)?.take()
    }

    pub(crate) fn epolls(&mut self) -> impl Iterator<Item = &mut EpollSet> {
        self.rows.iter_mut().flatten().filter_map(|entry| match &mut entry.object {
            Object::Epoll(set) => Some(set),
            Object::Tcp(_) | Object::Udp(_) | Object::PipeRead(_) | Object::PipeWrite(_) => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry { object: Object::PipeRead(0), nonblocking: false, v6: false }
    }

    #[test]
    fn the_smallest_free_number_from_three_is_given() {
        let mut fds = Fds::default();
        assert_eq!([fds.add(entry()), fds.add(entry()), fds.add(entry())], [3, 4, 5]);
        assert!(fds.remove(4).is_some() && fds.remove(4).is_none());
        assert_eq!([fds.add(entry()), fds.add(entry())], [4, 6]);
        assert!(
            fds.get(2).is_none()
                && fds.get(-1).is_none()
                && fds.get(i32::MIN).is_none()
                && fds.get(7).is_none()
        );
    }
}
