//! A deterministic world: hosts with real lanes, a network that delays, loses, doubles, reorders and damages packets as a
//! seed says, programs on the hosts, one virtual clock, and oracles that say when something is wrong.
//!
//! A run is a function of its seed: [`Scenario::of_seed`] makes the plan, [`run`] plays it and gives a [`Report`] or says
//! what went wrong and when. Nothing here reads a clock or sleeps.

mod attack;
mod bottleneck;
mod bulk;
pub mod goodput;
mod host;
mod ip;
pub mod kernel;
mod link;
pub mod lwip;
mod network;
mod oracle;
mod packet_oracle;
mod pattern;
pub mod peers;
mod port;
mod router;
mod scenario;
mod seeds;
mod stream;
mod udp;
mod world;

pub use attack::AttackPlan;
pub use bottleneck::{BottleneckSpec, Discipline};
pub use bulk::{BulkPlan, jain};
pub use link::{Burst, LinkSpec, Narrowing};
pub use network::NetworkCounts;
pub use scenario::{Family, Keys, MIXED_SEEDS, SPECIAL_SEEDS, Scenario};
pub use seeds::kept_seeds;
pub use stream::{Close, SidePlan, StreamPlan};
pub use udp::DatagramPlan;
pub use world::{Carried, Crash, Failure, Report, run, run_captured, run_crashing};
