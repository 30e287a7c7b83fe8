//! A host whose program dies in the middle of a turn, and the steward that takes its lane.

use base::{Duration, Instant};

use super::{Crash, Host, World};
use crate::stream::Outcome;

/// Least time between two turns of a steward.
const STEP_MIN: Duration = Duration::from_millis(1);

/// Where a crash stands.
#[derive(Clone, Copy)]
pub(super) struct State {
    pub(super) plan: Crash,
    /// Turns of the host so far.
    pub(super) turns: u64,
    pub(super) dead: bool,
}

impl World<'_> {
    /// Is the host's program dead?
    pub(super) fn is_dead(&self, host: usize) -> bool {
        self.crash.is_some_and(|c| c.dead && c.plan.host == host)
    }

    /// Counts a turn of `host`. True: its program dies in this one.
    pub(super) fn dies_now(&mut self, host: usize) -> bool {
        let Some(crash) = self.crash.as_mut().filter(|c| c.plan.host == host && !c.dead) else {
            return false;
        };
        crash.turns += 1;
        crash.turns > crash.plan.turn
    }

    /// The turn in which the program dies, and what a steward does about it (`keeper::steward`).
    pub(super) fn die(
        &mut self,
        at: usize,
        host: &Host,
        die: &mut dyn FnMut(&mut dyn FnMut()),
    ) -> Result<Instant, String> {
        die(&mut || {
            lane::forked();
            let _ = self.turn_of(at, host);
        });
        if let Some(crash) = &mut self.crash {
            crash.dead = true;
        }
        host.inherit(self.now)?;
        for program in self.programs.iter_mut().filter(|p| p.host == at) {
            program.side.outcome.get_or_insert(Outcome::BrokeOff);
        }
        let plans = self.scenario.streams.iter();
        for (start, _) in self.starts.iter_mut().zip(plans).filter(|(_, plan)| plan.client == at) {
            *start = Instant::NEVER;
        }
        for (client, plan) in self.clients.iter_mut().zip(&self.scenario.datagrams) {
            if plan.client == at {
                *client = Some(crate::udp::Client::dead());
            }
        }
        self.serve(host)
    }

    /// A turn of the steward. It leaves when nothing is left to do, and is never in a greater hurry than [`STEP_MIN`]: a wheel that was
    /// half changed may name a deadline that does not go away.
    pub(super) fn serve(&mut self, host: &Host) -> Result<Instant, String> {
        let mut session = host.enter(self.now)?;
        for _ in 0..super::ROUNDS_MAX {
            let progress = session.step();
            let sent = session.flush();
            if progress.received == 0 && !progress.more && sent == 0 {
                let done = keeper::unfinished(&mut session) == 0;
                let next = session.deadline().max(self.now.plus(STEP_MIN));
                return Ok(if done { Instant::NEVER } else { next });
            }
        }
        Err("the steward does not come to rest".to_owned())
    }
}
