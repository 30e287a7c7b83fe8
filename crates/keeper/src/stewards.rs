//! The keeper's side of the stewards: one process a region, started when a lane has lived for a moment or has lost its
//! process, told of lanes and deaths, and listened to.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Command, Stdio};

use base::limits::KEEPER_MESSAGE_BYTES;
use base::{Duration, Instant, LaneId};
use control::proto::Rule;
use rustix::fs::OFlags;
use rustix::io::Errno;
use sys::fds::{self, Fd};
use sys::launch::Launch;

use crate::STEWARD_COMMAND;
use crate::children::is_mapped;
use crate::devices::Seat;
use crate::orders::{Order, Report};
use crate::rules::Change;
use crate::session::{ClientId, LINKS_FROM, LaneHandle, RegionHandle, RegionId, Session};
use crate::wires::WireBook;

/// A program that ends sooner than this gets its steward only when it is dead: most short programs leave nothing to do.
pub(crate) const START_DELAY: Duration = Duration::from_millis(30);
/// Reports of one steward that are handled before others have their turn.
const TURN_REPORTS: usize = 64;

/// Stewards that may end over one orphan.
const LOST_MAX: u32 = 8;
/// A steward that ended sooner was short-lived, and after so many of them in a row the next one waits.
const LIVED_MIN: Duration = Duration::from_secs(1);
const SHORT_LIVED_MAX: u32 = 64;

/// A steward that runs.
pub(crate) struct Steward {
    socket: Fd,
    pid: u32,
    since: Instant,
}

impl Steward {
    fn start() -> Result<Self, std::io::Error> {
        let (ours, theirs) = fds::pair()?;
        let ours = ours.numbered_from(LINKS_FROM);
        let flags = rustix::fs::fcntl_getfl(&ours)?;
        rustix::fs::fcntl_setfl(&ours, flags | OFlags::NONBLOCK)?;
        let mut command = Command::new("/proc/self/exe");
        command.arg(STEWARD_COMMAND).env_clear().current_dir("/").stdin(Stdio::from(OwnedFd::from(theirs)));
        // Neither the terminal's signals nor a stopped process group may stop it.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        // It outlives us for a moment, to tell the peers that we are gone (`steward/cut.rs`).
        // It becomes the program's user itself, so that the program's user need not be able to execute it.
        let launch = Launch { identity: None, dies_with_parent: false, no_new_privs: true };
        let child = launch.spawn(&mut command)?;
        Ok(Self { socket: ours, pid: child.id(), since: sys::clock::now() })
    }

    pub(crate) fn send(&self, order: &Order, fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        fds::send(&self.socket, &order.encode(), fds)
    }

    pub(crate) fn poll_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// The next report. `Ok(None)`: none yet. An error: the steward is lost.
    fn receive(&self) -> Result<Option<Report>, Errno> {
        let mut buffer = [0; KEEPER_MESSAGE_BYTES];
        match fds::recv(&self.socket, &mut buffer) {
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(errno),
            Ok(got) => {
                let bytes = buffer.get(..got.bytes).unwrap_or(&[]);
                Report::decode(bytes).map(Some).map_err(|_| Errno::PROTO)
            }
        }
    }
}

impl LaneHandle {
    fn order(&self, lane: LaneId) -> Order {
        Order::Lane { lane, devices: self.devices }
    }

    fn borrowed_fds(&self) -> Vec<BorrowedFd<'_>> {
        self.fds.iter().map(AsFd::as_fd).collect()
    }
}

impl RegionHandle {
    /// Starts the region's steward, unless it runs, and tells it of every lane, and of every death.
    fn ensure_steward(
        &mut self,
        (id, wires): (RegionId, &WireBook),
        tables: BorrowedFd<'_>,
        (identity, kept): (Option<(u32, u32)>, bool),
    ) -> Result<(), String> {
        if self.steward.is_some() {
            return Ok(());
        }
        let steward = Steward::start().map_err(|e| format!("starting a steward: {e}"))?;
        let told = |e: Errno| format!("telling a steward: {e}");
        let region = Order::Region { bytes: self.memory.bytes, identity, kept };
        steward.send(&region, &[self.memory.fd.as_fd(), tables]).map_err(told)?;
        for (&number, lane) in &self.lanes {
            steward.send(&lane.order(number), &lane.borrowed_fds()).map_err(told)?;
            for wire in wires.of((id, number)) {
                steward.send(&Order::Wire { end: wire.end }, &wire.parts.fds()).map_err(told)?;
            }
            if lane.orphan {
                steward.send(&Order::Dead { lane: number, heirs: lane.heirs }, &[]).map_err(told)?;
            }
        }
        self.steward = Some(steward);
        Ok(())
    }
}

impl Session {
    /// A lane was handed out.
    pub(crate) fn lane_opened(&mut self, region: RegionId, lane: LaneId, handle: LaneHandle) {
        let Some(home) = self.regions.get_mut(&region) else { return };
        if let Some(steward) = &home.steward {
            // A steward that cannot be told is found dead in a moment.
            let _ = steward.send(&handle.order(lane), &handle.borrowed_fds());
        }
        home.lanes.insert(lane, handle);
    }

