//! One core's share of the dataplane: the ports it polls and the stack on it, advanced by whoever holds the lane.
//!
//! [`Lane`] is one process's view of a lane: the region's tables behind the lane lock, and this process's handles on the
//! ports. [`Session`] is the lane held: [`Session::step`] receives a batch, runs the engine and the timers over it, and sends
//! what came of it; it takes time from its caller, so the simulator drives it on a virtual clock. What belongs to a
//! program (sockets behind fds, epoll) is not here.

mod bequest;
mod cut;
mod devices;
mod entrust;
pub mod errno;
mod lane;
pub mod native;
pub mod rebalance;
mod resolve;
mod session;
mod signals;
pub mod twins;
mod unwire;

pub use bequest::{Way, fetch, hand_on};
pub use cut::{TOLD, cut_all, is_cut};
pub use devices::{OpenError, open_device, open_wire, parse_faults, settle_devices, wire_route};
pub use engine::Leaver;
pub use entrust::entrust;
pub use lane::{Lane, LanePort, Poisoned, Wire, alone_when, forked, lock};
pub use resolve::Ask;
pub use session::{GATHER_WRITES, Progress, Session, abort_all, fail_all, open_sockets};
pub use unwire::unwire;
