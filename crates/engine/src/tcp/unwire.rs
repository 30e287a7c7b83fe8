//! Connections that leave a wire for the device beside it, because they are to go where the wire does not lead: to another lane, or to the kernel.
//!
//! Both ends go on with what they have; only the way of their segments changes. The end that wants it says so over the wire ([`ask`], `wire::unwire`),
//! which nobody else can write to, once the segments that come by its device come to its lane. The other end has its own steered likewise ([`poll`]),
//! goes over to its device and sends an ACK by it ([`follow`]); with that ACK the first one goes over, too ([`takes`]). Until then either end
//! goes on over the wire, so whatever is lost of this costs time alone: who asks repeats it.
//!
//! A SYN needs none of this: one that is refused by a wire is sent again by the device ([`syn_goes_over`]), because a wire leads to one lane, and another one, or
//! the kernel, may listen at the same end.
//!
//! Left out: connections whose handshake is not complete otherwise, or that are over, and signed ones.

use ::state::hop::HOP_KNOWN;
use ::state::ports::{PORT_UP, PORT_WIRE};
use ::state::unwire::{UNWIRES, Unwire};
use ::state::{Dormant, DropReason, FlowKey, Hop, LaneMem, PortInfo, RxFrame, TcbHot};
use base::{Idx, Instant, IpAddress, MacAddr};
use wire::{EthFrame, EthHeader, EtherType, UnwireHeader, eth, ipv4, tcp, unwire};

use super::conn::{Conn, Ring, cold_of, conn};
use super::entrust::may_leave;
use super::header::header_frame;
use super::segment::Seg;
use super::table::{self, Whose};
use super::{State, flag, frozen};
use crate::hop::{self, HopMac};
use crate::hop_names;
use crate::ip;
use crate::outbox::{self, Note};
use crate::types::{Leaver, RouteTo, Unwired};

/// [`Unwire::stage`].
mod stage {
    /// Nothing is here.
    pub(super) const FREE: u8 = 0;
    /// The peer was asked: a segment of the connection that comes by the device, `port`, takes it there.
    pub(super) const ASKED: u8 = 1;
    /// The peer asks, over the wire `port`, and the lane does not know it yet.
    pub(super) const TOLD: u8 = 2;
    /// It goes by the device; what still comes by the wire `port` is taken.
    pub(super) const LEFT: u8 = 3;
}

/// Is `port` a wire to another lane?
#[inline]
pub(super) fn is_wire(mem: &LaneMem<'_>, port: u8) -> bool {
    mem.ports.get(Idx::new(port.into())).is_some_and(|port| port.flags & PORT_WIRE != 0)
}

/// The wire by which connection `key` goes, if it can leave it.
pub(crate) fn wire_of(mem: &mut LaneMem<'_>, now: Instant, key: &FlowKey) -> Option<u8> {
    let Whose::Of(at) = table::find_awake(mem, now, key) else { return None };
    let (hot, cold) = (mem.hot.get(at)?, mem.cold.get(cold_of(at))?);
    let leaves = is_wire(mem, hot.port) && may_leave(State::from_raw(hot.state)) && cold.ooo.sign == 0;
    leaves.then_some(hot.port)
}

/// Asks the peer of connection `key`, over the wire, to go on by the device that is our port `device`.
pub(crate) fn ask(mem: &mut LaneMem<'_>, now: Instant, key: &FlowKey, device: u8) -> Unwired {
    let Some(wire) = wire_of(mem, now, key) else { return Unwired::Done };
    let Whose::Of(at) = table::find_awake(mem, now, key) else { return Unwired::Done };
    let Some(info) = mem.ports.get(Idx::new(device.into())) else { return Unwired::Never };
    if info.flags & (PORT_UP | PORT_WIRE) != PORT_UP {
        return Unwired::Never;
    }
    let header = UnwireHeader {
        mac: info.mac,
        mtu: info.mtu,
        local: key.local,
        remote: key.remote,
        local_port: key.local_port,
        remote_port: key.remote_port,
    };
    if put(mem, at, (stage::ASKED, device), (MacAddr::default(), u16::MAX)) {
        tell(mem, at, wire, &header);
    }
    Unwired::Asked
}

