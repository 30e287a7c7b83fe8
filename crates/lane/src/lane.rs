//! A lane as one process sees it.

use std::cell::Cell;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};

use base::limits::PORTS;
use base::{Duration, Instant, LaneId, MacAddr};
use control::tables::Tables;
use port::Port;
use region::{FrameArea, Holding, Kept, LaneGuard, LaneRef, Owner, Region, TrimAgain};
use state::{RxBatch, SockRef, TxBatch};
use sys::futex::Woken;
use sys::poll::{PollFd, PollFlags};

use crate::Session;
use crate::resolve::Resolver;

/// Longest sleep for the lane lock before looking at it again: its holder may have died just before waking us.
const LOCK_SLEEP: Duration = Duration::from_millis(100);
/// How long packets wait for a port that takes none, before they are lost: the program at the other end of a wire may be stopped, and others of ours
/// have a share of what waits.
const STUCK: Duration = Duration::from_millis(100);
/// Sleeps through one and the same holding before we look whether its holder lives: the steward, which saves more, has
/// had its time by then, if there is one.
const SLEEPS_MAX: u32 = 10;

/// Time between two looks of [`Lane::outlast_holder`], and how many it takes.
const OUTLAST_LOOK: Duration = Duration::from_millis(1);
const OUTLAST_MAX: u32 = 1000;

/// A holder of this lane panicked or died: its tables are not to be trusted. The connections on it are lost.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Poisoned;

/// One device of a lane, open in this process.
pub struct LanePort {
    /// The back-end.
    pub port: Box<dyn Port + Send>,
    /// Interface index; 0 for a port without a device.
    pub ifindex: u32,
    /// Ethernet address we send from.
    pub mac: MacAddr,
    /// What a wire to another lane is beside that.
    pub wire: Option<Wire>,
}

/// What makes a port a wire.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wire {
    /// Ethernet address of the other end.
    pub peer: MacAddr,
    /// The device whose addresses are ours on the wire; 0: both ends are in one network namespace, and all of its addresses are.
    pub ifindex: u32,
}

/// What a lane's holder needs besides the tables in the region.
pub(crate) struct Held {
    pub(crate) ports: Vec<LanePort>,
    pub(crate) resolver: Resolver,
    pub(crate) stuck_since: StuckSince,
    /// When a port refused packets: do not offer them again before this moment.
    pub(crate) blocked_until: Option<Instant>,
    /// How long that is.
    pub(crate) retry: Duration,
    /// When memory of free frames is looked at again.
    pub(crate) trim: TrimAgain,
    /// Packets on their way in and out; kept here because they are too large to be cleared for each step.
    pub(crate) rx: RxBatch,
    pub(crate) tx: TxBatch,
    /// Signals to be sent once the lane is free.
    pub(crate) signals: Vec<engine::Raised>,
    /// The engine as the last session left it. None: none was, or one has it.
    pub(crate) kept: Option<Box<Kept<crate::session::Tables>>>,
}

impl Held {
    pub(crate) fn new(ports: Vec<LanePort>, tables: Option<Tables>) -> Self {
        Self {
            ports,
            resolver: Resolver::new(tables),
            stuck_since: StuckSince([None; PORTS]),
            blocked_until: None,
            retry: crate::session::RETRY,
            trim: TrimAgain { due: Instant::NEVER, look: Instant(0) },
            rx: RxBatch::new(),
            tx: TxBatch::new(),
            signals: Vec::new(),
            kept: None,
        }
    }
}

impl Held {
    /// Puts `port` at index `at`. False: there is one, or can be none.
    pub(crate) fn place(&mut self, at: u8, port: LanePort) -> bool {
        let index = usize::from(at);
        if index >= PORTS || self.ports.get(index).is_some_and(|port| !port.is_absent()) {
            return false;
        }
        while self.ports.len() <= index {
            self.ports.push(LanePort::absent());
        }
        self.stuck_since.clear(at);
        self.ports.get_mut(index).map(|place| *place = port).is_some()
    }
}

