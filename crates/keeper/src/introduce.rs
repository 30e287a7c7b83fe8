//! Introducing programs of this host to one another: who listens where, and a wire between two lanes on request.
//!
//! A wire is made by the keeper of the lane that asks. The lane at its other end, of this keeper or of another one, hears of it by a
//! notice; nothing waits for that: what is sent meanwhile waits in the wire. When one of the two lanes is done with, the wire is
//! hung up, and both sides are told.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;

use base::IpAddress;
use control::meet::{FarLane, Letter};
use control::netlink::{far_end, namespace_number};
use control::proto::{Proto, Reply, Rule, WireEnd};
use control::tables::LinkKind;
use port::memif::{MemifParts, WireShape};
use rustix::io::Errno;
use sys::fds::Fd;

use crate::client::Refusal;
use crate::meeting::{KeeperId, Listening, News};
use crate::orders::Order;
use crate::rules::{self, End, Slot};
use crate::session::{ClientId, RegionId, Session};
use crate::wires::{NearLane, Target, There, Wire, parts_of};

/// Letters of one keeper that are handled before others have their turn.
const TURN_LETTERS: usize = 256;

/// A lane that listens where somebody wants to connect to.
struct Listener {
    target: Target,
    pid: u32,
    /// The device on the listener's side; 0: it is in the asker's network namespace.
    ifindex: u32,
}

/// What an introduction gives.
pub(crate) struct Introduced {
    /// Number of the wire.
    pub(crate) wire: u32,
    /// How many lanes listen there.
    pub(crate) lanes: u8,
    /// Was the wire made for this?
    pub(crate) fresh: bool,
}

fn nobody() -> Refusal {
    Refusal::new(Errno::NOENT, "no program that a wire leads to listens there")
}

impl Session {
    /// A wire from the lane of `rule` to one of those that listen at its address and port.
    pub(crate) fn introduce(
        &mut self,
        id: ClientId,
        rule: &Rule,
        ifindex: u32,
        turn: u8,
    ) -> Result<Introduced, Refusal> {
        let near = (RegionId(rule.region), rule.lane);
        let listeners = self.listeners(near, rule, ifindex);
        let count = u8::try_from(listeners.len()).unwrap_or(u8::MAX);
        let at = usize::from(turn).checked_rem(listeners.len()).ok_or_else(nobody)?;
        let listener = listeners.get(at).ok_or_else(nobody)?;
        if let Some(wire) = self.wires.find(near, listener.target, ifindex) {
            return Ok(Introduced { wire, lanes: count, fresh: false });
        }
        let pid = self.clients.get(&id).map_or(0, |client| client.pid);
        let wire = self.make_wire((near, pid, ifindex), listener)?;
        Ok(Introduced { wire, lanes: count, fresh: true })
    }

    /// The lanes that listen at the address and port of `rule`, for `near`, whose route leaves by `ifindex`; always in the same order.
    fn listeners(&self, near: NearLane, rule: &Rule, ifindex: u32) -> Vec<Listener> {
        let mut found = self.listeners_at(rule, rule.addr, ifindex);
        // As the kernel: who listens at exactly this address comes before those who listen at any of its family, and those at any.
        for any in [rules::any_of(rule.addr), IpAddress::ANY] {
            if found.is_empty() {
                found = self.listeners_at(rule, any, ifindex);
            }
        }
        found.retain(|listener| listener.target != Target::Near(near));
        found.sort_by_key(|listener| listener.target);
        found
    }

