//! TCP Fast Open (RFC 7413): data in a SYN, against a cookie that shows that the peer is where it says it is.
//!
//! A server's cookie is a keyed hash of both addresses, Linux's, so that lanes, processes and kernels with the same key take one another's. A
//! connection whose SYN has a good one is its program's at once: in SYN-RECEIVED, in the accept queue, with the data to read, and the program may
//! answer. How many there may be of those is the listener's limit. A client remembers each peer's cookie and MSS, and which peers its SYNs
//! with data did not reach.
//!
//! Left out: asking in the option's old form (it is answered in it), and Linux's switching fast open off for all peers when one is behind a
//! firewall that eats it.

use core::hash::Hasher;

use ::state::{FastPeer, FlowKey, LaneMem, Listener, SeqRange, SockRef, TcbHot};
use base::{Duration, FrameIdx, Idx, Instant, SeqNum};
use siphasher::sip::SipHasher24;
use wire::FastOpen;
use wire::tcp_options::COOKIE_LEN_MAX;

use super::conn::{Conn, Fate, Ring, cold_of, conn};
use super::header::{Cut, Sent};
use super::segment::Seg;
use super::{RESERVE_FRAMES, State, flag, listen, lookup, table};
use crate::errors::SockError;

/// Bits of `TcbCold::fast`.
pub(super) mod bit {
    /// We opened it, with a cookie or asking for one.
    pub(crate) const CLIENT: u8 = 1;
    /// Its SYN waits for the first write.
    pub(crate) const DEFERRED: u8 = 2;
    /// The next SYN or SYN,ACK has the option; the cookie is in the runs received out of order, of which there are none yet.
    pub(crate) const OPTION: u8 = 4;
    /// The option is in its old form.
    pub(crate) const ON_TRIAL: u8 = 8;
    /// The next SYN has what is queued.
    pub(crate) const WITH_DATA: u8 = 16;
    /// A SYN had data, and it was taken (or, of our own, that is not known yet).
    pub(crate) const SYN_DATA: u8 = 32;
    /// The peer opened it, and the program has it before the handshake is complete.
    pub(crate) const EARLY: u8 = 64;
    /// It counts in `Listener::fast_open`.
    pub(crate) const COUNTED: u8 = 128;
}

/// Bits of `TcpGlobals::fast_open`, as net.ipv4.tcp_fastopen has them.
mod way {
    pub(crate) const CLIENT: u16 = 1;
    pub(crate) const SERVER: u16 = 2;
    pub(crate) const CLIENT_BARE: u16 = 4;
    pub(crate) const SERVER_BARE: u16 = 0x200;
}

/// How long a RST to a connection that was not complete takes its place from another (as Linux).
const HELD: Duration = Duration::from_secs(60);
/// After so many SYNs with data lost in a row none is sent for a while, twice as long each time.
const LOST_MAX: u32 = 1;
/// That while for none.
const LOST_WAIT_S: u64 = 60;
/// What a SYN has room for besides options of others on the way, bytes (RFC 7413 4.1.3).
const OPTIONS_ROOM: u16 = wire::tcp_options::OPTIONS_LEN_MAX as u16;

/// [`Engine::tcp_set_fast_open`](crate::Engine::tcp_set_fast_open).
pub(crate) fn configure(mem: &mut LaneMem<'_>, s: SockRef, max: u32, keys: &[[u8; 16]]) -> bool {
    let Some(row) = listen::lookup(mem, s).and_then(|at| mem.listeners.get_mut(at)) else { return false };
    row.fast_max = max;
    row.fast_key_count = keys.len().min(row.fast_keys.len()) as u32;
    for (to, from) in row.fast_keys.iter_mut().zip(keys) {
        let key = u128::from_le_bytes(*from);
        *to = [key as u64, (key >> 64) as u64];
    }
    true
}

