//! What holds of every connection after every step of its host, the past included.
//!
//! [`Engine::audit`] says what one moment shows; this remembers the moment before: arcs between states are legal (RFC 9293 3.3.2), sequence
//! numbers and the receive window's right edge never go back (3.8.6), nothing is stuck for longer than time-outs allow.

use base::{Duration, Idx, Instant, SeqNum};
use engine::{Cause, Engine, State};
use state::FlowKey;

/// Time without any progress after which a connection that has something in flight should have given up: fifteen time-outs, from one
/// second to two minutes (RFC 9293 3.8.3, R2), and half as much again.
const STUCK: Duration = Duration::from_secs(2000);
/// The same while it opens: six time-outs from one second on, or as many as the program wants.
const STUCK_OPENING: Duration = Duration::from_secs(200);
/// Steps between two looks into the queues.
const DEEP_EVERY: u32 = 8;

/// A connection as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Seen {
    key: FlowKey,
    generation: u32,
    iss: SeqNum,
    state: State,
    una: SeqNum,
    nxt: SeqNum,
    rcv_nxt: SeqNum,
    edge: SeqNum,
    /// Since when nothing of this has changed.
    since: Instant,
}

/// Remembers one host.
#[derive(Default)]
pub(crate) struct Oracle {
    rows: Vec<Option<Seen>>,
    steps: u32,
}

impl Oracle {
    /// Looks at the host after a step.
    pub(crate) fn look(&mut self, e: &mut Engine<'_>, now: Instant) -> Result<(), String> {
        self.steps = self.steps.wrapping_add(1);
        let deep = self.steps.is_multiple_of(DEEP_EVERY);
        if let Err(found) = e.audit(deep) {
            let row =
                e.mem().hot.get(Idx::new(found.row)).map_or_else(String::new, |row| format!("\n  {row:?}"));
            return Err(format!("row {}: {}{row}", found.row, found.what));
        }
        let mem = e.mem();
        self.rows.resize(mem.hot.len() as usize, None);
        for (number, before) in self.rows.iter_mut().enumerate() {
            let at = number as u32;
            let (Some(hot), Some(cold)) = (mem.hot.get(Idx::new(at)), mem.cold.get(Idx::new(at))) else {
                continue;
            };
            let state = State::from_raw(hot.state);
            if state == State::Closed {
                *before = None;
                continue;
            }
            let mut after = Seen {
                key: hot.key,
                generation: hot.generation,
                iss: cold.iss,
                state,
                una: hot.snd.una,
                nxt: hot.snd.nxt,
                rcv_nxt: hot.rcv.nxt,
                edge: hot.rcv.edge,
                since: now,
            };
            if let Some(before) = before {
                after.since = before.since;
                if after != *before {
                    after.since = now;
                }
                compare(before, &after).map_err(|what| format!("row {at}: {what}"))?;
            }
            stuck(&after, now).map_err(|what| format!("row {at}: {what}"))?;
            *before = Some(after);
        }
        Ok(())
    }
}

fn compare(before: &Seen, after: &Seen) -> Result<(), String> {
    let same = before.key == after.key && before.generation == after.generation && before.iss == after.iss;
    if !same {
        return Ok(());
    }
    if !leads_to(before.state, after.state) {
        return Err(format!("went from {:?} to {:?}", before.state, after.state));
    }
    if !before.state.is_synchronized() {
        return Ok(());
    }
    let back = |name: &str, a: SeqNum, b: SeqNum| {
        if b.before(a) { Err(format!("{name} went back from {a:?} to {b:?}")) } else { Ok(()) }
    };
    back("SND.UNA", before.una, after.una)?;
    back("SND.NXT", before.nxt, after.nxt)?;
    back("RCV.NXT", before.rcv_nxt, after.rcv_nxt)?;
    back("the receive window's right edge", before.edge, after.edge)
}

