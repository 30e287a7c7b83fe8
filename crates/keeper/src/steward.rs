//! The steward of one region: an unprivileged process that advances the region's lanes when their programs do not.
//!
//! While a program lives and is at work, or waits for its lane, the steward sleeps. It steps a lane that nobody has held
//! for [`AWAY`] although packets or timers are due: the program computes, or waits for something else. When the program
//! is dead, it closes what the program left open, as the kernel would, and steps the lane until its connections are done.
//! When the keeper is gone, it tells the peers (`lane::cut_all`).
//!
//! Left out: a stopped program (SIGSTOP) that was waiting for its lane is not stood in for; its packets wait in the port.

mod left;
mod sandbox;
mod vanished;

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::process::ExitCode;
use std::sync::atomic::{Ordering, fence};

use base::{Duration, Instant, LaneId};
use control::proto::{DeviceList, WireEnd};
use control::tables::{TABLES_BYTES, Tables};
use lane::{Ask, Lane, Poisoned, open_device, open_wire, twins};
use region::Region;
use rustix::io::Errno;
use state::{Endpoint, LAYOUT_VERSION};
use sys::fds::{self, Fd};
use sys::poll::{PollFd, PollFlags, poll};

use crate::desk::{Broken, Desk};
use crate::orders::{Order, Report};
use crate::{closing, heirs};

/// Nobody held the lane for so long: its program is away.
const AWAY: Duration = Duration::from_millis(20);
/// Shortest and longest time between two looks at a lane whose program is at work or waits. With [`AWAY`] the longest stays below
/// the 200 ms after which a Linux peer sends again what was not acknowledged.
const LOOK_MIN: Duration = Duration::from_millis(20);
const LOOK_MAX: Duration = Duration::from_millis(100);
/// How long a dead program's connections may take. Linux gives an orphan about as long (tcp_orphan_retries, tcp_fin_timeout).
const LINGER: Duration = Duration::from_secs(60);
/// How long what waits at a dead program's listeners may wait for another process that listens there: whoever started the program may start
/// it anew. On the kernel it would wait for as long as anybody has the socket.
const HEIRS_WAIT: Duration = Duration::from_secs(3);
const HEIRS_LOOK: Duration = Duration::from_millis(10);
/// How long after a death segments may come that were under way to the lane.
const SETTLE: Duration = Duration::from_millis(20);
/// Longest wait for a process that is ending.
const END_MAX: Duration = Duration::from_millis(100);
/// Shortest sleep between two steps, when a lane's deadline has passed and a step did not change it.
const STEP_MIN: Duration = Duration::from_millis(1);
/// Steps of one visit.
const ROUNDS: u32 = 64;

/// What the steward does about a lane at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Duty {
    /// The program is at work or waits for the lane: look again then.
    Watch(Instant),
    /// Step when a port is readable, or then.
    Serve(Instant),
}

/// One lane in the steward's care.
struct Care {
    lane: Lane,
    /// Copies of the ports' fds, to wait on.
    fds: Vec<Fd>,
    /// When the program died, if it did.
    dead_since: Option<Instant>,
    /// Until when its listeners stay open for another process to take what waits at them.
    heirs_until: Instant,
    /// What the dead program left open is closed, but for listeners.
    closed: bool,
    /// Those, too.
    deaf: bool,
    /// Listeners that the living program left, with connections at them, and until when those may wait.
    left: Vec<(Endpoint, Instant)>,
    /// A steward that is gone may have had such listeners in its care: they are to be found.
    inherits_left: bool,
    /// Connections that were reset because the lane could not be trusted or time was over.
    aborted: u32,
    /// Wires that ended while the program lived: should it die before it ends their connections, that is ours to do.
    parted: Vec<u8>,
    /// Neighbours to ask the keeper for.
    asks: Vec<Ask>,
    /// Its connections were reset while the program lives, which was not told yet.
    owes_look: bool,
    /// `last_held_ns` as our own last visit left it: a visit of ours does not count as the program's.
    ours_ns: u64,
    /// Its program was away at the last look.
    away: bool,
    /// Time between looks; grows while nothing happens.
    look: Duration,
    looked_ns: u64,
}

