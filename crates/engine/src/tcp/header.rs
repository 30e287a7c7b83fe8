//! Headers of what is sent: Ethernet, IP and TCP in one frame, the checksum left to the port.

use core::net::Ipv4Addr;

use ::state::hop::HOP_KNOWN;
use ::state::{TcbCold, TxBatch, TxFrame, Usual};
use base::limits::FRAME_HEADROOM;
use base::{FrameIdx, Instant, IpAddress, MacAddr, SeqNum};
use region::Frames;
use wire::{
    EthHeader, EtherType, IpProtocol, Ipv4Header, Ipv6Header, SackBlock, SackBlocks, Sign, TcpFlags,
    TcpHeader, TcpOptions, Timestamps, UsualHeader, checksum, eth, ipv4, tcp, usual,
};

use super::conn::Conn;
use super::{OWES_TWICE, State, cc_flag, flag, handshake};
use crate::ip;

/// Where the TCP header begins over IPv4.
pub(super) const TCP_AT: usize = eth::HEADER_LEN + ipv4::HEADER_LEN;
const _: () = assert!(TCP_AT == usual::TCP_AT);
/// SACK blocks of one segment, at most: so many fit beside timestamps (RFC 2018 3).
pub(super) const SACKS_MAX: usize = 3;
/// TTL of a connection whose options name none.
pub(super) const TTL_DEFAULT: u8 = 64;

/// The TTL or hop limit that `set` says, 0 being nothing, of packets to `remote` on a lane with `usual`; 0: [`TTL_DEFAULT`].
pub(super) fn ttl(set: u8, usual: &Usual, remote: IpAddress) -> u8 {
    match set {
        0 if remote.is_v4() => usual.ttl,
        0 => usual.hop_limit,
        set => set,
    }
}

/// Why a segment could not be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    /// The MAC of the next hop is not known.
    Hop,
    /// No free frame.
    Frames,
    /// The batch is full.
    Batch,
}

/// One segment to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cut {
    /// SEG.SEQ.
    pub(super) seq: SeqNum,
    /// Payload bytes wanted.
    pub(super) len: u32,
    /// Control bits.
    pub(super) flags: TcpFlags,
    /// The frame in which the payload begins.
    pub(super) from: FrameIdx,
}

/// What of a segment was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// Payload bytes.
    pub(super) len: u32,
    /// Control bits.
    pub(super) flags: TcpFlags,
    /// The frame in which the byte behind lies.
    pub(super) next: FrameIdx,
}

/// Addresses of a packet, as its headers need them.
pub(super) struct Way {
    pub(super) from_mac: MacAddr,
    pub(super) to_mac: MacAddr,
    pub(super) ttl: u8,
    pub(super) tos: u8,
    /// Flow label of IPv6 packets.
    pub(super) label: u32,
}

/// The flow label of the connection whose numbers began at `iss` (RFC 6437 3: one for all its packets, spread evenly). Made of a number that
/// was sent in the open, it tells nobody more.
pub(super) fn label_of(iss: SeqNum) -> u32 {
    (iss.0.wrapping_mul(0x9e37_79b1) >> 12).max(1)
}

/// A frame for headers: empty, with room for all of them behind the headroom.
pub(super) fn header_frame(frames: &mut Frames<'_>) -> Option<FrameIdx> {
    let head = frames.alloc()?;
    let meta = frames.meta_mut(head)?;
    meta.offset = FRAME_HEADROOM as u16;
    meta.len = (ip::HEADERS_MAX + tcp::HEADER_LEN_MAX) as u16;
    Some(head)
}

