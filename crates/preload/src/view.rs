//! This process's view of one lane: entering it, its events, its next timer.

mod bequest;

use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
};
use std::os::fd::AsRawFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use base::{Instant, LaneId};
use control::proto::WireEnd;
use engine::Engine;
use lane::{GATHER_WRITES, Lane, Session};
use libc::pollfd;
use state::{SockKind, SockRef};
use sys::fds::Fd;

use crate::hub::{self, Waits, Wakes};
use crate::ports::Devices;
use crate::sock::{Seat, Sock, flag};
use crate::{family, home};

/// Rounds of a step in which a port's batch was full.
const STEPS: usize = 4;
/// How long packets gather at most while the program works on a batch of events, ns.
const GATHER_NS: u64 = 500_000;
/// Answers followed by a close, in a row, after which the close is expected.
const HABIT: u32 = 8;
/// Lanes that one process may know: its own and those it was forked with.
const VIEWS: usize = 32;

static ALL: [AtomicPtr<View>; VIEWS] = [const { AtomicPtr::new(core::ptr::null_mut()) }; VIEWS];

/// On whose behalf a lane is entered.
#[derive(Clone, Copy)]
pub(crate) struct Visit {
    /// [`Sock::address`] of a socket whose events the program reads from an epoll set; 0: of none.
    token: u64,
    /// Does the call put something into the connection (data, its end)?
    puts: bool,
    /// Does it close it?
    closes: bool,
}

impl Visit {
    /// For a call that puts something into `sock`.
    pub(crate) fn putting(sock: &Sock) -> Self {
        Self { puts: true, ..Self::taking(sock) }
    }

    /// For `close`.
    pub(crate) fn closing(sock: &Sock) -> Self {
        Self { closes: true, ..Self::putting(sock) }
    }

    /// For a call that takes something from `sock`, or only asks.
    pub(crate) fn taking(sock: &Sock) -> Self {
        let token = if sock.has(flag::WATCHED) { sock.address() } else { 0 };
        Self { token, puts: false, closes: false }
    }
}

/// A lane as this process reaches it. Lives as long as the process.
pub(crate) struct View {
    number: u8,
    /// Region number at the keeper.
    pub(crate) region: u32,
    /// Number in its region.
    pub(crate) id: LaneId,
    /// What its ports are made of, to make them again after a fork.
    devices: Devices,
    lane: Mutex<&'static Lane>,
    /// The lane again, for those who hold no lock.
    lane_at: AtomicPtr<Lane>,
    /// Fork generation for which `lane` was made.
    made_in: AtomicU32,
    /// Fork generation that owns the lane.
    owner: u32,
    /// The lane is poisoned.
    dead: AtomicBool,
    /// Our event queue in the engine; 0: none yet in this process.
    queue: AtomicU8,
    /// Held around every session, so that the lane's own lock is never contended inside this process and no session is open during a fork.
    gate: Mutex<()>,
    deadline_ns: AtomicU64,
    /// When this process last held the lane, by the lane's own note.
    held_ns: AtomicU64,
    /// Until when its poller sleeps, ns; 0: there is none.
    pub(crate) sleep_until: AtomicU64,
    /// Token of the last socket of the batch of events that the program is working on; 0: none.
    last_of_batch: AtomicUsize,
    /// The socket that was last written to, by [`Sock::address`], since a close; 0: none.
    answered: AtomicU64,
    /// How many answers in a row were followed by a close.
    habit: AtomicU32,
    /// When packets were last let out, ns.
    flushed_ns: AtomicU64,
    /// Writes since then.
    gathered: AtomicU32,
    /// How long its waits are.
    pub(crate) waits: Waits,
}

