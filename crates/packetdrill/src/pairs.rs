//! PSH as Linux sets it on a device with segmentation offload, where scripts were written.
//!
//! Linux hands the device two segments of new data at a time (`tcp_min_tso_segs`; more when the pacing rate is high), and sets PSH in what the
//! device cuts them from, so that the second one carries it. Here the segments leave one by one, marked as they would be then: packetdrill
//! joins them to the length that its script expects, and compares the flags of the last one.

use base::{IpAddress, SeqNum};
use wire::{EthFrame, EtherType, IpProtocol, Ipv4Packet, Ipv6Packet, TcpSegment, eth, ipv6};

/// Flows that are told apart.
const FLOWS_MAX: usize = 64;
/// PSH in the byte of flags.
const PSH: u8 = 8;

/// What one flow has sent.
struct Flow {
    ends: (IpAddress, IpAddress, u16, u16),
    /// Behind the last byte ever sent.
    next: SeqNum,
    /// Payload bytes of the segment that waits for the second of its pair; 0: none does.
    first: usize,
}

/// All flows.
#[derive(Default)]
pub(crate) struct Pairs {
    flows: Vec<Flow>,
}

impl Pairs {
    /// A pair consists of segments that leave at one moment.
    pub(crate) fn new_burst(&mut self) {
        for flow in &mut self.flows {
            flow.first = 0;
        }
    }

    /// Sets PSH in `frame` if it is the second of a pair.
    pub(crate) fn mark(&mut self, frame: &mut [u8]) {
        if self.is_second(frame) == Some(true) {
            set_push(frame);
        }
    }

    fn is_second(&mut self, frame: &[u8]) -> Option<bool> {
        let eth = EthFrame::parse(frame).ok()?;
        let (from, to, payload) = match eth.ethertype() {
            EtherType::IPV4 => {
                let ip =
                    Ipv4Packet::parse(eth.payload()).ok().filter(|ip| ip.protocol() == IpProtocol::TCP)?;
                (IpAddress::from_v4(ip.src()), IpAddress::from_v4(ip.dst()), ip.payload())
            }
            EtherType::IPV6 => {
                let ip = Ipv6Packet::parse(eth.payload()).ok()?;
                let tcp = ip.next_header() == IpProtocol::TCP;
                (
                    IpAddress::from_v6(ip.src()),
                    IpAddress::from_v6(ip.dst()),
                    Some(ip.payload()).filter(|_| tcp)?,
                )
            }
            _ => return None,
        };
        let tcp = TcpSegment::parse(payload).ok()?;
        let len = tcp.payload().len();
        let ends = (from, to, tcp.src_port().0, tcp.dst_port().0);
        let end = tcp.seq().plus(len as u32);
        let Some(flow) = self.flows.iter_mut().find(|flow| flow.ends == ends) else {
            if self.flows.len() == FLOWS_MAX {
                self.flows.remove(0);
            }
            self.flows.push(Flow { ends, next: end, first: 0 });
            return None;
        };
        if tcp.flags().is_syn() {
            // The same ports again.
            (flow.next, flow.first) = (end.plus(1), 0);
            return None;
        }
        if len == 0 || end.at_or_before(flow.next) {
            return None;
        }
        flow.next = end;
        if flow.first == len {
            flow.first = 0;
            return Some(true);
        }
        flow.first = len;
        Some(false)
    }
}

/// Sets PSH, and amends the checksum (RFC 1624 3).
fn set_push(frame: &mut [u8]) {
    let Some(first) = frame.get(eth::HEADER_LEN) else { return };
    let ip = if first >> 4 == 6 { ipv6::HEADER_LEN } else { 4 * usize::from(first & 15) };
    let tcp = eth::HEADER_LEN + ip;
    let Some(header) = frame.get_mut(tcp..tcp + 20) else { return };
    let [.., offset, flags, _, _, check, sum, _, _] = header else { return };
    if *flags & PSH != 0 {
        return;
    }
    let before = u16::from_be_bytes([*offset, *flags]);
    *flags |= PSH;
    let after = u16::from_be_bytes([*offset, *flags]);
    let old = u16::from_be_bytes([*check, *sum]);
    [*check, *sum] = wire::checksum::update_u16(old, before, after).to_be_bytes();
}