/// Writes all headers of a segment with `payload` bytes into `head`; gives their length, 0 if they do not fit.
pub(super) fn write(
    frames: &mut Frames<'_>,
    head: FrameIdx,
    way: &Way,
    key: &::state::FlowKey,
    segment: (&TcpHeader, &TcpOptions),
    payload: u32,
) -> u16 {
    let tcp_bytes = tcp::HEADER_LEN + segment.1.len_bytes();
    let total = tcp_bytes as u32 + payload;
    let data = frames.data_mut(head);
    let (done, tcp_at) = match (key.local.as_v4(), key.remote.as_v4()) {
        (Some(src), Some(dst)) => (write_v4(data, way, (src, dst), segment, total as u16), TCP_AT),
        _ => (write_v6(data, way, key, segment, total), ip::HEADERS_MAX),
    };
    if done.is_none() {
        return 0;
    }
    let bytes = (tcp_at + tcp_bytes) as u16;
    if let Some(meta) = frames.meta_mut(head) {
        meta.len = bytes;
    }
    bytes
}

/// The headers of a segment over IPv4, with `total` bytes of TCP.
#[inline]
fn write_v4(
    data: &mut [u8],
    way: &Way,
    (src, dst): (Ipv4Addr, Ipv4Addr),
    (header, options): (&TcpHeader, &TcpOptions),
    total: u16,
) -> Option<()> {
    let ip = Ipv4Header {
        traffic_class: way.tos,
        payload_len: total,
        // RFC 6864 4.1: of a packet that may not be fragmented the identification means nothing.
        ident: 0,
        dont_fragment: true,
        more_fragments: false,
        fragment_offset: 0,
        ttl: if way.ttl == 0 { TTL_DEFAULT } else { way.ttl },
        protocol: IpProtocol::TCP,
        src,
        dst,
    };
    let link = EthHeader { dst: way.to_mac, src: way.from_mac, ethertype: EtherType::IPV4 };
    let (front, segment) = data.split_at_mut_checked(TCP_AT)?;
    let (front, network) = front.split_at_mut_checked(eth::HEADER_LEN)?;
    link.emit(front).ok()?;
    ip.emit(network).ok()?;
    header.emit(options, segment).ok()?;
    tcp::set_checksum(segment, checksum::pseudo_v4(src, dst, IpProtocol::TCP, total).fold()).ok()
}

/// The same over IPv6.
#[inline(never)]
fn write_v6(
    data: &mut [u8],
    way: &Way,
    key: &::state::FlowKey,
    (header, options): (&TcpHeader, &TcpOptions),
    total: u32,
) -> Option<()> {
    let (src, dst) = (key.local.as_v6(), key.remote.as_v6());
    let ip = Ipv6Header {
        traffic_class: way.tos,
        flow_label: way.label,
        payload_len: total as u16,
        next_header: IpProtocol::TCP,
        hop_limit: if way.ttl == 0 { TTL_DEFAULT } else { way.ttl },
        src,
        dst,
    };
    let link = EthHeader { dst: way.to_mac, src: way.from_mac, ethertype: EtherType::IPV6 };
    let (front, segment) = data.split_at_mut_checked(ip::HEADERS_MAX)?;
    let (front, network) = front.split_at_mut_checked(eth::HEADER_LEN)?;
    link.emit(front).ok()?;
    ip.emit(network).ok()?;
    header.emit(options, segment).ok()?;
    tcp::set_checksum(segment, checksum::pseudo_v6(src, dst, IpProtocol::TCP, total).fold()).ok()
}

/// The clock of a connection for TSval (RFC 7323 5.4: 1 ms).
pub(super) fn timestamp_clock(now: Instant, cold: &TcbCold) -> u32 {
    now.as_millis_u32().wrapping_add(cold.ts_offset)
}

impl Conn<'_, '_> {
    /// Our clock for TSval.
    pub(super) fn timestamp_clock(&self) -> u32 {
        timestamp_clock(self.now, self.cold)
    }

    /// The way of this connection's packets, while the next hop is known.
    pub(super) fn way(&self) -> Option<Way> {
        let hop = self.hops.get(self.hot.hop).filter(|h| h.state == HOP_KNOWN)?;
        let port = self.ports.get(base::Idx::new(u32::from(self.hot.port)))?;
        let options = &self.cold.options;
        let label = label_of(self.cold.iss);
        Some(Way {
            from_mac: port.mac,
            to_mac: hop.mac,
            ttl: options.ttl,
            tos: super::ecn::without(options.tos),
            label,
        })
    }

