//! How a lane's load is made up: from one packet of each batch, which slot of remote ends it is of, and whether one flow is most of it. Counted only
//! while flows of the region are shared among lanes.

use base::hash::FLOW_SLOTS;
use region::Directory;
use state::{FlowKey, LaneLoad, LaneMem, RxFrame};
use wire::{EthFrame, EtherType, IpProtocol, Ipv4Packet, Ipv6Packet, TcpSegment};

/// What a lane received since it was last asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Packets by the slot of their remote end; of each batch the slot of one packet stands for all.
    pub slots: [u64; FLOW_SLOTS],
    /// The flow that has more packets than all others together, if there is one, and how many: at least its share from when it led.
    pub elephant: Option<(FlowKey, u64)>,
}

/// Counts `packets`, a batch just received.
#[inline]
pub(crate) fn note(mem: &mut LaneMem<'_>, packets: &[RxFrame]) {
    let open = mem.frames.lane().and_then(|lane| lane.region().directory()).filter(|d| d.is_open());
    if let Some(directory) = open {
        note_of(mem, &directory, packets);
    }
}

#[inline(never)]
fn note_of(mem: &mut LaneMem<'_>, directory: &Directory, packets: &[RxFrame]) {
    let load = &mut mem.globals.load;
    load.batches = load.batches.wrapping_add(1);
    // Not always the first: where a batch begins is no chance, with few senders.
    let at = load.batches as usize % packets.len().max(1);
    let Some(key) = packets.get(at).and_then(|rx| flow_of(mem, rx)) else { return };
    let slot = usize::from(directory.slot(key.remote, key.remote_port));
    let (load, count) = (&mut mem.globals.load, packets.len() as u64);
    if let Some(packets) = load.slots.get_mut(slot) {
        *packets = packets.saturating_add(count);
    }
    vote(load, key, count);
}

/// The majority vote of Boyer and Moore: who has more than half of all packets leads in the end.
fn vote(load: &mut LaneLoad, key: FlowKey, count: u64) {
    if load.elephant == key {
        load.lead = load.lead.saturating_add(count);
        load.elephant_packets = load.elephant_packets.saturating_add(count);
    } else if load.lead < count {
        (load.elephant, load.lead, load.elephant_packets) = (key, count - load.lead, count);
        load.since = 0;
    } else {
        load.lead -= count;
    }
    load.since = load.since.saturating_add(count);
}

/// The flow of a TCP segment.
fn flow_of(mem: &LaneMem<'_>, rx: &RxFrame) -> Option<FlowKey> {
    let eth = EthFrame::parse(mem.frames.data(rx.head)).ok()?;
    let available = (rx.len as usize).saturating_sub(wire::eth::HEADER_LEN);
    if eth.ethertype() == EtherType::IPV6 {
        let ip = Ipv6Packet::parse_head(eth.payload(), available).ok()?;
        let tcp = TcpSegment::parse(ip.payload()).ok().filter(|_| ip.next_header() == IpProtocol::TCP)?;
        return Some(FlowKey {
            local: base::IpAddress::from_v6(ip.dst()),
            remote: base::IpAddress::from_v6(ip.src()),
            local_port: tcp.dst_port(),
            remote_port: tcp.src_port(),
        });
    }
    if eth.ethertype() != EtherType::IPV4 {
        return None;
    }
    let ip = Ipv4Packet::parse_head(eth.payload(), available).ok()?;
    if ip.protocol() != IpProtocol::TCP || ip.is_fragment() {
        return None;
    }
    let tcp = TcpSegment::parse(ip.payload()).ok()?;
    Some(FlowKey {
        local: base::IpAddress::from_v4(ip.dst()),
        remote: base::IpAddress::from_v4(ip.src()),
        local_port: tcp.dst_port(),
        remote_port: tcp.src_port(),
    })
}

/// Gives what was counted, and begins anew.
pub(crate) fn take(mem: &mut LaneMem<'_>) -> Load {
    let load = core::mem::replace(&mut mem.globals.load, LaneLoad::EMPTY);
    mem.globals.load.rung = load.rung;
    mem.globals.load.batches = load.batches;
    let total = load.slots.iter().fold(0_u64, |sum, n| sum.saturating_add(*n));
    let most = load.elephant_packets.saturating_mul(2) > total && load.lead > 0;
    Load { slots: load.slots, elephant: most.then_some((load.elephant, load.elephant_packets)) }
}
