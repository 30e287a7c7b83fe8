//! SYN cookies (RFC 4987 3.6): while a listener's SYN queue or the table of connections is crowded, a SYN is answered without a row. What has to be
//! remembered goes into the numbers that the peer sends back: time, MSS and a keyed hash into our initial sequence number; the other options
//! and whether ECN is agreed on into the low bits of our timestamp, as Linux does. A peer without timestamps gets neither window scaling nor SACK
//! nor ECN then.
//!
//! A cookie of 32 bits has 24 of hash, so who does not see our SYN,ACK must guess 2^23 times, for one listener that was crowded in the
//! last two minutes, to open one connection.

use core::hash::Hasher;

use ::state::{DropReason, FlowKey, KeyRow, LaneMem, Listener};
use base::{Duration, FrameIdx, Idx, Instant, SeqNum};
use siphasher::sip::SipHasher13;
use wire::tcp_options::TcpOptions as Offered;
use wire::{SackBlocks, TcpFlags, TcpHeader, Timestamps, tcp};

use super::congestion::Algorithm;
use super::conn::Fate;
use super::header::{Way, header_frame, label_of, ttl, write};
use super::segment::Seg;
use super::{auth, ecn, group, listen, table};
use crate::ip;
use crate::outbox::{self, Note};

/// What three bits can say of the peer's MSS: the next lower one counts.
const MSS_TABLE: [u16; 8] = [536, 1220, 1300, 1400, 1440, 1460, 4312, 8960];
/// Unit of the time in a cookie, s.
const TICK_S: u64 = 64;
/// A cookie lasts for this unit of time and so many more.
const TICKS: u32 = 1;
/// After the last cookie sent none is accepted any more.
const LIFE: Duration = Duration::from_secs(TICK_S * (TICKS as u64 + 1));

/// Bits of the timestamp that hold options.
const STAMP_MASK: u32 = 0x3f;
/// The window scale in them that means none.
const NO_SCALE: u32 = 0xf;
/// SACK is permitted.
const STAMP_SACK: u32 = 1 << 4;
/// ECN is agreed on.
const STAMP_ECN: u32 = 1 << 5;
/// What an ECN-setup SYN has (RFC 3168 6.1.1).
const ECN_SETUP: TcpFlags = TcpFlags(TcpFlags::ECE.0 | TcpFlags::CWR.0);

/// Time, as far as a cookie knows it.
fn tick(now: Instant) -> u32 {
    (now.as_micros() / (1_000_000 * TICK_S)) as u32 & 0x1f
}

/// The cookie for the SYN `irs` of `key` at time `tick` with entry `mss` of the table.
fn make(mem: &LaneMem<'_>, key: &FlowKey, irs: SeqNum, tick: u32, mss: u32) -> SeqNum {
    let [k0, k1] = mem.globals.tcp.isn_key;
    // Keyed apart from initial sequence numbers.
    let mut hasher = SipHasher13::new_with_keys(k0, !k1);
    hasher.write(&key.local.0);
    hasher.write(&key.remote.0);
    hasher.write_u16(key.local_port.0);
    hasher.write_u16(key.remote_port.0);
    hasher.write_u32(irs.0);
    hasher.write_u32(tick << 3 | mss);
    SeqNum(tick << 27 | mss << 24 | hasher.finish() as u32 & 0x00ff_ffff)
}

/// The MSS in the cookie that `seg` acknowledges. `None`: it acknowledges none of ours.
fn mss_in(mem: &LaneMem<'_>, now: Instant, seg: &Seg) -> Option<u16> {
    let cookie = seg.ack.minus(1);
    let (then, mss) = (cookie.0 >> 27, cookie.0 >> 24 & 7);
    let age = tick(now).wrapping_sub(then) & 0x1f;
    let good = age <= TICKS && make(mem, &seg.key, seg.seq.minus(1), then, mss) == cookie;
    MSS_TABLE.get(mss as usize).copied().filter(|_| good)
}

/// The clock for TSval, in its low bits the options of a SYN and whether ECN was agreed on, and never ahead of the clock (RFC 7323 5.4).
fn stamp(clock: u32, offered: &Offered, ecn: bool) -> u32 {
    let scale = offered.window_scale.map_or(NO_SCALE, |shift| u32::from(shift.min(14)));
    let sack = if offered.sack_permitted { STAMP_SACK } else { 0 };
    let options = scale | sack | if ecn { STAMP_ECN } else { 0 };
    let stamp = clock & !STAMP_MASK | options;
    if (stamp.wrapping_sub(clock) as i32) > 0 { stamp.wrapping_sub(STAMP_MASK + 1) } else { stamp }
}

/// What the peer offered in its SYN, as far as its ACK `seg` brings it back.
fn offered(seg: &Seg, mss: u16) -> Offered {
    let mut offered = Offered { mss: Some(mss), sack: SackBlocks::NONE, ..seg.options };
    if let Some(ts) = seg.options.timestamps {
        let scale = ts.echo & NO_SCALE;
        offered.window_scale = (scale != NO_SCALE).then_some(scale.min(14) as u8);
        offered.sack_permitted = ts.echo & STAMP_SACK != 0;
    }
    offered
}