impl View {
    /// Makes the process's view of its own new lane. `None` when it knows too many, or the lane does not exist.
    pub(crate) fn open(region: u32, id: LaneId, devices: Devices) -> Option<&'static Self> {
        let number = ALL.iter().position(|slot| slot.load(Ordering::Acquire).is_null())?;
        let lane: &'static Lane = Box::leak(Box::new(devices.make_lane(id, false)?));
        let view = Box::leak(Box::new(Self {
            number: number as u8,
            region,
            id,
            devices,
            lane: Mutex::new(lane),
            lane_at: AtomicPtr::new(core::ptr::from_ref(lane).cast_mut()),
            made_in: AtomicU32::new(family::generation()),
            owner: family::generation(),
            dead: AtomicBool::new(false),
            queue: AtomicU8::new(family::slot() + 1),
            gate: Mutex::new(()),
            deadline_ns: AtomicU64::new(u64::MAX),
            held_ns: AtomicU64::new(0),
            sleep_until: AtomicU64::new(0),
            last_of_batch: AtomicUsize::new(0),
            answered: AtomicU64::new(0),
            habit: AtomicU32::new(0),
            flushed_ns: AtomicU64::new(0),
            gathered: AtomicU32::new(0),
            waits: Waits::new(),
        }));
        // The engine learns the ports' addresses in a step, and must know them before the first connection goes out.
        if let Ok(mut session) = lane.enter(sys::clock::now()) {
            session.step();
        }
        ALL.get(number)?.store(view, Ordering::Release);
        Some(view)
    }

    /// The view numbered `number`.
    pub(crate) fn numbered(number: u8) -> Option<&'static Self> {
        let at = ALL.get(usize::from(number))?.load(Ordering::Acquire);
        // SAFETY: null, or a view leaked by `open`.
        unsafe { at.as_ref() }
    }

    /// All views of `mask`, a bit each.
    pub(crate) fn in_mask(mask: u32) -> impl Iterator<Item = &'static Self> {
        (0..VIEWS as u8).filter(move |n| mask >> n & 1 != 0).filter_map(Self::numbered)
    }

    /// The views this process uses, as bits; poisoned ones left out.
    pub(crate) fn in_use() -> u32 {
        Self::used(false)
    }

    /// The poisoned views this process used, as bits.
    pub(crate) fn poisoned() -> u32 {
        Self::used(true)
    }

    fn used(dead: bool) -> u32 {
        let mut mask = 0;
        for number in 0..VIEWS as u8 {
            let Some(view) = Self::numbered(number) else { break };
            if view.queue.load(Ordering::Relaxed) != 0 && view.dead.load(Ordering::Relaxed) == dead {
                mask |= 1 << number;
            }
        }
        mask
    }

    /// Its number, below 32.
    pub(crate) const fn number(&self) -> u8 {
        self.number
    }

    /// Does the lane belong to this process, not to the one it was forked from?
    pub(crate) fn is_own(&self) -> bool {
        self.owner == family::generation()
    }

    /// May other processes step this lane and take packets that concern us?
    pub(crate) fn is_shared(&self) -> bool {
        !self.is_own() || family::has_children()
    }

    /// When its next timer is due, as of the last session.
    pub(crate) fn deadline(&self) -> Instant {
        Instant(self.deadline_ns.load(Ordering::Acquire))
    }

    pub(crate) fn lane(&self) -> &'static Lane {
        if self.made_in.load(Ordering::Acquire) != family::generation() {
            self.make_again();
        }
        // SAFETY: points to a leaked lane.
        unsafe { &*self.lane_at.load(Ordering::Acquire) }
    }

    /// After a fork: ports keep state in process memory, which the parent goes on with, so the child opens its own on the
    /// same descriptors. The old ones are left alone: what they hold is the parent's.
    #[cold]
    fn make_again(&self) {
        let mut lane = self.lane.lock().unwrap_or_else(PoisonError::into_inner);
        if self.made_in.load(Ordering::Acquire) == family::generation() {
            return;
        }
        if let Some(new) = self.devices.make_lane(self.id, true) {
            *lane = Box::leak(Box::new(new));
            self.lane_at.store(core::ptr::from_ref(*lane).cast_mut(), Ordering::Release);
        }
        self.queue.store(family::slot() + 1, Ordering::Relaxed);
        self.made_in.store(family::generation(), Ordering::Release);
    }

    /// Forgets, in a child, that this process used the lane; the first use makes it so again.
    pub(crate) fn after_fork_in_child(&self) {
        self.queue.store(0, Ordering::Relaxed);
        self.sleep_until.store(0, Ordering::Relaxed);
        self.last_of_batch.store(0, Ordering::Relaxed);
    }

    /// Ends every connection of the lane with ECONNRESET, at the peers too, and those of the dead beside it. The caller holds the home.
    pub(crate) fn poison(&self) {
        self.reset_all();
        self.lane().lane_ref().signals().poisoned.store(lane::TOLD, Ordering::Release);
        self.found_poisoned();
        self.reset_orphans();
    }

    /// Its connections have failed; nobody polls its ports any more.
    #[cold]
    fn found_poisoned(&self) {
        if self.dead.swap(true, Ordering::AcqRel) {
            return;
        }
        hub::list_view(self);
        hub::wake_all();
    }

    /// This thread polls the lane: whoever else might, such as the steward, leaves it alone until [`View::stop_polling`]. False: somebody
    /// outside this process held the lane since we did, or holds it, so look again.
    pub(crate) fn start_polling(&self) -> bool {
        let lane = self.lane().lane_ref();
        let signals = lane.signals();
        signals.sleepers.fetch_add(1, Ordering::SeqCst);
        // The steward takes the lane, then looks for sleepers: one of us sees the other.
        fence(Ordering::SeqCst);
        lane.holder().is_none()
            && signals.last_held_ns.load(Ordering::Acquire) == self.held_ns.load(Ordering::Acquire)
    }

    /// The end of [`View::start_polling`].
    pub(crate) fn stop_polling(&self) {
        self.lane().lane_ref().signals().sleepers.fetch_sub(1, Ordering::AcqRel);
    }

    /// Keeps sessions out during a fork.
    pub(crate) fn close_gate(&self) -> MutexGuard<'_, ()> {
        self.gate.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the lane for `f`, which must not sleep. Afterwards events go to the hub, packets leave, and whoever waits for them wakes.
    /// `None`: the lane is poisoned.
    pub(crate) fn enter<R>(&self, f: impl FnOnce(&mut Session<'_>) -> R) -> Option<R> {
        self.enter_as(Visit { token: 0, puts: true, closes: false }, |session, heard| {
            *heard = true;
            f(session)
        })
    }

    /// [`View::enter`] for one call on one socket; `f` sets the flag when there may be events.
    pub(crate) fn enter_as<R>(
        &self,
        visit: Visit,
        f: impl FnOnce(&mut Session<'_>, &mut bool) -> R,
    ) -> Option<R> {
        home::hear_news();
        let mut wakes = Wakes::new();
        let lane = self.lane();
        let gate = self.close_gate();
        let now = sys::clock::now();
        let Ok(mut session) = lane.enter(now) else {
            drop(gate);
            self.found_poisoned();
            return None;
        };
        let mut heard = false;
        let result = f(&mut session, &mut heard);
        if heard {
            self.tell(&mut session, &mut wakes);
        }
        let gather = self.gathers(visit, now);
        let asks = session.take_asks();
        self.leave(lane, &mut session, gather, &mut wakes);
        drop(session);
        drop(gate);
        wakes.send();
        home::pass_on(self, &asks);
        Some(result)
    }

    /// While the program works on a batch of events, what it makes the lane send gathers: until it puts something into the last socket of
    /// the batch or [`GATHER_WRITES`] times into any, waits again, or [`GATHER_NS`] are over.
    fn gathers(&self, visit: Visit, now: Instant) -> bool {
        let last = self.last_of_batch.load(Ordering::Relaxed);
        let closes_next = visit.puts && visit.token != 0 && self.closes_next(visit);
        let fresh = now.0.saturating_sub(self.flushed_ns.load(Ordering::Relaxed)) < GATHER_NS;
        let ends_batch = visit.puts && last == visit.token as usize && !closes_next;
        let writes = self.gathered.load(Ordering::Relaxed) + u32::from(visit.puts && !visit.closes);
        let gather =
            fresh && last != 0 && visit.token != 0 && !ends_batch && (writes < GATHER_WRITES || closes_next);
        if gather {
            self.gathered.store(writes, Ordering::Relaxed);
        } else {
            self.flushed(now);
        }
        gather
    }

    fn flushed(&self, now: Instant) {
        self.flushed_ns.store(now.0, Ordering::Relaxed);
        self.gathered.store(0, Ordering::Relaxed);
    }

    /// Programs that close after each answer (HTTP without keep-alive) do it next, so the end of the connection can ride on the answer. Said
    /// only after [`HABIT`] answers in a row were followed by a close.
    fn closes_next(&self, visit: Visit) -> bool {
        if visit.closes {
            if self.answered.swap(0, Ordering::Relaxed) == visit.token {
                self.habit.fetch_add(1, Ordering::Relaxed);
            }
            return false;
        }
        let before = self.answered.swap(visit.token, Ordering::Relaxed);
        if before != 0 && before != visit.token {
            self.habit.store(0, Ordering::Relaxed);
        }
        self.habit.load(Ordering::Relaxed) >= HABIT
    }

    /// Lets packets in, hands the events on, and then runs `f` on the engine. Packets go out too, unless `f` says that the program will
    /// work on events of its sockets, of which it names the last. Gives also what [`hub::seen`] was when `f` looked.
    pub(crate) fn step_then<R>(&self, f: impl FnOnce(&mut Engine<'_>) -> (R, u64)) -> Option<(R, u64)> {
        home::hear_news();
        let mut wakes = Wakes::new();
        let lane = self.lane();
        let gate = self.close_gate();
        let now = sys::clock::now();
        let Ok(mut session) = lane.enter(now) else {
            drop(gate);
            self.found_poisoned();
            return None;
        };
        // First what the program left behind while it worked on the last batch.
        let mut more = session.flush_and_receive().more;
        for _ in 1..STEPS {
            if !more {
                break;
            }
            more = session.receive().more;
        }
        let (seen, (result, last)) = session.engine(|engine| {
            self.tell_of(engine, &mut wakes);
            Some((hub::seen(), f(engine)))
        })?;
        self.last_of_batch.store(last as usize, Ordering::Relaxed);
        self.flushed(now);
        let asks = session.take_asks();
        self.leave(lane, &mut session, last != 0, &mut wakes);
        drop(session);
        drop(gate);
        wakes.send();
        home::pass_on(self, &asks);
        Some((result, seen))
    }

    /// Ends a session, and notes the next timer.
    fn leave(&self, lane: &Lane, session: &mut Session<'_>, gather: bool, wakes: &mut Wakes) {
        if gather {
            session.gather();
        }
        session.end();
        let signals = lane.lane_ref().signals();
        let deadline = signals.deadline_ns.load(Ordering::Acquire);
        let before = self.deadline_ns.load(Ordering::Relaxed);
        self.deadline_ns.store(deadline, Ordering::Release);
        self.held_ns.store(signals.last_held_ns.load(Ordering::Acquire), Ordering::Release);
        if deadline < before {
            fence(Ordering::SeqCst); // Who begins to sleep says until when, then looks at the deadline.
        }
        if deadline < self.sleep_until.load(Ordering::Acquire) {
            hub::nudge_poller(self, wakes);
        }
    }

    fn tell(&self, session: &mut Session<'_>, wakes: &mut Wakes) {
        session.engine(|engine| self.tell_of(engine, wakes));
    }

    fn tell_of(&self, engine: &mut Engine<'_>, wakes: &mut Wakes) {
        while let Some(event) = engine.poll_event(self.queue()) {
            if let Some(sock) = Sock::from_token(event.token) {
                hub::fire(sock, wakes);
            }
        }
    }

    /// Our event queue in the engine, while the lane is entered.
    pub(crate) fn queue(&self) -> u16 {
        u16::from(self.queue.load(Ordering::Relaxed))
    }

    /// Has the lane's events of `seat` come to this process, for `sock`.
    pub(crate) fn subscribe(&self, seat: Seat, sock: &'static Sock) {
        sock.put(flag::SUBSCRIBED, true);
        if !self.is_own() {
            family::take_events();
        }
        // Asking for events sends nothing: what gathers goes on gathering.
        let visit = Visit { token: sock.address(), puts: false, closes: false };
        self.enter_as(visit, |session, heard| {
            *heard = true;
            session.engine(|engine| engine.set_event_queue(seat.name, self.queue(), sock.token()));
        });
    }

    /// Have the ports packets? `None`: only their descriptors tell.
    pub(crate) fn packets_wait(&self) -> Option<bool> {
        self.lane().packets_wait()
    }

    /// Adds what to wait on for packets.
    pub(crate) fn add_wait_fds(&self, fds: &mut Vec<pollfd>) {
        self.lane().with_poll_fds(|fd| {
            fds.push(pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 });
        });
    }

    /// Asks the ports for signals. True: there is something to receive already.
    pub(crate) fn arm(&self) -> bool {
        self.lane().arm()
    }

    /// Takes [`View::arm`] back, after [`View::stop_polling`].
    pub(crate) fn disarm(&self) {
        self.lane().disarm();
    }

    /// The lane gets a wire. The caller holds the home.
    pub(crate) fn add_wire(&self, end: &WireEnd, fds: Vec<Fd>) {
        if let Some(port) = self.devices.add_wire(end, fds) {
            self.change_ports(|session| {
                let _ = session.add_port(end.port, port);
            });
        }
    }

    /// A wire of the lane is gone, and its connections end. The caller holds the home.
    pub(crate) fn drop_wire(&self, number: u32) {
        if let Some(at) = self.devices.wires.remove(number) {
            self.change_ports(|session| session.drop_port(at));
        }
    }

    /// The process at the other end of the wire by which `name` sends; `None`: it goes by a device. The caller holds the home.
    pub(crate) fn peer_of(&self, name: SockRef) -> Option<u32> {
        let gate = self.close_gate();
        let mut session = self.lane().enter(sys::clock::now()).ok()?;
        session.gather();
        let port = session.engine(|engine| engine.port_of(name));
        drop(session);
        drop(gate);
        self.devices.wires.peer_at(port?)
    }

    /// Changes the lane's ports. Whoever sleeps wakes: there are other descriptors to wait on. The caller holds the home.
    fn change_ports(&self, f: impl FnOnce(&mut Session<'_>)) {
        self.enter_at_home(f);
        hub::wake_all();
    }

    /// The program's last reference to the socket `name` in this process is gone.
    pub(crate) fn end(&self, name: SockRef, sock: &Sock) {
        let shared = family::was_shared(self, name);
        if !family::let_go(self, name) || (shared && self.has_moved(name)) {
            return;
        }
        if name.kind() == Some(SockKind::Listener) && self.end_listener(name, sock) {
            return;
        }
        self.enter_as(Visit::closing(sock), |session, _| session.engine(|engine| engine.close(name)));
    }

    /// The port at this lane of the device `ifindex`, and its Ethernet address.
    pub(crate) fn port_of(&self, ifindex: u32) -> Option<(u8, base::MacAddr)> {
        self.lane().port_of(ifindex)
    }
}