    pub(crate) fn ensure_steward(&mut self, region: RegionId) -> bool {
        let identity = (self.identity().map(|i| (i.uid, i.gid)), self.can_outlive());
        let tables = self.mirror.tables_fd();
        let Some(home) = self.regions.get_mut(&region) else { return false };
        match home.ensure_steward((region, &self.wires), tables, identity) {
            Ok(()) => true,
            Err(why) => {
                log::error!("{why}: connections of a program that ends are cut");
                false
            }
        }
    }

    /// The stewards that run.
    pub(crate) fn stewards(&self) -> impl Iterator<Item = &Steward> {
        self.regions.values().filter_map(|home| home.steward.as_ref())
    }

    /// Gives all of them an order.
    pub(crate) fn tell_stewards(&self, order: &Order) {
        for steward in self.stewards() {
            // A steward that cannot be told is found dead in a moment.
            let _ = steward.send(order, &[]);
        }
    }

    /// The process `pid` of client `id` is gone: stewards take over the locks it held and finish the connections of its
    /// lanes.
    pub(crate) fn orphan_lanes(&mut self, id: ClientId, pid: u32) {
        self.tell_stewards(&Order::Gone { pid });
        // After exec it lives on with what it left open, but for its lanes.
        let dead = if sys::process::is_gone(pid, pid) { pid } else { 0 };
        let mut orphans = Vec::new();
        for (&region, home) in &mut self.regions {
            for (&lane, handle) in home.lanes.iter_mut().filter(|(_, l)| l.owner == id && !l.orphan) {
                handle.orphan = true;
                orphans.push((region, lane, handle.slot));
            }
        }
        for &(region, lane, slot) in &orphans {
            // New connections to its ports are not the lane's any more, and others may bind them.
            let inodes = self.rules.listener_inodes(slot, None);
            let changes = self.rules.remove_listeners(slot);
            self.apply(&changes);
            let heirs = self.others_have(&inodes, dead);
            let handle = self.regions.get_mut(&region).and_then(|home| home.lanes.get_mut(&lane));
            handle.into_iter().for_each(|handle| handle.heirs = heirs);
        }
        // A steward that is started is told of them all.
        orphans.into_iter().for_each(|(region, lane, _)| self.entrust_orphan(region, lane));
    }

    /// Has the region's steward finish the connections of an orphan. If none can be started now, one is later: a lane that is given up says nothing to its
    /// peers, and those that wait for an answer would wait for ever.
    fn entrust_orphan(&mut self, region: RegionId, lane: LaneId) {
        let Some(home) = self.regions.get(&region) else { return };
        if home.steward.is_none() {
            // It is told of orphans as it starts.
            if !self.ensure_steward(region) {
                self.defer_steward(region, sys::clock::now());
            }
            return;
        }
        let heirs = home.lanes.get(&lane).is_some_and(|handle| handle.heirs);
        if let Some(steward) = &home.steward {
            // One that cannot be told is found dead in a moment, and its successor is told.
            let _ = steward.send(&Order::Dead { lane, heirs }, &[]);
        }
    }

    fn apply(&mut self, changes: &[Change]) {
        if let Err(refusal) = self.devices.steer(changes) {
            log::warn!("taking back the rules of a lane: {}", refusal.text);
        }
    }

    /// The connections of a lane are finished: rules and fds go.
    fn free_lane(&mut self, region: RegionId, lane: LaneId) {
        let Some(handle) = self.regions.get_mut(&region).and_then(|r| r.lanes.remove(&lane)) else { return };
        let changes = self.rules.remove_all(handle.slot);
        self.apply(&changes);
        self.devices.forget_lane(handle.slot);
        let seat = Seat { region, lane, slot: handle.slot };
        self.devices.close_lane(seat, &handle.devices, handle.fds);
        self.part_all((region, lane));
        self.sweep = true;
    }

    /// Regions without lanes whose maker is gone, and that no child of the maker has, are nobody's. Their stewards end when
    /// their sockets close.
    pub(crate) fn drop_unused_regions(&mut self) {
        if !std::mem::replace(&mut self.sweep, false) {
            return;
        }
        let stewards = self.steward_pids();
        let family = self.family();
        let (clients, devices) = (&self.clients, &mut self.devices);
        self.regions.retain(|&region, home| {
            let used = !home.lanes.is_empty()
                || clients.contains_key(&home.maker)
                || home.memory.inode().is_some_and(|inode| is_mapped(inode, family, &stewards));
            if !used {
                devices.forget_region(region);
            }
            used
        });
    }

    /// Starts the stewards that are due, and handles reports.
    pub(crate) fn serve_stewards(&mut self) {
        let now = sys::clock::now();
        let due: Vec<RegionId> = self
            .regions
            .iter()
            .filter(|(_, home)| home.steward.is_none() && !home.lanes.is_empty())
            .filter(|(_, home)| now.since(home.since) >= START_DELAY)
            .map(|(&id, _)| id)
            .collect();
        for region in due {
            if !self.ensure_steward(region) {
                self.defer_steward(region, now);
            }
        }
        for (region, reports) in self.reports() {
            for report in reports {
                self.handle_report(region, report);
            }
        }
    }

