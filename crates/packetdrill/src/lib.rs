//! `libcorelane_packetdrill.so`: the engine behind packetdrill's shared-library interface, so that the stock `packetdrill` binary plays its
//! scripts on it (`packetdrill --so_filename=...`, docs/packetdrill.md).
//!
//! One lane in virtual time ([`stack`]) behind a table of descriptors ([`fds`]); [`world`] lets a call block until packets or time make
//! it ready while another thread goes on. [`interface`] and [`abi`] are the C side.

mod abi;
mod address;
mod conn;
mod datagrams;
mod device;
mod epoll;
mod errno;
mod fast_open;
mod fds;
mod flags;
mod info;
mod interface;
mod machine;
mod options;
mod pairs;
mod pipes;
mod raw;
mod stack;
mod threads;
mod verbs;
mod world;

pub use interface::{Interface, packetdrill_interface_init};
