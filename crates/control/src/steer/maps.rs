//! What the steering maps hold, and which lane of a listener a remote end belongs to.
//!
//! Keys and values are bytes as the programs read them: addresses and ports in network order. Each family has maps of its own, so that the
//! longer keys of IPv6 cost IPv4 nothing.

use super::SteerLane;
use crate::proto::Proto;
use base::{IpAddress, Port};

/// Slots of a listener: a remote end hashes to one, and the slot names a lane.
pub const SLOTS: usize = base::hash::FLOW_SLOTS;
/// A slot without a lane: the packet goes to the kernel.
pub(super) const NO_LANE: u8 = 0xff;
/// Shift that turns a 32-bit hash into a slot.
pub(super) const SLOT_SHIFT: u32 = 32 - SLOTS.ilog2();

pub use base::hash::BLOCK_PORTS;
/// What the ports of a block have in common.
pub(super) const BLOCK_MASK: u16 = !(BLOCK_PORTS - 1);
/// Last byte of the key of a rule for a block; 0 in that of a single port.
pub(super) const BLOCK_KEY: u8 = 1;

/// Bytes of an address in the keys of a family.
pub(super) const ADDRESS_BYTES: [usize; 2] = [4, 16];
pub(super) const FLOW_VALUE_BYTES: usize = 4;
/// A pin: the lane, who gave it the connection, and the mark of the SYN that the lane's tap has taken while TCX, which comes after the taps, has not seen it
/// ([`pin_value`]).
pub(super) const PIN_VALUE_BYTES: usize = 8;
/// Offset in a pin of the lane that gives the connection to the pin's lane, plus one; 0: a SYN came to the pin's lane.
const PIN_GIVER: usize = 1;
/// Offset of the mark in a pin: sequence number of the SYN, with the lowest bit set; 0: none.
pub(super) const PIN_TAKEN: i16 = 4;

/// The pin of a connection to `lane`.
pub(super) fn pin_value(lane: u8) -> [u8; PIN_VALUE_BYTES] {
    u64::from(lane).to_le_bytes()
}

/// The pin of a connection that `giver` gives to `lane`.
pub(super) fn given_pin_value(giver: u8, lane: u8) -> [u8; PIN_VALUE_BYTES] {
    let mut value = pin_value(lane);
    value[PIN_GIVER] = giver + 1;
    value
}

/// The lane of a pin.
pub(super) fn lane_of_pin(pin: [u8; PIN_VALUE_BYTES]) -> u8 {
    pin[0]
}

/// Is it the pin of a connection that `giver` gave away?
pub(super) fn is_given_by(pin: [u8; PIN_VALUE_BYTES], giver: u8) -> bool {
    pin[PIN_GIVER] == giver + 1
}

/// Longest key.
const KEY_MAX: usize = flow_key_bytes(16);

/// Bytes of the key of a flow: both addresses, both ports, protocol, padding.
pub(super) const fn flow_key_bytes(address: usize) -> usize {
    2 * address + 8
}

/// Bytes of the key of a listener: address, port, protocol, and whether it is a block.
pub(super) const fn listener_key_bytes(address: usize) -> usize {
    address + 4
}

/// A key in one of the maps.
pub(super) struct Key {
    bytes: [u8; KEY_MAX],
    len: usize,
}

impl Key {
    /// Without a byte.
    const fn new() -> Self {
        Self { bytes: [0; KEY_MAX], len: 0 }
    }

    fn with(mut self, part: &[u8]) -> Self {
        let end = self.len + part.len();
        if let Some(to) = self.bytes.get_mut(self.len..end) {
            to.copy_from_slice(part);
            self.len = end;
        }
        self
    }

    /// With an address of the family's length. `None`: it stands for many.
    fn with_address(self, addr: IpAddress) -> Option<Self> {
        match addr.as_v4() {
            _ if addr.is_wild() => None,
            Some(v4) => Some(self.with(&v4.octets())),
            None => Some(self.with(&addr.0)),
        }
    }

    /// Its bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or(&self.bytes)
    }
}
pub(super) const LISTENER_VALUE_BYTES: usize = SLOTS + 8;
/// Offset in a listener's value of the byte that says what pins are for.
pub(super) const LISTENER_PINS: i16 = SLOTS as i16;
/// Segments go by their slot.
pub(super) const PINS_UNUSED: u8 = 0;
/// Connections of other lanes may come in here: a segment goes by its pin, without one by its slot.
pub(super) const PINS_FIRST: u8 = 1;
/// Connections of the kernel's may come in here: a segment without a pin is the kernel's.
pub(super) const PINS_ONLY: u8 = 2;

/// The one value of the state map: the numbers of flow rules and of rules for blocks of ports (u32 each, never too few), and a bit for
/// each lane that is there (u64).
pub(super) const STATE_VALUE_BYTES: usize = 16;
pub(super) const STATE_FLOWS: i16 = 0;
pub(super) const STATE_BLOCKS: i16 = 4;
pub(super) const STATE_LANES: i16 = 8;