    /// A steward that could not be started is tried again later, not at once.
    fn defer_steward(&mut self, region: RegionId, now: Instant) {
        const RETRY: Duration = Duration::from_secs(5);
        if let Some(home) = self.regions.get_mut(&region) {
            home.since = now.plus(RETRY);
        }
    }

    fn reports(&self) -> BTreeMap<RegionId, Vec<Report>> {
        let mut found: BTreeMap<RegionId, Vec<Report>> = BTreeMap::new();
        for &id in self.regions.keys() {
            found.insert(id, self.reports_of(id));
        }
        found
    }

    fn reports_of(&self, region: RegionId) -> Vec<Report> {
        let steward = self.regions.get(&region).and_then(|home| home.steward.as_ref());
        let next = || steward.and_then(|steward| steward.receive().ok().flatten());
        std::iter::from_fn(next).take(TURN_REPORTS).collect()
    }

    fn handle_report(&mut self, region: RegionId, report: Report) {
        match report {
            Report::Done { lane, aborted } => {
                let orphan = |r: &RegionHandle| r.lanes.get(&lane).is_some_and(|l| l.orphan);
                if self.regions.get(&region).is_some_and(orphan) {
                    self.say(&format!("lane {} of region {}: finished, {aborted} aborted", lane.0, region.0));
                    self.free_lane(region, lane);
                }
            }
            Report::HandOn { rule, to, flows } => {
                let slot = self.regions.get(&region).and_then(|r| r.lanes.get(&rule.lane)).map(|l| l.slot);
                let rule = Rule { region: region.0, ..rule };
                let done = slot.is_some_and(|from| self.hand_on((from, &rule), to, flows.as_slice()).is_ok());
                self.answer_steward(region, done);
            }
            Report::Fetch { rule, flows } => {
                let slot = self.regions.get(&region).and_then(|r| r.lanes.get(&rule.lane)).map(|l| l.slot);
                let mut each = flows.as_slice().iter().copied();
                let done = slot.is_some_and(|slot| each.all(|flow| self.fetch(slot, flow).is_ok()));
                self.answer_steward(region, done);
            }
            Report::Look { lane } => self.call(region, |_, of| of == lane),
            Report::Ask { ifindex, addr } => {
                if let Err(refusal) = self.mirror.resolve(ifindex, addr) {
                    log::debug!("for a steward: {}", refusal.text);
                }
            }
        }
    }

    fn answer_steward(&self, region: RegionId, done: bool) {
        if let Some(steward) = self.regions.get(&region).and_then(|home| home.steward.as_ref()) {
            // One that cannot be told is found dead in a moment.
            let _ = steward.send(&Order::Answer { done }, &[]);
        }
    }

    /// A child ended. If it was a steward, another one takes its place at once: it may have held the lock of a lane whose program waits for
    /// it, and the peers of orphans wait; only after many that ended soon it waits. Whoever may have been ended by what it found in an orphan's lane
    /// has [`LOST_MAX`] successors there; then the orphan's connections are lost. One that was `killed` found nothing there.
    pub(crate) fn steward_ended(&mut self, pid: u32, killed: bool) {
        let ended = |home: &RegionHandle| home.steward.as_ref().is_some_and(|s| s.pid == pid);
        let Some(region) = self.regions.iter().find(|(_, home)| ended(home)).map(|(&id, _)| id) else {
            return;
        };
        // What it said last: lanes it was done with are others' to take.
        for report in self.reports_of(region) {
            self.handle_report(region, report);
        }
        let Some(home) = self.regions.get_mut(&region) else { return };
        let now = sys::clock::now();
        let lived = home.steward.take().is_some_and(|steward| now.since(steward.since) >= LIVED_MIN);
        home.short_lived = if lived { 0 } else { home.short_lived + 1 };
        let waits = home.short_lived > SHORT_LIVED_MAX;
        let mut lost = Vec::new();
        for (&id, lane) in home.lanes.iter_mut().filter(|(_, lane)| lane.orphan && !killed) {
            lane.stewards_lost += 1;
            lost.extend((lane.stewards_lost > LOST_MAX).then_some(id));
        }
        for lane in lost {
            log::error!(
                "lane {} of region {}: {} stewards ended over what a dead program left; its connections are given up, and their peers are not told",
                lane.0,
                region.0,
                LOST_MAX + 1
            );
            self.free_lane(region, lane);
        }
        let idle = self.regions.get(&region).is_none_or(|home| home.lanes.is_empty());
        self.defer_steward(region, now);
        if waits || idle || !self.ensure_steward(region) {
            return;
        }
        if let Some(steward) = self.regions.get(&region).and_then(|home| home.steward.as_ref()) {
            let _ = steward.send(&Order::Gone { pid }, &[]);
        }
    }
}
