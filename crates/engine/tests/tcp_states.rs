//! The whole table of states (RFC 9293 3.3.2, figure 5): every arc, and nothing else.

use engine::{Cause, State};

const CAUSES: [Cause; 10] = [
    Cause::PassiveOpen,
    Cause::ActiveOpen,
    Cause::RecvSyn,
    Cause::RecvSynAck,
    Cause::RecvAckOfSyn,
    Cause::Close,
    Cause::RecvFin,
    Cause::AckOfFin,
    Cause::TimeWaitOver,
    Cause::Abort,
];

const TABLE: &str = "\
Closed PassiveOpen -> Listen
Closed ActiveOpen -> SynSent
Listen ActiveOpen -> SynSent
Listen RecvSyn -> SynRcvd
Listen Close -> Closed
Listen Abort -> Closed
SynSent RecvSyn -> SynRcvd
SynSent RecvSynAck -> Established
SynSent Close -> Closed
SynSent Abort -> Closed
SynRcvd RecvAckOfSyn -> Established
SynRcvd Close -> FinWait1
SynRcvd RecvFin -> CloseWait
SynRcvd Abort -> Closed
Established Close -> FinWait1
Established RecvFin -> CloseWait
Established Abort -> Closed
FinWait1 RecvFin -> Closing
FinWait1 AckOfFin -> FinWait2
FinWait1 Abort -> Closed
FinWait2 RecvFin -> TimeWait
FinWait2 Abort -> Closed
CloseWait Close -> LastAck
CloseWait Abort -> Closed
Closing AckOfFin -> TimeWait
Closing Abort -> Closed
LastAck AckOfFin -> Closed
LastAck Abort -> Closed
TimeWait TimeWaitOver -> Closed
TimeWait Abort -> Closed
";

#[test]
fn the_table_of_states_is_that_of_rfc_9293() {
    let mut table = String::new();
    for state in State::ALL {
        for cause in CAUSES {
            if let Some(next) = state.after(cause) {
                table += &format!("{state:?} {cause:?} -> {next:?}\n");
            }
        }
    }
    assert_eq!(table, TABLE);
}

#[test]
fn every_state_has_its_own_number_in_a_region() {
    for state in State::ALL {
        assert_eq!(State::from_raw(state as u8), state);
    }
    assert!((11..=255).all(|raw| State::from_raw(raw) == State::Closed));
}
