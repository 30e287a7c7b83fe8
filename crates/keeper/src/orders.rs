//! Messages between the keeper and a steward, over a SEQPACKET pair: the keeper orders, the steward reports.

use base::limits::KEEPER_MESSAGE_BYTES;
use base::{IpAddress, LaneId, Port};
use control::proto::{DeviceList, FlowList, MessageBuffer, Reply, Request, Rule, WireEnd};

/// What the keeper orders.
// Boxing the devices would need the heap for a value that lives for one message.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// The first message, with two fds: the region and the control tables. Become `uid` and `gid`, if there are any.
    /// `kept`: lanes whose programs live go on when the keeper is gone.
    Region { bytes: u64, identity: Option<(u32, u32)>, kept: bool },
    /// A lane, with the fds of its devices.
    Lane { lane: LaneId, devices: DeviceList },
    /// A wire of a lane, with the fds of its end.
    Wire { end: WireEnd },
    /// The wire at this port of the lane is no more.
    Part { lane: LaneId, port: u8 },
    /// The lane's process is gone: close what it left and say when it is done. `heirs`: other processes have its listeners, too, and may take what
    /// waits at them.
    Dead { lane: LaneId, heirs: bool },
    /// The program closed its listener at this end, at which connections wait: see that another lane gets them.
    Leave { lane: LaneId, addr: IpAddress, port: Port },
    /// What [`Report::HandOn`] or [`Report::Fetch`] asked for is done, or cannot be.
    Answer { done: bool },
    /// A process of the family is gone: take over the locks it held.
    Gone { pid: u32 },
    /// The keeper of programs at this address was killed, perhaps with them: ask the lanes' connections to it whether they are still there.
    Vanished { addr: IpAddress },
}

/// What the steward reports.
#[allow(clippy::large_enum_variant)] // as Order
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Report {
    /// Every connection of the lane is closed; `aborted` of them the hard way.
    Done { lane: LaneId, aborted: u32 },
    /// Somebody must ask the kernel for this neighbour.
    Ask { ifindex: u32, addr: IpAddress },
    /// As the program's `HandOn`, for one that is gone; `rule.region` says nothing. The steward waits for [`Order::Answer`].
    HandOn { rule: Rule, to: LaneId, flows: FlowList },
    /// As the program's `Fetch`, for one that does something else; `rule.region` says nothing. The steward waits for [`Order::Answer`].
    Fetch { rule: Rule, flows: FlowList },
    /// Something happened in the lane of a program that lives, which may sleep.
    Look { lane: LaneId },
}

/// The message is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Garbled;

/// No user in [`Order::Region`].
const NOBODY: u32 = u32::MAX;

fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Result<&'a [u8; N], Garbled> {
    let (head, rest) = bytes.split_first_chunk().ok_or(Garbled)?;
    *bytes = rest;
    Ok(head)
}

fn u16_of(bytes: &mut &[u8]) -> Result<u16, Garbled> {
    take(bytes).map(|b| u16::from_le_bytes(*b))
}

fn u32_of(bytes: &mut &[u8]) -> Result<u32, Garbled> {
    take(bytes).map(|b| u32::from_le_bytes(*b))
}

fn flag_of(bytes: &mut &[u8]) -> Result<bool, Garbled> {
    match take(bytes)? {
        [0] => Ok(false),
        [1] => Ok(true),
        [_] => Err(Garbled),
    }
}

/// Appends what a program would be told. A list of devices always fits: that is asserted where messages are defined.
fn wrap(out: &mut Vec<u8>, reply: &Reply<'_>) {
    let mut buffer: MessageBuffer = [0; KEEPER_MESSAGE_BYTES];
    let len = reply.encode(&mut buffer).unwrap_or(0);
    out.extend(buffer.get(..len).unwrap_or(&[]));
}

/// Appends what a program would ask. Lists of connections always fit: that is asserted where messages are defined.
fn wrap_request(out: &mut Vec<u8>, request: &Request<'_>) {
    let mut buffer: MessageBuffer = [0; KEEPER_MESSAGE_BYTES];
    let len = request.encode(&mut buffer).unwrap_or(0);
    out.push(3);
    out.extend(buffer.get(..len).unwrap_or(&[]));
}