/// Since when each port has taken nothing.
pub(crate) struct StuckSince([Option<Instant>; PORTS]);

impl StuckSince {
    /// Port `at` takes nothing. True: so it has been for long.
    pub(crate) fn for_long(&mut self, at: u8, now: Instant) -> bool {
        let Some(since) = self.0.get_mut(usize::from(at)) else { return true };
        now.since(*since.get_or_insert(now)) >= STUCK
    }

    /// It does, or is another one.
    pub(crate) fn clear(&mut self, at: u8) {
        if let Some(since) = self.0.get_mut(usize::from(at)) {
            *since = None;
        }
    }
}

/// Forks that lie behind this process.
static FORKS: AtomicU32 = AtomicU32::new(0);

thread_local! {
    static ME: Cell<Option<(u32, Owner)>> = const { Cell::new(None) };
}

/// One process's view of one lane.
pub struct Lane {
    lane: LaneRef,
    /// Its frames: looked up once.
    area: FrameArea,
    held: Mutex<Held>,
}

impl Lane {
    /// The lane `id` of `region` with this process's handles on its ports. `tables` is the mirrored control plane, from
    /// which addresses and neighbours are kept current; without it they stay as the engine was told.
    /// `None` when the region has no such lane.
    #[must_use]
    pub fn new(region: Region, id: LaneId, ports: Vec<LanePort>, tables: Option<Tables>) -> Option<Self> {
        let lane = region.lane(id)?;
        Some(Self { lane, area: lane.frame_area(), held: Mutex::new(Held::new(ports, tables)) })
    }

    /// The lane in the region.
    #[must_use]
    pub fn lane_ref(&self) -> LaneRef {
        self.lane
    }

