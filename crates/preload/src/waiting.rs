//! `poll` over descriptors of which some are lanes' sockets or epoll instances with such members.

use base::Instant;
use libc::{pollfd, sigset_t};
use state::Ready;

use crate::epoll::{self, Epoll};
use crate::errno::{self, Outcome};
use crate::hub::{self, Target, Wait};
use crate::interpose::real;
use crate::object::Handle;
use crate::signals::Held;
use crate::sock::{Sock, State, flag};
use crate::table::{self, Entry};
use crate::view::View;
use crate::{listen, stream, zerocopy};

/// What a descriptor of the set is to us.
enum Ours {
    /// A lane's connection: the kernel is not asked.
    Stream(Handle<Sock>),
    /// A listener: lanes and kernel.
    Listener(Handle<Sock>),
    /// An epoll instance: lanes and kernel.
    Epoll(Handle<Epoll>),
}

/// The descriptors of one call that concern a lane.
pub(crate) struct Set {
    ours: Vec<(usize, Ours)>,
    /// The set as the kernel is asked, ours left out.
    kernel: Vec<pollfd>,
}

/// Does any of `fds` concern a lane? `None`: the call is the kernel's alone.
pub(crate) fn set_of(fds: &[pollfd]) -> Option<Set> {
    if fds.iter().all(|f| table::is_foreign(f.fd)) {
        return None;
    }
    let mut set = Set { ours: Vec::new(), kernel: Vec::new() };
    for (at, asked) in fds.iter().enumerate() {
        match table::get(asked.fd) {
            Entry::Sock(sock) => match sock.state() {
                State::Stream => set.ours.push((at, Ours::Stream(sock))),
                State::Listening => {
                    listen::attach(&sock, asked.fd);
                    set.ours.push((at, Ours::Listener(sock)));
                }
                State::Undecided | State::Kernel => {}
            },
            Entry::Epoll(epoll) => set.ours.push((at, Ours::Epoll(epoll))),
            Entry::Foreign | Entry::Kernel(_) | Entry::Internal | Entry::Parked => {}
        }
    }
    if set.ours.is_empty() {
        return None;
    }
    set.kernel.extend_from_slice(fds);
    for (at, ours) in &set.ours {
        if let (Ours::Stream(_), Some(asked)) = (ours, set.kernel.get_mut(*at)) {
            // The kernel ignores negative descriptors.
            asked.fd = -1;
        }
    }
    Some(set)
}

/// Waits until one of `fds` is ready; gives how many are, 0 when time is over.
pub(crate) fn wait(
    set: &mut Set,
    fds: &mut [pollfd],
    deadline: Instant,
    mask: *const sigset_t,
) -> Outcome<usize> {
    let mut held = Held::new();
    set.subscribe();
    loop {
        let mut seen = hub::seen();
        let views = View::in_use();
        for view in View::in_mask(views) {
            let stepped = view.step_then(|_| ((), 0));
            // Our own step is no reason to look twice.
            if let (1, Some(((), looked))) = (views.count_ones(), stepped) {
                seen = looked;
            }
        }
        let found = set.look(fds)?;
        if found > 0 || (deadline != Instant::NEVER && sys::clock::now() >= deadline) {
            return Ok(found);
        }
        let kernel = &set.kernel;
        let accepts = hub::listens() && set.accepts(fds);
        let mut sleep = Wait { target: Target::Any, views, deadline, accepts, mask, kernel, held: &mut held };
        hub::block(&mut sleep, seen)?;
    }
}

impl Set {
    /// Has events of the connections come to this process.
    fn subscribe(&self) {
        for (_, ours) in &self.ours {
            match ours {
                Ours::Stream(sock) if !sock.has(flag::SUBSCRIBED) => {
                    if let Some(seat) = sock.stream() {
                        seat.view.subscribe(seat, sock.object());
                    }
                }
                Ours::Epoll(epoll) => epoll.settle(),
                Ours::Stream(_) | Ours::Listener(_) => {}
            }
        }
    }

    /// Would a connection that comes to a listener end the wait?
    fn accepts(&self, fds: &[pollfd]) -> bool {
        self.ours.iter().any(|(at, ours)| {
            let reads = fds.get(*at).is_some_and(|asked| asked.events & libc::POLLIN != 0);
            reads
                && match ours {
                    Ours::Stream(_) => false,
                    Ours::Listener(_) => true,
                    Ours::Epoll(epoll) => hub::accepts(Target::Epoll(epoll.number())),
                }
        })
    }

    /// Connections that another thread has handed over to the kernel since are asked for there.
    fn follow(&mut self, fds: &[pollfd]) {
        let Self { ours, kernel } = self;
        ours.retain(|(at, ours)| {
            let gone = matches!(ours, Ours::Stream(sock) if sock.stream().is_none() && sock.is_entrusted());
            if gone && let (Some(to), Some(asked)) = (kernel.get_mut(*at), fds.get(*at)) {
                to.fd = asked.fd;
            }
            !gone
        });
    }

    /// Fills in what is ready now, of kernel and lanes.
    fn look(&mut self, fds: &mut [pollfd]) -> Outcome<usize> {
        self.follow(fds);
        // SAFETY: a live array of that length.
        errno::check(unsafe { real::poll(self.kernel.as_mut_ptr(), self.kernel.len() as libc::nfds_t, 0) })?;
        for (to, from) in fds.iter_mut().zip(&self.kernel) {
            to.revents = from.revents;
        }
        for (at, ours) in &self.ours {
            if let Some(asked) = fds.get_mut(*at) {
                asked.revents |= ours.look(asked.events);
            }
        }
        Ok(fds.iter().filter(|f| f.revents != 0).count())
    }
}

impl Ours {
    fn look(&self, events: i16) -> i16 {
        let ready = match self {
            Self::Stream(sock) => match sock.stream() {
                Some(seat) => {
                    let lanes = stream::with(sock, seat, |e| e.ready(seat.name));
                    zerocopy::ready(sock) | lanes.unwrap_or(Ready::ERR | Ready::HUP)
                }
                None => Ready::ERR | Ready::HUP,
            },
            Self::Listener(sock) => listen::ready(sock),
            Self::Epoll(epoll) => {
                if epoll::ready(epoll) {
                    Ready::IN
                } else {
                    Ready::NONE
                }
            }
        };
        let always = libc::POLLERR | libc::POLLHUP;
        hub::spread(ready) as i16 & (events | always)
    }
}
