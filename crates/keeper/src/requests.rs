//! What each request of a program does.

use std::os::fd::{AsFd, BorrowedFd};

use base::{LaneId, Port};
use control::proto::{self, RegionWish, Reply, Request, Rule, fit_text};
use control::steer::BLOCK_PORTS;
use rustix::io::Errno;
use sys::fds::Fd;

use crate::blocks;
use crate::client::{Incoming, Refusal};
use crate::devices::Seat;
use crate::introduce::Introduced;
use crate::regions::{self, Pages};
use crate::rules::{self, End, Slot};
use crate::session::{ClientId, LaneHandle, REGIONS_MAX, RegionHandle, RegionId, Session};
use crate::shared::check_namespace;

/// Lanes of one session at a time: what the steering maps can tell apart.
const SLOTS_MAX: u16 = control::steer::STEER_LANES as u16;
/// Bytes that one process may leave for `explain`.
const REASONS_BYTES_MAX: usize = 64 * 1024;

/// A reply with its fds, owned.
enum Answer {
    Done,
    Welcome,
    Region(RegionId),
    Lane(RegionId, LaneId),
    /// The same, and the lane's wires.
    Resumed(RegionId, LaneId),
    Port(Port),
    Block(Port),
    Wire(Introduced),
    Connection(Fd),
    Description(u32),
}

impl Session {
    /// Handles one message of client `id`. An error: the connection is to be closed.
    pub(crate) fn handle(&mut self, id: ClientId, message: Incoming) -> Result<(), Errno> {
        let Some(client) = self.clients.get(&id) else { return Err(Errno::PIPE) };
        let welcome = client.welcome;
        // Who does not speak the protocol is not one of the family.
        let request = Request::decode(&message.bytes).map_err(|_| Errno::PROTO)?;
        let allowed = match request {
            Request::Hello { .. } => true,
            Request::Describe { .. } => welcome || client.may_look,
            _ => welcome,
        };
        if !allowed {
            return Err(Errno::ACCESS);
        }
        let outcome = self.perform(id, &request, message.fds);
        let refused = outcome.as_ref().is_err();
        if let (Err(refusal), true) = (&outcome, self.guard().is_some()) {
            self.note_refusal(id, &refusal.text);
        }
        self.answer(id, outcome)?;
        if !welcome && refused { Err(Errno::ACCESS) } else { Ok(()) }
    }

    fn perform(&mut self, id: ClientId, request: &Request<'_>, fds: Vec<Fd>) -> Result<Answer, Refusal> {
        match request {
            Request::Hello { version, pid: _, token } => self.hello(id, *version, token),
            Request::NewRegion(wish) => self.new_region(id, wish),
            Request::Join => self.join(id, &fds).map(Answer::Region),
            Request::NewLane { region } => self.new_lane(id, RegionId(*region)),
            Request::Listen(rule) => self.take(id, rule, fds, true).map(|_| Answer::Done),
            Request::TakePort(rule) => self.take(id, rule, fds, false).map(Answer::Port),
            Request::TakePorts(rule) => self.take_block(id, rule),
            Request::Unlisten { rule, inode } => self.give(id, rule, *inode).map(|()| Answer::Done),
            Request::GivePort(rule) => self.give(id, rule, 0).map(|()| Answer::Done),
            Request::Resolve { ifindex, addr } => {
                let known = self.devices.list().iter().any(|d| d.ifindex == *ifindex);
                if !known {
                    return Err(Refusal::new(Errno::NODEV, "resolve: not a device of this session"));
                }
                self.mirror.resolve(*ifindex, *addr).map(|()| Answer::Done)
            }
            Request::Reasons { text } => {
                self.note_reasons(id, text);
                Ok(Answer::Done)
            }
            Request::Introduce { rule, ifindex, turn } => {
                self.own_slot(id, rule)?;
                self.introduce(id, rule, *ifindex, *turn).map(Answer::Wire)
            }
            Request::HandOn { rule, to, flows } => {
                let from = self.own_slot(id, rule)?;
                self.hand_on((from, rule), *to, flows.as_slice()).map(|()| Answer::Done)
            }
            Request::Fetch { rule, flows } => {
                let slot = self.slot_of_family(id, rule)?;
                self.check_flows(RegionId(rule.region), flows.as_slice())?;
                let each = flows.as_slice().iter();
                each.copied().try_for_each(|flow| self.fetch(slot, flow)).map(|()| Answer::Done)
            }
            Request::Rouse { region, lanes } => {
                self.rouse(id, RegionId(*region), *lanes).map(|()| Answer::Done)
            }
            Request::Enter { region } => {
                let region = RegionId(*region);
                let own = self.regions.get(&region).is_some_and(|r| r.lanes.values().any(|l| l.owner == id));
                let refused = || Refusal::new(Errno::ACCESS, "enter: the process has no lane there");
                if own { Ok(Answer::Region(region)) } else { Err(refused()) }
            }
            Request::Resume { region, lane } => {
                let handle = self.regions.get(&RegionId(*region)).and_then(|r| r.lanes.get(lane));
                let refused = || Refusal::new(Errno::ACCESS, "resume: the lane is not this process's");
                let own = handle.is_some_and(|handle| handle.owner == id);
                if own { Ok(Answer::Resumed(RegionId(*region), *lane)) } else { Err(refused()) }
            }
            Request::Leave(rule) => {
                self.own_slot(id, rule)?;
                self.leave_listener(id, rule).map(|()| Answer::Done)
            }
            Request::Entrust { rule, stopped } => {
                self.entrust(id, rule, stopped, &fds).map(Answer::Connection)
            }
            Request::Describe { offset } => Ok(Answer::Description(*offset)),
        }
    }

