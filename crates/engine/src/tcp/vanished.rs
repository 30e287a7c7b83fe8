//! Peers that may be gone without a word: whoever looked after them was killed.

use ::state::{FlowKey, LaneMem, TcbHot};
use base::{Idx, Instant, IpAddress};

use super::conn::{Ring, conn};
use super::table::{self, Whose};
use super::{State, flag, frozen, unwire};

/// Asks every connection to `peer` that goes by a device whether its peer still has it, by a probe (RFC 9293 3.8.4): a host that has not answers with a RST. Gives how many were
/// asked; a hibernating one for which no row can be had is not.
pub(crate) fn probe(mem: &mut LaneMem<'_>, now: Instant, peer: IpAddress) -> u32 {
    let mut asked = 0;
    for raw in 0..mem.globals.dormant.fresh.min(mem.dormant.len()) {
        let Some(row) = mem.dormant.get(Idx::new(raw)) else { break };
        if row.handle == u32::MAX {
            continue;
        }
        let key: FlowKey = frozen::key_of(row);
        if key.remote == peer
            && let Whose::Of(at) = table::find_awake(mem, now, &key)
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
    c.set(flag::SEND_PROBE);
    c.enqueue(Ring::Control);
    true
}
