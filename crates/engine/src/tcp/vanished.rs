//! Peers that may be gone without a word: whoever looked after them was killed.

use ::state::dormant::{HALF_OPEN, NAMELESS};
use ::state::{Dormant, LaneMem, TcbHot};
use base::{Idx, Instant, IpAddress};

use super::conn::conn;
use super::{State, flag, frozen, hibernate, unwire};

/// Asks every connection to `peer` that goes by a device whether its peer still has it, by a probe (RFC 9293 3.8.4): a host that has not answers with a RST. Gives how many were
/// asked; a hibernating one for which no row can be had is not.
pub(crate) fn probe(mem: &mut LaneMem<'_>, now: Instant, peer: IpAddress) -> u32 {
    let mut asked = 0;
    // Neither what is over nor what is not open yet has anything to ask.
    let sleeps = |row: &Dormant| !matches!(row.handle, u32::MAX | NAMELESS | HALF_OPEN);
    for raw in 0..mem.globals.dormant.fresh.min(mem.dormant.len()) {
        let small = Idx::new(raw);
        // Asked at once: a row that has something to send is not taken for the next one that wakes.
        if mem.dormant.get(small).is_some_and(|row| sleeps(row) && frozen::key_of(row).remote == peer)
            && let Some(at) = hibernate::wake(mem, now, small)
        {
            asked += u32::from(ask(mem, now, at));
        }
    }
    for raw in 0..mem.hot.len() {
        let at = Idx::new(raw);
        if mem.hot.get(at).is_some_and(|hot| hot.key.remote == peer && unwire::is_open(hot)) {
            asked += u32::from(ask(mem, now, at));
        }
    }
    asked
}

/// False: it goes by a wire, whose end says enough, is asked already, or has no numbers to ask with.
fn ask(mem: &mut LaneMem<'_>, now: Instant, at: Idx<TcbHot>) -> bool {
    if mem.hot.get(at).is_none_or(|hot| unwire::is_wire(mem, hot.port)) {
        return false;
    }
    let Some(mut c) = conn(mem, now, at) else { return false };
    let state = State::from_raw(c.hot.state);
    if !state.is_synchronized() || state == State::TimeWait || c.any(flag::SEND_PROBE) {
        return false;
    }
    c.probe();
    true
}
