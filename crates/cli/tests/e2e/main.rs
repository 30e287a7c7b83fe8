//! End to end: real programs, unmodified, under `corelane run` on one side of a veth pair, kernel peers on the other.
//!
//! Needs root and network namespaces; without them each test says so and is skipped. The programs come from Debian
//! packages, installed by `cargo xtask test`. The release build is used when CORELANE_BIN_DIR names it.
#![allow(clippy::expect_used, clippy::panic, reason = "a test ends where its world cannot be made")]

mod ao;
mod busy;
mod clients;
mod deaths;
mod entrust;
mod errors;
mod exec;
mod flood;
mod forks;
mod groups;
mod icmp;
mod lossy;
mod md5;
mod memif;
mod neighbours;
mod peers;
mod queues;
mod relay;
mod reload;
mod servers;
mod settings;
mod shared;
mod six;
mod sockets;
mod spins;
mod udp;
mod urgent;
mod wires;
mod world;