    fn listeners_at(&self, rule: &Rule, addr: IpAddress, ifindex: u32) -> Vec<Listener> {
        if rule.proto != Proto::Tcp || !self.inside(rule) {
            return Vec::new();
        }
        if ifindex != 0 {
            return self.listeners_behind(rule, addr, ifindex);
        }
        if !rules::is_loopback(rule.addr) && !self.mirror.tables().host_addresses().contains(&rule.addr) {
            return Vec::new();
        }
        let end = End::of(&Rule { addr, ..*rule });
        let near = self.rules.listeners_at(end).into_iter().filter_map(|slot| {
            let (lane, pid) = self.lane_in(slot)?;
            Some(Listener { target: Target::Near(lane), pid, ifindex: 0 })
        });
        let here = self.meeting.others().filter(|(_, keeper)| keeper.namespace == self.meeting.namespace);
        let far = here.flat_map(|(id, keeper)| far_listeners(id, &keeper.news, (addr, rule.port.0), 0));
        near.chain(far).collect()
    }

    /// Those in the network namespace behind the veth device `ifindex`, whose other end has the address.
    fn listeners_behind(&self, rule: &Rule, addr: IpAddress, ifindex: u32) -> Vec<Listener> {
        let veth = self.mirror.tables().link(ifindex).is_some_and(|link| link.kind == LinkKind::Veth);
        let Some(far) = far_end(ifindex).ok().flatten().filter(|_| veth) else { return Vec::new() };
        let mut found = Vec::new();
        for (id, keeper) in self.meeting.others() {
            let has_address = keeper.news.addresses.contains(&(far.ifindex, rule.addr.0));
            let number = || keeper.net.as_ref().and_then(|net| namespace_number(net).ok().flatten());
            if has_address && number() == Some(far.namespace) {
                found.extend(far_listeners(id, &keeper.news, (addr, rule.port.0), far.ifindex));
            }
        }
        found
    }

    /// Is the rule's process in our network namespace?
    fn inside(&self, rule: &Rule) -> bool {
        let lane = self.regions.get(&RegionId(rule.region)).and_then(|r| r.lanes.get(&rule.lane));
        lane.and_then(|lane| self.clients.get(&lane.owner)).is_some_and(|client| client.is_inside())
    }

    /// The lane with this number, and its process, if that lives and is in our network namespace.
    fn lane_in(&self, slot: Slot) -> Option<(NearLane, u32)> {
        let mut all =
            self.regions.iter().flat_map(|(&region, home)| home.lanes.iter().map(move |l| (region, l)));
        let (region, (&lane, handle)) = all.find(|(_, (_, l))| l.slot == slot && !l.orphan)?;
        let client = self.clients.get(&handle.owner).filter(|client| client.is_inside())?;
        Some(((region, lane), client.pid))
    }

    fn make_wire(
        &mut self,
        (near, pid, ifindex): (NearLane, u32, u32),
        listener: &Listener,
    ) -> Result<u32, Refusal> {
        let failed = |errno: Errno| Refusal::new(errno, format!("making a wire: {errno}"));
        let shape = WireShape::default();
        let port = self.free_port(near)?;
        let (parts, far_parts) = port::memif::pair(shape).map_err(failed)?;
        let wire = self.next_number();
        let end = WireEnd {
            wire,
            lane: near.1,
            port,
            asked: true,
            peer_pid: listener.pid,
            ifindex,
            log2_ring: shape.log2_ring as u8,
            buffer_bytes: shape.buffer_bytes,
        };
        let far_end = WireEnd { asked: false, peer_pid: pid, ifindex: listener.ifindex, ..end };
        let there = match listener.target {
            Target::Near(far) => {
                let number = self.next_number();
                let port = self.free_port(far)?;
                let far_end = WireEnd { wire: number, lane: far.1, port, ..far_end };
                let (region, there) = (far.0, There::Near(wire));
                self.hand_over(Wire { region, end: far_end, target: None, there, parts: far_parts })?;
                There::Near(number)
            }
            Target::Far(keeper, lane) => {
                let letter = Letter::Wire { lane, end: far_end };
                if !self.meeting.send(keeper, &letter, &far_parts.fds()) {
                    self.lose_keeper(keeper);
                    return Err(nobody());
                }
                There::Far { keeper, number: wire, ours: true }
            }
        };
        let made = Wire { region: near.0, end, target: Some(listener.target), there, parts };
        self.tell_steward(&made);
        self.say(&format!("a wire from process {pid} to process {}", listener.pid));
        self.wires.insert(made);
        Ok(wire)
    }

