//! Threads that sleep until a lane, a kernel descriptor or another thread has something for them.
//!
//! Each sleeper waits in `ppoll` on its own eventfd and the program's kernel descriptors. One of the sleepers of a lane also waits on
//! the lane's port descriptors and until the lane's next timer: its poller. Whose turn that is: [`super::turns`]. A poller may look at the
//! ports for a moment before it sleeps: [`super::spin`].

use core::sync::atomic::{AtomicBool, Ordering, fence};
use std::os::fd::AsRawFd;

use base::Instant;
use libc::{pollfd, sigset_t, timespec};
use sys::fds::Fd;

use super::turns::{Target, Turns};
use super::{FIRED, hub, spin};
use crate::boundary::asleep;
use crate::errno::{self, Errno, Outcome};
use crate::interpose::real;
use crate::signals::Held;
use crate::twins::{self, Accepter};
use crate::view::View;
use crate::{cancel, family, fork, home};

/// How long a sleeper on a lane of another process waits at most: that process may take the lane's packets for us
/// and has no way to wake this thread.
pub(crate) const FOREIGN_WAIT_NS: u64 = 5_000_000;

/// A sleeping thread's eventfd. Kept for the next sleeper, never closed.
pub(super) struct Waiter {
    event: Fd,
    /// Woken and not yet cleared.
    raised: AtomicBool,
    /// It spins and looks at `raised`: the eventfd need not be signalled.
    spins: AtomicBool,
}

impl PartialEq for Waiter {
    fn eq(&self, other: &Self) -> bool {
        core::ptr::eq(self, other)
    }
}

impl Waiter {
    fn raise(&self) {
        self.raised.store(true, Ordering::SeqCst);
        if self.spins.load(Ordering::SeqCst) {
            return;
        }
        // A waiter that cannot be woken would be a lost wake-up; eventfd writes of 1 fail only when it is full, which also wakes.
        let _ = sys::fds::event_signal(&self.event);
        // Again: who cleared it between the two must clear the eventfd too, or it would never sleep again.
        self.raised.store(true, Ordering::Release);
    }

    fn clear(&self) {
        if self.raised.swap(false, Ordering::AcqRel) {
            let _ = sys::fds::event_clear(&self.event);
        }
    }

    /// Wake-ups from now on are told by [`Waiter::is_raised`] alone.
    pub(super) fn begin_spin(&self) {
        self.spins.store(true, Ordering::SeqCst);
    }

    /// The end of [`Waiter::begin_spin`]. True: it was woken meanwhile.
    pub(super) fn end_spin(&self) -> bool {
        self.spins.store(false, Ordering::SeqCst);
        self.raised.load(Ordering::SeqCst)
    }

    /// Was it woken?
    pub(super) fn is_raised(&self) -> bool {
        self.raised.load(Ordering::Acquire)
    }
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

    pub(super) fn push(&mut self, waiter: &'static Waiter) {
        match self.list.get_mut(self.len) {
            Some(place) => {
                *place = Some(waiter);
                self.len += 1;
            }
            None => waiter.raise(),
        }
    }

    /// Wakes them.
    #[inline]
    pub(crate) fn send(&self) {
        if self.len > 0 {
            self.raise_all();
        }
    }

    #[inline(never)]
    fn raise_all(&self) {
        for waiter in self.list.iter().flatten() {
            waiter.raise();
        }
    }
}

/// All sleepers, and eventfds for the next ones.
pub(super) struct Sleepers {
    pub(super) turns: Turns<&'static Waiter>,
    spare: Vec<&'static Waiter>,
}

impl Sleepers {
    pub(super) const fn new() -> Self {
        Self { turns: Turns::new(), spare: Vec::new() }
    }

    fn enter(&mut self, target: Target, views: u32) -> Outcome<(&'static Waiter, u32)> {
        let waiter = match self.spare.pop() {
            Some(waiter) => waiter,
            None => {
                let event = crate::table::keep(sys::fds::event()?);
                let (raised, spins) = (AtomicBool::new(false), AtomicBool::new(false));
                Box::leak(Box::new(Waiter { event, raised, spins }))
            }
        };
        Ok((waiter, self.turns.enter(waiter, target, views)))
    }

