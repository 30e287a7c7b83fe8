//! The lane, held.

mod last;

use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

use base::limits::BATCH_FRAMES;
use base::{Duration, Instant, LaneId};
use engine::{Engine, Leaver};
use region::{CarveError, Carved, Carver, FrameArea, Kept, LaneGuard, LaneRef};
use state::ports::{PORT_ADDRESSES, PORT_UP};
use state::{LaneMem, TxFrame};

use crate::lane::{Held, StuckSince, sock_of, wake_one};
use crate::resolve::port_info;
use crate::{Ask, LanePort, signals};

pub use self::last::{abort_all, fail_all, open_sockets};

/// Writes whose packets gather at most while a program works on a batch of events. More at once leave the other end of a wire without work meanwhile, and then this end.
pub const GATHER_WRITES: u32 = 32;
/// Batches received in one step; more stays in the ports for the next one, so that a flood cannot keep the caller.
const ROUNDS: usize = 4;
/// Packets of the mailbox taken in one step.
const MAIL_MAX: usize = 2 * BATCH_FRAMES;
/// Batches sent in one flush.
const FLUSH_ROUNDS: usize = 64;
/// Batches that a port which goes may still deliver.
const LAST_BATCHES: usize = 1024;
/// Pause before packets are offered again to a port whose ring was full, where asking costs a system call.
pub(crate) const RETRY: Duration = Duration::from_micros(200);

/// What a step did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// Packets received.
    pub received: usize,
    /// Packets sent.
    pub sent: usize,
    /// The ports have more to give: step again before sleeping.
    pub more: bool,
    /// [`Session::take_asks`] has something for the keeper.
    pub asks: bool,
}

/// What is carved of a lane: the engine over its tables.
pub(crate) struct Tables;

impl Carved for Tables {
    type Of<'a> = Engine<'a>;

    #[inline(always)]
    fn carve<'a>(carver: Carver<'a>, area: &'a FrameArea) -> Result<Engine<'a>, CarveError> {
        Ok(Engine::new(LaneMem::carve(carver, area)?, Instant(0)))
    }
}

/// A lane in the hands of this thread. Dropping it sends what is queued, does what others deferred, and unlocks.
pub struct Session<'a> {
    guard: Option<LaneGuard<&'a LaneRef>>,
    area: &'a FrameArea,
    held: MutexGuard<'a, Held>,
    /// Goes back to `held` at the end.
    kept: Option<Box<Kept<Tables>>>,
    now: Instant,
    gather: bool,
    look_at: Instant,
    /// How the engine's last use in this session left it.
    after: Option<After>,
}

/// What is to be done for a lane that nobody touches.
#[derive(Clone, Copy)]
struct After {
    deadline: Instant,
    /// Packets wait to be sent.
    sends: bool,
    /// Somebody is to be told by a signal.
    signals: bool,
}

impl After {
    fn of(engine: &Engine<'_>) -> Self {
        Self {
            deadline: engine.next_deadline(),
            sends: engine.transmit_pending(),
            signals: engine.signals_pending(),
        }
    }
}

impl<'a> Session<'a> {
    #[inline]
    pub(crate) fn new(
        guard: LaneGuard<&'a LaneRef>,
        area: &'a FrameArea,
        mut held: MutexGuard<'a, Held>,
        now: Instant,
    ) -> Self {
        let kept = Some(held.kept.take().unwrap_or_default());
        Self {
            guard: Some(guard),
            area,
            held,
            kept,
            now,
            gather: false,
            look_at: Instant::NEVER,
            after: None,
        }
    }