/// The whole life of a steward; its socket to the keeper is standard input.
#[must_use]
pub fn steward_main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(Broken(why)) => {
            eprintln!("corelane: a steward ends: {why}");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> Result<(), Broken> {
    let desk = Desk::new(sys::fds::duplicate(&std::io::stdin())?);
    let (order, fds) = desk.receive()?.ok_or_else(|| Broken("the keeper is gone".to_owned()))?;
    let Order::Region { bytes, identity, kept } = order else { return Err(Broken("no region".to_owned())) };
    let mut fds = fds.into_iter();
    let (Some(memory), Some(tables)) = (fds.next(), fds.next()) else {
        return Err(Broken("a region without its descriptors".to_owned()));
    };
    sandbox::drop_privileges(identity)?;
    let words = sys::memory::map_shared(&memory, bytes)?;
    let region = Region::open(words, LAYOUT_VERSION)?;
    let words = sys::memory::map_shared_readonly(&tables, TABLES_BYTES as u64)?;
    let tables = Tables::open(words).map_err(|e| Broken(format!("{e:?}")))?;
    // The first look at the clock finds the kernel's vDSO, by calls that are not kept.
    let _ = sys::clock::now();
    sys::sandbox::keep_only(&sandbox::CALLS)?;
    let mut cares = BTreeMap::new();
    follow(&desk, (region, tables), &mut cares)?;
    // Without us nobody finishes what the dead left; the living go on if they can.
    cares.retain(|_, care| !kept || care.dead_since.is_some());
    let lanes: Vec<Lane> = cares.into_values().map(|care| care.lane).collect();
    lane::cut_all(&lanes);
    Ok(())
}

/// Does what the keeper orders and the lanes need, until the keeper is gone.
fn follow(
    desk: &Desk,
    (region, tables): (Region, Tables),
    cares: &mut BTreeMap<LaneId, Care>,
) -> Result<(), Broken> {
    loop {
        let now = sys::clock::now();
        let duties: Vec<(LaneId, Duty)> = cares.iter_mut().map(|(&id, care)| (id, care.duty(now))).collect();
        if wait(desk, cares, &duties)? {
            match desk.receive()? {
                None => return Ok(()),
                Some((Order::Lane { lane, devices }, fds)) => {
                    let care = Care::new((region, lane), &devices, fds, tables)?;
                    cares.insert(lane, care);
                }
                Some((Order::Wire { end }, fds)) => {
                    if let Some(care) = cares.get_mut(&end.lane) {
                        care.add_wire(region, &end, fds)?;
                    }
                }
                Some((Order::Part { lane, port }, _)) => {
                    if let Some(care) = cares.get_mut(&lane) {
                        care.drop_wire(port)?;
                    }
                }
                Some((Order::Dead { lane, heirs }, _)) => {
                    if let Some(care) = cares.get_mut(&lane) {
                        let now = sys::clock::now();
                        care.dead_since = Some(now);
                        let left = care.left.iter().map(|(_, until)| *until).max().unwrap_or(now);
                        care.heirs_until = if heirs { now.plus(HEIRS_WAIT) } else { left };
                    }
                }
                Some((Order::Leave { lane, addr, port }, _)) => {
                    if let Some(care) = cares.get_mut(&lane) {
                        care.left.push((Endpoint { addr, port }, sys::clock::now().plus(HEIRS_WAIT)));
                    }
                }
                Some((Order::Answer { .. }, _)) => return Err(Broken("an answer to nothing".to_owned())),
                Some((Order::Gone { pid }, _)) => {
                    await_end(pid)?;
                    for (&id, care) in cares.iter_mut() {
                        care.inherit();
                        care.rouse();
                        care.call_program(id, desk)?;
                    }
                }
                Some((Order::Vanished { addr }, _)) => cares.values_mut().for_each(|care| care.probe(addr)),
                Some((Order::Region { .. }, _)) => return Err(Broken("a second region".to_owned())),
            }
        }
        cares.values_mut().filter(|care| care.inherits_left).for_each(Care::find_left);
        for (&id, care) in cares.iter_mut().filter(|(_, care)| !care.left.is_empty()) {
            care.see_left_off((region, id), desk);
        }
        serve_lanes(desk, region, cares, &duties)?;
    }
}

/// Waits until process `pid`, which has left the keeper, has ended; not long, because it may have closed the connection only.
fn await_end(pid: u32) -> Result<(), Broken> {
    if let Ok(process) = sys::process::open(pid) {
        match poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(END_MAX)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Broken(format!("poll: {errno}"))),
        }
    }
    Ok(())
}