/// Is there a way of legal arcs, as long as may be gone in one step?
fn leads_to(from: State, to: State) -> bool {
    const CAUSES: [Cause; 8] = [
        Cause::RecvSyn,
        Cause::RecvSynAck,
        Cause::RecvAckOfSyn,
        Cause::Close,
        Cause::RecvFin,
        Cause::AckOfFin,
        Cause::TimeWaitOver,
        Cause::Abort,
    ];
    let mut reached = vec![from];
    let mut next = 0;
    while let Some(state) = reached.get(next).copied() {
        next += 1;
        if state == to {
            return true;
        }
        for after in CAUSES.iter().filter_map(|cause| state.after(*cause)) {
            if !reached.contains(&after) && after != State::Closed {
                reached.push(after);
            }
        }
    }
    false
}

fn stuck(seen: &Seen, now: Instant) -> Result<(), String> {
    let limit = if seen.state.is_synchronized() { STUCK } else { STUCK_OPENING };
    let still = now.since(seen.since);
    if seen.una != seen.nxt && still > limit {
        return Err(format!("in {:?} without progress for {} s", seen.state, still.as_millis() / 1000));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        Seen {
            key: FlowKey::NONE,
            generation: 1,
            iss: SeqNum(0xffff_ff00),
            state: State::Established,
            una: SeqNum(0xffff_fff0),
            nxt: SeqNum(5000),
            rcv_nxt: SeqNum(100),
            edge: SeqNum(65_635),
            since: Instant(0),
        }
    }

    #[test]
    fn numbers_go_forward_over_the_wrap_and_any_that_goes_back_is_noticed() {
        let good = Seen { una: SeqNum(10), nxt: SeqNum(6000), edge: SeqNum(70_000), ..seen() };
        assert_eq!(compare(&seen(), &good), Ok(()));
        let bad = [
            Seen { una: SeqNum(0xffff_ffef), ..seen() },
            Seen { nxt: SeqNum(4999), ..seen() },
            Seen { rcv_nxt: SeqNum(99), ..seen() },
            Seen { edge: SeqNum(65_634), ..seen() },
        ];
        for (after, what) in bad.iter().zip(["SND.UNA", "SND.NXT", "RCV.NXT", "the receive window"]) {
            assert!(compare(&seen(), after).is_err_and(|why| why.starts_with(what)), "{what}");
        }
        // Another connection in the same row is another matter.
        assert_eq!(
            compare(&seen(), &Seen { generation: 2, una: SeqNum(1), nxt: SeqNum(2), ..seen() }),
            Ok(())
        );
    }

    #[test]
    fn an_illegal_arc_is_noticed_and_a_short_way_of_legal_ones_is_not() {
        assert!(leads_to(State::Established, State::TimeWait));
        assert!(leads_to(State::SynSent, State::Established) && leads_to(State::FinWait1, State::FinWait1));
        for (from, to) in [
            (State::TimeWait, State::Established),
            (State::CloseWait, State::FinWait1),
            (State::FinWait2, State::CloseWait),
            (State::LastAck, State::TimeWait),
            (State::Established, State::SynRcvd),
        ] {
            assert!(!leads_to(from, to), "{from:?} to {to:?}");
            let (before, after) = (Seen { state: from, ..seen() }, Seen { state: to, ..seen() });
            assert!(compare(&before, &after).is_err());
        }
    }

    #[test]
    fn a_connection_that_never_gives_up_is_noticed() {
        let at = |s| Instant(0).plus(Duration::from_secs(s));
        assert!(stuck(&seen(), at(1900)).is_ok() && stuck(&seen(), at(2001)).is_err());
        let opening = Seen { state: State::SynSent, ..seen() };
        assert!(stuck(&opening, at(190)).is_ok() && stuck(&opening, at(201)).is_err());
        assert!(stuck(&Seen { una: SeqNum(5000), ..seen() }, at(100_000)).is_ok());
    }
}
