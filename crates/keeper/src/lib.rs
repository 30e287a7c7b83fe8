//! The keeper: the one process with privileges. It opens ports, hands their fds to the programs it started, keeps
//! the steering rules, and clears everything away when the last of them is gone. It never parses a packet and never
//! trusts what a program wrote into a region.
//!
//! [`run`] is the keeper of one `corelane run`, or leaves that to one that the shared keeper ([`serve`]) started; [`steward_main`] is the process
//! that stands in for a region's programs.

mod bequest;
mod blocks;
mod children;
mod choice;
mod client;
mod closing;
mod command;
mod describe;
mod desk;
mod devices;
mod entrust;
mod error;
mod heirs;
mod introduce;
mod kernel_flows;
mod meeting;
mod memif;
mod mirror;
mod orders;
mod regions;
mod requests;
mod rules;
mod run;
mod session;
mod settings;
mod shared;
mod steward;
mod stewards;
mod strangers;
mod vanished;
mod wires;
mod xdp;

pub use closing::unfinished;
pub use command::{
    Linkage, Program, check_readable, exit_code, find_preload, find_user, linkage, linkage_at_last,
};
pub use describe::{AskError, ask_keeper_of};
pub use devices::{Choice, PortKind, choose};
pub use error::{StartError, StartFailure};
pub use lane::abort_all;
pub use mirror::links;
pub use run::{Keeper, Run, run};
pub use settings::{DeviceSpec, HugePages, OwnSpec, PortChoice, RegionSizes, Spin};
pub use shared::{
    Asked, POLICY, Policy, PolicyError, SOCKET, Service, WORKER_COMMAND, Wish, ask, keep_run, serve,
};
pub use steward::steward_main;
pub use xdp::can_share_queues;

/// Name of the hidden sub-command of `corelane` that is a steward.
pub const STEWARD_COMMAND: &str = "__steward";