/// Sleeps until the keeper says something (true), or a lane needs a visit.
fn wait(desk: &Desk, cares: &BTreeMap<LaneId, Care>, duties: &[(LaneId, Duty)]) -> Result<bool, Broken> {
    let mut fds: Vec<BorrowedFd<'_>> = vec![desk.poll_fd()];
    let mut until = if desk.has_pending() { Instant(0) } else { Instant::NEVER };
    let mut served = Vec::new();
    if cares.values().any(|care| !care.left.is_empty()) {
        until = until.min(sys::clock::now().plus(HEIRS_LOOK));
    }
    for (id, duty) in duties {
        match duty {
            Duty::Watch(at) => until = until.min(*at),
            Duty::Serve(at) => {
                until = until.min(*at);
                served.extend(cares.get(id));
            }
        }
    }
    for care in &served {
        fds.extend(care.fds.iter().map(AsFd::as_fd));
        // Its program may take the signals back while we sleep, and go away again.
        until = until.min(sys::clock::now().plus(if care.lane.arm() { Duration(0) } else { LOOK_MAX }));
    }
    let mut polled: Vec<PollFd<'_>> =
        fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    let timeout = (until != Instant::NEVER).then(|| until.since(sys::clock::now()));
    match poll(&mut polled, timeout) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(errno) => return Err(Broken(format!("poll: {errno}"))),
    }
    for care in served {
        care.lane.disarm();
    }
    Ok(desk.has_pending() || polled.first().is_some_and(|fd| !fd.revents().is_empty()))
}

/// Visits the lanes that are ours to serve, and reports those that are done.
fn serve_lanes(
    desk: &Desk,
    region: Region,
    cares: &mut BTreeMap<LaneId, Care>,
    duties: &[(LaneId, Duty)],
) -> Result<(), Broken> {
    let served = duties.iter().filter(|(_, duty)| matches!(duty, Duty::Serve(_))).map(|(id, _)| *id);
    for id in served {
        let Some(care) = cares.get_mut(&id) else { continue };
        care.find_heirs((region, id), desk);
        let done = care.visit();
        care.offer((region, id), desk);
        care.call_program(id, desk)?;
        for ask in std::mem::take(&mut care.asks) {
            match ask {
                Ask::Neighbour { ifindex, addr } => desk.report(&Report::Ask { ifindex, addr })?,
                Ask::Leaver(leaver) => heirs::follow(id, &care.lane, &leaver, desk),
            }
        }
        if done {
            care.leave();
            desk.report(&Report::Done { lane: id, aborted: care.aborted })?;
            cares.remove(&id);
        }
    }
    Ok(())
}

impl Care {
    fn new(
        (region, id): (Region, LaneId),
        devices: &DeviceList,
        fds: Vec<Fd>,
        tables: Tables,
    ) -> Result<Self, Broken> {
        let unknown = || Broken("a lane that the region does not have".to_owned());
        let at_region = region.lane(id).ok_or_else(unknown)?;
        let mut fds = fds.into_iter();
        let mut ports = Vec::new();
        for (at, device) in devices.as_slice().iter().enumerate() {
            ports.push(open_device(at_region, at as u8, device, &mut fds)?);
        }
        let lane = Lane::new(region, id, ports, Some(tables)).ok_or_else(unknown)?;
        let looked_ns = lane.lane_ref().signals().last_held_ns.load(Ordering::Acquire);
        let mut care = Self {
            lane,
            fds: Vec::new(),
            dead_since: None,
            heirs_until: Instant(0),
            closed: false,
            deaf: false,
            left: Vec::new(),
            inherits_left: true,
            aborted: 0,
            parted: Vec::new(),
            asks: Vec::new(),
            owes_look: false,
            ours_ns: u64::MAX,
            away: false,
            look: LOOK_MIN,
            looked_ns,
        };
        care.find_fds()?;
        Ok(care)
    }

