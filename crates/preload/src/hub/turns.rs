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

#[derive(Clone)]
struct Sleeper<W> {
    waiter: W,
    target: Target,
    views: u32,
    /// The lanes whose poller it is, as bits.
    polls: u32,
    signalled: bool,
}

/// All sleepers of the process. `W` names one, and is what a wake-up goes to.
#[derive(Clone)]
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
    use std::collections::BTreeSet;

    use super::{Target, Turns};

    /// Where a thread of the model is.
    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
    enum At {
        Look,
        Enter,
        Sleep,
        Clear,
        Leave,
        Served,
    }

    #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
    struct Thread {
        at: At,
        views: u32,
        polls: u32,
        seen: u8,
        /// Its eventfd is signalled.
        raised: bool,
        /// Its socket is readable.
        ready: bool,
    }

    /// Threads that wait each for one packet of its own, as `hub::block` and its callers do, and the ports of two lanes.
    #[derive(Clone)]
    struct Model {
        turns: Turns<usize>,
        threads: Vec<Thread>,
        /// Packets still to come, and those in the ports: whose, on which lane.
        to_come: Vec<(usize, u32)>,
        ports: Vec<(usize, u32)>,
        fired: u8,
    }

    /// A state of the model, to know it again.
    type Key = (Vec<Thread>, Vec<(usize, u32)>, Vec<(usize, u32)>, u8, Vec<(usize, u32, bool)>);

    impl Model {
        fn new(views: &[u32], packets: &[(usize, u32)]) -> Self {
            let thread =
                |views| Thread { at: At::Look, views, polls: 0, seen: 0, raised: false, ready: false };
            Self {
                turns: Turns::new(),
                threads: views.iter().copied().map(thread).collect(),
                to_come: packets.to_vec(),
                ports: Vec::new(),
                fired: 0,
            }
        }

        fn key(&self) -> Key {
            let rows = self.turns.rows.iter().map(|s| (s.waiter, s.polls, s.signalled)).collect();
            (self.threads.clone(), self.to_come.clone(), self.ports.clone(), self.fired, rows)
        }

        /// One step of thread `me`; `None`: it is served, or sleeps with nothing to wake it.
        fn step(&self, me: usize) -> Option<Self> {
            let mut next = self.clone();
            let Thread { at, views, polls, seen, .. } = self.threads[me];
            let mut woken = Vec::new();
            next.threads[me].at = match at {
                At::Look => {
                    let (taken, left) = self.ports.iter().partition(|(_, lane)| lane & views != 0);
                    next.ports = left;
                    let taken: Vec<(usize, u32)> = taken;
                    for (whose, _) in taken {
                        next.threads[whose].ready = true;
                        next.fired += 1;
                        next.turns.wake_for_epoll(whose as u32, &mut |w| woken.push(w));
                    }
                    next.threads[me].seen = next.fired;
                    if next.threads[me].ready { At::Served } else { At::Enter }
                }
                At::Enter if self.fired != seen => At::Look,
                At::Enter => {
                    next.threads[me].polls = next.turns.enter(me, Target::Epoll(me as u32), views);
                    At::Sleep
                }
                At::Sleep => {
                    let packet = self.ports.iter().any(|(_, lane)| lane & polls != 0);
                    if !self.threads[me].raised && !packet {
                        return None;
                    }
                    At::Clear
                }
                At::Clear => {
                    next.threads[me].raised = false;
                    At::Leave
                }
                At::Leave => {
                    next.turns.leave(me, false, &mut |w| woken.push(w));
                    At::Look
                }
                At::Served => return None,
            };
            for waiter in woken {
                next.threads[waiter].raised = true;
            }
            Some(next)
        }

        /// The next packet comes in.
        fn arrive(&self) -> Option<Self> {
            let mut next = self.clone();
            next.ports.push(next.to_come.pop()?);
            Some(next)
        }
    }

    /// Runs every interleaving; gives the number of states. Panics where threads sleep for ever beside what they wait for.
    fn explore(first: Model) -> usize {
        let mut seen = BTreeSet::new();
        let mut todo = vec![first];
        while let Some(model) = todo.pop() {
            if !seen.insert(model.key()) {
                continue;
            }
            let mut after: Vec<Model> = (0..model.threads.len()).filter_map(|me| model.step(me)).collect();
            after.extend(model.arrive());
            let served = model.threads.iter().all(|t| t.at == At::Served);
            assert!(served || !after.is_empty(), "a wake-up is lost: {:?} {:?}", model.threads, model.ports);
            todo.append(&mut after);
        }
        seen.len()
    }

    #[test]
    fn no_interleaving_of_three_sleepers_on_one_lane_loses_a_wake_up() {
        assert!(explore(Model::new(&[1, 1, 1], &[(0, 1), (1, 1), (2, 1)])) > 1_000);
    }

    #[test]
    fn no_interleaving_of_sleepers_on_two_lanes_loses_a_wake_up() {
        assert!(explore(Model::new(&[3, 1, 2], &[(0, 2), (1, 1), (2, 2)])) > 1_000);
        assert!(explore(Model::new(&[1, 3, 2], &[(2, 2), (0, 1), (1, 1)])) > 1_000);
    }

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
