//! What holds of every connection between two steps of its lane, and how to see that it does not. For the simulator's oracles, and for
//! who looks at a lane whose holder died.
//!
//! Leaves out what a row alone cannot show: arcs between states, edges that may not move back (the simulator remembers those).

use ::state::dormant::{DORMANT, HALF_OPEN};
use ::state::{BOARD_RANGES, LaneMem, RCV_SACKS, SeqRange, TcbCold, TcbHot};
use base::{FrameIdx, Idx, Instant, SeqNum};

use super::conn::cold_of;
use super::{State, cc_flag, flag, half_open, table};

/// What does not hold, and of which row of the connections' table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The row.
    pub row: u32,
    /// What.
    pub what: &'static str,
}

/// Looks at every connection; `deep`: at its queues too, frame by frame.
pub(crate) fn audit(mem: &LaneMem<'_>, deep: bool) -> Result<(), Finding> {
    let mut used = 0;
    for row in 0..mem.hot.len() {
        let at = Idx::new(row);
        let (Some(hot), Some(cold)) = (mem.hot.get(at), mem.cold.get(cold_of(at))) else { continue };
        let state = State::from_raw(hot.state);
        used += u32::from(state != State::Closed || hot.flags & flag::HELD != 0);
        if state == State::Closed {
            continue;
        }
        let found = numbers(hot, state)
            .or_else(|| out_of_order(hot, cold))
            .or_else(|| board(mem, hot, cold))
            .or_else(|| urgent(mem, row, hot, cold))
            .or_else(|| timers(mem, row, hot, cold, state))
            .or_else(|| if deep { queues(mem, hot) } else { None });
        if let Some(what) = found {
            return Err(Finding { row, what });
        }
    }
    if used > mem.globals.tcp.used {
        return Err(Finding { row: u32::MAX, what: "more rows are in use than are counted" });
    }
    if let Some(what) = half_open_rows(mem) {
        return Err(Finding { row: u32::MAX, what });
    }
    rings(mem)
}

/// What does not hold of the half-open connections in small rows, if anything.
fn half_open_rows(mem: &LaneMem<'_>) -> Option<&'static str> {
    let mut found = 0;
    for listener in (0..mem.listeners.len()).map(Idx::new) {
        let queue = mem.listeners.get(listener)?.half_open;
        let mut count = 0;
        for (at, key) in half_open::members(mem, listener) {
            let row = mem.dormant.get(at)?;
            count += 1;
            if row.handle != HALF_OPEN || half_open::listener_of(row) != listener {
                return Some("what is in a listener's list of half-open connections is none of its own");
            }
            if table::value_of(mem, &key) != Some(DORMANT | at.raw()) {
                return Some("a half-open connection is not found by its four numbers");
            }
            if mem.dormant_wheel.deadline(at.raw()).is_none() {
                return Some("a half-open connection has no timer");
            }
        }
        if count != queue.len {
            return Some("a listener has not as many half-open connections as it counts");
        }
        found += count;
    }
    (found != mem.globals.dormant.half_open).then_some("half-open connections are not as many as counted")
}

/// RFC 9293 3.3.1, figures 3 and 4.
fn numbers(hot: &TcbHot, state: State) -> Option<&'static str> {
    let (snd, rcv) = (&hot.snd, &hot.rcv);
    if snd.una.after(snd.nxt) {
        return Some("SND.UNA is beyond SND.NXT");
    }
    let fin = u32::from(hot.flags & flag::FIN_SENT != 0);
    if state.is_synchronized() && snd.nxt.after(snd.end.plus(fin)) {
        return Some("SND.NXT is beyond what was queued");
    }
    if state.is_synchronized() && rcv.nxt.after(rcv.edge.plus(1)) {
        return Some("RCV.NXT is beyond the window that was announced");
    }
    if hot.mss == 0 && state.is_synchronized() {
        return Some("segments have no room for data");
    }
    None
}

/// Runs are ascending, apart and inside `from` .. `to`; gives their bytes.
fn bytes_between(runs: &[SeqRange], from: SeqNum, to: SeqNum) -> Option<u32> {
    let mut last = from;
    let mut bytes = 0_u32;
    for run in runs {
        if run.left.before(last) || !run.left.before(run.right) || run.right.after(to) {
            return None;
        }
        bytes = bytes.saturating_add(run.right.since(run.left));
        last = run.right;
    }
    Some(bytes)
}

