//! What a device or the kernel does for most ports, done here for those that have no such help: a super-segment cut
//! into packets, and an unfinished checksum completed.
//!
//! Leaves out: IPv6 extension headers and encapsulation, which the engine does not send.

use region::Frames;
use state::{Piece, TxFrame};
use wire::checksum::Sum;

use crate::vnet::{Family, Layers};

/// Ethernet with a VLAN tag, and the longest headers of IPv4 and TCP.
const HEADER_BYTES_MAX: usize = 18 + 60 + 60;
const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;

/// Cuts one super-segment into packets of at most `gso_size` payload bytes, whose pieces name the same frames.
pub struct Splitter {
    packet: TxFrame,
    head: [u8; HEADER_BYTES_MAX],
    layers: Layers,
    /// Payload bytes that are in packets already.
    done: u32,
    /// First piece that is not, and how many of its bytes are.
    piece: usize,
    piece_done: u16,
    /// Packets made.
    made: u16,
}

impl Splitter {
    /// Prepares to cut `packet`. `None` when it is no super-segment, or not TCP or UDP over IP.
    #[must_use]
    pub fn new(frames: &Frames<'_>, packet: &TxFrame) -> Option<Self> {
        if packet.gso_size == 0 || packet.csum_start == 0 {
            return None;
        }
        let data = frames.data(packet.head);
        let mut head = [0; HEADER_BYTES_MAX];
        head.get_mut(..data.len())?.copy_from_slice(data);
        let layers = Layers::of(data, packet.csum_start as usize)?;
        if data.len() != packet.header_bytes as usize {
            return None;
        }
        Some(Self { packet: *packet, head, layers, done: 0, piece: 0, piece_done: 0, made: 0 })
    }

    /// Have all packets been made?
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.done >= self.packet.payload_bytes
    }

    /// The next packet, its headers in a new frame that the caller owns. `None` at the end, and when there is no free
    /// frame: then it can be asked again later.
    pub fn next(&mut self, frames: &mut Frames<'_>) -> Option<TxFrame> {
        let want = u32::from(self.packet.gso_size).min(self.packet.payload_bytes.checked_sub(self.done)?);
        if want == 0 {
            return None;
        }
        let head = frames.alloc()?;
        let mut out = TxFrame::new(head);
        out.port = self.packet.port;
        (out.csum_start, out.csum_offset) = (self.packet.csum_start, self.packet.csum_offset);
        out.header_bytes = self.packet.header_bytes;
        self.take_pieces(&mut out, want);
        let bytes = usize::from(self.packet.header_bytes);
        let mut headers = self.head;
        self.patch(&mut headers, want);
        if let Some(meta) = frames.meta_mut(head) {
            meta.len = self.packet.header_bytes;
        }
        let data = frames.data_mut(head);
        if let (true, Some(from)) = (data.len() == bytes, headers.get(..bytes)) {
            data.copy_from_slice(from);
        }
        self.done += want;
        self.made = self.made.wrapping_add(1);
        Some(out)
    }

    /// Moves `want` payload bytes into `out`, by reference.
    fn take_pieces(&mut self, out: &mut TxFrame, want: u32) {
        let mut left = want;
        while left > 0 {
            let Some(piece) = self.packet.pieces().get(self.piece) else { return };
            let rest = piece.len.saturating_sub(self.piece_done);
            let len = rest.min(u16::try_from(left).unwrap_or(u16::MAX));
            if len > 0 {
                let offset = piece.offset.saturating_add(self.piece_done);
                out.push_piece(Piece { frame: piece.frame, offset, len });
            }
            left -= u32::from(len);
            self.piece_done += len;
            if len == rest {
                self.piece += 1;
                self.piece_done = 0;
            }
        }
    }

    /// Makes the headers of the super-segment those of the packet with `len` payload bytes that follows `done`.
    fn patch(&self, headers: &mut [u8; HEADER_BYTES_MAX], len: u32) {
        let (network, transport) = (self.layers.network, self.layers.transport);
        let header_bytes = u32::from(self.packet.header_bytes);
        let upper = header_bytes.saturating_sub(transport as u32);
        match self.layers.family {
            Family::V4 => {
                // RFC 791 3.1: each packet is a datagram of its own, with its own length, identification and checksum.
                store(headers, network + 2, (header_bytes - network as u32 + len) as u16);
                let id = load(headers, network + 4).wrapping_add(self.made);
                store(headers, network + 4, id);
                store(headers, network + 10, 0);
                let sum = headers.get(network..transport).map_or(0, |h| Sum::of(h).finish());
                store(headers, network + 10, sum);
            }
            Family::V6 => store(headers, network + 4, (upper + len) as u16),
        }
        if self.layers.tcp {
            let last = self.done + len >= self.packet.payload_bytes;
            let seq =
                (u32::from(load(headers, transport + 4)) << 16) | u32::from(load(headers, transport + 6));
            let seq = seq.wrapping_add(self.done);
            store(headers, transport + 4, (seq >> 16) as u16);
            store(headers, transport + 6, seq as u16);
            if let Some(flags) = headers.get_mut(transport + 13) {
                // FIN and PSH speak of the end of the data, CWR (RFC 3168 6.1.2) of its beginning.
                *flags &= if last { 0xff } else { !(TCP_FIN | TCP_PSH) };
                *flags &= if self.done == 0 { 0xff } else { !TCP_CWR };
            }
        } else {
            store(headers, transport + 4, (upper + len) as u16);
        }
        // The unfinished checksum is the sum of the pseudo-header, in which the length stands.
        let at = transport + usize::from(self.packet.csum_offset);
        let sum = Sum::ZERO
            .plus_u16(load(headers, at))
            .plus_u32(!(upper + self.packet.payload_bytes))
            .plus_u32(upper + len);
        store(headers, at, sum.fold());
    }
}

fn load(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u16::from_be_bytes(*b))
}

fn store(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(room) = bytes.get_mut(at..).and_then(|b| b.first_chunk_mut()) {
        *room = value.to_be_bytes();
    }
}

/// Completes the transport checksum of `packet` in place and says so in it. Does nothing when there is none to
/// complete.
pub fn complete_checksum(frames: &mut Frames<'_>, packet: &mut TxFrame) {
    if packet.csum_start == 0 {
        return;
    }
    let start = usize::from(packet.csum_start);
    // What the field holds, the pseudo-header's sum, is among the bytes.
    let mut sum = frames.data(packet.head).get(start..).map_or(Sum::ZERO, Sum::of);
    for piece in packet.pieces() {
        let from = usize::from(piece.offset);
        let bytes = frames.cell(piece.frame).get(from..from + usize::from(piece.len)).unwrap_or(&[]);
        sum = sum.plus_bytes(bytes);
    }
    // RFC 768: a UDP checksum that comes out as zero is sent as all ones; for TCP the two mean the same.
    let check = match sum.finish() {
        0 => 0xffff,
        check => check,
    };
    store(frames.data_mut(packet.head), start + usize::from(packet.csum_offset), check);
    packet.csum_start = 0;
}