/// Answers the SYN `seg` to `listener` with a cookie.
pub(super) fn send(mem: &mut LaneMem<'_>, now: Instant, listener: Idx<Listener>, seg: &Seg) {
    let Some(row) = mem.listeners.get_mut(listener) else { return };
    row.cookie_at = now;
    let settings = row.options;
    let Some(port) = mem.ports.get(Idx::new(u32::from(seg.port))) else { return };
    let (from_mac, mss_local) = (port.mac, super::handshake::mss_local(&settings, port.mtu, seg.key.remote));
    let theirs = seg.options.mss.unwrap_or(super::handshake::mss_default(seg.key.remote));
    let mss = MSS_TABLE.iter().skip(1).take_while(|m| **m <= theirs).count() as u32;
    let seq = make(mem, &seg.key, seg.seq, tick(now), mss);
    let (_, ts_offset) = table::initial_numbers(mem, now, &seg.key);
    let clock = now.as_millis_u32().wrapping_add(ts_offset);
    let rcv_buf = super::handshake::rcv_buf(&settings, mem.globals.tcp.rcv_buf_bytes);
    let rcv_shift = super::handshake::rcv_shift(&settings, &mem.globals.tcp);
    let signer = auth::key_of_answer(mem, seg);
    let sign = auth::sign_by(mem, signer);
    let mut options = Offered { mss: Some(mss_local), sign, ..Offered::NONE };
    let mut flags = TcpFlags::SYN | TcpFlags::ACK;
    if let Some(theirs) = seg.options.timestamps {
        let algorithm = Algorithm::chosen(settings.congestion, mem.globals.tcp.congestion);
        let agreed = ecn::accepts(&mem.globals.tcp, algorithm, seg);
        flags = flags | if agreed { TcpFlags::ECE } else { TcpFlags::NONE };
        let value = stamp(clock, &seg.options, agreed);
        options.timestamps = Some(Timestamps { value, echo: theirs.value });
        options.sack_permitted = seg.options.sack_permitted;
        options.window_scale = seg.options.window_scale.map(|_| rcv_shift);
    }
    let header = TcpHeader {
        src_port: seg.key.local_port,
        dst_port: seg.key.remote_port,
        seq,
        ack: seg.seq.plus(1),
        flags,
        window: rcv_buf.min(u32::from(u16::MAX)) as u16,
        urgent: 0,
    };
    let ttl = ttl(settings.ttl, &mem.globals.tcp.usual, seg.key.remote);
    let way = Way { from_mac, to_mac: seg.src_mac, ttl, tos: settings.tos, label: label_of(seq) };
    let signer = signer.map(|signer| (signer, seg));
    if let Some((head, note)) = segment(mem, (seg.port, &seg.key), &way, (&header, &options), signer)
        && outbox::push(mem, head, &note)
    {
        mem.counters.tcp.cookies_out = mem.counters.tcp.cookies_out.wrapping_add(1);
    }
}

/// A segment without data that no whole row sends, by `port`, for the connection of `key`; signed by `signer` if it answers a segment. `None`: it
/// could not be made.
pub(super) fn segment(
    mem: &mut LaneMem<'_>,
    (port, key): (u8, &FlowKey),
    way: &Way,
    segment: (&TcpHeader, &Offered),
    signer: Option<(Idx<KeyRow>, &Seg)>,
) -> Option<(FrameIdx, Note)> {
    let Some(head) = header_frame(&mut mem.frames) else {
        mem.counters.drop_packet(DropReason::OutOfFrames);
        return None;
    };
    if write(&mut mem.frames, head, way, key, segment, 0) == 0 {
        mem.frames.release(head);
        return None;
    }
    let tcp_at = ip::headers(key.remote) as u16;
    if let Some((signer, seg)) = signer {
        auth::sign_answer(mem, head, tcp_at, seg, signer);
    }
    let note = Note { csum_start: tcp_at, csum_offset: tcp::CHECKSUM_OFFSET as u16, ..Note::plain(port) };
    Some((head, note))
}