/// Sends `header` over the wire of `at`. What cannot be sent now is said again.
fn tell(mem: &mut LaneMem<'_>, at: Idx<TcbHot>, port: u8, header: &UnwireHeader) {
    let hop = mem.hot.get(at).and_then(|hot| mem.hops.get(hot.hop)).filter(|hop| hop.state == HOP_KNOWN);
    let Some(dst) = hop.map(|hop| hop.mac) else { return };
    let Some(src) = mem.ports.get(Idx::new(port.into())).map(|info| info.mac) else { return };
    let Some(head) = header_frame(&mut mem.frames) else { return };
    let ethernet = EthHeader { dst, src, ethertype: EtherType::LOCAL };
    let data = mem.frames.data_mut(head);
    let written = data
        .split_at_mut_checked(eth::HEADER_LEN)
        .is_some_and(|(front, rest)| ethernet.emit(front).is_ok() && header.emit(rest).is_ok());
    if !written {
        mem.frames.release(head);
        return;
    }
    if let Some(meta) = mem.frames.meta_mut(head) {
        meta.len = (eth::HEADER_LEN + unwire::FRAME_LEN) as u16;
    }
    outbox::push(mem, head, &Note::plain(port));
}

/// A frame of [`ask`]'s came in.
pub(crate) fn told(mem: &mut LaneMem<'_>, now: Instant, rx: &RxFrame) {
    let said = EthFrame::parse(mem.frames.data(rx.head))
        .ok()
        .and_then(|eth| UnwireHeader::parse(eth.payload()).ok());
    mem.frames.release_chain(rx.head);
    let Some(said) = said.filter(|_| is_wire(mem, rx.port)) else {
        mem.counters.drop_packet(DropReason::EthUnknownType);
        return;
    };
    let key = FlowKey {
        local: said.remote,
        remote: said.local,
        local_port: said.remote_port,
        remote_port: said.local_port,
    };
    if wire_of(mem, now, &key) == Some(rx.port) {
        if let Whose::Of(at) = table::find_awake(mem, now, &key)
            // Who asks, too, has all its segments steered already.
            && put(mem, at, (stage::TOLD, rx.port), (said.mac, said.mtu))
        {
            mem.globals.tcp.unwires.told = count_told(mem);
        }
        return;
    }
    // It goes by the device, and the peer has not heard of it.
    if let Whose::Of(at) = table::find_awake(mem, now, &key)
        && find(mem, at, |row| row.stage == stage::LEFT && row.port == rx.port).is_some()
    {
        answer(mem, now, at);
    }
}

/// The next connection whose peer would have it go by the device.
pub(crate) fn poll(mem: &mut LaneMem<'_>) -> Option<Leaver> {
    while mem.globals.tcp.unwires.told > 0 {
        let rows = mem.globals.tcp.unwires.rows.iter();
        let Some(n) = rows.clone().position(|row| row.stage == stage::TOLD) else {
            mem.globals.tcp.unwires.told = 0;
            break;
        };
        mem.globals.tcp.unwires.told -= 1;
        let row = mem.globals.tcp.unwires.rows.get_mut(n)?;
        let row = core::mem::take(row);
        if is_that_of(mem, &row, row.row)
            && let Some(hot) = mem.hot.get(row.row)
        {
            return Some(Leaver { flow: hot.key, wire: row.port, mac: row.mac, mtu: row.mtu });
        }
    }
    None
}

/// Goes over to the device that is our port `device`, as the peer of `leaver` asked. False: its connection goes by that wire no more, or there is no room.
pub(crate) fn follow(mem: &mut LaneMem<'_>, now: Instant, leaver: &Leaver, device: u8) -> bool {
    if wire_of(mem, now, &leaver.flow) != Some(leaver.wire) || is_wire(mem, device) {
        return false;
    }
    let Whose::Of(at) = table::find_awake(mem, now, &leaver.flow) else { return false };
    go_over(mem, now, at, (device, leaver.mac, leaver.mtu)) && put_left(mem, at, leaver.wire)
}