    /// The time of this session.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.now
    }

    /// Receives what the ports have (a bounded number of batches), runs timers, resolves next hops, sends.
    pub fn step(&mut self) -> Progress {
        let mut progress = self.receive();
        progress.sent = self.flush();
        progress
    }

    /// Sends what an earlier session left behind, then [`Session::receive`].
    pub fn flush_and_receive(&mut self) -> Progress {
        self.receive_after(true)
    }

    /// [`Session::step`] without sending: for a caller that is about to let the program answer, so that acknowledgements
    /// ride on the answers.
    pub fn receive(&mut self) -> Progress {
        self.receive_after(false)
    }

    fn receive_after(&mut self, flush: bool) -> Progress {
        let mut progress = Progress::default();
        let now = self.now;
        let Self { guard, area, held, kept, look_at, after, .. } = self;
        let Some(engine) = open(kept, guard, area, now) else { return progress };
        let held = &mut **held;
        if flush {
            progress.sent = transmit(engine, held, now);
        }
        *look_at = held.resolver.run(engine, &held.ports, now);
        progress.received += receive_mail(engine, held);
        for _ in 0..ROUNDS {
            let (got, full) = receive(engine, held);
            progress.received += got;
            progress.more = full;
            if !full {
                break;
            }
        }
        progress.more |= engine.mem().frames.lane().is_some_and(|lane| lane.has_mail());
        engine.handle_timers();
        wake_lanes(engine);
        if now >= held.trim.look {
            held.trim = engine.mem().frames.trim(now, sys::memory::give_back);
        }
        while let Some(leaver) = engine.poll_leaver() {
            held.resolver.add(leaver);
        }
        progress.asks = held.resolver.has_asks();
        *after = Some(After::of(engine));
        progress
    }

    /// Calls `f` with the engine over this lane's tables. Tables that describe themselves wrongly poison the lane, and
    /// give `R`'s default.
    pub fn engine<R: Default>(&mut self, f: impl FnOnce(&mut Engine<'_>) -> R) -> R {
        match open(&mut self.kept, &mut self.guard, self.area, self.now) {
            Some(engine) => {
                let result = f(engine);
                self.after = Some(After::of(engine));
                result
            }
            None => {
                self.after = None;
                self.poison();
                R::default()
            }
        }
    }

    /// Sends what is queued now.
    pub fn flush(&mut self) -> usize {
        if self.after.is_some_and(|after| !after.sends) {
            return 0;
        }
        let Some(engine) = open(&mut self.kept, &mut self.guard, self.area, self.now) else { return 0 };
        let sent = transmit(engine, &mut self.held, self.now);
        self.after = Some(After::of(engine));
        sent
    }

    /// Keeps what is queued for a later flush or step: the caller has more to say and promises to come back.
    pub fn gather(&mut self) {
        self.gather = true;
    }

    /// Gives the engine the ports' abilities, and `addrs` as the addresses of port `at`: for lanes without mirrored tables.
    pub fn set_addresses(&mut self, at: u8, addrs: &[base::IpAddress]) {
        let Some(port) = self.held.ports.get(usize::from(at)) else { return };
        let mut info = port_info(port);
        for (slot, addr) in info.addrs.iter_mut().zip(addrs) {
            *slot = *addr;
        }
        info.addr_count = addrs.len().min(PORT_ADDRESSES) as u32;
        self.engine(|engine| engine.set_port(at, &info));
    }

    /// Puts `port` at index `at`, where there is none: a wire that the keeper introduced. False: the lane has no such row, or a port there.
    pub fn add_port(&mut self, at: u8, port: LanePort) -> bool {
        let Self { guard, area, held, kept, now, after, .. } = self;
        *after = None;
        let held = &mut **held;
        let Some(engine) = open(kept, guard, area, *now) else { return false };
        if !held.place(at, port) {
            return false;
        }
        if let Some(port) = held.ports.get(usize::from(at)) {
            held.resolver.describe(engine, &held.ports, at, port);
        }
        true
    }

    /// Takes the wire at index `at` away, whose other end is gone: what came by it is still taken, then its connections end as by a
    /// reset.
    pub fn drop_port(&mut self, at: u8) {
        let Self { guard, area, held, kept, now, after, .. } = self;
        *after = None;
        let held = &mut **held;
        let Some(engine) = open(kept, guard, area, *now) else { return };
        let Some(port) = held.ports.get_mut(usize::from(at)) else { return };
        let mut gone = core::mem::replace(port, LanePort::absent());
        for _ in 0..LAST_BATCHES {
            held.rx.clear();
            let got = gone.port.rx(&mut engine.mem().frames, &mut held.rx).unwrap_or(0);
            engine.handle_frames(&mut held.rx);
            if got == 0 {
                break;
            }
        }
        gone.port.release(&mut engine.mem().frames);
        engine.drop_port(at);
    }

    /// What the keeper must be asked.
    pub fn take_asks(&mut self) -> Vec<Ask> {
        self.held.resolver.take_asks()
    }

    /// Those of [`Session::take_asks`] that are connections.
    pub(crate) fn take_leavers(&mut self) -> Vec<Leaver> {
        self.held.resolver.take_leavers()
    }

    pub(crate) fn ports(&self) -> &[LanePort] {
        &self.held.ports
    }

    /// When the lane next has something to do without a packet coming in.
    #[inline]
    pub fn deadline(&mut self) -> Instant {
        let engine = match self.after {
            Some(after) => after.deadline,
            None => self.engine(|engine| Some(engine.next_deadline())).unwrap_or(Instant::NEVER),
        };
        let blocked = self.held.blocked_until.unwrap_or(Instant::NEVER);
        engine.min(self.look_at).min(blocked).min(self.held.trim.due)
    }

    fn poison(&self) {
        if let Some(guard) = &self.guard {
            guard.signals().poisoned.store(1, Ordering::Release);
        }
    }

    /// What others queued for the holder: closes.
    fn run_requests(&mut self) {
        while let Some(request) = self.guard.as_mut().and_then(LaneGuard::next_request) {
            self.engine(|engine| engine.close(sock_of(request)));
        }
    }
}

