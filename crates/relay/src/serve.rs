//! The loop: calls of the program, events of the sockets, signals, the program's end.

use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, wait};
use sys::notify::Supervisor;
use sys::signals::SignalFd;

use crate::endpoint::{Endpoint, State, Table};
use crate::far::Watch;
use crate::front::{self, End, FORWARDED, Front, Side};
use crate::listening::{self, Accepted};
use crate::pump::{self, Left, PIECE};
use crate::target::Targets;
use crate::{Failure, Program, calls, spawn};

const CALLS: u64 = u64::MAX;
const SIGNALS: u64 = u64::MAX - 1;
const FRONT: u64 = u64::MAX - 2;
/// Calls answered before the sockets have their turn.
const CALLS_A_TURN: usize = 64;
/// Everything the relay has.
pub(crate) struct Relay {
    pub(crate) supervisor: Supervisor,
    pub(crate) table: Table,
    pub(crate) targets: Targets,
    watch: Watch,
    scratch: Vec<u8>,
    /// Slots with more to move at once.
    again: Vec<usize>,
    /// No process is under the filter any more.
    deserted: bool,
    /// The front has ended.
    front_gone: bool,
}

/// Runs `program` behind a front; gives the status that the calling process is to end with.
pub(crate) fn run(program: &Program) -> Result<u8, Failure> {
    match front::split()? {
        Side::Front(status) => Ok(status),
        Side::Relay(front) => serve(program, front),
    }
}

fn serve(program: &Program, front: Front) -> Result<u8, Failure> {
    let mut watched = FORWARDED.to_vec();
    watched.push(libc::SIGCHLD);
    let signals = SignalFd::open(&watched).map_err(|error| {
        Failure::in_("signal handling")(Errno::from_io_error(&error).unwrap_or(Errno::IO))
    })?;
    // What the program leaves running stays below this process, whose right to see it depends on that.
    set_child_subreaper(Some(getpid())).map_err(Failure::in_("PR_SET_CHILD_SUBREAPER"))?;
    let (pid, supervisor) = spawn::start(program)?;
    front::let_go(&[]);
    front::to_null(&[0, 1]);
    sys::process::raise_open_files();
    let watch = Watch::new().map_err(Failure::in_("epoll"))?;
    watch.add(supervisor.as_fd().as_raw_fd(), CALLS, false).map_err(Failure::in_("epoll"))?;
    watch.add(signals.as_fd().as_raw_fd(), SIGNALS, false).map_err(Failure::in_("epoll"))?;
    watch.add(front.fd(), FRONT, true).map_err(Failure::in_("epoll"))?;
    let mut relay = Relay {
        supervisor,
        table: Table::default(),
        targets: Targets::default(),
        watch,
        scratch: vec![0; PIECE],
        again: Vec::new(),
        deserted: false,
        front_gone: false,
    };
    let mut status = None;
    while status.is_none() || !relay.deserted || relay.table.alive() > 0 {
        relay.round().map_err(Failure::in_("epoll"))?;
        let runs = status.is_none().then_some(pid);
        front::pass_on(&signals, runs);
        if relay.front_gone && runs.is_some() {
            // Whoever ended the front meant the program; nothing less than SIGKILL ends the front alone.
            let _ = kill_process(pid, Signal::KILL);
        }
        if let Some(end) = reap(pid) {
            status = Some(end);
            front.tell(end);
        }
    }
    Ok(status.map_or(125, End::code))
}

/// Collects every child that ended; tells how the program did, if it is among them.
fn reap(program: Pid) -> Option<End> {
    let mut end = None;
    while let Ok(Some((pid, ended))) = wait(WaitOptions::NOHANG) {
        if pid == program {
            end = Some(End::of(ended));
        }
    }
    end
}