/// Is `seg`, which came by another way than that of connection `at`, to be taken all the same? It takes the connection to the device, if it comes by that.
pub(super) fn takes(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>, seg: &Seg) -> bool {
    let Some(row) = find(mem, at, |row| row.port == seg.port) else { return false };
    if row.stage == stage::LEFT {
        // Where the connection has moved on from, a late segment is answered with a RST; a connection's own has an ACK, too.
        if seg.flags.is_rst() && !seg.flags.is_ack() {
            return false;
        }
        answer(mem, now, at);
        return true;
    }
    let Some(c) = conn(mem, now, at) else { return false };
    let wire = c.hot.port;
    // As the peer follows, it acknowledges what it has of us. Nobody who sees neither wire nor device knows the numbers (RFC 5961 5.2).
    let known = seg.flags.is_ack()
        && seg.ack.at_or_before(c.hot.snd.nxt)
        && seg.seq.since(c.hot.rcv.nxt) <= c.rcv_wnd().max(1)
        && c.hot.snd.nxt.since(seg.ack) <= c.hot.snd.wnd_max.max(1);
    row.stage == stage::ASKED
        && !seg.src_mac.is_multicast()
        && known
        && go_over(mem, now, at, (seg.port, seg.src_mac, u16::MAX))
        && put_left(mem, at, wire)
}

/// Connection `at` goes by port `device` to `mac` from now on; says so by an ACK.
fn go_over(
    mem: &mut LaneMem<'_>,
    now: Instant,
    at: Idx<TcbHot>,
    (device, mac, mtu): (u8, MacAddr, u16),
) -> bool {
    let Some(own) = mem.ports.get(Idx::new(device.into())).map(|info| info.mtu) else { return false };
    let Some(peer) = mem.hot.get(at).map(|hot| hot.key.remote) else { return false };
    let Some(hop) = hop_names::for_source(mem, now, (device, mac), peer) else { return false };
    let Some(mut c) = by_way(mem, now, at, (hop, device, own.min(mtu))) else { return false };
    c.kick();
    answer(mem, now, at);
    true
}

/// Connection `at` goes by `hop` of `route`, of which it gets the caller's reference, from now on.
pub(crate) fn go_by(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>, hop: Idx<Hop>, route: &RouteTo) {
    let own = mem.ports.get(Idx::new(route.port.into())).map_or(route.mtu, |info| info.mtu);
    if let Some(mut c) = by_way(mem, now, at, (hop, route.port, route.mtu_from(own))) {
        c.go_on();
    }
}

/// Has a row a connection that goes somewhere?
pub(crate) fn is_open(hot: &TcbHot) -> bool {
    hot.flags & flag::HELD != 0 && State::from_raw(hot.state) != State::Closed
}

/// The next hop and the peer of the connection with the small row `at`.
pub(crate) fn way_of_small(mem: &LaneMem<'_>, at: Idx<Dormant>) -> Option<(Idx<Hop>, IpAddress)> {
    let row = mem.dormant.get(at).filter(|row| row.handle != u32::MAX)?;
    Some((Idx::new(u32::from(row.hop)), frozen::key_of(row).remote))
}

/// [`go_by`] for a connection with a small row: those limit no segments.
pub(crate) fn go_by_small(mem: &mut LaneMem<'_>, at: Idx<Dormant>, hop: Idx<Hop>) {
    let (Ok(raw), Some(row)) = (u16::try_from(hop.raw()), mem.dormant.get_mut(at)) else {
        return hop::release(mem, hop);
    };
    let before = core::mem::replace(&mut row.hop, raw);
    hop::release(mem, Idx::new(u32::from(before)));
}

impl Conn<'_, '_> {
    /// What waited for the way may go.
    pub(super) fn go_on(&mut self) {
        if self.any(flag::SEND_SYN | flag::SEND_PROBE) {
            self.enqueue(Ring::Control);
        }
        if self.any(flag::ACK_NOW) {
            self.enqueue(Ring::Ack);
        }
        self.kick();
    }
}

