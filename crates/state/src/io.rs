//! Batches of frames between ports and the engine. These live in the holder's own memory, not in the region.

use base::FrameIdx;
use base::limits::{BATCH_FRAMES, CHAIN_FRAMES};
use region::plain;

/// What is known of the transport checksum of a received packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CsumState {
    /// Nothing: the engine verifies it. If it does not verify, but the field holds just the pseudo-header sum and
    /// the port says [`RxFrame::local_peer`], the sender left it unfinished for its device and the data is good.
    #[default]
    Unknown,
    /// The device or kernel verified it, or the packet never left this machine (VIRTIO_NET_HDR_F_DATA_VALID).
    Verified,
    /// The field holds the pseudo-header sum only; the data never crossed a wire (VIRTIO_NET_HDR_F_NEEDS_CSUM).
    Unfinished,
}

/// One received packet, Ethernet header first: a chain of frames through `FrameMeta::next`, each frame's bytes at
/// its `offset .. offset + len`. The first frame holds at least the first 128 bytes, or the whole packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RxFrame {
    /// First frame of the chain; the taker owns the chain.
    pub head: FrameIdx,
    /// Bytes of the whole chain.
    pub len: u32,
    /// Payload bytes of each segment that was merged into this super-frame; 0: not merged.
    pub gso_size: u16,
    /// Which device it came from: index into the lane's ports.
    pub port: u8,
    /// May the peer be on this machine and leave checksums unfinished (veth, virtio, TAP)?
    pub local_peer: bool,
    /// State of the transport checksum.
    pub csum: CsumState,
}

plain! {
    /// A run of payload bytes in one frame. A [`TxFrame`] does not own its pieces' frames.
    #[derive(PartialEq, Eq, Debug, Default)]
    pub struct Piece {
        /// The frame.
        pub frame: FrameIdx,
        /// First byte in its cell.
        pub offset: u16,
        /// Number of bytes.
        pub len: u16,
    }
}

plain! {
    /// One packet to send: headers (Ethernet first) in `head`, payload in `pieces`.
    ///
    /// The checksum field holds the folded pseudo-header sum (not inverted) when `csum_start` is not 0: the port, its
    /// device or the kernel completes it (as virtio's VIRTIO_NET_HDR_F_NEEDS_CSUM).
    #[derive(Debug)]
    pub struct TxFrame {
        /// Frame with the headers at its `offset .. offset + len`. The batch owns one reference to it.
        pub head: FrameIdx,
        /// Payload, in order; [`TxFrame::pieces`] gives the ones in use. Each frame stays retained by the sender's
        /// queue at least until `Port::tx` returns; a port that keeps it longer retains it.
        pub payload: [Piece; CHAIN_FRAMES],
        /// Number of pieces in use.
        pub payload_pieces: u8,
        /// Which device it leaves by: index into the lane's ports.
        pub port: u8,
        /// Payload bytes of each segment to be cut from this super-segment; 0: send as it is.
        pub gso_size: u16,
        /// Bytes from the start of `head`'s data to the transport header; 0: nothing to complete.
        pub csum_start: u16,
        /// Bytes from the transport header to its checksum field.
        pub csum_offset: u16,
        /// Bytes of all headers (the length of `head`'s data).
        pub header_bytes: u16,
        /// Payload bytes of all pieces.
        pub payload_bytes: u32,
    }
}

impl TxFrame {
    /// An empty packet around the header frame `head`.
    #[must_use]
    pub const fn new(head: FrameIdx) -> Self {
        Self {
            head,
            payload: [Piece { frame: FrameIdx::NONE, offset: 0, len: 0 }; CHAIN_FRAMES],
            payload_pieces: 0,
            port: 0,
            gso_size: 0,
            csum_start: 0,
            csum_offset: 0,
            header_bytes: 0,
            payload_bytes: 0,
        }
    }

    /// Makes it an empty packet around `head`, whatever it was.
    #[inline]
    pub fn start(&mut self, head: FrameIdx) {
        self.head = head;
        self.payload_pieces = 0;
        self.port = 0;
        self.gso_size = 0;
        self.csum_start = 0;
        self.csum_offset = 0;
        self.header_bytes = 0;
        self.payload_bytes = 0;
    }