/// The cookie of the peer at the other end of `key`, as Linux makes it.
fn cookie_of([k0, k1]: [u64; 2], key: &FlowKey) -> [u8; 8] {
    let mut hasher = SipHasher24::new_with_keys(k0, k1);
    match (key.remote.as_v4(), key.local.as_v4()) {
        (Some(remote), Some(local)) => {
            hasher.write(&remote.octets());
            hasher.write(&local.octets());
        }
        _ => {
            hasher.write(&key.remote.0);
            hasher.write(&key.local.0);
        }
    }
    hasher.finish().to_le_bytes()
}

/// The cookies that `listener` takes from the peer of `key`, the one it gives first.
fn cookies(mem: &LaneMem<'_>, row: &Listener, key: &FlowKey) -> ([[u8; 8]; 2], usize) {
    let [k0, k1] = mem.globals.key;
    // Apart from the flow hash; the same on all lanes of the region.
    let own = [!k0, k1.rotate_left(32)];
    let keys = if row.fast_key_count == 0 { [own; 2] } else { row.fast_keys };
    (keys.map(|k| cookie_of(k, key)), row.fast_key_count.clamp(1, 2) as usize)
}

/// Is there room for one more connection that is not complete (RFC 7413 5.1)?
fn has_room(row: &mut Listener, now: Instant) -> bool {
    if row.fast_held > 0 && now >= row.fast_until {
        row.fast_held = 0;
    }
    row.fast_open.saturating_add(row.fast_held) < row.fast_max
}

/// The SYN `seg`, which has data or the option, has made the half-open connection `at` of `listener` (RFC 7413 4.2.2).
#[cold]
#[inline(never)]
pub(super) fn on_syn(
    mem: &mut LaneMem<'_>,
    now: Instant,
    (listener, at): (Idx<Listener>, Idx<TcbHot>),
    seg: &mut Seg,
) {
    let ways = mem.globals.tcp.fast_open;
    let open = mem.listeners.get_mut(listener).is_some_and(|row| has_room(row, now));
    let Some(row) = mem.listeners.get(listener).filter(|_| open && ways & way::SERVER != 0) else { return };
    let mut give = None;
    let take = if ways & way::SERVER_BARE != 0 || row.options.fast_open_bare != 0 {
        true
    } else {
        let Some(option) = seg.options.fast_open() else { return };
        let (own, count) = cookies(mem, row, &seg.key);
        let known = own.iter().take(count).position(|cookie| cookie == option.cookie());
        // A new one for who asks, for who has a wrong one, and for who has one of the key that goes out of use.
        give = own.first().filter(|_| known != Some(0)).and_then(|own| FastOpen::of(own, option.on_trial));
        if known.is_none() && !option.cookie().is_empty() {
            mem.counters.tcp.fast_in_bad = mem.counters.tcp.fast_in_bad.wrapping_add(1);
        }
        known.is_some()
    };
    let Some(mut c) = conn(mem, now, at) else { return };
    if let Some(option) = give {
        c.put_option(&option);
    }
    if !take || c.frames.is_short(RESERVE_FRAMES) {
        return;
    }
    c.cold.fast |= bit::EARLY | bit::COUNTED;
    if seg.len > 0 {
        c.cold.fast |= bit::SYN_DATA;
        let head = seg.take_payload();
        c.deliver(head);
    }
    mem.counters.tcp.fast_in = mem.counters.tcp.fast_in.wrapping_add(1);
    if let Some(row) = mem.listeners.get_mut(listener) {
        row.fast_open = row.fast_open.saturating_add(1);
    }
    listen::to_accept_queue(mem, now, at);
}

/// Connection `at` no longer counts as one that is not complete. Gives the listener where it did.
pub(super) fn uncount(mem: &mut LaneMem<'_>, at: Idx<TcbHot>) -> Option<Idx<Listener>> {
    let cold = mem.cold.get_mut(cold_of(at)).filter(|cold| cold.fast & bit::COUNTED != 0)?;
    cold.fast &= !bit::COUNTED;
    let (listener, generation) = (cold.passive.listener, cold.passive.generation);
    let row = mem.listeners.get_mut(listener).filter(|row| row.generation == generation)?;
    row.fast_open = row.fast_open.saturating_sub(1);
    Some(listener)
}