    /// Takes the lane. Waits for as long as another thread or process of the family holds it.
    ///
    /// # Errors
    /// [`Poisoned`], also when the holder died and no steward stepped in.
    #[inline]
    pub fn enter(&self, now: Instant) -> Result<Session<'_>, Poisoned> {
        self.healthy()?;
        let guard = self.lane.hold(me(), patience(&self.lane));
        self.healthy()?;
        Ok(Session::new(guard, &self.area, self.held(), now))
    }

    /// Takes the lane if nobody holds it.
    ///
    /// # Errors
    /// [`Poisoned`].
    pub fn try_enter(&self, now: Instant) -> Result<Option<Session<'_>>, Poisoned> {
        self.healthy()?;
        Ok(self.lane.try_lock(me()).map(|guard| self.session(guard, now)))
    }

    /// Takes the lane over from a process that died holding it. The tables may be half changed, so the caller gets a
    /// session only to reset or close everything. `None`: `dead` does not hold it.
    #[must_use]
    pub fn take_over(&self, dead: Owner, now: Instant) -> Option<Session<'_>> {
        self.lane.take_over(dead, me()).map(|guard| self.session(guard, now))
    }

    /// Waits until nobody holds the lane, at most as long as [`Lane::enter`] waits for one that is gone; whoever is found gone loses it at once, and every
    /// connection is reset. For a caller who has no steward any more that would do so.
    pub fn outlast_holder(&self, now: Instant) {
        for _ in 0..OUTLAST_MAX {
            let Some(owner) = self.lane.holder() else { return };
            if sys::process::is_gone(owner.pid, owner.tid)
                && let Some(mut session) = self.take_over(owner, now)
            {
                crate::abort_all(&mut session);
                return;
            }
            let _ = sys::poll::poll(&mut [], Some(OUTLAST_LOOK));
        }
    }

    /// Closes `sock` at once if the lane is free, else lets the holder do it when it unlocks.
    ///
    /// # Errors
    /// [`Poisoned`].
    pub fn close_later(&self, sock: SockRef, now: Instant) -> Result<(), Poisoned> {
        self.healthy()?;
        let mut session = match self.lane.lock_or_defer(me(), request_of(sock)) {
            Ok(None) => return Ok(()),
            Ok(Some(guard)) => self.session(guard, now),
            Err(_) => self.enter(now)?,
        };
        session.engine(|engine| engine.close(sock));
        Ok(())
    }

    /// Calls `f` with the fd of each port that can be polled: readable means that [`Session::step`] has work.
    pub fn with_poll_fds(&self, mut f: impl FnMut(BorrowedFd<'_>)) {
        for port in &self.held().ports {
            if let Some(fd) = port.port.poll_fd() {
                f(fd);
            }
        }
    }

    /// Sleeps until a device has packets, for `most` at most. Wires, and signals of the program, end it as they like.
    pub(crate) fn doze(&self, most: Duration) {
        let held = self.held();
        let fds = held.ports.iter().filter_map(|port| port.port.poll_fd());
        let mut polled: Vec<PollFd<'_>> = fds.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)).collect();
        let _ = sys::poll::poll(&mut polled, Some(most));
    }

    /// To be called before a sleep on the ports' fds, after the sleeper has counted itself in the lane's signals. True: a port has
    /// something already, so do not sleep.
    pub fn arm(&self) -> bool {
        self.held().ports.iter_mut().any(|port| port.port.arm())
    }

    /// After a sleep that [`Lane::arm`] began, when the sleeper no longer counts itself.
    pub fn disarm(&self) {
        let sleepers = &self.lane.signals().sleepers;
        let last = sleepers.load(Ordering::SeqCst) == 0;
        let mut held = self.held();
        for port in &mut held.ports {
            port.port.disarm(last);
            // Somebody who counted himself meanwhile may have armed before our call took that back.
            if last && sleepers.load(Ordering::SeqCst) != 0 {
                port.port.disarm(false);
            }
        }
    }

    /// Have the ports packets to give, as far as memory shows? `None`: only their fds tell. False also while somebody else has the lane.
    #[must_use]
    pub fn packets_wait(&self) -> Option<bool> {
        let held = match self.held.try_lock() {
            Ok(held) => held,
            Err(TryLockError::Poisoned(held)) => held.into_inner(),
            Err(TryLockError::WouldBlock) => return Some(false),
        };
        held.ports.iter().try_fold(false, |any, port| Some(any | port.port.packets_wait()?))
    }

    /// The lane has a wire at index `at`. Does not wait for a holder that is gone: whoever takes the lane over sends by the wire what it is still to say, and
    /// nothing goes by one that the holder did not know.
    ///
    /// # Errors
    /// [`Poisoned`].
    pub fn add_wire(&self, at: u8, port: LanePort, now: Instant) -> Result<(), Poisoned> {
        if self.lane.holder().is_some_and(|owner| sys::process::is_gone(owner.pid, owner.tid)) {
            self.place_port(at, port);
            return Ok(());
        }
        let mut session = self.enter(now)?;
        session.add_port(at, port);
        session.gather();
        Ok(())
    }

    /// Puts `port` at index `at` of a lane that is made anew, whose engine knows the port already.
    pub fn place_port(&self, at: u8, port: LanePort) {
        self.held().place(at, port);
    }

    /// Forgets the port at index `at`, which another process of the family sees off.
    pub fn forget_port(&self, at: u8) {
        if let Some(port) = self.held().ports.get_mut(usize::from(at)) {
            *port = LanePort::absent();
        }
    }

    /// Number of devices.
    #[must_use]
    pub fn port_count(&self) -> usize {
        self.held().ports.len()
    }

    /// The index among this lane's ports of the device `ifindex`, and its Ethernet address.
    #[must_use]
    pub fn port_of(&self, ifindex: u32) -> Option<(u8, MacAddr)> {
        let held = self.held();
        let at = held.ports.iter().position(|p| p.ifindex == ifindex)?;
        held.ports.get(at).map(|p| (at as u8, p.mac))
    }

    /// The device at port `port`; 0 for a wire.
    #[must_use]
    pub fn device_at(&self, port: u8) -> Option<u32> {
        self.held().ports.get(usize::from(port)).map(|p| p.ifindex)
    }

    fn session(&self, guard: LaneGuard, now: Instant) -> Session<'_> {
        Session::new(guard.at(&self.lane), &self.area, self.held(), now)
    }

    /// Has a holder panicked?
    #[must_use]
    #[inline]
    pub fn is_poisoned(&self) -> bool {
        self.lane.signals().poisoned.load(Ordering::Acquire) != 0
    }

    #[inline]
    fn healthy(&self) -> Result<(), Poisoned> {
        if self.is_poisoned() { Err(Poisoned) } else { Ok(()) }
    }

    /// Uncontended whenever the lane lock is held; a panic of its holder leaves it as it was.
    #[inline]
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// This thread, as the lane lock names it.
#[inline]
pub(crate) fn me() -> Owner {
    let generation = FORKS.load(Ordering::Relaxed);
    ME.with(|cell| match cell.get() {
        Some((since, owner)) if since == generation => owner,
        Some(_) | None => {
            let owner = Owner { pid: sys::process::pid(), tid: sys::process::tid() };
            cell.set(Some((generation, owner)));
            owner
        }
    })
}