    /// The first piece of a packet just begun; one of length 0 is none.
    #[inline]
    pub const fn put_first(&mut self, piece: Piece) {
        self.payload[0] = piece;
        self.payload_pieces = (piece.len > 0) as u8;
        self.payload_bytes = piece.len as u32;
    }

    /// The payload pieces in use.
    #[inline]
    #[must_use]
    pub fn pieces(&self) -> &[Piece] {
        self.payload.get(..self.payload_pieces as usize).unwrap_or(&self.payload)
    }

    /// Adds a piece; false when there is no room.
    #[inline]
    pub fn push_piece(&mut self, piece: Piece) -> bool {
        let Some(slot) = self.payload.get_mut(self.payload_pieces as usize) else { return false };
        *slot = piece;
        self.payload_pieces += 1;
        self.payload_bytes += u32::from(piece.len);
        true
    }

    /// Bytes of the whole packet.
    #[must_use]
    pub const fn bytes(&self) -> u32 {
        self.header_bytes as u32 + self.payload_bytes
    }
}

/// Up to [`BATCH_FRAMES`] received packets.
#[derive(Clone, Copy, Debug)]
pub struct RxBatch {
    items: [RxFrame; BATCH_FRAMES],
    notes: [u32; BATCH_FRAMES],
    len: usize,
}

impl Default for RxBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl RxBatch {
    /// An empty batch.
    #[must_use]
    pub const fn new() -> Self {
        let none = RxFrame {
            head: FrameIdx::NONE,
            len: 0,
            gso_size: 0,
            port: 0,
            local_peer: false,
            csum: CsumState::Unknown,
        };
        Self { items: [none; BATCH_FRAMES], notes: [0; BATCH_FRAMES], len: 0 }
    }

    /// The packets, and for each a word that its taker may keep for as long as it works on them.
    #[inline]
    pub fn items_and_notes(&mut self) -> (&[RxFrame], &mut [u32]) {
        let items = self.items.get(..self.len).unwrap_or(&[]);
        (items, self.notes.get_mut(..items.len()).unwrap_or(&mut []))
    }

    /// Adds a packet; false when the batch is full (the caller still owns it).
    #[inline]
    pub fn push(&mut self, item: RxFrame) -> bool {
        let Some(slot) = self.items.get_mut(self.len) else { return false };
        *slot = item;
        self.len += 1;
        true
    }

    /// Packets in the batch.
    #[inline]
    #[must_use]
    pub fn items(&self) -> &[RxFrame] {
        self.items.get(..self.len).unwrap_or(&[])
    }

    /// Packets for which there is still room.
    #[must_use]
    pub const fn room(&self) -> usize {
        BATCH_FRAMES - self.len
    }

    /// Empties the batch without releasing any frame: for when the packets have new owners.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

/// Up to [`BATCH_FRAMES`] packets to send, oldest first.
#[derive(Clone, Copy, Debug)]
pub struct TxBatch {
    items: [TxFrame; BATCH_FRAMES],
    len: usize,
}

impl Default for TxBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl TxBatch {
    /// An empty batch.
    #[must_use]
    pub const fn new() -> Self {
        Self { items: [TxFrame::new(FrameIdx::NONE); BATCH_FRAMES], len: 0 }
    }

    /// The place of the next packet, to write it where it stays: see [`TxFrame::start`]. [`TxBatch::accept`] adds it.
    /// `None`: the batch is full.
    #[inline]
    pub fn slot(&mut self) -> Option<&mut TxFrame> {
        self.items.get_mut(self.len)
    }

    /// Adds what was written to [`TxBatch::slot`].
    #[inline]
    pub fn accept(&mut self) {
        self.len = (self.len + 1).min(BATCH_FRAMES);
    }

    /// Adds a packet; false when the batch is full (the caller still owns it).
    #[inline]
    pub fn push(&mut self, item: TxFrame) -> bool {
        let Some(slot) = self.items.get_mut(self.len) else { return false };
        *slot = item;
        self.len += 1;
        true
    }

    /// Packets in the batch.
    #[inline]
    #[must_use]
    pub fn items(&self) -> &[TxFrame] {
        self.items.get(..self.len).unwrap_or(&[])
    }

    /// Packets for which there is still room.
    #[must_use]
    pub const fn room(&self) -> usize {
        BATCH_FRAMES - self.len
    }

    /// Empties the batch without releasing any frame.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}
