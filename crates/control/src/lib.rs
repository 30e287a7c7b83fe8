//! The kernel's view of the network, mirrored, and what the keeper tells the kernel in return: steering rules, neighbour requests.
//!
//! [`netlink`] follows the kernel and writes [`tables`], which programs read; [`steer`] makes and feeds the programs (assembled by [`bpf`])
//! that give lanes their packets; [`proto`] are the messages between a program and the keeper,
//! [`meet`] those between keepers.
//! Nothing here knows of a connection or of a region's layout.

pub mod bpf;
pub mod meet;
pub mod netlink;
pub mod proto;
pub mod steer;
pub mod tables;