    fn free_port(&self, lane: NearLane) -> Result<u8, Refusal> {
        let handle = self.regions.get(&lane.0).and_then(|region| region.lanes.get(&lane.1));
        let devices = handle.filter(|handle| !handle.orphan).map(|handle| handle.devices.as_slice().len());
        devices
            .and_then(|devices| self.wires.free_port(lane, devices))
            .ok_or_else(|| Refusal::new(Errno::NOBUFS, "a lane has as many wires as it can"))
    }

    /// Gives its end to a lane that did not ask for it.
    fn hand_over(&mut self, wire: Wire) -> Result<(), Refusal> {
        let gone = || Refusal::new(Errno::NOENT, "the lane that listens is gone");
        let (region, lane) = wire.lane();
        let handle = self.regions.get(&region).and_then(|home| home.lanes.get(&lane)).ok_or_else(gone)?;
        let client = self.clients.get(&handle.owner).filter(|_| !handle.orphan).ok_or_else(gone)?;
        // A program that does not take its notices gets no more wires.
        client.send(&Reply::Met { end: wire.end }, &wire.parts.fds()).map_err(|errno| {
            Refusal::new(errno, format!("handing a wire to process {}: {errno}", client.pid))
        })?;
        self.mirror.count_notice();
        self.tell_steward(&wire);
        self.wires.insert(wire);
        Ok(())
    }

    fn tell_steward(&self, wire: &Wire) {
        if let Some(steward) = self.regions.get(&wire.region).and_then(|home| home.steward.as_ref()) {
            // A steward that cannot be told is found dead in a moment.
            let _ = steward.send(&Order::Wire { end: wire.end }, &wire.parts.fds());
        }
    }

