//! One batch after the other: receive, timers, events, send; and what to do when there is nothing to do.

use base::{Duration, Instant};
use state::Event;
use sys::poll::{PollFd, PollFlags, poll};

use super::{Native, QUEUE, Wait};
use crate::session::{GATHER_WRITES, receive_mail, transmit, wake_lanes};

/// Polls that find nothing before the clock is read for the timers: reading it takes as long as a poll.
const IDLE_LOOKS: u32 = 32;
/// How often timers are looked at while packets come without a pause. They are for milliseconds.
const TIMERS_EVERY: Duration = Duration::from_micros(20);

/// Longest sleep of a lane that others may hand packets to.
const MAIL_WAIT: Duration = Duration::from_millis(1);

/// Where a batch has its time from.
#[derive(Clone, Copy)]
enum Clock {
    Monotonic,
    At(Instant),
}

impl Native {
    /// One batch, without waiting: sends what the program said since the last time, receives a batch from each port, runs
    /// timers that are due, and gives events. With no event to give, what came of the batch (acknowledgements) leaves at
    /// once, else together with the program's answers. Events that are left over from the last batch are given first, without
    /// any of this.
    pub fn poll(&mut self, events: &mut [Event]) -> usize {
        self.batch(Clock::Monotonic, events)
    }

    /// [`Native::poll`] at time `now`, which does not go back: for programs and tests that have a clock of their own.
    pub fn poll_at(&mut self, now: Instant, events: &mut [Event]) -> usize {
        self.batch(Clock::At(now), events)
    }

    /// [`Native::poll`] until there is an event or `limit` is over (`None`: without end), with the lane's [`Wait`] in between.
    /// Gives the number of events.
    pub fn wait(&mut self, events: &mut [Event], limit: Option<Duration>) -> usize {
        let count = self.poll(events);
        if count > 0 || events.is_empty() {
            return count;
        }
        let since = sys::clock::now();
        let end = limit.map_or(Instant::NEVER, |limit| since.plus(limit));
        let sleep_at = match self.wait {
            Wait::Spin => Instant::NEVER,
            Wait::Sleep => since,
            Wait::SpinThenSleep(spin) => since.plus(spin),
        };
        let clocked = end != Instant::NEVER || sleep_at != Instant::NEVER;
        loop {
            let count = self.poll(events);
            if count > 0 {
                return count;
            }
            if clocked && self.idle.is_multiple_of(IDLE_LOOKS) {
                let now = sys::clock::now();
                if now >= end {
                    return 0;
                }
                if now >= sleep_at {
                    self.sleep(now, end);
                }
            }
            std::hint::spin_loop();
        }
    }

    /// Counts a write, and sends what has gathered when there are [`GATHER_WRITES`].
    #[inline]
    pub(super) fn wrote(&mut self) {
        self.writes += 1;
        if self.writes >= GATHER_WRITES {
            self.flush();
        }
    }

    /// Sends what is queued now.
    pub fn flush(&mut self) -> usize {
        let now = self.timers_at;
        self.writes = 0;
        let Self { engine: Some(engine), held, .. } = self else { return 0 };
        transmit(engine, held, now)
    }

    /// When the lane next has something to do without a packet coming in or the program saying anything.
    #[must_use]
    pub fn deadline(&mut self) -> Instant {
        let blocked = self.held.blocked_until.unwrap_or(Instant::NEVER);
        self.engine().next_deadline().min(blocked)
    }

    fn batch(&mut self, clock: Clock, events: &mut [Event]) -> usize {
        let left_over = self.take_events(events);
        if left_over > 0 {
            return left_over;
        }
        if let Clock::At(now) = clock {
            self.set_now(now);
        }
        self.flush();
        let received = self.receive(clock);
        if received > 0 {
            self.idle = 0;
        } else {
            self.idle = self.idle.wrapping_add(1);
            match clock {
                Clock::At(_) => self.run_timers(),
                Clock::Monotonic if self.idle.is_multiple_of(IDLE_LOOKS) => {
                    self.set_now(sys::clock::now());
                    self.run_timers();
                }
                Clock::Monotonic => return 0,
            }
        }
        let count = self.take_events(events);
        if count == 0 {
            self.flush();
        }
        count
    }

    /// One batch from each port; then the time is that of the packets, and timers have run if it was time. Gives the number of
    /// packets.
    fn receive(&mut self, clock: Clock) -> usize {
        let Self { engine: Some(engine), held, timers_at, .. } = self else { return 0 };
        let mut received = receive_mail(engine, held);
        for port in &mut held.ports {
            held.rx.clear();
            // A device that is gone delivers nothing; its connections run into their time-outs as on the kernel.
            let got = port.port.rx(&mut engine.mem().frames, &mut held.rx).unwrap_or(0);
            if got == 0 {
                continue;
            }
            if received == 0
                && let Clock::Monotonic = clock
            {
                engine.set_now(sys::clock::now());
            }
            engine.handle_frames(&mut held.rx);
            received += got;
        }
        wake_lanes(engine);
        if received > 0 {
            let now = engine.now();
            if let Clock::At(_) = clock {
                self.run_timers();
            } else if now.since(*timers_at) >= TIMERS_EVERY {
                self.set_now(now);
                self.run_timers();
            }
        }
        received
    }

    fn run_timers(&mut self) {
        let Self { engine: Some(engine), held, timers_at, .. } = self else { return };
        engine.handle_timers();
        held.resolver.run(engine, &held.ports, *timers_at);
    }

    fn set_now(&mut self, now: Instant) {
        self.engine().set_now(now);
        self.timers_at = self.timers_at.max(now);
    }

    fn take_events(&mut self, events: &mut [Event]) -> usize {
        let Self { engine: Some(engine), .. } = self else { return 0 };
        let mut count = 0;
        for slot in events {
            let Some(event) = engine.poll_event(QUEUE) else { break };
            *slot = event;
            count += 1;
        }
        count
    }

    /// Sleeps until a port has something, the lane's next deadline, or `end`. A lane with a port that cannot be slept on does
    /// not sleep.
    fn sleep(&mut self, now: Instant, end: Instant) {
        let mut until = self.deadline().min(end);
        if self.lane.has_mail() {
            return;
        }
        if self.lane.region().directory().is_some_and(|d| d.is_open()) {
            // What another lane hands over makes no port readable.
            until = until.min(now.plus(MAIL_WAIT));
        }
        let limit = (until != Instant::NEVER).then(|| until.since(now));
        let ports = &mut self.held.ports;
        let mut something = false;
        for port in &mut *ports {
            something |= port.port.arm();
        }
        if !something {
            let fds =
                ports.iter().map(|p| p.port.poll_fd().map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
            if let Some(mut fds) = fds.collect::<Option<Vec<PollFd<'_>>>>() {
                // A signal, or an fd that went bad: the next batch finds out.
                let _ = poll(&mut fds, limit);
            }
        }
        for port in ports {
            port.port.disarm(true);
        }
    }
}
