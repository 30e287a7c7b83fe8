//! The keeper as a system service: one process that says who may, and a keeper of its own for each run.
//!
//! [`serve`] listens at a socket that everybody may connect to. `corelane run` asks there ([`ask`]); the policy file ([`policy`]) says
//! whether its user may; then a new process, the run's keeper ([`keep_run`]), enters the caller's network namespace and serves that run alone.
//! So runs of different users share no process, region, rule or token, and the service may end, be replaced and come back while
//! they go on: their keepers report to whichever service is there. The service holds what lanes need to go on without their keeper ([`depot`]).

mod ask;
mod depot;
mod guard;
mod letters;
mod policy;
mod service;
mod worker;

pub(crate) use ask::SharedKeeper;
pub use ask::{Asked, Wish, ask};
pub(crate) use guard::{Guard, check_namespace};
pub use policy::{Policy, PolicyError};
pub use service::{Service, serve};
pub use worker::keep_run;

/// Where the service listens unless it is told otherwise.
pub const SOCKET: &str = "/run/corelane/keeper.sock";
/// The policy file unless another one is named.
pub const POLICY: &str = "/etc/corelane/keeper.toml";
/// Name of the hidden sub-command of `corelane` that is the keeper of one run.
pub const WORKER_COMMAND: &str = "__run-keeper";