pub(super) fn state_value(flows: usize, blocks: usize, lanes: u64) -> [u8; STATE_VALUE_BYTES] {
    (u128::from(lanes) << 64 | u128::from(blocks as u32) << 32 | u128::from(flows as u32)).to_le_bytes()
}

pub(super) use base::hash::SLOT_MIX as MIX;

/// The local end of a listener or of a port taken for outgoing connections.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct LocalEnd {
    /// Transport protocol.
    pub proto: Proto,
    /// Local address, an exact one: rules for any address are one rule for each.
    pub addr: IpAddress,
    /// Local port.
    pub port: Port,
}

/// One flow: a local and a remote end.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Flow {
    /// The local end.
    pub local: LocalEnd,
    /// Remote address.
    pub remote: IpAddress,
    /// Remote port.
    pub remote_port: Port,
}

impl LocalEnd {
    /// `None` for an address that stands for many.
    pub(super) fn key(&self) -> Option<Key> {
        self.key_of(0)
    }

    /// The key of the block of [`BLOCK_PORTS`] ports that the port lies in. `None` for an address that stands for many.
    pub(super) fn block_key(&self) -> Option<Key> {
        self.block().key_of(BLOCK_KEY)
    }

    fn key_of(&self, kind: u8) -> Option<Key> {
        let [p, q] = self.port.0.to_be_bytes();
        Some(Key::new().with_address(self.addr)?.with(&[p, q, self.proto as u8, kind]))
    }

    /// The first port of the block that this one's port lies in.
    #[must_use]
    pub fn block(&self) -> Self {
        Self { port: Port(self.port.0 & BLOCK_MASK), ..*self }
    }
}

impl Flow {
    /// `None` for an address that stands for many, and for ends of two families.
    pub(super) fn key(&self) -> Option<Key> {
        let [p, q] = self.local.port.0.to_be_bytes();
        let [r, s] = self.remote_port.0.to_be_bytes();
        let one_family = self.local.addr.is_v4() == self.remote.is_v4();
        let addresses = Key::new().with_address(self.local.addr)?.with_address(self.remote)?;
        one_family.then(|| addresses.with(&[p, q, r, s, self.local.proto as u8, 0, 0, 0]))
    }
}

/// The slot of a remote end in every listener. All programs compute the same, on the words as they lie in the packet; `seed` keeps
/// remote ends from choosing their lane.
#[must_use]
pub const fn slot_of(seed: u32, remote: IpAddress, remote_port: Port) -> usize {
    base::hash::slot_of(seed, remote, remote_port.0) as usize
}

/// The lanes of one listener.
#[derive(Clone, Debug)]
pub(super) struct Listener {
    pub(super) slots: [u8; SLOTS],
    /// May connections of other lanes come in here? Then pins are followed.
    shared: bool,
    /// May the kernel have connections here? Then what has no pin is the kernel's.
    beside_kernel: bool,
    /// Lanes and how often each was added.
    members: Vec<(SteerLane, u32)>,
}

impl Listener {
    pub(super) fn new() -> Self {
        Self { slots: [NO_LANE; SLOTS], shared: false, beside_kernel: false, members: Vec::new() }
    }

    pub(super) fn value(&self) -> [u8; LISTENER_VALUE_BYTES] {
        let mut value = [0; LISTENER_VALUE_BYTES];
        let pins = match (self.beside_kernel, self.shared) {
            (true, _) => &PINS_ONLY,
            (false, true) => &PINS_FIRST,
            (false, false) => &PINS_UNUSED,
        };
        let bytes = self.slots.iter().chain(std::iter::once(pins));
        value.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        value
    }

    /// Says whether the kernel may have connections here.
    pub(super) fn set_beside_kernel(&mut self, beside: bool) {
        self.beside_kernel = beside;
    }

    pub(super) fn is_beside_kernel(&self) -> bool {
        self.beside_kernel
    }

    /// Connections of other lanes come in here.
    pub(super) fn set_shared(&mut self) {
        self.shared = true;
    }

    #[cfg(test)]
    pub(super) fn is_shared(&self) -> bool {
        self.shared
    }

    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    pub(super) fn lanes(&self) -> impl Iterator<Item = SteerLane> {
        self.members.iter().map(|(lane, _)| *lane)
    }

    /// Adds `lane`. `alone`: there is no other lane on this host, so no connection of another lane either.
    pub(super) fn add(&mut self, lane: SteerLane, alone: bool) {
        match self.members.iter_mut().find(|(member, _)| *member == lane) {
            Some((_, times)) => *times += 1,
            None => self.members.push((lane, 1)),
        }
        self.shared |= !alone;
        self.share();
    }