impl Drop for Session<'_> {
    fn drop(&mut self) {
        if self.guard.is_some() && std::thread::panicking() {
            self.poison();
        } else {
            self.end();
        }
    }
}

impl Session<'_> {
    /// What dropping it does: sends what is queued, does what others deferred, and unlocks. A session that ended does nothing more.
    pub fn end(&mut self) {
        if self.guard.is_none() {
            return;
        }
        if !self.gather {
            self.flush();
        }
        while self.guard.is_some() {
            // Anew each time: what others deferred may have started timers.
            let deadline = self.deadline();
            if self.after.is_none_or(|after| after.signals) {
                self.take_signals();
            }
            let Some(guard) = self.guard.take() else { return };
            let signals = guard.signals();
            signals.deadline_ns.store(deadline.0, Ordering::Relaxed);
            signals.last_held_ns.store(self.now.0, Ordering::Relaxed);
            if let Err(guard) = guard.unlock(wake_one) {
                self.guard = Some(guard);
                self.run_requests();
                self.flush();
            }
        }
        self.held.kept = self.kept.take();
        if !self.held.signals.is_empty() {
            signals::send(&core::mem::take(&mut self.held.signals));
        }
    }

    #[cold]
    fn take_signals(&mut self) {
        let mut all = core::mem::take(&mut self.held.signals);
        if let Some(engine) = open(&mut self.kept, &mut self.guard, self.area, self.now) {
            signals::take(engine, &mut all);
        }
        self.held.signals = all;
    }
}

/// The engine over the tables of the lane that `guard` holds.
#[inline]
fn open<'s>(
    kept: &'s mut Option<Box<Kept<Tables>>>,
    guard: &'s mut Option<LaneGuard<&LaneRef>>,
    area: &'s FrameArea,
    now: Instant,
) -> Option<&'s mut Engine<'s>> {
    let engine = kept.as_mut()?.open(guard.as_mut()?, area).ok()?;
    engine.set_now(now);
    Some(engine)
}