    /// The lane has a wire.
    fn add_wire(&mut self, region: Region, end: &WireEnd, fds: Vec<Fd>) -> Result<(), Broken> {
        let port = open_wire(region, end, &mut fds.into_iter())?;
        self.parted.retain(|at| *at != end.port);
        // A lane that nobody trusts any more needs none.
        let _ = self.lane.add_wire(end.port, port, sys::clock::now());
        self.find_fds()
    }

    /// The wire at `port` is no more. While its program lives, that ends the connections.
    fn drop_wire(&mut self, port: u8) -> Result<(), Broken> {
        if self.dead_since.is_none() {
            self.lane.forget_port(port);
            self.parted.push(port);
        } else if let Ok(mut session) = self.lane.enter(sys::clock::now()) {
            session.drop_port(port);
        }
        self.find_fds()
    }

    /// Notes the ports' fds, to wait on.
    fn find_fds(&mut self) -> Result<(), Broken> {
        let mut copies = Vec::new();
        self.lane.with_poll_fds(|fd| copies.push(fds::duplicate(&fd)));
        self.fds = copies.into_iter().collect::<Result<Vec<Fd>, Errno>>()?;
        Ok(())
    }

    /// What to do about this lane now.
    fn duty(&mut self, now: Instant) -> Duty {
        let signals = self.lane.lane_ref().signals();
        let deadline = Instant(signals.deadline_ns.load(Ordering::Acquire)).max(now.plus(STEP_MIN));
        if let Some(since) = self.dead_since {
            let next = match (self.closed, self.deaf) {
                (true, true) => deadline.min(since.plus(LINGER)),
                (true, false) => deadline.min(now.plus(HEIRS_LOOK)),
                (false, _) => now.plus(STEP_MIN),
            };
            return Duty::Serve(next);
        }
        if signals.ready.load(Ordering::Acquire) == 0 || self.lane.is_poisoned() {
            return Duty::Watch(now.plus(LOOK_MAX));
        }
        let held_ns = signals.last_held_ns.load(Ordering::Acquire);
        let at_work = held_ns != self.ours_ns && now.since(Instant(held_ns)) < AWAY;
        let waiting = signals.sleepers.load(Ordering::Acquire) != 0;
        if !at_work && !waiting {
            // What waits at its listeners when it goes away is seen at once, not when the next packet comes.
            let goes = !std::mem::replace(&mut self.away, true);
            return Duty::Serve(if goes { now.plus(STEP_MIN) } else { deadline });
        }
        self.away = false;
        self.look = if held_ns == self.looked_ns { self.look.times(2).min(LOOK_MAX) } else { LOOK_MIN };
        self.looked_ns = held_ns;
        Duty::Watch(now.plus(self.look))
    }

