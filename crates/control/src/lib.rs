//! The kernel's view of the network, mirrored, and what the keeper tells the kernel in return: steering rules, neighbour requests.
//!
//! [`proto`] are the messages between a program and the keeper, [`tables`] the mirrored control plane that programs read.
//! Nothing here knows of a connection or of a region's layout.

pub mod bpf;
pub mod proto;
pub mod steer;
pub mod tables;