/// Takes what other lanes of the region handed over. Gives the number of packets.
pub(crate) fn receive_mail(engine: &mut Engine<'_>, held: &mut Held) -> usize {
    let mut received = 0;
    loop {
        held.rx.clear();
        let got = engine.take_mail(&mut held.rx);
        received += got;
        if got == 0 {
            return received;
        }
        engine.handle_frames(&mut held.rx);
        // As many as fit the mailbox, however fast others fill it.
        if received >= MAIL_MAX {
            return received;
        }
    }
}

/// Wakes the lanes that sleep and were handed packets.
pub(crate) fn wake_lanes(engine: &mut Engine<'_>) {
    let rung = engine.take_rung();
    if rung == 0 {
        return;
    }
    let Some(own) = engine.mem().frames.lane() else { return };
    let lanes = (0..u64::BITS as u16).filter(|lane| rung >> lane & 1 != 0);
    for lane in lanes.filter_map(|lane| own.region().lane(LaneId(lane))) {
        let _ = sys::futex::wake(&lane.signals().wake_seq, u32::MAX);
    }
}

/// One batch from each port. Gives the packets received, and whether some port may have more.
fn receive(engine: &mut Engine<'_>, held: &mut Held) -> (usize, bool) {
    let (mut received, mut full) = (0, false);
    for port in &mut held.ports {
        held.rx.clear();
        // A device that is gone delivers nothing; its connections run into their time-outs as on the kernel.
        let got = port.port.rx(&mut engine.mem().frames, &mut held.rx).unwrap_or(0);
        engine.handle_frames(&mut held.rx);
        received += got;
        full |= got == BATCH_FRAMES;
    }
    (received, full)
}

/// Sends all that is queued, as far as the ports take it. Gives the packets sent.
pub(crate) fn transmit(engine: &mut Engine<'_>, held: &mut Held, now: Instant) -> usize {
    if held.blocked_until.is_some_and(|until| now < until) {
        return 0;
    }
    held.blocked_until = None;
    let mut sent = 0;
    if !engine.transmit_pending() {
        return sent;
    }
    for _ in 0..FLUSH_ROUNDS {
        held.tx.clear();
        if engine.poll_transmit(&mut held.tx) == 0 {
            break;
        }
        let taken = send(engine, (&mut held.ports, &mut held.stuck_since), held.tx.items(), now);
        sent += taken;
        let left = held.tx.items().get(taken..).unwrap_or(&[]);
        if !left.is_empty() {
            engine.requeue_unsent(left);
            held.blocked_until = Some(now.plus(held.retry));
            break;
        }
    }
    sent
}

/// Offers a batch to the ports, one run of packets for the same port at a time. Gives how many were taken from the front.
fn send(
    engine: &mut Engine<'_>,
    (ports, stuck): (&mut [LanePort], &mut StuckSince),
    batch: &[TxFrame],
    now: Instant,
) -> usize {
    let mut taken = 0;
    for run in batch.chunk_by(|a, b| a.port == b.port) {
        let Some(at) = run.first().map(|first| first.port) else { break };
        let up = engine.mem().ports.rows().get(usize::from(at)).is_some_and(|p| p.flags & PORT_UP != 0);
        let frames = &mut engine.mem().frames;
        let went = match ports.get_mut(usize::from(at)) {
            // A device that is gone takes everything and delivers nothing.
            Some(port) if !port.is_absent() => {
                port.port.tx(frames, run).unwrap_or_else(|_| discard(frames, run))
            }
            // Another process of the family has the port, and is to send this.
            Some(_) | None if up => 0,
            Some(_) | None => discard(frames, run),
        };
        let went = match went {
            0 if stuck.for_long(at, now) => discard(frames, run),
            0 => 0,
            some => {
                stuck.clear(at);
                some
            }
        };
        taken += went;
        if went < run.len() {
            break;
        }
    }
    taken
}

/// Loses packets that have nowhere to go; TCP sends them again if the device comes back.
fn discard(frames: &mut region::Frames<'_>, packets: &[TxFrame]) -> usize {
    for packet in packets {
        frames.release(packet.head);
    }
    packets.len()
}