    /// Steps the lane. True: its program is dead and nothing is left to do.
    fn visit(&mut self) -> bool {
        let now = sys::clock::now();
        let ready = self.lane.lane_ref().signals().ready.load(Ordering::Acquire) != 0;
        let over = self.dead_since.is_some_and(|since| now.since(since) >= LINGER);
        if !ready || over {
            return self.dead_since.is_some();
        }
        self.inherit();
        if self.dead_since.is_some() && self.lane.is_poisoned() {
            self.reset_poisoned();
        }
        let mut session = match self.lane.try_enter(now) {
            Ok(Some(session)) => session,
            Ok(None) => return false,
            Err(Poisoned) => return self.dead_since.is_some(),
        };
        // A thread that begins to wait for the lane counts itself, then looks whether somebody holds it: so either it sees
        // us and looks again, or we see it here.
        fence(Ordering::SeqCst);
        let waited_for = self.lane.lane_ref().signals().sleepers.load(Ordering::SeqCst) != 0;
        if waited_for && self.dead_since.is_none() {
            return false;
        }
        if self.dead_since.is_some() && !self.closed {
            self.parted.drain(..).for_each(|port| session.drop_port(port));
            // What had come before it died is the program's still.
            session.step();
            closing::close_connections(&mut session);
            self.closed = true;
        }
        let mut progress = session.step();
        for _ in 0..ROUNDS {
            if !progress.more {
                break;
            }
            progress = session.step();
        }
        // A SYN that was steered here before the keeper knew of the death is no reason to refuse its sender: somebody else listens there.
        let settled = !progress.more && self.dead_since.is_some_and(|since| now.since(since) >= SETTLE);
        let heard = now >= self.heirs_until || settled && !closing::has_waiting(&mut session);
        if self.closed && !self.deaf && heard {
            closing::close_listeners(&mut session);
            self.deaf = true;
            session.step();
        }
        if progress.asks {
            self.asks.extend(session.take_asks());
        }
        let done = self.deaf && closing::unfinished(&mut session) == 0 && !session.has_unsent();
        drop(session);
        self.ours_ns = self.lane.lane_ref().signals().last_held_ns.load(Ordering::Acquire);
        done
    }

    /// Tells the peers of a dead program's lane, which nobody trusted any more, that their connections are over.
    fn reset_poisoned(&mut self) {
        self.lane.lane_ref().signals().poisoned.store(0, Ordering::Release);
        if let Ok(Some(mut session)) = self.lane.try_enter(sys::clock::now()) {
            self.aborted += lane::abort_all(&mut session);
            session.step();
        }
    }

    /// The lane is done with: whoever gets it next formats it.
    fn leave(&self) {
        let signals = self.lane.lane_ref().signals();
        signals.ready.store(0, Ordering::Release);
        signals.poisoned.store(0, Ordering::Release);
        signals.sleepers.store(0, Ordering::Release);
        signals.accepters.store(0, Ordering::Release);
        signals.left_at.store(0, Ordering::Release);
    }

    /// Hands what waits to be accepted by a program that does something else to the processes that accept.
    fn offer(&self, (region, id): (Region, LaneId), desk: &Desk) {
        let accepts = self.lane.lane_ref().signals().accepters.load(Ordering::SeqCst) != 0;
        if self.dead_since.is_some() || accepts || twins::others(region, id).next().is_none() {
            return;
        }
        for listener in closing::listeners_with_unaccepted(&self.lane, sys::clock::now()) {
            heirs::offer(&self.lane, listener, desk);
        }
    }

    /// Hands what waits at a dead program's listeners on to whoever listens there now.
    fn find_heirs(&mut self, (region, id): (Region, LaneId), desk: &Desk) {
        if self.dead_since.is_none() || self.deaf {
            return;
        }
        self.inherit();
        let now = sys::clock::now();
        for (listener, local) in closing::listeners_with_waiting(&self.lane, now) {
            heirs::hand_on((region, id), &self.lane, (listener, local), desk);
        }
    }

    /// Takes the lane from a holder that is gone: its tables may be half changed, so every connection is reset.
    fn inherit(&mut self) {
        let lane = self.lane.lane_ref();
        if let Some(owner) = lane.holder().filter(|owner| sys::process::is_gone(owner.pid, owner.tid))
            && let Some(mut session) = self.lane.take_over(owner, sys::clock::now())
        {
            // A program that lives goes on with its listeners.
            self.aborted += match self.dead_since {
                Some(_) => lane::abort_all(&mut session),
                None => lane::fail_all(&mut session),
            };
            self.owes_look = self.dead_since.is_none();
        }
    }

    /// Has the program look at its lane, if it has to: it may sleep.
    fn call_program(&mut self, lane: LaneId, desk: &Desk) -> Result<(), Broken> {
        if std::mem::take(&mut self.owes_look) {
            desk.report(&Report::Look { lane })?;
        }
        Ok(())
    }

    /// Wakes whoever waits for the lock, for a process that died between freeing it and waking them.
    fn rouse(&self) {
        self.lane.lane_ref().rouse(|word| {
            // Nobody waits, or they are woken.
            let _ = sys::futex::wake(word, u32::MAX);
        });
    }
}