    /// What client `id` says for `explain`: behind a line of "=" in place of what it said before.
    fn note_reasons(&mut self, id: ClientId, text: &str) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        let text = match text.strip_prefix("=\n") {
            Some(text) => {
                client.reasons.clear();
                text
            }
            None => text,
        };
        let room = REASONS_BYTES_MAX.saturating_sub(client.reasons.len());
        client.reasons.push_str(text.get(..text.floor_char_boundary(room)).unwrap_or_default());
    }

    fn answer(&self, id: ClientId, outcome: Result<Answer, Refusal>) -> Result<(), Errno> {
        let Some(client) = self.clients.get(&id) else { return Err(Errno::PIPE) };
        match outcome {
            Err(Refusal { errno, text }) => {
                self.say(&format!("process {}: refused: {text}", client.pid));
                let errno = u16::try_from(errno.raw_os_error()).unwrap_or(0);
                client.send(&Reply::Error { errno, text: fit_text(&text) }, &[])
            }
            Ok(Answer::Done) => client.send(&Reply::Done, &[]),
            Ok(Answer::Port(port)) => client.send(&Reply::Port { port }, &[]),
            Ok(Answer::Block(first)) => client.send(&Reply::Ports { first, count: BLOCK_PORTS }, &[]),
            Ok(Answer::Welcome) => {
                let config = self.program_config();
                let welcome = Reply::Welcome { session: id.0, config: fit_text(&config) };
                client.send(&welcome, &[self.mirror.tables_fd()])
            }
            Ok(Answer::Region(region)) => {
                let Some(handle) = self.regions.get(&region) else { return Err(Errno::PIPE) };
                client.send(&Reply::Region { id: region.0 }, &[handle.memory.fd.as_fd()])
            }
            Ok(Answer::Lane(region, lane)) => {
                let handle = self.regions.get(&region).and_then(|r| r.lanes.get(&lane)).ok_or(Errno::PIPE)?;
                let fds: Vec<BorrowedFd<'_>> = handle.fds.iter().map(AsFd::as_fd).collect();
                client.send(&Reply::Lane { lane, devices: handle.devices }, &fds)
            }
            Ok(Answer::Resumed(region, lane)) => {
                self.answer(id, Ok(Answer::Lane(region, lane)))?;
                self.wires
                    .of((region, lane))
                    .try_for_each(|wire| client.send(&Reply::Met { end: wire.end }, &wire.parts.fds()))
            }
            Ok(Answer::Wire(Introduced { wire, lanes, fresh })) => {
                let (end, fds) = self.end_of(wire).ok_or(Errno::PIPE)?;
                let fds: &[BorrowedFd<'_>] = if fresh { &fds } else { &[] };
                client.send(&Reply::Wire { end, lanes, fresh }, fds)
            }
            Ok(Answer::Connection(socket)) => client.send(&Reply::Connection, &[socket.as_fd()]),
            Ok(Answer::Description(offset)) => {
                let text = self.describe();
                let from = text.floor_char_boundary(offset as usize);
                let piece = fit_text(text.get(from..).unwrap_or_default());
                let more = text.len().saturating_sub(from + piece.len());
                client.send(&Reply::Description { text: piece, more: more as u32 }, &[])
            }
        }
    }

    fn hello(&mut self, id: ClientId, version: u16, token: &[u8; 16]) -> Result<Answer, Refusal> {
        if !self.knows(token) {
            return Err(Refusal::new(Errno::ACCESS, "wrong token"));
        }
        if version != proto::VERSION {
            let text = format!("the library speaks version {version}, this keeper {}", proto::VERSION);
            return Err(Refusal::new(Errno::PROTONOSUPPORT, text));
        }
        if let (Some(guard), Some(client)) = (self.guard(), self.clients.get(&id)) {
            guard.check_user(client.uid)?;
        }
        if let Some(client) = self.clients.get_mut(&id) {
            client.welcome = true;
        }
        Ok(Answer::Welcome)
    }

    fn new_region(&mut self, id: ClientId, wish: &RegionWish) -> Result<Answer, Refusal> {
        if self.regions.len() >= REGIONS_MAX {
            return Err(Refusal::new(Errno::NOBUFS, "the session has as many regions as it can"));
        }
        let (wish, left) = self.allowed_region(wish);
        let memory = regions::make((&wish, left), random_key()?, !self.devices.has_xdp())?;
        if self.needs_huge_pages() && memory.pages != Pages::Huge {
            return Err(Refusal::new(Errno::NOMEM, format!("region{}", memory.pages)));
        }
        let region = RegionId(self.next_number());
        self.say(&format!("region {}: {} MiB{}", region.0, memory.bytes >> 20, memory.pages));
        let handle = RegionHandle {
            memory,
            lanes: Default::default(),
            maker: id,
            since: sys::clock::now(),
            steward: None,
            short_lived: 0,
            uid: self.clients.get(&id).map_or(u32::MAX, |client| client.uid),
        };
        self.regions.insert(region, handle);
        Ok(Answer::Region(region))
    }

    fn new_lane(&mut self, id: ClientId, region: RegionId) -> Result<Answer, Refusal> {
        self.check_lanes()?;
        let used: Vec<Slot> = self.regions.values().flat_map(|r| r.lanes.values()).map(|l| l.slot).collect();
        let slot = (0..SLOTS_MAX).map(Slot).find(|slot| !used.contains(slot));
        let slot =
            slot.ok_or_else(|| Refusal::new(Errno::NOBUFS, "the session has as many lanes as it can"))?;
        let pid = self.clients.get(&id).map_or(0, |client| client.pid);
        let unknown = || Refusal::new(Errno::NOENT, "no such region");
        let lanes = self.regions.get(&region).ok_or_else(unknown)?;
        let lane = (0..lanes.memory.shape.lanes).map(LaneId).find(|lane| !lanes.lanes.contains_key(lane));
        let lane = lane.ok_or_else(|| Refusal::new(Errno::NOBUFS, "the region has no lane left"))?;
        let (devices, fds) = self.devices.open_lane(Seat { region, lane, slot }, &lanes.memory)?;
        let handle = LaneHandle {
            owner: id,
            orphan: false,
            heirs: false,
            stewards_lost: 0,
            slot,
            heir: None,
            devices,
            fds,
        };
        self.say(&format!("process {pid}: lane {} of region {}", lane.0, region.0));
        self.lane_opened(region, lane, handle);
        Ok(Answer::Lane(region, lane))
    }

    /// The slot of the rule's lane, which must be the client's own.
    fn own_slot(&self, id: ClientId, rule: &Rule) -> Result<Slot, Refusal> {
        let lane = self.regions.get(&RegionId(rule.region)).and_then(|r| r.lanes.get(&rule.lane));
        match lane {
            Some(lane) if lane.owner == id => Ok(lane.slot),
            Some(_) | None => Err(Refusal::new(Errno::ACCESS, "the lane is not this process's")),
        }
    }

    /// The lane of `rule`, if the process may speak for its region.
    fn slot_of_family(&self, id: ClientId, rule: &Rule) -> Result<Slot, Refusal> {
        let region = self.region_of_family(id, RegionId(rule.region));
        let lane = region.and_then(|region| region.lanes.get(&rule.lane));
        lane.map(|lane| lane.slot).ok_or_else(|| Refusal::new(Errno::ACCESS, "the lane is another user's"))
    }

    /// The region, if the process may do to its lanes whatever it likes: as one of the same user, or one with a lane there, who may be another user by now.
    pub(crate) fn region_of_family(&self, id: ClientId, region: RegionId) -> Option<&RegionHandle> {
        let uid = self.clients.get(&id).map(|client| client.uid);
        let member = |region: &RegionHandle| region.lanes.values().any(|lane| lane.owner == id);
        self.regions.get(&region).filter(|region| Some(region.uid) == uid || member(region))
    }

    /// Listen and TakePort: the port is the program's (a kernel socket bound to it shows that), and its packets are
    /// the lane's from now on.
    fn take(&mut self, id: ClientId, rule: &Rule, mut fds: Vec<Fd>, listen: bool) -> Result<Port, Refusal> {
        let slot = self.own_slot(id, rule)?;
        self.check_end(rule)?;
        let socket = match fds.pop() {
            Some(socket) => {
                if self.guard().is_some() {
                    check_namespace(&socket)?;
                }
                rules::check_socket(&socket, rule)?;
                socket
            }
            None if listen => return Err(Refusal::new(Errno::BADF, "listen: no kernel socket was sent")),
            None => rules::reserve(rule, self.mirror.is_own(rule.addr))?,
        };
        let (_, port) = rules::bound_end(&socket)
            .ok_or_else(|| Refusal::new(Errno::ADDRNOTAVAIL, "the port is not bound"))?;
        let end = End::of(&Rule { port, ..*rule });
        self.enter(end, slot, listen, vec![socket])?;
        if listen {
            self.unsettle();
            self.has_news = true;
        }
        Ok(port)
    }

    /// TakePorts: ports that the keeper chooses, for connections that go out.
    fn take_block(&mut self, id: ClientId, rule: &Rule) -> Result<Answer, Refusal> {
        let slot = self.own_slot(id, rule)?;
        self.check_end(rule)?;
        let turn = self.rules.len() as u32 ^ sys::process::pid();
        let block = blocks::reserve(rule, turn, self.mirror.is_own(rule.addr))?;
        let end = End::block_of(&Rule { port: block.first, ..*rule });
        self.enter(end, slot, false, block.sockets)?;
        Ok(Answer::Block(block.first))
    }

    /// Adds a rule, here and in the steering maps.
    fn enter(&mut self, end: End, slot: Slot, listen: bool, sockets: Vec<Fd>) -> Result<(), Refusal> {
        let inode = sockets.first().map_or(0, rules::inode_of);
        let changes = self.rules.add(end, slot, listen, sockets)?;
        if let Err(refusal) = self.devices.steer(&changes) {
            // What went in comes out again; the first refusal is what counts.
            let back = self.rules.remove(end, slot, inode).unwrap_or_default();
            let _ = self.devices.steer(&back);
            return Err(refusal);
        }
        Ok(())
    }

    /// Takes a rule back; `inode`: of the kernel's socket behind it, 0: there is one.
    fn give(&mut self, id: ClientId, rule: &Rule, inode: u64) -> Result<(), Refusal> {
        let slot = self.own_slot(id, rule)?;
        let end = End::of(rule);
        let mut inodes = self.rules.listener_inodes(slot, Some(end));
        inodes.retain(|&other| inode == 0 || other == inode);
        if let Some(client) = self.clients.get_mut(&id).filter(|_| !inodes.is_empty()) {
            client.left = Some((end, inodes));
        }
        match self.rules.remove(end, slot, inode) {
            Some(changes) => {
                self.has_news = true;
                self.devices.steer(&changes)
            }
            None => Err(Refusal::new(Errno::NOENT, "the lane does not have this port")),
        }
    }
}

fn random_key() -> Result<[u64; 2], Refusal> {
    let mut bytes = [0; 16];
    rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| Refusal::new(errno, "random numbers"))?;
    let [a, b, c, d, e, f, g, h, rest @ ..] = bytes;
    Ok([u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes(rest)])
}