    /// Options of a segment that is no SYN.
    pub(super) fn segment_options(&self) -> TcpOptions {
        let mut options = TcpOptions { sign: self.sign(), ..TcpOptions::NONE };
        if self.any(flag::TIMESTAMPS) {
            options.timestamps =
                Some(Timestamps { value: self.timestamp_clock(), echo: self.hot.rcv.ts_recent });
        }
        if (!self.hot.ooo_head.is_none() || self.owes_twice()) && self.any(flag::SACK) {
            options.sack = self.sack_blocks();
        }
        options
    }

    /// RFC 2018 4: the runs that changed last come first. If more changed since the last ACK than one can report, the older
    /// ones of them come first, and another ACK with the rest follows.
    fn sack_blocks(&self) -> SackBlocks {
        let ooo = &self.cold.ooo;
        let skip = if usize::from(ooo.fresh) > SACKS_MAX { SACKS_MAX } else { 0 };
        let mut blocks = SackBlocks::NONE;
        let mut room = SACKS_MAX;
        // RFC 2883 4: what came twice comes first, and behind it the run that holds it, if it lies in one.
        if let Some(twice) = ooo.runs.last().filter(|_| self.owes_twice()) {
            blocks.push(SackBlock { left: twice.left, right: twice.right });
            room -= 1;
        }
        for run in ooo.runs.iter().take(usize::from(ooo.run_count)).skip(skip).take(room) {
            blocks.push(SackBlock { left: run.left, right: run.right });
        }
        blocks
    }

    /// Options of a SYN or SYN,ACK: what we offer, or what the peer offered too.
    fn syn_options(&self) -> TcpOptions {
        let first = self.state() == State::SynSent;
        let sign = self.sign();
        let mut options = TcpOptions { mss: Some(self.cold.mss_local), sign, ..TcpOptions::NONE };
        // As Linux: beside an MD5 signature timestamps are not offered, so that SACK blocks have room.
        if (first && sign != Sign::Md5) || self.any(flag::TIMESTAMPS) {
            let echo = if first { 0 } else { self.hot.rcv.ts_recent };
            options.timestamps = Some(Timestamps { value: self.timestamp_clock(), echo });
        }
        options.sack_permitted = first || self.any(flag::SACK);
        if first || self.cold.cc_flags & cc_flag::WINDOW_SCALE != 0 {
            options.window_scale = Some(self.hot.rcv_shift);
        }
        handshake::keep_usual(&self.tcp.usual, &mut options);
        match self.fast_option().filter(|_| sign == Sign::None) {
            Some(option) => options.with_fast_open(&option),
            None => options,
        }
    }

    /// Makes the segment `cut` and adds it to `out`. Everything that is sent tells the peer RCV.NXT and our window.
    pub(super) fn send_segment(&mut self, out: &mut TxBatch, cut: &Cut) -> Result<Sent, Stop> {
        match self.send_usual(out, cut) {
            Some(sent) => sent,
            None => self.send_any(out, cut),
        }
    }

