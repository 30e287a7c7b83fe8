//! A deterministic world: hosts with real lanes, a network that delays, loses, doubles, reorders and damages packets as a
//! seed says, programs on the hosts, one virtual clock, and oracles that say when something is wrong.
//!
//! A run is a function of its seed: [`Scenario::of_seed`] makes the plan, [`run`] plays it and gives a [`Report`] or says
//! what went wrong and when. Nothing here reads a clock or sleeps.

mod attack;
mod host;
mod network;
mod packet_oracle;
mod pattern;
mod port;
mod scenario;
mod stream;
mod udp;
mod world;

pub use attack::AttackPlan;
pub use network::{LinkSpec, NetworkCounts};
pub use scenario::{Family, SPECIAL_SEEDS, Scenario};
pub use stream::{Close, SidePlan, StreamPlan};
pub use udp::DatagramPlan;
pub use world::{Failure, Report, run};