/// A segment came for connection `at`, which was in SYN-RECEIVED and its program's: is it complete now, or what is to become of it?
#[cold]
#[inline(never)]
pub(super) fn after_segment(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>, opened: bool, fate: Fate) {
    let waits = mem.hot.get(at).is_some_and(|hot| hot.flags & flag::IN_ACCEPT_QUEUE != 0);
    let reset = fate == Fate::Dead(SockError::Reset);
    if !opened && !reset {
        return;
    }
    let Some(row) = uncount(mem, at).and_then(|listener| mem.listeners.get_mut(listener)) else { return };
    if reset && !opened && !waits {
        // RFC 7413 5.1: who has got hold of cookies of others gets a RST from each of them, and is not to have
        // the limit to himself for that.
        row.fast_held = row.fast_held.saturating_add(1);
        row.fast_until = now.plus(HELD);
    }
}

/// The row that remembers the peer of `key`.
fn peer_of<'m>(mem: &'m mut LaneMem<'_>, key: &FlowKey) -> Option<&'m mut FastPeer> {
    mem.globals.fast_peers.iter_mut().find(|row| row.remote == key.remote && row.local == key.local)
}

/// The same, or a new one, in place of that which was not used for longest.
fn peer_to_be<'m>(mem: &'m mut LaneMem<'_>, key: &FlowKey, now: Instant) -> Option<&'m mut FastPeer> {
    if peer_of(mem, key).is_none() {
        let oldest = mem.globals.fast_peers.iter_mut().min_by_key(|row| row.used_at)?;
        *oldest = FastPeer { remote: key.remote, local: key.local, ..FastPeer::default() };
    }
    let row = peer_of(mem, key)?;
    row.used_at = now;
    Some(row)
}

/// [`Engine::tcp_connect_fast`](crate::Engine::tcp_connect_fast), for connection `s` whose SYN is not out yet. True: it waits for the
/// first write.
pub(crate) fn begin(mem: &mut LaneMem<'_>, now: Instant, s: SockRef) -> bool {
    let ways = mem.globals.tcp.fast_open;
    let Some(at) = lookup(mem, s).filter(|_| ways & way::CLIENT != 0) else { return false };
    let Some(key) = mem.hot.get(at).map(|hot| hot.key) else { return false };
    let peer = peer_of(mem, &key).map(|row| {
        row.used_at = now;
        *row
    });
    // RFC 7413 4.1.3.1: what goes lost with data goes without for a while.
    if peer.is_some_and(|row| row.lost > LOST_MAX && now < row.lost_at.plus(lost_wait(row.lost))) {
        return false;
    }
    let Some(mut c) = conn(mem, now, at) else { return false };
    c.cold.fast = bit::CLIENT;
    let peer = peer.unwrap_or_default();
    let bare = ways & way::CLIENT_BARE != 0 || c.cold.options.fast_open_bare != 0;
    if !bare {
        let cookie = peer.cookie.get(..usize::from(peer.cookie_len)).unwrap_or(&[]);
        let option = FastOpen::of(cookie, peer.on_trial != 0).unwrap_or(FastOpen::REQUEST);
        c.put_option(&option);
        if option.cookie().is_empty() {
            return false;
        }
    }
    c.hot.mss = if peer.mss == 0 { c.cold.mss_local } else { peer.mss.min(c.cold.mss_local) };
    c.cold.fast |= bit::DEFERRED;
    c.clear(flag::SEND_SYN);
    true
}

/// How long no SYN to a peer has data after `lost` that did not get there.
fn lost_wait(lost: u32) -> Duration {
    Duration::from_secs(LOST_WAIT_S << lost.min(8))
}

/// The SYN,ACK `seg` answers the SYN of connection `at`.
#[cold]
#[inline(never)]
pub(super) fn on_syn_ack(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>, seg: &mut Seg) {
    learn(mem, now, at, seg);
    let Some(mut c) = conn(mem, now, at) else { return };
    c.take_syn(seg);
    c.answered(seg);
    let fate = c.take_rest(seg);
    c.arm();
    table::settle(mem, now, at, fate);
}