    /// As [`Turns::leave`].
    fn leave(&mut self, waiter: &'static Waiter, unserved: bool, wakes: &mut Wakes) {
        self.spare.push(waiter);
        self.turns.leave(waiter, unserved, &mut |w| wakes.push(w));
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
    /// It ends when a connection comes to a listener.
    pub(crate) accepts: bool,
    /// The thread's signal mask meanwhile; null: as it is.
    pub(crate) mask: *const sigset_t,
    /// Kernel descriptors that end the sleep; `revents` are left unset.
    pub(crate) kernel: &'a [pollfd],
    /// The signals of the call that sleeps.
    pub(crate) held: &'a mut Held,
}

/// Sleeps, unless something fired since [`super::seen`] gave `seen`. `Ok`: look again, and at the clock.
///
/// # Errors
/// EINTR when a signal handler ran; EMFILE and the like when there is no eventfd to be had.
pub(crate) fn block(wait: &mut Wait<'_>, seen: u64) -> Outcome<()> {
    if cancel::is_due() {
        return Err(Errno(libc::EINTR));
    }
    wait.held.wait();
    let accepter = match wait.accepts {
        true => Accepter::begin(),
        false => {
            if super::listens() {
                twins::offer();
            }
            None
        }
    };
    let (waiter, polls) = {
        let mut hub = hub();
        if FIRED.load(Ordering::Acquire) != seen {
            return Ok(());
        }
        hub.sleepers.enter(wait.target, wait.views)?
    };
    let touched = View::in_mask(polls).filter(|view| !view.start_polling()).count();
    let sleeps = touched == 0 && !spin::serve(wait, waiter, polls);
    let generation = family::generation();
    let outcome = if sleeps { sleep(wait, waiter, polls) } else { Ok(()) };
    if family::generation() != generation {
        // A handler forked, and this is the child: the sleeper is the parent's, and counted there.
        core::mem::forget(accepter);
        return outcome;
    }
    let mut wakes = Wakes::new();
    for view in View::in_mask(polls) {
        view.sleep_until.store(0, Ordering::Release);
        view.stop_polling();
        if sleeps {
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

fn sleep(wait: &mut Wait<'_>, waiter: &Waiter, polls: u32) -> Outcome<()> {
    let mut fds = Vec::with_capacity(wait.kernel.len() + 8);
    fds.extend_from_slice(wait.kernel);
    fds.push(pollfd { fd: waiter.event.as_raw_fd(), events: libc::POLLIN, revents: 0 });
    let link_at = fds.len();
    fds.push(pollfd { fd: home::link(), events: libc::POLLIN, revents: 0 });
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
        fence(Ordering::SeqCst);
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
    let before = wait.held.begin();
    let mask = if wait.mask.is_null() { core::ptr::from_ref(before) } else { wait.mask };
    // SAFETY: `fds` is a live array of that length, `limit` null or a live local, the mask the program's own.
    let ready = asleep(|| unsafe { real::ppoll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, limit, mask) });
    if let Some(view) = View::in_mask(polls).next() {
        view.waits.took(sys::clock::now().since(now).0);
    }
    if ready < 0 {
        return Err(errno::last());
    }
    // A notice, or the keeper's end; or the reply to a request of another thread, who holds the home until it has it.
    if fds.get(link_at).is_some_and(|f| f.fd >= 0 && f.revents != 0) {
        home::hear();
    }
    Ok(())
}

/// A lane's next timer moved ahead of what its poller sleeps until: wakes the poller.
pub(crate) fn nudge_poller(view: &View, wakes: &mut Wakes) {
    let bit = 1 << view.number();
    hub().sleepers.turns.wake_poller(bit, &mut |w| wakes.push(w));
}

/// Wakes every sleeper: a socket became another kind of thing.
pub(crate) fn wake_all() {
    let mut wakes = Wakes::new();
    let mut hub = hub();
    FIRED.fetch_add(1, Ordering::Release);
    hub.sleepers.turns.wake_all(&mut |w| wakes.push(w));
    drop(hub);
    wakes.send();
}
