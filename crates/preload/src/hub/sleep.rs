//! Threads that sleep until a lane, a kernel descriptor or another thread has something for them.
//!
//! Each sleeper waits in `ppoll` on its own eventfd and the program's kernel descriptors. One of the sleepers of a lane also waits on
//! the lane's port descriptors and until the lane's next timer: its poller. A poller that leaves wakes the next.

use core::sync::atomic::{AtomicBool, Ordering};
use std::os::fd::AsRawFd;

use base::Instant;
use libc::{pollfd, sigset_t, timespec};
use sys::fds::Fd;

use super::{FIRED, hub};
use crate::errno::{self, Outcome};
use crate::interpose::real;
use crate::sock::Sock;
use crate::view::View;
use crate::{fork, home};

/// How long a sleeper on a lane of another process waits at most: that process may take the lane's packets for us
/// and has no way to wake this thread.
const FOREIGN_WAIT_NS: u64 = 5_000_000;

/// A sleeping thread's eventfd. Kept for the next sleeper, never closed.
pub(crate) struct Waiter {
    event: Fd,
    /// Signalled and not yet cleared.
    raised: AtomicBool,
}

impl Waiter {
    fn raise(&self) {
        self.raised.store(true, Ordering::Release);
        // A waiter that cannot be woken would be a lost wake-up; eventfd writes of 1 fail only when it is full, which also wakes.
        let _ = sys::fds::event_signal(&self.event);
    }

    fn clear(&self) {
        if self.raised.swap(false, Ordering::AcqRel) {
            let _ = sys::fds::event_clear(&self.event);
        }
    }
}

/// What a thread sleeps for.
#[derive(Clone, Copy)]
pub(crate) enum Target {
    /// A socket.
    Sock(&'static Sock),
    /// An epoll instance.
    Epoll(u32),
    /// Several sockets: any event wakes it.
    Any,
}

/// Threads to wake once no lock is held.
pub(crate) struct Wakes {
    list: [Option<&'static Waiter>; 8],
    len: usize,
}

impl Wakes {
    pub(crate) const fn new() -> Self {
        Self { list: [None; 8], len: 0 }
    }

    fn push(&mut self, waiter: &'static Waiter) {
        match self.list.get_mut(self.len) {
            Some(place) => {
                *place = Some(waiter);
                self.len += 1;
            }
            None => waiter.raise(),
        }
    }

    /// Wakes them.
    pub(crate) fn send(self) {
        for waiter in self.list.into_iter().flatten() {
            waiter.raise();
        }
    }
}

struct Sleeper {
    waiter: &'static Waiter,
    target: Target,
    views: u32,
    /// The lanes whose poller it is, as bits.
    polls: u32,
    signalled: bool,
}

/// All sleepers, and eventfds for the next ones.
pub(super) struct Sleepers {
    rows: Vec<Sleeper>,
    spare: Vec<&'static Waiter>,
    /// The lanes that have a poller, as bits.
    polled: u32,
}

impl Sleepers {
    pub(super) const fn new() -> Self {
        Self { rows: Vec::new(), spare: Vec::new(), polled: 0 }
    }

    fn wake_if(&mut self, wakes: &mut Wakes, one: bool, wanted: impl Fn(&Sleeper) -> bool) {
        for sleeper in self.rows.iter_mut().filter(|s| !s.signalled) {
            if wanted(sleeper) {
                sleeper.signalled = true;
                wakes.push(sleeper.waiter);
                if one {
                    return;
                }
            }
        }
    }

    pub(super) fn wake_for_sock(&mut self, sock: &Sock, wakes: &mut Wakes) {
        self.wake_if(wakes, false, |s| match s.target {
            Target::Sock(wanted) => core::ptr::eq(wanted, sock),
            Target::Any => true,
            Target::Epoll(_) => false,
        });
    }

    pub(super) fn wake_for_epoll(&mut self, epoll: u32, wakes: &mut Wakes) {
        self.wake_if(wakes, true, |s| matches!(s.target, Target::Epoll(wanted) if wanted == epoll));
    }

    fn enter(&mut self, target: Target, views: u32) -> Outcome<(&'static Waiter, u32)> {
        let waiter = match self.spare.pop() {
            Some(waiter) => waiter,
            None => {
                let event = crate::table::keep(sys::fds::event()?);
                Box::leak(Box::new(Waiter { event, raised: AtomicBool::new(false) }))
            }
        };
        let polls = views & !self.polled;
        self.polled |= polls;
        self.rows.push(Sleeper { waiter, target, views, polls, signalled: false });
        Ok((waiter, polls))
    }