/// Takes over what the SYN,ACK `seg` for connection `at` tells of its sender (RFC 7413 4.1.3).
fn learn(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>, seg: &Seg) {
    let (Some(hot), Some(cold)) = (mem.hot.get(at), mem.cold.get(cold_of(at))) else { return };
    let (key, iss, fast) = (hot.key, cold.iss, cold.fast);
    if fast & bit::CLIENT == 0 {
        return;
    }
    let again = cold.loss.backoff > 0;
    let given = seg.options.fast_open().filter(|option| !option.cookie().is_empty());
    let refused = fast & bit::SYN_DATA != 0 && seg.ack == iss.plus(1);
    if refused {
        mem.counters.tcp.fast_out_bad = mem.counters.tcp.fast_out_bad.wrapping_add(1);
    } else if fast & bit::SYN_DATA != 0 {
        mem.counters.tcp.fast_out = mem.counters.tcp.fast_out.wrapping_add(1);
    }
    if given.is_none() && peer_of(mem, &key).is_none() && !(refused && again) {
        return;
    }
    let Some(row) = peer_to_be(mem, &key, now) else { return };
    row.mss = seg.options.mss.unwrap_or(super::handshake::mss_default(key.remote));
    // Neither a cookie nor the data: the peer has seen none but the SYNs that were sent again without.
    if given.is_none() && refused && again {
        (row.lost, row.lost_at) = (row.lost.saturating_add(1), now);
    } else {
        row.lost = 0;
    }
    if let Some(option) = given {
        keep(row, &option);
    } else if refused && !again {
        // It does not want our cookie any more.
        row.cookie_len = 0;
    }
}

fn keep(row: &mut FastPeer, option: &FastOpen) {
    let cookie = option.cookie();
    row.cookie_len = cookie.len() as u8;
    row.on_trial = option.on_trial.into();
    for (to, from) in row.cookie.iter_mut().zip(cookie) {
        *to = *from;
    }
}

/// Connection `at`, in SYN-SENT, was given up without an answer.
#[cold]
pub(super) fn unanswered(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>) {
    let had_data = mem.cold.get(cold_of(at)).is_some_and(|cold| cold.fast & bit::SYN_DATA != 0);
    let Some(key) = mem.hot.get(at).filter(|hot| had_data && hot.state == State::SynSent as u8) else {
        return;
    };
    let key = key.key;
    if let Some(row) = peer_to_be(mem, &key, now) {
        (row.lost, row.lost_at) = (row.lost.saturating_add(1), now);
    }
}

impl Conn<'_, '_> {
    /// The next SYN or SYN,ACK has `option`.
    fn put_option(&mut self, option: &FastOpen) {
        let mut bytes = [0; COOKIE_LEN_MAX];
        for (to, from) in bytes.iter_mut().zip(option.cookie()) {
            *to = *from;
        }
        let words = bytes.as_chunks::<4>().0.iter().map(|word| SeqNum(u32::from_be_bytes(*word)));
        let mut numbers = words.chain([SeqNum(option.cookie().len() as u32)]);
        for run in &mut self.cold.ooo.runs {
            let (left, right) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
            *run = SeqRange { left, right };
        }
        self.cold.fast |= bit::OPTION | if option.on_trial { bit::ON_TRIAL } else { 0 };
    }

    /// The option of the next SYN or SYN,ACK.
    #[inline]
    pub(super) fn fast_option(&self) -> Option<FastOpen> {
        if self.cold.fast & bit::OPTION == 0 { None } else { self.kept_option() }
    }

    #[cold]
    #[inline(never)]
    fn kept_option(&self) -> Option<FastOpen> {
        let mut numbers = self.cold.ooo.runs.iter().flat_map(|run| [run.left.0, run.right.0]);
        let mut bytes = [0; COOKIE_LEN_MAX];
        for word in bytes.as_chunks_mut::<4>().0 {
            *word = numbers.next().unwrap_or(0).to_be_bytes();
        }
        let len = numbers.next().unwrap_or(0) as usize;
        FastOpen::of(bytes.get(..len).unwrap_or(&[]), self.cold.fast & bit::ON_TRIAL != 0)
    }