/// Connection `at`, which waits for no Ethernet address, goes by `hop` of the same port from now on.
pub(crate) fn change_hop(mem: &mut LaneMem<'_>, at: Idx<TcbHot>, hop: Idx<Hop>) {
    table::leave_hop(mem, at);
    hop::retain(mem, hop);
    if let Some(hot) = mem.hot.get_mut(at) {
        hot.hop = hop;
    }
}

/// Connection `at`, which goes by port `device` and `hop` from now on. `mtu`: of that way.
fn by_way<'m, 'a>(
    mem: &'m mut LaneMem<'a>,
    now: Instant,
    at: Idx<TcbHot>,
    (hop, device, mtu): (Idx<Hop>, u8, u16),
) -> Option<Conn<'m, 'a>> {
    table::leave_hop(mem, at);
    let c = conn(mem, now, at)?;
    (c.hot.hop, c.hot.port) = (hop, device);
    // RFC 9293 3.7.1: what the way takes, from the layer below, limits a segment, whatever was announced.
    let headers = ip::headers(c.hot.key.remote) - eth::HEADER_LEN + tcp::HEADER_LEN;
    c.cold.mss_local = c.cold.mss_local.min(mtu.saturating_sub(headers as u16)).max(super::MSS_MIN);
    c.hot.mss = c.hot.mss.min(c.mss_of_links());
    Some(c)
}

/// The wire by which connection `at`, in SYN-SENT, goes has refused it, or is gone: its SYN is sent again, by the device beside the wire, and what that says
/// counts. False: it goes by no wire, or there is no device.
pub(super) fn syn_goes_over(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>) -> bool {
    let Some((port, next_hop)) = mem.hot.get(at).map(|hot| (hot.port, hot.key.remote)) else { return false };
    let of = |port: u8| mem.ports.get(Idx::new(port.into()));
    let wire = of(port).filter(|info| info.flags & PORT_WIRE != 0);
    let Some(device) = wire.and_then(PortInfo::device_beside) else { return false };
    let Some(info) = of(device).filter(|info| info.flags & (PORT_UP | PORT_WIRE) == PORT_UP) else {
        return false;
    };
    // A wire beside a device leads to a neighbour there.
    let (local_mac, mtu) = (info.mac, info.mtu);
    let route = RouteTo { port: device, next_hop, local_mac, mac: None, mtu };
    let Some(hop) = hop::for_route(mem, now, &route) else { return false };
    if hop::mac(mem, hop) == HopMac::Failed {
        hop::release(mem, hop);
        return false;
    }
    let Some(mut c) = by_way(mem, now, at, (hop, device, mtu)) else { return false };
    c.cold.loss.backoff = 0;
    // The way is another one: its first SYN was not sent twice.
    c.clear(flag::TIMING);
    c.set(flag::SEND_SYN);
    c.enqueue(Ring::Control);
    true
}

/// The wire at index `port` is about to go: connections that have had no answer by it are asked for by the device beside it.
pub(crate) fn syns_go_over(mem: &mut LaneMem<'_>, now: Instant, port: u8) {
    for at in (0..mem.hot.len()).map(Idx::new) {
        let opens = |hot: &TcbHot| {
            hot.port == port && hot.flags & flag::HELD != 0 && State::from_raw(hot.state) == State::SynSent
        };
        if mem.hot.get(at).is_some_and(opens) {
            syn_goes_over(mem, now, at);
        }
    }
}

/// An ACK by the way that `at` has.
fn answer(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>) {
    if let Some(mut c) = conn(mem, now, at) {
        c.set(flag::ACK_NOW);
        c.enqueue(Ring::Ack);
    }
}

/// Is `at` still the connection of `row`?
fn is_that_of(mem: &LaneMem<'_>, row: &Unwire, at: Idx<TcbHot>) -> bool {
    let (Some(hot), Some(cold)) = (mem.hot.get(at), mem.cold.get(cold_of(at))) else { return false };
    row.stage != stage::FREE && row.row == at && is_open(hot) && row.iss == cold.iss
}

