//! The device between packetdrill and the lane: IP packets outside, Ethernet frames inside. It answers ARP itself.

use std::collections::VecDeque;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base::MacAddr;
use base::limits::SUPER_SEGMENT_BYTES;
use port::split::complete_checksum;
use port::{Port, PortCaps, PortError, PortStats, chain};
use region::Frames;
use state::{CsumState, RxBatch, RxFrame, TxFrame};
use wire::arp::{ArpOperation, ArpPacket};
use wire::{EthFrame, EtherType, eth};

use crate::pairs::Pairs;

/// Ethernet address of the stack.
pub(crate) const OUR_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 1]);
/// Ethernet address of everybody else.
pub(crate) const PEER_MAC: MacAddr = MacAddr([2, 0, 0, 0, 0, 2]);

/// Packets on their way in and out.
#[derive(Default)]
pub(crate) struct Wire {
    to_stack: VecDeque<Vec<u8>>,
    from_stack: VecDeque<Vec<u8>>,
    pairs: Pairs,
}

/// Shared by the device and who holds its other end.
pub(crate) type SharedWire = Arc<Mutex<Wire>>;

fn lock(wire: &SharedWire) -> MutexGuard<'_, Wire> {
    wire.lock().unwrap_or_else(PoisonError::into_inner)
}

fn framed(ethertype: EtherType, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(eth::HEADER_LEN + payload.len());
    frame.extend_from_slice(&OUR_MAC.0);
    frame.extend_from_slice(&PEER_MAC.0);
    frame.extend_from_slice(&ethertype.0.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// Puts an IP packet on its way to the stack. False: it is neither version 4 nor 6.
pub(crate) fn inject(wire: &SharedWire, packet: &[u8]) -> bool {
    let ethertype = match packet.first().map(|b| b >> 4) {
        Some(4) => EtherType::IPV4,
        Some(6) => EtherType::IPV6,
        Some(_) | None => return false,
    };
    lock(wire).to_stack.push_back(framed(ethertype, packet));
    true
}

/// Something new happens: what leaves from now on does not belong with what left before.
pub(crate) fn new_burst(wire: &SharedWire) {
    lock(wire).pairs.new_burst();
}

/// Everything the stack has sent.
pub(crate) fn sent(wire: &SharedWire) -> Vec<Vec<u8>> {
    lock(wire).from_stack.drain(..).collect()
}

/// The stack's end.
pub(crate) struct Device {
    wire: SharedWire,
    mtu: u16,
    tso: bool,
}

impl Device {
    pub(crate) fn new(wire: SharedWire, mtu: u16, tso: bool) -> Self {
        Self { wire, mtu, tso }
    }
}

impl Port for Device {
    fn rx(&mut self, frames: &mut Frames<'_>, batch: &mut RxBatch) -> Result<usize, PortError> {
        let mut got = 0;
        while batch.room() > 0 {
            let Some(bytes) = lock(&self.wire).to_stack.pop_front() else { break };
            let Some(head) = chain::of_bytes(frames, &bytes) else { continue };
            let len = bytes.len() as u32;
            let csum = CsumState::Unknown;
            batch.push(RxFrame { head, len, gso_size: 0, port: 0, local_peer: false, csum });
            got += 1;
        }
        Ok(got)
    }

    fn tx(&mut self, frames: &mut Frames<'_>, packets: &[TxFrame]) -> Result<usize, PortError> {
        for packet in packets {
            let mut packet = *packet;
            complete_checksum(frames, &mut packet);
            let mut bytes = Vec::new();
            chain::read_tx(frames, &packet, &mut bytes);
            frames.release(packet.head);
            let mut wire = lock(&self.wire);
            if !self.tso {
                wire.pairs.mark(&mut bytes);
            }
            leave(&mut wire, &bytes);
        }
        Ok(packets.len())
    }

    fn release(&mut self, _frames: &mut Frames<'_>) {
        // What is on the wire is copied.
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn caps(&self) -> PortCaps {
        let super_segment_max = if self.tso { SUPER_SEGMENT_BYTES as u32 } else { 0 };
        PortCaps { mtu: self.mtu, super_segment_max, local_peer: false, own_address: true }
    }

    fn stats(&self) -> PortStats {
        PortStats::default()
    }
}

/// A frame leaves the stack: IP goes out, ARP is answered, anything else is nobody's.
fn leave(wire: &mut Wire, frame: &[u8]) {
    let Ok(eth) = EthFrame::parse(frame) else { return };
    match eth.ethertype() {
        EtherType::IPV4 | EtherType::IPV6 => wire.from_stack.push_back(eth.payload().to_vec()),
        EtherType::ARP => {
            let asked = ArpPacket::parse(eth.payload()).ok();
            if let Some(asked) = asked.filter(|arp| arp.operation() == ArpOperation::REQUEST) {
                wire.to_stack.push_back(framed(EtherType::ARP, &answer(&asked)));
            }
        }
        _ => {}
    }
}

/// Whoever is asked for, it is the peer.
fn answer(asked: &ArpPacket<'_>) -> Vec<u8> {
    let mut reply = vec![0, 1, 8, 0, 6, 4, 0, 2];
    reply.extend_from_slice(&PEER_MAC.0);
    reply.extend_from_slice(&asked.target_ip().octets());
    reply.extend_from_slice(&asked.sender_mac().0);
    reply.extend_from_slice(&asked.sender_ip().octets());
    reply
}