impl Order {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(KEEPER_MESSAGE_BYTES);
        match self {
            Self::Region { bytes, identity, kept } => {
                let (uid, gid) = identity.unwrap_or((NOBODY, NOBODY));
                out.push(1);
                out.extend(bytes.to_le_bytes());
                out.extend(uid.to_le_bytes());
                out.extend(gid.to_le_bytes());
                out.push(u8::from(*kept));
            }
            Self::Lane { lane, devices } => {
                out.push(2);
                wrap(&mut out, &Reply::Lane { lane: *lane, devices: *devices });
            }
            Self::Wire { end } => {
                out.push(5);
                wrap(&mut out, &Reply::Met { end: *end });
            }
            Self::Part { lane, port } => {
                out.push(6);
                out.extend(lane.0.to_le_bytes());
                out.push(*port);
            }
            Self::Dead { lane, heirs } => {
                out.push(3);
                out.extend(lane.0.to_le_bytes());
                out.push(u8::from(*heirs));
            }
            Self::Leave { lane, addr, port } => {
                out.push(8);
                out.extend(lane.0.to_le_bytes());
                out.extend(addr.0);
                out.extend(port.0.to_le_bytes());
            }
            Self::Answer { done } => out.extend([7, u8::from(*done)]),
            Self::Gone { pid } => {
                out.push(4);
                out.extend(pid.to_le_bytes());
            }
            Self::Vanished { addr } => {
                out.push(9);
                out.extend(addr.0);
            }
        }
        out
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> Result<Self, Garbled> {
        let rest = &mut bytes;
        match take::<1>(rest)? {
            [1] => {
                let bytes = take(rest).map(|b| u64::from_le_bytes(*b))?;
                let (uid, gid) = (u32_of(rest)?, u32_of(rest)?);
                let identity = (uid != NOBODY).then_some((uid, gid));
                Ok(Self::Region { bytes, identity, kept: flag_of(rest)? })
            }
            [2] => match Reply::decode(rest) {
                Ok(Reply::Lane { lane, devices }) => Ok(Self::Lane { lane, devices }),
                Ok(_) | Err(_) => Err(Garbled),
            },
            [3] => Ok(Self::Dead { lane: LaneId(u16_of(rest)?), heirs: flag_of(rest)? }),
            [8] => Ok(Self::Leave {
                lane: LaneId(u16_of(rest)?),
                addr: IpAddress(*take(rest)?),
                port: Port(u16_of(rest)?),
            }),
            [7] => Ok(Self::Answer { done: flag_of(rest)? }),
            [4] => Ok(Self::Gone { pid: u32_of(rest)? }),
            [9] => Ok(Self::Vanished { addr: IpAddress(*take(rest)?) }),
            [5] => match Reply::decode(rest) {
                Ok(Reply::Met { end }) => Ok(Self::Wire { end }),
                Ok(_) | Err(_) => Err(Garbled),
            },
            [6] => {
                let lane = LaneId(u16_of(rest)?);
                let [port] = *take(rest)?;
                Ok(Self::Part { lane, port })
            }
            [_] => Err(Garbled),
        }
    }
}

impl Report {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Done { lane, aborted } => {
                out.push(1);
                out.extend(lane.0.to_le_bytes());
                out.extend(aborted.to_le_bytes());
            }
            Self::Ask { ifindex, addr } => {
                out.push(2);
                out.extend(ifindex.to_le_bytes());
                out.extend(addr.0);
            }
            Self::HandOn { rule, to, flows } => {
                wrap_request(&mut out, &Request::HandOn { rule: *rule, to: *to, flows: *flows });
            }
            Self::Fetch { rule, flows } => {
                wrap_request(&mut out, &Request::Fetch { rule: *rule, flows: *flows });
            }
            Self::Look { lane } => {
                out.push(4);
                out.extend(lane.0.to_le_bytes());
            }
        }
        out
    }

    pub(crate) fn decode(mut bytes: &[u8]) -> Result<Self, Garbled> {
        let rest = &mut bytes;
        match take::<1>(rest)? {
            [1] => Ok(Self::Done { lane: LaneId(u16_of(rest)?), aborted: u32_of(rest)? }),
            [2] => Ok(Self::Ask { ifindex: u32_of(rest)?, addr: IpAddress(*take(rest)?) }),
            [3] => match Request::decode(rest) {
                Ok(Request::HandOn { rule, to, flows }) => Ok(Self::HandOn { rule, to, flows }),
                Ok(Request::Fetch { rule, flows }) => Ok(Self::Fetch { rule, flows }),
                Ok(_) | Err(_) => Err(Garbled),
            },
            [4] => Ok(Self::Look { lane: LaneId(u16_of(rest)?) }),
            [_] => Err(Garbled),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use control::proto::{FlowEnds, LaneDevice, Proto};

    #[test]
    fn orders_and_reports_survive_the_way() {
        let mut devices = DeviceList::new();
        devices.push(LaneDevice { ifindex: 7, mtu: 1500, fds: 1, ..LaneDevice::default() }).expect("room");
        for order in [
            Order::Region { bytes: 2 << 20, identity: Some((33, 34)), kept: true },
            Order::Region { bytes: 2 << 20, identity: None, kept: false },
            Order::Lane { lane: LaneId(3), devices },
            Order::Dead { lane: LaneId(3), heirs: true },
            Order::Answer { done: true },
            Order::Leave { lane: LaneId(3), addr: IpAddress([9; 16]), port: Port(80) },
            Order::Gone { pid: 77 },
            Order::Vanished { addr: IpAddress([9; 16]) },
            Order::Wire {
                end: WireEnd { wire: 5, lane: LaneId(2), port: 3, peer_pid: 9, ..WireEnd::default() },
            },
            Order::Part { lane: LaneId(2), port: 3 },
        ] {
            assert_eq!(Order::decode(&order.encode()), Ok(order));
        }
        let (addr, port) = (IpAddress([9; 16]), Port(80));
        let rule = Rule { region: 0, lane: LaneId(1), proto: Proto::Tcp, addr, port };
        let flows = FlowList::of(&[FlowEnds { remote_port: Port(7), ..FlowEnds::default() }]);
        for report in [
            Report::Done { lane: LaneId(1), aborted: 2 },
            Report::Ask { ifindex: 3, addr: IpAddress([9; 16]) },
            Report::HandOn { rule, to: LaneId(2), flows },
            Report::Fetch { rule, flows },
            Report::Look { lane: LaneId(5) },
        ] {
            assert_eq!(Report::decode(&report.encode()), Ok(report));
        }
    }

    #[test]
    fn a_cut_or_unknown_message_is_refused() {
        let whole = Report::Done { lane: LaneId(1), aborted: 2 }.encode();
        for len in 0..whole.len() {
            assert_eq!(Report::decode(&whole[..len]), Err(Garbled));
        }
        assert_eq!(Order::decode(&[9]), Err(Garbled));
        assert_eq!(Order::decode(&[2, 129]), Err(Garbled));
    }
}