    /// The first write to a connection whose SYN waits for it. Gives the number of bytes that go with the SYN.
    #[cold]
    pub(super) fn first_write(&mut self, data: &[u8]) -> usize {
        let most = usize::from(self.hot.mss.saturating_sub(OPTIONS_ROOM));
        let n = self.append(data.get(..data.len().min(most)).unwrap_or(data), 3);
        self.cold.fast &= !bit::DEFERRED;
        self.cold.fast |= if n > 0 { bit::WITH_DATA } else { 0 };
        self.set(flag::SEND_SYN);
        self.enqueue(Ring::Control);
        n
    }

    /// May the program send before the handshake is complete?
    pub(super) fn is_early(&self) -> bool {
        self.cold.fast & bit::EARLY != 0
    }

    /// The SYN `cut` with the data that goes with it.
    #[cold]
    pub(super) fn with_first_data(&self, cut: Cut) -> Cut {
        if self.cold.fast & bit::WITH_DATA == 0 {
            return cut;
        }
        let len = self.hot.snd.end.since(cut.seq.plus(1));
        Cut { len, from: self.hot.snd_queue.head, ..cut }
    }

    /// A SYN or SYN,ACK went out. Those that are sent again have neither option nor data (RFC 7413 4.1.3.1).
    #[cold]
    pub(super) fn first_syn_sent(&mut self, sent: &Sent) {
        if self.cold.fast & bit::WITH_DATA != 0 {
            self.hot.snd.nxt = self.hot.snd.nxt.plus(sent.len);
            self.hot.snd_cursor =
                if self.hot.snd.nxt == self.hot.snd.end { FrameIdx::NONE } else { sent.next };
            self.cold.bytes_out = self.cold.bytes_out.wrapping_add(u64::from(sent.len));
            self.cold.fast |= bit::SYN_DATA;
        }
        if self.cold.fast & bit::OPTION != 0 {
            self.cold.ooo.runs.fill(SeqRange::default());
        }
        self.cold.fast &= !(bit::WITH_DATA | bit::OPTION);
    }

    /// Our SYN, which may have had data, or our SYN,ACK, after which there may have been some, was acknowledged.
    #[cold]
    pub(super) fn count_data_after_syn(&mut self) {
        self.hot.snd.una = self.cold.iss.plus(1);
        if self.flight() > 0 {
            self.start_timer();
        }
    }

    /// The rest of the SYN,ACK `seg`: what it says of the data in our SYN, and data of its own (RFC 7413 4.2.1).
    fn take_rest(&mut self, seg: &mut Seg) -> Fate {
        if self.cold.fast & bit::CLIENT == 0 {
            return Fate::Keep;
        }
        let mut fate = Fate::Keep;
        if seg.ack.after(self.hot.snd.una) {
            fate = self.acknowledge(seg);
        } else if self.flight() > 0 {
            // The peer has not taken the data, so they were never sent: they go with the ACK, and that is no congestion.
            let len = self.flight();
            self.hot.snd.nxt = self.hot.snd.una;
            self.hot.snd_cursor = self.hot.snd_queue.head;
            self.hot.rexmit_at = Instant::NEVER;
            self.clear(flag::TAIL_PROBE);
            self.cold.bytes_out = self.cold.bytes_out.wrapping_sub(u64::from(len));
            self.cold.loss.retransmits = self.cold.loss.retransmits.saturating_add(1);
            self.counters.tcp.retransmits = self.counters.tcp.retransmits.wrapping_add(1);
            self.cold.fast &= !bit::SYN_DATA;
            self.enqueue(Ring::Data);
        }
        if fate == Fate::Keep && seg.space() > 1 {
            seg.flags = seg.flags.without(wire::TcpFlags::SYN);
            seg.seq = seg.seq.plus(1);
            fate = self.process_data(seg);
        }
        fate
    }
}
