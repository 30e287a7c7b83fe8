//! A received segment: parsed, its checksum verified, its payload a chain of frames without headers.

use ::state::{CsumState, DropReason, FlowKey, LaneMem};
use base::limits::CHAIN_FRAMES;
use base::{FrameIdx, MacAddr, SeqNum};
use region::Frames;
use wire::{IpProtocol, Sum, TcpFlags, TcpOptions, TcpSegment, checksum};

use crate::ipv4::Packet;

/// A segment. Whoever takes its payload sets `head` to none; what is left is released at the end.
pub(crate) struct Seg {
    /// Whose it is, seen from our side.
    pub(crate) key: FlowKey,
    /// SEG.SEQ.
    pub(crate) seq: SeqNum,
    /// SEG.ACK.
    pub(crate) ack: SeqNum,
    /// Control bits.
    pub(crate) flags: TcpFlags,
    /// SEG.WND, not scaled.
    pub(crate) window: u16,
    /// SEG.UP; counts if URG is set.
    pub(crate) urgent: u16,
    /// The ECN field of its packet.
    pub(crate) ecn: u8,
    /// The port it came by.
    pub(crate) port: u8,
    /// Payload bytes of each segment that was merged into this one; 0: none was.
    pub(crate) gso_size: u16,
    /// Payload bytes.
    pub(crate) len: u32,
    /// The payload; none when `len` is 0 or it was taken.
    pub(crate) head: FrameIdx,
    /// Ethernet source.
    pub(crate) src_mac: MacAddr,
    /// Options.
    pub(crate) options: TcpOptions,
}

impl Seg {
    /// SEG.LEN: what it occupies in sequence space.
    pub(crate) fn space(&self) -> u32 {
        self.len.saturating_add(u32::from(self.flags.is_syn())).saturating_add(u32::from(self.flags.is_fin()))
    }

    /// One past its last payload byte.
    pub(crate) fn data_end(&self) -> SeqNum {
        self.seq.plus(self.len)
    }

    /// One past its last sequence number.
    pub(crate) fn end(&self) -> SeqNum {
        self.seq.plus(self.space())
    }

    /// Gives the payload to the caller.
    pub(crate) fn take_payload(&mut self) -> FrameIdx {
        core::mem::take(&mut self.head)
    }
}

/// A segment whose headers are still there.
pub(crate) struct Parsed {
    /// What they say; its `head` is the whole packet's.
    pub(crate) seg: Seg,
    /// Bytes of the TCP header.
    pub(crate) header_bytes: u16,
}

/// The segment in `packet`. `None`: dropped and counted.
#[inline]
pub(crate) fn parse(mem: &mut LaneMem<'_>, packet: &Packet) -> Option<Parsed> {
    match parse_head(&mem.frames, packet) {
        Ok((seg, header_bytes)) => Some(Parsed { seg, header_bytes }),
        Err(reason) => {
            mem.counters.drop_packet(reason);
            mem.frames.release_chain(packet.head);
            None
        }
    }
}

fn parse_head(frames: &Frames<'_>, packet: &Packet) -> Result<(Seg, u16), DropReason> {
    let head = frames.data(packet.head).get(usize::from(packet.l4_offset)..).unwrap_or(&[]);
    let tcp = TcpSegment::parse(head).map_err(|_| DropReason::TcpMalformed)?;
    let header_bytes = tcp.header_len() as u32;
    let len = packet.l4_bytes.checked_sub(header_bytes).ok_or(DropReason::TcpMalformed)?;
    if packet.csum == CsumState::Unknown && !checksum_ok(frames, packet, head, tcp.checksum()) {
        return Err(DropReason::TcpChecksumBad);
    }
    let key = FlowKey {
        local: packet.dst,
        remote: packet.src,
        local_port: tcp.dst_port(),
        remote_port: tcp.src_port(),
    };
    let seg = Seg {
        key,
        seq: tcp.seq(),
        ack: tcp.ack(),
        flags: tcp.flags(),
        window: tcp.window(),
        urgent: tcp.urgent(),
        ecn: packet.tos & super::ecn::CE,
        port: packet.port,
        gso_size: packet.gso_size,
        len,
        head: packet.head,
        src_mac: packet.src_mac,
        options: TcpOptions::parse(tcp.options()),
    };
    Ok((seg, header_bytes as u16))
}

/// Is the checksum right, or left unfinished by a peer on this machine (it holds just the pseudo-header's sum)?
fn checksum_ok(frames: &Frames<'_>, packet: &Packet, head: &[u8], field: u16) -> bool {
    let pseudo = checksum::pseudo(packet.src, packet.dst, IpProtocol::TCP, packet.l4_bytes);
    let mut sum = pseudo.plus(Sum::of(head));
    let mut next = frames.meta(packet.head).map_or(FrameIdx::NONE, |m| m.next);
    for _ in 0..CHAIN_FRAMES {
        let Some(meta) = frames.meta(next) else { break };
        sum = sum.plus(Sum::of(frames.data(next)));
        next = meta.next;
    }
    sum.is_valid() || (packet.local_peer && field == pseudo.fold())
}

impl Parsed {
    /// The segment with the chain, of which nothing but payload is left.
    #[inline]
    pub(crate) fn strip(self, frames: &mut Frames<'_>, packet: &Packet) -> Seg {
        strip(frames, self.seg, packet, self.header_bytes)
    }
}

/// Takes the headers off the chain, so that it holds nothing but payload.
fn strip(frames: &mut Frames<'_>, mut seg: Seg, packet: &Packet, header_bytes: u16) -> Seg {
    if seg.len == 0 {
        frames.release_chain(packet.head);
        seg.head = FrameIdx::NONE;
        return seg;
    }
    let off = packet.l4_offset.saturating_add(header_bytes);
    let Some(meta) = frames.meta_mut(packet.head) else { return seg };
    meta.offset = meta.offset.saturating_add(off);
    meta.len = meta.len.saturating_sub(off);
    if meta.len == 0 {
        seg.head = meta.next;
        frames.release(packet.head);
    }
    seg
}