    /// [`Conn::send_segment`] for whatever it is.
    pub(super) fn send_any(&mut self, out: &mut TxBatch, cut: &Cut) -> Result<Sent, Stop> {
        if out.room() == 0 {
            return Err(Stop::Batch);
        }
        let mut way = self.way().ok_or(Stop::Hop)?;
        way.tos |= self.ecn_of(cut.seq, cut.len);
        let told = if cut.flags.is_syn() { TcpFlags::NONE } else { self.tell_ecn(cut.seq, cut.len) };
        let alone = Cut { len: self.mss(), flags: cut.flags.without(TcpFlags::FIN | TcpFlags::PSH), ..*cut };
        // A device would tell it in every segment that it cuts.
        let cut = if told.intersects(TcpFlags::CWR) && cut.len > alone.len { &alone } else { cut };
        let signed;
        let cut = if self.cold.ooo.sign == 0 {
            cut
        } else {
            signed = self.cut_to_sign(cut);
            &signed
        };
        let head = header_frame(self.frames).ok_or(Stop::Frames)?;
        let mut packet = TxFrame::new(head);
        let mut sent = Sent { len: 0, flags: cut.flags, next: cut.from };
        if cut.len > 0 {
            let first = cut.seq.plus(u32::from(cut.flags.is_syn()));
            (sent.len, sent.next) = self.collect(&mut packet, cut.from, first, cut.len);
            if sent.len < cut.len {
                // More pieces than a packet has room for: the rest follows in the next one.
                let mss = self.mss();
                sent.flags = cut.flags.without(TcpFlags::FIN | TcpFlags::PSH);
                let whole = if sent.len > mss { sent.len - sent.len % mss } else { sent.len };
                packet = TxFrame::new(head);
                (sent.len, sent.next) = self.collect(&mut packet, cut.from, first, whole);
            }
        }
        let syn = sent.flags.is_syn();
        let options = if syn { self.syn_options() } else { self.segment_options() };
        let window = if syn { self.announce_syn_window() } else { self.announce_window() };
        let ack = if sent.flags.is_ack() { self.hot.rcv.nxt } else { SeqNum(0) };
        let urgent = if syn { None } else { self.pointer_at(cut.seq) };
        let header = TcpHeader {
            src_port: self.hot.key.local_port,
            dst_port: self.hot.key.remote_port,
            seq: cut.seq,
            ack,
            flags: sent.flags | told | if urgent.is_some() { TcpFlags::URG } else { TcpFlags::NONE },
            window,
            urgent: urgent.unwrap_or(0),
        };
        packet.header_bytes = write(self.frames, head, &way, &self.hot.key, (&header, &options), sent.len);
        packet.port = self.hot.port;
        packet.csum_start = ip::headers(self.hot.key.remote) as u16;
        packet.csum_offset = tcp::CHECKSUM_OFFSET as u16;
        packet.gso_size = self.gso_size(sent.len, &options);
        if packet.header_bytes == 0 || !out.push(packet) {
            self.frames.release(head);
            return Err(Stop::Batch);
        }
        self.note_sent(packet.bytes());
        self.told_ecn(told);
        if self.owes_twice() && !syn {
            self.cold.acks_owed &= !OWES_TWICE;
            self.counters.tcp.twice_out = self.counters.tcp.twice_out.wrapping_add(1);
        }
        Ok(sent)
    }

    /// What of `cut` goes into one segment of those that are signed: nobody cuts them afterwards.
    #[cold]
    fn cut_to_sign(&self, cut: &Cut) -> Cut {
        let most = u32::from(self.payload_max_now());
        let flags = cut.flags.without(TcpFlags::FIN | TcpFlags::PSH);
        if cut.len > most { Cut { len: most, flags, ..*cut } } else { *cut }
    }