/// Opens the connection whose handshake `seg` completes with a cookie. False: it holds none of ours, and nothing was done.
pub(super) fn accept(mem: &mut LaneMem<'_>, now: Instant, listener: Idx<Listener>, seg: &mut Seg) -> bool {
    let sent_at = group::cookie_at(mem, listener);
    let crowded = sent_at != Instant(0) && now.since(sent_at) <= LIFE;
    let ack_only = seg.flags.is_ack() && !seg.flags.intersects(TcpFlags::SYN | TcpFlags::RST);
    if !crowded || !ack_only {
        return false;
    }
    let Some(mss) = mss_in(mem, now, seg) else {
        mem.counters.tcp.cookies_bad = mem.counters.tcp.cookies_bad.wrapping_add(1);
        // Only the first segment behind the handshake shows its cookie. One that comes after it is lost, instead of answered as RFC 9293 3.10.7.2 has it by RST: the first may
        // have found the accept queue full, and comes again.
        if seg.len > 0 {
            mem.counters.drop_packet(DropReason::TcpAckBad);
        }
        return seg.len > 0;
    };
    if !listen::may_accept(mem, listener) {
        return true;
    }
    if mem.globals.tcp.free.is_none() {
        give_way(mem, now, listener);
    }
    let had_ecn = seg.options.timestamps.is_some_and(|ts| ts.echo & STAMP_ECN != 0);
    let syn = Seg {
        ecn: 0,
        key: seg.key,
        seq: seg.seq.minus(1),
        ack: SeqNum(0),
        flags: TcpFlags::SYN | if had_ecn { ECN_SETUP } else { TcpFlags::NONE },
        urgent: 0,
        window: seg.window,
        port: seg.port,
        gso_size: 0,
        len: 0,
        head: base::FrameIdx::NONE,
        src_mac: seg.src_mac,
        options: offered(seg, mss),
    };
    let (_, ts_offset) = table::initial_numbers(mem, now, &seg.key);
    let numbers = (seg.ack.minus(1), ts_offset);
    let Some(at) = listen::open_row(mem, now, listener, &syn, numbers) else { return true };
    if let Some(mut c) = super::conn::conn(mem, now, at) {
        c.announce_syn_window();
    }
    mem.counters.tcp.cookies_in = mem.counters.tcp.cookies_in.wrapping_add(1);
    super::input::for_connection(mem, now, at, seg);
    true
}

/// No row is free: the oldest half-open connection of `listener` gives its own, if its peer has not answered for a second.
fn give_way(mem: &mut LaneMem<'_>, now: Instant, listener: Idx<Listener>) {
    let Some(oldest) = mem.listeners.get(listener).and_then(|row| row.syn_queue.head.some()) else { return };
    if mem.cold.get(super::conn::cold_of(oldest)).is_some_and(|cold| cold.loss.backoff > 0) {
        mem.counters.drop_packet(DropReason::TcpNoTcb);
        table::settle(mem, now, oldest, Fate::Dead(crate::SockError::TimedOut));
    }
}

/// `Usual::cookies` of a lane that gives none (net.ipv4.tcp_syncookies 0).
const NEVER: u8 = 1;
/// The same of one that answers every SYN with one (2).
const ALWAYS: u8 = 2;

/// `Usual::cookies` for net.ipv4.tcp_syncookies `setting`.
#[must_use]
pub const fn cookies(setting: u32) -> u8 {
    match setting {
        0 => NEVER,
        1 => 0,
        _ => ALWAYS,
    }
}

/// `Usual::half_open_max` for net.ipv4.tcp_max_syn_backlog `setting`: Linux keeps the last quarter for peers of which it knows a round-trip
/// time (tcp_conn_request), and lanes keep nothing of one connection for the next.
#[must_use]
pub const fn half_open_max(setting: u32) -> u32 {
    (setting - setting / 4).saturating_add(1)
}

/// Without cookies: has `listener` as many half-open connections as it may have? If so, that is counted.
pub(super) fn refuses(mem: &mut LaneMem<'_>, listener: Idx<Listener>) -> bool {
    let usual = &mem.globals.tcp.usual;
    let most = if usual.half_open_max == 0 { u32::MAX } else { usual.half_open_max };
    let full = usual.cookies == NEVER
        && mem.listeners.get(listener).is_some_and(|row| {
            let half_open = row.half_open_count();
            half_open > row.backlog || half_open >= most
        });
    if full {
        mem.counters.drop_packet(DropReason::TcpBacklogFull);
    }
    full
}

/// Has `listener` so many half-open connections, or the lane so few free rows, that a SYN gets a cookie?
pub(super) fn is_due(mem: &LaneMem<'_>, listener: Idx<Listener>) -> bool {
    match mem.globals.tcp.usual.cookies {
        NEVER => return false,
        ALWAYS => return true,
        _ => {}
    }
    let rows = mem.hot.len();
    let free = rows.saturating_sub(mem.globals.tcp.used);
    mem.listeners.get(listener).is_some_and(|row| {
        let half_open = row.half_open_count();
        half_open > row.backlog.min(rows / 2) || (free <= rows / 8 && half_open > free.max(rows / 64))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_holds_the_options_and_is_not_ahead_of_the_clock() {
        for clock in [0, 5, 63, 64, 1000, u32::MAX - 3] {
            for (scale, sack, ecn) in
                [(None, false, true), (Some(0), true, false), (Some(7), true, true), (Some(14), false, false)]
            {
                let syn = Offered { window_scale: scale, sack_permitted: sack, ..Offered::NONE };
                let value = stamp(clock, &syn, ecn);
                assert!(clock.wrapping_sub(value) <= 2 * STAMP_MASK);
                let echo = value & STAMP_MASK;
                assert_eq!((echo & NO_SCALE != NO_SCALE).then_some((echo & NO_SCALE) as u8), scale);
                assert_eq!((echo & STAMP_SACK != 0, echo & STAMP_ECN != 0), (sack, ecn));
            }
        }
    }

    #[test]
    fn the_mss_table_ascends() {
        assert!(MSS_TABLE.windows(2).all(|w| w[0] < w[1]));
    }
}
