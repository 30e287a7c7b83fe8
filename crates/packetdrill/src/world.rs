//! Calls that block, and the clock: a call waits until packets or time make it ready, while packetdrill's other thread goes on.
//!
//! Time moves only here. Before it does, every other thread that calls us must be asleep, so that what a thread is about to do at this
//! moment is done at this moment, however busy the machine is. If everybody sleeps and one waits for time, that one moves it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration as RealDuration, Instant as RealInstant};

use base::{Duration, Instant};

use crate::errno::Outcome;
use crate::machine::Machine;
use crate::stack::Outbound;
use crate::threads;

/// How far the clock moves whenever it is read.
const READING: Duration = Duration::from_micros(1);
/// Longest wait, in real time, for another thread to fall asleep.
const SETTLE_MAX: RealDuration = RealDuration::from_secs(1);
/// A call that waits looks after so long whether anybody but it moves the time.
const PATIENCE: RealDuration = RealDuration::from_millis(10);

/// What one attempt at a call came to.
pub(crate) enum Attempt<T> {
    /// It is done.
    Done(Outcome<T>),
    /// It waits, at most so long, and then comes to `then`.
    Wait { timeout: Option<Duration>, then: Outcome<T> },
}

/// Everything behind one `userdata`.
pub(crate) struct World {
    machine: Mutex<Machine>,
    changed: Condvar,
}

impl World {
    pub(crate) fn new(machine: Machine) -> Self {
        Self { machine: Mutex::new(machine), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(&self) -> MutexGuard<'_, Machine> {
        let mut machine = self.lock();
        machine.called_by(sys::process::tid());
        machine
    }

    /// A call that never waits.
    pub(crate) fn at_once<T>(&self, f: impl FnOnce(&mut Machine) -> Outcome<T>) -> Outcome<T> {
        let mut machine = self.enter();
        let outcome = f(&mut machine);
        machine.gather_events();
        drop(machine);
        self.changed.notify_all();
        outcome
    }

    /// A call that is tried again whenever something changed, until it is done or its time is over.
    pub(crate) fn blocking<T>(&self, mut attempt: impl FnMut(&mut Machine) -> Attempt<T>) -> Outcome<T> {
        let mut machine = self.enter();
        let mut end = None;
        loop {
            match attempt(&mut machine) {
                Attempt::Done(outcome) => {
                    machine.gather_events();
                    drop(machine);
                    self.changed.notify_all();
                    return outcome;
                }
                Attempt::Wait { timeout, then } => {
                    machine.gather_events();
                    let now = machine.now();
                    let end = *end.get_or_insert(timeout.map_or(Instant::NEVER, |t| now.plus(t)));
                    if now >= end {
                        return then;
                    }
                    machine.begin_wait(end);
                    machine = self.sleep(machine);
                    machine.end_wait(end);
                }
            }
        }
    }

    /// Sleeps until something changed; moves the time when nobody else does.
    fn sleep<'a>(&'a self, machine: MutexGuard<'a, Machine>) -> MutexGuard<'a, Machine> {
        let (machine, late) =
            self.changed.wait_timeout(machine, PATIENCE).unwrap_or_else(PoisonError::into_inner);
        if !late.timed_out() {
            return machine;
        }
        let calls = machine.calls();
        drop(machine);
        std::thread::sleep(PATIENCE / 5);
        let alone = threads::all_others_asleep();
        let mut machine = self.lock();
        if alone && machine.calls() == calls && machine.next_due() != Instant::NEVER {
            machine.tick(Instant::NEVER);
            self.changed.notify_all();
        }
        machine
    }

    /// Lets the other threads that call us do what they are about to do.
    fn settle<'a>(&'a self, machine: MutexGuard<'a, Machine>) -> MutexGuard<'a, Machine> {
        let others = machine.other_callers(sys::process::tid());
        if others.is_empty() {
            return machine;
        }
        drop(machine);
        let start = RealInstant::now();
        while !others.iter().all(|tid| threads::is_asleep(*tid)) && start.elapsed() < SETTLE_MAX {
            std::thread::yield_now();
        }
        self.lock()
    }

    /// `usleep`: the clock goes on by `time`, and what is due meanwhile happens at its moment.
    pub(crate) fn pass(&self, time: Duration) {
        let mut machine = self.enter();
        let end = machine.now().plus(time);
        loop {
            machine = self.settle(machine);
            if !machine.tick(end) {
                return;
            }
            self.changed.notify_all();
        }
    }

    /// `gettimeofday`.
    pub(crate) fn read_clock(&self) -> Instant {
        let mut machine = self.enter();
        let end = machine.now().plus(READING);
        while machine.tick(end) {
            self.changed.notify_all();
        }
        machine.now()
    }

    /// The next packet that leaves; `None`: none does until the deadline.
    pub(crate) fn receive(&self) -> Option<Outbound> {
        let mut machine = self.enter();
        let end = machine.now().plus(machine.stack.flags.deadline);
        loop {
            if let Some(packet) = machine.stack.take_outbound() {
                return Some(packet);
            }
            machine = self.settle(machine);
            if machine.stack.has_outbound() {
                continue;
            }
            if !machine.tick(end) {
                return machine.stack.take_outbound();
            }
            self.changed.notify_all();
        }
    }
}
