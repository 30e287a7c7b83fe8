//! A lane's port at the end of a cable of the [`Network`].

use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base::FrameIdx;
use base::limits::{CHAIN_FRAMES, FRAME_BYTES, FRAME_HEADROOM, SUPER_SEGMENT_BYTES};
use port::split::complete_checksum;
use port::{Port, PortCaps, PortError, PortStats, chain};
use region::Frames;
use state::{CsumState, RxBatch, RxFrame, TxFrame};

use crate::network::{Network, Packet};

/// The network, shared by all hosts of one world.
pub(crate) type SharedNetwork = Arc<Mutex<Network>>;

pub(crate) fn lock(network: &Mutex<Network>) -> MutexGuard<'_, Network> {
    network.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One host's end.
pub(crate) struct SimPort {
    network: SharedNetwork,
    host: usize,
    /// Bytes of received packets put into each frame but the first.
    piece_bytes: usize,
    stats: PortStats,
}

impl SimPort {
    pub(crate) fn new(network: SharedNetwork, host: usize, piece_bytes: usize) -> Self {
        Self { network, host, piece_bytes, stats: PortStats::default() }
    }

    fn offloads(&self) -> bool {
        lock(&self.network).spec(self.host).is_some_and(|s| s.offloads)
    }
}

impl Port for SimPort {
    fn rx(&mut self, frames: &mut Frames<'_>, batch: &mut RxBatch) -> Result<usize, PortError> {
        let network = Arc::clone(&self.network);
        let mut network = lock(&network);
        let mut got = 0;
        while batch.room() > 0 {
            let Some(packet) = network.receive(self.host) else { break };
            let Some(head) = chain_of(frames, &packet.bytes, self.piece_bytes) else {
                self.stats.rx_dropped += 1;
                continue;
            };
            self.stats.rx_packets += 1;
            self.stats.rx_bytes += packet.bytes.len() as u64;
            batch.push(RxFrame {
                head,
                len: packet.bytes.len() as u32,
                gso_size: packet.gso_size,
                port: 0,
                local_peer: network.spec(self.host).is_some_and(|s| s.offloads),
                csum: packet.csum,
            });
            got += 1;
        }
        Ok(got)
    }

    fn tx(&mut self, frames: &mut Frames<'_>, packets: &[TxFrame]) -> Result<usize, PortError> {
        let offloads = self.offloads();
        let mut network = lock(&self.network);
        let mut taken = 0;
        for packet in packets {
            if !network.has_room(self.host) {
                break;
            }
            let flying = read(frames, packet, offloads);
            self.stats.tx_packets += 1;
            self.stats.tx_bytes += flying.bytes.len() as u64;
            network.send(self.host, flying);
            frames.release(packet.head);
            taken += 1;
        }
        Ok(taken)
    }

    fn release(&mut self, _frames: &mut Frames<'_>) {
        // What is on the cable is copied.
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn caps(&self) -> PortCaps {
        let network = lock(&self.network);
        let spec = network.spec(self.host);
        let offloads = spec.is_some_and(|s| s.offloads);
        PortCaps {
            mtu: spec.map_or(1500, |s| s.mtu),
            super_segment_max: if offloads { SUPER_SEGMENT_BYTES as u32 } else { 0 },
            local_peer: offloads,
            own_address: true,
        }
    }

    fn stats(&self) -> PortStats {
        self.stats
    }
}

/// `bytes` in a chain of frames, `piece` in each but the first. `None`: not enough frames.
fn chain_of(frames: &mut Frames<'_>, bytes: &[u8], piece: usize) -> Option<FrameIdx> {
    // The first frame holds 128 bytes at least, and no packet takes more frames than a chain may have.
    let piece = piece.max(128).max(bytes.len().div_ceil(CHAIN_FRAMES - 1)).min(FRAME_BYTES);
    let first = piece.min(FRAME_BYTES - FRAME_HEADROOM);
    let (front, rest) = bytes.split_at(first.min(bytes.len()));
    let head = put(frames, front, FRAME_HEADROOM)?;
    let mut last = head;
    for part in rest.chunks(piece) {
        let Some(next) = put(frames, part, 0) else {
            frames.release_chain(head);
            return None;
        };
        if let Some(meta) = frames.meta_mut(last) {
            meta.next = next;
        }
        last = next;
    }
    Some(head)
}

fn put(frames: &mut Frames<'_>, bytes: &[u8], offset: usize) -> Option<FrameIdx> {
    let frame = frames.alloc()?;
    if let Some(meta) = frames.meta_mut(frame) {
        meta.offset = offset as u16;
        meta.len = bytes.len() as u16;
    }
    frames.data_mut(frame).copy_from_slice(bytes);
    Some(frame)
}

/// The packet as the other end will see it.
fn read(frames: &mut Frames<'_>, packet: &TxFrame, offloads: bool) -> Packet {
    let mut packet = *packet;
    if !offloads {
        complete_checksum(frames, &mut packet);
    }
    let mut bytes = Vec::new();
    chain::read_tx(frames, &packet, &mut bytes);
    let is_super = packet.gso_size > 0 && packet.payload_bytes > u32::from(packet.gso_size);
    Packet {
        bytes,
        gso_size: if is_super { packet.gso_size } else { 0 },
        csum: if packet.csum_start == 0 { CsumState::Unknown } else { CsumState::Unfinished },
    }
}