fn board(mem: &LaneMem<'_>, hot: &TcbHot, cold: &TcbCold) -> Option<&'static str> {
    let board = mem.boards.get(cold.board)?;
    let Some(runs) = board.ranges.get(..board.count as usize).filter(|r| r.len() <= BOARD_RANGES) else {
        return Some("the scoreboard holds more runs than it can");
    };
    match bytes_between(runs, hot.snd.una, hot.snd.nxt) {
        None => Some("the scoreboard's runs are not in order between SND.UNA and SND.NXT"),
        Some(bytes) if bytes != board.bytes => Some("the scoreboard counts other bytes than its runs have"),
        Some(_) => None,
    }
}

fn urgent(mem: &LaneMem<'_>, row: u32, hot: &TcbHot, cold: &TcbCold) -> Option<&'static str> {
    if cold.ooo.urgent != 0 && hot.flags & flag::SPECIAL == 0 {
        return Some("urgent data go the short way");
    }
    let up = mem.urgent.get(Idx::new(row))?.snd_up;
    if cold.ooo.urgent & super::urgent::bit::OUT != 0
        && !(up.after(hot.snd.una) && up.at_or_before(hot.snd.end))
    {
        return Some("SND.UP is not between SND.UNA and what was queued");
    }
    None
}

fn out_of_order(hot: &TcbHot, cold: &TcbCold) -> Option<&'static str> {
    let ooo = &cold.ooo;
    let Some(runs) = ooo.runs.get(..usize::from(ooo.run_count)).filter(|r| r.len() <= RCV_SACKS) else {
        return Some("more runs are remembered than can be");
    };
    if runs.iter().any(|r| !r.left.after(hot.rcv.nxt) || !r.left.before(r.right)) {
        return Some("a run that came out of order is not beyond RCV.NXT");
    }
    if hot.ooo_head.is_none() != (ooo.frames == 0) {
        return Some("the queue of what came out of order is not as long as counted");
    }
    None
}

/// Whatever is owed has somebody who will see to it: a timer, or a ring that the next transmission empties.
fn timers(mem: &LaneMem<'_>, row: u32, hot: &TcbHot, cold: &TcbCold, state: State) -> Option<&'static str> {
    let any = |flags: u32| hot.flags & flags != 0;
    let timed = hot.rexmit_at != Instant::NEVER;
    let waits = any(flag::RING_CONTROL | flag::RING_DATA | flag::WAITS_FOR_HOP);
    if hot.snd.una != hot.snd.nxt && !timed && !waits {
        return Some("something is in flight and no timer runs");
    }
    if state == State::TimeWait && !timed {
        return Some("TIME-WAIT has no end");
    }
    let fin_due = hot.flags & (flag::FIN_QUEUED | flag::FIN_SENT) == flag::FIN_QUEUED;
    let due =
        state.is_synchronized() && state != State::TimeWait && (hot.snd.end.after(hot.snd.nxt) || fin_due);
    // What waits for its time to be sent has no deadline of its own, only the wheel's.
    let paced = cold.cc_flags & cc_flag::PACED != 0 || cold.options.pacing_limit != 0;
    let paced = paced && hot.armed_at != Instant::NEVER && mem.wheel.deadline(row).is_some();
    if due && !timed && !waits && !paced {
        return Some("something is to be sent and nothing will send it");
    }
    if any(flag::ACK_NOW) && !waits && !any(flag::RING_ACK) {
        return Some("an ACK is owed and nothing will send it");
    }
    let mut first = hot.rexmit_at.min(hot.ack_at);
    if any(flag::IDLE_TIMER) {
        first = first.min(cold.idle_at);
    }
    if first == Instant::NEVER {
        return None;
    }
    if hot.armed_at > first {
        return Some("the earliest deadline is before the moment the wheel is armed for");
    }
    if mem.wheel.deadline(row).is_none() {
        return Some("a deadline is set and the wheel has no entry");
    }
    None
}

/// The send queue covers SND.UNA .. SND.END without a gap; the receive queue holds as many bytes as counted.
fn queues(mem: &LaneMem<'_>, hot: &TcbHot) -> Option<&'static str> {
    let mut at = hot.snd_queue.head;
    let mut end: Option<SeqNum> = None;
    let mut tail = FrameIdx::NONE;
    for _ in 0..mem.frames.count() {
        let Some(meta) = mem.frames.meta(at) else { break };
        if end.is_some_and(|end| end != SeqNum(meta.seq)) {
            return Some("the send queue has a gap");
        }
        end = Some(SeqNum(meta.seq).plus(u32::from(meta.len)));
        tail = at;
        at = meta.next;
    }
    if tail != hot.snd_queue.tail || end.is_some_and(|end| end != hot.snd.end) {
        return Some("the send queue does not end where SND.END is");
    }
    let mut at = hot.rcv_queue.head;
    let mut bytes = 0_u32;
    for _ in 0..mem.frames.count() {
        let Some(meta) = mem.frames.meta(at) else { break };
        bytes = bytes.saturating_add(u32::from(meta.len));
        at = meta.next;
    }
    if bytes != hot.rcv_bytes { Some("the receive queue does not hold what is counted") } else { None }
}

/// Each ring has as many entries as rows say that they are in it.
fn rings(mem: &LaneMem<'_>) -> Result<(), Finding> {
    let flags = [flag::RING_CONTROL, flag::RING_ACK, flag::RING_DATA];
    for (ring, flag) in mem.globals.tcp.rings.iter().zip(flags) {
        let marked = mem.hot.rows().iter().filter(|h| h.flags & flag != 0).count() as u32;
        if ring.tail.wrapping_sub(ring.head) != marked {
            return Err(Finding {
                row: u32::MAX,
                what: "a ring of those who have something to send has lost count",
            });
        }
    }
    Ok(())
}