    /// `unserved`: it leaves without looking at what it may have been woken for.
    fn leave(&mut self, waiter: &'static Waiter, unserved: bool, wakes: &mut Wakes) {
        let Some(at) = self.rows.iter().position(|s| core::ptr::eq(s.waiter, waiter)) else { return };
        let gone = self.rows.swap_remove(at);
        self.spare.push(waiter);
        self.polled &= !gone.polls;
        // Also one that was woken to be the next poller and found something to do instead passes the turn on.
        let unpolled = gone.views & !self.polled;
        if unpolled != 0 {
            self.wake_if(wakes, true, |s| s.views & unpolled != 0);
        }
        if let (Target::Epoll(epoll), true, true) = (gone.target, gone.signalled, unserved) {
            self.wake_for_epoll(epoll, wakes);
        }
    }
}

/// One sleep.
pub(crate) struct Wait<'a> {
    /// What for.
    pub(crate) target: Target,
    /// The lanes that may bring it, as bits by view number.
    pub(crate) views: u32,
    /// When to give up; `Instant::NEVER`: not at all.
    pub(crate) deadline: Instant,
    /// The thread's signal mask meanwhile; null: as it is.
    pub(crate) mask: *const sigset_t,
    /// Kernel descriptors that end the sleep; `revents` are left unset.
    pub(crate) kernel: &'a [pollfd],
}

/// Sleeps, unless something fired since [`super::seen`] gave `seen`. `Ok`: look again, and at the clock.
///
/// # Errors
/// EINTR when a signal handler ran; EMFILE and the like when there is no eventfd to be had.
pub(crate) fn block(wait: &Wait<'_>, seen: u64) -> Outcome<()> {
    let (waiter, polls) = {
        let mut hub = hub();
        if FIRED.load(Ordering::Acquire) != seen {
            return Ok(());
        }
        hub.sleepers.enter(wait.target, wait.views)?
    };
    let touched = View::in_mask(polls).filter(|view| !view.start_polling()).count();
    let outcome = if touched == 0 { sleep(wait, waiter, polls) } else { Ok(()) };
    let mut wakes = Wakes::new();
    for view in View::in_mask(polls) {
        view.sleep_until.store(0, Ordering::Release);
        view.stop_polling();
        if touched == 0 {
            view.disarm();
        }
    }
    // Cleared before it goes back to the spare ones: a wake-up meant for its next user must not be lost.
    waiter.clear();
    hub().sleepers.leave(waiter, outcome.is_err(), &mut wakes);
    wakes.send();
    fork::bury();
    outcome
}

fn sleep(wait: &Wait<'_>, waiter: &Waiter, polls: u32) -> Outcome<()> {
    let mut fds = Vec::with_capacity(wait.kernel.len() + 8);
    fds.extend_from_slice(wait.kernel);
    fds.push(pollfd { fd: waiter.event.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    let link_at = fds.len();
    fds.push(pollfd { fd: home::link(), events: 0, revents: 0 });
    fork::add_wait_fds(&mut fds);
    let mut until = wait.deadline;
    let now = sys::clock::now();
    if View::in_mask(wait.views).any(View::is_shared) {
        until = until.min(Instant(now.0.saturating_add(FOREIGN_WAIT_NS)));
    }
    for view in View::in_mask(polls) {
        until = until.min(view.deadline());
        view.add_wait_fds(&mut fds);
    }
    for view in View::in_mask(polls) {
        view.sleep_until.store(until.0.max(1), Ordering::Release);
        // A timer armed since we looked: `nudge_poller` may have run before the store above.
        if view.deadline() < until {
            return Ok(());
        }
        if view.arm() {
            return Ok(());
        }
    }
    let left = until.since(now);
    let limit = timespec {
        tv_sec: (left.0 / 1_000_000_000) as libc::time_t,
        tv_nsec: (left.0 % 1_000_000_000) as libc::c_long,
    };
    let limit = if until == Instant::NEVER { core::ptr::null() } else { &raw const limit };
    // SAFETY: `fds` is a live array of that length, `limit` null or a live local, the mask the program's own.
    let ready = unsafe { real::ppoll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, limit, wait.mask) };
    if ready < 0 {
        return Err(errno::last());
    }
    // The keeper says nothing unasked: this is its end. A request of another thread may be under way.
    if fds.get(link_at).is_some_and(|f| f.fd >= 0 && f.revents & (libc::POLLHUP | libc::POLLERR) != 0) {
        home::hung_up();
    }
    Ok(())
}

/// A lane's next timer moved ahead of what its poller sleeps until: wakes the poller.
pub(crate) fn nudge_poller(view: &View, wakes: &mut Wakes) {
    let bit = 1 << view.number();
    hub().sleepers.wake_if(wakes, true, |s| s.polls & bit != 0);
}

/// Wakes every sleeper: a socket became another kind of thing.
pub(crate) fn wake_all() {
    let mut wakes = Wakes::new();
    let mut hub = hub();
    FIRED.fetch_add(1, Ordering::Release);
    hub.sleepers.wake_if(&mut wakes, false, |_| true);
    drop(hub);
    wakes.send();
}