/// A process that goes on after `fork` calls this in the child, before it enters a lane: threads remember who they are, because asking
/// the kernel costs two system calls at each entry.
pub fn forked() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

/// Says whether nobody stands in for the dead of this process's lanes.
static ALONE: OnceLock<fn() -> bool> = OnceLock::new();

/// From now on `is_alone` is asked, ten times a second, by who waits for a lane: true, and a holder that is gone is found at once, not after a second in
/// which a steward would have. The first one counts.
pub fn alone_when(is_alone: fn() -> bool) {
    let _ = ALONE.set(is_alone);
}

/// Takes the lock of `lane`. Waits while its holder lives; a holder that is gone loses it, and the lane is poisoned then.
pub fn lock(lane: LaneRef) -> LaneGuard {
    lane.lock(me(), patience(&lane))
}

/// How a thread waits for the lock of `lane`: see [`lock`].
#[inline]
fn patience(lane: &LaneRef) -> impl FnMut(&AtomicU32, u32) {
    let mut last: Option<Holding> = None;
    let mut sleeps = 0;
    move |word, seen| {
        if sys::futex::wait(word, seen, Some(LOCK_SLEEP)) != Woken::TimedOut {
            return;
        }
        let holding = lane.holding();
        sleeps = if holding == last { sleeps + 1 } else { 1 };
        last = holding;
        let has_steward = || !ALONE.get().is_some_and(|is_alone| is_alone());
        if sleeps < SLEEPS_MAX && has_steward() {
            return;
        }
        let Some(Holding { owner, .. }) = holding else { return };
        if sys::process::is_gone(owner.pid, owner.tid)
            && let Some(_inherited) = lane.take_over(owner, me())
        {
            lane.signals().poisoned.store(1, Ordering::Release);
        }
    }
}

/// Wakes one thread that waits for the lane lock.
pub(crate) fn wake_one(word: &AtomicU32) {
    let _ = sys::futex::wake(word, 1);
}

/// A deferred close in one word. Bit 63 of a generation that large makes the queue refuse it, and the caller waits.
fn request_of(sock: SockRef) -> u64 {
    u64::from(sock.raw) | u64::from(sock.generation) << 32
}

/// The socket of a deferred close.
pub(crate) fn sock_of(request: u64) -> SockRef {
    SockRef { raw: request as u32, generation: (request >> 32) as u32 }
}

#[cfg(test)]
mod tests {
    use super::{request_of, sock_of};
    use state::{SockKind, SockRef};

    #[test]
    fn a_deferred_close_names_its_socket() {
        let sock = SockRef::new(SockKind::Listener, 12_345, 678);
        assert_eq!(sock_of(request_of(sock)), sock);
    }
}