    /// Takes one adding of `lane` back. False: it was not there.
    pub(super) fn remove(&mut self, lane: SteerLane) -> bool {
        let Some((_, times)) = self.members.iter_mut().find(|(member, _)| *member == lane) else {
            return false;
        };
        *times -= 1;
        self.members.retain(|(_, times)| *times > 0);
        self.share();
        true
    }

    /// Takes every adding of `lane` back. False: it was not there.
    pub(super) fn remove_all(&mut self, lane: SteerLane) -> bool {
        let before = self.members.len();
        self.members.retain(|(member, _)| *member != lane);
        self.share();
        before != self.members.len()
    }

    fn load(&self, lane: SteerLane) -> usize {
        self.slots.iter().filter(|slot| **slot == lane.number()).count()
    }

    fn addings(&self) -> i64 {
        self.members.iter().map(|(_, times)| i64::from(*times)).sum()
    }

    /// How far each member is above its share of the slots, which is as large as it was added often; in parts of a slot, as many as there were addings.
    fn surplus(&self) -> impl Iterator<Item = (i64, SteerLane)> {
        let total = self.addings();
        let above = move |times: u32, load: usize| load as i64 * total - SLOTS as i64 * i64::from(times);
        self.members.iter().map(move |&(lane, times)| (above(times, self.load(lane)), lane))
    }

    /// Shares the slots evenly among the addings of members, moving as few as possible: a moved slot moves its running connections to a
    /// lane that does not know them.
    fn share(&mut self) {
        for at in 0..SLOTS {
            let lane = self.slots.get(at).copied().unwrap_or(NO_LANE);
            if !self.members.iter().any(|(member, _)| member.number() == lane) {
                let least = self.surplus().min_by_key(|pair| pair.0);
                self.set(at, least.map_or(NO_LANE, |(_, member)| member.number()));
            }
        }
        let total = self.addings();
        for _ in 0..SLOTS {
            let (Some((least, to)), Some((most, from))) =
                (self.surplus().min_by_key(|pair| pair.0), self.surplus().max_by_key(|pair| pair.0))
            else {
                return;
            };
            if most <= least + total {
                return;
            }
            if let Some(at) = self.slots.iter().position(|slot| *slot == from.number()) {
                self.set(at, to.number());
            }
        }
    }

    fn set(&mut self, at: usize, lane: u8) {
        if let Some(slot) = self.slots.get_mut(at) {
            *slot = lane;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_shared_evenly_and_few_move() {
        let lane = |n| SteerLane::new(n).unwrap();
        let mut listener = Listener::new();
        for n in 0..5u8 {
            let before = listener.slots;
            listener.add(lane(n), false);
            let moved = before.iter().zip(&listener.slots).filter(|(a, b)| a != b).count();
            assert_eq!(moved, SLOTS / (usize::from(n) + 1), "only the newcomer's share moves");
            assert!(listener.slots.iter().all(|slot| *slot <= n));
        }
        let before = listener.slots;
        assert!(listener.remove(lane(2)));
        assert!(before.iter().zip(&listener.slots).all(|(a, b)| *a == 2 || a == b), "only its slots move");
        assert!(!listener.remove(lane(2)));
        for n in [0, 1, 3, 4] {
            assert!((15..=17).contains(&listener.load(lane(n))));
            assert!(listener.remove_all(lane(n)) == (n < 9));
            listener.add(lane(n), false);
        }
    }

    #[test]
    fn a_lane_added_twice_stays_until_removed_twice() {
        let lane = SteerLane::new(7).unwrap();
        let mut listener = Listener::new();
        listener.add(lane, true);
        listener.add(lane, true);
        assert!(listener.remove(lane) && !listener.is_empty());
        assert_eq!(listener.slots, [7; SLOTS]);
        assert!(listener.remove(lane) && listener.is_empty());
        assert_eq!(listener.slots, [NO_LANE; SLOTS]);
    }

    #[test]
    fn who_was_added_more_often_has_a_larger_share() {
        let lane = |n| SteerLane::new(n).unwrap();
        let mut listener = Listener::new();
        for n in [0, 1, 1, 1] {
            listener.add(lane(n), false);
        }
        assert_eq!((listener.load(lane(0)), listener.load(lane(1))), (SLOTS / 4, SLOTS * 3 / 4));
        listener.remove(lane(1));
        assert_eq!(listener.load(lane(0)), SLOTS / 3);
        listener.remove(lane(1));
        assert_eq!((listener.load(lane(0)), listener.load(lane(1))), (SLOTS / 2, SLOTS / 2));
    }

    #[test]
    fn remote_ends_spread_over_the_slots() {
        let mut counts = [0u32; SLOTS];
        for port in 32_768..49_152u16 {
            counts[slot_of(1, IpAddress::mapped([10, 0, 0, 2].into()), Port(port))] += 1;
        }
        assert!(counts.iter().all(|count| (128..=384).contains(count)), "{counts:?}");
    }
}