    /// [`Conn::send_segment`] for a segment with timestamps and no other option that needs no cutting. `None`: it is none.
    #[inline]
    fn send_usual(&mut self, out: &mut TxBatch, cut: &Cut) -> Option<Result<Sent, Stop>> {
        let plain = self.hot.flags & (flag::TIMESTAMPS | flag::SPECIAL) == flag::TIMESTAMPS
            && self.hot.ooo_head.is_none()
            && !self.owes_twice()
            && cut.len <= u32::from(self.hot.mss)
            && cut.flags.without(TcpFlags::PSH | TcpFlags::FIN) == TcpFlags::ACK;
        let key = &self.hot.key;
        let (Some(src), Some(dst), true) = (key.local.as_v4(), key.remote.as_v4(), plain) else {
            return None;
        };
        let (src_port, dst_port) = (key.local_port, key.remote_port);
        let Some(way) = self.way() else { return Some(Err(Stop::Hop)) };
        let Some(packet) = out.slot() else { return Some(Err(Stop::Batch)) };
        let Some(head) = self.frames.alloc() else { return Some(Err(Stop::Frames)) };
        packet.start(head);
        let mut next = cut.from;
        if cut.len > 0 {
            let taken;
            (taken, next) = self.collect(packet, cut.from, cut.seq, cut.len);
            if taken < cut.len {
                self.frames.release(head);
                return None; // more pieces than a packet has room for
            }
        }
        let header = UsualHeader {
            dst_mac: way.to_mac,
            src_mac: way.from_mac,
            tos: way.tos | self.ecn_of(cut.seq, cut.len),
            ttl: if way.ttl == 0 { TTL_DEFAULT } else { way.ttl },
            src,
            dst,
            src_port,
            dst_port,
            seq: cut.seq,
            ack: self.hot.rcv.nxt,
            flags: cut.flags,
            window: self.announce_window(),
            timestamps: Timestamps { value: self.timestamp_clock(), echo: self.hot.rcv.ts_recent },
        };
        packet.port = self.hot.port;
        packet.csum_start = TCP_AT as u16;
        packet.csum_offset = tcp::CHECKSUM_OFFSET as u16;
        packet.header_bytes = usual::HEADER_LEN as u16;
        if let Some(meta) = self.frames.meta_mut(head) {
            meta.len = usual::HEADER_LEN as u16;
        }
        let bytes = packet.bytes();
        let room = self.frames.cell_mut(head).get_mut(FRAME_HEADROOM..);
        header.emit(cut.len as u16, room.and_then(|r| r.first_chunk_mut())?);
        out.accept();
        self.note_sent(bytes);
        Some(Ok(Sent { len: cut.len, flags: cut.flags, next }))
    }

    /// Payload of each segment to be cut from a super-segment of `len` bytes; 0: it is not one.
    fn gso_size(&self, len: u32, options: &TcpOptions) -> u16 {
        if len == 0 {
            return 0;
        }
        let mss = self.payload_max(options);
        if len > u32::from(mss) { mss } else { 0 }
    }

    /// Largest payload of the next segment without SYN, bytes.
    #[inline]
    pub(super) fn payload_max_now(&self) -> u16 {
        if self.hot.ooo_head.is_none() && !self.owes_twice() {
            self.hot.mss.max(1)
        } else {
            self.payload_max(&self.segment_options())
        }
    }

    /// Largest payload of one segment beside `options`, bytes.
    pub(super) fn payload_max(&self, options: &TcpOptions) -> u16 {
        let usual = if self.any(flag::TIMESTAMPS) { usize::from(super::TIMESTAMPS_BYTES) } else { 0 };
        let extra = options.len_bytes().saturating_sub(usual + options.sign.len_bytes()) as u16;
        self.hot.mss.saturating_sub(extra).max(1)
    }

    /// A segment went out: whatever ACK was due went with it.
    #[inline]
    pub(super) fn note_sent(&mut self, bytes: u32) {
        self.clear(flag::ACK_NOW);
        self.hot.ack_at = Instant::NEVER;
        self.hot.rcv.ack_sent = self.hot.rcv.nxt;
        if !self.hot.ooo_head.is_none() {
            let rest = usize::from(self.cold.ooo.fresh) > SACKS_MAX;
            self.cold.ooo.fresh = if rest { SACKS_MAX as u8 } else { 0 };
            if rest {
                self.ack_now();
            }
        }
        self.counters.tx_packets = self.counters.tx_packets.wrapping_add(1);
        self.counters.tx_bytes = self.counters.tx_bytes.wrapping_add(u64::from(bytes));
        self.counters.tcp.segments_out = self.counters.tcp.segments_out.wrapping_add(1);
    }
}