    /// The answer's end and its fds, for [`Reply::Wire`].
    pub(crate) fn end_of(&self, wire: u32) -> Option<(WireEnd, [BorrowedFd<'_>; MemifParts::FDS])> {
        self.wires.get(wire).map(|wire| (wire.end, wire.parts.fds()))
    }

    /// Ends the wire `number` at both ends.
    pub(crate) fn part(&mut self, number: u32) {
        let Some(wire) = self.wires.remove(number) else { return };
        if let Err(errno) = wire.parts.hang_up() {
            log::debug!("hanging up a wire: {errno}");
        }
        self.tell_parted(&wire);
        match wire.there {
            There::Near(other) => {
                if let Some(other) = self.wires.remove(other) {
                    self.tell_parted(&other);
                }
            }
            There::Far { keeper, number, ours } => {
                // One that cannot be told is found lost in a moment.
                let _ = self.meeting.send(keeper, &Letter::Part { wire: number, yours: !ours }, &[]);
            }
        }
    }

    /// Tells process and steward of the lane that the wire is no more.
    fn tell_parted(&mut self, wire: &Wire) {
        let home = self.regions.get(&wire.region);
        if let Some(steward) = home.and_then(|home| home.steward.as_ref()) {
            let _ = steward.send(&Order::Part { lane: wire.end.lane, port: wire.end.port }, &[]);
        }
        let handle = home.and_then(|home| home.lanes.get(&wire.end.lane)).filter(|handle| !handle.orphan);
        if let Some(client) = handle.and_then(|handle| self.clients.get(&handle.owner)) {
            let _ = client.send(&Reply::Parted { wire: wire.end.wire }, &[]);
            self.mirror.count_notice();
        }
    }

    /// The lane is done with: its wires end.
    pub(crate) fn part_all(&mut self, lane: NearLane) {
        for number in self.wires.numbers(|wire| wire.lane() == lane) {
            self.part(number);
        }
    }

    /// Handles what other keepers say.
    pub(crate) fn serve_meeting(&mut self) {
        self.meeting.accept();
        for id in self.meeting.ids() {
            for _ in 0..TURN_LETTERS {
                match self.meeting.receive(id) {
                    Ok(Some((letter, fds))) => {
                        if self.read_letter(id, &letter, fds).is_err() {
                            self.lose_keeper(id);
                            break;
                        }
                    }
                    Ok(None) => break,
                    Err(_) => {
                        self.lose_keeper(id);
                        break;
                    }
                }
            }
        }
        self.announce();
    }

    fn read_letter(&mut self, id: KeeperId, letter: &Letter, fds: Vec<Fd>) -> Result<(), Errno> {
        match letter {
            Letter::Wire { lane, end } => {
                if self.take_over(id, *lane, end, fds).is_err() {
                    let sorry = Letter::Part { wire: end.wire, yours: true };
                    return if self.meeting.send(id, &sorry, &[]) { Ok(()) } else { Err(Errno::PIPE) };
                }
            }
            Letter::Part { wire, yours } => {
                let there = There::Far { keeper: id, number: *wire, ours: *yours };
                for number in self.wires.numbers(|wire| wire.there == there) {
                    self.part(number);
                }
            }
            Letter::Hello { .. } | Letter::Listens { .. } | Letter::Address { .. } => {
                if self.meeting.note(id, letter, fds)? {
                    self.mirror.count_meeting();
                }
            }
        }
        Ok(())
    }

    /// Another keeper made a wire to a lane of ours.
    fn take_over(&mut self, id: KeeperId, lane: FarLane, end: &WireEnd, fds: Vec<Fd>) -> Result<(), Refusal> {
        let near = (RegionId(lane.region), lane.lane);
        let listens = self.news().listening.iter().any(|row| row.lane == lane);
        if !listens || end.asked {
            return Err(nobody());
        }
        let (port, number) = (self.free_port(near)?, self.next_number());
        let there = There::Far { keeper: id, number: end.wire, ours: false };
        let end = WireEnd { wire: number, lane: near.1, port, ..*end };
        let parts = parts_of(&end, fds).ok_or_else(nobody)?;
        self.hand_over(Wire { region: near.0, end, target: None, there, parts })
    }

    /// Another keeper is gone: nobody looks after the other ends of wires to its lanes.
    fn lose_keeper(&mut self, id: KeeperId) {
        self.note_vanished(id);
        self.meeting.forget(id);
        let to_it = |wire: &Wire| matches!(wire.there, There::Far { keeper, .. } if keeper == id);
        for number in self.wires.numbers(to_it) {
            self.part(number);
        }
        self.mirror.count_meeting();
    }

    /// What there is to tell of ourselves.
    fn news(&self) -> News {
        let mut listening = BTreeSet::new();
        for (end, slot) in self.rules.listeners() {
            if let (Some(((region, lane), pid)), Some(Proto::Tcp)) = (self.lane_in(slot), end.proto()) {
                let lane = FarLane { region: region.0, lane };
                listening.insert(Listening { lane, addr: end.addr().0, port: end.port().0, pid });
            }
        }
        let addresses = self.mirror.tables().addresses().iter().map(|a| (a.ifindex, a.addr.0)).collect();
        News { listening, addresses }
    }

    /// Tells the other keepers, and our programs, what is new.
    pub(crate) fn announce(&mut self) {
        if !std::mem::replace(&mut self.has_news, false) {
            return;
        }
        let (lost, changed) = self.meeting.tell(self.news());
        if changed {
            self.mirror.count_meeting();
        }
        for id in lost {
            self.lose_keeper(id);
        }
    }
}

/// The lanes that listen at exactly `end`, as keeper `id` tells it.
fn far_listeners(id: KeeperId, news: &News, end: (IpAddress, u16), ifindex: u32) -> Vec<Listener> {
    let (addr, port) = end;
    let there = news.listening.iter().filter(|row| row.addr == addr.0 && row.port == port);
    there.map(|row| Listener { target: Target::Far(id, row.lane), pid: row.pid, ifindex }).collect()
}
