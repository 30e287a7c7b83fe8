//! Which thread sleeps for what, and whose turn it is to poll a lane: the protocol alone, without descriptors and clocks.
//!
//! Of the sleepers that wait for a lane one polls it. One that leaves passes the turn on: it wakes sleepers until each lane that it
//! waited for has somebody who polls it or is about to look. `tests` runs every interleaving of it.

use crate::sock::Sock;

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

struct Sleeper<W> {
    waiter: W,
    target: Target,
    views: u32,
    /// The lanes whose poller it is, as bits.
    polls: u32,
    signalled: bool,
}

/// All sleepers of the process. `W` names one, and is what a wake-up goes to.
pub(super) struct Turns<W> {
    rows: Vec<Sleeper<W>>,
    /// The lanes that have a poller, as bits.
    polled: u32,
}

impl<W: Copy + PartialEq> Turns<W> {
    pub(super) const fn new() -> Self {
        Self { rows: Vec::new(), polled: 0 }
    }

    /// `waiter` begins to sleep for `target` on the lanes `views`. Gives those it is to poll.
    pub(super) fn enter(&mut self, waiter: W, target: Target, views: u32) -> u32 {
        let polls = views & !self.polled;
        self.polled |= polls;
        self.rows.push(Sleeper { waiter, target, views, polls, signalled: false });
        polls
    }

    /// `waiter` sleeps no more. `unserved`: it leaves without looking at what it may have been woken for.
    pub(super) fn leave(&mut self, waiter: W, unserved: bool, wake: &mut impl FnMut(W)) {
        let Some(at) = self.rows.iter().position(|s| s.waiter == waiter) else { return };
        // In order, so that the turn goes to who waits longest.
        let gone = self.rows.remove(at);
        self.polled &= !gone.polls;
        // Also one that was woken to be the next poller and found something to do instead passes the turn on.
        let mut unpolled = gone.views & !self.polled;
        for sleeper in self.rows.iter_mut().filter(|s| !s.signalled) {
            if sleeper.views & unpolled != 0 {
                unpolled &= !sleeper.views;
                sleeper.signalled = true;
                wake(sleeper.waiter);
            }
        }
        if let (Target::Epoll(epoll), true, true) = (gone.target, gone.signalled, unserved) {
            self.wake_for_epoll(epoll, wake);
        }
    }

    fn wake_if(&mut self, one: bool, wake: &mut impl FnMut(W), wanted: impl Fn(&Sleeper<W>) -> bool) {
        for sleeper in self.rows.iter_mut().filter(|s| !s.signalled) {
            if wanted(sleeper) {
                sleeper.signalled = true;
                wake(sleeper.waiter);
                if one {
                    return;
                }
            }
        }
    }

    /// Something happened at `sock`.
    pub(super) fn wake_for_sock(&mut self, sock: &Sock, wake: &mut impl FnMut(W)) {
        self.wake_if(false, wake, |s| match s.target {
            Target::Sock(wanted) => core::ptr::eq(wanted, sock),
            Target::Any => true,
            Target::Epoll(_) => false,
        });
    }

    /// Something was listed for an epoll instance: one of its sleepers takes it.
    pub(super) fn wake_for_epoll(&mut self, epoll: u32, wake: &mut impl FnMut(W)) {
        self.wake_if(true, wake, |s| matches!(s.target, Target::Epoll(wanted) if wanted == epoll));
    }

    /// The poller of one of the lanes `views`, if it sleeps, has to look at the lane's next timer again.
    pub(super) fn wake_poller(&mut self, views: u32, wake: &mut impl FnMut(W)) {
        self.wake_if(true, wake, |s| s.polls & views != 0);
    }

    /// Every sleeper has to look again.
    pub(super) fn wake_all(&mut self, wake: &mut impl FnMut(W)) {
        self.wake_if(false, wake, |_| true);
    }
}

#[cfg(test)]
mod tests {
    use super::{Target, Turns};

    fn leave(turns: &mut Turns<u8>, who: u8) -> Vec<u8> {
        let mut woken = Vec::new();
        turns.leave(who, false, &mut |w| woken.push(w));
        woken
    }

    #[test]
    fn a_poller_of_two_lanes_that_leaves_wakes_a_sleeper_of_each() {
        let mut turns = Turns::new();
        assert_eq!(turns.enter(1, Target::Any, 0b11), 0b11);
        assert_eq!(turns.enter(2, Target::Any, 0b01), 0);
        assert_eq!(turns.enter(3, Target::Any, 0b10), 0);
        let mut woken = leave(&mut turns, 1);
        woken.sort_unstable();
        assert_eq!(woken, [2, 3]);
    }

    #[test]
    fn a_sleeper_woken_to_poll_that_leaves_at_once_passes_the_turn_on() {
        let mut turns = Turns::new();
        assert_eq!(turns.enter(1, Target::Any, 1), 1);
        assert_eq!(turns.enter(2, Target::Any, 1), 0);
        assert_eq!(turns.enter(3, Target::Any, 1), 0);
        assert_eq!(leave(&mut turns, 1), [2]);
        assert_eq!(leave(&mut turns, 2), [3]);
    }

    #[test]
    fn an_epoll_sleeper_interrupted_by_a_signal_hands_its_event_on() {
        let mut turns = Turns::new();
        let mut woken = Vec::new();
        turns.enter(1, Target::Epoll(7), 1);
        turns.enter(2, Target::Epoll(7), 1);
        turns.wake_for_epoll(7, &mut |w| woken.push(w));
        turns.leave(1, true, &mut |w| woken.push(w));
        assert_eq!(woken, [1, 2]);
    }
}