impl Relay {
    /// Waits for something and does it.
    fn round(&mut self) -> Result<(), Errno> {
        let mut events = Vec::new();
        match self.watch.wait(&mut events, self.again.is_empty()) {
            Ok(()) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
        for slot in std::mem::take(&mut self.again) {
            self.turn(slot);
        }
        for (key, happened) in events {
            match key {
                CALLS => self.calls(happened),
                SIGNALS => {}
                FRONT => self.front_gone |= happened & libc::EPOLLERR as u32 != 0,
                slot => self.event(slot as usize),
            }
        }
        Ok(())
    }

    fn calls(&mut self, happened: u32) {
        use rustix::event::{PollFd, PollFlags, poll};
        if happened & libc::EPOLLIN as u32 != 0 {
            for _ in 0..CALLS_A_TURN {
                if let Ok(call) = self.supervisor.next() {
                    self.call(call);
                }
                let mut fds = [PollFd::new(&self.supervisor, PollFlags::IN)];
                let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
                let looked = poll(&mut fds, Some(&now));
                if !looked.is_ok_and(|n| n > 0 && fds[0].revents().contains(PollFlags::IN)) {
                    break;
                }
            }
        } else if happened & libc::EPOLLHUP as u32 != 0 && !self.deserted {
            self.deserted = true;
            self.watch.remove(self.supervisor.as_fd().as_raw_fd());
            // Nobody is there for whom a listener would accept.
            for slot in self.table.slots() {
                self.event(slot);
            }
        }
    }

    /// Takes in a new socket of the program.
    pub(crate) fn add(&mut self, endpoint: Endpoint) {
        let near = endpoint.near.as_ref().map(AsRawFd::as_raw_fd);
        let far = endpoint
            .far
            .as_ref()
            .filter(|_| matches!(endpoint.state, State::Streaming))
            .map(crate::far::Far::fd);
        let slot = self.table.insert(endpoint);
        if let Some(near) = near {
            self.watch_fd(slot, near);
        }
        if let Some(far) = far {
            self.watch_far(slot, far);
        }
        self.again.push(slot);
    }

    pub(crate) fn watch_far(&mut self, slot: usize, fd: i32) {
        self.watch_fd(slot, fd);
        self.again.push(slot);
    }

    fn watch_fd(&mut self, slot: usize, fd: i32) {
        if let Err(errno) = self.watch.add(fd, slot as u64, true) {
            log::error!("relay: a connection cannot be watched and is cut: {errno}");
            if let Some(endpoint) = self.table.get(slot) {
                endpoint.take_far();
                pump::fail_near(endpoint, &mut self.targets);
            }
        }
    }

    /// Something happened at `slot`'s near or far.
    fn event(&mut self, slot: usize) {
        let Some(endpoint) = self.table.get(slot) else { return };
        match endpoint.state {
            State::Streaming | State::Ended => self.turn(slot),
            State::Fresh => self.see_closed(slot),
            State::Listening(_) => {
                self.accept_waiting(slot);
                self.see_closed(slot);
            }
            State::Connecting(_) => {
                self.see_connected(slot);
                self.see_closed(slot);
            }
        }
    }

    fn turn(&mut self, slot: usize) {
        let Some(endpoint) = self.table.get(slot) else { return };
        match endpoint.state {
            State::Streaming | State::Ended => {}
            _ => return self.event(slot),
        }
        match pump::turn(endpoint, &mut self.scratch, &mut self.targets) {
            Left::Wait => {}
            Left::Again => self.again.push(slot),
            Left::Remove => self.table.remove(slot),
            Left::Ended => self.table.has_ended(slot),
        }
    }

    /// Looks at every socket for what the program has closed.
    pub(crate) fn see_all_closed(&mut self) {
        for slot in self.table.slots() {
            match self.table.get(slot).map(|endpoint| &endpoint.state) {
                Some(State::Streaming) => self.turn(slot),
                Some(State::Ended) | None => {}
                Some(_) => self.see_closed(slot),
            }
        }
    }

    /// A socket without a connection that the program closed goes.
    fn see_closed(&mut self, slot: usize) {
        let Some(endpoint) = self.table.get(slot) else { return };
        if !matches!(endpoint.state, State::Streaming | State::Ended)
            && endpoint.near.as_ref().is_some_and(pump::hung_up)
        {
            self.table.remove(slot);
        }
    }

    /// Gives waiting threads connections; marks the listener readable when some are left.
    fn accept_waiting(&mut self, slot: usize) {
        loop {
            let Self { table, supervisor, targets, .. } = self;
            let Some(endpoint) = table.get(slot) else { return };
            let State::Listening(listening) = &mut endpoint.state else { return };
            let Some(waiting) = listening.waiting.pop_front() else {
                let waits = !listening.ready.is_empty()
                    || endpoint.far.as_ref().and_then(|far| far.accept().ok()).is_some_and(|got| {
                        listening.ready.push_back(got);
                        true
                    });
                if waits {
                    listening::mark(endpoint);
                }
                return;
            };
            match listening::accept(endpoint, waiting, supervisor, targets) {
                Ok(Accepted::Given(new)) => self.add(*new),
                Ok(Accepted::Answered) => {}
                Err(Errno::AGAIN) => {
                    listening_of(endpoint, |listening| listening.waiting.push_front(waiting));
                    return;
                }
                Err(errno) => drop(supervisor.answer(waiting.id, Err(errno))),
            }
        }
    }

    /// Has the handshake ended, and how?
    fn see_connected(&mut self, slot: usize) {
        let Self { table, supervisor, targets, .. } = self;
        let Some(endpoint) = table.get(slot) else { return };
        let State::Connecting(connecting) = &endpoint.state else { return };
        let Some(far) = &endpoint.far else { return };
        let (waiting, stuffed) = (connecting.waiting, connecting.stuffed);
        let error = far.error();
        if error.is_none() && far.peer().is_err() {
            return;
        }
        match error {
            None => {
                if let Some(stuffed) = stuffed {
                    calls::unstuff(endpoint, stuffed, targets.find(endpoint.seen, endpoint.inode));
                }
                endpoint.unreported = waiting.is_some_and(|id| supervisor.answer(id, Ok(0)).is_err());
                endpoint.state = State::Streaming;
                self.again.push(slot);
            }
            Some(errno) => match waiting {
                Some(id) => {
                    // It may connect again, on a socket that has not been connected.
                    let family = endpoint.family;
                    endpoint.far = crate::far::Far::new(family).ok();
                    endpoint.state = State::Fresh;
                    if supervisor.answer(id, Err(errno)).is_err() {
                        endpoint.error = Some(errno);
                    }
                }
                None => {
                    endpoint.error = Some(errno);
                    endpoint.far = None;
                    endpoint.state = State::Ended;
                    // Its stuffing lies unread: the close is a reset, which polls as an error.
                    endpoint.near = None;
                    table.has_ended(slot);
                }
            },
        }
    }
}

fn listening_of(endpoint: &mut Endpoint, change: impl FnOnce(&mut crate::endpoint::Listening)) {
    if let State::Listening(listening) = &mut endpoint.state {
        change(listening);
    }
}
