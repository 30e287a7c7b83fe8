//! Usual SYNs and SYN,ACKs (see `wire::usual_syn`), both ways: taken and sent in one go. What is unusual about one takes the way of all segments.

use ::state::ports::PORT_LOOPBACK;
use ::state::{CsumState, FlowKey, LaneMem, RxFrame, TxBatch};
use base::limits::FRAME_HEADROOM;
use base::{FrameIdx, Instant, IpAddress, SeqNum};
use wire::{TcpFlags, Timestamps, UsualSyn, tcp, usual, usual_syn};

use super::conn::Conn;
use super::header::{Stop, TCP_AT, TTL_DEFAULT};
use super::input::take;
use super::segment::Seg;
use super::table::{self, Whose};
use super::verify::is_intact;
use super::{State, cc_flag, flag};
use crate::{away, ipv4};

/// Takes the packet in `rx` if it is a usual SYN or SYN,ACK for this lane. False: it was not touched.
#[inline(never)]
pub(crate) fn input(mem: &mut LaneMem<'_>, now: Instant, rx: &RxFrame) -> bool {
    let Some(syn) = UsualSyn::parse(mem.frames.data(rx.head)) else { return false };
    let whole =
        rx.len as usize == usual_syn::LEN && mem.frames.meta(rx.head).is_some_and(|meta| meta.next.is_none());
    if !whole
        || mem.globals.keys.used != 0
        || !comes_to_us(mem, rx, &syn)
        || (rx.csum == CsumState::Unknown && !is_intact(rx, syn.tcp_sum(), syn.pseudo(), syn.checksum()))
    {
        return false;
    }
    let mut seg = segment_of(rx, &syn);
    let found = table::find_awake(mem, now, &seg.key);
    if found == Whose::Nobody && away::is_elsewhere(mem, &seg.key) {
        return false;
    }
    mem.counters.tcp.segments_in = mem.counters.tcp.segments_in.wrapping_add(1);
    mem.frames.release(rx.head);
    take(mem, now, found, &mut seg);
    true
}

/// Is the SYN in `rx` addressed to this lane's end of the port that it came by, from an address that others may have?
#[inline(always)]
fn comes_to_us(mem: &LaneMem<'_>, rx: &RxFrame, syn: &UsualSyn<'_>) -> bool {
    let Some(info) = ipv4::port_info(mem, rx.port).filter(|info| syn.dst_mac() == info.mac) else {
        return false;
    };
    let (src, dst) = (syn.ends().src(), syn.ends().dst());
    info.flags & PORT_LOOPBACK == 0
        && ipv4::is_local(info, IpAddress::from_v4(dst))
        && ipv4::may_send(info, src)
}

/// The segment in `rx`.
#[inline(always)]
fn segment_of(rx: &RxFrame, syn: &UsualSyn<'_>) -> Seg {
    let ends = syn.ends();
    let (remote_port, local_port) = ends.ports();
    let (local, remote) = (IpAddress::mapped(ends.dst()), IpAddress::mapped(ends.src()));
    Seg {
        key: FlowKey { local, remote, local_port, remote_port },
        seq: syn.seq(),
        ack: syn.ack(),
        flags: syn.flags(),
        window: syn.window(),
        urgent: 0,
        ecn: syn.ecn(),
        port: rx.port,
        gso_size: rx.gso_size,
        len: 0,
        head: FrameIdx::NONE,
        src_mac: syn.src_mac(),
        options: syn.options(),
    }
}

impl Conn<'_, '_> {
    /// `Conn::send_segment` of a SYN or SYN,ACK without data over IPv4 that has all usual options and no other. `None`: it is none.
    pub(super) fn send_usual_syn(&mut self, out: &mut TxBatch, flags: TcpFlags) -> Option<Result<(), Stop>> {
        let (hot, cold, lane) = (&*self.hot, &*self.cold, &self.tcp.usual);
        let first = hot.state == State::SynSent as u8;
        let agreed = hot.flags & (flag::TIMESTAMPS | flag::SACK) == flag::TIMESTAMPS | flag::SACK
            && cold.cc_flags & cc_flag::WINDOW_SCALE != 0;
        let usual = (first || agreed)
            && cold.ooo.sign == 0
            && cold.fast == 0
            && (lane.no_timestamps, lane.no_sack, lane.no_window_scaling) == (0, 0, 0);
        let key = hot.key;
        let (Some(src), Some(dst), true) = (key.local.as_v4(), key.remote.as_v4(), usual) else {
            return None;
        };
        let echo = if first { 0 } else { hot.rcv.ts_recent };
        let timestamps = Timestamps { value: self.timestamp_clock(), echo };
        let ack = if flags.is_ack() { hot.rcv.nxt } else { SeqNum(0) };
        let (seq, mss, shift) = (cold.iss, cold.mss_local, hot.rcv_shift);
        let Some(packet) = out.slot() else { return Some(Err(Stop::Batch)) };
        let Some(way) = self.way() else { return Some(Err(Stop::Hop)) };
        let Some(head) = self.frames.alloc_at(FRAME_HEADROOM as u16, usual_syn::LEN as u16, 0) else {
            return Some(Err(Stop::Frames));
        };
        let window = self.announce_syn_window();
        let to: &mut [u8; usual_syn::LEN] = self.frames.room_mut(head, FRAME_HEADROOM).first_chunk_mut()?;
        usual::put_link(to, way.to_mac, way.from_mac);
        usual::put_ends(to, (src.octets(), key.local_port), (dst.octets(), key.remote_port));
        usual::put_network(to, way.tos, if way.ttl == 0 { TTL_DEFAULT } else { way.ttl }, 0);
        usual::put_transport(to, seq, ack, flags, window);
        usual_syn::put_options(to, mss, timestamps, shift);
        packet.start(head);
        packet.port = self.hot.port;
        packet.csum_start = TCP_AT as u16;
        packet.csum_offset = tcp::CHECKSUM_OFFSET as u16;
        packet.header_bytes = usual_syn::LEN as u16;
        out.accept();
        self.note_sent(usual_syn::LEN as u32);
        Some(Ok(()))
    }
}