/// The row of connection `at` that `is` the one meant.
fn find(mem: &LaneMem<'_>, at: Idx<TcbHot>, is: impl Fn(&Unwire) -> bool) -> Option<Unwire> {
    let all = &mem.globals.tcp.unwires;
    let used = all.rows.iter().take(all.used as usize);
    used.copied().find(|row| row.row == at && is(row) && is_that_of(mem, row, at))
}

/// Has connection `at` asked its peer, and not heard of it yet?
pub(super) fn is_under_way(mem: &LaneMem<'_>, at: Idx<TcbHot>) -> bool {
    find(mem, at, |row| row.stage == stage::ASKED).is_some()
}

fn put_left(mem: &mut LaneMem<'_>, at: Idx<TcbHot>, wire: u8) -> bool {
    forget(mem, |row| row.row == at);
    // Without a row, what still comes by the wire is lost and sent again.
    put(mem, at, (stage::LEFT, wire), (MacAddr::default(), u16::MAX));
    true
}

/// Notes how far connection `at` is. False: there is no row for it.
fn put(mem: &mut LaneMem<'_>, at: Idx<TcbHot>, (stage, port): (u8, u8), (mac, mtu): (MacAddr, u16)) -> bool {
    let Some(iss) = mem.cold.get(cold_of(at)).map(|cold| cold.iss) else { return false };
    let Some(n) = place(mem, at, stage) else { return false };
    let all = &mut mem.globals.tcp.unwires;
    all.used = all.used.max(n as u32 + 1);
    let Some(row) = all.rows.get_mut(n) else { return false };
    *row = Unwire { row: at, iss, mac, mtu, stage, port, spare: 0 };
    true
}

/// The row that connection `at` has at `stage`, or a free one, or one of a connection that is over there for longest.
fn place(mem: &mut LaneMem<'_>, at: Idx<TcbHot>, stage: u8) -> Option<usize> {
    let rows = mem.globals.tcp.unwires.rows;
    let mine = rows.iter().position(|row| row.stage == stage && is_that_of(mem, row, at));
    let free = || rows.iter().position(|row| !is_that_of(mem, row, row.row));
    if let Some(n) = mine.or_else(free) {
        return Some(n);
    }
    let turn = mem.globals.tcp.unwires.turn as usize;
    let n = (0..UNWIRES)
        .map(|n| (turn + n) % UNWIRES)
        .find(|n| rows.get(*n).is_some_and(|r| r.stage == stage::LEFT))?;
    mem.globals.tcp.unwires.turn = n as u32 + 1;
    Some(n)
}

fn count_told(mem: &LaneMem<'_>) -> u32 {
    mem.globals.tcp.unwires.rows.iter().filter(|row| row.stage == stage::TOLD).count() as u32
}

/// Forgets those rows of which `which` says so.
fn forget(mem: &mut LaneMem<'_>, which: impl Fn(&Unwire) -> bool) {
    for row in &mut mem.globals.tcp.unwires.rows {
        if which(row) {
            *row = Unwire::default();
        }
    }
    mem.globals.tcp.unwires.told = count_told(mem);
}

/// The wire at index `port` is gone; another one may get the index. A peer whose connection left it by our end alone may have said over it that it ends, or is gone with it:
/// a probe by the device says whether it is there (RFC 9293 3.8.4).
pub(super) fn drop_port(mem: &mut LaneMem<'_>, now: Instant, port: u8) {
    for n in 0..mem.globals.tcp.unwires.used as usize {
        let left = |row: &Unwire| row.stage == stage::LEFT && row.port == port;
        let Some(row) = mem.globals.tcp.unwires.rows.get(n).copied().filter(left) else { continue };
        if is_that_of(mem, &row, row.row)
            && let Some(mut c) = conn(mem, now, row.row)
        {
            c.probe();
        }
    }
    forget(mem, |row| row.port == port && row.stage != stage::FREE);
}

const _: () = assert!(eth::HEADER_LEN + unwire::FRAME_LEN <= ip::HEADERS_MAX + ipv4::HEADER_LEN);
