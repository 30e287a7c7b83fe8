//! What is said of a run when it is over.

use base::Instant;
use engine::SockError;

use super::{Carried, Report, World};
use crate::port::lock;
use crate::stream::{Outcome, Role};

impl World<'_> {
    pub(super) fn verdict(&self, ended_at: Option<Instant>) -> Result<Report, String> {
        if ended_at.is_none() {
            return Err(format!(
                "not over after {} s{}",
                self.scenario.limit.as_millis() / 1000,
                self.describe()
            ));
        }
        for (at, host) in self.hosts.iter().enumerate() {
            if self.is_dead(at) {
                let left = host.unfinished(self.now)?;
                if left > 0 {
                    return Err(format!(
                        "the steward leaves {left} connections of host {at}{}",
                        self.describe()
                    ));
                }
                continue;
            }
            let left = host.connections(self.now)?;
            if left > 0 {
                return Err(format!("{left} connections of host {at} never end{}", self.describe()));
            }
            // What a port may still have read is given back with the next batch; what waits for an ARP answer or for
            // fragments has its time-out.
            host.settle(self.now)?;
            let missing = host.frames_missing(self.now)?;
            if missing > 0 {
                return Err(format!("{missing} frames of host {at} are lost{}", self.describe()));
            }
        }
        if self.crash.is_none() {
            self.judge_outcomes()?;
        }
        let retransmits = self.hosts.iter().map(|h| h.retransmits(self.now)).sum::<Result<u64, _>>()?;
        if self.scenario.is_fast() && self.crash.is_none() {
            self.judge_times()?;
        }
        if self.scenario.is_fast() && retransmits > 0 && self.crash.is_none() {
            return Err(format!("{retransmits} segments sent again on a perfect network"));
        }
        self.report(retransmits)
    }

    /// What the run did up to now.
    fn report(&self, retransmits: u64) -> Result<Report, String> {
        // Entering a lane needs the network too.
        let undone = self.hosts.iter().map(|h| h.undone(self.now)).sum::<Result<u64, _>>()?;
        let network = lock(&self.network);
        let count = |test: fn(&Outcome) -> bool| {
            self.programs.iter().filter_map(|p| p.side.outcome).filter(test).count() as u32
        };
        Ok(Report {
            trace: network.trace,
            network: network.counts(),
            took: self.now.since(Instant(0)),
            finished: count(|o| *o == Outcome::Finished),
            failed: count(|o| matches!(o, Outcome::Failed(_))),
            retransmits,
            undone,
            carried: self.carried(),
            echoes: self.clients.iter().flatten().map(|c| c.echoes).sum(),
        })
    }

    /// Bytes that each stream's ends have read so far.
    fn carried(&self) -> Vec<Carried> {
        let mut carried = vec![Carried::default(); self.scenario.streams.len()];
        for side in self.programs.iter().map(|p| &p.side) {
            let Some(stream) = side.plan.and_then(|at| carried.get_mut(at)) else { continue };
            match side.role {
                Role::Client => stream.down = side.received(),
                Role::Server => stream.up = side.received(),
            }
        }
        carried
    }

    /// The state of things at [`Scenario::stop_at`]: the streams go on, so nothing is said about what they leave.
    pub(super) fn measured(&self) -> Result<Report, String> {
        let retransmits = self.hosts.iter().map(|h| h.retransmits(self.now)).sum::<Result<u64, _>>()?;
        self.report(retransmits)
    }

    /// On a perfect network without queues nothing may wait for a timer: a stream takes its round trips, and no more.
    fn judge_times(&self) -> Result<(), String> {
        for program in self.programs.iter().filter(|p| p.side.role == Role::Client) {
            let Some((at, plan)) =
                program.side.plan.and_then(|at| Some((at, self.scenario.streams.get(at)?)))
            else {
                continue;
            };
            let took = program.side.ended_at.since(plan.start);
            let most = self.scenario.time_for(plan);
            if took > most {
                return Err(format!("stream {at} took {} us, not {}", took.as_micros(), most.as_micros()));
            }
        }
        Ok(())
    }

    /// Did every end come to the end that its plan and the network allow?
    fn judge_outcomes(&self) -> Result<(), String> {
        let mut unreachable = 0;
        for program in &self.programs {
            let side = &program.side;
            let plan = side.plan.and_then(|at| self.scenario.streams.get(at));
            let forbidden = plan.is_some_and(|plan| self.scenario.keys.forbid(plan));
            if forbidden {
                if side.received() > 0 || side.outcome == Some(Outcome::Finished) {
                    return Err(format!("{}: connected with a wrong key", side.progress()));
                }
                continue;
            }
            let clean = self.scenario.must_succeed() && plan.is_some_and(crate::StreamPlan::is_clean);
            // Three questions for a MAC may all be lost.
            let unasked = !self.scenario.knows_macs && !self.scenario.is_lossless();
            if unasked && side.outcome == Some(Outcome::Failed(SockError::HostUnreachable)) {
                unreachable += 1;
            } else if clean && side.outcome != Some(Outcome::Finished) {
                return Err(format!("{}: should have finished", side.progress()));
            }
        }
        let servers = self.programs.iter().filter(|p| p.side.role == Role::Server);
        let served = servers.filter(|p| p.side.plan.is_some()).count();
        let due =
            self.scenario.streams.iter().filter(|p| p.is_clean() && !self.scenario.keys.forbid(p)).count();
        if self.scenario.must_succeed() && served + unreachable < due {
            return Err(format!("{served} streams served of {due}"));
        }
        // Beside streams a full queue or buffer may cost a datagram; alone none is lost but those that wait for a MAC:
        // few packets may, fewer than the fragments of one datagram can be.
        let lossless = self.scenario.is_lossless() && self.scenario.streams.is_empty();
        for (client, plan) in self.clients.iter().zip(&self.scenario.datagrams) {
            let echoes = client.as_ref().map_or(0, |c| c.echoes);
            if lossless && echoes + 2 < plan.count {
                return Err(format!("{echoes} echoes of {} datagrams on a perfect network", plan.count));
            }
        }
        Ok(())
    }

    pub(super) fn describe(&self) -> String {
        let mut text = String::new();
        for program in self.programs.iter().filter(|p| p.side.outcome.is_none()) {
            text += &format!("\n  host {}: {}", program.host, program.side.progress());
        }
        for (at, host) in self.hosts.iter().enumerate() {
            text += &format!("\n  host {at}:{}", host.describe(self.now));
        }
        text
    }
}
